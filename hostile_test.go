// SPDX-License-Identifier: Apache-2.0

package imgfs_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/tartest"
	"github.com/imgfs/imgfs/layerstore/seek"
)

// isRefusal reports whether an error is of those for which the command exits
// with 4.
func isRefusal(err error) bool {
	for _, e := range []error{image.ErrMalformed, index.ErrBadLayer, index.ErrLimit, seek.ErrFormat, seek.ErrCorrupt} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// An attack writes an archive and says what its refusal must speak of.
type attack struct {
	name  string // begins with the row of docs/semantics.md, if there is one
	write func(b *ociBuilder) []ocispec.Descriptor
	says  string // words that must be in the error, separated by |
}

func twoLayers(t testing.TB, how string) []packedLayer {
	return textLayers(t, how, "a/ a/b=one || a/c=two big="+strings.Repeat("x", 3000))
}

func attacks(t testing.TB) []attack {
	simple := func(how string, spoil func(layers []packedLayer, b *ociBuilder)) func(b *ociBuilder) []ocispec.Descriptor {
		return func(b *ociBuilder) []ocispec.Descriptor {
			layers := twoLayers(t, how)
			spoil(layers, b)
			return []ocispec.Descriptor{b.image("linux/amd64", layers, nil)}
		}
	}
	lie := func(change func(c *ocispec.Image, m *ocispec.Manifest)) func(b *ociBuilder) []ocispec.Descriptor {
		return func(b *ociBuilder) []ocispec.Descriptor {
			return []ocispec.Descriptor{b.image("linux/amd64", twoLayers(t, "gzip"), change)}
		}
	}
	other := digest.FromString("other")
	list := []attack{
		{"C1 more diffIDs than layers", lie(func(c *ocispec.Image, m *ocispec.Manifest) { c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, other) }), "3 diff_ids"},
		{"C1 fewer diffIDs than layers", lie(func(c *ocispec.Image, m *ocispec.Manifest) { c.RootFS.DiffIDs = c.RootFS.DiffIDs[:1] }), "1 diff_ids"},
		{"C1 a diffID lies", lie(func(c *ocispec.Image, m *ocispec.Manifest) { c.RootFS.DiffIDs[1] = other }), "layer 2|" + string(other)},
		{"C1 diffIDs in the wrong order", lie(func(c *ocispec.Image, m *ocispec.Manifest) {
			c.RootFS.DiffIDs[0], c.RootFS.DiffIDs[1] = c.RootFS.DiffIDs[1], c.RootFS.DiffIDs[0]
		}), "layer "},
		{"C3 manifest and index at once", func(b *ociBuilder) []ocispec.Descriptor {
			d := b.image("linux/amd64", twoLayers(t, "gzip"), nil)
			var doc map[string]any
			json.Unmarshal(b.blobs["blobs/sha256/"+d.Digest.Encoded()], &doc)
			doc["manifests"] = []any{}
			return []ocispec.Descriptor{b.blob(ocispec.MediaTypeImageManifest, b.json(doc))}
		}, ""},
		{"C3 the descriptor's media type is another", func(b *ociBuilder) []ocispec.Descriptor {
			d := b.image("linux/amd64", twoLayers(t, "gzip"), nil)
			d.MediaType = image.MediaTypeDockerManifest
			return []ocispec.Descriptor{d}
		}, ""},
		{"C5 a layer's size is wrong", lie(func(c *ocispec.Image, m *ocispec.Manifest) { m.Layers[1].Size++ }), "sha256:"},
		{"C5 a layer's size is negative", lie(func(c *ocispec.Image, m *ocispec.Manifest) { m.Layers[1].Size = -1 }), "-1"},
		{"C5 a layer's size is huge", lie(func(c *ocispec.Image, m *ocispec.Manifest) { m.Layers[1].Size = 1 << 62 }), "sha256:"},
		{"C5 the manifest's size is wrong", func(b *ociBuilder) []ocispec.Descriptor {
			d := b.image("linux/amd64", twoLayers(t, "gzip"), nil)
			d.Size += 3
			return []ocispec.Descriptor{d}
		}, "sha256:"},
		{"C5 a layer is missing", func(b *ociBuilder) []ocispec.Descriptor {
			layers := twoLayers(t, "gzip")
			d := b.image("linux/amd64", layers, nil)
			b.remove(digest.FromBytes(layers[1].blob))
			return []ocispec.Descriptor{d}
		}, digest.FromBytes(twoLayers(t, "gzip")[1].blob).String()},
		{"C5 the config is missing", func(b *ociBuilder) []ocispec.Descriptor {
			var config digest.Digest
			d := b.image("linux/amd64", twoLayers(t, "gzip"), nil)
			var m ocispec.Manifest
			json.Unmarshal(b.blobs["blobs/sha256/"+d.Digest.Encoded()], &m)
			config = m.Config.Digest
			b.remove(config)
			return []ocispec.Descriptor{d}
		}, "config"},
		{"C4 md5", lie(func(c *ocispec.Image, m *ocispec.Manifest) {
			m.Layers[1].Digest = "md5:d41d8cd98f00b204e9800998ecf8427e"
		}), "md5"},
		{"C4 upper case", lie(func(c *ocispec.Image, m *ocispec.Manifest) {
			m.Layers[1].Digest = digest.Digest("sha256:" + strings.ToUpper(m.Layers[1].Digest.Encoded()))
		}), ""},
		{"C4 a path for a digest", lie(func(c *ocispec.Image, m *ocispec.Manifest) { m.Layers[1].Digest = "sha256:../../../../etc/passwd" }), ""},
		{"C4 a path for a diffID", lie(func(c *ocispec.Image, m *ocispec.Manifest) { c.RootFS.DiffIDs[1] = "sha256:../../../../etc/passwd" }), ""},
		{"C8 garbage after zstd", simple("zstd", func(l []packedLayer, b *ociBuilder) { l[1].blob = append(l[1].blob, "garbage"...) }), "layer 2"},
		{"no tar at all", simple("gzip", func(l []packedLayer, b *ociBuilder) {
			l[1] = packed(t, bytes.Repeat([]byte("no tar at all "), 200), "gzip")
		}), "layer 2"},
		{"no tar at all, plain", simple("gzip", func(l []packedLayer, b *ociBuilder) {
			l[1] = packed(t, bytes.Repeat([]byte("no tar at all "), 200), "")
		}), "layer 2"},
		{"W6 a bad whiteout", simple("gzip", func(l []packedLayer, b *ociBuilder) { l[1] = packed(t, tartest.Tar(t, "a/ a/.wh."), "gzip") }), "layer 2|a/.wh.|offset 1536"},
		{"H9 a link to nothing", simple("gzip", func(l []packedLayer, b *ociBuilder) { l[1] = packed(t, tartest.Tar(t, "x=>nowhere"), "gzip") }), "layer 2|nowhere"},
		{"N3 a long name", simple("gzip", func(l []packedLayer, b *ociBuilder) {
			l[1] = packed(t, tartest.Tar(t, "a/"+strings.Repeat("n", 256)), "gzip")
		}), "layer 2|255"},
		{"S2 a long path", simple("gzip", func(l []packedLayer, b *ociBuilder) {
			l[1] = packed(t, tartest.Tar(t, strings.Repeat("d/", 2100)+"f"), "gzip")
		}), "layer 2|4"},
		{"a manifest over the limit", func(b *ociBuilder) []ocispec.Descriptor {
			d := b.image("linux/amd64", twoLayers(t, "gzip"), func(c *ocispec.Image, m *ocispec.Manifest) {
				m.Annotations = map[string]string{"x": strings.Repeat("x", 4<<20)}
			})
			return []ocispec.Descriptor{d}
		}, "limit"},
		{"a config over the limit", lie(func(c *ocispec.Image, m *ocispec.Manifest) { c.Author = strings.Repeat("x", 4<<20) }), "limit"},
		{"over 4096 layers", func(b *ociBuilder) []ocispec.Descriptor {
			l := textLayers(t, "gzip", "a")
			return []ocispec.Descriptor{b.image("linux/amd64", slicesRepeat(l, 4097), nil)}
		}, "4096"},
	}
	for _, how := range []string{"", "gzip", "zstd"} {
		whole := twoLayers(t, how)[1]
		n := len(whole.blob)
		step := max(1, n/23)
		for cut := 1; cut < n; cut += step {
			if how == "" && cut >= n-1024 {
				continue // T8: no end blocks is fine
			}
			if how == "" && (cut == 512 || cut == 1024) {
				continue // whole headers of nothing
			}
			list = append(list, attack{fmt.Sprintf("C8 %s cut at %d of %d", how, cut, n), simple(how, func(l []packedLayer, b *ociBuilder) {
				l[1].blob = l[1].blob[:cut]
			}), "layer 2"})
		}
		if how == "" {
			continue
		}
		for off := 0; off < n; off += step {
			if how == "gzip" && off >= 4 && off < 10 {
				continue // a time and a system, which nobody checks
			}
			list = append(list, attack{fmt.Sprintf("C8 %s bit %d of %d", how, off, n), simple(how, func(l []packedLayer, b *ociBuilder) {
				l[1].blob = bytes.Clone(l[1].blob)
				l[1].blob[off] ^= 0x10
			}), "layer 2"})
		}
	}
	return list
}

func slicesRepeat[T any](s []T, n int) (out []T) {
	for range n {
		out = append(out, s...)
	}
	return out
}

// remove takes a blob out of the archive.
func (b *ociBuilder) remove(d digest.Digest) {
	name := "blobs/sha256/" + d.Encoded()
	delete(b.blobs, name)
	for i, n := range b.order {
		if n == name {
			b.order = append(b.order[:i], b.order[i+1:]...)
			return
		}
	}
	b.t.Fatalf("no blob %s", d)
}

func TestHostileImages(t *testing.T) {
	s, place := openStore(t), openStore(t)
	mustLoad(t, s, textImage(t, "docker.io/library/before:latest", "gzip", "a/ a/b=text"))
	for _, a := range attacks(t) {
		t.Run(a.name, func(t *testing.T) {
			before := listing(t, s)
			b := newOCI(t)
			path := b.write(a.write(b)...)
			_, err := s.Load(context.Background(), path, nil, imgfs.LoadOptions{})
			if !isRefusal(err) {
				t.Errorf("load: got %v, want a refusal", err)
				return
			}
			for word := range strings.SplitSeq(a.says, "|") {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("load: %q is not in: %v", word, err)
				}
			}
			if len(err.Error()) > 5000 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			sameListing(t, listing(t, s), before)
			i, err := place.OpenImage(context.Background(), path, nil, imgfs.OpenOptions{Verify: true})
			if err == nil {
				i.Close()
			}
			if !isRefusal(err) {
				t.Errorf("in place: got %v, want a refusal", err)
			}
		})
	}
	if left := tmpFiles(t, s); len(left) > 0 {
		t.Errorf("left in tmp: %q", left)
	}
}

// C2, C6, C7 and what else is fine, if odd.
func TestOddImages(t *testing.T) {
	plain := tartest.Tar(t, "a/ a/b=text")
	gz, zs := packed(t, plain, "gzip"), packed(t, plain, "zstd")
	members := append(packed(t, plain[:700], "gzip").blob, packed(t, plain[700:], "gzip").blob...)
	frames := append(packed(t, plain[:700], "zstd").blob, packed(t, plain[700:], "zstd").blob...)
	skippable := append([]byte("\x50\x2a\x4d\x18\x04\x00\x00\x00skip"), zs.blob...)
	tests := []struct {
		name, mediaType string
		blob            []byte
		warns           string
	}{
		{"gzip", ocispec.MediaTypeImageLayerGzip, gz.blob, ""},
		{"docker's type", image.MediaTypeDockerLayerGzip, gz.blob, ""},
		{"plain", ocispec.MediaTypeImageLayer, plain, ""},
		{"C2 gzip that is zstd", ocispec.MediaTypeImageLayerGzip, zs.blob, "C2"},
		{"C2 gzip that is plain", ocispec.MediaTypeImageLayerGzip, plain, "C2"},
		{"C2 zstd that is gzip", ocispec.MediaTypeImageLayerZstd, gz.blob, "C2"},
		{"C2 tar that is gzip", ocispec.MediaTypeImageLayer, gz.blob, "C2"},
		{"C6 members", ocispec.MediaTypeImageLayerGzip, members, ""},
		{"C6 frames", ocispec.MediaTypeImageLayerZstd, frames, ""},
		{"C6 skippable frame", ocispec.MediaTypeImageLayerZstd, skippable, ""},
		{"C7 zeros after gzip", ocispec.MediaTypeImageLayerGzip, append(bytes.Clone(gz.blob), make([]byte, 600)...), "C7"},
		{"C7 garbage after gzip", ocispec.MediaTypeImageLayerGzip, append(bytes.Clone(gz.blob), "garbage"...), "C7"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newOCI(t)
			path := b.write(named(b.image("linux/amd64", []packedLayer{{plain, tt.blob, tt.mediaType}}, nil), "docker.io/library/odd:latest"))
			s := openStore(t)
			for _, try := range []string{"load", "load again", "in place", "in place again"} {
				var lines []string
				opt := imgfs.LoadOptions{Warn: func(l string) { lines = append(lines, l) }}
				if strings.HasPrefix(try, "load") {
					if _, err := s.Load(context.Background(), path, nil, opt); err != nil {
						t.Fatal(err)
					}
				} else {
					i, err := s.OpenImage(context.Background(), path, nil, imgfs.OpenOptions{LoadOptions: opt, Verify: true})
					if err != nil {
						t.Fatal(err)
					}
					if got := readTree(t, i.FS); got["a/b"].Size != 4 {
						t.Errorf("got %v", got)
					}
					i.Close()
				}
				got := strings.Join(lines, "\n")
				if (tt.warns == "") != (got == "") || !strings.Contains(got, tt.warns) {
					t.Errorf("%s warned %q, want %q", try, got, tt.warns)
				}
				if names := strings.Contains(got, "imgfs lint odd:latest"); names != (tt.warns != "" && strings.HasPrefix(try, "load")) {
					t.Errorf("%s: %q", try, got)
				}
			}
			if got := treeOf(t, s, "odd"); got["a/b"].Size != 4 {
				t.Errorf("got %v", got)
			}
		})
	}
}

// A layer blob is known to the store; an image that gives it another diffID
// must not get the other diffID's table, nor put its own there.
func TestTablePoisoning(t *testing.T) {
	s := openStore(t)
	good := textLayers(t, "gzip", "good=1")[0]
	evil := textLayers(t, "gzip", "evil=1")[0]
	b := newOCI(t)
	mustLoad(t, s, b.write(named(b.image("linux/amd64", []packedLayer{evil}, nil), "docker.io/library/evil:latest")))
	before := listing(t, s)

	b = newOCI(t)
	path := b.write(named(b.image("linux/amd64", []packedLayer{evil}, func(c *ocispec.Image, m *ocispec.Manifest) {
		c.RootFS.DiffIDs[0] = digest.FromBytes(good.tar)
	}), "docker.io/library/lies:latest"))
	if _, err := s.Load(context.Background(), path, nil, imgfs.LoadOptions{}); !isRefusal(err) {
		t.Errorf("load: got %v, want a refusal", err)
	}
	sameListing(t, listing(t, s), before)

	// In place, not verified: its table must not be taken for good's.
	b = newOCI(t)
	liar := packedLayer{tar: evil.tar, blob: evil.tar, mediaType: ocispec.MediaTypeImageLayer}
	path = b.write(b.image("linux/amd64", []packedLayer{liar}, func(c *ocispec.Image, m *ocispec.Manifest) {
		c.RootFS.DiffIDs[0] = digest.FromBytes(good.tar)
	}))
	i, err := s.OpenImage(context.Background(), path, nil, imgfs.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	if !i.Unverified() {
		t.Error("a plain tar in place is verified at once")
	}
	if err := i.Verify(context.Background()); !isRefusal(err) || !strings.Contains(err.Error(), "layer 1") {
		t.Errorf("verify: got %v, want a refusal", err)
	}
	if got := readTree(t, i.FS); !strings.HasPrefix(got["evil"].Content, "error") {
		t.Errorf("a layer that failed was read: %v", got)
	}
	b = newOCI(t)
	mustLoad(t, s, b.write(named(b.image("linux/amd64", []packedLayer{good}, nil), "docker.io/library/good:latest")))
	if got := treeOf(t, s, "good"); got["good"].Size != 1 || len(got) != 2 {
		t.Errorf("got %v", got)
	}
}

// zeroReader reads zeros without end.
type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// peakHeap samples the heap while f runs, in bytes.
func peakHeap(f func()) uint64 {
	var peak atomic.Uint64
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		var m runtime.MemStats
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				runtime.ReadMemStats(&m)
				peak.Store(max(peak.Load(), m.HeapInuse))
			}
		}
	}()
	f()
	close(stop)
	<-done
	return peak.Load()
}

// A bomb costs time, never memory.
func TestBomb(t *testing.T) {
	unraced(t)
	if testing.Short() {
		t.Skip("a GiB of zeros take seconds")
	}
	const size = 1 << 30
	dir := t.TempDir()
	blob := filepath.Join(dir, "blob")
	f, err := os.Create(blob)
	if err != nil {
		t.Fatal(err)
	}
	z, _ := gzip.NewWriterLevel(f, gzip.BestSpeed)
	diff := digest.Canonical.Digester()
	w := tar.NewWriter(io.MultiWriter(z, diff.Hash()))
	if err := w.WriteHeader(&tar.Header{Name: "zeros", Typeflag: tar.TypeReg, Mode: 0o644, Size: size}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(w, zeroReader{}, size); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Close(), z.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(blob)
	if err != nil {
		t.Fatal(err)
	}
	b := newOCI(t)
	path := b.write(named(b.image("linux/amd64", []packedLayer{{nil, raw, ocispec.MediaTypeImageLayerGzip}}, func(c *ocispec.Image, m *ocispec.Manifest) {
		c.RootFS.DiffIDs[0] = diff.Digest()
	}), "docker.io/library/bomb:latest"))
	n := len(raw)
	raw, b = nil, nil
	runtime.GC()

	s := openStore(t)
	begin := time.Now()
	peak := peakHeap(func() { mustLoad(t, s, path) })
	t.Logf("load of %d bytes in %d: %v, heap %d MiB", int64(size), n, time.Since(begin), peak>>20)
	if peak > 200<<20 {
		t.Errorf("load took a heap of %d MiB", peak>>20)
	}
	i, err := s.OpenImage(context.Background(), "bomb", nil, imgfs.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	id, err := i.FS.Resolve("/zeros", false)
	if err != nil {
		t.Fatal(err)
	}
	var node index.Node
	if err := i.FS.Tree.Node(id, &node); err != nil {
		t.Fatal(err)
	}
	begin = time.Now()
	peak = peakHeap(func() {
		p := make([]byte, 1<<20)
		for off := int64(0); off < size; off += 1 << 20 {
			if _, err := i.FS.ReadAt(&node, p, off); err != nil && err != io.EOF {
				t.Error(err)
				return
			}
		}
	})
	t.Logf("read in %v, heap %d MiB", time.Since(begin), peak>>20)
	if peak > 200<<20 {
		t.Errorf("reading took a heap of %d MiB", peak>>20)
	}
}

func TestManyLayers(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	b := newOCI(t)
	var layers []packedLayer
	for i := range 400 {
		layers = append(layers, packed(t, tartest.Tar(t, fmt.Sprintf("d/ d/f%d=%d same=%d", i, i, i)), "gzip"))
	}
	path := b.write(named(b.image("linux/amd64", layers, nil), "docker.io/library/deep:latest"))
	s := openStore(t)
	begin := time.Now()
	mustLoad(t, s, path)
	t.Logf("load: %v", time.Since(begin))
	begin = time.Now()
	i, err := s.OpenImage(context.Background(), "deep", nil, imgfs.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("open: %v", time.Since(begin))
	tree := readTree(t, i.FS)
	i.Close()
	if len(tree) != 403 {
		t.Errorf("got %d names", len(tree))
	}
	if got, want := tree["same"].Content, digest.FromString("399").Encoded(); got != want {
		t.Errorf("same: got %s, want %s", got, want)
	}
}
