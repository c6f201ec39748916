// SPDX-License-Identifier: Apache-2.0

package unionfs

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/imgfs/imgfs/index"
)

// A View is a tree that is put together by hand from what layers hold: other
// names for the same inodes. It is for looking, not for uppers: its numbers
// are those of no merged tree.
type View struct {
	m     *merger // resolves hard links into lower layers
	nodes []viewNode
	of    map[viewKey]int // files by what they are, in each of the view's first directories
}

type viewNode struct {
	ref      nodeRef // id 0: a directory that nobody brought
	dir      bool
	dt       uint8
	nlink    uint32
	parent   int
	children map[string]int
}

// viewKey names a file of a view: its hard links are those below one of the
// root's directories.
type viewKey struct {
	top string
	ref nodeRef
}

// NewView returns an empty view of layers, base first.
func NewView(ctx context.Context, layers []*index.Layer) (*View, error) {
	m, err := newMerger(ctx, layers)
	if err != nil {
		return nil, err
	}
	return &View{
		m:     m,
		nodes: []viewNode{{dir: true, dt: dtDir, children: make(map[string]int)}},
		of:    make(map[viewKey]int),
	}, nil
}

// Add puts inode id of a layer at path. Directories on the way that were not
// added are made. What is at path already is replaced, but a directory keeps
// what is in it.
//
// Precondition: Add runs under index.Guard.
func (v *View) Add(path string, layer int, id index.EntryID) error {
	var n index.Node
	if err := v.m.layers[layer].Node(id, &n); err != nil {
		return err
	}
	ref := nodeRef{uint32(layer), id}
	if n.Type() == 0 {
		ref = v.m.links[layer][id]
		if err := v.m.layers[ref.layer].Node(ref.id, &n); err != nil {
			return err
		}
	}
	top, _, _ := strings.Cut(path, "/")
	dir, name := v.walk(path)
	if name == "" {
		v.nodes[dir].ref = ref
		return nil
	}
	old, there := v.nodes[dir].children[name]
	switch {
	case n.IsDir() && there && v.nodes[old].dir:
		v.nodes[old].ref = ref
	case n.IsDir():
		v.node(dir, name, viewNode{ref: ref, dir: true, dt: dtDir, children: make(map[string]int)})
	default:
		key := viewKey{top, ref}
		at, ok := v.of[key]
		if !ok {
			at = v.node(dir, name, viewNode{ref: ref, dt: n.DT()})
			v.of[key] = at
		}
		v.nodes[dir].children[name] = at
	}
	if len(v.nodes) > maxTotal {
		return fmt.Errorf("a view of over %d files and directories: %w", maxTotal, index.ErrLimit)
	}
	return nil
}

// walk returns the directory that path lies in, made if it is not there, and
// the last name.
func (v *View) walk(path string) (dir int, name string) {
	for {
		name, rest, more := strings.Cut(path, "/")
		if !more {
			return dir, name
		}
		at, ok := v.nodes[dir].children[name]
		if !ok || !v.nodes[at].dir {
			at = v.node(dir, name, viewNode{dir: true, dt: dtDir, children: make(map[string]int)})
		}
		dir, path = at, rest
	}
}

// node adds a node and its name.
func (v *View) node(dir int, name string, n viewNode) int {
	n.parent = dir
	v.nodes = append(v.nodes, n)
	v.nodes[dir].children[name] = len(v.nodes) - 1
	return len(v.nodes) - 1
}

// Write writes the view as the table of a tree.
//
// Precondition: Write runs under index.Guard.
func (v *View) Write(w *index.Writer[index.NodeID]) error {
	number := v.number()
	var size int64
	for i, id := range number {
		if id == 0 {
			continue
		}
		n, err := v.write(w, i, number)
		if err != nil {
			return err
		}
		if n.IsRegular() {
			size += min(n.Size, math.MaxInt64-size)
		}
	}
	return w.Close(index.Meta{Kind: "tree", Size: size})
}

// number counts the names of each node and numbers those that have one.
func (v *View) number() []index.NodeID {
	for i := range v.nodes {
		for _, child := range v.nodes[i].children {
			v.nodes[child].nlink++
		}
	}
	number := make([]index.NodeID, len(v.nodes))
	next := index.NodeID(index.RootID)
	for i := range v.nodes {
		if i == 0 || v.nodes[i].nlink > 0 {
			number[i] = next
			next++
		}
	}
	return number
}

// write writes node i.
func (v *View) write(w *index.Writer[index.NodeID], i int, number []index.NodeID) (*index.Node, error) {
	from := &v.nodes[i]
	var n *index.Node
	if from.ref.id == 0 {
		n = &index.Node{Mode: index.ModeDir | 0o755, Flags: index.FlagImplied}
	} else {
		var err error
		if n, err = v.m.copyNode(w, from.ref); err != nil {
			return nil, &LayerError{int(from.ref.layer), err}
		}
		n.Nlink = from.nlink
	}
	if from.dir {
		list := make([]index.DirEntry[index.NodeID], 0, len(from.children))
		n.Nlink = 2
		for name, child := range from.children {
			list = append(list, index.DirEntry[index.NodeID]{ID: number[child], Type: v.nodes[child].dt, Name: name})
			if v.nodes[child].dir {
				n.Nlink++
			}
		}
		slices.SortFunc(list, func(a, b index.DirEntry[index.NodeID]) int { return strings.Compare(a.Name, b.Name) })
		block, err := w.Dir(list)
		if err != nil {
			return nil, err
		}
		n.SetDir(block, uint32(number[from.parent]))
	}
	return n, w.Node(n)
}
