// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"fmt"
	"testing"
	"time"
)

func TestBursts(t *testing.T) {
	var b bursts
	now := time.Unix(1000, 0)
	made := 0
	make := func(pid uint32, after time.Duration) bool {
		now = now.Add(after)
		made++
		return b.small(pid, madeName{1, fmt.Sprint(made)}, now)
	}
	for i := range 3 {
		if make(1, time.Millisecond) {
			t.Errorf("file %d of a burst is taken for small", i)
		}
	}
	if !make(1, time.Millisecond) {
		t.Error("the fourth file in a row is not taken for small")
	}
	if make(2, 0) {
		t.Error("the first file of another process is taken for small")
	}
	if make(1, time.Second) {
		t.Error("a file after a pause is taken for small")
	}
	for range 10 {
		make(1, 0)
	}
	b.large(1)
	for range 2 {
		if make(1, 0) {
			t.Error("a file after a large one is taken for small")
		}
	}
	for pid := uint32(10); pid < 30; pid++ { // more than are remembered
		if make(pid, time.Millisecond) {
			t.Errorf("the first file of process %d is taken for small", pid)
		}
	}
}

// A rollback journal is made, written, removed and made again.
func TestBurstOfOneName(t *testing.T) {
	var b bursts
	now := time.Unix(1000, 0)
	for i := range 20 {
		for _, at := range []madeName{{1, "a.db-journal"}, {2, "a.db-journal"}} {
			if b.small(1, at, now) {
				t.Fatalf("round %d: %v is taken for small", i, at)
			}
		}
	}
	small := false
	for i := range burstFiles {
		small = b.small(1, madeName{1, fmt.Sprint(i)}, now)
	}
	if !small {
		t.Error("a burst of new names is not taken for small")
	}
	for range burstFiles + 2 {
		small = b.small(2, madeName{}, now)
	}
	if !small {
		t.Error("many files without a name are not taken for small")
	}
}
