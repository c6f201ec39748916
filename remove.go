// SPDX-License-Identifier: Apache-2.0

package imgfs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/internal/control"
	"github.com/imgfs/imgfs/layerstore"
)

// Tag gives the image that src means (a name, a digest, the beginning of an id)
// the name dst. Another image that had the name keeps its content.
func (s *Store) Tag(ctx context.Context, src, dst string) error {
	to, err := image.ParseReference(dst)
	if err != nil {
		return optionError{err}
	}
	if to.Digest() != "" {
		return optionError{fmt.Errorf("reference %q: a name with a digest cannot be given", dst)}
	}
	for range maxAgain {
		if err = s.tag(src, to); !errors.Is(err, layerstore.ErrVanished) {
			break
		}
	}
	if err != nil {
		return about(src, err)
	}
	return nil
}

func (s *Store) tag(src string, to image.Reference) error {
	if err := s.ls.Check(); err != nil {
		return err
	}
	c, err := s.ls.Catalog()
	if err != nil {
		return err
	}
	keys, err := namesOf(c, src)
	if err != nil {
		return err
	}
	ref := c.Refs[keys[0]]
	stage, err := s.ls.NewStage()
	if err != nil {
		return err
	}
	defer stage.Discard()
	if err := stage.Need(ref.Target); err != nil {
		return err
	}
	var images []layerstore.Image
	for _, m := range ref.Images {
		i, ok := c.Images[m]
		if !ok {
			continue
		}
		images = append(images, i)
		need := []digest.Digest{i.ID, i.Manifest}
		for _, l := range i.Layers {
			need = append(need, l.Digest)
		}
		if err := stage.Need(need...); err != nil {
			return err
		}
	}
	ref.Name, ref.Since = to.String(), time.Now().UTC()
	return stage.Publish([]layerstore.Ref{ref}, images)
}

// namesOf returns the keys of the names that src means, sorted: one if it is
// spelled as a name.
func namesOf(c *layerstore.Catalog, src string) ([]string, error) {
	if !isID(src) {
		if keys := namesSpelled(c, src); keys != nil {
			return keys, nil
		}
	}
	return namesOfID(c, src)
}

// namesSpelled returns the names that src spells: as docker reads it, as it
// stands, or all names of a repository for a digest behind it.
func namesSpelled(c *layerstore.Catalog, src string) (keys []string) {
	r, err := image.ParseReference(src)
	if err == nil {
		if _, ok := c.Refs[r.String()]; ok {
			return []string{r.String()}
		}
	}
	if ref, ok := c.Refs[src]; ok && ref.Name != "" {
		return []string{src}
	}
	if err != nil || r.Digest() == "" {
		return nil
	}
	for key, ref := range c.Refs {
		have, err := image.ParseReference(ref.Name)
		if err == nil && have.Name() == r.Name() && (ref.Target == r.Digest() || slices.Contains(ref.Images, r.Digest())) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// namesOfID returns the names of the image whose config, manifest or index has
// a digest that begins with src.
func namesOfID(c *layerstore.Catalog, src string) ([]string, error) {
	hex := strings.TrimPrefix(src, "sha256:")
	if len(hex) < 4 || !isHex(hex) {
		return nil, image.ErrNotFound
	}
	ids := make(map[digest.Digest]bool)
	manifests := make(map[digest.Digest]bool)
	for m, i := range c.Images {
		if strings.HasPrefix(i.ID.Encoded(), hex) || strings.HasPrefix(m.Encoded(), hex) {
			ids[i.ID], manifests[m] = true, true
		}
	}
	var keys []string
	for key, r := range c.Refs {
		of := slices.ContainsFunc(r.Images, func(m digest.Digest) bool { return manifests[m] })
		if _, isImage := c.Images[r.Target]; !isImage && strings.HasPrefix(r.Target.Encoded(), hex) {
			ids[r.Target], of = true, true
		}
		if of {
			keys = append(keys, key)
		}
	}
	switch {
	case len(ids) > 1:
		return nil, fmt.Errorf("%w: %s is the beginning of several", image.ErrNotFound, src)
	case len(keys) == 0:
		return nil, image.ErrNotFound
	}
	slices.Sort(keys)
	return keys, nil
}

// RemoveOptions say how images are removed. The zero value works.
type RemoveOptions struct {
	// Force removes all names that an id has, and the names of an image that
	// is in use: its content stays until it is free.
	Force bool
	// NoPrune leaves the content to the next Prune.
	NoPrune bool
}

// Removed is what became of one argument of Remove, or of Prune.
type Removed struct {
	Untagged []string        // names, as docker prints them
	Deleted  []digest.Digest // ids of images, each followed by the diffIDs of the layers that went with it

	manifests []digest.Digest // that the names led to
}

// An InUseError says who uses an image that was to be removed.
type InUseError struct {
	Image string   // what was asked for
	By    []string // "mount /mnt", "upper x", "process 12"
	Dir   string   // a mount of it, "" for none
	Named bool     // that its name alone can be removed
}

func (e *InUseError) Error() string {
	return fmt.Sprintf("%s: in use by %s", e.Image, strings.Join(e.By, ", "))
}

// ErrSeveralNames marks an image that has several names where one id was to be
// removed.
var ErrSeveralNames = errors.New("image has several names")

// Remove removes names, and images that have none left with all that only they
// need. Each of args is a name, a digest or the beginning of an id. What comes
// back is one Removed for each, in their order, empty for those that failed;
// the errors are joined. The error is an *InUseError for an image that a mount
// or an upper needs, ErrSeveralNames for the id of an image with several names.
func (s *Store) Remove(ctx context.Context, args []string, opt RemoveOptions) ([]Removed, error) {
	if err := s.ls.Check(); err != nil {
		return nil, err
	}
	results := make([]Removed, len(args))
	var errs []error
	var left map[digest.Digest]layerstore.Image
	gone, err := s.ls.Change(func(c *layerstore.Catalog) error {
		for i, arg := range args {
			if err := removeOne(c, arg, opt, &results[i]); err != nil {
				errs = append(errs, about(arg, err))
			}
		}
		left = c.Images
		return nil
	})
	if err != nil {
		return nil, err
	}
	tellDeleted(results, gone, left)
	if !opt.NoPrune {
		if _, err := s.ls.Collect(ctx, gone); err != nil {
			errs = append(errs, err)
		}
	}
	return results, nameMounts(ctx, errors.Join(errs...))
}

// removeOne removes what one argument names.
func removeOne(c *layerstore.Catalog, arg string, opt RemoveOptions, done *Removed) error {
	keys, err := namesOf(c, arg)
	if err != nil {
		return err
	}
	spelled := !isID(arg) && namesSpelled(c, arg) != nil
	named := slices.ContainsFunc(keys, func(k string) bool { return c.Refs[k].Name != "" })
	if !spelled && !opt.Force && countNames(c, keys) > 1 {
		return ErrSeveralNames
	}
	by := usesOf(c, keys)
	if len(by) > 0 && (!opt.Force || !named) {
		return &InUseError{Image: arg, By: by, Named: named}
	}
	for _, key := range keys {
		r := c.Refs[key]
		if len(by) > 0 {
			err = c.Anonymize(key)
		} else {
			err = c.Remove(key)
		}
		if err != nil {
			return err
		}
		done.manifests = append(done.manifests, r.Images...)
		done.untagged(c, &r)
	}
	return nil
}

func countNames(c *layerstore.Catalog, keys []string) (n int) {
	for _, key := range keys {
		if c.Refs[key].Name != "" {
			n++
		}
	}
	return n
}

// usesOf returns who uses the images that only the names of keys lead to.
func usesOf(c *layerstore.Catalog, keys []string) (by []string) {
	for _, key := range keys {
		for _, m := range c.Refs[key].Images {
			i, ok := c.Images[m]
			if !ok {
				continue
			}
			uses := c.Uses(&i)
			if len(uses) == 0 || !only(keys, c.Names(&i)) {
				continue
			}
			for _, u := range uses {
				if text := useText(u); !slices.Contains(by, text) {
					by = append(by, text)
				}
			}
		}
	}
	slices.Sort(by)
	return by
}

// only reports whether all names are among keys.
func only(keys, names []string) bool {
	return !slices.ContainsFunc(names, func(n string) bool { return !slices.Contains(keys, n) })
}

// processUse begins the text of a use by a process.
const processUse = "process "

func useText(u layerstore.Use) string {
	if u.PID != 0 {
		return fmt.Sprint(processUse, u.PID)
	}
	return u.By
}

// untagged notes that a name is gone, as docker tells it: also the name with
// its digest, if no other name of the repository has that.
func (done *Removed) untagged(c *layerstore.Catalog, r *layerstore.Ref) {
	if r.Name == "" {
		return
	}
	_, name := storedName(r.Name)
	done.Untagged = append(done.Untagged, name)
	ref, err := image.ParseReference(r.Name)
	if err != nil || ref.Digest() != "" {
		return
	}
	for _, o := range c.Refs {
		if o.Target != r.Target {
			continue
		}
		if have, err := image.ParseReference(o.Name); err == nil && have.Name() == ref.Name() {
			return
		}
	}
	done.Untagged = append(done.Untagged, ref.FamiliarName()+"@"+string(r.Target))
}

// tellDeleted adds the images that are gone to the last of results that led to
// each, with the layers that no image has any more.
func tellDeleted(results []Removed, gone []layerstore.Image, left map[digest.Digest]layerstore.Image) {
	ids, layers := make(map[digest.Digest]bool), make(map[digest.Digest]bool)
	for _, i := range left {
		ids[i.ID] = true
		for _, l := range i.Layers {
			layers[l.DiffID] = true
		}
	}
	by := make(map[digest.Digest]*Removed)
	for k := range results {
		for _, m := range results[k].manifests {
			by[m] = &results[k]
		}
	}
	for _, i := range gone {
		done := by[i.Manifest]
		if done == nil {
			continue // it had no name before
		}
		if !ids[i.ID] {
			ids[i.ID] = true
			done.Deleted = append(done.Deleted, i.ID)
		}
		for _, l := range slices.Backward(i.Layers) {
			if !layers[l.DiffID] {
				layers[l.DiffID] = true
				done.Deleted = append(done.Deleted, l.DiffID)
			}
		}
	}
}

// nameMounts says in each InUseError of err which of the processes are mounts.
func nameMounts(ctx context.Context, err error) error {
	var list []*InUseError
	collectInUse(err, &list)
	if len(list) == 0 {
		return err
	}
	mounts := mountNames(ctx)
	for _, e := range list {
		for i, by := range e.By {
			if name := mounts[by]; name != "" {
				e.By[i] = name
				e.Dir = strings.TrimPrefix(name, mountUse)
			}
		}
		slices.Sort(e.By)
	}
	return err
}

// mountUse begins the text of a use by a mount.
const mountUse = "mount "

// mountNames returns what to call the processes that are mounts, by the text of
// their use. If that cannot be told, they are processes.
func mountNames(ctx context.Context) map[string]string {
	found, err := registered(ctx)
	if err != nil {
		return nil
	}
	names := make(map[string]string)
	for _, r := range found {
		if r.State != control.Dead {
			names[fmt.Sprint(processUse, cmp.Or(r.Server, r.PID))] = mountUse + r.Dir
		}
	}
	return names
}

func collectInUse(err error, list *[]*InUseError) {
	switch e := err.(type) {
	case nil:
	case *InUseError:
		*list = append(*list, e)
	case interface{ Unwrap() []error }:
		for _, part := range e.Unwrap() {
			collectInUse(part, list)
		}
	case interface{ Unwrap() error }:
		collectInUse(e.Unwrap(), list)
	}
}
