// SPDX-License-Identifier: Apache-2.0

package image

import (
	"fmt"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// A Reference names an image the way docker does: a repository with a tag, a
// digest, or both. The zero Reference names nothing. References are values
// and compare with ==.
type Reference struct {
	name   string        // canonical repository: docker.io/library/alpine
	tag    string        // "" only if a digest is given
	digest digest.Digest // "" if none is given
}

// ParseReference reads s as docker reads it: "alpine" is
// docker.io/library/alpine:latest, "host:5000/x" has a host with a port, and
// "x@sha256:…" is pinned and gets no default tag. Whatever docker refuses
// (upper-case names, empty tags, 64 hexadecimal digits alone) is an error.
func ParseReference(s string) (Reference, error) {
	named, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		return Reference{}, fmt.Errorf("reference %q: %w", s, err)
	}
	r := Reference{name: named.Name()}
	if d, ok := named.(reference.Digested); ok {
		if err := ValidateDigest(d.Digest()); err != nil {
			return Reference{}, fmt.Errorf("reference %q: %w", s, err)
		}
		r.digest = d.Digest()
	}
	if t, ok := named.(reference.Tagged); ok {
		r.tag = t.Tag()
	} else if r.digest == "" {
		r.tag = "latest"
	}
	return r, nil
}

// String returns the canonical form, with the registry's host and the tag
// spelled out: docker.io/library/alpine:latest.
func (r Reference) String() string { return r.join(r.name) }

// Familiar returns the form docker prints: alpine:latest.
func (r Reference) Familiar() string { return r.join(r.FamiliarName()) }

// Name returns the canonical repository: docker.io/library/alpine.
func (r Reference) Name() string { return r.name }

// FamiliarName returns the repository as docker prints it: alpine.
func (r Reference) FamiliarName() string {
	if r.IsZero() {
		return ""
	}
	named, err := reference.ParseNormalizedNamed(r.name)
	if err != nil {
		return r.name // not reached: r.name came from ParseNormalizedNamed
	}
	return reference.FamiliarName(named)
}

// Repository returns the name without the registry's host: library/alpine.
func (r Reference) Repository() string {
	if r.IsZero() {
		return ""
	}
	named, err := reference.ParseNormalizedNamed(r.name)
	if err != nil {
		return ""
	}
	return reference.Path(named)
}

// Domain returns the registry's host, with its port if it has one: docker.io.
func (r Reference) Domain() string {
	if r.IsZero() {
		return ""
	}
	named, err := reference.ParseNormalizedNamed(r.name)
	if err != nil {
		return ""
	}
	return reference.Domain(named)
}

// Tag returns the tag, or "" for a reference that has a digest only.
func (r Reference) Tag() string { return r.tag }

// Digest returns the digest the reference is pinned to, or "".
func (r Reference) Digest() digest.Digest { return r.digest }

// IsZero reports whether r names nothing.
func (r Reference) IsZero() bool { return r.name == "" }

func (r Reference) join(name string) string {
	if r.tag != "" {
		name += ":" + r.tag
	}
	if r.digest != "" {
		name += "@" + string(r.digest)
	}
	return name
}
