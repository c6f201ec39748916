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

	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/image/archive"
	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/layerstore"
)

// A PullPolicy says when an image that is to be opened is fetched from its
// registry. The zero value is PullNever.
type PullPolicy string

// The policies, as --pull spells them.
const (
	PullNever   PullPolicy = "never"   // the network is not asked
	PullMissing PullPolicy = "missing" // if the store does not have it
	PullAlways  PullPolicy = "always"  // the registry is asked whether it has a newer one
)

// PullOptions say what of a name is pulled.
type PullOptions struct {
	LoadOptions
	AllPlatforms bool // every image of an index, not just one

	// Found is told what the registry has under the name, before it is fetched.
	// May be nil.
	Found func(ref image.Reference, target digest.Digest)
}

// Pulled is what Pull brought.
type Pulled struct {
	Ref     image.Reference // as the store has it
	Digest  digest.Digest   // of the index or manifest that the name stands for
	ID      digest.Digest   // of the config
	Current bool            // it was here
}

// A remote is the registries, as registry.Client reaches them.
type remote interface {
	Resolve(ctx context.Context, ref image.Reference) (ocispec.Descriptor, []byte, error)
	Document(ctx context.Context, ref image.Reference, d ocispec.Descriptor) ([]byte, error)
	Blob(ctx context.Context, ref image.Reference, d ocispec.Descriptor, off int64) (io.ReadCloser, error)
	Distrust(ref image.Reference, d ocispec.Descriptor) bool
	HasBlob(ctx context.Context, ref image.Reference, d ocispec.Descriptor) (bool, error)
	PushBlob(ctx context.Context, ref image.Reference, d ocispec.Descriptor, from *image.Reference, open func() (io.ReadCloser, error)) (sent bool, err error)
	PushManifest(ctx context.Context, ref image.Reference, d ocispec.Descriptor, raw []byte) error
	Tags(ctx context.Context, ref image.Reference) iter.Seq2[string, error]
}

// A repository is one of a registry, as ref names it.
type repository struct {
	remote
	ref image.Reference
}

// registry returns what reaches the registries.
func (s *Store) registry() (remote, error) {
	if s.remote != nil {
		return s.remote, nil
	}
	return s.Registry()
}

// Pull fetches the image of a name, NAME[:TAG|@DIGEST], from its registry and
// stores it under that name. Its layers are indexed while their bytes come; of
// an index only the image for one platform is fetched. What the store holds is
// not fetched again, nor is what came before an earlier pull broke off. On an
// error the images and names of the store are as before.
func (s *Store) Pull(ctx context.Context, name string, opt PullOptions) (Pulled, error) {
	ref, err := image.ParseReference(name)
	if err != nil {
		return Pulled{}, err
	}
	r, err := s.registry()
	if err != nil {
		return Pulled{}, err
	}
	return s.pull(ctx, r, ref, opt)
}

func (s *Store) pull(ctx context.Context, r remote, ref image.Reference, opt PullOptions) (Pulled, error) {
	ref, err := stored(ref)
	if err != nil {
		return Pulled{}, err
	}
	platform, err := wantedPlatform(opt.Platform)
	if err != nil {
		return Pulled{}, err
	}
	target, raw, err := r.Resolve(ctx, ref)
	if err != nil {
		return Pulled{}, err
	}
	if opt.Found != nil {
		opt.Found(ref, target.Digest)
	}
	done := Pulled{Ref: ref, Digest: target.Digest}
	if id, ok, err := s.current(ref, target, opt); err != nil || ok {
		done.ID, done.Current = id, ok
		return done, err
	}
	docs := archive.Remote{
		Document: func(d ocispec.Descriptor) ([]byte, error) { return r.Document(ctx, ref, d) },
		Has: func(d ocispec.Descriptor) (bool, error) {
			if len(d.URLs) > 0 {
				return true, nil // its maker has it
			}
			return r.HasBlob(ctx, ref, d)
		},
	}
	entry, err := docs.Entry(target, raw, platform, opt.AllPlatforms)
	if err != nil {
		return done, fmt.Errorf("%s: %w", ref.Familiar(), err)
	}
	entry.Names = []string{ref.String()}
	for range maxAgain {
		done.ID, err = s.pullEntry(ctx, r, ref, entry, platform, opt)
		if !errors.Is(err, layerstore.ErrVanished) {
			break
		}
	}
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("%s: %w", ref.Familiar(), err)
	}
	return done, err
}

// PullAll pulls every tag of a repository, one after another. A tag of something
// else than an image, as of a signature, is an ErrArtifact and passed over; any
// other error is the last.
func (s *Store) PullAll(ctx context.Context, repository string, opt PullOptions) iter.Seq2[Pulled, error] {
	return func(yield func(Pulled, error) bool) {
		repo, err := image.ParseReference(repository)
		if err != nil {
			yield(Pulled{}, err)
			return
		}
		r, err := s.registry()
		if err != nil {
			yield(Pulled{}, err)
			return
		}
		for tag, err := range r.Tags(ctx, repo) {
			var done Pulled
			var ref image.Reference
			if err == nil {
				ref, err = image.ParseReference(repo.Name() + ":" + tag)
			}
			if err == nil {
				done, err = s.pull(ctx, r, ref, opt)
			}
			if !yield(done, err) || err != nil && !errors.Is(err, ErrArtifact) {
				return
			}
		}
	}
}

// pullEntry brings what an entry lists into the store, and returns the id of
// the image that stands for it.
func (s *Store) pullEntry(ctx context.Context, r remote, ref image.Reference, e *archive.Entry, platform *image.Platform, opt PullOptions) (digest.Digest, error) {
	stage, err := s.ls.NewStage()
	if err != nil {
		return "", err
	}
	defer stage.Discard()
	l := &loader{s: s, stage: stage, opt: opt.LoadOptions, platform: platform, one: !opt.AllPlatforms, from: &repository{r, ref}}
	if opt.AllPlatforms {
		if err := l.attestations(ctx, e); err != nil {
			return "", err
		}
	}
	loaded, err := l.load(ctx, []archive.Entry{*e})
	if err != nil {
		return "", err
	}
	return loaded[0].ID, nil
}

// maxAttestation bounds a part of an attestation, such as a list of packages.
const maxAttestation = 64 << 20 // bytes

// attestations brings the attestations that the index of an entry lists, as
// blobs, so that the index can be passed on whole.
func (l *loader) attestations(ctx context.Context, e *archive.Entry) error {
	for i := range e.Images {
		if m := &e.Images[i]; m.Attestation {
			if err := l.attestation(ctx, m.Manifest.Desc); err != nil {
				return fmt.Errorf("attestation %s: %w", m.Manifest.Desc.Digest, err)
			}
		}
	}
	return nil
}

func (l *loader) attestation(ctx context.Context, d ocispec.Descriptor) error {
	raw, err := l.from.Document(ctx, l.from.ref, d)
	if err != nil {
		return err
	}
	m, err := image.ParseManifest(raw, d.MediaType)
	if err != nil {
		return err
	}
	if err := l.stage.Blob(d.Digest, raw); err != nil {
		return err
	}
	for _, part := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		raw, err := l.small(ctx, part)
		if err == nil {
			err = l.stage.Blob(part.Digest, raw)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// small returns a blob of the registry whole, verified.
func (l *loader) small(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
	if d.Size > maxAttestation {
		return nil, fmt.Errorf("%w: %s of %d bytes: limit is %d", image.ErrMalformed, d.Digest, d.Size, maxAttestation)
	}
	r, err := l.from.Blob(ctx, l.from.ref, d, 0)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	raw, err := io.ReadAll(io.LimitReader(r, d.Size))
	if err != nil {
		return nil, err
	}
	return raw, image.VerifyDocument(raw, d)
}

// stored returns ref as the store names what is pulled by it: a digest leaves
// nothing for the tag to say.
func stored(ref image.Reference) (image.Reference, error) {
	if ref.Digest() == "" || ref.Tag() == "" {
		return ref, nil
	}
	return image.ParseReference(ref.Name() + "@" + string(ref.Digest()))
}

// current returns the id of the image that a pull would bring if the store
// has all of it under that name.
func (s *Store) current(ref image.Reference, target ocispec.Descriptor, opt PullOptions) (digest.Digest, bool, error) {
	have, ok, err := s.ls.Ref(ref.String())
	if err != nil || !ok || have.Target != target.Digest || opt.AllPlatforms {
		return "", false, err
	}
	platform := opt.Platform
	if platform == "" && !slices.Contains(have.Images, target.Digest) { // an index
		platform = image.FormatPlatform(image.HostPlatform())
	}
	rec, err := s.choose(have.Images, platform)
	if errors.Is(err, image.ErrNotFound) {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	for _, d := range append([]digest.Digest{rec.ID, rec.Manifest, target.Digest}, digests(rec.Layers)...) {
		if !s.ls.HasBlob(d) {
			return "", false, nil
		}
	}
	return rec.ID, true, nil
}

func digests(layers []layerstore.Layer) []digest.Digest {
	list := make([]digest.Digest, len(layers))
	for i := range layers {
		list[i] = layers[i].Digest
	}
	return list
}

// fetchLayer brings a layer of a registry.
func (l *loader) fetchLayer(ctx context.Context, i int, a *archive.Layer) (layerstore.Layer, error) {
	want := layerstore.Layer{Digest: a.Desc.Digest, DiffID: a.DiffID, MediaType: a.Desc.MediaType, Size: a.Desc.Size}
	bar := &lateBar{start: func() io.WriteCloser { return start(l.opt.Progress, short(a.Desc.Digest), a.Desc.Size) }}
	defer bar.Close()
	got, err := l.stage.FetchLayer(ctx, want, layerstore.Fetch{
		Open: func(ctx context.Context, off int64) (io.ReadCloser, error) {
			bar.show()
			return l.from.Blob(ctx, l.from.ref, a.Desc, off)
		},
		Wrong: func() bool { return l.from.Distrust(l.from.ref, a.Desc) },
		Told:  bar,
	}, index.Limits{})
	if err != nil {
		return got.Layer, err
	}
	if got.Sidecar {
		l.warn("%s", sidecarLine(i))
	}
	if !got.Had {
		warnOdd(l.opt.Warn, i, got.Layer)
	}
	return got.Layer, nil
}

// A lateBar is a bar that is shown when there is something to tell.
type lateBar struct {
	start func() io.WriteCloser
	once  sync.Once
	bar   io.WriteCloser
}

func (b *lateBar) show() { b.once.Do(func() { b.bar = b.start() }) }

func (b *lateBar) Write(p []byte) (int, error) {
	b.show()
	return b.bar.Write(p)
}

// Close completes the bar, if it is shown. Nothing may be told any more.
func (b *lateBar) Close() error {
	b.once.Do(func() { b.bar = silent{} })
	return b.bar.Close()
}

// findOrPull is find, and pulls what it does not find if opt says so.
func (s *Store) findOrPull(ctx context.Context, src string, opt OpenOptions) (*layerstore.Image, string, error) {
	rec, name, err := s.find(src, opt.Platform)
	missing := errors.Is(err, image.ErrNotFound)
	if err != nil && !missing {
		return nil, "", err
	}
	if !pullable(src) || onDisk(src) && missing || opt.Pull != PullAlways && !(opt.Pull == PullMissing && missing) {
		return rec, name, err
	}
	load := opt.LoadOptions
	if load.Platform == "" {
		load.Platform = opt.Platform
	}
	if _, pullErr := s.Pull(ctx, src, PullOptions{LoadOptions: load}); pullErr != nil {
		if missing && isRefusal(pullErr) {
			pullErr = &MissingError{missing: err, Pull: pullErr}
		}
		return nil, "", pullErr
	}
	return s.find(src, opt.Platform)
}

// isRefusal reports whether a pull failed because its registry does not have,
// or give, the image, or is not there.
func isRefusal(err error) bool {
	return errors.Is(err, ErrNotInRegistry) || errors.Is(err, ErrDenied) || errors.Is(err, ErrUnauthorized) || errors.Is(err, ErrOffline)
}

// A MissingError says that an image is not in the store, and why it could not
// be pulled. It is an image.ErrNotFound, and what Pull is.
type MissingError struct {
	Pull    error
	missing error
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("%v here, and it cannot be pulled: %v", e.missing, e.Pull)
}

// Unwrap returns both errors.
func (e *MissingError) Unwrap() []error { return []error{e.missing, e.Pull} }

// pullable reports whether a source is a name that a registry may have.
func pullable(src string) bool {
	if src == "" || isPath(src) || isID(src) {
		return false
	}
	_, err := image.ParseReference(src)
	return err == nil
}

// PullFor pulls the image that OpenImage would pull for arg, if it would.
func (s *Store) PullFor(ctx context.Context, arg string, opt OpenOptions) error {
	src, _ := SplitArg(arg)
	if _, ok := s.inEngine(src); ok {
		return nil
	}
	if opt.Pull == PullNever || opt.Pull == "" || !pullable(src) {
		return nil
	}
	_, _, err := s.findOrPull(ctx, src, opt)
	if err == nil || errors.Is(err, image.ErrNotFound) && onDisk(src) {
		return nil
	}
	return about(src, err)
}
