// SPDX-License-Identifier: Apache-2.0

package forensics

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/tartest"
	"github.com/imgfs/imgfs/unionfs"
)

// tables scans tars, in the words of tartest, to the tables of layers.
func tables(t testing.TB, layers ...string) []*index.Layer {
	t.Helper()
	var list []*index.Layer
	for i, text := range layers {
		path := filepath.Join(t.TempDir(), fmt.Sprint(i))
		if _, err := index.Scan(bytes.NewReader(tartest.Tar(t, text)), path, index.Limits{}); err != nil {
			t.Fatalf("layer %d, %q: %v", i, text, err)
		}
		l, err := index.Open[index.EntryID](path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		list = append(list, l)
	}
	return list
}

// merge stacks layers to a tree.
func merge(t testing.TB, layers []*index.Layer) (*index.Tree, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tree")
	w, err := index.Create[index.NodeID](path)
	if err != nil {
		t.Fatal(err)
	}
	if err := unionfs.Merge(context.Background(), w, layers, nil); err != nil {
		w.Abort()
		return nil, err
	}
	tree, err := index.Open[index.NodeID](path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tree.Close() })
	return tree, nil
}

// showVersions prints versions in the words of a test, marks in brackets.
func showVersions(t testing.TB, layers []*index.Layer) string {
	t.Helper()
	var out []string
	err := EachVersion(context.Background(), layers, "", Versions{
		Version: func(v *Version) error {
			if v.Path == "" {
				return nil
			}
			s := fmt.Sprintf("%d:%s", v.Layer, v.Path)
			if v.Node.IsDir() {
				s += "/"
			}
			if v.State != Live {
				s += fmt.Sprintf(",%v,%v@%d", v.State, v.End, v.By)
			}
			out = append(out, strings.ReplaceAll(s, " ", "-"))
			return nil
		},
		Mark: func(m *Mark) error {
			s := fmt.Sprintf("[%d:%s", m.Layer, m.Path)
			if m.Opaque {
				s += "/*"
			}
			if m.Vain {
				s += " vain"
			}
			out = append(out, strings.ReplaceAll(s+"]", " ", "-"))
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, " ")
}

func TestEachVersion(t *testing.T) {
	for _, tt := range []struct {
		name   string
		layers string
		want   string
	}{
		{"one layer", "a d/ d/b", "0:a 0:d/ 0:d/b"},
		{"a file replaced", "a=1 | a=2 | a=3", "0:a,shadowed,replaced@1 1:a,shadowed,replaced@2 2:a"},
		{"W1: a file whited out", "a b | .wh.a", "0:a,deleted,whiteout@1 [1:a] 0:b"},
		{"and brought again", "a | .wh.a | a", "0:a,shadowed,whiteout@1 [1:a] 2:a"},
		{"replaced, then whited out", "a | a | .wh.a", "0:a,deleted,replaced@1 1:a,deleted,whiteout@2 [2:a]"},
		{"a directory whited out", "d/ d/a d/e/ d/e/b | .wh.d", "0:d/,deleted,whiteout@1 [1:d] 0:d/a,deleted,parent-gone@1 0:d/e/,deleted,parent-gone@1 0:d/e/b,deleted,parent-gone@1"},
		{"W3: opaque", "d/ d/a d/e/ d/e/b | d/.wh..wh..opq d/c", "0:d/ [1:d/*] 0:d/a,deleted,opaque@1 1:d/c 0:d/e/,deleted,opaque@1 0:d/e/b,deleted,opaque@1"},
		{"W5: opaque root", "a | .wh..wh..opq b", "[1:/*] 0:a,deleted,opaque@1 1:b"},
		{"W11: a directory whited out and brought again", "d/ d/a d/b | .wh.d d/ d/b", "0:d/,shadowed,whiteout@1 1:d/ 0:d/a,deleted,parent-gone@1 0:d/b,shadowed,replaced@1 1:d/b"},
		{"W14: a whiteout of nothing", "a | .wh.b c/.wh.d", "0:a [1:b-vain] [1:c/d-vain]"},
		{"W19: marks in the base", "a .wh.b d/ d/.wh..wh..opq", "0:a [0:b-vain] 0:d/ [0:d/*-vain]"},
		{"M2: an implied directory keeps what is below", "d/:0700 | d/a", "0:d/ 1:d/a"},
		{"M3: a directory over a directory", "d/:0700 d/b | d/:0711", "0:d/,shadowed,replaced@1 1:d/ 0:d/b"},
		{"M1: implied everywhere", "d/a | d/b", "1:d/ 0:d/a 1:d/b"},
		{"a file over a directory", "d/ d/a | d", "0:d/,shadowed,replaced@1 1:d 0:d/a,deleted,parent-gone@1"},
		{"and back", "d/ d/a | d | d/ d/a", "0:d/,shadowed,replaced@1 1:d,shadowed,replaced@2 2:d/ 0:d/a,shadowed,parent-gone@1 2:d/a"},
		{"markers over a file", "d | d/.wh.x", "0:d,shadowed,replaced@1 1:d/ [1:d/x-vain]"},
		{"hidden by an opaque directory above, then whited out", "d/e/a | d/.wh..wh..opq | d/e/.wh.a", "2:d/ [1:d/*] 0:d/e/a,deleted,opaque@1 [2:d/e/a-vain]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			layers := tables(t, strings.Split(tt.layers, "|")...)
			if got := showVersions(t, layers); got != tt.want {
				t.Errorf("%s\n got %s\nwant %s", tt.layers, got, tt.want)
			}
			sameAsTree(t, layers)
		})
	}
}

// sameAsTree checks that what is live is what unionfs.Merge makes.
func sameAsTree(t *testing.T, layers []*index.Layer) {
	t.Helper()
	tree, err := merge(t, layers)
	if errors.Is(err, index.ErrBadLayer) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	var want, got []string
	var walk func(id index.NodeID, path string)
	walk = func(id index.NodeID, path string) {
		d, err := tree.ReadDir(id, 0)
		if err != nil {
			t.Fatal(err)
		}
		for {
			e, ok, err := d.Next()
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				return
			}
			var n index.Node
			if err := tree.Node(e.ID, &n); err != nil {
				t.Fatal(err)
			}
			p := path + string(e.Name)
			want = append(want, fmt.Sprintf("%s %d %d %o", p, n.Layer, n.Header, n.Mode))
			if n.IsDir() {
				walk(e.ID, p+"/")
			}
		}
	}
	walk(index.RootID, "")
	states := map[string]State{}
	err = EachVersion(context.Background(), layers, "", Versions{Version: func(v *Version) error {
		if v.State == Live && v.Path != "" {
			got = append(got, fmt.Sprintf("%s %d %d %o", v.Path, v.Layer, v.Node.Header, v.Node.Mode))
		}
		if s, ok := states[v.Path]; ok && (s == Deleted) != (v.State == Deleted) {
			t.Errorf("%q: %v and %v", v.Path, s, v.State)
		}
		if (v.State == Live) != (v.End == NotEnded) || (v.End == NotEnded) != (v.By < 0) {
			t.Errorf("%q: %v, %v by %d", v.Path, v.State, v.End, v.By)
		}
		states[v.Path] = v.State
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	for path := range states {
		sameFrom(t, layers, path)
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("live versions\n got %q\nwant %q", got, want)
	}
}

// sameFrom checks that a walk which begins at path tells what a whole one does.
func sameFrom(t *testing.T, layers []*index.Layer, path string) {
	t.Helper()
	tell := func(from string) (out []string) {
		add := func(p, s string) {
			if p == path || path == "" || strings.HasPrefix(p, path+"/") {
				out = append(out, s)
			}
		}
		err := EachVersion(context.Background(), layers, from, Versions{
			Version: func(v *Version) error { add(v.Path, fmt.Sprint(*v)); return nil },
			Mark:    func(m *Mark) error { add(m.Path, fmt.Sprint(*m)); return nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if got, want := tell(path), tell(""); !slices.Equal(got, want) {
		t.Errorf("from %q\n got %q\nwant %q", path, got, want)
	}
}

// TestEndings: who ended a version, and where.
func TestEndings(t *testing.T) {
	layers := tables(t, "d/ d/e/ d/e/a f x/y", "d/e f .wh.x")
	var got []string
	err := EachVersion(context.Background(), layers, "", Versions{Version: func(v *Version) error {
		if v.By >= 0 {
			got = append(got, fmt.Sprintf("%s %v %d %s", v.Path, v.End, v.By, v.ByPath))
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"d/e replaced 1 d/e", "d/e/a parent gone 1 d/e", "f replaced 1 f", "x/y parent gone 1 x"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestEachVersionAtRandom compares what is live with trees of stacks of few
// names, so that everything meets everything.
func TestEachVersionAtRandom(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	names := []string{"a", "b", "a/a", "a/b", "b/a", "a/a/a", "a/a/b", "a/b/a"}
	for range 150 {
		var layers []string
		for range 2 + r.IntN(4) {
			var entries []string
			for range 1 + r.IntN(5) {
				name := names[r.IntN(len(names))]
				dir, base, ok := strings.Cut(name, "/")
				if !ok {
					dir, base = "", name
				} else {
					dir += "/"
				}
				switch r.IntN(5) {
				case 0, 1:
					entries = append(entries, name)
				case 2:
					entries = append(entries, name+"/")
				case 3:
					at := strings.LastIndex(base, "/") + 1
					entries = append(entries, dir+base[:at]+index.WhiteoutPrefix+base[at:])
				case 4:
					entries = append(entries, name+"/"+index.OpaqueMarker)
				}
			}
			layers = append(layers, strings.Join(entries, " "))
		}
		sameAsTree(t, tables(t, layers...))
		if t.Failed() {
			t.Fatalf("layers %q", layers)
		}
	}
}
