// SPDX-License-Identifier: Apache-2.0

package layerstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/imgfs/imgfs/index"
)

// CheckBlob reads a blob whole and returns its size. The error is ErrNoBlob,
// ErrDigest, or that of the disk.
func (s *Store) CheckBlob(ctx context.Context, d digest.Digest) (size int64, err error) {
	if err := d.Validate(); err != nil {
		return 0, fmt.Errorf("%s: %w", d, ErrNoBlob)
	}
	f, size, err := s.OpenBlob(d)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return size, sameDigest(ctx, f, d)
}

func sameDigest(ctx context.Context, r io.Reader, d digest.Digest) error {
	h := d.Algorithm().Hash()
	if _, err := io.CopyBuffer(h, &ctxReader{ctx, r}, make([]byte, 1<<20)); err != nil {
		return err
	}
	if got := digest.NewDigest(d.Algorithm(), h); got != d {
		return fmt.Errorf("%w: the bytes are %s", ErrDigest, got)
	}
	return nil
}

// A DerivedError says that a file under index/ is not what it must be.
type DerivedError struct {
	Path string // relative to the store
	Err  error
}

func (e *DerivedError) Error() string { return e.Path + ": " + e.Err.Error() }
func (e *DerivedError) Unwrap() error { return e.Err }

// CheckDerived reads all that is derived from a layer, whose blob is good, and
// returns a DerivedError for each file that is not good. Its seek index is good
// if the layer read by it has its diffID. Files that are not there are made at
// their next need: they are not missing.
func (s *Store) CheckDerived(ctx context.Context, l Layer) (files int, bad []error) {
	check := func(path string, f func() error) {
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			return
		}
		files++
		if err := index.Guard(f); err != nil {
			bad = append(bad, &DerivedError{s.rel(path), err})
		}
	}
	check(s.LayerPath(l.DiffID), func() error { return checkTable[index.EntryID](ctx, s.LayerPath(l.DiffID)) })
	check(s.hashPath(l.DiffID), func() error { return checkHashFile(ctx, s.hashPath(l.DiffID)) })
	check(s.seekPath(l.Digest), func() error {
		c, err := s.openContent(l.Digest, nil)
		if err != nil {
			return err
		}
		defer c.Close()
		return sameDigest(ctx, io.NewSectionReader(c, 0, c.Size()), l.DiffID)
	})
	if _, err := os.Lstat(s.sidecarPath(l.Digest)); err == nil {
		files++ // it was read by the seek index
	}
	return files, bad
}

// CheckTree reads the tree of a stack whole; there is false if there is none.
func (s *Store) CheckTree(ctx context.Context, chainID digest.Digest) (there bool, err error) {
	path := s.TreePath(chainID)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err := checkTable[index.NodeID](ctx, path); err != nil {
		return true, &DerivedError{s.rel(path), err}
	}
	return true, nil
}

func checkTable[ID ~uint32](ctx context.Context, path string) error {
	t, err := index.Open[ID](path)
	if err != nil {
		return err
	}
	defer t.Close()
	if err := t.Warm(ctx.Done()); err != nil {
		return err
	}
	return ctx.Err()
}

func checkHashFile(ctx context.Context, path string) error {
	h, err := index.OpenHashes(path)
	if err != nil {
		return err
	}
	defer h.Close()
	for i := range h.Len() {
		if _, err := h.At(i); err != nil {
			return err
		}
		if i%4096 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// CheckPlaces reads the tables made for files mounted in place and returns a
// DerivedError for each that is not good.
func (s *Store) CheckPlaces(ctx context.Context) (files int, bad []error, err error) {
	list, err := os.ReadDir(filepath.Join(s.root, "index/place"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, nil, err
	}
	for _, e := range list {
		path := filepath.Join(s.root, "index/place", e.Name())
		check := map[string]func(context.Context, string) error{
			"scan": checkTable[index.EntryID], "table": checkTable[index.EntryID],
			"tree": checkTable[index.NodeID], "hash": checkHashFile,
		}[strings.TrimPrefix(filepath.Ext(path), ".")]
		if check == nil {
			continue // read and checked as the layer is
		}
		files++
		err := index.Guard(func() error { return check(ctx, path) })
		if ctx.Err() != nil {
			return files, bad, ctx.Err()
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			bad = append(bad, &DerivedError{s.rel(path), err})
		}
	}
	return files, bad, nil
}

// RemoveDerived removes a file that a DerivedError is about: it is made anew
// at its next need.
func (s *Store) RemoveDerived(e *DerivedError) error {
	return os.Remove(filepath.Join(s.root, e.Path))
}

// Blobs returns the digests of all blobs that lie in the store.
func (s *Store) Blobs() (list []digest.Digest, err error) {
	dirs, err := s.storeDirs()
	if err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		algorithm, ok := strings.CutPrefix(dir, "blobs/")
		if !ok {
			continue
		}
		names, err := os.ReadDir(filepath.Join(s.root, dir))
		if err != nil {
			return nil, err
		}
		for _, e := range names {
			if d := digest.NewDigestFromEncoded(digest.Algorithm(algorithm), e.Name()); d.Validate() == nil {
				list = append(list, d)
			}
		}
	}
	return list, nil
}

// ReplaceBlob puts the bytes of r in the place of the blob d, which was lost or
// damaged, if they are what d names.
func (s *Store) ReplaceBlob(ctx context.Context, d digest.Digest, r io.Reader) error {
	if err := d.Validate(); err != nil {
		return err
	}
	g, err := s.NewStage()
	if err != nil {
		return err
	}
	defer g.Discard()
	f, err := os.OpenFile(g.file(s.blobPath(d)), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = sameDigest(ctx, io.TeeReader(r, f), d)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return g.Commit()
}
