// SPDX-License-Identifier: Apache-2.0

package imgfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/image/archive"
	"github.com/imgfs/imgfs/layerstore"
)

// PushOptions say what of a name is pushed.
type PushOptions struct {
	Platform     string // os/arch[/variant] of an index; empty: this machine's
	AllPlatforms bool   // the whole index
	Progress     Progress

	// Layer is told of each layer that the registry has now. It may be called
	// from several goroutines. May be nil.
	Layer func(PushedLayer)
}

// A PushedLayer is a layer that a registry has.
type PushedLayer struct {
	Digest  digest.Digest
	Sent    bool   // false: it was there
	Mounted string // the repository of the same registry that it was mounted from, library/alpine, or ""
}

// Pushed is what Push has put under a name.
type Pushed struct {
	Ref    image.Reference
	Digest digest.Digest // of the manifest or index
	Size   int64         // bytes of that
}

// pushAtOnce is how many blobs are on their way at a time.
const pushAtOnce = 4

// Push sends the image of a name of the store to the registry of that name:
// its bytes as they were shipped, so that digests stay. Blobs that are there
// are not sent, and blobs of another repository of that registry are mounted
// from it. Of an index the manifest for one platform is pushed under the tag,
// unless AllPlatforms is set: then all it lists must be here.
func (s *Store) Push(ctx context.Context, name string, opt PushOptions) (Pushed, error) {
	ref, err := image.ParseReference(name)
	if err != nil {
		return Pushed{}, err
	}
	have, _, err := s.findRef(name)
	if err != nil {
		return Pushed{}, err
	}
	if have == nil {
		if err := s.ls.Check(); err != nil {
			return Pushed{}, err
		}
		return Pushed{}, fmt.Errorf("%s: %w", ref.Familiar(), image.ErrNotFound)
	}
	r, err := s.registry()
	if err != nil {
		return Pushed{}, err
	}
	p := &pusher{s: s, src: storeBlobs{s.ls}, r: r, ref: ref, opt: opt, blobs: make(map[digest.Digest]*pushedBlob)}
	defer p.release()
	done, err := p.push(ctx, have)
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("%s: %w", ref.Familiar(), err)
	}
	return done, err
}

// A pushSource is where what is pushed is read.
type pushSource interface {
	archive.Blobs
	// document returns a manifest, an index or a config; ErrNoBlob where there
	// is none.
	document(d digest.Digest) ([]byte, error)
	has(d digest.Digest) bool
}

// A pusher sends what one name stands for.
type pusher struct {
	s      *Store
	src    pushSource
	r      remote
	ref    image.Reference
	opt    PushOptions
	leases []*layerstore.Lease
	origin map[digest.Digest]image.Reference // repositories of the same registry that have a layer

	mu    sync.Mutex
	blobs map[digest.Digest]*pushedBlob // guarded by mu; the values by their once
}

type pushedBlob struct {
	once sync.Once
	err  error
}

func (p *pusher) release() {
	for _, l := range p.leases {
		l.Close()
	}
}

func (p *pusher) push(ctx context.Context, have *layerstore.Ref) (Pushed, error) {
	var err error
	if p.origin, err = p.s.origins(p.ref); err != nil {
		return Pushed{}, err
	}
	if p.opt.AllPlatforms {
		for _, m := range have.Images {
			if err := p.lease(m); err != nil {
				return Pushed{}, err
			}
		}
		return p.document(ctx, ocispec.Descriptor{Digest: have.Target}, true, 0)
	}
	rec, err := p.s.choose(have.Images, p.opt.Platform)
	if err != nil {
		return Pushed{}, err
	}
	if err := p.lease(rec.Manifest); err != nil {
		return Pushed{}, err
	}
	return p.document(ctx, ocispec.Descriptor{Digest: rec.Manifest}, true, 0)
}

// lease keeps an image until the push ends.
func (p *pusher) lease(manifest digest.Digest) error {
	_, l, ok, err := p.s.ls.LeaseImage(manifest)
	if err == nil && !ok {
		err = fmt.Errorf("%s: %w", manifest, image.ErrNotFound)
	}
	if err == nil {
		p.leases = append(p.leases, l)
	}
	return err
}

// origins returns which repositories of the registry of ref have a layer, as
// far as the store's names tell. The registry need not agree.
func (s *Store) origins(ref image.Reference) (map[digest.Digest]image.Reference, error) {
	refs, err := s.ls.Refs()
	if err != nil {
		return nil, err
	}
	all, err := s.ls.Images()
	if err != nil {
		return nil, err
	}
	origin := make(map[digest.Digest]image.Reference)
	for _, r := range refs {
		from, err := image.ParseReference(r.Name)
		if err != nil || from.Domain() != ref.Domain() || from.Name() == ref.Name() {
			continue
		}
		for _, m := range r.Images {
			for _, l := range all[m].Layers {
				if _, ok := origin[l.Digest]; !ok {
					origin[l.Digest] = from
				}
			}
		}
	}
	return origin, nil
}

// maxPushDepth bounds indexes inside each other.
const maxPushDepth = 8

// document pushes a manifest or an index with all below it, and then itself:
// under the name if top, else under its digest alone.
func (p *pusher) document(ctx context.Context, d ocispec.Descriptor, top bool, depth int) (Pushed, error) {
	raw, err := p.src.document(d.Digest)
	if errors.Is(err, layerstore.ErrNoBlob) && !top {
		return Pushed{}, p.absent(d)
	}
	if err != nil {
		return Pushed{}, err
	}
	d.Size = int64(len(raw))
	if x, indexErr := image.ParseIndex(raw, d.MediaType); indexErr == nil {
		if depth == maxPushDepth {
			return Pushed{}, fmt.Errorf("%s: indexes nested over %d deep: %w", d.Digest, maxPushDepth, image.ErrMalformed)
		}
		d.MediaType = x.MediaType
		if d.MediaType == "" {
			d.MediaType = ocispec.MediaTypeImageIndex
		}
		for _, child := range x.Manifests {
			if _, err := p.document(ctx, child, false, depth+1); err != nil {
				return Pushed{}, err
			}
		}
	} else {
		m, err := image.ParseManifest(raw, d.MediaType)
		if err != nil {
			return Pushed{}, err
		}
		d.MediaType = m.MediaType
		if d.MediaType == "" {
			d.MediaType = ocispec.MediaTypeImageManifest
		}
		if err := p.content(ctx, m); err != nil {
			return Pushed{}, err
		}
	}
	ref := p.ref
	if !top {
		if ref, err = image.ParseReference(p.ref.Name() + "@" + string(d.Digest)); err != nil {
			return Pushed{}, err
		}
	}
	return Pushed{Ref: p.ref, Digest: d.Digest, Size: d.Size}, p.r.PushManifest(ctx, ref, d, raw)
}

// absent says what of an index the store lacks.
func (p *pusher) absent(d ocispec.Descriptor) error {
	what := "a manifest"
	switch {
	case image.IsAttestation(d):
		what = "an attestation"
	case d.Platform != nil:
		what = image.FormatPlatform(*d.Platform)
	}
	return fmt.Errorf("%w: %s, %s", ErrIncomplete, what, d.Digest)
}

// ErrIncomplete marks an index of which the store does not have all.
var ErrIncomplete = errors.New("the index is not whole here")

// content pushes the layers and the config of a manifest.
func (p *pusher) content(ctx context.Context, m *ocispec.Manifest) error {
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(pushAtOnce)
	for i, l := range m.Layers {
		if image.IsForeignType(l.MediaType) && !p.src.has(l.Digest) {
			continue // its maker forbids to pass it on
		}
		group.Go(func() error {
			if err := p.blob(gctx, l, true); err != nil {
				return layerError(i, err)
			}
			return nil
		})
	}
	group.Go(func() error { return p.blob(gctx, m.Config, false) })
	return group.Wait()
}

// blob pushes a blob, once however often it is named.
func (p *pusher) blob(ctx context.Context, d ocispec.Descriptor, isLayer bool) error {
	p.mu.Lock()
	b := p.blobs[d.Digest]
	if b == nil {
		b = new(pushedBlob)
		p.blobs[d.Digest] = b
	}
	p.mu.Unlock()
	b.once.Do(func() { b.err = p.send(ctx, d, isLayer) })
	return b.err
}

func (p *pusher) send(ctx context.Context, d ocispec.Descriptor, isLayer bool) error {
	var from *image.Reference
	if o, ok := p.origin[d.Digest]; ok {
		from = &o
	}
	bar := &lateBar{start: func() io.WriteCloser {
		if !isLayer {
			return silent{}
		}
		return start(p.opt.Progress, short(d.Digest), d.Size)
	}}
	defer bar.Close()
	if from != nil {
		has, err := p.r.HasBlob(ctx, p.ref, d)
		if err != nil {
			return err
		}
		if has {
			from = nil
		}
	}
	sent, err := p.r.PushBlob(ctx, p.ref, d, from, func() (io.ReadCloser, error) {
		f, err := p.src.Blob(ctx, d)
		if err != nil {
			return nil, err
		}
		return &toldFile{ReadCloser: f, told: bar}, nil
	})
	if err != nil || !isLayer || p.opt.Layer == nil {
		return err
	}
	done := PushedLayer{Digest: d.Digest, Sent: sent}
	if !sent && from != nil {
		done.Mounted = from.Repository()
	}
	p.opt.Layer(done)
	return nil
}

// PushAll pushes every tag of a repository that the store has, in the order of
// their names, and ends with the first error.
func (s *Store) PushAll(ctx context.Context, repository string, opt PushOptions) iter.Seq2[Pushed, error] {
	return func(yield func(Pushed, error) bool) {
		names, err := s.taggedNames(repository)
		if err != nil {
			yield(Pushed{}, err)
			return
		}
		for _, name := range names {
			done, err := s.Push(ctx, name, opt)
			if !yield(done, err) || err != nil {
				return
			}
		}
	}
}

// taggedNames returns the names of a repository that have a tag.
func (s *Store) taggedNames(repository string) (names []string, err error) {
	repo, err := image.ParseReference(repository)
	if err != nil {
		return nil, err
	}
	refs, err := s.ls.Refs()
	if err != nil {
		return nil, err
	}
	for _, r := range refs {
		if have, err := image.ParseReference(r.Name); err == nil && have.Name() == repo.Name() && have.Tag() != "" {
			names = append(names, r.Name)
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s: %w", repo.FamiliarName(), image.ErrNotFound)
	}
	slices.Sort(names)
	return names, nil
}
