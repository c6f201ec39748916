// SPDX-License-Identifier: Apache-2.0

package forensics

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"slices"
	"syscall"
)

// A Blame tells where the file at a path came from.
type Blame struct {
	Path       string `json:"path"` // absolute
	PathBase64 string `json:"path_base64,omitempty"`
	// Versions are all that layers brought under the path, the latest first.
	// The live one, if there is one, is what the tree shows.
	Versions []*Record `json:"versions"`
}

// BlameOptions say what Blame tells.
type BlameOptions struct {
	Recursive bool // also of what is below a directory
	Hash      bool // with hashes of content
	Gone      bool // with Recursive: also paths where nothing shows any more
}

// Blame calls f for path, and what is below it if that is asked for, in the
// order of a walk. Symlinks on the way are followed as the tree has them;
// where it has no such path, the path is one of the layers as it stands. The
// error is fs.ErrNotExist if no layer ever had it.
func (s *Stack) Blame(ctx context.Context, path string, opt BlameOptions, f func(*Blame) error) error {
	start, err := s.pathInLayers(ctx, path)
	if err != nil {
		return err
	}
	var b *Blame
	found := false
	flush := func() error {
		done := b
		b = nil
		if done == nil || opt.Recursive && !opt.Gone && !done.shows() {
			return nil
		}
		slices.Reverse(done.Versions)
		return f(done)
	}
	err = s.Versions(ctx, start, Versions{Version: func(v *Version) error {
		if b != nil && b.Path != "/"+v.Path {
			if err := flush(); err != nil {
				return err
			}
			if !opt.Recursive {
				return errEnough
			}
		}
		r, err := s.record(ctx, v, opt.Hash)
		if err != nil {
			return err
		}
		if b == nil {
			b = &Blame{Path: r.Path, PathBase64: r.PathBase64}
		}
		found = true
		b.Versions = append(b.Versions, r)
		return nil
	}})
	switch {
	case errors.Is(err, errEnough):
		return nil
	case err != nil:
		return err
	case !found:
		return &fs.PathError{Op: "open", Path: path, Err: syscall.ENOENT}
	}
	return flush()
}

// errEnough ends a walk.
var errEnough = errors.New("enough")

// shows reports whether the tree has something at the path.
func (b *Blame) shows() bool {
	return slices.ContainsFunc(b.Versions, func(r *Record) bool { return r.State == Live.String() })
}

// pathInLayers returns where the layers have path.
func (s *Stack) pathInLayers(ctx context.Context, path string) (string, error) {
	real, err := Resolve(ctx, s.Tree, path)
	if errors.Is(err, fs.ErrNotExist) || isNotDir(err) {
		return cleanPath(path), nil
	}
	return real, err
}

// OpenVersion opens what a layer, named as FindLayer takes it, has at path; the
// content is nil unless that is a regular file. The error is fs.ErrNotExist if
// it has nothing there.
func (s *Stack) OpenVersion(ctx context.Context, path, layer string) (*Record, io.ReaderAt, error) {
	k, err := s.FindLayer(layer)
	if err != nil {
		return nil, nil, err
	}
	start, err := s.pathInLayers(ctx, path)
	if err != nil {
		return nil, nil, err
	}
	var rec *Record
	var content io.ReaderAt
	err = s.Versions(ctx, start, Versions{Version: func(v *Version) error {
		if v.Path != s.inLayers(start) {
			return errEnough
		}
		if v.Layer != k {
			return nil
		}
		at, ok, err := s.led(ctx, v)
		if err != nil {
			return err
		}
		if rec, err = s.record(ctx, v, false); err != nil {
			return err
		}
		if ok && at.node.IsRegular() {
			if content, err = s.contentOf(ctx, at); err != nil {
				return err
			}
		}
		return errEnough
	}})
	switch {
	case err != nil && !errors.Is(err, errEnough):
		return nil, nil, err
	case rec == nil:
		return nil, nil, &fs.PathError{Op: "open", Path: path, Err: syscall.ENOENT}
	}
	return rec, content, nil
}
