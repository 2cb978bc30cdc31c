package smtpclient

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/duotap/duotap/packetpool"
)

func newTestPool(t testing.TB, packets, payload int) *packetpool.Pool {
	t.Helper()
	pool, err := packetpool.New(packetpool.Config{Name: "mail", Packets: packets, Payload: payload})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if s := pool.Stats(); s.Free != s.Total || s.InvalidReleases != 0 {
			t.Errorf("at the end: %+v; held: %v", s, pool.Held())
		}
	})
	return pool
}

func newTestWriter(t testing.TB, pool *packetpool.Pool, send func(*packetpool.Packet) error) *packetWriter {
	return &packetWriter{ctx: t.Context(), cfg: &Config{Pool: pool, PacketTimeout: 2 * time.Second}, room: packetpool.HeadroomTCP4, send: send}
}

func TestPacketWriterChains(t *testing.T) {
	body := bytes.Repeat([]byte("0123456789abcdef"), 10<<10) // 160 KiB
	tests := []struct {
		name             string
		packets, payload int
		longest          int // chain, in bytes
	}{
		{"one packet", 1, 1514, 1420},
		{"one packet with one byte", 1, 95, 1},
		{"three packets", 3, 1514, 3 * 1420},
		{"more than a super-frame", 100, 1514, maxChain},
		{"a packet larger than a super-frame", 1, 100000, maxChain},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			pool := newTestPool(t, tt.packets, tt.payload)
			var got bytes.Buffer
			longest := 0
			w := newTestWriter(t, pool, func(pkt *packetpool.Packet) error {
				defer pkt.Release()
				longest = max(longest, pkt.Len())
				_, err := io.Copy(&got, pkt)
				return err
			})
			for b := body; len(b) > 0; {
				n := min(len(b), 5000)
				if m, err := w.Write(b[:n]); m != n || err != nil {
					t.Fatal(m, err)
				}
				b = b[n:]
			}
			if err := w.flush(); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Bytes(), body) {
				t.Errorf("%d bytes came out", got.Len())
			}
			if longest != tt.longest {
				t.Errorf("longest chain %d bytes, want %d", longest, tt.longest)
			}
			if n := int64(len(body)); w.written != n || w.offered != n || w.sent != n || w.packets < n/int64(tt.payload) {
				t.Errorf("written %d, offered %d, sent %d, packets %d", w.written, w.offered, w.sent, w.packets)
			}
		})
	}
}

func TestPacketWriterLeavesWatermark(t *testing.T) {
	pool, err := packetpool.New(packetpool.Config{Packets: 8, Payload: 194, LowWatermark: 4})
	if err != nil {
		t.Fatal(err)
	}
	w := newTestWriter(t, pool, func(pkt *packetpool.Packet) error {
		if pkt.Packets() > 4 {
			t.Errorf("a chain of %d packets", pkt.Packets())
		}
		pkt.Release()
		return nil
	})
	if _, err := w.Write(make([]byte, 10000)); err != nil {
		t.Fatal(err)
	}
	w.drop()
	if s := pool.Stats(); s.Free != 8 {
		t.Errorf("%+v", s)
	}
}

func TestPacketWriterWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := newTestPool(t, 1, 100)
		held, err := pool.TryAllocate(0)
		if err != nil {
			t.Fatal(err)
		}
		w := newTestWriter(t, pool, func(pkt *packetpool.Packet) error { pkt.Release(); return nil })
		start := time.Now()
		if _, err := w.Write([]byte("x")); !errors.Is(err, packetpool.ErrNoPacket) || !errors.Is(err, errPacketTimeout) {
			t.Errorf("error %v", err)
		}
		if d := time.Since(start); d != 2*time.Second {
			t.Errorf("gave up after %v", d)
		}
		time.AfterFunc(time.Second, held.Release)
		if _, err := w.Write([]byte("x")); err != nil {
			t.Error(err)
		}
		w.drop()
	})
}

func TestPacketWriterCountsWhatWasOffered(t *testing.T) {
	boom := errors.New("boom")
	pool := newTestPool(t, 1, 104) // ten bytes of data
	calls := 0
	w := newTestWriter(t, pool, func(pkt *packetpool.Packet) error {
		defer pkt.Release()
		if calls++; calls == 3 {
			return boom
		}
		return nil
	})
	_, err := w.Write(make([]byte, 100))
	if err != boom || w.offered != 30 || w.sent != 20 || w.packets != 2 {
		t.Errorf("%v: offered %d, sent %d, packets %d", err, w.offered, w.sent, w.packets)
	}
}

// packetConn takes packets, as a connection of package stack does.
type packetConn struct {
	net.Conn // for what isn't tested
	refuse   error
}

func (c *packetConn) SendPacket(pkt *packetpool.Packet) error {
	if c.refuse != nil {
		return c.refuse
	}
	pkt.Release()
	return nil
}

func TestRefusedPacketIsReleased(t *testing.T) {
	boom := errors.New("boom")
	a, b := net.Pipe()
	defer b.Close()
	pool := newTestPool(t, 1, 100)
	w := newWire(t.Context(), &Config{Pool: pool, PacketTimeout: time.Second}, 94, &packetConn{a, boom})
	defer w.close(true)
	if _, err := w.out.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := w.out.flush(); err != boom {
		t.Errorf("error %v", err)
	}
}

// TestNoAllocationPerPacket: sending needs no memory but the packets.
func TestNoAllocationPerPacket(t *testing.T) {
	if RaceEnabled {
		t.Skip("the race detector allocates")
	}
	body := bytes.Repeat([]byte("a line of text that is a bit longer\n.and a dot\r\n"), 1000)
	a, _ := net.Pipe()
	for name, conn := range map[string]net.Conn{"SendPacket": &packetConn{Conn: a}, "Write": discardConn{a}} {
		for _, packets := range []int{1, 16} {
			pool := newTestPool(t, packets, 1514)
			w := newWire(t.Context(), &Config{Pool: pool, PacketTimeout: time.Second}, 94, conn)
			lines := textWriter{w: &w.out}
			n := testing.AllocsPerRun(20, func() {
				if _, err := lines.Write(body); err != nil {
					t.Fatal(err)
				}
				if err := w.out.flush(); err != nil {
					t.Fatal(err)
				}
			})
			if n != 0 {
				t.Errorf("%s, pool of %d: %v heap allocations for %d bytes", name, packets, n, len(body))
			}
			w.out.drop()
		}
	}
}

// discardConn takes everything.
type discardConn struct{ net.Conn }

func (discardConn) Write(b []byte) (int, error) { return len(b), nil }

func BenchmarkSendBody(b *testing.B) {
	body := bytes.Repeat([]byte("seventy-six bytes of text, which is what lines of mail have on the average\r\n"), 10000)
	a, _ := net.Pipe()
	for _, bb := range []struct {
		name    string
		packets int
	}{{"one packet", 1}, {"16 packets", 16}, {"64 packets", 64}} {
		b.Run(bb.name, func(b *testing.B) {
			pool := newTestPool(b, bb.packets, 1514)
			w := newWire(b.Context(), &Config{Pool: pool, PacketTimeout: time.Second}, 94, &packetConn{Conn: a})
			lines := textWriter{w: &w.out}
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := lines.Write(body); err != nil {
					b.Fatal(err)
				}
			}
			w.out.drop()
		})
	}
}
