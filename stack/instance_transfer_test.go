package stack_test

import (
	"encoding/binary"
	"fmt"
	mrand "math/rand/v2"
	"net"
	"net/netip"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/duotap/duotap/stack"
	"github.com/duotap/duotap/stack/link"
	"github.com/duotap/duotap/stack/link/linktest"
	"github.com/duotap/duotap/stack/link/memlink"
)

// checker looks at all frames of an instance, and fails the test if one isn't fit for its
// device: too long, with a wrong checksum, or with something left undone that the device
// doesn't do.
type checker struct {
	t       *testing.T
	dev     link.Device
	longest atomic.Int64 // IP packet of a frame or a segment, in bytes
	supers  atomic.Int64 // super-frames
	payload atomic.Int64 // most bytes of TCP in a frame or segment
}

func (c *checker) look(sent bool, f *link.Frame) {
	if !sent {
		return
	}
	if err := f.Check(c.dev.MTU(), c.dev.Features().Takes); err != nil {
		c.t.Errorf("sent: %v", err)
		return
	}
	if f.Offload.Segment != link.NoSegmentation {
		c.supers.Add(1)
	}
	err := link.Split(f, new(link.Scratch), func(p link.Frame) error {
		h, ok := p.Headers()
		if !ok {
			return nil
		}
		if !link.VerifyChecksum(&p) {
			c.t.Errorf("sent with a wrong checksum: offload %+v\n%x", f.Offload, linktest.Bytes(&p))
		}
		keepMax(&c.longest, int64(h.End-h.Network))
		if h.Protocol == 6 {
			keepMax(&c.payload, int64(h.End-h.Payload))
		}
		return nil
	})
	if err != nil {
		c.t.Errorf("sent: %v", err)
	}
}

func keepMax(v *atomic.Int64, to int64) {
	for old := v.Load(); to > old && !v.CompareAndSwap(old, to); old = v.Load() {
	}
}

// coupleChecked is couple with both ends looked at.
func coupleChecked(t *testing.T, s services, cable memlink.Config) (alice, bob *stack.Instance, atAlice, atBob *checker) {
	t.Helper()
	a, b, err := memlink.New(cable)
	must(t, err)
	atAlice, atBob = &checker{t: t, dev: a}, &checker{t: t, dev: b}
	clock := newHastyClock()
	cfgA, cfgB := aliceOn(s, &spy{a, atAlice.look}), bobOn(s, &spy{b, atBob.look})
	cfgA.Clock, cfgB.Clock = clock, clock
	alice, bob = launch(t, s, cfgA), launch(t, s, cfgB)
	clock.settle(t, alice, bob)
	return alice, bob, atAlice, atBob
}

// TestTransfer sends 64 MiB over each kind of cable, and looks at each frame.
func TestTransfer(t *testing.T) {
	size := 64 << 20
	if racing {
		size = 3 << 20
	}
	for name, cable := range map[string]memlink.Config{"plain": {}, "checksums": {Offloads: link.Checksum}, "super-frames": fullOffload} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			alice, bob, atAlice, _ := coupleChecked(t, withTCP|withIPv6, cable)
			for _, addr := range []netip.Addr{bob4.Addr(), bob6.Addr()} {
				sendBytes(t, alice, bob, addr, size)
			}
			if supers := atAlice.supers.Load() > 0; supers != (cable.Offloads == fullOffload.Offloads) {
				t.Errorf("super-frames have been sent: %v", supers)
			}
			if s := alice.Stats().TCP; s.RetransmissionsTimed > 2 || s.Retransmits > s.SegmentsSent/20 {
				t.Errorf("on a cable that loses nothing: %+v", s)
			}
		})
	}
}

// TestBothDirectionsAtOnce, over several connections.
func TestBothDirectionsAtOnce(t *testing.T) {
	alice, bob, _, _ := coupleChecked(t, withTCP|withIPv6, fullOffload)
	var wg sync.WaitGroup
	for _, c := range []struct {
		from, to *stack.Instance
		addr     netip.Addr
	}{{alice, bob, bob4.Addr()}, {bob, alice, alice4.Addr()}, {alice, bob, bob6.Addr()}, {bob, alice, alice6.Addr()}} {
		wg.Go(func() { sendBytes(t, c.from, c.to, c.addr, 1<<20) })
	}
	wg.Wait()
}

// TestMTU: each side tells the other the largest segment (RFC 9293 §3.7.1), which is the
// MTU less 40 or 60 bytes of headers. A datagram that just fits is one frame, and a
// segment leaves room for all 40 bytes of TCP options, of which timestamps take 12.
func TestMTU(t *testing.T) {
	for _, mtu := range []int{576, 1280, 1492, 1500, 4000, 9000} {
		for _, cable := range []memlink.Config{{MTU: mtu}, {MTU: mtu, Offloads: fullOffload.Offloads}} {
			t.Run(fmt.Sprintf("%d, offloads %#x", mtu, cable.Offloads), func(t *testing.T) {
				t.Parallel()
				s := withTCP | withUDP
				if mtu >= 1280 {
					s |= withIPv6
				}
				alice, bob, atAlice, _ := coupleChecked(t, s, cable)
				hosts := map[netip.Addr]int{bob4.Addr(): 40}
				if s&withIPv6 != 0 {
					hosts[bob6.Addr()] = 60
				}
				for addr, headers := range hosts {
					atAlice.longest.Store(0)
					atAlice.payload.Store(0)
					sendBytes(t, alice, bob, addr, 20*mtu)
					if got, want := int(atAlice.payload.Load()), mtu-headers-40; got != want {
						t.Errorf("%v: segments of %d bytes, want %d", addr, got, want)
					}
					if got, want := int(atAlice.longest.Load()), mtu-40+12; got != want {
						t.Errorf("%v: IP packets of %d bytes, want %d", addr, got, want)
					}
					sendDatagram(t, alice, bob, addr, mtu-headers+12) // UDP's header is 8 bytes
					if got := int(atAlice.longest.Load()); got != mtu {
						t.Errorf("%v: a datagram is sent as %d bytes, want %d", addr, got, mtu)
					}
				}
			})
		}
	}
}

func sendDatagram(t *testing.T, from, to *stack.Instance, addr netip.Addr, n int) {
	t.Helper()
	receiver, err := to.ListenPacket("udp", netip.AddrPortFrom(addr, 0).String())
	must(t, err)
	defer receiver.Close()
	conn, err := from.DialContext(patient(t), "udp", receiver.LocalAddr().String())
	must(t, err)
	defer conn.Close()
	if _, err := conn.Write(make([]byte, n)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 1<<16)
	if m, _, err := receiver.ReadFrom(got); err != nil || m != n {
		t.Errorf("a datagram of %d bytes arrives as %d, %v", n, m, err)
	}
}

// TestMSS is that in the SYN of either side.
func TestMSS(t *testing.T) {
	for _, mtu := range []int{576, 1280, 1500, 9000} {
		s := withTCP
		hosts := map[string]int{"192.0.2.2": mtu - 40}
		if mtu >= 1280 {
			s |= withIPv6
			hosts["[2001:db8::2]"] = mtu - 60
		}
		dev := newStation(t, bob4.Addr(), bob6.Addr())
		dev.mtu = mtu
		clock := newHastyClock()
		cfg := aliceOn(s, dev)
		cfg.Clock = clock
		alice := launch(t, s, cfg)
		clock.settle(t, alice)
		_, err := alice.Listen("tcp", ":80")
		must(t, err)
		for host, want := range hosts {
			background(func() error { _, err := alice.DialContext(t.Context(), "tcp", host+":25"); return err })
			syn := dev.expect("SYN", isTCP(linktest.SYN)).bytes
			if got := mssOf(syn); got != want {
				t.Errorf("MTU %d, %s: the SYN says %d, want %d", mtu, host, got, want)
			}
			own := map[bool]string{true: "192.0.2.1:80", false: "[2001:db8::1]:80"}[host == "192.0.2.2"]
			dev.injectBytes(dev.flow(host+":999", own).TCP(1, linktest.SYN, nil))
			answer := dev.expect("SYN, ACK", isTCP(linktest.SYN|linktest.ACK)).bytes
			if got := mssOf(answer); got != want {
				t.Errorf("MTU %d, %s: the SYN, ACK says %d, want %d", mtu, host, got, want)
			}
		}
	}
}

// mssOf finds the maximum segment size among the options of a segment.
func mssOf(b []byte) int {
	h := headersOf(b)
	options := b[h.Transport+20 : h.Payload]
	for len(options) > 1 {
		switch kind := options[0]; {
		case kind == 1:
			options = options[1:]
		case kind == 2:
			return int(binary.BigEndian.Uint16(options[2:]))
		case kind == 0 || int(options[1]) > len(options) || options[1] < 2:
			return 0
		default:
			options = options[options[1]:]
		}
	}
	return 0
}

// TestSeed: the same Config.Rand and Config.Clock make the same MAC address, ports and
// initial sequence numbers; another seed makes others.
func TestSeed(t *testing.T) {
	type start struct {
		mac  string
		port uint16
		isn  uint32
	}
	run := func(seed uint64) (all []start) {
		dev := newStation(t, bob4.Addr())
		cfg := stack.Config{Link: dev, Addresses: prefixes("192.0.2.1/24"), Clock: newFakeClock(),
			Rand: mrand.NewChaCha8([32]byte{byte(seed)})}
		alice := launch(t, withTCP, cfg)
		for k := range 20 {
			dialing := background(func() error {
				_, err := alice.DialContext(patient(t), "tcp", fmt.Sprint("192.0.2.2:", k+1))
				return err
			})
			syn := dev.expect("SYN", isTCP(linktest.SYN)).bytes
			h := headersOf(syn)
			s := start{net.HardwareAddr(syn[6:12]).String(), binary.BigEndian.Uint16(syn[h.Transport:]), binary.BigEndian.Uint32(syn[h.Transport+4:])}
			all = append(all, s)
			rst := dev.flow(fmt.Sprint("192.0.2.2:", k+1), fmt.Sprint("192.0.2.1:", s.port)).TCP(0, linktest.RST|linktest.ACK, nil)
			copy(rst, syn[6:12])
			dev.injectBytes(editTCP(rst, func(tcp []byte) { binary.BigEndian.PutUint32(tcp[8:], s.isn+1) }))
			if err := receive(t, "Dial", dialing); err == nil {
				t.Fatal("connected by a reset")
			}
		}
		must(t, alice.Close())
		return all
	}
	first, again, other := run(1), run(1), run(2)
	if !reflect.DeepEqual(first, again) {
		t.Errorf("one seed, two runs:\n%v\n%v", first, again)
	}
	for k := range first {
		if first[k].mac == other[k].mac || first[k].isn == other[k].isn {
			t.Errorf("another seed, and the same MAC address or sequence number: %v, %v", first[k], other[k])
		}
		for j := range first[:k] {
			if first[k].port == first[j].port || first[k].isn == first[j].isn {
				t.Errorf("two connections with the same port or sequence number: %v, %v", first[k], first[j])
			}
		}
	}
}

// TestSmallRingPackets: what is received passes through the packets of the pool, many to a frame.
func TestSmallRingPackets(t *testing.T) {
	for _, payload := range []int{65, 1000, 1514, 40000} {
		for name, cable := range map[string]memlink.Config{"plain": {}, "super-frames": fullOffload} {
			t.Run(fmt.Sprint(name, ", packets of ", payload), func(t *testing.T) {
				t.Parallel()
				a, b, err := memlink.New(cable)
				must(t, err)
				cfg := aliceOn(0, ringDevice{a, t})
				cfg.Pool = packets(t, 2*link.MaxSuperFrame/payload+10, payload)
				alice, bob := launch(t, withTCP|withICMP, cfg), launch(t, withTCP|withICMP, bobOn(0, b))
				if s := cfg.Pool.Stats(); s.Free == s.Total {
					t.Error("the pool isn't used")
				}
				sendBytes(t, bob, alice, alice4.Addr(), 1<<18)
				sendBytes(t, alice, bob, bob4.Addr(), 1<<18)
				if _, err := bob.Ping(patient(t), alice4.Addr(), 5000); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// ringDevice receives into the ring that it is given, one slot after the other, as a device
// of the kernel does.
type ringDevice struct {
	link.Device
	t *testing.T
}

func (d ringDevice) Features() link.Features {
	f := d.Device.Features()
	f.Lends = false
	return f
}

func (d ringDevice) Receive(ring link.Ring, deliver func([]link.Frame)) error {
	queue := make(chan frame, 1<<14)
	ended := background(func() error {
		defer close(queue)
		return d.Device.Receive(nil, func(frames []link.Frame) {
			for k := range frames {
				select {
				case queue <- frame{linktest.Bytes(&frames[k]), frames[k].Offload}:
				default: // lost, as when a kernel's queue is full
				}
			}
		})
	})
	slot := 0
	for f := range queue {
		data := d.fill(ring[slot%len(ring)], f.bytes)
		slot++
		deliver([]link.Frame{{Data: data, Offload: f.offload}})
	}
	return <-ended
}

// fill copies a frame into a slot, and returns the pieces of it that are used.
func (d ringDevice) fill(slot [][]byte, b []byte) (data [][]byte) {
	for _, piece := range slot {
		n := copy(piece, b)
		data, b = append(data, piece[:n]), b[n:]
	}
	if len(b) > 0 {
		d.t.Errorf("a frame is %d bytes too long for its slot", len(b))
	}
	return data
}
