// SPDX-License-Identifier: Apache-2.0

package imgfs

import (
	"context"
	"fmt"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgfs/imgfs/image"
)

// Tags returns the tags that the registry has of a repository, sorted.
func (s *Store) Tags(ctx context.Context, repository string) ([]string, error) {
	ref, err := image.ParseReference(repository)
	if err != nil {
		return nil, optionError{err}
	}
	if last := repository[strings.LastIndexByte(repository, '/')+1:]; strings.ContainsAny(last, ":@") {
		return nil, optionError{fmt.Errorf("%q: want a repository without a tag", repository)}
	}
	c, err := s.Registry()
	if err != nil {
		return nil, err
	}
	tags := []string{}
	for tag, err := range c.Tags(ctx, ref) {
		if err != nil {
			return nil, err
		}
		tags = append(tags, tag)
	}
	slices.Sort(tags) // not every registry does
	return tags, nil
}

// A RemoteManifest is a manifest or an index as a registry has it.
type RemoteManifest struct {
	Ref        string // docker.io/library/alpine:latest, or with a digest
	Descriptor ocispec.Descriptor
	Raw        []byte
}

// RemoteManifest returns what the registry has under a name,
// NAME[:TAG|@DIGEST].
func (s *Store) RemoteManifest(ctx context.Context, name string) (RemoteManifest, error) {
	ref, err := image.ParseReference(name)
	if err != nil {
		return RemoteManifest{}, optionError{err}
	}
	c, err := s.Registry()
	if err != nil {
		return RemoteManifest{}, err
	}
	d, raw, err := c.Resolve(ctx, ref)
	return RemoteManifest{ref.String(), d, raw}, err
}

// RemoteManifests returns the manifests that m, an index, names; for any other
// m it returns m alone.
func (s *Store) RemoteManifests(ctx context.Context, m RemoteManifest) ([]RemoteManifest, error) {
	if !image.IsIndexType(m.Descriptor.MediaType) {
		return []RemoteManifest{m}, nil
	}
	ref, err := image.ParseReference(m.Ref)
	if err != nil {
		return nil, err
	}
	c, err := s.Registry()
	if err != nil {
		return nil, err
	}
	x, err := image.ParseIndex(m.Raw, m.Descriptor.MediaType)
	if err != nil {
		return nil, err
	}
	var list []RemoteManifest
	for _, d := range x.Manifests {
		raw, err := c.Document(ctx, ref, d)
		if err != nil {
			return nil, err
		}
		list = append(list, RemoteManifest{ref.Name() + "@" + d.Digest.String(), d, raw})
	}
	return list, nil
}
