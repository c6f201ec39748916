// SPDX-License-Identifier: Apache-2.0

package imgfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/image/archive"
	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/layerstore"
	"github.com/imgfs/imgfs/layerstore/seek"
)

// CommitOptions say what a commit makes of an image. The zero value works.
type CommitOptions struct {
	Author    string
	Message   string
	CreatedBy string         // what made the layer, for the history; empty: "imgfs commit"
	Changes   []image.Change // to the config, in their order

	// Compression of the new layer: "gzip" (also if empty), "zstd" or "none".
	Compression string
	Level       int // 1 to 9 (gzip), 1 to 22 (zstd); 0 is a middle one

	// Created is the time of the image and its history line; zero is now, or
	// SOURCE_DATE_EPOCH if that is set.
	Created time.Time

	Progress Progress
	// Warn is told of what is odd about the new image, a line each.
	Warn func(line string)
}

// ErrOption marks what a caller asked for that makes no sense: a name, a
// compression, a level.
var ErrOption = errors.New("bad option")

// An optionError is an ErrOption that does not say so.
type optionError struct{ error }

func (optionError) Is(target error) bool { return target == ErrOption }
func (e optionError) Unwrap() error      { return e.error }

// CommitLayer makes an image of base and one layer more, whose uncompressed
// tar write writes, names it ref if that is not empty, and returns its ID, the
// digest of its config. write runs on the caller's goroutine; its writer fails
// when ctx ends or the tar is no layer. The new image is there whole when
// CommitLayer returns nil, and else the store is as it was.
//
// The same base, tar and options, with their time, make the same digests. An
// empty tar makes a layer, too. If base was opened in place, its layers come
// into the store with the new image, but not base itself: it gets no name.
//
// A change that cannot be applied is an *image.ChangeError; a name, a
// compression or a level that cannot be is ErrOption.
func (s *Store) CommitLayer(ctx context.Context, base *Image, ref string, write func(io.Writer) error, opt CommitOptions) (digest.Digest, error) {
	c := &committer{s: s, opt: opt}
	if err := c.check(ref); err != nil {
		return "", optionError{err}
	}
	stage, err := s.ls.NewStage()
	if err != nil {
		return "", err
	}
	defer stage.Discard()
	c.stage = stage
	if err := c.readBase(ctx, base); err != nil {
		return "", about(base.Name, err)
	}
	if _, _, err := c.documents(layerstore.Layer{DiffID: digest.FromString("")}); err != nil {
		return "", err // before the work
	}
	bar := start(opt.Progress, "committing", 0)
	defer bar.Close()
	top, err := stage.NewLayer(ctx, c.compression, opt.Level, func(w io.Writer) error {
		return write(io.MultiWriter(w, bar))
	}, index.Limits{})
	if err != nil {
		return "", fmt.Errorf("new layer: %w", err)
	}
	return c.publish(ctx, top)
}

// A committer makes one image.
type committer struct {
	s           *Store
	opt         CommitOptions
	stage       *layerstore.Stage
	name        string // as the store keeps it
	compression seek.Compression

	// Of the base, whose layers are in the store or the stage.
	config, manifest []byte
	layers           []layerstore.Layer
}

// check looks at what can be wrong before anything is read.
func (c *committer) check(ref string) (err error) {
	if ref != "" {
		r, err := image.ParseReference(ref)
		if err != nil {
			return err
		}
		if r.Digest() != "" {
			return fmt.Errorf("reference %q: a new image cannot be given a digest", ref)
		}
		c.name, _ = storedName(ref)
	}
	if c.opt.Compression == "" {
		c.opt.Compression = seek.Gzip.String()
	}
	if c.compression, err = seek.ParseCompression(c.opt.Compression); err != nil {
		return err
	}
	if _, err := seek.NewEncoder(io.Discard, c.compression, c.opt.Level); err != nil {
		return err
	}
	if c.opt.CreatedBy == "" {
		c.opt.CreatedBy = "imgfs commit"
	}
	if c.opt.Created.IsZero() {
		c.opt.Created = now()
	}
	return nil
}

// readBase finds the documents and layers of base.
func (c *committer) readBase(ctx context.Context, base *Image) error {
	if base.source != nil {
		return c.loadBase(ctx, base)
	}
	rec, ok, err := c.s.ls.Image(base.Digest)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("%s: %w", base.Digest, image.ErrNotFound)
	}
	if c.config, err = c.s.ls.ReadBlob(rec.ID, image.MaxDocument); err != nil {
		return err
	}
	if c.manifest, err = c.s.ls.ReadBlob(rec.Manifest, image.MaxDocument); err != nil {
		return err
	}
	c.layers = rec.Layers
	for _, l := range rec.Layers {
		if err := c.stage.Need(l.Digest); err != nil {
			return err
		}
	}
	return nil
}

// loadBase brings the layers of an image in place into the stage, verified.
func (c *committer) loadBase(ctx context.Context, base *Image) error {
	src, ok := base.source.(*archive.Source)
	if !ok {
		return errors.New("not an image file: load it first (imgfs load)")
	}
	m := findConfig(src, base.ID)
	if m == nil {
		return fmt.Errorf("%s: %w", base.ID, image.ErrNotFound)
	}
	if f := base.container; f != nil && f.changes > 0 {
		whole := *m
		if err := f.completeImage(ctx, &whole); err != nil {
			return err
		}
		m = &whole
	}
	load := &loader{
		s: c.s, stage: c.stage, opt: LoadOptions{Progress: c.opt.Progress, Warn: c.opt.Warn},
		layers: make(map[layerKey]*loadedLayer),
	}
	c.layers = make([]layerstore.Layer, len(m.Layers))
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(2 * runtime.NumCPU())
	for i := range m.Layers {
		group.Go(func() (err error) {
			if c.layers[i], err = load.layer(gctx, i, &m.Layers[i]); err != nil {
				return layerError(i, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	c.config, c.manifest = m.Config.Raw, m.Manifest.Raw
	if c.manifest != nil {
		return nil
	}
	var err error
	c.manifest, err = synthesize(m, c.layers)
	return err
}

// findConfig returns the image of a file that has the config id, or nil.
func findConfig(src *archive.Source, id digest.Digest) *archive.Image {
	for i := range src.Entries() {
		e := &src.Entries()[i]
		for k := range e.Images {
			if m := &e.Images[k]; absence(m) == "" && m.Config.Desc.Digest == id {
				return m
			}
		}
	}
	return nil
}

// documents makes config and manifest of the new image.
func (c *committer) documents(top layerstore.Layer) (config, manifest []byte, err error) {
	config, err = image.Commit(c.config, image.CommitOptions{
		DiffID: top.DiffID, Created: c.opt.Created,
		Author: c.opt.Author, Comment: c.opt.Message, CreatedBy: c.opt.CreatedBy, Changes: c.opt.Changes,
	})
	if err != nil {
		return nil, nil, err
	}
	if top.Digest == "" {
		return config, nil, nil
	}
	manifest, _, err = image.CommitManifest(c.manifest, config, ocispec.Descriptor{
		MediaType: layerTypes[c.compression.String()][1], Digest: top.Digest, Size: top.Size,
	})
	return config, manifest, err
}

// publish brings documents and tree of the new image into the stage, and all
// of it into the store.
func (c *committer) publish(ctx context.Context, top layerstore.Layer) (digest.Digest, error) {
	config, manifest, err := c.documents(top)
	if err != nil {
		return "", err
	}
	parsed, err := image.ParseConfig(config)
	if err != nil {
		return "", err
	}
	m, err := image.ParseManifest(manifest, "")
	if err != nil {
		return "", err
	}
	layers := append(c.layers[:len(c.layers):len(c.layers)], top)
	if err := parsed.CheckLayers(len(layers)); err != nil {
		return "", err
	}
	if err := parsed.CheckLayers(len(m.Layers)); err != nil {
		return "", err
	}
	for i := range layers {
		if layers[i].Digest != m.Layers[i].Digest || layers[i].DiffID != parsed.RootFS.DiffIDs[i] {
			return "", fmt.Errorf("layer %d: %w: it is not what the documents say", i+1, layerstore.ErrDamaged)
		}
		layers[i].MediaType = m.Layers[i].MediaType
	}
	rec := record(parsed, digest.FromBytes(config), digest.FromBytes(manifest), layers)
	if err := errors.Join(c.stage.Blob(rec.ID, config), c.stage.Blob(rec.Manifest, manifest)); err != nil {
		return "", err
	}
	warnOdd(c.opt.Warn, len(layers)-1, rec.Layers[len(layers)-1])
	tree, err := c.s.stageTree(ctx, c.stage, rec)
	if err != nil {
		return "", err
	}
	warnStack(c.opt.Warn, tree)
	if err := ctx.Err(); err != nil {
		return "", err
	}
	ref := layerstore.Ref{Name: c.name, Target: rec.Manifest, Images: []digest.Digest{rec.Manifest}, Since: time.Now().UTC()}
	return rec.ID, c.stage.Publish([]layerstore.Ref{ref}, []layerstore.Image{rec})
}
