// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEveryPickIsAFigure(t *testing.T) {
	rows := allRows()
	known := map[string]bool{}
	for _, r := range rows {
		known[r.title()] = true
	}
	for _, p := range pictures() {
		for _, pk := range p.picks {
			if r := (row{name: pk.row, shape: pk.shape}); !known[r.title()] {
				t.Errorf("%s: no row %s", p.file, r.title())
			}
		}
	}
}

func TestPlot(t *testing.T) {
	report, _ := sample()
	dir := t.TempDir()
	file, readme := filepath.Join(dir, "run.json"), filepath.Join(dir, "README.md")
	if err := report.write(file); err != nil {
		t.Fatal(err)
	}
	text := "before\n" + figuresBegin + "\nold\n" + figuresEnd + "\nafter\n"
	if err := os.WriteFile(readme, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	args := []string{"-charts", filepath.Join(dir, "charts"), "-readme", readme, file}
	for range 2 { // the second finds the figures of the first
		if err := plotMain(args); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"before\n" + figuresBegin + "\nimgfs v1, ", "![Changing an image](charts/write.svg)",
		"| | imgfs --rw | memfs |\n|---|---|---|\n| create 10 000 files | 3 s | 2 s (1.5) |\n" + figuresEnd + "\nafter\n",
	} {
		if !strings.Contains(string(got), want) {
			t.Errorf("the README lacks %q:\n%s", want, got)
		}
	}
	svg, err := os.ReadFile(filepath.Join(dir, "charts", "write.svg"))
	if err != nil {
		t.Fatal(err)
	}
	for d := xml.NewDecoder(bytes.NewReader(svg)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal("the chart is no XML:", err)
		}
	}
	for _, want := range []string{">2 s · 0.67×<", `class="ours"`, "prefers-color-scheme: dark"} {
		if !strings.Contains(string(svg), want) {
			t.Errorf("the chart lacks %q:\n%s", want, svg)
		}
	}
	if _, err := between([]byte("no lines"), figuresBegin, figuresEnd, nil); err == nil {
		t.Error("a README without the lines was taken")
	}
}
