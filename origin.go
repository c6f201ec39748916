// SPDX-License-Identifier: Apache-2.0

package imgfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/image/archive"
	"github.com/imgfs/imgfs/layerstore"
)

// An origin is where images are copied from: what they are, and the bytes of
// their layers as they were shipped.
type origin struct {
	entries []archive.Entry
	blobs   archive.Blobs
	closers []io.Closer
	one     bool // of a registry's index, one image was asked for
}

// Close ends reading.
func (o *origin) Close() error {
	var err error
	for _, c := range o.closers {
		err = errors.Join(err, c.Close())
	}
	return err
}

// fromStore returns images of the store, which stay there until Close. An
// argument is a name, an id or its beginning; a repository without a tag
// stands for all its tags, as in docker save. With a platform, that one of each
// index, without the index; else all that are here.
func (s *Store) fromStore(args []string, platform string) (*origin, error) {
	o := &origin{blobs: storeBlobs{s.ls}}
	for _, arg := range args {
		refs, err := s.refsOf(arg)
		if err == nil && len(refs) == 0 {
			refs, err = s.refOf(arg, platform)
		}
		for i := range refs {
			if err == nil {
				err = o.addRef(s, &refs[i], platform)
			}
		}
		if err != nil {
			return nil, errors.Join(about(arg, err), o.Close())
		}
	}
	return o, nil
}

// oneFromStore returns the image that arg means; a repository without a tag
// is its latest.
func (s *Store) oneFromStore(arg, platform string) (*origin, error) {
	refs, err := s.refOf(arg, platform)
	if err != nil {
		return nil, err
	}
	o := &origin{blobs: storeBlobs{s.ls}}
	if err := o.addRef(s, &refs[0], platform); err != nil {
		return nil, errors.Join(err, o.Close())
	}
	return o, nil
}

// refOf returns the name that arg means, or the image of an id as a Ref
// without a name.
func (s *Store) refOf(arg, platform string) ([]layerstore.Ref, error) {
	if !isID(arg) {
		ref, _, err := s.findRef(arg)
		if err != nil {
			return nil, err
		}
		if ref != nil {
			return []layerstore.Ref{pinned(*ref, arg)}, nil
		}
	}
	rec, _, err := s.find(arg, platform)
	if err != nil {
		return nil, err
	}
	return []layerstore.Ref{{Target: rec.Manifest, Images: []digest.Digest{rec.Manifest}}}, nil
}

// refsOf returns all names of a repository if arg is one, without a tag.
func (s *Store) refsOf(arg string) ([]layerstore.Ref, error) {
	r, err := image.ParseReference(arg)
	if err != nil || isID(arg) || r.Digest() != "" || strings.HasSuffix(arg, ":"+r.Tag()) {
		return nil, nil
	}
	refs, err := s.ls.Refs()
	return slices.DeleteFunc(refs, func(ref layerstore.Ref) bool {
		have, err := image.ParseReference(ref.Name)
		return err != nil || have.Name() != r.Name() || have.Tag() == ""
	}), err
}

// pinned returns what a name with a digest means of ref: its target, or one
// image of it, and no name, since none was asked for.
func pinned(ref layerstore.Ref, arg string) layerstore.Ref {
	r, err := image.ParseReference(arg)
	if err != nil || r.Digest() == "" {
		return ref
	}
	ref.Name = ""
	if ref.Target != r.Digest() && slices.Contains(ref.Images, r.Digest()) {
		ref.Target, ref.Images = r.Digest(), []digest.Digest{r.Digest()}
	}
	return ref
}

// addRef adds what ref points to, under its name.
func (o *origin) addRef(s *Store, ref *layerstore.Ref, platform string) error {
	target, manifests := ref.Target, ref.Images
	if platform != "" {
		rec, err := s.choose(manifests, platform)
		if err != nil {
			return err
		}
		target, manifests = rec.Manifest, []digest.Digest{rec.Manifest}
	}
	e := o.entry(target)
	if e == nil {
		o.entries = append(o.entries, archive.Entry{})
		e = &o.entries[len(o.entries)-1]
		if err := o.fill(s, e, target, manifests); err != nil {
			return err
		}
	}
	if ref.Name != "" && !slices.Contains(e.Names, ref.Name) {
		e.Names = append(e.Names, ref.Name)
	}
	return nil
}

// entry returns the entry of a root document, or nil.
func (o *origin) entry(target digest.Digest) *archive.Entry {
	for i := range o.entries {
		if o.entries[i].Target.Digest == target {
			return &o.entries[i]
		}
	}
	return nil
}

// fill reads the documents of target and of the manifests below it that are
// here, and leases them.
func (o *origin) fill(s *Store, e *archive.Entry, target digest.Digest, manifests []digest.Digest) error {
	for _, d := range manifests {
		rec, lease, ok, err := s.ls.LeaseImage(d)
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("%s: %w", d, image.ErrNotFound)
		}
		o.closers = append(o.closers, lease)
		m, err := s.storedImage(&rec)
		if err != nil {
			return err
		}
		e.Images = append(e.Images, *m)
		if d == target {
			e.Target = m.Manifest.Desc
		}
	}
	if e.Target.Digest != "" {
		return nil
	}
	var err error
	if e.Documents, err = s.storedIndexes(target, 0); err == nil {
		e.Target = e.Documents[0].Desc
	}
	return err
}

// storedImage reads the documents of an image of the store.
func (s *Store) storedImage(rec *layerstore.Image) (*archive.Image, error) {
	manifest, err := s.ls.ReadBlob(rec.Manifest, image.MaxDocument)
	if err != nil {
		return nil, err
	}
	config, err := s.ls.ReadBlob(rec.ID, image.MaxDocument)
	if err != nil {
		return nil, err
	}
	return readImage(manifest, rec.Manifest, config)
}

// readImage parses the documents of one image. The descriptors of its layers
// are the manifest's.
func readImage(manifest []byte, d digest.Digest, config []byte) (*archive.Image, error) {
	parsed, err := image.ParseManifest(manifest, "")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d, err)
	}
	m := &archive.Image{
		Manifest: document(parsed.MediaType, ocispec.MediaTypeImageManifest, d, manifest),
		Config:   archive.Document{Desc: parsed.Config, Raw: config},
	}
	if m.Parsed, err = image.ParseConfig(config); err != nil {
		return nil, fmt.Errorf("%s: %w", d, err)
	}
	if err := m.Parsed.CheckLayers(len(parsed.Layers)); err != nil {
		return nil, fmt.Errorf("%s: %w", d, err)
	}
	m.Platform = m.Parsed.Platform()
	for i, l := range parsed.Layers {
		m.Layers = append(m.Layers, archive.Layer{Desc: l, DiffID: m.Parsed.RootFS.DiffIDs[i]})
	}
	return m, nil
}

// document describes raw; a document that does not say what it is is of the
// type other.
func document(mediaType, other string, d digest.Digest, raw []byte) archive.Document {
	if mediaType == "" {
		mediaType = other
	}
	return archive.Document{Raw: raw, Desc: ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(raw))}}
}

// maxIndexDepth is how deep indexes may lie inside each other.
const maxIndexDepth = 8

// storedIndexes reads the index d and those below it that the store has.
func (s *Store) storedIndexes(d digest.Digest, depth int) ([]archive.Document, error) {
	raw, err := s.ls.ReadBlob(d, image.MaxDocument)
	if err != nil {
		return nil, err
	}
	index, err := image.ParseIndex(raw, "")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d, err)
	}
	docs := []archive.Document{document(index.MediaType, ocispec.MediaTypeImageIndex, d, raw)}
	for _, child := range index.Manifests {
		if depth == maxIndexDepth || !image.IsIndexType(child.MediaType) || !s.ls.HasBlob(child.Digest) {
			continue
		}
		below, err := s.storedIndexes(child.Digest, depth+1)
		if err != nil {
			return nil, err
		}
		docs = append(docs, below...)
	}
	return docs, nil
}

// storeBlobs gives out the blobs of the store.
type storeBlobs struct{ ls *layerstore.Store }

func (b storeBlobs) Blob(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	f, size, err := b.ls.OpenBlob(d.Digest)
	if err != nil {
		return nil, err
	}
	if size != d.Size {
		f.Close()
		return nil, fmt.Errorf("%w: want %d bytes, got %d", ErrDigest, d.Size, size)
	}
	return f, nil
}

func (b storeBlobs) document(d digest.Digest) ([]byte, error) {
	return b.ls.ReadBlob(d, image.MaxDocument)
}

func (b storeBlobs) has(d digest.Digest) bool { return b.ls.HasBlob(d) }

// told are blobs whose reading is shown by bars.
type told struct {
	archive.Blobs
	progress Progress
}

func (t told) Blob(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	r, err := t.Blobs.Blob(ctx, d)
	if err != nil || t.progress == nil {
		return r, err
	}
	bar := t.progress.Start("layer "+short(d.Digest), d.Size)
	return &toldBlob{toldFile{r, bar}, bar}, nil
}

// A toldBlob ends its bar, too.
type toldBlob struct {
	toldFile
	bar io.Closer
}

func (t *toldBlob) Close() error { return errors.Join(t.toldFile.Close(), t.bar.Close()) }

// A toldFile tells a bar what is read of a file.
type toldFile struct {
	io.ReadCloser
	told io.Writer
}

func (f *toldFile) Read(b []byte) (int, error) {
	n, err := f.ReadCloser.Read(b)
	f.told.Write(b[:n])
	return n, err
}
