// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgfs/imgfs/image"
)

// toOCI returns e with documents of OCI's kind, where it has docker's: readers
// of OCI layouts look for no others. Configs and layers stay the same blobs,
// and so does everything of an entry that is OCI's already.
func toOCI(e Entry) (Entry, error) {
	changed := make(map[digest.Digest]ocispec.Descriptor)
	e.Images = slices.Clone(e.Images)
	for i := range e.Images {
		m := &e.Images[i]
		if m.Missing != nil || m.Manifest.Raw == nil {
			continue
		}
		raw, err := image.ManifestToOCI(m.Manifest.Raw, m.Manifest.Desc.MediaType)
		if err != nil {
			return e, err
		}
		m.Manifest = replaced(m.Manifest, raw, ocispec.MediaTypeImageManifest, changed)
	}
	// An index stands before those below it.
	e.Documents = slices.Clone(e.Documents)
	for i := len(e.Documents) - 1; i >= 0; i-- {
		d := &e.Documents[i]
		raw, err := image.IndexToOCI(d.Raw, d.Desc.MediaType, changed)
		if err != nil {
			return e, err
		}
		*d = replaced(*d, raw, ocispec.MediaTypeImageIndex, changed)
	}
	if now, ok := changed[e.Target.Digest]; ok {
		e.Target = now
	}
	return e, nil
}

// replaced returns d with the bytes raw, and notes what it was before.
func replaced(d Document, raw []byte, mediaType string, changed map[digest.Digest]ocispec.Descriptor) Document {
	was := d.Desc.Digest
	now := digest.FromBytes(raw)
	if was.Algorithm().FromBytes(raw) == was {
		return d
	}
	d.Raw, d.Desc.MediaType, d.Desc.Digest, d.Desc.Size = raw, mediaType, now, int64(len(raw))
	changed[was] = ocispec.Descriptor{MediaType: mediaType, Digest: now, Size: int64(len(raw))}
	return d
}
