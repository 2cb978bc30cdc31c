package smtptest

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// window is how much a connection holds in each direction before a Write waits, in
// bytes.
const window = 64 << 10

// Conn is one end of a connection in memory that behaves as TCP does, which net.Pipe
// doesn't: what is written waits in a buffer, so writer and reader need not meet; after
// a Close the peer can still read what was sent before.
type Conn struct {
	in, out       *flow
	local, remote net.Addr
}

// Pipe returns the two ends of a new connection.
func Pipe() (client, server *Conn) {
	return pipe(addr(clientAddr, 49152), addr(serverAddr, 25))
}

func pipe(clientAddr, serverAddr net.Addr) (client, server *Conn) {
	up, down := newFlow(), newFlow()
	client = &Conn{in: down, out: up, local: clientAddr, remote: serverAddr}
	server = &Conn{in: up, out: down, local: serverAddr, remote: clientAddr}
	return client, server
}

// Read reads what the peer wrote.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.in.read(b)
	return n, c.opError("read", err)
}

// Write writes to the peer, and waits while it has 64 KiB unread.
func (c *Conn) Write(b []byte) (int, error) {
	n, err := c.out.write(b)
	return n, c.opError("write", err)
}

// Drain waits until the peer has read all that was written or is gone, so that the
// next Write is not read together with it.
func (c *Conn) Drain() { c.out.drain() }

// Close ends the connection. The peer can read what was written before.
func (c *Conn) Close() error {
	c.in.end(func(f *flow) { f.readerGone = true })
	c.out.end(func(f *flow) { f.writerGone = true })
	return nil
}

// Reset ends the connection as a TCP reset does: the peer's Read and Write fail with
// ECONNRESET, and what it hasn't read is lost.
func (c *Conn) Reset() {
	for _, f := range []*flow{c.in, c.out} {
		f.end(func(f *flow) { f.reset, f.buf = true, nil })
	}
	_ = c.Close()
}

// LocalAddr returns an address from the ranges for documentation (RFC 5737).
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr is the peer's LocalAddr.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline limits both Read and Write.
func (c *Conn) SetDeadline(t time.Time) error {
	return firstError(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline limits Read.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.in.readLimit.set(c.in, t) }

// SetWriteDeadline limits Write.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.out.writeLimit.set(c.out, t) }

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *Conn) opError(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}

// flow is one direction of a connection.
type flow struct {
	mu                     sync.Mutex
	changed                sync.Cond
	buf                    []byte
	writerGone, readerGone bool
	reset                  bool
	readLimit, writeLimit  limit
}

func newFlow() *flow {
	f := new(flow)
	f.changed.L = &f.mu
	return f
}

// end changes the state of f, and wakes whoever waits.
func (f *flow) end(change func(*flow)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
	f.changed.Broadcast()
}

func (f *flow) read(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		switch {
		case f.readerGone:
			return 0, net.ErrClosed
		case f.reset:
			return 0, syscall.ECONNRESET
		case f.readLimit.passed:
			return 0, os.ErrDeadlineExceeded
		case len(f.buf) > 0 || len(b) == 0:
			n := copy(b, f.buf)
			f.buf = f.buf[:copy(f.buf, f.buf[n:])]
			f.changed.Broadcast()
			return n, nil
		case f.writerGone:
			return 0, io.EOF
		}
		f.changed.Wait()
	}
}

func (f *flow) write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for n := 0; ; {
		switch {
		case f.writerGone:
			return n, net.ErrClosed
		case f.reset:
			return n, syscall.ECONNRESET
		case f.readerGone:
			return n, syscall.EPIPE
		case f.writeLimit.passed:
			return n, os.ErrDeadlineExceeded
		}
		m := min(len(b)-n, window-len(f.buf))
		f.buf = append(f.buf, b[n:n+m]...)
		if m > 0 {
			f.changed.Broadcast()
		}
		if n += m; n == len(b) {
			return n, nil
		}
		f.changed.Wait()
	}
}

func (f *flow) drain() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.buf) > 0 && !f.readerGone && !f.reset {
		f.changed.Wait()
	}
}

// limit is a deadline; guarded by the flow's mutex.
type limit struct {
	passed bool
	timer  *time.Timer
}

func (l *limit) set(f *flow, t time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	wait := time.Until(t)
	l.passed = !t.IsZero() && wait <= 0
	f.changed.Broadcast()
	if t.IsZero() || l.passed {
		return nil
	}
	var timer *time.Timer
	timer = time.AfterFunc(wait, func() {
		f.end(func(*flow) { l.passed = l.passed || l.timer == timer })
	})
	l.timer = timer
	return nil
}

// Addresses of a Listener, and of those that dial it.
var (
	serverAddr = netip.MustParseAddr("192.0.2.25")
	clientAddr = netip.MustParseAddr("192.0.2.1")
)

func addr(ip netip.Addr, port uint16) net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, port))
}

// Listener is a net.Listener in memory and, for the client, the Dialer that reaches it.
type Listener struct {
	conns  chan *Conn
	closed chan struct{}
	once   sync.Once

	mu   sync.Mutex
	port uint16
}

// Listen returns a listener at 192.0.2.25:25, in a world of its own.
func Listen() *Listener {
	return &Listener{conns: make(chan *Conn), closed: make(chan struct{})}
}

// Accept waits for the next connection.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.Addr(), Err: net.ErrClosed}
	}
}

// Close ends Accept. Connections stay.
func (l *Listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr returns 192.0.2.25:25.
func (l *Listener) Addr() net.Addr { return addr(serverAddr, 25) }

// DialContext connects to the listener, and to nobody else: another address and a
// closed listener refuse the connection.
func (l *Listener) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: l.Addr(), Err: err}
	}
	if address != l.Addr().String() {
		return fail(fmt.Errorf("nobody is at %s: %w", address, syscall.ECONNREFUSED))
	}
	l.mu.Lock()
	l.port++
	client, server := pipe(addr(clientAddr, 49151+l.port%16384), l.Addr())
	l.mu.Unlock()
	select {
	case l.conns <- server:
		return client, nil
	case <-l.closed:
		return fail(syscall.ECONNREFUSED)
	case <-ctx.Done():
		return fail(context.Cause(ctx))
	}
}
