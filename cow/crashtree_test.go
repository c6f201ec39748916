// SPDX-License-Identifier: Apache-2.0

package cow_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/imgfs/imgfs/cow"
	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/tartest"
	"github.com/imgfs/imgfs/unionfs"
)

// crashChain is the chainID of the trees here.
const crashChain = "sha256:crash"

// memDir returns a directory where a sync costs nothing, if there is one.
func memDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "imgfs-cow")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// crashTar is the image below: small files, files over the bound of what is
// copied whole, links, xattrs.
func crashTar(t testing.TB) []byte {
	t.Helper()
	head := tartest.Tar(t, "a/ a/small=hello a/empty a/b/ a/b/deep=x a/b/c/ a/b/c/leaf=leaf h1=linked h2=>h1 link->a/small "+
		"fifo| d%1,3 dir/ dir/1=1 dir/2=2 dir/3=3 dir/4=4 dir/5=5 s:4755=suid")
	var b bytes.Buffer
	b.Write(head[:len(head)-1024]) // without the end
	w := tar.NewWriter(&b)
	for i, size := range []int{5000, cow.CopyWhole + 4000, 300_000, 1 << 20} {
		h := &tar.Header{Name: fmt.Sprintf("big%d", i), Size: int64(size), Mode: 0o644, Format: tar.FormatPAX,
			PAXRecords: map[string]string{"SCHILY.xattr.user.n": fmt.Sprint(i)}}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(crashNoise(uint64(1000+i), 0, 0, size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// crashFS returns the tree of one layer.
func crashFS(t testing.TB, layer []byte) *unionfs.FS {
	t.Helper()
	fs, closer, err := openLayer(memDir(t), layer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closer() })
	return fs
}

// openLayer makes the tree of one layer in dir.
func openLayer(dir string, layer []byte) (*unionfs.FS, func() error, error) {
	table := filepath.Join(dir, "layer")
	if _, err := index.Scan(bytes.NewReader(layer), table, index.Limits{}); err != nil {
		return nil, nil, err
	}
	l, err := index.Open[index.EntryID](table)
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	path := filepath.Join(dir, "tree")
	w, err := index.Create[index.NodeID](path)
	if err != nil {
		return nil, nil, err
	}
	if err := index.Guard(func() error { return unionfs.Merge(context.Background(), w, []*index.Layer{l}, nil) }); err != nil {
		return nil, nil, err
	}
	tree, err := index.Open[index.NodeID](path)
	if err != nil {
		return nil, nil, err
	}
	open := func(int) (io.ReaderAt, error) { return bytes.NewReader(layer), nil }
	return unionfs.NewFS(tree, make([]unionfs.Source, 1), open), tree.Close, nil
}

// crashNoise returns n bytes that nobody else writes, none of them zero.
func crashNoise(node, step uint64, off int64, n int) []byte {
	rng := rand.New(rand.NewPCG(node<<32|step, uint64(off)))
	b := make([]byte, n)
	for i := 0; i < n; i += 8 {
		v := rng.Uint64() | 0x0101010101010101
		for k := i; k < min(i+8, n); k++ {
			b[k] = byte(v)
			v >>= 8
		}
	}
	return b
}

// A place is a name in an upper and what it leads to.
type place struct {
	path string
	dir  cow.Node
	name string
	attr cow.Attr
	line string // all but content and what comes with it
}

// places walks the whole upper, in order of names of no meaning.
func places(u *cow.Upper) ([]place, error) {
	root := place{path: "."}
	if err := u.Attr(cow.RootNode, &root.attr); err != nil {
		return nil, err
	}
	all := []place{root}
	for i := 0; i < len(all); i++ {
		p := &all[i]
		if err := p.describe(u); err != nil {
			return nil, fmt.Errorf("%s: %w", p.path, err)
		}
		if p.attr.Mode&index.ModeType != index.ModeDir {
			continue
		}
		below, err := list(u, p.path, p.attr.Node)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.path, err)
		}
		all = append(all, below...)
		if len(all) > 1<<16 {
			return nil, errors.New("a loop of directories")
		}
	}
	return all, nil
}

// list lists a directory.
func list(u *cow.Upper, path string, dir cow.Node) (all []place, err error) {
	d, err := u.OpenDir(dir)
	if err != nil {
		return nil, err
	}
	defer closeDir(d)
	err = d.Read(0, true, func(e *cow.Dirent, a *cow.Attr) bool {
		all = append(all, place{path: path + "/" + e.Name, dir: dir, name: strings.Clone(e.Name), attr: *a})
		return true
	})
	return all, err
}

// closeDir lets go of a listing, if there is something to let go of.
func closeDir(d *cow.Dir) {
	if c, ok := any(d).(io.Closer); ok {
		c.Close()
	}
}

func (p *place) isRegular() bool { return p.attr.Mode&index.ModeType == index.ModeRegular }
func (p *place) isDir() bool     { return p.attr.Mode&index.ModeType == index.ModeDir }

// describe sets line.
func (p *place) describe(u *cow.Upper) error {
	a := &p.attr
	var b strings.Builder
	fmt.Fprintf(&b, "%d/%s #%d %o nlink=%d %d:%d rdev=%d born=%d.%d", p.dir, p.name, a.Node, a.Mode, a.Nlink, a.UID, a.GID, a.Rdev, a.Btime.Sec, a.Btime.Nsec)
	if !p.isRegular() {
		fmt.Fprintf(&b, " size=%d m=%d.%d c=%d.%d", a.Size, a.Mtime.Sec, a.Mtime.Nsec, a.Ctime.Sec, a.Ctime.Nsec)
	}
	if a.Mode&index.ModeType == index.ModeSymlink {
		to, err := u.Readlink(a.Node)
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, " to=%q", to)
	}
	var names []string
	if err := u.EachXattr(a.Node, func(name string) bool { names = append(names, strings.Clone(name)); return true }); err != nil {
		return err
	}
	for _, name := range names {
		v, err := u.Xattr(a.Node, name)
		if err != nil {
			return fmt.Errorf("xattr %s: %w", name, err)
		}
		fmt.Fprintf(&b, " %s=%d:%x", name, len(v), crc32.ChecksumIEEE(v))
	}
	p.line = b.String()
	return nil
}

// lines returns what must be equal of two walks.
func lines(all []place) string {
	s := make([]string, len(all))
	for i, p := range all {
		s[i] = p.line
	}
	// The order in which names are listed is no promise across mounts.
	slices.Sort(s)
	return strings.Join(s, "\n")
}

// content reads a whole file.
func wholeContent(u *cow.Upper, n cow.Node) ([]byte, cow.Attr, error) {
	var a cow.Attr
	f, err := u.Open(n, false)
	if err != nil {
		return nil, a, err
	}
	defer f.Close()
	if err := u.Attr(n, &a); err != nil {
		return nil, a, err
	}
	if a.Size > 64<<20 {
		return nil, a, fmt.Errorf("a size of %d", a.Size)
	}
	b := make([]byte, a.Size)
	k, err := f.ReadAt(b, 0)
	if err == io.EOF || err == nil {
		if k != len(b) {
			return nil, a, fmt.Errorf("%d bytes of %d", k, len(b))
		}
		return b, a, nil
	}
	return nil, a, err
}
