// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// A suite is the benchmarks of a package that belong to the hot path: from a
// name to a node, from a request to its answer, from packed bytes to plain.
type suite struct {
	pkg     string // its directory
	pattern string // for -test.bench
	quick   string // of the main ones; empty: none
}

func suites() []suite {
	return []suite{
		{"index", `^BenchmarkLookup$/^(hit|miss|gomap)$|^BenchmarkReadDir$|^BenchmarkScan$/^names=100k$/^seek`, `^BenchmarkLookup$/^(hit|miss)$`},
		{"unionfs", `^BenchmarkLookup$`, ``},
		{"unionfs/mount", `^BenchmarkRequest$`, `^BenchmarkRequest$`},
		{"layerstore/seek", `^BenchmarkReadAt$/^gzip$`, ``},
		{"bench/hot", `.`, `^BenchmarkGunzip$/^points`},
	}
}

// What stands beside imgfs's figures in the same package.
const (
	goMapIs    = "a Go map"
	goGzipIs   = "compress/gzip"
	oneLayerIs = "one layer"
	oneCoreIs  = "one core"
)

// besides says which benchmark is whose peer: its figure is told as that of the
// system beside the figure of the other.
var besides = []struct{ benchmark, of, system string }{
	{"index.Lookup/gomap/names=1k", "index.Lookup/hit/names=1k", goMapIs},
	{"index.Lookup/gomap/names=10k", "index.Lookup/hit/names=10k", goMapIs},
	{"index.Lookup/gomap/names=100k", "index.Lookup/hit/names=100k", goMapIs},
	{"index.Lookup/gomap/names=1000k", "index.Lookup/hit/names=1000k", goMapIs},
	{"unionfs.Lookup/layers=1/names=100k", "unionfs.Lookup/layers=128/names=100k", oneLayerIs},
	{"hot.Gunzip/library", "hot.Gunzip/points-made/cores=1", goGzipIs},
	{"hot.Gunzip/points-known/cores=1", "hot.Gunzip/points-known/cores=2", oneCoreIs},
}

const allocations = ", allocations"

func hotLimits() map[string][]limit {
	m := map[string][]limit{
		"unionfs.Lookup/layers=128/names=100k": {{peer: oneLayerIs, most: 1.1}},
		// 900 MB/s where compress/gzip has 301.
		"hot.Gunzip/points-made/cores=1":  {{peer: goGzipIs, most: 3, atLeast: true}},
		"hot.Gunzip/points-known/cores=2": {{peer: oneCoreIs, most: 1.8, atLeast: true}},
	}
	for _, op := range []string{"hit", "miss"} {
		m["index.Lookup/"+op+"/names=100k"] = []limit{{most: 260e-9}}
		m["index.Lookup/"+op+"/names=1000k"] = []limit{{most: 450e-9}}
		for _, n := range []string{"1k", "10k", "100k", "1000k"} {
			m["index.Lookup/"+op+"/names="+n+allocations] = []limit{{most: 0}}
		}
	}
	for _, op := range []string{"lookup", "absent", "getattr", "readdirplus", "read"} {
		m["mount.Request/"+op+allocations] = []limit{{most: 0}}
	}
	return m
}

// A result is one line of a benchmark's output.
type result struct {
	name   string             // package, a dot, and the benchmark without "Benchmark" and the number of cores
	values map[string]float64 // by unit
}

// parseResults reads the output of a test binary of a package.
func parseResults(pkg, out string) (results []result) {
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		name, ok := strings.CutPrefix(cmp.Or(strings.Join(f[:min(1, len(f))], ""), " "), "Benchmark")
		if !ok || len(f) < 4 {
			continue
		}
		if _, err := strconv.Atoi(f[1]); err != nil {
			continue
		}
		if i := strings.LastIndexByte(name, '-'); i > 0 {
			if _, err := strconv.Atoi(name[i+1:]); err == nil {
				name = name[:i]
			}
		}
		r := result{name: filepath.Base(pkg) + "." + name, values: map[string]float64{}}
		for i := 2; i+1 < len(f); i += 2 {
			if v, err := strconv.ParseFloat(f[i], 64); err == nil {
				r.values[f[i+1]] = v
			}
		}
		results = append(results, r)
	}
	return results
}

// A build is the test binaries of one source tree.
type build struct {
	tree string            // its root
	bin  map[string]string // by package
}

// buildTests builds the suites of a tree into dir. A package that the tree does
// not have is left out.
func buildTests(ctx context.Context, tree, dir string) (build, error) {
	bd := build{tree: tree, bin: map[string]string{}}
	for _, s := range suites() {
		if _, err := os.Stat(filepath.Join(tree, s.pkg)); err != nil {
			continue
		}
		bin := filepath.Join(dir, strings.ReplaceAll(s.pkg, "/", "-")+".test")
		cmd := exec.CommandContext(ctx, "go", "test", "-c", "-o", bin, "./"+s.pkg)
		cmd.Dir = tree
		if _, err := output(cmd); err != nil {
			return bd, err
		}
		bd.bin[s.pkg] = bin
	}
	return bd, nil
}

// run runs a suite once and returns what it prints. It is not an error if the
// tree does not have it.
func (bd build) run(ctx context.Context, s suite, layer string, flags ...string) (string, error) {
	bin := bd.bin[s.pkg]
	if bin == "" {
		return "", nil
	}
	cmd := exec.CommandContext(ctx, bin, append([]string{"-test.run", "^$", "-test.bench", s.pattern, "-test.benchmem"}, flags...)...)
	cmd.Dir = filepath.Join(bd.tree, s.pkg)
	cmd.Env = append(os.Environ(), "IMGFS_BENCH_LAYER="+layer)
	out, err := output(cmd)
	if _, failed, ok := strings.Cut(out, "--- FAIL: "); ok && err == nil {
		err = fmt.Errorf("%s: %s", s.pkg, failed) // the exit code is 0 all the same
	}
	return out, err
}

// extractLayer writes the longest layer of an OCI archive to a file, as it is.
func extractLayer(archive, name string) error {
	image, in, err := openOCI(archive)
	if err != nil {
		return err
	}
	defer in.Close()
	var longest section
	for _, l := range image.layers {
		if l.size > longest.size {
			longest = l
		}
	}
	out, err := os.Create(name)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, io.NewSectionReader(in, longest.off, longest.size))
	return errors.Join(err, out.Close())
}

// hotRow measures the Go benchmarks as a row of the table.
func (b *bench) hotRow(r row) error {
	tree, err := os.Getwd()
	if err != nil {
		return err
	}
	dir := filepath.Join(b.work, "hot")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	bd, err := buildTests(b.ctx, tree, dir)
	if err != nil {
		return err
	}
	layer := filepath.Join(dir, "layer.gz")
	if err := b.layerOfBase(layer); err != nil {
		return err
	}
	for _, s := range suites() {
		if b.quick {
			s.pattern = s.quick
		}
		if s.pattern == "" {
			continue
		}
		out, err := bd.run(b.ctx, s, layer, "-test.benchtime", "100ms", "-test.count", strconv.Itoa(b.runs))
		if err != nil {
			return err
		}
		for _, res := range parseResults(s.pkg, out) {
			b.addResult(r, res)
		}
	}
	return nil
}

func (b *bench) layerOfBase(file string) error {
	archive, err := makeImage(b.ctx, b.mkimage, "base")
	if err != nil {
		return err
	}
	return extractLayer(archive, file)
}

// addResult adds one line of a Go benchmark to the report.
func (b *bench) addResult(r row, res result) {
	u, v := seconds, res.values["ns/op"]/1e9
	if rate, ok := res.values["MB/s"]; ok {
		u, v = megabytesPerSecond, rate
	}
	isPeerOnly := strings.Contains(res.name, "/gomap/") || strings.HasSuffix(res.name, "/library")
	for _, p := range besides {
		if p.benchmark == res.name {
			b.report.add(r, p.of, p.system, u, v)
		}
	}
	if isPeerOnly {
		return
	}
	b.report.add(r, res.name, imgfsIs, u, v)
	if _, ok := r.limits[res.name+allocations]; ok {
		b.report.add(r, res.name+allocations, imgfsIs, pieces, res.values["allocs/op"])
	}
}

// goMain runs the Go benchmarks alone and prints what they print.
func goMain(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("imgfs-bench gobench", flag.ExitOnError)
	dir := flags.String("dir", "build/gobench", "where binaries and profiles go")
	runs := flags.Int("runs", 6, "how often each is run")
	long := flags.String("time", "300ms", "how long, or how often with an x (100x), one run is")
	only := flags.String("bench", "", "only these, a pattern as of go test -bench (default: the hot path)")
	profile := flags.Bool("profile", false, "write a CPU profile of each package, and say how to draw its flame graph")
	mkimage := flags.String("mkimage", "scripts/mkimage", "the script that makes the images")
	flags.Parse(args)
	if err := os.MkdirAll(*dir, 0o755); err != nil {
		return err
	}
	where, err := filepath.Abs(*dir)
	if err != nil {
		return err
	}
	tree, err := os.Getwd()
	if err != nil {
		return err
	}
	bd, err := buildTests(ctx, tree, where)
	if err != nil {
		return err
	}
	b := bench{ctx: ctx, mkimage: *mkimage}
	layer := filepath.Join(where, "layer.gz")
	if err := b.layerOfBase(layer); err != nil {
		return err
	}
	var draw bytes.Buffer
	for _, s := range suites() {
		s.pattern = cmp.Or(*only, s.pattern)
		args := []string{"-test.benchtime", *long, "-test.count", strconv.Itoa(*runs)}
		if *profile {
			file := bd.bin[s.pkg] + ".cpu"
			args = append(args, "-test.cpuprofile", file)
			fmt.Fprintf(&draw, "\tgo tool pprof -http=: %s %s\n", bd.bin[s.pkg], file)
		}
		out, err := bd.run(ctx, s, layer, args...)
		if err != nil {
			return err
		}
		fmt.Print(strings.TrimSuffix(out, "PASS\n"))
	}
	if *profile {
		fmt.Fprintf(os.Stderr, "Flame graphs (View, Flame Graph) are drawn by\n%s", draw.Bytes())
	}
	return nil
}
