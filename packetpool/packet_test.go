package packetpool_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"testing"
	"testing/iotest"

	"github.com/duotap/duotap/packetpool"
)

func TestAppendKeepsHeadroomInEachPacket(t *testing.T) {
	p := newPool(t, packetpool.Config{Packets: 3, Payload: 1514})
	k := allocate(t, p, packetpool.HeadroomTCP4)
	defer k.Release()
	appendBytes(t, k, pattern(3*1420))
	if k.Packets() != 3 || k.Room() != 0 {
		t.Errorf("%d packets with room %d, want 3 full segments", k.Packets(), k.Room())
	}
	for s := range k.Segments() {
		if len(s) != 1420 {
			t.Errorf("a packet of %d bytes, want 1420", len(s))
		}
	}
	checkContent(t, k, pattern(3*1420))
}

func TestAppendIsAllOrNothing(t *testing.T) {
	p := newPool(t, packetpool.Config{Packets: 3, Payload: 10})
	k := allocate(t, p, 2)
	defer k.Release()
	appendBytes(t, k, []byte("12345"))
	before := p.Stats()
	checkErr(t, "Append", k.Append(pattern(20)), packetpool.ErrNoPacket) // 19 fit
	checkErr(t, "Extend", k.Extend(20), packetpool.ErrNoPacket)
	checkErr(t, "Extend", k.Extend(math.MaxInt), packetpool.ErrNoPacket)
	if k.Len() != 5 || k.Packets() != 1 || k.Room() != 3 {
		t.Errorf("len %d, packets %d, room %d, want 5, 1, 3 as before", k.Len(), k.Packets(), k.Room())
	}
	checkContent(t, k, []byte("12345"))
	before.EmptyRequests += 3
	checkStats(t, p, before)

	appendBytes(t, k, pattern(19))
	checkContent(t, k, append([]byte("12345"), pattern(19)...))
}

func TestFillTakesWhatFits(t *testing.T) {
	p := newPool(t, packetpool.Config{Packets: 3, Payload: 10})
	k := allocate(t, p, 2)
	defer k.Release()
	for _, tt := range []struct{ give, want, packets int }{
		{0, 0, 1}, {5, 5, 1}, {3, 3, 1}, {1, 1, 2}, {100, 15, 3}, {1, 0, 3}, {0, 0, 3},
	} {
		if n := k.Fill(pattern(tt.give)); n != tt.want || k.Packets() != tt.packets {
			t.Errorf("Fill of %d bytes took %d, %d packets; want %d, %d packets",
				tt.give, n, k.Packets(), tt.want, tt.packets)
		}
	}
	if k.Len() != 24 {
		t.Errorf("len %d, want 24", k.Len())
	}
}

func TestExtendGivesMemoryToWrite(t *testing.T) {
	p := newPool(t, packetpool.Config{Packets: 4, Payload: 10})
	k := allocate(t, p, 0)
	defer k.Release()
	checkErr(t, "Extend(-1)", k.Extend(-1), packetpool.ErrOffset)
	if err := k.Extend(0); err != nil || k.Packets() != 1 {
		t.Errorf("Extend(0) = %v, %d packets, want nil, 1", err, k.Packets())
	}
	if err := k.Extend(35); err != nil {
		t.Fatal(err)
	}
	from := pattern(35)
	for s := range k.Segments() {
		from = from[copy(s, from):]
	}
	if k.Len() != 35 || k.Packets() != 4 || k.Room() != 5 {
		t.Errorf("len %d, packets %d, room %d, want 35, 4, 5", k.Len(), k.Packets(), k.Room())
	}
	checkContent(t, k, pattern(35))
}

func TestPrepend(t *testing.T) {
	p := newPool(t, packetpool.Config{Packets: 2, Payload: 12})
	k := allocate(t, p, 6)
	defer k.Release()
	appendBytes(t, k, []byte("data and more")[:10])
	for _, header := range []string{"tcp", "", "ip"} {
		if err := k.Prepend([]byte(header)); err != nil {
			t.Fatal(err)
		}
	}
	checkErr(t, "Prepend", k.Prepend([]byte("12")), packetpool.ErrHeadroom)
	if k.Headroom() != 1 {
		t.Errorf("headroom %d, want 1", k.Headroom())
	}

	k.Read(make([]byte, 1))
	checkErr(t, "Prepend after Read", k.Prepend([]byte("e")), packetpool.ErrHeadroom)
	k.Rewind()
	if err := k.Prepend([]byte("e")); err != nil {
		t.Errorf("Prepend after Rewind: %v", err)
	}
	if got, err := io.ReadAll(k); err != nil || string(got) != "eiptcpdata and m" {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestReaderContract(t *testing.T) {
	p := newPool(t, packetpool.Config{Packets: 40, Payload: 13})
	for _, n := range []int{0, 12, 13, 14, 400} {
		k := allocate(t, p, 3)
		appendBytes(t, k, pattern(n))
		if err := iotest.TestReader(reader{k}, pattern(n)); err != nil {
			t.Errorf("%d bytes: %v", n, err)
		}
		if n >= 12 { // TestReader wants offset 10 to exist
			k.Rewind()
			if err := iotest.TestReader(k, pattern(n)); err != nil {
				t.Errorf("%d bytes, with ReadAt: %v", n, err)
			}
		}
		k.Release()
	}
}

// reader hides ReadAt.
type reader struct{ io.Reader }

func TestRead(t *testing.T) {
	p := newPool(t, packetpool.Config{Packets: 5, Payload: 10})
	k := allocate(t, p, 1)
	defer k.Release()

	if n, err := k.Read(nil); n != 0 || err != nil {
		t.Errorf("empty Read of an empty packet: %d, %v, want 0, nil", n, err)
	}
	if n, err := k.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("Read of an empty packet: %d, %v, want 0, EOF", n, err)
	}

	// Reading and appending take turns, across the packets' ends.
	want := pattern(45)
	var got []byte
	for i := 0; i < len(want); i += 9 {
		appendBytes(t, k, want[i:i+9])
		b := make([]byte, 8)
		n, err := k.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, b[:n]...)
		if k.Len() != i+9-len(got) {
			t.Errorf("len %d after %d of %d bytes read", k.Len(), len(got), i+9)
		}
	}
	rest, err := io.ReadAll(k)
	if got = append(got, rest...); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read %q, %v, want %q", got, err, want)
	}
	k.Rewind()
	if k.Len() != 45 {
		t.Errorf("len %d after Rewind, want 45", k.Len())
	}
	if got, err := io.ReadAll(k); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read %q, %v after Rewind, want %q", got, err, want)
	}
}

func TestReadAt(t *testing.T) {
	p := newPool(t, packetpool.Config{Packets: 3, Payload: 10})
	k := allocate(t, p, 2)
	defer k.Release()
	data := pattern(20)
	appendBytes(t, k, data)
	k.Read(make([]byte, 11)) // must not matter

	for _, tt := range []struct {
		off  int64
		size int
		n    int
		err  error
	}{
		{0, 20, 20, nil}, {0, 21, 20, io.EOF}, {0, 0, 0, nil},
		{7, 2, 2, nil}, {8, 8, 8, nil}, {9, 11, 11, nil}, {19, 1, 1, nil}, {19, 2, 1, io.EOF},
		{20, 0, 0, nil}, {20, 1, 0, io.EOF},
		{21, 0, 0, packetpool.ErrOffset}, {21, 1, 0, packetpool.ErrOffset}, {-1, 0, 0, packetpool.ErrOffset},
		{math.MaxInt64, 1, 0, packetpool.ErrOffset}, {math.MinInt64, 1, 0, packetpool.ErrOffset},
	} {
		b := make([]byte, tt.size)
		n, err := k.ReadAt(b, tt.off)
		if n != tt.n || !errors.Is(err, tt.err) || tt.n > 0 && !bytes.Equal(b[:n], data[tt.off:][:n]) {
			t.Errorf("ReadAt(%d bytes, %d) = %d, %v, bytes %q; want %d, %v", tt.size, tt.off, n, err, b, tt.n, tt.err)
		}
	}
	if k.Len() != 9 {
		t.Errorf("len %d, want 9: ReadAt moved Read's position", k.Len())
	}
}

func TestTruncate(t *testing.T) {
	p := newPool(t, packetpool.Config{Packets: 4, Payload: 10})
	data := pattern(35)
	for n := range 36 {
		for _, read := range []int{0, 1, 10, 11, 20, 35} {
			t.Run(fmt.Sprintf("to %d after reading %d", n, read), func(t *testing.T) {
				k := allocate(t, p, 0)
				defer k.Release()
				appendBytes(t, k, data)
				io.ReadFull(k, make([]byte, read))
				if err := k.Truncate(n); err != nil {
					t.Fatal(err)
				}
				checkContent(t, k, data[:n])
				if want := max(n-read, 0); k.Len() != want {
					t.Errorf("len %d, want %d", k.Len(), want)
				}
				// The emptied packets serve again: the pool has no other.
				more := bytes.Repeat([]byte("x"), 40-n)
				appendBytes(t, k, more)
				all := append(bytes.Clone(data[:n]), more...)
				checkContent(t, k, all)
				if got, err := io.ReadAll(k); err != nil || !bytes.Equal(got, all[min(read, n):]) {
					t.Errorf("read on: %q, %v, want %q", got, err, all[min(read, n):])
				}
			})
		}
	}
	k := allocate(t, p, 0)
	defer k.Release()
	appendBytes(t, k, data)
	for _, n := range []int{-1, 36, math.MaxInt, math.MinInt} {
		checkErr(t, fmt.Sprintf("Truncate(%d)", n), k.Truncate(n), packetpool.ErrOffset)
	}
	checkContent(t, k, data)
}

func TestSegments(t *testing.T) {
	p := newPool(t, packetpool.Config{Packets: 3, Payload: 10})
	k := allocate(t, p, 4)
	defer k.Release()
	lens := func() (l []int) {
		for s := range k.Segments() {
			l = append(l, len(s))
			if cap(s) != len(s) {
				t.Errorf("segment of %d bytes has capacity %d: an append to it would reach on", len(s), cap(s))
			}
		}
		return l
	}
	check := func(when string, want ...int) {
		t.Helper()
		if got := lens(); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: segments of %v bytes, want %v", when, got, want)
		}
	}
	check("empty")
	appendBytes(t, k, pattern(15))
	check("chained", 6, 6, 3)
	k.Prepend([]byte("ab"))
	check("prepended", 8, 6, 3)
	k.Read(make([]byte, 3))
	check("partly read", 5, 6, 3)
	k.Read(make([]byte, 5))
	check("first read", 6, 3)
	k.Truncate(13)
	check("cut", 5)
	k.Rewind()
	check("rewound", 8, 5)
	for range k.Segments() {
		break // must not go on
	}
	for s := range k.Segments() {
		copy(s, bytes.Repeat([]byte("z"), len(s)))
	}
	checkContent(t, k, bytes.Repeat([]byte("z"), 13))
}

func TestClone(t *testing.T) {
	from := newPool(t, packetpool.Config{Name: "from", Packets: 4, Payload: 20})
	for _, payload := range []int{13, 14, 20, 33, 200} {
		t.Run(fmt.Sprintf("payload %d", payload), func(t *testing.T) {
			to := newPool(t, packetpool.Config{Name: "to", Packets: 60, Payload: payload})
			k := allocate(t, from, 12)
			defer k.Release()
			appendBytes(t, k, pattern(25))
			if err := k.Prepend([]byte("head")); err != nil {
				t.Fatal(err)
			}
			io.ReadFull(k, make([]byte, 17))

			c, err := k.Clone(t.Context(), to)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Release()
			checkContent(t, c, content(t, k))
			if c.Len() != k.Len() || c.Headroom() != k.Headroom() {
				t.Errorf("len %d, headroom %d, want %d, %d", c.Len(), c.Headroom(), k.Len(), k.Headroom())
			}
			appendBytes(t, c, []byte("!"))
			if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, append(pattern(25)[13:], '!')) {
				t.Errorf("read on: %q, %v", got, err)
			}
			if k.Len() != 12 {
				t.Errorf("the original has %d unread bytes, want 12 as before", k.Len())
			}
		})
	}
	t.Run("same layout in the same pool", func(t *testing.T) {
		k := allocate(t, from, 12)
		defer k.Release()
		appendBytes(t, k, pattern(16)) // two full packets
		k.Prepend([]byte("head"))
		c, err := k.Clone(t.Context(), from)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Release()
		if c.Packets() != 2 {
			t.Errorf("copy of 2 full packets has %d", c.Packets())
		}
	})
	t.Run("headroom doesn't fit", func(t *testing.T) {
		k := allocate(t, from, 12)
		defer k.Release()
		_, err := k.Clone(t.Context(), newPool(t, packetpool.Config{Packets: 1, Payload: 11}))
		checkErr(t, "Clone", err, packetpool.ErrHeadroom)
		appendBytes(t, k, []byte("a"))
		_, err = k.Clone(t.Context(), newPool(t, packetpool.Config{Packets: 1, Payload: 12}))
		checkErr(t, "Clone", err, packetpool.ErrHeadroom)
	})
}

func TestReleaseReturnsTheWholeChain(t *testing.T) {
	p := newPool(t, packetpool.Config{Packets: 4, Payload: 10})
	k := allocate(t, p, 0)
	appendBytes(t, k, pattern(40))
	k.Truncate(5) // empty packets belong to the chain too
	k.Release()
	checkStats(t, p, packetpool.Stats{Total: 4, Free: 4})
	releaseAgain(t, p, k)
	releaseAgain(t, p, k)
}

func TestReleaseOfNoPacketPanics(t *testing.T) {
	for name, k := range map[string]*packetpool.Packet{"nil": nil, "zero": new(packetpool.Packet)} {
		if panicText(t, k.Release) == "" {
			t.Errorf("Release of a %s packet didn't panic", name)
		}
	}
}

func TestReleaseByAnotherGoroutine(t *testing.T) {
	p := newPool(t, packetpool.Config{Packets: 2, Payload: 10})
	k := allocate(t, p, 0)
	appendBytes(t, k, pattern(15))
	done := make(chan bool)
	go func() {
		defer close(done)
		checkContent(t, k, pattern(15))
		k.Release()
	}()
	<-done
}
