// SPDX-License-Identifier: Apache-2.0

package imgfs

import (
	"cmp"
	"context"
	"errors"
	"io"
	"runtime"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/imgfs/imgfs/forensics"
	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/layerstore"
)

// A FoundImage is an image of the store that may hold what is looked for.
type FoundImage struct {
	Name     string // as docker prints it; a short id if it has none
	Manifest digest.Digest
	Platform string
}

// FindImages returns the images of the store, of all platforms and sorted by
// name, that hold a file with one of sums in any of their layers. Each layer
// is asked once, whatever number of images has it. Without sums it is all
// images.
func (s *Store) FindImages(ctx context.Context, sums forensics.Sums) ([]FoundImage, error) {
	images, err := s.ls.Images()
	if err != nil {
		return nil, err
	}
	if sums != nil {
		layers, err := s.layersWith(ctx, images, sums)
		if err != nil {
			return nil, err
		}
		for manifest, i := range images {
			if !slices.ContainsFunc(i.Layers, func(l layerstore.Layer) bool { return layers[l.DiffID] }) {
				delete(images, manifest)
			}
		}
	}
	names, err := s.imageNames()
	if err != nil {
		return nil, err
	}
	var found []FoundImage
	for manifest, i := range images {
		has := names[manifest]
		if has == nil {
			has = []string{short(i.ID)}
		}
		for _, name := range has {
			found = append(found, FoundImage{Name: name, Manifest: manifest, Platform: i.Platform})
		}
	}
	slices.SortFunc(found, func(a, b FoundImage) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Platform, b.Platform), cmp.Compare(a.Manifest, b.Manifest))
	})
	return found, nil
}

// imageNames returns the names of each manifest, as docker prints them.
func (s *Store) imageNames() (map[digest.Digest][]string, error) {
	refs, err := s.ls.Refs()
	if err != nil {
		return nil, err
	}
	names := make(map[digest.Digest][]string)
	for _, r := range refs {
		if r.Name == "" {
			continue
		}
		_, name := storedName(r.Name)
		for _, m := range r.Images {
			names[m] = append(names[m], name)
		}
	}
	return names, nil
}

// layersWith returns the layers that hold a file with one of sums.
func (s *Store) layersWith(ctx context.Context, images map[digest.Digest]layerstore.Image, sums forensics.Sums) (map[digest.Digest]bool, error) {
	var mu sync.Mutex
	asked := make(map[digest.Digest]bool)
	with := make(map[digest.Digest]bool) // guarded by mu
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(2 * runtime.NumCPU()) // some wait for the disk
	for _, i := range images {
		for _, l := range i.Layers {
			if asked[l.DiffID] {
				continue
			}
			asked[l.DiffID] = true
			group.Go(func() error {
				if err := gctx.Err(); err != nil {
					return err
				}
				h, err := s.ls.OpenHashes(gctx, l)
				if errors.Is(err, layerstore.ErrNoBlob) {
					return nil // removed since
				}
				if err != nil {
					return err
				}
				headers, err := sums.Find(h)
				if err := errors.Join(err, h.Close()); err != nil {
					return err
				}
				if len(headers) > 0 {
					mu.Lock()
					with[l.DiffID] = true
					mu.Unlock()
				}
				return nil
			})
		}
	}
	return with, group.Wait()
}

// OpenFound opens an image that FindImages returned. The error is
// image.ErrNotFound if it was removed since.
func (s *Store) OpenFound(ctx context.Context, found FoundImage) (*forensics.Stack, error) {
	rec, ok, err := s.ls.Image(found.Manifest)
	if err == nil && !ok {
		err = image.ErrNotFound
	}
	if err != nil {
		return nil, about(found.Name, err)
	}
	i, err := s.openRecord(ctx, &rec, found.Name)
	if err != nil {
		return nil, about(found.Name, err)
	}
	o := &stackOpener{s: s, img: i, stack: &forensics.Stack{Name: found.Name, Closers: []io.Closer{i}}}
	return o.open(ctx, "", "")
}
