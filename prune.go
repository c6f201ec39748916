// SPDX-License-Identifier: Apache-2.0

package imgfs

import (
	"context"
	"slices"
	"time"

	"github.com/imgfs/imgfs/layerstore"
)

// PruneOptions say which images go. The zero value takes those without a name.
type PruneOptions struct {
	All    bool      // images with names, too
	Until  time.Time // only what was created before; zero: whenever
	Labels []LabelFilter
}

// A LabelFilter is a condition on an image's labels.
type LabelFilter struct {
	Key, Value string
	AnyValue   bool // Value does not matter
	Not        bool // the label must not be there
}

// Matches reports whether labels fulfil the condition.
func (f LabelFilter) Matches(labels map[string]string) bool {
	value, ok := labels[f.Key]
	return (ok && (f.AnyValue || value == f.Value)) != f.Not
}

// Pruned is what a Prune removed.
type Pruned struct {
	Images []Removed
	Files  int
	Bytes  int64 // that the disk has again
}

// Prune removes images that nothing uses, and all that nothing needs: layers
// without an image, what is derived from files that are gone, what commands that
// were killed left behind.
func (s *Store) Prune(ctx context.Context, opt PruneOptions) (*Pruned, error) {
	if err := s.ls.Check(); err != nil {
		return nil, err
	}
	var out Pruned
	var catalog *layerstore.Catalog
	gone, err := s.ls.Change(func(c *layerstore.Catalog) error {
		catalog = c
		return opt.prune(c, &out)
	})
	if err != nil {
		return nil, err
	}
	tellDeleted(out.Images, gone, catalog.Images)
	out.Images = slices.DeleteFunc(out.Images, func(r Removed) bool { return len(r.Untagged)+len(r.Deleted) == 0 })
	freed, err := s.ls.CollectAll(ctx)
	out.Files, out.Bytes = freed.Files, freed.Bytes
	return &out, err
}

// prune removes the names of images that nobody uses and that opt is about.
func (opt *PruneOptions) prune(c *layerstore.Catalog, out *Pruned) error {
	var keys []string
	for key, r := range c.Refs {
		if (r.Name == "" || opt.All) && opt.takes(c, &r) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	for _, key := range keys {
		r := c.Refs[key]
		if err := c.Remove(key); err != nil {
			return err
		}
		done := Removed{manifests: r.Images}
		done.untagged(c, &r)
		out.Images = append(out.Images, done)
	}
	return nil
}

// takes reports whether nobody uses any image of r, and all are such as opt
// asks for.
func (opt *PruneOptions) takes(c *layerstore.Catalog, r *layerstore.Ref) bool {
	for _, m := range r.Images {
		i, ok := c.Images[m]
		if !ok {
			continue
		}
		if len(c.Uses(&i)) > 0 || !opt.Until.IsZero() && !i.Created.Before(opt.Until) {
			return false
		}
		for _, f := range opt.Labels {
			if !f.Matches(i.Labels) {
				return false
			}
		}
	}
	return true
}
