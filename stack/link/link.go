package link

import (
	"errors"
	"io"
)

const (
	// EthernetHeaderLen is the length of an Ethernet II header without a VLAN tag,
	// in bytes.
	EthernetHeaderLen = 14

	// MaxSuperFrame is room for any super-frame, in bytes: the largest IP packet
	// (65,535), its Ethernet header, and a margin to notice a longer one.
	MaxSuperFrame = 65560
)

var (
	// ErrDown is wrapped by the error of a Send on a link that is down. The link may
	// come up again.
	ErrDown = errors.New("link is down")

	// ErrRemoved is wrapped by the error of a Send or Receive when the device has
	// been deleted under its user. It doesn't come back.
	ErrRemoved = errors.New("link device was removed")

	// ErrFrame is wrapped by the error of a Send that was given a frame no link could
	// carry: shorter than an Ethernet header, longer than the MTU allows, or with
	// offload fields that contradict its bytes or the device's Features.
	ErrFrame = errors.New("bad frame")
)

// Device sends and receives whole Ethernet frames, without FCS. Its methods may be
// called from several goroutines at once, and from within deliver.
type Device interface {
	// Receive runs the receiving side: it calls deliver with each batch of arriving
	// frames, in order of arrival, until the device fails or is closed; then it
	// returns an error that wraps net.ErrClosed or ErrRemoved, or says what failed. It
	// may be called once. Frames are borrowed until deliver returns. A device in
	// memory may call deliver from several goroutines at once, those of the senders.
	// Once Receive has returned, no deliver is running and none will.
	//
	// A device that needs memory to receive into uses ring, which is the caller's
	// again when Receive returns. Each slot holds one frame of the largest size the
	// device gives (FrameSize); more slots let it deliver larger batches. With slots
	// that are smaller than that, but hold a plain frame, the device gives no
	// super-frames. A device that lends its own memory (Features) ignores ring, which
	// may be nil.
	Receive(ring Ring, deliver func(frames []Frame)) error

	// Send sends frames in order and reports how many it took. err is non-nil if and
	// only if n < len(frames); frames[n] is then the one that failed, and those after
	// it were not tried. Send does not keep a frame after it returns. It may block
	// while the device is full, and Close unblocks it.
	Send(frames []Frame) (n int, err error)

	// MTU is the largest IP packet, in bytes: 14 less than the largest plain frame.
	// It doesn't change.
	MTU() int

	// Features says which offloads the device takes and gives. It doesn't change.
	Features() Features

	// Watch calls fn with the link's present state, and then at each change, one call
	// at a time, until the device is closed. A change that comes while fn runs is told
	// afterwards, and not at all if it has been taken back by then. fn must neither
	// block nor call Close. A device has one watcher, the latest; nil is none.
	Watch(fn func(up bool))

	// Close ends Receive, unblocks Send, and releases what the device holds. Both
	// then return an error that wraps net.ErrClosed, as does a second Close. Close
	// doesn't wait for a running deliver, so that deliver may call it; Receive does.
	io.Closer
}

// Ring is memory to receive into: one scatter list for each frame, of at most MaxPieces
// pieces.
type Ring [][][]byte

// MaxPieces is how many pieces a slot of a Ring may have: those that one system call takes
// on Linux, less two for the device's own use.
const MaxPieces = 1022

// Features says which offloads a device takes in Send and gives in Receive.
type Features struct {
	Takes, Gives Offloads

	// Lends: the device delivers memory of its own or the sender's, and needs no Ring.
	Lends bool
}

// Offloads is a set of offloads.
type Offloads uint8

// The offloads. Segmentation implies Checksum.
const (
	Checksum Offloads = 1 << iota // partial transport checksums (Offload.NeedsChecksum)
	TSO4                          // TCP segmentation over IPv4
	TSO6                          // TCP segmentation over IPv6
	USO4                          // UDP segmentation over IPv4
	USO6                          // UDP segmentation over IPv6
)

// Has reports whether s holds all of o.
func (s Offloads) Has(o Offloads) bool { return s&o == o }

// FrameSize is the size of the largest frame that a device with this MTU and these
// given offloads can deliver, in bytes: what a slot of its Ring has to hold.
func FrameSize(mtu int, gives Offloads) int {
	if gives&(TSO4|TSO6|USO4|USO6) != 0 {
		return MaxSuperFrame
	}
	return mtu + EthernetHeaderLen
}

// Frame is one Ethernet frame or super-frame.
type Frame struct {
	// Data holds the frame's bytes in order, in one or more pieces. Headers may cross
	// a border between pieces, and pieces may be empty.
	Data [][]byte

	// Offload is what remains to be done to the frame; zero for a plain one.
	Offload Offload
}

// Len is the frame's length in bytes.
func (f *Frame) Len() int {
	n := 0
	for _, d := range f.Data {
		n += len(d)
	}
	return n
}

// CopyAt copies bytes of the frame from offset off on into b, and returns how many:
// fewer than len(b) only where the frame ends.
func (f *Frame) CopyAt(b []byte, off int) int {
	n := 0
	for _, d := range f.Data {
		if off >= len(d) {
			off -= len(d)
			continue
		}
		n += copy(b[n:], d[off:])
		off = 0
		if n == len(b) {
			break
		}
	}
	return n
}

// Segmentation says how a super-frame is to be cut.
type Segmentation uint8

// The kinds of segmentation.
const (
	NoSegmentation Segmentation = iota
	SegmentTCP4
	SegmentTCP6
	SegmentUDP // over IPv4 or IPv6
)

// Offload is what has been left undone in a frame, or what has been done already.
type Offload struct {
	// NeedsChecksum: the checksum at ChecksumStart+ChecksumOffset holds the sum of
	// the pseudo-header only, and has to be completed over the bytes from
	// ChecksumStart to the end before the frame reaches a real wire.
	NeedsChecksum bool

	// ChecksumValid: the transport checksum has been verified. A frame with neither
	// flag is to be verified by its receiver.
	ChecksumValid bool

	// Segment is NoSegmentation for a frame that fits the MTU.
	Segment Segmentation

	// SegmentSize is the payload of each segment but the last, in bytes; at least 1 in
	// a super-frame.
	SegmentSize uint16

	// HeaderLen is the length of Ethernet, IP and transport headers together, in
	// bytes, in a super-frame.
	HeaderLen uint16

	// ChecksumStart and ChecksumOffset are byte offsets: of the transport header from
	// the start of the frame, and of the checksum from there.
	ChecksumStart, ChecksumOffset uint16
}
