// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/image/archive"
)

// dockerStore is docker's own store, of before it kept images in containerd:
//
//	image/DRIVER/repositories.json                 names → ids
//	image/DRIVER/imagedb/content/sha256/ID         configs
//	image/DRIVER/layerdb/sha256/CHAIN/             cache-id, diff, size, tar-split.json.gz
//	image/DRIVER/layerdb/mounts/CONTAINER/         mount-id, init-id, parent
//	overlay2/CACHE-ID/diff                         layers, unpacked
//	containers/ID/config.v2.json
type dockerStore struct {
	root   *dir
	opt    *Options
	driver string
	form   unpackedForm
	owner  owner // of a user's own store: who is root in its containers
}

// An unpackedForm is how a driver lays out layers.
type unpackedForm struct {
	diff   func(id string) string // the directory of a layer
	copied bool                   // each layer is a whole copy of what is below it
	dotWh  bool                   // whiteouts may be names
}

// dockerForms are the drivers that can be read, by their names.
var dockerForms = map[string]unpackedForm{
	"overlay2":       {diff: func(id string) string { return path.Join("overlay2", id, "diff") }},
	"fuse-overlayfs": {diff: func(id string) string { return path.Join("fuse-overlayfs", id, "diff") }, dotWh: true},
	"vfs":            {diff: func(id string) string { return path.Join("vfs/dir", id) }, copied: true},
}

func openDocker(root *dir, opt *Options) (driver, error) {
	names, err := root.names("image")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var other []string
	for _, name := range names {
		if !root.has(path.Join("image", name, "imagedb")) {
			continue
		}
		form, ok := dockerForms[name]
		if !ok {
			other = append(other, name)
			continue
		}
		if ids, err := root.names(path.Join("image", name, "imagedb/content/sha256")); err == nil && len(ids) == 0 && len(names) > 1 {
			continue // of a driver that is not used any more
		}
		by, err := root.owner()
		return &dockerStore{root, opt, name, form, by}, err
	}
	const meta = "io.containerd.metadata.v1.bolt"
	switch {
	case root.has("containerd/daemon/" + meta):
		return nil, fmt.Errorf("%s: docker keeps its images in containerd here: %s:%s", root.path, Containerd, root.join("containerd/daemon"))
	case len(other) > 0:
		return nil, fmt.Errorf("%s: of docker's storage drivers overlay2, fuse-overlayfs and vfs can be read, not %s", root.path, strings.Join(other, ", "))
	case root.has("engine-id") || root.has("containers"):
		return nil, fmt.Errorf("%s: docker has no images of its own here; it may keep them in containerd: %s:%s", root.path, Containerd, DefaultRoot(Containerd))
	}
	return nil, notStore(root, Docker)
}

func (s *dockerStore) Close() error { return nil }

func (s *dockerStore) db(name string) string { return path.Join("image", s.driver, name) }

func (s *dockerStore) items(ctx context.Context) ([]*Item, error) {
	ids, err := s.root.names(s.db("imagedb/content/sha256"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var repos struct {
		Repositories map[string]map[string]digest.Digest
	}
	if err := s.root.readJSON(s.db("repositories.json"), &repos); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	names, digests := make(map[digest.Digest][]string), make(map[digest.Digest][]string)
	for _, refs := range repos.Repositories {
		for name, id := range refs {
			r, err := image.ParseReference(name)
			switch {
			case err != nil:
			case r.Digest() != "":
				digests[id] = append(digests[id], r.Name()+"@"+string(r.Digest()))
			default:
				names[id] = append(names[id], r.String())
			}
		}
	}
	var list []*Item
	for _, hex := range ids {
		if !isHex(hex, 64) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		id := digest.NewDigestFromEncoded(digest.SHA256, hex)
		i := &Item{ID: string(id), Names: sorted(names[id]), Digests: sorted(digests[id]), Size: -1}
		if c, err := s.config(id); err == nil {
			i.describe(c)
			i.Size = s.size(c)
		}
		list = append(list, i)
	}
	containers, err := s.containers()
	return append(list, containers...), err
}

func sorted(list []string) []string {
	slices.Sort(list)
	return list
}

// describe takes what a config says.
func (i *Item) describe(c *image.Config) {
	if c.Created != nil {
		i.Created = *c.Created
	}
	i.Platform, i.Labels = image.FormatPlatform(c.Platform()), c.Config.Labels
}

func (s *dockerStore) config(id digest.Digest) (*image.Config, error) {
	raw, err := s.rawConfig(id)
	if err != nil {
		return nil, err
	}
	return image.ParseConfig(raw)
}

func (s *dockerStore) rawConfig(id digest.Digest) ([]byte, error) {
	if err := image.ValidateDigest(id); err != nil {
		return nil, err
	}
	return s.root.read(s.db("imagedb/content/sha256/"+id.Encoded()), image.MaxDocument)
}

// size returns what docker notes of the layers of an image together, -1 if
// that cannot be told.
func (s *dockerStore) size(c *image.Config) (sum int64) {
	for _, chain := range image.ChainIDs(c.RootFS.DiffIDs) {
		raw, err := s.root.read(s.layer(chain, "size"), 32)
		n, errNumber := strconv.ParseInt(string(raw), 10, 64)
		if err != nil || errNumber != nil || n < 0 || n > maxTar {
			return -1
		}
		sum += n
	}
	return sum
}

func (s *dockerStore) layer(chain digest.Digest, name string) string {
	return s.db(path.Join("layerdb", chain.Algorithm().String(), chain.Encoded(), name))
}

// cacheID returns the name of the directory of a layer.
func (s *dockerStore) cacheID(name string) (string, error) {
	raw, err := s.root.read(name, 256)
	if err != nil {
		return "", unreadable(s.root.join(name), err)
	}
	id := strings.TrimSpace(string(raw))
	return id, validID(s.root.join(name), id)
}

func (s *dockerStore) entry(_ context.Context, i *Item) (*archive.Entry, error) {
	id := digest.Digest(i.ID)
	if c, ok := i.ref.(*dockerContainer); ok {
		id = c.Image
	}
	raw, err := s.rawConfig(id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, malformed("%s: the store has lost this image", id)
	}
	if err != nil {
		return nil, err
	}
	return unpackedImage(raw, id, func(k int, c *image.Config) (archive.Bytes, error) {
		chain := image.ChainIDs(c.RootFS.DiffIDs[:k+1])[k]
		cache, err := s.cacheID(s.layer(chain, "cache-id"))
		if err != nil {
			return nil, err
		}
		split := s.layer(chain, "tar-split.json.gz")
		return newSplitTar(&splitTar{store: s.root, split: split, diff: s.form.diff(cache), temp: s.opt.Temp}), nil
	})
}

// A dockerContainer is what config.v2.json says of a container.
type dockerContainer struct {
	ID      string
	Name    string // "/web"
	Image   digest.Digest
	Created time.Time
	Driver  string
	Config  struct{ Image string }
}

func (s *dockerStore) containers() (list []*Item, err error) {
	ids, err := s.root.names("containers")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, id := range ids {
		c := new(dockerContainer)
		if !isID(id) || s.root.readJSON(path.Join("containers", id, "config.v2.json"), c) != nil {
			continue // a container that is being made, or is half removed
		}
		i := &Item{ID: id, Container: true, Created: c.Created, Size: -1, Image: c.Config.Image, ImageID: string(c.Image), ref: c}
		if name := strings.TrimPrefix(c.Name, "/"); name != "" {
			i.Names = []string{name}
		}
		if i.Image == "" {
			i.Image = string(c.Image)
		}
		list = append(list, i)
	}
	return list, nil
}

func (s *dockerStore) changes(_ context.Context, i *Item) (list []archive.Layer, err error) {
	mount := s.db(path.Join("layerdb/mounts", i.ID))
	top, err := s.cacheID(path.Join(mount, "mount-id"))
	if err != nil {
		return nil, err
	}
	ids := []string{top}
	if s.root.has(path.Join(mount, "init-id")) {
		init, err := s.cacheID(path.Join(mount, "init-id"))
		if err != nil {
			return nil, err
		}
		ids = []string{init, top}
	}
	lower, err := s.lower(mount)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		t := newDirTar(&dirTar{store: s.root, name: s.form.diff(id), lower: lower, dotWh: s.form.dotWh, owner: s.owner, opt: s.opt})
		if s.form.copied && len(lower) > 0 {
			t.base = lower[0]
		}
		lower = append([]string{t.name}, lower...)
		list = append(list, changed(t))
	}
	return list, nil
}

// lower returns the directories of the layers that what is at a place of the
// layerdb stands on, the topmost first.
func (s *dockerStore) lower(at string) (list []string, err error) {
	for {
		raw, err := s.root.read(path.Join(at, "parent"), 256)
		if errors.Is(err, fs.ErrNotExist) {
			return list, nil
		}
		if err != nil {
			return nil, err
		}
		chain := digest.Digest(strings.TrimSpace(string(raw)))
		if err := image.ValidateDigest(chain); err != nil {
			return nil, err
		}
		if len(list) == maxBelow {
			return nil, malformed("%s: stands on over %d layers", s.root.join(at), maxBelow)
		}
		cache, err := s.cacheID(s.layer(chain, "cache-id"))
		if err != nil {
			return nil, err
		}
		list, at = append(list, s.form.diff(cache)), s.layer(chain, "")
	}
}

// changed returns the layer that a directory tar is.
func changed(t *dirTar) archive.Layer {
	l := archive.Layer{Bytes: t, Path: t.Name()}
	l.Desc.MediaType = image.MediaTypeDockerLayer
	return l
}
