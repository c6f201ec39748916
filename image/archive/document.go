// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgfs/imgfs/image"
)

// A loader reads the documents of one source, each once, and keeps count of
// what the limits bound.
type loader struct {
	files   files
	read    int64                         // bytes of documents so far
	visited int                           // manifests and indexes so far
	remote  *Remote                       // has what files has not; may be nil
	unread  func(ocispec.Descriptor) bool // of a remote: which manifests are left alone
	layers  int                           // of all images so far
	raw     map[digest.Digest][]byte      // verified

	// What was parsed, so that naming a thing a thousand times costs one parse.
	images  map[parsedKey]*Image
	indexes map[parsedKey]*ocispec.Index
}

// A parsedKey says what was parsed as what.
type parsedKey struct {
	digest      digest.Digest
	mediaType   string
	attestation bool
}

func keyOf(d ocispec.Descriptor) parsedKey {
	return parsedKey{d.Digest, d.MediaType, image.IsAttestation(d)}
}

func newLoader(f files) *loader {
	return &loader{
		files:   f,
		raw:     make(map[digest.Digest][]byte),
		images:  make(map[parsedKey]*Image),
		indexes: make(map[parsedKey]*ocispec.Index),
	}
}

// visit counts one manifest or index.
func (l *loader) visit() error {
	if l.visited++; l.visited > maxManifests {
		return fmt.Errorf("over %d manifests: %w", maxManifests, image.ErrMalformed)
	}
	return nil
}

// countLayers bounds the layers of all images together before a list of n is
// made: a small archive can name one layer a million times.
func (l *loader) countLayers(n int) error {
	if n > image.MaxLayers {
		return fmt.Errorf("image of over %d layers: %w", image.MaxLayers, image.ErrMalformed)
	}
	if l.layers += n; l.layers > maxLayers {
		return fmt.Errorf("over %d layers in all images: %w", maxLayers, image.ErrMalformed)
	}
	return nil
}

// count bounds what is read before it is read.
func (l *loader) count(n int64) error {
	if l.read += n; l.read > maxDocumentBytes {
		return fmt.Errorf("documents of over %d bytes together: %w", maxDocumentBytes, image.ErrMalformed)
	}
	return nil
}

// file reads a document by its name. If the source has several of that name
// they must be the same: tools differ in which they take.
func (l *loader) file(name string) ([]byte, error) {
	m, err := l.files.find(name)
	if err != nil {
		return nil, err
	}
	var raw []byte
	for i := 0; m != nil; i, m = i+1, m.shadowed {
		if err := l.count(m.size); err != nil {
			return nil, err
		}
		b, err := m.bytes()
		switch {
		case err != nil:
			return nil, fmt.Errorf("%s: %w", name, err)
		case i == 0:
			raw = b
		case !bytes.Equal(b, raw):
			return nil, fmt.Errorf("%s: two files of that name, not the same: %w", name, image.ErrMalformed)
		}
	}
	return raw, nil
}

// index reads the index of d and returns it parsed and raw.
func (l *loader) index(d ocispec.Descriptor) (*ocispec.Index, []byte, error) {
	raw, err := l.document(d)
	if err != nil {
		return nil, nil, err
	}
	x := l.indexes[keyOf(d)]
	if x == nil {
		if x, err = image.ParseIndex(raw, d.MediaType); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", d.Digest, err)
		}
		l.indexes[keyOf(d)] = x
	}
	return x, raw, nil
}

// document reads the document of d and verifies it. The error wraps
// ErrMissing if the source lacks it.
func (l *loader) document(d ocispec.Descriptor) ([]byte, error) {
	if err := image.ValidateDescriptor(d); err != nil {
		return nil, err
	}
	if d.Size > image.MaxDocument {
		return nil, fmt.Errorf("%s: document of %d bytes: limit is %d: %w", d.Digest, d.Size, image.MaxDocument, image.ErrMalformed)
	}
	if raw, ok := l.raw[d.Digest]; ok && int64(len(raw)) == d.Size {
		return raw, nil
	}
	if l.remote != nil {
		return l.remoteDocument(d)
	}
	m, err := l.blob(d)
	if err != nil {
		return nil, err
	}
	if err := l.count(m.size); err != nil {
		return nil, err
	}
	raw, err := m.bytes()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.Digest, err)
	}
	if err := image.VerifyDocument(raw, d); err != nil {
		return nil, err
	}
	l.raw[d.Digest] = raw
	return raw, nil
}

// blob finds the blob of d, whose digest is valid, in the OCI layout and
// checks its size. The error wraps ErrMissing if the source lacks it.
func (l *loader) blob(d ocispec.Descriptor) (*member, error) {
	m, err := l.files.find(blobName(d.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, missing(d)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.Digest, err)
	}
	if m.size != d.Size {
		return nil, fmt.Errorf("%s: want %d bytes, got %d: %w", d.Digest, d.Size, m.size, image.ErrMalformed)
	}
	return m, nil
}

func blobName(d digest.Digest) string {
	return "blobs/" + d.Algorithm().String() + "/" + d.Encoded()
}

// missing is the error for an absent blob; it tells where a foreign one is.
func missing(d ocispec.Descriptor) error {
	switch {
	case len(d.URLs) > 0:
		return fmt.Errorf("foreign layer %s: %w (its maker has it at %.200q): %w", d.Digest, ErrMissing, d.URLs[0], image.ErrMalformed)
	case image.IsForeignType(d.MediaType):
		return fmt.Errorf("foreign layer %s: %w: %w", d.Digest, ErrMissing, image.ErrMalformed)
	}
	return fmt.Errorf("blob %s: %w: %w", d.Digest, ErrMissing, image.ErrMalformed)
}
