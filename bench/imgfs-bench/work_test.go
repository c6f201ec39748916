// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestWorkloads does in a plain directory what needs no image and no sync.
func TestWorkloads(t *testing.T) {
	all := workloads()
	for _, name := range []string{"untar", "rm-new"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			w := all[name]
			if err := w.prepare(dir); err != nil {
				t.Fatal("prepare:", err)
			}
			for _, s := range w.steps {
				if err := s.run(dir, func(string) {}); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestEveryRowHasItsWorkload(t *testing.T) {
	all := workloads()
	for _, r := range allRows() {
		if r.turn != nil || r.gobench {
			continue
		}
		for _, quick := range []bool{false, true} {
			if _, ok := all[r.workload(quick)]; !ok {
				t.Errorf("row %s: no workload %q", r.name, r.workload(quick))
			}
		}
	}
}

func TestWalkSeesEverythingOnce(t *testing.T) {
	dir := t.TempDir()
	want := 0
	for i := range 3 {
		sub := filepath.Join(dir, fmt.Sprint(i))
		if err := os.Mkdir(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		want++
		for j := range 500 {
			if err := os.WriteFile(filepath.Join(sub, fmt.Sprint(j)), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			want++
		}
	}
	seen := 0
	err := walk(unix.AT_FDCWD, dir, func(int, string, *unix.Stat_t) error { seen++; return nil })
	if err != nil || seen != want {
		t.Errorf("walk saw %d, %v, want %d", seen, err, want)
	}
	if n, err := removeAll(unix.AT_FDCWD, dir); err != nil || n != 1500 {
		t.Errorf("removeAll counted %d, %v, want 1500 files", n, err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after removeAll: %v", err)
	}
}
