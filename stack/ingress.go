package stack

import (
	"encoding/binary"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/duotap/duotap/stack/link"
)

// filterBytes is how much of a frame the filter looks at in one piece: Ethernet, the
// longest IPv4 header and the part of ICMP it needs.
const filterBytes = header.EthernetMinimumSize + header.IPv4MaximumHeaderSize + 24

// filter looks at a received frame before the stack does. It returns the frame's
// protocol and whom it was addressed to, or the counter of the reason for dropping it.
func (e *endpoint) filter(f *link.Frame, n int) (tcpip.NetworkProtocolNumber, tcpip.PacketType, *atomic.Uint64) {
	c := &e.l.stats
	var buf [filterBytes]byte
	head := buf[:f.CopyAt(buf[:], 0)]
	if len(head) < header.EthernetMinimumSize {
		return 0, 0, &c.malformed
	}
	if f.Offload.Segment == link.NoSegmentation {
		if n > int(e.mtu)+link.EthernetHeaderLen {
			return 0, 0, &c.malformed
		}
	} else if f.Check(int(e.mtu), e.features.Gives) != nil {
		return 0, 0, &c.malformed
	}
	eth := header.Ethernet(head)
	kind, ours := e.addressedTo(eth.DestinationAddress())
	if !ours {
		return 0, 0, &c.foreign
	}
	proto, rest := eth.Type(), head[header.EthernetMinimumSize:]
	switch proto {
	case header.ARPProtocolNumber:
		e.l.checkARP(rest)
	case header.IPv4ProtocolNumber:
		return proto, kind, e.filterIPv4(f, rest)
	case header.IPv6ProtocolNumber:
		return proto, kind, e.filterIPv6(f, rest, eth.SourceAddress())
	default:
		return 0, 0, &c.unknown
	}
	return proto, kind, nil
}

func (e *endpoint) addressedTo(dst tcpip.LinkAddress) (kind tcpip.PacketType, ours bool) {
	switch {
	case dst == e.mac:
		return tcpip.PacketHost, true
	case dst == header.EthernetBroadcastAddress:
		return tcpip.PacketBroadcast, true
	case header.IsMulticastEthernetAddress(dst):
		return tcpip.PacketMulticast, true
	default:
		return tcpip.PacketOtherHost, false
	}
}

func (e *endpoint) filterIPv4(f *link.Frame, b []byte) *atomic.Uint64 {
	ip := header.IPv4(b)
	if len(b) < header.IPv4MinimumSize || int(ip.HeaderLength()) < header.IPv4MinimumSize || int(ip.HeaderLength()) > len(b) {
		return &e.l.stats.malformed
	}
	if e.features.Gives.Has(link.Checksum) && !e.verified(f, ip) {
		return &e.l.stats.checksum
	}
	icmp := b[ip.HeaderLength():]
	if ip.TransportProtocol() == header.ICMPv4ProtocolNumber && ip.FragmentOffset() == 0 &&
		len(icmp) > 0 && header.ICMPv4Type(icmp[0]) == header.ICMPv4Echo && !e.takesEcho(ip.DestinationAddress()) {
		return &e.l.stats.echo
	}
	return nil
}

func (e *endpoint) filterIPv6(f *link.Frame, b []byte, sender tcpip.LinkAddress) *atomic.Uint64 {
	ip := header.IPv6(b)
	if len(b) < header.IPv6MinimumSize {
		return &e.l.stats.malformed
	}
	if e.features.Gives.Has(link.Checksum) && !e.verified(f, nil) {
		return &e.l.stats.checksum
	}
	at, proto, whole := transport6(f, ip)
	if !whole {
		return &e.l.stats.malformed
	}
	if proto != header.ICMPv6ProtocolNumber {
		return nil
	}
	var icmp [24]byte
	n := f.CopyAt(icmp[:], at)
	switch header.ICMPv6Type(icmp[0]) {
	case header.ICMPv6EchoRequest:
		if !e.takesEcho(ip.DestinationAddress()) {
			return &e.l.stats.echo
		}
	case header.ICMPv6NeighborAdvert:
		if ip.HopLimit() == header.NDPHopLimit && link.VerifyChecksum(f) { // RFC 4861 §7.1.2
			e.l.checkAdvertisement(icmp[:n], sender)
		}
	}
	return nil
}

// takesEcho reports whether echo requests to dst are for the stack to see: all of them
// with ICMP enabled, and otherwise those that it will forward.
func (e *endpoint) takesEcho(dst tcpip.Address) bool {
	return e.icmp || e.forwarding && !e.l.i.hears(toAddr(dst))
}

// transport6 finds what follows the IPv6 header and its extension headers (RFC 8200 §4). In
// a later fragment nothing does. It is not whole if that isn't in the frame, which RFC 7112
// §5 has dropped: what comes with the second fragment would get past every filter.
func transport6(f *link.Frame, ip header.IPv6) (at int, proto tcpip.TransportProtocolNumber, whole bool) {
	at = header.EthernetMinimumSize + header.IPv6MinimumSize
	end := at + int(ip.PayloadLength())
	next := header.IPv6ExtensionHeaderIdentifier(ip.NextHeader())
	for range 16 { // more than anyone needs
		var ext [8]byte
		size := len(ext)
		switch next {
		case header.IPv6HopByHopOptionsExtHdrIdentifier, header.IPv6RoutingExtHdrIdentifier, header.IPv6DestinationOptionsExtHdrIdentifier,
			header.IPv6FragmentExtHdrIdentifier, header.IPv6ExperimentExtHdrIdentifier:
			if at+len(ext) > end || f.CopyAt(ext[:], at) < len(ext) {
				return at, 0, false
			}
		case header.IPv6NoNextHeaderIdentifier:
			return at, 0, true
		default:
			return at, tcpip.TransportProtocolNumber(next), at < end
		}
		switch next {
		case header.IPv6FragmentExtHdrIdentifier:
			if binary.BigEndian.Uint16(ext[2:])>>3 != 0 {
				return at, 0, true
			}
		case header.IPv6ExperimentExtHdrIdentifier:
		default:
			size += 8 * int(ext[1])
		}
		at += size
		next = header.IPv6ExtensionHeaderIdentifier(ext[0])
	}
	return at, 0, false
}

// verified reports whether the checksums are known to be right, by summing what nobody
// has summed yet; ip is the IPv4 header, if there is one. Frames between a host's own
// interfaces come with only a partial checksum, and are as good as that host's memory.
func (e *endpoint) verified(f *link.Frame, ip header.IPv4) bool {
	if f.Offload.ChecksumValid || f.Offload.NeedsChecksum {
		return ip == nil || ip.IsChecksumValid()
	}
	return link.VerifyChecksum(f)
}
