package stack_test

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/duotap/duotap/stack"
	"github.com/duotap/duotap/stack/link"
	"github.com/duotap/duotap/stack/link/memlink"
)

// The tests in this file are the scenarios of NetX Duo's regression suite that users of a
// connection would notice; each is named after its file there.

// TestTCPLargeDataTransfer: 8 KB in one chained packet arrive byte for byte.
func TestTCPLargeDataTransfer(t *testing.T) {
	alice, bob := couple(t, withTCP, memlink.Config{})
	d, a := connect(t, alice, bob, bob4.Addr())
	pool := packets(t, 8, 1536)
	pkt := chain(t, pool, 8192)
	if n := pkt.Packets(); n < 2 {
		t.Fatalf("8 KB are %d packet, want a chain", n)
	}
	must(t, d.SendPacket(pkt))
	must(t, d.CloseWrite())
	must(t, wantBytes(a, pattern(8192)))
}

// TestTCPFastDisconnect: a thousand times connect and send, while the other side closes at
// once. Whatever the sender is told, it is told soon, and nothing is left over.
func TestTCPFastDisconnect(t *testing.T) {
	alice, bob := couple(t, withTCP, memlink.Config{})
	pool := packets(t, 2, 1514)
	l, err := bob.Listen("tcp", "192.0.2.2:25")
	must(t, err)
	served := background(func() error {
		for {
			c, err := l.Accept()
			if err != nil {
				return err
			}
			c.Close()
		}
	})
	for range 1000 {
		c, err := alice.DialContext(patient(t), "tcp", "192.0.2.2:25")
		must(t, err)
		pkt := chain(t, pool, 28)
		if err := c.(*stack.TCPConn).SendPacket(pkt); err != nil {
			if !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("SendPacket: %v, want a closed connection", err)
			}
			checkIntact(t, pkt, 28)
		}
		must(t, c.Close())
	}
	must(t, l.Close())
	receive(t, "the end of the listener", served)
	checkFull(t, pool)
}

// TestTCPTxQueueExceed: when the other side takes no more, sends succeed until the send
// buffer is full. The next one waits as long as its deadline allows: not at all, or so long.
func TestTCPTxQueueExceed(t *testing.T) {
	alice, bob := smallBuffers(t)
	pool := packets(t, 2, 1514)
	d, a := connect(t, alice, bob, bob4.Addr())
	must(t, d.SetWriteDeadline(time.Now().Add(50*time.Millisecond)))
	sent := 0
	for {
		pkt := chain(t, pool, 1000)
		err := d.SendPacket(pkt)
		if err != nil {
			wantErr(t, "SendPacket", err, os.ErrDeadlineExceeded)
			checkIntact(t, pkt, 1000)
			break
		}
		sent += 1000
	}
	if sent < 4000 || sent > 20_000 {
		t.Errorf("%d bytes were taken, want what two buffers of 4 KiB hold", sent)
	}
	pkt := chain(t, pool, 1000)
	wantErr(t, "SendPacket without waiting", d.SendPacket(pkt), nil)
	checkIntact(t, pkt, 1000)
	_, err := io.ReadFull(a, make([]byte, sent))
	must(t, err)
}

// loser is a device that loses some of what it is given to send.
type loser struct {
	link.Device
	count atomic.Uint64
}

func (l *loser) Send(frames []link.Frame) (int, error) {
	for k := range frames {
		if l.count.Add(1)%20 == 0 {
			continue
		}
		if _, err := l.Device.Send(frames[k : k+1]); err != nil {
			return k, err
		}
	}
	return len(frames), nil
}

// TestTCPRetransmit: what the link loses is sent again.
func TestTCPRetransmit(t *testing.T) {
	left, right, err := memlink.New(memlink.Config{})
	must(t, err)
	alice := launch(t, withTCP, aliceOn(withTCP, &loser{Device: left}))
	bob := launch(t, withTCP, bobOn(withTCP, right))
	d, a := connect(t, alice, bob, bob4.Addr())
	const size = 300_000
	got := background(func() error { return wantBytes(a, pattern(size)) })
	_, err = d.Write(pattern(size))
	must(t, err)
	must(t, d.CloseWrite())
	must(t, receive(t, "the bytes", got))
	if info := d.Info(); info.Retransmits == 0 {
		t.Errorf("%+v, want retransmits", info)
	}
}

// TestTCPZeroWindowProbe: a sender that met a full receiver goes on once that reads.
func TestTCPZeroWindowProbe(t *testing.T) {
	alice, bob := smallBuffers(t)
	d, a := connect(t, alice, bob, bob4.Addr())
	const size = 100_000
	sent := background(func() error { return errors.Join(write(d, pattern(size)), d.CloseWrite()) })
	eventually(t, "a full receiver", func() bool { return a.Info().UnreadBytes > 1000 })
	must(t, wantBytes(a, pattern(size)))
	must(t, receive(t, "Write", sent))
}

func write(w io.Writer, b []byte) error {
	_, err := w.Write(b)
	return err
}

// TestTCPConnectionReset: a peer that has forgotten the connection resets it.
func TestTCPConnectionReset(t *testing.T) {
	left, right := memlink.Pair(1500)
	wire := &cutter{Device: right}
	alice, bob := launch(t, withTCP, aliceOn(withTCP, left)), launch(t, withTCP, bobOn(withTCP, wire))
	d, a := connect(t, alice, bob, bob4.Addr())
	wire.cut.Store(true)
	must(t, a.SetLinger(0))
	must(t, a.Close()) // its reset is lost
	wire.cut.Store(false)
	must(t, write(d, []byte("anybody there?")))
	_, err := d.Read(make([]byte, 1))
	wantErr(t, "Read", err, syscall.ECONNRESET)
}
