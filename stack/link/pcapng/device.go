package pcapng

import (
	"fmt"

	"github.com/duotap/duotap/stack/link"
)

// Direction is the way of a frame, as its device's user sees it.
type Direction uint8

// The directions.
const (
	Inbound  Direction = 1 // received
	Outbound Direction = 2 // sent
)

// Interface is one of the places in a capture where frames are seen. It belongs to
// its Writer, and has nothing to be closed.
type Interface struct {
	w    *Writer
	id   uint32
	name string
}

// Interface adds an interface to the capture. The name is for people, several may
// have the same; if it is empty, the interface is called link and its number.
func (w *Writer) Interface(name string) *Interface {
	recording := w.begin()
	defer w.end()
	i := &Interface{w: w, id: w.interfaces, name: name}
	if name == "" {
		i.name = fmt.Sprintf("link%d", i.id)
	}
	if recording {
		w.interfaces++
		w.buf = appendInterface(w.buf, i.name, w.cfg.SnapLen)
	}
	return i
}

// Name is the interface's name.
func (i *Interface) Name() string { return i.name }

// Record records a frame that no wrapped device sees, or one that needs a comment;
// the comment may be empty. The frame is borrowed and remains as it is.
func (i *Interface) Record(dir Direction, f *link.Frame, comment string) {
	if i.w.begin() {
		i.w.add(i.id, dir, f, comment)
	}
	i.w.end()
}

// Drop records a frame that was dropped, with a comment that says so and why. Whoever
// drops frames on a wrapped device calls it, so that the capture explains the
// retransmissions. The frame is borrowed and remains as it is.
func (i *Interface) Drop(dir Direction, f *link.Frame, reason string) {
	i.Record(dir, f, "dropped: "+reason)
}

// batch records frames without a comment.
func (i *Interface) batch(dir Direction, frames []link.Frame) {
	if i.w.begin() {
		for j := range frames {
			if i.w.err == nil {
				i.w.add(i.id, dir, &frames[j], "")
			}
		}
	}
	i.w.end()
}

// Wrap returns dev, recorded. Its Features and everything else are those of dev, and
// closing it closes dev; the capture remains open.
func (i *Interface) Wrap(dev link.Device) link.Device {
	return &device{Device: dev, iface: i}
}

// Wrap adds an interface to w and returns dev, recorded there; see [Interface.Wrap].
// The interface has the name of dev, if dev has a method Name, as a TAP does.
func Wrap(dev link.Device, w *Writer) link.Device {
	name := ""
	if named, ok := dev.(interface{ Name() string }); ok {
		name = named.Name()
	}
	return w.Interface(name).Wrap(dev)
}

// device is a device that is being recorded.
type device struct {
	link.Device
	iface *Interface
}

// Name makes a wrapper around this one have the same name.
func (d *device) Name() string { return d.iface.name }

func (d *device) Receive(ring link.Ring, deliver func(frames []link.Frame)) error {
	return d.Device.Receive(ring, func(frames []link.Frame) {
		d.iface.batch(Inbound, frames)
		deliver(frames)
	})
}

// Send records before it sends: a device in memory delivers the answer before its
// Send returns.
func (d *device) Send(frames []link.Frame) (n int, err error) {
	d.iface.batch(Outbound, frames)
	n, err = d.Device.Send(frames)
	if err != nil && n < len(frames) {
		d.iface.Record(Outbound, &frames[n], "not sent: "+err.Error())
	}
	return n, err
}
