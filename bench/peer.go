package bench

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"time"
)

// Ports of a peer.
const (
	commandPort = 5001 // a request, and what it asks for
	smtpPort    = 25
	closingPort = 5002 // closes each connection at once
)

// op is what a client asks a peer to do with a connection.
type op uint8

const (
	opSink op = iota + 1
	opSource
	opEcho
	opUDPSink
	opUDPSource
)

// request is the first thing on a connection to commandPort.
type request struct {
	Op      op
	Offload bool   // of UDP: have the kernel cut and join datagrams
	Size    uint32 // bytes of a message or datagram
}

func (r request) send(c net.Conn) error { return binary.Write(c, binary.BigEndian, r) }

const (
	// writeSize is how much a sender of bulk writes at once, in bytes: full super-frames.
	writeSize = 4 * 65375
	readSize  = 256 << 10
	// maxMessage bounds what a request can make a peer allocate.
	maxMessage = 1 << 20
)

// peer serves a host's end.
type peer struct {
	host      host
	traffic   traffic
	listeners []net.Listener
	serving   sync.WaitGroup

	mu     sync.Mutex
	conns  map[io.Closer]struct{}
	closed bool
}

// startPeer begins to serve on all addresses of h.
func startPeer(h host) (*peer, error) {
	p := &peer{host: h, conns: map[io.Closer]struct{}{}}
	for port, serve := range map[int]func(net.Conn) error{commandPort: p.obey, closingPort: closeAtOnce, smtpPort: p.smtp} {
		for _, network := range []string{"tcp4", "tcp6"} {
			l, err := h.Listen(network, fmt.Sprintf(":%d", port))
			if err != nil {
				return nil, errors.Join(err, p.close())
			}
			p.listeners = append(p.listeners, l)
			p.serving.Go(func() { p.accept(l, serve) })
		}
	}
	return p, nil
}

// accept ends with its listener.
func (p *peer) accept(l net.Listener, serve func(net.Conn) error) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		if !p.enter(c) {
			return
		}
		p.serving.Go(func() {
			defer p.leave(c)
			_ = serve(c) // the client sees what has failed: its connection ends
		})
	}
}

// enter notes a connection for close to end. It returns false, and has closed it, if
// that has happened already.
func (p *peer) enter(c io.Closer) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		c.Close()
		return false
	}
	p.conns[c] = struct{}{}
	p.traffic.active.Add(1)
	return true
}

func (p *peer) leave(c io.Closer) {
	c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	p.traffic.active.Add(-1)
}

// hangUp ends what is being served.
func (p *peer) hangUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}

func (p *peer) close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.hangUp()
	var errs []error
	for _, l := range p.listeners {
		errs = append(errs, l.Close())
	}
	p.serving.Wait()
	return errors.Join(errs...)
}

func closeAtOnce(c net.Conn) error { return c.Close() }

// obey does what the request on c asks for, until the client ends it.
func (p *peer) obey(c net.Conn) error {
	var r request
	if err := binary.Read(c, binary.BigEndian, &r); err != nil {
		return fmt.Errorf("reading a request: %w", err)
	}
	if udp := r.Op == opUDPSink || r.Op == opUDPSource; r.Size > maxMessage || udp && (r.Size < 1 || r.Size > MaxDatagram) {
		return fmt.Errorf("a request for messages of %d bytes, the limit is %d or %d of UDP", r.Size, maxMessage, MaxDatagram)
	}
	switch r.Op {
	case opSink:
		return sink(c, &p.traffic)
	case opSource:
		return source(c)
	case opEcho:
		return echo(c, int(r.Size))
	case opUDPSink, opUDPSource:
		return p.udp(c, r)
	}
	return fmt.Errorf("an unknown request %d", r.Op)
}

// sink reads to the end.
func sink(c net.Conn, t *traffic) error {
	buf := make([]byte, readSize)
	for {
		n, err := c.Read(buf)
		t.bytes.Add(int64(n))
		if err != nil {
			return err
		}
	}
}

// source writes until that fails.
func source(c net.Conn) error {
	buf := make([]byte, writeSize)
	for {
		if _, err := c.Write(buf); err != nil {
			return err
		}
	}
}

func echo(c net.Conn, size int) error {
	buf := make([]byte, size)
	for {
		if _, err := io.ReadFull(c, buf); err != nil {
			return err
		}
		if _, err := c.Write(buf); err != nil {
			return err
		}
	}
}

// peerHandle is how a runner sees the peer of a link.
type peerHandle interface {
	sample() (sample, error)

	// hangUp ends all connections from the peer's side, and not over the link: a flood
	// of datagrams may have left no room there for anything else.
	hangUp() error

	close() error
}

// localPeer is a peer in this process.
type localPeer struct{ p *peer }

// sample leaves the CPU time out, for it is that of our end too.
func (l localPeer) sample() (sample, error) {
	s, err := l.p.traffic.sample()
	s.CPU = 0
	return s, err
}

func (l localPeer) hangUp() error {
	l.p.hangUp()
	return nil
}

func (l localPeer) close() error { return l.p.close() }

// ServePeer is the other end of a link, on kernel sockets: what the command that
// Config.Peer makes has to call, with its standard input and output. It returns when
// in ends.
func ServePeer(in io.Reader, out io.Writer) error {
	p, err := startPeer(kernelHost{})
	if err != nil {
		return fmt.Errorf("bench: starting a peer: %w", err)
	}
	enc := json.NewEncoder(out)
	err = p.answer(bufio.NewScanner(in), enc)
	return errors.Join(err, p.close())
}

// hangUpCommand is the line that makes a peer hang up. Any other line is just answered.
const hangUpCommand = "hang up"

// answer sends a sample at first, which says that the peer is listening, and then one
// for each line.
func (p *peer) answer(lines *bufio.Scanner, enc *json.Encoder) error {
	for {
		s, err := p.traffic.sample()
		if err == nil {
			err = enc.Encode(s)
		}
		if err != nil || !lines.Scan() {
			return errors.Join(err, lines.Err())
		}
		if lines.Text() == hangUpCommand {
			p.hangUp()
		}
	}
}

// peerProcess is a peer in a process of its own.
type peerProcess struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *json.Decoder
}

// startPeerProcess starts cmd, and waits until it listens.
func startPeerProcess(cmd *exec.Cmd) (*peerProcess, error) {
	if cmd.Stderr == nil {
		cmd.Stderr = os.Stderr
	}
	cmd.WaitDelay = 5 * time.Second
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("starting a peer: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("starting a peer: %w", err), in.Close())
	}
	p := &peerProcess{cmd: cmd, in: in, out: json.NewDecoder(out)}
	if err := p.out.Decode(new(sample)); err != nil {
		return nil, errors.Join(fmt.Errorf("the peer has not begun to listen: %w", err), p.close())
	}
	return p, nil
}

func (p *peerProcess) sample() (sample, error) { return p.ask("sample") }

func (p *peerProcess) hangUp() error {
	_, err := p.ask(hangUpCommand)
	return err
}

func (p *peerProcess) ask(line string) (sample, error) {
	var s sample
	if _, err := io.WriteString(p.in, line+"\n"); err != nil {
		return s, fmt.Errorf("asking the peer: %w", err)
	}
	if err := p.out.Decode(&s); err != nil {
		return s, fmt.Errorf("the peer's answer: %w", err)
	}
	return s, nil
}

// close has the peer end by itself, and ends it if it doesn't.
func (p *peerProcess) close() error {
	kill := time.AfterFunc(10*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer kill.Stop()
	err := p.in.Close()
	if waitErr := p.cmd.Wait(); waitErr != nil {
		err = errors.Join(err, fmt.Errorf("the peer: %w", waitErr))
	}
	return err
}

// dialCommand connects to a peer and makes a request.
func (l *testLink) dialCommand(ctx context.Context, family int, r request) (net.Conn, error) {
	c, err := l.dial(ctx, family, commandPort)
	if err != nil {
		return nil, err
	}
	if err := r.send(c); err != nil {
		return nil, errors.Join(fmt.Errorf("making a request: %w", err), c.Close())
	}
	return c, nil
}
