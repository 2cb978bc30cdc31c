package memlink

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"github.com/duotap/duotap/stack/link"
)

// Device is one end of a cable in memory, or one port of a [Switch]. It is a
// link.Device.
type Device struct {
	mtu      int
	offloads link.Offloads
	wire     wire
	carrier  link.Carrier
	in       inlet

	sent, received, dropped atomic.Uint64
}

// wire is what a Device is plugged into.
type wire interface {
	// forward carries frames that from has sent, all of them good.
	forward(from *Device, frames []link.Frame)

	// setUp plugs from in or out. remove does the latter for good.
	setUp(from *Device, up bool)
	remove(from *Device)
}

// Stats counts the frames of a Device since it was made; a super-frame is one.
type Stats struct {
	Sent     uint64 // taken by Send
	Received uint64 // delivered to this device
	Dropped  uint64 // lost on arrival: before Watch, more than 64 before Receive, after its end, or at a Switch's port that was unplugged
}

// Stats is a snapshot of the counters.
func (d *Device) Stats() Stats {
	return Stats{Sent: d.sent.Load(), Received: d.received.Load(), Dropped: d.dropped.Load()}
}

// MTU is as configured. See link.Device.
func (d *Device) MTU() int { return d.mtu }

// Features are the configured offloads, taken and given; frames are lent by the
// sender. See link.Device.
func (d *Device) Features() link.Features {
	return link.Features{Takes: d.offloads, Gives: d.offloads, Lends: true}
}

// Watch tells fn when the carrier goes and comes; from now on, frames that arrive before
// Receive are kept for it. See link.Device.
func (d *Device) Watch(fn func(up bool)) {
	d.in.await()
	d.carrier.Watch(fn)
}

// SetUp plugs the cable in or out: at both ends, whichever of a Pair it is called
// on; at its own port of a Switch. Of a closed device it changes nothing.
func (d *Device) SetUp(up bool) { d.wire.setUp(d, up) }

// Receive delivers frames as they are sent, in the goroutines of the senders, until
// the device is closed. It uses no ring. See link.Device.
func (d *Device) Receive(_ link.Ring, deliver func(frames []link.Frame)) error {
	err := d.in.open(func(held []link.Frame) {
		d.received.Add(uint64(len(held)))
		deliver(held)
	}, deliver)
	if err != nil {
		return fmt.Errorf("memlink: receive: %w", err)
	}
	<-d.in.closed
	d.in.idle.Wait()
	return fmt.Errorf("memlink: receive: %w", net.ErrClosed)
}

// Send carries frames to the other end and returns when they have been delivered or
// lost. See link.Device.
func (d *Device) Send(frames []link.Frame) (n int, err error) {
	if len(frames) == 0 {
		return 0, nil
	}
	for n < len(frames) {
		if err = frames[n].Check(d.mtu, d.offloads); err != nil {
			break
		}
		n++
	}
	switch {
	case d.in.isClosed():
		n, err = 0, net.ErrClosed
	case !d.carrier.Up():
		n, err = 0, link.ErrDown
	case n > 0:
		d.sent.Add(uint64(n))
		d.wire.forward(d, frames[:n])
	}
	if err != nil {
		return n, fmt.Errorf("memlink: send: %w", err)
	}
	return n, nil
}

// receive is called by the wire, with frames that have reached d.
func (d *Device) receive(frames []link.Frame) {
	deliver := d.in.enter()
	if deliver == nil {
		kept := d.in.hold(frames)
		d.dropped.Add(uint64(len(frames) - kept))
		return
	}
	defer d.in.leave()
	d.received.Add(uint64(len(frames)))
	deliver(frames)
}

// Close ends Receive, and takes the carrier from the other end of a cable. It
// doesn't wait for running delivers, so these may call it; Receive does. See
// link.Device.
func (d *Device) Close() error {
	if !d.in.close() {
		return fmt.Errorf("memlink: close: %w", net.ErrClosed)
	}
	d.carrier.Close()
	d.wire.remove(d)
	return nil
}

// maxHeld is how many frames wait for Receive, from when somebody has begun to watch. A
// host that asks its first question as soon as the carrier is there would lose the answer
// otherwise, and ask again only after a second. What came before is not for it.
const maxHeld = 64

// inlet is where frames enter a device: the deliver function, if any, and who is in
// it; and the frames that came before there was one.
type inlet struct {
	mu       sync.Mutex
	deliver  func([]link.Frame)
	awaited  bool // Receive will be called
	opened   bool
	isclosed bool
	held     []link.Frame
	idle     sync.WaitGroup // counts those between enter and leave
	closed   chan struct{}
}

var errSecondReceive = errors.New("it was called before, and may be called once")

// open passes what has been held to first, in order, and then makes deliver the
// function.
func (in *inlet) open(first, deliver func([]link.Frame)) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case in.isclosed:
		return net.ErrClosed
	case in.opened:
		return errSecondReceive
	}
	in.opened = true
	for len(in.held) > 0 && !in.isclosed {
		held := in.held
		in.held = nil
		in.mu.Unlock()
		first(held)
		in.mu.Lock()
	}
	if !in.isclosed {
		in.deliver = deliver
	}
	return nil
}

func (in *inlet) await() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.awaited = true
}

// hold keeps copies of frames that came before Receive, and returns of how many.
func (in *inlet) hold(frames []link.Frame) int {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.isclosed || !in.awaited {
		return 0
	}
	n := min(len(frames), maxHeld-len(in.held))
	for _, f := range frames[:n] {
		b := make([]byte, f.Len())
		f.CopyAt(b, 0)
		in.held = append(in.held, link.Frame{Data: [][]byte{b}, Offload: f.Offload})
	}
	return n
}

// enter returns the function to deliver to, and nil if nobody receives. After a
// non-nil one the caller has to leave.
func (in *inlet) enter() func([]link.Frame) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.deliver != nil {
		in.idle.Add(1)
	}
	return in.deliver
}

func (in *inlet) leave() { in.idle.Done() }

func (in *inlet) isClosed() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.isclosed
}

// close reports whether it was the first.
func (in *inlet) close() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.isclosed {
		return false
	}
	in.isclosed, in.deliver, in.held = true, nil, nil
	close(in.closed)
	return true
}
