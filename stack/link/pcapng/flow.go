package pcapng

import (
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/duotap/duotap/stack/link"
)

// TCP flags.
const (
	flagSYN = 0x02
	flagACK = 0x10
)

// maxFlows is how many TCP connections are followed at a time, in all interfaces of
// a capture. Each takes about a kilobyte.
const maxFlows = 4096

// segment is a TCP segment.
type segment struct {
	dir      int // 0 or 1
	seq, ack uint32
	flags    byte
	payload  []byte
	damaged  bool // its checksum is wrong
}

func parseSegment(data []byte, h *link.Headers) segment {
	t := data[h.Transport:]
	return segment{
		seq:     binary.BigEndian.Uint32(t[4:]),
		ack:     binary.BigEndian.Uint32(t[8:]),
		flags:   t[13],
		payload: data[h.Payload:h.End],
	}
}

// flowKey identifies a TCP connection. Interfaces may be in networks that use the
// same addresses.
type flowKey struct {
	iface     uint32
	version   uint8
	low, high endpoint
}

type endpoint struct {
	addr [16]byte
	port uint16
}

func (e *endpoint) compare(o *endpoint) int {
	if c := slices.Compare(e.addr[:], o.addr[:]); c != 0 {
		return c
	}
	return cmp.Compare(e.port, o.port)
}

// flowKeyOf returns the key of a segment's connection, and its direction there.
func flowKeyOf(iface uint32, data []byte, h *link.Headers) (key flowKey, dir int) {
	var src, dst endpoint
	if h.Version == 4 {
		copy(src.addr[:], data[h.Network+12:h.Network+16])
		copy(dst.addr[:], data[h.Network+16:h.Network+20])
	} else {
		copy(src.addr[:], data[h.Network+8:h.Network+24])
		copy(dst.addr[:], data[h.Network+24:h.Network+40])
	}
	src.port = binary.BigEndian.Uint16(data[h.Transport:])
	dst.port = binary.BigEndian.Uint16(data[h.Transport+2:])
	if src.compare(&dst) <= 0 {
		return flowKey{iface, h.Version, src, dst}, 0
	}
	return flowKey{iface, h.Version, dst, src}, 1
}

// flowTable holds the connections seen last. Its zero value with a max is ready.
type flowTable struct {
	max            int
	flows          map[flowKey]*flow
	newest, oldest *flow

	// forgotten: an exchange under way had to be forgotten. What looks like the
	// beginning of a connection may be the middle of that one.
	forgotten bool
}

// get returns the flow with a key, a new one if there is none.
func (t *flowTable) get(key flowKey) *flow {
	f := t.flows[key]
	switch {
	case f == t.newest && f != nil:
		return f
	case f != nil:
		t.unlink(f)
	default:
		f = t.add(key)
	}
	t.link(f)
	return f
}

// add makes a flow, of the memory of an old one if the table is full.
func (t *flowTable) add(key flowKey) *flow {
	var f *flow
	if len(t.flows) < t.max {
		f = new(flow)
	} else {
		f = t.victim()
		t.unlink(f)
		delete(t.flows, f.key)
	}
	*f = flow{key: key, client: unknown, suspect: t.forgotten}
	if t.flows == nil {
		t.flows = make(map[flowKey]*flow)
	}
	t.flows[key] = f
	return f
}

// victim chooses the flow to forget: the oldest one, but rather none with an
// exchange under way. Those that it passes over become the newest.
func (t *flowTable) victim() *flow {
	for range min(16, t.max-1) {
		f := t.oldest
		if !f.inExchange() {
			return f
		}
		t.unlink(f)
		t.link(f)
	}
	t.forgotten = t.forgotten || t.oldest.inExchange()
	return t.oldest
}

func (t *flowTable) unlink(f *flow) {
	if f.newer != nil {
		f.newer.older = f.older
	} else {
		t.newest = f.older
	}
	if f.older != nil {
		f.older.newer = f.newer
	} else {
		t.oldest = f.newer
	}
	f.newer, f.older = nil, nil
}

// link makes f the newest.
func (t *flowTable) link(f *flow) {
	f.older = t.newest
	if t.newest != nil {
		t.newest.newer = f
	} else {
		t.oldest = f
	}
	t.newest = f
}

// stream numbers the bytes of one direction of a connection. The numbers don't wrap
// around as sequence numbers do (RFC 9293, section 3.4).
type stream struct {
	known   bool
	fromSYN bool   // it has been followed from its first byte on
	isn     uint32 // if so
	next    int64  // what follows the last byte seen
}

// begin makes seq the number of the next byte.
func (s *stream) begin(seq uint32) {
	s.known, s.next = true, 1<<32|int64(seq)
}

// position is the number of the byte with sequence number seq, that one which is
// closest to the next byte; 0 in a stream that isn't known.
func (s *stream) position(seq uint32) int64 {
	if !s.known {
		return 0
	}
	return s.next + int64(int32(seq-uint32(s.next)))
}

// span is a range of a stream.
type span struct{ from, to int64 }

// spans remembers which bytes of a stream were secret, for when they are
// retransmitted. There is room for a few ranges, with a line or an exchange in each.
type spans struct {
	before int64 // whatever comes before this may be secret, too
	ranges [8]span
	n      int
}

// add adds a range, which usually follows the last one.
func (s *spans) add(from, to int64) {
	if from >= to {
		return
	}
	if s.n > 0 && s.ranges[s.n-1].to == from {
		s.ranges[s.n-1].to = to
		return
	}
	if s.n == len(s.ranges) {
		s.before = max(s.before, s.ranges[0].to)
		s.n = copy(s.ranges[:], s.ranges[1:])
	}
	s.ranges[s.n] = span{from, to}
	s.n++
}

// cut forgets what is secret from a byte on, because that will be seen again.
func (s *spans) cut(from int64) {
	for s.n > 0 && s.ranges[s.n-1].from >= from {
		s.n--
	}
	if s.n > 0 {
		last := &s.ranges[s.n-1]
		last.to = min(last.to, from)
	}
}

// each calls f with what is secret of a range.
func (s *spans) each(from, to int64, f func(from, to int64)) {
	if from < s.before {
		f(from, min(to, s.before))
	}
	for _, r := range s.ranges[:s.n] {
		if lo, hi := max(from, r.from), min(to, r.to); lo < hi {
			f(lo, hi)
		}
	}
}
