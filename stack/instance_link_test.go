package stack_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/duotap/duotap/stack"
	"github.com/duotap/duotap/stack/link"
	"github.com/duotap/duotap/stack/link/linktest"
	"github.com/duotap/duotap/stack/link/memlink"
)

// TestIPLinkStatus is NetX Duo's scenario ip_link_status: the link goes down, is noticed
// once, nothing can be sent; it comes up again, and what was connected goes on.
func TestIPLinkStatus(t *testing.T) {
	a, b := memlink.Pair(1500)
	book := new(logBook)
	clock := newHastyClock()
	cfg, cfgB := aliceOn(withAll, a), bobOn(withAll, b)
	cfg.Logger, cfg.Clock, cfgB.Clock = book.logger(), clock, clock
	alice, bob := launch(t, withAll, cfg), launch(t, withAll, cfgB)
	clock.settle(t, alice, bob)
	l, err := bob.Listen("tcp", ":80")
	must(t, err)
	var conns [2][2]net.Conn
	for k, addr := range []string{"192.0.2.2:80", "[2001:db8::2]:80"} {
		conns[k][0], err = alice.Dial("tcp", addr)
		must(t, err)
		conns[k][1], err = l.Accept()
		must(t, err)
		pass(t, conns[k][0], conns[k][1])
	}
	if !alice.Stats().Links[0].Up {
		t.Error("the link is up, and Stats says it isn't")
	}

	a.SetUp(false)
	if alice.Stats().Links[0].Up {
		t.Error("the link is down, and Stats says it isn't")
	}
	for _, addr := range []netip.Addr{bob4.Addr(), bob6.Addr()} {
		_, err := alice.DialContext(t.Context(), "tcp", netip.AddrPortFrom(addr, 80).String())
		wantErr(t, "Dial", err, syscall.ENETUNREACH)
		_, err = alice.Ping(t.Context(), addr, 1)
		wantErr(t, "Ping", err, syscall.ENETUNREACH)
	}
	exchange(t, alice, alice, alice4.Addr()) // we can still talk to ourselves
	for _, c := range conns {
		if _, err := c[0].Write([]byte("while down ")); err != nil {
			t.Errorf("Write while the link is down: %v", err)
		}
	}

	a.SetUp(true)
	for _, c := range conns {
		expectBytes(t, c[1], "while down ")
		pass(t, c[1], c[0])
	}
	exchange(t, alice, bob, bob4.Addr())
	for state, want := range map[string]int{"up=true": 2, "up=false": 1} {
		if n := book.count("link state changed", "link=eth0", state); n != want {
			t.Errorf("%s is logged %d times, want %d", state, n, want)
		}
	}
}

func expectBytes(t *testing.T, c net.Conn, want string) {
	t.Helper()
	must(t, c.SetReadDeadline(time.Now().Add(patience)))
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("read %q, %v, want %q", got, err, want)
	}
}

// TestPeerCloses: an instance whose cable ends in nothing knows it.
func TestPeerCloses(t *testing.T) {
	alice, bob := couple(t, withAll, fullOffload)
	must(t, bob.Close())
	_, err := alice.DialContext(patient(t), "tcp", "192.0.2.2:80")
	wantErr(t, "Dial", err, syscall.ENETUNREACH)
}

// TestLinkDownAtStartThenUp for both families, and TCP.
func TestLinkDownAtStartThenUp(t *testing.T) {
	a, b := memlink.Pair(1500)
	a.SetUp(false)
	alice, bob := launch(t, withAll, aliceOn(withAll, a)), launch(t, withAll, bobOn(withAll, b))
	for _, addr := range []string{"192.0.2.2:80", "[2001:db8::2]:80"} {
		_, err := alice.DialContext(t.Context(), "tcp", addr)
		wantErr(t, "Dial", err, syscall.ENETUNREACH)
	}
	exchange(t, alice, alice, alice4.Addr())
	b.SetUp(true)
	exchange(t, alice, bob, bob4.Addr())
	must(t, bob.Ready(patient(t)))
	exchange(t, alice, bob, bob6.Addr())
}

// TestTwoLinks: each subnet over its own link, with its own zone.
func TestTwoLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a0, b := memlink.Pair(1500)
		a1, c := memlink.Pair(9000)
		alice := build(t, withICMP|withIPv6, aliceOn(withIPv6, a0))
		must(t, alice.AttachLink(stack.LinkConfig{Link: a1, HardwareAddr: eveMAC, Addresses: prefixes("198.51.100.1/24", "2001:db8:1::1/64")}))
		must(t, alice.Start(t.Context()))
		launch(t, withICMP|withIPv6, bobOn(withIPv6, b))
		carol := launch(t, withICMP|withIPv6, stack.Config{Name: "carol", Link: c, LinkName: "lan", HardwareAddr: bobMAC,
			Addresses: prefixes("198.51.100.2/24", "2001:db8:1::2/64")})
		for addr, want := range map[string]string{
			"192.0.2.2": "eth0", "2001:db8::2": "eth0", "fe80::ff:fe00:b%eth0": "eth0",
			"198.51.100.2": "eth1", "2001:db8:1::2": "eth1", "fe80::ff:fe00:b%eth1": "eth1",
		} {
			n, err := alice.Neighbor(t.Context(), netip.MustParseAddr(addr))
			if err != nil || n.Link != want {
				t.Errorf("neighbour for %s is %+v, %v; want it on %s", addr, n, err, want)
			}
			if _, err := alice.Ping(t.Context(), netip.MustParseAddr(addr), 2000); err != nil {
				t.Error(err)
			}
		}
		if _, err := carol.Ping(t.Context(), linkLocal(eveMAC, "lan"), 1); err != nil {
			t.Error(err)
		}
		// A host between two networks isn't a router.
		_, err := carol.Neighbor(t.Context(), bob4.Addr())
		wantErr(t, "Neighbor", err, syscall.ENETUNREACH)
		links := alice.Stats().Links
		if len(links) != 2 || links[0].Name != "eth0" || links[1].Name != "eth1" || links[1].FramesSent == 0 {
			t.Errorf("links are %+v", links)
		}
	})
}

// TestDownLinkIsNoRoute: of two default routes, that over the link which is up is taken.
func TestDownLinkIsNoRoute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := newStation(t), newStation(t)
		first.own, second.own = addresses("192.0.2.254"), addresses("198.51.100.254")
		cfg := aliceOn(0, first)
		cfg.Gateways = first.own
		alice := build(t, 0, cfg)
		must(t, alice.AttachLink(stack.LinkConfig{Link: second, HardwareAddr: aliceMAC, Addresses: prefixes("198.51.100.1/24"), Gateways: second.own}))
		must(t, alice.Start(t.Context()))
		far := netip.MustParseAddr("203.0.113.9")
		for _, step := range []struct {
			first, second bool
			want          string
		}{{true, true, "eth0"}, {false, true, "eth1"}, {false, false, ""}, {true, false, "eth0"}, {true, true, "eth0"}} {
			first.carrier.Set(step.first)
			second.carrier.Set(step.second)
			n, err := alice.Neighbor(t.Context(), far)
			if step.want == "" {
				wantErr(t, "Neighbor", err, syscall.ENETUNREACH)
			} else if err != nil || n.Link != step.want {
				t.Errorf("with links %v, %v: %+v, %v; want %s", step.first, step.second, n, err, step.want)
			}
		}
	})
}

// TestDeviceFails: a link whose device has gone is down, and says why.
func TestDeviceFails(t *testing.T) {
	dev := &failingDevice{newStation(t), make(chan error)}
	book := new(logBook)
	cfg := aliceOn(withAll, dev)
	cfg.Logger = book.logger()
	alice := launch(t, withAll, cfg)
	dev.failure <- fmt.Errorf("reading from eth0: %w", link.ErrRemoved)
	eventually(t, "link down", func() bool { return !alice.Stats().Links[0].Up })
	eventually(t, "the failure in the log", func() bool {
		return book.count("level=ERROR", "link=eth0", link.ErrRemoved.Error()) == 1
	})
	_, err := alice.DialContext(t.Context(), "tcp", "192.0.2.2:80")
	wantErr(t, "Dial", err, syscall.ENETUNREACH)
}

// TestDeviceRemoved: connections over a device that is gone end at once, and say why.
func TestDeviceRemoved(t *testing.T) {
	a, b, err := memlink.New(memlink.Config{})
	must(t, err)
	dev := &removedDevice{a, make(chan error, 1)}
	alice, bob := launch(t, withTCP, aliceOn(withTCP, dev)), launch(t, withTCP, bobOn(withTCP, b))
	c, _ := connect(t, alice, bob, bob4.Addr())
	l, err := alice.Listen("tcp", ":0")
	must(t, err)
	read := background(func() error { _, err := c.Read(make([]byte, 1)); return err })
	dev.failure <- fmt.Errorf("reading from eth0: %w", link.ErrRemoved)
	must(t, a.Close())
	wantErr(t, "Read", receive(t, "Read", read), link.ErrRemoved, `link "eth0"`)
	_, err = c.Write([]byte("x"))
	wantErr(t, "Write", err, link.ErrRemoved)
	must(t, c.Close())
	_, err = c.Write([]byte("x"))
	wantErr(t, "Write after Close", err, net.ErrClosed)
	must(t, l.Close())
}

// removedDevice is a device whose Receive ends with an error that the test says.
type removedDevice struct {
	link.Device
	failure chan error
}

func (d *removedDevice) Receive(ring link.Ring, deliver func([]link.Frame)) error {
	if err := d.Device.Receive(ring, deliver); len(d.failure) == 0 {
		return err
	}
	return <-d.failure
}

type failingDevice struct {
	*station
	failure chan error
}

func (d *failingDevice) Receive(link.Ring, func([]link.Frame)) error {
	select {
	case err := <-d.failure:
		return err
	case <-d.closed:
		return net.ErrClosed
	}
}

// network is alice and carol with a router between their links.
type network struct {
	alice, router, carol *stack.Instance
}

const (
	aliceFar = "192.0.2.1"
	carolFar = "198.51.100.2"
	carolSix = "2001:db8:1::2"
)

// newNetwork joins two cables with a router that has services s. watch sees what reaches
// carol's end.
func newNetwork(t *testing.T, s services, left, right memlink.Config, watch func(sent bool, f *link.Frame)) network {
	t.Helper()
	a, r0, err := memlink.New(left)
	must(t, err)
	r1, c, err := memlink.New(right)
	must(t, err)
	cfg := aliceOn(withAll, a)
	clock := newHastyClock()
	cfg.Clock, cfg.Gateways = clock, addresses("192.0.2.254", "2001:db8::254")
	n := network{alice: launch(t, withAll, cfg)}
	n.router = build(t, s|withIPv6|withForwarding, stack.Config{Name: "router", Clock: clock, Link: r0, Addresses: prefixes("192.0.2.254/24", "2001:db8::254/64")})
	must(t, n.router.AttachLink(stack.LinkConfig{Link: r1, Addresses: prefixes("198.51.100.254/24", "2001:db8:1::254/64")}))
	must(t, n.router.Start(t.Context()))
	n.carol = launch(t, withAll, stack.Config{Name: "carol", Clock: clock, Link: &spy{c, watch},
		Addresses: prefixes("198.51.100.2/24", "2001:db8:1::2/64"), Gateways: addresses("198.51.100.254", "2001:db8:1::254")})
	clock.settle(t, n.alice, n.router, n.carol)
	return n
}

// TestForwarding: what a router passes on has the same bytes, whatever the cables to both
// sides can carry. What arrives is never longer than the far cable's MTU.
func TestForwarding(t *testing.T) {
	plain, jumbo := memlink.Config{}, memlink.Config{MTU: 9000}
	for name, cables := range map[string][2]memlink.Config{
		"super-frames to plain": {fullOffload, plain},
		"plain to super-frames": {plain, fullOffload},
		"super-frames to both":  {fullOffload, fullOffload},
		"checksums to plain":    {{Offloads: link.Checksum}, plain},
		"jumbo to plain":        {jumbo, plain},
		"plain to plain":        {plain, plain},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var longest atomic.Int64
			n := newNetwork(t, 0, cables[0], cables[1], func(sent bool, f *link.Frame) {
				if !sent && f.Offload.Segment == link.NoSegmentation && int64(f.Len()) > longest.Load() {
					longest.Store(int64(f.Len()))
				}
			})
			for _, addr := range []string{carolFar, carolSix} {
				sendBytes(t, n.alice, n.carol, netip.MustParseAddr(addr), 1<<16)
				sendBytes(t, n.carol, n.alice, map[string]netip.Addr{carolFar: alice4.Addr(), carolSix: alice6.Addr()}[addr], 1<<16)
				if _, err := n.alice.Ping(patient(t), netip.MustParseAddr(addr), 1400); err != nil { // the router itself has no ICMP
					t.Error(err)
				}
			}
			if longest.Load() > 1514 {
				t.Errorf("carol has received a frame of %d bytes, with an MTU of 1500", longest.Load())
			}
			if s := n.alice.Stats().ICMP; s.UnreachableReceived+s.PacketTooBigReceived > 0 {
				t.Errorf("the router has refused packets: %+v", s)
			}
			if s := n.router.Stats().IP; s.PacketsForwarded == 0 {
				t.Errorf("the router's counters are %+v", s)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			_, err := n.alice.Ping(ctx, netip.MustParseAddr("192.0.2.254"), 1)
			wantErr(t, "Ping of the router", err, context.DeadlineExceeded)
		})
	}
}

// sendBytes sends random bytes over a new connection and compares what arrives.
func sendBytes(t *testing.T, from, to *stack.Instance, addr netip.Addr, n int) {
	t.Helper()
	l, err := to.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
	must(t, err)
	defer l.Close()
	client, err := from.DialContext(patient(t), "tcp", l.Addr().String())
	must(t, err)
	defer client.Close()
	server, err := l.Accept()
	must(t, err)
	defer server.Close()
	must(t, client.SetDeadline(time.Now().Add(2*patience)))
	must(t, server.SetDeadline(time.Now().Add(2*patience)))

	seed := [32]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)}
	writing := background(func() error {
		if _, err := io.CopyN(client, rand.NewChaCha8(seed), int64(n)); err != nil {
			return err
		}
		return client.(*stack.TCPConn).CloseWrite()
	})
	compare(t, server, rand.NewChaCha8(seed), n)
	must(t, receive(t, "writing", writing))
}

// compare reads r to its end, and fails unless that is n bytes of want.
func compare(t *testing.T, r, want io.Reader, n int) {
	t.Helper()
	got, expected := make([]byte, 1<<16), make([]byte, 1<<16)
	total := 0
	for {
		m, err := r.Read(got)
		if m > 0 {
			io.ReadFull(want, expected[:m])
			if !bytes.Equal(got[:m], expected[:m]) {
				t.Fatalf("bytes %d to %d are not those that were sent", total, total+m)
			}
			total += m
		}
		if err == io.EOF {
			break
		}
		must(t, err)
	}
	if total != n {
		t.Fatalf("%d bytes have arrived, want %d", total, n)
	}
}

// TestForwardingNeedsToBeEnabled is TestForwarding without.
func TestForwardingNeedsToBeEnabled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := newStation(t), newStation(t)
		first.own, second.own = []netip.Addr{bob4.Addr()}, addresses(carolFar)
		router := build(t, withICMP, aliceOn(0, first))
		must(t, router.AttachLink(stack.LinkConfig{Link: second, HardwareAddr: eveMAC, Addresses: prefixes("198.51.100.1/24")}))
		must(t, router.Start(t.Context()))
		first.injectBytes(first.flow("192.0.2.2:1", carolFar+":2").Echo(nil))
		time.Sleep(time.Minute)
		for _, b := range second.sent() {
			if isEcho(b) {
				t.Error("a packet is forwarded by a host")
			}
		}
	})
}

// TestForwardingEndsLoops: a packet's time to live goes down, and at its end its sender is
// told (RFC 792, RFC 4443 §3.3).
func TestForwardingEndsLoops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := newStation(t), newStation(t)
		first.own, second.own = []netip.Addr{bob4.Addr(), bob6.Addr()}, addresses(carolFar, carolSix)
		s := withForwarding | withIPv6 | withICMP
		router := build(t, s, aliceOn(s, first))
		must(t, router.AttachLink(stack.LinkConfig{Link: second, HardwareAddr: eveMAC, Addresses: prefixes("198.51.100.1/24", "2001:db8:1::1/64")}))
		must(t, router.Start(t.Context()))
		must(t, router.Ready(t.Context()))
		for _, c := range []struct {
			from, to, own string
			limit         int // where in the frame the time to live is
			exceeded      func(b []byte) bool
		}{
			{"192.0.2.2:1", carolFar + ":2", "192.0.2.1:2", 22,
				func(b []byte) bool { return etherType(b) == etherIPv4 && b[23] == 1 && b[34] == 11 }},
			{"[2001:db8::2]:1", "[" + carolSix + "]:2", "[2001:db8::1]:2", 21,
				func(b []byte) bool { return etherType(b) == etherIPv6 && b[20] == 58 && b[54] == 3 }},
		} {
			echo := first.flow(c.from, c.to).Echo([]byte("hello"))
			first.injectBytes(withLimit(echo, c.limit, 2))
			if got := second.expect("the echo request", isEcho).bytes; got[c.limit] != 1 || !bytes.Equal(got[len(got)-13:], echo[len(echo)-13:]) {
				t.Errorf("forwarded with a time to live of %d as %x", got[c.limit], got)
			} else if !link.VerifyChecksum(&link.Frame{Data: [][]byte{got}}) {
				t.Errorf("forwarded with a wrong checksum: %x", got)
			}
			for _, ttl := range []byte{1, 0} {
				second.sent()
				first.injectBytes(withLimit(echo, c.limit, ttl))
				first.expect("time exceeded", c.exceeded)
				if slices.ContainsFunc(second.sent(), isEcho) {
					t.Errorf("forwarded although its time to live was %d", ttl)
				}
			}
			first.injectBytes(withLimit(first.flow(c.from, c.own).Echo(nil), c.limit, 1))
			first.expect("the router's own answer", isEchoReply)
		}
	})
}

// withLimit is a packet with another time to live.
func withLimit(frame []byte, at int, ttl byte) []byte {
	b := slices.Clone(frame)
	b[at] = ttl
	if etherType(b) == etherIPv4 {
		b[24], b[25] = 0, 0
		binary.BigEndian.PutUint16(b[24:], ^uint16(sum16(0, b[14:34])))
	}
	return b
}

// TestPacketTooBigNamesTheMTU of the link that the packet didn't fit, in both families.
func TestPacketTooBigNamesTheMTU(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := newStation(t), newStation(t)
		first.mtu, second.mtu = 9000, 1400
		first.own, second.own = []netip.Addr{bob4.Addr(), bob6.Addr()}, addresses("198.51.100.2", "2001:db8:1::2")
		s := withForwarding | withIPv6
		cfg := aliceOn(s, first)
		router := build(t, s, cfg)
		must(t, router.AttachLink(stack.LinkConfig{Link: second, HardwareAddr: eveMAC, Addresses: prefixes("198.51.100.1/24", "2001:db8:1::1/64"),
			Gateways: addresses("198.51.100.2", "2001:db8:1::2")}))
		must(t, router.Start(t.Context()))
		must(t, router.Ready(t.Context()))
		for _, to := range []string{"[2001:db8:1::2]:9", "[2001:db8:77::1]:9"} {
			first.injectBytes(first.flow("[2001:db8::2]:7", to).UDP(make([]byte, 2000)))
			b := first.expect("packet too big", func(b []byte) bool { return etherType(b) == etherIPv6 && b[20] == 58 && b[54] == 2 }).bytes
			if mtu := binary.BigEndian.Uint32(b[58:]); mtu != 1400 {
				t.Errorf("%s: it says %d, want 1400", to, mtu)
			}
			if !link.VerifyChecksum(&link.Frame{Data: [][]byte{b}}) {
				t.Errorf("%s: a wrong checksum in %x", to, b)
			}
		}
		for _, to := range []string{"198.51.100.2:9", "203.0.113.1:9"} {
			big := first.flow("192.0.2.2:7", to).UDP(make([]byte, 2000))
			big[20] |= 0x40 // don't fragment
			first.injectBytes(withLimit(big, 22, 64))
			b := first.expect("fragmentation needed", func(b []byte) bool { return etherType(b) == etherIPv4 && b[23] == 1 && b[34] == 3 && b[35] == 4 }).bytes
			if mtu := binary.BigEndian.Uint16(b[40:]); mtu != 1400 {
				t.Errorf("%s: it says %d, want 1400", to, mtu)
			}
		}
	})
}

// TestFalseMTU: ICMP messages that claim an MTU which no link can have are dropped
// (RFC 8201 §4). Otherwise they make a connection send single bytes.
func TestFalseMTU(t *testing.T) {
	for _, c := range []struct {
		name, from, to string
		mtu            int
		believed       bool
	}{
		{"IPv6, 0", "[2001:db8::1]", "[2001:db8::2]", 0, false}, {"IPv6, 1279", "[2001:db8::1]", "[2001:db8::2]", 1279, false},
		{"IPv6, 1280", "[2001:db8::1]", "[2001:db8::2]", 1280, true},
		{"IPv4, 0", "192.0.2.1", "192.0.2.2", 0, false}, {"IPv4, 67", "192.0.2.1", "192.0.2.2", 67, false},
		{"IPv4, 576", "192.0.2.1", "192.0.2.2", 576, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dev := newStation(t, bob4.Addr(), bob6.Addr())
			clock := newHastyClock()
			cfg := aliceOn(withAll, dev)
			cfg.Clock = clock
			alice := launch(t, withAll, cfg)
			clock.settle(t, alice)
			conn := acceptByHand(t, dev, alice, c.to)
			if _, err := conn.Write(make([]byte, 1400)); err != nil {
				t.Fatal(err)
			}
			segment := dev.expect("data", func(b []byte) bool { return isTCP(0)(b) && len(b) > 1400 }).bytes
			dev.injectBytes(tooBig(segment, c.mtu))
			if !c.believed {
				eventually(t, "the drop", func() bool { return alice.Stats().Links[0].DroppedMalformed == 1 })
			}
			again := dev.expect("it again", func(b []byte) bool { return isTCP(0)(b) && len(b) > 70 }).bytes
			if shorter := len(again) < len(segment); shorter != c.believed {
				t.Errorf("it is sent again with %d bytes, after %d", len(again), len(segment))
			}
		})
	}
}

// tooBig is what a router says about a packet that has to be smaller.
func tooBig(packet []byte, mtu int) []byte {
	src4, src6 := bob4.Addr(), bob6.Addr()
	if etherType(packet) == etherIPv4 {
		m := slices.Concat([]byte{3, 4, 0, 0, 0, 0, byte(mtu >> 8), byte(mtu)}, packet[14:14+28])
		binary.BigEndian.PutUint16(m[2:], ^uint16(sum16(0, m)))
		return ethernet(aliceMAC, bobMAC, etherIPv4, ip4(src4, alice4.Addr(), 1, 0, m))
	}
	m := slices.Concat([]byte{2, 0, 0, 0, 0, 0, byte(mtu >> 8), byte(mtu)}, packet[14:min(len(packet), 14+1200)])
	return ethernet(aliceMAC, bobMAC, etherIPv6, ip6(src6, alice6.Addr(), 58, 64, icmp6(src6, alice6.Addr(), m)))
}

// acceptByHand connects alice to the station, which plays the server.
func acceptByHand(t *testing.T, dev *station, alice *stack.Instance, host string) net.Conn {
	t.Helper()
	type result struct {
		conn net.Conn
		err  error
	}
	dialed := make(chan result, 1)
	go func() {
		conn, err := alice.DialContext(patient(t), "tcp", host+":25")
		dialed <- result{conn, err}
	}()
	syn := dev.expect("SYN", isTCP(linktest.SYN)).bytes
	h := headersOf(syn)
	own := netip.AddrPortFrom(addrAt(syn, h, 0), binary.BigEndian.Uint16(syn[h.Transport:]))
	mss := []byte{2, 4, 1440 >> 8, 1440 & 0xff}
	answer := dev.flow(host+":25", own.String()).TCP(1000, linktest.SYN|linktest.ACK, mss)
	dev.injectBytes(editTCP(answer, func(tcp []byte) {
		binary.BigEndian.PutUint32(tcp[8:], binary.BigEndian.Uint32(syn[h.Transport+4:])+1)
		tcp[12] = 6 << 4 // words of header
	}))
	r := receive(t, "Dial", dialed)
	must(t, r.err)
	t.Cleanup(func() { r.conn.Close() })
	return r.conn
}

// TestForwardingToABrokenLink: whatever the device says, what is forwarded is lost, and the
// router goes on.
func TestForwardingToABrokenLink(t *testing.T) {
	for _, failure := range []error{link.ErrDown, link.ErrRemoved, link.ErrFrame, net.ErrClosed, io.ErrShortWrite} {
		synctest.Test(t, func(t *testing.T) {
			first, second := newStation(t), newStation(t)
			first.own, second.own = []netip.Addr{bob4.Addr(), bob6.Addr()}, addresses(carolFar, carolSix)
			s := withForwarding | withIPv6 | withICMP
			router := build(t, s, aliceOn(s, first))
			must(t, router.AttachLink(stack.LinkConfig{Link: second, HardwareAddr: eveMAC, Addresses: prefixes("198.51.100.1/24", "2001:db8:1::1/64")}))
			must(t, router.Start(t.Context()))
			must(t, router.Ready(t.Context()))
			send := func() {
				first.injectBytes(first.flow("192.0.2.2:1", carolFar+":2").UDP(nil))
				first.injectBytes(first.flow("[2001:db8::2]:1", "["+carolSix+"]:2").UDP(nil))
				synctest.Wait()
			}
			send() // the neighbours are known from now on
			second.refuse(failure)
			send()
			if n := router.Stats().Links[1].SendErrors; n < 2 {
				t.Errorf("%v: %d send errors are counted", failure, n)
			}
			first.injectBytes(first.flow("192.0.2.2:1", "192.0.2.1:2").Echo(nil))
			first.expect("the router's answer", isEchoReply)
		})
	}
}

// TestPathMTU: a narrow link between two wide ones is found out (RFC 1191, RFC 8201), also
// by senders of super-frames, and without ICMP enabled anywhere.
func TestPathMTU(t *testing.T) {
	wide := memlink.Config{MTU: 9000, Offloads: fullOffload.Offloads}
	a, r0, err := memlink.New(wide)
	must(t, err)
	r1, s0, err := memlink.New(memlink.Config{MTU: 1400})
	must(t, err)
	s1, c, err := memlink.New(wide)
	must(t, err)
	s := withTCP | withIPv6
	cfg := aliceOn(s, a)
	clock := newHastyClock()
	cfg.Clock, cfg.Gateways = clock, addresses("192.0.2.254", "2001:db8::254")
	alice := launch(t, s, cfg)
	left := build(t, s|withForwarding, stack.Config{Name: "left", Clock: clock, Link: r0, Addresses: prefixes("192.0.2.254/24", "2001:db8::254/64")})
	must(t, left.AttachLink(stack.LinkConfig{Link: r1, Addresses: prefixes("10.0.0.1/8", "2001:db8:a::1/64"), Gateways: addresses("10.0.0.2", "2001:db8:a::2")}))
	right := build(t, s|withForwarding, stack.Config{Name: "right", Clock: clock, Link: s0, Addresses: prefixes("10.0.0.2/8", "2001:db8:a::2/64"), Gateways: addresses("10.0.0.1", "2001:db8:a::1")})
	must(t, right.AttachLink(stack.LinkConfig{Link: s1, Addresses: prefixes("198.51.100.254/24", "2001:db8:1::254/64")}))
	must(t, left.Start(t.Context()))
	must(t, right.Start(t.Context()))
	carol := launch(t, s, stack.Config{Name: "carol", Clock: clock, Link: c, Addresses: prefixes("198.51.100.2/24", "2001:db8:1::2/64"),
		Gateways: addresses("198.51.100.254", "2001:db8:1::254")})
	clock.settle(t, alice, left, right, carol)
	for _, addr := range []string{carolFar, carolSix} {
		sendBytes(t, alice, carol, netip.MustParseAddr(addr), 1<<15)
	}
	if s := alice.Stats().ICMP; s.UnreachableReceived == 0 || s.PacketTooBigReceived == 0 {
		t.Errorf("alice's ICMP counters are %+v, want both kinds of message", s)
	}
}
