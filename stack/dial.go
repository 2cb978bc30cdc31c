package stack

import (
	"context"
	"net"
	"net/netip"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Dial is DialContext without an end. A host that doesn't answer is given up after two
// minutes.
func (i *Instance) Dial(network, address string) (net.Conn, error) {
	return i.DialContext(context.Background(), network, address)
}

// DialContext connects to address. Its arguments are those of net.Dialer.DialContext:
// network is tcp, tcp4, tcp6, udp, udp4 or udp6, address is host:port, the port a number.
// A link-local address needs the name of a link as its zone: [fe80::1%eth0]:25. A name is
// resolved by LookupHost; its addresses are tried in order, each with its share of the
// time that ctx leaves. The result is a *TCPConn or a *UDPConn.
//
// DialContext waits while the address it would connect from is under duplicate address
// detection. Errors are those of package net, so that errors.Is finds
// syscall.ECONNREFUSED, ENETUNREACH, EHOSTUNREACH, ETIMEDOUT and context.Canceled; beyond
// them they wrap ErrNotEnabled without EnableTCP, EnableUDP or EnableIPv6, ErrNotStarted
// before Start and net.ErrClosed after Close.
func (i *Instance) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	p, err := parseNetwork(network)
	if err == nil && address == "" {
		err = errMissingAddress
	}
	var list []netip.AddrPort
	if err == nil {
		list, err = i.resolve(ctx, p, address)
	}
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	return i.dialSerial(ctx, p, list)
}

// dialSerial returns the first connection that it gets, or the first error.
func (i *Instance) dialSerial(ctx context.Context, p protocol, list []netip.AddrPort) (net.Conn, error) {
	var first error
	for k, to := range list {
		share, cancel := shareOf(ctx, len(list)-k)
		s, err := i.dialOne(share, p, to)
		cancel()
		if err == nil {
			if p.tcp {
				return newTCPConn(s), nil
			}
			return newUDPConn(s), nil
		}
		if first == nil {
			first = &net.OpError{Op: "dial", Net: p.network, Addr: p.addr(to), Err: err}
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, first
}

// leastShare is enough to connect over most paths.
const leastShare = 2 * time.Second

// shareOf limits ctx to the share of the next of n attempts. The time is that of ctx.
func shareOf(ctx context.Context, n int) (context.Context, context.CancelFunc) {
	deadline, limited := ctx.Deadline()
	if !limited || n == 1 {
		return ctx, func() {}
	}
	left := time.Until(deadline)
	return context.WithTimeout(ctx, max(left/time.Duration(n), leastShare))
}

func (i *Instance) dialOne(ctx context.Context, p protocol, to netip.AddrPort) (*socket, error) {
	if ctx.Err() != nil {
		return nil, contextError(ctx)
	}
	if !to.Addr().IsValid() || to.Addr().IsUnspecified() {
		to = netip.AddrPortFrom(localhostOf(p, to.Addr()), to.Port())
	}
	s, err := i.open(p, to.Addr().Is6())
	if err != nil {
		return nil, err
	}
	if err := i.connect(ctx, s, to); err != nil {
		s.close()
		return nil, err
	}
	own, _ := s.ep.GetLocalAddress() // always there
	s.local, s.remote = p.addr(i.addrPort(own)), p.addr(to)
	return s, nil
}

// localhostOf is what a connection to the unspecified address a goes to.
func localhostOf(p protocol, a netip.Addr) netip.Addr {
	if a.Is6() || p.only == 6 {
		return netip.IPv6Loopback()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

// open makes a socket, of IPv6 or else of IPv4.
func (i *Instance) open(p protocol, six bool) (*socket, error) {
	ns, err := i.running()
	if err != nil {
		return nil, err
	}
	if err := i.checkEnabled(p, six); err != nil {
		return nil, err
	}
	proto, trans := header.IPv4ProtocolNumber, udp.ProtocolNumber
	if six {
		proto = header.IPv6ProtocolNumber
	}
	if p.tcp {
		trans = tcp.ProtocolNumber
	}
	queue := new(waiter.Queue)
	ep, terr := ns.NewEndpoint(trans, proto, queue)
	if terr != nil {
		return nil, syscallError("socket", terr)
	}
	ep.SocketOptions().SetBroadcast(!p.tcp) // as package net does
	s, err := i.newSocket(p.network, ep, queue)
	if err == nil {
		s.six = six
	}
	return s, err
}

// connect connects s, and waits until that has succeeded or failed.
func (i *Instance) connect(ctx context.Context, s *socket, to netip.AddrPort) error {
	remote, err := i.fullAddress(to)
	if err != nil {
		return err
	}
	if err := i.waitForSource(ctx, to.Addr()); err != nil {
		if ctx.Err() != nil {
			return contextError(ctx)
		}
		return err
	}
	terr := s.ep.Connect(remote)
	if _, started := terr.(*tcpip.ErrConnectStarted); started {
		return i.connected(ctx, s)
	}
	if terr != nil {
		return s.failed("connect", terr)
	}
	return nil
}

// connected waits for the end of a TCP handshake.
func (i *Instance) connected(ctx context.Context, s *socket) error {
	for {
		switch state := tcp.EndpointState(s.ep.State()); {
		case s.over.Load():
			return net.ErrClosed
		case connected(s.ep):
			return nil
		case state != tcp.StateConnecting && state != tcp.StateSynSent && state != tcp.StateSynRecv:
			if terr := s.ep.LastError(); terr != nil {
				return s.failed("connect", terr)
			}
			return syscall.ECONNABORTED
		}
		if !i.gate.wait(s.out.wake, ctx.Done()) {
			return contextError(ctx)
		}
	}
}
