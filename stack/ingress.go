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
	if !e.icmp && ip.TransportProtocol() == header.ICMPv4ProtocolNumber && ip.FragmentOffset() == 0 &&
		len(icmp) > 0 && header.ICMPv4Type(icmp[0]) == header.ICMPv4Echo {
		return &e.l.stats.echo
	}
	return nil
}

func (e *endpoint) filterIPv6(f *link.Frame, b []byte, sender tcpip.LinkAddress) *atomic.Uint64 {
	if len(b) < header.IPv6MinimumSize {
		return &e.l.stats.malformed
	}
	if e.features.Gives.Has(link.Checksum) && !e.verified(f, nil) {
		return &e.l.stats.checksum
	}
	at, ok := icmpv6Offset(f, b[6])
	if !ok {
		return nil
	}
	var icmp [24]byte
	switch n := f.CopyAt(icmp[:], at); {
	case n == 0:
	case header.ICMPv6Type(icmp[0]) == header.ICMPv6EchoRequest && !e.icmp:
		return &e.l.stats.echo
	case header.ICMPv6Type(icmp[0]) == header.ICMPv6NeighborAdvert:
		e.l.checkAdvertisement(icmp[:n], sender)
	}
	return nil
}

// icmpv6Offset is where the ICMPv6 header of an IPv6 frame begins, behind any extension
// headers (RFC 8200 §4); ok is false if it has none.
func icmpv6Offset(f *link.Frame, next uint8) (at int, ok bool) {
	at = header.EthernetMinimumSize + header.IPv6MinimumSize
	for range 16 { // gVisor takes no more
		var ext [8]byte
		switch header.IPv6ExtensionHeaderIdentifier(next) {
		case header.IPv6HopByHopOptionsExtHdrIdentifier, header.IPv6RoutingExtHdrIdentifier, header.IPv6DestinationOptionsExtHdrIdentifier:
			if f.CopyAt(ext[:], at) < len(ext) {
				return 0, false
			}
			at += 8 * (int(ext[1]) + 1)
		case header.IPv6FragmentExtHdrIdentifier:
			if f.CopyAt(ext[:], at) < len(ext) || binary.BigEndian.Uint16(ext[2:])>>3 != 0 {
				return 0, false // a later fragment: no header in it
			}
			at += len(ext)
		default:
			return at, next == uint8(header.ICMPv6ProtocolNumber)
		}
		next = ext[0]
	}
	return 0, false
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
