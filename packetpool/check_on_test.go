//go:build poolcheck

package packetpool_test

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/duotap/duotap/packetpool"
)

const poolcheck = true

// line returns "file:line" of its caller, plus a few lines.
func line(plus int) string {
	_, file, line, _ := runtime.Caller(1)
	return fmt.Sprintf("%s:%d", file, line+plus)
}

func checkPanic(t *testing.T, f func(), want ...string) {
	t.Helper()
	text := panicText(t, f)
	for _, want := range want {
		if !strings.Contains(text, want) {
			t.Errorf("panic %q, want it to contain %q", text, want)
		}
	}
}

func TestSecondReleaseNamesThePlaces(t *testing.T) {
	p := newPool(t, packetpool.Config{Name: "mail", Packets: 2, Payload: 10})
	k, err := p.Allocate(t.Context(), 0)
	taken := line(-1)
	if err != nil {
		t.Fatal(err)
	}
	k.Release()
	first := line(-1)
	second := line(1)
	again := func() { k.Release() }
	checkPanic(t, again, `pool "mail", packet 0`, "Release at "+second, "released at "+first, "taken at "+taken)
	if n := p.Stats().InvalidReleases; n != 1 {
		t.Errorf("%d invalid releases counted, want 1", n)
	}
}

// The dangerous second release is the one that comes when somebody else owns the
// packet already.
func TestSecondReleaseDoesNotHitTheNextOwner(t *testing.T) {
	p := newPool(t, packetpool.Config{Packets: 1, Payload: 10})
	stale := allocate(t, p, 0)
	stale.Release()
	for range 10 {
		k := allocate(t, p, 0)
		appendBytes(t, k, []byte("mine"))
		checkPanic(t, stale.Release, "Release at")
		checkPanic(t, func() { stale.Append([]byte("yours")) }, "Append at")
		checkContent(t, k, []byte("mine"))
		k.Release()
	}
}

func TestUseAfterReleasePanics(t *testing.T) {
	p := newPool(t, packetpool.Config{Packets: 2, Payload: 10})
	k := allocate(t, p, 0)
	k.Release()
	for name, use := range map[string]func(){
		"Append":   func() { k.Append(nil) },
		"Fill":     func() { k.Fill(nil) },
		"Extend":   func() { k.Extend(0) },
		"Room":     func() { k.Room() },
		"Prepend":  func() { k.Prepend(nil) },
		"Headroom": func() { k.Headroom() },
		"Len":      func() { k.Len() },
		"Packets":  func() { k.Packets() },
		"Read":     func() { k.Read(nil) },
		"Rewind":   func() { k.Rewind() },
		"ReadAt":   func() { k.ReadAt(nil, 0) },
		"Truncate": func() { k.Truncate(0) },
		"Clone":    func() { k.Clone(t.Context(), p) },
		"Segments": func() {
			for range k.Segments() {
			}
		},
	} {
		checkPanic(t, use, name+" at ", "check_on_test.go", "released at")
	}
}

func TestSegmentKeptAfterRelease(t *testing.T) {
	for name, take := range map[string]func(*testing.T, *packetpool.Pool) error{
		"Allocate": func(t *testing.T, p *packetpool.Pool) error {
			_, err := p.Allocate(t.Context(), 0)
			return err
		},
		"TryAllocate": func(_ *testing.T, p *packetpool.Pool) error {
			_, err := p.TryAllocate(0)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := packetpool.New(packetpool.Config{Name: "ring", Packets: 2, Payload: 10})
			if err != nil {
				t.Fatal(err)
			}
			writeAfterRelease(t, allocate(t, p, 0))
			checkPanic(t, func() {
				err := take(t, p)
				t.Errorf("a packet that was written to was given out, error %v", err)
			}, `pool "ring", packet 0`, "byte 2", "written after a release")
		})
	}
	t.Run("Append", func(t *testing.T) {
		p, err := packetpool.New(packetpool.Config{Name: "ring", Packets: 2, Payload: 10})
		if err != nil {
			t.Fatal(err)
		}
		k, next := allocate(t, p, 0), allocate(t, p, 0)
		writeAfterRelease(t, next)
		checkPanic(t, func() { k.Append(pattern(11)) }, "packet 1", "byte 2", "written after a release")
	})
}

// writeAfterRelease writes to byte 2 of k when it is released already.
func writeAfterRelease(t *testing.T, k *packetpool.Packet) {
	appendBytes(t, k, []byte("secret"))
	var kept []byte
	for kept = range k.Segments() {
	}
	k.Release()
	if strings.Contains(string(kept), "secret") {
		t.Errorf("released memory still reads %q", kept)
	}
	kept[2] = 'x'
}

// Held names the place that waited, not the one that released.
func TestHeldAfterWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, packetpool.Config{Packets: 1, Payload: 10})
		k := allocate(t, p, 0)
		time.AfterFunc(time.Second, k.Release)
		k, err := p.Allocate(t.Context(), 0)
		at := line(-1)
		if err != nil {
			t.Fatal(err)
		}
		if held := p.Held(); len(held) != 1 || held[0].Site != at {
			t.Errorf("held %v, want one taken at %s", held, at)
		}
		k.Release()
	})
}

func TestHeld(t *testing.T) {
	p := newPool(t, packetpool.Config{Packets: 5, Payload: 10})
	if held := p.Held(); len(held) != 0 {
		t.Errorf("fresh pool: held %v", held)
	}
	k, _ := p.TryAllocate(0)
	at := line(-1)
	a, _ := p.Allocate(t.Context(), 0)
	atA := line(-1)
	if err := k.Append(pattern(25)); err != nil {
		t.Fatal(err)
	}
	atMore := line(-3)

	want := []packetpool.Holder{
		{Packet: 0, Site: at, Head: 0, Length: 25},
		{Packet: 1, Site: atA, Head: 1, Length: 0},
		{Packet: 2, Site: atMore, Head: 0},
		{Packet: 3, Site: atMore, Head: 0},
	}
	if got := p.Held(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("held\n got %v\nwant %v", got, want)
	}
	k.Truncate(7)
	k.Prepend(nil)
	if got := p.Held()[0].Length; got != 7 {
		t.Errorf("length %d after Truncate, want 7", got)
	}
	k.Release()
	if got := fmt.Sprint(p.Held()); got != fmt.Sprintf("[packet 1, head of a chain of 0 bytes, taken at %s]", atA) {
		t.Errorf("held %v after the first Release", got)
	}
	a.Release()
}

// Held is for the moment in which something hangs, when others still work.
func TestHeldWhileInUse(t *testing.T) {
	p := newPool(t, packetpool.Config{Packets: 4, Payload: 10})
	stop := make(chan bool)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if k, err := p.TryAllocate(0); err == nil {
					k.Fill(pattern(35))
					k.Release()
				}
			}
		})
	}
	for range 200 {
		for _, h := range p.Held() {
			if h.Packet < 0 || h.Packet > 3 || h.Length > 35 {
				t.Errorf("impossible holder %v", h)
			}
		}
	}
	close(stop)
	wg.Wait()
}
