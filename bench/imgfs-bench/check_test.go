// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
)

func TestParseResults(t *testing.T) {
	const out = `goos: linux
BenchmarkLookup/hit/names=100k-2   	  500000	       174.5 ns/op	       0 B/op	       0 allocs/op
BenchmarkGunzip/points-made/cores=1 	 3	 90000000 ns/op	 901.5 MB/s
BenchmarkBroken
BenchmarkFailed-2 	--- FAIL: BenchmarkFailed-2
--- BENCH: BenchmarkX
PASS
`
	got := parseResults("layerstore/index", out)
	if len(got) != 2 || got[0].name != "index.Lookup/hit/names=100k" || got[0].values["ns/op"] != 174.5 ||
		got[0].values["allocs/op"] != 0 || got[1].name != "index.Gunzip/points-made/cores=1" || got[1].values["MB/s"] != 901.5 {
		t.Errorf("%+v", got)
	}
}

// steady returns n figures about v.
func steady(v float64, n int) (s []float64) {
	for i := range n {
		s = append(s, v*(1+0.01*float64(i%3)))
	}
	return s
}

func TestMoved(t *testing.T) {
	for _, tt := range []struct {
		name     string
		was, now []float64
		said     string
		fails    bool
	}{
		{"the same", steady(100, 10), steady(100, 10), "1 of 1 did not move", false},
		{"faster", steady(100, 10), steady(50, 10), "-50%", false},
		{"slower by little", steady(100, 10), steady(110, 10), "+10%", false},
		{"slower by much", steady(100, 10), steady(130, 10), "+30% TOO MUCH", true},
		{"much slower once, by chance", steady(100, 10), append(steady(100, 9), 1000), "1 of 1 did not move", false},
		{"new", nil, steady(100, 10), "1 of 1 did not move", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			err := printMoved(&out, "v0", []*paired{{"x", tt.was, tt.now}})
			if !strings.Contains(out.String(), tt.said) || (err != nil) != tt.fails {
				t.Errorf("%v\n%s\nwant %q", err, out.String(), tt.said)
			}
		})
	}
}

func TestDiffer(t *testing.T) {
	a, b := []float64{1, 2, 3, 4, 5}, []float64{6, 7, 8, 9, 10}
	if p := differ(a, b); p < 0.005 || p > 0.02 { // exactly: 0.008
		t.Errorf("two samples that are apart differ by a chance of %v", p)
	}
	if p := differ(a, a); p < 0.9 {
		t.Errorf("a sample differs from itself by a chance of %v", p)
	}
	if p := differ([]float64{1, 1}, []float64{1, 1, 1}); p != 1 {
		t.Errorf("figures that are all the same differ by a chance of %v", p)
	}
}

func TestMountsBelow(t *testing.T) {
	const info = `22 1 254:0 / / rw - ext4 /dev/vda rw
30 22 0:40 / /c/bench-1/turn-001/mnt rw - fuse.imgfs imgfs ro
31 22 0:41 / /c/bench-1/a\040b rw - overlay overlay ro
32 22 0:42 / /c/bench-12/mnt rw - overlay overlay ro
`
	if got := strings.Join(mountsBelow(info, "/c/bench-1"), ","); got != "/c/bench-1/turn-001/mnt,/c/bench-1/a b" {
		t.Error(got)
	}
}
