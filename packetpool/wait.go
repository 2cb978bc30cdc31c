package packetpool

import (
	"context"
	"fmt"
)

// waiter is one goroutine's place in a pool's queue.
type waiter struct {
	headroom   int
	at         site         // of the Allocate that waits
	ready      chan *Packet // gets the packet, or is closed with the pool; one place, so that the giver never waits
	prev, next *waiter
	queued     bool
}

// enqueue adds a place at the end of the queue. p.mu is held.
func (p *Pool) enqueue(headroom int) *waiter {
	w := &waiter{headroom: headroom, at: callSite(), ready: make(chan *Packet, 1), prev: p.last, queued: true}
	if p.last == nil {
		p.first = w
	} else {
		p.last.next = w
	}
	p.last = w
	p.stats.Waiting++
	return w
}

// dequeue takes w out of the queue. p.mu is held.
func (p *Pool) dequeue(w *waiter) {
	if w.prev == nil {
		p.first = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		p.last = w.prev
	} else {
		w.next.prev = w.prev
	}
	w.prev, w.next, w.queued = nil, nil, false
	p.stats.Waiting--
}

// wait waits until w gets a packet, ctx is done, or the pool is closed.
func (p *Pool) wait(ctx context.Context, w *waiter) (*Packet, error) {
	select {
	case k, ok := <-w.ready:
		if !ok {
			return nil, fmt.Errorf("packetpool: wait for a packet of pool %q: %w", p.name, ErrClosed)
		}
		return k, nil
	case <-ctx.Done():
		p.abandon(w)
		return nil, p.gaveUp(ctx)
	}
}

// abandon gives up the place w. If a packet was handed to it in the same instant, the
// next in the queue gets that.
func (p *Pool) abandon(w *waiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.queued {
		p.dequeue(w)
		return
	}
	if k, ok := <-w.ready; ok {
		k.drop(w.at)
		p.put(p.renew(k))
	}
}

func (p *Pool) gaveUp(ctx context.Context) error {
	return fmt.Errorf("packetpool: wait for a packet of pool %q: %w: all %d stayed held; release packets sooner, wait longer, or make the pool larger: %w",
		p.name, ErrNoPacket, p.total, context.Cause(ctx))
}
