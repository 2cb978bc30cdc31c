package stack_test

import (
	"bytes"
	"testing"

	"github.com/duotap/duotap/stack"
	"github.com/duotap/duotap/stack/link"
	"github.com/duotap/duotap/stack/link/memlink"
)

// TestForwardingKeepsChecksums: what was damaged before the router is damaged behind it.
func TestForwardingKeepsChecksums(t *testing.T) {
	for _, to := range [][2]string{{"192.0.2.2:1", carolFar + ":2"}, {"[2001:db8::2]:1", "[" + carolSix + "]:2"}} {
		first, second := newStation(t), newStation(t)
		first.features = link.Features{Lends: true}
		first.own, second.own = addresses("192.0.2.2", "2001:db8::2"), addresses(carolFar, carolSix)
		router := build(t, withForwarding|withIPv6, aliceOn(withIPv6, first))
		must(t, router.AttachLink(stack.LinkConfig{Link: second, HardwareAddr: eveMAC, Addresses: prefixes("198.51.100.1/24", "2001:db8:1::1/64")}))
		must(t, router.Start(t.Context()))
		must(t, router.Ready(patient(t)))
		flow := first.flow(to[0], to[1])
		for name, whole := range map[string][]byte{"TCP": flow.TCP(1, 0x10, []byte("hello, hello")), "UDP": flow.UDP([]byte("hello, hello"))} {
			for _, text := range []string{"hello, hello", "hello, jello"} {
				first.injectBytes(bytes.Replace(whole, []byte("hello, hello"), []byte(text), 1))
				got := second.expect("the packet", func(b []byte) bool { return bytes.Contains(b, []byte(text)) })
				if right := link.VerifyChecksum(&link.Frame{Data: [][]byte{got.bytes}}); right != (text == "hello, hello") {
					t.Errorf("%s to %s, %q: the checksum that is forwarded is right: %v", name, to[1], text, right)
				}
			}
		}
	}
}

// TestForwardingFragments: a datagram in fragments passes a router as it is.
func TestForwardingFragments(t *testing.T) {
	for name, cable := range map[string]memlink.Config{"plain": {}, "offload": fullOffload} {
		t.Run(name, func(t *testing.T) {
			a, r0, err := memlink.New(cable)
			must(t, err)
			r1, b, err := memlink.New(cable)
			must(t, err)
			router := build(t, withUDP|withForwarding, stack.Config{Name: "router", Link: r0, Addresses: prefixes("192.0.2.254/24")})
			must(t, router.AttachLink(stack.LinkConfig{Link: r1, Addresses: prefixes("198.51.100.254/24")}))
			must(t, router.Start(t.Context()))
			alice := launch(t, withUDP, stack.Config{Name: "alice", Link: a, Addresses: prefixes("192.0.2.1/24"), Gateways: addresses("192.0.2.254")})
			bob := launch(t, withUDP, stack.Config{Name: "bob", Link: b, Addresses: prefixes("198.51.100.1/24"), Gateways: addresses("198.51.100.254")})
			l, err := bob.ListenPacket("udp", ":9")
			must(t, err)
			c, err := alice.Dial("udp", "198.51.100.1:9")
			must(t, err)
			for _, size := range []int{100, 5000} {
				data := make([]byte, size)
				for k := range data {
					data[k] = byte(k * 7)
				}
				_, err = c.Write(data)
				must(t, err)
				got := make([]byte, 9000)
				n, err := background2(t, func() (int, error) { n, _, err := l.ReadFrom(got); return n, err })
				must(t, err)
				if !bytes.Equal(got[:n], data) {
					t.Errorf("%d bytes arrive changed", size)
				}
			}
			must(t, l.Close())
			must(t, c.Close())
		})
	}
}

// background2 waits for a call that must not block for long.
func background2(t *testing.T, f func() (int, error)) (n int, err error) {
	t.Helper()
	receive(t, "the datagram", background(func() error { n, err = f(); return nil }))
	return n, err
}

// TestDialFromTheGoodAddress: one address that another host has doesn't keep the others from
// being used.
func TestDialFromTheGoodAddress(t *testing.T) {
	a, b := memlink.Pair(1500)
	bob := launch(t, withTCP|withIPv6, stack.Config{Name: "bob", Link: b, HardwareAddr: bobMAC, Addresses: prefixes("2001:db8::1/64", "2001:db8::2/64")})
	must(t, bob.Ready(patient(t)))
	l, err := bob.Listen("tcp", "[2001:db8::2]:80")
	must(t, err)
	defer l.Close()
	alice := launch(t, withTCP|withIPv6, stack.Config{Name: "alice", Link: a, HardwareAddr: aliceMAC, Addresses: prefixes("2001:db8::1/64", "2001:db8::7/64")})
	wantErr(t, "Ready", alice.Ready(patient(t)), stack.ErrDuplicateAddress)
	c, err := alice.DialContext(patient(t), "tcp", "[2001:db8::2]:80")
	must(t, err)
	must(t, c.Close())
}

// TestRingOfManyPieces: packets so small that a frame would need more of them than a device
// takes are packets that don't suffice.
func TestRingOfManyPieces(t *testing.T) {
	dev := newStation(t, bob4.Addr())
	dev.features = link.Features{Takes: link.Checksum | link.TSO4 | link.TSO6, Gives: link.Checksum | link.TSO4 | link.TSO6}
	cfg := aliceOn(0, dev)
	cfg.Pool = packets(t, 4000, 60)
	launch(t, withTCP, cfg)
	<-dev.receiving
	for _, slot := range dev.ring {
		if len(slot) > link.MaxPieces {
			t.Fatalf("a slot of the ring has %d pieces", len(slot))
		}
	}
}
