package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/duotap/duotap/bench"
)

// quickBench makes runs too short to say anything about speed.
var quickBench = []string{"--rounds", "1", "--max-others", "0", "--warmup", "5ms", "--window", "50ms"}

// benchLimit is how long one may take on a machine that is busy with other tests.
const benchLimit = 2 * time.Minute

// TestBench runs scenarios over every link they know, with traffic on each.
func TestBench(t *testing.T) {
	requireTAP(t)
	for name, args := range map[string][]string{
		"tcp":     {"tcp", "-P", "1,2", "--link", "tap,tap-plain", "--link", "memory"},
		"latency": {"latency", "--link", "tap,tap-plain,memory", "--cpu", "0"},
		"connect": {"connect", "--link", "tap,tap-plain,memory"},
		"udp":     {"udp", "-4", "--link", "tap,tap-plain,memory"},
		"mail":    {"smtp", "--link", "tap,tap-plain,memory", "--size", "1000", "-P", "4"},
		"frames":  {"frames", "--link", "tap,tap-plain,memory"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := append(append([]string{"bench"}, args...), append(quickBench, "--json")...)
			r := start(t, benchLimit, nil, programFile(t, "duotap"), args...).wait()
			if r.code != exitOK {
				t.Fatalf("exit code %d\n%s", r.code, r.output())
			}
			var report bench.Report
			if err := json.Unmarshal([]byte(r.stdout), &report); err != nil {
				t.Fatalf("%v\n%s", err, r.output())
			}
			// On a busy machine a window of 50 ms may have no traffic, but not all of them.
			seen := map[bench.Link]bool{}
			for _, row := range report.Rows {
				if m := row.Metrics[0].Summary; m.Median > 0 {
					seen[row.Link] = true
				} else if m.Median < 0 || m.N > 1 {
					t.Errorf("%s %s: %+v of one round", row.Link, row.Name, m)
				}
			}
			for _, l := range bench.Links {
				if !seen[l] && (name != "frames" || l != bench.Kernel) {
					t.Errorf("nothing was measured over %s", l)
				}
			}
		})
	}
}

// TestBenchForBenchstat appends to the same file twice.
func TestBenchForBenchstat(t *testing.T) {
	requireTAP(t)
	file := t.TempDir() + "/results.txt"
	for range 2 {
		args := append([]string{"bench", "connect", "-4", "--go-bench", file}, quickBench...)
		if r := duotap(t, nil, args...); r.code != exitOK || !strings.Contains(r.stdout, "connections /s") {
			t.Fatalf("exit code %d\n%s", r.code, r.output())
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(b), "BenchmarkConnect/tcp/IPv4/tap-"); n != 2 {
		t.Errorf("%d results for the TAP, want 2:\n%s", n, b)
	}
}

func TestBenchUsage(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		code int
		want string
	}{
		"families":  {[]string{"tcp", "-4", "-6"}, exitUsage, "exclude each other"},
		"streams":   {[]string{"tcp", "-P", "0"}, exitUsage, "--parallel 0"},
		"size":      {[]string{"latency", "--size", "0"}, exitUsage, "--size 0"},
		"processor": {[]string{"connect", "--cpu", "1000"}, exitUsage, "--cpu 1000"},
		"link":      {[]string{"tcp", "--link", "wire"}, exitUsage, "wire"},
		"direction": {[]string{"tcp", "--direction", "up"}, exitUsage, "up"},
	} {
		t.Run(name, func(t *testing.T) {
			r := duotap(t, nil, append([]string{"bench"}, c.args...)...)
			if r.code != c.code || !strings.Contains(r.stderr, c.want) {
				t.Errorf("exit code %d, want %d and %q\n%s", r.code, c.code, c.want, r.output())
			}
		})
	}
}
