// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"slices"

	"github.com/imgfs/imgfs/unionfs"
)

// A view is the merged tree at one moment: deltas over a checkpoint over the
// tree. Its methods change nothing; of a living upper they run under Upper.mu.
type view struct {
	fs     *unionfs.FS
	active *delta      // nil in a snapshot
	frozen *delta      // nil: nothing is being folded
	cp     *checkpoint // nil: nothing was folded yet
	key    id128       // of hashName
}

// deltaRecord returns the record of n that a delta has; gone tells that one has
// dropped it.
func (v *view) deltaRecord(n Node) (i *inode, gone bool) {
	for _, d := range [...]*delta{v.active, v.frozen} {
		if d == nil {
			continue
		}
		if i, ok := d.inodes[n]; ok {
			return i, i == nil
		}
	}
	return nil, false
}

// record returns the record of n, or nil where n is as in the tree.
// gone tells that it was dropped.
func (v *view) record(n Node) (i *inode, gone bool, err error) { return v.recordOf(n, true) }

// recordOf is record. Unless whole the tail may be missing.
func (v *view) recordOf(n Node, whole bool) (i *inode, gone bool, err error) {
	if i, gone := v.deltaRecord(n); i != nil || gone {
		return i, gone, nil
	}
	if v.cp == nil {
		return nil, false, nil
	}
	return v.cp.inodeOf(n, whole)
}

// entry returns what the deltas and the checkpoint say of a name; ok is false
// where they say nothing and the tree has the say.
func (v *view) entry(dir Node, name string) (e entry, ok bool, err error) {
	for _, d := range [...]*delta{v.active, v.frozen} {
		if d == nil {
			continue
		}
		if e, ok := d.dirs[dir][name]; ok {
			return e, true, nil
		}
	}
	if v.cp == nil || !v.cp.marks.mayHold(dir) {
		return entry{}, false, nil
	}
	return v.cp.entry(dir, v.hashName(name), name)
}

// xattr returns what the deltas and the checkpoint hold of an xattr; nil: there
// is none. It is asked only of nodes with flagXattrs.
func (v *view) xattr(n Node, name string) ([]byte, error) {
	for _, d := range [...]*delta{v.active, v.frozen} {
		if d == nil {
			continue
		}
		if value, ok := d.xattrs[n][name]; ok {
			return value, nil
		}
	}
	if v.cp == nil {
		return nil, nil
	}
	return v.cp.xattr(n, name)
}

// eachXattr calls f for each xattr that the upper holds of n, in no order,
// until it returns false.
func (v *view) eachXattr(n Node, f func(name string, value []byte) bool) error {
	seen := map[string]struct{}{}
	for _, d := range [...]*delta{v.active, v.frozen} {
		if d == nil {
			continue
		}
		for name, value := range d.xattrs[n] {
			if _, ok := seen[name]; ok {
				continue
			}
			seen[name] = struct{}{}
			if value != nil && !f(name, value) {
				return nil
			}
		}
	}
	if v.cp == nil {
		return nil
	}
	return v.cp.eachXattr(n, func(name string, value []byte) bool {
		if _, ok := seen[name]; ok {
			return true
		}
		return f(name, value)
	})
}

// chunk returns a chunk of a mixed file's map, nil where no block is local. It
// is not to be written to.
func (v *view) chunk(k chunkKey) (*chunk, error) {
	for _, d := range [...]*delta{v.active, v.frozen} {
		if d == nil {
			continue
		}
		if c, ok := d.chunks[k]; ok {
			return c, nil
		}
	}
	if v.cp == nil {
		return nil, nil
	}
	return v.cp.chunk(k)
}

// chunksOf calls f for the chunks of n from an index on: for those in memory,
// sorted, until it returns false, then for those of the checkpoint in the same
// way. It may be told of one twice.
func (v *view) chunksOf(n Node, from uint64, f func(index uint64) bool) error {
	var memory []uint64
	for _, d := range [...]*delta{v.active, v.frozen} {
		if d == nil {
			continue
		}
		for k := range d.chunks {
			if k.node == n && k.index >= from {
				memory = append(memory, k.index)
			}
		}
	}
	slices.Sort(memory)
	for _, k := range memory {
		if !f(k) {
			break
		}
	}
	if v.cp == nil {
		return nil
	}
	return v.cp.chunksOf(n, from, f)
}
