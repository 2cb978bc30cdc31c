package link

import "encoding/binary"

// EtherTypes and IP protocols that this package knows.
const (
	etherIPv4   = 0x0800
	etherIPv6   = 0x86DD
	etherVLAN   = 0x8100 // IEEE 802.1Q
	etherVLANQQ = 0x88A8 // IEEE 802.1ad

	protoICMP     = 1
	protoTCP      = 6
	protoUDP      = 17
	protoICMPv6   = 58
	protoHopByHop = 0
	protoRouting  = 43
	protoFragment = 44
	protoDestOpts = 60

	tcpChecksumOffset = 16
	udpChecksumOffset = 6
)

// maxExtensions bounds the walk along the extension headers of an IPv6 packet. RFC
// 8200, section 4.1, has seven in its recommended order.
const maxExtensions = 8

// Headers says where the headers of an IP packet are in its frame, as byte offsets
// from the start of the frame.
type Headers struct {
	// Version is 4 or 6, and 0 for a frame whose EtherType isn't IP.
	Version uint8

	// Protocol is the IP protocol of what begins at Transport. IPv6 hop-by-hop,
	// destination and finished routing headers (RFC 8200, section 4) have been
	// skipped.
	Protocol uint8

	// Fragment: the packet is a piece of a bigger one. Only the first has a transport
	// header, and none has all of what the transport checksum covers.
	Fragment bool

	Network   int // the IP header
	Transport int // what follows it
	Payload   int // behind the TCP or UDP header; same as Transport for the others
	End       int // one past the last byte of the IP packet; what follows is padding
}

// Headers finds the headers of the IP packet in f, behind up to two VLAN tags. ok is
// false when there is none, or when its headers are cut short or claim more bytes
// than there are; Version tells the former from the latter.
func (f *Frame) Headers() (h Headers, ok bool) {
	var buf [4]byte
	off := EthernetHeaderLen - 2
	for range 3 {
		b := f.peek(buf[:2], off)
		if b == nil {
			return h, false
		}
		off += 2
		switch binary.BigEndian.Uint16(b) {
		case etherIPv4:
			h.Version, h.Network = 4, off
			ok = f.parseIPv4(&h) && f.parseTransport(&h)
			return h, ok
		case etherIPv6:
			h.Version, h.Network = 6, off
			ok = f.parseIPv6(&h) && f.parseTransport(&h)
			return h, ok
		case etherVLAN, etherVLANQQ:
			off += 2
		default:
			return h, false
		}
	}
	return h, false
}

func (f *Frame) parseIPv4(h *Headers) bool {
	var buf [20]byte
	b := f.peek(buf[:], h.Network)
	if b == nil || b[0]>>4 != 4 {
		return false
	}
	headerLen, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	h.Transport, h.End = h.Network+headerLen, h.Network+total
	h.Protocol = b[9]
	h.Fragment = binary.BigEndian.Uint16(b[6:])&0x3fff != 0 // more fragments, or an offset
	return headerLen >= 20 && total >= headerLen && h.End <= f.Len()
}

func (f *Frame) parseIPv6(h *Headers) bool {
	var buf [40]byte
	b := f.peek(buf[:], h.Network)
	if b == nil || b[0]>>4 != 6 {
		return false
	}
	h.Transport = h.Network + 40
	h.End = h.Transport + int(binary.BigEndian.Uint16(b[4:]))
	h.Protocol = b[6]
	return h.End <= f.Len() && f.skipExtensions(h)
}

// skipExtensions moves h past extension headers, up to the first one that hides
// what follows: that of a fragment, or of a route with stops to go, whose packet
// has a checksum over an address that isn't in its IP header.
func (f *Frame) skipExtensions(h *Headers) bool {
	var buf [8]byte
	for range maxExtensions {
		switch h.Protocol {
		case protoHopByHop, protoDestOpts, protoRouting, protoFragment:
		default:
			return true
		}
		b := f.peek(buf[:], h.Transport)
		if b == nil {
			return false
		}
		size := 8 + int(b[1])*8
		switch h.Protocol {
		case protoRouting:
			if b[3] != 0 {
				return true
			}
		case protoFragment:
			size = 8
			h.Fragment = binary.BigEndian.Uint16(b[2:])&0xfff9 != 0
		}
		h.Protocol = b[0]
		h.Transport += size
		if h.Transport > h.End {
			return false
		}
		if h.Fragment {
			return true
		}
	}
	return false
}

func (f *Frame) parseTransport(h *Headers) bool {
	h.Payload = h.Transport
	if h.Fragment {
		return true
	}
	switch h.Protocol {
	case protoTCP:
		var buf [20]byte
		b := f.peek(buf[:], h.Transport)
		if b == nil || b[12]>>4 < 5 {
			return false
		}
		h.Payload += int(b[12]>>4) * 4
	case protoUDP:
		h.Payload += 8
	}
	return h.Payload <= h.End
}

// peek returns len(buf) bytes of f at off: a view of them where they lie together in
// the first piece, otherwise a copy in buf; nil if the frame ends before.
func (f *Frame) peek(buf []byte, off int) []byte {
	if len(f.Data) > 0 && off+len(buf) <= len(f.Data[0]) {
		return f.Data[0][off : off+len(buf)]
	}
	if f.CopyAt(buf, off) < len(buf) {
		return nil
	}
	return buf
}
