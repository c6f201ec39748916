// SPDX-License-Identifier: Apache-2.0

package index

import (
	"archive/tar"
	"bytes"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// treeTable writes a table of n files in directories of sizes as in a real
// root: most of a dozen names, some of hundreds, one of a twentieth of all.
// It returns the (directory, name) pairs, shuffled.
func treeTable(b *testing.B, n int) (*Layer, []EntryID, []string) {
	b.Helper()
	path := filepath.Join(b.TempDir(), "t")
	w, err := Create[EntryID](path)
	if err != nil {
		b.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	var sizes []int
	for left := n; left > 0; {
		size := 1 + r.IntN(24)
		switch r.IntN(100) {
		case 0:
			size = 500 + r.IntN(1000)
		case 1, 2, 3, 4:
			size = 100 + r.IntN(200)
		}
		if len(sizes) == 3 {
			size = n/20 + 1
		}
		size = min(size, left)
		sizes = append(sizes, size)
		left -= size
	}
	var dirs []EntryID
	var names []string
	top := make([]DirEntry[EntryID], len(sizes))
	nodes := make([]Node, 1, n+len(sizes)+1)
	for i, size := range sizes {
		dir := EntryID(len(nodes) + 1)
		top[i] = DirEntry[EntryID]{dir, 4, fmt.Sprintf("dir%d", i)}
		nodes = append(nodes, Node{Mode: ModeDir | 0o755, Nlink: 2})
		var list []DirEntry[EntryID]
		for j := range size {
			nodes = append(nodes, Node{Mode: ModeRegular | 0o644, Nlink: 1, Size: 1})
			name := fmt.Sprintf("lib%c%d-file.so.%d", 'a'+r.IntN(26), r.IntN(1000), j)
			list = append(list, DirEntry[EntryID]{EntryID(len(nodes)), 8, name})
			dirs, names = append(dirs, dir), append(names, name)
		}
		block, err := w.Dir(list)
		if err != nil {
			b.Fatal(err)
		}
		nodes[dir-1].SetDir(block, RootID)
	}
	block, err := w.Dir(top)
	if err != nil {
		b.Fatal(err)
	}
	nodes[0] = Node{Mode: ModeDir | 0o755, Nlink: 2}
	nodes[0].SetDir(block, RootID)
	for i := range nodes {
		if err := w.Node(&nodes[i]); err != nil {
			b.Fatal(err)
		}
	}
	if err := w.Close(Meta{Kind: "layer"}); err != nil {
		b.Fatal(err)
	}
	r.Shuffle(len(names), func(i, j int) {
		dirs[i], dirs[j] = dirs[j], dirs[i]
		names[i], names[j] = names[j], names[i]
	})
	// One after another, as the kernel's requests lie: what is measured is the
	// table's misses of the cache, not the test's.
	all, at := strings.Join(names, ""), 0
	for i := range names {
		names[i] = all[at : at+len(names[i])]
		at += len(names[i])
	}
	l, err := Open[EntryID](path)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	if err := l.Warm(nil); err != nil {
		b.Fatal(err)
	}
	return l, dirs, names
}

func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 100_000, 1_000_000} {
		l, dirs, names := treeTable(b, n)
		b.Run(fmt.Sprintf("hit/names=%dk", n/1000), func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				id, _, err := l.Lookup(dirs[i], names[i])
				if id == 0 || err != nil {
					b.Fatal(err)
				}
				if i++; i == len(names) {
					i = 0
				}
			}
		})
		b.Run(fmt.Sprintf("miss/names=%dk", n/1000), func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if id, _, err := l.Lookup(dirs[i], names[len(names)-1-i][1:]); id != 0 || err != nil {
					b.Fatal(id, err)
				}
				if i++; i == len(names) {
					i = 0
				}
			}
		})
		b.Run(fmt.Sprintf("gomap/names=%dk", n/1000), func(b *testing.B) {
			type key struct {
				dir  EntryID
				name string
			}
			m := make(map[key]EntryID, len(names))
			for i := range names {
				m[key{dirs[i], strings.Clone(names[i])}] = EntryID(i + 1)
			}
			i := 0
			for b.Loop() {
				if m[key{dirs[i], names[i]}] == 0 {
					b.Fatal(i)
				}
				if i++; i == len(names) {
					i = 0
				}
			}
		})
		b.Run(fmt.Sprintf("node/names=%dk", n/1000), func(b *testing.B) {
			b.ReportAllocs()
			var node Node
			i := uint32(1)
			for b.Loop() {
				i = i*1664525 + 1013904223
				if err := l.Node(EntryID(i%l.Count()+1), &node); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkReadDir(b *testing.B) {
	l, dirs, _ := treeTable(b, 100_000)
	b.ReportAllocs()
	entries := 0
	for b.Loop() {
		d, err := l.ReadDir(dirs[entries%len(dirs)], 0)
		if err != nil {
			b.Fatal(err)
		}
		for {
			_, ok, err := d.Next()
			if err != nil {
				b.Fatal(err)
			}
			if !ok {
				break
			}
			entries++
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(entries), "ns/entry")
}

func BenchmarkScan(b *testing.B) {
	const n = 100_000
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	content := make([]byte, 4096)
	for i := range n {
		h := &tar.Header{Name: fmt.Sprintf("usr/lib/d%d/lib%d-file.so", i/20, i), Mode: 0o644, Size: int64(i % 4096), Typeflag: tar.TypeReg}
		if err := w.WriteHeader(h); err != nil {
			b.Fatal(err)
		}
		if _, err := w.Write(content[:h.Size]); err != nil {
			b.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	for _, seek := range []bool{true, false} {
		b.Run(fmt.Sprintf("names=100k/seek=%v", seek), func(b *testing.B) {
			dir := b.TempDir()
			b.SetBytes(int64(buf.Len()))
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				var r interface{ Read([]byte) (int, error) } = bytes.NewReader(buf.Bytes())
				if !seek {
					r = struct{ *noSeek }{&noSeek{bytes.NewReader(buf.Bytes())}}
				}
				i++
				if _, err := Scan(r, filepath.Join(dir, fmt.Sprint(seek, i)), Limits{}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)*n/b.Elapsed().Seconds(), "entries/s")
		})
	}
	b.Run("names=100k/memory", func(b *testing.B) {
		var before, after runtime.MemStats
		for b.Loop() {
			runtime.GC()
			runtime.ReadMemStats(&before)
			s := newScanner(bytes.NewReader(buf.Bytes()), Limits{})
			if err := s.scan(); err != nil {
				b.Fatal(err)
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, "heap-B/entry")
			runtime.KeepAlive(s)
		}
	})
}

type noSeek struct{ r *bytes.Reader }

func (n *noSeek) Read(p []byte) (int, error) { return n.r.Read(p) }
