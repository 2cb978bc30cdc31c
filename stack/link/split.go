package link

import "encoding/binary"

// TCP flags that segments of one super-frame don't share.
const (
	tcpFIN = 0x01
	tcpPSH = 0x08
	tcpCWR = 0x80
)

// Scratch is the memory that [Split] and [Frame.Complete] make frames in. Its zero
// value is ready; it grows to what the frames need, and then there are no further
// allocations. A Scratch is for one goroutine at a time, and each use of it
// invalidates the frames of the one before.
type Scratch struct {
	header []byte
	pieces [][]byte
}

// copyHeader copies the first n bytes of f to s.
func (s *Scratch) copyHeader(f *Frame, n int) []byte {
	if cap(s.header) < n {
		s.header = make([]byte, max(n, 256))
	}
	s.header = s.header[:n]
	f.CopyAt(s.header, 0)
	return s.header
}

// appendPieces appends the bytes from off to end that c walks along.
func (s *Scratch) appendPieces(c *cursor, off, end int) {
	for off < end {
		p := c.piece(off, end)
		s.pieces = append(s.pieces, p)
		off += len(p)
	}
}

// cursor finds pieces of a scatter list at offsets that only grow.
type cursor struct {
	data  [][]byte
	start int // offset of data[0]
}

// piece returns the bytes from off on that lie together, no further than end.
func (c *cursor) piece(off, end int) []byte {
	for off-c.start >= len(c.data[0]) {
		c.start += len(c.data[0])
		c.data = c.data[1:]
	}
	return c.data[0][off-c.start : min(end-c.start, len(c.data[0]))]
}

// Split cuts f into plain frames and calls emit with each, in order. Of a TCP
// super-frame each segment has its own sequence number, and FIN, PSH (RFC 9293) and
// CWR (RFC 3168) where they belong; of a UDP one each segment is a datagram. IPv4
// identifications count up, and all lengths and checksums are right. A frame that is
// no super-frame has its partial checksum completed, if it has one, and is emitted.
//
// A frame is borrowed until emit returns: its headers are in s, its payload is that
// of f. Split ends with the first error from emit and returns it; an error of its own
// wraps ErrFrame: the offload fields contradict the bytes.
func Split(f *Frame, s *Scratch, emit func(Frame) error) error {
	if f.Offload.Segment == NoSegmentation {
		plain, err := f.Complete(s)
		if err != nil {
			return err
		}
		return emit(plain)
	}
	h, err := f.checkSegmentation()
	if err != nil {
		return err
	}
	payload := cursor{data: f.Data}
	size := int(f.Offload.SegmentSize)
	for i, off := 0, h.Payload; off < h.End; i, off = i+1, off+size {
		end := min(off+size, h.End)
		s.pieces = append(s.pieces[:0], s.copyHeader(f, h.Payload))
		s.appendPieces(&payload, off, end)
		segment := Frame{Data: s.pieces}
		segment.rewrite(&h, i, off, end)
		if err := emit(segment); err != nil {
			return err
		}
	}
	return nil
}

// rewrite makes the headers of a super-frame, which are the first piece of f, those
// of its segment number i, with the payload from byte off to end of the super-frame.
func (f *Frame) rewrite(h *Headers, i, off, end int) {
	header := f.Data[0]
	ip, transport := header[h.Network:], header[h.Transport:]
	size := h.Payload + end - off
	if h.Version == 4 {
		binary.BigEndian.PutUint16(ip[2:], uint16(size-h.Network))
		binary.BigEndian.PutUint16(ip[4:], binary.BigEndian.Uint16(ip[4:])+uint16(i))
		ip[10], ip[11] = 0, 0
		putChecksum(ip[10:], sum(0, header[h.Network:h.Transport]), false)
	} else {
		binary.BigEndian.PutUint16(ip[4:], uint16(size-h.Network-40))
	}

	field := transport[udpChecksumOffset:][:2]
	if h.Protocol == protoTCP {
		field = transport[tcpChecksumOffset:][:2]
		seq := binary.BigEndian.Uint32(transport[4:]) + uint32(off-h.Payload)
		binary.BigEndian.PutUint32(transport[4:], seq)
		if i > 0 {
			transport[13] &^= tcpCWR
		}
		if end < h.End {
			transport[13] &^= tcpFIN | tcpPSH
		}
	} else {
		binary.BigEndian.PutUint16(transport[4:], uint16(size-h.Transport))
	}
	field[0], field[1] = 0, 0
	putChecksum(field, f.sum(f.pseudo(h, size-h.Transport), h.Transport, size), h.Protocol == protoUDP)
}
