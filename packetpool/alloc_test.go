package packetpool_test

import (
	"context"
	"testing"

	"github.com/duotap/duotap/packetpool"
)

func TestNoHeapAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	p := newPool(t, packetpool.Config{Packets: 50, Payload: 1514})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	held := allocate(t, p, packetpool.HeadroomTCP4)
	defer held.Release()
	appendBytes(t, held, pattern(3000))
	data, buf, header := pattern(40_000), make([]byte, 40_000), make([]byte, 20)
	sum := 0

	for _, tt := range []struct {
		name string
		f    func(k *packetpool.Packet)
	}{
		{"Allocate and Release", func(*packetpool.Packet) {}},
		{"TryAllocate", func(*packetpool.Packet) {
			k, _ := p.TryAllocate(0)
			k.Release()
		}},
		{"Append", func(k *packetpool.Packet) { k.Append(data[:1420]) }},
		{"Append of a chain", func(k *packetpool.Packet) { k.Append(data) }},
		{"Fill", func(k *packetpool.Packet) { k.Fill(data) }},
		{"Extend", func(k *packetpool.Packet) { k.Extend(len(data)) }},
		{"Prepend", func(k *packetpool.Packet) { k.Prepend(header) }},
		{"Read, Rewind and ReadAt", func(k *packetpool.Packet) {
			held.Read(buf)
			held.Rewind()
			held.ReadAt(buf[:2000], 900)
		}},
		{"Truncate and Append", func(k *packetpool.Packet) {
			held.Truncate(1000)
			held.Append(data[:2000])
		}},
		{"Segments", func(k *packetpool.Packet) {
			for s := range held.Segments() {
				sum += len(s)
			}
		}},
		{"Clone", func(*packetpool.Packet) {
			k, _ := held.Clone(ctx, p)
			k.Release()
		}},
		{"Stats", func(*packetpool.Packet) { sum += p.Stats().Free }},
		{"a failing TryAllocate", func(k *packetpool.Packet) {
			k.Fill(make([]byte, 0))
			k.Extend((p.Stats().Free + 1) * 1420) // all there are
			p.TryAllocate(0)
		}},
	} {
		if n := testing.AllocsPerRun(100, func() {
			k, err := p.Allocate(ctx, packetpool.HeadroomTCP4)
			if err != nil {
				t.Fatal(err)
			}
			tt.f(k)
			k.Release()
		}); n != 0 {
			t.Errorf("%s: %v heap allocations, want 0", tt.name, n)
		}
	}
}

// All of a pool's memory is allocated by New, and the number of pieces doesn't depend
// on the number of packets.
func TestNewAllocatesOnce(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	allocations := func(packets int) float64 {
		return testing.AllocsPerRun(10, func() {
			if _, err := packetpool.New(packetpool.Config{Packets: packets, Payload: 100}); err != nil {
				t.Fatal(err)
			}
		})
	}
	few, many := allocations(300), allocations(3000)
	if many > few+2 { // the runtime may need one or two of its own
		t.Errorf("%v allocations for 3000 packets, %v for 300", many, few)
	}
}
