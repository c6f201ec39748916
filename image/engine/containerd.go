// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/image/archive"
)

// containerdStore is containerd's:
//
//	io.containerd.content.v1.content/blobs/sha256/HEX   blobs as they were shipped
//	io.containerd.metadata.v1.bolt/meta.db              names and containers, by namespace
//	io.containerd.snapshotter.v1.NAME/metadata.db       which directory is whose
//	io.containerd.snapshotter.v1.NAME/snapshots/N/fs    layers, unpacked
//
// meta.db has v1/NAMESPACE/images/NAME/target/{digest, mediatype, size} and
// v1/NAMESPACE/containers/ID/{image, snapshotter, snapshotKey}; a snapshot of
// that key is v1/NAMESPACE/snapshots/SNAPSHOTTER/KEY/name in metadata.db, as
// v1/snapshots/NAME/{id, parent}.
type containerdStore struct {
	root    *dir
	opt     *Options
	meta    *bucket // "v1" of meta.db
	blobs   *archive.BlobDir
	closers []io.Closer

	sizes *bucket // "v1", "snapshots" of the usual snapshotter; nil if it cannot be had
}

const (
	contentDir = "io.containerd.content.v1.content"
	metaDB     = "io.containerd.metadata.v1.bolt/meta.db"
)

func openContainerd(ctx context.Context, root *dir, opt *Options) (driver, error) {
	b, file, err := copyBolt(ctx, root, metaDB, opt.Temp)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, notStore(root, Containerd)
	}
	if err != nil {
		return nil, err
	}
	s := &containerdStore{root: root, opt: opt, closers: []io.Closer{file}}
	if s.meta, err = b.top().sub("v1"); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", root.join(metaDB), err), s.Close())
	}
	return s, nil
}

func (s *containerdStore) Close() error {
	var errs []error
	for _, c := range s.closers {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// A containerdContainer is where the changes of a container are.
type containerdContainer struct {
	snapshotter, key string
}

func (s *containerdStore) items(ctx context.Context) (list []*Item, err error) {
	s.openSizes(ctx)
	err = s.meta.each(func(e element) error {
		if !e.isBucket {
			return nil
		}
		space, err := s.meta.b.bucket(e)
		if err != nil {
			return err
		}
		images, err := s.images(space, string(e.key))
		if err != nil {
			return err
		}
		containers, err := s.containers(space, string(e.key))
		list = append(append(list, images...), containers...)
		if err == nil && len(list) > maxItems {
			err = malformed("over %d images and containers", maxItems)
		}
		return err
	})
	if err != nil {
		err = fmt.Errorf("%s: %w", s.root.join(metaDB), err)
	}
	return list, err
}

// images lists those of a namespace. One of several names is one item.
func (s *containerdStore) images(space *bucket, namespace string) (list []*Item, err error) {
	all, err := space.sub("images")
	if err != nil {
		return nil, err
	}
	at := make(map[digest.Digest]*Item)
	err = eachBucket(all, func(name string, b *bucket) error {
		d, err := target(b)
		if err != nil {
			return fmt.Errorf("image %.200q: %w", name, err)
		}
		i := at[d.Digest]
		if i == nil {
			i = &Item{ID: string(d.Digest), Target: d.Digest, Namespace: namespace, Created: readTime(b, "createdat"), Size: -1, ref: d}
			if m, err := s.chosen(d); err == nil {
				i.ID = string(m.Config.Desc.Digest)
				i.describe(m.Parsed)
				i.Size = s.size(space, m.Parsed)
			}
			at[d.Digest] = i
			list = append(list, i)
		}
		r, err := image.ParseReference(name)
		switch {
		case err != nil:
			i.Names = append(i.Names, name)
		case r.Digest() != "":
			i.Digests = append(i.Digests, r.Name()+"@"+string(r.Digest()))
		default:
			i.Names = append(i.Names, r.String())
		}
		return nil
	})
	return list, err
}

// usual is the snapshotter that unpacks images unless somebody says otherwise.
const usual = "overlayfs"

// openSizes opens what tells how large unpacked layers are. Without it no size
// is known.
func (s *containerdStore) openSizes(ctx context.Context) {
	if s.sizes != nil {
		return
	}
	db, file, err := copyBolt(ctx, s.root, "io.containerd.snapshotter.v1."+usual+"/metadata.db", s.opt.Temp)
	if err != nil {
		return
	}
	s.closers = append(s.closers, file)
	s.sizes, _ = db.top().sub("v1", "snapshots") // nil if it is damaged
}

// size returns what the unpacked layers of an image take together, -1 if that
// is not known.
func (s *containerdStore) size(space *bucket, c *image.Config) (sum int64) {
	for _, chain := range image.ChainIDs(c.RootFS.DiffIDs) {
		of, err1 := space.sub("snapshots", usual, string(chain))
		name, err2 := readText(of, "name")
		b, err3 := s.sizes.sub(name)
		raw, err4 := b.get("size")
		n, digits := binary.Uvarint(raw)
		if errors.Join(err1, err2, err3, err4) != nil || digits <= 0 || n > maxTar {
			return -1
		}
		sum += int64(n)
	}
	return sum
}

// eachBucket calls f for the buckets in b.
func eachBucket(b *bucket, f func(name string, b *bucket) error) error {
	n := 0
	return b.each(func(e element) error {
		if !e.isBucket {
			return nil
		}
		if n++; n > maxItems {
			return malformed("over %d images or containers", maxItems)
		}
		below, err := b.b.bucket(e)
		if err != nil {
			return err
		}
		return f(string(e.key), below)
	})
}

// target reads what an image's name points to.
func target(b *bucket) (d ocispec.Descriptor, err error) {
	t, err := b.sub("target")
	if err != nil {
		return d, err
	}
	name, err1 := t.get("digest")
	mediaType, err2 := t.get("mediatype")
	size, err3 := t.get("size")
	if err := errors.Join(err1, err2, err3); err != nil {
		return d, err
	}
	d.Digest, d.MediaType = digest.Digest(name), string(mediaType)
	d.Size, _ = binary.Varint(size)
	return d, image.ValidateDescriptor(d)
}

func readTime(b *bucket, key string) (t time.Time) {
	if raw, err := b.get(key); err == nil {
		_ = t.UnmarshalBinary(raw) // else it is not known
	}
	return t
}

func readText(b *bucket, key string) (string, error) {
	raw, err := b.get(key)
	return string(raw), err
}

func (s *containerdStore) containers(space *bucket, namespace string) (list []*Item, err error) {
	all, err := space.sub("containers")
	if err != nil {
		return nil, err
	}
	err = eachBucket(all, func(id string, b *bucket) error {
		name, err1 := readText(b, "image")
		snapshotter, err2 := readText(b, "snapshotter")
		key, err3 := readText(b, "snapshotKey")
		labels, err4 := b.sub("labels")
		if err := errors.Join(err1, err2, err3, err4); err != nil {
			return err
		}
		i := &Item{
			ID: id, Container: true, Namespace: namespace, Created: readTime(b, "createdat"), Size: -1, Image: name, ImageID: name,
			ref: &containerdContainer{snapshotter, key},
		}
		for _, label := range []string{"nerdctl/name", "io.kubernetes.container.name"} {
			if name, err := readText(labels, label); err == nil && name != "" {
				i.Names = append(i.Names, name)
			}
		}
		list = append(list, i)
		return nil
	})
	return list, err
}

// chosen returns the image for this machine of what a name points to, or the
// only one that is here.
func (s *containerdStore) chosen(d ocispec.Descriptor) (*archive.Image, error) {
	e, err := s.read(d)
	if err != nil {
		return nil, err
	}
	return e.Select(nil)
}

// read reads the documents below d.
func (s *containerdStore) read(d ocispec.Descriptor) (*archive.Entry, error) {
	if s.blobs == nil {
		// What is a directory here is one without a symlink on the way.
		content, err := s.root.sub(contentDir)
		if err != nil {
			return nil, err
		}
		defer content.Close()
		if s.blobs, err = archive.OpenBlobs(content.path); err != nil {
			return nil, err
		}
		s.closers = append(s.closers, s.blobs)
	}
	return s.blobs.Entry(d)
}

func (s *containerdStore) entry(ctx context.Context, i *Item) (*archive.Entry, error) {
	d, ok := i.ref.(ocispec.Descriptor)
	if !ok {
		var err error
		if d, err = s.imageOf(i); err != nil {
			return nil, err
		}
	}
	return s.read(d)
}

// imageOf returns what the image of a container is.
func (s *containerdStore) imageOf(i *Item) (d ocispec.Descriptor, err error) {
	b, err := s.meta.sub(i.Namespace, "images", i.Image)
	if err != nil {
		return d, err
	}
	if b == nil {
		return d, fmt.Errorf("container %s: its image %s is not there any more: %w", i.ID, i.Image, image.ErrNotFound)
	}
	return target(b)
}

func (s *containerdStore) changes(ctx context.Context, i *Item) ([]archive.Layer, error) {
	c := i.ref.(*containerdContainer)
	if err := validID("snapshotter", c.snapshotter); err != nil {
		return nil, err
	}
	b, err := s.meta.sub(i.Namespace, "snapshots", c.snapshotter, c.key)
	if err != nil {
		return nil, err
	}
	name, err := readText(b, "name")
	if err != nil || name == "" {
		return nil, errors.Join(malformed("container %s: there is no snapshot %.200q", i.ID, c.key), err)
	}
	at := "io.containerd.snapshotter.v1." + c.snapshotter
	db, file, err := copyBolt(ctx, s.root, path.Join(at, "metadata.db"), s.opt.Temp)
	if err != nil {
		return nil, fmt.Errorf("container %s: snapshotter %s: %w", i.ID, c.snapshotter, err)
	}
	defer file.Close()
	dirs, err := snapshotDirs(db, at, name)
	if err != nil {
		return nil, fmt.Errorf("container %s: %s: %w", i.ID, s.root.join(at), err)
	}
	by, err := s.root.owner()
	if err != nil {
		return nil, err
	}
	t := newDirTar(&dirTar{store: s.root, name: dirs[0], lower: dirs[1:], owner: by, opt: s.opt})
	if !s.root.has(t.name) {
		return nil, fmt.Errorf("container %s: of containerd's snapshotters overlayfs can be read, not %s", i.ID, c.snapshotter)
	}
	t.dotWh = c.snapshotter == "fuse-overlayfs"
	return []archive.Layer{changed(t)}, nil
}

// snapshotDirs returns the directories of a snapshot and of those that it
// stands on, the topmost first. at is the snapshotter's directory.
func snapshotDirs(db *bolt, at, name string) (list []string, err error) {
	for name != "" {
		b, err := db.top().sub("v1", "snapshots", name)
		if err != nil {
			return nil, err
		}
		raw, err := b.get("id")
		if err != nil {
			return nil, err
		}
		id, n := binary.Uvarint(raw)
		if n <= 0 {
			return nil, malformed("there is no snapshot %.200q", name)
		}
		if list = append(list, path.Join(at, "snapshots", strconv.FormatUint(id, 10), "fs")); len(list) > maxBelow {
			return nil, malformed("snapshot %.200q stands on over %d others", name, maxBelow)
		}
		if name, err = readText(b, "parent"); err != nil {
			return nil, err
		}
	}
	return list, nil
}
