package stack_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/duotap/duotap/packetpool"
	"github.com/duotap/duotap/stack"
	"github.com/duotap/duotap/stack/link"
	"github.com/duotap/duotap/stack/link/linktest"
	"github.com/duotap/duotap/stack/link/memlink"
)

// patience is how long a test waits for what should happen at once. It is met on failure
// only.
const patience = 20 * time.Second

// services are what launch enables.
type services uint

const (
	withTCP services = 1 << iota
	withUDP
	withICMP
	withIPv6
	withForwarding

	withAll = withTCP | withUDP | withICMP | withIPv6
)

// The hosts of most tests.
var (
	alice4 = netip.MustParsePrefix("192.0.2.1/24")
	alice6 = netip.MustParsePrefix("2001:db8::1/64")
	bob4   = netip.MustParsePrefix("192.0.2.2/24")
	bob6   = netip.MustParsePrefix("2001:db8::2/64")

	aliceMAC = net.HardwareAddr{2, 0, 0, 0, 0, 0xa}
	bobMAC   = net.HardwareAddr{2, 0, 0, 0, 0, 0xb}
	eveMAC   = net.HardwareAddr{2, 0, 0, 0, 0, 0xe}
)

// build makes an instance with services, and a pool unless cfg has one. When the test
// ends, the instance is closed, all of its packets have to be back, and once no instance
// is open none of their goroutines may be left.
func build(t testing.TB, s services, cfg stack.Config) *stack.Instance {
	t.Helper()
	if cfg.Pool == nil {
		cfg.Pool = packets(t, 100, 1514)
	}
	ip, err := stack.New(cfg)
	must(t, err)
	openInstances.Add(1)
	t.Cleanup(func() {
		if err := ip.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Errorf("Close at the end: %v", err)
		}
		if openInstances.Add(-1) == 0 {
			checkNothingRuns(t)
		}
	})
	for _, e := range []struct {
		service services
		enable  func() error
	}{{withTCP, ip.EnableTCP}, {withUDP, ip.EnableUDP}, {withICMP, ip.EnableICMP}, {withIPv6, ip.EnableIPv6},
		{withForwarding, ip.EnableForwarding}} {
		if s&e.service != 0 {
			must(t, e.enable())
		}
	}
	return ip
}

// launch is build and Start.
func launch(t testing.TB, s services, cfg stack.Config) *stack.Instance {
	t.Helper()
	ip := build(t, s, cfg)
	must(t, ip.Start(t.Context()))
	return ip
}

// couple launches alice and bob on a cable.
func couple(t testing.TB, s services, cable memlink.Config) (alice, bob *stack.Instance) {
	t.Helper()
	a, b, err := memlink.New(cable)
	must(t, err)
	return launch(t, s, aliceOn(s, a)), launch(t, s, bobOn(s, b))
}

func aliceOn(s services, dev link.Device) stack.Config {
	return stack.Config{Name: "alice", Link: dev, HardwareAddr: aliceMAC, Addresses: only(s, alice4, alice6)}
}

func bobOn(s services, dev link.Device) stack.Config {
	return stack.Config{Name: "bob", Link: dev, HardwareAddr: bobMAC, Addresses: only(s, bob4, bob6)}
}

// only leaves out the addresses of IPv6 without it.
func only(s services, prefixes ...netip.Prefix) []netip.Prefix {
	return slices.DeleteFunc(prefixes, func(p netip.Prefix) bool { return p.Addr().Is6() && s&withIPv6 == 0 })
}

// fullOffload is a cable that carries super-frames.
var fullOffload = memlink.Config{Offloads: link.Checksum | link.TSO4 | link.TSO6 | link.USO4 | link.USO6}

// packets makes a pool that has to be full when the test ends.
func packets(t testing.TB, n, payload int) *packetpool.Pool {
	t.Helper()
	pool, err := packetpool.New(packetpool.Config{Name: "frames", Packets: n, Payload: payload})
	must(t, err)
	t.Cleanup(func() {
		checkFull(t, pool)
		for _, h := range pool.Held() {
			t.Errorf("pool at the end: %v", h)
		}
	})
	return pool
}

func checkFull(t testing.TB, pool *packetpool.Pool) {
	t.Helper()
	if s := pool.Stats(); s.Free != s.Total || s.InvalidReleases != 0 {
		t.Errorf("pool is %+v, want all packets free", s)
	}
}

// openInstances counts the instances whose goroutines may run.
var openInstances atomic.Int32

// checkNothingRuns fails the test if goroutines of an instance are left, now and soon.
func checkNothingRuns(t testing.TB) {
	t.Helper()
	buf := make([]byte, 1<<20)
	for deadline := time.Now().Add(patience); ; runtime.Gosched() {
		left := ""
		for g := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if strings.Contains(g, "checkNothingRuns") {
				continue
			}
			if strings.Contains(g, "gvisor.dev/") || strings.Contains(g, "duotap/stack.") {
				left = g
			}
		}
		switch {
		case left == "":
			return
		case time.Now().After(deadline):
			t.Errorf("a goroutine is left of closed instances:\n%s", left)
			return
		}
	}
}

// must ends the test if something fails that it only prepares with.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantErr checks that err wraps target, and that its text has all these words.
func wantErr(t testing.TB, what string, err, target error, words ...string) {
	t.Helper()
	if err == nil || target != nil && !errors.Is(err, target) {
		t.Errorf("%s: error %v, want one that wraps %v", what, err, target)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%s: error %q lacks %q", what, err, w)
		}
	}
}

// patient is a context for what should happen at once.
func patient(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// receive waits for a value.
func receive[T any](t testing.TB, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("%s: nothing within %v", what, patience)
		panic("unreachable")
	}
}

// eventually waits until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// background runs f, and returns where its error will be.
func background(f func() error) <-chan error {
	c := make(chan error, 1)
	go func() { c <- f() }()
	return c
}

// logBook keeps what is logged.
type logBook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBook) logger() *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

// count is how many lines have all these words.
func (b *logBook) count(words ...string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for line := range strings.Lines(b.text.String()) {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			n++
		}
	}
	return n
}

// spy is a device that shows each frame that passes it, before it is passed on. look is
// called by several goroutines, and the frame is borrowed.
type spy struct {
	link.Device
	look func(sent bool, f *link.Frame)
}

func (s *spy) Send(frames []link.Frame) (int, error) {
	for k := range frames {
		s.look(true, &frames[k])
	}
	return s.Device.Send(frames)
}

func (s *spy) Receive(ring link.Ring, deliver func([]link.Frame)) error {
	return s.Device.Receive(ring, func(frames []link.Frame) {
		for k := range frames {
			s.look(false, &frames[k])
		}
		deliver(frames)
	})
}

// sieve is a device that loses some of what is sent.
type sieve struct {
	link.Device
	lose func(f *link.Frame) bool
}

func (s *sieve) Send(frames []link.Frame) (int, error) {
	for k := range frames {
		if s.lose(&frames[k]) {
			continue
		}
		if _, err := s.Device.Send(frames[k : k+1]); err != nil {
			return k, err
		}
	}
	return len(frames), nil
}

// fakeClock is a Clock that stands still until it is moved.
type fakeClock struct {
	mu      sync.Mutex
	idle    sync.Cond // nothing runs
	now     time.Time
	timers  []*fakeTimer
	running int // calls of expired timers
}

func newFakeClock() *fakeClock {
	c := &fakeClock{now: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)}
	c.idle.L = &c.mu
	return c
}

type fakeTimer struct {
	clock *fakeClock
	at    time.Time
	f     func()
}

func (c *fakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *fakeClock) AfterFunc(d time.Duration, f func()) stack.Timer {
	t := &fakeTimer{clock: c, f: f}
	t.Reset(d)
	return t
}

func (t *fakeTimer) Stop() bool {
	t.clock.mu.Lock()
	defer t.clock.mu.Unlock()
	return t.clock.remove(t)
}

// Reset runs what is due at once, as a clock does that moves.
func (t *fakeTimer) Reset(d time.Duration) bool {
	c := t.clock
	c.mu.Lock()
	defer c.mu.Unlock()
	active := c.remove(t)
	if d <= 0 {
		c.call(t)
		return active
	}
	t.at = c.now.Add(d)
	c.timers = append(c.timers, t)
	return active
}

func (c *fakeClock) remove(t *fakeTimer) bool {
	n := len(c.timers)
	c.timers = slices.DeleteFunc(c.timers, func(other *fakeTimer) bool { return other == t })
	return len(c.timers) < n
}

func (c *fakeClock) call(t *fakeTimer) {
	c.running++
	go func() {
		t.f()
		c.mu.Lock()
		defer c.mu.Unlock()
		c.running--
		c.idle.Broadcast()
	}()
}

// advance moves the time on and returns when the timers that expired in it have run, those
// included that they have set.
func (c *fakeClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for end := c.now.Add(d); ; {
		for c.running > 0 {
			c.idle.Wait()
		}
		first := c.first(end)
		if first == nil {
			c.now = end
			return
		}
		c.now = first.at
		c.remove(first)
		c.call(first)
	}
}

// first is the timer that expires first, until end; nil if there is none.
func (c *fakeClock) first(end time.Time) (first *fakeTimer) {
	for _, t := range c.timers {
		if !t.at.After(end) && (first == nil || t.at.Before(first.at)) {
			first = t
		}
	}
	return first
}

// hastyClock is the machine's, but can be put forward, which spares tests with TCP the
// second of duplicate address detection.
type hastyClock struct {
	mu     sync.Mutex
	ahead  time.Duration
	timers map[*hastyTimer]struct{}
}

type hastyTimer struct {
	*time.Timer
	clock *hastyClock
	at    time.Time // by its clock
}

func newHastyClock() *hastyClock { return &hastyClock{timers: map[*hastyTimer]struct{}{}} }

func (c *hastyClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

func (c *hastyClock) AfterFunc(d time.Duration, f func()) stack.Timer {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := &hastyTimer{clock: c, at: time.Now().Add(c.ahead + d)}
	c.timers[t] = struct{}{}
	t.Timer = time.AfterFunc(d, func() {
		c.forget(t)
		f()
	})
	return t
}

func (c *hastyClock) forget(t *hastyTimer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.timers, t)
}

func (t *hastyTimer) Stop() bool {
	t.clock.forget(t)
	return t.Timer.Stop()
}

func (t *hastyTimer) Reset(d time.Duration) bool {
	t.clock.mu.Lock()
	defer t.clock.mu.Unlock()
	t.at = time.Now().Add(t.clock.ahead + d)
	t.clock.timers[t] = struct{}{}
	return t.Timer.Reset(d)
}

func (c *hastyClock) putForward(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
	for t := range c.timers {
		if t.Timer.Stop() { // otherwise it runs already
			t.Timer.Reset(time.Until(t.at.Add(-c.ahead)))
		}
	}
}

// settle puts the clock forward until all addresses of the instances, which live by it,
// are ready.
func (c *hastyClock) settle(t testing.TB, instances ...*stack.Instance) {
	t.Helper()
	for _, ip := range instances {
		eventually(t, "Ready", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			err := ip.Ready(ctx)
			if errors.Is(err, context.DeadlineExceeded) {
				c.putForward(time.Second)
				return false
			}
			must(t, err)
			return true
		})
	}
}

// station is a device whose other end is the test: it keeps what the instance sends, and
// hands to the instance whatever the test makes up. It also answers ARP requests and
// neighbour solicitations for its own addresses, unless it is mute.
type station struct {
	t        testing.TB
	mtu      int
	features link.Features
	mac      [6]byte
	own      []netip.Addr
	mute     bool
	carrier  link.Carrier

	receiving chan struct{} // closed by Receive
	closed    chan struct{}
	ring      link.Ring
	deliver   func([]link.Frame)

	mu     sync.Mutex
	busy   sync.WaitGroup
	gone   bool
	frames chan frame
	broken error
}

// frame is a copy of one that the instance has sent.
type frame struct {
	bytes   []byte
	offload link.Offload
}

func newStation(t testing.TB, own ...netip.Addr) *station {
	s := &station{t: t, mtu: 1500, mac: [6]byte(bobMAC), own: own,
		receiving: make(chan struct{}), closed: make(chan struct{}), frames: make(chan frame, 4096)}
	s.carrier.Set(true)
	return s
}

func (s *station) MTU() int                { return s.mtu }
func (s *station) Features() link.Features { return s.features }
func (s *station) Watch(fn func(bool))     { s.carrier.Watch(fn) }

func (s *station) Receive(ring link.Ring, deliver func([]link.Frame)) error {
	s.ring, s.deliver = ring, deliver
	close(s.receiving)
	<-s.closed
	s.busy.Wait()
	return net.ErrClosed
}

func (s *station) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return net.ErrClosed
	}
	s.gone = true
	s.carrier.Close()
	close(s.closed)
	return nil
}

func (s *station) Send(frames []link.Frame) (int, error) {
	for k := range frames {
		if err := s.failure(); err != nil {
			return k, err
		}
		f := frame{linktest.Bytes(&frames[k]), frames[k].Offload}
		select {
		case s.frames <- f:
		default:
			s.t.Error("the instance sends more than the test takes")
		}
		if reply := s.reply(f.bytes); reply != nil {
			go s.inject(link.Frame{Data: [][]byte{reply}})
		}
	}
	return len(frames), nil
}

// refuse makes Send fail.
func (s *station) refuse(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = err
}

func (s *station) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken == nil && !s.carrier.Up() {
		return link.ErrDown
	}
	return s.broken
}

// inject hands frames to the instance, once that is receiving.
func (s *station) inject(frames ...link.Frame) {
	select {
	case <-s.receiving:
	case <-s.closed:
		return
	case <-time.After(patience):
		s.t.Error("the instance doesn't receive")
		return
	}
	s.mu.Lock()
	if s.gone {
		s.mu.Unlock()
		return
	}
	s.busy.Add(1)
	s.mu.Unlock()
	defer s.busy.Done()
	s.deliver(frames)
}

func (s *station) injectBytes(frames ...[]byte) {
	for _, b := range frames {
		s.inject(link.Frame{Data: [][]byte{b}})
	}
}

// flow makes frames from the station to the instance.
func (s *station) flow(from, to string) linktest.Flow {
	return linktest.Flow{SrcMAC: s.mac, DstMAC: [6]byte(aliceMAC),
		Src: netip.MustParseAddrPort(from), Dst: netip.MustParseAddrPort(to)}
}

// expect waits for a frame that the instance sends and that is as it should be; others are
// passed over.
func (s *station) expect(what string, ok func(b []byte) bool) frame {
	s.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case f := <-s.frames:
			if ok(f.bytes) {
				return f
			}
		case <-deadline:
			s.t.Fatalf("%s: the instance hasn't sent it within %v", what, patience)
		}
	}
}

// sent takes all frames that the instance has sent so far.
func (s *station) sent() [][]byte {
	var all [][]byte
	for {
		select {
		case f := <-s.frames:
			all = append(all, f.bytes)
		default:
			return all
		}
	}
}

func netAddr(s string) netip.Addr { return netip.MustParseAddr(s) }
