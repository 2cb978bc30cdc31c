package stack

import (
	"errors"
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/duotap/duotap/stack/link"
)

// endpoint shows a netLink to gVisor: gVisor's packets become frames for the device,
// and the device's frames become packets.
//
// It copies each received frame once, into gVisor's memory. Lending ring memory
// instead isn't possible: gVisor's release hook doesn't follow the clones that TCP
// keeps of a segment.
type endpoint struct {
	l        *netLink
	features link.Features
	mtu      uint32
	mac      tcpip.LinkAddress

	icmp       bool // answer echo requests
	forwarding bool

	mu         sync.RWMutex
	dispatcher gstack.NetworkDispatcher

	errors chan *gstack.PacketBuffer // received ICMP errors, for deliverErrors

	batches sync.Pool // *batch
	scratch sync.Pool // *link.Scratch
}

// batch is the scratch memory of one WritePackets.
type batch struct {
	frames []link.Frame
	data   [][]byte
}

// gsoMaxSize makes super-frames of at most 65,375 bytes of payload: with more, the IP
// packet would pass 65,535.
const gsoMaxSize = 65536

func newEndpoint(l *netLink) *endpoint {
	return &endpoint{
		l: l, features: l.dev.Features(), mtu: uint32(l.dev.MTU()), mac: l.mac,
		errors:  make(chan *gstack.PacketBuffer, maxErrors),
		batches: sync.Pool{New: func() any { return new(batch) }},
		scratch: sync.Pool{New: func() any { return new(link.Scratch) }},
	}
}

func (e *endpoint) MTU() uint32                             { return e.mtu }
func (e *endpoint) SetMTU(uint32)                           {}
func (e *endpoint) MaxHeaderLength() uint16                 { return header.EthernetMinimumSize }
func (e *endpoint) LinkAddress() tcpip.LinkAddress          { return e.mac }
func (e *endpoint) SetLinkAddress(tcpip.LinkAddress)        {}
func (e *endpoint) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }
func (e *endpoint) Close()                                  {} // netLink.close closes the device
func (e *endpoint) SetOnCloseAction(func())                 {}
func (e *endpoint) Wait()                                   {}
func (e *endpoint) GSOMaxSize() uint32                      { return gsoMaxSize }
func (e *endpoint) ParseHeader(pkt *gstack.PacketBuffer) bool {
	_, ok := pkt.LinkHeader().Consume(header.EthernetMinimumSize)
	return ok
}

// Capabilities leaves out the transmit side on purpose: with it, gVisor leaves the
// checksums of SYN, RST and UDP empty instead of partial. Receive verifies what the
// device did not.
func (e *endpoint) Capabilities() gstack.LinkEndpointCapabilities {
	c := gstack.CapabilityResolutionRequired
	if e.features.Gives.Has(link.Checksum) {
		c |= gstack.CapabilityRXChecksumOffload
	}
	return c
}

// SupportedGSO implements gstack.GSOEndpoint.
func (e *endpoint) SupportedGSO() gstack.SupportedGSO {
	if e.features.Takes.Has(link.Checksum | link.TSO4 | link.TSO6) {
		return gstack.HostGSOSupported
	}
	return gstack.GSONotSupported
}

// Attach implements gstack.LinkEndpoint.
func (e *endpoint) Attach(d gstack.NetworkDispatcher) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.dispatcher = d
}

// IsAttached implements gstack.LinkEndpoint.
func (e *endpoint) IsAttached() bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.dispatcher != nil
}

// AddHeader implements gstack.LinkEndpoint.
func (e *endpoint) AddHeader(pkt *gstack.PacketBuffer) {
	header.Ethernet(pkt.LinkHeader().Push(header.EthernetMinimumSize)).Encode(&header.EthernetFields{
		SrcAddr: pkt.EgressRoute.LocalLinkAddress,
		DstAddr: pkt.EgressRoute.RemoteLinkAddress,
		Type:    pkt.NetworkProtocolNumber,
	})
}

// WritePackets implements gstack.LinkWriter. The packets stay gVisor's.
func (e *endpoint) WritePackets(pkts gstack.PacketBufferList) (int, tcpip.Error) {
	b := e.batches.Get().(*batch)
	defer func() {
		clear(b.data)
		clear(b.frames)
		b.data, b.frames = b.data[:0], b.frames[:0]
		e.batches.Put(b)
	}()
	for _, pkt := range pkts.AsSlice() {
		if e.forwarding {
			e.tellMTU(pkt)
			restoreChecksum(pkt)
		}
		b.add(pkt)
		e.l.stats.ip.countSent(pkt)
	}
	return e.send(b.frames)
}

// add appends pkt's bytes, by reference, as a frame.
func (b *batch) add(pkt *gstack.PacketBuffer) {
	start := len(b.data)
	views, skip := pkt.AsViewList()
	for v := views.Front(); v != nil; v = v.Next() {
		s := v.AsSlice()
		if skip >= len(s) {
			skip -= len(s)
			continue
		}
		b.data = append(b.data, s[skip:])
		skip = 0
	}
	b.frames = append(b.frames, link.Frame{Data: b.data[start:len(b.data):len(b.data)], Offload: offload(pkt)})
}

// offload says what gVisor has left undone in pkt: only segments of established TCP
// connections come with anything.
func offload(pkt *gstack.PacketBuffer) link.Offload {
	g := &pkt.GSOOptions
	if !g.NeedsCsum {
		return link.Offload{}
	}
	o := link.Offload{
		NeedsChecksum:  true,
		ChecksumStart:  header.EthernetMinimumSize + g.L3HdrLen,
		ChecksumOffset: g.CsumOffset,
	}
	if pkt.Data().Size() <= int(g.MSS) {
		return o
	}
	switch g.Type {
	case gstack.GSOTCPv4:
		o.Segment = link.SegmentTCP4
	case gstack.GSOTCPv6:
		o.Segment = link.SegmentTCP6
	default:
		return o
	}
	o.SegmentSize = g.MSS
	o.HeaderLen = uint16(pkt.HeaderSize())
	return o
}

// send passes frames to the device, and goes on after one that the device refuses.
func (e *endpoint) send(frames []link.Frame) (sent int, failure tcpip.Error) {
	c := &e.l.stats
	for len(frames) > 0 {
		n, err := e.l.dev.Send(frames)
		for k := range frames[:n] {
			c.sentBytes.Add(uint64(frames[k].Len()))
		}
		c.sent.Add(uint64(n))
		sent += n
		if err == nil {
			break
		}
		c.sendErrors.Add(1)
		failure = e.sendError(err)
		frames = frames[n+1:]
	}
	if sent > 0 {
		failure = nil
	}
	return sent, failure
}

func (e *endpoint) sendError(err error) tcpip.Error {
	switch {
	case e.forwarding && !errors.Is(err, link.ErrFrame):
		return &tcpip.ErrClosedForSend{} // gVisor panics if it is any other, about a forwarded packet
	case errors.Is(err, link.ErrDown), errors.Is(err, link.ErrRemoved):
		return &tcpip.ErrNetworkUnreachable{}
	case errors.Is(err, link.ErrFrame):
		return &tcpip.ErrMessageTooLong{}
	default:
		return &tcpip.ErrNoBufferSpace{}
	}
}

// deliver takes the device's frames, which are borrowed until it returns.
func (e *endpoint) deliver(frames []link.Frame) {
	e.mu.RLock()
	d := e.dispatcher
	e.mu.RUnlock()
	if d == nil {
		return
	}
	for k := range frames {
		e.receive(d, &frames[k])
	}
}

// receive hands one frame to the stack, if it passes the filter.
func (e *endpoint) receive(d gstack.NetworkDispatcher, f *link.Frame) {
	n := f.Len()
	e.l.stats.received.Add(1)
	e.l.stats.receivedBytes.Add(uint64(n))
	v := e.filter(f, n)
	if v.drop != nil {
		v.drop.Add(1)
		return
	}
	if f.Offload.Segment == link.SegmentUDP || f.Offload.Segment != link.NoSegmentation && e.forwarding {
		e.split(d, f, v)
		return
	}
	e.pass(d, f, n, v)
}

// split delivers a super-frame in pieces: one of UDP, whose datagrams the application
// must see one by one, or one that may be forwarded to a link that can't carry it.
func (e *endpoint) split(d gstack.NetworkDispatcher, f *link.Frame, v verdict) {
	s := e.scratch.Get().(*link.Scratch)
	defer e.scratch.Put(s)
	err := link.Split(f, s, func(piece link.Frame) error {
		e.pass(d, &piece, piece.Len(), v)
		return nil
	})
	if err != nil {
		e.l.stats.malformed.Add(1)
	}
}

// headerBytes is room for all the headers of a packet that has no unusual ones. They are in
// memory of their own, because gVisor clones the piece that a header is in when it looks at
// it a second time: the whole super-frame, if that is one piece.
const headerBytes = 128

// copy makes a piece of n bytes of a frame from offset off on.
func (e *endpoint) copy(f *link.Frame, off, n int) *buffer.View {
	size := n
	if e.forwarding {
		size = max(n, unpooled)
	}
	view := buffer.NewViewSize(size)
	view.CapLength(n)
	f.CopyAt(view.AsSlice(), off)
	return view
}

// unpooled is a size of memory that gVisor leaves to the garbage collector. When it forwards
// a packet it looks at the old header after it has given its memory back, which others may
// have taken out of the pool by then; so a router takes none from the pool.
const unpooled = 64<<10 + 1

// pass copies one frame into gVisor's memory and delivers it.
func (e *endpoint) pass(d gstack.NetworkDispatcher, f *link.Frame, n int, v verdict) {
	head := min(n, headerBytes)
	if e.forwarding {
		head = n
	}
	view := e.copy(f, 0, head)
	if e.forwarding {
		e.expire(v.proto, view.AsSlice())
	}
	payload := buffer.MakeWithView(view)
	if head < n {
		payload.Append(e.copy(f, head, n-head))
	}
	pkt := gstack.NewPacketBuffer(gstack.PacketBufferOptions{Payload: payload})
	if _, ok := pkt.LinkHeader().Consume(header.EthernetMinimumSize); !ok {
		pkt.DecRef()
		return
	}
	pkt.PktType = v.kind
	if e.forwarding && !f.Offload.NeedsChecksum {
		pkt.Mark = checksumMark(v.proto, view.AsSlice())
	}
	if !v.later {
		e.hand(d, pkt, v)
		pkt.DecRef()
		return
	}
	pkt.NetworkProtocolNumber = v.proto
	select {
	case e.errors <- pkt:
	default:
		e.l.stats.overflow.Add(1)
		pkt.DecRef()
	}
}

// hand delivers a packet. A fragment goes past the interface, which would tell that its
// transport checksum has been verified, as that of every packet of such a device: gVisor
// would believe it of the packet that it puts together.
func (e *endpoint) hand(d gstack.NetworkDispatcher, pkt *gstack.PacketBuffer, v verdict) {
	if v.unsummed {
		if ep, err := e.l.i.ns.GetNetworkEndpoint(e.l.nic, v.proto); err == nil {
			ep.HandlePacket(pkt)
			return
		}
	}
	d.DeliverNetworkPacket(v.proto, pkt)
}

// maxErrors bounds the ICMP errors that wait. A host sends few of them, and anyone can
// make up many.
const maxErrors = 64

// deliverErrors delivers ICMP errors, until there will be no more. To do so gVisor locks
// the connection that the error is about. If that is just sending, over a device in memory
// to a router in memory, then the error comes back in the goroutine that holds the lock.
func (e *endpoint) deliverErrors() {
	for pkt := range e.errors {
		e.mu.RLock()
		d := e.dispatcher
		e.mu.RUnlock()
		if d != nil {
			d.DeliverNetworkPacket(pkt.NetworkProtocolNumber, pkt)
		}
		pkt.DecRef()
	}
}
