package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"slices"
	"time"
)

// Latency is request and response: one message at a time goes out, and comes back.
type Latency struct {
	// Size of the message in bytes, 1 to 1,048,576. Default: 64.
	Size int
}

// Name implements Scenario.
func (*Latency) Name() string { return "latency" }

// Cases implements Scenario.
func (s *Latency) Cases(families []int) []Case {
	size := s.Size
	if size == 0 {
		size = 64
	}
	var cases []Case
	for _, f := range families {
		cases = append(cases, Case{Name: "tcp", Family: f, Size: size, Count: 1})
	}
	return cases
}

// Runs implements Scenario.
func (*Latency) Runs(Case, Link) bool { return true }

func (s *Latency) measure(ctx context.Context, w window, l *testLink, c Case) ([]Metric, error) {
	if c.Size < 1 || c.Size > maxMessage {
		return nil, fmt.Errorf("messages of %d bytes, want 1 to %d", c.Size, maxMessage)
	}
	conn, err := l.dialCommand(ctx, c.Family, request{Op: opEcho, Size: uint32(c.Size)})
	if err != nil {
		return nil, err
	}
	rtts, m, err := l.whileWatched(ctx, w, func(begin, end time.Time) ([]time.Duration, error) {
		return exchange(conn, c.Size, begin, end)
	})
	if err = errors.Join(err, conn.Close(), l.idle(ctx)); err != nil {
		return nil, err
	}
	slices.Sort(rtts)
	return []Metric{
		{"p50", "us", micros(rtts, 0.50)},
		{"p99", "us", micros(rtts, 0.99)},
		{"p99.9", "us", micros(rtts, 0.999)},
		{"exchanges", "/s", float64(len(rtts)) / m.own.Clock.Seconds()},
		{"CPU", "us each", (m.own.CPU + m.peer.CPU).Seconds() * 1e6 / float64(len(rtts))},
		m.allocsPerFrame(),
		m.others(),
	}, nil
}

// micros is a quantile of sorted durations, in microseconds.
func micros(sorted []time.Duration, q float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	return float64(quantile(sorted, q).Nanoseconds()) / 1e3
}

// whileWatched runs work, which has to end soon after end, and reports what it found
// between begin and end, with what watch saw meanwhile.
func (l *testLink) whileWatched(ctx context.Context, w window, work func(begin, end time.Time) ([]time.Duration, error)) ([]time.Duration, measured, error) {
	type outcome struct {
		found []time.Duration
		err   error
	}
	done := make(chan outcome, 1)
	begin := time.Now().Add(w.warmup)
	end := begin.Add(w.length)
	go func() {
		found, err := work(begin, end)
		done <- outcome{found, err}
	}()
	m, err := l.watch(ctx, w)
	o := <-done
	return o.found, m, errors.Join(err, o.err)
}

// exchangeGrace is how long after a measurement an answer may still come.
const exchangeGrace = 10 * time.Second

// exchange sends messages and waits for their echoes, until end, and returns how long
// those took that began after begin.
func exchange(c net.Conn, size int, begin, end time.Time) ([]time.Duration, error) {
	if err := c.SetDeadline(end.Add(exchangeGrace)); err != nil {
		return nil, err
	}
	buf := make([]byte, size)
	rtts := make([]time.Duration, 0, 1<<17) // not to grow while it measures
	for {
		start := time.Now()
		if start.After(end) {
			return rtts, nil
		}
		if _, err := c.Write(buf); err != nil {
			return nil, fmt.Errorf("sending a request: %w", err)
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			return nil, fmt.Errorf("waiting for an answer: %w", err)
		}
		if start.After(begin) {
			rtts = append(rtts, time.Since(start))
		}
	}
}
