// SPDX-License-Identifier: Apache-2.0

package term

import (
	"time"

	"github.com/docker/go-units"
)

// Size returns n bytes as docker prints them: 7.38MB.
func Size(n int64) string { return units.HumanSizeWithPrecision(float64(n), 3) }

// Age returns how long before now t was, as docker prints it: "2 weeks ago".
// The zero time is "N/A".
func Age(now, t time.Time) string {
	if t.IsZero() {
		return "N/A"
	}
	return units.HumanDuration(now.Sub(t)) + " ago"
}

// ShortID returns the twelve digits that docker shows of a digest.
func ShortID(digest string) string {
	for i := range len(digest) {
		if digest[i] == ':' {
			digest = digest[i+1:]
			break
		}
	}
	return digest[:min(len(digest), 12)]
}

// Ellipsis cuts s to n characters, the last of which is then "…".
func Ellipsis(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:max(n-1, 0)]) + "…"
}
