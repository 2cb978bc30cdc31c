package packetpool_test

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/duotap/duotap/packetpool"
)

func TestNewRefuses(t *testing.T) {
	tests := []struct {
		name   string
		config packetpool.Config
		want   []string // each in a line of its own
	}{
		{"nothing set", packetpool.Config{}, []string{"Config.Packets is 0", "Config.Payload is 0"}},
		{"everything negative", packetpool.Config{Name: "n", Packets: -1, Payload: -2, LowWatermark: -3},
			[]string{`"n": Config.Packets is -1`, "Config.Payload is -2", "Config.LowWatermark is -3"}},
		{"watermark above packets", packetpool.Config{Packets: 4, Payload: 1, LowWatermark: 5}, []string{"Config.LowWatermark is 5"}},
		{"too large", packetpool.Config{Packets: 1 << 20, Payload: 2048}, []string{"Config.Packets (1048576) × Config.Payload (2048 bytes)"}},
		{"product overflows", packetpool.Config{Packets: math.MaxInt, Payload: math.MaxInt}, []string{"× Config.Payload"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := packetpool.New(tt.config)
			if err == nil || p != nil {
				t.Fatalf("New(%+v) = %v, %v, want an error only", tt.config, p, err)
			}
			lines := strings.Split(err.Error(), "\n")
			if len(lines) != len(tt.want) {
				t.Fatalf("error has %d lines, want %d:\n%v", len(lines), len(tt.want), err)
			}
			for i, want := range tt.want {
				if !strings.Contains(lines[i], want) {
					t.Errorf("line %d is %q, want it to contain %q", i+1, lines[i], want)
				}
			}
		})
	}
}

func TestNewDefaults(t *testing.T) {
	p := newPool(t, packetpool.Config{Packets: 2, Payload: 3})
	if p.Name() != "unnamed" || p.Payload() != 3 {
		t.Errorf("name %q, payload %d, want unnamed, 3", p.Name(), p.Payload())
	}
	checkStats(t, p, packetpool.Stats{Total: 2, Free: 2, LowestFree: 2})
}

func TestHeadroomConstants(t *testing.T) {
	// A frame of 1514 bytes carries one TCP segment of 1420 or 1400 bytes.
	for _, tt := range []struct{ headroom, want int }{
		{packetpool.HeadroomTCP4, 94},
		{packetpool.HeadroomTCP6, 114},
		{packetpool.HeadroomUDP4, 42},
		{packetpool.HeadroomUDP6, 62},
	} {
		if tt.headroom != tt.want {
			t.Errorf("headroom %d, want %d", tt.headroom, tt.want)
		}
	}
}

func TestFreeListIsLIFO(t *testing.T) {
	p := newPool(t, packetpool.Config{Packets: 3, Payload: 8})
	a, b := allocate(t, p, 0), allocate(t, p, 0)
	appendBytes(t, a, []byte("a"))
	appendBytes(t, b, []byte("b"))
	atA, atB := memory(a)[0], memory(b)[0]
	a.Release()
	b.Release()
	for i, want := range []*byte{atB, atA} {
		k := allocate(t, p, 0)
		defer k.Release()
		appendBytes(t, k, []byte("c"))
		if memory(k)[0] != want {
			t.Errorf("allocation %d isn't the packet that was released last", i+1)
		}
	}
}

func TestAllocatedPacketIsEmpty(t *testing.T) {
	p := newPool(t, packetpool.Config{Packets: 2, Payload: 10})
	k := allocate(t, p, 4)
	appendBytes(t, k, pattern(9))
	if err := k.Prepend([]byte("x")); err != nil {
		t.Fatal(err)
	}
	k.Read(make([]byte, 5))
	k.Release()

	for range 2 {
		k := allocate(t, p, 3)
		defer k.Release()
		if k.Len() != 0 || k.Headroom() != 3 || k.Room() != 7 || k.Packets() != 1 {
			t.Errorf("len %d, headroom %d, room %d, packets %d, want 0, 3, 7, 1",
				k.Len(), k.Headroom(), k.Room(), k.Packets())
		}
		checkContent(t, k, nil)
	}
}

func TestLowestFree(t *testing.T) {
	p := newPool(t, packetpool.Config{Packets: 5, Payload: 10})
	a, b := allocate(t, p, 0), allocate(t, p, 0)
	appendBytes(t, b, pattern(15)) // one more
	checkStats(t, p, packetpool.Stats{Total: 5, Free: 2, LowestFree: 2})
	a.Release()
	b.Release()
	checkStats(t, p, packetpool.Stats{Total: 5, Free: 5, LowestFree: 2})
	allocate(t, p, 0).Release()
	checkStats(t, p, packetpool.Stats{Total: 5, Free: 5, LowestFree: 2})
}

func TestAllocateHeadroom(t *testing.T) {
	p := newPool(t, packetpool.Config{Packets: 1, Payload: 10})
	for _, headroom := range []int{-1, 11, math.MaxInt, math.MinInt} {
		k, err := p.Allocate(t.Context(), headroom)
		if k != nil {
			t.Errorf("Allocate(%d) gave a packet", headroom)
		}
		checkErr(t, "Allocate", err, packetpool.ErrHeadroom)
		_, err = p.TryAllocate(headroom)
		checkErr(t, "TryAllocate", err, packetpool.ErrHeadroom)
	}
	checkStats(t, p, packetpool.Stats{Total: 1, Free: 1, LowestFree: 1}) // wasn't a request for a packet
}

func TestHeadroomOfWholePayload(t *testing.T) {
	p := newPool(t, packetpool.Config{Packets: 2, Payload: 10})
	k := allocate(t, p, 10)
	defer k.Release()
	checkErr(t, "Append", k.Append([]byte("a")), packetpool.ErrHeadroom)
	if n := k.Fill([]byte("a")); n != 0 {
		t.Errorf("Fill took %d bytes, want 0", n)
	}
	if err := k.Append(nil); err != nil {
		t.Errorf("Append of nothing: %v", err)
	}
	if err := k.Prepend([]byte("0123456789")); err != nil {
		t.Fatal(err)
	}
	checkContent(t, k, []byte("0123456789"))
}

func TestDoneContextStillTakesFreePacket(t *testing.T) {
	p := newPool(t, packetpool.Config{Packets: 1, Payload: 1})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	k, err := p.Allocate(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Allocate(ctx, 0)
	checkErr(t, "Allocate", err, packetpool.ErrNoPacket)
	checkErr(t, "Allocate", err, context.Canceled)
	checkStats(t, p, packetpool.Stats{Total: 1, EmptyRequests: 1}) // it never waited
	k.Release()
}

func TestErrorsSayWhichPool(t *testing.T) {
	p := newPool(t, packetpool.Config{Name: "mail", Packets: 1, Payload: 8})
	k := allocate(t, p, 2)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("the user pressed stop"))

	_, errTry := p.TryAllocate(0)
	_, errWait := p.Allocate(ctx, 0)
	_, errHeadroom := p.TryAllocate(9)
	errAppend := k.Append(make([]byte, 7))
	_, errClone := k.Clone(ctx, p)
	k.Release()
	p.Close()
	_, errClosed := p.TryAllocate(0)

	for name, tt := range map[string]struct {
		err  error
		want []string
	}{
		"TryAllocate": {errTry, []string{"all 1 are held"}},
		"Allocate":    {errWait, []string{"the user pressed stop"}},
		"headroom":    {errHeadroom, []string{"9 bytes", "payload of 8"}},
		"Append":      {errAppend, []string{"append 7 bytes", "1 more needed", "0 to be had", "of 1"}},
		"Clone":       {errClone, []string{"clone 0 bytes"}},
		"closed":      {errClosed, []string{"closed"}},
		"Close":       {p.Close(), []string{"close", "closed"}},
	} {
		for _, want := range append(tt.want, `"mail"`) {
			if tt.err == nil || !strings.Contains(tt.err.Error(), want) {
				t.Errorf("%s: error %v, want it to contain %q", name, tt.err, want)
			}
		}
	}
}

func TestClose(t *testing.T) {
	p := newPool(t, packetpool.Config{Packets: 3, Payload: 10})
	q := newPool(t, packetpool.Config{Packets: 3, Payload: 10})
	k := allocate(t, p, 0)
	appendBytes(t, k, pattern(5))
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := p.Allocate(t.Context(), 0)
	checkErr(t, "Allocate", err, packetpool.ErrClosed)
	_, err = p.TryAllocate(0)
	checkErr(t, "TryAllocate", err, packetpool.ErrClosed)
	_, err = k.Clone(t.Context(), p)
	checkErr(t, "Clone", err, packetpool.ErrClosed)
	checkErr(t, "Append", k.Append(pattern(6)), packetpool.ErrClosed)
	checkErr(t, "Extend", k.Extend(6), packetpool.ErrClosed)
	checkErr(t, "Close", p.Close(), packetpool.ErrClosed)

	// What is held lives on.
	if n := k.Fill(pattern(6)); n != 5 {
		t.Errorf("Fill took %d bytes, want the 5 of the packet itself", n)
	}
	c, err := k.Clone(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	checkContent(t, c, append(pattern(5), pattern(5)...))
	c.Release()
	k.Release()
	checkStats(t, p, packetpool.Stats{Total: 3, Free: 3, LowestFree: 2})
}

func TestLowWatermark(t *testing.T) {
	p := newPool(t, packetpool.Config{Packets: 5, Payload: 10, LowWatermark: 2})
	k := allocate(t, p, 0) // 4 free
	checkErr(t, "Append", k.Append(pattern(31)), packetpool.ErrNoPacket)
	checkErr(t, "Extend", k.Extend(31), packetpool.ErrNoPacket)
	if k.Len() != 0 || p.Stats().Free != 4 {
		t.Errorf("a failed Append left %d bytes and %d free packets, want 0 and 4", k.Len(), p.Stats().Free)
	}
	if n := k.Fill(pattern(50)); n != 30 {
		t.Errorf("Fill took %d bytes, want 30", n)
	}
	checkStats(t, p, packetpool.Stats{Total: 5, Free: 2, LowestFree: 2, EmptyRequests: 3})

	// Allocate may go below, and then no chain grows.
	a, b := allocate(t, p, 0), allocate(t, p, 0)
	checkErr(t, "Append", a.Append(pattern(11)), packetpool.ErrNoPacket)
	if n := a.Fill(pattern(11)); n != 10 {
		t.Errorf("Fill took %d bytes, want 10", n)
	}
	for _, k := range []*packetpool.Packet{k, a, b} {
		k.Release()
	}
}
