package stack_test

import (
	"context"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/duotap/duotap/stack"
	"github.com/duotap/duotap/stack/link"
	"github.com/duotap/duotap/stack/link/memlink"
)

// The services that run without a goroutine of their own can be tested in a bubble, where
// waiting takes no time. TCP can't.

func TestNeighbor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice, _ := couple(t, withICMP|withIPv6, fullOffload)
		for _, addr := range []netip.Addr{bob4.Addr(), bob6.Addr(), linkLocal(bobMAC, "eth0")} {
			n, err := alice.Neighbor(t.Context(), addr)
			must(t, err)
			want := stack.Neighbor{Link: "eth0", Addr: addr.WithZone(""), HardwareAddr: bobMAC, State: "Reachable"}
			if n.Link != want.Link || n.Addr != want.Addr || n.HardwareAddr.String() != want.HardwareAddr.String() || n.State != want.State {
				t.Errorf("neighbour for %v is %+v, want %+v", addr, n, want)
			}
		}
	})
}

// linkLocal is the address of a host with this MAC address (RFC 4291 appendix A).
func linkLocal(mac []byte, zone string) netip.Addr {
	b := [16]byte{0: 0xfe, 1: 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5]}
	return netip.AddrFrom16(b).WithZone(zone)
}

// TestNeighborIsTheGateway for hosts that are on none of our links.
func TestNeighborIsTheGateway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, err := memlink.New(fullOffload)
		must(t, err)
		cfg := aliceOn(withIPv6, a)
		cfg.Gateways = []netip.Addr{bob4.Addr(), bob6.Addr()}
		alice := launch(t, withIPv6, cfg)
		launch(t, withIPv6, bobOn(withIPv6, b))
		for addr, gateway := range map[string]netip.Addr{"198.51.100.1": bob4.Addr(), "2001:db8:9::1": bob6.Addr()} {
			n, err := alice.Neighbor(t.Context(), netip.MustParseAddr(addr))
			must(t, err)
			if n.Addr != gateway || n.HardwareAddr.String() != bobMAC.String() {
				t.Errorf("neighbour for %s is %+v, want %v", addr, n, gateway)
			}
		}
	})
}

func TestNeighborIsOurselves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice := launch(t, withIPv6, aliceOn(withIPv6, newStation(t)))
		for _, addr := range []string{"192.0.2.1", "127.0.0.1", "::1", "2001:db8::1"} {
			n, err := alice.Neighbor(patient(t), netip.MustParseAddr(addr))
			if err != nil || n.HardwareAddr != nil {
				t.Errorf("neighbour for %s is %+v, %v", addr, n, err)
			}
		}
	})
}

// TestNeighborUnknown takes three seconds: three questions, a second apart (RFC 4861 §10).
func TestNeighborUnknown(t *testing.T) {
	for _, addr := range []string{"192.0.2.77", "2001:db8::77", "fe80::77%eth0"} {
		synctest.Test(t, func(t *testing.T) {
			alice, _ := couple(t, withIPv6, fullOffload)
			must(t, alice.Ready(t.Context()))
			start := time.Now()
			_, err := alice.Neighbor(t.Context(), netip.MustParseAddr(addr))
			wantErr(t, "Neighbor", err, syscall.EHOSTUNREACH, addr, "eth0", "up")
			if took := time.Since(start); took != 3*time.Second {
				t.Errorf("%s: it took %v, want 3s", addr, took)
			}
		})
	}
}

func TestNeighborCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice, _ := couple(t, withIPv6, fullOffload)
		for _, addr := range []netip.Addr{netip.MustParseAddr("192.0.2.77"), bob6.Addr()} { // MAC address; address detection
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			_, err := alice.Neighbor(ctx, addr)
			wantErr(t, "Neighbor", err, context.DeadlineExceeded, addr.String())
		}
	})
}

// TestUnroutable are addresses to which no packet can be sent, and why.
func TestUnroutable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice := launch(t, withICMP|withIPv6, aliceOn(withIPv6, newStation(t)))
		old := launch(t, withICMP, aliceOn(0, newStation(t)))
		for _, c := range []struct {
			name string
			ip   *stack.Instance
			addr netip.Addr
			want error
		}{
			{"no route", alice, netip.MustParseAddr("198.51.100.1"), syscall.ENETUNREACH},
			{"no IPv6 route", alice, netip.MustParseAddr("2001:db8:9::1"), syscall.ENETUNREACH},
			{"no such zone", alice, netip.MustParseAddr("fe80::1%eth7"), syscall.ENODEV},
			{"no zone", alice, netip.MustParseAddr("fe80::1"), syscall.EINVAL},
			{"no address", alice, netip.Addr{}, syscall.EINVAL},
			{"unspecified", alice, netip.IPv4Unspecified(), syscall.EINVAL},
			{"unspecified IPv6", alice, netip.IPv6Unspecified(), syscall.EINVAL},
			{"broadcast", alice, netip.MustParseAddr("255.255.255.255"), syscall.EINVAL},
			{"group", alice, netip.MustParseAddr("224.0.0.1"), syscall.EINVAL},
			{"broadcast on the link", alice, netip.MustParseAddr("192.0.2.255"), syscall.EINVAL},
			{"IPv6 group", alice, netip.MustParseAddr("ff02::1%eth0"), syscall.EINVAL},
			{"IPv6 is off", old, bob6.Addr(), syscall.EAFNOSUPPORT},
			{"IPv6 is off, too", old, bob6.Addr(), stack.ErrNotEnabled},
		} {
			_, err := c.ip.Neighbor(patient(t), c.addr)
			wantErr(t, "Neighbor: "+c.name, err, c.want, c.addr.String())
			_, err = c.ip.Ping(patient(t), c.addr, 1)
			wantErr(t, "Ping: "+c.name, err, c.want, c.addr.String())
		}
	})
}

// TestNeighbors: in order of link and address, with what is known of each.
func TestNeighbors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice, _ := couple(t, withIPv6, fullOffload)
		if list, err := alice.Neighbors(); err != nil || len(list) != 0 {
			t.Errorf("neighbours of a fresh instance: %+v, %v", list, err)
		}
		must(t, alice.Ready(t.Context()))
		for _, addr := range []netip.Addr{bob6.Addr(), bob4.Addr()} {
			_, err := alice.Neighbor(t.Context(), addr)
			must(t, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, err := alice.Neighbor(ctx, netip.MustParseAddr("192.0.2.1").Next().Next())
		wantErr(t, "Neighbor", err, context.DeadlineExceeded)

		list, err := alice.Neighbors()
		must(t, err)
		var got []string
		for _, n := range list {
			got = append(got, n.Link+" "+n.Addr.String()+" "+n.HardwareAddr.String()+" "+n.State)
		}
		want := []string{
			"eth0 192.0.2.2 02:00:00:00:00:0b Reachable",
			"eth0 192.0.2.3  Incomplete",
			"eth0 2001:db8::2 02:00:00:00:00:0b Reachable",
		}
		if !slices.Equal(got, want) {
			t.Errorf("neighbours:\n%q, want\n%q", got, want)
		}
	})
}

// TestNeighborMoves: a host that comes back with another MAC address is found again.
func TestNeighborMoves(t *testing.T) {
	dev := newStation(t, bob4.Addr())
	alice := launch(t, withICMP, aliceOn(0, dev))
	n, err := alice.Neighbor(patient(t), bob4.Addr())
	must(t, err)
	if n.HardwareAddr.String() != bobMAC.String() {
		t.Fatalf("neighbour is %+v", n)
	}
	dev.injectBytes(arp(1, eveMAC, bob4.Addr(), aliceMAC, alice4.Addr()))
	eventually(t, "the other MAC address", func() bool {
		n, err := alice.Neighbor(patient(t), bob4.Addr())
		must(t, err)
		return n.HardwareAddr.String() == eveMAC.String()
	})
}

// TestNeighborsAreBounded: an attacker who makes up hosts fills the table, and no more.
func TestNeighborsAreBounded(t *testing.T) {
	dev := newStation(t)
	alice := launch(t, 0, stack.Config{Link: dev, HardwareAddr: aliceMAC, Addresses: prefixes("10.0.0.1/8")})
	addr := netip.MustParseAddr("10.1.0.0")
	for range 5000 {
		addr = addr.Next()
		dev.inject(link.Frame{Data: [][]byte{arp(1, eveMAC, addr, aliceMAC, netip.MustParseAddr("10.0.0.1"))}})
		dev.sent()
	}
	list, err := alice.Neighbors()
	must(t, err)
	if len(list) == 0 || len(list) > 1024 {
		t.Errorf("%d neighbours after 5000 that were made up", len(list))
	}
}
