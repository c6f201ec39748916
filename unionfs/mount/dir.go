// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"runtime/debug"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/imgfs/imgfs/index"
)

// Where a directory's reader stands, as telldir(3) tells it: 0 before ".", 1
// before "..", 2 before the first entry, else a packed cookie of the table.
const (
	afterDot    = 1
	afterDotDot = 2
)

// OpenDir is answered once, as Open: the kernel then keeps directories too.
func (v *tree) OpenDir(_ <-chan struct{}, _ *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if v.keepsOpenDir {
		return fuse.ENOSYS
	}
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_CACHE_DIR
	return fuse.OK
}

// ReadDirPlus lists entries with their attributes, so that a walk needs no
// lookups.
func (v *tree) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) (status fuse.Status) {
	defer v.caught(debug.SetPanicOnFault(true), "readdir", in.NodeId, &status)
	err := v.list(in, out, true)
	if v.prefetch != nil && err == nil && len(out.Bytes()) == 0 && in.Offset > afterDotDot {
		id, _ := v.id(in.NodeId)
		v.prefetch.listed(in.Pid, id)
	}
	return v.errno("readdir", in.NodeId, err)
}

// ReadDir lists names alone, for a kernel that asks so.
func (v *tree) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) (status fuse.Status) {
	defer v.caught(debug.SetPanicOnFault(true), "readdir", in.NodeId, &status)
	return v.errno("readdir", in.NodeId, v.list(in, out, false))
}

// list adds entries to out until it is full. An error is returned only when
// nothing was added before it: the kernel asks again behind what it got.
func (v *tree) list(in *fuse.ReadIn, out *fuse.DirEntryList, plus bool) error {
	id, err := v.id(in.NodeId)
	if err != nil {
		return err
	}
	off := in.Offset
	if off < afterDotDot {
		full, err := v.dots(id, off, out, plus)
		if err != nil || full {
			return err
		}
		off = afterDotDot
	}
	cookie := uint64(0)
	if off != afterDotDot {
		cookie = index.UnpackCookie(off)
	}
	d, err := v.t.ReadDir(id, cookie)
	if err != nil {
		return err
	}
	for added := len(out.Bytes()) > 0; ; {
		e, ok, err := d.Next()
		if err == nil && ok {
			err = v.child(e.ID)
		}
		if err != nil {
			if added {
				return nil
			}
			return err
		}
		if !ok || !v.hides(e.Type) && !v.add(&e, out, plus) {
			return nil
		}
		added = true
	}
}

// dots adds "." and "..", which the kernel shows as they are told. Above the
// mounted root there is only itself.
func (v *tree) dots(id index.NodeID, off uint64, out *fuse.DirEntryList, plus bool) (full bool, err error) {
	parent := id
	if id != v.root {
		var n index.Node
		if err := v.t.Node(id, &n); err != nil {
			return false, err
		}
		if !n.IsDir() {
			return false, index.ErrNotDir
		}
		parent = index.NodeID(n.Parent)
	}
	if off == 0 && !put(out, fuse.DirEntry{Name: ".", Ino: uint64(id), Mode: index.ModeDir, Off: afterDot}, plus) {
		return true, nil
	}
	return !put(out, fuse.DirEntry{Name: "..", Ino: uint64(parent), Mode: index.ModeDir, Off: afterDotDot}, plus), nil
}

// put adds an entry that the kernel makes no dentry of.
func put(out *fuse.DirEntryList, e fuse.DirEntry, plus bool) bool {
	if plus {
		return out.AddDirLookupEntry(e) != nil
	}
	return out.AddDirEntry(e)
}

// add adds e, and reports whether it had room.
func (v *tree) add(e *index.Dirent[index.NodeID], out *fuse.DirEntryList, plus bool) bool {
	// The name lies in the table's map and is copied before this returns.
	de := fuse.DirEntry{
		Name: unsafe.String(unsafe.SliceData(e.Name), len(e.Name)),
		Ino:  uint64(e.ID),
		Mode: uint32(e.Type) << 12,
		Off:  index.PackCookie(e.Cookie),
	}
	if !plus {
		return out.AddDirEntry(de)
	}
	entry := out.AddDirLookupEntry(de)
	if entry == nil {
		return false
	}
	if v.entry(e.ID, entry) != fuse.OK {
		// The name is there, its node is damaged: the kernel makes no dentry of
		// node 0 and who asks for the name gets the error.
		*entry = fuse.EntryOut{}
	}
	return true
}
