// SPDX-License-Identifier: Apache-2.0

// Package hot has benchmarks of the hot path that need a real image. What needs
// none lies beside what it measures; imgfs-bench runs all of them.
package hot

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"testing"

	"github.com/imgfs/imgfs/layerstore/seek"
)

// layer returns the gzip'd layer that IMGFS_BENCH_LAYER names.
func layer(b *testing.B) []byte {
	b.Helper()
	name := os.Getenv("IMGFS_BENCH_LAYER")
	if name == "" {
		b.Skip("IMGFS_BENCH_LAYER names no gzip'd layer")
	}
	packed, err := os.ReadFile(name)
	if err != nil {
		b.Fatal(err)
	}
	return packed
}

// onCores runs a benchmark with so many cores at most.
func onCores(b *testing.B, name string, n int, f func(*testing.B)) {
	b.Run(fmt.Sprintf("%s/cores=%d", name, n), func(b *testing.B) {
		if n > runtime.NumCPU() {
			b.Skip("there are not so many")
		}
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(n))
		f(b)
	})
}

// Decoding a layer the first time, with seek points made, and again by them.
func BenchmarkGunzip(b *testing.B) {
	packed := layer(b)
	var index bytes.Buffer
	if _, err := seek.Build(bytes.NewReader(packed), io.Discard, &index, seek.Options{}); err != nil {
		b.Fatal(err)
	}
	open := func(b *testing.B) *seek.Reader {
		r, err := seek.Open(bytes.NewReader(index.Bytes()), int64(index.Len()), bytes.NewReader(packed), int64(len(packed)), seek.NewCache(32<<20))
		if err != nil {
			b.Fatal(err)
		}
		return r
	}
	r := open(b)
	size := r.Size()
	if err := r.Close(); err != nil {
		b.Fatal(err)
	}
	for _, n := range []int{1, 2} {
		onCores(b, "points-made", n, func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				var index bytes.Buffer
				if _, err := seek.Build(bytes.NewReader(packed), io.Discard, &index, seek.Options{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	for _, n := range []int{1, 2} {
		onCores(b, "points-known", n, func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				r := open(b)
				var all sync.WaitGroup
				for i := range int64(n) {
					lo, hi := size*i/int64(n), size*(i+1)/int64(n)
					all.Go(func() {
						buf := make([]byte, 1<<20)
						if _, err := io.CopyBuffer(onlyWriter{io.Discard}, onlyReader{io.NewSectionReader(r, lo, hi-lo)}, buf); err != nil {
							b.Error(err)
						}
					})
				}
				all.Wait()
				if err := r.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("library", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			z, err := gzip.NewReader(bytes.NewReader(packed))
			if err != nil {
				b.Fatal(err)
			}
			if n, err := io.Copy(io.Discard, z); n != size || err != nil {
				b.Fatal(n, err)
			}
		}
	})
}

// These keep io.CopyBuffer from going another way than by its buffer.
type (
	onlyReader struct{ io.Reader }
	onlyWriter struct{ io.Writer }
)
