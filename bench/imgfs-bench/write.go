// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A writeBench measures writable mounts: each row by all its systems in turn,
// each turn a mount of its own, again and again.
type writeBench struct {
	bench
	memfs, self string // binaries
	quick       bool
	only        []string            // systems; empty: all
	also        []string            // systems
	archives    map[string]string   // by shape
	layers      map[string][]string // unpacked, by shape
	loaded      map[string]string   // names of images, by store and archive
	ctx         context.Context     // ends at a signal
	turns       int                 // so far
	turn        string              // directory of the turn
	bare        string              // where to work on the disk's own filesystem
	private     *private            // where else; nil: no row wants it
	table       *table
}

func writeMain(args []string) error {
	flags := flag.NewFlagSet("imgfs-bench write", flag.ExitOnError)
	var b writeBench
	rows := flags.String("rows", "", "only these rows, with a comma between them (default: all but million)")
	systems := flags.String("systems", "", "only these systems, with a comma between them (default: all of a row)")
	also := flags.String("also", "", "these systems too, in every row: \"memfs -writeback\", \"memfs -noxattr\", \"imgfs -o nopassthrough\"")
	flags.BoolVar(&b.quick, "quick", false, "a shorter file, fewer runs")
	flags.StringVar(&b.imgfs, "imgfs", "./imgfs", "the binary to measure")
	flags.StringVar(&b.memfs, "memfs", "build/memfs", "the memory-only server")
	flags.StringVar(&b.mkimage, "mkimage", "scripts/mkimage", "the script that makes the images")
	flags.StringVar(&b.dir, "dir", "", "where to work: on ext4 (default: beside the cached images)")
	flags.IntVar(&b.runs, "runs", 5, "how often each figure is measured")
	flags.StringVar(&b.json, "json", "", "write the figures to this file")
	flags.Parse(args)
	if flags.NArg() != 0 {
		return fmt.Errorf("what is %q?", flags.Arg(0))
	}
	b.only, b.also = splitList(*systems), splitList(*also)
	if b.quick {
		b.runs = min(b.runs, 3)
	}
	chosen, err := chooseRows(*rows)
	if err != nil {
		return err
	}
	return b.run(chosen)
}

// splitList splits at commas; of nothing it makes nothing.
func splitList(s string) []string {
	return slices.DeleteFunc(strings.Split(s, ","), func(s string) bool { return s == "" })
}

// chooseRows returns the rows of the given names, in the order of the table.
func chooseRows(names string) ([]writeRow, error) {
	all := writeRows()
	if names == "" {
		return slices.DeleteFunc(all, func(r writeRow) bool { return r.long }), nil
	}
	wanted := strings.Split(names, ",")
	for _, name := range wanted {
		if !slices.ContainsFunc(all, func(r writeRow) bool { return r.name == name }) {
			var known []string
			for _, r := range all {
				known = append(known, r.name)
			}
			return nil, fmt.Errorf("no such row: %s (%s)", name, strings.Join(known, ", "))
		}
	}
	return slices.DeleteFunc(all, func(r writeRow) bool { return !slices.Contains(wanted, r.name) }), nil
}

func (b *writeBench) run(rows []writeRow) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("only root can mount overlayfs and drop the caches: run it by sudo")
	}
	if b.runs < 1 {
		return errors.New("at least one run")
	}
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	for _, name := range []*string{&b.imgfs, &b.memfs} {
		if *name, err = filepath.Abs(*name); err != nil {
			return err
		}
	}
	for _, r := range rows {
		if !slices.Contains(b.shapes, r.shape) {
			b.shapes = append(b.shapes, r.shape)
		}
	}
	images, err := makeImages(b.config)
	if err != nil {
		return err
	}
	b.archives, b.layers, b.loaded = map[string]string{}, map[string][]string{}, map[string]string{}
	for _, im := range images {
		b.archives[im.shape] = im.archive
	}
	if b.dir == "" {
		b.dir = filepath.Dir(images[0].archive)
	}
	alone, err := waitAlone(filepath.Join(b.dir, "bench.lock"))
	if err != nil {
		return err
	}
	defer alone.Close()
	if b.bare, err = os.MkdirTemp(b.dir, "bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.bare)) }()
	if slices.ContainsFunc(rows, func(r writeRow) bool { return r.private }) {
		if b.private, err = newPrivate(b.bare); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, b.private.remove()) }()
	}
	defer b.unmountAll()
	defer b.stopAtSignal()()
	if err := apart(b.bare); err != nil {
		return err
	}
	b.table = newTable(b.runs)
	for _, r := range rows {
		b.enter(r.private)
		im, err := b.prepare(r.shape)
		if err != nil {
			return fmt.Errorf("%s: %w", r.shape, err)
		}
		if err := b.row(r, im); b.ctx.Err() != nil {
			return errors.New("interrupted")
		} else if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		b.table.printRow(os.Stderr, r)
	}
	b.table.print(os.Stdout, rows)
	if b.json == "" {
		return nil
	}
	return b.table.write(b.json)
}

// waitAlone waits until no other run measures; that lasts until the file is
// closed.
func waitAlone(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
		return f, nil
	}
	fmt.Fprintln(os.Stderr, "imgfs-bench: waiting for another run to end")
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// stopAtSignal has a signal end the run as an error does, with everything
// unmounted and removed.
func (b *writeBench) stopAtSignal() (undo func()) {
	ctx, undo := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	b.ctx = ctx
	return undo
}

// enter chooses where to work.
func (b *writeBench) enter(private bool) {
	b.work = b.bare
	if private {
		b.work = b.private.dir
	}
	b.store = filepath.Join(b.work, "store")
}

// prepare returns an image that is loaded into the store and unpacked for
// overlayfs.
func (b *writeBench) prepare(shape string) (im image, err error) {
	im = image{shape: shape, archive: b.archives[shape]}
	if len(b.only) == 0 || slices.ContainsFunc(b.only, func(s string) bool { return strings.HasPrefix(s, imgfsIs) }) {
		if im.name, err = b.load(im.archive); err != nil {
			return im, err
		}
	}
	if b.layers[shape] == nil {
		fmt.Fprintf(os.Stderr, "imgfs-bench: unpacking %s\n", shape)
		if b.layers[shape], _, _, err = unpackLayers(im.archive, filepath.Join(b.bare, "layers-"+shape)); err != nil {
			return im, err
		}
	}
	im.layers = b.layers[shape]
	return im, nil
}

// load returns the name of an archive's image in the store.
func (b *writeBench) load(archive string) (string, error) {
	key := b.store + " " + archive
	if name, ok := b.loaded[key]; ok {
		return name, nil
	}
	out, err := output(b.command("load", "-q", "-i", archive))
	if err != nil {
		return "", err
	}
	_, b.loaded[key], _ = strings.Cut(strings.TrimSpace(out), ": ")
	return b.loaded[key], nil
}

// row measures one row. Who comes first changes from run to run.
func (b *writeBench) row(r writeRow, im image) error {
	systems := slices.DeleteFunc(slices.Concat(r.systems, b.also), func(s string) bool {
		return len(b.only) > 0 && !slices.Contains(b.only, s)
	})
	if len(systems) == 0 {
		return nil
	}
	for run := range b.runs {
		for i := range systems {
			if err := b.ctx.Err(); err != nil {
				return err
			}
			system := systems[(run+i)%len(systems)]
			if err := b.oneTurn(r, system, im); err != nil {
				return fmt.Errorf("%s: %w", system, err)
			}
		}
	}
	return nil
}

func (b *writeBench) oneTurn(r writeRow, system string, im image) error {
	m, err := b.mountSystem(system, im)
	if err != nil {
		return err
	}
	return errors.Join(b.workAt(r, system, m), b.unmount(m))
}

// workAt runs the row's workload at m and records its figures.
func (b *writeBench) workAt(r writeRow, system string, m *mounted) error {
	_, wantsDisk := r.limits[theDisk]
	_, wantsAnon := r.limits[theAnon]
	var before int64
	w, err := b.startWork(r.workload(b.quick), m)
	if err != nil {
		return err
	}
	for {
		step, cold, ok, err := w.ready()
		if err != nil || !ok {
			return errors.Join(err, w.end())
		}
		syscall.Sync()
		if cold {
			if err := dropCaches(); err != nil {
				return errors.Join(err, w.end())
			}
		}
		if wantsDisk && m.upper != "" {
			if before, err = diskUsage(m.upper); err != nil {
				return errors.Join(err, w.end())
			}
		}
		at := effortOf(m.pid)
		figures, worked, errno, err := w.do(step)
		if err != nil {
			return errors.Join(err, w.end())
		}
		for _, f := range figures {
			b.table.add(r.name, f.name, system, f.seconds)
		}
		spent := effortOf(m.pid).minus(at)
		spent.Worker = worked
		b.table.effort(r.name, step, system, spent)
		if errno != "" {
			b.table.refused(r.name, step, system, errno)
		}
		if wantsDisk && m.upper != "" {
			after, err := diskUsage(m.upper)
			if err != nil {
				return errors.Join(err, w.end())
			}
			b.table.add(r.name, theDisk, system, float64(after-before)/(1<<20))
		}
		if wantsAnon {
			b.table.add(r.name, theAnon+", most", system, w.mostAnon())
			b.table.add(r.name, theAnon, system, anonOf(m.pid))
		}
	}
}

// A worker is the process that does a workload.
type worker struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	errs strings.Builder

	stop chan struct{}
	done sync.WaitGroup
	anon float64 // MiB, the most that the server had; read after done
}

type figure struct {
	name    string
	seconds float64
}

func (b *writeBench) startWork(name string, m *mounted) (*worker, error) {
	w := &worker{cmd: exec.CommandContext(b.ctx, b.self, "work", name, m.dir), stop: make(chan struct{})}
	w.cmd.Dir = "/"
	w.cmd.Stderr = &w.errs
	var err error
	if w.in, err = w.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	w.out = bufio.NewReader(out)
	if err := w.cmd.Start(); err != nil {
		return nil, err
	}
	if m.pid != 0 {
		w.done.Add(1)
		go w.watch(m.pid)
	}
	return w, nil
}

// watch looks at the server's memory now and then.
func (w *worker) watch(pid int) {
	defer w.done.Done()
	for tick := time.NewTicker(200 * time.Millisecond); ; {
		select {
		case <-w.stop:
			return
		case <-tick.C:
			w.anon = max(w.anon, anonOf(pid))
		}
	}
}

// mostAnon ends watching.
func (w *worker) mostAnon() float64 {
	close(w.stop)
	w.stop = make(chan struct{})
	w.done.Wait()
	return w.anon
}

// ready waits for the next step; not ok: there is none.
func (w *worker) ready() (step string, cold, ok bool, err error) {
	line, err := w.out.ReadString('\n')
	if err == io.EOF {
		return "", false, false, nil
	}
	if err != nil {
		return "", false, false, err
	}
	_, err = fmt.Sscanf(line, "ready %q %t", &step, &cold)
	return step, cold, err == nil, err
}

// do lets the worker do a step and reads its figures and how long it computed,
// or with which errno it could not.
func (w *worker) do(step string) (figures []figure, cpu float64, errno string, err error) {
	if _, err := io.WriteString(w.in, "go\n"); err != nil {
		return nil, 0, "", err
	}
	for {
		line, err := w.out.ReadString('\n')
		if err != nil {
			return nil, 0, "", fmt.Errorf("%s: %w: %s", step, err, strings.TrimSpace(w.errs.String()))
		}
		var f figure
		if _, err := fmt.Sscanf(line, "%q", &f.name); err != nil {
			return nil, 0, "", fmt.Errorf("%q: %w", line, err)
		}
		rest := strings.TrimSpace(strings.TrimPrefix(line, strconv.Quote(f.name)))
		if errno, ok := strings.CutPrefix(rest, "errno: "); ok {
			return figures, 0, errno, nil
		}
		if _, err := fmt.Sscan(rest, &f.seconds, &cpu); err != nil {
			return nil, 0, "", fmt.Errorf("%q: %w", line, err)
		}
		figures = append(figures, f)
		if f.name == step {
			return figures, cpu, "", nil
		}
	}
}

// end waits for the worker's end.
func (w *worker) end() error {
	close(w.stop)
	w.done.Wait()
	w.in.Close() // it may be waiting for a line
	if err := w.cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w: %s", w.cmd.Args[2], err, strings.TrimSpace(w.errs.String()))
	}
	return nil
}
