package linktest

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	"github.com/duotap/duotap/stack/link"
)

// patience is how long the suite waits for what has to happen at once. It ends on
// failure only.
var patience = 10 * time.Second

// testEtherType is for experiments within one site (IEEE 802, table 9-1), so that
// no host answers.
const testEtherType = 0x88b5

// Addresses of the two devices. A real link may carry frames of others too, and the
// suite looks at those from these alone.
var (
	macA = [6]byte{0x02, 'l', 't', 0, 0, 0xa}
	macB = [6]byte{0x02, 'l', 't', 0, 0, 0xb}
)

// arrival is a copy of a frame that came in.
type arrival struct {
	bytes   []byte
	offload link.Offload
}

func (a *arrival) frame() link.Frame {
	return link.Frame{Data: [][]byte{a.bytes}, Offload: a.offload}
}

// station is a device with its receiving side running.
type station struct {
	t        *testing.T
	name     string
	dev      link.Device
	mac      [6]byte
	peer     [6]byte
	gives    link.Offloads // what it may deliver
	arrivals chan arrival
	ended    chan error // what Receive returned
}

// Ring makes a ring for dev: slots of the size it needs, in pieces of that many
// bytes. It is nil for a device that needs none.
func Ring(dev link.Device, slots, piece int) link.Ring {
	f := dev.Features()
	if f.Lends {
		return nil
	}
	return makeRing(slots, link.FrameSize(dev.MTU(), f.Gives), piece)
}

func makeRing(slots, size, piece int) link.Ring {
	ring := make(link.Ring, slots)
	for i := range ring {
		ring[i] = Scatter(make([]byte, size), piece)
	}
	return ring
}

// start runs the receiving side of s. react, if any, is called for each arrival,
// within deliver.
func (s *station) start(ring link.Ring, react func(*arrival)) {
	go func() {
		s.ended <- s.dev.Receive(ring, func(frames []link.Frame) {
			for i := range frames {
				s.arrive(&frames[i], react)
			}
		})
	}()
}

func (s *station) arrive(f *link.Frame, react func(*arrival)) {
	a := arrival{Bytes(f), f.Offload}
	if len(a.bytes) < link.EthernetHeaderLen || !bytes.Equal(a.bytes[6:12], s.peer[:]) {
		return
	}
	if react != nil {
		react(&a)
	}
	select {
	case s.arrivals <- a:
	default:
		s.t.Errorf("%s: more arrivals than were sent", s.name)
	}
}

// next waits for an arrival.
func (s *station) next() arrival {
	s.t.Helper()
	select {
	case a := <-s.arrivals:
		return a
	case err := <-s.ended:
		s.t.Fatalf("%s: Receive ended, %v, and a frame should have arrived", s.name, err)
	case <-time.After(patience):
		s.t.Fatalf("%s: no frame arrived within %v", s.name, patience)
	}
	panic("unreachable")
}

// expect waits for frames with these bytes and no offload left, in this order.
func (s *station) expect(want ...[]byte) {
	s.t.Helper()
	for i, w := range want {
		got := s.next()
		if !bytes.Equal(got.bytes, w) {
			s.t.Fatalf("%s: arrival %d of %d is\n%s, want\n%s", s.name, i+1, len(want), brief(got.bytes), brief(w))
		}
		if got.offload.NeedsChecksum || got.offload.Segment != link.NoSegmentation {
			s.t.Fatalf("%s: arrival %d of %d has offload %+v, and was sent plain", s.name, i+1, len(want), got.offload)
		}
	}
}

// expectEnd waits for Receive to return.
func (s *station) expectEnd() error {
	s.t.Helper()
	select {
	case err := <-s.ended:
		return err
	case <-time.After(patience):
		s.t.Fatalf("%s: Receive still runs %v after Close", s.name, patience)
	}
	panic("unreachable")
}

// send sends all frames, and fails the test if that fails.
func (s *station) send(frames ...link.Frame) {
	s.t.Helper()
	if n, err := s.dev.Send(frames); n != len(frames) || err != nil {
		s.t.Fatalf("%s: Send took %d of %d frames: %v", s.name, n, len(frames), err)
	}
}

func (s *station) sendBytes(frames ...[]byte) {
	s.t.Helper()
	s.send(plain(frames...)...)
}

// numbered makes a frame of n bytes for the peer, with a number in it if there is
// room for one.
func (s *station) numbered(number, n int) []byte {
	b := make([]byte, max(n, 22))
	copy(b, s.peer[:])
	copy(b[6:], s.mac[:])
	binary.BigEndian.PutUint16(b[12:], testEtherType)
	binary.BigEndian.PutUint64(b[14:], uint64(number))
	for i := 22; i < len(b); i++ {
		b[i] = byte(i * (number + 3))
	}
	return b[:n]
}

func plain(frames ...[]byte) []link.Frame {
	fs := make([]link.Frame, len(frames))
	for i, b := range frames {
		fs[i].Data = [][]byte{b}
	}
	return fs
}

func brief(b []byte) string {
	var s strings.Builder
	for i, v := range b[:min(len(b), 80)] {
		if i > 0 && i%16 == 0 {
			s.WriteByte(' ')
		}
		s.WriteString(string("0123456789abcdef"[v>>4]) + string("0123456789abcdef"[v&15]))
	}
	return s.String()
}

// wire opens two devices and makes stations of them, closed when the test ends. It
// doesn't start them.
func wire(t *testing.T, join func(*testing.T) (a, b link.Device)) (a, b *station) {
	t.Helper()
	devA, devB := join(t)
	a = &station{t: t, name: "a", dev: devA, mac: macA, peer: macB}
	b = &station{t: t, name: "b", dev: devB, mac: macB, peer: macA}
	for _, s := range []*station{a, b} {
		s.arrivals, s.ended = make(chan arrival, 4096), make(chan error, 1)
		s.gives = s.dev.Features().Gives
		t.Cleanup(func() { s.dev.Close() })
	}
	return a, b
}

// run is wire, and starts both with a ring of some slots.
func run(t *testing.T, join func(*testing.T) (a, b link.Device)) (a, b *station) {
	t.Helper()
	a, b = wire(t, join)
	a.start(Ring(a.dev, 4, 1<<16), nil)
	b.start(Ring(b.dev, 4, 1<<16), nil)
	awaitUp(a, b)
	return a, b
}

// awaitUp waits until frames pass both ways: a link may need a moment to come up.
func awaitUp(a, b *station) {
	a.t.Helper()
	a.awaitPeer(b)
	b.awaitPeer(a)
}

// awaitPeer sends probes until one arrives, and takes those that are under way.
func (s *station) awaitPeer(peer *station) {
	s.t.Helper()
	probe, last := s.numbered(0, 60), s.numbered(1, 60)
	retry := time.NewTicker(time.Millisecond)
	defer retry.Stop()
	deadline := time.After(patience)
	for arrived := false; !arrived; {
		s.dev.Send(plain(probe)) // an error is one more reason to try again
		select {
		case <-peer.arrivals:
			arrived = true
		case <-retry.C:
		case <-deadline:
			s.t.Fatalf("no frame gets from %s to %s", s.name, peer.name)
		}
	}
	s.sendBytes(last)
	for !bytes.Equal(peer.next().bytes, last) {
	}
}

// goroutines reports the goroutines running, for a comparison.
type goroutines int

func countGoroutines() goroutines { return goroutines(runtime.NumGoroutine()) }

// check fails the test if there are more goroutines than before, now or soon.
func (before goroutines) check(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(patience); countGoroutines() > before; runtime.Gosched() {
		if time.Now().After(deadline) {
			var dump strings.Builder
			pprof.Lookup("goroutine").WriteTo(&dump, 1)
			t.Fatalf("%d goroutines, and %d before:\n%s", countGoroutines(), before, dump.String())
		}
	}
}

// within fails the test if f takes longer than patience.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("%s: hangs", what)
	}
}
