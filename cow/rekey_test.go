// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/unionfs"
)

const fileSize = 40_000 // too large for a record

// numberedTree returns a tree of the files a, b, c, each of its name's letter
// fileSize times, and of the directories i/j, implied, with d, under numbers in the
// order of order.
func numberedTree(t *testing.T, order string) *unionfs.FS {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tree")
	w, err := index.Create[index.NodeID](path)
	if err != nil {
		t.Fatal(err)
	}
	id := func(c byte) index.NodeID { return index.NodeID(strings.IndexByte(order, c) + 2) }
	in := map[byte]string{'/': "abci", 'i': "j", 'j': "d"}
	blocks := map[byte]index.DirBlock{}
	for dir, names := range in {
		var list []index.DirEntry[index.NodeID]
		for _, c := range []byte(names) {
			if id(c) < 2 {
				continue
			}
			e := index.DirEntry[index.NodeID]{ID: id(c), Type: 8, Name: string(c)}
			if in[c] != "" {
				e.Type = 4
			}
			list = append(list, e)
		}
		if blocks[dir], err = w.Dir(list); err != nil {
			t.Fatal(err)
		}
	}
	var content bytes.Buffer
	for c := byte('a'); c <= 'd'; c++ {
		content.WriteString(strings.Repeat(string(c), fileSize))
	}
	for _, c := range []byte("/" + order) {
		n := index.Node{Mode: index.ModeRegular | 0o644, Nlink: 1, Size: fileSize, Data: int64(c-'a') * fileSize, Header: int64(c) * 512}
		if in[c] != "" {
			n = index.Node{Mode: index.ModeDir | 0o755, Nlink: 3, Flags: index.FlagImplied, Header: 'd' * 512}
			parent := index.NodeID(1)
			if c == 'j' {
				parent, n.Nlink = id('i'), 2
			}
			n.SetDir(blocks[c], uint32(parent))
		}
		if err := w.Node(&n); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(index.Meta{Kind: "tree"}); err != nil {
		t.Fatal(err)
	}
	tree, err := index.Open[index.NodeID](path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tree.Close() })
	return unionfs.NewFS(tree, make([]unionfs.Source, 1), func(int) (io.ReaderAt, error) {
		return bytes.NewReader(content.Bytes()), nil
	})
}

// find returns what path leads to.
func find(t *testing.T, u *Upper, path string) (a Attr, ok bool) {
	t.Helper()
	a.Node = RootNode
	for _, name := range strings.Split(path, "/") {
		found, err := u.Lookup(a.Node, name, &a)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if !found {
			return a, false
		}
	}
	return a, true
}

// contentOf returns the first bytes of a file.
func contentOf(t *testing.T, u *Upper, n Node) string {
	t.Helper()
	f, err := u.Open(n, false)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 10)
	k, err := f.ReadAt(b, 0)
	if err != nil && err != io.EOF {
		t.Fatal(err)
	}
	return string(b[:k])
}

// changeAll makes one change of each kind over the tree "abcijd".
func changeAll(t *testing.T, u *Upper) {
	t.Helper()
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var a Attr
	fa, _ := find(t, u, "a")
	do(u.SetAttr(Caller{}, fa.Node, &SetAttr{Valid: SetMode, Mode: 0o600}, &a))
	fb, _ := find(t, u, "b")
	f, err := u.Open(fb.Node, true)
	do(err)
	_, err = f.WriteAt([]byte("XY"), 3)
	do(err)
	do(f.Close())
	do(u.SetXattr(fb.Node, "user.x", []byte("y"), 0, false))
	do(u.Unlink(RootNode, "c"))
	j, _ := find(t, u, "i/j")
	do(u.Rename(Caller{}, j.Node, "d", j.Node, "e", 0))
	do(u.Create(Caller{}, j.Node, "new", Creation{Mode: index.ModeDir | 0o700}, &a))
}

func checkAll(t *testing.T, u *Upper) {
	t.Helper()
	if a, ok := find(t, u, "a"); !ok || a.Mode&0o7777 != 0o600 || contentOf(t, u, a.Node) != "aaaaaaaaaa" {
		t.Errorf("a: %v, %+v", ok, a)
	}
	b, ok := find(t, u, "b")
	if got := contentOf(t, u, b.Node); !ok || got != "bbbXYbbbbb" {
		t.Errorf("b: %v, %q", ok, got)
	}
	if v, err := u.Xattr(b.Node, "user.x"); err != nil || string(v) != "y" {
		t.Errorf("b's xattr: %q, %v", v, err)
	}
	if _, ok := find(t, u, "c"); ok {
		t.Error("c is back")
	}
	if _, ok := find(t, u, "i/j/d"); ok {
		t.Error("i/j/d is back")
	}
	if e, ok := find(t, u, "i/j/e"); !ok || contentOf(t, u, e.Node) != "dddddddddd" {
		t.Errorf("i/j/e: %v", ok)
	}
	if n, ok := find(t, u, "i/j/new"); !ok || n.Mode != index.ModeDir|0o700 {
		t.Errorf("i/j/new: %v, %+v", ok, n)
	}
	j, _ := find(t, u, "i/j")
	if j.Nlink != 3 {
		t.Errorf("i/j has %d links", j.Nlink)
	}
}

func TestRekey(t *testing.T) {
	old := numberedTree(t, "abcijd")
	for _, how := range []string{"closed", "killed"} {
		t.Run(how, func(t *testing.T) {
			dir := newUpper(t)
			u := openUpper(t, dir, old, Options{})
			changeAll(t, u)
			checkAll(t, u)
			if how == "killed" {
				kill(u)
			} else if err := u.Close(); err != nil {
				t.Fatal(err)
			}
			for _, order := range []string{"bacijd", "djicba", "djicba", "abcijd"} {
				u = openUpper(t, dir, numberedTree(t, order), Options{})
				checkAll(t, u)
				if err := u.Close(); err != nil {
					t.Fatal(err)
				}
				left, _ := filepath.Glob(filepath.Join(dir, dataDirName, "*", "*"))
				if len(left) != 1 {
					t.Errorf("data files: %v", left)
				}
			}
			// The file b is gone from the image.
			_, err := Open(dir, numberedTree(t, "acijd"), "c", Options{})
			if !errors.Is(err, ErrOtherTree) || !strings.Contains(err.Error(), "50176") {
				t.Errorf("without b: %v", err)
			}
			u = openUpper(t, dir, old, Options{})
			defer u.Close()
			checkAll(t, u)
		})
	}
}

// A re-keying that was broken off is done again, or finished.
func TestRekeyIsBrokenOff(t *testing.T) {
	dir := newUpper(t)
	u := openUpper(t, dir, numberedTree(t, "abcijd"), Options{})
	changeAll(t, u)
	if err := u.Close(); err != nil {
		t.Fatal(err)
	}
	fresh := numberedTree(t, "djicba")
	before := filepath.Join(t.TempDir(), "before")
	if err := os.CopyFS(before, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	u = openUpper(t, dir, fresh, Options{})
	checkAll(t, u)
	if err := u.Close(); err != nil {
		t.Fatal(err)
	}
	b, _ := find(t, openCopy(t, dir, fresh), "b")
	oldB := Node(3)
	second := filepath.Join(dataDirName, dataName(b.Node)+rekeySuffix)
	marker := []byte(fresh.Tree.Meta().Identity)
	link := func(dir, from string) {
		t.Helper()
		to := filepath.Join(dir, second)
		if err := errors.Join(os.MkdirAll(filepath.Dir(to), 0o700), os.Link(from, to),
			os.WriteFile(filepath.Join(dir, rekeyName), marker, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	// Before the new checkpoint had its name.
	link(before, filepath.Join(before, dataDirName, dataName(oldB)))
	// After it: the data file has its second name only.
	link(dir, filepath.Join(dir, dataDirName, dataName(b.Node)))
	if err := os.Remove(filepath.Join(dir, dataDirName, dataName(b.Node))); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{before, dir} {
		u := openUpper(t, d, fresh, Options{})
		checkAll(t, u)
		if err := u.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(d, rekeyName)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the marker stays: %v", err)
		}
	}
}

// openCopy opens a copy of the upper in dir until the test ends.
func openCopy(t *testing.T, dir string, fs *unionfs.FS) *Upper {
	t.Helper()
	copied := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	u := openUpper(t, copied, fs, Options{})
	t.Cleanup(func() { u.Close() })
	return u
}
