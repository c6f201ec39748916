// SPDX-License-Identifier: Apache-2.0

package imgfs

import (
	"context"
	"errors"
	"io"
	"io/fs"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/image/archive"
	"github.com/imgfs/imgfs/layerstore"
)

// fromFile returns the images of an archive or layout: all, or the one of a
// name.
func (s *Store) fromFile(ctx context.Context, e *endpoint, opt CopyOptions) (*origin, error) {
	var src *archive.Source
	var err error
	if e.kind == inEngine {
		src, err = s.loadable(ctx, e.store)
	} else {
		src, err = openOnDisk(e.path)
	}
	if mustSpool(err) {
		src, err = s.openSpooled(ctx, e.path, LoadOptions{Progress: opt.Progress})
	}
	if err != nil {
		return nil, err
	}
	o := &origin{entries: src.Entries(), closers: []io.Closer{src}}
	if e.ref != "" {
		one, err := src.Find(e.ref)
		if err != nil {
			return nil, errors.Join(err, o.Close())
		}
		o.entries = []archive.Entry{*one}
	}
	if err := o.narrow(opt.Platform); err != nil {
		return nil, errors.Join(err, o.Close())
	}
	return o, nil
}

// openSpooled opens an archive that is compressed as a whole, or a pipe. Its
// spooled copy has no name and ends with the source.
func (s *Store) openSpooled(ctx context.Context, path string, opt LoadOptions) (*archive.Source, error) {
	stage, err := s.ls.NewStage()
	if err != nil {
		return nil, err
	}
	defer stage.Discard()
	return openArchive(ctx, stage, path, nil, opt)
}

// narrow leaves of each entry the image for a platform, without its index; if
// platform is empty, all.
func (o *origin) narrow(platform string) error {
	want, err := wantedPlatform(platform)
	if err != nil || want == nil {
		return err
	}
	return o.narrowTo(func(e *archive.Entry) (*archive.Image, error) { return e.Select(want) })
}

// narrowTo leaves of each entry the image that choose picks, without its index.
func (o *origin) narrowTo(choose func(*archive.Entry) (*archive.Image, error)) error {
	narrowed := make([]archive.Entry, len(o.entries))
	for i := range o.entries {
		m, err := choose(&o.entries[i])
		if err != nil {
			return err
		}
		narrowed[i] = archive.Entry{Names: o.entries[i].Names, Target: m.Manifest.Desc, Images: []archive.Image{*m}}
	}
	o.entries = narrowed
	return nil
}

// chosen returns the image that stands for e: this machine's, else the first
// that is here.
func chosen(e *archive.Entry) (*archive.Image, error) {
	m, err := e.Select(nil)
	if err == nil {
		return m, nil
	}
	for i := range e.Images {
		if absence(&e.Images[i]) == "" {
			return &e.Images[i], nil
		}
	}
	return nil, err
}

// complete gives images of a docker-archive the manifests that they lack, and
// finds the blobs of layers that lie in files.
func (o *origin) complete(ctx context.Context) error {
	if o.blobs != nil {
		return nil
	}
	blobs := make(fileBlobs)
	entries := make([]archive.Entry, len(o.entries))
	for i, e := range o.entries {
		e.Images = append([]archive.Image(nil), e.Images...)
		for k := range e.Images {
			m := &e.Images[k]
			if m.Missing != nil {
				continue
			}
			if err := blobs.add(ctx, m); err != nil {
				return err
			}
		}
		if e.Target.Digest == "" && len(e.Images) > 0 {
			e.Target = e.Images[0].Manifest.Desc
		}
		entries[i] = e
	}
	o.entries, o.blobs = entries, blobs
	return nil
}

// fileBlobs are layers that lie in files.
type fileBlobs map[digest.Digest]*io.SectionReader

func (b fileBlobs) Blob(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	r, ok := b[d.Digest]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(io.NewSectionReader(r, 0, r.Size())), nil
}

// add adds the layers of m, with digests where a docker-archive does not say
// them, and makes the manifest of m if it has none.
func (b fileBlobs) add(ctx context.Context, m *archive.Image) error {
	layers := make([]layerstore.Layer, len(m.Layers))
	described := append([]archive.Layer(nil), m.Layers...)
	for i := range described {
		l := &described[i]
		blob, err := l.Section(ctx)
		if err != nil {
			return layerError(i, err)
		}
		if l.Desc.Digest == "" {
			d, err := hashOf(ctx, blob)
			if err != nil {
				return layerError(i, err)
			}
			l.Desc.Digest = d
		}
		l.Desc.Size = blob.Size()
		b[l.Desc.Digest] = blob
		layers[i] = layerstore.Layer{Digest: l.Desc.Digest, MediaType: l.Desc.MediaType, Size: l.Desc.Size}
	}
	m.Layers = described
	if m.Manifest.Raw != nil {
		return nil
	}
	raw, err := synthesize(m, layers)
	if err != nil {
		return err
	}
	parsed, err := image.ParseManifest(raw, "")
	if err != nil {
		return err
	}
	m.Manifest = document(parsed.MediaType, "", digest.FromBytes(raw), raw)
	return nil
}

// hashOf returns the digest of a layer as it lies there.
func hashOf(ctx context.Context, blob *io.SectionReader) (digest.Digest, error) {
	r := &ctxReader{ctx: ctx, r: io.NewSectionReader(blob, 0, blob.Size())}
	return digest.FromReader(r)
}

// fromRegistry returns what a name of a registry stands for.
func (s *Store) fromRegistry(ctx context.Context, name string, opt CopyOptions) (*origin, error) {
	ref, err := image.ParseReference(name)
	if err != nil {
		return nil, optionError{err}
	}
	if ref, err = stored(ref); err != nil {
		return nil, err
	}
	platform, err := wantedPlatform(opt.Platform)
	if err != nil {
		return nil, err
	}
	r, err := s.registry()
	if err != nil {
		return nil, err
	}
	target, raw, err := r.Resolve(ctx, ref)
	if err != nil {
		return nil, err
	}
	docs := archive.Remote{
		Document: func(d ocispec.Descriptor) ([]byte, error) { return r.Document(ctx, ref, d) },
		Has:      func(d ocispec.Descriptor) (bool, error) { return r.HasBlob(ctx, ref, d) },
	}
	e, err := docs.Entry(target, raw, platform, opt.AllPlatforms)
	if err != nil {
		return nil, err
	}
	e.Names = []string{ref.String()}
	o := &origin{entries: []archive.Entry{*e}, one: !opt.AllPlatforms, blobs: remoteBlobs{r, ref}}
	return o, o.narrow(opt.Platform)
}

// remoteBlobs are layers of a repository.
type remoteBlobs struct {
	r   remote
	ref image.Reference
}

func (b remoteBlobs) Blob(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	return b.r.Blob(ctx, b.ref, d, 0)
}
