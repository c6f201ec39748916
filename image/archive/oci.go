// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgfs/imgfs/image"
)

// Where containerd and docker put the whole reference.
const annotationContainerdName = "io.containerd.image.name"

// ociLayout reads index.json and all it leads to, and the names and further
// images of a manifest.json that stands beside it.
func (l *loader) ociLayout(hasManifest bool) ([]Entry, error) {
	marked, err := l.checkLayoutFile()
	if err != nil {
		return nil, err
	}
	raw, err := l.file("index.json")
	if err != nil {
		return nil, err
	}
	index, err := image.ParseIndex(raw, "")
	if err != nil {
		if !marked && !hasManifest && !listsManifests(raw) {
			return nil, fmt.Errorf("index.json: %w: %w", err, ErrNotImage) // a file of some root filesystem
		}
		return nil, fmt.Errorf("index.json: %w", err)
	}
	if len(index.Manifests) == 0 {
		return nil, fmt.Errorf("index.json: no manifest: %w", image.ErrMalformed)
	}
	entries, err := l.indexEntries(raw, index)
	if err != nil {
		return nil, err
	}
	if hasManifest {
		return l.addDocker(entries)
	}
	return entries, nil
}

// listsManifests reports whether raw means to be an index, good or bad.
func listsManifests(raw []byte) bool {
	var doc struct {
		Manifests json.RawMessage `json:"manifests"`
	}
	return json.Unmarshal(raw, &doc) == nil && doc.Manifests != nil
}

// checkLayoutFile reads the file oci-layout, which some tools leave out, and
// reports whether it is there.
func (l *loader) checkLayoutFile() (bool, error) {
	raw, err := l.file(ocispec.ImageLayoutFile)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var layout ocispec.ImageLayout
	if err := image.Unmarshal(raw, &layout); err != nil {
		return false, fmt.Errorf("oci-layout: %w", err)
	}
	if !strings.HasPrefix(layout.Version, "1.") {
		return false, fmt.Errorf("oci-layout: version %.20q, want 1.0.0: %w", layout.Version, image.ErrMalformed)
	}
	return true, nil
}

// indexEntries returns an entry for each thing index.json lists. One manifest
// under several names is one entry.
func (l *loader) indexEntries(raw []byte, index *ocispec.Index) ([]Entry, error) {
	if isOneImage(index) {
		e := Entry{Target: ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageIndex,
			Digest:    digest.FromBytes(raw),
			Size:      int64(len(raw)),
		}}
		e.Documents = []Document{{e.Target, raw}}
		for _, d := range index.Manifests {
			if err := l.flatten(&e, d, 0); err != nil {
				return nil, err
			}
		}
		return []Entry{e}, nil
	}
	var entries []Entry
	at := make(map[digest.Digest]int)
	for _, d := range index.Manifests {
		name := refName(d)
		i, ok := at[d.Digest]
		if !ok {
			e := Entry{Target: d}
			if err := l.flatten(&e, d, 0); err != nil {
				return nil, err
			}
			i = len(entries)
			at[d.Digest] = i
			entries = append(entries, e)
		}
		entries[i].addName(name)
	}
	return entries, nil
}

// isOneImage reports whether index.json itself is the index of one image:
// several manifests, none with a name, each for a platform of its own.
func isOneImage(index *ocispec.Index) bool {
	seen := make(map[string]bool)
	for _, d := range index.Manifests {
		if refName(d) != "" || !image.IsManifestType(d.MediaType) || d.Platform == nil {
			return false
		}
		if image.IsAttestation(d) {
			continue
		}
		p := image.FormatPlatform(*d.Platform) + " " + d.Platform.OSVersion
		if seen[p] {
			return false
		}
		seen[p] = true
	}
	return len(index.Manifests) > 1 && len(seen) > 0
}

// refName returns the name that a descriptor of index.json bears, or "".
func refName(d ocispec.Descriptor) string {
	if n := d.Annotations[annotationContainerdName]; n != "" {
		return normalName(n)
	}
	n := d.Annotations[ocispec.AnnotationRefName]
	if strings.ContainsAny(n, ":/@") {
		return normalName(n)
	}
	return n
}

func (e *Entry) addName(name string) {
	if name != "" && len(name) <= maxName && !slices.Contains(e.Names, name) {
		e.Names = append(e.Names, name)
	}
}

// flatten adds the images under d to e.
func (l *loader) flatten(e *Entry, d ocispec.Descriptor, depth int) error {
	if depth > maxIndexDepth {
		return fmt.Errorf("%s: indexes nested over %d deep: %w", d.Digest, maxIndexDepth, image.ErrMalformed)
	}
	if err := l.visit(); err != nil {
		return err
	}
	isIndex, err := l.isIndex(d)
	if errors.Is(err, ErrMissing) {
		e.addImage(Image{Manifest: Document{Desc: d}, Missing: err})
		return nil
	}
	if err != nil {
		return err
	}
	if !isIndex {
		m, err := l.image(d)
		if err != nil {
			return err
		}
		e.addImage(*m)
		return nil
	}
	index, raw, err := l.index(d)
	if errors.Is(err, ErrMissing) {
		e.addImage(Image{Manifest: Document{Desc: d}, Missing: err})
		return nil
	}
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(e.Documents, func(doc Document) bool { return doc.Desc.Digest == d.Digest }) {
		e.Documents = append(e.Documents, Document{d, raw})
	}
	for _, child := range index.Manifests {
		if err := l.flatten(e, child, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// isIndex tells an index from a manifest. A descriptor without a media type,
// against the spec, is told by what it leads to.
func (l *loader) isIndex(d ocispec.Descriptor) (bool, error) {
	if d.MediaType != "" {
		return image.IsIndexType(d.MediaType), nil
	}
	if l.images[keyOf(d)] != nil {
		return false, nil
	}
	if _, err := l.document(d); err != nil {
		return false, err
	}
	_, _, err := l.index(d)
	return err == nil, nil
}

// addImage adds m unless e has it for that platform.
func (e *Entry) addImage(m Image) {
	if p := m.Manifest.Desc.Platform; p != nil && (p.OS != "" || p.Architecture != "") {
		m.Platform = *p
	} else if m.Parsed != nil {
		m.Platform = m.Parsed.Platform()
	}
	m.Attestation = m.Attestation || image.IsAttestation(m.Manifest.Desc)
	for i := range e.Images {
		old := &e.Images[i]
		if old.Manifest.Desc.Digest == m.Manifest.Desc.Digest && samePlatform(&old.Platform, &m.Platform) {
			return
		}
	}
	e.Images = append(e.Images, m)
}

func samePlatform(a, b *ocispec.Platform) bool {
	return a.OS == b.OS && a.Architecture == b.Architecture && a.Variant == b.Variant && a.OSVersion == b.OSVersion
}

// image reads the manifest and config of d and finds its layers. What the
// source lacks, or what is no image, is told in Missing; what lies is an
// error.
func (l *loader) image(d ocispec.Descriptor) (*Image, error) {
	m := &Image{Manifest: Document{Desc: d}}
	if d.MediaType != "" && !image.IsManifestType(d.MediaType) {
		m.Missing = fmt.Errorf("%s: media type %.100q: %w: %w", d.Digest, d.MediaType, ErrArtifact, image.ErrMalformed)
		return m, nil
	}
	if l.unread != nil && l.unread(d) {
		m.Missing = ErrUnread
		return m, nil
	}
	raw, err := l.document(d)
	if errors.Is(err, ErrMissing) {
		m.Missing = err
		return m, nil
	}
	if err != nil {
		return nil, err
	}
	if seen := l.images[keyOf(d)]; seen != nil {
		again := *seen
		again.Manifest.Desc = d
		return &again, nil
	}
	manifest, err := image.ParseManifest(raw, d.MediaType)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.Digest, err)
	}
	m.Manifest.Raw = raw
	if err := l.ociContent(m, manifest); err != nil {
		return nil, fmt.Errorf("%s: %w", d.Digest, err)
	}
	l.images[keyOf(d)] = m
	return m, nil
}

// ociContent fills in the config and layers of m.
func (l *loader) ociContent(m *Image, manifest *ocispec.Manifest) error {
	m.Config.Desc = manifest.Config
	m.Missing = artifactError(manifest)
	m.Attestation = image.IsAttestation(m.Manifest.Desc)
	plain := m.Missing == nil && !m.Attestation // an image like any other
	raw, err := l.document(manifest.Config)
	switch {
	case errors.Is(err, ErrMissing):
		if m.Missing == nil {
			m.Missing = fmt.Errorf("config: %w", err)
		}
	case err != nil && plain:
		return fmt.Errorf("config: %w", err)
	case err == nil:
		m.Config.Raw = raw
	}
	if plain && m.Config.Raw != nil {
		if m.Parsed, err = image.ParseConfig(raw); err != nil {
			return err
		}
		if err := m.Parsed.CheckLayers(len(manifest.Layers)); err != nil {
			return err
		}
	}
	if err := l.countLayers(len(manifest.Layers)); err != nil {
		return err
	}
	m.Layers = make([]Layer, len(manifest.Layers))
	for i, d := range manifest.Layers {
		layer := &m.Layers[i]
		layer.Desc = d
		if m.Parsed != nil {
			layer.DiffID = m.Parsed.RootFS.DiffIDs[i]
		}
		err := l.layerBlob(layer)
		switch {
		case errors.Is(err, ErrMissing):
			if m.Missing == nil {
				m.Missing = fmt.Errorf("layer %d: %w", i, err)
			}
		case err != nil:
			return fmt.Errorf("layer %d: %w", i, err)
		}
	}
	return nil
}

// layerBlob finds where the bytes of a layer lie.
func (l *loader) layerBlob(layer *Layer) error {
	if l.remote != nil {
		return l.remoteLayer(layer.Desc)
	}
	blob, err := l.blob(layer.Desc)
	if err != nil {
		return err
	}
	layer.Blob, layer.Path, layer.Offset = blob.section(), blob.path, blob.off
	return nil
}

// artifactError says why a manifest describes no filesystem, or returns nil.
func artifactError(m *ocispec.Manifest) error {
	if t := m.Config.MediaType; !image.IsConfigType(t) {
		return fmt.Errorf("config of type %.100q: %w: %w", t, ErrArtifact, image.ErrMalformed)
	}
	for i, l := range m.Layers {
		t := l.MediaType
		switch {
		case image.IsEncryptedType(t):
			return fmt.Errorf("layer %d is encrypted: %w: %w", i, ErrArtifact, image.ErrMalformed)
		case t != "" && t != "application/octet-stream" && !strings.Contains(t, "tar"):
			return fmt.Errorf("layer %d of type %.100q: %w: %w", i, t, ErrArtifact, image.ErrMalformed)
		}
	}
	return nil
}
