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

	first, last uint64 // sequence numbers of the frames in it; 0: none
	bytes       int64  // of those frames, in the journal
}

func newDelta() *delta {
	return &delta{
		inodes: make(map[Node]*inode),
		dirs:   make(map[Node]map[string]entry),
		xattrs: make(map[Node]map[string][]byte),
		chunks: make(map[chunkKey]*chunk),
	}
}
