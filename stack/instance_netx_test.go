package stack_test

import (
	"context"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/duotap/duotap/stack"
	"github.com/duotap/duotap/stack/link/memlink"
)

// Scenarios of NetX Duo's regression tests that no other test here plays in full.

// TestIPStatusCheck is ip_status_check: what an instance is ready for, asked at each stage,
// with a limit and without.
func TestIPStatusCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dev := newStation(t)
		dev.carrier.Set(false)
		ip := build(t, withICMP|withIPv6, aliceOn(withIPv6, dev))
		wantErr(t, "Ready before Start", ip.Ready(t.Context()), stack.ErrNotStarted)
		must(t, ip.Start(t.Context()))

		wait := func(d time.Duration) error {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			return ip.Ready(ctx)
		}
		wantErr(t, "Ready with the link down", wait(time.Hour), context.DeadlineExceeded, "alice")
		if ip.Stats().Links[0].Up {
			t.Error("the link is said to be up")
		}
		dev.carrier.Set(true)
		if !ip.Stats().Links[0].Up {
			t.Error("the link is said to be down")
		}
		wantErr(t, "Ready at once", wait(1), context.DeadlineExceeded)
		must(t, wait(time.Second))
		must(t, wait(0)) // what is ready is so without a wait
		must(t, ip.Close())
		wantErr(t, "Ready after Close", ip.Ready(t.Context()), net.ErrClosed)
	})
}

// TestIPInterfaceStatusCheck is ip_interface_status_check: each link for itself.
func TestIPInterfaceStatusCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := newStation(t), newStation(t)
		ip := build(t, withIPv6, aliceOn(withIPv6, first))
		must(t, ip.AttachLink(stack.LinkConfig{Link: second, Addresses: prefixes("198.51.100.1/24")}))
		must(t, ip.Start(t.Context()))
		for _, want := range [][2]bool{{true, true}, {false, true}, {false, false}, {true, false}, {true, true}} {
			first.carrier.Set(want[0])
			second.carrier.Set(want[1])
			links := ip.Stats().Links
			if got := [2]bool{links[0].Up, links[1].Up}; got != want {
				t.Errorf("links are up: %v, want %v", got, want)
			}
		}
	})
}

// TestIPDelete is ip_delete: three instances with sockets open, deleted in reverse order;
// afterwards the pool is full, and the names and addresses can be used again.
func TestIPDelete(t *testing.T) {
	pool := packets(t, 100, 1514)
	for range 2 {
		lan := memlink.NewSwitch(1500)
		var all []*stack.Instance
		for _, addr := range []string{"192.0.2.1/24", "192.0.2.2/24", "192.0.2.3/24"} {
			all = append(all, launch(t, withAll, stack.Config{Name: addr, Link: lan.Port(), Pool: pool, Addresses: prefixes(addr)}))
		}
		for _, ip := range all {
			_, err := ip.Listen("tcp", ":80")
			must(t, err)
			_, err = ip.ListenPacket("udp", ":80")
			must(t, err)
		}
		for k, ip := range all {
			conn, err := ip.Dial("tcp", []string{"192.0.2.2:80", "192.0.2.3:80", "192.0.2.1:80"}[k])
			must(t, err)
			_, err = conn.Write([]byte("on its way"))
			must(t, err)
		}
		for k := range all {
			must(t, all[len(all)-1-k].Close())
		}
		checkFull(t, pool)
	}
}

// TestIPGatewayAddress is ip_gateway_address: without a gateway there is no way off the
// link, with one that isn't there packets are dropped and counted, and with one that is
// they get through.
func TestIPGatewayAddress(t *testing.T) {
	far := netip.MustParseAddr(carolFar)
	synctest.Test(t, func(t *testing.T) {
		dev := newStation(t)
		alice := launch(t, withICMP|withUDP, aliceOn(0, dev))
		_, err := alice.Ping(t.Context(), far, 1)
		wantErr(t, "no gateway", err, syscall.ENETUNREACH, carolFar)

		cfg := aliceOn(0, newStation(t))
		cfg.Gateways = addresses("192.0.2.254")
		alice = launch(t, withICMP|withUDP, cfg)
		start := time.Now()
		_, err = alice.Ping(t.Context(), far, 1)
		wantErr(t, "absent gateway", err, syscall.EHOSTUNREACH, carolFar, "192.0.2.254")
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("that took %v, want 3s", took)
		}
		conn, err := alice.Dial("udp", carolFar+":9")
		must(t, err)
		before := alice.Stats()
		if _, err := conn.Write([]byte("lost")); err == nil {
			time.Sleep(5 * time.Second)
		}
		got := difference(before, alice.Stats())
		if got[".IP.SendDropped"]+got[".IP.NeighborsNotFound"]+got[".UDP.SendErrors"] == 0 {
			t.Errorf("a packet that nobody takes isn't counted: %v", got)
		}

		router := newStation(t, netip.MustParseAddr("192.0.2.254"))
		cfg.Link, cfg.Pool = router, nil
		alice = launch(t, withICMP, cfg)
		ping := background(func() error { _, err := alice.Ping(t.Context(), far, 1); return err })
		request := router.expect("the request at the gateway", isEcho).bytes
		answer := append([]byte{0}, request[35:]...)
		reply := echoReply(answer)
		copy(reply[14:], ip4(far, alice4.Addr(), 1, 0, reply[34:]))
		router.injectBytes(reply)
		must(t, receive(t, "Ping", ping))
	})
}

// TestIPAddressSet is ip_address_set: unknown addresses don't answer and known ones do,
// with 28 bytes; after a change of addresses it is the other way round.
func TestIPAddressSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := memlink.NewSwitch(1500)
		alice := launch(t, withICMP, stack.Config{Name: "alice", Link: lan.Port(), Addresses: prefixes("192.0.2.1/24")})
		pool := packets(t, 20, 1514)
		first, second := netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3")
		bob := launch(t, withICMP, stack.Config{Name: "bob", Link: lan.Port(), Pool: pool, Addresses: prefixes("192.0.2.2/24")})
		check := func(answers, silent netip.Addr) {
			t.Helper()
			if reply, err := alice.Ping(t.Context(), answers, 28); err != nil || reply.Size != 28 || reply.From != answers {
				t.Errorf("%v: %+v, %v", answers, reply, err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			_, err := alice.Ping(ctx, silent, 28)
			wantErr(t, "an address of nobody", err, nil, silent.String())
		}
		before := alice.Stats()
		check(first, second)
		check(first, second)
		if got := difference(before, alice.Stats()); got[".ICMP.EchoRequestsSent"] != 2 || got[".ICMP.EchoRepliesReceived"] != 2 {
			t.Errorf("counters change by %v", got)
		}
		must(t, bob.Close())
		bob = launch(t, withICMP, stack.Config{Name: "bob", Link: lan.Port(), Pool: pool, Addresses: prefixes("192.0.2.3/24")})
		time.Sleep(time.Minute) // alice remembers the old one for a while
		check(second, first)
		must(t, bob.Close())
	})
}

// TestIPv6AddressSet is ipv6_address_set/get/delete: several addresses on a link, each its
// own, the one made from the MAC address among them. Exactly these answer.
func TestIPv6AddressSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memlink.Pair(1500)
		alice := launch(t, withICMP|withIPv6, aliceOn(withIPv6, a))
		bob := launch(t, withICMP|withIPv6, stack.Config{Name: "bob", Link: b, HardwareAddr: bobMAC,
			Addresses: prefixes("2001:db8::2/64", "2001:db8::3/64", "fe80::2/64", "192.0.2.2/24", "192.0.2.3/24")})
		must(t, bob.Ready(t.Context()))
		for _, addr := range []string{"2001:db8::2", "2001:db8::3", "fe80::2%eth0", "fe80::ff:fe00:b%eth0", "192.0.2.2", "192.0.2.3"} {
			if _, err := alice.Ping(t.Context(), netip.MustParseAddr(addr), 10); err != nil {
				t.Error(err)
			}
		}
		for _, addr := range []string{"2001:db8::4", "fe80::3%eth0", "192.0.2.4"} {
			_, err := alice.Ping(t.Context(), netip.MustParseAddr(addr), 10)
			wantErr(t, addr, err, syscall.EHOSTUNREACH)
		}
	})
}

// TestPacketLeak is packet_leak: hundreds of connections, pings and datagrams of all fates,
// with a ring of the smallest kind. Then all packets are back.
func TestPacketLeak(t *testing.T) {
	dev := newStation(t, bob4.Addr())
	dev.features.Gives = fullOffload.Offloads
	pool := packets(t, 1, 1514)
	cfg := aliceOn(0, dev)
	cfg.Pool = pool
	alice := launch(t, withTCP|withUDP|withICMP, cfg)
	for range 200 {
		conn := acceptByHand(t, dev, alice, "192.0.2.2")
		conn.Write([]byte("data"))
		conn.Close()
		dev.injectBytes(dev.flow("192.0.2.2:1", "192.0.2.1:1").Echo(make([]byte, 1000)))
		dev.injectBytes(dev.flow("192.0.2.2:1", "192.0.2.1:9").UDP([]byte("to nobody")))
		dev.injectBytes(damage(dev.flow("192.0.2.2:1", "192.0.2.1:9").UDP([]byte("bad")), -1))
	}
	if s := pool.Stats(); s.Free != 0 {
		t.Errorf("the ring is %+v", s)
	}
	must(t, alice.Close())
	checkFull(t, pool)
}
