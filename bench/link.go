package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/duotap/duotap/packetpool"
	"github.com/duotap/duotap/stack"
	"github.com/duotap/duotap/stack/link"
	"github.com/duotap/duotap/stack/link/memlink"
	"github.com/duotap/duotap/tap"
)

// Link is what a scenario runs over.
type Link string

const (
	TAP      Link = "tap"       // an instance on a TAP with offloads, and the kernel
	TAPPlain Link = "tap-plain" // an instance on a TAP with plain frames, and the kernel
	Memory   Link = "memory"    // two instances in one process, on a cable in memory
	Kernel   Link = "kernel"    // the kernel twice, on a veth pair with offloads: the yardstick
)

// Links lists all of them.
var Links = []Link{TAP, TAPPlain, Memory, Kernel}

// addresses of a link's two ends: documentation addresses (RFC 5737) and unique local
// ones (RFC 4193), of other subnets for each link, because all but one are in the same namespace.
type addresses struct{ ours, theirs []netip.Prefix }

func linkAddresses(kind Link) addresses {
	net4 := map[Link]string{TAP: "192.0.2", TAPPlain: "198.51.100", Memory: "192.0.2", Kernel: "203.0.113"}[kind]
	net6 := map[Link]string{TAP: "fd99:0:0:1", TAPPlain: "fd99:0:0:2", Memory: "fd99:0:0:3", Kernel: "fd99:0:0:4"}[kind]
	end := func(n int) []netip.Prefix {
		return []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("%s.%d/24", net4, n)), netip.MustParsePrefix(fmt.Sprintf("%s::%d/64", net6, n))}
	}
	return addresses{ours: end(2), theirs: end(1)}
}

// testLink is an open link, with our end, and a peer on the other.
type testLink struct {
	kind   Link
	about  string
	addrs  addresses
	host   host
	peer   peerHandle
	own    traffic
	frames func() uint64 // that the link has carried, both ways; nil if nobody counts
	closer []func() error
}

// openLink makes a link. For all kinds but Memory it has to be called in a network
// namespace that may be changed.
func openLink(ctx context.Context, cfg *Config, kind Link) (*testLink, error) {
	l := &testLink{kind: kind, addrs: linkAddresses(kind)}
	var err error
	switch kind {
	case Memory:
		err = l.openMemory(ctx, cfg)
	case Kernel:
		err = l.openKernel(cfg)
	default:
		err = l.openTAP(ctx, cfg)
	}
	if err == nil {
		err = l.ready(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

func (l *testLink) close() error {
	var errs []error
	for k := len(l.closer) - 1; k >= 0; k-- {
		errs = append(errs, l.closer[k]())
	}
	l.closer = nil
	return errors.Join(errs...)
}

func (l *testLink) atClose(f func() error) { l.closer = append(l.closer, f) }

// openMemory makes two instances on a cable.
func (l *testLink) openMemory(ctx context.Context, cfg *Config) error {
	ours, theirs := memlink.Pair(1500)
	ip, err := l.startInstance(ctx, cfg, ours, l.addrs.ours)
	if err != nil {
		return errors.Join(err, theirs.Close())
	}
	other, err := l.startInstance(ctx, cfg, theirs, l.addrs.theirs)
	if err != nil {
		return err
	}
	l.host, l.frames, l.about = ip, framesOf(ip), "two instances in this process, on a cable in memory with offloads"
	p, err := startPeer(other)
	if err != nil {
		return err
	}
	l.peer = localPeer{p}
	l.atClose(p.close)
	return other.Ready(ctx)
}

// openTAP makes an instance on a TAP, and a peer on the kernel's side of it.
func (l *testLink) openTAP(ctx context.Context, cfg *Config) error {
	name := map[Link]string{TAP: "bench0", TAPPlain: "bench1"}[l.kind]
	dev, err := tap.Open(tap.Config{Name: name, Offload: l.kind == TAP, Logger: cfg.Logger})
	if err != nil {
		return err
	}
	if err := configureInterface(&netlink.Handle{}, name, l.addrs.theirs); err != nil {
		return errors.Join(err, dev.Close())
	}
	l.about = fmt.Sprintf("an instance on a TAP, %s, MTU %d; TCP on the kernel's side is %s", offloads(dev.Features()), dev.MTU(), CongestionControl)
	ip, err := l.startInstance(ctx, cfg, dev, l.addrs.ours)
	if err != nil {
		return err
	}
	l.host, l.frames = ip, framesOf(ip)
	if cfg.tapPeer == nil {
		if err := l.startProcess(cfg, 0); err != nil {
			return err
		}
		cfg.tapPeer = l.peer
	}
	l.peer = cfg.tapPeer
	return nil
}

// offloads says what a device leaves to the kernel.
func offloads(f link.Features) string {
	for _, o := range []struct {
		is   link.Offloads
		name string
	}{
		{link.Checksum | link.TSO4 | link.TSO6 | link.USO4 | link.USO6, "with checksum, TCP and UDP segmentation offload"},
		{link.Checksum | link.TSO4 | link.TSO6, "with checksum and TCP segmentation offload"},
	} {
		if f.Takes.Has(o.is) && f.Gives.Has(o.is) {
			return o.name
		}
	}
	return "with plain frames"
}

// openKernel makes a veth pair, whose other end is in the namespace of the peer.
func (l *testLink) openKernel(cfg *Config) error {
	const ours, theirs = "bench2", "bench3"
	if err := l.startProcess(cfg, syscall.CLONE_NEWNET); err != nil {
		return err
	}
	pid := l.peer.(*peerProcess).cmd.Process.Pid
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: ours}, PeerName: theirs, PeerNamespace: netlink.NsPid(pid)}
	if err := netlink.LinkAdd(pair); err != nil {
		return fmt.Errorf("making a veth pair: %w", err)
	}
	l.atClose(func() error { return netlink.LinkDel(pair) })
	if err := configureInterface(&netlink.Handle{}, ours, l.addrs.ours); err != nil {
		return err
	}
	if err := configurePeer(pid, theirs, l.addrs.theirs); err != nil {
		return err
	}
	l.host = kernelHost{}
	l.about = fmt.Sprintf("kernel sockets on both ends of a veth pair with segmentation offload, MTU 1500, %s", CongestionControl)
	return nil
}

// configurePeer is configureInterface in the namespace of a process.
func configurePeer(pid int, name string, addrs []netip.Prefix) error {
	ns, err := netns.GetFromPid(pid)
	if err != nil {
		return fmt.Errorf("entering the peer's namespace: %w", err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return fmt.Errorf("entering the peer's namespace: %w", err)
	}
	defer h.Close()
	return configureInterface(h, name, addrs)
}

// startProcess starts the peer on kernel sockets.
func (l *testLink) startProcess(cfg *Config, cloneflags uintptr) error {
	cmd := cfg.Peer()
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Cloneflags |= cloneflags
	p, err := startPeerProcess(cmd)
	if err != nil {
		return err
	}
	l.peer = p
	l.atClose(p.close)
	return nil
}

// configureInterface gives an interface of the kernel its addresses, and brings it up.
func configureInterface(h *netlink.Handle, name string, addrs []netip.Prefix) error {
	dev, err := h.LinkByName(name)
	if err == nil {
		err = h.LinkSetUp(dev)
	}
	if err != nil {
		return fmt.Errorf("bringing up the kernel's interface %s: %w", name, err)
	}
	for _, a := range addrs {
		ipnet := &net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())}
		// The subnet is new and has no third host, so there is no duplicate to detect.
		if err := h.AddrAdd(dev, &netlink.Addr{IPNet: ipnet, Flags: unix.IFA_F_NODAD}); err != nil {
			return fmt.Errorf("giving the kernel's interface %s the address %v: %w", name, a, err)
		}
	}
	return nil
}

const instancePayload = 2048

// startInstance makes an instance on dev, which it owns from here on.
func (l *testLink) startInstance(ctx context.Context, cfg *Config, dev link.Device, addrs []netip.Prefix) (*stack.Instance, error) {
	pool, err := packetpool.New(packetpool.Config{Name: "instance", Payload: instancePayload,
		Packets: 8 + (stack.RingBytes(dev)+2*link.MaxSuperFrame)/instancePayload})
	if err != nil {
		return nil, errors.Join(err, dev.Close())
	}
	ip, err := stack.New(stack.Config{Name: "bench", Link: dev, Pool: pool, Addresses: addrs, Logger: cfg.Logger})
	if err != nil {
		return nil, errors.Join(err, dev.Close())
	}
	if err := errors.Join(ip.EnableTCP(), ip.EnableUDP(), ip.EnableICMP(), ip.EnableIPv6(), ip.Start(ctx)); err != nil {
		return nil, err
	}
	l.atClose(ip.Close)
	return ip, nil
}

func framesOf(ip *stack.Instance) func() uint64 {
	return func() uint64 {
		s := ip.Stats().Links[0]
		return s.FramesSent + s.FramesReceived
	}
}

// ready waits until both families can be used.
func (l *testLink) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if ip, ok := l.host.(*stack.Instance); ok {
		if err := ip.Ready(ctx); err != nil {
			return err
		}
	}
	for _, family := range []int{4, 6} {
		c, err := l.dial(ctx, family, closingPort)
		if err == nil {
			err = c.Close()
		}
		if err != nil {
			return fmt.Errorf("trying the link: %w", err)
		}
	}
	return nil
}

// remote is the address of the peer.
func (l *testLink) remote(family int) netip.Addr {
	if family == 6 {
		return l.addrs.theirs[1].Addr()
	}
	return l.addrs.theirs[0].Addr()
}

func (l *testLink) dial(ctx context.Context, family int, port uint16) (net.Conn, error) {
	return l.host.DialContext(ctx, "tcp", netip.AddrPortFrom(l.remote(family), port).String())
}

// measured is what the two ends have done within a window.
type measured struct {
	own, peer sample
	mallocs   uint64
	frames    uint64
}

// watch waits for the warm-up, and looks at what happens in the window.
func (l *testLink) watch(ctx context.Context, w window) (m measured, err error) {
	if err := sleep(ctx, w.warmup); err != nil {
		return m, err
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	m.frames = l.carried()
	own, peer, err := l.samples()
	if err != nil {
		return m, err
	}
	if err := sleep(ctx, w.length); err != nil {
		return m, err
	}
	own2, peer2, err := l.samples()
	if err != nil {
		return m, err
	}
	m.frames = l.carried() - m.frames
	runtime.ReadMemStats(&after)
	m.mallocs = after.Mallocs - before.Mallocs
	m.own, m.peer = own2.since(own), peer2.since(peer)
	return m, nil
}

func (l *testLink) samples() (own, peer sample, err error) {
	if own, err = l.own.sample(); err != nil {
		return own, peer, err
	}
	if l.peer != nil {
		peer, err = l.peer.sample()
	}
	return own, peer, err
}

func (l *testLink) carried() uint64 {
	if l.frames == nil {
		return 0
	}
	return l.frames()
}

// idle waits until the peer serves nobody any more, so that no run disturbs the next.
func (l *testLink) idle(ctx context.Context) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		s, err := l.peer.sample()
		if err != nil || s.Active == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the peer still serves %d connections, 10 s after they were closed", s.Active)
		}
		if err := sleep(ctx, time.Millisecond); err != nil {
			return err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// cpuPerGiB is the CPU time of both ends for each GiB that was received.
func (m *measured) cpuPerGiB() float64 {
	return (m.own.CPU + m.peer.CPU).Seconds() / (float64(m.own.Bytes+m.peer.Bytes) / (1 << 30))
}

// allocsPerFrame are the heap allocations of this process for each frame of the link.
func (m *measured) allocsPerFrame() Metric {
	return Metric{"allocs", "/frame", float64(m.mallocs) / float64(m.frames)}
}

const othersName = "others"

// others is how much of the machine's processors other programs had meanwhile. Much of
// it spoils the measurement.
func (m *measured) others() Metric {
	available := m.own.Clock.Seconds() * float64(processors())
	used := (m.own.Busy - m.own.CPU - m.peer.CPU).Seconds()
	return Metric{othersName, "%", max(0, 100*used/available)}
}
