// SPDX-License-Identifier: Apache-2.0

package layerstore

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
)

// A Catalog is all that the store knows of names and images at one moment, and
// who relies on them.
type Catalog struct {
	Refs   map[string]Ref // by their keys: the name, or NUL + target
	Images map[digest.Digest]Image

	uses    []Use
	claimed claimed
	tx      *bolt.Tx // nil: it cannot be changed
	changed bool
}

// Catalog returns what the store holds.
func (s *Store) Catalog() (c *Catalog, err error) {
	err = s.view(func(tx *bolt.Tx) error {
		c, err = s.catalog(tx)
		if err == nil {
			err = c.findUses(s)
		}
		return err
	})
	if c == nil {
		c = &Catalog{}
	}
	c.tx = nil
	return c, err
}

func (s *Store) catalog(tx *bolt.Tx) (*Catalog, error) {
	c := &Catalog{Refs: make(map[string]Ref), Images: make(map[digest.Digest]Image), tx: tx}
	if b := tx.Bucket(bucketRefs); b != nil {
		err := b.ForEach(func(k, raw []byte) error {
			var r Ref
			if err := decodeJSON(k, raw, &r); err != nil {
				return err
			}
			c.Refs[string(k)] = r
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return c, eachImage(tx.Bucket(bucketImages), true, func(i Image) { c.Images[i.Manifest] = i })
}

// findUses reads claims and then what else keeps images: whoever makes an upper
// holds a lease meanwhile.
//
// Preconditions: as for readAllClaims.
func (c *Catalog) findUses(s *Store) (err error) {
	var dead []*os.File
	c.claimed, dead, err = s.readAllClaims()
	for _, f := range dead {
		f.Close()
	}
	if err != nil {
		return err
	}
	c.uses = c.claimed.uses
	if s.keep.Uses != nil {
		more, err := s.keep.Uses()
		if err != nil {
			return err
		}
		c.uses = append(slices.Clip(c.uses), more...)
	}
	return nil
}

// Uses returns who relies on an image.
func (c *Catalog) Uses(i *Image) (by []Use) {
	for _, u := range c.uses {
		if u.Manifest == i.Manifest || u.ID != "" && u.ID == i.ID {
			by = append(by, u)
		}
	}
	return by
}

// Names returns the names that lead to an image, with their keys sorted; the
// record of an image without a name is one of them, its Name is "".
func (c *Catalog) Names(i *Image) (keys []string) {
	for key, r := range c.Refs {
		if slices.Contains(r.Images, i.Manifest) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// Remove removes a name. Within Change alone.
func (c *Catalog) Remove(key string) error {
	c.changed = true
	delete(c.Refs, key)
	return c.tx.Bucket(bucketRefs).Delete([]byte(key))
}

// Anonymize removes a name and keeps its image without one, if no other name
// leads there. Within Change alone.
func (c *Catalog) Anonymize(key string) error {
	r := c.Refs[key]
	if err := c.Remove(key); err != nil {
		return err
	}
	r.Name = ""
	if err := putRef(c.tx.Bucket(bucketRefs), c.tx.Bucket(bucketImages), r); err != nil {
		return err
	}
	for _, o := range c.Refs {
		if o.Target == r.Target && covers(o, r) {
			return nil
		}
	}
	c.Refs["\x00"+string(r.Target)] = r
	return nil
}

// Change runs f, which may remove names, in a transaction: all of it happens or
// nothing. The records of images that have no name then, and that nobody relies
// on, are removed, too, and returned.
func (s *Store) Change(f func(c *Catalog) error) (gone []Image, err error) {
	if _, err := os.Stat(s.dbPath()); errors.Is(err, fs.ErrNotExist) {
		return nil, f(&Catalog{})
	}
	err = s.update(func(tx *bolt.Tx) error {
		c, err := s.catalog(tx)
		if err != nil {
			return err
		}
		if err := c.findUses(s); err != nil {
			return err
		}
		if err := f(c); err != nil {
			return err
		}
		if gone, err = c.dropUnnamed(); err != nil {
			return err
		}
		if !c.changed && len(gone) == 0 {
			return errUnchanged
		}
		return putJSON(tx.Bucket(bucketImages), keySum, sumKeys(tx))
	})
	if errors.Is(err, errUnchanged) {
		err = nil
	}
	return gone, err
}

// errUnchanged ends a transaction that changed nothing.
var errUnchanged = errors.New("unchanged")

// dropUnnamed removes the records of images that nothing leads to, and what is
// known of layers that no image has.
func (c *Catalog) dropUnnamed() (gone []Image, err error) {
	named := make(map[digest.Digest]bool)
	for _, r := range c.Refs {
		for _, m := range r.Images {
			named[m] = true
		}
	}
	for m, i := range c.Images {
		if named[m] || len(c.Uses(&i)) > 0 || c.claimed.all {
			continue
		}
		if err := c.tx.Bucket(bucketImages).Delete([]byte(m)); err != nil {
			return nil, err
		}
		gone = append(gone, i)
		delete(c.Images, m)
	}
	slices.SortFunc(gone, func(a, b Image) int { return strings.Compare(string(a.Manifest), string(b.Manifest)) })
	return gone, c.dropLayers(gone)
}

// dropLayers removes what is known of the layers of images that are gone and
// that no other image has.
func (c *Catalog) dropLayers(gone []Image) error {
	if len(gone) == 0 {
		return nil
	}
	used := make(map[digest.Digest]bool)
	for _, i := range c.Images {
		for _, l := range i.Layers {
			used[l.Digest] = true
		}
	}
	b := c.tx.Bucket(bucketLayers)
	for _, i := range gone {
		for _, l := range i.Layers {
			if used[l.Digest] || b == nil {
				continue
			}
			if err := b.Delete([]byte(l.Digest)); err != nil {
				return err
			}
		}
	}
	return nil
}
