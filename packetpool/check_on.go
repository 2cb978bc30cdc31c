//go:build poolcheck

package packetpool

import (
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
)

// handles is how many Packets stand for one slot of the arena in turn. An owner's
// stale *Packet is recognised until the slot has been given out that many times more.
const handles = 16

// poisonByte fills memory that nobody holds. It is not a byte of plain text, nor of
// UTF-8.
const poisonByte = 0xfe

// site is where a call came from: the program counters of its innermost frames. There
// are enough to reach out of this package.
type site [12]uintptr

// check is what a packet remembers of its holder.
type check struct {
	taken   site
	dropped site
	head    *Packet      // of the chain it is in; guarded by pool.mu
	length  atomic.Int64 // of a head: Packet.length, for Held from any goroutine
}

func callSite() (s site) {
	runtime.Callers(2, s[:])
	return s
}

// String returns the first frame outside of this package, as "file:line".
func (s site) String() string {
	n := 0
	for n < len(s) && s[n] != 0 {
		n++
	}
	if n == 0 {
		return "nowhere"
	}
	frames := runtime.CallersFrames(s[:n])
	for {
		f, more := frames.Next()
		if !strings.HasPrefix(f.Function, "github.com/duotap/duotap/packetpool.") || !more {
			return fmt.Sprintf("%s:%d", f.File, f.Line)
		}
	}
}

func (c *check) noteHeld(head *Packet, at site) {
	c.taken, c.dropped, c.head = at, site{}, head
	c.length.Store(0)
}

func (c *check) noteDropped(at site) { c.dropped, c.head = at, nil }

func (c *check) noteLength(n int) { c.length.Store(int64(n)) }

// checkHeld panics if the owner of k has given it up.
func (k *Packet) checkHeld(call string) {
	if !k.held {
		k.refused(call, callSite())
	}
}

// refused panics because of a call at a packet that was released.
func (k *Packet) refused(call string, at site) {
	panic(fmt.Sprintf("packetpool: pool %q, packet %d: %s at %s, but the packet was released at %s (and taken at %s)",
		k.pool.name, k.slot(), call, at, k.check.dropped, k.check.taken))
}

// checkUntouched panics if somebody wrote to the memory of k while nobody held it.
func (k *Packet) checkUntouched() {
	for i, b := range k.buf {
		if b != poisonByte {
			panic(fmt.Sprintf("packetpool: pool %q, packet %d: byte %d of its payload was written after a release, at the latest before it was taken at %s; look for a slice of Segments that was kept",
				k.pool.name, k.slot(), i, k.check.taken))
		}
	}
}

func poison(b []byte) {
	for i := range b {
		b[i] = poisonByte
	}
}

func (k *Packet) slot() int { return k.index % k.pool.total }

// Held lists who holds which packet, in the order of the packets. It needs a program
// built with the tag poolcheck, as this one, and returns nil in others. It may be
// called while the packets are in use.
func (p *Pool) Held() []Holder {
	p.mu.Lock()
	defer p.mu.Unlock()
	var held []Holder
	for slot := range p.total {
		for i := slot; i < len(p.packets); i += p.total {
			if k := &p.packets[i]; k.held {
				held = append(held, Holder{
					Packet: slot,
					Site:   k.check.taken.String(),
					Head:   k.check.head.slot(),
					Length: int(k.check.length.Load()),
				})
			}
		}
	}
	return held
}
