package smtpclient

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/duotap/duotap/packetpool"
)

// lastWordsWait is how long a server whose connection failed under a write is listened
// to, for the reply with which it may have closed.
const lastWordsWait = time.Second

// glance is how long poll looks for something to read: long enough for what has
// arrived to be found, too short to be noticed.
const glance = 200 * time.Microsecond

// packetSender is a connection that takes packets as they are.
type packetSender interface {
	// SendPacket takes ownership of pkt if and only if it returns nil.
	SendPacket(pkt *packetpool.Packet) error
}

// wire is a connection on which each wait has a limit: that of the step, which begin
// sets, and the context.
type wire struct {
	ctx    context.Context
	conn   net.Conn
	raw    net.Conn      // conn, or what is below its TLS
	sender packetSender  // conn, if it is one
	record *bufio.Writer // to conn, if it is encrypted: makes large records of packets
	in     replyReader
	out    packetWriter
	pieces net.Buffers // of the packet in sendPacket, to be reused
	unhook func()

	mu      sync.Mutex
	limit   time.Duration // of the step, for messages
	stopped bool          // the context is done
}

// newWire makes a wire of conn. It is to be closed.
func newWire(ctx context.Context, cfg *Config, room int, conn net.Conn) *wire {
	w := &wire{ctx: ctx, conn: conn, raw: conn}
	w.sender, _ = conn.(packetSender)
	w.in.r = conn
	w.out = packetWriter{ctx: ctx, cfg: cfg, room: room, send: w.sendPacket}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		w.stop()
	})
	w.unhook = func() {
		if !stop() {
			<-done
		}
	}
	return w
}

// upgrade puts conn, which is encrypted, in the place of the connection below it.
// Packets can't go as they are any more.
func (w *wire) upgrade(conn *tls.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conn, w.sender, w.in.r = conn, nil, conn
	w.record = bufio.NewWriterSize(conn, maxRecord)
}

// maxRecord is how much a TLS record carries (RFC 8446 §5.1), in bytes.
const maxRecord = 16 << 10

// stop ends every wait, now and later.
func (w *wire) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = true
	_ = w.conn.SetDeadline(time.Unix(1, 0)) // it fails if the connection is closed
}

// begin starts the time of a step.
func (w *wire) begin(limit time.Duration) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.limit = limit
	if w.stopped {
		return w.stopError()
	}
	return w.conn.SetDeadline(time.Now().Add(limit))
}

// close ends the connection. After a failure what isn't sent yet is thrown away, if the
// connection can do that: nobody waits for it.
func (w *wire) close(failed bool) {
	w.out.drop()
	w.unhook()
	if !failed {
		_ = w.conn.Close() // what was to be known about the connection is known
		return
	}
	if l, ok := w.raw.(interface{ SetLinger(int) error }); ok {
		_ = l.SetLinger(0)
	}
	_ = w.raw.Close() // without the farewell of TLS, which could take seconds
}

// sendPacket sends pkt and owns it, whatever the outcome.
func (w *wire) sendPacket(pkt *packetpool.Packet) error {
	if w.sender != nil {
		err := w.sender.SendPacket(pkt)
		if err != nil {
			pkt.Release()
		}
		return w.explain(err)
	}
	defer pkt.Release()
	if w.record != nil {
		return w.explain(w.sendRecords(pkt))
	}
	pieces := w.pieces[:0]
	for b := range pkt.Segments() {
		pieces = append(pieces, b)
	}
	w.pieces = pieces
	_, err := w.pieces.WriteTo(w.conn)
	w.pieces = pieces // WriteTo moves on to the slice's end
	return w.explain(err)
}

// sendRecords sends pkt encrypted.
func (w *wire) sendRecords(pkt *packetpool.Packet) error {
	for b := range pkt.Segments() {
		if _, err := w.record.Write(b); err != nil {
			return err
		}
	}
	return w.record.Flush()
}

// readReply reads a reply within the time of the step.
func (w *wire) readReply() (rawReply, error) {
	r, err := w.in.read()
	return r, w.explain(err)
}

// poll reports whether the server has said something, without waiting for it. The
// error is that of a connection that has ended.
func (w *wire) poll() (bool, error) {
	w.mu.Lock()
	var err error
	if w.stopped {
		err = w.stopError()
	} else {
		err = w.conn.SetReadDeadline(time.Now().Add(glance))
	}
	w.mu.Unlock()
	if err != nil {
		return false, err
	}
	err = w.in.more()
	if err == nil {
		return true, nil
	}
	if !isTimeout(err) {
		return false, err
	}
	return false, nil
}

// lastWords returns the reply of a server that has closed, or is about to, without
// waiting long. There is none if the context is done.
func (w *wire) lastWords() (rawReply, bool) {
	if err := w.begin(lastWordsWait); err != nil {
		return rawReply{}, false
	}
	r, err := w.in.read()
	return r, err == nil
}

// explain says what a deadline that passed was about.
func (w *wire) explain(err error) error {
	if err == nil || !isTimeout(err) {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped {
		return w.stopError()
	}
	return fmt.Errorf("not done within %v: %w", w.limit, err)
}

func (w *wire) stopError() error { return fmt.Errorf("stopped: %w", context.Cause(w.ctx)) }
