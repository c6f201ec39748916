// SPDX-License-Identifier: Apache-2.0

// Command imgfs-bench measures imgfs and its peers side by side: the same
// images, mounted by each in turn, in one run. It prints a table with the
// promised limits in it and keeps all figures as JSON.
//
//	imgfs-bench [GROUP]... [FLAG]...    measure rows: hot, load, registry, forensics, read, write
//	imgfs-bench gobench [FLAG]...       Go benchmarks of the hot path alone
//	imgfs-bench check [FLAG]...         the same against a recorded commit
//	imgfs-bench keep [FLAG]... FILE     put a run's figures on record
//	imgfs-bench plot [FLAG]... FILE     draw charts and the README's table
//
// It knows imgfs by its command line alone. Measuring needs root: for
// overlayfs, for unpacking owners and devices, and to drop the kernel's caches.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

func main() {
	if err := dispatch(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "imgfs-bench:", err)
		os.Exit(1)
	}
}

func dispatch(args []string) error {
	// A signal ends a run as an error does, with everything unmounted and
	// removed.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	verb, rest := "", args
	if len(args) > 0 {
		verb, rest = args[0], args[1:]
	}
	switch verb {
	case "work":
		if len(rest) != 2 {
			return fmt.Errorf("work wants the name of a workload and a directory")
		}
		stop() // its parent sees to signals
		return child(rest[0], rest[1])
	case "gobench":
		return goMain(ctx, rest)
	case "check":
		return checkMain(ctx, rest)
	case "keep":
		return keepMain(rest)
	case "plot":
		return plotMain(rest)
	}
	return measureMain(ctx, args)
}

// measureMain measures rows.
func measureMain(ctx context.Context, args []string) error {
	var groups []string
	for len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		groups, args = append(groups, args[0]), args[1:]
	}
	flags := flag.NewFlagSet("imgfs-bench "+strings.Join(groups, " "), flag.ExitOnError)
	b := bench{ctx: ctx}
	var names, systems, also string
	flags.StringVar(&names, "rows", "", "only these rows, with a comma between them (default: all but chown and million); ROW/SHAPE is that of one image")
	flags.StringVar(&systems, "systems", "", "only these systems, with a comma between them; imgfs is all ways of it (default: all of a row)")
	flags.StringVar(&also, "also", "", "these systems too, in every row of the group write: \"memfs -writeback\", \"memfs -noxattr\", \"imgfs --rw -o nopassthrough\"")
	flags.BoolVar(&b.quick, "quick", false, "the main rows, a shorter file, fewer runs")
	flags.StringVar(&b.imgfs, "imgfs", "./imgfs", "the binary to measure")
	flags.StringVar(&b.memfs, "memfs", "build/memfs", "the memory-only server")
	flags.StringVar(&b.mkimage, "mkimage", "scripts/mkimage", "the script that makes the images")
	flags.StringVar(&b.dir, "dir", "", "where to work: on ext4 (default: beside the cached images)")
	flags.IntVar(&b.runs, "runs", 5, "how often each figure is measured")
	flags.BoolVar(&b.sleepy, "sleepy", false, "let idle CPUs sleep; else they are kept awake, so that no figure is that of waking one")
	flags.StringVar(&b.json, "json", "", "write the figures to this file")
	flags.StringVar(&b.lines, "lines", "", "write them as lines of Go benchmarks to this file, for benchstat")
	flags.Parse(args)
	if flags.NArg() != 0 {
		return fmt.Errorf("what is %q?", flags.Arg(0))
	}
	b.only, b.also = splitList(systems), splitList(also)
	chosen, err := chooseRows(groups, splitList(names), b.quick)
	if err != nil {
		return err
	}
	return b.run(chosen)
}
