// SPDX-License-Identifier: Apache-2.0

package imgfs_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/fusetest"
	"github.com/imgfs/imgfs/internal/tartest"
)

// checkImageHashes compares the hash of every regular file with its content,
// and finds each by its hash.
func checkImageHashes(t *testing.T, s *imgfs.Store, arg string, want int) {
	t.Helper()
	i, err := s.OpenImage(context.Background(), arg, nil, imgfs.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	layers := make(map[int]*index.Hashes)
	var n index.Node
	files := 0
	for id := uint32(1); id <= i.FS.Tree.Count(); id++ {
		if err := i.FS.Tree.Node(index.NodeID(id), &n); err != nil {
			t.Fatal(err)
		}
		if !n.IsRegular() {
			continue
		}
		files++
		h := layers[n.Layer]
		if h == nil {
			if h, err = i.Hashes(context.Background(), n.Layer); err != nil {
				t.Fatal(err)
			}
			defer h.Close()
			layers[n.Layer] = h
		}
		sum, ok, err := h.Of(n.Header)
		if got := fmt.Sprintf("%x", sum); err != nil || !ok || got != contentHash(i.FS, &n) {
			t.Fatalf("node %d: %s %v %v, want %s", id, got, ok, err, contentHash(i.FS, &n))
		}
		lo, hi, err := h.Find(sum[:])
		found := false
		for ; lo < hi && !found; lo++ {
			f, err := h.At(lo)
			if err != nil {
				t.Fatal(err)
			}
			found = f.Header == n.Header
		}
		if err != nil || !found {
			t.Fatalf("node %d is not found by its hash: %v", id, err)
		}
	}
	if files < want {
		t.Errorf("%d files, want %d at least", files, want)
	}
}

// The content hashes of an image are those of its files: loaded, in place, made
// when they are asked for first.
func TestImageHashes(t *testing.T) {
	b := newOCI(t)
	var layers []packedLayer
	for i, how := range []string{"gzip", "", "zstd", "gzip"} {
		layers = append(layers, packed(t, tartest.Tar(t, fmt.Sprintf("same=x d/%d=%d empty= l=>same d/big=%0200000d", i, i, i)), how))
	}
	path := b.write(named(b.image("linux/amd64", layers, nil), "docker.io/library/x:latest"))
	s := openStore(t)
	checkImageHashes(t, s, path, 6)
	mustLoad(t, s, path)
	checkImageHashes(t, s, "x", 6)
	if err := os.RemoveAll(filepath.Join(s.Root(), "index/hash")); err != nil {
		t.Fatal(err)
	}
	checkImageHashes(t, s, "x", 6)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := os.RemoveAll(filepath.Join(s.Root(), "index/hash")); err != nil {
		t.Fatal(err)
	}
	i, err := s.OpenImage(context.Background(), "x", nil, imgfs.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	if _, err := i.Hashes(ctx, 0); err == nil {
		t.Error("hashes were made by who had given up")
	}
}

// Every kind of file, as real tools write them.
func TestImageHashesOfRealImage(t *testing.T) {
	s := openStore(t)
	path := fusetest.Image(t, "tiny")
	loaded := mustLoad(t, s, path)
	checkImageHashes(t, s, loaded[0].Name, 10)
}
