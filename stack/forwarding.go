package stack

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// What a router has to do and gVisor doesn't.

// expire makes the last hop of a packet that came with one more, if it isn't for us:
// gVisor would send it on with none, where RFC 1812 §5.3.1 and RFC 8200 §3 end it. b is a
// frame that has passed the filter.
func (e *endpoint) expire(proto tcpip.NetworkProtocolNumber, b []byte) {
	b = b[header.EthernetMinimumSize:]
	switch proto {
	case header.IPv4ProtocolNumber:
		if ip := header.IPv4(b); ip.TTL() == 1 && !e.l.i.hears(toAddr(ip.DestinationAddress())) {
			ip.SetTTL(0)
			ip.SetChecksum(checksum.Combine(ip.Checksum(), 0x0100)) // TTL is the upper half of its word
		}
	case header.IPv6ProtocolNumber:
		if ip := header.IPv6(b); ip.HopLimit() == 1 && !e.l.i.hears(toAddr(ip.DestinationAddress())) {
			ip.SetHopLimit(0)
		}
	}
}

// tellMTU completes a Packet Too Big message (RFC 4443 §3.2): gVisor leaves out how big
// would be right, and its sender would go down to single bytes.
func (e *endpoint) tellMTU(pkt *gstack.PacketBuffer) {
	icmp := header.ICMPv6(pkt.TransportHeader().Slice())
	if pkt.TransportProtocolNumber != header.ICMPv6ProtocolNumber || len(icmp) < header.ICMPv6HeaderSize ||
		icmp.Type() != header.ICMPv6PacketTooBig || icmp.MTU() != 0 {
		return
	}
	offending, ok := pkt.Data().PullUp(header.IPv6MinimumSize)
	if !ok {
		return
	}
	mtu := e.l.i.mtuTo(header.IPv6(offending).DestinationAddress())
	var field [4]byte
	binary.BigEndian.PutUint32(field[:], mtu)
	icmp.SetTypeSpecific(mtu)
	icmp.SetChecksum(^checksum.Checksum(field[:], ^icmp.Checksum()))
}

// mtuTo is the MTU of the link that packets to dst are forwarded to.
func (i *Instance) mtuTo(dst tcpip.Address) uint32 {
	mtu := uint32(header.IPv6MinimumMTU)
	for _, l := range i.links {
		for _, r := range l.routes() {
			switch {
			case !r.Destination.Contains(dst):
			case r.Gateway.Len() == 0:
				return l.endpoint.mtu
			default:
				mtu = l.endpoint.mtu
			}
		}
	}
	return mtu
}

// markChecksum flags a mark that holds a checksum.
const markChecksum = 1 << 16

// checksumMark is a mark with the transport checksum of a frame that may be forwarded:
// gVisor makes a new one for each packet that it forwards, which hides damage done on the
// way, and for fragments too, where it does damage. A packet keeps its mark when it is
// forwarded. b is a frame that has passed the filter.
func checksumMark(proto tcpip.NetworkProtocolNumber, b []byte) uint32 {
	at, transport := header.EthernetMinimumSize, uint8(0)
	switch proto {
	case header.IPv4ProtocolNumber:
		ip := header.IPv4(b[at:])
		at, transport = at+int(ip.HeaderLength()), ip.Protocol()
	case header.IPv6ProtocolNumber:
		ip := header.IPv6(b[at:])
		at, transport = at+header.IPv6MinimumSize, ip.NextHeader()
	}
	offset, ok := checksumOffset(tcpip.TransportProtocolNumber(transport))
	if at += offset; !ok || at+2 > len(b) {
		return 0
	}
	return markChecksum | uint32(binary.BigEndian.Uint16(b[at:]))
}

// restoreChecksum puts the checksum that a forwarded packet came with back.
func restoreChecksum(pkt *gstack.PacketBuffer) {
	if !pkt.NetworkPacketInfo.IsForwardedPacket || pkt.Mark&markChecksum == 0 {
		return
	}
	at, ok := checksumOffset(pkt.TransportProtocolNumber)
	if t := pkt.TransportHeader().Slice(); ok && at+2 <= len(t) {
		binary.BigEndian.PutUint16(t[at:], uint16(pkt.Mark))
	}
}

// checksumOffset is where a transport header has its checksum.
func checksumOffset(t tcpip.TransportProtocolNumber) (offset int, ok bool) {
	switch t {
	case header.TCPProtocolNumber:
		return header.TCPChecksumOffset, true
	case header.UDPProtocolNumber:
		return 6, true
	}
	return 0, false
}
