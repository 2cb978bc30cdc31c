package stack

import (
	"bytes"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"

	"github.com/duotap/duotap/packetpool"
	"github.com/duotap/duotap/stack/link/memlink"
)

// What can't be seen from outside of the package.

// stuckClock shows one time for ever, or whatever it is set to.
type stuckClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *stuckClock) set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = t
}

func (c *stuckClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *stuckClock) AfterFunc(time.Duration, func()) Timer { panic("not needed") }

// TestClockIncreases: no two readings of the monotonic clock are equal, whoever takes them
// and however time passes. That keeps RACK from taking segments for lost.
func TestClockIncreases(t *testing.T) {
	start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	source := &stuckClock{now: start}
	clock := newTCPIPClock(source)
	const goroutines, readings = 8, 10000
	all := make([][]tcpip.MonotonicTime, goroutines)
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			for n := range readings {
				all[g] = append(all[g], clock.NowMonotonic())
				if g == 0 && n%1000 == 0 { // time moves, and now and then the wrong way
					source.set(start.Add(time.Duration(n%3000) * time.Microsecond))
				}
			}
		})
	}
	wg.Wait()
	seen := map[tcpip.MonotonicTime]bool{}
	for g, list := range all {
		for n, now := range list {
			if n > 0 && !now.After(list[n-1]) {
				t.Fatalf("goroutine %d: %v comes after %v", g, now, list[n-1])
			}
			if seen[now] {
				t.Fatalf("%v is read twice", now)
			}
			seen[now] = true
		}
	}
}

// TestClockFollows its source, when that moves on.
func TestClockFollows(t *testing.T) {
	source := &stuckClock{now: time.Now()}
	clock := newTCPIPClock(source)
	before := clock.NowMonotonic()
	source.set(source.Now().Add(time.Hour))
	if got := clock.NowMonotonic().Sub(before); got < time.Hour-time.Second || got > time.Hour {
		t.Errorf("an hour is %v", got)
	}
	if !clock.Now().Equal(source.Now()) {
		t.Errorf("the wall clock shows %v, want %v", clock.Now(), source.Now())
	}
}

// TestRandPanicsWhenDry: going on with numbers that aren't random would be worse.
func TestRandPanicsWhenDry(t *testing.T) {
	source := randSource{&lockedReader{r: bytes.NewReader(make([]byte, 16))}}
	source.Uint64()
	if n := source.Int63(); n < 0 {
		t.Errorf("Int63 is %d", n)
	}
	defer func() {
		if recover() == nil {
			t.Error("Uint64 has made a number of nothing")
		}
	}()
	source.Uint64()
}

// TestCloseWhilePaused: gVisor's TCP can be stopped between two packets, which a harness
// does. Close ends it all the same, with connections open and calls waiting.
func TestCloseWhilePaused(t *testing.T) {
	for range 10 {
		a, b := memlink.Pair(1500)
		var both []*Instance
		for k, dev := range []*memlink.Device{a, b} {
			pool, err := packetpool.New(packetpool.Config{Packets: 1, Payload: 64})
			if err != nil {
				t.Fatal(err)
			}
			i, err := New(Config{Link: dev, Pool: pool, Addresses: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(k + 1)}), 24)}})
			if err != nil {
				t.Fatal(err)
			}
			i.EnableTCP()
			if err := i.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			both = append(both, i)
		}
		l, err := both[1].Listen("tcp", "192.0.2.2:80")
		if err != nil {
			t.Fatal(err)
		}
		conn, err := both[0].Dial("tcp", "192.0.2.2:80")
		if err != nil {
			t.Fatal(err)
		}
		waiting := make(chan error, 2)
		go func() { _, err := conn.Read(make([]byte, 1)); waiting <- err }()
		for _, i := range both {
			i.ns.Pause()
		}
		go func() { // arrives while nothing is processed
			for {
				if _, err := conn.Write(make([]byte, 1<<20)); err != nil {
					waiting <- err
					return
				}
			}
		}()
		for _, i := range both {
			closing := make(chan error, 1)
			go func() { closing <- i.Close() }()
			select {
			case err := <-closing:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("Close of a paused instance hangs")
			}
		}
		for range cap(waiting) {
			if err := <-waiting; err == nil {
				t.Error("a call has succeeded on a closed instance")
			}
		}
		if _, err := l.Accept(); err == nil {
			if _, err = l.Accept(); err == nil {
				t.Error("a closed instance accepts")
			}
		}
	}
}

var _ net.Error = timeoutError{}

// TestMaxPieceFits: a super-frame's payload and its headers fit into an IP packet.
func TestMaxPieceFits(t *testing.T) {
	const headers = 60 + 60 // the longest of IPv4 and TCP
	if maxPiece+headers+40 > 65535 {
		t.Errorf("a piece of %d bytes doesn't fit into an IP packet", maxPiece)
	}
}
