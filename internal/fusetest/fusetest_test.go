// SPDX-License-Identifier: Apache-2.0

package fusetest

import (
	"cmp"
	"os"
	"testing"
)

func TestImageIsMadeOnce(t *testing.T) {
	first := Image(t, "tiny")
	before, err := os.Stat(first)
	if err != nil {
		t.Fatal(err)
	}
	second := Image(t, "tiny")
	after, err := os.Stat(second)
	if err != nil {
		t.Fatal(err)
	}
	if first != second || !os.SameFile(before, after) {
		t.Errorf("second call made another image: %s, first %s", second, first)
	}
}

// TestSkipBecomesFailure: a skipped FUSE test must not look like a passed one.
func TestSkipBecomesFailure(t *testing.T) {
	for _, tt := range []struct{ env, want string }{{"1", "failed"}, {"", "skipped"}} {
		t.Setenv("IMGFS_TEST_NOSKIP", tt.env)
		var r recorder
		skip(&r, "why")
		if r.did != tt.want {
			t.Errorf("IMGFS_TEST_NOSKIP=%q: %s, want %s", tt.env, r.did, tt.want)
		}
	}
}

// A recorder keeps what was said first: the real methods do not return.
type recorder struct {
	testing.TB
	did string
}

func (r *recorder) Helper()               {}
func (r *recorder) Skipf(string, ...any)  { r.did = cmp.Or(r.did, "skipped") }
func (r *recorder) Fatalf(string, ...any) { r.did = cmp.Or(r.did, "failed") }
