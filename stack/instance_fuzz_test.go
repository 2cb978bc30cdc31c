package stack_test

import (
	"encoding/binary"
	"testing"

	"github.com/duotap/duotap/stack"
	"github.com/duotap/duotap/stack/link"
	"github.com/duotap/duotap/stack/link/linktest"
)

// FuzzDeliver: whatever a device delivers, in whatever pieces and with whatever offload
// fields, the instance doesn't panic and answers a ping afterwards. A host and a router get
// it.
func FuzzDeliver(f *testing.F) {
	host := newStation(f, bob4.Addr(), bob6.Addr())
	host.features = link.Features{Takes: fullOffload.Offloads, Gives: fullOffload.Offloads}
	left, right := newStation(f, bob4.Addr(), bob6.Addr()), newStation(f, netAddr(carolFar), netAddr(carolSix))
	left.features = host.features

	alice := launch(f, withAll, aliceOn(withAll, host))
	router := build(f, withAll|withForwarding, aliceOn(withAll, left))
	must(f, router.AttachLink(stack.LinkConfig{Link: right, HardwareAddr: eveMAC, Addresses: prefixes("198.51.100.1/24", "2001:db8:1::1/64")}))
	must(f, router.Start(f.Context()))
	for _, ip := range []*stack.Instance{alice, router} {
		must(f, ip.Ready(patient(f)))
		_, err := ip.Listen("tcp", ":25")
		must(f, err)
		_, err = ip.ListenPacket("udp", ":9")
		must(f, err)
	}

	flow4, flow6 := host.flow("192.0.2.2:7", "192.0.2.1:9"), host.flow("[2001:db8::2]:7", "[2001:db8::1]:9")
	beyond := host.flow("192.0.2.2:7", carolFar+":9")
	mail := host.flow("192.0.2.2:7", "192.0.2.1:25")
	add := func(frame link.Frame) {
		o := frame.Offload
		flags := byte(0)
		if o.NeedsChecksum {
			flags |= 1
		}
		f.Add(linktest.Bytes(&frame), flags, byte(o.Segment), o.SegmentSize, o.HeaderLen, o.ChecksumStart, o.ChecksumOffset, uint16(20))
	}
	plain := func(b []byte) { add(link.Frame{Data: [][]byte{b}}) }
	plain(flow4.UDP([]byte("datagram")))
	plain(flow6.UDP([]byte("datagram")))
	plain(beyond.UDP([]byte("forwarded")))
	plain(mail.TCP(1, linktest.SYN, nil))
	plain(mail.TCP(1, linktest.ACK, []byte("EHLO")))
	plain(mail.TCP(1, linktest.RST, nil))
	plain(flow4.Echo([]byte("ping")))
	plain(flow6.Echo([]byte("ping")))
	plain(arp(1, bobMAC, bob4.Addr(), aliceMAC, alice4.Addr()))
	plain(arp(2, eveMAC, alice4.Addr(), aliceMAC, alice4.Addr()))
	plain(advertisement(eveMAC, alice6.Addr(), allNodes, 255))
	for _, frames := range echoRequests() {
		plain(frames[0])
	}
	plain(tooBig(flow4.TCP(1, linktest.ACK, nil), 0))
	plain(tooBig(flow6.TCP(1, linktest.ACK, nil), 1280))
	add(flow4.Partial(flow4.UDP([]byte("partial"))))
	add(flow4.Super(flow4.UDP(make([]byte, 5000)), 1000))
	add(flow6.Super(flow6.UDP(make([]byte, 5000)), 1000))
	add(mail.Super(mail.TCP(1, linktest.ACK|linktest.PSH, make([]byte, 5000)), 1000))
	add(beyond.Super(beyond.TCP(1, linktest.ACK, make([]byte, 5000)), 1000))
	f.Add([]byte(nil), byte(3), byte(77), uint16(65535), uint16(65535), uint16(65535), uint16(65535), uint16(0))

	count := uint16(0)
	f.Fuzz(func(t *testing.T, b []byte, flags, segment byte, size, header, start, offset, cut uint16) {
		at := min(int(cut), len(b))
		frame := link.Frame{Data: [][]byte{b[:at], nil, b[at:]}, Offload: link.Offload{
			NeedsChecksum: flags&1 != 0, ChecksumValid: flags&2 != 0, Segment: link.Segmentation(segment), SegmentSize: size,
			HeaderLen: header, ChecksumStart: start, ChecksumOffset: offset}}
		count++
		host.t, left.t, right.t = t, t, t
		for _, dev := range []*station{host, left} {
			dev.sent()
			dev.inject(frame, frame)
			ping := dev.flow("192.0.2.2:1", "192.0.2.1:1").Echo(binary.BigEndian.AppendUint16(nil, count))
			dev.injectBytes(ping)
			dev.expect("the answer to a ping", func(reply []byte) bool {
				return isEchoReply(reply) && etherType(reply) == etherIPv4 && binary.BigEndian.Uint16(reply[len(reply)-2:]) == count
			})
		}
		right.sent()
	})
}
