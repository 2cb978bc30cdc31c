package link

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// The Internet checksum (RFC 1071) is a sum of 16-bit words in one's complement. It
// can be taken in any byte order and over wider words. So the functions here add 64-bit
// little-endian words, carry included, and fold the result to 16 bits at the end;
// written back little-endian it is the checksum.

// Complete returns f with its partial checksum filled in, as one plain frame. A frame
// that has none to fill in comes back as it is, but for its Offload, which is zero in
// all frames that Complete returns. From a super-frame it makes one long frame,
// which suits a capture but no link; see [Split] for links.
//
// f is borrowed and remains as it was: the result's first bytes are a copy in s, the
// others are those of f. So it is valid until either of the two is used again. The
// error wraps ErrFrame: the checksum's place lies outside of the frame.
func (f *Frame) Complete(s *Scratch) (Frame, error) {
	if !f.Offload.NeedsChecksum {
		return Frame{Data: f.Data}, nil
	}
	if err := f.checkPartial(); err != nil {
		return Frame{}, err
	}
	start := int(f.Offload.ChecksumStart)
	field := start + int(f.Offload.ChecksumOffset)
	header := s.copyHeader(f, field+2)
	putChecksum(header[field:], f.sum(0, start, f.Len()), f.Offload.ChecksumOffset == udpChecksumOffset)
	s.pieces = append(s.pieces[:0], header)
	s.appendPieces(&cursor{data: f.Data}, field+2, f.Len())
	return Frame{Data: s.pieces}, nil
}

// checkPartial reports whether the checksum to fill in lies in the frame.
func (f *Frame) checkPartial() error {
	o := &f.Offload
	if o.ChecksumStart < EthernetHeaderLen {
		return fmt.Errorf("%w: checksum starts at byte %d, within the Ethernet header", ErrFrame, o.ChecksumStart)
	}
	if end := int(o.ChecksumStart) + int(o.ChecksumOffset) + 2; end > f.Len() {
		return fmt.Errorf("%w: checksum ends at byte %d of %d", ErrFrame, end, f.Len())
	}
	return nil
}

// VerifyChecksum reports whether the checksums of an IP packet are right: that of the
// IPv4 header and that of TCP, UDP (RFC 768, RFC 8200 section 8.1), ICMP or ICMPv6.
// It is true also where there is nothing to verify: in a frame that isn't IP, for other
// protocols, a fragment's transport, and UDP over IPv4 that was sent without. It is
// false for IP and transport headers that claim more bytes than there are.
//
// It looks at the bytes alone. A frame with Offload.NeedsChecksum is right by
// agreement, and not by its bytes.
func VerifyChecksum(f *Frame) (ok bool) {
	h, ok := f.Headers()
	if !ok {
		return h.Version == 0
	}
	if h.Version == 4 {
		var buf [1]byte
		b := f.peek(buf[:], h.Network)
		if fold(f.sum(0, h.Network, h.Network+int(b[0]&15)*4)) != 0xffff {
			return false
		}
	}
	if h.Fragment {
		return true
	}
	return f.verifyTransport(&h)
}

func (f *Frame) verifyTransport(h *Headers) bool {
	end := h.End
	switch {
	case h.Protocol == protoICMP && h.Version == 4:
		return end-h.Transport >= 4 && fold(f.sum(0, h.Transport, end)) == 0xffff
	case h.Protocol == protoICMPv6 && h.Version == 6:
		if end-h.Transport < 4 {
			return false
		}
	case h.Protocol == protoTCP:
	case h.Protocol == protoUDP:
		var buf [8]byte
		b := f.peek(buf[:], h.Transport)
		size := int(binary.BigEndian.Uint16(b[4:]))
		if size < 8 || size > end-h.Transport {
			return false
		}
		end = h.Transport + size
		if b[6] == 0 && b[7] == 0 {
			return h.Version == 4
		}
	default:
		return true
	}
	return fold(f.sum(f.pseudo(h, end-h.Transport), h.Transport, end)) == 0xffff
}

// pseudo is the sum of the pseudo-header (RFC 9293 section 3.1, RFC 8200 section
// 8.1) for n bytes of transport header and payload.
func (f *Frame) pseudo(h *Headers, n int) uint64 {
	var buf [32]byte
	addresses, off := buf[:8], h.Network+12
	if h.Version == 6 {
		addresses, off = buf[:], h.Network+8
	}
	var tail [8]byte
	tail[3] = h.Protocol
	binary.BigEndian.PutUint32(tail[4:], uint32(n))
	return sum(sum(0, f.peek(addresses, off)), tail[:])
}

// sum adds the bytes of f from off up to end to acc.
func (f *Frame) sum(acc uint64, off, end int) uint64 {
	odd := false
	for _, d := range f.Data {
		if off >= len(d) {
			off, end = off-len(d), end-len(d)
			continue
		}
		if end <= off {
			break
		}
		d = d[off:min(end, len(d))]
		acc = sumAt(acc, d, odd)
		odd = odd != (len(d)%2 == 1)
		end -= off + len(d)
		off = 0
	}
	return acc
}

// sumAt adds b to acc, b being at an odd distance from the first summand or not.
func sumAt(acc uint64, b []byte, odd bool) uint64 {
	if !odd {
		return sum(acc, b)
	}
	// In one's complement, swapping the bytes of each word is a rotation.
	s, carry := bits.Add64(acc, bits.RotateLeft64(sum(0, b), 8), 0)
	return s + carry
}

// sum adds b to acc.
func sum(acc uint64, b []byte) uint64 {
	var c uint64
	for len(b) >= 64 {
		p := b[:64]
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(p), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(p[8:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(p[16:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(p[24:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(p[32:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(p[40:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(p[48:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(p[56:]), c)
		b = b[64:]
	}
	for len(b) >= 8 {
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(b), c)
		b = b[8:]
	}
	var last uint64
	for i, v := range b {
		last |= uint64(v) << (8 * i)
	}
	acc, c = bits.Add64(acc, last, c)
	acc, c = bits.Add64(acc, 0, c)
	return acc + c
}

// fold reduces a sum to 16 bits.
func fold(acc uint64) uint16 {
	acc = acc>>32 + acc&0xffffffff
	acc = acc>>16 + acc&0xffff
	acc = acc>>16 + acc&0xffff
	acc = acc>>16 + acc&0xffff
	return uint16(acc)
}

// putChecksum writes the checksum for a sum to b. In UDP a zero means "none", so
// there it is written as 0xffff, which is the same number (RFC 768).
func putChecksum(b []byte, acc uint64, udp bool) {
	c := ^fold(acc)
	if c == 0 && udp {
		c = 0xffff
	}
	binary.LittleEndian.PutUint16(b, c)
}
