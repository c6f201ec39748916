// SPDX-License-Identifier: Apache-2.0

package imgfs_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/tartest"
	"github.com/imgfs/imgfs/unionfs"
)

// A treeFile is all that a tree says of one name.
type treeFile struct {
	Mode, Nlink, UID, GID uint32
	Size, Mtime           int64
	Nsec, Rdev            uint32
	Ino                   uint32
	Target, Content       string // the content's sha256
	Xattrs                string
}

// readTree walks f and reads every file whole, by path. Files whose read
// fails have the error as content.
func readTree(t testing.TB, f *unionfs.FS) map[string]treeFile {
	t.Helper()
	files := make(map[string]treeFile)
	var walk func(id index.NodeID, path string)
	walk = func(id index.NodeID, path string) {
		var n index.Node
		if err := f.Tree.Node(id, &n); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		file := treeFile{
			Mode: n.Mode, Nlink: n.Nlink, UID: n.UID, GID: n.GID, Size: n.Size,
			Mtime: n.Mtime, Nsec: n.MtimeNsec, Rdev: n.Rdev, Ino: uint32(id),
		}
		if err := f.Tree.EachXattr(&n, func(name, value []byte) bool {
			file.Xattrs += fmt.Sprintf("%s=%q ", name, value)
			return true
		}); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		switch {
		case n.Type() == index.ModeSymlink:
			target, err := f.Tree.Target(&n)
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			file.Target = string(target)
		case n.IsRegular():
			file.Content = contentHash(f, &n)
		}
		files[path] = file
		if !n.IsDir() {
			return
		}
		d, err := f.Tree.ReadDir(id, 0)
		for err == nil {
			var e index.Dirent[index.NodeID]
			var ok bool
			if e, ok, err = d.Next(); !ok {
				break
			}
			walk(e.ID, strings.TrimPrefix(path+"/"+string(e.Name), "./"))
		}
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	walk(f.Root, ".")
	return files
}

func contentHash(f *unionfs.FS, n *index.Node) string {
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(fileReader{f, n}, 0, n.Size)); err != nil {
		return "error: " + err.Error()
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

type fileReader struct {
	f *unionfs.FS
	n *index.Node
}

func (r fileReader) ReadAt(p []byte, off int64) (int, error) { return r.f.ReadAt(r.n, p, off) }

// diffTrees reports what differs, at most ten names.
func diffTrees(t testing.TB, what string, got, want map[string]treeFile) {
	t.Helper()
	var names []string
	for name := range got {
		names = append(names, name)
	}
	for name := range want {
		if _, ok := got[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	bad := 0
	for _, name := range names {
		g, inGot := got[name]
		w, inWant := want[name]
		if g == w && inGot == inWant {
			continue
		}
		if bad++; bad > 10 {
			t.Fatalf("%s: more differences", what)
		}
		t.Errorf("%s: %q\n got %v %+v\nwant %v %+v", what, name, inGot, g, inWant, w)
	}
}

func openStore(t testing.TB) *imgfs.Store {
	t.Helper()
	s, err := imgfs.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustLoad(t testing.TB, s *imgfs.Store, path string) []imgfs.Loaded {
	t.Helper()
	loaded, err := s.Load(context.Background(), path, nil, imgfs.LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return loaded
}

// treeOf opens an image and reads it whole.
func treeOf(t testing.TB, s *imgfs.Store, arg string) map[string]treeFile {
	t.Helper()
	i, err := s.OpenImage(context.Background(), arg, nil, imgfs.OpenOptions{Verify: true})
	if err != nil {
		t.Fatal(err)
	}
	files := readTree(t, i.FS)
	if err := i.Close(); err != nil {
		t.Fatal(err)
	}
	for name, f := range files {
		if strings.HasPrefix(f.Content, "error") {
			t.Errorf("%s: %s: %s", arg, name, f.Content)
		}
	}
	return files
}

// listing names every file of the store that a reader may see, with a hash of
// what is in it, but not the database, whose pages change by themselves.
func listing(t testing.TB, s *imgfs.Store) string {
	t.Helper()
	var b strings.Builder
	for _, dir := range []string{"blobs", "index"} {
		err := filepath.WalkDir(filepath.Join(s.Root(), dir), func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil || d.IsDir() {
				return err
			}
			raw, err := os.ReadFile(path)
			rel, _ := filepath.Rel(s.Root(), path)
			fmt.Fprintf(&b, "%s %d %x\n", rel, len(raw), sha256.Sum256(raw))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	list, err := s.Images(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range list {
		fmt.Fprintf(&b, "%s:%s %s %s\n", i.Repository, i.Tag, i.ID, i.Digest)
	}
	return b.String()
}

// sameListing reports the lines that are only in one of two listings.
func sameListing(t testing.TB, got, want string) {
	t.Helper()
	gotLines, wantLines := strings.Split(got, "\n"), strings.Split(want, "\n")
	for _, l := range gotLines {
		if !slices.Contains(wantLines, l) {
			t.Errorf("the store has %s", l)
		}
	}
	for _, l := range wantLines {
		if !slices.Contains(gotLines, l) {
			t.Errorf("the store lacks %s", l)
		}
	}
}

// tmpFiles returns what lies in the store's staging directory.
func tmpFiles(t testing.TB, s *imgfs.Store) []string {
	t.Helper()
	list, err := os.ReadDir(filepath.Join(s.Root(), "tmp"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

// A packed layer is a tar and its bytes as shipped.
type packedLayer struct {
	tar, blob []byte
	mediaType string
}

func packed(t testing.TB, raw []byte, how string) packedLayer {
	t.Helper()
	l := packedLayer{tar: raw, mediaType: ocispec.MediaTypeImageLayer}
	var b bytes.Buffer
	switch how {
	case "gzip":
		w := gzip.NewWriter(&b)
		w.Write(raw)
		w.Close()
		l.mediaType = ocispec.MediaTypeImageLayerGzip
	case "zstd":
		w, err := zstd.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		w.Write(raw)
		w.Close()
		l.mediaType = ocispec.MediaTypeImageLayerZstd
	default:
		b.Write(raw)
	}
	l.blob = b.Bytes()
	return l
}

// textLayers makes a layer of each text (see tartest.Tar), separated by "|".
func textLayers(t testing.TB, how, text string) []packedLayer {
	t.Helper()
	var layers []packedLayer
	for part := range strings.SplitSeq(text, "|| ") {
		layers = append(layers, packed(t, tartest.Tar(t, part), how))
	}
	return layers
}

// An ociBuilder writes an OCI archive, true or false.
type ociBuilder struct {
	t     testing.TB
	blobs map[string][]byte // file name in the archive
	order []string
}

func newOCI(t testing.TB) *ociBuilder { return &ociBuilder{t: t, blobs: make(map[string][]byte)} }

func (b *ociBuilder) file(name string, raw []byte) {
	if _, ok := b.blobs[name]; !ok {
		b.order = append(b.order, name)
	}
	b.blobs[name] = raw
}

func (b *ociBuilder) blob(mediaType string, raw []byte) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	b.file("blobs/sha256/"+d.Digest.Encoded(), raw)
	return d
}

func (b *ociBuilder) json(v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		b.t.Fatal(err)
	}
	return raw
}

// image adds an image; change may make it lie before its documents are
// written.
func (b *ociBuilder) image(platform string, layers []packedLayer, change func(*ocispec.Image, *ocispec.Manifest)) ocispec.Descriptor {
	system, arch, _ := strings.Cut(platform, "/")
	config := ocispec.Image{Platform: ocispec.Platform{OS: system, Architecture: arch}, RootFS: ocispec.RootFS{Type: "layers"}}
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest}
	m.SchemaVersion = 2
	for _, l := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(l.tar))
		m.Layers = append(m.Layers, b.blob(l.mediaType, l.blob))
	}
	if change != nil {
		change(&config, &m)
	}
	m.Config = b.blob(ocispec.MediaTypeImageConfig, b.json(config))
	d := b.blob(ocispec.MediaTypeImageManifest, b.json(m))
	d.Platform = &ocispec.Platform{OS: system, Architecture: arch}
	return d
}

func named(d ocispec.Descriptor, name string) ocispec.Descriptor {
	d.Annotations = map[string]string{"io.containerd.image.name": name}
	return d
}

// indexOf makes an index blob.
func (b *ociBuilder) indexOf(list ...ocispec.Descriptor) ocispec.Descriptor {
	x := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: list}
	x.SchemaVersion = 2
	return b.blob(ocispec.MediaTypeImageIndex, b.json(x))
}

// write finishes the archive and returns its path.
func (b *ociBuilder) write(list ...ocispec.Descriptor) string {
	b.t.Helper()
	b.file("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	x := ocispec.Index{Manifests: list}
	x.SchemaVersion = 2
	b.file("index.json", b.json(x))
	path := filepath.Join(b.t.TempDir(), "image.tar")
	f, err := os.Create(path)
	if err != nil {
		b.t.Fatal(err)
	}
	w := tar.NewWriter(f)
	for _, name := range b.order {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Typeflag: tar.TypeReg, Size: int64(len(b.blobs[name]))}); err != nil {
			b.t.Fatal(err)
		}
		if _, err := w.Write(b.blobs[name]); err != nil {
			b.t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), f.Close()); err != nil {
		b.t.Fatal(err)
	}
	return path
}

// textImage writes an OCI archive of an image whose layers are texts.
func textImage(t testing.TB, name, how, text string) string {
	t.Helper()
	b := newOCI(t)
	d := b.image("linux/amd64", textLayers(t, how, text), nil)
	if name != "" {
		d = named(d, name)
	}
	return b.write(d)
}

// A tarBuilder writes a tar entry by entry.
type tarBuilder struct {
	t testing.TB
	b *bytes.Buffer
	w *tar.Writer
}

func newTar(t testing.TB) *tarBuilder {
	b := new(bytes.Buffer)
	return &tarBuilder{t, b, tar.NewWriter(b)}
}

func (b *tarBuilder) add(h *tar.Header, body []byte) {
	b.t.Helper()
	h.Size = int64(len(body))
	if err := b.w.WriteHeader(h); err != nil {
		b.t.Fatalf("%q: %v", h.Name, err)
	}
	if _, err := b.w.Write(body); err != nil {
		b.t.Fatalf("%q: %v", h.Name, err)
	}
}

func (b *tarBuilder) file(name string, body []byte) {
	b.t.Helper()
	b.add(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}, body)
}

func (b *tarBuilder) bytes() []byte {
	if err := b.w.Close(); err != nil {
		b.t.Fatal(err)
	}
	return b.b.Bytes()
}

func readNode(t testing.TB, i *imgfs.Image, id index.NodeID) (n index.Node) {
	t.Helper()
	if err := i.FS.Tree.Node(id, &n); err != nil {
		t.Fatal(err)
	}
	return n
}
