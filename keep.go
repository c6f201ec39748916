// SPDX-License-Identifier: Apache-2.0

package imgfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/imgfs/imgfs/cow"
	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/layerstore"
)

// ErrUnknownNeed marks an upper that does not say which image it lies over:
// nothing is removed from the store then.
var ErrUnknownNeed = errors.New("it does not say which image it needs")

// upperUses returns the images that uppers lie over. An upper that cannot be
// read is an error: what it needs is not known, so nothing may be removed.
func (s *Store) upperUses() ([]layerstore.Use, error) {
	names, err := os.ReadDir(s.uppersDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var uses []layerstore.Use
	for _, e := range names {
		if checkUpperName(e.Name()) != nil {
			continue // being removed
		}
		c, err := cow.ReadInfo(s.upperDir(e.Name()))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue // being made: by who holds a lease
		case err != nil:
			return nil, fmt.Errorf("upper %s: %w: %w", e.Name(), ErrUnknownNeed, err)
		case c.File != "" && thereToOpen(c.File):
			continue // it lies over that file
		}
		uses = append(uses, layerstore.Use{
			By: "upper " + e.Name(), Manifest: digest.Digest(c.Manifest), ID: digest.Digest(c.ImageID),
		})
	}
	return uses, nil
}

// An indexCache remembers which documents an index needs: they cannot change.
type indexCache struct {
	mu   sync.Mutex
	docs map[digest.Digest][]digest.Digest // guarded by mu; by the index
}

// indexDocuments returns the documents that the index of a name lists, and
// what its attestations consist of. They are kept with the index, so that it
// can be pushed and saved as it came. The layers of images are not among them.
func (s *Store) indexDocuments(r layerstore.Ref) ([]digest.Digest, error) {
	if slices.Contains(r.Images, r.Target) {
		return nil, nil // a manifest
	}
	s.indexes.mu.Lock()
	docs, ok := s.indexes.docs[r.Target]
	s.indexes.mu.Unlock()
	if ok {
		return docs, nil
	}
	docs, err := s.readIndexDocuments(r.Target)
	if err != nil {
		return nil, err
	}
	s.indexes.mu.Lock()
	defer s.indexes.mu.Unlock()
	if s.indexes.docs == nil {
		s.indexes.docs = make(map[digest.Digest][]digest.Digest)
	}
	s.indexes.docs[r.Target] = docs
	return docs, nil
}

func (s *Store) readIndexDocuments(target digest.Digest) (docs []digest.Digest, err error) {
	raw, err := s.readDocument(target)
	if err != nil || raw == nil {
		return nil, err
	}
	x, err := image.ParseIndex(raw, "")
	if err != nil {
		return nil, nil // verify tells
	}
	for _, d := range x.Manifests {
		docs = append(docs, d.Digest)
		if !image.IsAttestation(d) {
			continue
		}
		raw, err := s.readDocument(d.Digest)
		if err != nil {
			return nil, err
		}
		if m, err := image.ParseManifest(raw, ""); err == nil {
			docs = append(docs, m.Config.Digest)
			for _, l := range m.Layers {
				docs = append(docs, l.Digest)
			}
		}
	}
	return docs, nil
}

// readDocument returns a document, nil if it is not here or not what it was.
func (s *Store) readDocument(d digest.Digest) ([]byte, error) {
	if d.Validate() != nil {
		return nil, nil
	}
	raw, err := s.ls.ReadBlob(d, image.MaxDocument)
	if errors.Is(err, layerstore.ErrNoBlob) || errors.Is(err, layerstore.ErrDigest) {
		return nil, nil
	}
	return raw, err
}
