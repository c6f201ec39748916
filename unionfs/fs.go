// SPDX-License-Identifier: Apache-2.0

package unionfs

import (
	"errors"
	"io"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/imgfs/imgfs/index"
)

// Source says where one layer of a tree came from.
type Source struct {
	DiffID    string // sha256:… of the uncompressed tar
	CreatedBy string // the history line, may be empty
}

// An FS is a tree with the content of its files. It is immutable and safe for
// concurrent use.
type FS struct {
	Tree    *index.Tree
	Root    index.NodeID // the directory that is shown; of a part not index.RootID
	Sources []Source     // per layer, base first

	// Damaged, if not nil, is called by who finds the tree's table corrupt, so
	// that its owner drops the file and the next opening makes it anew.
	Damaged func()

	open   func(layer int) (io.ReaderAt, error)
	layers []layerReader
}

type layerReader struct {
	r    atomic.Pointer[io.ReaderAt]
	open sync.Mutex // held while open runs
}

// NewFS returns the file system of tree. open is called for a layer at its
// first read, again at the next if it fails, and returns its uncompressed tar.
func NewFS(tree *index.Tree, sources []Source, open func(layer int) (io.ReaderAt, error)) *FS {
	return &FS{
		Tree: tree, Root: index.RootID, Sources: sources,
		open: open, layers: make([]layerReader, len(sources)),
	}
}

// Layer returns the uncompressed tar of a layer, 0 is the base.
func (f *FS) Layer(i int) (io.ReaderAt, error) {
	if i < 0 || i >= len(f.layers) {
		return nil, index.ErrCorrupt
	}
	l := &f.layers[i]
	if r := l.r.Load(); r != nil {
		return *r, nil
	}
	l.open.Lock()
	defer l.open.Unlock()
	if r := l.r.Load(); r != nil {
		return *r, nil
	}
	r, err := f.open(i)
	if err != nil {
		return nil, err
	}
	l.r.Store(&r)
	return r, nil
}

// ReadAt reads the content of the regular file n at off into p. Like
// io.ReaderAt it returns io.EOF with fewer than len(p) bytes at the end of the
// file.
func (f *FS) ReadAt(n *index.Node, p []byte, off int64) (int, error) {
	if !n.IsRegular() {
		return 0, syscall.EINVAL
	}
	if off < 0 || off >= n.Size {
		return 0, io.EOF
	}
	extents, sparse, err := f.Tree.Extents(n)
	if err != nil {
		return 0, err
	}
	r, err := f.Layer(n.Layer)
	if err != nil {
		return 0, err
	}
	return ReadContent(r, n, extents, sparse, p, off)
}

// Cached reports whether all of the regular file n lies in memory, decoded, so
// that ReadAt waits for nothing. A layer tells by a method Cached, as that of
// seek.Reader; of one without, nothing does.
func (f *FS) Cached(n *index.Node) bool {
	if n.HasExtra() || n.Layer < 0 || n.Layer >= len(f.layers) {
		return false // it may be sparse
	}
	r := f.layers[n.Layer].r.Load()
	if r == nil {
		return false
	}
	c, ok := (*r).(interface{ Cached(off, n int64) bool })
	return ok && c.Cached(n.Data, n.Size)
}

// Seek answers SEEK_DATA (data true) or SEEK_HOLE for the regular file n from
// off, as lseek(2): ENXIO at or behind the end, or where no data follows.
func (f *FS) Seek(n *index.Node, off int64, data bool) (int64, error) {
	if off < 0 || off >= n.Size {
		return 0, syscall.ENXIO
	}
	extents, sparse, err := f.Tree.Extents(n)
	if err != nil {
		return 0, err
	}
	if !sparse {
		if data {
			return off, nil
		}
		return n.Size, nil
	}
	for i := extents.Find(off); i < extents.Len(); i++ {
		e := extents.At(i)
		if e.Len == 0 {
			continue
		}
		if data {
			return max(off, e.Off), nil
		}
		if off < e.Off {
			return off, nil
		}
		off = e.Off + e.Len // runs may touch
	}
	if data {
		return 0, syscall.ENXIO
	}
	return min(off, n.Size), nil
}

// Limits of a path, as Linux has them.
const (
	MaxSymlinks   = 40
	maxComponents = 4096
)

// Resolve walks path from f.Root and returns its node. Symlinks on the way
// are followed inside the root, the last one only if follow is true; ".."
// stops at the root. The error is fs.ErrNotExist, ENOTDIR, ELOOP or that of a
// damaged index, with the path in it.
func (f *FS) Resolve(path string, follow bool) (index.NodeID, error) {
	id, err := f.resolve(path, follow)
	if err != nil {
		return 0, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return id, nil
}

func (f *FS) resolve(path string, follow bool) (index.NodeID, error) {
	todo := strings.Split(path, "/")
	var n index.Node
	at, hops, steps := f.Root, 0, 0
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		if steps++; steps > maxComponents {
			return 0, syscall.ENAMETOOLONG
		}
		switch name {
		case "", ".":
			if err := f.Tree.Node(at, &n); err != nil {
				return 0, err
			}
			if !n.IsDir() {
				return 0, syscall.ENOTDIR
			}
			continue
		case "..":
			if at == f.Root {
				continue
			}
			if err := f.Tree.Node(at, &n); err != nil {
				return 0, err
			}
			if !n.IsDir() {
				return 0, syscall.ENOTDIR
			}
			at = index.NodeID(n.Parent)
			continue
		}
		id, _, err := f.Tree.Lookup(at, name)
		switch {
		case errors.Is(err, index.ErrNotDir):
			return 0, syscall.ENOTDIR
		case err != nil:
			return 0, err
		case id == 0:
			return 0, fs.ErrNotExist
		}
		if err := f.Tree.Node(id, &n); err != nil {
			return 0, err
		}
		last := len(todo) == 0
		if n.Type() != index.ModeSymlink || last && !follow {
			at = id
			continue
		}
		if hops++; hops > MaxSymlinks {
			return 0, syscall.ELOOP
		}
		target, err := f.Tree.Target(&n)
		if err != nil {
			return 0, err
		}
		if len(target) > 0 && target[0] == '/' {
			at = f.Root
		}
		todo = append(strings.Split(string(target), "/"), todo...)
	}
	return at, nil
}

// Sub returns the part of f below dir, which must be a directory.
func (f *FS) Sub(path string) (*FS, error) {
	id, err := f.Resolve(path, true)
	if err != nil {
		return nil, err
	}
	var n index.Node
	if err := f.Tree.Node(id, &n); err != nil {
		return nil, err
	}
	if !n.IsDir() {
		return nil, &fs.PathError{Op: "open", Path: path, Err: syscall.ENOTDIR}
	}
	sub := NewFS(f.Tree, f.Sources, f.Layer)
	sub.Root, sub.Damaged = id, f.Damaged
	return sub, nil
}
