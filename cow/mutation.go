// SPDX-License-Identifier: Apache-2.0

package cow

// What a mutation does. Each says how something is from now on, not how it
// changes, so that doing it twice is doing it once.
const (
	putInode  = 1 + iota // node, inode
	dropInode            // node: no name leads to it any more; xattrs and map go with it
	putEntry             // node (a directory), name, entry
	putXattr             // node, name, value
	dropXattr            // node, name
	putBlocks            // node, first, count: these blocks are local
	barrier              // node: the frame holds only once this node's data is on disk
	confirm              // first: every barrier up to this sequence holds
	reserve              // first: numbers below it may be in use
)

// A mutation is one thing that a change puts. A frame of the journal is a list
// of them, and so is the input of a fold.
type mutation struct {
	kind         uint8
	node         Node
	name         string
	inode        *inode
	entry        entry
	value        []byte
	first, count uint64
}
