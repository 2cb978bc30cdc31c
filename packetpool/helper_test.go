package packetpool_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/duotap/duotap/packetpool"
)

// newPool returns a pool whose packets must all be back when the test ends.
func newPool(t testing.TB, c packetpool.Config) *packetpool.Pool {
	t.Helper()
	p, err := packetpool.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { checkAllFree(t, p) })
	return p
}

func checkAllFree(t testing.TB, p *packetpool.Pool) {
	t.Helper()
	if s := p.Stats(); s.Free != s.Total || s.Waiting != 0 {
		t.Errorf("pool %q at the end: %+v, want all free and nobody waiting", p.Name(), s)
	}
	for _, h := range p.Held() {
		t.Errorf("pool %q at the end: %v", p.Name(), h)
	}
}

func allocate(t testing.TB, p *packetpool.Pool, headroom int) *packetpool.Packet {
	t.Helper()
	k, err := p.TryAllocate(headroom)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func appendBytes(t testing.TB, k *packetpool.Packet, b []byte) {
	t.Helper()
	if err := k.Append(b); err != nil {
		t.Fatal(err)
	}
}

// pattern is n bytes of which no two neighbourhoods look the same.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i/251)
	}
	return b
}

// content is everything in k, without moving the position of Read.
func content(t testing.TB, k *packetpool.Packet) []byte {
	t.Helper()
	b, err := io.ReadAll(io.NewSectionReader(k, 0, 1<<30))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func checkContent(t testing.TB, k *packetpool.Packet, want []byte) {
	t.Helper()
	if got := content(t, k); !bytes.Equal(got, want) {
		t.Errorf("chain holds %d bytes %.40q…, want %d bytes %.40q…", len(got), got, len(want), want)
	}
}

func checkErr(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: error %v, want one that wraps %q", what, err, want)
	}
}

// checkStats compares everything but the counters of invalid releases, which
// releaseAgain looks after.
func checkStats(t testing.TB, p *packetpool.Pool, want packetpool.Stats) {
	t.Helper()
	if got := p.Stats(); got != want {
		t.Errorf("pool %q: stats\n got %+v\nwant %+v", p.Name(), got, want)
	}
}

// memory tells the packets of a chain apart: where the unread bytes of each begin.
func memory(k *packetpool.Packet) []*byte {
	var at []*byte
	for s := range k.Segments() {
		at = append(at, &s[0])
	}
	return at
}

// panicText is what f panics with, or "".
func panicText(t testing.TB, f func()) (text string) {
	t.Helper()
	defer func() {
		if r := recover(); r != nil {
			text, _ = r.(string)
			if !strings.HasPrefix(text, "packetpool: ") {
				t.Errorf("panic %v, want one of packetpool's", r)
			}
		}
	}()
	f()
	return ""
}

// releaseAgain releases k, which was released before: that must be refused and
// counted, with a panic under the build tag poolcheck and without one otherwise.
func releaseAgain(t testing.TB, p *packetpool.Pool, k *packetpool.Packet) {
	t.Helper()
	before := p.Stats()
	if text := panicText(t, k.Release); (text != "") != poolcheck {
		t.Errorf("second Release panicked with %q, with build tag poolcheck %v", text, poolcheck)
	}
	before.InvalidReleases++
	checkStats(t, p, before)
}
