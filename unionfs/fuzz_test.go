// SPDX-License-Identifier: Apache-2.0

package unionfs

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/tartest"
)

// The model below knows files, directories and marks, and of each layer that
// it says a name once. Each layer is applied alone, then the layers are
// stacked, slowly and name by name.
type modelLayer struct {
	files  map[string]string // path → content; directories end in "/"
	hidden map[string]bool   // whited out paths
	opaque map[string]bool   // directories, "" is the root
}

func parents(path string) (list []string) {
	for i, c := range path {
		if c == '/' && i < len(path)-1 {
			list = append(list, path[:i])
		}
	}
	return list
}

// newModelLayer returns nil for what the model does not know.
func newModelLayer(words []string) *modelLayer {
	l := &modelLayer{map[string]string{}, map[string]bool{}, map[string]bool{}}
	for _, w := range words {
		name, text, isFile := strings.Cut(w, "=")
		dir, base := "", name
		if i := strings.LastIndex(strings.TrimSuffix(name, "/"), "/"); i >= 0 {
			dir, base = name[:i], name[i+1:]
		}
		switch {
		case base == index.OpaqueMarker:
			l.opaque[dir] = true
		case strings.HasPrefix(base, index.WhiteoutPrefix):
			l.hidden[strings.TrimPrefix(dir+"/"+strings.TrimPrefix(base, index.WhiteoutPrefix), "/")] = true
		case isFile:
			if _, ok := l.files[name]; ok || l.files[name+"/"] != "" {
				return nil
			}
			l.files[name] = text
		default:
			l.files[name] = "dir"
		}
		for _, p := range parents(name) {
			if !strings.HasPrefix(base, index.WhiteoutPrefix) {
				l.files[p+"/"] = "dir"
			}
		}
	}
	for name := range l.files {
		if _, ok := l.files[name+"/"]; ok {
			return nil // a file and a directory
		}
	}
	for p := range l.hidden {
		for _, q := range parents(p) {
			if _, ok := l.files[q]; ok {
				return nil // a marker below a file of its layer
			}
		}
	}
	for p := range l.opaque {
		for _, q := range append(parents(p), p) {
			if _, ok := l.files[q]; ok {
				return nil
			}
		}
	}
	return l
}

// hides reports whether a name that lies below the layer does not show
// through it.
func (l *modelLayer) hides(name string) bool {
	path := strings.TrimSuffix(name, "/")
	for _, p := range append(parents(path+"/"), path) {
		if _, isFile := l.files[p]; isFile || l.hidden[p] {
			return true
		}
		dir := ""
		if i := strings.LastIndexByte(p, '/'); i >= 0 {
			dir = p[:i]
		}
		if l.opaque[dir] {
			// attributes of a directory that is there again are all that
			// would show, and the model has none
			return true
		}
	}
	return false
}

func (l *modelLayer) markedDirs() (list []string) {
	for _, m := range []map[string]bool{l.hidden, l.opaque} {
		for p := range m {
			list = append(list, parents(p)...)
			if m[p] && l.opaque[p] && p != "" {
				list = append(list, p)
			}
		}
	}
	return list
}

// modelMerge returns the sorted names with content of the stack.
func modelMerge(layers []*modelLayer) []string {
	tree := map[string]string{}
	for _, l := range layers {
		kept := map[string]string{}
		for name, text := range tree {
			if !l.hides(name) {
				kept[name] = text
			}
		}
		// A directory that this layer only marks stands where something of
		// that name did, and takes a file's place.
		for _, p := range l.markedDirs() {
			_, wasFile := kept[p]
			_, wasDir := tree[p+"/"]
			under := *l
			under.opaque = map[string]bool{}
			for d := range l.opaque {
				if d != p && !strings.HasPrefix(d, p+"/") {
					under.opaque[d] = true
				}
			}
			if wasFile || wasDir && !under.hides(p) {
				kept[p+"/"] = "dir"
			}
			delete(kept, p)
		}
		for name, text := range l.files {
			if strings.HasSuffix(name, "/") {
				delete(kept, strings.TrimSuffix(name, "/"))
			}
			kept[name] = text
		}
		tree = kept
	}
	var list []string
	for name, text := range tree {
		if !strings.HasSuffix(name, "/") && text != "" {
			name += "=" + text
		}
		list = append(list, name)
	}
	slices.Sort(list)
	return list
}

// words turns bytes into the words of a stack of up to four layers. all says
// whether links and names met twice may be among them, which the model does
// not know.
func words(b []byte, all bool) (layers [][]string) {
	names := []string{"a", "b", "c", "a/a", "a/b", "b/a", "a/a/a", "a/b/c", "b/a/c"}
	layers = [][]string{nil}
	for i := 0; i+1 < len(b) && i < 80; i += 2 {
		name := names[int(b[i+1])%len(names)]
		other := names[int(b[i+1])/len(names)%len(names)]
		dir, base := "", name
		if j := strings.LastIndexByte(name, '/'); j >= 0 {
			dir, base = name[:j+1], name[j+1:]
		}
		w := ""
		switch k := b[i] % 12; {
		case k == 0 && len(layers) < 4:
			layers = append(layers, nil)
			continue
		case k <= 2:
			w = name + "/"
		case k <= 5:
			w = dir + index.WhiteoutPrefix + base
		case k == 6:
			w = dir + index.OpaqueMarker
		case k == 7 && all:
			w = name + "->" + other
		case k == 8 && all:
			w = name + "=>" + other
		case k == 9 && all:
			w = name + "->../" + other
		default:
			w = fmt.Sprintf("%s=%d", name, i)
		}
		last := &layers[len(layers)-1]
		*last = append(*last, w)
	}
	return layers
}

func FuzzMerge(f *testing.F) {
	f.Add([]byte{10, 3, 0, 0, 3, 3, 10, 4})
	f.Add([]byte{10, 6, 10, 7, 0, 0, 6, 3, 10, 4, 0, 0, 3, 0})
	f.Add([]byte{10, 0, 8, 1, 0, 0, 8, 2, 3, 0, 7, 12})
	f.Add([]byte{1, 0, 10, 3, 0, 0, 3, 6, 0, 0, 6, 6})
	f.Fuzz(func(t *testing.T, b []byte) {
		checkMerge(t, b, true)
		checkMerge(t, b, false)
	})
}

func checkMerge(t *testing.T, b []byte, all bool) {
	layers := words(b, all)
	var tars [][]byte
	var model []*modelLayer
	for _, l := range layers {
		tars = append(tars, tartest.Tar(t, strings.Join(l, " ")))
		model = append(model, newModelLayer(l))
	}
	fsys, _, err := stack(t, tars...)
	if err != nil {
		if !all || !errors.Is(err, index.ErrBadLayer) {
			t.Fatalf("%q: %v", layers, err)
		}
		return
	}
	got := show(t, fsys) // compares lookup and readdir, types, parents
	checkNlink(t, fsys)
	if all || slices.Contains(model, nil) {
		return
	}
	list := strings.Fields(got)
	slices.Sort(list)
	if want := modelMerge(model); !slices.Equal(list, want) {
		t.Fatalf("%q\n got %q\nwant %q", layers, list, want)
	}
}

// checkNlink counts the names of each node, and that numbers are dense.
func checkNlink(t *testing.T, f *FS) {
	names := make(map[index.NodeID]uint32)
	var n index.Node
	for i := index.NodeID(1); uint32(i) <= f.Tree.Count(); i++ {
		if err := f.Tree.Node(i, &n); err != nil {
			t.Fatal(err)
		}
		if !n.IsDir() {
			continue
		}
		d, err := f.Tree.ReadDir(i, 0)
		if err != nil {
			t.Fatal(err)
		}
		for {
			e, ok, err := d.Next()
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				break
			}
			names[e.ID]++
		}
	}
	for i := index.NodeID(2); uint32(i) <= f.Tree.Count(); i++ {
		if err := f.Tree.Node(i, &n); err != nil {
			t.Fatal(err)
		}
		if want := names[i]; want == 0 || n.IsDir() && want != 1 || !n.IsDir() && n.Nlink != want {
			t.Fatalf("node %d: nlink %d, %d names", i, n.Nlink, want)
		}
	}
}
