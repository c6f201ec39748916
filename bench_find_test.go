// SPDX-License-Identifier: Apache-2.0

package imgfs_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/forensics"
)

const benchNames = 10_000 // of a layer

// benchContent is what file i of layer k holds: no two files hold the same.
func benchContent(k, i int) string { return fmt.Sprintf("layer %d, file %d\n", k, i) }

// benchLayer returns layer k, compressed.
func benchLayer(b *testing.B, k int) []byte {
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err != nil {
		b.Fatal(err)
	}
	w := tar.NewWriter(z)
	for i := range benchNames {
		text := benchContent(k, i)
		h := &tar.Header{Name: fmt.Sprintf("usr/share/d%d/file%d", i/100, i), Mode: 0o644, Size: int64(len(text))}
		if err := w.WriteHeader(h); err != nil {
			b.Fatal(err)
		}
		w.Write([]byte(text))
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	if err := z.Close(); err != nil {
		b.Fatal(err)
	}
	return out.Bytes()
}

// BenchmarkFindHash looks for one content in all images of a store, each of one
// layer of 10 000 files. IMGFS_BENCH_LAYERS is how many there are (20);
// IMGFS_BENCH_STORE is where the store is kept, for the command to be timed with
// it: "imgfs --root DIR find --all --sha256 HASH".
func BenchmarkFindHash(b *testing.B) {
	layers := 20
	if n, err := strconv.Atoi(os.Getenv("IMGFS_BENCH_LAYERS")); err == nil {
		layers = n
	}
	root := os.Getenv("IMGFS_BENCH_STORE")
	if root == "" {
		root = b.TempDir()
	}
	s, err := imgfs.Open(root)
	if err != nil {
		b.Fatal(err)
	}
	images, err := s.Images(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	var group errgroup.Group
	group.SetLimit(runtime.NumCPU())
	for k := len(images); k < layers; k++ {
		group.Go(func() error {
			_, err := s.Import(context.Background(), "-", bytes.NewReader(benchLayer(b, k)), fmt.Sprintf("example.com/bench/layer:%d", k), imgfs.LoadOptions{})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		b.Fatal(err)
	}
	sum := sha256.Sum256([]byte(benchContent(layers-1, benchNames/2)))
	b.Logf("sha256 %x", sum)
	for _, tt := range []struct {
		name string
		sum  []byte
		hits int
	}{{"there", sum[:], 1}, {"not there", make([]byte, len(sum)), 0}} {
		b.Run(fmt.Sprintf("layers=%d/%s", layers, tt.name), func(b *testing.B) {
			for b.Loop() {
				if hits := findHash(b, s, tt.sum); hits != tt.hits {
					b.Fatalf("%d hits, want %d", hits, tt.hits)
				}
			}
		})
	}
}

// findHash counts the files of a store that have a hash, as find --all does.
func findHash(b *testing.B, s *imgfs.Store, sum []byte) (hits int) {
	ctx := context.Background()
	m := &forensics.Match{Sums: forensics.Sums{sum}}
	images, err := s.FindImages(ctx, m.Sums)
	if err != nil {
		b.Fatal(err)
	}
	for _, i := range images {
		st, err := s.OpenFound(ctx, i)
		if err != nil {
			b.Fatal(err)
		}
		err = st.Find(ctx, m, forensics.FindOptions{}, func(*forensics.Record) error { hits++; return nil })
		if err := errors.Join(err, st.Close()); err != nil {
			b.Fatal(err)
		}
	}
	return hits
}
