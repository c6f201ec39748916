// SPDX-License-Identifier: Apache-2.0

package forensics

import (
	"context"
	"errors"
	"io"

	"github.com/imgfs/imgfs/index"
)

// ErrNoLayers marks a question about layers to what has none.
var ErrNoLayers = errors.New("it has no layers")

// DeletedOptions say which files Deleted tells of.
type DeletedOptions struct {
	Path     string // at and below it; "" is all. The tree need not have it any more
	Replaced bool   // also those that a later layer overwrote
	Hash     bool   // with their hashes
}

// A DeletedFile is a file that a layer brought and a later one took away.
type DeletedFile struct {
	*Record
	Node    index.Node  // of the layer's table; of a hard link into a lower one that of the file
	Content io.ReaderAt // of a regular file: Record.Size bytes; nil for others
}

// Deleted calls f for every file, directory and link that a later layer
// removed or hid, in the order of a walk. The error is ErrNoLayers where there
// are no layers.
func (s *Stack) Deleted(ctx context.Context, opt DeletedOptions, f func(*DeletedFile) error) error {
	live, err := s.liveInodes(ctx)
	if err != nil {
		return err
	}
	path, err := s.pathInLayers(ctx, opt.Path)
	if err != nil {
		return err
	}
	return s.Versions(ctx, path, Versions{Version: func(v *Version) error {
		if v.State == Live || v.By < 0 || v.End == Replaced && (!opt.Replaced || v.Node.IsDir()) {
			return nil
		}
		r, err := s.record(ctx, v, opt.Hash)
		if err != nil {
			return err
		}
		d := &DeletedFile{Record: r, Node: v.Node}
		at, ok, err := s.led(ctx, v)
		if err != nil {
			return err
		}
		if ok && at.node.IsRegular() {
			d.Node = at.node
			_, r.Linked = live[inode{s.Layers[at.layer].Index, at.node.Header}]
			if d.Content, err = s.contentOf(ctx, at); err != nil {
				return err
			}
		}
		return f(d)
	}})
}

// contentOf returns the content of a regular file; its layer is read at the
// first byte.
func (s *Stack) contentOf(ctx context.Context, at place) (io.ReaderAt, error) {
	l := s.Layers[at.layer]
	t, err := l.Table(ctx)
	if err != nil {
		return nil, err
	}
	return &lateContent{ctx: ctx, layer: l, t: t, n: at.node}, nil
}

// A lateContent opens its layer when it is read first.
type lateContent struct {
	ctx   context.Context
	layer *Layer
	t     *index.Layer
	n     index.Node
	open  io.ReaderAt
}

func (c *lateContent) ReadAt(p []byte, off int64) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	if c.open == nil {
		tree := &tableTree[index.EntryID]{t: c.t, layers: []*Layer{c.layer}}
		r, err := tree.Open(&Entry{Mode: c.n.Mode, Size: c.n.Size, node: c.n})
		if err != nil {
			return 0, err
		}
		c.open = r
	}
	return c.open.ReadAt(p, off)
}
