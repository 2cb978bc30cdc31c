package stack_test

import (
	"context"
	"encoding/binary"
	"fmt"
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

func TestPing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice, bob := couple(t, withICMP|withIPv6, fullOffload)
		for _, c := range []struct {
			ip *stack.Instance
			to netip.Addr
		}{
			{alice, bob4.Addr()}, {alice, bob6.Addr()}, {alice, linkLocal(bobMAC, "eth0")},
			{bob, alice4.Addr()}, {bob, alice6.Addr()}, {bob, linkLocal(aliceMAC, "eth0")},
			{alice, alice4.Addr()}, {alice, alice6.Addr()}, {alice, netip.MustParseAddr("127.0.0.1")}, {alice, netip.IPv6Loopback()},
			{alice, netip.MustParseAddr("::ffff:192.0.2.2")},
		} {
			reply, err := c.ip.Ping(t.Context(), c.to, 56)
			if err != nil || reply.Size != 56 || reply.From != c.to.Unmap() || reply.RTT < 0 {
				t.Errorf("%s pings %v: %+v, %v", c.ip.Name(), c.to, reply, err)
			}
		}
	})
}

// TestPingSizes: from nothing to the largest IP packet, over links that have to fragment it
// in both directions.
func TestPingSizes(t *testing.T) {
	for _, mtu := range []int{1280, 1500, 9000} {
		synctest.Test(t, func(t *testing.T) {
			alice, _ := couple(t, withICMP|withIPv6, memlink.Config{MTU: mtu})
			for _, size := range []int{0, 1, 2, 3, 4, 31, 56, mtu - 49, mtu - 48, mtu - 47, mtu - 29, mtu - 28, mtu - 27,
				2 * mtu, 32768, stack.MaxPing - 1, stack.MaxPing} {
				for _, to := range []netip.Addr{bob4.Addr(), bob6.Addr(), alice4.Addr()} {
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					if reply, err := alice.Ping(ctx, to, size); err != nil || reply.Size != size {
						t.Errorf("MTU %d: ping %v with %d bytes: %+v, %v", mtu, to, size, reply, err)
					}
					cancel()
				}
			}
		})
	}
}

func TestPingBadSize(t *testing.T) {
	alice := launch(t, withICMP, aliceOn(0, newStation(t)))
	for _, size := range []int{-1, stack.MaxPing + 1, 1 << 40} {
		_, err := alice.Ping(patient(t), bob4.Addr(), size)
		wantErr(t, "Ping", err, nil, fmt.Sprint(size), "65507")
	}
}

// TestPingUnknownNeighbor is TestNeighborUnknown for Ping.
func TestPingUnknownNeighbor(t *testing.T) {
	for _, addr := range []string{"192.0.2.77", "2001:db8::77"} {
		synctest.Test(t, func(t *testing.T) {
			alice, _ := couple(t, withICMP|withIPv6, fullOffload)
			must(t, alice.Ready(t.Context()))
			start := time.Now()
			_, err := alice.Ping(t.Context(), netip.MustParseAddr(addr), 1)
			wantErr(t, "Ping", err, syscall.EHOSTUNREACH, "pinging "+addr)
			if took := time.Since(start); took != 3*time.Second {
				t.Errorf("%s: it took %v, want 3s", addr, took)
			}
		})
	}
}

// TestPingUnansweredEndsWithItsContext, whether that is cancelled or late.
func TestPingUnansweredEndsWithItsContext(t *testing.T) {
	dev := newStation(t, bob4.Addr())
	alice := launch(t, withICMP, aliceOn(0, dev))
	ctx, cancel := context.WithCancel(t.Context())
	ping := background(func() error { _, err := alice.Ping(ctx, bob4.Addr(), 1); return err })
	dev.expect("echo request", isEcho)
	cancel()
	wantErr(t, "Ping", receive(t, "Ping", ping), context.Canceled, "192.0.2.2", "no answer")

	ctx, cancel = context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err := alice.Ping(ctx, bob4.Addr(), 1)
	wantErr(t, "Ping", err, context.DeadlineExceeded, "192.0.2.2")
}

// TestPingTakesOnlyItsOwnAnswer: neither that to another request nor a forged one.
func TestPingTakesOnlyItsOwnAnswer(t *testing.T) {
	dev := newStation(t, bob4.Addr())
	alice := launch(t, withICMP, aliceOn(0, dev))
	ping := background(func() error { _, err := alice.Ping(patient(t), bob4.Addr(), 32); return err })
	request := dev.expect("echo request", isEcho).bytes[34:]

	answer := slices.Clone(request)
	answer[0] = 0
	other := slices.Clone(answer)
	other[8] ^= 1 // the payload of an earlier request
	foreign := slices.Clone(answer)
	foreign[4] ^= 1 // the identifier of another ping
	for _, forged := range [][]byte{other, foreign, answer[:8], answer[:20]} {
		dev.injectBytes(echoReply(forged))
	}
	select {
	case err := <-ping:
		t.Fatalf("Ping has taken an answer that isn't its own: %v", err)
	default:
	}
	dev.injectBytes(echoReply(answer))
	must(t, receive(t, "Ping", ping))
}

func echoReply(m []byte) []byte {
	m = slices.Clone(m)
	m[2], m[3] = 0, 0
	binary.BigEndian.PutUint16(m[2:], ^uint16(sum16(0, m)))
	return ethernet(aliceMAC, bobMAC, etherIPv4, ip4(bob4.Addr(), alice4.Addr(), 1, 0, m))
}

// TestConcurrentPings: each gets its own answer.
func TestConcurrentPings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice, _ := couple(t, withICMP|withIPv6, fullOffload)
		must(t, alice.Ready(patient(t)))
		var all []<-chan error
		for n := range 50 {
			to := []netip.Addr{bob4.Addr(), bob6.Addr()}[n%2]
			all = append(all, background(func() error { _, err := alice.Ping(patient(t), to, 100+n); return err }))
		}
		for _, c := range all {
			must(t, receive(t, "Ping", c))
		}
	})
}

// TestICMPNotEnabled: no pings, and none answered, in either family, however they are
// wrapped. All are counted.
func TestICMPNotEnabled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice, _ := couple(t, withIPv6|withUDP, fullOffload)
		for _, to := range []netip.Addr{bob4.Addr(), bob6.Addr(), alice4.Addr()} {
			_, err := alice.Ping(t.Context(), to, 1)
			wantErr(t, "Ping", err, stack.ErrNotEnabled, "EnableICMP")
		}
	})
	for _, gives := range []link.Offloads{0, link.Checksum} {
		for name, frames := range echoRequests() {
			t.Run(fmt.Sprintf("%s, offloads %#x", name, gives), func(t *testing.T) {
				// The frames would be answered: without this the test proves nothing.
				if answered, _ := sendEcho(t, withICMP|withIPv6, gives, frames); !answered {
					t.Error("with ICMP enabled it isn't answered")
				}
				answered, dropped := sendEcho(t, withIPv6, gives, frames)
				if answered {
					t.Error("without ICMP enabled it is answered")
				}
				if dropped != 1 {
					t.Errorf("%d frames are counted as dropped echo requests, want 1", dropped)
				}
			})
		}
	}
}

// sendEcho sends a fresh instance the frames of one echo request, and reports whether it
// answers and how many frames it counts as dropped for being one.
func sendEcho(t *testing.T, s services, gives link.Offloads, frames [][]byte) (answered bool, dropped uint64) {
	synctest.Test(t, func(t *testing.T) {
		dev := newStation(t, bob4.Addr(), bob6.Addr(), linkLocal(bobMAC, ""))
		dev.features.Gives = gives
		alice := launch(t, s, aliceOn(s, dev))
		must(t, alice.Ready(t.Context()))
		synctest.Wait()
		dev.sent()
		dev.injectBytes(frames...)
		time.Sleep(time.Minute) // of the bubble
		synctest.Wait()
		answered = slices.ContainsFunc(dev.sent(), isEchoReply)
		dropped = alice.Stats().Links[0].DroppedEchoRequest
	})
	return answered, dropped
}

// echoRequests are echo requests of bob to alice, each as the frames that it comes in.
func echoRequests() map[string][][]byte {
	to6 := func(next byte, payload []byte) []byte {
		return ethernet(aliceMAC, bobMAC, etherIPv6, ip6(bob6.Addr(), alice6.Addr(), next, 64, payload))
	}
	echo6 := icmp6(bob6.Addr(), alice6.Addr(), []byte{128, 0, 0, 0, 0, 7, 0, 1, 'd', 'a', 't', 'a', 'd', 'a', 't', 'a'})
	echo4 := []byte{8, 0, 0, 0, 0, 7, 0, 1, 'd', 'a', 't', 'a', 'd', 'a', 't', 'a'}
	binary.BigEndian.PutUint16(echo4[2:], ^uint16(sum16(0, echo4)))
	to4 := func(fragment uint16, payload []byte) []byte {
		return ethernet(aliceMAC, bobMAC, etherIPv4, ip4(bob4.Addr(), alice4.Addr(), 1, fragment, payload))
	}
	options := func(next byte) []byte { return []byte{next, 0, 1, 4, 0, 0, 0, 0} } // one PadN
	long := func(next byte) []byte {                                               // 64 bytes of PadN
		return append([]byte{next, 7, 1, 60}, make([]byte, 60)...)
	}
	fragment := func(next byte, offset uint16, more byte) []byte {
		return []byte{next, 0, byte(offset >> 8), byte(offset) | more, 0, 0, 0, 9}
	}
	withOptions := ip4(bob4.Addr(), alice4.Addr(), 1, 0, append([]byte{1, 1, 1, 1, 1, 1, 1, 0}, echo4...))
	withOptions[0] = 0x47
	withOptions[10], withOptions[11] = 0, 0
	binary.BigEndian.PutUint16(withOptions[10:], ^uint16(sum16(0, withOptions[:28])))

	return map[string][][]byte{
		"IPv4":                            {to4(0, echo4)},
		"IPv4, padded":                    {append(to4(0, echo4), make([]byte, 10)...)},
		"IPv4, in two":                    {to4(0x2000, echo4[:8]), to4(1, echo4[8:])},
		"IPv4, in two, swapped":           {to4(1, echo4[8:]), to4(0x2000, echo4[:8])},
		"IPv4 with options":               {ethernet(aliceMAC, bobMAC, etherIPv4, withOptions)},
		"IPv6":                            {to6(58, echo6)},
		"IPv6 behind hop-by-hop options":  {to6(0, slices.Concat(options(58), echo6))},
		"IPv6 behind destination options": {to6(60, slices.Concat(options(58), echo6))},
		"IPv6 behind long options":        {to6(60, slices.Concat(long(58), echo6))},
		"IPv6 behind all":                 {to6(0, slices.Concat(options(60), options(43), []byte{60, 0, 0, 0, 0, 0, 0, 0}, options(58), echo6))},
		"IPv6 behind an experiment":       {to6(253, slices.Concat([]byte{58, 0, 0, 0, 0, 0, 0, 0}, echo6))},
		"IPv6, one fragment":              {to6(44, slices.Concat(fragment(58, 0, 0), echo6))},
		"IPv6, in two":                    {to6(44, slices.Concat(fragment(58, 0, 1), echo6[:8])), to6(44, slices.Concat(fragment(58, 8, 0), echo6[8:]))},
		"IPv6, in two, options in the first": {
			to6(44, slices.Concat(fragment(60, 0, 1), options(58), echo6[:8])),
			to6(44, slices.Concat(fragment(60, 16, 0), echo6[8:]))},
	}
}

// TestEchoBehindSplitHeaders: a request whose header comes only with the second fragment is
// not answered at all (RFC 7112 §5), so that nothing gets past the filter.
func TestEchoBehindSplitHeaders(t *testing.T) {
	echo6 := icmp6(bob6.Addr(), alice6.Addr(), []byte{128, 0, 0, 0, 0, 7, 0, 1, 'd', 'a', 't', 'a', 'd', 'a', 't', 'a'})
	packet := slices.Concat([]byte{58, 7, 1, 60}, make([]byte, 60), echo6)
	for _, trailer := range []int{0, 8} { // bytes behind the packet, which look as if they were its header
		for _, at := range []int{8, 16, 56, 64} {
			var frames [][]byte
			for _, part := range []struct {
				payload []byte
				offset  byte
				more    byte
			}{{packet[:at], 0, 1}, {packet[at:], byte(at), 0}} {
				h := []byte{60, 0, 0, part.offset | part.more, 0, 0, 0, 9}
				frames = append(frames, ethernet(aliceMAC, bobMAC, etherIPv6,
					slices.Concat(ip6(bob6.Addr(), alice6.Addr(), 44, 64, slices.Concat(h, part.payload)), make([]byte, trailer))))
			}
			for _, s := range []services{withIPv6, withIPv6 | withICMP} {
				if answered, _ := sendEcho(t, s, 0, frames); answered {
					t.Errorf("answered, with its header in the second fragment at %d, and ICMP %v", at, s&withICMP != 0)
				}
			}
		}
	}
}

// TestEchoToGroup: all nodes answer (RFC 4443 §4.2), unless ICMP is off.
func TestEchoToGroup(t *testing.T) {
	m := icmp6(bob6.Addr(), allNodes, []byte{128, 0, 0, 0, 0, 7, 0, 1})
	request := ethernet(multicastMAC(allNodes), bobMAC, etherIPv6, ip6(bob6.Addr(), allNodes, 58, 64, m))
	if answered, _ := sendEcho(t, withIPv6|withICMP, 0, [][]byte{request}); !answered {
		t.Error("not answered with ICMP enabled")
	}
	if answered, dropped := sendEcho(t, withIPv6, 0, [][]byte{request}); answered || dropped != 1 {
		t.Errorf("answered: %v, dropped %d, without ICMP enabled", answered, dropped)
	}
}
