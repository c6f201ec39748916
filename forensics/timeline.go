// SPDX-License-Identifier: Apache-2.0

package forensics

import (
	"cmp"
	"context"
	"slices"
)

// TimelineOptions say what Timeline tells. The zero value is all.
type TimelineOptions struct {
	Match  Match
	Hash   bool // tell the hashes of the files
	Chrono bool // the earliest first; else in the order of a walk
}

// A Moment is a version of a file with the times that are known of it.
type Moment struct {
	*Record
	*Version        // nil in what has no layers
	Entry    *Entry // what the version is, also of a hard link that shows
	Born     int64  // seconds: when its layer was made; that of the file if nobody knows
	Changed  int64  // seconds: when the layer was made that ended it; Born if none did
}

// Timeline calls f for every version that the layers of a stack hold and that
// matches. What it gets is valid until it returns.
func (s *Stack) Timeline(ctx context.Context, opt TimelineOptions, f func(*Moment) error) error {
	if len(s.Layers) == 0 {
		return s.Tree.Walk(ctx, func(e *Entry) error {
			if !opt.Match.quick(e) {
				return nil
			}
			r, err := s.entryRecord(ctx, e, opt.Hash)
			if err != nil {
				return err
			}
			return f(&Moment{Record: r, Entry: e, Born: e.Mtime, Changed: e.Mtime})
		})
	}
	q := &layerSearch{s: s, ctx: ctx, m: &opt.Match}
	if _, err := q.prepare(); err != nil {
		return err
	}
	tell := func(v *Version, at *place) error {
		r, err := s.record(ctx, v, opt.Hash)
		if err != nil {
			return err
		}
		return f(s.moment(r, v, s.entryAt(v.Path, at)))
	}
	var list []hit
	err := s.Versions(ctx, "", Versions{Version: func(v *Version) error {
		at, ok, err := q.matches(v)
		if err != nil || !ok {
			return err
		}
		if opt.Chrono {
			list = append(list, hit{*v, at})
			return nil
		}
		return tell(v, &at)
	}})
	if err != nil || !opt.Chrono {
		return err
	}
	slices.SortStableFunc(list, func(a, b hit) int {
		x, y := &a.at.node, &b.at.node
		return cmp.Or(cmp.Compare(x.Mtime, y.Mtime), cmp.Compare(x.MtimeNsec, y.MtimeNsec))
	})
	for i := range list {
		if err := tell(&list[i].v, &list[i].at); err != nil {
			return err
		}
	}
	return nil
}

// entryAt makes an Entry of a file of a layer.
func (s *Stack) entryAt(path string, at *place) *Entry {
	n := &at.node
	return &Entry{
		Path: path, Mode: n.Mode, Nlink: n.Nlink, UID: n.UID, GID: n.GID, Rdev: n.Rdev, Size: n.Size,
		Mtime: n.Mtime, MtimeNsec: n.MtimeNsec, Layer: s.Layers[at.layer].Index, Header: n.Header, node: *n,
	}
}

func (s *Stack) moment(r *Record, v *Version, e *Entry) *Moment {
	m := &Moment{Record: r, Version: v, Entry: e, Born: e.Mtime}
	if t := s.Layers[v.Layer].Created; !t.IsZero() {
		m.Born = t.Unix()
	}
	m.Changed = m.Born
	if v.By >= 0 {
		if t := s.Layers[v.By].Created; !t.IsZero() {
			m.Changed = t.Unix()
		}
	}
	return m
}
