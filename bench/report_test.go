package bench

import (
	"encoding/json"
	"strings"
	"testing"
)

// newTestReport has two rounds of TCP over three links, with rates that are easy to
// divide.
func newTestReport() *Report {
	r := newReport(Config{Rounds: 2}, &TCP{})
	r.Machine.Processors = 2
	one := Case{Name: "send", Family: 4, Count: 1}
	four := Case{Name: "send", Family: 4, Count: 4}
	both := Case{Name: "both", Family: 4, Count: 1, Against: "send"}
	for _, v := range []struct {
		link  Link
		c     Case
		rates []float64
	}{
		{TAP, one, []float64{30, 20}}, {TAP, four, []float64{60, 10}}, {TAP, both, []float64{30, 40}},
		{TAPPlain, one, []float64{1, 2}},
		{Kernel, one, []float64{60, 80}}, {Kernel, both, []float64{30, 80}},
	} {
		for round, rate := range v.rates {
			r.add(round, v.link, v.c, []Metric{{"rate", "Gbit/s", rate}, {"CPU", "s/GiB", 1}})
		}
	}
	r.summarize()
	return r
}

func TestRatiosOfReport(t *testing.T) {
	r := newTestReport()
	for _, c := range []struct {
		link  Link
		name  string
		ratio string
		want  float64 // the median of two rounds
	}{
		{TAP, "send/IPv4", "K", 0.375},
		{TAP, "send/IPv4", "V", 20},
		{TAP, "send/IPv4/x4", "x1", 1.25},
		{TAP, "both/IPv4", "K", 0.5},     // against one way
		{Kernel, "both/IPv4", "K", 0.75}, // so is the kernel
		{TAPPlain, "send/IPv4", "K", 1. / 48},
	} {
		found := false
		for _, row := range r.Rows {
			if row.Link == c.link && row.Name == c.name {
				found = true
				if got := row.Ratios[c.ratio].Median; got < c.want*0.999 || got > c.want*1.001 {
					t.Errorf("%s %s: %s is %v, want %v", c.link, c.name, c.ratio, got, c.want)
				}
			}
		}
		if !found {
			t.Errorf("there is no row %s %s", c.link, c.name)
		}
	}
}

func TestRowsOfKernelHaveNoRatioToThemselves(t *testing.T) {
	for _, row := range newTestReport().Rows {
		if q, ok := row.Ratios["K"]; ok && row.Link == Kernel && row.Name == "send/IPv4" {
			t.Errorf("it is %v", q)
		}
	}
}

func TestGoBench(t *testing.T) {
	var out strings.Builder
	if err := newTestReport().GoBench(&out); err != nil {
		t.Fatal(err)
	}
	if want := "BenchmarkTcp/send/IPv4/x4/tap-2\t1\t60 Gbit/s\t1 CPU-s/GiB\n"; !strings.Contains(out.String(), want) {
		t.Errorf("%q is not in\n%s", want, &out)
	}
	lines := 0
	for line := range strings.Lines(out.String()) {
		if !strings.HasPrefix(line, "Benchmark") {
			continue
		}
		lines++
		if fields := strings.Fields(line); len(fields)%2 != 0 {
			t.Errorf("a name, a count, and then values with units; got %q", line)
		}
	}
	if lines != 12 {
		t.Errorf("%d lines, want one for each round of each row, 12", lines)
	}
}

func TestTable(t *testing.T) {
	var out strings.Builder
	if err := newTestReport().Table(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"rate Gbit/s", "CPU s/GiB", "25.0  [20.0..30.0]", "0.38 [0.25..0.50]", "One machine"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, &out)
		}
	}
}

func TestJSON(t *testing.T) {
	var out strings.Builder
	if err := newTestReport().JSON(&out); err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal([]byte(out.String()), &back); err != nil {
		t.Fatal(err)
	}
	if len(back.Rows) != 6 || back.Rows[0].Metrics[0].Rounds[1] != 20 {
		t.Errorf("not what was written: %s", &out)
	}
}
