package stack

import (
	"net"
	"net/netip"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// The largest UDP payloads, in bytes: an IP packet of 65,535, less the headers that count
// towards it.
const (
	maxUDP4 = 65535 - 20 - 8
	maxUDP6 = 65535 - 8
)

// UDPConn is a UDP socket, connected if it comes from Dial and not if it comes from
// ListenPacket. It behaves as a *net.UDPConn does on Linux, error for error; only
// SyscallConn and File are missing, because there is no descriptor, and control messages.
//
// Its methods may be called from several goroutines at once.
//
// A datagram that finds the receive buffer full is dropped. On a connected socket, an
// ICMP error about an earlier datagram is the error of the next call, ECONNREFUSED if
// nobody listens there.
type UDPConn struct {
	conn

	dst tcpip.SliceWriter // of the read whose turn it is
	src byteSource        // of the write whose turn it is
	to  tcpip.FullAddress // of the write whose turn it is
}

var _ interface {
	net.Conn
	net.PacketConn
} = (*UDPConn)(nil)

func newUDPConn(s *socket) *UDPConn { return &UDPConn{conn: conn{s}} }

// Read reads the next datagram. What doesn't fit into b is lost.
func (c *UDPConn) Read(b []byte) (int, error) {
	if len(b) == 0 { // package net doesn't read either
		if c.s.over.Load() {
			return 0, c.s.opError("read", net.ErrClosed)
		}
		return 0, nil
	}
	res, err := c.read("read", b)
	return res.Count, err
}

// ReadFrom reads the next datagram and returns its sender, a *net.UDPAddr. What doesn't
// fit into b is lost.
func (c *UDPConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.ReadFromUDP(b)
	if err != nil {
		return n, nil, err
	}
	return n, from, nil
}

// ReadFromUDP is ReadFrom with the type known.
func (c *UDPConn) ReadFromUDP(b []byte) (int, *net.UDPAddr, error) {
	n, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		return n, nil, err
	}
	return n, net.UDPAddrFromAddrPort(from), nil
}

// ReadFromUDPAddrPort is ReadFrom without allocating memory. On a socket for both
// families the address of an IPv4 sender is the IPv4-mapped one, as it is with package
// net; use Unmap.
func (c *UDPConn) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	res, err := c.read("recvfrom", b)
	if err != nil {
		return 0, netip.AddrPort{}, err
	}
	return res.Count, c.sender(res), nil
}

// msgTrunc is MSG_TRUNC of Linux, wherever we run.
const msgTrunc = 0x20

// ReadMsgUDPAddrPort is ReadFromUDPAddrPort that tells with Linux's MSG_TRUNC (0x20) in
// flags that b was too short. There are no control messages: oob isn't used.
func (c *UDPConn) ReadMsgUDPAddrPort(b, oob []byte) (n, oobn, flags int, from netip.AddrPort, err error) {
	res, err := c.read("recvmsg", b)
	if err != nil {
		return 0, 0, 0, netip.AddrPort{}, err
	}
	if res.Total > res.Count {
		flags = msgTrunc
	}
	return res.Count, 0, flags, c.sender(res), nil
}

// ReadMsgUDP is ReadMsgUDPAddrPort with another type of address.
func (c *UDPConn) ReadMsgUDP(b, oob []byte) (n, oobn, flags int, from *net.UDPAddr, err error) {
	n, oobn, flags, addr, err := c.ReadMsgUDPAddrPort(b, oob)
	if err == nil {
		from = net.UDPAddrFromAddrPort(addr)
	}
	return n, oobn, flags, from, err
}

func (c *UDPConn) sender(res tcpip.ReadResult) netip.AddrPort {
	a := c.s.i.addrPort(res.RemoteAddr)
	if c.s.six && a.Addr().Is4() {
		a = netip.AddrPortFrom(netip.AddrFrom16(a.Addr().As16()), a.Port())
	}
	return a
}

// read receives one datagram; call is the system call that package net uses for it.
func (c *UDPConn) read(call string, b []byte) (tcpip.ReadResult, error) {
	res, err := c.receive(call, b)
	if err != nil {
		err = c.s.opError("read", err)
	}
	return res, err
}

func (c *UDPConn) receive(call string, b []byte) (tcpip.ReadResult, error) {
	s := c.s
	if err := s.begin(&s.in); err != nil {
		return tcpip.ReadResult{}, err
	}
	defer s.in.end()
	defer func() { c.dst = nil }()
	for {
		c.dst = b
		res, terr := s.ep.Read(&c.dst, tcpip.ReadOptions{NeedRemoteAddr: true})
		if _, short := terr.(*tcpip.ErrBadBuffer); terr == nil || short {
			return res, nil // short: b is empty, and the datagram isn't
		}
		if !wouldBlock(terr) {
			return tcpip.ReadResult{}, s.failed(call, terr)
		}
		if err := s.wait(&s.in); err != nil {
			return tcpip.ReadResult{}, err
		}
	}
}

// Write sends b as one datagram to the other end. A b of more than 65,507 bytes over IPv4
// or 65,527 over IPv6 fails with EMSGSIZE.
func (c *UDPConn) Write(b []byte) (int, error) {
	n, err := c.send("write", b, netip.AddrPort{})
	if err != nil {
		err = c.s.opError("write", err)
	}
	return n, err
}

// WriteTo sends b as one datagram to addr, which has to be a *net.UDPAddr. On a connected
// socket it fails with net.ErrWriteToConnected.
func (c *UDPConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	to, ok := addr.(*net.UDPAddr)
	if !ok {
		return 0, c.writeError(addr, syscall.EINVAL)
	}
	return c.WriteToUDP(b, to)
}

// WriteToUDP is WriteTo with the type known.
func (c *UDPConn) WriteToUDP(b []byte, addr *net.UDPAddr) (int, error) {
	if addr == nil {
		_, err := c.writeToAddrPort("sendto", b, netip.AddrPort{})
		return 0, c.writeError(nil, err)
	}
	n, err := c.writeToAddrPort("sendto", b, addrPortOf(addr))
	if err != nil {
		err = c.writeError(addr, err)
	}
	return n, err
}

// addrPortOf is a without its IPv4 addresses of 16 bytes; no address at all means the
// unspecified one.
func addrPortOf(a *net.UDPAddr) netip.AddrPort {
	ip, ok := netip.AddrFromSlice(a.IP)
	if !ok && len(a.IP) == 0 {
		ip = netip.IPv4Unspecified()
	}
	return netip.AddrPortFrom(ip.Unmap().WithZone(a.Zone), uint16(a.Port))
}

// WriteToUDPAddrPort is WriteTo without allocating memory.
func (c *UDPConn) WriteToUDPAddrPort(b []byte, addr netip.AddrPort) (int, error) {
	n, err := c.writeToAddrPort("sendto", b, addr)
	if err != nil {
		return n, c.writeError(udpAddrPort{addr}, err)
	}
	return n, nil
}

func (c *UDPConn) writeToAddrPort(call string, b []byte, addr netip.AddrPort) (int, error) {
	switch {
	case c.s.remote != nil:
		return 0, net.ErrWriteToConnected
	case !addr.IsValid():
		return 0, errMissingAddress
	}
	return c.send(call, b, addr)
}

// WriteMsgUDPAddrPort is WriteToUDPAddrPort, or on a connected socket Write with an
// invalid addr. There are no control messages: one in oob fails with EINVAL.
func (c *UDPConn) WriteMsgUDPAddrPort(b, oob []byte, addr netip.AddrPort) (n, oobn int, err error) {
	if n, err = c.writeMsg(b, oob, addr); err != nil {
		err = c.writeError(udpAddrPort{addr}, err)
	}
	return n, 0, err
}

// WriteMsgUDP is WriteMsgUDPAddrPort with another type of address, nil for an invalid one.
func (c *UDPConn) WriteMsgUDP(b, oob []byte, addr *net.UDPAddr) (n, oobn int, err error) {
	if addr == nil {
		if n, err = c.writeMsg(b, oob, netip.AddrPort{}); err != nil {
			err = c.writeError(nil, err)
		}
		return n, 0, err
	}
	if n, err = c.writeMsg(b, oob, addrPortOf(addr)); err != nil {
		err = c.writeError(addr, err)
	}
	return n, 0, err
}

func (c *UDPConn) writeMsg(b, oob []byte, addr netip.AddrPort) (int, error) {
	switch {
	case len(oob) > 0:
		return 0, syscall.EINVAL
	case c.s.remote != nil && !addr.IsValid():
		return c.send("sendmsg", b, netip.AddrPort{})
	default:
		return c.writeToAddrPort("sendmsg", b, addr)
	}
}

// udpAddrPort is a net.Addr for errors.
type udpAddrPort struct{ netip.AddrPort }

func (udpAddrPort) Network() string { return "udp" }

// writeError is err as package net reports it for a datagram to addr.
func (c *UDPConn) writeError(addr net.Addr, err error) error {
	return &net.OpError{Op: "write", Net: c.s.network, Source: c.s.local, Addr: addr, Err: err}
}

// send sends one datagram, to the other end if addr is invalid; call is the system call
// that package net uses for it.
func (c *UDPConn) send(call string, b []byte, addr netip.AddrPort) (int, error) {
	s := c.s
	if err := s.begin(&s.out); err != nil {
		return 0, err
	}
	defer s.out.end()
	opts, err := c.destination(addr)
	if err != nil {
		return 0, err
	}
	if len(b) > c.limit(addr.Addr()) {
		return 0, syscallError(call, &tcpip.ErrMessageTooLong{})
	}
	defer func() { c.src.b = nil }()
	for {
		c.src.b = b
		_, terr := s.ep.Write(&c.src, opts)
		if terr == nil {
			return len(b), nil
		}
		if !wouldBlock(terr) {
			return 0, s.failed(call, terr)
		}
		if err := s.wait(&s.out); err != nil {
			return 0, err
		}
	}
}

func (c *UDPConn) destination(addr netip.AddrPort) (tcpip.WriteOptions, error) {
	if !addr.IsValid() {
		return tcpip.WriteOptions{}, nil
	}
	ip := addr.Addr().Unmap()
	switch {
	case ip.Is6() && !c.s.six:
		return tcpip.WriteOptions{}, &net.AddrError{Err: "non-IPv4 address", Addr: ip.String()}
	case ip.Is4() && c.s.six && c.s.ep.SocketOptions().GetV6Only():
		return tcpip.WriteOptions{}, syscallError("sendto", &tcpip.ErrNetworkUnreachable{})
	}
	to, err := c.s.i.fullAddress(addr)
	c.to = to
	return tcpip.WriteOptions{To: &c.to}, err
}

// limit is the largest datagram to addr, or to the other end if that is invalid.
func (c *UDPConn) limit(addr netip.Addr) int {
	if addr.Unmap().Is6() || !addr.IsValid() && c.s.six {
		return maxUDP6
	}
	return maxUDP4
}
