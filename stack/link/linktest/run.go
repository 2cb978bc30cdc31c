package linktest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/duotap/duotap/stack/link"
)

// Run holds devices to the contract of link.Device. join opens two new devices, a
// and b, that are joined by a wire: what one sends the other receives. Run calls it for each
// of its tests and closes the devices, which join may do too. The MTU has to be 1280
// or more, and the wire has to hold 128 frames.
func Run(t *testing.T, join func(t *testing.T) (a, b link.Device)) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, func(*testing.T) (a, b link.Device))
	}{
		{"Properties", testProperties},
		{"BothWays", testBothWays},
		{"Lengths", testLengths},
		{"Pieces", testPieces},
		{"Order", testOrder},
		{"SmallPieceRing", testSmallPieceRing},
		{"SmallSlots", testSmallSlots},
		{"BadRing", testBadRing},
		{"BadFrames", testBadFrames},
		{"Borrowed", testBorrowed},
		{"Offloads", testOffloads},
		{"OffloadsNotTaken", testOffloadsNotTaken},
		{"ConcurrentSend", testConcurrentSend},
		{"SendFromDeliver", testSendFromDeliver},
		{"Close", testClose},
		{"CloseFromDeliver", testCloseFromDeliver},
		{"CloseWhileSending", testCloseWhileSending},
		{"PeerClosed", testPeerClosed},
		{"SecondReceive", testSecondReceive},
		{"Watch", testWatch},
		{"NoGoroutineLeft", testNoGoroutineLeft},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, join) })
	}
}

type joiner = func(*testing.T) (a, b link.Device)

const segmentations = link.TSO4 | link.TSO6 | link.USO4 | link.USO6

func testProperties(t *testing.T, join joiner) {
	a, b := wire(t, join)
	for _, s := range []*station{a, b} {
		if s.dev.MTU() < 1280 {
			t.Errorf("%s: MTU is %d, and the suite needs 1280", s.name, s.dev.MTU())
		}
		f := s.dev.Features()
		for name, set := range map[string]link.Offloads{"takes": f.Takes, "gives": f.Gives} {
			if set&segmentations != 0 && !set.Has(link.Checksum) {
				t.Errorf("%s %s segmentation without checksums: %#x", s.name, name, set)
			}
		}
	}
}

func testBothWays(t *testing.T, join joiner) {
	a, b := run(t, join)
	a.sendBytes(a.numbered(1, 60), a.numbered(2, 61))
	b.expect(a.numbered(1, 60), a.numbered(2, 61))
	b.sendBytes(b.numbered(3, 200))
	a.expect(b.numbered(3, 200))
	if n, err := a.dev.Send(nil); n != 0 || err != nil {
		t.Errorf("Send of nothing: %d, %v", n, err)
	}
}

func testLengths(t *testing.T, join joiner) {
	a, b := run(t, join)
	longest := a.dev.MTU() + link.EthernetHeaderLen
	for _, n := range []int{link.EthernetHeaderLen, 15, 59, 60, 61, 1000, longest - 1, longest} {
		a.sendBytes(a.numbered(n, n))
		b.expect(a.numbered(n, n))
	}
}

func testPieces(t *testing.T, join joiner) {
	a, b := run(t, join)
	want := a.numbered(5, 1200)
	for _, size := range []int{1, 2, 7, 13, 14, 15, 600, 1199, 1200} {
		a.send(link.Frame{Data: Scatter(want, size)}, link.Frame{Data: append(Scatter(want, size), nil)})
		b.expect(want, want)
	}
}

// testOrder sends batches of all sizes, and waits for each, so that no queue
// overflows.
func testOrder(t *testing.T, join joiner) {
	a, b := run(t, join)
	number := 0
	for size := 1; size <= 128; size += size/2 + 1 {
		var batch [][]byte
		for range size {
			number++
			batch = append(batch, a.numbered(number, 40+number))
		}
		a.sendBytes(batch...)
		b.expect(batch...)
	}
}

// testSmallPieceRing: a ring from a pool of small packets.
func testSmallPieceRing(t *testing.T, join joiner) {
	for _, piece := range []int{94, 1514} {
		a, b := wire(t, join)
		a.start(Ring(a.dev, 1, piece), nil)
		b.start(Ring(b.dev, 3, piece), nil)
		awaitUp(a, b)
		var frames [][]byte
		for i := range 20 {
			frames = append(frames, a.numbered(i, 60+i*60))
		}
		a.sendBytes(frames...)
		b.expect(frames...)
		if flow := testFlow(a, 4); a.dev.Features().Takes.Has(link.TSO4) {
			payload := bytes.Repeat([]byte("0123456789abcdef"), 4000)
			a.send(flow.Super(flow.TCP(1, ACK, payload), 1000))
			b.expectSegments(cut(payload, 1000, func(off int, b []byte) []byte { return flow.TCP(1+uint32(off), ACK, b) }))
		}
		a.dev.Close()
		b.dev.Close()
	}
}

// testSmallSlots: with a ring for plain frames, a device gives no others.
func testSmallSlots(t *testing.T, join joiner) {
	a, b := wire(t, join)
	if b.dev.Features().Lends {
		t.Skip("the device needs no ring")
	}
	b.gives = b.dev.Features().Gives & link.Checksum
	a.start(Ring(a.dev, 4, 1<<16), nil)
	b.start(makeRing(4, link.FrameSize(b.dev.MTU(), 0), 700), nil)
	awaitUp(a, b)
	payload := bytes.Repeat([]byte("0123456789abcdef"), 1000)
	flow := testFlow(a, 6)
	tcp := func(off int, b []byte) []byte { return flow.TCP(1+uint32(off), ACK, b) }
	if a.dev.Features().Takes.Has(link.TSO6) {
		a.send(flow.Super(tcp(0, payload), 1000))
	} else {
		a.sendBytes(cut(payload, 1000, tcp)...)
	}
	b.expectSegments(cut(payload, 1000, tcp))
}

// testBadRing: a device that needs a ring says so, if it isn't given one.
func testBadRing(t *testing.T, join joiner) {
	for name, ring := range map[string]link.Ring{
		"none": nil, "empty slot": {{}}, "small slot": makeRing(1, 1000, 1000),
	} {
		_, b := wire(t, join)
		if b.dev.Features().Lends {
			t.Skip("the device needs no ring")
		}
		within(t, "Receive with a bad ring", func() {
			if err := b.dev.Receive(ring, func([]link.Frame) {}); err == nil || errors.Is(err, net.ErrClosed) {
				t.Errorf("%s: %v, want an error about the ring", name, err)
			}
		})
	}
}

func testBadFrames(t *testing.T, join joiner) {
	a, b := run(t, join)
	good := a.numbered(1, 100)
	longest := a.dev.MTU() + link.EthernetHeaderLen
	for name, bad := range map[string]link.Frame{
		"empty":     {},
		"13 bytes":  plain(good[:13])[0],
		"too long":  plain(a.numbered(2, longest+1))[0],
		"far too":   plain(a.numbered(2, 1<<17))[0],
		"scattered": {Data: [][]byte{good[:5], nil, good[5:13]}},
		"hostile":   {Data: [][]byte{good}, Offload: link.Offload{Segment: 77, SegmentSize: 1, HeaderLen: 65535, ChecksumStart: 65535}},
	} {
		n, err := a.dev.Send([]link.Frame{plain(good)[0], plain(good)[0], bad, plain(good)[0]})
		if n != 2 || !errors.Is(err, link.ErrFrame) {
			t.Errorf("%s: Send took %d frames, %v; want 2, ErrFrame", name, n, err)
		}
		a.sendBytes(a.numbered(9, 90)) // the device is none the worse for it
		b.expect(good, good, a.numbered(9, 90))
	}
}

// testBorrowed: what the sender does with its memory afterwards doesn't matter.
func testBorrowed(t *testing.T, join joiner) {
	a, b := run(t, join)
	var want [][]byte
	memory := make([]byte, 500)
	for i := range 50 {
		want = append(want, a.numbered(i, 500))
		copy(memory, want[i])
		frame := link.Frame{Data: [][]byte{memory[:100], memory[100:]}}
		a.send(frame)
		clear(memory)
		frame.Data[0], frame.Data[1] = nil, nil
	}
	b.expect(want...)
}

// testFlow is a flow from s to its peer, over IP version 4 or 6.
func testFlow(s *station, version int) Flow {
	flow := Flow{SrcMAC: s.mac, DstMAC: s.peer}
	if version == 4 {
		flow.Src, flow.Dst = netip.MustParseAddrPort("192.0.2.1:40000"), netip.MustParseAddrPort("192.0.2.2:9")
	} else {
		flow.Src, flow.Dst = netip.MustParseAddrPort("[2001:db8::1]:40000"), netip.MustParseAddrPort("[2001:db8::2]:9")
	}
	return flow
}

// cut makes frames of pieces of payload, with f, which is told their offsets.
func cut(payload []byte, size int, f func(off int, piece []byte) []byte) (frames [][]byte) {
	for b := range slices.Chunk(payload, size) {
		frames = append(frames, withoutID(f(len(frames)*size, b)))
	}
	return frames
}

// withoutID blanks the identification and header checksum of an IPv4 packet. Whoever
// cuts a super-frame may number the pieces as it likes (RFC 6864).
func withoutID(b []byte) []byte {
	b = slices.Clone(b)
	if b[12] == 0x08 && b[13] == 0x00 {
		clear(b[18:20])
		clear(b[24:26])
	}
	return b
}

// expectSegments waits for frames that amount to these plain ones: as such, with a
// partial checksum, or as super-frames.
func (s *station) expectSegments(want [][]byte) {
	s.t.Helper()
	var got [][]byte
	var scratch link.Scratch
	for len(got) < len(want) {
		a := s.next()
		f := a.frame()
		if err := f.Check(s.dev.MTU(), s.gives); err != nil {
			s.t.Fatalf("%s was given a frame that its Features exclude: %v: %+v\n%s", s.name, err, f.Offload, brief(a.bytes))
		}
		err := link.Split(&f, &scratch, func(p link.Frame) error {
			if !link.VerifyChecksum(&p) {
				s.t.Errorf("%s: a wrong checksum in\n%s", s.name, brief(Bytes(&p)))
			}
			got = append(got, withoutID(Bytes(&p)))
			return nil
		})
		if err != nil {
			s.t.Fatal(err)
		}
	}
	if len(got) != len(want) {
		s.t.Fatalf("%s: %d segments, want %d", s.name, len(got), len(want))
	}
	for i := range want {
		if !bytes.Equal(got[i], want[i]) {
			s.t.Fatalf("%s: segment %d is\n%s, want\n%s", s.name, i, brief(got[i]), brief(want[i]))
		}
	}
}

// testOffloads sends what the device takes. It may arrive in any form, the bytes
// being equal.
func testOffloads(t *testing.T, join joiner) {
	a, b := run(t, join)
	takes := a.dev.Features().Takes
	payload := bytes.Repeat([]byte("All work and no play. "), 1000)
	for version, need := range map[int][2]link.Offloads{4: {link.TSO4, link.USO4}, 6: {link.TSO6, link.USO6}} {
		flow := testFlow(a, version)
		tcp := func(off int, b []byte) []byte { return flow.TCP(1+uint32(off), ACK, b) }
		udp := func(_ int, b []byte) []byte { return flow.UDP(b) }
		if takes.Has(link.Checksum) {
			a.send(flow.Partial(tcp(0, payload[:100])), flow.Partial(udp(0, payload[:101])))
			b.expectSegments(append(cut(payload[:100], 100, tcp), cut(payload[:101], 101, udp)...))
		}
		for _, size := range []int{536, 1000, 1200} {
			if takes.Has(need[0]) {
				a.send(flow.Super(tcp(0, payload), size))
				b.expectSegments(cut(payload, size, tcp))
			}
			if takes.Has(need[1]) {
				a.send(flow.Super(udp(0, payload), size))
				b.expectSegments(cut(payload, size, udp))
			}
		}
		a.sendBytes(tcp(0, payload[:1000]), flow.Echo(payload[:10]))
		b.expectSegments(append(cut(payload[:1000], 1000, tcp), withoutID(flow.Echo(payload[:10]))))
	}
}

func testOffloadsNotTaken(t *testing.T, join joiner) {
	a, b := run(t, join)
	payload := make([]byte, 3000)
	for version, need := range map[int][2]link.Offloads{4: {link.TSO4, link.USO4}, 6: {link.TSO6, link.USO6}} {
		flow := testFlow(a, version)
		for _, c := range []struct {
			need  link.Offloads
			frame link.Frame
		}{
			{link.Checksum, flow.Partial(flow.UDP(nil))},
			{need[0], flow.Super(flow.TCP(1, ACK, payload), 1000)},
			{need[1], flow.Super(flow.UDP(payload), 1000)},
		} {
			if a.dev.Features().Takes.Has(c.need) {
				continue
			}
			if n, err := a.dev.Send([]link.Frame{c.frame}); n != 0 || !errors.Is(err, link.ErrFrame) {
				t.Errorf("IPv%d, offload %#x: Send took %d, %v; want ErrFrame, for Features say so", version, c.need, n, err)
			}
		}
	}
	a.sendBytes(a.numbered(1, 60))
	b.expect(a.numbered(1, 60))
}

// testConcurrentSend: the frames of each sender stay in order.
func testConcurrentSend(t *testing.T, join joiner) {
	const senders, each = 4, 25
	a, b := run(t, join)
	var wg sync.WaitGroup
	for s := range senders {
		wg.Go(func() {
			for i := range each {
				frame := a.numbered(s*each+i, 300)
				if n, err := a.dev.Send(plain(frame)); n != 1 || err != nil {
					t.Errorf("Send: %d, %v", n, err)
				}
			}
		})
	}
	wg.Wait()
	var next [senders]int
	for range senders * each {
		got := b.next()
		s := int(got.bytes[21]) / each
		if s >= senders || !bytes.Equal(got.bytes, a.numbered(s*each+next[s], 300)) {
			t.Fatalf("out of order, or not as sent: %s", brief(got.bytes))
		}
		next[s]++
	}
}

// testSendFromDeliver: b answers from within deliver, as a stack does.
func testSendFromDeliver(t *testing.T, join joiner) {
	a, b := wire(t, join)
	a.start(Ring(a.dev, 4, 1<<16), nil)
	b.start(Ring(b.dev, 4, 1<<16), func(got *arrival) {
		if len(got.bytes) == 100 {
			b.dev.Send(plain(b.numbered(int(got.bytes[21]), 200)))
		}
	})
	awaitUp(a, b)
	for i := range 50 {
		within(t, "Send, with an answer from within deliver", func() { a.dev.Send(plain(a.numbered(i, 100))) })
		a.expect(b.numbered(i, 200))
	}
}

func testClose(t *testing.T, join joiner) {
	a, _ := run(t, join)
	within(t, "Close", func() {
		if err := a.dev.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	if err := a.expectEnd(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Receive returned %v, want net.ErrClosed", err)
	}
	if n, err := a.dev.Send(plain(a.numbered(1, 60))); n != 0 || !errors.Is(err, net.ErrClosed) {
		t.Errorf("Send after Close: %d, %v; want net.ErrClosed", n, err)
	}
	if err := a.dev.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("second Close: %v, want net.ErrClosed", err)
	}
	b, _ := wire(t, join)
	b.dev.Close()
	if err := b.dev.Receive(Ring(b.dev, 1, 1<<16), func([]link.Frame) {}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Receive after Close: %v, want net.ErrClosed", err)
	}
}

func testCloseFromDeliver(t *testing.T, join joiner) {
	a, b := wire(t, join)
	a.start(Ring(a.dev, 4, 1<<16), nil)
	b.start(Ring(b.dev, 4, 1<<16), func(got *arrival) {
		if len(got.bytes) == 100 {
			b.dev.Close()
		}
	})
	awaitUp(a, b)
	a.sendBytes(a.numbered(1, 100))
	if err := b.expectEnd(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Receive returned %v, want net.ErrClosed", err)
	}
}

// testCloseWhileSending: senders that go on until they are told to stop.
func testCloseWhileSending(t *testing.T, join joiner) {
	a, b := wire(t, join)
	received := make(chan struct{}, 1)
	a.start(Ring(a.dev, 4, 1<<16), nil)
	go func() {
		b.ended <- b.dev.Receive(Ring(b.dev, 4, 1<<16), func([]link.Frame) {
			select {
			case received <- struct{}{}:
			default:
			}
		})
	}()
	var wg sync.WaitGroup
	for s := range 3 {
		wg.Go(func() {
			for frame := plain(a.numbered(s, 100)); ; {
				_, err := a.dev.Send(frame)
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err != nil && !errors.Is(err, link.ErrDown) {
					t.Errorf("Send: %v", err)
					return
				}
			}
		})
	}
	within(t, "the first frame", func() { <-received })
	a.dev.Close()
	within(t, "Send after Close", wg.Wait)
	a.expectEnd()
}

// testPeerClosed: with the other end gone, the link is down or swallows frames, and
// the device itself still closes.
func testPeerClosed(t *testing.T, join joiner) {
	a, b := run(t, join)
	b.dev.Close()
	b.expectEnd()
	within(t, "Send without a peer", func() {
		if _, err := a.dev.Send(plain(a.numbered(1, 60))); err != nil && !errors.Is(err, link.ErrDown) {
			t.Errorf("Send without a peer: %v; want success or ErrDown", err)
		}
	})
	if err := a.dev.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	a.expectEnd()
}

func testSecondReceive(t *testing.T, join joiner) {
	a, b := run(t, join)
	within(t, "a second Receive", func() {
		if err := b.dev.Receive(Ring(b.dev, 1, 1<<16), func([]link.Frame) {}); err == nil {
			t.Error("a second Receive returned nil")
		}
	})
	a.sendBytes(a.numbered(1, 60)) // the first is none the worse for it
	b.expect(a.numbered(1, 60))
}

func testWatch(t *testing.T, join joiner) {
	a, _ := run(t, join)
	for i := range 2 {
		told := make(chan bool, 100)
		a.dev.Watch(func(up bool) { told <- up })
		within(t, fmt.Sprintf("watcher %d", i+1), func() {
			for !<-told { // up in the end
			}
		})
	}
	a.dev.Watch(nil)
	a.dev.Close()
	a.dev.Watch(func(bool) { t.Error("told after Close") })
}

func testNoGoroutineLeft(t *testing.T, join joiner) {
	before := countGoroutines()
	t.Run("open", func(t *testing.T) {
		a, b := run(t, join)
		a.sendBytes(a.numbered(1, 60))
		b.expect(a.numbered(1, 60))
		for _, s := range []*station{a, b} {
			s.dev.Watch(func(bool) {})
			s.dev.Close()
			s.expectEnd()
		}
	})
	before.check(t)
}
