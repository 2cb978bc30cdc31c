package stack_test

import (
	"bytes"
	"encoding/binary"
	"net"
	"slices"
	"testing"

	"github.com/duotap/duotap/stack/link"
)

// TestFragmentChecksum: a device that verifies checksums sees none of a datagram that comes
// in fragments. It is verified when it is whole.
func TestFragmentChecksum(t *testing.T) {
	dev := newStation(t, bob4.Addr(), bob6.Addr())
	dev.features = link.Features{Gives: link.Checksum, Lends: true}
	alice := launch(t, withUDP|withIPv6, aliceOn(withIPv6, dev))
	must(t, alice.Ready(patient(t)))
	for _, family := range []struct {
		name      string
		fragments func(datagram []byte, id byte) [2][]byte
		listen    string
		src, dst  []byte
	}{
		{"IPv4", func(d []byte, id byte) (f [2][]byte) {
			for k, part := range [][]byte{d[:16], d[16:]} {
				p := ip4(bob4.Addr(), alice4.Addr(), 17, []uint16{0x2000, 2}[k], part)
				p[5], p[10], p[11] = id, 0, 0
				binary.BigEndian.PutUint16(p[10:], ^uint16(sum16(0, p[:20])))
				f[k] = ethernet(aliceMAC, bobMAC, etherIPv4, p)
			}
			return f
		}, "192.0.2.1:9", bob4.Addr().AsSlice(), alice4.Addr().AsSlice()},
		{"IPv6", func(d []byte, id byte) (f [2][]byte) {
			for k, part := range [][]byte{d[:16], d[16:]} {
				h := []byte{17, 0, 0, []byte{1, 16}[k], 0, 0, 0, id}
				f[k] = ethernet(aliceMAC, bobMAC, etherIPv6, ip6(bob6.Addr(), alice6.Addr(), 44, 64, slices.Concat(h, part)))
			}
			return f
		}, "[2001:db8::1]:9", bob6.Addr().AsSlice(), alice6.Addr().AsSlice()},
	} {
		t.Run(family.name, func(t *testing.T) {
			c, err := alice.ListenPacket("udp", family.listen)
			must(t, err)
			defer c.Close()
			datagram := slices.Concat([]byte{0, 7, 0, 9, 0, 32, 0, 0}, []byte("twenty-four bytes of it."))
			pseudo := slices.Concat(family.src, family.dst, []byte{0, 17, 0, 32})
			binary.BigEndian.PutUint16(datagram[6:], ^uint16(sum16(sum16(0, pseudo), datagram)))
			bad := bytes.Replace(datagram, []byte("four"), []byte("five"), 1)

			before := alice.Stats().UDP.ChecksumErrors
			f := family.fragments(bad, 1)
			dev.injectBytes(f[0], f[1])
			if got := alice.Stats().UDP.ChecksumErrors - before; got != 1 {
				t.Errorf("%d checksum errors counted, want 1", got)
			}
			f = family.fragments(datagram, 2)
			dev.injectBytes(f[0], f[1])
			expectDatagram(t, c, "twenty-four bytes of it.")
		})
	}
}

// expectDatagram fails the test unless the next datagram is this one.
func expectDatagram(t *testing.T, c net.PacketConn, want string) {
	t.Helper()
	b := make([]byte, 100)
	n, _, err := c.ReadFrom(b)
	if err != nil || string(b[:n]) != want {
		t.Errorf("read %q, %v; want %q", b[:n], err, want)
	}
}
