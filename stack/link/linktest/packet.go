package linktest

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/duotap/duotap/stack/link"
)

// TCP flags, for [Flow.TCP].
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
	ECE
	CWR
)

const (
	tcpHeaderLen = 20
	udpHeaderLen = 8
)

// Flow makes the frames of one direction of a conversation between two addresses of
// the same family.
type Flow struct {
	SrcMAC, DstMAC [6]byte
	Src, Dst       netip.AddrPort
}

// Reverse is the other direction.
func (fl Flow) Reverse() Flow {
	return Flow{SrcMAC: fl.DstMAC, DstMAC: fl.SrcMAC, Src: fl.Dst, Dst: fl.Src}
}

// TCP makes a frame with a TCP segment, its checksums complete.
func (fl Flow) TCP(seq uint32, flags uint8, payload []byte) []byte {
	t := make([]byte, tcpHeaderLen, tcpHeaderLen+len(payload))
	binary.BigEndian.PutUint16(t[0:], fl.Src.Port())
	binary.BigEndian.PutUint16(t[2:], fl.Dst.Port())
	binary.BigEndian.PutUint32(t[4:], seq)
	t[12] = tcpHeaderLen / 4 << 4
	t[13] = flags
	binary.BigEndian.PutUint16(t[14:], 0xffff) // window
	return fl.packet(6, 16, append(t, payload...))
}

// UDP makes a frame with a UDP datagram, its checksums complete.
func (fl Flow) UDP(payload []byte) []byte {
	u := make([]byte, udpHeaderLen, udpHeaderLen+len(payload))
	binary.BigEndian.PutUint16(u[0:], fl.Src.Port())
	binary.BigEndian.PutUint16(u[2:], fl.Dst.Port())
	binary.BigEndian.PutUint16(u[4:], uint16(udpHeaderLen+len(payload)))
	return fl.packet(17, 6, append(u, payload...))
}

// Echo makes a frame with an ICMP or ICMPv6 echo request, its checksums complete.
func (fl Flow) Echo(payload []byte) []byte {
	m := append([]byte{8, 0, 0, 0, 0, 1, 0, 1}, payload...)
	if fl.Src.Addr().Is4() {
		return fl.packet(1, 2, m)
	}
	m[0] = 128
	return fl.packet(58, 2, m)
}

// packet puts Ethernet and IP headers before a transport header and payload, and the
// checksum at byte field of it.
func (fl Flow) packet(protocol uint8, field int, transport []byte) []byte {
	acc := uint32(0)
	if protocol != 1 {
		acc = fl.pseudo(protocol, len(transport))
	}
	c := ^wordSum(acc, transport)
	if c == 0 && protocol == 17 {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(transport[field:], c)

	frame := slices.Concat(fl.DstMAC[:], fl.SrcMAC[:])
	src, dst := fl.Src.Addr().AsSlice(), fl.Dst.Addr().AsSlice()
	if fl.Src.Addr().Is4() {
		ip := make([]byte, 12, 20)
		ip[0] = 0x45
		binary.BigEndian.PutUint16(ip[2:], uint16(20+len(transport)))
		ip[4], ip[5] = 0x12, 0x34 // identification
		ip[8], ip[9] = 64, protocol
		ip = slices.Concat(ip, src, dst)
		binary.BigEndian.PutUint16(ip[10:], ^wordSum(0, ip))
		return slices.Concat(frame, []byte{0x08, 0x00}, ip, transport)
	}
	ip := make([]byte, 8, 40)
	ip[0] = 0x60
	binary.BigEndian.PutUint16(ip[4:], uint16(len(transport)))
	ip[6], ip[7] = protocol, 64
	return slices.Concat(frame, []byte{0x86, 0xdd}, ip, src, dst, transport)
}

func (fl Flow) pseudo(protocol uint8, n int) uint32 {
	b := slices.Concat(fl.Src.Addr().AsSlice(), fl.Dst.Addr().AsSlice(), []byte{0, protocol})
	return uint32(wordSum(0, b)) + uint32(n)
}

// wordSum is the sum of RFC 1071, word for word: slow, and there to check the fast
// ones.
func wordSum(acc uint32, b []byte) uint16 {
	for i, v := range b {
		if i%2 == 0 {
			acc += uint32(v) << 8
		} else {
			acc += uint32(v)
		}
		acc = acc>>16 + acc&0xffff
	}
	return uint16(acc>>16 + acc&0xffff)
}

// Partial takes a frame that Flow.TCP or Flow.UDP made, and returns it as one whose
// checksum is partial: NeedsChecksum, and the pseudo-header's sum in its place.
func (fl Flow) Partial(frame []byte) link.Frame {
	frame = slices.Clone(frame)
	start := link.EthernetHeaderLen + 20
	protocol := frame[23]
	if fl.Src.Addr().Is6() {
		start = link.EthernetHeaderLen + 40
		protocol = frame[20]
	}
	offset := 16
	switch protocol {
	case 6:
	case 17:
		offset = 6
	default:
		panic(fmt.Sprintf("linktest: a partial checksum in protocol %d", protocol))
	}
	acc := fl.pseudo(protocol, len(frame)-start)
	binary.BigEndian.PutUint16(frame[start+offset:], uint16(acc>>16+acc&0xffff))
	return link.Frame{Data: [][]byte{frame}, Offload: link.Offload{
		NeedsChecksum:  true,
		ChecksumStart:  uint16(start),
		ChecksumOffset: uint16(offset),
	}}
}

// Super takes a frame that Flow.TCP or Flow.UDP made, of any length, and returns it
// as a super-frame with segments of size bytes of payload.
func (fl Flow) Super(frame []byte, size int) link.Frame {
	f := fl.Partial(frame)
	o := &f.Offload
	o.SegmentSize = uint16(size)
	switch {
	case o.ChecksumOffset == 6:
		o.Segment, o.HeaderLen = link.SegmentUDP, o.ChecksumStart+udpHeaderLen
	case fl.Src.Addr().Is4():
		o.Segment, o.HeaderLen = link.SegmentTCP4, o.ChecksumStart+tcpHeaderLen
	default:
		o.Segment, o.HeaderLen = link.SegmentTCP6, o.ChecksumStart+tcpHeaderLen
	}
	return f
}

// Bytes is a copy of a frame's bytes in one piece.
func Bytes(f *link.Frame) []byte {
	b := make([]byte, f.Len())
	f.CopyAt(b, 0)
	return b
}

// Scatter cuts b into pieces of n bytes, the last may be shorter, with an empty piece
// in front.
func Scatter(b []byte, n int) [][]byte {
	return append([][]byte{{}}, slices.Collect(slices.Chunk(b, n))...)
}
