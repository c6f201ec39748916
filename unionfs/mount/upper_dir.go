// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"runtime/debug"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/imgfs/imgfs/cow"
	"github.com/imgfs/imgfs/index"
)

// Mknod makes a file that is not opened: a device, a FIFO, a socket, also a
// regular file.
func (v *top) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	return v.create("mknod", &in.InHeader, name, cow.Creation{Mode: in.Mode, Umask: in.Umask, Rdev: in.Rdev}, out)
}

// Mkdir makes a directory.
func (v *top) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return v.create("mkdir", &in.InHeader, name, cow.Creation{Mode: index.ModeDir | in.Mode&0o7777, Umask: in.Umask}, out)
}

// Symlink makes a symlink.
func (v *top) Symlink(_ <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	return v.create("symlink", h, name, cow.Creation{Mode: index.ModeSymlink | 0o777, Target: target}, out)
}

func (v *top) create(op string, h *fuse.InHeader, name string, k cow.Creation, out *fuse.EntryOut) (status fuse.Status) {
	defer v.caught(debug.SetPanicOnFault(true), op, h.NodeId, &status)
	var a cow.Attr
	if err := v.u.Create(caller(h), cow.Node(h.NodeId), name, k, &a); err != nil {
		return v.errno(op, h.NodeId, err)
	}
	v.entry(&a, out)
	return fuse.OK
}

// Link makes one more name for a file.
func (v *top) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) (status fuse.Status) {
	defer v.caught(debug.SetPanicOnFault(true), "link", in.NodeId, &status)
	var a cow.Attr
	if err := v.u.Link(cow.Node(in.Oldnodeid), cow.Node(in.NodeId), name, &a); err != nil {
		return v.errno("link", in.NodeId, err)
	}
	v.entry(&a, out)
	return fuse.OK
}

// Unlink takes a name away.
func (v *top) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) (status fuse.Status) {
	defer v.caught(debug.SetPanicOnFault(true), "unlink", h.NodeId, &status)
	return v.errno("unlink", h.NodeId, v.u.Unlink(cow.Node(h.NodeId), name))
}

// Rmdir removes an empty directory.
func (v *top) Rmdir(_ <-chan struct{}, h *fuse.InHeader, name string) (status fuse.Status) {
	defer v.caught(debug.SetPanicOnFault(true), "rmdir", h.NodeId, &status)
	return v.errno("rmdir", h.NodeId, v.u.Rmdir(cow.Node(h.NodeId), name))
}

// Rename answers rename(2) and renameat2(2).
func (v *top) Rename(_ <-chan struct{}, in *fuse.RenameIn, name, newName string) (status fuse.Status) {
	defer v.caught(debug.SetPanicOnFault(true), "rename", in.NodeId, &status)
	err := v.u.Rename(caller(&in.InHeader), cow.Node(in.NodeId), name, cow.Node(in.Newdir), newName, in.Flags)
	return v.errno("rename", in.NodeId, err)
}

// OpenDir is answered once: never ask again. The kernel then keeps what it was
// told of a directory until it changes it.
func (v *top) OpenDir(_ <-chan struct{}, _ *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if v.keepsOpenDir {
		return fuse.ENOSYS
	}
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_CACHE_DIR
	return fuse.OK
}

// ReadDirPlus lists entries with their attributes, so that a walk needs no
// lookups.
func (v *top) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) (status fuse.Status) {
	defer v.caught(debug.SetPanicOnFault(true), "readdir", in.NodeId, &status)
	return v.errno("readdir", in.NodeId, v.list(in, out, true))
}

// ReadDir lists names alone, for a kernel that asks so.
func (v *top) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) (status fuse.Status) {
	defer v.caught(debug.SetPanicOnFault(true), "readdir", in.NodeId, &status)
	return v.errno("readdir", in.NodeId, v.list(in, out, false))
}

// list adds entries to out until it is full. An error is returned only when
// nothing was added before it: the kernel asks again behind what it got. Where
// a reader stands is 0 before ".", 1 before "..", 2 before the first entry, else
// a cookie: none is as small.
func (v *top) list(in *fuse.ReadIn, out *fuse.DirEntryList, plus bool) error {
	n, off := cow.Node(in.NodeId), in.Offset
	d, err := v.dirs.take(v.u, n)
	if err != nil {
		return err
	}
	if off == 0 {
		if !put(out, fuse.DirEntry{Name: ".", Ino: uint64(n), Mode: index.ModeDir, Off: afterDot}, plus) {
			return nil
		}
		off = afterDot
	}
	if off == afterDot {
		parent, err := d.Parent()
		if err != nil {
			return err
		}
		if !put(out, fuse.DirEntry{Name: "..", Ino: uint64(parent), Mode: index.ModeDir, Off: afterDotDot}, plus) {
			return nil
		}
		off = afterDotDot
	}
	l := listings.Get().(*listing)
	l.v, l.out, l.plus, l.full = v, out, plus, false
	cookie := off
	if off == afterDotDot {
		cookie = 0
	}
	err = d.Read(cookie, plus, l.add)
	if l.full {
		v.dirs.keep(d)
	}
	l.v, l.out = nil, nil
	listings.Put(l)
	if len(out.Bytes()) > 0 {
		return nil
	}
	return err
}

// A listing is what a READDIR adds to.
type listing struct {
	v    *top
	out  *fuse.DirEntryList
	plus bool
	full bool
	add  func(*cow.Dirent, *cow.Attr) bool // addEntry, bound once
}

var listings = sync.Pool{New: func() any {
	l := new(listing)
	l.add = l.addEntry
	return l
}}

// addEntry adds an entry, and reports whether it had room.
func (l *listing) addEntry(e *cow.Dirent, a *cow.Attr) bool {
	de := fuse.DirEntry{Name: e.Name, Ino: uint64(e.Node), Mode: uint32(e.Type) << 12, Off: e.Cookie}
	if !l.plus {
		l.full = !l.out.AddDirEntry(de)
		return !l.full
	}
	entry := l.out.AddDirLookupEntry(de)
	if l.full = entry == nil; l.full {
		return false
	}
	l.v.entry(a, entry)
	return true
}

// dirTable has directories in the midst of being listed, the last one first. A
// listing goes on just as well with another cow.Dir, but that has to sort what
// was added once more.
type dirTable struct {
	mu   sync.Mutex
	dirs [16]*cow.Dir // guarded by mu
}

// take returns n to be listed.
func (t *dirTable) take(u *cow.Upper, n cow.Node) (*cow.Dir, error) {
	t.mu.Lock()
	for i, d := range t.dirs {
		if d != nil && d.Node() == n {
			t.dirs[i] = nil
			t.mu.Unlock()
			return d, nil
		}
	}
	t.mu.Unlock()
	return u.OpenDir(n)
}

// keep keeps d for who lists on.
func (t *dirTable) keep(d *cow.Dir) {
	t.mu.Lock()
	defer t.mu.Unlock()
	at := len(t.dirs) - 1
	for i, d := range t.dirs {
		if d == nil {
			at = i
			break
		}
	}
	copy(t.dirs[1:at+1], t.dirs[:at])
	t.dirs[0] = d
}

// FsyncDir makes the names in a directory durable.
func (v *top) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) (status fuse.Status) {
	defer v.caught(debug.SetPanicOnFault(true), "fsyncdir", in.NodeId, &status)
	return v.errno("fsyncdir", in.NodeId, v.u.SyncDir(cow.Node(in.NodeId)))
}
