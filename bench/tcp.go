package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
)

// TCP is bulk transfer: as many bytes as go through.
type TCP struct {
	// Directions are out of "send", "receive" and "both", seen from the stack under
	// test. "both" has two connections at a time, and counts the bytes of both.
	// Default: all three.
	Directions []string

	// Streams are the numbers of connections at a time, 1 to 1,000. Default: 1.
	Streams []int
}

// Directions lists those of TCP and UDP.
var Directions = []string{"send", "receive", "both"}

// Name implements Scenario.
func (*TCP) Name() string { return "tcp" }

// Cases implements Scenario.
func (s *TCP) Cases(families []int) []Case {
	directions, streams := s.Directions, s.Streams
	if len(directions) == 0 {
		directions = Directions
	}
	if len(streams) == 0 {
		streams = []int{1}
	}
	var cases []Case
	for _, f := range families {
		for _, d := range directions {
			for _, n := range streams {
				c := Case{Name: d, Family: f, Count: n}
				if d == "both" && slices.Contains(directions, "send") {
					c.Against = "send" // one way is what a link has
				}
				cases = append(cases, c)
			}
		}
	}
	return cases
}

// Runs implements Scenario.
func (*TCP) Runs(Case, Link) bool { return true }

func (s *TCP) measure(ctx context.Context, w window, l *testLink, c Case) ([]Metric, error) {
	if c.Count < 1 || c.Count > 1000 {
		return nil, fmt.Errorf("%d streams, want 1 to 1000", c.Count)
	}
	f := &flows{link: l, family: c.Family}
	err := f.start(ctx, c)
	var m measured
	if err == nil {
		m, err = l.watch(ctx, w)
	}
	if err = errors.Join(err, f.stop()); err != nil {
		return nil, err
	}
	if err := l.idle(ctx); err != nil {
		return nil, err
	}
	rate := (m.own.perSecond(m.own.Bytes) + m.peer.perSecond(m.peer.Bytes)) * 8 / 1e9
	return []Metric{
		{"rate", "Gbit/s", rate},
		{"CPU", "s/GiB", m.cpuPerGiB()},
		{"payload", "KiB/frame", float64(m.own.Bytes+m.peer.Bytes) / 1024 / float64(m.frames)},
		m.allocsPerFrame(),
		m.others(),
	}, nil
}

// flows are connections with a goroutine each.
type flows struct {
	link    *testLink
	family  int
	conns   []net.Conn
	running sync.WaitGroup

	mu      sync.Mutex
	stopped bool
	failure error
}

func (f *flows) start(ctx context.Context, c Case) error {
	for range c.Count {
		if c.Name != "receive" {
			if err := f.add(ctx, opSink, source); err != nil {
				return err
			}
		}
		if c.Name != "send" {
			if err := f.add(ctx, opSource, func(c net.Conn) error { return sink(c, &f.link.own) }); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *flows) add(ctx context.Context, theirs op, ours func(net.Conn) error) error {
	c, err := f.link.dialCommand(ctx, f.family, request{Op: theirs})
	if err != nil {
		return err
	}
	f.conns = append(f.conns, c)
	f.running.Go(func() { f.ended(ours(c)) })
	return nil
}

// ended notes why a flow has ended, unless stop is why.
func (f *flows) ended(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.stopped && f.failure == nil {
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		f.failure = fmt.Errorf("a connection has ended: %w", err)
	}
}

// stop resets the connections, so that what is in their buffers isn't sent in the
// window of the next case.
func (f *flows) stop() error {
	f.mu.Lock()
	f.stopped = true
	f.mu.Unlock()
	var errs []error
	for _, c := range f.conns {
		if l, ok := c.(interface{ SetLinger(int) error }); ok {
			_ = l.SetLinger(0) // fails if the connection is gone, which failure tells better
		}
		if err := c.Close(); err != nil {
			errs = append(errs, fmt.Errorf("closing a connection: %w", err))
		}
	}
	f.running.Wait()
	return errors.Join(append(errs, f.failure)...)
}
