package stack

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/duotap/duotap/packetpool"
	"github.com/duotap/duotap/stack/link"
)

// netLink is one link of an instance: the device, our addresses on it, and the memory
// it receives into. endpoint is its face towards gVisor.
type netLink struct {
	i    *Instance
	cfg  LinkConfig
	name string
	dev  link.Device
	mac  tcpip.LinkAddress
	nic  tcpip.NICID

	ring      link.Ring
	ringOwner []*packetpool.Packet
	endpoint  *endpoint
	isUp      atomic.Bool
	receiving sync.WaitGroup
	stats     linkCounters
}

func newNetLink(i *Instance, cfg LinkConfig, nic tcpip.NICID) *netLink {
	l := &netLink{i: i, cfg: cfg, name: cfg.Name, dev: cfg.Link, nic: nic,
		mac: tcpip.LinkAddress(cfg.HardwareAddr)}
	l.endpoint = newEndpoint(l)
	return l
}

const (
	// superSlots let a device read a second super-frame before the first is delivered.
	superSlots = 2
	// plainSlots bounds the batch of a device without segmentation offload.
	plainSlots = 8
)

// RingBytes says how many bytes of packet payload an instance takes from its pool at
// Start to receive from dev with its offloads, over chained packets. With less, down
// to one frame, the device receives without segmentation offload.
func RingBytes(dev link.Device) int {
	f := dev.Features()
	if f.Lends {
		return 0
	}
	slots := plainSlots
	if size := link.FrameSize(dev.MTU(), f.Gives); size == link.MaxSuperFrame {
		slots = superSlots
	}
	return slots * link.FrameSize(dev.MTU(), f.Gives)
}

// takeRing takes the memory to receive into out of the pool.
func (l *netLink) takeRing(pool *packetpool.Pool) error {
	f := l.dev.Features()
	if f.Lends {
		return nil
	}
	if size := link.FrameSize(l.dev.MTU(), f.Gives); size == link.MaxSuperFrame {
		if l.takeSlots(pool, superSlots, size) == superSlots {
			return nil
		}
		l.releaseRing()
		l.i.log.Warn("pool is too small to receive super-frames; receiving plain frames, which is much slower",
			"link", l.name, "pool", pool.Name(), "needed_bytes", superSlots*size)
	}
	size := link.FrameSize(l.dev.MTU(), 0)
	if l.takeSlots(pool, plainSlots, size) == 0 {
		s := pool.Stats()
		return fmt.Errorf("link %q: pool %q has %d packets of %d bytes free, not enough for one frame of %d bytes to receive into: %w",
			l.name, pool.Name(), s.Free, pool.Payload(), size, packetpool.ErrNoPacket)
	}
	return nil
}

// takeSlots takes up to n slots of size bytes, and returns how many it got.
func (l *netLink) takeSlots(pool *packetpool.Pool, n, size int) int {
	for k := range n {
		p, err := pool.TryAllocate(0)
		if err != nil {
			return k
		}
		if err := p.Extend(size); err != nil {
			p.Release()
			return k
		}
		var slot [][]byte
		for s := range p.Segments() {
			slot = append(slot, s)
		}
		if len(slot) > link.MaxPieces {
			p.Release()
			return k
		}
		l.ring = append(l.ring, slot)
		l.ringOwner = append(l.ringOwner, p)
	}
	return n
}

func (l *netLink) releaseRing() {
	for _, p := range l.ringOwner {
		p.Release()
	}
	l.ring, l.ringOwner = nil, nil
}

// up makes the link an interface of the stack, with its addresses. The interface is enabled when the link comes up: that starts duplicate address
// detection, which fails for good if it can't send.
func (l *netLink) up() error {
	ns := l.i.ns
	l.endpoint.icmp, l.endpoint.forwarding = l.i.enabled[serviceICMP], l.i.enabled[serviceForwarding]
	if err := ns.CreateNICWithOptions(l.nic, l.endpoint, gstack.NICOptions{Name: l.name, Disabled: true}); err != nil {
		return fmt.Errorf("link %q: creating its interface: %s", l.name, err)
	}
	prefixes := l.cfg.Addresses
	if ll := l.linkLocal(); l.i.enabled[serviceIPv6] && !l.owns(ll.Addr()) {
		prefixes = append(prefixes[:len(prefixes):len(prefixes)], ll)
	}
	for _, p := range prefixes {
		if err := l.addAddress(p); err != nil {
			return err
		}
	}
	return nil
}

// check refuses what the link can't have without IPv6, and a link that is too narrow.
func (l *netLink) check() error {
	switch mtu := l.dev.MTU(); {
	case mtu < header.IPv4MinimumMTU:
		return fmt.Errorf("its MTU is %d, and IPv4 needs %d (RFC 791)", mtu, header.IPv4MinimumMTU)
	case l.i.enabled[serviceIPv6] && mtu < header.IPv6MinimumMTU:
		return fmt.Errorf("its MTU is %d, and IPv6 needs %d (RFC 8200 §5)", mtu, header.IPv6MinimumMTU)
	case l.i.enabled[serviceIPv6]:
		return nil
	}
	for _, p := range l.cfg.Addresses {
		if p.Addr().Is6() {
			return fmt.Errorf("address %v needs EnableIPv6: %w", p, ErrNotEnabled)
		}
	}
	for _, g := range l.cfg.Gateways {
		if g.Is6() {
			return fmt.Errorf("gateway %v needs EnableIPv6: %w", g, ErrNotEnabled)
		}
	}
	return nil
}

// begin watches the link and receives. A device in memory loses what comes before Watch, and
// with the state it tells we begin to ask; so that is the order.
func (l *netLink) begin() {
	l.dev.Watch(l.stateChanged)
	l.receiving.Go(l.receive)
	l.receiving.Go(l.endpoint.deliverErrors)
}

// linkLocal is the address made from the MAC address (RFC 4291 appendix A).
func (l *netLink) linkLocal() netip.Prefix {
	return netip.PrefixFrom(toAddr(header.LinkLocalAddr(l.mac)), 64)
}

func (l *netLink) addAddress(p netip.Prefix) error {
	watch := l.i.addrs.add(l, p)
	if err := l.i.ns.AddProtocolAddress(l.nic, protocolAddress(p), gstack.AddressProperties{Disp: watch}); err != nil {
		return fmt.Errorf("link %q: adding address %v: %s", l.name, p, err)
	}
	return nil
}

func (l *netLink) receive() {
	defer close(l.endpoint.errors)
	err := l.dev.Receive(l.ring, l.endpoint.deliver)
	if !errors.Is(err, net.ErrClosed) {
		l.stateChanged(false)
		l.i.log.Error("link has stopped receiving", "link", l.name, "error", err)
		l.i.sockets.lose(l.ownsAny, fmt.Errorf("link %q has failed: %w", l.name, err))
	}
}

// stateChanged is told by the device when its link goes up or down. Connections live
// on, and retransmit until the link is back; new ones need another link.
func (l *netLink) stateChanged(up bool) {
	if l.isUp.Swap(up) == up {
		return
	}
	l.i.log.Info("link state changed", "link", l.name, "up", up)
	if up {
		l.i.ns.EnableNIC(l.nic) // fails only if there is no such interface
	}
	l.i.updateRoutes()
	if up {
		l.announce()
	}
}

// announce tells the neighbours our MAC address for each IPv4 address (RFC 5227 §2.3),
// and asks at the same time whether another host has it. IPv6 asks by itself when the link
// comes up for the first time; neighbours that miss an answer ask us (RFC 4861 §7.3).
func (l *netLink) announce() {
	for _, p := range l.cfg.Addresses {
		if !p.Addr().Is4() {
			continue
		}
		addr := p.Addr()
		if _, err := l.i.ns.CheckDuplicateAddress(l.nic, header.IPv4ProtocolNumber, fromAddr(addr), func(r gstack.DADResult) {
			if dup, ok := r.(*gstack.DADDupAddrDetected); ok {
				l.i.addrs.conflict(l, addr, dup.HolderLinkAddress)
			}
		}); err != nil {
			l.i.log.Warn("can't check for a duplicate address", "link", l.name, "address", addr, "error", err.String())
		}
		frame := link.Frame{Data: [][]byte{l.announcement(addr)}}
		if _, err := l.endpoint.send([]link.Frame{frame}); err != nil {
			l.i.log.Warn("can't announce an address", "link", l.name, "address", addr, "error", err.String())
		}
	}
}

// announcement is a broadcast ARP request for addr from addr.
func (l *netLink) announcement(addr netip.Addr) []byte {
	b := make([]byte, header.EthernetMinimumSize+header.ARPSize)
	header.Ethernet(b).Encode(&header.EthernetFields{
		SrcAddr: l.mac, DstAddr: header.EthernetBroadcastAddress, Type: header.ARPProtocolNumber})
	a := header.ARP(b[header.EthernetMinimumSize:])
	a.SetIPv4OverEthernet()
	a.SetOp(header.ARPRequest)
	copy(a.HardwareAddressSender(), l.mac)
	copy(a.ProtocolAddressSender(), addr.AsSlice())
	copy(a.ProtocolAddressTarget(), addr.AsSlice())
	return b
}

// routes are those that lead over this link while it is up.
func (l *netLink) routes() []tcpip.Route {
	var routes []tcpip.Route
	for _, p := range l.cfg.Addresses {
		routes = append(routes, tcpip.Route{Destination: subnet(p), NIC: l.nic})
	}
	if l.i.enabled[serviceIPv6] {
		routes = append(routes, tcpip.Route{Destination: subnet(l.linkLocal()), NIC: l.nic})
	}
	for _, g := range l.cfg.Gateways {
		everywhere := header.IPv4EmptySubnet
		if g.Is6() {
			everywhere = header.IPv6EmptySubnet
		}
		routes = append(routes, tcpip.Route{Destination: everywhere, Gateway: fromAddr(g), NIC: l.nic})
	}
	return routes
}

// close closes the device, waits until nothing is received any more, and gives the
// ring back.
func (l *netLink) close() error {
	err := l.dev.Close()
	if errors.Is(err, net.ErrClosed) {
		err = nil // somebody pulled the device from under us; that is a closed one
	}
	l.receiving.Wait()
	l.releaseRing()
	return err
}

// linkCounters are the counters behind LinkStats.
type linkCounters struct {
	received, receivedBytes, sent, sentBytes atomic.Uint64
	sendErrors                               atomic.Uint64
	malformed, foreign, unknown, checksum    atomic.Uint64
	echo, overflow                           atomic.Uint64
	ip                                       ipCounters
}

// checkARP looks for another host that claims an address of ours.
func (l *netLink) checkARP(b []byte) {
	a := header.ARP(b)
	if len(b) < header.ARPSize || !a.IsValid() {
		return
	}
	sender := tcpip.LinkAddress(a.HardwareAddressSender())
	if claimed := netip.AddrFrom4([4]byte(a.ProtocolAddressSender())); sender != l.mac && l.owns(claimed) {
		l.i.addrs.conflict(l, claimed, sender)
	}
}

// checkAdvertisement does so for a neighbour advertisement (RFC 4861 §4.4).
func (l *netLink) checkAdvertisement(icmp []byte, sender tcpip.LinkAddress) {
	if len(icmp) < 24 || sender == l.mac {
		return
	}
	if claimed := netip.AddrFrom16([16]byte(icmp[8:24])); l.owns(claimed) || claimed == l.linkLocal().Addr() {
		l.i.addrs.conflict(l, claimed, sender)
	}
}

// ownsAny is owns with the link-local address that we made.
func (l *netLink) ownsAny(a netip.Addr) bool { return l.owns(a) || a == l.linkLocal().Addr() }

func (l *netLink) owns(a netip.Addr) bool {
	for _, p := range l.cfg.Addresses {
		if p.Addr() == a {
			return true
		}
	}
	return false
}
