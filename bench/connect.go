package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// Connect is opening and closing TCP connections, one after the other. The peer closes
// first: so it, and not the stack under test, has to remember the connection (RFC 9293
// §3.6.1), and ports don't run out.
type Connect struct{}

// Name implements Scenario.
func (*Connect) Name() string { return "connect" }

// Cases implements Scenario.
func (*Connect) Cases(families []int) []Case {
	var cases []Case
	for _, f := range families {
		cases = append(cases, Case{Name: "tcp", Family: f, Count: 1})
	}
	return cases
}

// Runs implements Scenario.
func (*Connect) Runs(Case, Link) bool { return true }

func (*Connect) measure(ctx context.Context, w window, l *testLink, c Case) ([]Metric, error) {
	took, m, err := l.whileWatched(ctx, w, func(begin, end time.Time) ([]time.Duration, error) {
		return l.connect(ctx, c.Family, begin, end)
	})
	if err = errors.Join(err, l.idle(ctx)); err != nil {
		return nil, err
	}
	n := float64(len(took))
	return []Metric{
		{"connections", "/s", n / w.length.Seconds()},
		{"CPU", "us each", (m.own.CPU + m.peer.CPU).Seconds() * 1e6 / n},
		{"allocs", "each", float64(m.mallocs) / n},
		m.others(),
	}, nil
}

// connect makes connections until end, and returns how long those took that began
// after begin.
func (l *testLink) connect(ctx context.Context, family int, begin, end time.Time) ([]time.Duration, error) {
	ctx, cancel := context.WithDeadline(ctx, end.Add(exchangeGrace))
	defer cancel()
	var took []time.Duration
	for {
		start := time.Now()
		if start.After(end) {
			return took, nil
		}
		c, err := l.dial(ctx, family, closingPort)
		if err != nil {
			return nil, err
		}
		if err := awaitEnd(c, end.Add(exchangeGrace)); err != nil {
			return nil, err
		}
		if start.After(begin) {
			took = append(took, time.Since(start))
		}
	}
}

// awaitEnd reads the peer's end of a connection, and closes ours.
func awaitEnd(c net.Conn, deadline time.Time) error {
	err := c.SetDeadline(deadline)
	if err == nil {
		if _, err = c.Read(make([]byte, 1)); err == io.EOF {
			err = nil
		} else if err == nil {
			err = errors.New("the peer has sent a byte, and should have closed")
		}
	}
	if err = errors.Join(err, c.Close()); err != nil {
		return fmt.Errorf("closing a connection: %w", err)
	}
	return nil
}
