// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/unionfs"
)

// inMemory is a layer that is decoded up to an offset.
type inMemory struct {
	io.ReaderAt
	upTo atomic.Int64
}

func (m *inMemory) Cached(off, n int64) bool { return off+n <= m.upTo.Load() }

// inMemoryFS returns a file system of items of one layer that is decoded.
func inMemoryFS(tb testing.TB, items []item) (*unionfs.FS, *inMemory) {
	f := newFS(tb, items)
	m := new(inMemory)
	m.upTo.Store(1 << 40)
	return unionfs.NewFS(f.Tree, f.Sources, func(layer int) (io.ReaderAt, error) {
		var err error
		m.ReaderAt, err = f.Layer(layer)
		return m, err
	}), m
}

// varied is a tree of directories with files of many sizes in them, and what is
// no file.
func varied(dirs, files int) []item {
	items := []item{{path: "", mode: index.ModeDir | 0o755}}
	for d := range dirs {
		dir := fmt.Sprintf("d%02d", d)
		items = append(items, item{path: dir, mode: index.ModeDir | 0o755})
		for k := range files {
			data := bytes.Repeat([]byte(fmt.Sprintf("%s %d\n", dir, k)), k*k*7%5000)
			items = append(items, item{path: fmt.Sprintf("%s/f%03d", dir, k), mode: index.ModeRegular | 0o644, data: string(data)})
		}
		items = append(items,
			item{path: dir + "/link", mode: index.ModeSymlink | 0o777, target: "f001"},
			item{path: dir + "/long", mode: index.ModeRegular | 0o644, data: string(bytes.Repeat([]byte("long"), maxPrefetch/4+1))})
	}
	return items
}

// readFiles reads the files of items below dir by one thread, listing each
// directory before.
func readFiles(t *testing.T, dir string, items []item) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for _, it := range items {
		path := filepath.Join(dir, it.path)
		switch it.mode & index.ModeType {
		case index.ModeDir:
			if _, err := os.ReadDir(path); err != nil {
				t.Error(err)
			}
		case index.ModeRegular:
			if b, err := os.ReadFile(path); err != nil || string(b) != it.data {
				t.Errorf("%s: %d bytes, want %d: %v", it.path, len(b), len(it.data), err)
			}
		}
	}
}

// reads returns how many files of items the kernel asked for.
func reads(t *testing.T, f *unionfs.FS, items []item, opt Options) int {
	t.Helper()
	var c counter
	opt.wrap = c.wrap
	readFiles(t, mounted(t, f, opt), items)
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n["read"]
}

// Who reads files in the order of their listing asks for few of the small ones;
// in another order, of what is not decoded, and of what is not verified, nothing
// is given.
func TestPrefetch(t *testing.T) {
	items := varied(8, 40)
	filled := 0
	for _, it := range items {
		if it.data != "" {
			filled++
		}
	}
	f, m := inMemoryFS(t, items)
	if n := reads(t, f, items, Options{}); n > filled/4 {
		t.Errorf("%d reads of %d files", n, filled)
	}
	m.upTo.Store(0)
	if n := reads(t, f, items, Options{}); n < filled {
		t.Errorf("of what is not decoded: %d reads of %d files", n, filled)
	}
	m.upTo.Store(1 << 40)
	if n := reads(t, f, items, Options{Unverified: true}); n < filled {
		t.Errorf("unverified: %d reads of %d files", n, filled)
	}
	if n := reads(t, newFS(t, items), items, Options{}); n < filled {
		t.Errorf("of a layer that does not tell: %d reads of %d files", n, filled)
	}
	back := slices.Clone(items)
	slices.Reverse(back)
	if n := reads(t, f, back, Options{}); n < filled {
		t.Errorf("backwards: %d reads of %d files", n, filled)
	}
}

// Of a part of the tree, whose root has another number.
func TestPrefetchOfPart(t *testing.T) {
	items := varied(2, 40)
	f, _ := inMemoryFS(t, items)
	part, err := f.Sub("d01")
	must(t, err)
	var below []item
	for _, it := range items {
		if rel, err := filepath.Rel("d01", it.path); err == nil && filepath.IsLocal(rel) {
			it.path = rel
			below = append(below, it)
		}
	}
	if n := reads(t, part, below, Options{}); n > 20 {
		t.Errorf("%d reads", n)
	}
}

// Many programs that read the same files at once get what is in them.
func TestPrefetchForMany(t *testing.T) {
	items := varied(4, 60)
	f, _ := inMemoryFS(t, items)
	dir := mounted(t, f, Options{})
	var wg sync.WaitGroup
	for range 12 {
		wg.Go(func() { readFiles(t, dir, items) })
	}
	wg.Wait()
}

// held keeps the reads of one node waiting.
type held struct {
	fuse.RawFileSystem
	node    uint64
	asked   chan struct{}
	release chan struct{}
}

func (h *held) Read(x <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	if in.NodeId == h.node {
		close(h.asked)
		<-h.release
	}
	return h.RawFileSystem.Read(x, in, buf)
}

// A page that is being read for somebody is waited for, and only by who gives
// it: the read is answered by another worker.
func TestPrefetchOfPageBeingRead(t *testing.T) {
	items := wide(1, 10)
	f, _ := inMemoryFS(t, items)
	h := &held{node: 2 + 5, asked: make(chan struct{}), release: make(chan struct{})} // the root, the directory, files
	dir := mounted(t, f, Options{wrap: func(raw fuse.RawFileSystem) fuse.RawFileSystem {
		h.RawFileSystem = raw
		return h
	}})
	asked, gave := make(chan error, 1), make(chan struct{})
	go func() {
		_, err := os.ReadFile(dir + "/dir0000/file00004")
		asked <- err
	}()
	<-h.asked
	go func() {
		defer close(gave)
		readFiles(t, dir, []item{items[0], items[1], items[2], items[4]}) // file00002 brings what follows
	}()
	select {
	case <-gave:
		t.Error("nobody waited")
	case <-time.After(20 * time.Millisecond):
	}
	close(h.release)
	if err := <-asked; err != nil {
		t.Error(err)
	}
	<-gave
	readFiles(t, dir, items)
}

func TestPrefetchAllocs(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	f, _ := inMemoryFS(t, wide(1, 100))
	v := newTree(f, &Options{Log: t.Logf})
	if _, err := f.Layer(0); err != nil {
		t.Fatal(err)
	}
	given := 0
	p := newPrefetcher(v, func(uint64, int64, []byte) fuse.Status { given++; return fuse.OK })
	if n := testing.AllocsPerRun(100, func() {
		for id := index.NodeID(3); id < 100; id++ {
			p.read(7, id)
		}
		p.listed(7, 2)
	}); n != 0 || given == 0 {
		t.Errorf("%v allocations, %d files given", n, given)
	}
}
