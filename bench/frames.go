package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/duotap/duotap/stack/link"
	"github.com/duotap/duotap/stack/link/memlink"
	"github.com/duotap/duotap/tap"
)

// Frames is the device alone, without a stack: how many frames a second it takes and
// gives. What a TAP takes is for another station, so that the kernel drops it at once;
// what it gives comes from a packet socket in this process (AF_PACKET). In memory nobody
// looks at the bytes, so that is the price of a call. There is nothing to compare with.
type Frames struct{}

// superFrame is the size of the largest, headers included.
const superFrame = link.EthernetHeaderLen + 20 + 20 + maxPayload

// Name implements Scenario.
func (*Frames) Name() string { return "frames" }

// Cases implements Scenario.
func (*Frames) Cases([]int) []Case {
	return []Case{
		{Name: "send", Size: 60, Count: 1}, {Name: "send", Size: 1514, Count: 1}, {Name: "send", Size: superFrame, Count: 1},
		{Name: "receive", Size: 60, Count: 1}, {Name: "receive", Size: 1514, Count: 1},
	}
}

// Runs implements Scenario.
func (*Frames) Runs(c Case, l Link) bool {
	switch l {
	case TAP:
		return true
	case TAPPlain:
		return c.Size != superFrame
	case Memory:
		return c.Name == "send"
	}
	return false
}

func (*Frames) bare() {}

func (*Frames) measure(ctx context.Context, w window, l *testLink, c Case) ([]Metric, error) {
	dev, frame, err := openFrames(l, c)
	if err != nil {
		return nil, err
	}
	var n int64
	var m measured
	if c.Name == "send" {
		batch := slices.Repeat([]link.Frame{frame}, 16)
		n, m, err = l.count(ctx, w, len(batch), func() error {
			_, err := dev.Send(batch)
			return err
		})
	} else {
		m, err = l.receiveFrames(ctx, w, dev, c.Size)
		n = m.own.Packets
	}
	if closeErr := dev.Close(); !errors.Is(closeErr, net.ErrClosed) {
		err = errors.Join(err, closeErr)
	}
	if err != nil {
		return nil, err
	}
	return []Metric{
		{"rate", "frames/s", m.own.perSecond(n)},
		{"throughput", "Gbit/s", m.own.perSecond(n) * float64(c.Size) * 8 / 1e9},
		{"CPU", "us each", m.own.CPU.Seconds() * 1e6 / float64(n)},
		{"allocs", "each", float64(m.mallocs) / float64(n)},
		m.others(),
	}, nil
}

// openFrames opens a device, and makes the frame to send over it.
func openFrames(l *testLink, c Case) (link.Device, link.Frame, error) {
	frame := foreignFrame(c.Size)
	if l.kind == Memory {
		ours, theirs := memlink.Pair(1500)
		go func() {
			_ = theirs.Receive(nil, func([]link.Frame) {}) // ends when ours is closed
		}()
		return joined{ours, theirs}, frame, nil
	}
	const name = "bench4"
	dev, err := tap.Open(tap.Config{Name: name, Offload: l.kind == TAP, Up: true})
	if err != nil {
		return nil, frame, err
	}
	return dev, frame, nil
}

// joined is a cable that closes both of its ends.
type joined struct {
	link.Device
	other link.Device
}

func (c joined) Close() error { return errors.Join(c.Device.Close(), c.other.Close()) }

// foreignFrame is a TCP segment for a station that isn't there, of size bytes; a
// super-frame if that is more than fits the MTU.
func foreignFrame(size int) link.Frame {
	b := make([]byte, size)
	copy(b, []byte{2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 8, 0}) // Ethernet
	ip := b[link.EthernetHeaderLen:]
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_TCP
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	src, dst := netip.MustParseAddr("192.0.2.2").As4(), netip.MustParseAddr("192.0.2.99").As4()
	copy(ip[12:], src[:])
	copy(ip[16:], dst[:])
	ip[32] = 5 << 4 // 20 bytes of TCP header
	f := link.Frame{Data: [][]byte{b}}
	if size > 1514 {
		f.Offload = link.Offload{NeedsChecksum: true, ChecksumStart: 34, ChecksumOffset: 16,
			Segment: link.SegmentTCP4, SegmentSize: 1448, HeaderLen: 54}
	}
	return f
}

// receiveFrames has the kernel send to the device, and counts.
func (l *testLink) receiveFrames(ctx context.Context, w window, dev link.Device, size int) (measured, error) {
	fd, err := openPacketSocket(dev.(*tap.Device).Name())
	if err != nil {
		return measured{}, err
	}
	var received, sent = make(chan error, 1), make(chan error, 1)
	go func() {
		received <- dev.Receive(newRing(dev), func(frames []link.Frame) { l.own.packets.Add(int64(len(frames))) })
	}()
	ctx, end := context.WithCancel(ctx)
	defer end()
	go func() { sent <- sendPackets(ctx, fd, foreignFrame(size).Data[0]) }()
	m, err := l.watch(ctx, w)
	end()
	err = errors.Join(err, <-sent, unix.Close(fd), dev.Close())
	if why := <-received; !errors.Is(why, net.ErrClosed) {
		err = errors.Join(err, why)
	}
	return m, err
}

// newRing is memory for two of the largest frames that dev gives.
func newRing(dev link.Device) link.Ring {
	size := link.FrameSize(dev.MTU(), dev.Features().Gives)
	return link.Ring{{make([]byte, size)}, {make([]byte, size)}}
}

// openPacketSocket makes a socket that sends whole frames through an interface.
func openPacketSocket(name string) (int, error) {
	dev, err := netlink.LinkByName(name)
	if err != nil {
		return 0, fmt.Errorf("finding the kernel's interface %s: %w", name, err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("making a packet socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: dev.Attrs().Index}); err != nil {
		return 0, errors.Join(fmt.Errorf("binding a packet socket to %s: %w", name, err), unix.Close(fd))
	}
	return fd, nil
}

// sendPackets sends frames until ctx ends. The queue may be full: what counts is
// what is received.
func sendPackets(ctx context.Context, fd int, frame []byte) error {
	for ctx.Err() == nil {
		if _, err := unix.Write(fd, frame); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("sending frames: %w", err)
		}
	}
	return nil
}
