package stack_test

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/duotap/duotap/packetpool"
	"github.com/duotap/duotap/stack"
	"github.com/duotap/duotap/stack/link"
	"github.com/duotap/duotap/stack/link/memlink"
)

// limit is far more than anything here takes.
const limit = 20 * time.Second

// hosts are two instances on one cable, and their addresses.
type hosts struct {
	a, b           *stack.Instance
	a4, a6, b4, b6 netip.Addr
}

// newHosts starts two instances with every service, on a cable with all offloads.
func newHosts(t testing.TB) *hosts {
	t.Helper()
	left, right := memlink.Pair(1500)
	h := &hosts{
		a4: netip.MustParseAddr("192.0.2.1"), a6: netip.MustParseAddr("fd99::1"),
		b4: netip.MustParseAddr("192.0.2.2"), b6: netip.MustParseAddr("fd99::2"),
	}
	h.a = newHost(t, stack.Config{Name: "a", Link: left}, h.a4, h.a6)
	h.b = newHost(t, stack.Config{Name: "b", Link: right}, h.b4, h.b6)
	return h
}

// newHost starts an instance with every service. Its pool has to be full when the test
// ends.
func newHost(t testing.TB, cfg stack.Config, addr4, addr6 netip.Addr) *stack.Instance {
	t.Helper()
	pool := newPool(t, 64, 2048)
	cfg.Pool = pool
	cfg.Addresses = []netip.Prefix{netip.PrefixFrom(addr4, 24), netip.PrefixFrom(addr6, 64)}
	i, err := stack.New(cfg)
	check(t, err)
	t.Cleanup(func() { i.Close() })
	for _, enable := range []func() error{i.EnableTCP, i.EnableUDP, i.EnableICMP, i.EnableIPv6} {
		check(t, enable())
	}
	check(t, i.Start(t.Context()))
	return i
}

// newPool makes a pool that has to be full when the test ends.
func newPool(t testing.TB, packets, payload int) *packetpool.Pool {
	t.Helper()
	pool, err := packetpool.New(packetpool.Config{Name: t.Name(), Packets: packets, Payload: payload})
	check(t, err)
	t.Cleanup(func() {
		if s := pool.Stats(); s.Free != s.Total || s.InvalidReleases != 0 {
			t.Errorf("pool at the end: %+v, want all packets free", s)
		}
	})
	return pool
}

var _ link.Device = (*memlink.Device)(nil)

// check ends the test if something it only prepares with fails.
func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// connect makes a connection between the hosts; the first is the one that dialed.
func (h *hosts) connect(t testing.TB, to netip.Addr) (*stack.TCPConn, *stack.TCPConn) {
	t.Helper()
	l, err := h.b.Listen("tcp", netip.AddrPortFrom(to, 0).String())
	check(t, err)
	defer l.Close()
	dialed, err := h.a.DialContext(t.Context(), "tcp", l.Addr().String())
	check(t, err)
	accepted, err := l.Accept()
	check(t, err)
	for _, c := range []net.Conn{dialed, accepted} {
		check(t, c.SetDeadline(time.Now().Add(limit)))
		t.Cleanup(func() { c.Close() })
	}
	return dialed.(*stack.TCPConn), accepted.(*stack.TCPConn)
}

func readAll(t testing.TB, r io.Reader) []byte {
	t.Helper()
	b, err := io.ReadAll(r)
	check(t, err)
	return b
}
