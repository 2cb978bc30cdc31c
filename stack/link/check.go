package link

import (
	"encoding/binary"
	"fmt"
)

// Check reports whether a link with this MTU that takes these offloads can carry f:
// whether f is no shorter than an Ethernet header, no longer than the MTU allows
// (each segment of a super-frame is not), and whether its Offload is one of those
// taken and agrees with its bytes. The error wraps ErrFrame.
//
// Every Device checks what it is asked to send. A receiver that doesn't trust the
// device checks what it was given, with the offloads that the device gives.
func (f *Frame) Check(mtu int, takes Offloads) error {
	n := f.Len()
	if n < EthernetHeaderLen {
		return fmt.Errorf("%w: %d bytes are less than an Ethernet header", ErrFrame, n)
	}
	if f.Offload.NeedsChecksum {
		if !takes.Has(Checksum) {
			return fmt.Errorf("%w: its checksum is partial, and the link takes complete ones only", ErrFrame)
		}
		if err := f.checkPartial(); err != nil {
			return err
		}
	}
	if f.Offload.Segment != NoSegmentation {
		return f.checkSuper(mtu, takes)
	}
	if n > mtu+EthernetHeaderLen {
		return fmt.Errorf("%w: %d bytes exceed the %d that MTU %d allows", ErrFrame, n, mtu+EthernetHeaderLen, mtu)
	}
	return nil
}

func (f *Frame) checkSuper(mtu int, takes Offloads) error {
	h, err := f.checkSegmentation()
	if err != nil {
		return err
	}
	if need := h.offload(); !takes.Has(need) {
		return fmt.Errorf("%w: it is a super-frame of a kind that the link doesn't take", ErrFrame)
	}
	segment := h.Payload + min(int(f.Offload.SegmentSize), h.End-h.Payload)
	if segment > mtu+EthernetHeaderLen {
		return fmt.Errorf("%w: segments of %d bytes exceed the %d that MTU %d allows", ErrFrame, segment, mtu+EthernetHeaderLen, mtu)
	}
	return nil
}

// offload is what a device must take to be sent a super-frame with these headers.
func (h *Headers) offload() Offloads {
	switch {
	case h.Protocol == protoTCP && h.Version == 4:
		return TSO4
	case h.Protocol == protoTCP:
		return TSO6
	case h.Version == 4:
		return USO4
	}
	return USO6
}

// checkSegmentation reports whether the offload fields of a super-frame agree with
// its bytes, so that it can be cut.
func (f *Frame) checkSegmentation() (Headers, error) {
	o := &f.Offload
	h, ok := f.Headers()
	if !ok || h.Fragment {
		return h, fmt.Errorf("%w: a super-frame without a whole IP packet in it", ErrFrame)
	}
	checksumOffset := uint16(tcpChecksumOffset)
	switch {
	case o.Segment == SegmentTCP4 && h.Version == 4 && h.Protocol == protoTCP:
	case o.Segment == SegmentTCP6 && h.Version == 6 && h.Protocol == protoTCP:
	case o.Segment == SegmentUDP && h.Protocol == protoUDP:
		checksumOffset = udpChecksumOffset
	default:
		return h, fmt.Errorf("%w: segmentation %d of IPv%d protocol %d", ErrFrame, o.Segment, h.Version, h.Protocol)
	}
	switch n := f.Len(); {
	case o.SegmentSize == 0:
		return h, fmt.Errorf("%w: a super-frame with segments of no size", ErrFrame)
	case !o.NeedsChecksum:
		return h, fmt.Errorf("%w: a super-frame with a complete checksum", ErrFrame)
	case int(o.ChecksumStart) != h.Transport || o.ChecksumOffset != checksumOffset:
		return h, fmt.Errorf("%w: a super-frame with its checksum at %d+%d, not %d+%d", ErrFrame, o.ChecksumStart, o.ChecksumOffset, h.Transport, checksumOffset)
	case int(o.HeaderLen) != h.Payload:
		return h, fmt.Errorf("%w: a super-frame with %d bytes of headers, not %d", ErrFrame, h.Payload, o.HeaderLen)
	case h.End != n || n > MaxSuperFrame:
		return h, fmt.Errorf("%w: a super-frame of %d bytes with an IP packet that ends at %d", ErrFrame, n, h.End)
	case h.Payload == h.End:
		return h, fmt.Errorf("%w: a super-frame without payload", ErrFrame)
	case h.Protocol == protoUDP && f.udpLen(&h) != h.End-h.Transport:
		return h, fmt.Errorf("%w: a super-frame whose UDP length isn't its own", ErrFrame)
	}
	return h, nil
}

func (f *Frame) udpLen(h *Headers) int {
	var buf [2]byte
	return int(binary.BigEndian.Uint16(f.peek(buf[:], h.Transport+4)))
}
