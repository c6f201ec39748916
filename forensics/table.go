// SPDX-License-Identifier: Apache-2.0

package forensics

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/unionfs"
)

// A tableTree is a tree over a table: that of a stack, or of one layer alone,
// whose marks it does not show.
type tableTree[ID ~uint32] struct {
	t      *index.Table[ID]
	root   ID
	top    ID // the root of which root is a part
	layers []*Layer
	layer  int // of a table of one layer: which one; -1: the nodes tell

	near []atomic.Int64 // per layer: where the last hash was
}

// TreeOf returns the tree of the merged table t below the directory root.
// layers are those it was merged from.
func TreeOf(t *index.Tree, root index.NodeID, layers []*Layer) Tree {
	return &tableTree[index.NodeID]{t: t, root: root, top: root, layers: layers, layer: -1, near: make([]atomic.Int64, len(layers))}
}

// TreeOfLayer returns what layer k brings, applied alone to an empty
// directory.
func TreeOfLayer(t *index.Layer, layers []*Layer, k int) Tree {
	return &tableTree[index.EntryID]{t: t, root: index.RootID, top: index.RootID, layers: layers, layer: k, near: make([]atomic.Int64, len(layers))}
}

// fill makes e the entry at path of inode id.
func (t *tableTree[ID]) fill(e *Entry, path string, id ID) error {
	n := &e.node
	if err := t.t.Node(id, n); err != nil {
		return err
	}
	e.Path, e.Target, e.Ino = path, "", uint64(id)
	e.Mode, e.Nlink, e.UID, e.GID, e.Rdev = n.Mode, n.Nlink, n.UID, n.GID, n.Rdev
	e.Size, e.Mtime, e.MtimeNsec = n.Size, n.Mtime, n.MtimeNsec
	e.Layer, e.Header = n.Layer, n.Header
	if t.layer >= 0 {
		e.Layer = t.layer
	}
	if typ := n.Type(); typ == index.ModeSymlink || typ == 0 {
		return t.target(e)
	}
	return nil
}

// target tells where the link e leads.
func (t *tableTree[ID]) target(e *Entry) error {
	target, err := t.t.Target(&e.node)
	if err != nil {
		return err
	}
	if e.node.Type() == 0 {
		target, _, _ = bytes.Cut(target, []byte{0})
	}
	e.Target = string(target)
	return nil
}

// Walk implements Tree.
func (t *tableTree[ID]) Walk(ctx context.Context, f func(*Entry) error) error {
	w := tableWalk[ID]{tableTree: t, ctx: ctx, f: f}
	return index.Guard(func() error {
		if err := t.fill(&w.e, "", t.root); err != nil {
			return err
		}
		down, err := visit(&w.e, f)
		if err == nil && down {
			err = w.dir("", t.root)
		}
		return noSkip(err)
	})
}

// visit calls f for an entry of a walk and returns whether what is in it is
// walked. With fs.SkipDir the walk of the directory that it is in ends.
func visit(e *Entry, f func(*Entry) error) (down bool, err error) {
	isDir := e.IsDir() // f may change it
	err = f(e)
	if err == fs.SkipDir && isDir {
		return false, nil
	}
	return isDir, err
}

func noSkip(err error) error {
	if err == fs.SkipDir {
		return nil
	}
	return err
}

type tableWalk[ID ~uint32] struct {
	*tableTree[ID]
	ctx   context.Context
	f     func(*Entry) error
	e     Entry
	names []index.Dirent[ID] // of the directories on the way, one after another
	ticks uint
}

// dir walks what is in directory id. Its depth is bounded by the index.
func (w *tableWalk[ID]) dir(path string, id ID) error {
	lo := len(w.names)
	defer func() { w.names = w.names[:lo] }()
	d, err := w.t.ReadDir(id, 0)
	if err != nil {
		return err
	}
	for {
		e, ok, err := d.Next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if e.Type != index.DTWhiteout {
			w.names = append(w.names, e)
		}
	}
	hi := len(w.names)
	slices.SortFunc(w.names[lo:hi], func(a, b index.Dirent[ID]) int { return bytes.Compare(a.Name, b.Name) })
	for i := lo; i < hi; i++ {
		if w.ticks++; w.ticks%1024 == 0 && w.ctx.Err() != nil {
			return w.ctx.Err()
		}
		child := w.names[i].ID
		if err := w.fill(&w.e, joinPath(path, string(w.names[i].Name)), child); err != nil {
			return err
		}
		at := w.e.Path
		down, err := visit(&w.e, w.f)
		if err == nil && down {
			err = w.dir(at, child)
		}
		if err != nil {
			return noSkip(err)
		}
	}
	return nil
}

// Lookup implements Tree.
func (t *tableTree[ID]) Lookup(_ context.Context, path string) (*Entry, error) {
	path = cleanPath(path)
	e := new(Entry)
	err := index.Guard(func() error {
		id, err := t.find(path)
		if err != nil {
			return err
		}
		return t.fill(e, path, id)
	})
	if err != nil {
		return nil, err
	}
	return e, nil
}

func (t *tableTree[ID]) find(path string) (ID, error) {
	id := t.root
	for rest := path; rest != ""; {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		child, _, err := t.t.Lookup(id, name)
		if errors.Is(err, index.ErrNotDir) || err == nil && child == 0 {
			return 0, notExist(path)
		}
		if err != nil {
			return 0, err
		}
		id = child
	}
	return id, nil
}

// sub returns the tree below path.
func (t *tableTree[ID]) sub(path string) (Tree, error) {
	below := *t
	return &below, index.Guard(func() (err error) {
		below.root, err = t.find(path)
		return err
	})
}

// whole returns the tree that t is a part of.
func (t *tableTree[ID]) whole() Tree {
	all := *t
	all.root = t.top
	return &all
}

// Open implements Tree.
func (t *tableTree[ID]) Open(e *Entry) (io.ReaderAt, error) {
	if !e.IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: "/" + e.Path, Err: syscall.EINVAL}
	}
	if e.Layer < 0 || e.Layer >= len(t.layers) {
		return nil, fmt.Errorf("%w: layer %d", index.ErrCorrupt, e.Layer)
	}
	r, err := t.layers[e.Layer].Content(context.Background())
	if err != nil {
		return nil, err
	}
	c := &tableContent{n: e.node, r: r}
	err = index.Guard(func() error {
		c.extents, c.sparse, err = t.t.Extents(&c.n)
		return err
	})
	return c, err
}

// A tableContent is the content of a regular file of a layer.
type tableContent struct {
	n       index.Node
	extents index.Extents
	sparse  bool
	r       io.ReaderAt
}

func (c *tableContent) ReadAt(p []byte, off int64) (n int, err error) {
	err = index.Guard(func() error {
		n, err = unionfs.ReadContent(c.r, &c.n, c.extents, c.sparse, p, off)
		return err
	})
	return n, err
}

// Hash implements Tree.
func (t *tableTree[ID]) Hash(ctx context.Context, e *Entry) (sum [sha256.Size]byte, err error) {
	if e.Layer < 0 || e.Layer >= len(t.layers) {
		return sum, fmt.Errorf("%w: layer %d", index.ErrCorrupt, e.Layer)
	}
	h, err := t.layers[e.Layer].Hashes(ctx)
	if u := (*UnreadError)(nil); errors.As(err, &u) {
		return hashContent(ctx, t, e) // another file of its layer cannot be read
	}
	if err != nil {
		return sum, err
	}
	var ok bool
	err = index.Guard(func() error {
		at := 0
		if e.Layer < len(t.near) {
			at = int(t.near[e.Layer].Load()) + 1
		}
		if sum, at, ok, err = h.OfNear(e.Header, at); e.Layer < len(t.near) {
			t.near[e.Layer].Store(int64(at))
		}
		return err
	})
	if err != nil || ok {
		return sum, err
	}
	return hashContent(ctx, t, e)
}

// hashContent reads a file to its end.
func hashContent(ctx context.Context, t Tree, e *Entry) (sum [sha256.Size]byte, err error) {
	r, err := t.Open(e)
	if err != nil {
		return sum, err
	}
	if c, ok := r.(io.Closer); ok {
		defer c.Close() // it was only read
	}
	h := sha256.New()
	if _, err := io.Copy(h, &contextReader{ctx, Content(r, e)}); err != nil {
		return sum, err
	}
	h.Sum(sum[:0])
	return sum, nil
}

// A contextReader ends with its context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// Xattrs implements Tree.
func (t *tableTree[ID]) Xattrs(e *Entry) (list []index.Xattr, err error) {
	if !e.node.HasExtra() {
		return nil, nil
	}
	err = index.Guard(func() error {
		return t.t.EachXattr(&e.node, func(name, value []byte) bool {
			list = append(list, index.Xattr{Name: string(name), Value: bytes.Clone(value)})
			return true
		})
	})
	return list, err
}
