package memlink_test

import (
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/duotap/duotap/stack/link"
	"github.com/duotap/duotap/stack/link/linktest"
	"github.com/duotap/duotap/stack/link/memlink"
)

func TestPairConforms(t *testing.T) {
	linktest.Run(t, func(t *testing.T) (a, b link.Device) { return memlink.Pair(1500) })
}

func TestPlainConforms(t *testing.T) {
	linktest.Run(t, func(t *testing.T) (a, b link.Device) {
		a, b, err := memlink.New(memlink.Config{MTU: 9000})
		if err != nil {
			t.Fatal(err)
		}
		return a, b
	})
}

func TestSwitchConforms(t *testing.T) {
	linktest.Run(t, func(t *testing.T) (a, b link.Device) {
		s := memlink.NewSwitch(1500)
		return s.Port(), s.Port()
	})
}

// bubble runs a test in a synctest bubble: Wait shows when Receive has begun, and
// time is virtual.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

// receive runs Receive until the test ends or the device is closed.
func receive(t *testing.T, d *memlink.Device, deliver func([]link.Frame)) chan error {
	t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- d.Receive(nil, deliver) }()
	synctest.Wait()
	t.Cleanup(func() { d.Close() })
	return ended
}

// frame makes a frame between stations 1 to 255, or to all of them with 0, and of
// others by their number.
func frame(dst, src uint32) []link.Frame {
	b := make([]byte, 60)
	if dst == 0 {
		copy(b, "\xff\xff\xff\xff\xff\xff")
	} else {
		b[0] = 2
		binary.BigEndian.PutUint32(b[2:], dst)
	}
	b[6] = 2
	binary.BigEndian.PutUint32(b[8:], src)
	return []link.Frame{{Data: [][]byte{b}}}
}

func send(t *testing.T, d *memlink.Device, frames []link.Frame) {
	t.Helper()
	if _, err := d.Send(frames); err != nil {
		t.Error(err)
	}
}

// TestHeldBeforeReceive: between Watch and Receive the first 64 frames wait, in order.
func TestHeldBeforeReceive(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := memlink.Pair(1500)
		send(t, a, frame(2, 200)) // for nobody
		b.Watch(func(bool) {})
		for k := range uint32(70) {
			f := frame(2, k)
			send(t, a, f)
			clear(f[0].Data[0]) // it was only borrowed
		}
		var got []uint32
		ended := receive(t, b, func(frames []link.Frame) {
			for _, f := range frames {
				got = append(got, binary.BigEndian.Uint32(f.Data[0][8:]))
			}
		})
		send(t, a, frame(2, 100))
		if len(got) != 65 || got[0] != 0 || got[63] != 63 || got[64] != 100 {
			t.Errorf("delivered %v, want 0 to 63 and 100", got)
		}
		if want := (memlink.Stats{Received: 65, Dropped: 7}); b.Stats() != want {
			t.Errorf("b counts %+v, want %+v", b.Stats(), want)
		}
		b.Close()
		<-ended
	})
}

// TestDeliveredInPlace: the receiver sees the sender's memory, batch and offload.
func TestDeliveredInPlace(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := memlink.Pair(1500)
		flow := linktest.Flow{Src: addrPort("192.0.2.1:1"), Dst: addrPort("192.0.2.2:2")}
		batch := []link.Frame{flow.Super(flow.UDP(make([]byte, 5000)), 1000), frame(2, 1)[0]}
		calls := 0
		receive(t, b, func(got []link.Frame) {
			calls++
			same := len(got) == 2 && &got[0].Data[0][0] == &batch[0].Data[0][0] && got[0].Offload == batch[0].Offload
			if !same {
				t.Errorf("%d frames, the first with %+v; want the sender's", len(got), got[0].Offload)
			}
		})
		send(t, a, batch)
		if calls != 1 {
			t.Errorf("%d calls of deliver when Send returns, want 1", calls)
		}
	})
}

// TestCloseDuringDeliver: Close returns at once, Receive when deliver has.
func TestCloseDuringDeliver(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := memlink.Pair(1500)
		proceed := make(chan struct{})
		ended := receive(t, b, func([]link.Frame) { <-proceed })
		sent := make(chan error, 1)
		go func() { _, err := a.Send(frame(2, 1)); sent <- err }()
		synctest.Wait()
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		select {
		case err := <-ended:
			t.Errorf("Receive returned %v while deliver ran", err)
		default:
		}
		close(proceed)
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Receive returned %v, want net.ErrClosed", err)
		}
		if err := <-sent; err != nil {
			t.Errorf("Send: %v", err)
		}
	})
}

// TestRecursion: each side answers from within deliver.
func TestRecursion(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := memlink.Pair(1500)
		rounds := 0
		receive(t, a, func([]link.Frame) {
			if rounds++; rounds < 1000 {
				a.Send(frame(2, 1))
			} else {
				a.Close()
				b.Close()
			}
		})
		receive(t, b, func([]link.Frame) { b.Send(frame(1, 2)) })
		a.Send(frame(2, 1))
		if rounds != 1000 {
			t.Errorf("%d rounds, want 1000", rounds)
		}
	})
}

func TestUnplugged(t *testing.T) {
	a, b := memlink.Pair(1500)
	defer b.Close()
	var toldA, toldB []bool
	a.Watch(func(up bool) { toldA = append(toldA, up) })
	b.Watch(func(up bool) { toldB = append(toldB, up) })
	a.SetUp(false)
	for _, d := range []*memlink.Device{a, b} {
		if n, err := d.Send(frame(2, 1)); n != 0 || !errors.Is(err, link.ErrDown) {
			t.Errorf("Send with the cable unplugged: %d, %v; want link.ErrDown", n, err)
		}
	}
	b.SetUp(true)
	send(t, a, frame(2, 1))
	a.Close()
	b.SetUp(true)
	if n, err := b.Send(frame(1, 2)); n != 0 || !errors.Is(err, link.ErrDown) {
		t.Errorf("Send to a closed end: %d, %v; want link.ErrDown", n, err)
	}
	if want := []bool{true, false, true}; !slices.Equal(toldA, want) {
		t.Errorf("a was told %v, want %v", toldA, want)
	}
	if want := []bool{true, false, true, false}; !slices.Equal(toldB, want) {
		t.Errorf("b was told %v, want %v", toldB, want)
	}
}

// TestWatcherPlugs: a watcher that plugs the cable in again.
func TestWatcherPlugs(t *testing.T) {
	a, b := memlink.Pair(1500)
	defer a.Close()
	defer b.Close()
	var told []bool
	a.Watch(func(up bool) {
		told = append(told, up)
		a.SetUp(true)
	})
	b.SetUp(false)
	if want := []bool{true, false, true}; !slices.Equal(told, want) {
		t.Errorf("told %v, want %v", told, want)
	}
	send(t, b, frame(1, 2))
}

// TestPluggedConcurrently: whoever comes last, both ends agree.
func TestPluggedConcurrently(t *testing.T) {
	a, b := memlink.Pair(1500)
	defer a.Close()
	defer b.Close()
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := range 200 {
				a.SetUp((n+i)%2 == 0)
			}
		})
	}
	wg.Wait()
	_, errA := a.Send(frame(2, 1))
	_, errB := b.Send(frame(1, 2))
	if (errA == nil) != (errB == nil) {
		t.Errorf("one end is up: %v, %v", errA, errB)
	}
}

func TestConfig(t *testing.T) {
	for name, c := range map[string]struct {
		cfg  memlink.Config
		want string
	}{
		"small MTU":                     {memlink.Config{MTU: 67}, "68 to 65535"},
		"large MTU":                     {memlink.Config{MTU: 65536}, "68 to 65535"},
		"unknown offload":               {memlink.Config{Offloads: 0x81}, "unknown"},
		"segmentation without checksum": {memlink.Config{Offloads: link.TSO4}, "Checksum"},
	} {
		if _, _, err := memlink.New(c.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %q", name, err, c.want)
		}
	}
	a, b, err := memlink.New(memlink.Config{Offloads: link.Checksum})
	if err != nil || a.MTU() != 1500 || b.MTU() != 1500 {
		t.Fatalf("zero MTU: %v", err)
	}
	if want := (link.Features{Takes: link.Checksum, Gives: link.Checksum, Lends: true}); a.Features() != want || b.Features() != want {
		t.Errorf("features %+v and %+v, want %+v", a.Features(), b.Features(), want)
	}
	defer func() {
		if recover() == nil {
			t.Error("Pair(1) doesn't panic")
		}
	}()
	memlink.Pair(1)
}

// station is a port of a switch and the sources of the frames it has received.
type station struct {
	*memlink.Device
	heard []uint32
}

func stations(t *testing.T, s *memlink.Switch, n int) []*station {
	all := make([]*station, n)
	for i := range all {
		st := &station{Device: s.Port()}
		receive(t, st.Device, func(frames []link.Frame) {
			for i := range frames {
				var b [4]byte
				frames[i].CopyAt(b[:], 8)
				st.heard = append(st.heard, binary.BigEndian.Uint32(b[:]))
			}
		})
		all[i] = st
	}
	return all
}

// expectHeard compares what the stations have heard, and forgets it.
func expectHeard(t *testing.T, what string, all []*station, want ...[]uint32) {
	t.Helper()
	for i, st := range all {
		if !slices.Equal(st.heard, want[i]) {
			t.Errorf("%s: port %d heard from %v, want %v", what, i+1, st.heard, want[i])
		}
		st.heard = nil
	}
}

func TestSwitchLearns(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := memlink.NewSwitch(1500)
		p := stations(t, s, 3)
		none := []uint32(nil)
		send(t, p[0].Device, frame(2, 1))
		expectHeard(t, "unknown address", p, none, []uint32{1}, []uint32{1})
		send(t, p[1].Device, frame(1, 2))
		expectHeard(t, "known address", p, []uint32{2}, none, none)
		send(t, p[2].Device, frame(0, 3))
		expectHeard(t, "broadcast", p, []uint32{3}, []uint32{3}, none)
		send(t, p[0].Device, slices.Concat(frame(2, 1), frame(2, 1), frame(3, 1), frame(0, 1), frame(2, 1)))
		expectHeard(t, "a batch", p, none, []uint32{1, 1, 1, 1}, []uint32{1, 1})
		send(t, p[0].Device, frame(1, 9)) // a hub behind port 1, say
		expectHeard(t, "own port", p, none, none, none)

		send(t, p[2].Device, frame(9, 1)) // 1 has moved
		expectHeard(t, "to the hub", p, []uint32{1}, none, none)
		send(t, p[1].Device, frame(1, 2))
		expectHeard(t, "moved address", p, none, none, []uint32{2})

		p[2].SetUp(false)
		send(t, p[1].Device, frame(1, 2))
		expectHeard(t, "unplugged port, address forgotten", p, []uint32{2}, none, none)
		if _, err := p[2].Send(frame(2, 3)); !errors.Is(err, link.ErrDown) {
			t.Errorf("Send on an unplugged port: %v, want link.ErrDown", err)
		}
		if _, err := p[1].Send(frame(1, 2)); err != nil {
			t.Errorf("Send on another port: %v", err)
		}
		p[2].SetUp(true)
		p[0].heard = nil
		send(t, p[1].Device, frame(0, 2))
		expectHeard(t, "plugged in again", p, []uint32{2}, none, []uint32{2})

		p[0].Close()
		send(t, p[1].Device, frame(9, 2))
		expectHeard(t, "closed port", p, none, none, []uint32{2})
	})
}

func TestSwitchForgetsOldAddresses(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := memlink.NewSwitch(1500)
		p := stations(t, s, 3)
		send(t, p[0].Device, frame(2, 1))
		send(t, p[1].Device, frame(1, 2))
		expectHeard(t, "first", p, []uint32{2}, []uint32{1}, []uint32{1})
		time.Sleep(memlink.AddressAge)
		send(t, p[1].Device, frame(1, 2))
		expectHeard(t, "after five minutes", p, []uint32{2}, nil, []uint32{2})
	})
}

func TestSwitchTableIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := memlink.NewSwitch(1500)
		p := stations(t, s, 3)
		for i := range uint32(3 * memlink.MaxAddresses) {
			send(t, p[0].Device, frame(0, i+1))
		}
		if n := s.Addresses(); n != memlink.MaxAddresses {
			t.Errorf("%d addresses, want %d", n, memlink.MaxAddresses)
		}
		expectHeard(t, "flood", p[:1], nil)
		p[1].heard, p[2].heard = nil, nil
		send(t, p[1].Device, frame(2*memlink.MaxAddresses, 1<<30))
		expectHeard(t, "no room to learn it", p, []uint32{1 << 30}, nil, []uint32{1 << 30})
		time.Sleep(memlink.AddressAge)
		send(t, p[1].Device, frame(0, 1<<30))
		if n := s.Addresses(); n != 1 {
			t.Errorf("%d addresses after their age, want the new one", n)
		}
	})
}

func TestNoAllocations(t *testing.T) {
	if raceDetector {
		t.Skip("allocations can't be counted under the race detector")
	}
	a, b := memlink.Pair(1500)
	s := memlink.NewSwitch(1500)
	c, d := s.Port(), s.Port()
	for _, pair := range [][2]*memlink.Device{{a, b}, {c, d}} {
		received := 0
		ended := make(chan error)
		go func() { ended <- pair[1].Receive(nil, func(f []link.Frame) { received += len(f) }) }()
		batch := slices.Concat(frame(2, 1), frame(2, 1))
		for pair[1].Stats().Received == 0 { // Receive begins
			pair[0].Send(batch)
		}
		if n := testing.AllocsPerRun(100, func() { pair[0].Send(batch) }); n != 0 {
			t.Errorf("Send: %v heap allocations, want 0", n)
		}
		pair[1].Close()
		<-ended
		pair[0].Close()
	}
}

func BenchmarkSend(b *testing.B) {
	x, y := memlink.Pair(1500)
	defer x.Close()
	go y.Receive(nil, func([]link.Frame) {})
	defer y.Close()
	batch := frame(2, 1)
	for b.Loop() {
		x.Send(batch)
	}
}
