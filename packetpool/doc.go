// Package packetpool hands out packets: pieces of memory of one size, a fixed number
// of them, each with one owner at a time. A program that takes all of its network
// buffers from a pool knows before it starts how much memory they can ever take.
//
// # Pool and packet
//
// [New] makes a pool of, say, 16 packets of 1514 bytes, and allocates all of it. After
// that [Pool.Allocate] lends a packet and [Packet.Release] gives it back, and neither
// allocates anything. The packet released last is lent first, because the processor's
// cache may still have it.
//
// # Headroom
//
// Data travels behind headers, and the headers are made after the data: TCP's, then
// IP's, then Ethernet's. So a packet is allocated with headroom, which is room in
// front of the first byte. [Packet.Append] writes behind it, and [Packet.Prepend] puts
// a header into it without moving the data.
//
//	 payload (1514 bytes)
//	┌──────────────────────┬───────────────────────────────────┬─────────────┐
//	│ headroom (94)        │ data                              │ room        │
//	└──────────────────────┴───────────────────────────────────┴─────────────┘
//	       Prepend grows ◄─┤                                   ├─► Append grows
//
// What is left for data is payload − headroom: 1514 bytes carry 1420 bytes of TCP data
// over IPv4 ([HeadroomTCP4]) and 1400 over IPv6 ([HeadroomTCP6]). Both are what one
// segment with all its options carries on an Ethernet of MTU 1500, so that one packet
// is one frame. A stack that builds its headers elsewhere doesn't use the room, but
// the sizes still fit.
//
// # Chains
//
// Data that is longer than a packet lies in a chain. The *Packet that Allocate returned
// is its head and stands for all of it: Append takes further packets of the same pool
// and hangs them on, each with the same headroom, Len counts the bytes of all, and
// Release gives all back.
//
// There are three ways to grow. Append takes all of its bytes or none; [Packet.Fill]
// takes as many as there is room for; [Packet.Extend] adds memory for somebody else to
// write, such as a driver that receives into [Packet.Segments]. [Packet.Truncate] cuts
// a chain but keeps its packets, for the next Append.
//
// A chain is read with [Packet.Read], like any io.Reader, and reading doesn't consume
// it: after [Packet.Rewind] it can be read again, for instance because sending it
// failed. [Packet.ReadAt] looks at bytes anywhere, [Packet.Clone] copies the chain to
// another pool.
//
// # Waiting
//
// When no packet is free, Allocate waits, for as long as its context allows. Those who
// wait form a queue, and a released packet is handed to the first of them; it never
// becomes free, so nobody who comes later can take it. [Pool.TryAllocate] doesn't wait,
// and growing a chain doesn't either. This leads to one rule:
//
//	Never wait for a packet while holding one.
//
// Two goroutines that each hold half of the pool and wait for more would wait for ever.
// Who keeps the rule can send anything through a pool of one packet: allocate, Fill,
// send, release, and again. The package keeps it for you except in Allocate, which
// can't know what you hold, and in Clone, which holds the original.
//
// # Ownership
//
// Whoever has allocated a packet owns it, until Release or until it is given to
// somebody, such as a function whose documentation says that it takes it. Only the
// owner may use it. After Release the same memory is soon somebody else's.
//
// Mistakes with this are hard to find, so the tests of duotap are built with
// -tags poolcheck, which makes the pool watch its packets. A second Release and any
// other use of a released packet then panic, and the panic names the lines that took
// the packet, released it and used it. Released memory is overwritten, a write to it
// is noticed when the packet is lent again, and [Pool.Held] lists who holds what, to
// end a test with:
//
//	for _, h := range pool.Held() {
//		t.Errorf("leaked: %v", h)
//	}
//
// Without the tag, a second Release is refused and counted as long as nobody else has
// the packet.
//
// # How many, how large
//
// The payload is HeadroomTCP6 (or TCP4) + the data that shall go into one frame, so
// 1514 for the MTU of 1500. The smallest that is of use is the headroom and one byte.
//
// One packet is enough to make progress. More let a sender hand over several frames at
// once, up to the 64 KiB that a stack cuts into frames itself: that takes 47 packets
// of 1514 bytes. To tune, look at [Pool.Stats] after a busy day. A LowestFree above
// zero means packets that were never needed. EmptySuspensions counts waits for a
// packet, so a pool too small for its load; EmptyRequests counts also the refusals that
// didn't wait, which are normal where Fill takes what there is.
//
// # Two pools
//
// Give the network its own pool, and the application another. An application that has
// emptied its pool waits for acknowledgements to go on, and these arrive in packets: if
// they were to come from the same pool, nothing would ever move again.
// Config.LowWatermark is a smaller help of the same kind: it keeps chains from taking
// the last packets, so that small requests still get one.
//
// # What is bounded, and what isn't
//
// A pool bounds payload memory: Packets × Payload bytes, plus about 150 bytes of
// bookkeeping for each packet. It doesn't bound what others copy out of its packets. A
// TCP stack copies on its way into its send buffer and out of its receive buffer, whose
// sizes are the stack's to limit. Nor does it bound the number of waiting goroutines,
// each of which costs a stack and a place in the queue.
package packetpool
