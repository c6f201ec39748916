// SPDX-License-Identifier: Apache-2.0

package unionfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"strings"
	"syscall"

	"github.com/imgfs/imgfs/index"
)

// A LayerError says which layer of a stack could not be used.
type LayerError struct {
	Layer int // 0 is the base
	Err   error
}

func (e *LayerError) Error() string { return fmt.Sprintf("layer %d: %v", e.Layer+1, e.Err) }

// Unwrap returns the reason.
func (e *LayerError) Unwrap() error { return e.Err }

// maxLayers is what a node's layer number can say. Engines stop at 127.
const maxLayers = 1 << 15

// maxTotal bounds the entries of all layers of a stack, since one small layer
// may stand in it thousands of times.
const maxTotal = 64 << 20

// Merge stacks layers, base first, and writes the tree to w; keys name the
// layers in the tree's meta. Each layer was applied alone to an empty
// directory (index.Scan); here directories merge, everything else replaces,
// and a mark hides what lies below its layer (image-spec layer.md and
// docs/semantics.md). Numbers are given in the order (layer, entry). A hard
// link to nothing is an index.ErrBadLayer in a *LayerError. When ctx ends,
// Merge does, at once.
//
// Precondition: Merge runs under index.Guard.
func Merge(ctx context.Context, w *index.Writer[index.NodeID], layers []*index.Layer, keys []string) error {
	if len(layers) > maxLayers {
		return fmt.Errorf("%d layers: %w of %d", len(layers), index.ErrLimit, maxLayers)
	}
	if len(layers) == 0 {
		return writeEmpty(w)
	}
	total := uint64(0)
	for _, t := range layers {
		if total += uint64(t.Count()); total > maxTotal {
			return fmt.Errorf("layers of over %d files and directories in all: %w of %d", total, index.ErrLimit, uint64(maxTotal))
		}
	}
	m, err := newMerger(ctx, layers)
	if err != nil {
		return err
	}
	if err := m.mergeAll(); err != nil {
		return err
	}
	if err := m.number(); err != nil {
		return err
	}
	return m.write(w, keys)
}

// writeEmpty writes the tree of an image without layers.
func writeEmpty(w *index.Writer[index.NodeID]) error {
	block, err := w.Dir(nil)
	if err != nil {
		return err
	}
	n := index.Node{Mode: index.ModeDir | 0o755, Nlink: 2, Flags: index.FlagImplied}
	n.SetDir(block, index.RootID)
	if err := w.Node(&n); err != nil {
		return err
	}
	return w.Close(index.Meta{Kind: "tree"})
}

// A nodeRef names an inode of a stack.
type nodeRef struct {
	layer uint32
	id    index.EntryID
}

// contributor is a directory of one layer that takes part in a merged one.
type contributor struct {
	layer int
	id    index.EntryID
}

type merger struct {
	ctx    context.Context
	ticks  uint32 // of the context's clock
	layers []*index.Layer
	links  []map[index.EntryID]nodeRef // open hard links of each layer, resolved

	dirs    []mergedDir
	entries []mergedEntry
	names   []byte // of entries, one after another

	used [][]uint32 // per layer and entry: nlink, 0 = not in the tree
	base []uint64   // per layer: numbers given to the layers below
	rank [][]uint32 // per layer and 64 entries: used ones before

	oddities []index.Oddity // the first index.MaxOddities
	odd      int

	nameIndex map[string]int // scratch of mergeDir
}

type mergedDir struct {
	ref    nodeRef // gives the attributes
	name   string
	parent int // index in dirs
	lo, hi int // entries
	subs   uint32
}

type mergedEntry struct {
	ref nodeRef
	len uint8 // of its name; names lie one after another
	dt  uint8
}

// resolveLinks finds the targets of layer k's open hard links in what lies
// below it. All must be there, also those that a later entry replaced.
func (m *merger) resolveLinks(k int) error {
	t := m.layers[k]
	left := t.Meta().Links
	if left == 0 {
		return nil
	}
	m.links[k] = make(map[index.EntryID]nodeRef, left)
	var n index.Node
	for i := uint32(1); i <= t.Count() && left > 0; i++ {
		if err := m.tick(); err != nil {
			return err
		}
		if err := t.Node(index.EntryID(i), &n); err != nil {
			return err
		}
		if n.Type() != 0 {
			continue
		}
		left--
		target, err := t.Target(&n)
		if err != nil {
			return err
		}
		ref, name, err := m.linkTarget(k, string(target))
		if errors.Is(err, index.ErrCorrupt) {
			return err
		}
		if err != nil {
			return &index.LayerError{Off: n.Header, Name: name, Err: err}
		}
		m.links[k][index.EntryID(i)] = ref
	}
	return nil
}

// linkTarget looks the target of a hard link of layer k up below it: as it
// was written, then as this layer's symlinks lead.
func (m *merger) linkTarget(k int, target string) (nodeRef, string, error) {
	written, led, crossed := strings.Cut(target, "\x00")
	ref, dir, err := m.lookupBelow(k, written)
	if errors.Is(err, fs.ErrNotExist) && crossed {
		ref, dir, err = m.lookupBelow(k, led)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ref, written, errors.New("bad link: there is no such file in this layer or below")
	case err != nil:
		return ref, written, err
	case dir:
		return ref, written, errors.New("bad link: to a directory")
	}
	return ref, written, nil
}

// lookupBelow walks path in the layers below k, symlinks on the way followed
// inside the root, the last name not.
func (m *merger) lookupBelow(k int, path string) (ref nodeRef, isDir bool, err error) {
	root := make([]contributor, 0, k)
	for i := k - 1; i >= 0; i-- {
		root = append(root, contributor{i, index.RootID})
		if o, err := m.opaque(i, index.RootID); err != nil {
			return ref, false, err
		} else if o {
			break
		}
	}
	stack := [][]contributor{root}
	todo := strings.Split(path, "/")
	for hops, steps := 0, 0; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		if steps++; steps > 4*maxComponents {
			return ref, false, syscall.ENAMETOOLONG
		}
		switch name {
		case "", ".":
			continue
		case "..":
			if len(stack) > 1 {
				stack = stack[:len(stack)-1]
			}
			continue
		}
		e, ok, err := m.lookup(stack[len(stack)-1], name)
		if err != nil {
			return ref, false, err
		}
		if !ok {
			return ref, false, fs.ErrNotExist
		}
		if e.dirs != nil {
			stack = append(stack, e.dirs)
			continue
		}
		if len(todo) == 0 {
			return e.ref, false, nil
		}
		var n index.Node
		if err := m.layers[e.ref.layer].Node(e.ref.id, &n); err != nil {
			return ref, false, err
		}
		if n.Type() != index.ModeSymlink {
			return ref, false, fs.ErrNotExist
		}
		if hops++; hops > MaxSymlinks {
			return ref, false, fs.ErrNotExist
		}
		target, err := m.layers[e.ref.layer].Target(&n)
		if err != nil {
			return ref, false, err
		}
		if len(target) > 0 && target[0] == '/' {
			stack = stack[:1]
		}
		todo = append(strings.Split(string(target), "/"), todo...)
	}
	return ref, true, nil
}

func (m *merger) opaque(layer int, id index.EntryID) (bool, error) {
	var n index.Node
	err := m.layers[layer].Node(id, &n)
	return n.Flags&index.FlagOpaque != 0, err
}

// merged is what a name comes to: a directory of several contributors, top
// first, or one node.
type merged struct {
	ref  nodeRef // of a directory: who gives the attributes
	dt   uint8
	dirs []contributor // not nil for a directory
}

// lookup finds one name in a merged directory.
func (m *merger) lookup(dirs []contributor, name string) (merged, bool, error) {
	var c combiner
	for _, d := range dirs {
		id, dt, err := m.layers[d.layer].Lookup(d.id, name)
		if err != nil {
			return merged{}, false, err
		}
		if id == 0 && dt == 0 {
			continue
		}
		if err := c.add(m, d.layer, id, dt); err != nil {
			return merged{}, false, err
		}
		if c.done {
			break
		}
	}
	e, ok := c.result()
	return e, ok, nil
}

// A combiner takes what the layers hold under one name, top first, and says
// what shows.
type combiner struct {
	merged
	done     bool // nothing below matters
	opaque   bool // children below are hidden; attributes and existence still count
	explicit bool // ref gives the attributes
	exists   bool
	overLink bool // a directory that is only implied, where a symlink lies below
}

// add takes entry id of type dt in layer k. A mark has id 0.
func (c *combiner) add(m *merger, k int, id index.EntryID, dt uint8) error {
	if dt == index.DTWhiteout {
		c.done = true
		return nil
	}
	if dt != dtDir {
		c.done, c.exists = true, true
		if c.dirs != nil { // a directory stands above
			c.overLink = dt == dtLink && !c.explicit
			return nil
		}
		c.ref, c.dt = nodeRef{uint32(k), id}, dt
		if dt != 0 {
			return nil
		}
		c.ref = m.links[k][id]
		var n index.Node
		err := m.layers[c.ref.layer].Node(c.ref.id, &n)
		c.dt = n.DT()
		return err
	}
	var n index.Node
	if err := m.layers[k].Node(id, &n); err != nil {
		return err
	}
	if c.dirs == nil {
		c.ref, c.dt, c.dirs = nodeRef{uint32(k), id}, dtDir, make([]contributor, 0, 1)
	}
	if !c.opaque {
		c.dirs = append(c.dirs, contributor{k, id})
	}
	if n.Flags&index.FlagMarkers == 0 {
		c.exists = true
	}
	if n.Flags&index.FlagImplied == 0 && !c.explicit {
		c.ref, c.explicit = nodeRef{uint32(k), id}, true
	}
	c.opaque = c.opaque || n.Flags&index.FlagOpaque != 0
	c.done = n.Flags&index.FlagReplaces != 0
	return nil
}

const (
	dtDir  = 4
	dtLink = 10
)

// result returns what shows, if anything does.
func (c *combiner) result() (merged, bool) { return c.merged, c.exists }

// mergeAll merges directories from the root down, breadth first, so that the
// depth of a hostile tree costs no stack.
func (m *merger) mergeAll() error {
	m.used = make([][]uint32, len(m.layers))
	for k, t := range m.layers {
		m.used[k] = make([]uint32, t.Count()+1)
	}
	var c combiner
	for k := len(m.layers) - 1; k >= 0 && !c.done; k-- {
		if err := c.add(m, k, index.RootID, dtDir); err != nil {
			return &LayerError{k, err}
		}
	}
	m.dirs = append(m.dirs, mergedDir{ref: c.ref})
	queue := [][]contributor{c.dirs}
	for i := 0; i < len(queue); i++ {
		subs, err := m.mergeDir(i, queue[i])
		if err != nil {
			return err
		}
		queue[i] = nil
		queue = append(queue, subs...)
	}
	return nil
}

// mergeDir appends the entries of directory i and its subdirectories to
// m.dirs, and returns these's contributors.
func (m *merger) mergeDir(i int, from []contributor) (subs [][]contributor, err error) {
	m.dirs[i].lo = len(m.entries)
	emit := func(name []byte, e merged, overLink bool) {
		if e.dirs != nil {
			m.dirs = append(m.dirs, mergedDir{ref: e.ref, parent: i, name: string(name)})
			if overLink {
				m.report(len(m.dirs) - 1)
			}
			m.dirs[i].subs++
			subs = append(subs, e.dirs)
		}
		m.used[e.ref.layer][e.ref.id]++
		m.entries = append(m.entries, mergedEntry{ref: e.ref, len: uint8(len(name)), dt: e.dt})
		m.names = append(m.names, name...)
	}
	if len(from) == 1 {
		err = m.one(from[0], emit)
	} else {
		err = m.many(from, emit)
	}
	m.dirs[i].hi = len(m.entries)
	return subs, err
}

// report notes that directory i replaces a symlink which its layer did not
// mention (rows L2, L4, L6): other engines write through the symlink.
func (m *merger) report(i int) {
	if m.odd++; m.odd > index.MaxOddities {
		return
	}
	path := m.dirs[i].name
	for d := m.dirs[i].parent; d != 0; d = m.dirs[d].parent {
		path = m.dirs[d].name + "/" + path
	}
	m.oddities = append(m.oddities, index.Oddity{Name: path, Rule: "L2", What: "a symlink of a lower layer becomes a directory"})
}

// one lists a directory that a single layer brings.
func (m *merger) one(d contributor, emit func(name []byte, e merged, overLink bool)) error {
	return m.each(d, func(e index.Dirent[index.EntryID]) error {
		var c combiner
		if err := c.add(m, d.layer, e.ID, e.Type); err != nil {
			return err
		}
		if r, ok := c.result(); ok {
			emit(e.Name, r, c.overLink)
		}
		return nil
	})
}

// many lists a directory of several contributors, top first.
func (m *merger) many(from []contributor, emit func(name []byte, e merged, overLink bool)) error {
	if m.nameIndex == nil {
		m.nameIndex = make(map[string]int)
	}
	clear(m.nameIndex)
	var names [][]byte
	var all []combiner
	for _, d := range from {
		err := m.each(d, func(e index.Dirent[index.EntryID]) error {
			at, ok := m.nameIndex[string(e.Name)]
			if !ok {
				at = len(all)
				m.nameIndex[string(e.Name)] = at
				all = append(all, combiner{})
				names = append(names, e.Name)
			}
			if all[at].done {
				return nil
			}
			return all[at].add(m, d.layer, e.ID, e.Type)
		})
		if err != nil {
			return err
		}
	}
	for at := range all {
		if r, ok := all[at].result(); ok {
			emit(names[at], r, all[at].overLink)
		}
	}
	return nil
}

// tick returns the context's error, asked for now and then.
func (m *merger) tick() error {
	if m.ticks++; m.ticks%1024 != 0 {
		return nil
	}
	return m.ctx.Err()
}

func (m *merger) each(d contributor, f func(index.Dirent[index.EntryID]) error) error {
	dir, err := m.layers[d.layer].ReadDir(d.id, 0)
	if err != nil {
		return &LayerError{d.layer, err}
	}
	for {
		if err := m.tick(); err != nil {
			return err
		}
		e, ok, err := dir.Next()
		if err == nil && ok {
			err = f(e)
		}
		if err != nil {
			return &LayerError{d.layer, err}
		}
		if !ok {
			return nil
		}
	}
}

// number gives each used inode its number: the root 1, then in the order of
// layers and entries.
func (m *merger) number() error {
	m.base = make([]uint64, len(m.layers))
	m.rank = make([][]uint32, len(m.layers))
	root := m.dirs[0].ref
	m.used[root.layer][root.id] = 0
	next := uint64(index.RootID) + 1
	for k, used := range m.used {
		m.base[k] = next
		rank := make([]uint32, len(used)/64+1)
		n := uint32(0)
		for i, u := range used {
			if i%64 == 0 {
				rank[i/64] = n
			}
			if u != 0 {
				n++
			}
		}
		m.rank[k] = rank
		next += uint64(n)
	}
	if next > math.MaxUint32 {
		return fmt.Errorf("%d inodes: %w of %d", next, index.ErrLimit, uint32(math.MaxUint32))
	}
	return nil
}

func (m *merger) nodeID(r nodeRef) index.NodeID {
	if r == m.dirs[0].ref {
		return index.RootID
	}
	used := m.used[r.layer]
	n := m.rank[r.layer][r.id/64]
	for i := r.id &^ 63; i < r.id; i++ {
		if used[i] != 0 {
			n++
		}
	}
	return index.NodeID(m.base[r.layer] + uint64(n))
}

// write writes directories, then nodes in the order of their numbers.
func (m *merger) write(w *index.Writer[index.NodeID], keys []string) error {
	dirs := make(map[nodeRef]dirRecord, len(m.dirs))
	var list []index.DirEntry[index.NodeID]
	at := 0
	for i := range m.dirs {
		if err := m.tick(); err != nil {
			return err
		}
		d := &m.dirs[i]
		list = list[:0]
		for _, e := range m.entries[d.lo:d.hi] {
			list = append(list, index.DirEntry[index.NodeID]{ID: m.nodeID(e.ref), Type: e.dt, Name: string(m.names[at : at+int(e.len)])})
			at += int(e.len)
		}
		block, err := w.Dir(list)
		if err != nil {
			return err
		}
		dirs[d.ref] = dirRecord{block, m.nodeID(m.dirs[d.parent].ref), 2 + d.subs}
	}
	var size int64
	put := func(r nodeRef) error {
		n, err := m.writeNode(w, r, dirs)
		if err == nil && n.IsRegular() {
			size += min(n.Size, math.MaxInt64-size)
		}
		return err
	}
	if err := put(m.dirs[0].ref); err != nil {
		return err
	}
	for k, used := range m.used {
		for i, u := range used {
			if u == 0 {
				continue
			}
			if err := m.tick(); err != nil {
				return err
			}
			if err := put(nodeRef{uint32(k), index.EntryID(i)}); err != nil {
				return &LayerError{k, err}
			}
		}
	}
	return w.Close(index.Meta{Kind: "tree", Size: size, Layers: keys, Oddities: m.oddities, Odd: m.odd})
}

type dirRecord struct {
	block  index.DirBlock
	parent index.NodeID
	nlink  uint32
}

func (m *merger) writeNode(w *index.Writer[index.NodeID], r nodeRef, dirs map[nodeRef]dirRecord) (*index.Node, error) {
	n, err := m.copyNode(w, r)
	if err != nil {
		return nil, err
	}
	n.Nlink = m.used[r.layer][r.id]
	if n.IsDir() {
		d := dirs[r]
		n.SetDir(d.block, uint32(d.parent))
		n.Nlink = d.nlink
	}
	return n, w.Node(n)
}

// copyNode reads an inode of a layer and writes its target, xattrs and map to
// the tree, for who writes the node itself.
func (m *merger) copyNode(w *index.Writer[index.NodeID], r nodeRef) (*index.Node, error) {
	t := m.layers[r.layer]
	n := new(index.Node)
	if err := t.Node(r.id, n); err != nil {
		return nil, err
	}
	n.Layer = int(r.layer)
	extents, err := copyExtents(t, n)
	if err != nil {
		return nil, err
	}
	var xattrs []index.Xattr
	if err := t.EachXattr(n, func(name, value []byte) bool {
		xattrs = append(xattrs, index.Xattr{Name: string(name), Value: value})
		return true
	}); err != nil {
		return nil, err
	}
	if n.Type() == index.ModeSymlink {
		target, err := t.Target(n)
		if err != nil {
			return nil, err
		}
		if err := w.SetTarget(n, string(target)); err != nil {
			return nil, err
		}
	}
	n.Flags &= index.FlagImplied
	return n, w.SetExtra(n, xattrs, extents)
}

// copyExtents returns nil unless n is sparse.
func copyExtents(t *index.Layer, n *index.Node) ([]index.Extent, error) {
	e, sparse, err := t.Extents(n)
	if err != nil || !sparse {
		return nil, err
	}
	list := make([]index.Extent, e.Len())
	for i := range list {
		list[i] = e.At(i)
	}
	return list, nil
}
