package stack_test

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/duotap/duotap/stack"
	"github.com/duotap/duotap/stack/link"
	"github.com/duotap/duotap/stack/link/memlink"
)

// TestReadyTakesASecond with IPv6, and no time without it.
func TestReadyTakesASecond(t *testing.T) {
	for s, want := range map[services]time.Duration{0: 0, withIPv6: time.Second} {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			alice := launch(t, s, aliceOn(s, newStation(t)))
			if took := time.Since(start); took != 0 {
				t.Errorf("Start took %v", took)
			}
			must(t, alice.Ready(t.Context()))
			if took := time.Since(start); took != want {
				t.Errorf("Ready took %v, want %v", took, want)
			}
		})
	}
}

func TestReadyEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice := launch(t, withIPv6, aliceOn(withIPv6, newStation(t)))
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		wantErr(t, "Ready", alice.Ready(ctx), context.DeadlineExceeded, "alice", "2001:db8::1", "fe80::ff:fe00:a")
	})
}

// TestIPv4DoesNotWaitForIPv6: a connection over IPv4 is made and used while the clock
// stands still. One over IPv6 begins when the time of its address has come.
func TestIPv4DoesNotWaitForIPv6(t *testing.T) {
	clock := newFakeClock()
	a, b, err := memlink.New(fullOffload)
	must(t, err)
	cfgA, cfgB := aliceOn(withAll, a), bobOn(withAll, b)
	cfgA.Clock, cfgB.Clock = clock, clock
	bob := launch(t, withAll, cfgB)
	clock.advance(time.Millisecond) // so that bob is the first to be ready
	start := clock.Now()
	alice := launch(t, withAll, cfgA)

	exchange(t, alice, bob, bob4.Addr())
	if _, err := alice.Ping(patient(t), bob4.Addr(), 10); err != nil {
		t.Error(err)
	}
	if now := clock.Now(); now != start {
		t.Fatalf("%v have passed", now.Sub(start))
	}

	six := map[string]<-chan error{
		"Listen": background(func() error { return useListener(alice, "[2001:db8::1]:80") }),
		"Dial": background(func() error {
			_, err := alice.DialContext(t.Context(), "tcp", "[2001:db8::2]:80")
			return err
		}),
		"Ping": background(func() error {
			_, err := alice.Ping(t.Context(), bob6.Addr(), 1)
			return err
		}),
	}
	clock.advance(999 * time.Millisecond)
	for name, c := range six {
		select {
		case err := <-c:
			t.Fatalf("%s doesn't wait for its address: %v", name, err)
		default:
		}
	}
	clock.advance(time.Millisecond)
	must(t, receive(t, "Listen", six["Listen"]))
	wantErr(t, "Dial", receive(t, "Dial", six["Dial"]), syscall.ECONNREFUSED)
	must(t, receive(t, "Ping", six["Ping"]))
	must(t, alice.Ready(patient(t)))
	exchange(t, alice, bob, bob6.Addr())
	if took := clock.Now().Sub(start); took != time.Second {
		t.Errorf("it took %v, want a second", took)
	}
}

func useListener(ip *stack.Instance, address string) error {
	l, err := ip.Listen("tcp", address)
	if err != nil {
		return err
	}
	return l.Close()
}

// exchange sends a few bytes each way over a new connection from a to an address of b.
func exchange(t *testing.T, a, b *stack.Instance, addr netip.Addr) {
	t.Helper()
	l, err := b.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
	must(t, err)
	defer l.Close()
	client, err := a.DialContext(patient(t), "tcp", l.Addr().String())
	must(t, err)
	defer client.Close()
	server, err := l.Accept()
	must(t, err)
	defer server.Close()
	pass(t, client, server)
	pass(t, server, client)
}

// pass sends a few bytes from one end of a connection to the other.
func pass(t *testing.T, from, to net.Conn) {
	t.Helper()
	want := []byte("the quick brown fox")
	must(t, to.SetReadDeadline(time.Time{}))
	if _, err := from.Write(want); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	reading := background(func() error {
		for n := 0; n < len(got); {
			m, err := to.Read(got[n:])
			if err != nil {
				return err
			}
			n += m
		}
		return nil
	})
	must(t, receive(t, "Read", reading))
	if !bytes.Equal(got, want) {
		t.Fatalf("read %q, want %q", got, want)
	}
}

// TestDialToLoopbackDoesNotWait for addresses that it has no use for.
func TestDialToLoopbackDoesNotWait(t *testing.T) {
	cfg := aliceOn(withAll, newStation(t))
	cfg.Clock = newFakeClock()
	alice := launch(t, withAll, cfg)
	exchange(t, alice, alice, netip.IPv6Loopback())
	exchange(t, alice, alice, netip.MustParseAddr("127.0.0.1"))
}

// TestDialWaitsForItsOwnAddressOnly: there is a second link, whose addresses are either
// another's or never get settled.
func TestDialWaitsForItsOwnAddressOnly(t *testing.T) {
	for _, other := range []string{"duplicate", "down"} {
		t.Run(other, func(t *testing.T) {
			t.Parallel()
			a, b, err := memlink.New(fullOffload)
			must(t, err)
			second := newStation(t, netip.MustParseAddr("2001:db8:5::1")) // has what we want
			second.carrier.Set(other != "down")
			alice := build(t, withAll, aliceOn(withAll, a))
			must(t, alice.AttachLink(stack.LinkConfig{Link: second, Addresses: prefixes("2001:db8:5::1/64")}))
			must(t, alice.Start(t.Context()))
			bob := launch(t, withAll, bobOn(withAll, b))
			must(t, bob.Ready(patient(t)))
			exchange(t, alice, bob, bob6.Addr())
		})
	}
}

// TestDuplicateIPv6Address: what needs it fails and names who has it. The rest works.
func TestDuplicateIPv6Address(t *testing.T) {
	a, b, err := memlink.New(fullOffload)
	must(t, err)
	cfg := bobOn(withAll, b)
	cfg.Addresses = []netip.Prefix{bob4, alice6}
	bob := launch(t, withAll, cfg)
	must(t, bob.Ready(patient(t)))

	book := new(logBook)
	cfg = aliceOn(withAll, a)
	cfg.Logger = book.logger()
	alice := launch(t, withAll, cfg)
	_, err = alice.DialContext(patient(t), "tcp", "[2001:db8::77]:25")
	wantErr(t, "Dial", err, stack.ErrDuplicateAddress, "2001:db8::1", "eth0", bobMAC.String())
	_, err = alice.Listen("tcp", "[2001:db8::1]:25")
	wantErr(t, "Listen", err, stack.ErrDuplicateAddress, bobMAC.String())
	_, err = alice.ListenPacket("udp", "[2001:db8::1]:25")
	wantErr(t, "ListenPacket", err, stack.ErrDuplicateAddress, bobMAC.String())
	_, err = alice.Ping(patient(t), netip.MustParseAddr("2001:db8::77"), 1)
	wantErr(t, "Ping", err, stack.ErrDuplicateAddress, bobMAC.String())
	wantErr(t, "Ready", alice.Ready(patient(t)), stack.ErrDuplicateAddress, "alice", "2001:db8::1", bobMAC.String())
	wantConflicts(t, alice, stack.Conflict{Link: "eth0", Address: alice6.Addr(), Holder: bobMAC})
	if n := book.count("level=ERROR", "2001:db8::1", bobMAC.String()); n == 0 {
		t.Errorf("the conflict isn't logged:\n%s", book.text.String())
	}

	exchange(t, alice, bob, bob4.Addr())
	exchange(t, alice, bob, linkLocal(bobMAC, "eth0"))
	wantConflicts(t, bob)
}

func wantConflicts(t *testing.T, ip *stack.Instance, want ...stack.Conflict) {
	t.Helper()
	got := ip.Conflicts()
	same := slices.EqualFunc(got, want, func(a, b stack.Conflict) bool {
		return a.Link == b.Link && a.Address == b.Address && bytes.Equal(a.Holder, b.Holder) && a.Count > 0
	})
	if !same {
		t.Errorf("conflicts of %s are %+v, want %+v", ip.Name(), got, want)
	}
}

// TestBothWantTheSameIPv6Address at the same time: neither gets it (RFC 4862 §5.4.3).
func TestBothWantTheSameIPv6Address(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dev := newStation(t)
		alice := launch(t, withIPv6, aliceOn(withIPv6, dev))
		probe := dev.expect("probe", func(b []byte) bool { return isSolicitation(b) && bytes.Equal(b[62:78], alice6.Addr().AsSlice()) })
		probe.bytes[84] ^= 1 // the nonce (RFC 7527)
		copy(probe.bytes[6:], eveMAC)
		m := icmp6(netip.IPv6Unspecified(), netip.MustParseAddr("ff02::1:ff00:1"), probe.bytes[54:])
		dev.injectBytes(append(probe.bytes[:54:54], m...))
		wantErr(t, "Ready", alice.Ready(t.Context()), stack.ErrDuplicateAddress, "2001:db8::1")
	})
}

// TestProbesLoopedBack by a link don't make an address a duplicate (RFC 7527).
func TestProbesLoopedBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dev := newStation(t)
		alice := launch(t, withIPv6, aliceOn(withIPv6, dev))
		for range 2 {
			dev.injectBytes(dev.expect("probe", isSolicitation).bytes)
		}
		must(t, alice.Ready(t.Context()))
	})
}

// TestDuplicateIPv4Address is used all the same, and known to both.
func TestDuplicateIPv4Address(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, err := memlink.New(fullOffload)
		must(t, err)
		cfg := bobOn(withIPv6, b)
		cfg.Addresses = []netip.Prefix{alice4, bob6}
		bob := launch(t, withIPv6, cfg)
		synctest.Wait() // until it receives
		cfg = aliceOn(withIPv6, a)
		book := new(logBook)
		cfg.Logger = book.logger()
		alice := launch(t, withIPv6, cfg)
		must(t, alice.Ready(t.Context()))
		wantConflicts(t, alice, stack.Conflict{Link: "eth0", Address: alice4.Addr(), Holder: bobMAC})
		wantConflicts(t, bob, stack.Conflict{Link: "eth0", Address: alice4.Addr(), Holder: aliceMAC})
		if n := book.count("level=ERROR", "192.0.2.1", bobMAC.String()); n != 1 {
			t.Errorf("the conflict is logged %d times, want once:\n%s", n, book.text.String())
		}
	})
}

// TestConflictIsNoticedLater, when somebody takes an address of ours that has been in use.
func TestConflictIsNoticedLater(t *testing.T) {
	for name, claim := range map[string]struct {
		frame []byte
		addr  netip.Addr
	}{
		"ARP request":     {arp(1, eveMAC, alice4.Addr(), make(net.HardwareAddr, 6), bob4.Addr()), alice4.Addr()},
		"announcement":    {arp(1, eveMAC, alice4.Addr(), make(net.HardwareAddr, 6), alice4.Addr()), alice4.Addr()},
		"ARP reply":       {arp(2, eveMAC, alice4.Addr(), aliceMAC, bob4.Addr()), alice4.Addr()},
		"advertisement":   {advertisement(eveMAC, alice6.Addr(), allNodes, 255), alice6.Addr()},
		"of a link-local": {advertisement(eveMAC, linkLocal(aliceMAC, ""), allNodes, 255), linkLocal(aliceMAC, "")},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dev := newStation(t)
				alice := launch(t, withIPv6, aliceOn(withIPv6, dev))
				must(t, alice.Ready(t.Context()))
				time.Sleep(time.Minute) // until nothing is probed any more
				for range 3 {
					dev.injectBytes(claim.frame)
				}
				wantConflicts(t, alice, stack.Conflict{Link: "eth0", Address: claim.addr, Holder: eveMAC})
				if n := alice.Conflicts()[0].Count; n != 3 {
					t.Errorf("seen %d times, want 3", n)
				}
				must(t, alice.Ready(t.Context())) // the address remains in use
			})
		})
	}
}

// TestNoConflict are frames that look like a claim.
func TestNoConflict(t *testing.T) {
	nobody := netip.IPv4Unspecified()
	bad := advertisement(eveMAC, alice6.Addr(), allNodes, 255)
	bad[len(bad)-1] ^= 1
	for name, frame := range map[string][]byte{
		"probe":                      arp(1, eveMAC, nobody, make(net.HardwareAddr, 6), alice4.Addr()),
		"another's announcement":     arp(1, eveMAC, bob4.Addr(), make(net.HardwareAddr, 6), bob4.Addr()),
		"our own":                    arp(1, aliceMAC, alice4.Addr(), make(net.HardwareAddr, 6), alice4.Addr()),
		"cut short":                  arp(1, eveMAC, alice4.Addr(), make(net.HardwareAddr, 6), alice4.Addr())[:40],
		"advertisement of another":   advertisement(eveMAC, bob6.Addr(), allNodes, 255),
		"our own advertisement":      advertisement(aliceMAC, alice6.Addr(), allNodes, 255),
		"from beyond a router":       advertisement(eveMAC, alice6.Addr(), allNodes, 64),
		"with a bad checksum":        bad,
		"to another station":         ethernet(eveMAC, bobMAC, etherARP, arp(1, eveMAC, alice4.Addr(), eveMAC, alice4.Addr())[14:]),
		"advertisement cut short":    advertisement(eveMAC, alice6.Addr(), allNodes, 255)[:60],
		"not over Ethernet and IPv4": append(ethernet(broadcastMAC, eveMAC, etherARP, []byte{0, 6}), arp(1, eveMAC, alice4.Addr(), eveMAC, alice4.Addr())[16:]...),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dev := newStation(t)
				alice := launch(t, withIPv6, aliceOn(withIPv6, dev))
				must(t, alice.Ready(t.Context()))
				dev.injectBytes(frame)
				wantConflicts(t, alice)
			})
		})
	}
}

// TestConflictsAreBounded: an attacker makes up hosts. Those known still count.
func TestConflictsAreBounded(t *testing.T) {
	dev := newStation(t)
	book := new(logBook)
	cfg := aliceOn(0, dev)
	cfg.Logger = book.logger()
	alice := launch(t, 0, cfg)
	for range 2 {
		for n := range 1000 {
			mac := net.HardwareAddr{2, 0, 0, 1, byte(n >> 8), byte(n)}
			dev.injectBytes(arp(1, mac, alice4.Addr(), make(net.HardwareAddr, 6), alice4.Addr()))
		}
	}
	list := alice.Conflicts()
	if len(list) != 64 {
		t.Fatalf("%d conflicts are remembered, want 64", len(list))
	}
	for _, c := range list {
		if c.Count != 2 {
			t.Errorf("%+v, want a count of 2", c)
		}
	}
	if n := book.count("level=ERROR"); n != 64 {
		t.Errorf("%d conflicts are logged, want 64", n)
	}
}

// TestAnnouncement: each IPv4 address is announced (RFC 5227 §2.3) and probed, when the
// link comes up and when it does so again.
func TestAnnouncement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dev := newStation(t)
		dev.carrier.Set(false)
		cfg := aliceOn(withIPv6, dev)
		cfg.Addresses = append(cfg.Addresses, netip.MustParsePrefix("10.0.0.1/8"))
		launch(t, withIPv6, cfg)
		synctest.Wait()
		if got := dev.sent(); len(got) != 0 {
			t.Errorf("%d frames are sent while the link is down", len(got))
		}
		for range 2 {
			dev.carrier.Set(true)
			time.Sleep(5 * time.Second)
			got := dev.sent()
			for _, addr := range []netip.Addr{alice4.Addr(), netip.MustParseAddr("10.0.0.1")} {
				announcement := arp(1, aliceMAC, addr, make(net.HardwareAddr, 6), addr)
				probe := arp(1, aliceMAC, netip.IPv4Unspecified(), make(net.HardwareAddr, 6), addr)
				if n := countEqual(got, announcement); n != 1 {
					t.Errorf("%v is announced %d times, want once", addr, n)
				}
				if n := countEqual(got, probe); n < 1 {
					t.Errorf("%v isn't probed", addr)
				}
			}
			dev.carrier.Set(false)
		}
	})
}

func countEqual(frames [][]byte, want []byte) (n int) {
	for _, f := range frames {
		if bytes.Equal(f, want) {
			n++
		}
	}
	return n
}

// TestLinkDownAtStart: duplicate address detection begins when the link comes up, since
// what is sent before is lost.
func TestLinkDownAtStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dev := newStation(t, alice6.Addr()) // has what we want
		dev.carrier.Set(false)
		alice := launch(t, withIPv6, aliceOn(withIPv6, dev))
		time.Sleep(time.Hour)
		dev.carrier.Set(true)
		start := time.Now()
		wantErr(t, "Ready", alice.Ready(t.Context()), stack.ErrDuplicateAddress, "2001:db8::1")
		if took := time.Since(start); took != time.Second { // that of the link-local address
			t.Errorf("Ready took %v, want a second", took)
		}
	})
}

// TestRouterAdvertisementChangesNothing: an instance knows what it was given.
func TestRouterAdvertisementChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dev := newStation(t)
		alice := launch(t, withICMP|withIPv6, aliceOn(withIPv6, dev))
		must(t, alice.Ready(t.Context()))
		router := linkLocal(bobMAC, "")
		prefix := netip.MustParseAddr("2001:db8:66::")
		m := slices.Concat([]byte{134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0}, // lifetime 1800 s
			[]byte{1, 1}, bobMAC,
			[]byte{3, 4, 64, 0xc0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0}, prefix.AsSlice())
		dev.inject(link.Frame{Data: [][]byte{ethernet(multicastMAC(allNodes), bobMAC, etherIPv6,
			ip6(router, allNodes, 58, 255, icmp6(router, allNodes, m)))}})
		time.Sleep(time.Minute)
		for _, addr := range []string{"2001:db8:66::1", "2001:db8:9::1"} {
			if n, err := alice.Neighbor(t.Context(), netip.MustParseAddr(addr)); err == nil || !strings.Contains(err.Error(), "no route") {
				t.Errorf("a router advertisement has made a route to %s: %+v, %v", addr, n, err)
			}
		}
	})
}
