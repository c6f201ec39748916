// SPDX-License-Identifier: Apache-2.0

package cow_test

// What a workload may do in a step.

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs/cow"
	"github.com/imgfs/imgfs/index"
)

func (w *workload) create() bool {
	return w.createAs(w.dir(), w.freshName())
}

func (w *workload) createAs(d *place, name string) bool {
	w.t.Helper()
	var a cow.Attr
	f, err := w.u.CreateFile(crashCaller, d.attr.Node, name, cow.Creation{Mode: index.ModeRegular | 0o644}, &a)
	if errors.Is(err, syscall.EEXIST) {
		return false
	}
	what := fmt.Sprintf("create %s/%s #%d", d.path, name, a.Node)
	if err != nil {
		w.fail(what, err)
	}
	w.model[a.Node] = nil
	w.wrote(a.Node)
	w.born[a.Node] = w.now()
	w.keepOrClose(f)
	w.done(what, d.attr.Node, a.Node)
	return true
}

func (w *workload) keepOrClose(f *cow.File) {
	if w.rng.IntN(3) == 0 && w.open[f.Node()] == nil {
		w.open[f.Node()] = f
	} else if err := f.Close(); err != nil {
		w.fail("close", err)
	}
}

func (w *workload) make() bool {
	d, name := w.dir(), w.freshName()
	k := [...]cow.Creation{{Mode: index.ModeDir | 0o755}, {Mode: index.ModeDir | 0o755}, {Mode: index.ModeSymlink | 0o777, Target: "to/" + name},
		{Mode: index.ModeFIFO | 0o600}, {Mode: index.ModeChar | 0o600, Rdev: 259}}[w.rng.IntN(5)]
	var a cow.Attr
	err := w.u.Create(crashCaller, d.attr.Node, name, k, &a)
	if errors.Is(err, syscall.EEXIST) {
		return false
	}
	what := fmt.Sprintf("make %s/%s mode %o #%d", d.path, name, k.Mode, a.Node)
	if err != nil {
		w.fail(what, err)
	}
	w.born[a.Node] = w.now()
	w.done(what, d.attr.Node, a.Node)
	return true
}

func (w *workload) link() bool {
	p, d, name := w.any(), w.dir(), w.freshName()
	if p == nil || p.isDir() {
		return false
	}
	var a cow.Attr
	err := w.u.Link(p.attr.Node, d.attr.Node, name, &a)
	if errors.Is(err, syscall.EEXIST) {
		return false
	}
	what := fmt.Sprintf("link %s to %s/%s", p.path, d.path, name)
	if err != nil {
		w.fail(what, err)
	}
	w.done(what, d.attr.Node, p.attr.Node)
	return true
}

func (w *workload) remove() bool {
	p := w.any()
	return p != nil && w.unlink(p)
}

func (w *workload) unlink(p *place) bool {
	w.t.Helper()
	if p.isRegular() {
		w.knows(p.attr.Node)
	}
	what, err := "remove "+p.path, error(nil)
	if p.isDir() {
		err = w.u.Rmdir(p.dir, p.name)
		if errors.Is(err, syscall.ENOTEMPTY) {
			return false
		}
	} else {
		err = w.u.Unlink(p.dir, p.name)
	}
	if err != nil {
		w.fail(what, err)
	}
	w.orphaned(p)
	w.done(what, p.dir, p.attr.Node)
	return true
}

// orphaned lets go, now or later, of what lost its last name.
func (w *workload) orphaned(p *place) {
	if p.attr.Nlink > 1 && !p.isDir() {
		return
	}
	if f := w.open[p.attr.Node]; f != nil {
		if w.rng.IntN(2) == 0 {
			return
		}
		delete(w.open, p.attr.Node)
		if err := f.Close(); err != nil {
			w.fail("close", err)
		}
	}
	w.u.Forget(p.attr.Node)
}

func (w *workload) rename() bool {
	p, d := w.any(), w.dir()
	if p == nil {
		return false
	}
	name, flags := w.freshName(), uint32(0)
	var over *place
	if w.rng.IntN(2) == 0 {
		over = w.any()
		d, name = &place{attr: cow.Attr{Node: over.dir}, path: filepath.Dir(over.path)}, over.name
		if w.rng.IntN(3) == 0 {
			flags = unix.RENAME_EXCHANGE
		}
	}
	what := fmt.Sprintf("rename %s to %s/%s flags %d", p.path, d.path, name, flags)
	for _, q := range []*place{p, over} {
		if q != nil && q.isRegular() {
			w.knows(q.attr.Node)
		}
	}
	var was cow.Attr
	found, err := w.u.Lookup(d.attr.Node, name, &was)
	if err != nil {
		w.fail(what, err)
	}
	err = w.u.Rename(crashCaller, p.dir, p.name, d.attr.Node, name, flags)
	switch {
	case errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.ENOTEMPTY), errors.Is(err, syscall.EISDIR),
		errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EEXIST):
		return false
	case err != nil:
		w.fail(what, err)
	}
	if found && was.Node == p.attr.Node {
		w.done(what + ", which is the same file")
		return true
	}
	touched := []cow.Node{p.dir, d.attr.Node, p.attr.Node}
	if found {
		touched = append(touched, was.Node)
		if flags == 0 {
			if p.isRegular() {
				w.moved[p.attr.Node] = append(w.moved[p.attr.Node], w.now())
			}
			w.orphaned(&place{attr: was})
		}
	}
	w.done(what, touched...)
	return true
}

func (w *workload) attributes() bool {
	p := w.pick(func(*place) bool { return true })
	n, s := p.attr.Node, cow.SetAttr{}
	if p.isRegular() {
		w.knows(n)
	}
	var a cow.Attr
	var err error
	what := "attributes of " + p.path
	switch w.rng.IntN(5) {
	case 0:
		s.Valid, s.Mode = cow.SetMode, uint32(w.rng.IntN(0o1000))
		err = w.u.SetAttr(crashCaller, n, &s, &a)
		if errors.Is(err, syscall.EOPNOTSUPP) && p.attr.Mode&index.ModeType == index.ModeSymlink {
			return false
		}
	case 1:
		s.Valid, s.UID, s.GID = cow.SetUID|cow.SetGID, uint32(w.rng.IntN(1000)), uint32(w.rng.IntN(1000))
		err = w.u.SetAttr(crashCaller, n, &s, &a)
	case 2:
		s.Valid, s.Mtime = cow.SetMtime, cow.Time{int64(w.rng.IntN(1 << 30)), uint32(w.rng.IntN(1e9))}
		err = w.u.SetAttr(crashCaller, n, &s, &a)
		if err == nil && p.isRegular() {
			w.wrote(n)
		}
	case 3:
		err = w.u.SetXattr(n, fmt.Sprintf("user.%d", w.rng.IntN(4)), crashNoise(uint64(n), uint64(w.now()), 0, w.rng.IntN(300)), 0, false)
	case 4:
		err = w.u.RemoveXattr(n, fmt.Sprintf("user.%d", w.rng.IntN(4)))
		if errors.Is(err, syscall.ENODATA) {
			return false
		}
	}
	if err != nil {
		w.fail(what, err)
	}
	w.done(what, n)
	return true
}

func (w *workload) write() bool {
	p := w.file()
	n := p.attr.Node
	w.knows(n)
	f, done := w.handle(n)
	defer done()
	for range 1 + w.rng.IntN(3) {
		off := int64(w.rng.IntN(len(w.model[n]) + 5000))
		if w.rng.IntN(3) == 0 {
			off = int64(len(w.model[n])) // append
		}
		size := 1 + w.rng.IntN(1<<w.rng.IntN(17))
		if off+int64(size) <= 2<<20 {
			w.writeTo(f, p, off, size)
		}
	}
	return true
}

// writeTo writes to a file that is open.
func (w *workload) writeTo(f *cow.File, p *place, off int64, size int) {
	w.t.Helper()
	n := p.attr.Node
	b := crashNoise(uint64(n), uint64(w.now()), off, size)
	w.changes(n, overwrite(w.model[n], b, off))
	what := fmt.Sprintf("write %s #%d [%d,%d)", p.path, n, off, off+int64(size))
	if k, err := f.WriteAt(b, off); err != nil || k != len(b) {
		w.fail(fmt.Sprintf("%s: %d bytes", what, k), err)
	}
	w.changed()
	w.done(what)
}

// overwrite returns old with b at off.
func overwrite(old, b []byte, off int64) []byte {
	old = resized(old, max(int64(len(old)), off+int64(len(b))))
	copy(old[off:], b)
	return old
}

func resized(old []byte, size int64) []byte {
	if int64(len(old)) >= size {
		return slices.Clone(old[:size])
	}
	return append(slices.Clone(old), make([]byte, size-int64(len(old)))...)
}

func (w *workload) resize() bool {
	p := w.file()
	n := p.attr.Node
	w.knows(n)
	size := int64(0)
	if w.rng.IntN(3) > 0 {
		size = int64(w.rng.IntN(len(w.model[n]) + 5000))
	}
	w.setSize(p, size)
	return true
}

func (w *workload) setSize(p *place, size int64) {
	n := p.attr.Node
	var a cow.Attr
	what := fmt.Sprintf("truncate %s #%d from %d to %d", p.path, n, len(w.model[n]), size)
	w.changes(n, resized(w.model[n], size))
	if err := w.u.SetAttr(crashCaller, n, &cow.SetAttr{Valid: cow.SetSize, Size: size}, &a); err != nil {
		w.fail(what, err)
	}
	w.changed()
	w.done(what)
}

// rewrite writes all of a file, so that the layer has no more say.
func (w *workload) rewrite() bool {
	p := w.file()
	n := p.attr.Node
	w.knows(n)
	if len(w.model[n]) > 400_000 {
		return false
	}
	f, done := w.handle(n)
	defer done()
	for lo := 0; lo < len(w.model[n]); lo += 64 << 10 {
		w.writeTo(f, p, int64(lo), min(64<<10, len(w.model[n])-lo))
	}
	if w.rng.IntN(2) == 0 {
		w.setSize(p, int64(w.rng.IntN(len(w.model[n])+1)))
	}
	return true
}

// shrinkAndGrow cuts a file off and makes it longer again: what was cut off
// must not come back.
func (w *workload) shrinkAndGrow() bool {
	p := w.file()
	n := p.attr.Node
	w.knows(n)
	if len(w.model[n]) == 0 {
		return false
	}
	size := int64(w.rng.IntN(len(w.model[n])))
	w.setSize(p, size)
	if w.rng.IntN(2) == 0 {
		w.setSize(p, size+int64(w.rng.IntN(20_000)))
		return true
	}
	f, done := w.handle(n)
	defer done()
	w.writeTo(f, p, size+int64(w.rng.IntN(9000)), 1+w.rng.IntN(5000))
	return true
}

func (w *workload) allocate() bool {
	p := w.file()
	n := p.attr.Node
	w.knows(n)
	off, size := int64(w.rng.IntN(len(w.model[n])+9000)), int64(1+w.rng.IntN(20_000))
	mode := [...]uint32{0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_KEEP_SIZE | unix.FALLOC_FL_PUNCH_HOLE,
		unix.FALLOC_FL_ZERO_RANGE, unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE}[w.rng.IntN(5)]
	return w.fallocate(p, mode, off, size)
}

func (w *workload) fallocate(p *place, mode uint32, off, size int64) bool {
	w.t.Helper()
	n := p.attr.Node
	what := fmt.Sprintf("fallocate %s #%d mode %#x [%d,%d)", p.path, n, mode, off, off+size)
	m := w.model[n]
	if mode&unix.FALLOC_FL_KEEP_SIZE == 0 {
		m = resized(m, max(int64(len(m)), off+size))
	} else {
		m = slices.Clone(m)
	}
	if mode&^unix.FALLOC_FL_KEEP_SIZE != 0 && off < int64(len(m)) {
		clear(m[off:min(off+size, int64(len(m)))])
	}
	f, done := w.handle(n)
	defer done()
	w.changes(n, m)
	err := f.Allocate(mode, off, size)
	if errors.Is(err, syscall.EOPNOTSUPP) && mode&unix.FALLOC_FL_ZERO_RANGE != 0 {
		return false // a tmpfs has none
	}
	if err != nil {
		w.fail(what, err)
	}
	w.changed()
	w.done(what)
	return true
}

func (w *workload) syncFile() bool {
	p := w.file()
	if q := w.pick(func(p *place) bool { return p.attr.Node == w.unsynced }); q != nil && w.rng.IntN(2) == 0 {
		p = q // once more what could not be synced
	}
	w.sync(p, w.rng.IntN(2) == 0)
	return true
}

// sync is fsync of a file, or fdatasync.
func (w *workload) sync(p *place, dataOnly bool) {
	w.t.Helper()
	n := p.attr.Node
	w.knows(n)
	f, done := w.handle(n)
	defer done()
	last := w.now() - 1
	if err := f.Sync(dataOnly); err != nil {
		w.unsynced = n
		w.fail("sync "+p.path, err)
	}
	pr := promise{pos: w.pos(), node: n, content: last, names: w.born[n], attrs: -1}
	if !dataOnly {
		pr.names, pr.attrs = w.touched[n], last
	}
	w.promises = append(w.promises, pr)
	w.done(fmt.Sprintf("sync %s #%d data only %v", p.path, n, dataOnly))
}

func (w *workload) syncDir() bool {
	d := w.dir()
	if err := w.u.SyncDir(d.attr.Node); err != nil {
		w.fail("sync "+d.path, err)
	}
	w.promises = append(w.promises, promise{pos: w.pos(), names: w.touched[d.attr.Node], node: d.attr.Node, attrs: -1})
	w.done("sync " + d.path)
	return true
}

func (w *workload) syncAll() bool {
	last := w.now() - 1
	if err := w.u.Sync(); err != nil {
		w.fail("sync", err)
	}
	w.promises = append(w.promises, promise{pos: w.pos(), names: last, content: last, attrs: last})
	w.done("sync")
	return true
}

// tmpfile makes a file without a name, fills it and names it.
func (w *workload) tmpfile() bool {
	d, name := w.dir(), w.freshName()
	var a cow.Attr
	if found, err := w.u.Lookup(d.attr.Node, name, &a); found || err != nil {
		return false
	}
	f, err := w.u.CreateFile(crashCaller, d.attr.Node, "", cow.Creation{Mode: index.ModeRegular | 0o600}, &a)
	if err != nil {
		w.fail("tmpfile", err)
	}
	n := a.Node
	b := crashNoise(uint64(n), uint64(w.now()), 0, w.rng.IntN(20_000))
	if _, err := f.WriteAt(b, 0); err != nil {
		w.fail("write a tmpfile", err)
	}
	what := fmt.Sprintf("link a tmpfile #%d to %s/%s", n, d.path, name)
	if err := w.u.Link(n, d.attr.Node, name, &a); err != nil {
		w.fail(what, err)
	}
	w.versions[n] = []version{{step: w.now(), mtime: a.Mtime}} // what was not synced may be lost
	w.model[n] = b
	w.wrote(n)
	w.born[n] = w.now()
	w.keepOrClose(f)
	w.done(what, d.attr.Node, n)
	return true
}

// replace writes a new file and renames it over an old one, as editors do.
func (w *workload) replace() bool { return w.replaceFile(w.file()) }

func (w *workload) replaceFile(p *place) bool {
	w.t.Helper()
	tmp := fmt.Sprintf("tmp%d", w.now())
	var a cow.Attr
	if found, err := w.u.Lookup(p.dir, tmp, &a); found || err != nil {
		return false // a life before may have ended between its making and its renaming
	}
	w.knows(p.attr.Node)
	f, err := w.u.CreateFile(crashCaller, p.dir, tmp, cow.Creation{Mode: index.ModeRegular | 0o644}, &a)
	if err != nil {
		w.fail("create "+tmp, err)
	}
	n := a.Node
	w.model[n] = nil
	w.wrote(n)
	w.born[n] = w.now()
	w.done("create "+tmp, p.dir, n)
	b := crashNoise(uint64(n), uint64(w.now()), 0, 1+w.rng.IntN(30_000))
	w.changes(n, b)
	if _, err := f.WriteAt(b, 0); err != nil {
		w.fail("write "+tmp, err)
	}
	w.changed()
	w.done("write " + tmp)
	if err := f.Close(); err != nil {
		w.fail("close "+tmp, err)
	}
	if err := w.u.Rename(crashCaller, p.dir, tmp, p.dir, p.name, 0); err != nil {
		w.fail("rename "+tmp, err)
	}
	w.moved[n] = append(w.moved[n], w.now())
	w.orphaned(p)
	w.done(fmt.Sprintf("replace %s by #%d", p.path, n), p.dir, n, p.attr.Node)
	return true
}
