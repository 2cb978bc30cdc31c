package stack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// protocol is what the network argument of Dial and Listen says.
type protocol struct {
	network string // as given: "tcp", "udp6"
	tcp     bool   // else UDP
	only    int    // 4 or 6; 0 for either
}

func parseNetwork(network string) (protocol, error) {
	p := protocol{network: network}
	switch network {
	case "tcp", "tcp4", "tcp6":
		p.tcp = true
	case "udp", "udp4", "udp6":
	default:
		return p, net.UnknownNetworkError(network)
	}
	switch network[3:] {
	case "4":
		p.only = 4
	case "6":
		p.only = 6
	}
	return p, nil
}

// takes reports whether a is of the family asked for.
func (p protocol) takes(a netip.Addr) bool {
	return p.only == 0 || a.Is4() == (p.only == 4)
}

// addr is a as package net has it. An invalid address is the unspecified one.
func (p protocol) addr(a netip.AddrPort) net.Addr {
	if p.tcp {
		return net.TCPAddrFromAddrPort(a)
	}
	return net.UDPAddrFromAddrPort(a)
}

var errMissingAddress = errors.New("missing address")

// resolve turns address, host:port, into at least one address, none of them IPv4-mapped.
// Without a host that is the invalid address.
func (i *Instance) resolve(ctx context.Context, p protocol, address string) ([]netip.AddrPort, error) {
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := parsePort(p, service)
	if err != nil {
		return nil, err
	}
	if host == "" {
		return []netip.AddrPort{netip.AddrPortFrom(netip.Addr{}, port)}, nil
	}
	found, err := i.LookupHost(ctx, host)
	if err != nil {
		return nil, err
	}
	var list []netip.AddrPort
	for _, text := range found {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("looking up %s: %w", host, err)
		}
		if a = a.Unmap(); p.takes(a) {
			list = append(list, netip.AddrPortFrom(a, port))
		}
		if a == netip.IPv6Unspecified() && p.only != 6 { // for package net it is that of IPv4 too
			list = append(list, netip.AddrPortFrom(netip.IPv4Unspecified(), port))
		}
	}
	if len(list) == 0 {
		return nil, &net.AddrError{Err: "no suitable address found", Addr: host}
	}
	return list, nil
}

// parsePort wants a number: a table of service names would be the host's.
func parsePort(p protocol, service string) (uint16, error) {
	if service == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(service, 10, 16)
	switch {
	case err == nil:
		return uint16(n), nil
	case errors.Is(err, strconv.ErrRange):
		return 0, &net.AddrError{Err: "invalid port", Addr: service}
	default:
		return 0, &net.DNSError{Err: "unknown port, want a number", Name: p.network + "/" + service, IsNotFound: true}
	}
}

// fullAddress is a for gVisor.
func (i *Instance) fullAddress(a netip.AddrPort) (tcpip.FullAddress, error) {
	ip := a.Addr().Unmap()
	if ip.Is6() && (ip.IsLinkLocalUnicast() || ip.IsLinkLocalMulticast()) && ip.Zone() == "" {
		return tcpip.FullAddress{}, fmt.Errorf("a link-local address needs a zone, such as %v%%%s: %w", ip, i.links[0].name, syscall.EINVAL)
	}
	nic, err := i.zoneNIC(ip.Zone())
	if err != nil {
		return tcpip.FullAddress{}, err
	}
	full := tcpip.FullAddress{NIC: nic, Addr: tcpip.AddrFrom16(ip.As16()), Port: a.Port()}
	if ip.Is4() {
		full.Addr = tcpip.AddrFrom4(ip.As4())
	}
	return full, nil
}

// addrPort is the reverse: link-local addresses get their zone.
func (i *Instance) addrPort(a tcpip.FullAddress) netip.AddrPort {
	ip := toAddr(a.Addr)
	if ip.Is6() && (ip.IsLinkLocalUnicast() || ip.IsLinkLocalMulticast()) && a.NIC != 0 {
		ip = ip.WithZone(i.linkName(a.NIC))
	}
	return netip.AddrPortFrom(ip, a.Port)
}

// checkEnabled says what has to be enabled for p, over IPv6 if six.
func (i *Instance) checkEnabled(p protocol, six bool) error {
	s := serviceUDP
	if p.tcp {
		s = serviceTCP
	}
	if !i.has(s) {
		return fmt.Errorf("%w: %w; call Enable%s before Start", ErrNotEnabled, syscall.EPROTONOSUPPORT, s)
	}
	if six && !i.has(serviceIPv6) {
		return fmt.Errorf("%w: %w; call EnableIPv6 before Start", ErrNotEnabled, syscall.EAFNOSUPPORT)
	}
	return nil
}
