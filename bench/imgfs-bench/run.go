// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A bench measures rows: each by all its systems in turn, each turn a mount of
// its own, again and again.
type bench struct {
	imgfs, memfs, self string // binaries
	mkimage, dir       string
	json, lines        string
	runs               int
	quick              bool
	sleepy             bool            // CPUs without work sleep, as they do without us
	only               []string        // systems; empty: all
	also               []string        // systems, of rows of the group write
	ctx                context.Context // ends at a signal

	images      map[string]*image // by shape
	loaded      map[string]string // names of images, by store and archive
	turns       int               // so far
	turn        string            // directory of the turn
	work, store string            // where to work now
	bare        string            // where to work on the disk's own filesystem
	private     *private          // where else; nil: no row wants it
	mounted     []string          // what is to be unmounted at an end
	undo        []func() error    // what else is to be undone, the last first
	report      *report
}

// splitList splits at commas; of nothing it makes nothing.
func splitList(s string) []string {
	return slices.DeleteFunc(strings.Split(s, ","), func(s string) bool { return s == "" })
}

func (b *bench) run(rows []row) (err error) {
	if err := b.begin(rows); err != nil {
		return err
	}
	alone, err := waitAlone(filepath.Join(b.dir, "bench.lock"))
	if err != nil {
		return err
	}
	defer alone.Close()
	if err := sweep(b.dir); err != nil {
		return err
	}
	if b.bare, err = os.MkdirTemp(b.dir, workPrefix); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.bare)) }()
	if slices.ContainsFunc(rows, func(r row) bool { return r.private }) {
		if b.private, err = newPrivate(b.bare); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, b.removePrivate()) }()
	}
	defer b.cleanUp()
	if err := apart(b.bare); err != nil {
		return err
	}
	b.report = newReport(b.runs)
	if !b.sleepy {
		awake, err := keepAwake()
		if err != nil {
			fmt.Fprintf(os.Stderr, "imgfs-bench: idle CPUs sleep: %v\n", err)
		} else {
			defer awake.Close()
			b.report.Machine += ", CPUs kept awake"
		}
	}
	if b.report.Version, err = b.version(); err != nil {
		return err
	}
	// What ends a run leaves the figures that it has.
	err = b.measure(rows)
	b.report.sort(rows)
	b.report.print(os.Stdout, rows)
	if b.json != "" {
		err = errors.Join(err, b.report.write(b.json))
	}
	if b.lines != "" {
		err = errors.Join(err, b.report.writeLines(b.lines))
	}
	return err
}

// begin looks whether all that is needed is there.
func (b *bench) begin(rows []row) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("only root can mount overlayfs and drop the caches: run it by sudo")
	}
	if b.quick {
		b.runs = min(b.runs, 3)
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
	b.images, b.loaded = map[string]*image{}, map[string]string{}
	for _, r := range rows {
		if r.shape == "" || b.images[r.shape] != nil {
			continue
		}
		archive, err := makeImage(b.ctx, b.mkimage, r.shape)
		if err != nil {
			return err
		}
		b.images[r.shape] = &image{shape: r.shape, archive: archive}
	}
	if b.dir == "" {
		if b.dir, err = cacheDir(); err != nil {
			return err
		}
	}
	return os.MkdirAll(b.dir, 0o755)
}

// makeImage returns the path of the archive of a shape.
func makeImage(ctx context.Context, mkimage, shape string) (string, error) {
	cmd := exec.CommandContext(ctx, mkimage, shape)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", mkimage, shape, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// cacheDir is where scripts/mkimage keeps images.
func cacheDir() (string, error) {
	if dir := os.Getenv("IMGFS_TEST_CACHE"); dir != "" {
		return dir, nil
	}
	dir, err := os.UserCacheDir()
	return filepath.Join(dir, "imgfs-test"), err
}

func (b *bench) version() (string, error) {
	out, err := output(exec.Command(b.imgfs, "version"))
	version, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(out), "imgfs "), ",")
	return version, err
}

// measure goes through the rows: first those of the private filesystem, so
// that its space is free for what the others need.
func (b *bench) measure(rows []row) error {
	for _, private := range []bool{true, false} {
		if !private && b.private != nil {
			if err := b.removePrivate(); err != nil {
				return err
			}
		}
		for i, r := range rows {
			if r.private != private {
				continue
			}
			b.enter(private)
			if err := b.row(r); err != nil {
				b.report.drop(r)
				if b.ctx.Err() != nil {
					return errors.New("interrupted")
				}
				return fmt.Errorf("%s: %w", r.title(), err)
			}
			b.report.printRow(os.Stderr, r)
			if !private {
				b.forget(r.shape, rows[i+1:])
			}
		}
	}
	return nil
}

// removePrivate ends the work in the private filesystem.
func (b *bench) removePrivate() error {
	if b.private == nil {
		return nil
	}
	p := b.private
	b.private = nil
	return p.remove()
}

// enter chooses where to work.
func (b *bench) enter(private bool) {
	b.work = b.bare
	if private {
		b.work = b.private.dir
	}
	b.store = filepath.Join(b.work, "store")
}

// row measures one row. Who comes first changes from run to run.
func (b *bench) row(r row) error {
	systems := slices.Clone(r.systems)
	if b.quick && len(r.main) > 0 {
		systems = slices.Clone(r.main)
	}
	if r.group == "write" {
		systems = append(systems, b.also...)
	}
	systems = slices.DeleteFunc(systems, func(s string) bool { return !b.wants(s) })
	var im *image
	if r.shape != "" {
		im = b.images[r.shape]
	}
	if r.gobench {
		return b.hotRow(r)
	}
	var able []string
	for _, system := range systems {
		var no *unableError
		if err := b.prepare(r, system, im); errors.As(err, &no) {
			b.report.Skipped[system] = no.why
			fmt.Fprintf(os.Stderr, "imgfs-bench: %s is left out: %s\n", system, no.why)
		} else if err != nil {
			return fmt.Errorf("%s: %w", system, err)
		} else {
			able = append(able, system)
		}
	}
	runs := b.runs
	if !b.quick {
		runs = max(runs, r.runs)
	}
	first := b.turns
	var failed []string
	for run := range runs {
		for i := range able {
			if err := b.ctx.Err(); err != nil {
				return err
			}
			system := able[(run+i)%len(able)]
			if slices.Contains(failed, system) {
				continue
			}
			err := b.oneTurn(r, system, im)
			if err != nil && (b.ctx.Err() != nil || strings.HasPrefix(system, imgfsIs)) {
				return fmt.Errorf("%s: %w", system, err)
			}
			if err != nil { // others' faults do not end the table
				failed = append(failed, system)
				why, _, _ := strings.Cut(strings.ReplaceAll(err.Error(), b.dir, ""), "\n")
				b.report.Skipped[r.title()+", "+system+" from then on"] = why
				fmt.Fprintf(os.Stderr, "imgfs-bench: %s: %s is left out: %v\n", r.title(), system, err)
			}
		}
	}
	return b.removeTurns(first)
}

// removeTurns removes what the turns after the first have left, but for those
// on the private filesystem, which goes with it: ext4 is slow for a while where
// many files were removed.
func (b *bench) removeTurns(first int) error {
	if b.private != nil && b.work == b.private.dir {
		return nil
	}
	for turn := first + 1; turn <= b.turns; turn++ {
		if err := os.RemoveAll(b.turnDir(turn)); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) turnDir(turn int) string {
	return filepath.Join(b.work, fmt.Sprintf("turn-%03d", turn))
}

// wants reports whether a system is to be measured.
func (b *bench) wants(system string) bool {
	return len(b.only) == 0 || slices.ContainsFunc(b.only, func(s string) bool {
		return s == system || s == imgfsIs && strings.HasPrefix(system, imgfsIs+" ")
	})
}

// An unableError says why a system cannot be measured on this machine.
type unableError struct{ why string }

func (e *unableError) Error() string { return e.why }

// oneTurn measures one system once.
func (b *bench) oneTurn(r row, system string, im *image) error {
	b.turns++
	b.turn = b.turnDir(b.turns)
	if err := os.Mkdir(b.turn, 0o755); err != nil {
		return err
	}
	if r.turn != nil {
		return r.turn(b, r, system, im)
	}
	m, err := b.mount(r, system, im)
	if err != nil {
		return err
	}
	return errors.Join(b.workAt(r, system, m), b.unmount(m))
}

// workAt runs the row's workload at m and records its figures.
func (b *bench) workAt(r row, system string, m *mounted) error {
	_, wantsDisk := r.limits[theDisk]
	_, wantsPeak := r.limits[thePeak]
	var before int64
	w, err := b.startWork(r.workload(b.quick), m)
	if err != nil {
		return err
	}
	for {
		s, ok, err := w.ready()
		if err != nil || !ok {
			return errors.Join(err, w.end())
		}
		syscall.Sync()
		if s.cold != warm {
			if err := dropCaches(s.cold); err != nil {
				return errors.Join(err, w.end())
			}
		}
		if wantsDisk && m.upper != "" {
			if before, err = diskUsage(m.upper); err != nil {
				return errors.Join(err, w.end())
			}
		}
		at := effortOf(m.pid)
		hung := killIfHung(m.pid)
		figures, worked, errno, err := w.do(s.name)
		if !hung.Stop() {
			err = errors.Join(fmt.Errorf("%s: no end after %v: server killed", s.name, mostOfStep), err)
		}
		if err != nil {
			return errors.Join(err, w.end())
		}
		for _, f := range figures {
			b.report.add(r, f.name, system, seconds, f.seconds)
		}
		spent := effortOf(m.pid).minus(at)
		spent.Worker = worked
		b.report.effort(r, s.name, system, spent)
		if errno != "" {
			b.report.refused(r, s.name, system, errno)
		}
		if wantsDisk && m.upper != "" {
			after, err := diskUsage(m.upper)
			if err != nil {
				return errors.Join(err, w.end())
			}
			b.report.add(r, theDisk, system, mebibytes, float64(after-before)/(1<<20))
		}
		if s.anon && m.pid != 0 {
			b.report.add(r, anonAfter(s.name), system, mebibytes, anonOf(m.pid))
		}
		if wantsPeak {
			b.report.add(r, thePeak, system, mebibytes, w.mostAnon())
		}
	}
}

// mostOfStep is how long a step of a workload may take: the slowest peers need a
// tenth of it.
const mostOfStep = 5 * time.Minute

// killIfHung kills the server pid, if it is not 0, unless it is stopped before the time
// is over. Then whoever waits for an answer gets an error.
func killIfHung(pid int) *time.Timer {
	return time.AfterFunc(mostOfStep, func() {
		if pid != 0 {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	})
}

// command returns a call of imgfs with the store of this run.
func (b *bench) command(args ...string) *exec.Cmd {
	return inStore(exec.CommandContext(b.ctx, b.imgfs, args...), b.store)
}

func inStore(cmd *exec.Cmd, store string) *exec.Cmd {
	cmd.Env = append(os.Environ(), "IMGFS_ROOT="+store)
	return cmd
}

// output runs a command and returns what it prints; an error holds its stderr.
func output(cmd *exec.Cmd) (string, error) {
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(errs.Bytes()))
	}
	return out.String(), nil
}

// A coldness says which of the kernel's caches are empty.
type coldness int

const (
	warm       coldness = 0 // none
	noDentries coldness = 2 // names and inodes
	cold       coldness = 3 // these and pages
)

func dropCaches(c coldness) error {
	syscall.Sync()
	return os.WriteFile("/proc/sys/vm/drop_caches", fmt.Append(nil, int(c)), 0)
}

// diskUsage returns the bytes that the files below dir take on disk; 0 if
// there is no dir.
func diskUsage(dir string) (int64, error) {
	syscall.Sync() // blocks are given out late
	var sum int64
	type inode struct{ dev, ino uint64 }
	seen := map[inode]bool{} // that have several names
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		if id := (inode{st.Dev, st.Ino}); st.Nlink == 1 || d.IsDir() || !seen[id] {
			seen[id] = st.Nlink > 1
			sum += st.Blocks * 512
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	return sum, err
}
