// SPDX-License-Identifier: Apache-2.0

package unionfs

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/imgfs/imgfs/index"
)

// layersOf spreads names files of one tree over so many layers and returns
// their tables.
func layersOf(b *testing.B, layers, names int) []*index.Layer {
	b.Helper()
	dir := memoryDir(b)
	var list []*index.Layer
	for k := range layers {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		for i := k; i < names; i += layers {
			if err := w.WriteHeader(&tar.Header{Name: path(i), Mode: 0o644, Typeflag: tar.TypeReg}); err != nil {
				b.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			b.Fatal(err)
		}
		file := filepath.Join(dir, fmt.Sprint(k))
		if _, err := index.Scan(&buf, file, index.Limits{}); err != nil {
			b.Fatal(err)
		}
		l, err := index.Open[index.EntryID](file)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { l.Close() })
		list = append(list, l)
	}
	return list
}

func path(i int) string { return fmt.Sprintf("usr/d%d/lib%d-file.so", i/20, i) }

func mergeTo(b *testing.B, file string, layers []*index.Layer) {
	b.Helper()
	w, err := index.Create[index.NodeID](file)
	if err != nil {
		b.Fatal(err)
	}
	if err := Merge(context.Background(), w, layers, nil); err != nil {
		b.Fatal(err)
	}
}

// A lookup must cost the same however many layers there are.
func BenchmarkLookup(b *testing.B) {
	const names = 100_000
	for _, n := range []int{1, 16, 128} {
		file := filepath.Join(memoryDir(b), "tree")
		mergeTo(b, file, layersOf(b, n, names))
		tree, err := index.Open[index.NodeID](file)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { tree.Close() })
		f := NewFS(tree, make([]Source, n), nil)
		usr, err := f.Resolve("usr", false)
		if err != nil {
			b.Fatal(err)
		}
		dirs, files := make([]index.NodeID, names), make([]string, names)
		for j, i := range rand.New(rand.NewPCG(1, 2)).Perm(names) {
			if dirs[j], _, err = tree.Lookup(usr, fmt.Sprintf("d%d", i/20)); err != nil {
				b.Fatal(err)
			}
			files[j] = fmt.Sprintf("lib%d-file.so", i)
		}
		b.Run(fmt.Sprintf("layers=%d/names=100k", n), func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if id, _, err := tree.Lookup(dirs[i], files[i]); id == 0 || err != nil {
					b.Fatal(err)
				}
				if i++; i == names {
					i = 0
				}
			}
		})
	}
}

func BenchmarkMerge(b *testing.B) {
	for _, n := range []int{1, 10, 128} {
		for _, names := range []int{50_000, 500_000} {
			b.Run(fmt.Sprintf("layers=%d/names=%dk", n, names/1000), func(b *testing.B) {
				layers := layersOf(b, n, names)
				dir := memoryDir(b)
				b.ReportAllocs()
				i := 0
				for b.Loop() {
					i++
					mergeTo(b, filepath.Join(dir, fmt.Sprint(i)), layers)
				}
				b.ReportMetric(float64(names)*float64(b.N)/b.Elapsed().Seconds(), "names/s")
			})
		}
	}
}
