package packetpool

import (
	"context"
	"fmt"
	"io"
	"iter"
)

// Packet is a piece of a pool's memory and the head of a chain of such pieces, which
// grows with what is appended. It is an io.Reader and an io.ReaderAt.
//
// A packet has one owner at a time, and only the owner calls its methods: they are not
// safe for concurrent use, but a packet may be handed from goroutine to goroutine. The
// owner either gives the packet away or calls Release, once; after that the packet is
// somebody else's. Under the build tag poolcheck using it then panics.
type Packet struct {
	pool  *Pool
	index int    // in pool.packets
	check check  // who holds it, under the build tag poolcheck
	held  bool   // allocated and not released; guarded by pool.mu
	buf   []byte // the payload
	start int    // buf[start:end] is data
	end   int
	next  *Packet // in the chain

	// Of the head only. All packets before tail are full, all after it are empty:
	// those were emptied by Truncate, and serve the next Append.
	headroom int     // as allocated, and of each further packet
	tail     *Packet // the packet that Append fills
	length   int     // bytes in the chain
	read     int     // bytes already read
	cursor   *Packet // where Read goes on: at cursor.data()[at]
	at       int
}

// hold makes k a held, empty packet: a head, or in the chain of head.
func (k *Packet) hold(headroom int, head *Packet, at site) {
	k.held = true
	k.reset(headroom)
	if head == nil {
		head = k
	}
	k.check.noteHeld(head, at)
}

// drop ends the holding of k. Whoever goes on using it finds an empty packet that
// can't grow, and the rest of its former chain out of reach.
func (k *Packet) drop(at site) {
	k.held = false
	k.reset(0)
	k.check.noteDropped(at)
	poison(k.buf)
}

// reset makes k an empty packet in a chain of its own.
func (k *Packet) reset(headroom int) {
	k.start, k.end, k.next = headroom, headroom, nil
	k.headroom, k.tail = headroom, k
	k.length, k.read = 0, 0
	k.cursor, k.at = k, 0
}

// data is what k alone holds. An append to it doesn't reach beyond it.
func (k *Packet) data() []byte { return k.buf[k.start:k.end:k.end] }

// dataPart is how many bytes each further packet of the chain holds.
func (k *Packet) dataPart() int { return k.pool.payload - k.headroom }

func (k *Packet) grown(n int) {
	k.length += n
	k.check.noteLength(k.length)
}

// Append adds b behind the bytes of the chain: it fills the last packet and then takes
// as many further packets of the same pool as it needs. Each of them has the headroom
// that the head was allocated with. b is copied.
//
// Append is all or nothing, and it never waits. On error the chain is as it was; the
// error wraps ErrNoPacket when the pool can't give so many packets above its
// LowWatermark at once, ErrHeadroom when the headroom leaves no byte for data, or
// ErrClosed.
func (k *Packet) Append(b []byte) error {
	k.checkHeld("Append")
	if err := k.reserve(len(b)); err != nil {
		return fmt.Errorf("packetpool: append %d bytes: %w", len(b), err)
	}
	k.write(b)
	return nil
}

// Fill is Append of as much of b as the chain has room for and the pool has free
// packets for, above its LowWatermark and without waiting. It returns how many bytes
// of b that is, 0 to len(b).
func (k *Packet) Fill(b []byte) int {
	k.checkHeld("Fill")
	n := min(len(b), k.reserveSome(len(b)))
	k.write(b[:n])
	return n
}

// Extend is Append of n bytes whose content is unspecified, to be written through
// Segments: memory to receive into. The error is that of Append, or wraps ErrOffset if
// n is negative.
func (k *Packet) Extend(n int) error {
	k.checkHeld("Extend")
	if n < 0 {
		return fmt.Errorf("packetpool: extend by %d bytes: %w", n, ErrOffset)
	}
	if err := k.reserve(n); err != nil {
		return fmt.Errorf("packetpool: extend by %d bytes: %w", n, err)
	}
	for left := n; left > 0; {
		q := k.fillable()
		m := min(left, len(q.buf)-q.end)
		q.end += m
		left -= m
	}
	k.grown(n)
	return nil
}

// write copies b behind the bytes of the chain, which has the room.
func (k *Packet) write(b []byte) {
	n := len(b)
	for len(b) > 0 {
		q := k.fillable()
		m := copy(q.buf[q.end:], b)
		q.end += m
		b = b[m:]
	}
	k.grown(n)
}

// fillable returns the tail, after moving it on if it is full.
func (k *Packet) fillable() *Packet {
	if k.tail.end == len(k.tail.buf) && k.tail.next != nil {
		k.tail = k.tail.next
	}
	return k.tail
}

// reserve makes room for n more bytes, or changes nothing.
func (k *Packet) reserve(n int) error {
	last, need, err := k.needed(n)
	if need == 0 || err != nil {
		return err
	}
	list, free, err := k.pool.take(k, need, false)
	if err != nil {
		return err
	}
	if list == nil {
		p := k.pool
		return fmt.Errorf("pool %q: %w: %d more needed, %d to be had (of %d, low watermark %d); send or release what you have, or make the pool larger",
			p.name, ErrNoPacket, need, free, p.total, p.watermark)
	}
	last.link(list)
	return nil
}

// reserveSome makes as much room as it can, at most for n bytes and a part of a packet
// more, and returns how much that is.
func (k *Packet) reserveSome(n int) int {
	last, need, err := k.needed(n)
	if err == nil && need > 0 {
		// The error of a closed pool is the caller's next Allocate's to report.
		list, _, _ := k.pool.take(k, need, true)
		last.link(list)
	}
	return k.roomInChain()
}

// needed says how many packets more n bytes take, and which is the last packet of the
// chain.
func (k *Packet) needed(n int) (last *Packet, packets int, err error) {
	for last = k.tail; last.next != nil; {
		last = last.next
	}
	n -= k.roomInChain()
	if n <= 0 {
		return last, 0, nil
	}
	if k.dataPart() == 0 {
		return last, 0, fmt.Errorf("pool %q: %w: the packet's headroom takes all of its payload of %d bytes, allocate it with less",
			k.pool.name, ErrHeadroom, k.pool.payload)
	}
	return last, (n-1)/k.dataPart() + 1, nil
}

// roomInChain is what Append can add without taking a packet, in bytes.
func (k *Packet) roomInChain() int {
	n := k.Room()
	for q := k.tail.next; q != nil; q = q.next {
		n += len(q.buf) - q.end
	}
	return n
}

// link puts list behind k, the last packet of its chain.
func (k *Packet) link(list *Packet) {
	for q := list; q != nil; q = q.next {
		q.checkUntouched()
	}
	k.next = list
}

// Room is how many bytes Append can put into the packet that it is filling, before it
// goes on to another.
func (k *Packet) Room() int {
	k.checkHeld("Room")
	return len(k.tail.buf) - k.tail.end
}

// Prepend puts b in front of the bytes of the chain, into the headroom of its head: a
// header. The error wraps ErrHeadroom, and nothing is changed, if b is longer than
// Headroom or if bytes were read from the chain since it was allocated or rewound.
func (k *Packet) Prepend(b []byte) error {
	k.checkHeld("Prepend")
	if k.read > 0 {
		return fmt.Errorf("packetpool: prepend %d bytes: %w: %d bytes have been read, call Rewind first",
			len(b), ErrHeadroom, k.read)
	}
	if len(b) > k.start {
		return fmt.Errorf("packetpool: prepend %d bytes: %w: %d bytes left of the %d allocated",
			len(b), ErrHeadroom, k.start, k.headroom)
	}
	k.start -= len(b)
	copy(k.buf[k.start:], b)
	k.grown(len(b))
	return nil
}

// Headroom is how many bytes are free in front of the first byte of the chain.
func (k *Packet) Headroom() int {
	k.checkHeld("Headroom")
	return k.start
}

// Len is how many bytes of the chain are unread.
func (k *Packet) Len() int {
	k.checkHeld("Len")
	return k.length - k.read
}

// Packets is how many packets the chain has, including those that Truncate emptied.
func (k *Packet) Packets() int {
	k.checkHeld("Packets")
	n := 0
	for q := k; q != nil; q = q.next {
		n++
	}
	return n
}

// Read copies the next unread bytes into b. It returns io.EOF when there are none,
// unless b is empty; bytes appended later can be read again after that. The bytes stay
// in the chain: see Rewind.
func (k *Packet) Read(b []byte) (int, error) {
	k.checkHeld("Read")
	if len(b) == 0 {
		return 0, nil
	}
	if k.read == k.length {
		return 0, io.EOF
	}
	b = b[:min(len(b), k.length-k.read)]
	for n := 0; n < len(b); {
		if k.at == len(k.cursor.data()) {
			k.cursor, k.at = k.cursor.next, 0
		}
		m := copy(b[n:], k.cursor.data()[k.at:])
		k.at += m
		n += m
	}
	k.read += len(b)
	return len(b), nil
}

// Rewind makes all bytes of the chain unread, so that after a failed send the owner
// has the whole packet again.
func (k *Packet) Rewind() {
	k.checkHeld("Rewind")
	k.read, k.cursor, k.at = 0, k, 0
}

// ReadAt copies bytes from the offset off, counted from the first byte of the chain,
// into b. It neither heeds nor moves the position of Read. It returns io.EOF if the
// chain ends before b is full; for an off that is negative or beyond the end, the
// error wraps ErrOffset.
func (k *Packet) ReadAt(b []byte, off int64) (int, error) {
	k.checkHeld("ReadAt")
	if off < 0 || off > int64(k.length) {
		return 0, fmt.Errorf("packetpool: read at offset %d: %w: the chain has %d bytes", off, ErrOffset, k.length)
	}
	skip, n := int(off), 0
	for q := k; q != nil && n < len(b); q = q.next {
		d := q.data()
		if skip >= len(d) {
			skip -= len(d)
			continue
		}
		n += copy(b[n:], d[skip:])
		skip = 0
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// Truncate cuts the chain to its first n bytes, read ones included. Packets that
// become empty stay in the chain and are the first that Append fills again. The
// position of Read moves back to the new end if it was beyond. The error wraps
// ErrOffset, and nothing is changed, if n is negative or more than the chain has.
func (k *Packet) Truncate(n int) error {
	k.checkHeld("Truncate")
	if n < 0 || n > k.length {
		return fmt.Errorf("packetpool: truncate to %d bytes: %w: the chain has %d", n, ErrOffset, k.length)
	}
	q, at := k.locate(n)
	q.end = q.start + at
	k.tail = q
	for r := q.next; r != nil; r = r.next {
		r.end = r.start
	}
	if k.read > n {
		k.read, k.cursor, k.at = n, q, at
	}
	k.grown(n - k.length)
	return nil
}

// locate returns the packet and the offset in its data at which n bytes of the chain,
// 0 to its length, end.
func (k *Packet) locate(n int) (q *Packet, at int) {
	for q = k; n > len(q.data()); q = q.next {
		n -= len(q.data())
	}
	return q, n
}

// Segments yields the unread bytes in order, one slice for each packet that has some.
// They are the packets' own memory: they may be written, and are valid until Release.
// Don't change the chain while ranging over it.
func (k *Packet) Segments() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		k.checkHeld("Segments")
		at := k.at
		for q := k.cursor; q != nil; q = q.next {
			if d := q.data()[at:]; len(d) > 0 && !yield(d) {
				return
			}
			at = 0
		}
	}
}

// Clone copies the chain, with its headroom and the position of Read, into packets of
// the pool to, which may be the same pool and may have another payload size. The
// caller owns the copy and still owns k.
//
// Clone waits as Allocate does for the first packet of the copy, and then needs the
// rest at once. It is all or nothing. To copy within one pool is to wait while holding
// a packet of it; give that wait a short limit.
//
// The error wraps ErrNoPacket (and context.Cause(ctx) after a wait), ErrClosed, or
// ErrHeadroom if the payload of to is too small for the headroom of k.
func (k *Packet) Clone(ctx context.Context, to *Pool) (*Packet, error) {
	k.checkHeld("Clone")
	c, err := to.Allocate(ctx, k.headroom)
	if err != nil {
		return nil, fmt.Errorf("packetpool: clone %d bytes: %w", k.length, err)
	}
	c.start, c.end = k.start, k.start // so that headers already prepended stay in the head
	if err := c.reserve(k.length); err != nil {
		c.Release()
		return nil, fmt.Errorf("packetpool: clone %d bytes: %w", k.length, err)
	}
	for q := k; q != nil; q = q.next {
		c.write(q.data())
	}
	c.cursor, c.at = c.locate(k.read)
	c.read = k.read
	return c, nil
}

// Release gives the packets of the chain back to their pool, each to the first who
// waits for one. The caller must not use k or its Segments afterwards.
//
// A second release is refused and counted in Stats.InvalidReleases, unless somebody
// else owns the packet by then, who would lose it. Under the build tag poolcheck it
// panics in either case, until the memory had 15 owners more, and names all places
// involved. Release of a nil packet panics.
func (k *Packet) Release() {
	if k == nil || k.pool == nil {
		panic("packetpool: Release of a packet that is nil or not from a pool; release only what Allocate returned without error")
	}
	at := callSite()
	if !k.pool.release(k, at) {
		k.refused("Release", at)
	}
}
