package stack_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/duotap/duotap/packetpool"
	"github.com/duotap/duotap/stack"
	"github.com/duotap/duotap/stack/link"
	"github.com/duotap/duotap/stack/link/memlink"
)

func enables(ip *stack.Instance) map[string]func() error {
	return map[string]func() error{"TCP": ip.EnableTCP, "UDP": ip.EnableUDP, "ICMP": ip.EnableICMP,
		"IPv6": ip.EnableIPv6, "forwarding": ip.EnableForwarding}
}

func TestEnableTwice(t *testing.T) {
	ip := build(t, 0, aliceOn(0, newStation(t)))
	for name, enable := range enables(ip) {
		if err := enable(); err != nil {
			t.Errorf("enabling %s: %v", name, err)
		}
		wantErr(t, "again", enable(), nil, name, "alice", "already")
	}
}

func TestEnableTooLate(t *testing.T) {
	ip := launch(t, 0, aliceOn(0, newStation(t)))
	for name, enable := range enables(ip) {
		wantErr(t, "after Start", enable(), stack.ErrStarted, name, "alice")
	}
	wantErr(t, "AttachLink after Start", ip.AttachLink(stack.LinkConfig{Link: newStation(t)}), stack.ErrStarted, "alice")
	must(t, ip.Close())
	for name, enable := range enables(ip) {
		wantErr(t, "after Close", enable(), net.ErrClosed, name)
	}
	wantErr(t, "AttachLink after Close", ip.AttachLink(stack.LinkConfig{Link: newStation(t)}), net.ErrClosed)
}

func TestTCPEnabled(t *testing.T) {
	ip := build(t, withAll&^withTCP, aliceOn(withAll, newStation(t)))
	if ip.TCPEnabled() {
		t.Error("TCP is enabled before EnableTCP")
	}
	must(t, ip.EnableTCP())
	if !ip.TCPEnabled() {
		t.Error("TCP isn't enabled after EnableTCP")
	}
}

func TestStartTwice(t *testing.T) {
	ip := launch(t, withAll, aliceOn(withAll, newStation(t)))
	wantErr(t, "second Start", ip.Start(t.Context()), stack.ErrStarted, "alice")
	if _, err := ip.Listen("tcp", "192.0.2.1:1"); err != nil {
		t.Errorf("the instance is the worse for it: %v", err)
	}
}

func TestStartAfterClose(t *testing.T) {
	ip := build(t, withAll, aliceOn(withAll, newStation(t)))
	must(t, ip.Close())
	wantErr(t, "Start", ip.Start(t.Context()), net.ErrClosed, "alice")
}

func TestCloseTwice(t *testing.T) {
	ip := launch(t, withAll, aliceOn(withAll, newStation(t)))
	must(t, ip.Close())
	wantErr(t, "second Close", ip.Close(), net.ErrClosed, "alice")
}

// TestCloseBeforeStart: New has taken the device over, so Close closes it.
func TestCloseBeforeStart(t *testing.T) {
	dev := newStation(t)
	ip := build(t, withAll, aliceOn(withAll, dev))
	must(t, ip.Close())
	if !dev.gone {
		t.Error("the device is open")
	}
}

// TestConcurrentClose: exactly one of many is the first.
func TestConcurrentClose(t *testing.T) {
	alice, _ := couple(t, withAll, fullOffload)
	var wg sync.WaitGroup
	results := make(chan error, 8)
	for range cap(results) {
		wg.Go(func() { results <- alice.Close() })
	}
	wg.Wait()
	close(results)
	first := 0
	for err := range results {
		if err == nil {
			first++
		} else {
			wantErr(t, "Close", err, net.ErrClosed)
		}
	}
	if first != 1 {
		t.Errorf("%d Closes of 8 were the first", first)
	}
}

// TestBothClose: two instances in each other's deliver, at the same time.
func TestBothClose(t *testing.T) {
	for range 20 {
		alice, bob := couple(t, withAll, fullOffload)
		done := background(bob.Close)
		must(t, alice.Close())
		must(t, receive(t, "bob's Close", done))
	}
}

// TestStartRefusesIPv6Addresses of an instance without IPv6, and is then closed.
func TestStartRefusesIPv6Addresses(t *testing.T) {
	for name, cfg := range map[string]stack.Config{
		"address": {Addresses: []netip.Prefix{alice4, alice6}},
		"gateway": {Addresses: []netip.Prefix{alice4}, Gateways: addresses("fe80::1")},
	} {
		t.Run(name, func(t *testing.T) {
			dev := newStation(t)
			cfg.Name, cfg.Link = "alice", dev
			ip := build(t, withAll&^withIPv6, cfg)
			wantErr(t, "Start", ip.Start(t.Context()), stack.ErrNotEnabled, "alice", name, "EnableIPv6")
			if !dev.gone {
				t.Error("the device is open after a failed Start")
			}
			wantErr(t, "Close", ip.Close(), net.ErrClosed)
		})
	}
}

// TestStartRefusesSmallMTU: IPv4 needs 68 bytes (RFC 791), IPv6 1280 (RFC 8200 §5).
func TestStartRefusesSmallMTU(t *testing.T) {
	for _, c := range []struct {
		s     services
		mtu   int
		least string
	}{{0, 67, "68"}, {0, 68, ""}, {withIPv6, 67, "68"}, {withIPv6, 1279, "1280"}, {withIPv6, 1280, ""}} {
		dev := newStation(t)
		dev.mtu = c.mtu
		ip := build(t, c.s, aliceOn(c.s, dev))
		err := ip.Start(t.Context())
		if c.least == "" {
			must(t, err)
		} else {
			wantErr(t, "Start", err, nil, "alice", "eth0", fmt.Sprint(c.mtu), c.least)
		}
	}
}

func TestStartWithCancelledContext(t *testing.T) {
	dev := newStation(t)
	ip := build(t, withAll, aliceOn(withAll, dev))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantErr(t, "Start", ip.Start(ctx), context.Canceled, "alice")
	if !dev.gone {
		t.Error("the device is open after a failed Start")
	}
}

// TestNotStarted: what needs a started instance says so before Start, and is closed after
// Close.
func TestNotStarted(t *testing.T) {
	ip := build(t, withAll, aliceOn(withAll, newStation(t)))
	calls := map[string]func() error{
		"Ready":     func() error { return ip.Ready(t.Context()) },
		"Ping":      func() error { _, err := ip.Ping(t.Context(), bob4.Addr(), 0); return err },
		"Neighbors": func() error { _, err := ip.Neighbors(); return err },
		"Neighbor":  func() error { _, err := ip.Neighbor(t.Context(), bob4.Addr()); return err },
		"Dial":      func() error { _, err := ip.Dial("tcp", "192.0.2.2:25"); return err },
		"Listen":    func() error { _, err := ip.Listen("tcp", ":25"); return err },
		"ListenUDP": func() error { _, err := ip.ListenPacket("udp", ":25"); return err },
	}
	for name, call := range calls {
		wantErr(t, name+" before Start", call(), stack.ErrNotStarted)
	}
	must(t, ip.Start(t.Context()))
	must(t, ip.Close())
	for name, call := range calls {
		wantErr(t, name+" after Close", call(), net.ErrClosed)
	}
}

// ringDevices are devices that need memory to receive into, and what they take of a pool
// with packets of payload bytes.
var ringDevices = []struct {
	name     string
	features link.Features
	mtu      int
	slots    int
	size     int
}{
	{"plain", link.Features{}, 1500, 8, 1514},
	{"plain, 9000", link.Features{}, 9000, 8, 9014},
	{"checksums", link.Features{Gives: link.Checksum}, 1500, 8, 1514},
	{"offloads", link.Features{Takes: fullOffload.Offloads, Gives: fullOffload.Offloads}, 1500, 2, link.MaxSuperFrame},
}

// TestRing: the ring is taken at Start, each slot of it holds one frame of the largest
// size, and it is given back by Close.
func TestRing(t *testing.T) {
	for _, d := range ringDevices {
		for _, payload := range []int{65, 128, 1514, 2048, 70000} {
			t.Run(fmt.Sprintf("%s/packets of %d", d.name, payload), func(t *testing.T) {
				perSlot := (d.size + payload - 1) / payload
				pool := packets(t, d.slots*perSlot, payload)
				dev := newStation(t)
				dev.mtu, dev.features = d.mtu, d.features
				book := new(logBook)
				ip := build(t, withAll, stack.Config{Link: dev, Pool: pool, Logger: book.logger()})
				checkFull(t, pool)
				must(t, ip.Start(t.Context()))
				if s := pool.Stats(); s.Free != 0 {
					t.Errorf("%d of %d packets are free after Start", s.Free, s.Total)
				}
				receive(t, "Receive", dev.receiving)
				checkSlots(t, dev.ring, d.slots, d.size)
				if book.count("too small") != 0 {
					t.Errorf("log: %s", book.text.String())
				}
				must(t, ip.Close())
				checkFull(t, pool)
			})
		}
	}
}

func checkSlots(t *testing.T, ring link.Ring, slots, size int) {
	t.Helper()
	if len(ring) != slots {
		t.Errorf("the ring has %d slots, want %d", len(ring), slots)
	}
	for i, slot := range ring {
		f := link.Frame{Data: slot}
		if f.Len() < size {
			t.Errorf("slot %d holds %d bytes, want %d", i, f.Len(), size)
		}
	}
}

// TestRingBytes: a pool of that many bytes, with a packet more for each slot to round up
// with, is enough.
func TestRingBytes(t *testing.T) {
	for _, d := range ringDevices {
		dev := newStation(t)
		dev.mtu, dev.features = d.mtu, d.features
		if got, want := stack.RingBytes(dev), d.slots*d.size; got != want {
			t.Errorf("%s: RingBytes is %d, want %d", d.name, got, want)
		}
	}
	a, _ := memlink.Pair(1500)
	if got := stack.RingBytes(a); got != 0 {
		t.Errorf("RingBytes is %d for a device that lends its memory", got)
	}
}

// TestPoolTooSmallForSuperFrames: it works with plain frames then, and says so once.
func TestPoolTooSmallForSuperFrames(t *testing.T) {
	for _, free := range []int{8, 9, 87} { // 88 are enough
		pool := packets(t, free, 1514)
		dev := newStation(t, bob4.Addr())
		dev.features = link.Features{Takes: fullOffload.Offloads, Gives: fullOffload.Offloads}
		book := new(logBook)
		ip := launch(t, withAll, stack.Config{Name: "alice", Link: dev, HardwareAddr: aliceMAC,
			Addresses: prefixes("192.0.2.1/24"), Pool: pool, Logger: book.logger()})
		receive(t, "Receive", dev.receiving)
		checkSlots(t, dev.ring, 8, 1514)
		if book.count() != book.count("level=INFO")+1 || book.count("level=WARN", "too small", "frames", "131120") != 1 {
			t.Errorf("log, want one warning with the 131120 bytes needed:\n%s", book.text.String())
		}
		ctx, cancel := context.WithCancel(t.Context())
		ping := background(func() error { _, err := ip.Ping(ctx, bob4.Addr(), 0); return err })
		dev.expect("an echo request", isEcho)
		cancel()
		wantErr(t, "Ping", receive(t, "Ping", ping), context.Canceled)
		must(t, ip.Close())
	}
}

// TestPoolTooSmallForOneFrame: Start fails and names what is needed. With less than the
// usual slots it works.
func TestPoolTooSmallForOneFrame(t *testing.T) {
	for _, c := range []struct {
		packets, payload int
		gives            link.Offloads
		slots            int
	}{
		{1, 1513, 0, 0}, {11, 128, 0, 0}, {1, 64, fullOffload.Offloads, 0},
		{1, 1514, 0, 1}, {2, 1513, 0, 1}, {12, 128, 0, 1}, {25, 128, fullOffload.Offloads, 2},
	} {
		t.Run(fmt.Sprintf("%d of %d bytes, offloads %#x", c.packets, c.payload, c.gives), func(t *testing.T) {
			pool := packets(t, c.packets, c.payload)
			dev := newStation(t)
			dev.features.Gives = c.gives
			ip := build(t, withAll, stack.Config{Name: "alice", Link: dev, Pool: pool})
			err := ip.Start(t.Context())
			if c.slots > 0 {
				must(t, err)
				receive(t, "Receive", dev.receiving)
				checkSlots(t, dev.ring, c.slots, 1514)
				return
			}
			wantErr(t, "Start", err, packetpool.ErrNoPacket, "alice", "eth0", "frames",
				fmt.Sprint(c.packets, " packets of ", c.payload, " bytes"), "1514 bytes")
			checkFull(t, pool)
			if !dev.gone {
				t.Error("the device is open after a failed Start")
			}
		})
	}
}

// TestPoolEmptyAtStart: somebody else has its packets.
func TestPoolEmptyAtStart(t *testing.T) {
	pool := packets(t, 4, 1514)
	var held []*packetpool.Packet
	for range 4 {
		p, err := pool.TryAllocate(0)
		must(t, err)
		held = append(held, p)
	}
	ip := build(t, 0, stack.Config{Link: newStation(t), Pool: pool})
	wantErr(t, "Start", ip.Start(t.Context()), packetpool.ErrNoPacket, "has 0 packets")
	for _, p := range held {
		p.Release()
	}
}

// TestStartFailsOnSecondLink: the ring of the first is given back.
func TestStartFailsOnSecondLink(t *testing.T) {
	first, second := newStation(t), newStation(t)
	second.mtu = 9000
	pool := packets(t, 8, 1514)
	ip := build(t, withAll, stack.Config{Link: first, Pool: pool})
	must(t, ip.AttachLink(stack.LinkConfig{Link: second, Name: "wan"}))
	wantErr(t, "Start", ip.Start(t.Context()), packetpool.ErrNoPacket, "wan", "9014")
	checkFull(t, pool)
	if !first.gone || !second.gone {
		t.Error("a device is open after a failed Start")
	}
}

// TestCloseEndsWhatWaits: every blocked call returns net.ErrClosed, and nothing is left.
func TestCloseEndsWhatWaits(t *testing.T) {
	alice, bob := couple(t, withAll, fullOffload)
	must(t, alice.Ready(patient(t)))
	must(t, bob.Ready(patient(t)))
	bobs, err := bob.Listen("tcp", "192.0.2.2:7")
	must(t, err)
	conn, err := alice.Dial("tcp", "192.0.2.2:7")
	must(t, err)
	accepted, err := bobs.Accept()
	must(t, err)
	listener, err := alice.Listen("tcp", ":8")
	must(t, err)
	udp, err := alice.ListenPacket("udp", ":9")
	must(t, err)

	ctx := t.Context()
	waiting := map[string]<-chan error{
		"Read":   background(func() error { _, err := conn.Read(make([]byte, 1)); return err }),
		"Accept": background(func() error { _, err := listener.Accept(); return err }),
		"UDP":    background(func() error { _, _, err := udp.ReadFrom(make([]byte, 1)); return err }),
		"Write": background(func() error {
			for {
				if _, err := conn.Write(make([]byte, 1<<20)); err != nil {
					return err
				}
			}
		}),
		"Dial":     background(func() error { _, err := alice.DialContext(ctx, "tcp", "192.0.2.77:1"); return err }),
		"Ping":     background(func() error { _, err := alice.Ping(ctx, netip.MustParseAddr("192.0.2.78"), 10); return err }),
		"Neighbor": background(func() error { _, err := alice.Neighbor(ctx, netip.MustParseAddr("2001:db8::79")); return err }),
	}
	awaitBlocked(t, alice, "192.0.2.77", "192.0.2.78", "2001:db8::79")
	must(t, alice.Close())
	for name, c := range waiting {
		wantErr(t, name, receive(t, name, c), net.ErrClosed)
	}
	if _, err := accepted.Read(make([]byte, 1<<20)); err == nil {
		for err == nil {
			_, err = accepted.Read(make([]byte, 1<<20))
		}
		t.Logf("bob reads: %v", err)
	}
}

// awaitBlocked waits until the instance looks for the MAC addresses of all these hosts.
func awaitBlocked(t *testing.T, ip *stack.Instance, hosts ...string) {
	t.Helper()
	eventually(t, "calls to wait", func() bool {
		list, err := ip.Neighbors()
		must(t, err)
		text := fmt.Sprint(list)
		for _, h := range hosts {
			if !strings.Contains(text, h) {
				return false
			}
		}
		return true
	})
}

// TestCloseEndsPingWithoutAnswer: of a host that is there and says nothing.
func TestCloseEndsPingWithoutAnswer(t *testing.T) {
	dev := newStation(t, bob4.Addr())
	ip := launch(t, withICMP, aliceOn(0, dev))
	waiting := background(func() error { _, err := ip.Ping(t.Context(), bob4.Addr(), 10); return err })
	dev.expect("echo request", isEcho)
	must(t, ip.Close())
	wantErr(t, "Ping", receive(t, "Ping", waiting), net.ErrClosed, "192.0.2.2")
}

// TestCloseEndsReady while an address is under duplicate address detection.
func TestCloseEndsReady(t *testing.T) {
	cfg := aliceOn(withAll, newStation(t))
	cfg.Clock = newFakeClock() // stands still: detection never ends
	ip := launch(t, withAll, cfg)
	ready := background(func() error { return ip.Ready(t.Context()) })
	dial := background(func() error { _, err := ip.Dial("tcp", "[2001:db8::2]:25"); return err })
	must(t, ip.Close())
	wantErr(t, "Ready", receive(t, "Ready", ready), net.ErrClosed)
	wantErr(t, "Dial", receive(t, "Dial", dial), net.ErrClosed)
}

// TestCloseOfAPulledDevice: somebody has closed the device already.
func TestCloseOfAPulledDevice(t *testing.T) {
	dev := newStation(t)
	book := new(logBook)
	cfg := aliceOn(withAll, dev)
	cfg.Logger = book.logger()
	ip := launch(t, withAll, cfg)
	receive(t, "Receive", dev.receiving)
	must(t, dev.Close())
	if err := ip.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// brokenDevice is one whose Close fails.
type brokenDevice struct{ *station }

func (d brokenDevice) Close() error {
	d.station.Close()
	return errors.New("the plug is stuck")
}

func TestCloseReportsTheDevice(t *testing.T) {
	ip := launch(t, withAll, aliceOn(withAll, brokenDevice{newStation(t)}))
	wantErr(t, "Close", ip.Close(), nil, "alice", "the plug is stuck")
}

// TestManyInstances lives and dies 200 times with one pool; nothing piles up.
func TestManyInstances(t *testing.T) {
	pool := packets(t, 88, 1514)
	for range 200 {
		dev := newStation(t)
		dev.features.Gives = fullOffload.Offloads
		cfg := aliceOn(withAll, dev)
		cfg.Pool = pool
		ip, err := stack.New(cfg)
		must(t, err)
		for _, enable := range enables(ip) {
			must(t, enable())
		}
		must(t, ip.Start(t.Context()))
		must(t, ip.Close())
		checkFull(t, pool)
	}
	checkNothingRuns(t)
}
