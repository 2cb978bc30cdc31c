package bench

import (
	"context"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// scenarios are all, small.
var scenarios = []Scenario{
	&TCP{},
	&TCP{Directions: []string{"send"}, Streams: []int{1, 3}},
	&Latency{},
	&Connect{},
	&UDP{},
	&SMTP{Size: 1000, Parallel: 3},
	&SMTP{},
	&Pool{},
	&Frames{},
}

// TestScenarios runs each in memory, and looks for traffic. How much is none of a test's
// business: on a busy machine a window of 50 ms may have none.
func TestScenarios(t *testing.T) {
	for _, s := range scenarios {
		t.Run(s.Name(), func(t *testing.T) {
			var progress strings.Builder
			r, err := Run(t.Context(), Config{Links: []Link{Memory}, NoKernel: true, Rounds: 2,
				Warmup: 5 * time.Millisecond, Window: 50 * time.Millisecond, Progress: &progress}, s)
			if err != nil {
				t.Fatal(err)
			}
			cases := s.Cases([]int{4, 6})
			cases = slices.DeleteFunc(cases, func(c Case) bool { return !s.Runs(c, Memory) })
			if len(r.Rows) != len(cases) {
				t.Errorf("%d rows, want one for each of %v", len(r.Rows), cases)
			}
			for _, row := range r.Rows {
				if m := row.Metrics[0]; m.Summary.N != 2 || m.Summary.Max <= 0 {
					t.Errorf("%s: %s is %+v", row.Name, m.Name, m.Summary)
				}
			}
			if n := strings.Count(progress.String(), "\n"); n != 2*len(cases) {
				t.Errorf("%d lines of progress, want %d:\n%s", n, 2*len(cases), &progress)
			}
		})
	}
}

// writerFunc is a function as io.Writer.
type writerFunc func(b []byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestRunStops(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("enough")
	lines := 0
	progress := writerFunc(func(b []byte) (int, error) {
		lines++
		cancel(stop)
		return len(b), nil
	})
	_, err := Run(ctx, Config{Links: []Link{Memory}, NoKernel: true, Window: 10 * time.Millisecond, Progress: progress}, &TCP{})
	if !errors.Is(err, stop) && !errors.Is(err, context.Canceled) || lines != 1 {
		t.Errorf("after %d measurements: %v; want one, and the end of the context", lines, err)
	}
}

func TestConfigErrors(t *testing.T) {
	peer := func() *exec.Cmd { return exec.Command("false") }
	for name, c := range map[string]struct {
		cfg  Config
		want string
	}{
		"rounds":   {Config{Rounds: -1, Peer: peer}, "rounds"},
		"window":   {Config{Window: time.Hour, Peer: peer}, "window of 1h"},
		"warm-up":  {Config{Warmup: -1, Peer: peer}, "warm-up"},
		"family":   {Config{Families: []int{5}, Peer: peer}, "IP version 5"},
		"link":     {Config{Links: []Link{"wire"}, Peer: peer}, `"wire"`},
		"twice":    {Config{Links: []Link{Memory, Memory}, Peer: peer}, "twice"},
		"no peer":  {Config{Links: []Link{Memory}}, "needs a Peer"},
		"two many": {Config{Rounds: 2000, Families: []int{7}, Peer: peer}, "IP version 7"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Run(t.Context(), c.cfg, &TCP{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error about %s", err, c.want)
			}
		})
	}
}

func TestCasesOfTCP(t *testing.T) {
	cases := (&TCP{Streams: []int{1, 4}}).Cases([]int{6})
	var got []string
	for _, c := range cases {
		got = append(got, c.String())
	}
	want := "send/IPv6 send/IPv6/x4 receive/IPv6 receive/IPv6/x4 both/IPv6 both/IPv6/x4"
	if strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
}
