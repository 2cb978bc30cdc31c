package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os/exec"
	"runtime/pprof"
	"slices"
	"time"
)

// Config says what to run, and for how long.
type Config struct {
	// Links are what to measure, beside Kernel, which is always there. Default: TAP.
	Links []Link

	// NoKernel leaves the yardstick out, which is all that needs a network namespace if
	// Links is Memory. There are no ratios to K then.
	NoKernel bool

	// Families are the IP versions to measure, 4 and 6. Default: both.
	Families []int

	// Rounds is how often each case is measured, 1 to 1,000. Default: 5.
	Rounds int

	// MaxOthers is how much of the machine's processors other programs may use during a
	// measurement, in percent. If it is more, it is repeated, up to 3 times, and the
	// one with the fewest others counts. Default: 0, which repeats none.
	MaxOthers float64

	// Warmup is how long traffic runs before it is measured, 0 to 1 min.
	Warmup time.Duration

	// Window is how long it is measured, 1 ms to 10 min. Default: 1 s.
	Window time.Duration

	// Peer makes the command that runs ServePeer on its standard input and output. It
	// is called in the network namespace of the caller. Required, unless only Memory is
	// measured.
	Peer func() *exec.Cmd

	// Progress is told, a line for each measurement. nil is nobody.
	Progress io.Writer

	// Logger is that of the instances. nil discards.
	Logger *slog.Logger

	tapPeer peerHandle // serves both kinds of TAP, and belongs to the first link that it does
}

func (c Config) withDefaults() Config {
	if len(c.Links) == 0 {
		c.Links = []Link{TAP}
	}
	if !c.NoKernel && !slices.Contains(c.Links, Kernel) {
		c.Links = append(slices.Clone(c.Links), Kernel)
	}
	if len(c.Families) == 0 {
		c.Families = []int{4, 6}
	}
	if c.Rounds == 0 {
		c.Rounds = 5
	}
	if c.Window == 0 {
		c.Window = time.Second
	}
	if c.Progress == nil {
		c.Progress = io.Discard
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c *Config) validate() error {
	var errs []error
	if c.Rounds < 1 || c.Rounds > 1000 {
		errs = append(errs, fmt.Errorf("%d rounds, want 1 to 1000", c.Rounds))
	}
	if c.Warmup < 0 || c.Warmup > time.Minute {
		errs = append(errs, fmt.Errorf("a warm-up of %v, want 0 to 1m", c.Warmup))
	}
	if c.Window < time.Millisecond || c.Window > 10*time.Minute {
		errs = append(errs, fmt.Errorf("a window of %v, want 1ms to 10m", c.Window))
	}
	for _, f := range c.Families {
		if f != 4 && f != 6 {
			errs = append(errs, fmt.Errorf("IP version %d, want 4 or 6", f))
		}
	}
	for k, l := range c.Links {
		switch {
		case !slices.Contains(Links, l):
			errs = append(errs, fmt.Errorf("link %q, want one of %v", l, Links))
		case slices.Contains(c.Links[:k], l):
			errs = append(errs, fmt.Errorf("link %q is given twice", l))
		case l != Memory && c.Peer == nil:
			errs = append(errs, fmt.Errorf("link %q needs a Peer", l))
		}
	}
	return errors.Join(errs...)
}

// Case is one thing that a scenario measures.
type Case struct {
	Name   string `json:"name"`           // as "send"
	Family int    `json:"family"`         // 4, 6, or 0 where IP plays no role
	Size   int    `json:"size,omitempty"` // bytes of a message or packet; 0 where there is no choice
	Count  int    `json:"count"`          // connections at a time, 1 or more

	// Against is the name of the kernel's case to compare with. Empty is Name.
	Against string `json:"against,omitempty"`
}

// String returns the case in the form of a benchmark's name.
func (c Case) String() string {
	s := c.Name
	if c.Family != 0 {
		s += fmt.Sprintf("/IPv%d", c.Family)
	}
	if c.Size != 0 {
		s += fmt.Sprintf("/%dB", c.Size)
	}
	if c.Count > 1 {
		s += fmt.Sprintf("/x%d", c.Count)
	}
	return s
}

// Metric is one number of a measurement.
type Metric struct {
	Name  string // as "rate"; the first of a measurement is what ratios are made of
	Unit  string // as "Gbit/s"
	Value float64
}

// Scenario is a kind of traffic.
type Scenario interface {
	// Name is that of the subcommand.
	Name() string

	// Cases lists what to measure, for each of the families.
	Cases(families []int) []Case

	// Runs says whether a case makes sense over a link.
	Runs(Case, Link) bool

	// Measure runs a case over a link once, with all its traffic at an end when it
	// returns. Its metrics are always the same, in the same order.
	measure(ctx context.Context, w window, l *testLink, c Case) ([]Metric, error)
}

// window is when to measure.
type window struct{ warmup, length time.Duration }

// Run measures a scenario.
func Run(ctx context.Context, cfg Config, s Scenario) (*Report, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("bench %s: %w", s.Name(), err)
	}
	r := &runner{cfg: cfg, scenario: s, report: newReport(cfg, s)}
	if err := errors.Join(r.run(ctx), r.close()); err != nil {
		return nil, fmt.Errorf("bench %s: %w", s.Name(), err)
	}
	r.report.summarize()
	return r.report, nil
}

type runner struct {
	cfg      Config
	scenario Scenario
	links    []*testLink
	report   *Report
}

func (r *runner) run(ctx context.Context) error {
	if err := r.open(ctx); err != nil {
		return err
	}
	cases := r.scenario.Cases(r.cfg.Families)
	for round := range r.cfg.Rounds {
		for _, c := range cases {
			for _, l := range r.links {
				if !r.scenario.Runs(c, l.kind) {
					continue
				}
				if err := r.measure(ctx, round, l, c); err != nil {
					return fmt.Errorf("%v over %s: %w", c, l.kind, err)
				}
			}
		}
	}
	return nil
}

// open makes those links that a case needs. Their goroutines carry the link's name as a
// label, so that a profile can tell them apart.
func (r *runner) open(ctx context.Context) error {
	cases := r.scenario.Cases(r.cfg.Families)
	for _, kind := range r.cfg.Links {
		if !slices.ContainsFunc(cases, func(c Case) bool { return r.scenario.Runs(c, kind) }) {
			continue
		}
		var err error
		pprof.Do(ctx, pprof.Labels("link", string(kind)), func(ctx context.Context) {
			err = r.openLink(ctx, kind)
		})
		if err != nil {
			return fmt.Errorf("opening link %s: %w", kind, err)
		}
	}
	return nil
}

// bare is a Scenario that needs no instance, no peer and no yardstick.
type bare interface{ bare() }

func (r *runner) openLink(ctx context.Context, kind Link) error {
	if _, ok := r.scenario.(bare); ok {
		r.links = append(r.links, &testLink{kind: kind})
		return nil
	}
	l, err := openLink(ctx, &r.cfg, kind)
	if err != nil {
		return err
	}
	r.links = append(r.links, l)
	r.report.describe(l)
	return nil
}

func (r *runner) measure(ctx context.Context, round int, l *testLink, c Case) error {
	m, err := r.quietest(ctx, l, c)
	if err != nil {
		return err
	}
	r.report.add(round, l.kind, c, m)
	_, err = fmt.Fprintf(r.cfg.Progress, "round %d/%d  %-10s %-22v %s\n", round+1, r.cfg.Rounds, l.kind, c, phrase(m[0]))
	return err
}

const maxRepeats = 3

// quietest measures until other programs leave us alone, but not for ever.
func (r *runner) quietest(ctx context.Context, l *testLink, c Case) (best []Metric, err error) {
	for range 1 + maxRepeats {
		var m []Metric
		pprof.Do(ctx, pprof.Labels("link", string(l.kind)), func(ctx context.Context) {
			m, err = r.scenario.measure(ctx, window{r.cfg.Warmup, r.cfg.Window}, l, c)
		})
		if err != nil {
			return nil, err
		}
		if best == nil || othersIn(m) < othersIn(best) {
			best = m
		}
		if r.cfg.MaxOthers == 0 || othersIn(best) <= r.cfg.MaxOthers {
			break
		}
	}
	return best, nil
}

// othersIn finds what testLink.others has put into a measurement.
func othersIn(metrics []Metric) float64 {
	for _, m := range metrics {
		if m.Name == othersName {
			return m.Value
		}
	}
	return 0
}

func phrase(m Metric) string { return number(m.Value) + " " + m.Unit }

// number writes three significant digits, and doesn't use exponents.
func number(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v):
		return "-"
	case a >= 100 || a == 0:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	case a >= 0.1:
		return fmt.Sprintf("%.2f", v)
	default:
		return fmt.Sprintf("%.4f", v)
	}
}

func (r *runner) close() error {
	var errs []error
	for _, l := range slices.Backward(r.links) {
		if err := l.close(); err != nil {
			errs = append(errs, fmt.Errorf("closing link %s: %w", l.kind, err))
		}
	}
	return errors.Join(errs...)
}
