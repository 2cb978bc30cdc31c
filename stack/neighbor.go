package stack

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Neighbor is an entry of the neighbour cache (RFC 4861 §5.1), or of the ARP cache.
type Neighbor struct {
	Link         string
	Addr         netip.Addr
	HardwareAddr net.HardwareAddr // nil as long as it isn't known
	State        string           // Incomplete, Reachable, Stale, Delay, Probe, Static or Unreachable
}

// Neighbors lists the hosts on our links that the instance knows or looks for, in order
// of link and address.
func (i *Instance) Neighbors() ([]Neighbor, error) {
	ns, err := i.running()
	if err != nil {
		return nil, fmt.Errorf("stack: listing the neighbours of %q: %w", i.cfg.Name, err)
	}
	var list []Neighbor
	for _, l := range i.links {
		first := len(list)
		for _, proto := range i.protocols() {
			entries, err := ns.Neighbors(l.nic, proto)
			if err != nil {
				return nil, fmt.Errorf("stack: listing the neighbours of %q on link %q: %s", i.cfg.Name, l.name, err)
			}
			for _, e := range entries {
				list = append(list, Neighbor{l.name, toAddr(e.Addr), net.HardwareAddr(e.LinkAddr), e.State.String()})
			}
		}
		slices.SortFunc(list[first:], func(a, b Neighbor) int { return a.Addr.Compare(b.Addr) })
	}
	return list, nil
}

// Neighbor finds the host that packets to addr are handed to: addr itself if it is on
// one of our links, else the gateway. It asks for its MAC address unless that is known.
// The error wraps syscall.ENETUNREACH if no route leads to addr, and
// syscall.EHOSTUNREACH if the neighbour doesn't answer, which takes three seconds.
func (i *Instance) Neighbor(ctx context.Context, addr netip.Addr) (Neighbor, error) {
	ctx, cancel := i.untilClose(ctx)
	defer cancel()
	n, err := i.neighbor(ctx, addr)
	if err != nil {
		return n, fmt.Errorf("stack: finding the neighbour for %v: %w", addr, i.unlessClosed(err))
	}
	return n, nil
}

func (i *Instance) neighbor(ctx context.Context, addr netip.Addr) (Neighbor, error) {
	ns, err := i.running()
	if err != nil {
		return Neighbor{}, err
	}
	if err := i.waitForSource(ctx, addr); err != nil {
		return Neighbor{}, err
	}
	route, err := i.route(ns, addr)
	if err != nil {
		return Neighbor{}, err
	}
	defer route.Release()
	hop := route.NextHop()
	if hop.Len() == 0 {
		hop = route.RemoteAddress()
	}
	n := Neighbor{Link: i.linkName(route.NICID()), Addr: toAddr(hop)}
	if route.NICID() == loopbackNIC || route.Loop()&gstack.PacketLoop != 0 {
		return n, nil // ourselves
	}
	mac, err := i.resolveLinkAddress(ctx, ns, route, hop)
	if err != nil {
		return n, fmt.Errorf("%v on link %q: %w", n.Addr, n.Link, err)
	}
	n.HardwareAddr, n.State = net.HardwareAddr(mac), gstack.Reachable.String()
	return n, nil
}

// route finds the way to addr, over the link that its zone names if it has one.
func (i *Instance) route(ns *gstack.Stack, addr netip.Addr) (*gstack.Route, error) {
	addr = addr.Unmap()
	if !addr.IsValid() || addr.IsUnspecified() || addr.IsMulticast() || addr == broadcast {
		return nil, fmt.Errorf("this is the address of no single host: %w", syscall.EINVAL)
	}
	proto := header.IPv4ProtocolNumber
	if addr.Is6() {
		proto = header.IPv6ProtocolNumber
	}
	if !ns.CheckNetworkProtocol(proto) {
		return nil, fmt.Errorf("IPv6: %w: %w", ErrNotEnabled, syscall.EAFNOSUPPORT)
	}
	to, err := i.fullAddress(netip.AddrPortFrom(addr, 0))
	if err != nil {
		return nil, err
	}
	route, terr := ns.FindRoute(to.NIC, tcpip.Address{}, to.Addr, proto, false)
	if terr != nil {
		return nil, fmt.Errorf("no route to %v; give the link an address in its subnet, or a gateway: %w", addr, syscall.ENETUNREACH)
	}
	if route.IsOutboundBroadcast() {
		route.Release()
		return nil, fmt.Errorf("this is the address of no single host: %w", syscall.EINVAL)
	}
	return route, nil
}

// zoneNIC is the interface that an address zone names; 0, for any, if it is empty.
func (i *Instance) zoneNIC(zone string) (tcpip.NICID, error) {
	if zone == "" {
		return 0, nil
	}
	for _, l := range i.links {
		if l.name == zone {
			return l.nic, nil
		}
	}
	return 0, fmt.Errorf("zone %q is none of the links of %q: %w", zone, i.cfg.Name, syscall.ENODEV)
}

func (i *Instance) linkName(nic tcpip.NICID) string {
	for _, l := range i.links {
		if l.nic == nic {
			return l.name
		}
	}
	return "lo"
}

func (i *Instance) resolveLinkAddress(ctx context.Context, ns *gstack.Stack, r *gstack.Route, hop tcpip.Address) (tcpip.LinkAddress, error) {
	result := make(chan gstack.LinkResolutionResult, 1)
	ready := make(chan struct{})
	err := ns.GetLinkAddress(r.NICID(), hop, tcpip.Address{}, r.NetProto(), func(res gstack.LinkResolutionResult) {
		result <- res
		close(ready)
	})
	switch err.(type) {
	case nil, *tcpip.ErrWouldBlock:
	default:
		return "", fmt.Errorf("asking for its MAC address: %s", err)
	}
	if !i.gate.wait(ready, ctx.Done()) {
		return "", fmt.Errorf("asking for its MAC address: %w", context.Cause(ctx))
	}
	res := <-result
	if res.Err != nil {
		return "", fmt.Errorf("nobody answers for this address; is the host up, and on this link? %w", syscall.EHOSTUNREACH)
	}
	return res.LinkAddress, nil
}
