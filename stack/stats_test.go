package stack_test

import (
	"net"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/duotap/duotap/stack"
	"github.com/duotap/duotap/stack/link"
	"github.com/duotap/duotap/stack/link/linktest"
	"github.com/duotap/duotap/stack/link/memlink"
)

// counters are all numbers in Stats, by name.
func counters(s stack.Stats) map[string]uint64 {
	all := map[string]uint64{}
	var walk func(name string, v reflect.Value)
	walk = func(name string, v reflect.Value) {
		switch v.Kind() {
		case reflect.Struct:
			for k := range v.NumField() {
				walk(name+"."+v.Type().Field(k).Name, v.Field(k))
			}
		case reflect.Slice:
			for k := range v.Len() {
				walk(name, v.Index(k))
			}
		case reflect.Uint64:
			all[name] += v.Uint()
		}
	}
	walk("", reflect.ValueOf(s))
	return all
}

// difference is what has changed, by name.
func difference(before, after stack.Stats) map[string]uint64 {
	d := map[string]uint64{}
	old := counters(before)
	for name, n := range counters(after) {
		if n != old[name] {
			d[name] = n - old[name]
		}
	}
	return d
}

func wantCounters(t *testing.T, what string, got, want map[string]uint64) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: counters change by\n%v, want\n%v", what, got, want)
	}
}

// TestIPBasic is the part of NetX Duo's scenario ip_basic about nx_ip_info_get: all
// counters of a fresh instance are zero.
func TestIPBasic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dev := newStation(t)
		dev.carrier.Set(false)
		ip := build(t, withICMP|withUDP|withIPv6, aliceOn(withIPv6, dev))
		for _, phase := range []string{"New", "Start", "Close"} {
			wantCounters(t, "after "+phase, difference(stack.Stats{}, ip.Stats()), map[string]uint64{})
			switch phase {
			case "New":
				must(t, ip.Start(t.Context()))
				synctest.Wait()
			case "Start":
				must(t, ip.Close())
			}
		}
	})
}

// TestStats: what is done once counts once, on both sides.
func TestStats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice, bob := couple(t, withICMP|withUDP|withIPv6, memlink.Config{})
		must(t, alice.Ready(t.Context()))
		must(t, bob.Ready(t.Context()))
		if _, err := alice.Ping(t.Context(), bob4.Addr(), 1); err != nil { // so that the MAC addresses are known
			t.Fatal(err)
		}
		if _, err := alice.Ping(t.Context(), bob6.Addr(), 1); err != nil {
			t.Fatal(err)
		}
		receiver, err := bob.ListenPacket("udp", ":9")
		must(t, err)
		sender, err := alice.ListenPacket("udp", ":9")
		must(t, err)

		step := func(what string, do func() error, wantAlice, wantBob map[string]uint64) {
			t.Helper()
			synctest.Wait()
			a, b := alice.Stats(), bob.Stats()
			must(t, do())
			synctest.Wait()
			wantCounters(t, what+", alice", difference(a, alice.Stats()), wantAlice)
			wantCounters(t, what+", bob", difference(b, bob.Stats()), wantBob)
		}
		ping := func(to string, size int) func() error {
			return func() error { _, err := alice.Ping(t.Context(), netAddr(to), size); return err }
		}
		link1 := func(ip, n, bytes uint64) map[string]uint64 {
			return map[string]uint64{
				".IP.PacketsSent": ip, ".IP.PacketsReceived": ip, ".IP.PacketsDelivered": ip, ".IP.BytesSent": bytes - 14*n, ".IP.BytesReceived": bytes - 14*n,
				".Links.FramesSent": n, ".Links.FramesReceived": n, ".Links.BytesSent": bytes, ".Links.BytesReceived": bytes,
			}
		}
		with := func(m map[string]uint64, more ...any) map[string]uint64 {
			for k := 0; k < len(more); k += 2 {
				m[more[k].(string)] = uint64(more[k+1].(int))
			}
			return m
		}
		step("ping", ping("192.0.2.2", 100),
			with(link1(1, 1, 14+20+8+100), ".ICMP.EchoRequestsSent", 1, ".ICMP.EchoRepliesReceived", 1),
			with(link1(1, 1, 14+20+8+100), ".ICMP.EchoRequestsReceived", 1, ".ICMP.EchoRepliesSent", 1))
		step("IPv6 ping", ping("2001:db8::2", 100),
			with(link1(1, 1, 14+40+8+100), ".ICMP.EchoRequestsSent", 1, ".ICMP.EchoRepliesReceived", 1),
			with(link1(1, 1, 14+40+8+100), ".ICMP.EchoRequestsReceived", 1, ".ICMP.EchoRepliesSent", 1))
		step("datagram", func() error {
			_, err := sender.WriteTo(make([]byte, 10), &net.UDPAddr{IP: bob4.Addr().AsSlice(), Port: 9})
			return err
		},
			map[string]uint64{".UDP.PacketsSent": 1, ".IP.PacketsSent": 1, ".IP.BytesSent": 38, ".Links.FramesSent": 1, ".Links.BytesSent": 52},
			map[string]uint64{".UDP.PacketsReceived": 1, ".IP.PacketsReceived": 1, ".IP.PacketsDelivered": 1, ".IP.BytesReceived": 38,
				".Links.FramesReceived": 1, ".Links.BytesReceived": 52})

		for _, c := range []struct {
			to    string
			bytes uint64 // of three fragments each way
		}{{"192.0.2.2", 3*(14+20) + 8 + 4000}, {"2001:db8::2", 3*(14+40+8) + 8 + 4000}} {
			synctest.Wait()
			a := alice.Stats()
			must(t, ping(c.to, 4000)())
			synctest.Wait()
			got := difference(a, alice.Stats())
			for name, want := range map[string]uint64{".IP.FragmentsSent": 3, ".IP.FragmentsReceived": 3, ".Links.FramesSent": 3,
				".Links.BytesSent": c.bytes, ".IP.BytesSent": c.bytes - 3*14, ".IP.BytesReceived": c.bytes - 3*14} {
				if got[name] != want {
					t.Errorf("ping %s with 4000 bytes: %s is %d, want %d", c.to, name, got[name], want)
				}
			}
		}
		must(t, receiver.Close())
		step("unknown port", func() error {
			_, err := sender.WriteTo(make([]byte, 10), &net.UDPAddr{IP: bob4.Addr().AsSlice(), Port: 9})
			return err
		},
			with(link1(1, 1, 52), ".UDP.PacketsSent", 1, ".ICMP.UnreachableReceived", 1, ".IP.BytesReceived", 28+38, ".Links.BytesReceived", 14+28+38),
			with(link1(1, 1, 52), ".UDP.UnknownPort", 1, ".ICMP.UnreachableSent", 1, ".IP.BytesSent", 28+38, ".Links.BytesSent", 14+28+38))
	})
}

// TestTCPStats: connections and segments.
func TestTCPStats(t *testing.T) {
	alice, bob := couple(t, withTCP, fullOffload)
	l, err := bob.Listen("tcp", ":80")
	must(t, err)
	client, err := alice.Dial("tcp", "192.0.2.2:80")
	must(t, err)
	server, err := l.Accept()
	must(t, err)
	pass(t, client, server)
	a, b := alice.Stats().TCP, bob.Stats().TCP
	if a.ActiveOpens != 1 || a.PassiveOpens != 0 || a.CurrentEstablished != 1 || b.ActiveOpens != 0 || b.PassiveOpens != 1 || b.CurrentEstablished != 1 {
		t.Errorf("one connection: %+v\n%+v", a, b)
	}
	if a.SegmentsSent < 3 || b.SegmentsReceived < 3 || a.ResetsSent != 0 || a.Retransmits != 0 {
		t.Errorf("one connection: %+v\n%+v", a, b)
	}
	must(t, client.(*stack.TCPConn).SetLinger(0))
	must(t, client.Close())
	eventually(t, "the reset", func() bool { // two, if bob was about to acknowledge
		b := bob.Stats().TCP
		return b.ResetsReceived >= 1 && b.CurrentEstablished == 0 && b.ResetEstablished == 1
	})
	must(t, l.Close())
	if _, err := alice.DialContext(patient(t), "tcp", "192.0.2.2:80"); err == nil {
		t.Fatal("connected to nobody")
	}
	if a := alice.Stats().TCP; a.ActiveOpens != 2 || a.CurrentEstablished != 0 || a.ResetsSent < 1 || a.ResetsReceived != 1 {
		t.Errorf("after a reset and a refusal: %+v", a)
	}
}

// TestARPStats counts what TestAnnouncement sees.
func TestARPStats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dev := newStation(t, bob4.Addr())
		alice := launch(t, withICMP, aliceOn(0, dev))
		time.Sleep(time.Minute)
		synctest.Wait()
		before := alice.Stats()
		_, err := alice.Neighbor(t.Context(), bob4.Addr())
		must(t, err)
		dev.injectBytes(arp(1, bobMAC, bob4.Addr(), make(net.HardwareAddr, 6), alice4.Addr()))
		dev.injectBytes(arp(1, bobMAC, bob4.Addr(), make(net.HardwareAddr, 6), bob4.Addr())[:41])
		synctest.Wait()
		got := difference(before, alice.Stats())
		for name, want := range map[string]uint64{".ARP.RequestsSent": 1, ".ARP.RepliesReceived": 1, ".ARP.RequestsReceived": 1, ".ARP.RepliesSent": 1, ".ARP.Malformed": 1} {
			if got[name] != want {
				t.Errorf("%s changes by %d, want %d", name, got[name], want)
			}
		}
	})
}

// TestStatsOfASuperFrame: it is one frame, and one segment.
func TestStatsOfASuperFrame(t *testing.T) {
	dev := newStation(t, bob4.Addr())
	dev.features = link.Features{Takes: fullOffload.Offloads, Gives: fullOffload.Offloads}
	alice := launch(t, withTCP, aliceOn(0, dev))
	conn := acceptByHand(t, dev, alice, "192.0.2.2")
	before := alice.Stats()
	if _, err := conn.Write(make([]byte, 10000)); err != nil {
		t.Fatal(err)
	}
	f := dev.expect("data", func(b []byte) bool { return isTCP(linktest.ACK)(b) && len(b) > 2000 })
	if f.offload.Segment != link.SegmentTCP4 || f.offload.SegmentSize == 0 {
		t.Errorf("offload is %+v", f.offload)
	}
	got := difference(before, alice.Stats())
	if got[".Links.FramesSent"] != 1 || got[".Links.BytesSent"] != uint64(len(f.bytes)) || got[".TCP.SegmentsSent"] != 1 {
		t.Errorf("a super-frame of %d bytes changes the counters by %v", len(f.bytes), got)
	}
}

// TestStatsOfAllLinks: one entry each, in order, and sums over all.
func TestStatsOfAllLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := newStation(t, bob4.Addr()), newStation(t, netAddr("198.51.100.2"))
		ip := build(t, withICMP, aliceOn(0, first))
		must(t, ip.AttachLink(stack.LinkConfig{Link: second, Name: "wan", Addresses: prefixes("198.51.100.1/24")}))
		must(t, ip.Start(t.Context()))
		time.Sleep(time.Minute)
		second.carrier.Set(false)
		s := ip.Stats()
		var names []string
		for _, l := range s.Links {
			names = append(names, l.Name)
		}
		if !slices.Equal(names, []string{"eth0", "wan"}) || !s.Links[0].Up || s.Links[1].Up {
			t.Errorf("links are %+v", s.Links)
		}
	})
}

// TestStatsRace reads counters while they change, and while the instance is closed.
func TestStatsRace(t *testing.T) {
	alice, bob := couple(t, withAll, fullOffload)
	done := make(chan struct{})
	reading := background(func() error {
		for {
			select {
			case <-done:
				return nil
			default:
				alice.Stats()
				alice.Conflicts()
				alice.Neighbors()
			}
		}
	})
	for range 20 {
		exchange(t, alice, bob, bob4.Addr())
	}
	must(t, alice.Close())
	close(done)
	must(t, receive(t, "reading", reading))
}
