// SPDX-License-Identifier: Apache-2.0

package index

import "testing"

func TestPackCookie(t *testing.T) {
	for _, c := range []uint64{1<<32 | 12, 8191<<32 | 1<<18 - 1, 8192<<32 | 5, 1<<32 | 1<<18, 1<<62 | 1<<31} {
		if got := UnpackCookie(PackCookie(c)); got != c {
			t.Errorf("%#x became %#x", c, got)
		}
	}
}
