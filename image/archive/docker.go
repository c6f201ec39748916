// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgfs/imgfs/image"
)

// A dockerItem is one element of manifest.json.
type dockerItem struct {
	Config       string
	RepoTags     []string
	Layers       []string
	LayerSources map[string]ocispec.Descriptor `json:",omitempty"` // by diffID; foreign layers
}

// dockerArchive reads manifest.json and the images it lists.
func (l *loader) dockerArchive() ([]Entry, error) {
	items, err := l.dockerItems()
	if err != nil {
		return nil, err
	}
	entries := make([]Entry, 0, len(items))
	for i, item := range items {
		e, err := l.dockerEntry(item)
		if err != nil {
			return nil, fmt.Errorf("manifest.json: image %d: %w", i, err)
		}
		entries = append(entries, *e)
	}
	return entries, nil
}

func (l *loader) dockerItems() ([]dockerItem, error) {
	raw, err := l.file("manifest.json")
	if err != nil {
		return nil, err
	}
	var items []dockerItem
	if err := image.Unmarshal(raw, &items); err != nil {
		return nil, fmt.Errorf("manifest.json: %w", err)
	}
	if len(items) == 0 {
		return nil, fmt.Errorf("manifest.json: no image: %w", image.ErrMalformed)
	}
	return items, nil
}

// addDocker gives the entries of an OCI layout the names that a manifest.json
// beside it has for them, and adds the images that only it lists. One name
// for two images is refused: tools would see different ones.
func (l *loader) addDocker(entries []Entry) ([]Entry, error) {
	items, err := l.dockerItems()
	if err != nil {
		return nil, err
	}
	byConfig := make(map[digest.Digest]int)
	byName := make(map[string]int)
	for i, e := range entries {
		for _, m := range e.Images {
			if d := m.Config.Desc.Digest; d != "" {
				byConfig[d] = i
			}
		}
		for _, n := range e.Names {
			byName[n] = i
		}
	}
	for k, item := range items {
		claimed, _ := claimedDigest(item.Config)
		i, ok := byConfig[claimed]
		if !ok {
			e, err := l.dockerEntry(item)
			if err != nil {
				return nil, fmt.Errorf("manifest.json: image %d: %w", k, err)
			}
			if i, ok = byConfig[e.Images[0].Config.Desc.Digest]; !ok {
				i = len(entries)
				entries = append(entries, *e)
			}
		}
		for _, tag := range item.RepoTags {
			name := normalName(tag)
			if j, taken := byName[name]; taken && j != i && !sharesConfig(&entries[i], &entries[j]) {
				return nil, fmt.Errorf("manifest.json: %.200q is another image in index.json: %w", tag, image.ErrMalformed)
			} else if taken {
				continue
			}
			byName[name] = i
			entries[i].addName(name)
		}
	}
	return entries, nil
}

// sharesConfig reports whether two entries have an image in common: one
// config may stand under two manifests, its layers compressed in two ways.
func sharesConfig(a, b *Entry) bool {
	for _, m := range a.Images {
		for _, n := range b.Images {
			if d := m.Config.Desc.Digest; d != "" && d == n.Config.Desc.Digest {
				return true
			}
		}
	}
	return false
}

// dockerEntry reads the config of item and finds its layers.
func (l *loader) dockerEntry(item dockerItem) (*Entry, error) {
	if err := l.visit(); err != nil {
		return nil, err
	}
	raw, err := l.file(item.Config)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("config %.200q: %w: %w", item.Config, ErrMissing, image.ErrMalformed)
	}
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	m := Image{Config: Document{Raw: raw, Desc: ocispec.Descriptor{
		MediaType: image.MediaTypeDockerConfig,
		Digest:    digest.FromBytes(raw),
		Size:      int64(len(raw)),
	}}}
	if claimed, ok := claimedDigest(item.Config); ok {
		m.Config.Desc.Digest = claimed
		if err := image.VerifyDocument(raw, m.Config.Desc); err != nil {
			return nil, fmt.Errorf("config: %w", err)
		}
	}
	if m.Parsed, err = image.ParseConfig(raw); err != nil {
		return nil, err
	}
	if err := m.Parsed.CheckLayers(len(item.Layers)); err != nil {
		return nil, err
	}
	if err := l.countLayers(len(item.Layers)); err != nil {
		return nil, err
	}
	m.Platform = m.Parsed.Platform()
	m.Layers = make([]Layer, len(item.Layers))
	for i, name := range item.Layers {
		diffID := m.Parsed.RootFS.DiffIDs[i]
		source := item.LayerSources[string(diffID)]
		m.Layers[i], err = l.dockerLayer(name, diffID, source)
		if errors.Is(err, ErrMissing) {
			if m.Missing == nil {
				m.Missing = fmt.Errorf("layer %d: %w", i, err)
			}
		} else if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
	}
	e := &Entry{Images: []Image{m}}
	for _, tag := range item.RepoTags {
		e.addName(normalName(tag))
	}
	return e, nil
}

// dockerLayer finds a layer by its name. The error wraps ErrMissing if the
// source lacks it; source then says whether it is a foreign one.
func (l *loader) dockerLayer(name string, diffID digest.Digest, source ocispec.Descriptor) (Layer, error) {
	layer := Layer{DiffID: diffID}
	m, err := l.files.find(name)
	if errors.Is(err, fs.ErrNotExist) {
		if len(source.URLs) > 0 || image.IsForeignType(source.MediaType) {
			layer.Desc = source
			return layer, missing(source)
		}
		return layer, fmt.Errorf("%.200q: %w: %w", name, ErrMissing, image.ErrMalformed)
	}
	if err != nil {
		return layer, err
	}
	layer.Desc.Size = m.size
	if claimed, ok := claimedDigest(name); ok {
		layer.Desc.Digest = claimed
	}
	layer.Blob, layer.Path, layer.Offset = m.section(), m.path, m.off
	layer.Desc.MediaType, err = sniffLayerType(layer.Blob)
	return layer, err
}

// claimedDigest returns the digest that a file's name claims for its bytes by
// saying the algorithm: "blobs/sha256/…" (docker 25, BuildKit) or "sha256:…"
// (crane, kaniko). It is not ok for other names, "….json" among them: those
// are only names, and some tools write what they like there.
func claimedDigest(name string) (digest.Digest, bool) {
	name = strings.TrimPrefix(name, "./")
	if rest, ok := strings.CutPrefix(name, "blobs/"); ok {
		algorithm, encoded, _ := strings.Cut(rest, "/")
		name = algorithm + ":" + encoded
	}
	d := digest.Digest(name)
	return d, image.ValidateDigest(d) == nil
}

// sniffLayerType returns the media type that a layer's first bytes tell.
func sniffLayerType(blob interface {
	ReadAt([]byte, int64) (int, error)
	Size() int64
}) (string, error) {
	head := make([]byte, min(8, blob.Size()))
	if len(head) > 0 {
		if _, err := blob.ReadAt(head, 0); err != nil {
			return "", err
		}
	}
	switch compression(head) {
	case "gzip":
		return image.MediaTypeDockerLayerGzip, nil
	case "zstd":
		return ocispec.MediaTypeImageLayerZstd, nil
	}
	return image.MediaTypeDockerLayer, nil
}
