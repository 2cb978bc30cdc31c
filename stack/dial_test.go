package stack

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/duotap/duotap/packetpool"
	"github.com/duotap/duotap/stack/link/memlink"
)

func TestShareOf(t *testing.T) {
	for _, c := range []struct{ left, want time.Duration }{
		{0, 0}, // no deadline
		{30 * time.Second, 10 * time.Second},
		{3 * time.Second, leastShare},
		{time.Second, time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			if c.left > 0 {
				ctx, cancel = context.WithTimeout(t.Context(), c.left)
			}
			defer cancel()
			share, cancel := shareOf(ctx, 3)
			defer cancel()
			deadline, limited := share.Deadline()
			if limited != (c.left > 0) || limited && time.Until(deadline) != c.want {
				t.Errorf("a third of %v: until %v, %v; want %v", c.left, deadline, limited, c.want)
			}
			whole, cancel := shareOf(ctx, 1)
			defer cancel()
			if whole != ctx {
				t.Errorf("the last of %v doesn't get all that is left", c.left)
			}
		})
	}
}

// TestDialGoesOnInTime: an address that doesn't answer leaves time for the next.
func TestDialGoesOnInTime(t *testing.T) {
	dev, _ := memlink.Pair(1500)
	pool, err := packetpool.New(packetpool.Config{Packets: 16, Payload: 1514})
	must(t, err)
	i, err := New(Config{Link: dev, Pool: pool, Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}})
	must(t, err)
	defer i.Close()
	must(t, i.EnableTCP())
	must(t, i.Start(t.Context()))
	l, err := i.Listen("tcp", "127.0.0.1:25")
	must(t, err)
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*leastShare)
	defer cancel()
	c, err := i.dialSerial(ctx, protocol{network: "tcp", tcp: true},
		[]netip.AddrPort{netip.MustParseAddrPort("192.0.2.99:25"), netip.MustParseAddrPort("127.0.0.1:25")})
	must(t, err)
	must(t, c.Close())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
