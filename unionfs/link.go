// SPDX-License-Identifier: Apache-2.0

package unionfs

import (
	"context"

	"github.com/imgfs/imgfs/index"
)

// Links are the hard links of layers into the layers below them.
type Links struct{ of []map[index.EntryID]nodeRef }

// FindLinks finds where they lead to, as Merge does. The errors are those of
// Merge.
//
// Precondition: FindLinks runs under index.Guard.
func FindLinks(ctx context.Context, layers []*index.Layer) (*Links, error) {
	m, err := newMerger(ctx, layers)
	if err != nil {
		return nil, err
	}
	return &Links{m.links}, nil
}

// Target returns the layer and the entry of the file that a link, inode id of a
// layer, leads to; ok is false for what is no such link.
func (l *Links) Target(layer int, id index.EntryID) (in int, entry index.EntryID, ok bool) {
	ref, ok := l.of[layer][id]
	return int(ref.layer), ref.id, ok
}

// newMerger returns a merger that knows the links of its layers.
func newMerger(ctx context.Context, layers []*index.Layer) (*merger, error) {
	m := &merger{ctx: ctx, layers: layers, links: make([]map[index.EntryID]nodeRef, len(layers))}
	for k := range layers {
		if err := m.resolveLinks(k); err != nil {
			return nil, &LayerError{k, err}
		}
	}
	return m, nil
}
