// SPDX-License-Identifier: Apache-2.0

package forensics

import (
	"cmp"
	"context"
	"crypto/sha256"
	"slices"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/term"
)

// A Waste tells which bytes of content a stack ships in vain.
type Waste struct {
	Bytes       int64 `json:"bytes"`       // of content in all layers
	Shown       int64 `json:"shown"`       // that the tree shows, each file once
	Overwritten int64 `json:"overwritten"` // that something later took the place of
	Deleted     int64 `json:"deleted"`     // that something later took away
	Duplicate   int64 `json:"duplicate"`   // that the tree shows, and that another file has as well
	Unchanged   int64 `json:"unchanged"`   // overwritten by the same content: a change of mode or owner

	// Efficiency is Shown / Bytes; 1 where there are none.
	Efficiency float64 `json:"efficiency"`

	Files []WastedFile `json:"files"` // that waste most, the greatest first
}

// A WastedFile is a path, or content under several, that wastes bytes.
type WastedFile struct {
	Path       string   `json:"path"` // absolute; of duplicates the first
	PathBase64 string   `json:"path_base64,omitempty"`
	Why        string   `json:"why"`   // "overwritten", "deleted" or "duplicate"
	Bytes      int64    `json:"bytes"` // in vain
	Times      int      `json:"times"` // how many versions or files they are
	Layers     []int    `json:"layers"`
	Paths      []string `json:"paths,omitempty"` // of duplicates, all
}

// Waste measures the stack. With duplicates false it does not look for these,
// which takes the hashes of all layers. top is how many files it names, 0 is
// all.
func (s *Stack) Waste(ctx context.Context, duplicates bool, top int) (*Waste, error) {
	m := &wasteMeter{s: s, ctx: ctx, seen: make(map[inode]bool), hash: duplicates, w: Waste{Files: []WastedFile{}}}
	var err error
	if m.live, err = s.liveInodes(ctx); err != nil {
		return nil, err
	}
	if err := s.eachPath(ctx, m.path); err != nil {
		return nil, err
	}
	for _, l := range s.Layers { // what a layer itself wrote twice has no path
		err := l.eachFile(ctx, func(n *index.Node) {
			if n.Nlink == 0 {
				m.w.Overwritten += n.Size
			}
		})
		if err != nil {
			return nil, err
		}
	}
	if duplicates {
		if err := m.duplicates(); err != nil {
			return nil, err
		}
	}
	w := &m.w
	w.Bytes = w.Shown + w.Overwritten + w.Deleted
	w.Efficiency = 1
	if w.Bytes > 0 {
		w.Efficiency = float64(w.Shown) / float64(w.Bytes)
	}
	slices.SortStableFunc(w.Files, func(a, b WastedFile) int { return cmp.Compare(b.Bytes, a.Bytes) })
	if top > 0 && len(w.Files) > top {
		w.Files = w.Files[:top]
	}
	return w, nil
}

type wasteMeter struct {
	s    *Stack
	ctx  context.Context
	w    Waste
	hash bool
	live map[inode]struct{}
	seen map[inode]bool // files of several names that were counted
}

// path measures the versions of one path.
func (m *wasteMeter) path(versions []Version) error {
	var over, gone WastedFile
	for i := range versions {
		v := &versions[i]
		if !v.Node.IsRegular() {
			continue
		}
		id := inode{m.s.Layers[v.Layer].Index, v.Node.Header}
		if v.Node.Nlink > 1 {
			if m.seen[id] {
				continue
			}
			m.seen[id] = true
		}
		if _, ok := m.live[id]; ok {
			m.w.Shown += v.Node.Size
			continue
		}
		sum, into := &over, &m.w.Overwritten
		if v.End != Replaced {
			sum, into = &gone, &m.w.Deleted
		} else if same, err := m.unchanged(versions, i); err != nil {
			return err
		} else if same {
			m.w.Unchanged += v.Node.Size
		}
		*into += v.Node.Size
		sum.Bytes += v.Node.Size
		sum.Times++
		sum.Layers = append(sum.Layers, id.layer)
	}
	m.add(over, "overwritten", versions[0].Path)
	m.add(gone, "deleted", versions[0].Path)
	return nil
}

func (m *wasteMeter) add(f WastedFile, why, path string) {
	if f.Bytes > 0 {
		f.Path, f.PathBase64, f.Why = "/"+path, term.Base64(path), why
		m.w.Files = append(m.w.Files, f)
	}
}

// unchanged reports whether the version that replaced version i has the same
// content.
func (m *wasteMeter) unchanged(versions []Version, i int) (bool, error) {
	v := &versions[i]
	for j := i + 1; j < len(versions) && m.hash; j++ {
		next := &versions[j]
		if next.Layer != v.By || !next.Node.IsRegular() || next.Node.Size != v.Node.Size {
			continue
		}
		a, err := m.sum(v.Layer, v.Node.Header)
		if err != nil {
			return false, err
		}
		b, err := m.sum(next.Layer, next.Node.Header)
		return a == b, err
	}
	return false, nil
}

func (m *wasteMeter) sum(layer int, header int64) (sum [sha256.Size]byte, err error) {
	h, err := m.s.Layers[layer].Hashes(m.ctx)
	if err == nil {
		sum, _, err = h.Of(header)
	}
	return sum, err
}

// duplicates finds files of the tree that have the same content. Only those of
// one size are asked for their hashes.
func (m *wasteMeter) duplicates() error {
	bySize := make(map[int64][]Entry)
	seen := make(map[inode]bool)
	err := m.s.Tree.Walk(m.ctx, func(e *Entry) error {
		id := inode{e.Layer, e.Header}
		if e.IsRegular() && e.Size > 0 && !seen[id] {
			seen[id] = true
			bySize[e.Size] = append(bySize[e.Size], *e)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for size, same := range bySize {
		if len(same) < 2 {
			continue
		}
		groups := make(map[[sha256.Size]byte][]Entry)
		for i := range same {
			sum, err := m.s.Tree.Hash(m.ctx, &same[i])
			if err != nil {
				return err
			}
			groups[sum] = append(groups[sum], same[i])
		}
		for _, g := range groups {
			if len(g) > 1 {
				m.duplicate(size, g)
			}
		}
	}
	slices.SortFunc(m.w.Files, func(a, b WastedFile) int { return ComparePaths(a.Path, b.Path) })
	return nil
}

func (m *wasteMeter) duplicate(size int64, files []Entry) {
	f := WastedFile{Why: "duplicate", Bytes: size * int64(len(files)-1), Times: len(files)}
	for i := range files {
		path := joinPath(m.s.Path, files[i].Path)
		if i == 0 {
			f.Path, f.PathBase64 = "/"+path, term.Base64(path)
		}
		f.Paths = append(f.Paths, "/"+path)
		if !slices.Contains(f.Layers, files[i].Layer) {
			f.Layers = append(f.Layers, files[i].Layer)
		}
	}
	m.w.Duplicate += f.Bytes
	m.w.Files = append(m.w.Files, f)
}
