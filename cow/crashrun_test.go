// SPDX-License-Identifier: Apache-2.0

package cow_test

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/imgfs/imgfs/cow"
	"github.com/imgfs/imgfs/internal/crashfs"
	"github.com/imgfs/imgfs/unionfs"
)

// A history is what was done to an upper and what was promised: the truth
// against which what is left after a crash is held.
type history struct {
	steps    []step
	promises []promise
	versions map[cow.Node][]version // of regular files, by step
	moved    map[cow.Node][]int     // steps that renamed a file over another
	born     map[cow.Node]int       // steps that made what is not the image's
	created  int64                  // length of the log once Create had returned
	began    cow.Time
}

// A step is one operation that was answered.
type step struct {
	what  string
	pos   int64  // how long the log was once it was answered
	lines string // names and attributes after it
}

// A version is what a file was from a step on.
type version struct {
	step  int
	data  []byte
	mtime cow.Time
}

// A promise is what a sync that was answered means.
type promise struct {
	pos     int64
	names   int      // the steps up to this one are there, by name and attribute
	node    cow.Node // … and this file's content as of step content; 0 = every file's
	content int
	attrs   int // … and its times as of this step; -1 = no word on them
}

// A workload does random operations to an upper and keeps its history.
type workload struct {
	history
	t   fataler
	u   *cow.Upper
	rng *rand.Rand
	pos func() int64 // length of the log

	again  func() *cow.Upper // opens the upper once more
	before func()            // is called before each random step, if it is not nil

	all     []place // as of the last step
	touched map[cow.Node]int
	open    map[cow.Node]*cow.File // kept open
	model   map[cow.Node][]byte

	// tolerate tells of which errors an operation may fail; nil: of none.
	tolerate func(error) bool
	failures int
	changing cow.Node // the file whose content is being changed; 0: none
	attempt  []byte   // what it is to be then
	unsynced cow.Node // the last file whose sync failed
}

// An opError is the panic of an operation that failed as it may.
type opError struct {
	what string
	err  error
}

// A fataler is as much of a testing.TB as a workload needs.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

func newWorkload(t fataler, u *cow.Upper, seed uint64, pos func() int64) *workload {
	w := &workload{
		t: t, u: u, rng: rand.New(rand.NewPCG(seed, 77)), pos: pos,
		history: history{versions: map[cow.Node][]version{}, moved: map[cow.Node][]int{}, born: map[cow.Node]int{}},
		touched: map[cow.Node]int{}, open: map[cow.Node]*cow.File{}, model: map[cow.Node][]byte{},
	}
	w.done("start")
	return w
}

// done ends a step.
func (w *workload) done(what string, touched ...cow.Node) {
	w.t.Helper()
	pos := w.pos()
	all, err := places(w.u)
	if err != nil {
		w.t.Fatalf("after step %d %s: %v", len(w.steps), what, err)
	}
	for _, n := range touched {
		if linesOf(all, n) != linesOf(w.all, n) { // else there is nothing to make durable
			w.touched[n] = len(w.steps)
		}
	}
	w.all = all
	w.steps = append(w.steps, step{what, pos, lines(all)})
}

// linesOf returns what lines says of one node and what is in it.
func linesOf(all []place, n cow.Node) string {
	var some []place
	for _, p := range all {
		if p.attr.Node == n || p.dir == n {
			some = append(some, p)
		}
	}
	return lines(some)
}

// now is the step that is being done.
func (w *workload) now() int { return len(w.steps) }

// wrote says that a file's content or times are from this step on as model
// says.
func (w *workload) wrote(n cow.Node) {
	var a cow.Attr
	if err := w.u.Attr(n, &a); err != nil {
		w.t.Fatalf("step %d: attributes of %d: %v", w.now(), n, err)
	}
	if a.Size != int64(len(w.model[n])) {
		w.t.Fatalf("step %d: node %d has %d bytes, want %d", w.now(), n, a.Size, len(w.model[n]))
	}
	w.versions[n] = append(w.versions[n], version{w.now(), slices.Clone(w.model[n]), a.Mtime})
}

// knows reads the content of a file of the image before its first change.
func (w *workload) knows(n cow.Node) {
	if _, ok := w.model[n]; ok {
		return
	}
	b, a, err := wholeContent(w.u, n)
	if err != nil {
		w.t.Fatalf("step %d: read %d: %v", w.now(), n, err)
	}
	w.model[n] = b
	w.versions[n] = []version{{0, slices.Clone(b), a.Mtime}}
}

func (w *workload) pick(want func(p *place) bool) *place {
	var some []*place
	for i := range w.all {
		if want(&w.all[i]) {
			some = append(some, &w.all[i])
		}
	}
	if len(some) == 0 {
		return nil
	}
	return some[w.rng.IntN(len(some))]
}

func (w *workload) dir() *place { return w.pick((*place).isDir) }

// file picks a regular file, often one that takes bytes from the layer and has
// some of its own.
func (w *workload) file() *place {
	large := func(p *place) bool { return p.isRegular() && p.attr.Node < cow.FirstOwn && p.attr.Size > cow.CopyWhole }
	if p := w.pick(large); p != nil && w.rng.IntN(3) == 0 {
		return p
	}
	return w.pick((*place).isRegular)
}

func (w *workload) any() *place       { return w.pick(func(p *place) bool { return p.name != "" }) }
func (w *workload) freshName() string { return fmt.Sprintf("n%d", w.rng.IntN(60)) }

// handle returns a file that is open, perhaps kept from before.
func (w *workload) handle(n cow.Node) (*cow.File, func()) {
	if f := w.open[n]; f != nil {
		return f, func() {}
	}
	f, err := w.u.Open(n, true)
	if err != nil {
		w.fail(fmt.Sprintf("open %d", n), err)
	}
	if w.rng.IntN(4) == 0 {
		w.open[n] = f
		return f, func() {}
	}
	return f, func() {
		if err := f.Close(); err != nil {
			w.fail(fmt.Sprintf("close %d", n), err)
		}
	}
}

var crashCaller = cow.Caller{UID: 0, GID: 0}

// step does one operation that succeeds.
func (w *workload) step() {
	w.t.Helper()
	if w.before != nil {
		w.before()
	}
	for !w.try() {
	}
}

// try does one, or nothing where it has no sense.
func (w *workload) try() (ok bool) {
	w.t.Helper()
	w.changing = 0
	defer func() {
		switch p := recover().(type) {
		case nil:
		case opError:
			w.failed(p)
			ok = true
		default:
			panic(p)
		}
	}()
	return w.tryOne()
}

// failed checks that an operation that failed has changed nothing but what it
// may have half done: content of the file it was about.
func (w *workload) failed(e opError) {
	w.t.Helper()
	w.failures++
	what := fmt.Sprintf("failed (%v): %s", e.err, e.what)
	before := w.steps[len(w.steps)-1].lines
	if n := w.changing; n != 0 {
		got, _, err := wholeContent(w.u, n)
		if err != nil {
			w.t.Fatalf("step %d: %s: and then read: %v", w.now(), what, err)
		}
		both := versionsSince{{data: w.model[n]}, {data: w.attempt}, {data: got[:min(len(got), len(w.model[n]), len(w.attempt))]}}
		if short, long := min(len(w.model[n]), len(w.attempt)), max(len(w.model[n]), len(w.attempt)); len(got) >= short && len(got) <= long {
			both = append(both, version{data: make([]byte, len(got))})
		}
		if err := both.holds(got, nil); err != nil {
			w.t.Fatalf("step %d: %s: left content that was neither there nor written: %v", w.now(), what, err)
		}
		w.model[n] = got
		w.wrote(n)
	}
	w.done(what)
	if after := w.steps[len(w.steps)-1].lines; after != before {
		w.t.Fatalf("step %d: %s: and yet it changed something: %s", w.now(), what, firstDifference(after, before))
	}
}

func (w *workload) tryOne() bool {
	w.t.Helper()
	k := w.rng.IntN(100)
	switch {
	case k < 10:
		return w.create()
	case k < 14:
		return w.make()
	case k < 18:
		return w.link()
	case k < 26:
		return w.remove()
	case k < 36:
		return w.rename()
	case k < 46:
		return w.attributes()
	case k < 61:
		return w.write()
	case k < 64:
		return w.rewrite()
	case k < 68:
		return w.shrinkAndGrow()
	case k < 72:
		return w.resize()
	case k < 76:
		return w.allocate()
	case k < 88:
		return w.syncFile()
	case k < 93:
		return w.syncDir()
	case k < 94:
		return w.syncAll()
	case k < 97:
		return w.tmpfile()
	case k < 99:
		return w.replace()
	default:
		return w.background()
	}
}

// background has the journal synced behind what goes on, and what comes of it
// done, as a timer has every second.
func (w *workload) background() bool {
	w.u.SyncSoon()
	if w.rng.IntN(2) == 0 {
		time.Sleep(2 * time.Millisecond)
	}
	return true
}

func (w *workload) fail(what string, err error) {
	w.t.Helper()
	if err != nil && w.tolerate != nil && w.tolerate(err) {
		panic(opError{what, err})
	}
	w.t.Fatalf("step %d: %s: %v", w.now(), what, err)
}

// changes tells that the content of n is about to become b.
func (w *workload) changes(n cow.Node, b []byte) { w.changing, w.attempt = n, b }

// changed tells that it has.
func (w *workload) changed() {
	w.model[w.changing] = w.attempt
	w.wrote(w.changing)
	w.changing = 0
}

// reopen closes the upper in order and opens it again.
func (w *workload) reopen() {
	w.t.Helper()
	for n, f := range w.open {
		if err := f.Close(); err != nil {
			w.fail("close", err)
		}
		delete(w.open, n)
	}
	last := w.now() - 1
	if err := w.u.Close(); err != nil {
		w.fail("close the upper", err)
	}
	w.promises = append(w.promises, promise{pos: w.pos(), names: last, content: last, attrs: last})
	w.u = w.again()
	w.done("reopen")
	if a, b := w.steps[last].lines, w.steps[last+1].lines; a != b {
		w.t.Fatalf("reopening in order changed names or attributes: %s", firstDifference(b, a))
	}
}

// recordedBoot is the boot in which uppers are recorded.
const recordedBoot = "recorded"

// maxFailures is where an upper that takes no more changes is left alone.
const maxFailures = 25

// record runs a workload on a disk that is recorded, and returns both. do does
// the work.
func record(t testing.TB, fs *unionfs.FS, seed uint64, opt cow.Options, do func(w *workload, disk *crashfs.FS)) (*history, *crashfs.Log) {
	t.Helper()
	disk, err := crashfs.Mount(memDir(t), crashfs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	mounted := true
	defer func() {
		if mounted {
			disk.Unmount()
		}
	}()
	dir := filepath.Join(disk.Dir, "u")
	if err := cow.Create(dir, cow.Base{Image: "crash", ChainID: crashChain}); err != nil {
		t.Fatal(err)
	}
	created, err := disk.Pos()
	if err != nil {
		t.Fatal(err)
	}
	opt.Log = t.Logf
	opt.SetBoot(recordedBoot)
	opt.SetFlush(disk.SyncFS)
	open := func() *cow.Upper {
		u, err := cow.Open(dir, fs, crashChain, opt)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	w := newWorkload(t, open(), seed, func() int64 {
		pos, err := disk.Pos()
		if err != nil {
			t.Fatal(err)
		}
		return pos
	})
	w.again = open
	w.created, w.began = created, cow.Now()
	do(w, disk)
	if err := disk.Heal(); err != nil {
		t.Fatal(err)
	}
	for _, f := range w.open {
		f.Close()
	}
	if err := w.u.Close(); err != nil && w.failures == 0 {
		t.Fatal(err)
	}
	log, err := disk.Log()
	if err != nil {
		t.Fatal(err)
	}
	mounted = false
	if err := disk.Unmount(); err != nil {
		t.Fatal(err)
	}
	return &w.history, log
}

// random does 150 random steps.
func (w *workload) random(reopens bool) {
	w.t.Helper()
	for len(w.steps) < 150 && w.failures < maxFailures {
		w.step()
		if reopens && w.rng.IntN(150) == 0 {
			w.reopen()
		}
	}
}
