// SPDX-License-Identifier: Apache-2.0

package imgfs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/layerstore"
)

// VerifyOptions say what Verify does beside looking. The zero value works.
type VerifyOptions struct {
	// Repair makes what is derived anew, and fetches blobs that are lost or
	// damaged from the registries that the names of their images speak of.
	Repair   bool
	Progress Progress
}

// A Problem is a file of the store that is not what it must be.
type Problem struct {
	Images   []string `json:"images"`          // that need it, by name or id; empty if none does
	Layer    int      `json:"layer,omitempty"` // of the first of them, from 1, the base; 0 for a document or a tree
	File     string   `json:"file"`            // relative to the store
	What     string   `json:"what"`            // is wrong with it
	Repaired bool     `json:"repaired"`
	Cure     string   `json:"cure,omitempty"` // why it could not be repaired

}

// Verified is what Verify found.
type Verified struct {
	Images, Blobs, Indexes int // that were read
	Problems               []Problem
}

// Verify reads every blob and all that is derived from it, of the images that
// args mean, or of the whole store, and tells which of it is not what it must
// be. The error is not about that.
func (s *Store) Verify(ctx context.Context, args []string, opt VerifyOptions) (*Verified, error) {
	if err := s.ls.Check(); err != nil {
		return nil, err
	}
	c, err := s.ls.Catalog()
	if err != nil {
		return nil, err
	}
	v := &verifier{s: s, c: c, opt: opt, needs: make(map[digest.Digest]*need)}
	if err := v.choose(args); err != nil {
		return nil, err
	}
	defer v.release()
	err = v.run(ctx, len(args) == 0)
	slices.SortFunc(v.out.Problems, func(a, b Problem) int { return strings.Compare(a.File, b.File) })
	return &v.out, err
}

// A need is a blob that images need.
type need struct {
	images []string // shown names
	refs   []image.Reference
	layer  int               // from 1; 0 is a document
	rec    *layerstore.Layer // of a layer
	desc   ocispec.Descriptor
}

type verifier struct {
	s      *Store
	c      *layerstore.Catalog
	opt    VerifyOptions
	images []layerstore.Image
	leases []*layerstore.Lease
	needs  map[digest.Digest]*need

	mu  sync.Mutex
	out Verified // guarded by mu
}

// choose finds what is to be read, and leases it.
func (v *verifier) choose(args []string) error {
	keys := make([]string, 0, len(v.c.Refs))
	for key := range v.c.Refs {
		keys = append(keys, key)
	}
	if len(args) > 0 {
		keys = nil
		for _, arg := range args {
			of, err := namesOf(v.c, arg)
			if err != nil {
				return about(arg, err)
			}
			keys = append(keys, of...)
		}
	}
	slices.Sort(keys)
	for _, key := range slices.Compact(keys) {
		if err := v.add(v.c.Refs[key]); err != nil {
			return err
		}
	}
	return nil
}

// add notes what a name needs.
func (v *verifier) add(r layerstore.Ref) error {
	ref, refErr := image.ParseReference(r.Name)
	want := func(d ocispec.Descriptor, shown string, layer int, rec *layerstore.Layer) {
		n := v.needs[d.Digest]
		if n == nil {
			n = &need{layer: layer, rec: rec, desc: d}
			v.needs[d.Digest] = n
		}
		if !slices.Contains(n.images, shown) {
			n.images = append(n.images, shown)
		}
		if refErr == nil && !slices.Contains(n.refs, ref) {
			n.refs = append(n.refs, ref)
		}
	}
	_, name := storedName(r.Name)
	for _, m := range r.Images {
		i, lease, ok, err := v.s.ls.LeaseImage(m)
		if err != nil {
			return err
		}
		if !ok {
			continue // removed since
		}
		v.leases = append(v.leases, lease)
		shown := cmp.Or(name, short(i.ID))
		want(ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: i.Manifest}, shown, 0, nil)
		want(ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: i.ID}, shown, 0, nil)
		for k := range i.Layers {
			l := &i.Layers[k]
			want(ocispec.Descriptor{MediaType: l.MediaType, Digest: l.Digest, Size: l.Size}, shown, k+1, l)
		}
		if !slices.ContainsFunc(v.images, func(o layerstore.Image) bool { return o.Manifest == i.Manifest }) {
			v.images = append(v.images, i)
		}
	}
	if !slices.Contains(r.Images, r.Target) {
		want(ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: r.Target}, cmp.Or(name, short(r.Target)), 0, nil)
	}
	return nil
}

func (v *verifier) release() {
	for _, l := range v.leases {
		l.Close()
	}
}

// run reads everything. What is wrong is in out; the error is another.
func (v *verifier) run(ctx context.Context, whole bool) error {
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(max(2, runtime.NumCPU()))
	for d, n := range v.needs {
		group.Go(func() error { return v.blob(gctx, d, n) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for i := range v.images {
		if err := v.tree(ctx, &v.images[i]); err != nil {
			return err
		}
	}
	v.out.Images = len(v.images)
	if !whole {
		return nil
	}
	return errors.Join(v.rest(ctx), v.places(ctx))
}

// blob reads a blob and, if it is good, what is derived from it.
func (v *verifier) blob(ctx context.Context, d digest.Digest, n *need) error {
	bar := start(v.opt.Progress, "verifying "+short(d), n.desc.Size)
	defer bar.Close()
	_, err := v.s.ls.CheckBlob(ctx, d)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	v.count(1, 0)
	if err != nil {
		p := v.problem(n, "blobs/"+d.Algorithm().String()+"/"+d.Encoded(), err)
		if v.opt.Repair {
			p.repaired(v.refetch(ctx, d, n))
		}
		v.found(p)
		if !p.Repaired {
			return ctx.Err()
		}
	}
	if n.rec == nil {
		return nil
	}
	return v.derived(ctx, n)
}

// derived reads what is derived from a layer whose blob is good.
func (v *verifier) derived(ctx context.Context, n *need) error {
	files, bad := v.s.ls.CheckDerived(ctx, *n.rec)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	v.count(0, files)
	if len(bad) == 0 {
		return nil
	}
	var err error
	if v.opt.Repair {
		err = v.s.ls.Rebuild(ctx, *n.rec)
	}
	for _, b := range bad {
		p := v.derivedProblem(n, b)
		if v.opt.Repair {
			p.repaired(err)
		}
		v.found(p)
	}
	return ctx.Err()
}

// tree reads the tree of an image.
func (v *verifier) tree(ctx context.Context, i *layerstore.Image) error {
	there, err := v.s.ls.CheckTree(ctx, treeChain(i))
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if there {
		v.count(0, 1)
	}
	if err == nil {
		return nil
	}
	p := v.derivedProblem(&need{images: v.needs[i.Manifest].images}, err)
	if v.opt.Repair {
		p.repaired(v.s.rebuildTree(ctx, i))
	}
	v.found(p)
	return ctx.Err()
}

// rest reads the blobs that no image needs.
func (v *verifier) rest(ctx context.Context) error {
	blobs, err := v.s.ls.Blobs()
	if err != nil {
		return err
	}
	for _, d := range blobs {
		if v.needs[d] != nil {
			continue
		}
		_, err := v.s.ls.CheckBlob(ctx, d)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, layerstore.ErrNoBlob) {
			continue // removed since
		}
		v.count(1, 0)
		if err != nil {
			p := v.problem(&need{}, "blobs/"+d.Algorithm().String()+"/"+d.Encoded(), err)
			p.Cure = "no image needs it"
			v.found(p)
		}
	}
	return nil
}

// places reads what is derived from files mounted in place.
func (v *verifier) places(ctx context.Context) error {
	files, bad, err := v.s.ls.CheckPlaces(ctx)
	v.count(0, files)
	for _, b := range bad {
		p := v.derivedProblem(&need{}, b)
		var d *layerstore.DerivedError
		if v.opt.Repair && errors.As(b, &d) {
			p.repaired(v.s.ls.RemoveDerived(d)) // its next mount makes it
		}
		v.found(p)
	}
	return err
}

func (v *verifier) count(blobs, indexes int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.out.Blobs += blobs
	v.out.Indexes += indexes
}

func (v *verifier) found(p *Problem) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.out.Problems = append(v.out.Problems, *p)
}

func (v *verifier) problem(n *need, file string, err error) *Problem {
	p := &Problem{Images: n.images, Layer: n.layer, File: file, What: err.Error()}
	switch {
	case errors.Is(err, layerstore.ErrNoBlob):
		p.What = "it is lost"
	case errors.Is(err, layerstore.ErrDigest):
		p.What = "its bytes are not what its digest names"
	}
	if p.Images == nil {
		p.Images = []string{}
	}
	return p
}

func (v *verifier) derivedProblem(n *need, err error) *Problem {
	var d *layerstore.DerivedError
	if !errors.As(err, &d) {
		return v.problem(n, "", err)
	}
	p := v.problem(n, d.Path, d.Err)
	p.What = strings.TrimPrefix(p.What, filepath.Join(v.s.Root(), d.Path)+": ") // said
	if errors.Is(d.Err, layerstore.ErrDigest) {
		p.What = "the layer that it leads to is not what its diffID names"
	}
	return p
}

func (p *Problem) repaired(err error) {
	if err == nil {
		p.Repaired = true
	} else {
		p.Cure = err.Error()
	}
}

// refetch brings a blob from a registry that a name of its images speaks of.
func (v *verifier) refetch(ctx context.Context, d digest.Digest, n *need) error {
	if len(n.refs) == 0 {
		return errors.New("no name of its image says where to fetch it")
	}
	r, err := v.s.registry()
	if err != nil {
		return err
	}
	var errs []error
	for _, ref := range n.refs {
		err := v.fetchFrom(ctx, r, ref, d, n)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return layerErrors(errs)
}

// fetchFrom fetches a blob from the repository of ref.
func (v *verifier) fetchFrom(ctx context.Context, r remote, ref image.Reference, d digest.Digest, n *need) (err error) {
	desc := n.desc
	if n.layer == 0 && desc.MediaType != ocispec.MediaTypeImageConfig {
		pinned, err := image.ParseReference(ref.Name() + "@" + string(d))
		if err != nil {
			return err
		}
		_, raw, err := r.Resolve(ctx, pinned)
		if err != nil {
			return err
		}
		return v.s.ls.ReplaceBlob(ctx, d, strings.NewReader(string(raw)))
	}
	if desc.Size == 0 {
		if desc.Size, err = v.configSize(d); err != nil {
			return err
		}
	}
	b, err := r.Blob(ctx, ref, desc, 0)
	if err != nil {
		return err
	}
	err = v.s.ls.ReplaceBlob(ctx, d, io.LimitReader(b, desc.Size))
	return errors.Join(err, b.Close())
}

// configSize returns the size of a config, which its manifest tells.
func (v *verifier) configSize(id digest.Digest) (int64, error) {
	for i := range v.images {
		if v.images[i].ID != id {
			continue
		}
		raw, err := v.s.ls.ReadBlob(v.images[i].Manifest, image.MaxDocument)
		if err != nil {
			return 0, err
		}
		m, err := image.ParseManifest(raw, "")
		if err != nil {
			return 0, err
		}
		return m.Config.Size, nil
	}
	return 0, fmt.Errorf("%s: %w", id, image.ErrNotFound)
}
