// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgfs/imgfs/image"
)

// sourceBlobs gives out the layers of a source.
type sourceBlobs struct{ s *Source }

func (b sourceBlobs) Blob(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	for _, e := range b.s.Entries() {
		for _, m := range e.Images {
			for _, l := range m.Layers {
				if l.Desc.Digest == d.Digest && l.Blob != nil {
					return io.NopCloser(io.NewSectionReader(l.Blob, 0, l.Blob.Size())), nil
				}
			}
		}
	}
	return nil, fs.ErrNotExist
}

// mapBlobs gives out what a test put under a digest.
type mapBlobs map[digest.Digest]string

func (b mapBlobs) Blob(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(b[d.Digest])), nil
}

func mustOpenBytes(t testing.TB, b []byte) *Source {
	t.Helper()
	s, err := openBytes(b)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func writeTar(t testing.TB, format string, s *Source) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := WriteTar(context.Background(), &b, format, s.Entries(), sourceBlobs{s}, time.Unix(0, 0)); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// manySource has two platforms under two names, one of them absent, and an
// image that shares a layer with them.
func manySource(t testing.TB) *Source {
	t.Helper()
	a, b := layerTar(t, "a"), layerTar(t, "b")
	amd, arm, lone := makeOCI("linux/amd64", a, b), makeOCI("linux/arm64", a), makeOCI("linux/amd64", b)
	absent := makeOCI("linux/s390x", layerTar(t, "absent"))
	list := indexOf(onPlatform(amd.desc, "linux/amd64"), onPlatform(arm.desc, "linux/arm64"), onPlatform(absent.desc, "linux/s390x"))
	many := descOf(ocispec.MediaTypeImageIndex, list)
	return mustOpenBytes(t, makeTar(t, concat(amd.blobs, arm.blobs, lone.blobs, []testFile{
		blobFile(list), layoutFile,
		indexFile(named(many, "docker.io/library/many:1"), named(many, "example.com/many:2"), named(lone.desc, "word")),
	})...))
}

const manySummary = "docker.io/library/many:1,example.com/many:2 [linux/amd64 a b] [linux/arm64 a] [linux/s390x missing]\nword [linux/amd64 b]"

func TestWriteTar(t *testing.T) {
	s := manySource(t)
	for format, shown := range map[string]string{FormatOCIArchive: FormatOCIArchive, FormatDockerArchive: FormatOCIArchive} {
		first := writeTar(t, format, s)
		again := mustOpenBytes(t, first)
		if got := summary(t, again); got != manySummary || again.Format() != shown {
			t.Errorf("%s\n got %s %q\nwant %s %q", format, again.Format(), got, shown, manySummary)
		}
		for i, e := range again.Entries() {
			if want := s.Entries()[i].Target.Digest; e.Target.Digest != want {
				t.Errorf("%s: entry %d: target %s, want %s", format, i, e.Target.Digest, want)
			}
		}
		if !bytes.Equal(writeTar(t, format, again), first) {
			t.Errorf("%s: what is read and written again differs", format)
		}
	}
}

// TestWriteDocker: manifest.json alone leads to the images, for readers that
// know no OCI layout.
func TestWriteDocker(t *testing.T) {
	all := mustOpenBytes(t, writeTar(t, FormatDockerArchive, manySource(t)))
	l := newLoader(all.files)
	entries, err := l.dockerArchive()
	if err != nil {
		t.Fatal(err)
	}
	want := "docker.io/library/many:1,example.com/many:2 [linux/amd64 a b]\n [linux/amd64 b]"
	if got := summary(t, &Source{entries: entries}); strings.TrimSpace(got) != strings.ReplaceAll(want, "\n ", "\n") {
		t.Errorf("\n got %q\nwant %q", got, want)
	}
}

// treeText lists the files of a directory with their sizes.
func treeText(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		b.WriteString(rel + " " + digest.FromBytes(raw).String() + "\n")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestWriteDir(t *testing.T) {
	ctx := context.Background()
	parent := t.TempDir()
	dir := filepath.Join(parent, "layout")
	s := manySource(t)
	open := func() *Source {
		t.Helper()
		got, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { got.Close() })
		return got
	}
	if err := WriteDir(ctx, dir, s.Entries(), sourceBlobs{s}); err != nil {
		t.Fatal(err)
	}
	if got := summary(t, open()); got != manySummary {
		t.Errorf("\n got %q\nwant %q", got, manySummary)
	}
	before := treeText(t, dir)
	if err := WriteDir(ctx, dir, s.Entries(), sourceBlobs{s}); err != nil || treeText(t, dir) != before {
		t.Errorf("written twice: %v\n got %s\nwant %s", err, treeText(t, dir), before)
	}

	// A name goes to who was written last; an image may lose all of its names.
	next := makeOCI("linux/amd64", layerTar(t, "next"))
	n := mustOpenBytes(t, makeTar(t, concat(next.blobs, []testFile{layoutFile, indexFile(named(next.desc, "example.com/many:2"), named(next.desc, "word"))})...))
	if err := WriteDir(ctx, dir, n.Entries(), sourceBlobs{n}); err != nil {
		t.Fatal(err)
	}
	want := "docker.io/library/many:1 [linux/amd64 a b] [linux/arm64 a] [linux/s390x missing]\nexample.com/many:2,word [linux/amd64 next]"
	if got := summary(t, open()); got != want {
		t.Errorf("\n got %q\nwant %q", got, want)
	}

	// A blob that was damaged is written anew.
	blob := filepath.Join(dir, blobName(next.desc.Digest))
	if err := os.WriteFile(blob, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := WriteDir(ctx, dir, n.Entries(), sourceBlobs{n}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(blob); string(got) != next.manifest {
		t.Errorf("the damaged blob is %q, %v", got, err)
	}
	if list, _ := os.ReadDir(parent); len(list) != 1 {
		t.Errorf("left beside the layout: %v", list)
	}
}

func TestWriteDirFails(t *testing.T) {
	ctx := context.Background()
	s := manySource(t)
	parent := t.TempDir()
	dir := filepath.Join(parent, "layout")
	lying := mapBlobs{}
	if err := WriteDir(ctx, dir, s.Entries(), lying); !errors.Is(err, image.ErrMalformed) {
		t.Errorf("new: got %v, want ErrMalformed", err)
	}
	if list, _ := os.ReadDir(parent); len(list) != 0 {
		t.Errorf("left: %v", list)
	}

	lone := slices.Clone(s.Entries()[1:])
	if err := WriteDir(ctx, dir, lone, sourceBlobs{s}); err != nil {
		t.Fatal(err)
	}
	before := treeText(t, dir)
	if err := WriteDir(ctx, dir, s.Entries(), lying); !errors.Is(err, image.ErrMalformed) {
		t.Errorf("existing: got %v, want ErrMalformed", err)
	}
	if got := treeText(t, dir); got != before {
		t.Errorf("after an error\n got %s\nwant %s", got, before)
	}

	other := writeDir(t, testFile{name: "precious", body: "x"})
	if err := WriteDir(ctx, other, s.Entries(), sourceBlobs{s}); !errors.Is(err, ErrNotLayout) {
		t.Errorf("a directory of something else: got %v, want ErrNotLayout", err)
	}
	if got, want := treeText(t, other), "precious "+sha("x")+"\n"; got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if err := WriteDir(ended, dir, s.Entries(), sourceBlobs{s}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	}

	// A layout does not lead the writer out of it.
	trap := writeDir(t, layoutFile, testFile{name: "blobs", symlink: parent})
	if err := WriteDir(ctx, trap, s.Entries(), sourceBlobs{s}); err == nil {
		t.Error("blobs/ leads elsewhere, and was written to")
	}
	if list, _ := os.ReadDir(parent); len(list) != 1 {
		t.Errorf("written outside of the layout: %v", list)
	}
}

func TestWriteRefuses(t *testing.T) {
	a := layerTar(t, "a")
	img := makeOCI("linux/amd64", a)
	s := mustOpenBytes(t, makeTar(t, concat(img.blobs, []testFile{layoutFile, indexFile(img.desc)})...))
	change := func(f func(e *Entry)) []Entry {
		e := s.Entries()[0]
		e.Images = slices.Clone(e.Images)
		e.Images[0].Layers = slices.Clone(e.Images[0].Layers)
		f(&e)
		return []Entry{e}
	}
	digestOf := digest.FromString(a)
	tests := []struct {
		name    string
		entries []Entry
		blob    string
		want    error
	}{
		{"all is well", s.Entries(), a, nil},
		{"a layer that is short", s.Entries(), a[1:], image.ErrMalformed},
		{"a layer that is long", s.Entries(), a + "x", image.ErrMalformed},
		{"a layer of other bytes", s.Entries(), "x" + a[1:], image.ErrMalformed},
		{"an image without a manifest", change(func(e *Entry) { e.Images[0].Manifest = Document{} }), a, image.ErrNotFound},
		{"a root document that is not here", change(func(e *Entry) { e.Target.Digest = digest.FromString("x") }), a, image.ErrMalformed},
		{"a digest that names no file", change(func(e *Entry) { e.Images[0].Layers[0].Desc.Digest = "sha256:../../x" }), a, image.ErrMalformed},
		{"a layer of two sizes", change(func(e *Entry) {
			l := e.Images[0].Layers[0]
			l.Desc.Size++
			e.Images[0].Layers = append(e.Images[0].Layers, l)
		}), a, image.ErrMalformed},
		{"a document that is not its digest's", change(func(e *Entry) { e.Images[0].Config.Raw = []byte("{}") }), a, image.ErrMalformed},
	}
	for _, tt := range tests {
		err := WriteTar(context.Background(), io.Discard, FormatOCIArchive, tt.entries, mapBlobs{digestOf: tt.blob}, time.Unix(0, 0))
		if !errors.Is(err, tt.want) || tt.want == nil && err != nil {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
		}
	}
}
