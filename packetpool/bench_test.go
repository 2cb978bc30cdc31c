package packetpool_test

import (
	"testing"

	"github.com/duotap/duotap/packetpool"
)

func benchPool(b *testing.B, packets int) *packetpool.Pool {
	return newPool(b, packetpool.Config{Packets: packets, Payload: 1514})
}

func BenchmarkAllocateRelease(b *testing.B) {
	p, ctx := benchPool(b, 16), b.Context()
	b.ReportAllocs()
	for b.Loop() {
		k, err := p.Allocate(ctx, packetpool.HeadroomTCP4)
		if err != nil {
			b.Fatal(err)
		}
		k.Release()
	}
}

func BenchmarkAllocateReleaseParallel(b *testing.B) {
	p := benchPool(b, 64)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			k, err := p.Allocate(b.Context(), packetpool.HeadroomTCP4)
			if err != nil {
				b.Error(err)
				return
			}
			k.Release()
		}
	})
}

// BenchmarkOnePacketForAll is the pool at its worst: all want its only packet, and
// most of them wait.
func BenchmarkOnePacketForAll(b *testing.B) {
	p, ctx := benchPool(b, 1), b.Context()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			k, err := p.Allocate(ctx, 0)
			if err != nil {
				b.Error(err)
				return
			}
			k.Release()
		}
	})
}

// BenchmarkAppend1420 fills one packet with the data of one TCP segment.
func BenchmarkAppend1420(b *testing.B) {
	p, data := benchPool(b, 16), pattern(1420)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		k, err := p.TryAllocate(packetpool.HeadroomTCP4)
		if err != nil {
			b.Fatal(err)
		}
		if err := k.Append(data); err != nil {
			b.Fatal(err)
		}
		k.Release()
	}
}

// BenchmarkFill64KiB makes the chain of one super-frame and releases it.
func BenchmarkFill64KiB(b *testing.B) {
	p, data := benchPool(b, 64), pattern(64<<10)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		k, err := p.TryAllocate(packetpool.HeadroomTCP4)
		if err != nil {
			b.Fatal(err)
		}
		if n := k.Fill(data); n != len(data) {
			b.Fatalf("filled %d bytes", n)
		}
		k.Release()
	}
}

func BenchmarkRead64KiB(b *testing.B) {
	p, buf := benchPool(b, 64), make([]byte, 64<<10)
	k := allocate(b, p, packetpool.HeadroomTCP4)
	defer k.Release()
	appendBytes(b, k, pattern(len(buf)))
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		k.Rewind()
		if n, err := k.Read(buf); n != len(buf) || err != nil {
			b.Fatal(n, err)
		}
	}
}

func BenchmarkSegments64KiB(b *testing.B) {
	p := benchPool(b, 64)
	k := allocate(b, p, packetpool.HeadroomTCP4)
	defer k.Release()
	appendBytes(b, k, pattern(64<<10))
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		for s := range k.Segments() {
			n += len(s)
		}
	}
}

func BenchmarkClone64KiB(b *testing.B) {
	p, q := benchPool(b, 64), benchPool(b, 64)
	k := allocate(b, p, packetpool.HeadroomTCP4)
	defer k.Release()
	appendBytes(b, k, pattern(64<<10))
	b.SetBytes(64 << 10)
	b.ReportAllocs()
	for b.Loop() {
		c, err := k.Clone(b.Context(), q)
		if err != nil {
			b.Fatal(err)
		}
		c.Release()
	}
}
