package packetpool

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Headroom for the headers that a stack puts in front of the data, in bytes:
// Ethernet 14, IPv4 20 or IPv6 40, and TCP 20 with all of its 40 bytes of options
// (RFC 9293 §3.1), or UDP 8.
const (
	HeadroomTCP4 = 14 + 20 + 20 + 40
	HeadroomTCP6 = 14 + 40 + 20 + 40
	HeadroomUDP4 = 14 + 20 + 8
	HeadroomUDP6 = 14 + 40 + 8
)

// maxArena is the largest pool, in bytes of payload. It is what a 32-bit int holds,
// and it turns a mistaken size into an error: a failed allocation would end the
// process.
const maxArena = 1<<31 - 1

var (
	// ErrNoPacket is wrapped by the error of a request that got no packet: none came
	// in time, or none was free and the request doesn't wait.
	ErrNoPacket = errors.New("no free packet")

	// ErrClosed is wrapped by the error of a request for a packet of a closed pool.
	ErrClosed = errors.New("packet pool is closed")

	// ErrHeadroom is wrapped by the error of a request for more headroom than a
	// packet's payload, of a Prepend of more bytes than there is headroom, and of an
	// Append when the headroom leaves no byte for data.
	ErrHeadroom = errors.New("not enough headroom")

	// ErrOffset is wrapped by the error of a call that was given an offset or a length
	// that is negative or beyond the end of the chain.
	ErrOffset = errors.New("offset out of range")
)

// Config describes a pool.
type Config struct {
	// Name is for people: errors and panics quote it. Default: "unnamed".
	Name string

	// Packets is how many packets the pool has, 1 or more. Required.
	Packets int

	// Payload is the size of each packet in bytes, headroom included, 1 or more.
	// Packets × Payload is at most 2,147,483,647. Required.
	Payload int

	// LowWatermark is how many packets a growing chain leaves free, 0 to Packets:
	// Append, Fill, Extend and the rest of a Clone don't go below it; Allocate and
	// TryAllocate may take the last packet. Default: 0.
	LowWatermark int
}

// validate reports everything that is wrong with c.
func (c Config) validate() error {
	var errs []error
	wrong := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("packetpool: new pool %q: "+format, append([]any{c.Name}, args...)...))
	}
	if c.Packets < 1 {
		wrong("Config.Packets is %d, needs at least 1", c.Packets)
	}
	if c.Payload < 1 {
		wrong("Config.Payload is %d bytes, needs at least 1", c.Payload)
	}
	if c.Packets > 0 && c.Payload > maxArena/c.Packets {
		wrong("Config.Packets (%d) × Config.Payload (%d bytes) is over %d bytes, make one of them smaller",
			c.Packets, c.Payload, maxArena)
	}
	if c.LowWatermark < 0 || c.Packets > 0 && c.LowWatermark > c.Packets {
		wrong("Config.LowWatermark is %d, needs 0 to Config.Packets (%d)", c.LowWatermark, c.Packets)
	}
	return errors.Join(errs...)
}

// Pool is a fixed number of packets of one size. Its methods may be called from
// several goroutines at once.
type Pool struct {
	name      string
	total     int
	payload   int
	watermark int
	errEmpty  error // TryAllocate's, made once: failing costs no memory either

	mu      sync.Mutex
	packets []Packet  // handles × total; slot i is at i, i+total, ...
	free    []*Packet // a stack: the packet released last is the warmest in the cache
	first   *waiter   // invariant: somebody waits only while free is empty
	last    *waiter
	closed  bool
	stats   Stats // Free is len(free)
}

// Stats is a snapshot of a pool's counters.
type Stats struct {
	Total      int // packets that the pool has
	Free       int // packets that nobody holds
	LowestFree int // the smallest Free there ever was
	Waiting    int // goroutines waiting in Allocate or Clone

	EmptyRequests    uint64 // requests that found too few free packets
	EmptySuspensions uint64 // those of them that then waited
	InvalidReleases  uint64 // releases of packets that were released before
}

// New makes a pool. All of its memory is allocated here, the payloads in one piece.
// The error lists everything that is wrong with c.
func New(c Config) (*Pool, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	if c.Name == "" {
		c.Name = "unnamed"
	}
	p := &Pool{
		name:      c.Name,
		total:     c.Packets,
		payload:   c.Payload,
		watermark: c.LowWatermark,
		packets:   make([]Packet, handles*c.Packets),
		free:      make([]*Packet, 0, c.Packets),
		stats:     Stats{Total: c.Packets, LowestFree: c.Packets},
	}
	p.errEmpty = fmt.Errorf("packetpool: allocate from pool %q: %w: all %d are held; release one, wait with Allocate, or make the pool larger",
		p.name, ErrNoPacket, p.total)
	p.layOut(make([]byte, c.Packets*c.Payload))
	return p, nil
}

// layOut gives each packet its piece of the arena and puts it on the free list, the
// first on top.
func (p *Pool) layOut(arena []byte) {
	poison(arena)
	for i := range p.packets {
		at := i % p.total * p.payload
		p.packets[i] = Packet{pool: p, index: i, buf: arena[at : at+p.payload]}
	}
	for i := p.total - 1; i >= 0; i-- {
		p.free = append(p.free, &p.packets[i])
	}
}

// Name is the pool's name.
func (p *Pool) Name() string { return p.name }

// Payload is the size of each packet in bytes, headroom included.
func (p *Pool) Payload() int { return p.payload }

// Allocate takes a packet with headroom bytes kept free in front of its data, 0 to
// Payload. The caller owns it, and ends that with Release or by giving it to somebody.
//
// When no packet is free, Allocate waits in a queue until one is released to it, ctx
// is done, or the pool is closed. ctx limits the waiting only: a free packet is
// returned even if ctx is done. Don't wait while you hold a packet of the same pool;
// grow the one you have with Append or Fill, which never wait.
//
// The error wraps ErrNoPacket and context.Cause(ctx), or ErrHeadroom, or ErrClosed.
func (p *Pool) Allocate(ctx context.Context, headroom int) (*Packet, error) {
	if err := p.checkHeadroom(headroom); err != nil {
		return nil, err
	}
	k, w, err := p.takeOrQueue(headroom, ctx.Err() == nil)
	if w != nil {
		k, err = p.wait(ctx, w)
	} else if k == nil && err == nil {
		err = p.gaveUp(ctx)
	}
	if err != nil {
		return nil, err
	}
	k.checkUntouched()
	return k, nil
}

// TryAllocate is Allocate without waiting. While others wait, it gets nothing: it
// can't overtake them. The error wraps ErrNoPacket, ErrHeadroom or ErrClosed.
func (p *Pool) TryAllocate(headroom int) (*Packet, error) {
	if err := p.checkHeadroom(headroom); err != nil {
		return nil, err
	}
	k, _, err := p.takeOrQueue(headroom, false)
	if err != nil {
		return nil, err
	}
	if k == nil {
		return nil, p.errEmpty
	}
	k.checkUntouched()
	return k, nil
}

func (p *Pool) checkHeadroom(headroom int) error {
	if headroom < 0 || headroom > p.payload {
		return fmt.Errorf("packetpool: allocate from pool %q: %w: %d bytes asked, needs 0 to the payload of %d",
			p.name, ErrHeadroom, headroom, p.payload)
	}
	return nil
}

// takeOrQueue returns a free packet; or, if there is none and the caller can wait, a
// place in the queue; or neither.
func (p *Pool) takeOrQueue(headroom int, canWait bool) (*Packet, *waiter, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, nil, fmt.Errorf("packetpool: allocate from pool %q: %w", p.name, ErrClosed)
	}
	if len(p.free) > 0 {
		return p.pop(headroom, nil, callSite()), nil, nil
	}
	p.stats.EmptyRequests++
	if !canWait {
		return nil, nil, nil
	}
	p.stats.EmptySuspensions++
	return nil, p.enqueue(headroom), nil
}

// pop takes the packet on top of the free list for the chain of head, or as a head if
// that is nil. p.mu is held, and the list isn't empty.
func (p *Pool) pop(headroom int, head *Packet, at site) *Packet {
	top := len(p.free) - 1
	k := p.free[top]
	p.free = p.free[:top]
	p.stats.LowestFree = min(p.stats.LowestFree, top)
	k.hold(headroom, head, at)
	return k
}

// take takes n packets for the chain of k and returns them linked. If the pool can't
// give that many, it gives none, or with partial as many as it can; free is how many
// it had to give.
func (p *Pool) take(k *Packet, n int, partial bool) (list *Packet, free int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, 0, fmt.Errorf("pool %q: %w", p.name, ErrClosed)
	}
	if !k.held {
		return nil, 0, fmt.Errorf("pool %q: the packet was released before", p.name)
	}
	free = max(len(p.free)-p.watermark, 0)
	if n > free {
		p.stats.EmptyRequests++
		if !partial {
			return nil, free, nil
		}
		n = free
	}
	at := callSite()
	for range n {
		q := p.pop(k.headroom, k, at)
		q.next, list = list, q
	}
	return list, free, nil
}

// release returns the chain of k, each packet to the first waiter or the free list.
// It reports whether k was the caller's to release.
func (p *Pool) release(k *Packet, at site) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !k.held {
		p.stats.InvalidReleases++
		return false
	}
	for k != nil {
		next := k.next
		k.drop(at)
		p.put(p.renew(k))
		k = next
	}
	return true
}

// put hands k, which nobody holds, to the first waiter, or else to the free list.
// Giving it away before it becomes free is what keeps the queue fair: nobody who comes
// later can take it first. p.mu is held.
func (p *Pool) put(k *Packet) {
	w := p.first
	if w == nil {
		p.free = append(p.free, k)
		return
	}
	p.dequeue(w)
	k.hold(w.headroom, nil, w.at)
	w.ready <- k
}

// renew returns the handle under which the slot of k is given out next. That is k
// itself, but under the build tag poolcheck there are several, so that whoever kept
// the old one is found out even when the slot has a new owner. p.mu is held.
func (p *Pool) renew(k *Packet) *Packet {
	return &p.packets[(k.index+p.total)%len(p.packets)]
}

// Stats returns the counters, all of the same instant.
func (p *Pool) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stats
	s.Free = len(p.free)
	return s
}

// Close ends the giving out of packets: those who wait and those who come later get
// ErrClosed. Packets that are held stay valid and are still to be released. A second
// Close returns ErrClosed.
func (p *Pool) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return fmt.Errorf("packetpool: close pool %q: %w", p.name, ErrClosed)
	}
	p.closed = true
	for p.first != nil {
		w := p.first
		p.dequeue(w)
		close(w.ready)
	}
	return nil
}
