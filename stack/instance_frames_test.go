package stack_test

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"

	"github.com/duotap/duotap/stack/link"
)

// Frames that linktest.Flow doesn't make, and what tells frames apart.

const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherIPv6 = 0x86dd
)

func ethernet(dst, src net.HardwareAddr, etherType uint16, payload []byte) []byte {
	return slices.Concat(dst, src, binary.BigEndian.AppendUint16(nil, etherType), payload)
}

var broadcastMAC = net.HardwareAddr{255, 255, 255, 255, 255, 255}

// arp makes an ARP packet (RFC 826): op 1 asks, 2 answers.
func arp(op byte, sender net.HardwareAddr, senderIP netip.Addr, target net.HardwareAddr, targetIP netip.Addr) []byte {
	b := slices.Concat([]byte{0, 1, 8, 0, 6, 4, 0, op}, sender, senderIP.AsSlice(), target, targetIP.AsSlice())
	dst := target
	if op == 1 {
		dst = broadcastMAC
	}
	return ethernet(dst, sender, etherARP, b)
}

func sum16(acc uint32, b []byte) uint32 {
	for i, v := range b {
		acc += uint32(v) << (8 * uint(1-i%2))
		acc = acc>>16 + acc&0xffff
	}
	return acc
}

// ip4 makes an IPv4 packet, header checksum included. fragment is flags and offset.
func ip4(src, dst netip.Addr, protocol byte, fragment uint16, payload []byte) []byte {
	b := make([]byte, 12, 20)
	b[0] = 0x45
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
	binary.BigEndian.PutUint16(b[4:], 0x77)
	binary.BigEndian.PutUint16(b[6:], fragment)
	b[8], b[9] = 64, protocol
	b = slices.Concat(b, src.AsSlice(), dst.AsSlice())
	binary.BigEndian.PutUint16(b[10:], ^uint16(sum16(0, b)))
	return append(b, payload...)
}

// ip6 makes an IPv6 packet.
func ip6(src, dst netip.Addr, next, hops byte, payload []byte) []byte {
	b := []byte{0x60, 0, 0, 0, byte(len(payload) >> 8), byte(len(payload)), next, hops}
	return slices.Concat(b, src.AsSlice(), dst.AsSlice(), payload)
}

// icmp6 fills in the checksum of an ICMPv6 message.
func icmp6(src, dst netip.Addr, m []byte) []byte {
	m = slices.Clone(m)
	m[2], m[3] = 0, 0
	pseudo := slices.Concat(src.AsSlice(), dst.AsSlice(), []byte{0, 0, byte(len(m) >> 8), byte(len(m)), 0, 0, 0, 58})
	binary.BigEndian.PutUint16(m[2:], ^uint16(sum16(sum16(0, pseudo), m)))
	return m
}

// advertisement is a neighbour advertisement (RFC 4861 §4.4) for target, from there to dst.
func advertisement(mac net.HardwareAddr, target, dst netip.Addr, hops byte) []byte {
	m := slices.Concat([]byte{136, 0, 0, 0, 0x60, 0, 0, 0}, target.AsSlice(), []byte{2, 1}, mac)
	return ethernet(multicastMAC(dst), mac, etherIPv6, ip6(target, dst, 58, hops, icmp6(target, dst, m)))
}

// multicastMAC is where packets to dst go: a group's address, or else alice.
func multicastMAC(dst netip.Addr) net.HardwareAddr {
	if !dst.IsMulticast() {
		return aliceMAC
	}
	b := dst.As16()
	return net.HardwareAddr{0x33, 0x33, b[12], b[13], b[14], b[15]}
}

var allNodes = netip.MustParseAddr("ff02::1")

// reply is what a host with the station's addresses answers to a request for its MAC
// address.
func (s *station) reply(b []byte) []byte {
	if s.mute {
		return nil
	}
	for _, own := range s.own {
		switch {
		case isARP(1)(b) && bytes.Equal(b[38:42], own.AsSlice()):
			sender, _ := netip.AddrFromSlice(b[28:32])
			return arp(2, s.mac[:], own, b[6:12], sender)
		case isSolicitation(b) && bytes.Equal(b[62:78], own.AsSlice()):
			src, _ := netip.AddrFromSlice(b[22:38])
			if src.IsUnspecified() {
				return advertisement(s.mac[:], own, allNodes, 255)
			}
			adv := advertisement(s.mac[:], own, src, 255)
			copy(adv, b[6:12])
			return adv
		}
	}
	return nil
}

// editTCP changes the TCP header of a frame, and makes its checksum right again.
func editTCP(frame []byte, edit func(tcp []byte)) []byte {
	b := slices.Clone(frame)
	h := headersOf(b)
	tcp := b[h.Transport:h.End]
	edit(tcp)
	tcp[16], tcp[17] = 0, 0
	pseudo := slices.Concat(addrAt(b, h, 0).AsSlice(), addrAt(b, h, 1).AsSlice(), []byte{0, 6, byte(len(tcp) >> 8), byte(len(tcp))})
	binary.BigEndian.PutUint16(tcp[16:], ^uint16(sum16(sum16(0, pseudo), tcp)))
	return b
}

// addrAt is the source (0) or destination (1) address of a packet.
func addrAt(b []byte, h link.Headers, which int) netip.Addr {
	n, at := 16, h.Network+8
	if h.Version == 4 {
		n, at = 4, h.Network+12
	}
	a, _ := netip.AddrFromSlice(b[at+which*n : at+(which+1)*n])
	return a
}

func etherType(b []byte) uint16 { return binary.BigEndian.Uint16(b[12:]) }

func isARP(op byte) func([]byte) bool {
	return func(b []byte) bool { return etherType(b) == etherARP && b[21] == op }
}

func isSolicitation(b []byte) bool {
	return etherType(b) == etherIPv6 && b[20] == 58 && b[54] == 135
}

// isEcho is true for a ping, in either family.
func isEcho(b []byte) bool {
	return etherType(b) == etherIPv4 && b[23] == 1 && b[14+int(b[14]&15)*4] == 8 ||
		etherType(b) == etherIPv6 && b[20] == 58 && b[54] == 128
}

// isEchoReply is true for the answer to a ping, in either family.
func isEchoReply(b []byte) bool {
	return etherType(b) == etherIPv4 && b[23] == 1 && b[14+int(b[14]&15)*4] == 0 ||
		etherType(b) == etherIPv6 && b[20] == 58 && b[54] == 129
}

// isTCP is true for segments with all these flags.
func isTCP(flags byte) func([]byte) bool {
	return func(b []byte) bool {
		h := headersOf(b)
		return h.Protocol == 6 && b[h.Transport+13]&flags == flags
	}
}

func headersOf(b []byte) link.Headers {
	f := link.Frame{Data: [][]byte{b}}
	h, ok := f.Headers()
	if !ok {
		return link.Headers{}
	}
	return h
}
