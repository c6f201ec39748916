// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	_ "crypto/sha256" // sha256 digests
	_ "crypto/sha512" // sha512 digests
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Limits of a document. What goes over one is refused by an error that names
// the limit.
const (
	MaxDocument = 4 << 20 // bytes of a manifest, an index or a config
	MaxLayers   = 4096    // layers of an image, history lines counted apart

	maxElements = 16384 // elements of one JSON array or object
	maxDepth    = 64    // JSON arrays and objects inside each other
)

// Media types that image-spec does not name: docker's, and the two of the
// first schema, which are refused.
const (
	MediaTypeDockerManifest     = "application/vnd.docker.distribution.manifest.v2+json"
	MediaTypeDockerManifestList = "application/vnd.docker.distribution.manifest.list.v2+json"
	MediaTypeDockerConfig       = "application/vnd.docker.container.image.v1+json"
	MediaTypeDockerLayer        = "application/vnd.docker.image.rootfs.diff.tar"
	MediaTypeDockerLayerGzip    = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	MediaTypeDockerForeignLayer = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"

	mediaTypeSchema1       = "application/vnd.docker.distribution.manifest.v1+json"
	mediaTypeSchema1Signed = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

// IsIndexType reports whether t is the media type of a list of manifests.
func IsIndexType(t string) bool {
	return t == ocispec.MediaTypeImageIndex || t == MediaTypeDockerManifestList
}

// IsManifestType reports whether t is the media type of an image's manifest,
// one of the refused first schema included.
func IsManifestType(t string) bool {
	return t == ocispec.MediaTypeImageManifest || t == MediaTypeDockerManifest || isSchema1(t)
}

// IsConfigType reports whether t is the media type of an image's config. A
// manifest with any other config is an artifact (a chart, a signature), not
// an image. Some old tools wrote no type, or application/octet-stream.
func IsConfigType(t string) bool {
	switch t {
	case ocispec.MediaTypeImageConfig, MediaTypeDockerConfig, "", "application/octet-stream":
		return true
	}
	return false
}

// IsForeignType reports whether t is the media type of a layer that its
// maker forbids to pass on, so that archives and registries may lack it.
func IsForeignType(t string) bool {
	return t == MediaTypeDockerForeignLayer ||
		strings.HasPrefix(t, "application/vnd.oci.image.layer.nondistributable.")
}

// IsEncryptedType reports whether t is the media type of an encrypted layer.
func IsEncryptedType(t string) bool { return strings.HasSuffix(t, "+encrypted") }

func isSchema1(t string) bool { return t == mediaTypeSchema1 || t == mediaTypeSchema1Signed }

// ValidateDigest returns nil if d is sha256 or sha512 and its digits are
// right in number and in lower case; only then may d name a file. The error
// wraps ErrMalformed.
func ValidateDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("digest %.150q: %w: %w", string(d), err, ErrMalformed)
	}
	if a := d.Algorithm(); a != digest.SHA256 && a != digest.SHA512 {
		return fmt.Errorf("digest %.150q: algorithm %s: %w", string(d), a, ErrMalformed)
	}
	return nil
}

// ValidateDescriptor returns nil if d has a valid digest and a size that is
// not negative. The error wraps ErrMalformed.
func ValidateDescriptor(d ocispec.Descriptor) error {
	if err := ValidateDigest(d.Digest); err != nil {
		return err
	}
	if d.Size < 0 {
		return fmt.Errorf("%s: size %d: %w", d.Digest, d.Size, ErrMalformed)
	}
	return nil
}

// VerifyDocument returns nil if raw is what d describes: its size and its
// digest. The error wraps ErrMalformed.
func VerifyDocument(raw []byte, d ocispec.Descriptor) error {
	if err := ValidateDescriptor(d); err != nil {
		return err
	}
	if int64(len(raw)) != d.Size {
		return fmt.Errorf("%s: want %d bytes, got %d: %w", d.Digest, d.Size, len(raw), ErrMalformed)
	}
	if got := d.Digest.Algorithm().FromBytes(raw); got != d.Digest {
		return fmt.Errorf("%s: bytes have digest %s: %w", d.Digest, got, ErrMalformed)
	}
	return nil
}

// Unmarshal is json.Unmarshal for a document from a stranger. Before
// anything is sized by it, the text is walked once: at most MaxDocument
// bytes, 64 levels, 16 384 elements in an array or object, and no object
// that has one key twice, also by case, because Go matches keys without case
// and other readers do not, so that two readers would see two documents.
// The error wraps ErrMalformed.
func Unmarshal(raw []byte, v any) error {
	if len(raw) > MaxDocument {
		return fmt.Errorf("document of %d bytes: limit is %d: %w", len(raw), MaxDocument, ErrMalformed)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if err := walk(dec, 0, false); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("%w: %w", err, ErrMalformed)
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("%w: %w", err, ErrMalformed)
	}
	return nil
}

// walk reads one value and checks the limits of Unmarshal. In an object of
// free keys (annotations, labels) only keys that are the same byte for byte
// count as the same.
func walk(dec *json.Decoder, depth int, freeKeys bool) error {
	tok, err := dec.Token()
	if err != nil {
		return err
	}
	open, ok := tok.(json.Delim)
	if !ok {
		return nil
	}
	if depth == maxDepth {
		return fmt.Errorf("json nested over %d levels", maxDepth)
	}
	var seen map[string]bool
	if open == '{' {
		seen = make(map[string]bool)
	}
	for n := 0; dec.More(); n++ {
		if n == maxElements {
			return fmt.Errorf("json list of over %d elements", maxElements)
		}
		var key string
		if open == '{' {
			tok, err := dec.Token()
			if err != nil {
				return err
			}
			key, _ = tok.(string)
			folded := key
			if !freeKeys {
				folded = strings.ToLower(key)
			}
			if seen[folded] {
				return fmt.Errorf("json key %.50q twice in one object", key)
			}
			seen[folded] = true
		}
		if err := walk(dec, depth+1, hasFreeKeys(key)); err != nil {
			return err
		}
	}
	_, err = dec.Token()
	return err
}

// hasFreeKeys reports whether the object under key has keys that its author
// chose.
func hasFreeKeys(key string) bool {
	switch strings.ToLower(key) {
	case "annotations", "labels", "volumes", "exposedports":
		return true
	}
	return false
}
