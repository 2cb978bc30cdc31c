package pcapng

import (
	"encoding/binary"

	"github.com/duotap/duotap/stack/link"
)

const (
	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58

	minIPv4Header = 20
	minIPv6Header = 40
	minTCPHeader  = 20

	tcpChecksumOffset  = 16
	icmpChecksumOffset = 2
	icmpHeaderLen      = 8
)

// Comments on a frame with bytes overwritten.
const (
	noticeSecret = "credentials blanked"
	noticeDoubt  = "blanked, as it may hold credentials"
)

// blanker overwrites credentials in frames. It sees each frame once, in order.
type blanker struct {
	flows flowTable
	piece [1][]byte // the frame, as link.Frame wants it
}

func newBlanker(maxFlows int) *blanker {
	return &blanker{flows: flowTable{max: maxFlows}}
}

// blank overwrites the credentials in data, a frame with its checksum complete, and
// keeps the checksum as right as it was. verified: it is known to be right. It
// returns a comment if there is something to say.
func (b *blanker) blank(iface uint32, data []byte, verified bool) (notice string) {
	b.piece[0] = data
	f := link.Frame{Data: b.piece[:]}
	h, ok := f.Headers()
	e := eraser{data: data, base: h.Transport}
	switch {
	case h.Version == 0:
	case !ok:
		return e.malformed(&h)
	case h.Protocol == protoICMP || h.Protocol == protoICMPv6:
		return e.quoted(&h)
	case h.Protocol == protoTCP && h.Fragment:
		return e.fragment(&h)
	case h.Protocol == protoTCP:
		return b.segment(iface, &f, &h, &e, verified)
	}
	return ""
}

// segment blanks what the flow of a TCP segment says is secret.
func (b *blanker) segment(iface uint32, f *link.Frame, h *link.Headers, e *eraser, verified bool) string {
	s := parseSegment(e.data, h)
	if len(s.payload) == 0 && s.flags&flagSYN == 0 {
		return ""
	}
	key, dir := flowKeyOf(iface, e.data, h)
	s.dir = dir
	s.damaged = !verified && !link.VerifyChecksum(f)
	flow := b.flows.get(key)
	from := h.Payload
	pos, doubt := flow.take(&s)
	if doubt {
		e.erase(from, h.End)
	}
	if flow.mayBeClient(dir) {
		flow.half[dir].secrets.each(pos, pos+int64(len(s.payload)), func(lo, hi int64) {
			e.erase(from+int(lo-pos), from+int(hi-pos))
		})
	}
	e.fixChecksum(h.Transport + tcpChecksumOffset)
	switch {
	case e.erased == 0:
		return ""
	case doubt || flow.half[dir].client.unsure:
		return noticeDoubt
	}
	return noticeSecret
}

// eraser overwrites bytes of a frame, and keeps account of what that does to the
// checksum.
type eraser struct {
	data   []byte
	base   int   // where what the checksum covers begins
	delta  int64 // what has been added to the sum of 16-bit words
	erased int
}

// erase overwrites the bytes from one offset up to another. Line ends remain.
func (e *eraser) erase(from, to int) {
	for i := from; i < to; i++ {
		old := e.data[i]
		if old == '\r' || old == '\n' {
			continue
		}
		d := int64('*') - int64(old)
		if (i-e.base)%2 == 0 {
			d <<= 8
		}
		e.delta += d
		e.data[i] = '*'
		e.erased++
	}
}

// fixChecksum updates the checksum at an offset (RFC 1624). A right one remains
// right, a wrong one as wrong as it was.
func (e *eraser) fixChecksum(at int) {
	if e.erased == 0 {
		return
	}
	field := e.data[at : at+2]
	sum := (int64(^binary.BigEndian.Uint16(field)) + e.delta) % 0xffff
	if sum <= 0 {
		sum += 0xffff // in one's complement, a sum of anything is never +0
	}
	binary.BigEndian.PutUint16(field, ^uint16(sum))
}

// malformed blanks what may be the payload of TCP in an IP packet that can't be
// parsed.
func (e *eraser) malformed(h *link.Headers) string {
	switch h.Protocol {
	case protoUDP, protoICMP, protoICMPv6:
		return ""
	}
	headers := minIPv4Header
	if h.Version == 6 {
		headers = minIPv6Header
	}
	return e.doubt(h.Network+headers+minTCPHeader, len(e.data))
}

// fragment blanks the payload of TCP in a fragment: which connection later ones
// belong to isn't in them. There is no checksum to keep.
func (e *eraser) fragment(h *link.Headers) string {
	from := h.Transport
	if e.isFirstFragment(h) {
		from += minTCPHeader
	}
	return e.doubt(from, h.End)
}

func (e *eraser) isFirstFragment(h *link.Headers) bool {
	if h.Version == 4 {
		return binary.BigEndian.Uint16(e.data[h.Network+6:])&0x1fff == 0
	}
	// The fragment header is the last of the skipped ones, and has eight bytes.
	return binary.BigEndian.Uint16(e.data[h.Transport-6:])&0xfff8 == 0
}

// quoted blanks the payload of TCP in what an ICMP error quotes: the beginning of
// the packet that it is about (RFC 792, RFC 4443 section 3).
func (e *eraser) quoted(h *link.Headers) string {
	packet := h.Transport + icmpHeaderLen
	if packet >= h.End || !isError(h, e.data[h.Transport]) {
		return ""
	}
	from := quotedPayload(e.data[packet:h.End])
	if from < 0 {
		return ""
	}
	notice := e.doubt(packet+from, h.End)
	e.fixChecksum(h.Transport + icmpChecksumOffset)
	return notice
}

func isError(h *link.Headers, icmpType byte) bool {
	if h.Protocol == protoICMPv6 {
		return icmpType < 128
	}
	switch icmpType {
	case 3, 4, 5, 11, 12:
		return true
	}
	return false
}

// quotedPayload is the offset of TCP payload in the beginning of an IP packet, which
// may be cut anywhere; -1 if it isn't TCP.
func quotedPayload(b []byte) int {
	transport := 0
	switch {
	case len(b) >= minIPv4Header && b[0]>>4 == 4 && b[9] == protoTCP:
		transport = int(b[0]&15) * 4
		if binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
			return transport // a later fragment
		}
	case len(b) >= minIPv6Header && b[0]>>4 == 6 && b[6] == protoTCP:
		transport = minIPv6Header
	case len(b) >= minIPv6Header && b[0]>>4 == 6 && b[6] != protoUDP && b[6] != protoICMPv6:
		return minIPv6Header // behind other headers, perhaps
	default:
		return -1
	}
	size := minTCPHeader
	if len(b) > transport+12 {
		size = max(size, int(b[transport+12]>>4)*4)
	}
	return transport + size
}

func (e *eraser) doubt(from, to int) string {
	e.erase(from, to)
	if e.erased == 0 {
		return ""
	}
	return noticeDoubt
}
