package smtpclient

import (
	"context"
	"fmt"

	"github.com/duotap/duotap/packetpool"
)

// maxChain is the longest chain that is sent at once, in bytes: what a TCP
// super-frame of 65,535 bytes carries behind the largest headers.
const maxChain = 65375

// packetWriter cuts what is written into chains of packets and sends each. It never
// waits for a packet while it holds one, so a pool of a single packet is enough for
// any message; with more free it sends longer chains.
type packetWriter struct {
	ctx  context.Context
	cfg  *Config
	room int // headroom, in bytes
	send func(*packetpool.Packet) error

	pkt     *packetpool.Packet // being filled; nil if none is held
	written int64              // bytes given to Write
	offered int64              // bytes given to send, taken or not
	sent    int64              // bytes that send took
	packets int64              // packets that send took
}

// Write puts b into packets, and sends those that are full.
func (w *packetWriter) Write(b []byte) (int, error) {
	for done := 0; done < len(b); {
		if w.pkt == nil {
			pkt, err := w.allocate()
			if err != nil {
				return done, err
			}
			w.pkt = pkt
		}
		part := b[done:min(len(b), done+maxChain-w.pkt.Len())]
		n := w.pkt.Fill(part)
		done += n
		w.written += int64(n)
		if n < len(part) || w.pkt.Len() == maxChain {
			if err := w.flush(); err != nil {
				return done, err
			}
		}
	}
	return len(b), nil
}

// flush sends what Write holds back.
func (w *packetWriter) flush() error {
	pkt := w.pkt
	if pkt == nil {
		return nil
	}
	w.pkt = nil
	packets, bytes := int64(pkt.Packets()), int64(pkt.Len())
	w.offered += bytes
	if err := w.send(pkt); err != nil {
		return err
	}
	w.sent += bytes
	w.packets += packets
	return nil
}

// drop releases what Write holds back, unsent.
func (w *packetWriter) drop() {
	if w.pkt != nil {
		w.pkt.Release()
		w.pkt = nil
	}
}

// allocate takes a packet, and waits for one if there is none.
func (w *packetWriter) allocate() (*packetpool.Packet, error) {
	// The usual case without making a context.
	if pkt, err := w.cfg.Pool.TryAllocate(w.room); err == nil {
		return pkt, nil
	}
	ctx, cancel := context.WithTimeoutCause(w.ctx, w.cfg.PacketTimeout, errPacketTimeout)
	defer cancel()
	pkt, err := w.cfg.Pool.Allocate(ctx, w.room)
	if err != nil {
		return nil, fmt.Errorf("wait at most %v for a packet: %w", w.cfg.PacketTimeout, err)
	}
	return pkt, nil
}
