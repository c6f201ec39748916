// SPDX-License-Identifier: Apache-2.0

package unionfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/tartest"
)

// stack scans tars, merges them and returns the tree's file system. odd is
// how many oddities the layers had.
func stack(t testing.TB, tars ...[]byte) (f *FS, odd int, err error) {
	t.Helper()
	dir := memoryDir(t)
	var layers []*index.Layer
	sources := make([]Source, len(tars))
	for i, b := range tars {
		path := filepath.Join(dir, fmt.Sprint(i))
		m, err := index.Scan(bytes.NewReader(b), path, index.Limits{})
		scanOther(t, b, path, err)
		if err != nil {
			return nil, odd, &LayerError{i, err}
		}
		odd += m.Odd
		l, err := index.Open[index.EntryID](path)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		layers = append(layers, l)
	}
	path := filepath.Join(dir, "tree")
	w, err := index.Create[index.NodeID](path)
	if err != nil {
		t.Fatal(err)
	}
	if err := index.Guard(func() error { return Merge(context.Background(), w, layers, nil) }); err != nil {
		w.Abort()
		return nil, odd, err
	}
	tree, err := index.Open[index.NodeID](path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tree.Close() })
	odd += tree.Meta().Odd
	return NewFS(tree, sources, func(i int) (io.ReaderAt, error) { return bytes.NewReader(tars[i]), nil }), odd, nil
}

// memoryDir is a directory where a sync costs nothing, if there is one.
func memoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "imgfs")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// scanOther scans tar once more from a reader that cannot seek and gives a
// byte at a time, and compares: the same table, or the same error.
func scanOther(t testing.TB, tar []byte, path string, want error) {
	t.Helper()
	if len(tar) > 1<<20 {
		return
	}
	_, err := index.Scan(iotest.OneByteReader(bytes.NewReader(tar)), path+".other", index.Limits{})
	if fmt.Sprint(err) != fmt.Sprint(want) && !errors.Is(err, index.ErrBadLayer) {
		t.Errorf("without seek: %v, with seek: %v", err, want)
	}
	if err != nil || want != nil {
		return
	}
	a, err1 := os.ReadFile(path)
	b, err2 := os.ReadFile(path + ".other")
	if err := errors.Join(err1, err2, os.Remove(path+".other")); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Error("a reader that seeks and one that does not give different tables")
	}
}

// show prints a tree in the words of a test: names in listing order,
// "dir/:0700", "file=text", "link->to", and "file*2=text" with two names.
func show(t testing.TB, f *FS) string {
	t.Helper()
	var out []string
	var walk func(id index.NodeID, path string)
	walk = func(id index.NodeID, path string) {
		d, err := f.Tree.ReadDir(id, 0)
		if err != nil {
			t.Fatal(err)
		}
		subs := uint32(0)
		for {
			e, ok, err := d.Next()
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				break
			}
			name := path + string(e.Name)
			got, dt, err := f.Tree.Lookup(id, string(e.Name))
			if err != nil || got != e.ID || dt != e.Type {
				t.Errorf("%q: lookup gives %d type %d %v, readdir %d type %d", name, got, dt, err, e.ID, e.Type)
			}
			var n index.Node
			if err := f.Tree.Node(e.ID, &n); err != nil {
				t.Fatal(err)
			}
			if n.DT() != e.Type {
				t.Errorf("%q: type %d in its directory, %d in its node", name, e.Type, n.DT())
			}
			s := name
			if n.IsDir() {
				s += "/"
			}
			switch perm := n.Mode & 0o7777; {
			case n.IsDir() && perm != 0o755, n.IsRegular() && perm != 0o644:
				s += fmt.Sprintf(":%04o", perm)
			}
			if n.UID+n.GID != 0 {
				s += fmt.Sprintf("@%d:%d", n.UID, n.GID)
			}
			if !n.IsDir() && n.Nlink != 1 {
				s += fmt.Sprintf("*%d", n.Nlink)
			}
			switch n.Type() {
			case index.ModeRegular:
				b := make([]byte, n.Size)
				if _, err := f.ReadAt(&n, b, 0); err != nil && err != io.EOF {
					t.Fatalf("%q: %v", name, err)
				}
				if n.Size > 0 {
					s += "=" + string(b)
				}
			case index.ModeSymlink:
				b, err := f.Tree.Target(&n)
				if err != nil {
					t.Fatal(err)
				}
				s += "->" + string(b)
			case index.ModeFIFO:
				s += "|"
			case index.ModeChar:
				s += fmt.Sprintf("%%%d,%d", n.Rdev>>8, n.Rdev&0xff)
			}
			sep := "{"
			if err := f.Tree.EachXattr(&n, func(k, v []byte) bool {
				s += sep + string(k) + "=" + string(v)
				sep = ","
				return true
			}); err != nil {
				t.Fatal(err)
			}
			if sep == "," {
				s += "}"
			}
			out = append(out, s)
			if n.IsDir() {
				subs++
				if index.NodeID(n.Parent) != id {
					t.Errorf("%q: parent %d, want %d", name, n.Parent, id)
				}
				walk(e.ID, name+"/")
			}
		}
		var n index.Node
		if err := f.Tree.Node(id, &n); err != nil {
			t.Fatal(err)
		}
		if n.Nlink != 2+subs {
			t.Errorf("%q: nlink %d with %d subdirectories", path, n.Nlink, subs)
		}
	}
	walk(index.RootID, "")
	return strings.Join(out, " ")
}

// The rows of docs/semantics.md. Layers are separated by " || ", base first;
// see tartest.Tar for the words of a layer. A want of "refused: TEXT" is an
// error that holds TEXT. odd says that something must be reported.
var rows = []struct {
	id, layers, want string
	odd              bool
}{
	{"W1", "f=old || f=new .wh.f", "f=new", false},
	{"W2", "f=old || .wh.f f=new", "f=new", false},
	{"W3", "a/ a/x || a/ a/.wh..wh..opq a/y", "a/ a/y", false},
	{"W4", "a/ a/x || a/ a/y a/.wh..wh..opq", "a/ a/y", false},
	{"W4b", "a/:0700 a/x || a/.wh..wh..opq a/y", "a/:0700 a/y", false},
	{"W4c", "a/ a/b/ a/b/c/ a/b/c/bar || a/ a/b/ a/b/c/ a/b/c/foo a/.wh..wh..opq", "a/ a/b/ a/b/c/ a/b/c/foo", false},
	{"W4d", "a/ a/b/ a/b/c/ a/b/c/bar || a/b/c/foo a/.wh..wh..opq", "a/ a/b/ a/b/c/ a/b/c/foo", false},
	{"W5", "a b/c || .wh..wh..opq d", "d", false},
	{"W6", ".wh.", "refused: bad whiteout", false},
	{"W7", ".wh..", "refused: bad whiteout", false},
	{"W8", ".wh...", "refused: bad whiteout", false},
	{"W8 in a directory", "a/.wh.", "refused: bad whiteout", false},
	{"W9", "foo .wh.foo2 || .wh..wh.foo", "foo", true},
	{"W10", "a/x || a/.wh..wh..opqX", "a/ a/x", true},
	{"W11", "d/a || .wh.d d/ d/b", "d/ d/b", false},
	{"W12", "d/a || d/ d/b .wh.d", "d/ d/b", false},
	{"W13", "d/:0700 d/a || d/b .wh.d", "d/ d/b", false},
	{"W14", "f || .wh.g d/.wh.x", "f", false},
	{"W22", "a/x || a/.wh..wh..opq a/.wh.x a/.wh.y b/.wh..wh..opq", "a/", false},
	{"W15", "f g || .wh.f/", "g", false},
	{"W16", "f g || x=1 .wh.f=>x", "g x=1", false},
	{"W16 to nothing", "f g || .wh.f=>nothing", "g", false},
	{"W17", "f g || .wh.f->g", "g", false},
	{"W18", "f g || .wh.f=content", "g", false},
	{"W18 opaque", "a/f || a/.wh..wh..opq=content a/g", "a/ a/g", false},
	{"W19", "f .wh.g a/.wh..wh..opq a/x", "f a/ a/x", false},
	{"W20", "foo || .wh.foo/bar", "foo", true},
	{"W20 the marker is a directory", "foo x || .wh.foo/ .wh.foo/bar", "x", true},
	{"W21", "t/ t/t || .wh.t t/.wh.t", "", false},
	{"W23", ".wh..wh.plnk/ .wh..wh.plnk/1.2=x f=>.wh..wh.plnk/1.2 g=>.wh..wh.plnk/1.2", "f*2=x g*2=x", true},
	{"markers only, over a file", "a=x || a/.wh.y", "a/", false},
	{"markers only, over a directory", "a/:0700 a/y a/z || a/.wh.y", "a/:0700 a/z", false},
	{"markers only, over nothing", "f || a/b/.wh.y", "f", false},
	{"markers only, over what is whited out", "a/x || .wh.a || a/.wh.y f", "f", false},
	{"whiteout spares like names", "etc/ etc2/ etc2/a || .wh.etc", "etc2/ etc2/a", false},
	{"whiteout hides a whole directory, then a new one", "a/x || .wh.a || a/y", "a/ a/y", false},

	{"D1", "f=1 f=2", "f=2", true},
	{"D2", "f=1 f->2", "f->2", true},
	{"D3", "f->1 f/ f/x", "f/ f/x", true},
	{"D4", "d/ d/x d/:0700", "d/:0700 d/x", true},
	{"D5", "d/a d=file d/ d/b", "d/ d/b", true},
	{"D6", "d/a d=file d/b", "d/ d/b", true},
	{"D7", "./f=1 f=2 /f=3 .//f=4", "f=4", true},
	{"D8", "f=1 g || .wh.g f=2 || f=1 g", "f=1 g", false},

	{"L1", "real/x link->real || link/ link/y", "real/ real/x link/ link/y", false},
	{"L3", "real/x link->real || link/", "real/ real/x link/", false},
	{"L2", "real/x link->real || link/y", "real/ real/x link/ link/y", true},
	{"L4", "real/x link->real || link/.wh.x", "real/ real/x link/", true},
	{"L6", "real/x link->real || link/.wh..wh..opq", "real/ real/x link/", true},
	{"L5", "real/ link->real link/y", "real/ real/y link->real", false},
	{"L5 absolute", "a/real/ link->/a/real link/y", "a/ a/real/ a/real/y link->/a/real", false},
	{"L5 dangling", "link->to/nowhere link/y", "link->to/nowhere to/ to/nowhere/ to/nowhere/y", false},
	{"P7", "f=1 out->../../etc l=>out", "f=1 l*2->../../etc out*2->../../etc", false},
	{"P10", "a->b b->a a/x f", "a->b b->a f", true},

	{"H1", "f=x g=>f", "f*2=x g*2=x", false},
	{"H8", "s->f h=>s", "h*2->f s*2->f", false},
	{"H13", "f=x g=>f h=>g", "f*3=x g*3=x h*3=x", false},
	{"H2", "f=x || g=>f", "f*2=x g*2=x", true},
	{"H3", "f=x || g=>f .wh.f", "g=x", true},
	{"H3 before", "f=x || .wh.f g=>f", "g=x", true},
	{"H2 chain over layers", "f=x || g=>f || h=>g .wh.g", "f*2=x h*2=x", true},
	{"H2 through symlinks below", "usr/lib/f=x lib->usr/lib || g=>lib/f", "usr/ usr/lib/ usr/lib/f*2=x g*2=x lib->usr/lib", true},
	{"H2 through this layer's symlink", "usr/lib/f=x || lib->usr/lib g=>lib/f", "usr/ usr/lib/ usr/lib/f*2=x g*2=x lib->usr/lib", true},
	{"H4", "f=x g=>f || .wh.f", "g=x", false},
	{"H5", "f=x g=>f || f=y", "g=x f=y", false},
	{"H14", "f=x g=>f f=y", "g=x f=y", true},
	{"H6", "g=>f f=x", "refused: bad link", false},
	{"H7", "d/ g=>d", "refused: bad link", false},
	{"H7 below", "d/ || g=>d", "refused: bad link", false},
	{"H9", "g=>g", "refused: bad link", false},
	{"H9 but below", "g=x || g=>g", "g=x", true},
	{"H9 itself", "g=x g=>g", "g=x", true},
	{"H12", "g=>nothing", "refused: bad link", false},
	{"H12 replaced later", "g=>nothing g=x", "refused: bad link", false},
	{"H10", "../../f=x a/../../g=y", "f=x g=y", true},
	{"H11", "/etc/f=x h=>/etc/f i=>../../etc/f", "etc/ etc/f*3=x h*3=x i*3=x", true},
	{"P1", "out->/ out/etc/f=x", "out->/ etc/ etc/f=x", false},
	{"P2", "out->../../.. out/f=x", "out->../../.. f=x", false},
	{"P3", "abs->/etc abs/f=x", "abs->/etc etc/ etc/f=x", false},
	{"P4", "l->/../../x l/f=x", "l->/../../x x/ x/f=x", false},
	{"P8", "f=1 out->/.. h=>out/f", "f*2=1 h*2=1 out->/..", false},
	{"P5", "a/b->../../../../tmp a/b/f=x", "a/ a/b->../../../../tmp tmp/ tmp/f=x", false},
	{"H15", "f:0600@1:2=x g:0777@3:4=>f", "f:0600@1:2*2=x g:0600@1:2*2=x", false},
	{"P6", "./->x", "refused: root", false},
	{"P6 file", ".=x", "refused: root", false},

	{"M1", "a/b/c=x", "a/ a/b/ a/b/c=x", false},
	{"M2", "a/:0700@5:6 || a/f", "a/:0700@5:6 a/f", false},
	{"M3", "a/:0700@5:6 a/f || a/:0711", "a/:0711 a/f", false},
	{"M5", "f:4755=x g:2755=x d/:1777", "f:4755=x g:2755=x d/:1777", false},
	{"V1", "d/f || d%0,0", "d%0,0", false},
	{"V2", "null%1,3 fifo|", "null%1,3 fifo|", false},
	{"N1", "a=1 A=2 || .wh.a", "A=2", false},
	{"N2", "x%0ay=1 z%1b=2 w%ff=3", "x\ny=1 z\x1b=2 w\xff=3", false},
	{"N3", strings.Repeat("n", 256), "refused: limit", false},
	{"N3 a whiteout of the longest", "d/ d/" + strings.Repeat("n", 255) + " || d/.wh." + strings.Repeat("n", 255), "d/", false},
	{"N3 and of what is too long", ".wh." + strings.Repeat("n", 256), "refused: limit", false},
	{"N3 just fits", strings.Repeat("n", 255), strings.Repeat("n", 255), false},
	{"S2 target", "l->" + strings.Repeat("t", 4096), "refused: limit", false},
	{"S2 path", strings.Repeat("p/", 2049) + "f", "refused: limit", false},
	{"G1", ".go-fuse-epoll-hack=x", ".go-fuse-epoll-hack=x", true},
	{"G1 elsewhere", "a/.go-fuse-epoll-hack=x", "a/ a/.go-fuse-epoll-hack=x", false},
	{"file over directory", "a/x || a=f", "a=f", false},
	{"directory over file", "a=f || a/x", "a/ a/x", false},
	{"symlink over directory", "a/x b/ || a->b", "b/ a->b", false},
}

func TestRows(t *testing.T) {
	for _, tt := range rows {
		t.Run(tt.id, func(t *testing.T) {
			var tars [][]byte
			for _, l := range strings.Split(tt.layers, " || ") {
				tars = append(tars, tartest.Tar(t, l))
			}
			f, odd, err := stack(t, tars...)
			if refused, ok := strings.CutPrefix(tt.want, "refused: "); ok {
				if !errors.Is(err, index.ErrBadLayer) || !strings.Contains(err.Error(), refused) {
					t.Fatalf("%q\n got %v\nwant %s", tt.layers, err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatalf("%q: %v", tt.layers, err)
			}
			if got := show(t, f); got != tt.want {
				t.Errorf("%q\n got %q\nwant %q", tt.layers, got, tt.want)
			}
			if tt.odd != (odd > 0) {
				t.Errorf("%q: %d oddities reported", tt.layers, odd)
			}
		})
	}
}

// Whoever gives up does not wait for a million names.
func TestMergeEndsWithItsContext(t *testing.T) {
	var text strings.Builder
	for i := range 3000 {
		fmt.Fprintf(&text, "d%d/f=x ", i)
	}
	layer := filepath.Join(t.TempDir(), "layer")
	if _, err := index.Scan(bytes.NewReader(tartest.Tar(t, text.String())), layer, index.Limits{}); err != nil {
		t.Fatal(err)
	}
	l, err := index.Open[index.EntryID](layer)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	path := filepath.Join(t.TempDir(), "tree")
	w, err := index.Create[index.NodeID](path)
	if err != nil {
		t.Fatal(err)
	}
	if err := Merge(ctx, w, []*index.Layer{l}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	w.Abort()
}
