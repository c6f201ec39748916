// SPDX-License-Identifier: Apache-2.0

package index

import "strings"

// hardLink gives the target's node another name. A target that the layer did
// not bring so far is looked for below the layer when layers are stacked.
func (s *scanner) hardLink(parent EntryID, name, target string) error {
	if len(target) > maxTarget {
		return s.bad("link target of %d bytes: %w of %d", len(target), ErrLimit, maxTarget)
	}
	id, path, err := s.find(target)
	if err != nil {
		return err
	}
	if id != 0 && s.node(id).IsDir() {
		return s.bad("bad link: %s is a directory", quote(target))
	}
	l := s.links.at(s.link(parent, name))
	if old := l.node; old != 0 {
		s.lastID = 0
		if s.node(old).Flags&FlagImplied == 0 {
			s.report("D1", "a name for the second time")
		} else {
			s.report("D5", "a directory with names gives place to a file")
		}
	}
	if id == 0 {
		s.report("H2", "a hard link to what this layer does not hold")
		s.openLink++
		n := Node{Header: s.off, addr: uint64(len(s.targets))}
		s.targets = append(s.targets, strings.Clone(path)) // not the PAX block around it
		s.text += int64(len(path))
		id = s.addNode(n, 0)
	}
	l.node = id
	return nil
}

// find looks a hard link's target up in what the layer brought so far. Where
// it is not there, path is the target as it is to be looked up below: cleaned
// and, if symlinks of this layer were on the way, after a NUL the path that
// they lead to.
func (s *scanner) find(target string) (id EntryID, path string, err error) {
	name := s.name
	s.name = target
	parts, err := s.clean(target)
	s.name = name
	if err != nil {
		return 0, "", err
	}
	if len(parts) == 0 {
		return 0, "", s.bad("bad link: the root")
	}
	at, hops, todo := EntryID(RootID), 0, parts
	var way []string
	missing := false
	for steps := 0; len(todo) > 0; {
		part := todo[0]
		todo = todo[1:]
		if steps++; steps > maxSteps {
			return 0, "", s.bad("bad link: symlink loop on the way to %s", quote(target))
		}
		switch part {
		case "", ".":
			continue
		case "..":
			if len(way) > 0 {
				way = way[:len(way)-1]
			}
			if !missing {
				at = EntryID(s.node(at).Parent)
			}
			continue
		}
		way = append(way, part)
		if missing {
			continue
		}
		l, _, ok := s.byName.find(&s.links, at, part)
		if !ok || s.links.at(l).node == 0 {
			missing = true
			continue
		}
		found := s.links.at(l).node
		n := s.node(found)
		if len(todo) == 0 {
			return found, "", nil
		}
		switch n.Type() {
		case ModeDir:
			at = found
		case ModeSymlink:
			if hops++; hops > maxHops {
				return 0, "", s.bad("bad link: symlink loop on the way to %s", quote(target))
			}
			t := s.targets[n.addr]
			way = way[:len(way)-1]
			if strings.HasPrefix(t, "/") {
				at, way = RootID, nil
			}
			todo = append(strings.Split(t, "/"), todo...)
		default:
			missing = true
		}
	}
	path = strings.Join(parts, "/")
	if hops > 0 && len(way) <= maxComponents {
		path += "\x00" + strings.Join(way, "/")
	}
	if !missing {
		// the way ended at a directory by way of ".."
		return 0, "", s.bad("bad link: %s is a directory", quote(target))
	}
	return 0, path, nil
}
