// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A pick is a figure that the README shows.
type pick struct{ row, shape, name, label string }

// A picture is a chart, and a part of the README's table.
type picture struct {
	file, title string
	picks       []pick
	systems     []string // those that are shown, in this order
}

func pictures() []picture {
	return []picture{
		{"read", "Reading an image", []pick{
			{"read", "app", firstWalk, "first walk of 60 000 files"},
			{"read", "app", secondWalk, "the same again"},
			{"read", "app", readCold, "read all 1.4 GB, cold"},
			{"read", "app", readWarm, "the same again"},
			{"read", "base", readCold, "read all 0.2 GB, cold"},
			{"lstat", "app", hitDropped, "lstat of a file, names dropped"},
			{"exec", "app", theTime, "start python3, cold"},
			{"big", "rw", randomCold, "4 KiB anywhere in 1 GiB, cold"},
		}, []string{imgfsIs, imgfsRWIs, overlayIs, diskIs, erofsIs, squashfuseIs, fuseOverlayIs}},
		{"load", "From a file to a directory", []pick{
			{"load", "app", untilMounted, "load 1.4 GB of layers"},
			{"load", "base", untilMounted, "load 0.2 GB"},
			{"first byte", "base", theTime, "first byte after mount, cold"},
		}, []string{imgfsIs, tarIs, podmanIs, umociIs, overlayIs, erofsIs, squashfuseIs, fuseOverlayIs}},
		{"write", "Changing an image", []pick{
			{"create", "rw", theTime, "create 10 000 files"},
			{"untar", "rw", theTime, "untar 5 000"},
			{"rm-image", "rw", theTime, "rm -rf 7 000 of the image"},
			{"chmod", "rw", theTime, "chmod -R of 16 000"},
			{"append", "rw", theTime, "append a byte to 1 GiB"},
			{"seq", "tiny", "write", "write 1 GiB"},
			{"fsync", "tiny", theTime, "500 writes, each synced"},
		}, []string{imgfsRWIs, overlayIs, fuseOverlayIs, memfsIs, diskIs}},
	}
}

// A chosen is a pick with its line and the systems that have a figure there.
type chosen struct {
	pick
	line    *line
	systems []string
}

// choose returns the picks that a run has measured.
func (p picture) choose(t *report) (cs []chosen) {
	for _, pk := range p.picks {
		l := t.find(pk.row, pk.shape, pk.name)
		if l == nil {
			continue
		}
		c := chosen{pick: pk, line: l}
		for _, s := range p.systems {
			if len(l.Figures[s]) > 0 {
				c.systems = append(c.systems, s)
			}
		}
		if len(c.systems) > 0 {
			cs = append(cs, c)
		}
	}
	return cs
}

// What is between these lines of the README is written by plot.
const (
	figuresBegin = "<!-- figures: written by make bench-keep -->"
	figuresEnd   = "<!-- end of figures -->"
)

// plotMain draws the charts of a run and writes its figures into the README.
func plotMain(args []string) error {
	flags := flag.NewFlagSet("imgfs-bench plot", flag.ExitOnError)
	charts := flags.String("charts", "docs/charts", "the directory for the charts")
	readme := flags.String("readme", "README.md", "the file that shows the figures; empty: none")
	flags.Parse(args)
	if flags.NArg() != 1 {
		return errors.New("plot wants the JSON of a run")
	}
	t, err := readReport(flags.Arg(0))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(*charts, 0o755); err != nil {
		return err
	}
	for _, p := range pictures() {
		if cs := p.choose(t); len(cs) > 0 {
			if err := os.WriteFile(filepath.Join(*charts, p.file+".svg"), drawChart(p.title, cs), 0o644); err != nil {
				return err
			}
		}
	}
	if *readme == "" {
		return nil
	}
	old, err := os.ReadFile(*readme)
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(filepath.Dir(*readme), *charts)
	if err != nil {
		return err
	}
	updated, err := between(old, figuresBegin, figuresEnd, t.markdown(filepath.ToSlash(rel)))
	if err != nil {
		return fmt.Errorf("%s: %w", *readme, err)
	}
	return os.WriteFile(*readme, updated, 0o644)
}

// between puts text between two lines of a file.
func between(file []byte, begin, end string, text []byte) ([]byte, error) {
	head, rest, ok := bytes.Cut(file, []byte(begin+"\n"))
	_, tail, ok2 := bytes.Cut(rest, []byte(end+"\n"))
	if !ok || !ok2 {
		return nil, fmt.Errorf("there are no lines %q and %q", begin, end)
	}
	return slices.Concat(head, []byte(begin+"\n"), text, []byte(end+"\n"), tail), nil
}

// markdown returns the charts and the tables of a run.
func (t *report) markdown(charts string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "imgfs %s, %s. %s; medians of %d runs in turn, in brackets what imgfs takes of it.\n",
		t.Version, t.Time.Format("2 January 2006"), t.Machine, t.Runs)
	for _, p := range pictures() {
		cs := p.choose(t)
		if len(cs) == 0 {
			continue
		}
		systems := slices.DeleteFunc(slices.Clone(p.systems), func(s string) bool {
			return !slices.ContainsFunc(cs, func(c chosen) bool { return slices.Contains(c.systems, s) })
		})
		fmt.Fprintf(&b, "\n![%s](%s/%s.svg)\n\n| | %s |\n|---%s|\n", p.title, charts, p.file,
			strings.Join(systems, " | "), strings.Repeat("|---", len(systems)))
		for _, c := range cs {
			fmt.Fprintf(&b, "| %s", c.label)
			for _, s := range systems {
				cell := ""
				if f := c.line.Figures[s]; len(f) > 0 {
					cell = c.line.Unit.text(median(f))
					if r, ok := c.line.ratio(systems[0], s); ok && s != systems[0] {
						cell += fmt.Sprintf(" (%s)", number2(r))
					}
				}
				fmt.Fprintf(&b, " | %s", cell)
			}
			fmt.Fprintln(&b, " |")
		}
	}
	return b.Bytes()
}

// number2 prints a ratio by two figures.
func number2(v float64) string {
	if v >= 10 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.2g", v)
}
