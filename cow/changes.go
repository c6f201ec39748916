// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/unionfs"
)

// An InUseError says who has an upper open.
type InUseError struct {
	PID int    // 0: not known
	Dir string // where it is mounted, may be empty
}

func (e *InUseError) Error() string {
	switch {
	case e.PID == 0:
		return ErrInUse.Error()
	case e.Dir == "":
		return fmt.Sprintf("%v by process %d", ErrInUse, e.PID)
	}
	return fmt.Sprintf("%v: mounted on %s by process %d", ErrInUse, e.Dir, e.PID)
}

// Is makes it an ErrInUse.
func (e *InUseError) Is(target error) bool { return target == ErrInUse }

// A Change is a path that differs from the tree.
type Change struct {
	Kind string `json:"kind"` // "A" added, "C" changed, "D" deleted
	Path string `json:"path"` // absolute
	Type string `json:"type"` // of what is there, or was: file, dir, symlink, char, block, fifo or socket
}

// Over returns a tree as it is, without changes.
func Over(fs *unionfs.FS) *Snapshot { return &Snapshot{view: view{fs: fs}} }

// Changes calls f for each path that differs from the tree, parents first, the
// names of a directory sorted, those that are gone before the others. As
// docker shows it, a directory in which something differs is a change itself.
func (s *Snapshot) Changes(ctx context.Context, f func(Change) error) error {
	var above []Change // directories on the way that were not told yet
	w := walker{s: s, ctx: ctx}
	w.met = func(m *meeting) error {
		if m.path == "/" {
			return nil // docker does not show it
		}
		depth := strings.Count(m.path, "/")
		above = above[:min(len(above), depth-1)]
		c := Change{Kind: m.kind, Path: m.path, Type: index.TypeName(uint32(m.typ) << 12)}
		if m.kind == kindSame {
			c.Kind = kindChanged
			above = append(above, c)
			return nil
		}
		for k := range above {
			if above[k].Path != "" {
				if err := f(above[k]); err != nil {
					return err
				}
				above[k].Path = ""
			}
		}
		if m.typ == index.ModeDir>>12 {
			above = append(above, Change{})
		}
		return f(c)
	}
	return w.walk()
}

// Kinds of what a walk meets. A directory that is as in the tree is met too,
// since something below it may differ.
const (
	kindAdded   = "A"
	kindChanged = "C"
	kindDeleted = "D"
	kindSame    = ""
)

// A meeting is a path that a walk met.
type meeting struct {
	kind     string
	path     string // absolute
	typ      uint8  // DT_*
	node     Node   // what is there; 0: deleted
	rec      *inode // its record, nil: as in the tree
	replaced bool   // a directory that is another than the tree's of that path
}

// A walker walks the merged tree beside the tree below.
type walker struct {
	s   *Snapshot
	ctx context.Context
	met func(m *meeting) error

	// apart has what is in a directory that replaced another taken for added
	// and nothing of the other for deleted, as a layer tells it.
	apart bool
	// touched has files told as changed that are not, by number.
	touched map[Node]bool
}

// A child is a name of a directory of the merged tree.
type child struct {
	name string
	entry
}

func (w *walker) walk() error {
	rec, _, err := w.s.record(RootNode)
	if err != nil {
		return err
	}
	kind := kindSame
	if changed, err := w.s.differs(RootNode, rec); err != nil {
		return err
	} else if changed {
		kind = kindChanged
	}
	if err := w.met(&meeting{kind: kind, path: "/", typ: index.ModeDir >> 12, node: RootNode, rec: rec}); err != nil {
		return err
	}
	return w.dir("", RootNode, RootNode, rec, 0)
}

// A path may be longer than PATH_MAX where directories were moved. What is
// walked has each on the way in memory, so both bounds hold.
const (
	maxWalkDepth = 1 << 12
	maxWay       = 16 << 10 // bytes
)

// checkWay bounds a walk: a damaged upper may have a directory below itself.
func checkWay(path string, depth int) error {
	if depth > maxWalkDepth || len(path) > maxWay {
		return fmt.Errorf("%.100s...: directories %d deep: %w", path, depth, syscall.ENAMETOOLONG)
	}
	return nil
}

// dir walks the directory n at path, where the tree has the directory low (0:
// none).
func (w *walker) dir(path string, low, n Node, rec *inode, depth int) error {
	if err := checkWay(path, depth); err != nil {
		return err
	}
	if err := w.ctx.Err(); err != nil {
		return err
	}
	children, err := w.s.children(n, rec)
	if err != nil {
		return err
	}
	if low != 0 && (low != n || rec != nil) {
		if err := w.deleted(path, low, children); err != nil {
			return err
		}
	}
	for k := range children {
		if err := w.child(path, low, &children[k], depth); err != nil {
			return err
		}
	}
	return nil
}

// deleted tells of the names of low that are not among children.
func (w *walker) deleted(path string, low Node, children []child) error {
	here, err := w.s.treeNames(low)
	if err != nil {
		return err
	}
	for k := range here {
		c := &here[k]
		if _, ok := slices.BinarySearchFunc(children, c.name, func(c child, name string) int { return strings.Compare(c.name, name) }); ok {
			continue
		}
		if err := w.met(&meeting{kind: kindDeleted, path: path + "/" + c.name, typ: c.typ}); err != nil {
			return err
		}
	}
	return nil
}

// child tells of one name, and walks it if it is a directory.
func (w *walker) child(path string, low Node, c *child, depth int) error {
	m := meeting{kind: kindAdded, path: path + "/" + c.name, typ: c.typ, node: c.node}
	var was child
	if low != 0 {
		id, typ, err := w.s.fs.Tree.Lookup(index.NodeID(low), c.name)
		if err != nil {
			return err
		}
		was.node, was.typ = Node(id), typ
	}
	var err error
	if m.rec, _, err = w.s.record(c.node); err != nil {
		return err
	}
	bothDirs := was.node != 0 && was.typ == c.typ && c.typ == index.ModeDir>>12
	switch {
	case was.node == 0:
	case was.node != c.node:
		m.kind, m.replaced = kindChanged, bothDirs
	default:
		m.kind = kindSame
		changed, err := w.s.differs(c.node, m.rec)
		if err != nil {
			return err
		}
		if changed || w.touched[c.node] {
			m.kind = kindChanged
		}
	}
	if m.kind != kindSame || bothDirs {
		if err := w.met(&m); err != nil {
			return err
		}
	}
	if c.typ != index.ModeDir>>12 {
		return nil
	}
	if !bothDirs || m.replaced && w.apart {
		was.node = 0
	}
	return w.dir(m.path, was.node, c.node, m.rec, depth+1)
}

// differs reports whether a node of the tree differs from what the tree says in
// something that a layer can tell. Names of a hard link are not counted.
func (s *Snapshot) differs(n Node, rec *inode) (bool, error) {
	if rec == nil || n >= FirstOwn {
		return n >= FirstOwn, nil
	}
	var t index.Node
	if err := s.fs.Tree.Node(index.NodeID(n), &t); err != nil {
		return false, err
	}
	return rec.flags&(flagData|flagLocal|flagMixed|flagXattrs) != 0 || rec.mode != t.Mode ||
		rec.uid != t.UID || rec.gid != t.GID || rec.mtime != Time{t.Mtime, t.MtimeNsec} ||
		rec.isRegular() && rec.size != t.Size, nil
}

// treeNames returns the names of a directory of the tree, sorted.
func (s *Snapshot) treeNames(n Node) ([]child, error) {
	d, err := s.fs.Tree.ReadDir(index.NodeID(n), 0)
	if err != nil {
		return nil, err
	}
	list := make([]child, 0, d.Len())
	for {
		e, ok, err := d.Next()
		if err != nil {
			return nil, err
		}
		if !ok {
			break
		}
		list = append(list, child{string(e.Name), entry{Node(e.ID), e.Type}})
	}
	sortChildren(list)
	return list, nil
}

func sortChildren(list []child) {
	slices.SortFunc(list, func(a, b child) int { return cmp.Compare(a.name, b.name) })
}

// children returns the names of a directory of the merged tree, sorted.
func (s *Snapshot) children(n Node, rec *inode) ([]child, error) {
	var list []child
	if n < FirstOwn {
		var err error
		if list, err = s.treeNames(n); err != nil || rec == nil {
			return list, err
		}
	}
	if s.cp == nil {
		return list, nil
	}
	put := map[string]entry{}
	err := s.cp.entries(n, 0, func(_ uint64, name string, e entry) bool {
		put[name] = e
		return true
	})
	if err != nil {
		return nil, err
	}
	kept := list[:0]
	for _, c := range list {
		if e, ok := put[c.name]; ok {
			delete(put, c.name)
			c.entry = e
		}
		if c.node != 0 {
			kept = append(kept, c)
		}
	}
	for name, e := range put {
		if e.node != 0 {
			kept = append(kept, child{name, e})
		}
	}
	sortChildren(kept)
	return kept, nil
}
