// SPDX-License-Identifier: Apache-2.0

package cow_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/imgfs/imgfs/cow"
	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/crashfs"
	"github.com/imgfs/imgfs/internal/fusetest"
	"github.com/imgfs/imgfs/unionfs"
)

// needDisk skips where the recorder cannot be mounted.
func needDisk(t *testing.T) {
	t.Helper()
	fusetest.Need(t)
	if os.Geteuid() != 0 {
		t.Skip("the recorder mounts by mount(2)")
	}
}

// An effort is how long a crash test goes on: IMGFS_CRASH_TIME, else the time
// given; IMGFS_CRASH_SEED names the first seed.
func effort(t *testing.T, short time.Duration) (until time.Time, seed uint64) {
	t.Helper()
	if s := os.Getenv("IMGFS_CRASH_TIME"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatal(err)
		}
		short = d
	}
	seed = 1
	if s := os.Getenv("IMGFS_CRASH_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	return time.Now().Add(short), seed
}

// TestPowerLoss cuts the power at random moments of random work, and checks
// what the next mount finds: invariant 6 of docs/design.md.
func TestPowerLoss(t *testing.T) {
	needDisk(t)
	fs := crashFS(t, crashTar(t))
	until, seed := effort(t, 7*time.Second)
	states := 0
	for ; time.Now().Before(until) && !t.Failed(); seed++ {
		h, log := record(t, fs, seed, crashOptions(seed), func(w *workload, _ *crashfs.FS) { w.random(true) })
		c := newChecker(t, fs, h, log, seed)
		rng := rand.New(rand.NewPCG(seed, 5))
		for range 60 {
			cut := c.from + rng.IntN(len(log.Ops)-c.from+1)
			if rng.IntN(3) == 0 { // right behind a promise, where it is the hardest to keep
				cut = max(c.from, log.Cut(h.promises[rng.IntN(len(h.promises))].pos))
			}
			for s := range log.States(cut, rng.Uint64(), 8) {
				states++
				c.check(s, false)
			}
			if t.Failed() || time.Now().After(until) {
				break
			}
		}
	}
	t.Logf("%d states checked", states)
}

// TestServerKilled ends the server behind every record of random work: nothing
// that was answered may be missing.
func TestServerKilled(t *testing.T) {
	needDisk(t)
	fs := crashFS(t, crashTar(t))
	until, seed := effort(t, 5*time.Second)
	states := 0
	for seed += 1000; time.Now().Before(until) && !t.Failed(); seed++ {
		h, log := record(t, fs, seed, crashOptions(seed), func(w *workload, _ *crashfs.FS) { w.random(true) })
		c := newChecker(t, fs, h, log, seed)
		rng := rand.New(rand.NewPCG(seed, 6))
		for _, k := range rng.Perm(len(log.Ops) - c.from + 1) {
			states++
			c.check(log.State(c.from+k, crashfs.All, 0), true)
			if t.Failed() || time.Now().After(until) {
				break
			}
		}
	}
	t.Logf("%d states checked", states)
}

// TestFailingDisk has the disk fail a call now and then: operations fail, with
// the disk's errno or none but EIO and EROFS, and change nothing; syncs that
// succeed keep their promise; and nothing that was answered is missing.
func TestFailingDisk(t *testing.T) {
	needDisk(t)
	fs := crashFS(t, crashTar(t))
	until, seed := effort(t, 6*time.Second)
	states, failures := 0, 0
	for seed += 2000; time.Now().Before(until) && !t.Failed(); seed++ {
		rng := rand.New(rand.NewPCG(seed, 7))
		armed := 0
		h, log := record(t, fs, seed, crashOptions(seed), func(w *workload, disk *crashfs.FS) {
			w.tolerate = func(err error) bool {
				failures++
				return errors.Is(err, syscall.EIO) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EROFS)
			}
			w.before = func() {
				if armed++; armed%20 == 10 {
					if err := disk.Fail(randomFault(rng)); err != nil {
						t.Fatal(err)
					}
				}
			}
			w.random(false)
		})
		c := newChecker(t, fs, h, log, seed)
		c.ends = map[int64]bool{} // this disk writes short, and the rest may be lost
		for _, op := range log.Ops {
			if op.Kind == crashfs.Write {
				c.ends[op.Off+int64(len(op.Data))] = true
			}
		}
		for range 40 {
			cut := c.from + rng.IntN(len(log.Ops)-c.from+1)
			for s := range log.States(cut, rng.Uint64(), 6) {
				states++
				c.check(s, false)
			}
			c.check(log.State(cut, crashfs.All, 0), true)
			if t.Failed() || time.Now().After(until) {
				break
			}
		}
	}
	t.Logf("%d states checked after %d operations that failed", states, failures)
}

// randomFault returns a fault of a disk.
func randomFault(rng *rand.Rand) crashfs.Fault {
	f := crashfs.Fault{Skip: rng.IntN(6), Count: 1 + rng.IntN(2), Errno: syscall.EIO}
	switch rng.IntN(8) {
	case 0:
		f.Kinds = []crashfs.Kind{crashfs.Sync, crashfs.SyncFS}
	case 1:
		f.Kinds = []crashfs.Kind{crashfs.Write, crashfs.Fallocate, crashfs.Create, crashfs.Mkdir}
		f.Errno, f.Count = syscall.ENOSPC, 1+rng.IntN(6)
	case 2:
		f.Kinds, f.Partial = []crashfs.Kind{crashfs.Write}, true
	case 3:
		f.Kinds = []crashfs.Kind{crashfs.Write, crashfs.Truncate, crashfs.Fallocate}
	case 4:
		f.Kinds = []crashfs.Kind{crashfs.Create, crashfs.Mkdir, crashfs.Unlink, crashfs.Rename}
	case 5:
		f.Kinds, f.Path = []crashfs.Kind{crashfs.Sync}, "u/data/*/*"
	case 6:
		f.Kinds, f.Path = []crashfs.Kind{crashfs.Write}, "u/journal.*"
	case 7:
		f.Kinds, f.Path = []crashfs.Kind{crashfs.Write, crashfs.Sync}, "u/checkpoint.db*"
	}
	return f
}

// A checker holds what is left after a crash against a history.
type checker struct {
	*history
	t    *testing.T
	fs   *unionfs.FS
	log  *crashfs.Log
	seed uint64
	tmp  string
	from int // the first cut at which there is an upper
	n    int
	cuts []int          // per step: the records there were once it was answered
	ends map[int64]bool // where writes of the log ended, if a file may end there, too
}

func newChecker(t *testing.T, fs *unionfs.FS, h *history, log *crashfs.Log, seed uint64) *checker {
	c := &checker{history: h, t: t, fs: fs, log: log, seed: seed, tmp: memDir(t)}
	for _, s := range h.steps {
		c.cuts = append(c.cuts, log.Cut(s.pos))
	}
	c.from = log.Cut(h.created)
	return c
}

// check opens what a state has left and compares. killed tells that only the
// server died: same boot, nothing lost.
func (c *checker) check(s crashfs.State, killed bool) {
	c.t.Helper()
	c.n++
	dir := filepath.Join(c.tmp, fmt.Sprint(c.n))
	if err := s.Materialize(dir); err != nil {
		c.t.Fatal(err)
	}
	// The upper would take its reserve again, 16 MiB of a tmpfs each time.
	reserve := filepath.Join(dir, "u", "reserve")
	if os.Truncate(reserve, 16<<20) != nil && os.WriteFile(reserve, nil, 0o600) == nil {
		os.Truncate(reserve, 16<<20)
	}
	if err := c.checkDir(filepath.Join(dir, "u"), s, killed); err != nil {
		c.t.Errorf("seed %d, killed %v: %v\n%s", c.seed, killed, err, c.around(s))
		if os.Getenv("IMGFS_CRASH_KEEP") == "" {
			os.RemoveAll(dir)
		}
		return
	}
	os.RemoveAll(dir)
}

// around tells what was going on.
func (c *checker) around(s crashfs.State) string {
	var b strings.Builder
	last := c.answered(s.Cut)
	from, ops := last-12, s.Cut-12
	if os.Getenv("IMGFS_CRASH_VERBOSE") != "" {
		from, ops = 0, 0
	}
	for k := max(0, from); k <= last+1 && k < len(c.steps); k++ {
		fmt.Fprintf(&b, "  step %d, %d records: %s\n", k, c.cuts[k], c.steps[k].what)
	}
	text := s.Explain()
	if len(text) > 6000 {
		text = text[:6000] + "…\n"
	}
	for i := max(0, ops); i < min(s.Cut+2, len(c.log.Ops)); i++ {
		fmt.Fprintf(&b, "  record %d: %v\n", i, c.log.Ops[i])
	}
	return text + b.String()
}

// answered returns the last step that was answered when there were cut
// records.
func (c *checker) answered(cut int) int {
	n, _ := slices.BinarySearch(c.cuts, cut+1)
	return max(0, n-1)
}

func (c *checker) checkDir(dir string, s crashfs.State, killed bool) error {
	var log []string
	opt := cow.Options{Log: func(f string, a ...any) { log = append(log, fmt.Sprintf(f, a...)) }}
	opt.SetBoot(recordedBoot)
	if !killed {
		opt.SetBoot(fmt.Sprint("another ", c.n))
	}
	u, err := cow.Open(dir, c.fs, crashChain, opt)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	closed := false
	defer func() {
		if !closed {
			u.Close()
		}
	}()
	all, err := places(u)
	if err != nil {
		return fmt.Errorf("walk: %w; log %q", err, log)
	}
	prefix, err := c.findPrefix(lines(all), s, killed)
	if err != nil {
		return err
	}
	for i := range all {
		if p := &all[i]; p.isRegular() {
			if err := c.checkContent(u, p, prefix, s, killed); err != nil {
				return fmt.Errorf("%s #%d, names and attributes as of step %d: %w; log %q", p.path, p.attr.Node, prefix, err, log)
			}
		}
	}
	if c.n%4 != 0 {
		return nil
	}
	if err := c.use(u, c.answered(s.Cut)); err != nil {
		return fmt.Errorf("using it: %w; log %q", err, log)
	}
	want, err := places(u)
	if err != nil {
		return fmt.Errorf("walk after use: %w", err)
	}
	closed = true
	if err := u.Close(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	if u, err = cow.Open(dir, c.fs, crashChain, opt); err != nil {
		return fmt.Errorf("open again: %w", err)
	}
	defer u.Close()
	if all, err = places(u); err != nil {
		return fmt.Errorf("walk again: %w", err)
	}
	if a, b := lines(all), lines(want); a != b {
		return fmt.Errorf("opened again: %s", firstDifference(a, b))
	}
	return nil
}

// findPrefix returns the step as of which names and attributes are.
func (c *checker) findPrefix(got string, s crashfs.State, killed bool) (int, error) {
	last := c.answered(s.Cut)
	first := 0
	for _, p := range c.promises {
		if c.log.Cut(p.pos) <= s.Cut {
			first = max(first, p.names)
		}
	}
	if killed {
		first = last
	}
	for k := first; k <= last+1 && k < len(c.steps); k++ {
		if c.steps[k].lines == got {
			return k, nil
		}
	}
	for k := range c.steps {
		if c.steps[k].lines == got {
			return 0, fmt.Errorf("names and attributes are as of step %d (%s), want %d (%s) to %d", k, c.steps[k].what, first, c.steps[first].what, last+1)
		}
	}
	return 0, fmt.Errorf("names and attributes are of no step, want %d to %d; of step %d: %s", first, last+1, last, firstDifference(got, c.steps[last].lines))
}

// firstDifference tells lines that only one of two walks has.
func firstDifference(got, want string) string {
	a, b := strings.Split(got, "\n"), strings.Split(want, "\n")
	var out []string
	for _, l := range a {
		if !slices.Contains(b, l) {
			out = append(out, "got  "+l)
		}
	}
	for _, l := range b {
		if !slices.Contains(a, l) {
			out = append(out, "want "+l)
		}
	}
	return "\n    " + strings.Join(out[:min(len(out), 12)], "\n    ")
}

// checkContent holds a file's content against all that it was since it was
// last synced.
func (c *checker) checkContent(u *cow.Upper, p *place, prefix int, s crashfs.State, killed bool) error {
	n := p.attr.Node
	versions := c.versions[n]
	if len(versions) == 0 {
		return nil // never touched
	}
	got, a, err := wholeContent(u, n)
	if err != nil {
		return err
	}
	last := c.answered(s.Cut)
	data, attrs := 0, 0
	for _, pr := range c.promises {
		if c.log.Cut(pr.pos) > s.Cut || (pr.node != 0 && pr.node != n) {
			continue
		}
		data, attrs = max(data, pr.content), max(attrs, pr.attrs)
	}
	for _, r := range c.moved[n] {
		if prefix >= r {
			data = max(data, r)
		}
	}
	if killed {
		data, attrs = last, last
	}
	since := window(versions, data, last+1)
	if err := since.holds(got, c.ends); err != nil {
		return fmt.Errorf("%w (it has %d versions since step %d)", err, len(since), data)
	}
	since = window(versions, attrs, last+1)
	for _, v := range since {
		if v.mtime == a.Mtime {
			return nil
		}
	}
	if (!killed || len(since) > 1) && a.Mtime.Sec >= c.began.Sec-1 {
		return nil // of one of several calls of one step
	}
	return fmt.Errorf("mtime is %v, want one of the %d since step %d: %v", a.Mtime, len(since), attrs, since[len(since)-1].mtime)
}

// versionsSince are what a file may be.
type versionsSince []version

// window returns the version that held at step from, and those after it until
// step to.
func window(all []version, from, to int) versionsSince {
	lo := 0
	for lo+1 < len(all) && all[lo+1].step <= from {
		lo++
	}
	hi := lo + 1
	for hi < len(all) && all[hi].step <= to {
		hi++
	}
	return all[lo:hi]
}

// grewOver reports whether byte i came into being in one of the versions: its
// size may be there without it.
func (vs versionsSince) grewOver(i int) bool {
	short := false
	for _, v := range vs {
		if len(v.data) <= i {
			short = true
		} else if short {
			return true
		}
	}
	return false
}

// holds reports whether got can be made of the versions: each byte from any of
// them, zero only where the file grew, the size of one of them. A size between
// theirs may be one of ends.
func (vs versionsSince) holds(got []byte, ends map[int64]bool) error {
	sizes := []int{}
	for _, v := range vs {
		sizes = append(sizes, len(v.data))
	}
	// A disk, and a kernel whose caller is killed, write page by page.
	between := (len(got)%4096 == 0 || ends[int64(len(got))]) && len(got) >= slices.Min(sizes) && len(got) <= slices.Max(sizes)
	if !slices.Contains(sizes, len(got)) && !between {
		return fmt.Errorf("%d bytes, want one of %v", len(got), sizes)
	}
	const block = 512
	for lo := 0; lo < len(got); lo += block {
		hi := min(lo+block, len(got))
		same := func(v version) bool { return len(v.data) >= hi && bytes.Equal(v.data[lo:hi], got[lo:hi]) }
		if slices.ContainsFunc(vs, same) {
			continue
		}
		for i := lo; i < hi; i++ {
			is := func(v version) bool { return i < len(v.data) && v.data[i] == got[i] }
			ok := slices.ContainsFunc(vs, is) || got[i] == 0 && vs.grewOver(i)
			if !ok {
				return fmt.Errorf("byte %d of %d is %#x, which it never was", i, len(got), got[i])
			}
		}
	}
	return nil
}

// use does a little of everything. No number may be given out again that an
// answer before the crash had.
func (c *checker) use(u *cow.Upper, last int) error {
	var a cow.Attr
	const name = "after the crash"
	f, err := u.CreateFile(crashCaller, cow.RootNode, name, cow.Creation{Mode: index.ModeRegular | 0o644}, &a)
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	if born, ok := c.born[a.Node]; ok && born <= last {
		return fmt.Errorf("number %d was given out before, in step %d", a.Node, born)
	}
	data := crashNoise(uint64(a.Node), 1<<20, 0, 10_000)
	_, werr := f.WriteAt(data, 3)
	if err := errors.Join(werr, f.Sync(false), f.Close()); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	got, _, err := wholeContent(u, a.Node)
	if err != nil || !bytes.Equal(got[3:], data) {
		return fmt.Errorf("read: other bytes, or %w", err)
	}
	if err := u.Create(crashCaller, cow.RootNode, name+" dir", cow.Creation{Mode: index.ModeDir | 0o755}, &a); err != nil {
		return fmt.Errorf("mkdir: %w", err)
	}
	if err := u.Rename(crashCaller, cow.RootNode, name, a.Node, name, 0); err != nil {
		return fmt.Errorf("rename: %w", err)
	}
	all, err := places(u)
	if err != nil {
		return err
	}
	removed := 0
	for _, p := range all {
		if p.isRegular() && removed < 5 {
			removed++
			if err := u.Unlink(p.dir, p.name); err != nil {
				return fmt.Errorf("unlink %s: %w", p.path, err)
			}
			u.Forget(p.attr.Node)
		}
	}
	return u.Sync()
}

// crashOptions has every other upper fold often.
func crashOptions(seed uint64) cow.Options {
	opt := cow.Options{Passthrough: seed%2 == 0}
	if seed%4 < 2 {
		opt.SetFold(4<<10, 1<<20)
	}
	return opt
}
