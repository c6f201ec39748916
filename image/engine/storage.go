// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/image/archive"
)

// storageStore is what podman, buildah and CRI-O share:
//
//	DRIVER-images/images.json, DRIVER-images/ID/    images, their documents
//	DRIVER-layers/layers.json, ID.tar-split.gz      layers, each with its parent
//	DRIVER-containers/containers.json
//	overlay/ID/diff, vfs/dir/ID                     layers, unpacked
type storageStore struct {
	root   *dir
	opt    *Options
	driver string
	form   unpackedForm
	owner  owner                    // of a user's own store: who is root in its containers
	layers map[string]*storageLayer // by id; nil before the first need
}

// storageForms are the drivers that can be read, by their names.
var storageForms = map[string]unpackedForm{
	"overlay": {diff: func(id string) string { return path.Join("overlay", id, "diff") }},
	"vfs":     {diff: func(id string) string { return path.Join("vfs/dir", id) }, copied: true},
}

// maxBelow is how many layers an image or a container may stand on.
const maxBelow = image.MaxLayers

func openStorage(root *dir, opt *Options) (driver, error) {
	names, err := root.names(".")
	if err != nil {
		return nil, err
	}
	drivers := func(marked func(driver string) bool) (list []string) {
		for _, name := range names {
			if driver, ok := strings.CutSuffix(name, "-images"); ok && marked(driver) {
				list = append(list, driver)
			}
		}
		return list
	}
	found := drivers(func(driver string) bool { return root.has(path.Join(driver+"-images", "images.json")) })
	if len(found) == 0 { // a store that never had an image
		found = drivers(func(driver string) bool { return root.has(driver + "-layers") })
	}
	for _, driver := range found {
		form, ok := storageForms[driver]
		if !ok {
			continue
		}
		if driver == "overlay" {
			// Where a program mounts (fuse-overlayfs), it may mark by names.
			by, err := root.read("overlay/.has-mount-program", 16)
			form.dotWh = err == nil && strings.TrimSpace(string(by)) == "true"
		}
		by, err := root.owner()
		return &storageStore{root: root, opt: opt, driver: driver, form: form, owner: by}, err
	}
	if len(found) > 0 {
		return nil, fmt.Errorf("%s: of the drivers of containers-storage overlay and vfs can be read, not %s", root.path, strings.Join(found, ", "))
	}
	return nil, notStore(root, Storage)
}

func (s *storageStore) Close() error { return nil }

type storageImage struct {
	ID      string        `json:"id"`
	Digest  digest.Digest `json:"digest"`
	Names   []string      `json:"names"`
	Layer   string        `json:"layer"` // the last one; "" = the image has none
	Data    []string      `json:"big-data-names"`
	Created time.Time     `json:"created"`
}

type storageLayer struct {
	ID     string        `json:"id"`
	Parent string        `json:"parent"`
	Size   int64         `json:"diff-size"` // bytes of its tar
	DiffID digest.Digest `json:"diff-digest"`
}

type storageContainer struct {
	ID      string    `json:"id"`
	Names   []string  `json:"names"`
	Image   string    `json:"image"` // "" = made from nothing
	Layer   string    `json:"layer"`
	Created time.Time `json:"created"`
}

func (s *storageStore) items(context.Context) (list []*Item, err error) {
	images, err := s.images()
	if err != nil {
		return nil, err
	}
	byID := make(map[string]*Item)
	for k := range images {
		m := &images[k]
		i := &Item{ID: m.ID, Target: m.Digest, Created: m.Created, Size: -1, ref: m}
		if isHex(m.ID, 64) {
			i.ID = "sha256:" + m.ID
		}
		for _, name := range m.Names {
			r, err := image.ParseReference(name)
			switch {
			case err != nil:
				i.Names = append(i.Names, name)
			case r.Digest() != "":
				i.Digests = append(i.Digests, r.Name()+"@"+string(r.Digest()))
			default:
				i.Names = append(i.Names, r.String())
			}
		}
		if raw, _, err := s.config(m); err == nil {
			if c, err := image.ParseConfig(raw); err == nil {
				i.describe(c)
			}
		}
		if chain, err := s.chain(m.Layer); err == nil {
			i.Size = 0
			for _, l := range chain {
				i.Size += max(0, min(l.Size, maxTar))
			}
		}
		byID[m.ID] = i
		list = append(list, i)
	}
	var containers []storageContainer
	if err := s.list("containers", &containers); err != nil {
		return nil, err
	}
	for k := range containers {
		c := &containers[k]
		i := &Item{ID: c.ID, Names: c.Names, Container: true, Created: c.Created, Size: -1, Image: c.Image, ImageID: c.Image, ref: c}
		if m := byID[c.Image]; m != nil {
			i.Image, i.ImageID = m.Title(), m.ID
		}
		list = append(list, i)
	}
	return list, nil
}

// list reads a list of the store; one that is not there is empty.
func (s *storageStore) list(what string, v any) error {
	err := s.root.readJSON(path.Join(s.driver+"-"+what, what+".json"), v)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (s *storageStore) images() (list []storageImage, err error) {
	err = s.list("images", &list)
	return list, err
}

// chain returns the layers that layer id stands on, and that itself, base first.
func (s *storageStore) chain(id string) ([]*storageLayer, error) {
	if s.layers == nil {
		var list []storageLayer
		if err := s.list("layers", &list); err != nil {
			return nil, err
		}
		s.layers = make(map[string]*storageLayer, len(list))
		for k := range list {
			s.layers[list[k].ID] = &list[k]
		}
	}
	var chain []*storageLayer
	for id != "" {
		l := s.layers[id]
		if l == nil {
			return nil, malformed("the store has lost layer %.100q", id)
		}
		if err := validID("layer", id); err != nil {
			return nil, err
		}
		if len(chain) == maxBelow {
			return nil, malformed("layer %.100q stands on over %d others", id, maxBelow)
		}
		chain = append(chain, l)
		id = l.Parent
	}
	for i, j := 0, len(chain)-1; i < j; i, j = i+1, j-1 {
		chain[i], chain[j] = chain[j], chain[i]
	}
	return chain, nil
}

// data reads a document of an image. Its name is not always one of a file.
func (s *storageStore) data(m *storageImage, name string) ([]byte, error) {
	if err := validID("image", m.ID); err != nil {
		return nil, err
	}
	file := name
	if strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789.") != "" {
		file = "=" + base64.StdEncoding.EncodeToString([]byte(name))
	}
	if file == "" || file == "." || file == ".." || strings.Contains(file, "/") {
		return nil, malformed("image %s: document %.100q", m.ID, name)
	}
	return s.root.read(path.Join(s.driver+"-images", m.ID, file), image.MaxDocument)
}

// config returns the config of an image: the manifest says which document it is.
func (s *storageStore) config(m *storageImage) ([]byte, digest.Digest, error) {
	raw, err := s.data(m, "manifest")
	if err != nil && m.Digest != "" {
		raw, err = s.data(m, "manifest-"+string(m.Digest))
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = malformed("image %s: the store has lost its manifest", m.ID)
	}
	if err != nil {
		return nil, "", err
	}
	parsed, err := image.ParseManifest(raw, "")
	if err != nil {
		return nil, "", fmt.Errorf("image %s: %w", m.ID, err)
	}
	d := parsed.Config.Digest
	if err := image.ValidateDigest(d); err != nil {
		return nil, "", err
	}
	raw, err = s.data(m, string(d))
	if errors.Is(err, fs.ErrNotExist) {
		err = malformed("image %s: the store has lost its config %s", m.ID, d)
	}
	return raw, d, err
}

func (s *storageStore) entry(_ context.Context, i *Item) (*archive.Entry, error) {
	m, ok := i.ref.(*storageImage)
	if !ok {
		var err error
		if m, err = s.imageOf(i.ref.(*storageContainer)); err != nil {
			return nil, err
		}
	}
	raw, id, err := s.config(m)
	if err != nil {
		return nil, err
	}
	chain, err := s.chain(m.Layer)
	if err != nil {
		return nil, err
	}
	return unpackedImage(raw, id, func(k int, c *image.Config) (archive.Bytes, error) {
		if len(chain) != len(c.RootFS.DiffIDs) {
			return nil, malformed("the store has %d layers, the config %d", len(chain), len(c.RootFS.DiffIDs))
		}
		split := path.Join(s.driver+"-layers", chain[k].ID+".tar-split.gz")
		return newSplitTar(&splitTar{store: s.root, split: split, diff: s.form.diff(chain[k].ID), temp: s.opt.Temp}), nil
	})
}

// imageOf returns the image that a container was made of.
func (s *storageStore) imageOf(c *storageContainer) (*storageImage, error) {
	if c.Image == "" {
		return nil, fmt.Errorf("container %s: it was made of no image", c.ID)
	}
	images, err := s.images()
	if err != nil {
		return nil, err
	}
	for k := range images {
		if images[k].ID == c.Image {
			return &images[k], nil
		}
	}
	return nil, malformed("container %s: the store has lost its image %.100q", c.ID, c.Image)
}

func (s *storageStore) changes(_ context.Context, i *Item) ([]archive.Layer, error) {
	c := i.ref.(*storageContainer)
	chain, err := s.chain(c.Layer)
	if err != nil {
		return nil, err
	}
	m, err := s.imageOf(c)
	if err != nil {
		return nil, err
	}
	below, err := s.chain(m.Layer)
	if err != nil {
		return nil, err
	}
	if len(chain) <= len(below) || len(below) > 0 && chain[len(below)-1] != below[len(below)-1] {
		return nil, malformed("container %s: its layer does not stand on its image", c.ID)
	}
	var list []archive.Layer
	for k := len(below); k < len(chain); k++ {
		t := newDirTar(&dirTar{store: s.root, name: s.form.diff(chain[k].ID), dotWh: s.form.dotWh, owner: s.owner, opt: s.opt})
		for below := k - 1; below >= 0; below-- {
			t.lower = append(t.lower, s.form.diff(chain[below].ID))
		}
		if s.form.copied && k > 0 {
			t.base = s.form.diff(chain[k-1].ID)
		}
		list = append(list, changed(t))
	}
	return list, nil
}
