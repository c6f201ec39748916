// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgfs/imgfs/image"
)

// Blobs gives out the bytes of layers as they were shipped.
type Blobs interface {
	// Blob opens the blob of d. Whoever reads it checks size and digest.
	Blob(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error)
}

// A layout is what is written of some entries: files of an OCI layout.
type layout struct {
	descs  []ocispec.Descriptor // what index.json lists, one for each name
	docker []dockerItem         // what manifest.json lists
	docs   []Document           // indexes, manifests and configs, each once
	layers []ocispec.Descriptor // each once
	seen   map[digest.Digest]int64
}

// newLayout lists what there is to write of entries. Images that are Missing,
// and those of Entries without a manifest, are left out: an index may name
// more than is there. Every digest in it is valid and may name a file. An
// entry with nothing to write is an error that wraps image.ErrNotFound.
func newLayout(entries []Entry, format string) (*layout, error) {
	l := &layout{seen: make(map[digest.Digest]int64)}
	for _, e := range entries {
		if format != FormatDockerArchive {
			var err error
			if e, err = toOCI(e); err != nil {
				return nil, err
			}
		}
		if err := l.addEntry(&e); err != nil {
			return nil, err
		}
	}
	return l, nil
}

func (l *layout) addEntry(e *Entry) error {
	var chosen *Image
	var best, err = e.Select(nil)
	for i := range e.Images {
		m := &e.Images[i]
		if m.Missing != nil || m.Manifest.Raw == nil {
			continue
		}
		if err := l.addImage(m); err != nil {
			return err
		}
		if !m.Attestation && (chosen == nil || m == best) {
			chosen = m
		}
	}
	if chosen == nil {
		return errors.Join(err, fmt.Errorf("%s: nothing of it is here: %w", e.Target.Digest, image.ErrNotFound))
	}
	for _, d := range e.Documents {
		if err := l.addDocument(d); err != nil {
			return err
		}
	}
	if err := image.ValidateDescriptor(e.Target); err != nil {
		return err
	}
	if _, ok := l.seen[e.Target.Digest]; !ok {
		return fmt.Errorf("%s: the document that the image's name points to is not here: %w", e.Target.Digest, image.ErrMalformed)
	}
	l.name(e, chosen)
	return nil
}

// addImage adds the documents and layers of one platform.
func (l *layout) addImage(m *Image) error {
	if err := errors.Join(l.addDocument(m.Manifest), l.addDocument(m.Config)); err != nil {
		return err
	}
	for _, layer := range m.Layers {
		isNew, err := l.isNew(layer.Desc)
		if err != nil {
			return err
		}
		if isNew {
			l.layers = append(l.layers, layer.Desc)
		}
	}
	return nil
}

func (l *layout) addDocument(d Document) error {
	if err := image.VerifyDocument(d.Raw, d.Desc); err != nil {
		return err
	}
	isNew, err := l.isNew(d.Desc)
	if isNew {
		l.docs = append(l.docs, d)
	}
	return err
}

// isNew reports whether the blob of d is not yet in l, and notes it.
func (l *layout) isNew(d ocispec.Descriptor) (bool, error) {
	if err := image.ValidateDescriptor(d); err != nil {
		return false, err
	}
	size, ok := l.seen[d.Digest]
	if ok && size != d.Size {
		return false, fmt.Errorf("%s: of %d and of %d bytes: %w", d.Digest, size, d.Size, image.ErrMalformed)
	}
	l.seen[d.Digest] = d.Size
	return !ok, nil
}

// name lists e under its names: in index.json the whole of it, in
// manifest.json, which knows no platforms, the image that stands for it.
//
// The annotation that OCI tools look for has the name as docker prints it
// (alpine:3), so that it is the name in all tools and no two images of a
// layout share it; containerd's and docker's has it spelled out, and so has
// manifest.json: podman takes a short name there for one of its own.
func (l *layout) name(e *Entry, chosen *Image) {
	item := dockerItem{Config: blobName(chosen.Config.Desc.Digest), Layers: []string{}}
	for _, layer := range chosen.Layers {
		item.Layers = append(item.Layers, blobName(layer.Desc.Digest))
	}
	desc := ocispec.Descriptor{MediaType: e.Target.MediaType, Digest: e.Target.Digest, Size: e.Target.Size}
	for _, n := range e.Names {
		desc.Annotations = map[string]string{ocispec.AnnotationRefName: n}
		// A name that is not in its canonical form is a word of an OCI layout.
		if r, err := image.ParseReference(n); err == nil && r.String() == n {
			desc.Annotations = map[string]string{ocispec.AnnotationRefName: r.Familiar(), annotationContainerdName: n}
			if r.Tag() != "" && r.Digest() == "" {
				item.RepoTags = append(item.RepoTags, n)
			}
		}
		l.descs = append(l.descs, desc)
	}
	if len(e.Names) == 0 {
		l.descs = append(l.descs, desc)
	}
	l.docker = append(l.docker, item)
}

// indexFile returns index.json: the descriptors of before and then those of l.
func (l *layout) indexFile(before []ocispec.Descriptor) ([]byte, error) {
	return json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: slices.Concat(before, l.descs),
	})
}

// layoutMark is the file oci-layout.
func layoutMark() []byte {
	return []byte(`{"imageLayoutVersion":"` + ocispec.ImageLayoutVersion + `"}`)
}

// copyBlob copies the blob of d to w. What is not d, in size or digest, is an
// image.ErrMalformed.
func copyBlob(ctx context.Context, w io.Writer, d ocispec.Descriptor, blobs Blobs) (err error) {
	r, err := blobs.Blob(ctx, d)
	if err != nil {
		return fmt.Errorf("%s: %w", d.Digest, err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	hash := d.Digest.Algorithm().Hash()
	buf := make([]byte, 256<<10)
	for left := d.Size; left > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(r, buf[:min(left, int64(len(buf)))])
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return fmt.Errorf("%s: want %d bytes, got %d: %w", d.Digest, d.Size, d.Size-left+int64(n), image.ErrMalformed)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", d.Digest, err)
		}
		hash.Write(buf[:n])
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
		left -= int64(n)
	}
	if n, _ := io.ReadFull(r, buf[:1]); n > 0 {
		return fmt.Errorf("%s: over %d bytes: %w", d.Digest, d.Size, image.ErrMalformed)
	}
	if got := digest.NewDigest(d.Digest.Algorithm(), hash); got != d.Digest {
		return fmt.Errorf("%s: bytes have digest %s: %w", d.Digest, got, image.ErrMalformed)
	}
	return nil
}
