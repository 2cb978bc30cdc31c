package stack

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/duotap/duotap/packetpool"
)

// ErrPartialPacket is wrapped by the error of each write to a connection on which an
// earlier SendPacket failed with a part of its packet on the way.
var ErrPartialPacket = errors.New("a packet was sent in part before")

// TCPConn is a TCP connection. It behaves as a *net.TCPConn does on Linux, error for
// error; only SyscallConn and File are missing, because there is no descriptor.
//
// Its methods may be called from several goroutines at once. A Write is never interleaved
// with another.
//
// Close returns at once. Bytes not sent yet are sent in the background, as long as the
// instance lives; but if bytes that have arrived are left unread, the connection is reset
// instead, so that the other side learns of the loss (RFC 2525 §2.17).
//
// A new connection has no Nagle delay, and sends keepalives after 15 s of silence.
type TCPConn struct {
	conn

	dst       tcpip.SliceWriter // of the Read whose turn it is
	src       byteSource        // of the Write whose turn it is
	piece     piece             // of the write whose turn it is
	torn      bool              // a SendPacket was cut off; guarded by the turn to write
	readEnded atomic.Bool       // CloseRead
}

var _ interface {
	net.Conn
	io.ReaderFrom
	io.WriterTo
} = (*TCPConn)(nil)

// byteSource is a payload in a slice.
type byteSource struct{ b []byte }

func (s *byteSource) Len() int { return len(s.b) }

func (s *byteSource) Read(b []byte) (int, error) {
	if len(s.b) == 0 && len(b) > 0 {
		return 0, io.EOF
	}
	n := copy(b, s.b)
	s.b = s.b[n:]
	return n, nil
}

// maxPiece is how much the stack is given at once, in bytes: the payload of one
// super-frame.
const maxPiece = 65375

// piece is the next bytes of a payload, at most maxPiece.
type piece struct {
	tcpip.Payloader
}

func (p *piece) Len() int { return min(p.Payloader.Len(), maxPiece) }

// Package net's defaults.
const (
	keepAliveTime  = 15 * time.Second
	keepAliveCount = 9
)

// newTCPConn makes a connection of a connected endpoint.
func newTCPConn(s *socket) *TCPConn {
	c := &TCPConn{conn: conn{s}}
	s.ep.SocketOptions().SetDelayOption(false)
	c.keepAlive(net.KeepAliveConfig{Enable: true})
	return c
}

// Read reads what has arrived, up to len(b) bytes, and waits if nothing has. It returns
// io.EOF after the last byte of the other side. An empty b reads nothing, at once.
func (c *TCPConn) Read(b []byte) (int, error) {
	n, err := c.read(b)
	if err != nil && err != io.EOF {
		err = c.s.opError("read", err)
	}
	return n, err
}

func (c *TCPConn) read(b []byte) (int, error) {
	if len(b) == 0 {
		if c.s.over.Load() {
			return 0, c.s.overError()
		}
		return 0, nil
	}
	s := c.s
	if err := s.begin(&s.in); err != nil {
		return 0, err
	}
	defer s.in.end()
	defer func() { c.dst = nil }()
	for {
		c.dst = b
		res, terr := s.ep.Read(&c.dst, tcpip.ReadOptions{})
		switch {
		case terr == nil:
			s.ep.ModerateRecvBuf(res.Count)
			return res.Count, nil
		case !wouldBlock(terr):
			return 0, c.readError(terr)
		case c.readEnded.Load():
			return 0, io.EOF
		}
		if err := s.wait(&s.in); err != nil {
			return 0, err
		}
	}
}

func (c *TCPConn) readError(terr tcpip.Error) error {
	if _, end := terr.(*tcpip.ErrClosedForReceive); end && !c.s.over.Load() {
		return io.EOF
	}
	return c.s.failed("read", terr)
}

// Write copies b into the send buffer, and waits while that is full. With an error it
// returns how much of b is on its way.
func (c *TCPConn) Write(b []byte) (int, error) {
	n, err := c.write(b)
	if err != nil {
		err = c.s.opError("write", err)
	}
	return n, err
}

func (c *TCPConn) write(b []byte) (int, error) {
	s := c.s
	if err := c.beginWrite(); err != nil {
		return 0, err
	}
	defer s.out.end()
	c.src.b = b
	err := c.send(&c.src)
	n := len(b) - c.src.Len()
	c.src.b = nil
	return n, err
}

// beginWrite waits for the caller's turn to write.
func (c *TCPConn) beginWrite() error {
	if err := c.s.begin(&c.s.out); err != nil {
		return err
	}
	if c.torn {
		c.s.out.end()
		return ErrPartialPacket
	}
	return nil
}

// send passes all of p to the stack, which copies it. What the stack has taken has been
// read from p, and no more: that is what Atomic is for.
func (c *TCPConn) send(p tcpip.Payloader) error {
	c.piece.Payloader = p
	defer func() { c.piece.Payloader = nil }()
	for {
		_, terr := c.s.ep.Write(&c.piece, tcpip.WriteOptions{Atomic: true})
		full := wouldBlock(terr)
		switch {
		case terr != nil && !full:
			return c.s.failed("write", terr)
		case p.Len() == 0:
			return nil
		case !full:
			continue
		}
		if err := c.s.wait(&c.s.out); err != nil {
			return err
		}
	}
}

// SendPacket sends the unread bytes of pkt, a chain of any length, and waits while the
// send buffer is full. It takes ownership of pkt if and only if it returns nil, and has
// then released it: the bytes are in the send buffer.
//
// On error the caller still owns pkt and can read all of its bytes again, from the first
// one. If some of them are on their way already, to send them once more would duplicate
// them; so this and every further write to the connection then fails, with an error that
// wraps ErrPartialPacket.
func (c *TCPConn) SendPacket(pkt *packetpool.Packet) error {
	if err := c.sendPacket(pkt); err != nil {
		return c.s.opError("write", err)
	}
	pkt.Release()
	return nil
}

func (c *TCPConn) sendPacket(pkt *packetpool.Packet) error {
	if err := c.beginWrite(); err != nil {
		pkt.Rewind()
		return err
	}
	defer c.s.out.end()
	n := pkt.Len()
	err := c.send(pkt)
	if err == nil {
		return nil
	}
	if sent := n - pkt.Len(); sent > 0 {
		c.torn = true
		err = fmt.Errorf("%d of %d bytes are sent: %w: %w", sent, n, ErrPartialPacket, err)
	}
	pkt.Rewind()
	return err
}

// ReadFrom writes what it reads from r, until io.EOF.
func (c *TCPConn) ReadFrom(r io.Reader) (int64, error) {
	n, err := relay(writerOnly{c}, r)
	if err != nil {
		err = c.s.opError("readfrom", err)
	}
	return n, err
}

// WriteTo writes what it reads from the connection to w, until io.EOF.
func (c *TCPConn) WriteTo(w io.Writer) (int64, error) {
	n, err := relay(w, readerOnly{c})
	if err != nil {
		err = c.s.opError("writeto", err)
	}
	return n, err
}

type (
	writerOnly struct{ io.Writer }
	readerOnly struct{ io.Reader }
)

var relayBuffers = sync.Pool{New: func() any { return new([maxPiece]byte) }}

func relay(w io.Writer, r io.Reader) (int64, error) {
	b := relayBuffers.Get().(*[maxPiece]byte)
	defer relayBuffers.Put(b)
	return io.CopyBuffer(w, r, b[:])
}

// CloseRead ends reading: what has arrived is still read, then Read returns io.EOF. The
// other side isn't told.
func (c *TCPConn) CloseRead() error {
	return c.shutdown(func() tcpip.Error {
		c.readEnded.Store(true)
		c.s.in.signal()
		return nil
	})
}

// CloseWrite ends writing: once what was written before has been sent, the other side
// reads io.EOF.
func (c *TCPConn) CloseWrite() error {
	return c.shutdown(func() tcpip.Error { return c.s.ep.Shutdown(tcpip.ShutdownWrite) })
}

func (c *TCPConn) shutdown(half func() tcpip.Error) error {
	err := c.s.overError()
	if !c.s.over.Load() {
		var terr tcpip.Error = &tcpip.ErrNotConnected{}
		if connected(c.s.ep) {
			terr = half()
		}
		if terr == nil {
			return nil
		}
		err = c.s.failed("shutdown", terr)
	}
	return c.s.opError("close", err)
}

// connected reports whether ep is a TCP connection that neither side has reset.
func connected(ep tcpip.Endpoint) bool {
	switch tcp.EndpointState(ep.State()) {
	case tcp.StateEstablished, tcp.StateFinWait1, tcp.StateFinWait2, tcp.StateClosing, tcp.StateTimeWait,
		tcp.StateCloseWait, tcp.StateLastAck:
		return true
	default:
		return false
	}
}

// SetNoDelay turns Nagle's algorithm off, as it is at first, or on.
func (c *TCPConn) SetNoDelay(noDelay bool) error {
	return c.setOption(func() { c.s.ep.SocketOptions().SetDelayOption(!noDelay) })
}

// SetLinger decides what Close does with unsent bytes. With sec < 0, as at first, and sec
// > 0 they are sent in the background; Close doesn't wait. With 0 they are discarded, and
// the connection is reset.
func (c *TCPConn) SetLinger(sec int) error {
	return c.setOption(func() {
		c.s.ep.SocketOptions().SetLinger(tcpip.LingerOption{
			Enabled: sec >= 0, Timeout: time.Duration(sec) * time.Second})
	})
}

// SetKeepAlive turns keepalives on, as they are at first, or off.
func (c *TCPConn) SetKeepAlive(keepalive bool) error {
	return c.setOption(func() { c.s.ep.SocketOptions().SetKeepAlive(keepalive) })
}

// SetKeepAlivePeriod sets KeepAliveConfig.Idle alone.
func (c *TCPConn) SetKeepAlivePeriod(d time.Duration) error {
	return c.setOption(func() { c.setKeepAliveIdle(d) })
}

// SetKeepAliveConfig sets all of the keepalive options. As in package net, a zero field is
// its default (15 s, 15 s, 9) and a negative one stays as it is.
func (c *TCPConn) SetKeepAliveConfig(config net.KeepAliveConfig) error {
	return c.setOption(func() { c.keepAlive(config) })
}

func (c *TCPConn) keepAlive(config net.KeepAliveConfig) {
	c.setKeepAliveIdle(config.Idle)
	if d := cmp.Or(config.Interval, keepAliveTime); d > 0 {
		c.s.ep.SetSockOpt(ptr(tcpip.KeepaliveIntervalOption(d)))
	}
	if n := cmp.Or(config.Count, keepAliveCount); n > 0 {
		c.s.ep.SetSockOptInt(tcpip.KeepaliveCountOption, n)
	}
	c.s.ep.SocketOptions().SetKeepAlive(config.Enable)
}

func (c *TCPConn) setKeepAliveIdle(d time.Duration) {
	if d = cmp.Or(d, keepAliveTime); d > 0 {
		c.s.ep.SetSockOpt(ptr(tcpip.KeepaliveIdleOption(d)))
	}
}

func (c *TCPConn) setOption(option func()) error {
	if c.s.over.Load() {
		return c.s.opError("set", c.s.overError())
	}
	option()
	return nil
}

// TCPInfo is the state of a connection at one moment.
type TCPInfo struct {
	State string // as in RFC 9293 §3.3.2: "ESTABLISHED", "CLOSE-WAIT"; "CLOSED" after a reset

	RTT    time.Duration // smoothed round trip time (RFC 6298); 0 before the first measurement
	RTTVar time.Duration // its variation
	RTO    time.Duration // retransmission timeout

	CongestionWindow   int // segments
	SlowStartThreshold int // segments

	SegmentsSent       uint64 // a super-frame counts once
	SegmentsReceived   uint64
	Retransmits        uint64 // segments
	FastRetransmits    uint64 // those of them that fast recovery sent
	RetransmitTimeouts uint64
	ReorderingSeen     bool // the network reorders segments
	UnreadBytes        int  // arrived, and not read yet
}

// Info returns the state of the connection. After Close it is that of the rest of the
// connection's life.
func (c *TCPConn) Info() TCPInfo {
	var o tcpip.TCPInfoOption
	ep := c.s.ep
	ep.GetSockOpt(&o) // never fails for this option
	info := TCPInfo{
		State: tcp.EndpointState(o.State).String(),
		RTT:   o.RTT, RTTVar: o.RTTVar, RTO: o.RTO,
		CongestionWindow: int(o.SndCwnd), SlowStartThreshold: int(o.SndSsthresh),
		ReorderingSeen: o.ReorderSeen,
	}
	if n, terr := ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption); terr == nil {
		info.UnreadBytes = n
	}
	if stats, ok := ep.Stats().(*tcp.Stats); ok {
		info.SegmentsSent = stats.SegmentsSent.Value()
		info.SegmentsReceived = stats.SegmentsReceived.Value()
		info.Retransmits = stats.SendErrors.Retransmits.Value()
		info.FastRetransmits = stats.SendErrors.FastRetransmit.Value()
		info.RetransmitTimeouts = stats.SendErrors.Timeouts.Value()
	}
	return info
}
