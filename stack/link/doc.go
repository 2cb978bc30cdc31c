// Package link says what an Ethernet link is: a [Device] that sends and receives
// batches of [Frame]s, some of which may be super-frames whose checksum and
// segmentation are left to the other side (an [Offload]).
//
// The package has no device of its own. A Linux TAP is in package tap, cables and
// switches in memory are in package memlink. Wrappers, such as the capture in
// package pcapng, take a Device and are one, so they stack:
//
//	dev = pcapng.Wrap(dev, w)
//
// Every device passes the suite in package linktest; a device of your own should
// too.
//
// # Memory
//
// Frames are borrowed, in both directions and as with [io.Writer]: whoever is
// given a frame may read it until the call returns and keeps no reference. A
// device that delays frames copies them; a stack copies them at its edge. A
// device in memory can so hand the sender's bytes to the receiver at once, and
// the whole journey costs one copy.
//
// # Super-frames
//
// A frame with a non-zero [Offload.Segment] stands for many: a TCP segment of up to
// 64 KiB that is to be cut into pieces of Offload.SegmentSize payload bytes, each
// with a copy of the headers. The fields have the meaning of the virtio-net header
// (Virtual I/O Device specification 1.2, §5.1.6), because that is what a Linux TAP
// speaks. A device says in [Features] which offloads it takes and gives; [Split]
// and [Frame.Complete] do in software what a device can't.
//
// # Receiving
//
// A receiver has three cases. A frame with [Offload.NeedsChecksum] has never been on a
// wire and needs no verification; completing it is for whoever passes it on. One with
// [Offload.ChecksumValid] has been verified. All others are for [VerifyChecksum].
// Frames that come from outside may lie about themselves: [Frame.Headers] and
// [Frame.Check] find that out, and nothing in this package panics on any frame.
package link
