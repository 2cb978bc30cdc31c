package packetpool_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/duotap/duotap/packetpool"
)

// The tests here run in bubbles: time is virtual, and synctest.Wait returns when every
// other goroutine of the test waits.

// result is what an Allocate in a goroutine of its own ended with.
type result struct {
	pkt   *packetpool.Packet
	err   error
	after time.Duration
}

// startAllocate calls Allocate in a goroutine and returns when it waits, or is done.
func startAllocate(ctx context.Context, p *packetpool.Pool, headroom int) <-chan result {
	done := make(chan result, 1)
	start := time.Now()
	go func() {
		k, err := p.Allocate(ctx, headroom)
		done <- result{k, err, time.Since(start)}
	}()
	synctest.Wait()
	return done
}

func checkWaits(t *testing.T, done <-chan result) {
	t.Helper()
	synctest.Wait()
	select {
	case r := <-done:
		t.Fatalf("Allocate returned %v, %v, want it to wait", r.pkt, r.err)
	default:
	}
}

func TestWaitersAreServedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, packetpool.Config{Packets: 1, Payload: 1})
		held := allocate(t, p, 0)
		var order []int
		const waiters = 20
		for i := range waiters {
			go func() {
				k, err := p.Allocate(t.Context(), 0)
				if err != nil {
					t.Error(err)
					return
				}
				order = append(order, i) // only the packet's holder is here
				time.Sleep(time.Second)
				k.Release()
			}()
			synctest.Wait()
		}
		checkStats(t, p, packetpool.Stats{Total: 1, Waiting: waiters, EmptyRequests: waiters, EmptySuspensions: waiters})
		held.Release()
		time.Sleep(waiters*time.Second + 1)
		synctest.Wait()
		if len(order) != waiters || !slices.IsSorted(order) {
			t.Errorf("served in the order %v", order)
		}
	})
}

func TestReleasedPacketCannotBeStolen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, packetpool.Config{Packets: 1, Payload: 10})
		held := allocate(t, p, 0)
		appendBytes(t, held, pattern(10))
		done := startAllocate(t.Context(), p, 7)

		held.Release() // the waiter hasn't run yet, and still:
		if _, err := p.TryAllocate(0); !errors.Is(err, packetpool.ErrNoPacket) {
			t.Errorf("newcomer got the packet of the one who waited: %v", err)
		}
		checkStats(t, p, packetpool.Stats{Total: 1, EmptyRequests: 2, EmptySuspensions: 1})

		r := <-done
		if r.err != nil {
			t.Fatal(r.err)
		}
		if r.pkt.Headroom() != 7 || r.pkt.Len() != 0 || r.pkt.Room() != 3 {
			t.Errorf("headroom %d, len %d, room %d, want 7, 0, 3 as the waiter asked",
				r.pkt.Headroom(), r.pkt.Len(), r.pkt.Room())
		}
		r.pkt.Release()
	})
}

func TestChainServesSeveralWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, packetpool.Config{Packets: 3, Payload: 10})
		held := allocate(t, p, 0)
		appendBytes(t, held, pattern(30))
		a, b := startAllocate(t.Context(), p, 0), startAllocate(t.Context(), p, 0)
		held.Release()
		checkStats(t, p, packetpool.Stats{Total: 3, Free: 1, EmptyRequests: 2, EmptySuspensions: 2})
		for _, done := range []<-chan result{a, b} {
			r := <-done
			if r.err != nil {
				t.Fatal(r.err)
			}
			defer r.pkt.Release()
		}
	})
}

func TestWaitEndsWithItsContext(t *testing.T) {
	reason := errors.New("link is down")
	tests := []struct {
		name string
		ctx  func(context.Context) (context.Context, context.CancelFunc)
		want error
	}{
		{"deadline", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 3*time.Second)
		}, context.DeadlineExceeded},
		{"deadline with a cause", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeoutCause(ctx, 3*time.Second, reason)
		}, reason},
		{"cancelled", func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(3*time.Second, cancel)
			return ctx, cancel
		}, context.Canceled},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPool(t, packetpool.Config{Packets: 1, Payload: 1})
				held := allocate(t, p, 0)
				ctx, cancel := tt.ctx(t.Context())
				defer cancel()
				start := time.Now()
				k, err := p.Allocate(ctx, 0)
				if took := time.Since(start); took != 3*time.Second || k != nil {
					t.Errorf("returned %v after %v, want nothing after 3s", k, took)
				}
				checkErr(t, "Allocate", err, packetpool.ErrNoPacket)
				checkErr(t, "Allocate", err, tt.want)
				checkStats(t, p, packetpool.Stats{Total: 1, EmptyRequests: 1, EmptySuspensions: 1})
				held.Release()
			})
		})
	}
}

func TestWaitersLeaveTheQueueAnywhere(t *testing.T) {
	for leaver := range 3 {
		t.Run(fmt.Sprintf("number %d", leaver+1), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPool(t, packetpool.Config{Packets: 1, Payload: 1})
				held := allocate(t, p, 0)
				var waiting []<-chan result
				var cancels []context.CancelFunc
				for range 3 {
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					waiting = append(waiting, startAllocate(ctx, p, 0))
					cancels = append(cancels, cancel)
				}
				cancels[leaver]()
				checkErr(t, "Allocate", (<-waiting[leaver]).err, context.Canceled)
				if n := p.Stats().Waiting; n != 2 {
					t.Errorf("%d waiting, want 2", n)
				}
				for _, done := range slices.Delete(waiting, leaver, leaver+1) {
					checkWaits(t, done)
					held.Release()
					r := <-done
					if r.err != nil {
						t.Fatal(r.err)
					}
					held = r.pkt
				}
				held.Release()
			})
		})
	}
}

// When a wait is cancelled and a packet released in the same instant, the packet is
// either kept or passed on, never lost.
func TestCancelAndReleaseAtOnce(t *testing.T) {
	tests := []struct {
		name         string
		releaseFirst bool
		others       int // waiters behind the one who is cancelled
	}{
		{"cancel first, nobody behind", false, 0},
		{"cancel first, others behind", false, 2},
		{"release first, nobody behind", true, 0},
		{"release first, others behind", true, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPool(t, packetpool.Config{Packets: 1, Payload: 10})
				held := allocate(t, p, 0)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				first := startAllocate(ctx, p, 0)
				var behind []<-chan result
				for range tt.others {
					behind = append(behind, startAllocate(t.Context(), p, 4))
				}

				// Neither lets the waiter run before both are done.
				if tt.releaseFirst {
					held.Release()
					cancel()
				} else {
					cancel()
					held.Release()
				}

				r := <-first
				if got := r.err == nil; got != tt.releaseFirst {
					t.Errorf("Allocate: %v, release came first: %v", r.err, tt.releaseFirst)
				}
				if r.err == nil {
					r.pkt.Release()
				} else {
					checkErr(t, "Allocate", r.err, packetpool.ErrNoPacket)
				}
				for _, done := range behind {
					r := <-done
					if r.err != nil {
						t.Fatal(r.err)
					}
					if r.pkt.Headroom() != 4 {
						t.Errorf("headroom %d of a packet passed on, want 4", r.pkt.Headroom())
					}
					r.pkt.Release()
				}
				if n := p.Stats().InvalidReleases; n != 0 {
					t.Errorf("%d invalid releases", n)
				}
			})
		})
	}
}

func TestCloseWakesWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, packetpool.Config{Packets: 1, Payload: 1})
		held := allocate(t, p, 0)
		a, b := startAllocate(t.Context(), p, 0), startAllocate(t.Context(), p, 0)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		c := startAllocate(ctx, p, 0)
		cancel() // c finds the pool closed when it gives up
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		checkErr(t, "first waiter", (<-a).err, packetpool.ErrClosed)
		checkErr(t, "second waiter", (<-b).err, packetpool.ErrClosed)
		checkErr(t, "cancelled waiter", (<-c).err, context.Canceled)
		held.Release()
		checkStats(t, p, packetpool.Stats{Total: 1, Free: 1, EmptyRequests: 3, EmptySuspensions: 3})
	})
}

func TestCloneWaitsForItsFirstPacketOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := newPool(t, packetpool.Config{Packets: 3, Payload: 10})
		to := newPool(t, packetpool.Config{Packets: 3, Payload: 10})
		k := allocate(t, from, 0)
		defer k.Release()
		appendBytes(t, k, pattern(30))
		var held []*packetpool.Packet
		for range 3 {
			held = append(held, allocate(t, to, 0))
		}

		time.AfterFunc(time.Second, held[0].Release)
		start := time.Now()
		c, err := k.Clone(t.Context(), to) // gets one of three
		if c != nil || time.Since(start) != time.Second {
			t.Errorf("Clone gave %v after %v, want an error after 1s", c, time.Since(start))
		}
		checkErr(t, "Clone", err, packetpool.ErrNoPacket)
		if n := to.Stats().Free; n != 1 {
			t.Errorf("a failed Clone left %d packets free, want 1", n)
		}

		held[1].Release()
		last := allocate(t, to, 0)
		allocate(t, to, 0).Release()
		last.Release()
		held[2].Release()
		c, err = k.Clone(t.Context(), to)
		if err != nil {
			t.Fatal(err)
		}
		checkContent(t, c, pattern(30))
		c.Release()
	})
}

func TestGrowingNeverWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, packetpool.Config{Packets: 1, Payload: 10})
		k := allocate(t, p, 0)
		done := startAllocate(t.Context(), p, 0)
		start := time.Now()
		checkErr(t, "Append", k.Append(pattern(11)), packetpool.ErrNoPacket)
		if n := k.Fill(pattern(11)); n != 10 {
			t.Errorf("Fill took %d bytes, want 10", n)
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("Append and Fill took %v", took)
		}
		k.Release()
		(<-done).pkt.Release()
	})
}
