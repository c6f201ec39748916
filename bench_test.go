// SPDX-License-Identifier: Apache-2.0

package imgfs_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/internal/tartest"
)

// benchTar returns the tar that IMGFS_BENCH_TAR names, else 64 MB of files
// that compress about as programs do.
func benchTar(b *testing.B) []byte {
	if path := os.Getenv("IMGFS_BENCH_TAR"); path != "" {
		raw, err := os.ReadFile(path)
		if err != nil {
			b.Fatal(err)
		}
		return raw
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	words := make([][]byte, 4096)
	for i := range words {
		words[i] = make([]byte, 2+rnd.IntN(10))
		for k := range words[i] {
			words[i][k] = byte(rnd.Uint32())
		}
	}
	tw := newTar(b)
	for i := range 2000 {
		var f bytes.Buffer
		for f.Len() < 32<<10 {
			f.Write(words[min(rnd.IntN(4096), rnd.IntN(4096))])
		}
		tw.file(fmt.Sprintf("dir%d/file%d", i/50, i), f.Bytes())
	}
	return tw.bytes()
}

func BenchmarkImport(b *testing.B) {
	raw := benchTar(b)
	for _, how := range []string{"plain", "gzip", "zstd"} {
		b.Run(how, func(b *testing.B) {
			blob := packed(b, raw, how).blob
			b.SetBytes(int64(len(raw)))
			for b.Loop() {
				s, err := imgfs.Open(b.TempDir())
				if err != nil {
					b.Fatal(err)
				}
				if _, err := s.Import(context.Background(), "-", bytes.NewReader(blob), "", imgfs.LoadOptions{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// The archive that IMGFS_BENCH_IMAGE names is loaded into an empty store.
func BenchmarkLoad(b *testing.B) {
	path := os.Getenv("IMGFS_BENCH_IMAGE")
	if path == "" {
		b.Skip("IMGFS_BENCH_IMAGE names no archive")
	}
	for b.Loop() {
		s, err := imgfs.Open(b.TempDir())
		if err != nil {
			b.Fatal(err)
		}
		loaded, err := s.Load(context.Background(), path, nil, imgfs.LoadOptions{})
		if err != nil {
			b.Fatal(err)
		}
		images, err := s.Images(context.Background())
		if err != nil || len(images) != len(loaded) {
			b.Fatal(len(images), err)
		}
		b.SetBytes(images[0].Size)
	}
}

// The archive is opened in place: for the first time, again, and again when its
// layers are verified.
func BenchmarkOpenInPlace(b *testing.B) {
	path := os.Getenv("IMGFS_BENCH_IMAGE")
	if path == "" {
		b.Skip("IMGFS_BENCH_IMAGE names no archive")
	}
	open := func(b *testing.B, s *imgfs.Store, opt imgfs.OpenOptions) {
		i, err := s.OpenImage(context.Background(), path, nil, opt)
		if err != nil {
			b.Fatal(err)
		}
		i.Close()
	}
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			s, err := imgfs.Open(b.TempDir())
			if err != nil {
				b.Fatal(err)
			}
			open(b, s, imgfs.OpenOptions{})
		}
	})
	again := func(b *testing.B, opt imgfs.OpenOptions) {
		s := openStore(b)
		open(b, s, opt)
		for b.Loop() {
			open(b, s, opt)
		}
	}
	b.Run("again", func(b *testing.B) { again(b, imgfs.OpenOptions{}) })
	b.Run("verified", func(b *testing.B) { again(b, imgfs.OpenOptions{Verify: true}) })
}

// Opening costs the same however deep the image is.
func BenchmarkOpenImage(b *testing.B) {
	for _, layers := range []int{1, 10, 120} {
		b.Run(fmt.Sprintf("layers=%d", layers), func(b *testing.B) {
			archive := newOCI(b)
			var list []packedLayer
			for i := range layers {
				var text strings.Builder
				for k := range 20_000 / layers {
					fmt.Fprintf(&text, "d%d/f%d ", i, k)
				}
				list = append(list, packed(b, tartest.Tar(b, text.String()), "gzip"))
			}
			s := openStore(b)
			mustLoad(b, s, archive.write(named(archive.image("linux/amd64", list, nil), "docker.io/library/x:latest")))
			b.ReportAllocs()
			for b.Loop() {
				i, err := s.OpenImage(context.Background(), "x", nil, imgfs.OpenOptions{})
				if err != nil {
					b.Fatal(err)
				}
				i.Close()
			}
		})
	}
}
