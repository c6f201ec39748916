// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
)

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

func medianOf(efforts []effort, get func(effort) float64) float64 {
	var v []float64
	for _, e := range efforts {
		v = append(v, get(e))
	}
	return median(v)
}

// number keeps three figures.
func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

// sorted goes through a map by its keys.
func sorted[V any](m map[string]V) iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}

// differ returns how likely two samples differ this much by chance: the
// two-sided p of the Mann-Whitney test, by its normal approximation.
func differ(a, b []float64) float64 {
	n, m := float64(len(a)), float64(len(b))
	if n == 0 || m == 0 {
		return 1
	}
	u, all := 0.0, map[float64]float64{}
	for _, x := range a {
		for _, y := range b {
			if x < y {
				u++
			} else if x == y {
				u += 0.5
			}
		}
	}
	for _, x := range slices.Concat(a, b) {
		all[x]++
	}
	ties := 0.0
	for _, t := range all {
		ties += t*t*t - t
	}
	spread := math.Sqrt(n * m / 12 * (n + m + 1 - ties/((n+m)*(n+m-1))))
	if spread == 0 {
		return 1
	}
	z := max(0, math.Abs(u-n*m/2)-0.5) / spread
	return math.Erfc(z / math.Sqrt2)
}
