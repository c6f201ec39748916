// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
)

// A paired is the figures of one benchmark in ns, by the two trees.
type paired struct {
	name     string
	was, now []float64
}

const (
	tooMuch = 1.25 // times what it was
	chance  = 0.05 // below it two samples differ
)

// moved returns by how much the median has grown, and whether that is no chance.
func (p paired) moved() (ratio float64, real bool) {
	if len(p.was) == 0 || len(p.now) == 0 {
		return 1, false
	}
	return median(p.now) / median(p.was), differ(p.was, p.now) < chance
}

// checkMain runs the Go benchmarks of the baseline and of this tree in turn.
func checkMain(ctx context.Context, args []string) (err error) {
	flags := flag.NewFlagSet("imgfs-bench check", flag.ExitOnError)
	base := flags.String("baseline", "", "the commit to compare with (default: what bench/BASELINE names)")
	dir := flags.String("dir", "build/bench-check", "where binaries and output go")
	runs := flags.Int("runs", 10, "how often each is run")
	long := flags.String("time", "50ms", "how long, or how often with an x (100x), one run is")
	mkimage := flags.String("mkimage", "scripts/mkimage", "the script that makes the images")
	flags.Parse(args)
	if *base == "" {
		b, err := os.ReadFile("bench/BASELINE")
		if err != nil {
			return err
		}
		*base = strings.TrimSpace(string(b))
	}
	where, err := filepath.Abs(*dir)
	if err != nil {
		return err
	}
	tree, err := os.Getwd()
	if err != nil {
		return err
	}
	for _, sub := range []string{"was", "now"} {
		if err := os.MkdirAll(filepath.Join(where, sub), 0o755); err != nil {
			return err
		}
	}
	old := filepath.Join(where, "tree")
	remove := func() error {
		_, err := output(exec.Command("git", "worktree", "remove", "--force", old))
		return err
	}
	if _, err := os.Stat(old); err == nil { // a killed run left it
		if err := remove(); err != nil {
			return err
		}
	}
	if _, err := output(exec.CommandContext(ctx, "git", "worktree", "add", "--detach", old, *base)); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	was, err := buildTests(ctx, old, filepath.Join(where, "was"))
	if err != nil {
		return err
	}
	now, err := buildTests(ctx, tree, filepath.Join(where, "now"))
	if err != nil {
		return err
	}
	layer := filepath.Join(where, "layer.gz")
	b := bench{ctx: ctx, mkimage: *mkimage}
	if err := b.layerOfBase(layer); err != nil {
		return err
	}
	all, err := inTurn(ctx, where, was, now, *runs, layer, "-test.benchtime", *long)
	if err != nil {
		return err
	}
	return printMoved(os.Stdout, *base, all)
}

// inTurn runs both builds again and again, each first in half of the runs, and
// keeps what they print in was.txt and now.txt of dir, for benchstat.
func inTurn(ctx context.Context, dir string, was, now build, runs int, layer string, args ...string) (all []*paired, err error) {
	at := map[string]*paired{}
	var texts [2]strings.Builder
	for run := range runs {
		fmt.Fprintf(os.Stderr, "imgfs-bench: run %d of %d\n", run+1, runs)
		for _, s := range suites() {
			for i := range 2 {
				which := (run + i) % 2
				out, err := []build{was, now}[which].run(ctx, s, layer, args...)
				if err != nil {
					return nil, err
				}
				texts[which].WriteString(out)
				for _, r := range parseResults(s.pkg, out) {
					p := at[r.name]
					if p == nil {
						p = &paired{name: r.name}
						at[r.name], all = p, append(all, p)
					}
					into := []*[]float64{&p.was, &p.now}[which]
					*into = append(*into, r.values["ns/op"])
				}
			}
		}
	}
	for i, name := range []string{"was.txt", "now.txt"} {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), []byte(texts[i].String()), 0o644))
	}
	return all, err
}

// printMoved says what moved. Its error says what became slower by too much.
func printMoved(w io.Writer, base string, all []*paired) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "benchmark\tat %s\tnow\tmoved\n", base)
	var slow []string
	still := 0
	for _, p := range all {
		ratio, real := p.moved()
		if !real {
			still++
			continue
		}
		said := fmt.Sprintf("%+.0f%%", 100*(ratio-1))
		if ratio > tooMuch {
			slow = append(slow, p.name)
			said += " TOO MUCH"
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", p.name, seconds.text(median(p.was)/1e9), seconds.text(median(p.now)/1e9), said)
	}
	tw.Flush()
	fmt.Fprintf(w, "%d of %d did not move, or are not in both\n", still, len(all))
	if len(slow) > 0 {
		slices.Sort(slow)
		return fmt.Errorf("slower by more than %.0f %%: %s", 100*(tooMuch-1), strings.Join(slow, ", "))
	}
	return nil
}
