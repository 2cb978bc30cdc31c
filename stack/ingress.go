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

// verdict is what the filter has to say about a received frame.
type verdict struct {
	proto    tcpip.NetworkProtocolNumber
	kind     tcpip.PacketType // whom it was addressed to
	drop     *atomic.Uint64   // not nil: drop it, and count it here
	later    bool             // an ICMP error; see endpoint.errors
	unsummed bool             // its transport checksum has not been verified
}

// filter looks at a received frame before the stack does.
func (e *endpoint) filter(f *link.Frame, n int) verdict {
	c := &e.l.stats
	var buf [filterBytes]byte
	head := buf[:f.CopyAt(buf[:], 0)]
	if len(head) < header.EthernetMinimumSize {
		return verdict{drop: &c.malformed}
	}
	if f.Offload.Segment == link.NoSegmentation {
		if n > int(e.mtu)+link.EthernetHeaderLen {
			return verdict{drop: &c.malformed}
		}
	} else if f.Check(int(e.mtu), e.features.Gives) != nil {
		return verdict{drop: &c.malformed}
	}
	eth := header.Ethernet(head)
	kind, ours := e.addressedTo(eth.DestinationAddress())
	if !ours {
		return verdict{drop: &c.foreign}
	}
	v, rest := verdict{proto: eth.Type(), kind: kind}, head[header.EthernetMinimumSize:]
	switch v.proto {
	case header.ARPProtocolNumber:
		e.l.checkARP(rest)
	case header.IPv4ProtocolNumber:
		c.ip.receivedBytes.Add(uint64(n - header.EthernetMinimumSize))
		e.filterIPv4(&v, f, rest)
	case header.IPv6ProtocolNumber:
		c.ip.receivedBytes.Add(uint64(n - header.EthernetMinimumSize))
		e.filterIPv6(&v, f, rest)
	default:
		v.drop = &c.unknown
	}
	return v
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

func (e *endpoint) filterIPv4(v *verdict, f *link.Frame, b []byte) {
	ip := header.IPv4(b)
	if len(b) < header.IPv4MinimumSize || int(ip.HeaderLength()) < header.IPv4MinimumSize || int(ip.HeaderLength()) > len(b) {
		v.drop = &e.l.stats.malformed
		return
	}
	if e.features.Gives.Has(link.Checksum) && !e.verified(f, ip) {
		v.drop = &e.l.stats.checksum
		return
	}
	if ip.More() || ip.FragmentOffset() > 0 {
		v.unsummed = true
		e.l.stats.ip.fragmentsReceived.Add(1)
	}
	icmp := b[ip.HeaderLength():]
	if ip.TransportProtocol() != header.ICMPv4ProtocolNumber || ip.FragmentOffset() != 0 || len(icmp) < header.ICMPv4MinimumSize {
		return
	}
	switch header.ICMPv4Type(icmp[0]) {
	case header.ICMPv4Echo:
		if !e.takesEcho(ip.DestinationAddress()) {
			v.drop = &e.l.stats.echo
		}
	case header.ICMPv4EchoReply:
	case header.ICMPv4DstUnreachable:
		v.later = true
		if header.ICMPv4Code(icmp[1]) == header.ICMPv4FragmentationNeeded && header.ICMPv4(icmp).MTU() < header.IPv4MinimumMTU {
			v.drop = &e.l.stats.malformed
		}
	default:
		v.later = true
	}
}

func (e *endpoint) filterIPv6(v *verdict, f *link.Frame, b []byte) {
	ip := header.IPv6(b)
	if len(b) < header.IPv6MinimumSize {
		v.drop = &e.l.stats.malformed
		return
	}
	if e.features.Gives.Has(link.Checksum) && !e.verified(f, nil) {
		v.drop = &e.l.stats.checksum
		return
	}
	at, proto, fragment, whole := transport6(f, ip)
	if fragment {
		e.l.stats.ip.fragmentsReceived.Add(1)
	}
	// VerifyChecksum doesn't look behind headers of an experiment; gVisor does.
	v.unsummed = fragment || header.IPv6ExtensionHeaderIdentifier(ip.NextHeader()) == header.IPv6ExperimentExtHdrIdentifier
	if !whole {
		v.drop = &e.l.stats.malformed
		return
	}
	if proto != header.ICMPv6ProtocolNumber {
		return
	}
	var icmp [24]byte
	n := f.CopyAt(icmp[:], at)
	switch t := header.ICMPv6Type(icmp[0]); {
	case t == header.ICMPv6EchoRequest && !e.takesEcho(ip.DestinationAddress()):
		v.drop = &e.l.stats.echo
	case t == header.ICMPv6NeighborAdvert && ip.HopLimit() == header.NDPHopLimit && link.VerifyChecksum(f): // RFC 4861 §7.1.2
		var mac [6]byte
		f.CopyAt(mac[:], len(mac)) // the sender's
		e.l.checkAdvertisement(icmp[:n], tcpip.LinkAddress(mac[:]))
	case t == header.ICMPv6PacketTooBig && binary.BigEndian.Uint32(icmp[4:]) < header.IPv6MinimumMTU: // RFC 8201 §4
		v.drop = &e.l.stats.malformed
	case t < header.ICMPv6EchoRequest: // RFC 4443 §2.1
		v.later = true
	}
}

// takesEcho reports whether echo requests to dst are for the stack to see: all of them
// with ICMP enabled, and otherwise those that it will forward.
func (e *endpoint) takesEcho(dst tcpip.Address) bool {
	return e.icmp || e.forwarding && !e.l.i.hears(toAddr(dst))
}

// transport6 finds what follows the IPv6 header and its extension headers (RFC 8200 §4). In
// a later fragment nothing does. It is not whole if that isn't in the frame, which RFC 7112
// §5 has dropped: what comes with the second fragment would get past every filter.
func transport6(f *link.Frame, ip header.IPv6) (at int, proto tcpip.TransportProtocolNumber, fragment, whole bool) {
	at = header.EthernetMinimumSize + header.IPv6MinimumSize
	end := at + int(ip.PayloadLength())
	next := header.IPv6ExtensionHeaderIdentifier(ip.NextHeader())
	for range 16 { // more than anyone needs
		size := 8
		var ext [8]byte
		long := f.CopyAt(ext[:], at) == len(ext) && at+len(ext) <= end
		switch next {
		case header.IPv6HopByHopOptionsExtHdrIdentifier, header.IPv6RoutingExtHdrIdentifier, header.IPv6DestinationOptionsExtHdrIdentifier:
			size += 8 * int(ext[1])
		case header.IPv6FragmentExtHdrIdentifier:
			fragment = true
			if binary.BigEndian.Uint16(ext[2:])>>3 != 0 {
				return at, 0, true, long
			}
		case header.IPv6ExperimentExtHdrIdentifier:
		case header.IPv6NoNextHeaderIdentifier:
			return at, 0, fragment, true
		default:
			return at, tcpip.TransportProtocolNumber(next), fragment, at < end
		}
		if !long {
			return at, 0, fragment, false
		}
		at += size
		next = header.IPv6ExtensionHeaderIdentifier(ext[0])
	}
	return at, 0, fragment, false
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
