// SPDX-License-Identifier: Apache-2.0

package image

import (
	"encoding/json"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// What marks the manifest of an attestation (provenance, SBOM) that BuildKit
// stores beside the images of an index.
const (
	annotationReferenceType   = "vnd.docker.reference.type"
	attestationManifest       = "attestation-manifest"
	annotationReferenceDigest = "vnd.docker.reference.digest"
)

// ParseManifest reads the manifest of one image, OCI's or docker's second
// schema. mediaType is what the descriptor that led here says, "" if there
// is none. Refused are: a document that is an index too, one whose own media
// type is not its descriptor's, docker's first schema, a descriptor with a
// bad digest or size, more than MaxLayers layers. The media types of config
// and layers are not judged; see IsConfigType.
func ParseManifest(raw []byte, mediaType string) (*ocispec.Manifest, error) {
	shape, err := probe(raw, mediaType)
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	switch {
	case shape.isIndex() || IsIndexType(shape.mediaType):
		return nil, fmt.Errorf("manifest: document is an index: %w", ErrMalformed)
	case shape.Config == nil:
		return nil, fmt.Errorf("manifest: document has no config: %w", ErrMalformed)
	}
	m := new(ocispec.Manifest)
	if err := json.Unmarshal(raw, m); err != nil {
		return nil, fmt.Errorf("manifest: %w: %w", err, ErrMalformed)
	}
	if len(m.Layers) > MaxLayers {
		return nil, fmt.Errorf("manifest: %d layers: limit is %d: %w", len(m.Layers), MaxLayers, ErrMalformed)
	}
	if err := ValidateDescriptor(m.Config); err != nil {
		return nil, fmt.Errorf("manifest: config: %w", err)
	}
	for i, l := range m.Layers {
		if err := ValidateDescriptor(l); err != nil {
			return nil, fmt.Errorf("manifest: layer %d: %w", i, err)
		}
	}
	if m.MediaType == "" {
		m.MediaType = mediaType
	}
	return m, nil
}

// ParseIndex reads a list of manifests, OCI's index or docker's manifest
// list. mediaType and what is refused are as for ParseManifest.
func ParseIndex(raw []byte, mediaType string) (*ocispec.Index, error) {
	shape, err := probe(raw, mediaType)
	if err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	switch {
	case shape.isManifest() || IsManifestType(shape.mediaType):
		return nil, fmt.Errorf("index: document is a manifest: %w", ErrMalformed)
	case shape.Manifests == nil:
		return nil, fmt.Errorf("index: document has no manifests: %w", ErrMalformed)
	}
	x := new(ocispec.Index)
	if err := json.Unmarshal(raw, x); err != nil {
		return nil, fmt.Errorf("index: %w: %w", err, ErrMalformed)
	}
	for i, d := range x.Manifests {
		if err := ValidateDescriptor(d); err != nil {
			return nil, fmt.Errorf("index: manifest %d: %w", i, err)
		}
	}
	if x.MediaType == "" {
		x.MediaType = mediaType
	}
	return x, nil
}

// IsAttestation reports whether d, a descriptor of an index, leads to an
// attestation instead of an image.
func IsAttestation(d ocispec.Descriptor) bool {
	if d.Annotations[annotationReferenceType] == attestationManifest {
		return true
	}
	return d.Platform != nil && d.Platform.OS == "unknown" && d.Platform.Architecture == "unknown"
}

// AttestedDigest returns the digest of the manifest that the attestation
// under d speaks about, as written, or "".
func AttestedDigest(d ocispec.Descriptor) string { return d.Annotations[annotationReferenceDigest] }

// shape is what tells the kinds of documents from each other. A pointer is
// nil where the document lacks the key or has null.
type shape struct {
	SchemaVersion int              `json:"schemaVersion"`
	MediaType     string           `json:"mediaType"`
	Config        *json.RawMessage `json:"config"`
	Layers        *json.RawMessage `json:"layers"`
	Manifests     *json.RawMessage `json:"manifests"`
	FSLayers      *json.RawMessage `json:"fsLayers"`

	mediaType string // the document's own, else its descriptor's
}

func (s *shape) isIndex() bool    { return s.Manifests != nil }
func (s *shape) isManifest() bool { return s.Config != nil || s.Layers != nil }

// probe checks what holds for every document: the limits of Unmarshal, that
// it is one kind and not two, and that it is the kind its descriptor says.
func probe(raw []byte, mediaType string) (*shape, error) {
	s := new(shape)
	if err := Unmarshal(raw, s); err != nil {
		return nil, err
	}
	if s.FSLayers != nil || s.SchemaVersion == 1 || isSchema1(s.MediaType) || isSchema1(mediaType) {
		return nil, fmt.Errorf("docker schema 1 is not supported (pull and push the image with a newer engine): %w", ErrMalformed)
	}
	if s.SchemaVersion != 0 && s.SchemaVersion != 2 {
		return nil, fmt.Errorf("schemaVersion %d: %w", s.SchemaVersion, ErrMalformed)
	}
	if s.isIndex() && s.isManifest() {
		return nil, fmt.Errorf("document is manifest and index at once: %w", ErrMalformed)
	}
	if s.MediaType != "" && mediaType != "" && s.MediaType != mediaType {
		return nil, fmt.Errorf("media type is %.100q, its descriptor says %.100q: %w", s.MediaType, mediaType, ErrMalformed)
	}
	s.mediaType = s.MediaType
	if s.mediaType == "" {
		s.mediaType = mediaType
	}
	return s, nil
}
