// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/tartest"
	"github.com/imgfs/imgfs/unionfs"
)

// treeOf returns the tree of layers that are tars.
func treeOf(tb testing.TB, tars ...[]byte) *unionfs.FS {
	tb.Helper()
	dir := memoryDir(tb)
	var layers []*index.Layer
	for i, b := range tars {
		path := filepath.Join(dir, fmt.Sprint(i))
		if _, err := index.Scan(bytes.NewReader(b), path, index.Limits{}); err != nil {
			tb.Fatal(err)
		}
		l, err := index.Open[index.EntryID](path)
		if err != nil {
			tb.Fatal(err)
		}
		defer l.Close()
		layers = append(layers, l)
	}
	path := filepath.Join(dir, "tree")
	w, err := index.Create[index.NodeID](path)
	if err != nil {
		tb.Fatal(err)
	}
	if err := unionfs.Merge(context.Background(), w, layers, nil); err != nil {
		tb.Fatal(err)
	}
	tree, err := index.Open[index.NodeID](path)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { tree.Close() })
	return unionfs.NewFS(tree, make([]unionfs.Source, len(tars)),
		func(i int) (io.ReaderAt, error) { return bytes.NewReader(tars[i]), nil })
}

// memoryDir is a directory where a sync costs nothing, if there is one.
func memoryDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "imgfs")
	if err != nil {
		return tb.TempDir()
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// A mounted is an upper that a test opens and closes.
type mounted struct {
	*Upper
	tb  testing.TB
	dir string
	fs  *unionfs.FS
	opt Options
}

// over makes an upper over layers written as tartest has them.
func over(tb testing.TB, layers ...string) *mounted {
	tb.Helper()
	tars := make([][]byte, len(layers))
	for i, text := range layers {
		tars[i] = tartest.Tar(tb, text)
	}
	return overFS(tb, treeOf(tb, tars...))
}

func overFS(tb testing.TB, fs *unionfs.FS) *mounted {
	tb.Helper()
	m := &mounted{tb: tb, dir: filepath.Join(memoryDir(tb), "upper"), fs: fs}
	if err := Create(m.dir, Base{}); err != nil {
		tb.Fatal(err)
	}
	m.open()
	tb.Cleanup(func() { m.Close() })
	return m
}

func (m *mounted) open() {
	m.tb.Helper()
	opt := m.opt
	opt.Log = m.tb.Logf
	u, err := Open(m.dir, m.fs, "", opt)
	if err != nil {
		m.tb.Fatal(err)
	}
	m.Upper = u
}

// remount closes and opens the upper.
func (m *mounted) remount() {
	m.tb.Helper()
	if err := m.Close(); err != nil {
		m.tb.Fatal(err)
	}
	m.open()
}

// walk returns the node at a path.
func (m *mounted) walk(p string) (Node, error) {
	n := RootNode
	for _, name := range strings.Split(p, "/") {
		if name == "" {
			continue
		}
		var a Attr
		found, err := m.Lookup(n, name, &a)
		if err != nil {
			return 0, err
		}
		if !found {
			return 0, os.ErrNotExist
		}
		n = a.Node
	}
	return n, nil
}

// list returns the whole of a directory, read with a buffer for size entries.
func (m *mounted) list(dir Node, size int) []Dirent {
	m.tb.Helper()
	d, err := m.OpenDir(dir)
	if err != nil {
		m.tb.Fatal(err)
	}
	var list []Dirent
	for cookie, n := uint64(0), 1; n > 0; {
		n = 0
		err := d.Read(cookie, size%2 == 0, func(e *Dirent, a *Attr) bool {
			if n == size {
				return false
			}
			if a != nil && (a.Node != e.Node || uint8(a.Mode>>12) != e.Type) {
				m.tb.Errorf("entry %q of node %d, type %d has attributes of node %d, mode %o", e.Name, e.Node, e.Type, a.Node, a.Mode)
			}
			c := *e
			c.Name = strings.Clone(e.Name)
			list = append(list, c)
			cookie = e.Cookie
			n++
			return true
		})
		if err != nil {
			m.tb.Fatal(err)
		}
	}
	return list
}

// fsck checks what must hold between names, link counts, counts of entries and
// parents, and returns every path with its node.
func fsck(m *mounted) map[string]Node {
	m.tb.Helper()
	m.tb.(interface{ Helper() }).Helper()
	paths := map[string]Node{"/": RootNode}
	names := map[Node]uint32{}
	dirs := map[Node]string{RootNode: "/"}
	todo := []string{"/"}
	for len(todo) > 0 {
		p := todo[0]
		todo = todo[1:]
		dir := paths[p]
		list := m.list(dir, 3+len(todo)%7)
		subdirs, seen := uint32(0), map[string]bool{}
		for _, e := range list {
			at := path.Join(p, e.Name)
			if seen[e.Name] {
				m.tb.Errorf("%s is listed twice", at)
			}
			seen[e.Name] = true
			var a Attr
			found, err := m.Lookup(dir, e.Name, &a)
			if err != nil || !found || a.Node != e.Node || uint8(a.Mode>>12) != e.Type {
				m.tb.Errorf("%s is listed as node %d, type %d; lookup: %v, %v, node %d, mode %o", at, e.Node, e.Type, found, err, a.Node, a.Mode)
			}
			paths[at] = e.Node
			names[e.Node]++
			if a.Mode&index.ModeType != index.ModeDir {
				continue
			}
			subdirs++
			if other, ok := dirs[e.Node]; ok {
				m.tb.Fatalf("directory %d is %s and %s", e.Node, other, at)
			}
			dirs[e.Node] = at
			todo = append(todo, at)
			d, err := m.OpenDir(e.Node)
			if err != nil {
				m.tb.Fatal(err)
			}
			if parent, err := d.Parent(); parent != dir || err != nil {
				m.tb.Errorf("%s: parent is %d, %v; want %d", at, parent, err, dir)
			}
		}
		m.mu.RLock()
		i, err := m.copyOf(dir)
		m.mu.RUnlock()
		if err != nil {
			m.tb.Fatal(err)
		}
		if i.nlink != 2+subdirs || i.size != int64(len(list)) {
			m.tb.Errorf("%s: nlink %d, %d entries; want %d, %d", p, i.nlink, i.size, 2+subdirs, len(list))
		}
	}
	for n, count := range names {
		var a Attr
		if err := m.Attr(n, &a); err != nil {
			m.tb.Errorf("node %d: %v", n, err)
		}
		if a.Mode&index.ModeType != index.ModeDir && a.Nlink != count {
			m.tb.Errorf("node %d: nlink %d, %d names", n, a.Nlink, count)
		}
	}
	return paths
}

// show tells all paths in order: a directory ends in a slash, "(2)" is the
// number of links of what has more than one.
func show(m *mounted) string {
	m.tb.Helper()
	var list []string
	for p, n := range fsck(m) {
		var a Attr
		if err := m.Attr(n, &a); err != nil {
			m.tb.Fatal(err)
		}
		s := strings.TrimPrefix(p, "/")
		switch a.Mode & index.ModeType {
		case index.ModeDir:
			s += "/"
		case index.ModeSymlink:
			target, err := m.Readlink(n)
			if err != nil {
				m.tb.Fatal(err)
			}
			s += "->" + string(target)
		case index.ModeChar:
			s += fmt.Sprintf("%%%d", a.Rdev)
		case index.ModeFIFO:
			s += "|"
		}
		if a.Mode&index.ModeType != index.ModeDir && a.Nlink > 1 {
			s += fmt.Sprintf("(%d)", a.Nlink)
		}
		if s != "/" {
			list = append(list, s)
		}
	}
	sort.Strings(list)
	return strings.Join(list, " ")
}
