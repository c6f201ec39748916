// SPDX-License-Identifier: Apache-2.0

package index

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"os"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Meta is what a table says of itself.
type Meta struct {
	Version  int      `json:"version"`
	Kind     string   `json:"kind"`               // "layer" or "tree"
	Nodes    uint32   `json:"nodes"`              // count, the root included
	Xattrs   bool     `json:"xattrs,omitempty"`   // some node has one
	Size     int64    `json:"size"`               // bytes of regular files' content
	TarSize  int64    `json:"tar_size,omitempty"` // layer: bytes, uncompressed
	Links    int      `json:"links,omitempty"`    // layer: hard links whose target lies below
	Oddities []Oddity `json:"oddities,omitempty"` // the first MaxOddities; of a tree: what stacking met
	Odd      int      `json:"odd,omitempty"`      // how many there were
	Layers   []string `json:"layers,omitempty"`   // tree: the keys of its layers, base first

	// Identity of a tree is a hash of which inode of the layers each number
	// stands for: two trees of one Identity give the same numbers. In hex.
	Identity string `json:"identity,omitempty"`
}

// A DirEntry is a name in a directory that is written.
type DirEntry[ID ~uint32] struct {
	ID   ID
	Type uint8 // DT_*
	Name string
}

// A Writer makes a table file. Directories and strings may come in any order
// but before the node that points to them; nodes come in the order of their
// numbers.
type Writer[ID ~uint32] struct {
	path    string
	db      *bolt.DB
	pending []segment
	nodes   segment
	dirs    segment
	strs    segment
	count   uint32
	xattrs  bool
	probes  []uint64
	origins hash.Hash // of which inode each node is
	scratch [16]byte
}

type segment struct {
	kind byte
	k    uint32
	b    []byte
}

// Create begins a table in the new file path, which must not exist. Close
// finishes it, Abort removes it.
func Create[ID ~uint32](path string) (*Writer[ID], error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{
		NoSync:         true,
		NoFreelistSync: true,
		FreelistType:   bolt.FreelistMapType,
		Timeout:        time.Second,
		PageSize:       tablePageSize,
		// bbolt copies all that is to be written when its map must grow.
		InitialMmapSize: 512 << 20,
		OpenFile: func(name string, flag int, perm os.FileMode) (*os.File, error) {
			return os.OpenFile(name, flag|os.O_EXCL, perm)
		},
	})
	if err != nil {
		if !errors.Is(err, os.ErrExist) {
			os.Remove(path)
		}
		return nil, err
	}
	db.AllocSize = 64 << 10
	return &Writer[ID]{
		path: path, db: db, origins: sha256.New(),
		nodes: segment{kind: 'n'}, dirs: segment{kind: 'd'}, strs: segment{kind: 's'},
	}, nil
}

// tablePageSize is small, because most layers are: a table of ten names
// takes 8 KiB.
const tablePageSize = 1024

// Abort removes what was written.
func (w *Writer[ID]) Abort() {
	if w.db != nil {
		w.db.Close()
		w.db = nil
		os.Remove(w.path)
	}
}

// put stores finished segments, a transaction for every 256 MiB: each writes
// the last leaf of the one before, with its values, once more.
func (w *Writer[ID]) put(s segment) error {
	w.pending = append(w.pending, s)
	if len(w.pending) < 64 {
		return nil
	}
	return w.flush(nil)
}

func (w *Writer[ID]) flush(meta []byte) error {
	err := w.db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte("t"))
		if err != nil {
			return err
		}
		b.FillPercent = 1
		for _, s := range w.pending {
			if err := b.Put(binary.BigEndian.AppendUint32([]byte{s.kind}, s.k), s.b); err != nil {
				return err
			}
		}
		if meta == nil {
			return nil
		}
		return b.Put([]byte("m"), meta)
	})
	w.pending = w.pending[:0]
	return err
}

// room makes sure that n more bytes fit in s and returns their address. A
// block larger than a segment gets one of its own.
func (w *Writer[ID]) room(s *segment, n int) (uint64, error) {
	if int64(n) > maxBlock {
		return 0, fmt.Errorf("a directory or attribute block of %d bytes: %w of %d", n, ErrLimit, int64(maxBlock))
	}
	if len(s.b) > 0 && len(s.b)+n > segmentSize {
		if err := w.put(*s); err != nil {
			return 0, err
		}
		*s = segment{s.kind, s.k + 1, make([]byte, 0, max(n, segmentSize))}
	}
	if cap(s.b)-len(s.b) < n { // twice as much: append would take a quarter more, and copy again and again
		s.b = slices.Grow(s.b, max(n, min(len(s.b), segmentSize-len(s.b))))
	}
	return uint64(s.k)<<32 | uint64(len(s.b)), nil
}

// maxBlock is what bbolt can hold in a value, less a little.
const maxBlock = 1<<31 - 1<<20

// A DirBlock is where a table has a directory's entries, for SetDir.
type DirBlock struct {
	addr    uint64
	entries uint32
}

// Dir writes the block of a directory with those entries, which it sorts by
// number, and returns it for SetDir.
func (w *Writer[ID]) Dir(entries []DirEntry[ID]) (DirBlock, error) {
	slices.SortFunc(entries, func(a, b DirEntry[ID]) int {
		if c := cmp.Compare(a.ID, b.ID); c != 0 {
			return c
		}
		return cmp.Compare(a.Name, b.Name)
	})
	size := dirHead + len(entries)*(probeSize+entryHead)
	for i := range entries {
		size += len(entries[i].Name)
	}
	addr, err := w.room(&w.dirs, size)
	if err != nil {
		return DirBlock{}, err
	}
	w.probes = w.probes[:0]
	off := dirHead + probeSize*len(entries)
	for i := range entries {
		w.probes = append(w.probes, uint64(hashName(entries[i].Name))<<32|uint64(off))
		off += entryHead + len(entries[i].Name)
	}
	slices.Sort(w.probes)
	sortEqual(w.probes, entries)
	b := le.AppendUint32(w.dirs.b, uint32(size))
	for _, p := range w.probes {
		b = le.AppendUint32(b, uint32(p>>32))
		b = le.AppendUint32(b, uint32(p))
	}
	for i := range entries {
		e := &entries[i]
		b = le.AppendUint32(b, uint32(e.ID))
		b = append(b, e.Type, byte(len(e.Name)))
		b = append(b, e.Name...)
	}
	w.dirs.b = b
	return DirBlock{addr, uint32(len(entries))}, nil
}

// sortEqual brings probes of one hash, which are in the order of their
// entries, into the order of their names. Two names of one hash are rare but
// where someone made them; then a lookup bisects.
func sortEqual[ID ~uint32](probes []uint64, entries []DirEntry[ID]) {
	var at map[uint32]string // name by offset, made at need
	for lo := 0; lo < len(probes); {
		hi := lo + 1
		for hi < len(probes) && probes[hi]>>32 == probes[lo]>>32 {
			hi++
		}
		if hi-lo > 1 {
			if at == nil {
				at = make(map[uint32]string, len(entries))
				off := uint32(dirHead + probeSize*len(entries))
				for i := range entries {
					at[off] = entries[i].Name
					off += uint32(entryHead + len(entries[i].Name))
				}
			}
			slices.SortFunc(probes[lo:hi], func(a, b uint64) int {
				return cmp.Compare(at[uint32(a)], at[uint32(b)])
			})
		}
		lo = hi
	}
}

// SetDir makes n the directory of the entries in b.
func (n *Node) SetDir(b DirBlock, parent uint32) {
	n.addr, n.entries, n.Parent = b.addr, b.entries, parent
}

// SetTarget writes a symlink's or open hard link's target and points n to it.
func (w *Writer[ID]) SetTarget(n *Node, target string) error {
	addr, err := w.room(&w.strs, 4+len(target))
	if err != nil {
		return err
	}
	w.strs.b = append(le.AppendUint32(w.strs.b, uint32(len(target))), target...)
	n.addr, n.Size = addr, int64(len(target))
	return nil
}

// SetExtra writes n's xattrs, which are sorted by name, and its extents; a
// list that is not nil makes n sparse.
func (w *Writer[ID]) SetExtra(n *Node, xattrs []Xattr, extents []Extent) error {
	n.extra = 0
	if extents != nil {
		n.Flags |= FlagSparse
	}
	if len(xattrs) == 0 && len(extents) == 0 {
		return nil
	}
	size := 8 + extentSize*len(extents)
	for _, x := range xattrs {
		size += 6 + len(x.Name) + len(x.Value)
	}
	addr, err := w.room(&w.strs, size)
	if err != nil {
		return err
	}
	b := le.AppendUint32(w.strs.b, uint32(len(xattrs)))
	b = le.AppendUint32(b, uint32(len(extents)))
	for _, x := range xattrs {
		b = le.AppendUint16(b, uint16(len(x.Name)))
		b = le.AppendUint32(b, uint32(len(x.Value)))
		b = append(append(b, x.Name...), x.Value...)
	}
	for _, e := range extents {
		b = le.AppendUint64(b, uint64(e.Off))
		b = le.AppendUint64(b, uint64(e.Len))
		b = le.AppendUint64(b, uint64(e.Data))
	}
	w.strs.b = b
	n.extra = addr + 1
	w.xattrs = w.xattrs || len(xattrs) > 0
	return nil
}

// Node writes the next node.
func (w *Writer[ID]) Node(n *Node) error {
	if _, err := w.room(&w.nodes, nodeSize); err != nil {
		return err
	}
	at := len(w.nodes.b)
	w.nodes.b = w.nodes.b[:at+nodeSize]
	n.encode(w.nodes.b[at:])
	w.origins.Write(n.origin(w.scratch[:0]))
	w.count++
	return nil
}

// origin appends what tells n from every other inode of its stack, wherever it
// is numbered: its layer and header, and, since one header implies a whole path
// of directories, the directory that such a one lies in.
func (n *Node) origin(b []byte) []byte {
	parent := uint32(0)
	if n.IsDir() && n.Flags&FlagImplied != 0 {
		parent = n.Parent
	}
	b = le.AppendUint32(b, uint32(n.Layer))
	b = le.AppendUint32(b, parent)
	return le.AppendUint64(b, uint64(n.Header))
}

// Close finishes the file: meta and trailer. Nodes, Version, Xattrs and Identity of m
// are filled in. It is not synced: what a power loss leaves of it does not match
// its checksums, and it is derived. On an error the file is removed.
func (w *Writer[ID]) Close(m Meta) error {
	err := w.finish(m)
	if err != nil {
		w.Abort()
		os.Remove(w.path)
	}
	return err
}

func (w *Writer[ID]) finish(m Meta) error {
	m.Version, m.Nodes, m.Xattrs = formatVersion, w.count, w.xattrs
	if m.Kind == "tree" {
		m.Identity = hex.EncodeToString(w.origins.Sum(nil))
	}
	meta, err := json.Marshal(m)
	if err != nil {
		return err
	}
	// bbolt copies what lies in a small bucket out of its map; blanks make the
	// bucket large enough to have pages of its own.
	for len(meta) < tablePageSize/2 {
		meta = append(meta, ' ')
	}
	for _, s := range []segment{w.nodes, w.dirs, w.strs} {
		if len(s.b) > 0 {
			w.pending = append(w.pending, s)
		}
	}
	if err := w.flush(meta); err != nil {
		return err
	}
	heads, size, err := pageHeads(w.db)
	if err != nil {
		return err
	}
	if err := w.db.Close(); err != nil {
		return err
	}
	w.db = nil
	f, err := os.OpenFile(w.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), writeTrailer(f, heads), f.Close())
}

// pageHeads returns the numbers of the 64 KiB blocks in which bbolt keeps
// something to find its way (metas, branches, leaves), and how many bytes of
// its file it uses: it grows files ahead of need.
func pageHeads(db *bolt.DB) (heads []uint32, size int64, err error) {
	err = db.View(func(tx *bolt.Tx) error {
		for id := 0; ; {
			p, err := tx.Page(id)
			if err != nil {
				return err
			}
			if p == nil {
				size = int64(id) * tablePageSize
				return nil
			}
			// A page's element array lies in its first page, or in as many
			// more as its count needs.
			first := int64(id) * tablePageSize
			last := first + int64(16+p.Count*32) + tablePageSize
			if p.Type == "free" || p.Type == "freelist" {
				last = first
			}
			for b := first / crcBlock; b <= last/crcBlock; b++ {
				if n := len(heads); n == 0 || heads[n-1] < uint32(b) {
					heads = append(heads, uint32(b))
				}
			}
			id += 1 + p.OverflowCount
		}
	})
	return heads, size, err
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func writeTrailer(f *os.File, heads []uint32) error {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	var t []byte
	buf := make([]byte, crcBlock)
	n := uint32(0)
	for off := int64(0); off < size; off += crcBlock {
		b := buf[:min(crcBlock, size-off)]
		if _, err := f.ReadAt(b, off); err != nil {
			return err
		}
		t = le.AppendUint32(t, crc32.Checksum(b, castagnoli))
		n++
	}
	for len(heads) > 0 && heads[len(heads)-1] >= n {
		heads = heads[:len(heads)-1]
	}
	for _, h := range heads {
		t = le.AppendUint32(t, h)
	}
	t = append(t, footerMagic...)
	t = le.AppendUint32(t, formatVersion)
	t = le.AppendUint64(t, uint64(size))
	t = le.AppendUint32(t, n)
	t = le.AppendUint32(t, uint32(len(heads)))
	t = le.AppendUint32(t, crc32.Checksum(t, castagnoli))
	_, err = f.WriteAt(t, size)
	return err
}
