// SPDX-License-Identifier: Apache-2.0

package layerstore

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// A Usage tells how much of one kind there is.
type Usage struct {
	Total, Active     int
	Size, Reclaimable int64 // bytes on disk
}

func (u *Usage) add(active bool, size int64) {
	u.Total++
	u.Size += size
	if active {
		u.Active++
	} else {
		u.Reclaimable += size
	}
}

// An ImageUsage tells what the blobs of an image take.
type ImageUsage struct {
	Image  Image
	Size   int64 // bytes on disk
	Shared int64 // of them in blobs that other images need, too
	Uses   []Use
}

// Usages tell what the store takes on disk. Nothing is counted twice.
type Usages struct {
	Images  Usage // with the blobs they need; active is what somebody uses
	Unused  Usage // blobs that no image needs; active is what a claim keeps
	Indexes Usage // derived files; active are those of images in use, and of files in place that are there
	Partial Usage // blobs that have not come whole, and stages; active is what somebody writes

	Refs []Ref // by key
	Each map[digest.Digest]ImageUsage
}

// Usages returns what the store takes on disk at about this moment.
func (s *Store) Usages() (*Usages, error) {
	c, err := s.Catalog()
	if err != nil {
		return nil, err
	}
	u := &usageCounter{s: s, c: c, needs: make(map[string]*blobNeed)}
	u.out.Each = make(map[digest.Digest]ImageUsage)
	if err := u.count(); err != nil {
		return nil, err
	}
	return &u.out, nil
}

// blobNeed tells who needs a file.
type blobNeed struct {
	ids    []digest.Digest // of images, each once
	active bool
	size   int64
	there  bool
}

type usageCounter struct {
	s     *Store
	c     *Catalog
	needs map[string]*blobNeed // by the file relative to the store
	out   Usages
}

func (u *usageCounter) count() error {
	for _, i := range u.c.Images {
		active := len(u.c.Uses(&i)) > 0
		for _, path := range u.s.imageFiles(&i) {
			n := u.needs[path]
			if n == nil {
				n = new(blobNeed)
				u.needs[path] = n
			}
			if !slices.Contains(n.ids, i.ID) {
				n.ids = append(n.ids, i.ID)
			}
			n.active = n.active || active
		}
	}
	live, err := u.c.named(u.s)
	if err != nil {
		return err
	}
	if err := u.countFiles(live); err != nil {
		return err
	}
	u.countImages()
	if err := u.countPlaces(); err != nil {
		return err
	}
	return u.countTmp()
}

// countFiles looks at the blobs and at what is derived from them.
func (u *usageCounter) countFiles(live map[string]bool) error {
	dirs, err := u.s.storeDirs()
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		err := u.eachFile(dir, func(path string, size int64) {
			n := u.needs[path]
			isBlob := strings.HasPrefix(path, "blobs/")
			switch {
			case n != nil:
				n.size, n.there = size, true
				if !isBlob {
					u.out.Indexes.add(n.active, size)
				}
			case !isBlob:
				u.out.Indexes.add(false, size)
			case live[path]: // a document of an index
				u.out.Images.Size += size
			default:
				u.out.Unused.add(slices.Contains(u.c.claimed.files, path), size)
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// eachFile calls f with the regular files of a directory.
func (u *usageCounter) eachFile(dir string, f func(path string, size int64)) error {
	list, err := os.ReadDir(filepath.Join(u.s.root, dir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range list {
		if fi, err := e.Info(); err == nil && fi.Mode().IsRegular() {
			f(dir+"/"+e.Name(), diskSize(fi))
		}
	}
	return nil
}

// countImages counts images by their ids, and their blobs.
func (u *usageCounter) countImages() {
	ids := make(map[digest.Digest]bool) // active
	for m, i := range u.c.Images {
		one := ImageUsage{Image: i, Uses: u.c.Uses(&i)}
		seen := make(map[string]bool)
		for _, path := range u.s.imageFiles(&i) {
			n := u.needs[path]
			if seen[path] || !strings.HasPrefix(path, "blobs/") {
				continue
			}
			seen[path] = true
			one.Size += n.size
			if len(n.ids) > 1 {
				one.Shared += n.size
			}
		}
		u.out.Each[m] = one
		ids[i.ID] = ids[i.ID] || len(one.Uses) > 0
	}
	for _, active := range ids {
		u.out.Images.add(active, 0)
	}
	for path, n := range u.needs {
		if !strings.HasPrefix(path, "blobs/") {
			continue
		}
		u.out.Images.Size += n.size
		if !n.active {
			u.out.Images.Reclaimable += n.size
		}
	}
	for _, r := range u.c.Refs {
		u.out.Refs = append(u.out.Refs, r)
	}
	slices.SortFunc(u.out.Refs, func(a, b Ref) int { return strings.Compare(a.Name+string(a.Target), b.Name+string(b.Target)) })
}

func (u *usageCounter) countPlaces() error {
	dead, err := u.s.deadPlaces()
	if err != nil {
		return err
	}
	gone := make(map[string]bool)
	for _, path := range dead {
		gone[path] = true
	}
	return u.eachFile("index/place", func(path string, size int64) { u.out.Indexes.add(!gone[path], size) })
}

// countTmp counts what is on its way into the store, or was.
func (u *usageCounter) countTmp() error {
	for _, dir := range []string{"tmp", partialDir} {
		list, err := os.ReadDir(filepath.Join(u.s.root, dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, e := range list {
			if dir+"/"+e.Name() == partialDir {
				continue
			}
			path := filepath.Join(u.s.root, dir, e.Name())
			size := treeSize(path).Bytes
			active, there := isLocked(path)
			if there {
				u.out.Partial.add(active, size)
			}
		}
	}
	return nil
}

// isLocked reports whether somebody holds a lock on path, and whether it is
// there at all.
func isLocked(path string) (locked, there bool) {
	f, err := flock(path)
	if err != nil {
		return true, !errors.Is(err, fs.ErrNotExist)
	}
	f.Close()
	return false, true
}
