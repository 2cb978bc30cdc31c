package bench

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSpread(t *testing.T) {
	for name, c := range map[string]struct {
		values []float64
		want   Spread
	}{
		"none":        {nil, Spread{}},
		"one":         {[]float64{3}, Spread{3, 3, 3, 1}},
		"odd":         {[]float64{9, 1, 4}, Spread{4, 1, 9, 3}},
		"even":        {[]float64{9, 1, 4, 6}, Spread{5, 1, 9, 4}},
		"not numbers": {[]float64{math.NaN(), 2, math.Inf(1)}, Spread{2, 2, 2, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := spread(c.values); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestSpreadKeepsTheOrderOfRounds(t *testing.T) {
	rounds := []float64{3, 1, 2}
	spread(rounds)
	if diff := cmp.Diff([]float64{3, 1, 2}, rounds); diff != "" {
		t.Error(diff)
	}
}

func TestRatios(t *testing.T) {
	for name, c := range map[string]struct{ a, b, want []float64 }{
		"round by round":     {[]float64{1, 4}, []float64{2, 2}, []float64{0.5, 2}},
		"a round is missing": {[]float64{1, 4}, []float64{2}, []float64{0.5}},
		"division by zero":   {[]float64{1, 4, 0}, []float64{0, 2, 0}, []float64{2}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, ratios(c.a, c.b)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestQuantile(t *testing.T) {
	var hundred []int
	for n := range 100 {
		hundred = append(hundred, n+1)
	}
	for _, c := range []struct {
		q    float64
		want int
	}{{0, 1}, {0.5, 50}, {0.99, 99}, {0.999, 100}, {1, 100}} {
		if got := quantile(hundred, c.q); got != c.want {
			t.Errorf("of 1 to 100, the quantile %v is %d, want %d", c.q, got, c.want)
		}
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 12345.6: "12346", 100: "100", 12.34: "12.3", 1.234: "1.23", 0.01234: "0.0123"} {
		if got := number(v); got != want {
			t.Errorf("%v: got %q, want %q", v, got, want)
		}
	}
}

func TestParseBusy(t *testing.T) {
	got, err := parseBusy("cpu  100 1 20 9999 5 7 8 3 0 0\ncpu0 1 2 3\n")
	if err != nil || got.Seconds() != 1.24 {
		t.Errorf("got %v, %v; want 1.24 s", got, err)
	}
	if _, err := parseBusy("intr 1 2 3"); err == nil {
		t.Error("no error for a file without that line")
	}
}

func TestProcessor(t *testing.T) {
	if got := processor("processor\t: 0\nmodel name\t: Fast One 3000\nflags : x\n"); got != "Fast One 3000" {
		t.Errorf("got %q", got)
	}
	if got := processor("nothing"); got != "unknown" {
		t.Errorf("got %q", got)
	}
}
