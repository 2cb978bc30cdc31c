//go:build linux

package tap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/duotap/duotap/stack/link"
)

// The header before each frame: struct virtio_net_hdr without num_buffers, in native
// byte order (Virtual I/O Device specification 1.2, section 5.1.6).
const (
	vnetHeaderLen = 10

	vnetNeedsChecksum = 1 // flags
	vnetDataValid     = 2

	vnetGSONone  = 0
	vnetGSOTCPv4 = 1
	vnetGSOTCPv6 = 4
	vnetGSOUDP   = 5    // UDP_L4: one datagram a segment
	vnetGSOECN   = 0x80 // with TCP: CWR is set
)

// maxPieces is how many pieces a frame may have: those of one readv or writev, less
// the header and a spare byte.
const maxPieces = 1024 - 2

const tcpCWR = 0x80

// negotiate says to the kernel which offloads we take, and returns what it agreed to.
func (q *queue) negotiate(cfg *Config) (link.Features, error) {
	const (
		basic = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6
		uso   = unix.TUN_F_USO4 | unix.TUN_F_USO6
	)
	vnet := q.flags&unix.IFF_VNET_HDR != 0
	if vnet {
		if err := q.setVnetHeaderLen(vnetHeaderLen); err != nil {
			return link.Features{}, err
		}
	}
	if !vnet || !cfg.Offload {
		if cfg.Offload {
			cfg.Logger.Warn("tap: plain frames only, without offloads: the descriptor was opened without IFF_VNET_HDR", "name", q.name)
		}
		return link.Features{Lends: !vnet}, q.setOffload(0)
	}
	offloads := link.Checksum | link.TSO4 | link.TSO6
	if q.setOffload(basic|uso) == nil {
		offloads |= link.USO4 | link.USO6
		return link.Features{Takes: offloads, Gives: offloads}, nil
	}
	cfg.Logger.Warn("tap: no UDP segmentation offload: it needs Linux 6.2", "name", q.name)
	return link.Features{Takes: offloads, Gives: offloads}, q.setOffload(basic)
}

// vnetIO moves frames with their headers, in scatter lists and without copying.
type vnetIO struct {
	raw     syscall.RawConn
	senders sync.Pool // *vnetSender
}

func newVnetIO(raw syscall.RawConn) *vnetIO {
	v := &vnetIO{raw: raw}
	v.senders.New = func() any { return newVnetSender() }
	return v
}

func (v *vnetIO) receive(d *Device, ring link.Ring, deliver func([]link.Frame)) error {
	r, err := newVnetReceiver(d, ring)
	if err == nil && r.gives != d.features.Gives {
		err = v.refuseSuperFrames(r.gives)
	}
	if err != nil {
		return err
	}
	fill := r.fill // once: each method value is an allocation
	for {
		r.frames = r.frames[:0]
		if err := v.raw.Read(fill); err != nil {
			return err
		}
		if len(r.frames) > 0 {
			d.received.Add(uint64(len(r.frames)))
			deliver(r.frames)
		}
		if r.errno != 0 {
			return os.NewSyscallError("readv", r.errno)
		}
	}
}

// refuseSuperFrames has the kernel cut them, because the ring has no room for them.
func (v *vnetIO) refuseSuperFrames(gives link.Offloads) error {
	bits := uintptr(0)
	if gives.Has(link.Checksum) {
		bits = unix.TUN_F_CSUM
	}
	var ioctlErr error
	err := v.raw.Control(func(fd uintptr) {
		ioctlErr = (&queue{fd: int(fd)}).setOffload(bits)
	})
	return errors.Join(err, ioctlErr)
}

// vnetReceiver fills the slots of a ring with what has arrived.
type vnetReceiver struct {
	d      *Device
	gives  link.Offloads // with this ring
	slots  []vnetSlot
	frames []link.Frame // those in the first slots
	errno  unix.Errno
}

type vnetSlot struct {
	header [vnetHeaderLen]byte
	spare  [1]byte // to notice a longer frame
	pieces [][]byte
	size   int
	iov    []unix.Iovec
	data   [][]byte // pieces, up to where the frame ends
}

func newVnetReceiver(d *Device, ring link.Ring) (*vnetReceiver, error) {
	r := &vnetReceiver{d: d, gives: d.features.Gives, slots: make([]vnetSlot, len(ring)), frames: make([]link.Frame, 0, len(ring))}
	plain := link.FrameSize(d.mtu, 0)
	for i, pieces := range ring {
		s := &r.slots[i]
		s.init(pieces)
		if len(s.iov) > maxPieces+2 {
			return nil, fmt.Errorf("slot %d of the ring has %d pieces, and %d are allowed", i, len(pieces), maxPieces)
		}
		if s.size < plain {
			return nil, fmt.Errorf("slot %d of the ring has %d bytes, and a frame %d", i, s.size, plain)
		}
		if s.size < link.FrameSize(d.mtu, r.gives) {
			r.gives &= link.Checksum
		}
	}
	if len(ring) == 0 {
		return nil, errors.New("the ring is empty, and this device needs one")
	}
	return r, nil
}

func (s *vnetSlot) init(pieces [][]byte) {
	s.pieces = pieces
	s.iov = appendIovec(nil, s.header[:])
	for _, p := range pieces {
		s.size += len(p)
		s.iov = appendIovec(s.iov, p)
	}
	s.iov = appendIovec(s.iov, s.spare[:])
	s.data = make([][]byte, 0, len(pieces))
}

// fill reads until there are no more frames or slots. It is called by the poller,
// and returns false to wait.
func (r *vnetReceiver) fill(fd uintptr) bool {
	for len(r.frames) < len(r.slots) {
		s := &r.slots[len(r.frames)]
		n, errno := vectored(unix.SYS_READV, fd, s.iov)
		switch errno {
		case 0:
			r.accept(s, n)
		case unix.EINTR:
		case unix.EAGAIN:
			return len(r.frames) > 0
		default:
			r.errno = errno
			return true
		}
	}
	return true
}

// accept makes a frame of what has been read into s, if it is a good one.
func (r *vnetReceiver) accept(s *vnetSlot, n int) {
	n -= vnetHeaderLen
	if n > s.size {
		r.d.dropped.Add(1)
		return
	}
	s.data = s.data[:0]
	for _, p := range s.pieces {
		if n <= 0 {
			break
		}
		p = p[:min(len(p), n)]
		s.data = append(s.data, p)
		n -= len(p)
	}
	f := link.Frame{Data: s.data}
	if !decode(&s.header, &f) || f.Check(r.d.mtu, r.gives) != nil {
		r.d.dropped.Add(1)
		return
	}
	r.frames = append(r.frames, f)
}

// decode sets the offload of f to what the header says. The kernel's hdr_len is a hint
// only, and may include payload, so we look.
func decode(h *[vnetHeaderLen]byte, f *link.Frame) (ok bool) {
	flags, gso := h[0], h[1]
	o := &f.Offload
	if flags&vnetNeedsChecksum == 0 {
		o.ChecksumValid = flags&vnetDataValid != 0
		return gso == vnetGSONone
	}
	o.NeedsChecksum = true
	o.ChecksumStart = binary.NativeEndian.Uint16(h[6:])
	o.ChecksumOffset = binary.NativeEndian.Uint16(h[8:])
	switch gso &^ vnetGSOECN {
	case vnetGSONone:
		return true
	case vnetGSOTCPv4:
		o.Segment = link.SegmentTCP4
	case vnetGSOTCPv6:
		o.Segment = link.SegmentTCP6
	case vnetGSOUDP:
		o.Segment = link.SegmentUDP
	default:
		return false
	}
	o.SegmentSize = binary.NativeEndian.Uint16(h[4:])
	headerLen := int(o.ChecksumStart) + 8
	if o.Segment != link.SegmentUDP {
		headerLen = int(o.ChecksumStart) + int(byteAt(f, int(o.ChecksumStart)+12)>>4)*4
	}
	o.HeaderLen = uint16(headerLen)
	return headerLen <= math.MaxUint16
}

// encode is the opposite of decode.
func encode(h *[vnetHeaderLen]byte, f *link.Frame) {
	clear(h[:])
	o := &f.Offload
	switch {
	case o.NeedsChecksum:
		h[0] = vnetNeedsChecksum
		binary.NativeEndian.PutUint16(h[6:], o.ChecksumStart)
		binary.NativeEndian.PutUint16(h[8:], o.ChecksumOffset)
	case o.ChecksumValid:
		h[0] = vnetDataValid
	}
	switch o.Segment {
	case link.NoSegmentation:
		return
	case link.SegmentTCP4:
		h[1] = vnetGSOTCPv4
	case link.SegmentTCP6:
		h[1] = vnetGSOTCPv6
	case link.SegmentUDP:
		h[1] = vnetGSOUDP
	}
	if o.Segment != link.SegmentUDP && byteAt(f, int(o.ChecksumStart)+13)&tcpCWR != 0 {
		h[1] |= vnetGSOECN
	}
	binary.NativeEndian.PutUint16(h[2:], o.HeaderLen)
	binary.NativeEndian.PutUint16(h[4:], o.SegmentSize)
}

func byteAt(f *link.Frame, off int) byte {
	var b [1]byte
	f.CopyAt(b[:], off)
	return b[0]
}

// send writes in the goroutine of the caller, several callers at a time: the kernel
// processes the frame within the system call, and does so in parallel.
func (v *vnetIO) send(frames []link.Frame) (int, error) {
	s := v.senders.Get().(*vnetSender)
	defer v.senders.Put(s)
	s.frames, s.n, s.errno = frames, 0, 0
	err := v.raw.Control(s.try)
	if err == nil && s.errno == unix.EAGAIN {
		err = v.raw.Write(s.wait)
	}
	s.frames = nil
	if err == nil && s.errno != 0 {
		err = os.NewSyscallError("writev", s.errno)
	}
	return s.n, err
}

// vnetSender is the state of one send.
type vnetSender struct {
	header [vnetHeaderLen]byte
	iov    []unix.Iovec
	flat   []byte // for a frame of too many pieces
	frames []link.Frame
	n      int // frames written
	errno  unix.Errno
	try    func(fd uintptr)      // write, without waiting
	wait   func(fd uintptr) bool // write; false waits
}

func newVnetSender() *vnetSender {
	s := new(vnetSender)
	s.try = s.write
	s.wait = func(fd uintptr) bool {
		s.write(fd)
		return s.errno != unix.EAGAIN
	}
	return s
}

func (s *vnetSender) write(fd uintptr) {
	for s.n < len(s.frames) {
		s.gather(&s.frames[s.n])
		_, s.errno = vectored(unix.SYS_WRITEV, fd, s.iov)
		clear(s.iov) // the frame is only borrowed
		switch s.errno {
		case 0:
			s.n++
		case unix.EINTR:
		default:
			return
		}
	}
}

func (s *vnetSender) gather(f *link.Frame) {
	encode(&s.header, f)
	s.iov = appendIovec(s.iov[:0], s.header[:])
	if len(f.Data) > maxPieces {
		if s.flat == nil {
			s.flat = make([]byte, link.MaxSuperFrame)
		}
		s.iov = appendIovec(s.iov, s.flat[:f.CopyAt(s.flat, 0)])
		return
	}
	for _, d := range f.Data {
		s.iov = appendIovec(s.iov, d)
	}
}

// appendIovec appends b, unless it is empty.
func appendIovec(iov []unix.Iovec, b []byte) []unix.Iovec {
	if len(b) == 0 {
		return iov
	}
	v := unix.Iovec{Base: unsafe.SliceData(b)}
	v.SetLen(len(b))
	return append(iov, v)
}

// vectored is readv or writev. Those of package unix take slices, and would make
// a new list of iovecs for each frame.
func vectored(call, fd uintptr, iov []unix.Iovec) (int, unix.Errno) {
	n, _, errno := unix.Syscall(call, fd, uintptr(unsafe.Pointer(unsafe.SliceData(iov))), uintptr(len(iov)))
	return int(n), errno
}
