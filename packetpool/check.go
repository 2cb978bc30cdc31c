package packetpool

import "fmt"

// Holder says who holds one packet of a pool.
type Holder struct {
	Packet int    // which packet, 0 to Total-1
	Site   string // "file:line" that took it from the pool
	Head   int    // the head of its chain: Packet itself if it is one
	Length int    // of a head: bytes in the chain, read and unread; otherwise 0
}

// String returns h as a sentence for a test's log.
func (h Holder) String() string {
	if h.Head != h.Packet {
		return fmt.Sprintf("packet %d, in the chain of packet %d, taken at %s", h.Packet, h.Head, h.Site)
	}
	return fmt.Sprintf("packet %d, head of a chain of %d bytes, taken at %s", h.Packet, h.Length, h.Site)
}
