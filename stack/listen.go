package stack

import (
	"context"
	"net"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

const (
	// backlog is how many connections wait to be accepted, as many as Linux allows.
	backlog = 4096

	// listenTimeout bounds how long Listen waits for its own address, and for the name
	// server.
	listenTimeout = 5 * time.Second
)

// Listen listens for TCP connections on one of our own addresses. Its arguments are those
// of net.Listen: network is tcp, tcp4 or tcp6, address is host:port. Without a host it is
// all addresses, with tcp of both families; port 0 is any free one. The result is a
// *TCPListener.
//
// Listen waits up to five seconds for an IPv6 address that is under duplicate address
// detection. Errors are those of net.Listen; beyond them they wrap ErrNotEnabled without
// EnableTCP (or EnableIPv6, for an IPv6 address), ErrNotStarted before Start and
// net.ErrClosed after Close.
func (i *Instance) Listen(network, address string) (net.Listener, error) {
	s, err := i.listen(true, network, address)
	if err != nil {
		return nil, err
	}
	return &TCPListener{s}, nil
}

// ListenPacket opens a UDP socket on one of our own addresses, as net.ListenPacket does;
// network is udp, udp4 or udp6. For the rest see Listen. The result is a *UDPConn.
func (i *Instance) ListenPacket(network, address string) (net.PacketConn, error) {
	s, err := i.listen(false, network, address)
	if err != nil {
		return nil, err
	}
	return newUDPConn(s), nil
}

func (i *Instance) listen(tcp bool, network, address string) (*socket, error) {
	failed := &net.OpError{Op: "listen", Net: network}
	p, err := parseNetwork(network)
	if err == nil {
		var local netip.AddrPort
		if local, err = i.localAddress(p, address); err == nil {
			failed.Addr = p.addr(local)
			var s *socket
			if p.tcp != tcp {
				err = &net.AddrError{Err: "unexpected address type", Addr: address}
			} else if s, err = i.listenOn(p, local); err == nil {
				return s, nil
			}
		}
	}
	failed.Err = err
	return nil, failed
}

// localAddress picks the address that address stands for, IPv4 if it may be either, as
// package net does.
func (i *Instance) localAddress(p protocol, address string) (netip.AddrPort, error) {
	if address == "" {
		return netip.AddrPort{}, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), listenTimeout)
	defer cancel()
	list, err := i.resolve(ctx, p, address)
	if err != nil {
		return netip.AddrPort{}, err
	}
	for _, a := range list {
		if a.Addr().Is4() {
			return a, nil
		}
	}
	return list[0], nil
}

func (i *Instance) listenOn(p protocol, local netip.AddrPort) (*socket, error) {
	s, err := i.bind(p, local)
	if err != nil {
		return nil, err
	}
	if p.tcp {
		if terr := s.ep.Listen(backlog); terr != nil {
			err := s.failed("listen", terr)
			s.close()
			return nil, err
		}
	}
	bound, _ := s.ep.GetLocalAddress() // always there
	s.local = p.addr(i.boundAddr(p, bound))
	return s, nil
}

// bind makes a socket on local. The unspecified address of either family is all
// addresses of both, unless p says which.
func (i *Instance) bind(p protocol, local netip.AddrPort) (*socket, error) {
	wildcard := !local.Addr().IsValid() || local.Addr().IsUnspecified()
	six := local.Addr().Is6()
	if wildcard {
		six = p.only == 6 || p.only == 0 && i.has(serviceIPv6)
		local = netip.AddrPortFrom(netip.Addr{}, local.Port())
	}
	s, err := i.open(p, six)
	if err != nil {
		return nil, err
	}
	s.ep.SocketOptions().SetV6Only(p.only == 6)
	b := binding{p.tcp, local, !six || wildcard && p.only == 0, six}
	if err := i.bindSocket(s, b); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (i *Instance) bindSocket(s *socket, b binding) error {
	to := tcpip.FullAddress{Port: b.local.Port()}
	if addr := b.local.Addr(); addr.IsValid() {
		var err error
		if to, err = i.fullAddress(b.local); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), listenTimeout)
		defer cancel()
		if err := i.waitForLocal(ctx, addr); err != nil {
			return err
		}
	}
	terr := i.sockets.bind(s, b, to)
	if _, none := terr.(*tcpip.ErrNoPortAvailable); none {
		terr = &tcpip.ErrPortInUse{}
	}
	if terr != nil {
		return s.failed("bind", terr)
	}
	return nil
}

// binding is what a socket is bound to.
type binding struct {
	tcp       bool
	local     netip.AddrPort // an invalid address is all of them
	four, six bool           // families
}

func (b *binding) overlaps(o *binding) bool {
	x, y := b.local.Addr(), o.local.Addr()
	return b.tcp == o.tcp && b.local.Port() == o.local.Port() && (b.four && o.four || b.six && o.six) &&
		(!x.IsValid() || !y.IsValid() || x == y)
}

// bind binds s. For TCP it does what SO_REUSEADDR does on Linux, which package net always
// sets, so that a server can restart while its old connections fade away: a port is free
// if nobody listens there. With gVisor's own option, two could listen.
func (t *socketTable) bind(s *socket, b binding, to tcpip.FullAddress) tcpip.Error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if b.tcp {
		s.ep.SocketOptions().SetReuseAddress(true)
		for other := range t.open {
			if other.bound != nil && other.bound.overlaps(&b) {
				return &tcpip.ErrPortInUse{}
			}
		}
	}
	if terr := s.ep.Bind(to); terr != nil {
		return terr
	}
	bound, _ := s.ep.GetLocalAddress() // always there
	b.local = netip.AddrPortFrom(b.local.Addr(), bound.Port)
	s.bound = &b
	return nil
}

// boundAddr is the address of a bound socket.
func (i *Instance) boundAddr(p protocol, bound tcpip.FullAddress) netip.AddrPort {
	a := i.addrPort(bound)
	if a.Addr().IsValid() {
		return a
	}
	if p.only == 4 || !i.has(serviceIPv6) {
		return netip.AddrPortFrom(netip.IPv4Unspecified(), a.Port())
	}
	return netip.AddrPortFrom(netip.IPv6Unspecified(), a.Port())
}

// TCPListener accepts TCP connections, as a *net.TCPListener does. Its methods may be
// called from several goroutines at once.
type TCPListener struct{ s *socket }

var _ net.Listener = (*TCPListener)(nil)

// Accept waits for the next connection, a *TCPConn.
func (l *TCPListener) Accept() (net.Conn, error) {
	c, err := l.AcceptTCP()
	if err != nil {
		return nil, err
	}
	return c, nil
}

// AcceptTCP is Accept with the type known.
func (l *TCPListener) AcceptTCP() (*TCPConn, error) {
	c, err := l.accept()
	if err != nil {
		return nil, l.opError("accept", err)
	}
	return c, nil
}

func (l *TCPListener) accept() (*TCPConn, error) {
	s := l.s
	if err := s.begin(&s.in); err != nil {
		return nil, err
	}
	defer s.in.end()
	for {
		var peer tcpip.FullAddress
		ep, queue, terr := s.ep.Accept(&peer)
		switch {
		case terr == nil:
			accepted, err := s.i.newSocket(s.network, ep, queue)
			if err != nil {
				return nil, err
			}
			own, _ := ep.GetLocalAddress() // always there
			accepted.local = net.TCPAddrFromAddrPort(s.i.addrPort(own))
			accepted.remote = net.TCPAddrFromAddrPort(s.i.addrPort(peer))
			return newTCPConn(accepted), nil
		case !wouldBlock(terr):
			return nil, s.failed("accept4", terr)
		}
		if err := s.wait(&s.in); err != nil {
			return nil, err
		}
	}
}

// opError is err as package net reports it.
func (l *TCPListener) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: l.s.network, Addr: l.s.local, Err: err}
}

// Addr returns the address that is listened on, a *net.TCPAddr. Don't change it.
func (l *TCPListener) Addr() net.Addr { return l.s.local }

// Close ends listening: an Accept that waits returns an error that wraps net.ErrClosed, as
// a second Close does. Connections that nobody has accepted are reset.
func (l *TCPListener) Close() error {
	if err := l.s.close(); err != nil {
		return l.opError("close", err)
	}
	return nil
}

// SetDeadline sets the time from which on Accept fails with an error that wraps
// os.ErrDeadlineExceeded. A zero t means never. Time is that of Config.Clock.
func (l *TCPListener) SetDeadline(t time.Time) error {
	return l.s.setDeadline(t, &l.s.in)
}
