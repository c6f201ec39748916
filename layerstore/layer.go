// SPDX-License-Identifier: Apache-2.0

package layerstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/opencontainers/go-digest"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/layerstore/seek"
)

// AddLayer brings a layer into the stage: in one pass over src the blob is
// copied and verified against digest and diffID, its table and seek index are
// made. want.Digest and want.DiffID may be "": then they are what the bytes
// are. A layer that the store holds, verified to have this diffID, is not
// read again. The errors are ErrDigest, seek.ErrFormat, index.ErrBadLayer, or
// those of src and of the disk. sidecar reports that a second, seekable copy
// had to be made.
func (g *Stage) AddLayer(ctx context.Context, want Layer, src io.Reader, limits index.Limits) (l Layer, meta *index.Meta, sidecar bool, err error) {
	known, ok, err := g.s.layer(want.Digest)
	if err != nil {
		return want, nil, false, err
	}
	if ok && want.DiffID != "" && known.DiffID != want.DiffID {
		return want, nil, false, fmt.Errorf("%w: the uncompressed layer is %s, the config says %s", ErrDigest, known.DiffID, want.DiffID)
	}
	if ok && g.s.HasBlob(want.Digest) {
		known.MediaType = want.MediaType
		if t, err := index.Open[index.EntryID](g.s.LayerPath(known.DiffID)); err == nil {
			defer t.Close()
			return known, t.Meta(), false, nil
		}
	}
	tmp, err := os.MkdirTemp(g.dir, "layer-")
	if err != nil {
		return want, nil, false, err
	}
	files := passFiles{blob: tmp + "/blob", table: tmp + "/table", seek: tmp + "/seek", sidecar: tmp + "/sidecar"}
	res, err := runPass(ctx, src, files, want.Digest, want.DiffID, limits)
	if err != nil {
		os.RemoveAll(tmp)
		return want, nil, false, err
	}
	l = want
	l.Digest, l.DiffID, l.Size = res.digest, res.diffID, res.size
	l.TarSize, l.Oddities = res.seek.Size, res.meta.Odd
	if res.seek.Trailing {
		l.Oddities++
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.move = append(g.move,
		move{files.blob, g.s.blobPath(l.Digest)},
		move{files.table, g.s.LayerPath(l.DiffID)},
		move{files.seek, g.s.seekPath(l.Digest)})
	if res.seek.Sidecar {
		g.move = append(g.move, move{files.sidecar, g.s.sidecarPath(l.Digest)})
	}
	return l, res.meta, res.seek.Sidecar, nil
}

// Rebuild makes a layer's table and seek index anew from its blob, which is
// verified on the way.
func (s *Store) Rebuild(ctx context.Context, l Layer) error {
	f, size, err := s.OpenBlob(l.Digest)
	if err != nil {
		return err
	}
	defer f.Close()
	g, err := s.NewStage()
	if err != nil {
		return err
	}
	defer g.Discard()
	files := passFiles{table: g.Temp("table"), seek: g.Temp("seek"), sidecar: g.Temp("sidecar")}
	res, err := runPass(ctx, io.NewSectionReader(f, 0, size), files, l.Digest, l.DiffID, index.Limits{})
	if err != nil {
		return err
	}
	g.move = append(g.move, move{files.table, s.LayerPath(l.DiffID)}, move{files.seek, s.seekPath(l.Digest)})
	if res.seek.Sidecar {
		g.move = append(g.move, move{files.sidecar, s.sidecarPath(l.Digest)})
	}
	return g.Commit()
}

// OpenTable opens the table of a layer, made anew if it is missing or
// damaged.
func (s *Store) OpenTable(ctx context.Context, l Layer) (*index.Layer, error) {
	return openDerived(s.LayerPath(l.DiffID), func() error { return s.Rebuild(ctx, l) })
}

func openDerived(path string, rebuild func() error) (*index.Layer, error) {
	t, err := index.Open[index.EntryID](path)
	if !IsDerivedBad(err) {
		return t, err
	}
	if err := rebuild(); err != nil {
		return nil, err
	}
	return index.Open[index.EntryID](path)
}

// IsDerivedBad reports whether err says that a derived file is missing or
// damaged, so that making it anew is the cure.
func IsDerivedBad(err error) bool {
	return err != nil && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, index.ErrCorrupt) || errors.Is(err, seek.ErrCorrupt))
}

// A Content is the uncompressed tar of one layer.
type Content struct {
	*seek.Reader
	files []*os.File
}

// Close ends reading.
func (c *Content) Close() error {
	err := c.Reader.Close()
	for _, f := range c.files {
		err = errors.Join(err, f.Close())
	}
	return err
}

// OpenContent opens a layer for random access; a seek index that is missing
// or damaged is made anew.
func (s *Store) OpenContent(ctx context.Context, l Layer, cache *seek.Cache) (*Content, error) {
	c, err := s.openContent(l.Digest, cache)
	if !IsDerivedBad(err) {
		return c, err
	}
	if err := s.Rebuild(ctx, l); err != nil {
		return nil, err
	}
	return s.openContent(l.Digest, cache)
}

func (s *Store) openContent(d digest.Digest, cache *seek.Cache) (*Content, error) {
	blob, size, err := s.OpenBlob(d)
	if err != nil {
		return nil, err
	}
	return newContent(s.seekPath(d), s.sidecarPath(d), blob, 0, size, cache)
}

// newContent reads blob, which it takes over, size bytes from off; a seek
// index that speaks of a sidecar reads that instead.
func newContent(seekPath, sidecarPath string, blob *os.File, off, size int64, cache *seek.Cache) (*Content, error) {
	c := &Content{files: []*os.File{blob}}
	err := func() error {
		points, n, err := openSized(seekPath)
		if err != nil {
			return err
		}
		c.files = append(c.files, points)
		var from io.ReaderAt = io.NewSectionReader(blob, off, size)
		if side, m, err := openSized(sidecarPath); err == nil {
			c.files = append(c.files, side)
			from, size = side, m
		}
		c.Reader, err = seek.Open(points, n, from, size, cache)
		return err
	}()
	if err != nil {
		for _, f := range c.files {
			f.Close()
		}
		return nil, err
	}
	return c, nil
}

func openSized(path string) (*os.File, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, fi.Size(), nil
}
