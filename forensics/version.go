// SPDX-License-Identifier: Apache-2.0

package forensics

import (
	"bytes"
	"context"
	"slices"
	"strings"

	"github.com/imgfs/imgfs/index"
)

// A State says what became of a version in the whole stack.
type State uint8

const (
	Live     State = iota // it shows
	Shadowed              // something else shows under its path
	Deleted               // nothing shows under its path any more
)

// String returns the word for s in output.
func (s State) String() string { return [...]string{"live", "shadowed", "deleted"}[s] }

// An End says how a version ended.
type End uint8

const (
	NotEnded End = iota
	Replaced     // a later layer brings something else, or other attributes of a directory, under its path
	WhitedOut
	Hidden     // by an opaque directory above it
	ParentGone // a directory on its path was whited out or replaced
)

// String returns the words for e in output.
func (e End) String() string {
	return [...]string{"", "replaced", "whiteout", "opaque", "parent gone"}[e]
}

// A Version is what one layer brings under one path.
type Version struct {
	Path  string // no slash before it; "" is the root
	Layer int    // 0 is the base
	ID    index.EntryID
	Node  index.Node // of the layer's table; of type 0 for a hard link into the layers below
	State State
	End   End
	By    int // layer that ended it; -1: none did

	// ByPath is where that layer did so: the path of the mark, of the opaque
	// directory, or of what took the place of the version or of a directory
	// above it.
	ByPath string
}

// A Mark is a whiteout or an opaque directory of a layer.
type Mark struct {
	Path   string // that it hides; of an opaque directory that one
	Layer  int
	Opaque bool
	Vain   bool // it hides nothing
}

// Versions are called for all that the layers of a stack hold.
type Versions struct {
	Version func(*Version) error // may be nil; the Version is valid until it returns
	Mark    func(*Mark) error    // may be nil
}

// EachVersion calls f for every entry of every layer at and below path ("" is
// the root), base first, with what became of it: names of a directory in byte
// order, a directory before what is in it, under one path base first. Of
// directories that no entry was written for it tells those that show. The
// rules are those of unionfs.Merge. A path is not resolved: no symlink is
// followed. What no layer has is told nothing of.
//
// Precondition: EachVersion runs under index.Guard.
func EachVersion(ctx context.Context, layers []*index.Layer, path string, f Versions) error {
	w := &versionWalk{ctx: ctx, layers: layers, f: f}
	items := make([]versionItem, len(layers))
	dirs := make([]versionDir, len(layers))
	for k := range layers {
		dirs[k].layer = k
		items[k] = versionItem{at: k, id: index.RootID, dt: dtDir}
	}
	at := ""
	for path != "" && len(items) > 0 {
		var name string
		name, path, _ = strings.Cut(path, "/")
		below, _, _, err := w.judge(at, items, dirs)
		if err == nil {
			err = w.enter(at, items, below, nil)
		}
		if err == nil {
			items, err = w.lookup(below, name)
		}
		if err != nil {
			return err
		}
		at, dirs = joinPath(at, name), below
	}
	return w.name(at, items, dirs)
}

// tables opens the tables of the stack's layers.
func (s *Stack) tables(ctx context.Context) ([]*index.Layer, error) {
	list := make([]*index.Layer, len(s.Layers))
	for i, l := range s.Layers {
		t, err := l.Table(ctx)
		if err != nil {
			return nil, err
		}
		list[i] = t
	}
	return list, nil
}

const dtDir = 4

type versionWalk struct {
	ctx    context.Context
	layers []*index.Layer
	f      Versions
	ticks  int
	v      Version
}

// ending is the first thing that ended something; by 0 is none, since the base
// ends nothing.
type ending struct {
	by   int
	how  End
	path string
}

// first returns the earlier of two endings.
func first(a, b ending) ending {
	if a.by == 0 || b.by != 0 && b.by < a.by {
		return b
	}
	return a
}

// A versionDir is the directory of one layer that is at the path at hand.
type versionDir struct {
	layer int
	id    index.EntryID
	end   ending // of all that is in it
}

// A versionItem is what one layer has under a name.
type versionItem struct {
	name []byte
	at   int           // its directory in the list
	id   index.EntryID // 0: a mark
	dt   uint8
	node index.Node
	end  ending // of all that is in it
	attr ending // of itself
}

func (i *versionItem) is(flag uint16) bool { return i.node.Flags&flag != 0 }

// lookup returns what the directories have under one name, base first.
func (w *versionWalk) lookup(dirs []versionDir, name string) (items []versionItem, err error) {
	for at := range dirs {
		id, dt, err := w.layers[dirs[at].layer].Lookup(dirs[at].id, name)
		if err != nil {
			return nil, err
		}
		if id != 0 || dt != 0 {
			items = append(items, versionItem{at: at, id: id, dt: dt})
		}
	}
	return items, nil
}

// list returns all that the directories have, by name, then base first.
func (w *versionWalk) list(dirs []versionDir) (items []versionItem, err error) {
	for at := range dirs {
		d, err := w.layers[dirs[at].layer].ReadDir(dirs[at].id, 0)
		if err != nil {
			return nil, err
		}
		for {
			e, ok, err := d.Next()
			if err != nil {
				return nil, err
			}
			if !ok {
				break
			}
			items = append(items, versionItem{name: e.Name, at: at, id: e.ID, dt: e.Type})
		}
	}
	slices.SortStableFunc(items, func(a, b versionItem) int { return bytes.Compare(a.name, b.name) })
	return items, nil
}

// dir walks the directories of one path, base first.
func (w *versionWalk) dir(path string, dirs []versionDir) error {
	items, err := w.list(dirs)
	if err != nil {
		return err
	}
	for lo := 0; lo < len(items); {
		hi := lo + 1
		for hi < len(items) && bytes.Equal(items[hi].name, items[lo].name) {
			hi++
		}
		if err := w.name(joinPath(path, string(items[lo].name)), items[lo:hi], dirs); err != nil {
			return err
		}
		lo = hi
	}
	return nil
}

// name tells what the layers have under one path, and walks what is below it.
func (w *versionWalk) name(path string, items []versionItem, dirs []versionDir) error {
	if w.ticks++; w.ticks%1024 == 0 && w.ctx.Err() != nil {
		return w.ctx.Err()
	}
	below, giver, exists, err := w.judge(path, items, dirs)
	if err != nil {
		return err
	}
	for i := range items {
		it := &items[i]
		layer := dirs[it.at].layer
		switch {
		case it.id == 0 && w.f.Mark != nil:
			err = w.f.Mark(&Mark{Path: path, Layer: layer, Vain: !ends(items[:i], layer)})
		case it.id != 0 && w.f.Version != nil && (!it.is(index.FlagImplied) || i == giver && exists):
			err = w.tell(path, layer, it, i == giver, exists)
		}
		if err != nil {
			return err
		}
	}
	if len(below) == 0 {
		return nil
	}
	if err := w.enter(path, items, below, w.f.Mark); err != nil {
		return err
	}
	return w.dir(path, below)
}

// enter finds what ended the content of the directories of a path, and tells
// mark, if that is not nil, of the opaque ones.
func (w *versionWalk) enter(path string, items []versionItem, dirs []versionDir, mark func(*Mark) error) error {
	var opaque ending
	at := len(dirs) - 1
	for i := len(items) - 1; i >= 0; i-- {
		it := &items[i]
		if it.dt != dtDir {
			continue
		}
		d := &dirs[at]
		at--
		if d.end.by != 0 && d.end.how != Hidden {
			d.end.how = ParentGone
		}
		d.end = first(d.end, opaque)
		if !it.is(index.FlagOpaque) {
			continue
		}
		opaque = ending{d.layer, Hidden, path}
		if mark == nil {
			continue
		}
		if err := mark(&Mark{Path: path, Layer: d.layer, Opaque: true, Vain: at < 0}); err != nil {
			return err
		}
	}
	return nil
}

// judge finds how each item of a path ended. It returns the directories among
// them, which item gives what shows, -1 for none, and whether anything shows.
func (w *versionWalk) judge(path string, items []versionItem, dirs []versionDir) (below []versionDir, giver int, exists bool, err error) {
	giver = -1
	var hard, soft, any ending // what ends a directory whole, its attributes, anything else
	explicit := false
	for i := len(items) - 1; i >= 0; i-- {
		it := &items[i]
		d := &dirs[it.at]
		if it.id != 0 {
			if err := w.layers[d.layer].Node(it.id, &it.node); err != nil {
				return nil, 0, false, err
			}
		}
		shows := hard.by == 0 && d.end.by == 0
		switch {
		case it.id == 0:
			hard = ending{d.layer, WhitedOut, path}
			soft, any = hard, hard
		case it.dt != dtDir:
			it.end = first(any, d.end)
			it.attr = it.end
			if shows {
				exists = true // also as the directory that markers made of it
				if giver < 0 {
					giver = i
				}
			}
			hard = ending{d.layer, Replaced, path}
			soft, any = hard, hard
		default:
			it.end, it.attr = first(hard, d.end), first(soft, d.end)
			below = append(below, versionDir{layer: d.layer, id: it.id, end: it.end})
			if shows {
				exists = exists || !it.is(index.FlagMarkers)
				if giver < 0 || !explicit && !it.is(index.FlagImplied) {
					giver = i
				}
			}
			explicit = explicit || !it.is(index.FlagImplied)
			any = ending{d.layer, Replaced, path}
			if it.is(index.FlagReplaces) {
				hard = ending{d.layer, WhitedOut, path}
				soft, any = hard, hard
			} else if !it.is(index.FlagImplied) {
				soft = any
			}
		}
	}
	slices.Reverse(below)
	return below, giver, exists, nil
}

// ends reports whether layer ended one of items that was there.
func ends(items []versionItem, layer int) bool {
	for i := range items {
		it := &items[i]
		if it.id != 0 && it.end.by == layer && !it.is(index.FlagMarkers) {
			return true
		}
	}
	return false
}

// tell calls f for one version.
func (w *versionWalk) tell(path string, layer int, it *versionItem, giver, exists bool) error {
	v := &w.v
	*v = Version{Path: path, Layer: layer, ID: it.id, Node: it.node, By: -1}
	v.Node.Layer = layer
	if it.attr.by != 0 {
		v.By, v.End, v.ByPath = it.attr.by, it.attr.how, it.attr.path
	}
	switch {
	case giver && exists && it.attr.by == 0:
	case exists:
		v.State = Shadowed
	default:
		v.State = Deleted
	}
	return w.f.Version(v)
}
