// SPDX-License-Identifier: Apache-2.0

package index

import (
	"encoding/binary"
	"math"
	"strconv"
	"unsafe"
)

// A table file is a bbolt database with one bucket "t", followed by a trailer
// that bbolt does not see. The bucket's keys:
//
//	"m"            meta: JSON, see Meta
//	"n" + u32 BE   node segment k: nodes k*65536+1 … , 64 bytes each
//	"d" + u32 BE   directory segment k: directory blocks, one after another
//	"s" + u32 BE   string segment k: link targets, xattrs, sparse maps
//
// Numbers inside values are little-endian. An address is segment<<32 | offset
// in that segment; no block crosses a segment's end.
//
// Node, 64 bytes:
//
//	 0  4  mode: st_mode, type and permissions; type 0 = a hard link whose target lies below this layer
//	 4  4  nlink
//	 8  4  uid
//	12  4  gid
//	16  8  size in bytes; of a directory: u32 number of its parent, u32 number of its entries
//	24  8  mtime, seconds
//	32  4  mtime, nanoseconds
//	36  2  layer, 0 is the base
//	38  2  flags
//	40  8  offset of the tar header in the uncompressed layer
//	48  8  regular: offset of the content; directory: address of its block ("d");
//	       symlink, open hard link: address of the target ("s"); device: st_rdev
//	56  8  address of the extra block + 1 ("s"), 0 = none
//
// Directory block:
//
//	0  4  length of the block
//	4  8n probes, sorted by hash, then by name: u32 hash of the name, u32 offset of its entry in the block
//	…  …  entries, in order of their numbers: u32 number, u8 type (DT_*, DT_WHT is a whiteout), u8 length of the name, name
//
// String: u32 length, bytes.
//
// Extra block: u32 number of xattrs, u32 number of extents, then per xattr
// u16 length of the name, u32 length of the value, name, value (sorted by
// name); then per extent u64 offset in the file, u64 length, u64 offset in
// the uncompressed layer.
//
// Trailer: u32 CRC-32C of each 64 KiB of the bbolt file (the last may be
// shorter), u32 number of each such block that holds a page header, and a
// footer:
//
//	-32 8  "imgfsIXT"
//	-24 4  version, 3
//	-20 8  length of the bbolt file
//	-12 4  number of checksums
//	 -8 4  number of blocks with page headers
//	 -4 4  CRC-32C of the trailer before it
const (
	formatVersion = 3
	nodeSize      = 64
	segmentNodes  = 1 << 16
	segmentSize   = segmentNodes * nodeSize // 4 MiB
	crcBlock      = 64 << 10
	dirHead       = 4
	probeSize     = 8
	entryHead     = 6
	extentSize    = 24
	footerSize    = 32
	footerMagic   = "imgfsIXT"
)

// Flags of a node in the table of one layer.
const (
	// FlagImplied marks a directory without an entry of its own in the tar.
	FlagImplied = 1 << iota
	// FlagOpaque marks a directory that hides the children below its layer.
	FlagOpaque
	// FlagReplaces marks an entry whose name this layer also whites out.
	FlagReplaces
	// FlagMarkers marks an implied directory below which there are only
	// whiteouts.
	FlagMarkers
	// FlagSparse marks a regular file with a list of extents, also in a tree.
	FlagSparse
)

// Types of a directory entry, as in getdents(2).
const (
	// DTWhiteout is the type of an entry that hides a name below its layer.
	DTWhiteout = 14
)

// File types of st_mode.
const (
	ModeType    = 0o170000
	ModeSocket  = 0o140000
	ModeSymlink = 0o120000
	ModeRegular = 0o100000
	ModeBlock   = 0o060000
	ModeDir     = 0o040000
	ModeChar    = 0o020000
	ModeFIFO    = 0o010000
)

// A Node is one inode, decoded.
type Node struct {
	Mode      uint32 // st_mode
	Nlink     uint32
	UID, GID  uint32
	Size      int64 // bytes; the target's length for a symlink, 0 for directories
	Mtime     int64 // seconds
	MtimeNsec uint32
	Layer     int // 0 is the base
	Flags     uint16
	Header    int64  // offset of the tar header in the uncompressed layer
	Data      int64  // regular files: offset of the content in the uncompressed layer
	Rdev      uint32 // devices
	Parent    uint32 // directories: number of the parent
	entries   uint32 // directories: how many
	addr      uint64 // directories, symlinks, open hard links
	extra     uint64
}

// Type returns the file type bits of the mode.
func (n *Node) Type() uint32 { return n.Mode & ModeType }

// IsDir reports whether n is a directory.
func (n *Node) IsDir() bool { return n.Mode&ModeType == ModeDir }

// IsRegular reports whether n is a regular file.
func (n *Node) IsRegular() bool { return n.Mode&ModeType == ModeRegular }

// HasExtra reports whether n has xattrs or is sparse.
func (n *Node) HasExtra() bool { return n.extra != 0 }

// An Extent is a run of a sparse file that holds data.
type Extent struct {
	Off  int64 // in the file
	Len  int64
	Data int64 // offset in the uncompressed layer
}

// An Xattr is an extended attribute.
type Xattr struct {
	Name  string
	Value []byte
}

var le = binary.LittleEndian

func (n *Node) encode(b []byte) {
	size, data := uint64(n.Size), uint64(n.Data)
	switch n.Mode & ModeType {
	case ModeDir:
		size, data = uint64(n.entries)<<32|uint64(n.Parent), n.addr
	case ModeSymlink, 0:
		data = n.addr
	case ModeChar, ModeBlock:
		data = uint64(n.Rdev)
	}
	le.PutUint32(b[0:], n.Mode)
	le.PutUint32(b[4:], n.Nlink)
	le.PutUint32(b[8:], n.UID)
	le.PutUint32(b[12:], n.GID)
	le.PutUint64(b[16:], size)
	le.PutUint64(b[24:], uint64(n.Mtime))
	le.PutUint32(b[32:], n.MtimeNsec)
	le.PutUint16(b[36:], uint16(n.Layer))
	le.PutUint16(b[38:], n.Flags)
	le.PutUint64(b[40:], uint64(n.Header))
	le.PutUint64(b[48:], data)
	le.PutUint64(b[56:], n.extra)
}

func (n *Node) decode(b []byte) {
	b = b[:nodeSize]
	n.Mode = le.Uint32(b[0:])
	n.Nlink = le.Uint32(b[4:])
	n.UID = le.Uint32(b[8:])
	n.GID = le.Uint32(b[12:])
	size := le.Uint64(b[16:])
	n.Mtime = int64(le.Uint64(b[24:]))
	n.MtimeNsec = le.Uint32(b[32:])
	n.Layer = int(le.Uint16(b[36:]))
	n.Flags = le.Uint16(b[38:])
	n.Header = int64(le.Uint64(b[40:]))
	data := le.Uint64(b[48:])
	n.extra = le.Uint64(b[56:])
	n.Size, n.Data, n.Rdev, n.Parent, n.entries, n.addr = 0, 0, 0, 0, 0, 0
	switch n.Mode & ModeType {
	case ModeDir:
		n.Parent, n.entries, n.addr = uint32(size), uint32(size>>32), data
	case ModeSymlink, 0:
		n.Size, n.addr = int64(size), data
	case ModeChar, ModeBlock:
		n.Rdev = uint32(data)
	default:
		n.Size, n.Data = int64(size), int64(data)
	}
}

// hashName mixes eight bytes a step, the last ones of a long name once more
// if they are no whole step, and ends in a full mix, so that the top bits
// spread evenly: a probe is found by interpolation over them.
func hashName(name string) uint32 {
	const k0, k1 = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93
	b := unsafe.Slice(unsafe.StringData(name), len(name))
	h := uint64(len(b)) * k1
	if len(b) < 8 {
		for _, c := range b {
			h = h<<8 ^ uint64(c)
		}
	} else {
		last := le.Uint64(b[len(b)-8:])
		for ; len(b) > 8; b = b[8:] {
			h = (h ^ le.Uint64(b)) * k0
			h ^= h >> 29
		}
		h ^= last
	}
	h *= k0
	h ^= h >> 32
	h *= k1
	return uint32(h >> 32)
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// quote returns s as Go would write it, cut short where it is long: PAX names
// may have a megabyte.
func quote(s string) string {
	if len(s) > maxQuoted {
		return strconv.QuoteToGraphic(s[:maxQuoted]) + "…"
	}
	return strconv.QuoteToGraphic(s)
}

const maxQuoted = 300 // bytes

func roundUp512(n int64) int64 {
	if n > math.MaxInt64-511 {
		return math.MaxInt64 &^ 511
	}
	return (n + 511) &^ 511
}
