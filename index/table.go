// SPDX-License-Identifier: Apache-2.0

package index

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	bolt "go.etcd.io/bbolt"
)

// A Table is a finished table file, read in place from bbolt's map under one
// read transaction that lives until Close. It is immutable and safe for
// concurrent use. Lookups allocate nothing.
//
// A file that is cut short or unreadable under the map faults: callers run
// under Guard, or set debug.SetPanicOnFault and recover by themselves.
type Table[ID ~uint32] struct {
	db   *bolt.DB
	tx   *bolt.Tx
	meta Meta

	nodes, dirs, strs []span
	other             func(k []byte, v span) error // takes values of other kinds; nil: they are passed over

	data []byte   // the bbolt file, as mapped
	crcs []uint32 // of each 64 KiB of data
	seen []uint32 // bits, atomic: checked blocks
}

// Layer is the table of one layer, Tree that of a merged stack.
type (
	Layer = Table[EntryID]
	Tree  = Table[NodeID]
)

// span is a value of the database and its place in the file.
type span struct {
	b   []byte
	off int64
}

// Open opens a table file read-only. It waits for nobody. errors.Is(err,
// ErrCorrupt) tells that the file is damaged or of another version and
// should be made anew.
func Open[ID ~uint32](path string) (*Table[ID], error) {
	t := new(Table[ID])
	if err := Guard(func() error { return t.open(path) }); err != nil {
		t.Close()
		if errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return t, nil
}

func (t *Table[ID]) open(path string) error {
	heads, size, err := t.readTrailer(path)
	if err != nil {
		return err
	}
	t.db, err = bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
			return err
		}
		return fmt.Errorf("%w: %v", ErrCorrupt, err)
	}
	if t.tx, err = t.db.Begin(false); err != nil {
		return err
	}
	t.data = mapped(t.db, size)
	// bbolt finds its way by page headers, so these are checked before it does.
	for _, h := range heads {
		if err := t.check(int64(h)*crcBlock, 1); err != nil {
			return err
		}
	}
	b := t.tx.Bucket([]byte("t"))
	if b == nil {
		return fmt.Errorf("%w: no bucket", ErrCorrupt)
	}
	c := b.Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		if err := t.value(k, v); err != nil {
			return err
		}
	}
	if t.meta.Version != formatVersion || t.meta.Nodes == 0 && t.other == nil || t.meta.Kind == "hashes" && t.other == nil {
		return fmt.Errorf("%w: a %s of version %d", ErrCorrupt, t.meta.Kind, t.meta.Version)
	}
	return nil
}

// value keeps the place of one value of the database. Its key lies wherever
// the value before it ends, so it is checked by itself.
func (t *Table[ID]) value(k, v []byte) error {
	key, s := t.place(k), t.place(v)
	if key.off < 0 || s.off < 0 {
		return fmt.Errorf("%w: value outside the file", ErrCorrupt)
	}
	if err := t.check(key.off, len(k)); err != nil {
		return err
	}
	if string(k) == "m" {
		if err := t.check(s.off, len(v)); err != nil {
			return err
		}
		if err := json.Unmarshal(v, &t.meta); err != nil {
			return fmt.Errorf("%w: meta: %v", ErrCorrupt, err)
		}
		return nil
	}
	var list *[]span
	switch k[0] {
	case 'n':
		list = &t.nodes
	case 'd':
		list = &t.dirs
	case 's':
		list = &t.strs
	default:
		if t.other != nil {
			return t.other(k, s)
		}
		return nil
	}
	if len(k) != 5 || binary.BigEndian.Uint32(k[1:]) != uint32(len(*list)) {
		return fmt.Errorf("%w: segment %q", ErrCorrupt, k)
	}
	*list = append(*list, s)
	return nil
}

// place returns where in the file b lies; its offset is negative if it does
// not lie there.
func (t *Table[ID]) place(b []byte) span {
	off := int64(uintptr(unsafe.Pointer(unsafe.SliceData(b))) - uintptr(unsafe.Pointer(unsafe.SliceData(t.data))))
	if len(b) == 0 || off+int64(len(b)) > int64(len(t.data)) {
		off = -1
	}
	return span{b, off}
}

// mapped returns the first size bytes of the database's map. bbolt gives the
// map's address only as a number; the meta page of a transaction gives none.
func mapped(db *bolt.DB, size int64) []byte {
	base := db.Info().Data
	return unsafe.Slice(*(**byte)(unsafe.Pointer(&base)), size)
}

// readTrailer checks the trailer and keeps its checksums.
func (t *Table[ID]) readTrailer(path string) (heads []uint32, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	var foot [footerSize]byte
	if fi.Size() < footerSize {
		return nil, 0, fmt.Errorf("%w: %d bytes", ErrCorrupt, fi.Size())
	}
	if _, err := f.ReadAt(foot[:], fi.Size()-footerSize); err != nil {
		return nil, 0, err
	}
	if string(foot[:8]) != footerMagic || le.Uint32(foot[8:]) != formatVersion {
		return nil, 0, fmt.Errorf("%w: not a table of version %d", ErrCorrupt, formatVersion)
	}
	size = int64(le.Uint64(foot[12:]))
	n, m := int64(le.Uint32(foot[20:])), int64(le.Uint32(foot[24:]))
	if size < 0 || m > n || n != (size+crcBlock-1)/crcBlock || size+4*(n+m)+footerSize != fi.Size() {
		return nil, 0, fmt.Errorf("%w: trailer", ErrCorrupt)
	}
	b := make([]byte, 4*(n+m)+footerSize)
	if _, err := f.ReadAt(b, size); err != nil {
		return nil, 0, err
	}
	if crc32.Checksum(b[:len(b)-4], castagnoli) != le.Uint32(b[len(b)-4:]) {
		return nil, 0, fmt.Errorf("%w: trailer checksum", ErrCorrupt)
	}
	words := make([]uint32, n+m)
	for i := range words {
		words[i] = le.Uint32(b[4*i:])
	}
	t.crcs, heads = words[:n], words[n:]
	t.seen = make([]uint32, (n+31)/32)
	return heads, size, nil
}

// Close ends the transaction and unmaps the file. Nothing that the table
// returned may be used any more.
func (t *Table[ID]) Close() error {
	if t.tx != nil {
		t.tx.Rollback()
		t.tx = nil
	}
	if t.db == nil {
		return nil
	}
	db := t.db
	t.db, t.data = nil, nil
	return db.Close()
}

// Meta returns what the table says of itself.
func (t *Table[ID]) Meta() *Meta { return &t.meta }

// Count returns the number of nodes; they are numbered from 1 to it.
func (t *Table[ID]) Count() uint32 { return t.meta.Nodes }

// Warm reads the file forwards into the page cache and checks every block. It
// stops when stop is closed.
func (t *Table[ID]) Warm(stop <-chan struct{}) error {
	return Guard(func() error {
		for off := int64(0); off < int64(len(t.data)); off += crcBlock {
			select {
			case <-stop:
				return nil
			default:
			}
			if off%warmStep == 0 {
				t.willNeed(off, warmStep)
			}
			if err := t.check(off, 1); err != nil {
				return err
			}
		}
		return nil
	})
}

// warmStep is how far ahead Warm asks the kernel to read, in bytes.
const warmStep = 4 << 20

// willNeed asks for n bytes at off, which begins a page, in one go: bbolt maps
// its file for random access, so each page would fault by itself. It is advice,
// its error means nothing.
func (t *Table[ID]) willNeed(off int64, n int64) {
	_ = syscall.Madvise(t.data[off:min(off+n, int64(len(t.data)))], syscall.MADV_WILLNEED)
}

// check makes sure that the n bytes at off of the file are those written. It
// is inlined for what lies in one block that was checked before.
func (t *Table[ID]) check(off int64, n int) error {
	if b := uint64(off) / crcBlock; b == uint64(off+int64(n)-1)/crcBlock && atomic.LoadUint32(&t.seen[b>>5])>>(b&31)&1 != 0 {
		return nil
	}
	return t.checkBlocks(off, n)
}

func (t *Table[ID]) checkBlocks(off int64, n int) error {
	for b := off / crcBlock; b <= (off+int64(n)-1)/crcBlock; b++ {
		if atomic.LoadUint32(&t.seen[b>>5])&(1<<(b&31)) == 0 {
			if err := t.checkBlock(b); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *Table[ID]) checkBlock(b int64) error {
	lo := b * crcBlock
	hi := min(lo+crcBlock, int64(len(t.data)))
	t.willNeed(lo, crcBlock)
	if crc32.Checksum(t.data[lo:hi], castagnoli) != t.crcs[b] {
		return fmt.Errorf("%w: checksum of block %d", ErrCorrupt, b)
	}
	atomic.OrUint32(&t.seen[b>>5], 1<<(b&31))
	return nil
}

// bytes returns n checked bytes at address addr of spans.
func (t *Table[ID]) bytes(spans []span, addr uint64, n int) ([]byte, error) {
	k, off := addr>>32, int(uint32(addr))
	if k >= uint64(len(spans)) || n < 0 || off+n > len(spans[k].b) {
		return nil, errAddress
	}
	s := &spans[k]
	if err := t.check(s.off+int64(off), n); err != nil {
		return nil, err
	}
	return s.b[off : off+n : off+n], nil
}

var errAddress = fmt.Errorf("%w: address out of range", ErrCorrupt)

func (t *Table[ID]) record(id ID) ([]byte, error) {
	i := uint64(id) - 1 // 0 wraps and is out of range
	return t.bytes(t.nodes, i/segmentNodes<<32|i%segmentNodes*nodeSize, nodeSize)
}

// Node decodes inode id into n.
func (t *Table[ID]) Node(id ID, n *Node) error {
	b, err := t.record(id)
	if err != nil {
		return err
	}
	n.decode(b)
	return nil
}

// ErrNotDir is returned when a name is looked up in what is not a directory.
var ErrNotDir = errors.New("not a directory")

// dir returns the number of entries of directory id and its block, with what
// follows it in the segment: Lookup needs no length, and reading it would cost
// a miss of the cache. Nothing of the block is checked yet.
func (t *Table[ID]) dir(id ID) (blk []byte, off int64, n int, err error) {
	r, err := t.record(id)
	if err != nil {
		return nil, 0, 0, err
	}
	if le.Uint32(r)&ModeType != ModeDir {
		return nil, 0, 0, ErrNotDir
	}
	n = int(le.Uint32(r[20:]))
	k, at := le.Uint64(r[48:])>>32, int(le.Uint32(r[48:]))
	if k >= uint64(len(t.dirs)) {
		return nil, 0, 0, errAddress
	}
	s := &t.dirs[k]
	if at+dirHead+n*(probeSize+entryHead) > len(s.b) {
		return nil, 0, 0, errAddress
	}
	return s.b[at:], s.off + int64(at), n, nil
}

// Lookup returns the entry of name in directory id: its number and type, or
// 0 and 0 where there is none. A whiteout has type DTWhiteout and number 0.
// It allocates nothing.
func (t *Table[ID]) Lookup(id ID, name string) (ID, uint8, error) {
	blk, off, n, err := t.dir(id)
	if err != nil || n == 0 {
		return 0, 0, err
	}
	probes := blk[dirHead : dirHead+probeSize*n]
	if err := t.check(off+dirHead, len(probes)); err != nil {
		return 0, 0, err
	}
	e, _, err := t.find(blk, off, probes, name)
	if e == nil {
		return 0, 0, err
	}
	return ID(le.Uint32(e)), e[4], nil
}

// find returns the entry of name and its offset in blk, or nil.
func (t *Table[ID]) find(blk []byte, off int64, probes []byte, name string) (e []byte, p int, err error) {
	h, n := hashName(name), len(probes)/probeSize
	i := search(probes, n, h)
	if i >= n || le.Uint32(probes[probeSize*i:]) != h {
		return nil, 0, nil
	}
	p = int(le.Uint32(probes[probeSize*i+4:]))
	if e, err = t.entry(blk, off, p); err != nil {
		return nil, 0, err
	}
	if string(e[entryHead:]) == name {
		return e, p, nil
	}
	if i++; i >= n || le.Uint32(probes[probeSize*i:]) != h {
		return nil, 0, nil
	}
	return t.findEqual(blk, off, probes[probeSize*i:], h, name)
}

// findEqual looks name up among probes, of which the first has its hash h and
// more may have. They are in the order of their names.
func (t *Table[ID]) findEqual(blk []byte, off int64, probes []byte, h uint32, name string) (e []byte, p int, err error) {
	lo, hi := 0, len(probes)/probeSize
	for lo < hi {
		m := int(uint(lo+hi) >> 1)
		if le.Uint32(probes[probeSize*m:]) > h {
			hi = m
			continue
		}
		p = int(le.Uint32(probes[probeSize*m+4:]))
		if e, err = t.entry(blk, off, p); err != nil {
			return nil, 0, err
		}
		switch got := e[entryHead:]; {
		case string(got) == name:
			return e, p, nil
		case string(got) < name:
			lo = m + 1
		default:
			hi = m
		}
	}
	return nil, 0, nil
}

// search returns the first of the n sorted probes whose hash is h or more. It
// guesses by interpolation, gallops from there and bisects the rest, so a
// hostile set of names costs no more than two bisections.
func search(probes []byte, n int, h uint32) int {
	at := func(i int) uint32 { return le.Uint32(probes[probeSize*i:]) }
	lo, hi := 0, n // the answer lies in [lo, hi]
	g := int(uint64(h) * uint64(n) >> 32)
	if at(g) < h {
		lo = g + 1
		for step := 4; lo+step < n; step *= 2 {
			if at(lo+step) >= h {
				hi = lo + step
				break
			}
			lo += step + 1
		}
	} else {
		hi = g
		for step := 4; hi-step >= 0; step *= 2 {
			if at(hi-step) < h {
				lo = hi - step + 1
				break
			}
			hi -= step
		}
	}
	for lo < hi {
		if m := int(uint(lo+hi) >> 1); at(m) < h {
			lo = m + 1
		} else {
			hi = m
		}
	}
	return lo
}

// entry returns the checked entry at p of blk, name included.
func (t *Table[ID]) entry(blk []byte, off int64, p int) ([]byte, error) {
	if p < dirHead || p+entryHead > len(blk) {
		return nil, errAddress
	}
	if err := t.check(off+int64(p), entryHead); err != nil {
		return nil, err
	}
	end := p + entryHead + int(blk[p+5])
	if end > len(blk) {
		return nil, errAddress
	}
	if err := t.check(off+int64(p), end-p); err != nil {
		return nil, err
	}
	return blk[p:end:end], nil
}

// A Dirent is an entry of a directory as it is read.
type Dirent[ID ~uint32] struct {
	ID     ID
	Type   uint8  // DT_*; DTWhiteout has ID 0
	Name   []byte // in place: valid until the table is closed
	Cookie uint64 // where the next entry lies
}

// A Dir reads a directory's entries in the order of their numbers, without
// allocating.
type Dir[ID ~uint32] struct {
	t    *Table[ID]
	blk  []byte
	off  int64
	n    int
	next uint64 // index<<32 | offset
}

// ReadDir returns a reader of directory id that starts at cookie: 0, or the
// Cookie of the entry before. A cookie that this directory never gave is
// ErrCorrupt or the end.
func (t *Table[ID]) ReadDir(id ID, cookie uint64) (Dir[ID], error) {
	blk, off, n, err := t.dir(id)
	if err != nil {
		return Dir[ID]{}, err
	}
	if err := t.check(off, dirHead); err != nil {
		return Dir[ID]{}, err
	}
	size := int(le.Uint32(blk))
	if size > len(blk) || n > (size-dirHead)/(probeSize+entryHead) {
		return Dir[ID]{}, errAddress
	}
	d := Dir[ID]{t: t, blk: blk[:size:size], off: off, n: n, next: cookie}
	if cookie == 0 {
		d.next = uint64(dirHead + probeSize*n)
		return d, nil
	}
	if p := int(uint32(cookie)); p < size {
		return d, d.startsAt(p)
	}
	return d, nil
}

// startsAt makes sure that an entry begins at p, since whoever reads the
// directory may seek where he likes: the entry that seems to lie there must
// have a probe that says so.
func (d *Dir[ID]) startsAt(p int) error {
	if d.n == 0 || p < dirHead+probeSize*d.n {
		return errAddress
	}
	e, err := d.t.entry(d.blk, d.off, p)
	if err != nil {
		return err
	}
	probes := d.blk[dirHead : dirHead+probeSize*d.n]
	if err := d.t.check(d.off+dirHead, len(probes)); err != nil {
		return err
	}
	name := unsafe.String(unsafe.SliceData(e[entryHead:]), len(e)-entryHead)
	if e, at, err := d.t.find(d.blk, d.off, probes, name); err != nil {
		return err
	} else if e == nil || at != p {
		return errAddress
	}
	return nil
}

// Len returns how many entries the directory has.
func (d *Dir[ID]) Len() int { return d.n }

// Next returns the next entry; ok is false at the end or on an error.
func (d *Dir[ID]) Next() (e Dirent[ID], ok bool, err error) {
	i, p := d.next>>32, int(uint32(d.next))
	if p >= len(d.blk) {
		return e, false, nil
	}
	b, err := d.t.entry(d.blk, d.off, p)
	if err != nil {
		return e, false, err
	}
	d.next = (i+1)<<32 | uint64(p+len(b))
	return Dirent[ID]{ID(le.Uint32(b)), b[4], b[entryHead:], d.next}, true, nil
}

// Target returns a symlink's target (in the table of a layer also that of an
// open hard link), in place.
func (t *Table[ID]) Target(n *Node) ([]byte, error) {
	if n.Mode&ModeType != ModeSymlink && n.Mode&ModeType != 0 {
		return nil, fmt.Errorf("%w: no target", ErrCorrupt)
	}
	b, err := t.bytes(t.strs, n.addr, 4)
	if err != nil {
		return nil, err
	}
	return t.bytes(t.strs, n.addr+4, int(le.Uint32(b)))
}

// extra returns n's extra block as it lies, not yet checked behind its head.
func (t *Table[ID]) extra(n *Node) (b []byte, off int64, xattrs, extents int, err error) {
	if n.extra == 0 {
		return nil, 0, 0, 0, nil
	}
	addr := n.extra - 1
	b, err = t.bytes(t.strs, addr, 8)
	if err != nil {
		return nil, 0, 0, 0, err
	}
	s := &t.strs[addr>>32]
	return s.b[uint32(addr)+8:], s.off + int64(uint32(addr)) + 8, int(le.Uint32(b)), int(le.Uint32(b[4:])), nil
}

// eachXattr calls f for the xattrs of n until it returns false, and returns
// the bytes behind them.
func (t *Table[ID]) eachXattr(n *Node, f func(name, value []byte) bool) (rest []byte, off int64, extents int, err error) {
	b, off, xattrs, extents, err := t.extra(n)
	if err != nil {
		return nil, 0, 0, err
	}
	for ; xattrs > 0; xattrs-- {
		if len(b) < 6 {
			return nil, 0, 0, errAddress
		}
		if err := t.check(off, 6); err != nil {
			return nil, 0, 0, err
		}
		nl, vl := int(le.Uint16(b)), int(le.Uint32(b[2:]))
		if nl+vl > len(b)-6 {
			return nil, 0, 0, errAddress
		}
		if err := t.check(off, 6+nl+vl); err != nil {
			return nil, 0, 0, err
		}
		if f != nil && !f(b[6:6+nl], b[6+nl:6+nl+vl]) {
			return nil, 0, 0, nil
		}
		b, off = b[6+nl+vl:], off+int64(6+nl+vl)
	}
	return b, off, extents, nil
}

// EachXattr calls f for each xattr of n, sorted by name, until it returns
// false. Both slices lie in place.
func (t *Table[ID]) EachXattr(n *Node, f func(name, value []byte) bool) error {
	_, _, _, err := t.eachXattr(n, f)
	return err
}

// Xattr returns the value of n's xattr name in place.
func (t *Table[ID]) Xattr(n *Node, name string) (value []byte, ok bool, err error) {
	if n.extra == 0 {
		return nil, false, nil
	}
	err = t.EachXattr(n, func(k, v []byte) bool {
		if string(k) == name {
			value, ok = v, true
		}
		return !ok
	})
	return value, ok, err
}

// Extents is the list of the runs of a sparse file that hold data, in order,
// in place.
type Extents struct{ b []byte }

// Len returns how many runs there are; none means one hole.
func (e Extents) Len() int { return len(e.b) / extentSize }

// At returns run i.
func (e Extents) At(i int) Extent {
	b := e.b[extentSize*i:]
	return Extent{int64(le.Uint64(b)), int64(le.Uint64(b[8:])), int64(le.Uint64(b[16:]))}
}

// Find returns the first run that ends behind off, or Len.
func (e Extents) Find(off int64) int {
	lo, hi := 0, e.Len()
	for lo < hi {
		m := int(uint(lo+hi) >> 1)
		if r := e.At(m); r.Off+r.Len <= off {
			lo = m + 1
		} else {
			hi = m
		}
	}
	return lo
}

// Extents returns the data runs of n and whether it is a sparse file.
func (t *Table[ID]) Extents(n *Node) (list Extents, sparse bool, err error) {
	if n.Flags&FlagSparse == 0 || !n.IsRegular() {
		return list, false, nil
	}
	b, off, count, err := t.eachXattr(n, nil)
	if err != nil || count == 0 {
		return list, true, err
	}
	if count > len(b)/extentSize {
		return list, true, errAddress
	}
	if err := t.check(off, extentSize*count); err != nil {
		return list, true, err
	}
	return Extents{b[:extentSize*count]}, true, nil
}

// Guard runs f and turns a memory fault under a map (a table cut short or
// unreadable) into ErrCorrupt. Other panics go on.
func Guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch p := recover().(type) {
		case nil:
		case runtime.Error:
			if fault, ok := p.(interface{ Addr() uintptr }); ok {
				err = fmt.Errorf("%w: fault at %#x", ErrCorrupt, fault.Addr())
				return
			}
			panic(p)
		default:
			panic(p)
		}
	}()
	return f()
}
