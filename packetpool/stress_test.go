package packetpool_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/duotap/duotap/packetpool"
)

// TestManyGoroutines has goroutines that take, fill, hand over, copy and release
// packets of two pools that are much too small. Each packet's bytes say who wrote
// them: two owners of one packet would see each other's.
func TestManyGoroutines(t *testing.T) {
	p := newPool(t, packetpool.Config{Name: "p", Packets: 7, Payload: 64, LowWatermark: 1})
	q := newPool(t, packetpool.Config{Name: "q", Packets: 4, Payload: 100})
	const workers, rounds = 12, 400
	handed := make(chan *packetpool.Packet)
	var all []*packetpool.Packet
	for range 7 {
		all = append(all, allocate(t, p, 0))
	}
	var wg sync.WaitGroup
	for id := range workers {
		wg.Go(func() {
			w := worker{t: t, rng: rand.New(rand.NewPCG(uint64(id), 1)), from: p, to: q, handed: handed}
			w.round(t.Context(), uint64(id)<<32)
			for round := range rounds {
				w.timedRound(uint64(id)<<32 | uint64(round))
			}
		})
	}
	for p.Stats().Waiting < workers {
		runtime.Gosched()
	}
	for _, k := range all { // and off they go
		k.Release()
	}
	wg.Wait()
	for _, pool := range []*packetpool.Pool{p, q} {
		s := pool.Stats()
		if s.InvalidReleases != 0 || s.EmptySuspensions > s.EmptyRequests {
			t.Errorf("pool %q: %+v", pool.Name(), s)
		}
	}
	if s := p.Stats(); s.EmptySuspensions < workers || s.LowestFree != 0 {
		t.Errorf("pool p: %+v, nobody waited", s)
	}
}

type worker struct {
	t        *testing.T
	rng      *rand.Rand
	from, to *packetpool.Pool
	handed   chan *packetpool.Packet
}

// timedRound is a round with, half of the time, so little of it that waits fail.
func (w *worker) timedRound(stamp uint64) {
	ctx := w.t.Context()
	if w.rng.IntN(2) == 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(w.rng.IntN(300))*time.Microsecond)
		defer cancel()
	}
	w.round(ctx, stamp)
}

// round takes a packet, does this and that with it, and gives it up. While it holds
// packets it lets others run.
func (w *worker) round(ctx context.Context, stamp uint64) {
	k, err := w.from.Allocate(ctx, w.rng.IntN(32))
	if err != nil {
		if !errors.Is(err, packetpool.ErrNoPacket) || ctx.Err() == nil {
			w.t.Errorf("Allocate: %v", err)
		}
		return
	}
	mark := binary.BigEndian.AppendUint64(nil, stamp)
	k.Fill(bytes.Repeat(mark, 1+w.rng.IntN(40)))
	if w.rng.IntN(3) == 0 {
		w.clone(ctx, k)
	}
	if w.rng.IntN(3) == 0 {
		select { // to whoever does the same just now
		case w.handed <- k:
			return
		case k2 := <-w.handed:
			w.check(k2)
			k2.Release()
		default:
		}
	}
	w.check(k)
	k.Release()
}

func (w *worker) clone(ctx context.Context, k *packetpool.Packet) {
	c, err := k.Clone(ctx, w.to)
	if err != nil {
		if !errors.Is(err, packetpool.ErrNoPacket) {
			w.t.Errorf("Clone: %v", err)
		}
		return
	}
	w.check(c)
	c.Release()
}

// check reads k, whose bytes must be one stamp over and over.
func (w *worker) check(k *packetpool.Packet) {
	runtime.Gosched()
	b := content(w.t, k)
	mark := b[:min(8, len(b))]
	if !bytes.HasPrefix(bytes.Repeat(mark, len(b)/8+1), b) {
		w.t.Errorf("packet has bytes of several owners: %x", b)
	}
}

// TestCloseUnderLoad closes a pool while it is fought for.
func TestCloseUnderLoad(t *testing.T) {
	for range 50 {
		p := newPool(t, packetpool.Config{Packets: 2, Payload: 8})
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				for {
					k, err := p.Allocate(t.Context(), 0)
					if errors.Is(err, packetpool.ErrClosed) {
						return
					}
					if err != nil {
						t.Error(err)
						return
					}
					k.Fill(pattern(20))
					runtime.Gosched()
					k.Release()
				}
			})
		}
		for p.Stats().EmptyRequests == 0 {
			k, err := p.Allocate(t.Context(), 0)
			if err != nil {
				t.Fatal(err)
			}
			k.Release()
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
		checkAllFree(t, p)
	}
}
