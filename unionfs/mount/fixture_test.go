// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/fusetest"
	"github.com/imgfs/imgfs/unionfs"
)

// An item is one name of a tree that a test makes by hand.
type item struct {
	path    string // "" is the root; a name behind another's inode says link
	mode    uint32 // st_mode
	uid     uint32
	gid     uint32
	mtime   int64
	nsec    uint32
	layer   int
	data    string
	target  string
	link    string // path of the item whose inode this name shares
	rdev    uint32
	xattrs  []index.Xattr
	extents []index.Extent // sparse; Data is relative to data
	size    int64          // of a sparse file
}

// writeTree writes a table of items, numbered in their order with the root
// first, and returns the layers' bytes.
func writeTree(tb testing.TB, path string, items []item) [][]byte {
	tb.Helper()
	w, err := index.Create[index.NodeID](path)
	if err != nil {
		tb.Fatal(err)
	}
	ids, nlink := map[string]index.NodeID{}, map[string]uint32{}
	children := map[string][]index.DirEntry[index.NodeID]{}
	next := index.NodeID(0)
	for i, it := range items {
		if i == 0 && it.path != "" {
			tb.Fatal("the first item is not the root")
		}
		key := it.path
		if it.link != "" {
			key = it.link
		} else {
			next++
			ids[it.path] = next
		}
		nlink[key]++
		if it.path == "" {
			nlink[key]++
			continue
		}
		parent := filepath.Dir(it.path)
		if parent == "." {
			parent = ""
		}
		mode := it.mode
		if it.link != "" {
			for _, o := range items {
				if o.path == it.link {
					mode = o.mode
				}
			}
		}
		if mode&index.ModeType == index.ModeDir {
			nlink[parent]++
			nlink[key]++
		}
		children[parent] = append(children[parent], index.DirEntry[index.NodeID]{ID: ids[key], Type: uint8(mode >> 12), Name: filepath.Base(it.path)})
	}
	var layers [][]byte
	var total int64
	for _, it := range items {
		if it.link != "" {
			continue
		}
		for len(layers) <= it.layer {
			layers = append(layers, nil)
		}
		n := index.Node{
			Mode: it.mode, Nlink: nlink[it.path], UID: it.uid, GID: it.gid,
			Mtime: it.mtime, MtimeNsec: it.nsec, Layer: it.layer, Rdev: it.rdev,
		}
		switch n.Type() {
		case index.ModeDir:
			block, err := w.Dir(children[it.path])
			if err != nil {
				tb.Fatal(err)
			}
			parent := filepath.Dir(it.path)
			if parent == "." {
				parent = ""
			}
			n.SetDir(block, uint32(ids[parent]))
		case index.ModeSymlink:
			if err := w.SetTarget(&n, it.target); err != nil {
				tb.Fatal(err)
			}
		case index.ModeRegular:
			n.Size, n.Data = int64(len(it.data)), int64(len(layers[it.layer]))
			if it.extents != nil {
				n.Size = it.size
				for i := range it.extents {
					it.extents[i].Data += n.Data
				}
			}
			layers[it.layer] = append(layers[it.layer], it.data...)
			total += n.Size
		}
		if err := w.SetExtra(&n, it.xattrs, it.extents); err != nil {
			tb.Fatal(err)
		}
		if err := w.Node(&n); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(index.Meta{Kind: "tree", Size: total}); err != nil {
		tb.Fatal(err)
	}
	return layers
}

// newFS returns a file system of items.
func newFS(tb testing.TB, items []item) *unionfs.FS {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "tree")
	layers := writeTree(tb, path, items)
	tree, err := index.Open[index.NodeID](path)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { tree.Close() })
	sources := make([]unionfs.Source, len(layers))
	for i := range sources {
		sources[i] = unionfs.Source{DiffID: fmt.Sprintf("sha256:%064d", i), CreatedBy: fmt.Sprintf("RUN step %d", i)}
	}
	return unionfs.NewFS(tree, sources, func(layer int) (io.ReaderAt, error) {
		return bytes.NewReader(layers[layer]), nil
	})
}

// needFUSE skips where nothing can be mounted; see fusetest.
func needFUSE(tb testing.TB) {
	tb.Helper()
	fusetest.Need(tb)
	if err := Available(); err != nil {
		tb.Fatal(err)
	}
}

// A logbook keeps what a mount logs.
type logbook struct {
	mu    sync.Mutex
	lines []string // guarded by mu
}

func (l *logbook) logf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintf(format, args...))
}

func (l *logbook) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}

// openFiles lists the descriptors of this process.
func openFiles(tb testing.TB) []string {
	tb.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		tb.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && !strings.HasPrefix(to, "anon_inode:") && !strings.HasSuffix(to, "/fd") {
			list = append(list, to)
		}
	}
	sort.Strings(list)
	return list
}

// mounted mounts f for the test's time, and checks at its end that nothing
// stays open.
func mounted(tb testing.TB, f *unionfs.FS, opt Options) string {
	tb.Helper()
	dir, _ := mountedServer(tb, f, opt)
	return dir
}

func mountedServer(tb testing.TB, f *unionfs.FS, opt Options) (string, *Server) {
	tb.Helper()
	needFUSE(tb)
	dir := tb.TempDir()
	before := openFiles(tb)
	if opt.Log == nil {
		opt.Log = tb.Logf
	}
	s, err := Mount(dir, f, opt)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Unmount(); err != nil {
			tb.Errorf("unmount: %v", err)
			unix.Unmount(dir, unix.MNT_DETACH)
		}
		if after := openFiles(tb); len(after) > len(before) {
			tb.Errorf("descriptors stay open:\n before %q\n after %q", before, after)
		}
	})
	return dir, s
}
