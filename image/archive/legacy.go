// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgfs/imgfs/image"
)

// maxLayerTar bounds the uncompressed size of a layer that is read for its
// diffID.
const maxLayerTar = 1 << 40

// A legacy reads what docker save wrote before engine 1.10: a directory for
// each layer, named by a random id, with its tar and a json that names the
// parent; and the file repositories, which is absent if the image had no
// name.
type legacy struct {
	*loader
	parts map[string]*legacyPart // by id
}

type legacyPart struct {
	raw    []byte
	json   legacyJSON
	layer  Layer
	diffID digest.Digest // "" until the layer was read
}

// legacyJSON is what we need of <id>/json. The rest goes into the config as
// it is.
type legacyJSON struct {
	ID              string     `json:"id"`
	Parent          string     `json:"parent"`
	Created         *time.Time `json:"created"`
	Author          string     `json:"author"`
	Comment         string     `json:"comment"`
	ContainerConfig struct {
		Cmd image.Words
	} `json:"container_config"`
}

// legacyArchive reads an archive without manifest.json. The error is
// ErrNotImage if it has no layer directories either.
func (l *loader) legacyArchive() ([]Entry, error) {
	old := &legacy{loader: l, parts: make(map[string]*legacyPart)}
	ids, lostConfig := old.scan()
	if len(ids) == 0 {
		return nil, ErrNotImage
	}
	if lostConfig != "" {
		// Configs came with manifest.json: no engine wrote one without the other.
		return nil, fmt.Errorf("%s is there, but no manifest.json: %w", lostConfig, image.ErrMalformed)
	}
	tops, err := old.tops(ids)
	if err != nil {
		return nil, err
	}
	var entries []Entry
	for _, id := range slices.Sorted(maps.Keys(tops)) {
		if err := l.visit(); err != nil {
			return nil, err
		}
		m, err := old.image(id)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", id, err)
		}
		e := Entry{Images: []Image{*m}}
		for _, name := range tops[id] {
			e.addName(normalName(name))
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// scan returns the ids that have a json and a layer, and the name of a config
// of the newer format if one stands at the top.
func (l *legacy) scan() (ids map[string]bool, config string) {
	ids = make(map[string]bool)
	l.files.names(func(name string) {
		dir, base := path.Split(name)
		id := strings.TrimSuffix(dir, "/")
		switch {
		case base == "json" && isLegacyID(id):
			ids[id] = true
		case dir == "" && strings.HasSuffix(base, ".json") && isLegacyID(strings.TrimSuffix(base, ".json")):
			config = name
		}
	})
	return ids, config
}

// tops returns the ids of the images and their names: those that repositories
// lists, and without that file those that are no other's parent.
func (l *legacy) tops(ids map[string]bool) (map[string][]string, error) {
	tops := make(map[string][]string)
	raw, err := l.file("repositories")
	if errors.Is(err, fs.ErrNotExist) {
		for id := range ids {
			tops[id] = nil
		}
		for id := range ids {
			p, err := l.part(id)
			if err != nil {
				return nil, err
			}
			delete(tops, p.json.Parent)
		}
		if len(tops) == 0 {
			return nil, fmt.Errorf("layers are each other's parents: %w", image.ErrMalformed)
		}
		return tops, nil
	}
	if err != nil {
		return nil, err
	}
	var repositories map[string]map[string]string // name → tag → id
	if err := image.Unmarshal(raw, &repositories); err != nil {
		return nil, fmt.Errorf("repositories: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(repositories)) {
		for _, tag := range slices.Sorted(maps.Keys(repositories[name])) {
			id := repositories[name][tag]
			if !isLegacyID(id) {
				return nil, fmt.Errorf("repositories: %.100q is not an id: %w", id, image.ErrMalformed)
			}
			tops[id] = append(tops[id], name+":"+tag)
		}
	}
	if len(tops) == 0 {
		return nil, fmt.Errorf("repositories: no image: %w", image.ErrMalformed)
	}
	return tops, nil
}

// part reads the json of one layer.
func (l *legacy) part(id string) (*legacyPart, error) {
	if p := l.parts[id]; p != nil {
		return p, nil
	}
	raw, err := l.file(id + "/json")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s/json: %w: %w", id, ErrMissing, image.ErrMalformed)
	}
	if err != nil {
		return nil, err
	}
	p := &legacyPart{raw: raw}
	if err := image.Unmarshal(raw, &p.json); err != nil {
		return nil, fmt.Errorf("%s/json: %w", id, err)
	}
	if p.json.ID != id {
		return nil, fmt.Errorf("%s/json: id is %.100q: %w", id, p.json.ID, image.ErrMalformed)
	}
	if parent := p.json.Parent; parent != "" && !isLegacyID(parent) {
		return nil, fmt.Errorf("%s/json: parent %.100q is not an id: %w", id, parent, image.ErrMalformed)
	}
	l.parts[id] = p
	return p, nil
}

// image builds the image whose top layer is id, with the config that docker
// load would make of it, so that it gets the same image id.
func (l *legacy) image(id string) (*Image, error) {
	var chain []*legacyPart // top first
	for at := id; at != ""; {
		p, err := l.part(at)
		if err != nil {
			return nil, err
		}
		if len(chain) == image.MaxLayers {
			return nil, fmt.Errorf("over %d layers, or parents in a ring: %w", image.MaxLayers, image.ErrMalformed)
		}
		chain = append(chain, p)
		at = p.json.Parent
	}
	if err := l.countLayers(len(chain)); err != nil {
		return nil, err
	}
	slices.Reverse(chain)
	m := &Image{}
	rootFS := image.RootFS{Type: "layers"}
	var history []image.History
	for _, p := range chain {
		if err := l.readLayer(p); err != nil {
			return nil, err
		}
		m.Layers = append(m.Layers, p.layer)
		rootFS.DiffIDs = append(rootFS.DiffIDs, p.diffID)
		history = append(history, image.History{
			Created: p.json.Created, Author: p.json.Author, Comment: p.json.Comment,
			CreatedBy: strings.Join(p.json.ContainerConfig.Cmd, " "),
		})
	}
	raw, err := legacyConfig(chain[len(chain)-1].raw, rootFS, history)
	if err != nil {
		return nil, err
	}
	m.Config = Document{Raw: raw, Desc: ocispec.Descriptor{
		MediaType: image.MediaTypeDockerConfig,
		Digest:    digest.FromBytes(raw),
		Size:      int64(len(raw)),
	}}
	if m.Parsed, err = image.ParseConfig(raw); err != nil {
		return nil, err
	}
	m.Platform = m.Parsed.Platform()
	return m, nil
}

// legacyConfig returns the json of the top layer with what became of it in
// 1.10: ids and sizes out, rootfs and history in. Keys come out sorted.
func legacyConfig(top []byte, rootFS image.RootFS, history []image.History) ([]byte, error) {
	var fields map[string]json.RawMessage // raw: a number keeps its digits
	if err := image.Unmarshal(top, &fields); err != nil {
		return nil, err
	}
	for _, k := range []string{"id", "parent", "Size", "parent_id", "layer_id", "throwaway"} {
		delete(fields, k)
	}
	var err error
	if fields["rootfs"], err = json.Marshal(rootFS); err != nil {
		return nil, err
	}
	if fields["history"], err = json.Marshal(history); err != nil {
		return nil, err
	}
	return json.Marshal(fields)
}

// readLayer finds the layer of p and computes its diffID, once.
func (l *legacy) readLayer(p *legacyPart) error {
	if p.diffID != "" {
		return nil
	}
	name := p.json.ID + "/layer.tar"
	layer, err := l.dockerLayer(name, "", ocispec.Descriptor{})
	if err != nil {
		return err
	}
	var r io.Reader = layer.Blob
	switch layer.Desc.MediaType {
	case image.MediaTypeDockerLayer:
	case image.MediaTypeDockerLayerGzip:
		if r, err = gzip.NewReader(io.NewSectionReader(layer.Blob, 0, layer.Blob.Size())); err != nil {
			return fmt.Errorf("%s: %w: %w", name, err, image.ErrMalformed)
		}
	default:
		return fmt.Errorf("%s: layer of type %s: %w", name, layer.Desc.MediaType, image.ErrMalformed)
	}
	hash := digest.Canonical.Digester()
	n, err := io.Copy(hash.Hash(), io.LimitReader(r, maxLayerTar+1))
	switch {
	case err != nil && r != io.Reader(layer.Blob):
		return fmt.Errorf("%s: %w: %w", name, err, image.ErrMalformed)
	case err != nil:
		return fmt.Errorf("%s: %w", name, err)
	case n > maxLayerTar:
		return fmt.Errorf("%s: layer over %d bytes: %w", name, int64(maxLayerTar), image.ErrMalformed)
	}
	if _, err := layer.Blob.Seek(0, io.SeekStart); err != nil {
		return err
	}
	p.diffID = hash.Digest()
	layer.DiffID = p.diffID
	p.layer = layer
	return nil
}

// isLegacyID reports whether s is 64 hexadecimal digits.
func isLegacyID(s string) bool {
	if len(s) != 64 {
		return false
	}
	for _, c := range []byte(s) {
		if !('0' <= c && c <= '9' || 'a' <= c && c <= 'f') {
			return false
		}
	}
	return true
}
