package bench

import (
	"context"
	"errors"
	"time"

	"github.com/duotap/duotap/packetpool"
)

// Pool is the packet pool alone: taking a packet and giving it back, and filling a
// chain with the payload of a super-frame. There is no link and nothing to compare with.
type Pool struct{}

// Name implements Scenario.
func (*Pool) Name() string { return "pool" }

// Cases implements Scenario.
func (*Pool) Cases([]int) []Case {
	return []Case{{Name: "allocate-release", Count: 1}, {Name: "fill-release", Size: maxPayload, Count: 1}}
}

// maxPayload is that of a super-frame.
const maxPayload = 65375

// Runs implements Scenario.
func (*Pool) Runs(_ Case, l Link) bool { return l == Memory }

func (*Pool) bare() {}

func (*Pool) measure(ctx context.Context, w window, l *testLink, c Case) ([]Metric, error) {
	pool, err := packetpool.New(packetpool.Config{Name: "bench", Packets: 64, Payload: 1514})
	if err != nil {
		return nil, err
	}
	payload := make([]byte, c.Size)
	batch := 100 // so that counting doesn't count
	if c.Size > 0 {
		batch = 1
	}
	n, m, err := l.count(ctx, w, batch, func() error { return use(pool, payload, batch) })
	if err != nil {
		return nil, err
	}
	return []Metric{
		{"time", "ns", float64(m.own.Clock.Nanoseconds()) / float64(n)},
		{"throughput", "GB/s", float64(n) * float64(c.Size) / m.own.Clock.Seconds() / 1e9},
		{"allocs", "each", float64(m.mallocs) / float64(n)},
		m.others(),
	}, nil
}

func use(pool *packetpool.Pool, payload []byte, times int) error {
	for range times {
		pkt, err := pool.TryAllocate(packetpool.HeadroomTCP4)
		if err != nil {
			return err
		}
		n := pkt.Fill(payload)
		pkt.Release()
		if n < len(payload) {
			return errors.New("the pool was too small")
		}
	}
	return nil
}

// count calls do as often as it can, each time for several things, and returns how
// many things were done in the window.
func (l *testLink) count(ctx context.Context, w window, each int, do func() error) (int64, measured, error) {
	_, m, err := l.whileWatched(ctx, w, func(_, end time.Time) ([]time.Duration, error) {
		for time.Now().Before(end.Add(w.length / 10)) { // until the second sample is taken
			if err := do(); err != nil {
				return nil, err
			}
			l.own.sent.Add(int64(each))
		}
		return nil, nil
	})
	return m.own.Sent, m, err
}
