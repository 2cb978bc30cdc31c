package packetpool_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/duotap/duotap/packetpool"
)

// TestNetX holds the packet scenarios of NetX Duo's regression tests, under the names
// they have there. docs/netx-duo.md lists those without a meaning here.
func TestNetX(t *testing.T) {
	t.Run("packet_basic", testPacketBasic)
	t.Run("packet_suspension", testPacketSuspension)
	t.Run("packet_data_append", testPacketDataAppend)
	t.Run("packet_payload_size", testPacketPayloadSize)
	t.Run("packet_nxe_api", testPacketNXEAPI)
	t.Run("packet_branch", testPacketBranch)
	t.Run("packet_debug_info", testPacketDebugInfo)
	t.Run("low_watermark", testLowWatermark)
	t.Run("low_watermark_zero_window", testLowWatermarkZeroWindow)
	t.Run("packet_leak", testPacketLeak)
}

// basicPayload is the packet of packet_basic: UDP headers and 28 bytes.
const basicPayload = packetpool.HeadroomUDP4 + 28

func basicPool(t *testing.T) *packetpool.Pool {
	return newPool(t, packetpool.Config{Name: "basic", Packets: 3, Payload: basicPayload})
}

func testPacketBasic(t *testing.T) {
	t.Run("create, delete and create again", func(t *testing.T) {
		for _, c := range []packetpool.Config{
			{Packets: 3, Payload: basicPayload}, {Packets: 1, Payload: 1000},
			{Packets: 256, Payload: 8192}, {Packets: 252, Payload: 8192},
		} {
			for range 2 {
				p := newPool(t, c)
				checkStats(t, p, packetpool.Stats{Total: c.Packets, Free: c.Packets, LowestFree: c.Packets})
				if err := p.Close(); err != nil {
					t.Error(err)
				}
			}
		}
	})
	t.Run("take all 3, a fourth without wait", func(t *testing.T) {
		p := basicPool(t)
		for range 3 {
			k := allocate(t, p, packetpool.HeadroomUDP4)
			defer k.Release()
		}
		_, err := p.TryAllocate(packetpool.HeadroomUDP4)
		checkErr(t, "fourth", err, packetpool.ErrNoPacket)
		checkStats(t, p, packetpool.Stats{Total: 3, EmptyRequests: 1})
	})
	t.Run("append 28, copy, retrieve", func(t *testing.T) {
		p, q := basicPool(t), newPool(t, packetpool.Config{Packets: 2, Payload: 1000})
		k := allocate(t, p, packetpool.HeadroomUDP4)
		defer k.Release()
		appendBytes(t, k, pattern(28))
		c, err := k.Clone(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Release()
		if c.Len() != 28 || k.Packets() != 1 {
			t.Errorf("copy has %d bytes, original %d packets, want 28, 1", c.Len(), k.Packets())
		}
		checkContent(t, c, pattern(28))
	})
	t.Run("cut the tail and reuse the second packet", func(t *testing.T) {
		p := basicPool(t)
		k := allocate(t, p, packetpool.HeadroomUDP4)
		defer k.Release()
		for k.Packets() < 2 {
			appendBytes(t, k, pattern(40)[:14])
			appendBytes(t, k, pattern(40)[14:])
		}
		before, free := memory(k), p.Stats().Free
		if err := k.Truncate(25); err != nil {
			t.Fatal(err)
		}
		appendBytes(t, k, pattern(3))
		appendBytes(t, k, pattern(3))
		after := memory(k)
		if len(after) != 2 || after[1] != before[1] || p.Stats().Free != free {
			t.Errorf("second packet was %p, is %p, %d free before and %d after", before[1], after[1], free, p.Stats().Free)
		}
	})
	t.Run("copy chained to other sizes and back", func(t *testing.T) {
		pools := []*packetpool.Pool{
			newPool(t, packetpool.Config{Packets: 12, Payload: basicPayload}),
			newPool(t, packetpool.Config{Packets: 2, Payload: 1000}),
			newPool(t, packetpool.Config{Packets: 50, Payload: packetpool.HeadroomUDP4 + 5}),
			newPool(t, packetpool.Config{Packets: 1, Payload: 8192}),
		}
		k := allocate(t, pools[0], packetpool.HeadroomUDP4)
		defer k.Release()
		appendBytes(t, k, pattern(220))
		for _, p := range append(pools[1:], pools[0]) {
			c, err := k.Clone(t.Context(), p)
			if p == pools[0] { // 8 of 12 are in use
				checkErr(t, "copy to a pool too small", err, packetpool.ErrNoPacket)
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			defer c.Release()
			checkContent(t, c, pattern(220))
			k = c
		}
	})
	t.Run("release all", func(t *testing.T) {
		p := basicPool(t)
		var all []*packetpool.Packet
		for range 3 {
			all = append(all, allocate(t, p, 0))
		}
		for _, k := range all {
			k.Release()
		}
		checkStats(t, p, packetpool.Stats{Total: 3, Free: 3})
	})
	t.Run("append more than the pool holds", func(t *testing.T) {
		p := basicPool(t)
		k := allocate(t, p, packetpool.HeadroomUDP4)
		checkErr(t, "Append", k.Append(pattern(3*28+1)), packetpool.ErrNoPacket)
		appendBytes(t, k, pattern(3*28))
		checkContent(t, k, pattern(3*28))
		k.Release()
		checkStats(t, p, packetpool.Stats{Total: 3, Free: 3, EmptyRequests: 1})
	})
	t.Run("copy of an empty packet", func(t *testing.T) { // an error in the original
		p := basicPool(t)
		k := allocate(t, p, 7)
		defer k.Release()
		c, err := k.Clone(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Release()
		if c.Len() != 0 || c.Headroom() != 7 || c.Packets() != 1 {
			t.Errorf("len %d, headroom %d, packets %d, want 0, 7, 1", c.Len(), c.Headroom(), c.Packets())
		}
	})
	t.Run("copy to a pool too small", func(t *testing.T) {
		p, q := basicPool(t), newPool(t, packetpool.Config{Packets: 2, Payload: basicPayload})
		k := allocate(t, p, packetpool.HeadroomUDP4)
		defer k.Release()
		appendBytes(t, k, pattern(70))
		c, err := k.Clone(t.Context(), q)
		if c != nil {
			t.Error("Clone gave a packet")
		}
		checkErr(t, "Clone", err, packetpool.ErrNoPacket)
		if s := q.Stats(); s.Free != 2 || s.InvalidReleases != 0 {
			t.Errorf("leaked: %+v", s)
		}
	})
	t.Run("extract at an offset", testExtractOffset)
	t.Run("type greater than payload", func(t *testing.T) {
		p := basicPool(t)
		_, err := p.TryAllocate(basicPayload + 1)
		checkErr(t, "TryAllocate", err, packetpool.ErrHeadroom)
	})
	t.Run("release of a packet without owner", func(t *testing.T) {
		if panicText(t, new(packetpool.Packet).Release) == "" {
			t.Error("not refused")
		}
	})
}

func testExtractOffset(t *testing.T) {
	p := basicPool(t)
	k := allocate(t, p, packetpool.HeadroomUDP4)
	defer k.Release()
	if n, err := k.ReadAt(nil, 0); n != 0 || err != nil {
		t.Errorf("offset 0 of an empty packet: %d, %v, want 0, nil", n, err)
	}
	appendBytes(t, k, pattern(60))
	for _, tt := range []struct {
		name       string
		size       int
		off        int64
		want       []byte
		wantErr    error
		wantTooFar bool
	}{
		{name: "beyond the end", size: 1, off: 61, wantErr: packetpool.ErrOffset},
		{name: "small buffer", size: 5, off: 3, want: pattern(60)[3:8]},
		{name: "across the chain", size: 40, off: 15, want: pattern(60)[15:55]},
		{name: "ends before the buffer", size: 40, off: 50, want: pattern(60)[50:], wantErr: io.EOF},
	} {
		b := make([]byte, tt.size)
		n, err := k.ReadAt(b, tt.off)
		if err != tt.wantErr {
			checkErr(t, tt.name, err, tt.wantErr)
		}
		if !bytes.Equal(b[:n], tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, b[:n], tt.want)
		}
	}
}

func testPacketSuspension(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, packetpool.Config{Packets: 3, Payload: 100})
		var taken []*packetpool.Packet
		for range 3 {
			taken = append(taken, allocate(t, p, 0))
		}
		got := make(chan *packetpool.Packet, 2)
		for range 2 {
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				_, err := p.Allocate(ctx, 0)
				checkErr(t, "short wait", err, packetpool.ErrNoPacket)
				checkErr(t, "short wait", err, context.DeadlineExceeded)
				k, err := p.Allocate(t.Context(), 0)
				if err != nil {
					t.Error(err)
				}
				got <- k
			}()
		}
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		checkStats(t, p, packetpool.Stats{Total: 3, Waiting: 2, EmptyRequests: 4, EmptySuspensions: 4})
		taken[0].Release()
		taken[1].Release()
		a, b := <-got, <-got
		checkStats(t, p, packetpool.Stats{Total: 3, EmptyRequests: 4, EmptySuspensions: 4})
		for _, k := range []*packetpool.Packet{a, b, taken[2]} {
			k.Release()
		}
	})
}

func testPacketDataAppend(t *testing.T) {
	for _, payload := range []int{1, 3, 201, 202, 203, 1514} {
		p := newPool(t, packetpool.Config{Packets: 4, Payload: payload})
		k := allocate(t, p, 0)
		appendBytes(t, k, pattern(4*payload))
		checkContent(t, k, pattern(4*payload))
		k.Release()
	}
}

func testPacketPayloadSize(t *testing.T) {
	from := newPool(t, packetpool.Config{Packets: 8, Payload: 202})
	to := newPool(t, packetpool.Config{Packets: 2, Payload: 512})
	k := allocate(t, from, packetpool.HeadroomTCP4)
	defer k.Release()
	appendBytes(t, k, pattern(250))

	// What a receiver does: read the sender's bytes into packets of its own.
	c := allocate(t, to, 0)
	defer c.Release()
	b := make([]byte, 64)
	for {
		n, err := k.Read(b)
		if err == io.EOF {
			break
		}
		appendBytes(t, c, b[:n])
	}
	checkContent(t, c, pattern(250))
}

func testPacketNXEAPI(t *testing.T) {
	p := newPool(t, packetpool.Config{Packets: 2, Payload: 100})
	k := allocate(t, p, 10)
	appendBytes(t, k, pattern(50))
	closed := newPool(t, packetpool.Config{Packets: 1, Payload: 100})
	closed.Close()

	_, errEmptyConfig := packetpool.New(packetpool.Config{})
	for _, line := range []string{"Config.Packets", "Config.Payload"} {
		if errEmptyConfig == nil || !strings.Contains(errEmptyConfig.Error(), line) {
			t.Errorf("New with nothing set: %v, want it to name %s", errEmptyConfig, line)
		}
	}
	allocateErr := func(p *packetpool.Pool, headroom int) error {
		_, err := p.Allocate(t.Context(), headroom)
		return err
	}
	readAtErr := func(off int64) error {
		_, err := k.ReadAt(make([]byte, 1), off)
		return err
	}
	for _, tt := range []struct {
		name      string
		err, want error
	}{
		{"headroom negative", allocateErr(p, -1), packetpool.ErrHeadroom},
		{"headroom over payload", allocateErr(p, 101), packetpool.ErrHeadroom},
		{"allocate from a closed pool", allocateErr(closed, 0), packetpool.ErrClosed},
		{"close twice", closed.Close(), packetpool.ErrClosed},
		{"prepend over headroom", k.Prepend(make([]byte, 11)), packetpool.ErrHeadroom},
		{"extend by a negative number", k.Extend(-1), packetpool.ErrOffset},
		{"extract at a negative offset", readAtErr(-1), packetpool.ErrOffset},
		{"extract beyond the end", readAtErr(51), packetpool.ErrOffset},
		{"truncate to a negative length", k.Truncate(-1), packetpool.ErrOffset},
		{"truncate beyond the end", k.Truncate(51), packetpool.ErrOffset},
	} {
		checkErr(t, tt.name, tt.err, tt.want)
	}
	checkContent(t, k, pattern(50))
	k.Release()
	checkStats(t, p, packetpool.Stats{Total: 2, Free: 2, LowestFree: 1})
}

func testPacketBranch(t *testing.T) {
	t.Run("double release", func(t *testing.T) {
		p := basicPool(t)
		k := allocate(t, p, 0)
		k.Release()
		releaseAgain(t, p, k)
	})
	t.Run("waiter gone before the release", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newPool(t, packetpool.Config{Packets: 1, Payload: 1})
			k := allocate(t, p, 0)
			ctx, cancel := context.WithCancel(t.Context())
			done := startAllocate(ctx, p, 0)
			cancel()
			<-done
			k.Release()
			checkStats(t, p, packetpool.Stats{Total: 1, Free: 1, EmptyRequests: 1, EmptySuspensions: 1})
		})
	})
	t.Run("prepend more than the payload", func(t *testing.T) {
		p := basicPool(t)
		k := allocate(t, p, 10)
		defer k.Release()
		checkErr(t, "Prepend", k.Prepend(make([]byte, basicPayload+1)), packetpool.ErrHeadroom)
		checkContent(t, k, nil)
	})
}

// testPacketDebugInfo follows packets through their stages; without the build tag
// poolcheck there is nothing to be seen.
func testPacketDebugInfo(t *testing.T) {
	p := newPool(t, packetpool.Config{Packets: 4, Payload: 10})
	check := func(stage string, want ...string) {
		t.Helper()
		if !poolcheck {
			want = nil
		}
		var got []string
		for _, h := range p.Held() {
			got = append(got, fmt.Sprintf("%d in %d: %d", h.Packet, h.Head, h.Length))
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: held %q, want %q", stage, got, want)
		}
	}
	check("fresh")
	k := allocate(t, p, 2)
	check("allocated", "0 in 0: 0")
	appendBytes(t, k, pattern(12))
	check("chained", "0 in 0: 12", "1 in 0: 0")
	k.Prepend([]byte("h"))
	check("header in front", "0 in 0: 13", "1 in 0: 0")
	c, err := k.Clone(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	check("copied", "0 in 0: 13", "1 in 0: 0", "2 in 2: 13", "3 in 2: 0")
	got := make(chan *packetpool.Packet)
	go func() { // another holds it now
		k, err := p.Allocate(t.Context(), 0)
		if err != nil {
			t.Error(err)
		}
		got <- k
	}()
	k.Release()
	w := <-got
	if n := p.Stats().Free; n != 1 {
		t.Errorf("%d free after a release of 2 to a waiter of 1, want 1", n)
	}
	w.Release()
	check("one chain released", "2 in 2: 13", "3 in 2: 0")
	c.Release()
	check("all released")
}

// testLowWatermark: chains, which in this pool are what senders and receive rings
// build, leave LowWatermark packets to Allocate.
func testLowWatermark(t *testing.T) {
	for _, packets := range []int{20, 10} {
		for mark := range packets + 1 {
			p := newPool(t, packetpool.Config{Packets: packets, Payload: 1, LowWatermark: mark})
			k := allocate(t, p, 0)
			grown := max(packets-mark, 1)
			if n := k.Fill(pattern(packets + 1)); n != grown {
				t.Errorf("watermark %d of %d: the chain took %d bytes, want %d", mark, packets, n, grown)
			}
			checkErr(t, "Append", k.Append([]byte("1")), packetpool.ErrNoPacket)
			for range packets - grown {
				one := allocate(t, p, 0)
				defer one.Release()
			}
			if _, err := p.TryAllocate(0); err == nil {
				t.Errorf("watermark %d of %d: too many packets", mark, packets)
			}
			k.Release()
		}
	}
}

func testLowWatermarkZeroWindow(t *testing.T) {
	p := newPool(t, packetpool.Config{Packets: 4, Payload: 10, LowWatermark: 4})
	k := allocate(t, p, 0)
	defer k.Release()
	appendBytes(t, k, pattern(10))
	checkErr(t, "Append", k.Append([]byte("1")), packetpool.ErrNoPacket)
	checkContent(t, k, pattern(10))
}

// testPacketLeak is the pool's part of the *_packet_leak tests: whichever way a round
// ends, all packets are back.
func testPacketLeak(t *testing.T) {
	p := newPool(t, packetpool.Config{Packets: 6, Payload: 50, LowWatermark: 1})
	q := newPool(t, packetpool.Config{Packets: 2, Payload: 50})
	for n := range 400 {
		k := allocate(t, p, n%20)
		if err := k.Append(pattern(n)); err != nil {
			checkErr(t, "Append", err, packetpool.ErrNoPacket)
			k.Fill(pattern(n))
		}
		if c, err := k.Clone(t.Context(), q); err == nil {
			c.Release()
		}
		k.Truncate(k.Len() / 2)
		k.Release()
		if a, b := p.Stats(), q.Stats(); a.Free != a.Total || b.Free != b.Total {
			t.Fatalf("round %d: %d and %d packets leaked", n, a.Total-a.Free, b.Total-b.Free)
		}
	}
}
