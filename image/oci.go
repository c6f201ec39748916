// SPDX-License-Identifier: Apache-2.0

package image

import (
	"encoding/json"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ManifestToOCI returns a manifest of docker's kind with the media types of
// OCI, for readers that know no others. Config and layers stay the same blobs.
// A manifest of OCI is returned as it is.
func ManifestToOCI(raw []byte, mediaType string) ([]byte, error) {
	m, err := ParseManifest(raw, mediaType)
	if err != nil || m.MediaType != MediaTypeDockerManifest {
		return raw, err
	}
	doc, err := parseDoc(raw)
	if err != nil {
		return nil, err
	}
	err = firstError(
		doc.set("mediaType", ociKind.manifest),
		doc.edit("config", func(config object) error { return config.set("mediaType", ociKind.config) }),
		doc.layersToOCI(),
	)
	if err != nil {
		return nil, err
	}
	return marshal(doc)
}

// IndexToOCI returns an index with the media type of OCI, in which the
// manifests and indexes that were changed, by their digests before, are
// described as they are now. If nothing is to change, raw is returned.
func IndexToOCI(raw []byte, mediaType string, changed map[digest.Digest]ocispec.Descriptor) ([]byte, error) {
	x, err := ParseIndex(raw, mediaType)
	if err != nil {
		return nil, err
	}
	same := x.MediaType != MediaTypeDockerManifestList
	doc, err := parseDoc(raw)
	if err != nil {
		return nil, err
	}
	var list []json.RawMessage
	if in, ok := doc.get("manifests"); ok {
		if err := json.Unmarshal(in, &list); err != nil {
			return nil, fmt.Errorf("index: %w: %w", err, ErrMalformed)
		}
	}
	for i, d := range x.Manifests {
		now, ok := changed[d.Digest]
		if !ok {
			continue
		}
		same = false
		child, err := parseDoc(list[i])
		if err == nil {
			err = firstError(child.set("mediaType", now.MediaType), child.set("digest", now.Digest), child.set("size", now.Size))
		}
		if err != nil {
			return nil, err
		}
		if list[i], err = marshal(child); err != nil {
			return nil, err
		}
	}
	if same {
		return raw, nil
	}
	if err := firstError(doc.set("mediaType", ocispec.MediaTypeImageIndex), doc.set("manifests", list)); err != nil {
		return nil, err
	}
	return marshal(doc)
}
