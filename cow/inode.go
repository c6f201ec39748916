// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"encoding/binary"
	"fmt"

	"github.com/imgfs/imgfs/index"
)

// A Node numbers an inode: up to the tree's count it is the tree's
// index.NodeID, from FirstOwn on it is an inode that the upper made. It never
// changes and is never used twice.
type Node uint64

// FirstOwn is the first number of an inode that is not the tree's. No tree has
// as many (unionfs.Merge).
const FirstOwn Node = 1 << 28

// RootNode is the root of every tree.
const RootNode Node = index.RootID

// A Time is a timestamp as struct timespec has it.
type Time struct {
	Sec  int64
	Nsec uint32
}

// Before reports whether t is earlier than o.
func (t Time) Before(o Time) bool { return t.Sec < o.Sec || t.Sec == o.Sec && t.Nsec < o.Nsec }

// Flags of an inode.
const (
	flagXattrs = 1 << iota // the upper holds all its xattrs: the tree's count no more
	flagData               // it has a data file
	flagLocal              // regular: no byte comes from the layer. Without flagData the record holds all of them
	flagMixed              // regular: a data file and a map of the blocks in it
)

// origin says which inode of the layers a node of the tree is, so that it is
// found again in a tree with other numbers.
type origin struct {
	layer  uint32
	depth  uint32 // of an implied directory: components of its path; else 0
	header int64  // offset of the tar header in the uncompressed layer
}

// inode is the record of an inode that is not, or no more, as in the tree. A
// record that was put is never written to again.
type inode struct {
	mode, nlink, uid, gid, rdev, flags uint32

	// size is bytes of a regular file (of a local one with a data file that
	// file has the say), how many entries a directory has, the length of a
	// symlink's target.
	size  int64
	lower int64 // regular: the layer answers only below it

	atime, mtime, ctime, btime Time

	parent Node   // directories
	origin origin // nodes of the tree
	tail   string // of a symlink of the upper its target, of a small local file its content

	seq uint64 // of the frame that put it; in memory only
}

func (i *inode) typ() uint32     { return i.mode & index.ModeType }
func (i *inode) isDir() bool     { return i.typ() == index.ModeDir }
func (i *inode) isRegular() bool { return i.typ() == index.ModeRegular }
func (i *inode) dt() uint8       { return uint8(i.mode >> 12 & 15) }

// Inode record, little-endian:
//
//	  0  24  mode, nlink, uid, gid, rdev, flags
//	 24   8  size
//	 32   8  lower
//	 40  48  atime, mtime, ctime, btime: seconds (8), nanoseconds (4)
//	 88   8  parent
//	 96   8  origin: layer (4), depth (4)
//	104   8  origin: header
//	112   …  tail
const inodeHead = 112

var le = binary.LittleEndian

// append encodes i behind b.
func (i *inode) append(b []byte) []byte { return append(i.appendHead(b), i.tail...) }

func (i *inode) appendHead(b []byte) []byte {
	for _, v := range [...]uint32{i.mode, i.nlink, i.uid, i.gid, i.rdev, i.flags} {
		b = le.AppendUint32(b, v)
	}
	b = le.AppendUint64(b, uint64(i.size))
	b = le.AppendUint64(b, uint64(i.lower))
	for _, t := range [...]Time{i.atime, i.mtime, i.ctime, i.btime} {
		b = le.AppendUint64(b, uint64(t.Sec))
		b = le.AppendUint32(b, t.Nsec)
	}
	b = le.AppendUint64(b, uint64(i.parent))
	b = le.AppendUint32(b, i.origin.layer)
	b = le.AppendUint32(b, i.origin.depth)
	return le.AppendUint64(b, uint64(i.origin.header))
}

// decodeInode decodes a record; b is not kept.
func decodeInode(b []byte) (*inode, error) {
	if len(b) < inodeHead || len(b) > inodeHead+maxTail {
		return nil, fmt.Errorf("%w: inode record of %d bytes", ErrDamaged, len(b))
	}
	i := &inode{
		mode: le.Uint32(b), nlink: le.Uint32(b[4:]), uid: le.Uint32(b[8:]), gid: le.Uint32(b[12:]),
		rdev: le.Uint32(b[16:]), flags: le.Uint32(b[20:]),
		size: int64(le.Uint64(b[24:])), lower: int64(le.Uint64(b[32:])),
		parent: Node(le.Uint64(b[88:])),
		origin: origin{layer: le.Uint32(b[96:]), depth: le.Uint32(b[100:]), header: int64(le.Uint64(b[104:]))},
		tail:   string(b[inodeHead:]),
	}
	for k, t := range [...]*Time{&i.atime, &i.mtime, &i.ctime, &i.btime} {
		*t = Time{int64(le.Uint64(b[40+12*k:])), le.Uint32(b[48+12*k:])}
		if t.Nsec >= 1e9 {
			return nil, fmt.Errorf("%w: inode record with %d nanoseconds", ErrDamaged, t.Nsec)
		}
	}
	if i.size < 0 || i.lower < 0 {
		return nil, fmt.Errorf("%w: inode record of size %d", ErrDamaged, i.size)
	}
	return i, nil
}

// maxInline is the size up to which a local file lies in its record, and so in
// journal and checkpoint: it costs the host no file and fsync no second disk
// access.
const maxInline = 16 << 10

// maxTail bounds what a record has behind its head.
const maxTail = maxInline

// An Attr is what stat(2) tells.
type Attr struct {
	Node                       Node
	Mode, Nlink                uint32
	UID, GID, Rdev             uint32
	Size, Blocks               int64 // bytes; units of 512 bytes
	Atime, Mtime, Ctime, Btime Time
}

// An entry is what a name in a directory leads to.
type entry struct {
	node Node  // 0: the name is not there
	typ  uint8 // DT_*; with node 0: index.DTWhiteout where the tree has the name, else 0
}
