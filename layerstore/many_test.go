// SPDX-License-Identifier: Apache-2.0

package layerstore

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// BenchmarkManyImages: what 1000 images of two layers, one of them shared, cost
// to list and to remove.
func BenchmarkManyImages(b *testing.B) {
	const n = 1000
	b.Run("list", func(b *testing.B) {
		s := manyImages(b, n)
		for b.Loop() {
			if refs, images, err := s.List(false); err != nil || len(refs) != n || len(images) != n {
				b.Fatal(len(refs), len(images), err)
			}
		}
	})
	b.Run("remove", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			s := manyImages(b, n)
			b.StartTimer()
			gone, err := s.Change(func(c *Catalog) error {
				for key := range c.Refs {
					if err := c.Remove(key); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil || len(gone) != n {
				b.Fatal(len(gone), err)
			}
			if _, err := s.Collect(context.Background(), gone); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// manyImages makes a store of n images whose files have no meaning.
func manyImages(b *testing.B, n int) *Store {
	b.Helper()
	s := testStore(b)
	if err := s.Create(); err != nil {
		b.Fatal(err)
	}
	layer := func(i int) Layer {
		return Layer{Digest: digest.FromString(fmt.Sprint("blob", i)), DiffID: digest.FromString(fmt.Sprint("layer", i)),
			MediaType: "application/vnd.oci.image.layer.v1.tar+gzip", Size: 1000, TarSize: 2000, Compression: "gzip"}
	}
	var refs []Ref
	var images []Image
	for i := range n {
		m := Image{
			ID: digest.FromString(fmt.Sprint("config", i)), Manifest: digest.FromString(fmt.Sprint("manifest", i)),
			ChainID: digest.FromString(fmt.Sprint("chain", i)), Platform: "linux/amd64", Created: time.Unix(int64(i), 0),
			Labels: map[string]string{"maintainer": "somebody"}, Layers: []Layer{layer(-1), layer(i)},
		}
		images = append(images, m)
		refs = append(refs, Ref{Name: fmt.Sprintf("docker.io/library/i%d:1", i), Target: m.Manifest, Images: []digest.Digest{m.Manifest}})
	}
	if err := os.MkdirAll(s.root+"/blobs/sha256", 0o700); err != nil {
		b.Fatal(err)
	}
	for i := range images {
		for _, path := range s.imageFiles(&images[i]) {
			if err := os.WriteFile(s.root+"/"+path, []byte("x"), 0o600); err != nil {
				b.Fatal(err)
			}
		}
	}
	if err := s.addRefs(refs, images, func() error { return nil }); err != nil {
		b.Fatal(err)
	}
	return s
}
