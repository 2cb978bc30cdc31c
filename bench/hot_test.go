package bench

import (
	"io"
	"testing"

	"github.com/duotap/duotap/packetpool"
)

// newMemory opens a link in memory.
func newMemory(b *testing.B) *testLink {
	b.Helper()
	cfg := Config{Links: []Link{Memory}, NoKernel: true}.withDefaults()
	l, err := openLink(b.Context(), &cfg, Memory)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := l.close(); err != nil {
			b.Error(err)
		}
	})
	return l
}

// BenchmarkMemorySendPacket sends chains of a super-frame's payload from one instance
// to another.
func BenchmarkMemorySendPacket(b *testing.B) {
	l := newMemory(b)
	c, err := l.dialCommand(b.Context(), 4, request{Op: opSink})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	sender := c.(interface {
		SendPacket(*packetpool.Packet) error
	})
	pool, err := packetpool.New(packetpool.Config{Name: "bench", Packets: 64, Payload: 1514})
	if err != nil {
		b.Fatal(err)
	}
	payload := make([]byte, maxPayload)
	b.SetBytes(maxPayload)
	b.ReportAllocs()
	for b.Loop() {
		pkt, err := pool.TryAllocate(packetpool.HeadroomTCP4)
		if err != nil {
			b.Fatal(err)
		}
		pkt.Fill(payload)
		if err := sender.SendPacket(pkt); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkMemoryRead reads bulk.
func BenchmarkMemoryRead(b *testing.B) {
	l := newMemory(b)
	c, err := l.dialCommand(b.Context(), 4, request{Op: opSource})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, maxPayload)
	b.SetBytes(maxPayload)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := io.ReadFull(c, buf); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkMemoryExchange is a request and its answer, of 64 bytes.
func BenchmarkMemoryExchange(b *testing.B) {
	l := newMemory(b)
	const size = 64
	c, err := l.dialCommand(b.Context(), 4, request{Op: opEcho, Size: size})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, size)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			b.Fatal(err)
		}
	}
}
