// SPDX-License-Identifier: Apache-2.0

package forensics

import (
	"context"

	"github.com/imgfs/imgfs/index"
)

// A LayerSummary tells what a layer does. A file is anything but a directory.
type LayerSummary struct {
	Layer     int    `json:"layer"` // 0 is the base
	DiffID    string `json:"diffid,omitempty"`
	Digest    string `json:"digest,omitempty"` // as shipped
	MediaType string `json:"media_type,omitempty"`
	Created   string `json:"created,omitempty"` // RFC 3339
	CreatedBy string `json:"created_by,omitempty"`

	Size    int64 `json:"size"`     // bytes as shipped
	TarSize int64 `json:"tar_size"` // bytes of the uncompressed tar
	Files   int64 `json:"files"`    // that it has
	Bytes   int64 `json:"bytes"`    // of the content of its files
	Added   int64 `json:"added"`    // files where nothing showed before
	Changed int64 `json:"changed"`  // files that took the place of something
	Removed int64 `json:"removed"`  // files of lower layers that it took away and put nothing in their place
	Wasted  int64 `json:"wasted"`   // bytes of its content that the stack does not show
}

// Summaries returns what each layer of the stack does, base first.
func (s *Stack) Summaries(ctx context.Context) ([]LayerSummary, error) {
	list := make([]LayerSummary, len(s.Layers))
	for k, l := range s.Layers {
		list[k] = LayerSummary{
			Layer: l.Index, DiffID: l.DiffID, Digest: l.Digest, MediaType: l.MediaType,
			Created: rfc3339(l.Created), CreatedBy: l.CreatedBy, Size: l.Size, TarSize: l.TarSize,
		}
	}
	err := s.eachPath(ctx, func(versions []Version) error {
		count(list, versions)
		return nil
	})
	if err != nil {
		return nil, err
	}
	live, err := s.liveInodes(ctx)
	if err != nil {
		return nil, err
	}
	for k, l := range s.Layers {
		err := l.eachFile(ctx, func(n *index.Node) {
			list[k].Bytes += n.Size
			if _, ok := live[inode{l.Index, n.Header}]; !ok {
				list[k].Wasted += n.Size
			}
		})
		if err != nil {
			return nil, err
		}
		if m, err := l.Table(ctx); err == nil && list[k].TarSize == 0 {
			list[k].TarSize = m.Meta().TarSize
		}
	}
	return list, nil
}

// count adds what layers do with one path.
func count(list []LayerSummary, versions []Version) {
	here := func(k int) bool {
		for i := range versions {
			if versions[i].Layer == k {
				return true
			}
		}
		return false
	}
	for i := range versions {
		v := &versions[i]
		if v.Node.IsDir() {
			continue
		}
		changes := false
		for j := range versions[:i] {
			changes = changes || versions[j].By == v.Layer
		}
		list[v.Layer].Files++
		if changes {
			list[v.Layer].Changed++
		} else {
			list[v.Layer].Added++
		}
		if v.By >= 0 && !here(v.By) {
			list[v.By].Removed++
		}
	}
}

// eachPath calls f with all versions of each path of the stack, base first.
// They are f's until it returns.
func (s *Stack) eachPath(ctx context.Context, f func([]Version) error) error {
	var group []Version
	flush := func() error {
		if len(group) == 0 {
			return nil
		}
		err := f(group)
		group = group[:0]
		return err
	}
	err := s.Versions(ctx, "", Versions{Version: func(v *Version) error {
		if len(group) > 0 && group[0].Path != v.Path {
			if err := flush(); err != nil {
				return err
			}
		}
		group = append(group, *v)
		return nil
	}})
	if err != nil {
		return err
	}
	return flush()
}

// eachFile calls f for every regular file of the layer, also one that a later
// entry of it replaced.
func (l *Layer) eachFile(ctx context.Context, f func(*index.Node)) error {
	t, err := l.Table(ctx)
	if err != nil {
		return err
	}
	return index.Guard(func() error {
		var n index.Node
		for id := range t.Count() {
			if id%4096 == 0 && ctx.Err() != nil {
				return ctx.Err()
			}
			if err := t.Node(index.EntryID(id+1), &n); err != nil {
				return err
			}
			if n.IsRegular() {
				f(&n)
			}
		}
		return nil
	})
}
