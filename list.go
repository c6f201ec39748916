// SPDX-License-Identifier: Apache-2.0

package imgfs

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/layerstore"
)

// Images lists the images of the store, newest first, without their layers.
func (s *Store) Images(ctx context.Context) ([]ImageSummary, error) { return s.list(false) }

// ImagesWithLayers is Images with the layers of each, and how much of its size
// it shares with others.
func (s *Store) ImagesWithLayers(ctx context.Context) ([]ImageSummary, error) { return s.list(true) }

func (s *Store) list(layers bool) ([]ImageSummary, error) {
	refs, all, err := s.ls.List(layers)
	if err != nil {
		return nil, err
	}
	shared := sharedLayers(all)
	list := make([]ImageSummary, 0, len(refs))
	for _, r := range refs {
		rec, ok := pick(r.Images, all)
		if !ok {
			continue
		}
		sum := ImageSummary{
			ID: rec.ID, Digest: r.Target,
			Created: rec.Created, Size: rec.Size, Platform: rec.Platform, Labels: rec.Labels,
		}
		sum.Repository, sum.Tag = repositoryAndTag(r.Name)
		for _, l := range rec.Layers {
			sum.Layers = append(sum.Layers, LayerInfo{
				Digest: l.Digest, DiffID: l.DiffID, MediaType: l.MediaType, Size: l.Size, TarSize: l.TarSize, Oddities: l.Oddities,
			})
			if shared[l.DiffID] {
				sum.Shared += l.TarSize
			}
		}
		list = append(list, sum)
	}
	slices.SortStableFunc(list, func(a, b ImageSummary) int {
		return cmp.Or(b.Created.Compare(a.Created), strings.Compare(a.Repository, b.Repository), strings.Compare(a.Tag, b.Tag))
	})
	return list, nil
}

// sharedLayers returns the layers that more than one image has, by diffID.
func sharedLayers(all map[digest.Digest]layerstore.Image) map[digest.Digest]bool {
	first := make(map[digest.Digest]digest.Digest)
	shared := make(map[digest.Digest]bool)
	for _, i := range all {
		for _, l := range i.Layers {
			if id, ok := first[l.DiffID]; ok && id != i.ID {
				shared[l.DiffID] = true
			}
			first[l.DiffID] = i.ID
		}
	}
	return shared
}

// repositoryAndTag splits a name of the store as docker prints it; "<none>" is
// what it does not have.
func repositoryAndTag(name string) (repository, tag string) {
	const none = "<none>"
	if repository, tag, ok := image.SplitCanonical(name); ok {
		return repository, tag
	}
	ref, err := image.ParseReference(name)
	switch {
	case name == "":
		return none, none
	case err != nil:
		return name, none
	case ref.Tag() == "":
		return ref.FamiliarName(), none
	}
	return ref.FamiliarName(), ref.Tag()
}

// pick returns the image that stands for a name: the host's platform, else
// the first.
func pick(manifests []digest.Digest, all map[digest.Digest]layerstore.Image) (rec layerstore.Image, ok bool) {
	if len(manifests) == 1 {
		rec, ok = all[manifests[0]]
		return rec, ok
	}
	var platforms []image.Platform
	var recs []layerstore.Image
	for _, m := range manifests {
		i, here := all[m]
		if !here {
			continue
		}
		p, err := image.ParsePlatform(i.Platform)
		if err != nil {
			p = image.Platform{}
		}
		recs, platforms = append(recs, i), append(platforms, p)
	}
	if len(recs) == 0 {
		return rec, false
	}
	return recs[max(0, image.BestPlatform(platforms, image.HostPlatform()))], true
}
