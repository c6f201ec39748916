// SPDX-License-Identifier: Apache-2.0

package cow

// blockSize is the unit of copying content.
const blockSize = 4096

// A chunk of a file's map says of chunkBlocks blocks which are local.
const chunkBlocks = 4096

// chunk is a bitmap, the first block lowest.
type chunk [chunkBlocks / 64]uint64

func (c *chunk) has(i uint64) bool { return c[i/64]>>(i%64)&1 != 0 }
func (c *chunk) set(i uint64)      { c[i/64] |= 1 << (i % 64) }

// chunkKey names a chunk: blocks from index*chunkBlocks on of a node.
type chunkKey struct {
	node  Node
	index uint64
}

// A delta is what changed since some checkpoint. The frozen one is not written
// to; what is in one is never written to, only replaced (but for chunks of the
// active one).
type delta struct {
	inodes map[Node]*inode            // nil: dropped
	dirs   map[Node]map[string]entry  // by directory
	xattrs map[Node]map[string][]byte // a nil value: dropped
	chunks map[chunkKey]*chunk

	bytes int64 // of the frames in it, in the journal, and of tails that others have there
}

func newDelta() *delta {
	return &delta{
		inodes: make(map[Node]*inode),
		dirs:   make(map[Node]map[string]entry),
		xattrs: make(map[Node]map[string][]byte),
		chunks: make(map[chunkKey]*chunk),
	}
}

// empty reports whether nothing is in d.
func (d *delta) empty() bool {
	return len(d.inodes) == 0 && len(d.dirs) == 0 && len(d.xattrs) == 0 && len(d.chunks) == 0
}

// apply applies m, which is of the frame seq, to the active delta of v.
// Preconditions: of a living upper, u.mu is held for writing.
func (v *view) apply(seq uint64, m *mutation) error {
	d := v.active
	switch m.kind {
	case putPart:
		// The journal has the rest of the tail elsewhere, memory has it here too.
		if d.inodes[m.node] == nil {
			d.bytes += int64(len(m.inode.tail) - len(m.value))
		}
		fallthrough
	case putInode:
		m.inode.seq = seq
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
		return v.applyBlocks(m)
	}
	return nil
}

// applyBlocks marks blocks as local.
func (v *view) applyBlocks(m *mutation) error {
	if err := v.loadChunks(m); err != nil {
		return err
	}
	for b, end := m.first, m.first+m.count; b < end; {
		k := chunkKey{m.node, b / chunkBlocks}
		c := v.active.chunks[k]
		for stop := min(end, (k.index+1)*chunkBlocks); b < stop; b++ {
			c.set(b % chunkBlocks)
		}
	}
	return nil
}

// loadChunks brings the chunks that m marks into the active delta.
func (v *view) loadChunks(m *mutation) error {
	if m.count == 0 {
		return nil
	}
	for i := m.first / chunkBlocks; i <= (m.first+m.count-1)/chunkBlocks; i++ {
		k := chunkKey{m.node, i}
		if v.active.chunks[k] != nil {
			continue
		}
		old, err := v.chunk(k)
		if err != nil {
			return err
		}
		c := new(chunk)
		if old != nil {
			*c = *old
		}
		v.active.chunks[k] = c
	}
	return nil
}
