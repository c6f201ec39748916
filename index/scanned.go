// SPDX-License-Identifier: Apache-2.0

package index

import (
	"context"
	"strings"
)

// write turns the layer into its table.
func (s *scanner) write(ctx context.Context, w *Writer[EntryID]) (*Meta, error) {
	s.markers()
	counts := s.countLinks()
	var entries []DirEntry[EntryID]
	for i := range s.nodes.n {
		if i%1024 == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		n := s.nodes.at(i).Node
		var err error
		switch n.Type() {
		case ModeDir:
			entries = s.dirEntries(entries[:0], s.nodes.at(i))
			var b DirBlock
			b, err = w.Dir(entries)
			n.SetDir(b, n.Parent)
			n.Nlink = 2
		case ModeSymlink, 0:
			err = w.SetTarget(&n, s.targets[n.addr])
			n.Nlink = counts[i]
		default:
			n.Nlink = counts[i]
		}
		if err != nil {
			return nil, err
		}
		if n.extra != 0 {
			x := &s.extras[n.extra-1]
			if err := w.SetExtra(&n, x.xattrs, x.extents); err != nil {
				return nil, err
			}
		}
		if err := w.Node(&n); err != nil {
			return nil, err
		}
	}
	m := s.meta()
	if err := w.Close(*m); err != nil {
		return nil, err
	}
	m.Version, m.Nodes, m.Xattrs = formatVersion, w.count, w.xattrs
	return m, nil
}

// meta returns what a table says of itself, but for what its writer knows.
func (s *scanner) meta() *Meta {
	return &Meta{Kind: "layer", Size: s.bytes, TarSize: s.in.pos, Links: s.openLink, Oddities: s.oddities, Odd: s.odd}
}

// dirEntries appends what shows of directory d: names and marks, and no name
// of the marks themselves.
func (s *scanner) dirEntries(list []DirEntry[EntryID], d *scanNode) []DirEntry[EntryID] {
	for l := d.first; l != 0; {
		k := s.links.at(int(l) - 1)
		l = k.next
		switch {
		case strings.HasPrefix(k.name, WhiteoutPrefix):
		case k.node != 0:
			list = append(list, DirEntry[EntryID]{k.node, s.node(k.node).dt(), k.name})
		case k.whiteout:
			list = append(list, DirEntry[EntryID]{0, DTWhiteout, k.name})
		}
	}
	return list
}

// dt returns the DT_* of a node, the type bits of its mode shifted.
func (n *Node) dt() uint8 { return uint8(n.Mode & ModeType >> 12) }

// DT returns the type of a directory entry for n, DT_*.
func (n *Node) DT() uint8 { return n.dt() }

// countLinks returns the number of shown names of each node, none for what a
// later entry replaced, and flags the nodes whose name the layer also whites
// out. Such a node has that name alone: a hard link's whiteout hides nothing
// that it brings, so only directories are flagged. A directory's number is
// larger than its parent's, so one pass sees parents first.
func (s *scanner) countLinks() []uint32 {
	counts := make([]uint32, s.nodes.n)
	counts[0] = 1
	for i := range s.nodes.n {
		d := s.nodes.at(i)
		if !d.IsDir() || counts[i] == 0 {
			continue
		}
		for l := d.first; l != 0; {
			k := s.links.at(int(l) - 1)
			l = k.next
			if k.node == 0 || strings.HasPrefix(k.name, WhiteoutPrefix) {
				continue
			}
			counts[k.node-1]++
			if k.whiteout && s.node(k.node).IsDir() {
				s.node(k.node).Flags |= FlagReplaces
			}
		}
	}
	return counts
}

// markers flags the implied directories below which there is no name, only
// whiteouts. A directory's number is larger than its parent's, so one pass
// backwards sees children first.
func (s *scanner) markers() {
	for i := s.nodes.n - 1; i > 0; i-- {
		d := s.nodes.at(i)
		if !d.IsDir() || d.Flags&FlagImplied == 0 {
			continue
		}
		named := false
		for l := d.first; l != 0 && !named; {
			k := s.links.at(int(l) - 1)
			l = k.next
			if k.node != 0 && !strings.HasPrefix(k.name, WhiteoutPrefix) {
				c := s.node(k.node)
				named = !c.IsDir() || c.Flags&FlagMarkers == 0
			}
		}
		if !named {
			d.Flags |= FlagMarkers
		}
	}
}
