package bench

import (
	"math"
	"slices"
)

// Spread is what several rounds came to.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	N      int     `json:"n"`
}

// spread leaves out what isn't a number. Without any, all of it is zero.
func spread(values []float64) Spread {
	v := slices.DeleteFunc(slices.Clone(values), notNumber)
	if len(v) == 0 {
		return Spread{}
	}
	slices.Sort(v)
	return Spread{Median: median(v), Min: v[0], Max: v[len(v)-1], N: len(v)}
}

func notNumber(f float64) bool { return math.IsNaN(f) || math.IsInf(f, 0) }

// median expects sorted values, at least one.
func median(sorted []float64) float64 {
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// ratios divides round by round. A round without both values has no ratio.
func ratios(a, b []float64) []float64 {
	var r []float64
	for k := range min(len(a), len(b)) {
		if q := a[k] / b[k]; !notNumber(q) {
			r = append(r, q)
		}
	}
	return r
}

// quantile is the smallest of the sorted values that a part q of them doesn't exceed.
// There has to be one.
func quantile[T any](sorted []T, q float64) T {
	k := int(math.Ceil(q*float64(len(sorted)))) - 1
	return sorted[min(max(k, 0), len(sorted)-1)]
}
