package stack_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/duotap/duotap/stack"
	"github.com/duotap/duotap/stack/link"
	"github.com/duotap/duotap/stack/link/linktest"
)

// receiver is alice with a UDP socket on port 9 of all her addresses, and a station at
// her cable.
type receiver struct {
	t      *testing.T
	dev    *station
	alice  *stack.Instance
	socket net.PacketConn
}

func newReceiver(t *testing.T, gives link.Offloads) receiver {
	t.Helper()
	dev := newStation(t, bob4.Addr(), bob6.Addr())
	dev.features.Gives = gives
	alice := launch(t, withUDP|withIPv6|withICMP, aliceOn(withIPv6, dev))
	must(t, alice.Ready(t.Context()))
	socket, err := alice.ListenPacket("udp", ":9")
	must(t, err)
	return receiver{t, dev, alice, socket}
}

// next waits for a datagram.
func (r receiver) next() []byte {
	r.t.Helper()
	must(r.t, r.socket.SetReadDeadline(time.Now().Add(time.Second)))
	b := make([]byte, 1<<16)
	n, _, err := r.socket.ReadFrom(b)
	must(r.t, err)
	return b[:n]
}

// to4 and to6 are flows from bob to alice's socket.
func (r receiver) to4() linktest.Flow { return r.dev.flow("192.0.2.2:7", "192.0.2.1:9") }
func (r receiver) to6() linktest.Flow { return r.dev.flow("[2001:db8::2]:7", "[2001:db8::1]:9") }

// damage changes one byte of a frame; a negative offset counts from its end.
func damage(frame []byte, at int) []byte {
	b := slices.Clone(frame)
	if at < 0 {
		at += len(b)
	}
	b[at] ^= 0x55
	return b
}

// rewritten puts other bytes into an IPv4 header, and makes its checksum right again.
func rewritten(frame []byte, at int, with ...byte) []byte {
	b := slices.Clone(frame)
	copy(b[at:], with)
	b[24], b[25] = 0, 0
	binary.BigEndian.PutUint16(b[24:], ^uint16(sum16(0, b[14:34])))
	return b
}

// badFrames are frames that must not reach an application, and the counter that each
// changes: with a device that has verified nothing, gVisor sums and counts some.
var badFrames = []struct {
	name    string
	frame   func(r receiver) []byte
	counter string
	plain   string // the counter without checksum offload, if it is another
}{
	{"nothing", func(r receiver) []byte { return nil }, ".Links.DroppedMalformed", ""},
	{"one byte", func(r receiver) []byte { return []byte{2} }, ".Links.DroppedMalformed", ""},
	{"13 bytes", func(r receiver) []byte { return r.to4().UDP(nil)[:13] }, ".Links.DroppedMalformed", ""},
	{"too long", func(r receiver) []byte { return r.to4().UDP(make([]byte, 1473)) }, ".Links.DroppedMalformed", ""},
	{"IPv6, too long", func(r receiver) []byte { return r.to6().UDP(make([]byte, 1453)) }, ".Links.DroppedMalformed", ""},
	{"to somebody else", func(r receiver) []byte { return damage(r.to4().UDP([]byte("bad")), 5) }, ".Links.DroppedForeign", ""},
	{"IPv6 to somebody else", func(r receiver) []byte { return damage(r.to6().UDP([]byte("bad")), 5) }, ".Links.DroppedForeign", ""},
	{"unknown protocol", func(r receiver) []byte { return ethernet(aliceMAC, bobMAC, 0x88b5, make([]byte, 50)) }, ".Links.DroppedUnknownProtocol", ""},
	{"VLAN tag", func(r receiver) []byte {
		b := r.to4().UDP([]byte("bad"))
		return slices.Concat(b[:12], []byte{0x81, 0, 0, 1}, b[12:])
	}, ".Links.DroppedUnknownProtocol", ""},
	{"802.3 length", func(r receiver) []byte { return ethernet(broadcastMAC, bobMAC, 60, make([]byte, 60)) }, ".Links.DroppedUnknownProtocol", ""},

	{"IPv4, no header", func(r receiver) []byte { return r.to4().UDP(nil)[:14] }, ".Links.DroppedMalformed", ""},
	{"IPv4, half a header", func(r receiver) []byte { return r.to4().UDP(nil)[:33] }, ".Links.DroppedMalformed", ""},
	{"IPv4, header of 16 bytes", func(r receiver) []byte { return rewritten(r.to4().UDP([]byte("bad")), 14, 0x44) }, ".Links.DroppedMalformed", ""},
	{"IPv4, header longer than the frame", func(r receiver) []byte { return rewritten(r.to4().UDP(nil), 14, 0x4f) }, ".Links.DroppedMalformed", ""},
	{"IPv4, packet longer than the frame", func(r receiver) []byte { return rewritten(r.to4().UDP([]byte("bad")), 16, 1, 0) },
		".Links.DroppedChecksum", ".IP.InvalidPackets"},
	{"IPv4, packet shorter than its header", func(r receiver) []byte { return rewritten(r.to4().UDP([]byte("bad")), 16, 0, 19) },
		".Links.DroppedChecksum", ".IP.InvalidPackets"},
	{"IPv4, version 6", func(r receiver) []byte { return rewritten(r.to4().UDP([]byte("bad")), 14, 0x65) }, ".Links.DroppedChecksum", ".IP.InvalidPackets"},
	{"IPv4, wrong header checksum", func(r receiver) []byte { return damage(r.to4().UDP([]byte("bad")), 24) }, ".Links.DroppedChecksum", ".IP.InvalidPackets"},
	{"IPv4, wrong UDP checksum", func(r receiver) []byte { return damage(r.to4().UDP([]byte("bad")), -1) }, ".Links.DroppedChecksum", ".UDP.ChecksumErrors"},
	{"IPv4, UDP shorter than its header", func(r receiver) []byte { return damage(r.to4().UDP([]byte("bad")), 39) },
		".Links.DroppedChecksum", ".UDP.Malformed"},
	{"IPv4, from a group", func(r receiver) []byte { return r.dev.flow("224.0.0.1:7", "192.0.2.1:9").UDP([]byte("bad")) }, ".IP.InvalidPackets", ""},
	{"IPv4, from ourselves", func(r receiver) []byte { return r.dev.flow("192.0.2.1:7", "192.0.2.1:9").UDP([]byte("bad")) }, ".IP.InvalidPackets", ""},
	{"IPv4, from loopback", func(r receiver) []byte { return r.dev.flow("127.0.0.1:7", "192.0.2.1:9").UDP([]byte("bad")) }, ".IP.InvalidPackets", ""},
	{"IPv4, to loopback", func(r receiver) []byte { return r.dev.flow("192.0.2.2:7", "127.0.0.1:9").UDP([]byte("bad")) }, ".IP.ReceiveDropped", ""},
	{"IPv4, to another host", func(r receiver) []byte { return r.dev.flow("192.0.2.2:7", "192.0.2.77:9").UDP([]byte("bad")) }, ".IP.ReceiveDropped", ""},

	{"IPv6, no header", func(r receiver) []byte { return r.to6().UDP(nil)[:14] }, ".Links.DroppedMalformed", ""},
	{"IPv6, half a header", func(r receiver) []byte { return r.to6().UDP(nil)[:53] }, ".Links.DroppedMalformed", ""},
	{"IPv6, packet longer than the frame", func(r receiver) []byte {
		b := r.to6().UDP([]byte("bad"))
		b[18] = 1
		return b
	}, ".Links.DroppedChecksum", ".IP.InvalidPackets"},
	{"IPv6, wrong UDP checksum", func(r receiver) []byte { return damage(r.to6().UDP([]byte("bad")), -1) }, ".Links.DroppedChecksum", ".UDP.ChecksumErrors"},
	{"IPv6, no UDP checksum", func(r receiver) []byte {
		b := r.to6().UDP([]byte("bad"))
		b[60], b[61] = 0, 0
		return b
	}, ".Links.DroppedChecksum", ".UDP.ChecksumErrors"},
	{"IPv6, extension header cut short", func(r receiver) []byte {
		return ethernet(aliceMAC, bobMAC, etherIPv6, ip6(bob6.Addr(), alice6.Addr(), 60, 64, []byte{17, 0, 1, 4}))
	}, ".Links.DroppedChecksum", ".Links.DroppedMalformed"},
	{"IPv6, extension header beyond the packet", func(r receiver) []byte {
		return ethernet(aliceMAC, bobMAC, etherIPv6, ip6(bob6.Addr(), alice6.Addr(), 60, 64, []byte{17, 9, 1, 4, 0, 0, 0, 0}))
	}, ".Links.DroppedChecksum", ".Links.DroppedMalformed"},
	{"IPv6, nothing but extension headers", func(r receiver) []byte {
		return ethernet(aliceMAC, bobMAC, etherIPv6, ip6(bob6.Addr(), alice6.Addr(), 60, 64, bytes.Repeat([]byte{60, 0, 1, 4, 0, 0, 0, 0}, 100)))
	}, ".Links.DroppedChecksum", ".Links.DroppedMalformed"},
	{"IPv6, from loopback", func(r receiver) []byte { return r.dev.flow("[::1]:7", "[2001:db8::1]:9").UDP([]byte("bad")) }, ".IP.InvalidPackets", ""},
	{"IPv6, to another host", func(r receiver) []byte { return r.dev.flow("[2001:db8::2]:7", "[2001:db8::77]:9").UDP([]byte("bad")) }, ".IP.ReceiveDropped", ""},
}

// TestBadFrames: each is dropped, and counted once for its reason. What comes after it
// arrives.
func TestBadFrames(t *testing.T) {
	for _, gives := range []link.Offloads{0, link.Checksum, fullOffload.Offloads} {
		t.Run(fmt.Sprintf("offloads %#x", gives), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newReceiver(t, gives)
				for _, bad := range badFrames {
					synctest.Wait()
					before := r.alice.Stats()
					r.dev.injectBytes(bad.frame(r))
					counter := bad.counter
					if gives == 0 && bad.plain != "" {
						counter = bad.plain
					}
					synctest.Wait()
					if got := difference(before, r.alice.Stats()); got[counter] != 1 {
						t.Errorf("%s: %s doesn't change by 1: %v", bad.name, counter, got)
					}
					for _, flow := range []linktest.Flow{r.to4(), r.to6()} {
						r.dev.injectBytes(flow.UDP([]byte("good")))
						if got := r.next(); string(got) != "good" {
							t.Errorf("%s: %q has arrived", bad.name, got)
						}
					}
					if n := r.alice.Stats().Links[0].FramesReceived; n == before.Links[0].FramesReceived {
						t.Errorf("%s: it isn't counted as received", bad.name)
					}
				}
			})
		})
	}
}

// TestOddFrames are unusual, and as good as any.
func TestOddFrames(t *testing.T) {
	noChecksum := func(r receiver) []byte {
		b := r.to4().UDP([]byte("good"))
		b[40], b[41] = 0, 0
		return b
	}
	for name, frame := range map[string]func(r receiver) []byte{
		"padded":                 func(r receiver) []byte { return append(r.to4().UDP([]byte("good")), make([]byte, 14)...) },
		"padded with garbage":    func(r receiver) []byte { return append(r.to6().UDP([]byte("good")), "garbage"...) },
		"without a UDP checksum": noChecksum,
		"to all hosts":           func(r receiver) []byte { return append(slices.Clone(broadcastMAC), broadcastUDP(r)[6:]...) },
		"behind options":         behindOptions,
		"to a group's MAC": func(r receiver) []byte {
			return append([]byte{1, 0, 0x5e, 0, 0, 1}, r.to4().UDP([]byte("good"))[6:]...)
		},
		"to a link-local address": func(r receiver) []byte { return r.dev.flow("[fe80::2]:7", "[fe80::ff:fe00:a]:9").UDP([]byte("good")) },
	} {
		for _, gives := range []link.Offloads{0, link.Checksum} {
			t.Run(fmt.Sprintf("%s, offloads %#x", name, gives), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := newReceiver(t, gives)
					r.dev.injectBytes(frame(r))
					if got := r.next(); string(got) != "good" {
						t.Errorf("%q has arrived", got)
					}
				})
			})
		}
	}
}

func broadcastUDP(r receiver) []byte {
	return r.dev.flow("192.0.2.2:7", "192.0.2.255:9").UDP([]byte("good"))
}

func behindOptions(r receiver) []byte {
	udp := r.to6().UDP([]byte("good"))[54:]
	return ethernet(aliceMAC, bobMAC, etherIPv6, ip6(bob6.Addr(), alice6.Addr(), 60, 64, append([]byte{17, 0, 1, 4, 0, 0, 0, 0}, udp...)))
}

// TestPartialChecksum: a device that gives offloads hands over frames of its own host
// without a complete checksum, and others that it has verified; those it hasn't looked at
// are summed.
func TestPartialChecksum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiver(t, link.Checksum)
		for _, flow := range []linktest.Flow{r.to4(), r.to6()} {
			wrong := damage(flow.UDP([]byte("good")), -5) // its checksum
			for name, f := range map[string]link.Frame{
				"partial":  flow.Partial(flow.UDP([]byte("good"))),
				"verified": {Data: [][]byte{wrong}, Offload: link.Offload{ChecksumValid: true}},
				"neither":  {Data: [][]byte{flow.UDP([]byte("good"))}},
			} {
				r.dev.inject(f)
				if got := r.next(); string(got) != "good" {
					t.Errorf("%s: %q has arrived", name, got)
				}
			}
			header := damage(r.to4().UDP([]byte("bad")), 24)
			for _, o := range []link.Offload{{ChecksumValid: true}, {NeedsChecksum: true, ChecksumStart: 34, ChecksumOffset: 6}} {
				before := r.alice.Stats().Links[0].DroppedChecksum
				r.dev.inject(link.Frame{Data: [][]byte{header}, Offload: o})
				if n := r.alice.Stats().Links[0].DroppedChecksum - before; n != 1 {
					t.Errorf("IPv4 header with a wrong checksum: %d dropped, offload %+v", n, o)
				}
			}
		}
	})
	synctest.Test(t, func(t *testing.T) { // a device that promised complete checksums
		r := newReceiver(t, 0)
		f := r.to4().Partial(r.to4().UDP([]byte("bad")))
		r.dev.inject(f)
		r.dev.injectBytes(r.to4().UDP([]byte("good")))
		if got := r.next(); string(got) != "good" {
			t.Errorf("%q has arrived", got)
		}
	})
}

// TestTCPChecksum: a SYN with a wrong one isn't answered.
func TestTCPChecksum(t *testing.T) {
	for _, gives := range []link.Offloads{0, link.Checksum} {
		dev := newStation(t, bob4.Addr())
		dev.features.Gives = gives
		alice := launch(t, withTCP, aliceOn(0, dev))
		_, err := alice.Listen("tcp", ":80")
		must(t, err)
		dev.injectBytes(damage(dev.flow("192.0.2.2:1000", "192.0.2.1:80").TCP(1, linktest.SYN, nil), 40)) // its sequence number
		dev.injectBytes(dev.flow("192.0.2.2:2000", "192.0.2.1:80").TCP(1, linktest.SYN, nil))
		answer := dev.expect("SYN, ACK", isTCP(linktest.SYN|linktest.ACK)).bytes
		if port := binary.BigEndian.Uint16(answer[36:]); port != 2000 {
			t.Errorf("offloads %#x: the answer goes to port %d", gives, port)
		}
		s := alice.Stats()
		if n := s.TCP.ChecksumErrors + s.Links[0].DroppedChecksum; n != 1 {
			t.Errorf("offloads %#x: %d checksum errors are counted", gives, n)
		}
	}
}

// TestUDPSuperFrame: the application gets the datagrams one by one.
func TestUDPSuperFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiver(t, fullOffload.Offloads)
		payload := make([]byte, 60000)
		for k := range payload {
			payload[k] = byte(k * 7 / 3)
		}
		for _, flow := range []linktest.Flow{r.to4(), r.to6()} {
			for _, size := range []int{1, 100, 1000, 1452} {
				n := min(len(payload), 300*size)
				r.dev.inject(flow.Super(flow.UDP(payload[:n-size/2]), size))
				for want := range slices.Chunk(payload[:n-size/2], size) {
					if got := r.next(); !bytes.Equal(got, want) {
						t.Fatalf("segments of %d: a datagram of %d bytes has arrived, want one of %d", size, len(got), len(want))
					}
				}
			}
		}
	})
}

// TestBadSuperFrames: offload fields that contradict the bytes, or that the device doesn't
// give.
func TestBadSuperFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiver(t, fullOffload.Offloads)
		plain := newReceiver(t, link.Checksum)
		spoil := map[string]func(f *link.Frame){
			"no segment size":       func(f *link.Frame) { f.Offload.SegmentSize = 0 },
			"segments over the MTU": func(f *link.Frame) { f.Offload.SegmentSize = 1473 },
			"wrong kind":            func(f *link.Frame) { f.Offload.Segment = link.SegmentTCP4 },
			"unknown kind":          func(f *link.Frame) { f.Offload.Segment = 200 },
			"headers too long":      func(f *link.Frame) { f.Offload.HeaderLen = 65535 },
			"headers too short":     func(f *link.Frame) { f.Offload.HeaderLen = 14 },
			"checksum elsewhere":    func(f *link.Frame) { f.Offload.ChecksumStart = 20 },
			"checksum beyond":       func(f *link.Frame) { f.Offload.ChecksumStart, f.Offload.ChecksumOffset = 65535, 65535 },
			"checksum complete":     func(f *link.Frame) { f.Offload.NeedsChecksum = false },
			"cut short":             func(f *link.Frame) { f.Data[0] = f.Data[0][:2000] },
			"headers only":          func(f *link.Frame) { f.Data[0] = f.Data[0][:42] },
			"nothing":               func(f *link.Frame) { f.Data = nil },
			"not IP":                func(f *link.Frame) { f.Data[0][12] = 0x88 },
		}
		for name, do := range spoil {
			before := r.alice.Stats().Links[0].DroppedMalformed
			f := r.to4().Super(r.to4().UDP(make([]byte, 5000)), 1000)
			do(&f)
			r.dev.inject(f)
			if n := r.alice.Stats().Links[0].DroppedMalformed - before; n != 1 {
				t.Errorf("%s: counted %d times as malformed", name, n)
			}
		}
		before := plain.alice.Stats().Links[0].DroppedMalformed
		plain.dev.inject(plain.to4().Super(plain.to4().UDP(make([]byte, 5000)), 1000))
		if n := plain.alice.Stats().Links[0].DroppedMalformed - before; n != 1 {
			t.Errorf("from a device that gives none: counted %d times as malformed", n)
		}
		for _, one := range []receiver{r, plain} {
			one.dev.injectBytes(one.to4().UDP([]byte("good")))
			if got := one.next(); string(got) != "good" {
				t.Errorf("%d bytes have arrived", len(got))
			}
		}
	})
}

// TestErrorFlood: ICMP errors that come faster than they can be handled are dropped and
// counted, and all else goes on.
func TestErrorFlood(t *testing.T) {
	dev := newStation(t, bob4.Addr())
	alice := launch(t, withAll&^withIPv6, aliceOn(0, dev))
	quoted := dev.flow("192.0.2.1:1000", "192.0.2.2:2000").TCP(1, linktest.ACK, nil)[14:42]
	m := slices.Concat([]byte{3, 1, 0, 0, 0, 0, 0, 0}, quoted)
	binary.BigEndian.PutUint16(m[2:], ^uint16(sum16(0, m)))
	flood := make([]link.Frame, 10000)
	for k := range flood {
		flood[k] = link.Frame{Data: [][]byte{ethernet(aliceMAC, bobMAC, etherIPv4, ip4(bob4.Addr(), alice4.Addr(), 1, 0, m))}}
	}
	dev.inject(flood...)
	eventually(t, "all errors handled", func() bool {
		s := alice.Stats()
		return s.ICMP.UnreachableReceived+s.Links[0].DroppedOverflow == uint64(len(flood))
	})
	dev.injectBytes(dev.flow("192.0.2.2:1", "192.0.2.1:1").Echo(nil))
	dev.expect("the answer to a ping", isEchoReply)
}
