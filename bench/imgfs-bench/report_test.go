// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// sample is a run of two rows.
func sample() (*report, []row) {
	create := row{name: "create", group: "write", shape: "rw", systems: []string{imgfsRWIs, memfsIs, overlayIs, fuseOverlayIs}, limits: light}
	load := row{name: "load", shape: "app", systems: []string{imgfsIs}, limits: map[string][]limit{
		tarRate: {{most: 850, atLeast: true}},
	}}
	t := newReport(3)
	t.Version = "v1"
	t.Time = t.Time.AddDate(2001-t.Time.Year(), 0, 0)
	for i, noise := range []float64{1, 10, 2} { // it slows both
		t.add(create, theTime, imgfsRWIs, seconds, 1.5*noise)
		t.add(create, theTime, memfsIs, seconds, 1*noise)
		t.effort(create, theTime, imgfsRWIs, effort{CPU: 0.25, Reads: float64(100 * (i + 1))})
	}
	t.refused(create, theTime, overlayIs, "EXDEV")
	t.add(load, tarRate, imgfsIs, megabytesPerSecond, 900)
	t.Skipped[fuseOverlayIs] = "it is not here"
	return t, []row{load, create}
}

func TestTable(t *testing.T) {
	report, rows := sample()
	var out strings.Builder
	report.print(&out, rows)
	for _, want := range []string{
		"≤ 1.3 × memfs: 1.50 MISSED", "fuse-overlayfs: not measured", "EXDEV", "0.25", "200", "3 s ±", "  1.50  ",
		"≥ 850 MB/s ok", "not measured: fuse-overlayfs: it is not here", "1 of 2 limits hold",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, out.String())
		}
	}
}

func TestLines(t *testing.T) {
	report, _ := sample()
	name := filepath.Join(t.TempDir(), "new", "lines")
	if err := report.writeLines(name); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(name)
	for _, want := range []string{
		"\nBenchmarkCreate/image=rw/system=imgfs---rw 1 1.5e+09 ns/op\n",
		"\nBenchmarkLoad/image=app/figure=layers'-tars-read/system=imgfs 1 900 MB/s\n",
	} {
		if !strings.Contains(string(b), want) {
			t.Errorf("no line %q (%v):\n%s", want, err, b)
		}
	}
}

func TestReportIsKept(t *testing.T) {
	report, rows := sample()
	name := filepath.Join(t.TempDir(), "results", report.fileName())
	if err := report.write(name); err != nil {
		t.Fatal(err)
	}
	again, err := readReport(name)
	if err != nil {
		t.Fatal(err)
	}
	var was, is strings.Builder
	report.print(&was, rows)
	again.print(&is, rows)
	if was.String() != is.String() {
		t.Errorf("read again it is\n%swant\n%s", is.String(), was.String())
	}
}

func TestHistory(t *testing.T) {
	report, rows := sample()
	once := report.appendHistory(nil, rows)
	for _, want := range []string{
		"| v1 | 2001-", "| create/rw |  | 3 s ±225% | 1.50 × memfs | ≤ 1.3 × memfs: 1.50 MISSED |\n",
		"| load/app | layers' tars read | 900 MB/s |  | ≥ 850 MB/s ok |\n",
	} {
		if !strings.Contains(string(once), want) {
			t.Errorf("the history lacks %q:\n%s", want, once)
		}
	}
	if again := report.appendHistory(once, rows); string(again) != string(once) {
		t.Errorf("kept twice:\n%s", again)
	}
	report.Version = "v2"
	if both := report.appendHistory(once, rows); !strings.HasPrefix(string(both), string(once)) {
		t.Errorf("another version changed the lines of the first:\n%s", both)
	}
}

func TestListing(t *testing.T) {
	out := "{\"dir\":\"/a\",\"pid\":1,\"verified\":true}\n{\"dir\":\"/b\",\"pid\":2}\n"
	if l, err := findListing(out, "/b"); l.Pid != 2 || l.Verified || err != nil {
		t.Errorf("/b is %+v, %v", l, err)
	}
	if l, err := findListing(out, "/a"); !l.Verified || err != nil {
		t.Errorf("/a is %+v, %v", l, err)
	}
	if _, err := findListing("", "/b"); err == nil {
		t.Error("a mount that is not there is listed")
	}
}

func TestChooseRows(t *testing.T) {
	for _, tt := range []struct {
		groups, names []string
		quick         bool
		want          string // one that is in
		not           string // one that is not
	}{
		{nil, nil, false, "create/rw", "million/many"},
		{[]string{"read"}, nil, false, "lstat/app", "create/rw"},
		{nil, []string{"million"}, false, "million/many", "create/rw"},
		{nil, []string{"mount/deep"}, false, "mount/deep", "mount/base"},
		{nil, nil, true, "hot path", "load/app"},
		{[]string{"write"}, nil, true, "seq/tiny", "hot path"},
	} {
		rows, err := chooseRows(tt.groups, tt.names, tt.quick)
		var titles []string
		for _, r := range rows {
			titles = append(titles, r.title())
		}
		all := "," + strings.Join(titles, ",") + ","
		if err != nil || !strings.Contains(all, ","+tt.want+",") || strings.Contains(all, ","+tt.not+",") {
			t.Errorf("%v %v quick=%t: %v, %v; want %s, not %s", tt.groups, tt.names, tt.quick, titles, err, tt.want, tt.not)
		}
	}
	if _, err := chooseRows(nil, []string{"nonsense"}, false); err == nil {
		t.Error("a row that is none was taken")
	}
	if _, err := chooseRows([]string{"nonsense"}, nil, false); err == nil {
		t.Error("a group that is none was taken")
	}
}
