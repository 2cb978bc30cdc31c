package stack_test

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/duotap/duotap/stack"
)

var past = time.Unix(1, 0)

// hostNet is what package net and an instance have in common.
type hostNet interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
	Listen(network, address string) (net.Listener, error)
	ListenPacket(network, address string) (net.PacketConn, error)
}

// connect makes a connection to an address of an instance, and returns both ends.
func connect(t testing.TB, from, to *stack.Instance, addr netip.Addr) (dialed, accepted *stack.TCPConn) {
	t.Helper()
	l, err := to.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
	must(t, err)
	defer l.Close()
	d, err := from.DialContext(patient(t), "tcp", l.Addr().String())
	must(t, err)
	t.Cleanup(func() { d.Close() })
	a, err := l.Accept()
	must(t, err)
	t.Cleanup(func() { a.Close() })
	must(t, d.SetDeadline(time.Now().Add(patience)))
	must(t, a.SetDeadline(time.Now().Add(patience)))
	return d.(*stack.TCPConn), a.(*stack.TCPConn)
}
