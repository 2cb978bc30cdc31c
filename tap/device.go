//go:build linux

package tap

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/duotap/duotap/stack/link"
)

// Device is an open TAP. It is a link.Device.
type Device struct {
	name     string
	mtu      int
	features link.Features
	file     *os.File
	io       frameIO
	carrier  link.Carrier
	monitor  *monitor // nil if the interface is in another network namespace

	receiving, closed       atomic.Bool
	sent, received, dropped atomic.Uint64
}

// frameIO is how frames go through the descriptor. Its methods may return an
// errno, which Device makes sense of.
type frameIO interface {
	receive(d *Device, ring link.Ring, deliver func([]link.Frame)) error
	send(frames []link.Frame) (n int, err error)
}

// Stats counts the frames of a Device since it was opened; a super-frame is one.
type Stats struct {
	Sent     uint64 // taken by Send
	Received uint64 // delivered by Receive
	Dropped  uint64 // given by the kernel, and longer than the MTU allows or malformed
}

// newDevice makes a device of q, and owns it; q is closed if that fails.
func newDevice(cfg *Config, q *queue) (*Device, error) {
	d := &Device{name: q.name}
	err := d.configure(cfg, q)
	if err != nil {
		q.close()
		return nil, err
	}
	d.file = os.NewFile(uintptr(q.fd), d.name)
	raw, err := d.file.SyscallConn()
	if err == nil {
		err = d.watchHost(q)
	}
	if err != nil {
		d.file.Close()
		return nil, err
	}
	if q.flags&unix.IFF_VNET_HDR != 0 {
		d.io = newVnetIO(raw)
	} else {
		d.io = newPlainIO(d.file, d.mtu)
	}
	return d, nil
}

// configure sets up the queue and the host's end.
func (d *Device) configure(cfg *Config, q *queue) error {
	var err error
	if d.features, err = q.negotiate(cfg); err != nil {
		return err
	}
	if !q.local() {
		return d.configureRemote(cfg)
	}
	h, err := openHost(q.name)
	if err != nil {
		return err
	}
	defer h.close()
	if cfg.MTU != 0 {
		if err := h.setMTU(cfg.MTU); err != nil {
			return fmt.Errorf("set MTU %d: %w: it takes CAP_NET_ADMIN", cfg.MTU, err)
		}
	}
	if cfg.MAC != nil {
		if err := h.setMAC(cfg.MAC); err != nil {
			return fmt.Errorf("set MAC %v: %w: it takes CAP_NET_ADMIN", cfg.MAC, err)
		}
	}
	if cfg.Up {
		if err := h.setUp(); err != nil {
			return fmt.Errorf("bring the interface up: %w: it takes CAP_NET_ADMIN", err)
		}
	}
	if d.mtu, err = h.mtu(); err != nil {
		return err
	}
	return validateMTU(d.mtu)
}

// configureRemote is configure for an inherited TAP whose interface is in another
// network namespace. Nothing can be asked there.
func (d *Device) configureRemote(cfg *Config) error {
	if cfg.MAC != nil || cfg.Up {
		return errors.New("the interface is in another network namespace, where its MAC and state can't be set")
	}
	d.mtu = cfg.MTU
	if d.mtu == 0 {
		d.mtu = defaultMTU
	}
	return nil
}

// watchHost follows the state of the host's end.
func (d *Device) watchHost(q *queue) error {
	if !q.local() {
		d.carrier.Set(true)
		return nil
	}
	m, err := startMonitor(d.name, &d.carrier)
	d.monitor = m
	return err
}

// local reports whether the interface of q is in the network namespace of this
// process. Names repeat over namespaces, MAC addresses hardly.
func (q *queue) local() bool {
	info, err := find(q.name)
	if err != nil {
		return false
	}
	r := new(ifreq)
	err = r.do(q.fd, unix.SIOCGIFHWADDR, "SIOCGIFHWADDR")
	return err == nil && net.HardwareAddr(r.hardwareAddr()).String() == info.MAC.String()
}

// Name is the interface's name, also if the kernel has chosen it.
func (d *Device) Name() string { return d.name }

// MTU is what the host's interface had when it was opened. See link.Device.
func (d *Device) MTU() int { return d.mtu }

// Features are the offloads that the kernel agreed to. A device for plain frames lends
// its memory. See link.Device.
func (d *Device) Features() link.Features { return d.features }

// Stats is a snapshot of the counters.
func (d *Device) Stats() Stats {
	return Stats{Sent: d.sent.Load(), Received: d.received.Load(), Dropped: d.dropped.Load()}
}

// Watch tells fn whether the host's end is up. An inherited TAP whose interface is in
// another network namespace is always up. See link.Device.
func (d *Device) Watch(fn func(up bool)) { d.carrier.Watch(fn) }

// Receive delivers frames from the host. See link.Device. A slot of ring has 1,022
// pieces at most.
func (d *Device) Receive(ring link.Ring, deliver func(frames []link.Frame)) error {
	if d.receiving.Swap(true) {
		return d.wrap("receive", errors.New("it was called before, and may be called once"))
	}
	err := d.io.receive(d, ring, deliver)
	if d.isRemoved() {
		// Go's poller notices first, and says no more than that it can't poll.
		err = os.NewSyscallError("read", unix.EBADFD)
	}
	return d.wrap("receive", err)
}

// isRemoved reports whether the interface has been deleted. It waits while that is
// under way.
func (d *Device) isRemoved() bool {
	raw, err := d.file.SyscallConn()
	if err != nil {
		return false
	}
	removed := false
	err = raw.Control(func(fd uintptr) {
		removed = errors.Is((&queue{fd: int(fd)}).inspect(), unix.EBADFD)
	})
	return err == nil && removed
}

// Send gives frames to the host. See link.Device. A TAP has no queue in this
// direction: Send blocks for as long as the host takes to process the frames.
func (d *Device) Send(frames []link.Frame) (n int, err error) {
	good, err := d.check(frames)
	if good > 0 {
		var sendErr error
		if n, sendErr = d.io.send(frames[:good]); sendErr != nil {
			err = sendErr
		}
		d.sent.Add(uint64(n))
	}
	if err != nil {
		return n, d.wrap("send", err)
	}
	return n, nil
}

// check returns how many frames are good, and what is wrong with the one behind.
func (d *Device) check(frames []link.Frame) (int, error) {
	for i := range frames {
		if err := frames[i].Check(d.mtu, d.features.Takes); err != nil {
			return i, err
		}
	}
	return len(frames), nil
}

// Close closes the TAP. The interface vanishes with it, unless it is persistent. See
// link.Device.
func (d *Device) Close() error {
	if d.closed.Swap(true) {
		return d.wrap("close", net.ErrClosed)
	}
	d.carrier.Close()
	if d.monitor != nil {
		d.monitor.close()
	}
	if err := d.file.Close(); err != nil {
		return fmt.Errorf("tap %s: %w", d.name, err)
	}
	return nil
}

// wrap says which device and step an error belongs to, and what the kernel means
// by it.
func (d *Device) wrap(step string, err error) error {
	switch {
	case d.closed.Load():
		err = net.ErrClosed
	case errors.Is(err, unix.EBADFD):
		err = fmt.Errorf("%w: %w", link.ErrRemoved, err)
	case errors.Is(err, unix.EIO):
		err = fmt.Errorf("%w: bring interface %s up: %w", link.ErrDown, d.name, err)
	}
	return fmt.Errorf("tap %s: %s: %w", d.name, step, err)
}
