package stack

import (
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Stats is a snapshot of an instance's counters. All begin at zero at Start.
type Stats struct {
	IP    IPStats
	TCP   TCPStats
	UDP   UDPStats
	ICMP  ICMPStats
	ARP   ARPStats
	Links []LinkStats
}

// IPStats counts IP packets of both families. Bytes are those on the links, IP headers
// included.
type IPStats struct {
	PacketsSent       uint64
	BytesSent         uint64
	PacketsReceived   uint64
	BytesReceived     uint64
	InvalidPackets    uint64 // header malformed, or an address that can't be
	ReceiveDropped    uint64 // not for us, or for a protocol we don't have
	ChecksumErrors    uint64
	SendDropped       uint64
	FragmentsSent     uint64
	FragmentsReceived uint64
	FragmentsInvalid  uint64
	PacketsForwarded  uint64
	PacketsDelivered  uint64
	NeighborsNotFound uint64 // packets dropped for want of a MAC address
}

// TCPStats counts segments and connections. A super-frame is one segment.
type TCPStats struct {
	SegmentsSent         uint64
	SegmentsReceived     uint64
	InvalidSegments      uint64
	ChecksumErrors       uint64
	SegmentSendErrors    uint64
	ActiveOpens          uint64 // connections that we opened
	PassiveOpens         uint64
	FailedConnections    uint64 // that others tried to open
	CurrentEstablished   uint64
	ClosedEstablished    uint64 // ended in order
	ResetEstablished     uint64
	TimedOutEstablished  uint64
	ResetsSent           uint64
	ResetsReceived       uint64
	Retransmits          uint64
	FastRetransmits      uint64
	RetransmissionsTimed uint64 // retransmission timeouts
	ListenOverflows      uint64
}

// UDPStats counts datagrams.
type UDPStats struct {
	PacketsSent     uint64
	PacketsReceived uint64
	SendErrors      uint64
	UnknownPort     uint64
	BufferErrors    uint64 // dropped because the receiver was too slow
	Malformed       uint64
	ChecksumErrors  uint64
}

// ICMPStats counts echo messages and errors of both families.
type ICMPStats struct {
	EchoRequestsSent     uint64
	EchoRepliesReceived  uint64
	EchoRequestsReceived uint64
	EchoRepliesSent      uint64
	UnreachableReceived  uint64
	UnreachableSent      uint64
	PacketTooBigReceived uint64 // IPv6; IPv4 counts it as unreachable
	RateLimited          uint64
}

// ARPStats counts ARP messages.
type ARPStats struct {
	RequestsSent     uint64
	RequestsReceived uint64
	RepliesSent      uint64
	RepliesReceived  uint64
	Malformed        uint64
}

// LinkStats counts the frames of one link. A super-frame is one frame.
type LinkStats struct {
	Name           string
	Up             bool
	FramesSent     uint64
	BytesSent      uint64
	SendErrors     uint64
	FramesReceived uint64
	BytesReceived  uint64

	// Received frames that the stack didn't get to see, by reason.
	DroppedMalformed       uint64 // too short, too long, or offload fields that contradict the bytes
	DroppedForeign         uint64 // another station's MAC address
	DroppedUnknownProtocol uint64 // neither IPv4 nor ARP nor IPv6
	DroppedChecksum        uint64
	DroppedEchoRequest     uint64 // ICMP isn't enabled
	DroppedOverflow        uint64 // ICMP errors that came too fast
}

// Stats returns the counters of now. Before Start and after Close only those of the
// links count.
func (i *Instance) Stats() Stats {
	var s Stats
	if ns, err := i.running(); err == nil {
		g := ns.Stats()
		s.IP, s.TCP, s.UDP, s.ICMP, s.ARP = ipStats(&g), tcpStats(&g.TCP), udpStats(&g.UDP), icmpStats(&g.ICMP), arpStats(&g.ARP)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, l := range i.links {
		ls := l.snapshot()
		s.Links = append(s.Links, ls)
		s.IP.ChecksumErrors += ls.DroppedChecksum
		l.stats.ip.addTo(&s.IP)
	}
	return s
}

func ipStats(g *tcpip.Stats) IPStats {
	return IPStats{
		PacketsSent:       g.IP.PacketsSent.Value(),
		PacketsReceived:   g.IP.PacketsReceived.Value(),
		InvalidPackets:    g.IP.MalformedPacketsReceived.Value() + g.IP.InvalidSourceAddressesReceived.Value(),
		ReceiveDropped:    g.IP.InvalidDestinationAddressesReceived.Value() + g.DroppedPackets.Value(),
		SendDropped:       g.IP.OutgoingPacketErrors.Value(),
		FragmentsInvalid:  g.IP.MalformedFragmentsReceived.Value(),
		PacketsDelivered:  g.IP.PacketsDelivered.Value(),
		NeighborsNotFound: g.NICs.Neighbor.UnreachableEntryLookups.Value(),
	}
}

// ipCounters are those of IPStats that gVisor doesn't have.
type ipCounters struct {
	sentBytes, receivedBytes         atomic.Uint64
	fragmentsSent, fragmentsReceived atomic.Uint64
	forwarded                        atomic.Uint64
}

func (c *ipCounters) addTo(s *IPStats) {
	s.BytesSent += c.sentBytes.Load()
	s.BytesReceived += c.receivedBytes.Load()
	s.FragmentsSent += c.fragmentsSent.Load()
	s.FragmentsReceived += c.fragmentsReceived.Load()
	s.PacketsForwarded += c.forwarded.Load()
}

// countSent counts a packet that goes to the device.
func (c *ipCounters) countSent(pkt *gstack.PacketBuffer) {
	ip := pkt.NetworkHeader().Slice()
	switch {
	case pkt.NetworkProtocolNumber == header.IPv4ProtocolNumber && len(ip) >= header.IPv4MinimumSize:
		if h := header.IPv4(ip); h.More() || h.FragmentOffset() > 0 {
			c.fragmentsSent.Add(1)
		}
	case pkt.NetworkProtocolNumber == header.IPv6ProtocolNumber && len(ip) >= header.IPv6MinimumSize:
		if header.IPv6(ip).NextHeader() == uint8(header.IPv6FragmentExtHdrIdentifier) {
			c.fragmentsSent.Add(1)
		}
	default:
		return
	}
	c.sentBytes.Add(uint64(pkt.Size() - header.EthernetMinimumSize))
	if pkt.NetworkPacketInfo.IsForwardedPacket {
		c.forwarded.Add(1)
	}
}

func tcpStats(g *tcpip.TCPStats) TCPStats {
	return TCPStats{
		SegmentsSent:         g.SegmentsSent.Value(),
		SegmentsReceived:     g.ValidSegmentsReceived.Value(),
		InvalidSegments:      g.InvalidSegmentsReceived.Value(),
		ChecksumErrors:       g.ChecksumErrors.Value(),
		SegmentSendErrors:    g.SegmentSendErrors.Value(),
		ActiveOpens:          g.ActiveConnectionOpenings.Value(),
		PassiveOpens:         g.PassiveConnectionOpenings.Value(),
		FailedConnections:    g.FailedConnectionAttempts.Value(),
		CurrentEstablished:   g.CurrentEstablished.Value(),
		ClosedEstablished:    g.EstablishedClosed.Value(),
		ResetEstablished:     g.EstablishedResets.Value(),
		TimedOutEstablished:  g.EstablishedTimedout.Value(),
		ResetsSent:           g.ResetsSent.Value(),
		ResetsReceived:       g.ResetsReceived.Value(),
		Retransmits:          g.Retransmits.Value(),
		FastRetransmits:      g.FastRetransmit.Value(),
		RetransmissionsTimed: g.Timeouts.Value(),
		ListenOverflows:      g.ListenOverflowSynDrop.Value() + g.ListenOverflowAckDrop.Value(),
	}
}

func udpStats(g *tcpip.UDPStats) UDPStats {
	return UDPStats{
		PacketsSent:     g.PacketsSent.Value(),
		PacketsReceived: g.PacketsReceived.Value(),
		SendErrors:      g.PacketSendErrors.Value(),
		UnknownPort:     g.UnknownPortErrors.Value(),
		BufferErrors:    g.ReceiveBufferErrors.Value(),
		Malformed:       g.MalformedPacketsReceived.Value(),
		ChecksumErrors:  g.ChecksumErrors.Value(),
	}
}

func icmpStats(g *tcpip.ICMPStats) ICMPStats {
	sent4, sent6 := &g.V4.PacketsSent, &g.V6.PacketsSent
	got4, got6 := &g.V4.PacketsReceived, &g.V6.PacketsReceived
	return ICMPStats{
		EchoRequestsSent:     sent4.EchoRequest.Value() + sent6.EchoRequest.Value(),
		EchoRepliesReceived:  got4.EchoReply.Value() + got6.EchoReply.Value(),
		EchoRequestsReceived: got4.EchoRequest.Value() + got6.EchoRequest.Value(),
		EchoRepliesSent:      sent4.EchoReply.Value() + sent6.EchoReply.Value(),
		UnreachableReceived:  got4.DstUnreachable.Value() + got6.DstUnreachable.Value(),
		UnreachableSent:      sent4.DstUnreachable.Value() + sent6.DstUnreachable.Value(),
		PacketTooBigReceived: got6.PacketTooBig.Value(),
		RateLimited:          sent4.RateLimited.Value() + sent6.RateLimited.Value(),
	}
}

func arpStats(g *tcpip.ARPStats) ARPStats {
	return ARPStats{
		RequestsSent:     g.OutgoingRequestsSent.Value(),
		RequestsReceived: g.RequestsReceived.Value(),
		RepliesSent:      g.OutgoingRepliesSent.Value(),
		RepliesReceived:  g.RepliesReceived.Value(),
		Malformed:        g.MalformedPacketsReceived.Value(),
	}
}

func (l *netLink) snapshot() LinkStats {
	c := &l.stats
	return LinkStats{
		Name:                   l.name,
		Up:                     l.isUp.Load(),
		FramesSent:             c.sent.Load(),
		BytesSent:              c.sentBytes.Load(),
		SendErrors:             c.sendErrors.Load(),
		FramesReceived:         c.received.Load(),
		BytesReceived:          c.receivedBytes.Load(),
		DroppedMalformed:       c.malformed.Load(),
		DroppedForeign:         c.foreign.Load(),
		DroppedUnknownProtocol: c.unknown.Load(),
		DroppedChecksum:        c.checksum.Load(),
		DroppedEchoRequest:     c.echo.Load(),
		DroppedOverflow:        c.overflow.Load(),
	}
}
