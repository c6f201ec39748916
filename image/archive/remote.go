// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"errors"
	"fmt"
	"io/fs"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgfs/imgfs/image"
)

// A Remote is a repository that lies elsewhere. Its documents are read one by
// one, its layers by whoever needs them.
type Remote struct {
	// Document returns the bytes of a manifest, an index or a config. They are
	// verified here.
	Document func(d ocispec.Descriptor) ([]byte, error)

	// Has reports whether the repository has a layer that its maker forbids to
	// pass on.
	Has func(d ocispec.Descriptor) (bool, error)
}

// Entry returns the image under target, a manifest or an index whose bytes
// are raw. Of an index only the image for the platform want is read, as
// Select would choose it, or with all every image that is none of an
// attestation; the others have a Manifest.Desc and a Platform, and Missing
// says ErrUnread. A nil want stands for the host's platform. Layers have no
// Blob. What is refused is that which Open refuses.
func (r *Remote) Entry(target ocispec.Descriptor, raw []byte, want *ocispec.Platform, all bool) (*Entry, error) {
	l := newLoader(noFiles{})
	l.remote = r
	if err := image.VerifyDocument(raw, target); err != nil {
		return nil, err
	}
	l.raw[target.Digest] = raw
	l.unread = func(d ocispec.Descriptor) bool {
		return image.IsAttestation(d) || !all && d.Digest != target.Digest && d.Platform != nil
	}
	e := &Entry{Target: target}
	if err := l.flatten(e, target, 0); err != nil {
		return nil, err
	}
	if all {
		return e, nil
	}
	if i := e.choose(want); i >= 0 {
		l.unread = image.IsAttestation
		m, err := l.image(e.Images[i].Manifest.Desc)
		if err != nil {
			return nil, err
		}
		m.Platform = e.Images[i].Platform
		e.Images[i] = *m
	}
	return e, nil
}

// choose returns which unread image of e is the one for a platform, or -1.
func (e *Entry) choose(want *ocispec.Platform) int {
	p := image.HostPlatform()
	if want != nil {
		p = *want
	}
	var platforms []ocispec.Platform
	var at []int
	for i := range e.Images {
		if m := &e.Images[i]; !m.Attestation && (m.Missing == nil || errors.Is(m.Missing, ErrUnread)) {
			platforms, at = append(platforms, m.Platform), append(at, i)
		}
	}
	k := image.BestPlatform(platforms, p)
	if k < 0 && want == nil && len(at) == 1 {
		k = 0
	}
	if k < 0 || e.Images[at[k]].Missing == nil {
		return -1
	}
	return at[k]
}

// ErrUnread marks an image of a Remote that nobody asked for.
var ErrUnread = errors.New("not read")

// noFiles is the source of what comes by other ways.
type noFiles struct{}

func (noFiles) find(name string) (*member, error) { return nil, fs.ErrNotExist }
func (noFiles) names(func(string))                {}
func (noFiles) Close() error                      { return nil }

// remoteLayer returns nil if the layer of d can be had from the remote.
func (l *loader) remoteLayer(d ocispec.Descriptor) error {
	if !image.IsForeignType(d.MediaType) && len(d.URLs) == 0 {
		return nil
	}
	has, err := l.remote.Has(d)
	if err == nil && !has {
		err = missing(d)
	}
	return err
}

// remoteDocument reads a document of the remote.
func (l *loader) remoteDocument(d ocispec.Descriptor) ([]byte, error) {
	if err := l.count(d.Size); err != nil {
		return nil, err
	}
	raw, err := l.remote.Document(d)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.Digest, err)
	}
	if err := image.VerifyDocument(raw, d); err != nil {
		return nil, err
	}
	l.raw[d.Digest] = raw
	return raw, nil
}
