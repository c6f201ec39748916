// SPDX-License-Identifier: Apache-2.0

package model

import (
	"slices"
	"strings"
	"time"
)

// shrink looks until the deadline for a shorter sequence that fails too, and
// returns the shortest it found and how that fails. Operations are left out in
// runs, halved down to single ones.
func shrink(seq []op, why string, a, b Tree, deadline time.Time) ([]op, string) {
	what, _, _ := strings.Cut(why, " ") // another failure is another story
	fails := func(seq []op) (string, int) {
		for _, t := range []Tree{a, b} {
			if err := t.Reset(); err != nil {
				return "", 0
			}
		}
		again, at := try(seq, a, b)
		if !strings.HasPrefix(again, what+" ") {
			return "", 0
		}
		return again, at
	}
	again, at := fails(seq)
	if again == "" {
		return seq, why + "\n\t(a second run of the same sequence did not fail)"
	}
	seq, why = seq[:at], again
	for n := max(len(seq)/2, 1); ; n = max(n/2, 1) {
		shorter := false
		for i := len(seq) - n; i > -n; i -= n {
			if time.Now().After(deadline) {
				return seq, why
			}
			lo := min(max(i, 0), len(seq))
			fewer := slices.Concat(seq[:lo], seq[min(lo+n, len(seq)):])
			if again, at := fails(fewer); again != "" {
				seq, why, shorter = fewer[:at], again, true
			}
		}
		if n == 1 && !shorter {
			return seq, why
		}
	}
}
