// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
)

// The checkpoint is a bbolt file, "checkpoint.db". Numbers in keys are
// big-endian, so that keys sort as numbers do; in values little-endian. Each
// value ends in a CRC-32C of key and value, since bbolt checks nothing but its
// first two pages.
//
//	bucket "i"  node (8)                           inode record; empty: a node of the tree that is gone
//	bucket "e"  directory (8), hash (8), name      node (8), type (1)
//	bucket "x"  node (8), name                     value of an xattr
//	bucket "c"  node (8), index (8)                bitmap of 4096 blocks, which of them are local (512)
//	bucket "m"  "version"                          1 (4)
//	            "sequence"                         of the last frame that is in it (8)
//	            "next"                             numbers below it may be in use (8)
//	            "tree"                             identity of the tree (32)
//	            "records"                          how many inode records there are (8)
//	            "b", index (4)                     bitmap of 32768 nodes of the tree, which of them are in "i" (4096)
const checkpointVersion = 1

const checkpointName = "checkpoint.db"

var (
	bucketInodes  = []byte("i")
	bucketEntries = []byte("e")
	bucketXattrs  = []byte("x")
	bucketChunks  = []byte("c")
	bucketMeta    = []byte("m")
)

// meta is what the bucket "m" says.
type meta struct {
	seq     uint64
	next    Node
	tree    id256
	records int64
}

// A store is the checkpoint's file, open for writing. One goroutine at a time
// writes to it.
type store struct {
	path  string
	db    *bolt.DB
	meta  meta // what was committed last
	marks marks
	// unsaved are the segments of marks that the file does not have.
	unsaved map[uint32]struct{}
	batch   int   // keys of a transaction
	room    int64 // bytes of address space; the file must not outgrow them
}

// marks says which nodes of the tree have a record in a checkpoint, so that the
// many that have none need not be looked for. A node that has none any more may
// stay marked. It is safe for concurrent use.
type marks struct{ bits []uint32 }

const marksSegment = 4096 // bytes of a bitmap in the file

// fit makes room for a tree of that many nodes.
func (m *marks) fit(nodes uint32) {
	m.bits = make([]uint32, (int64(nodes)/(marksSegment*8)+1)*marksSegment/4)
}

// all has every node looked for: a tree had them whose size is not known.
func (m *marks) all() {
	m.fit(uint32(FirstOwn) - 1)
	for i := range m.bits {
		m.bits[i] = 1<<32 - 1
	}
}

func (m *marks) has(n Node) bool {
	i := uint64(n) / 32
	return i < uint64(len(m.bits)) && atomic.LoadUint32(&m.bits[i])>>(n%32)&1 != 0
}

// mayHold reports whether a checkpoint may have a record of n.
func (m *marks) mayHold(n Node) bool { return n >= FirstOwn || m.has(n) }

// set marks n and returns in which segment it lies; fresh is false if it was.
// A node that is not the tree's is never marked.
func (m *marks) set(n Node) (segment uint32, fresh bool) {
	i := uint64(n) / 32
	if i >= uint64(len(m.bits)) {
		return 0, false
	}
	old := atomic.OrUint32(&m.bits[i], 1<<(n%32))
	return uint32(n / (marksSegment * 8)), old>>(n%32)&1 == 0
}

func (m *marks) segment(k uint32) []byte {
	b := make([]byte, 0, marksSegment)
	for _, w := range m.bits[k*marksSegment/4 : (k+1)*marksSegment/4] {
		b = le.AppendUint32(b, w)
	}
	return b
}

// mapSizes are tried in this order: a commit that must move the map would wait
// for every reader, so it is made large enough for ever.
var mapSizes = []int64{64 << 30, 16 << 30, 4 << 30, 1 << 30, 256 << 20, 64 << 20}

// openStore opens the checkpoint in dir, or makes an empty one. nodes is how
// many the tree has.
func openStore(path string, nodes uint32, tree id256, next Node) (s *store, err error) {
	s = &store{path: path, batch: foldBatch, unsaved: make(map[uint32]struct{})}
	s.marks.fit(nodes)
	if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
		if err := newStore(path, tree, next); err != nil {
			return nil, err
		}
	}
	if err := s.open(); err != nil {
		return nil, err
	}
	err = s.checkPages()
	if err == nil {
		err = s.load(tree)
	}
	if err != nil {
		s.db.Close()
		return nil, err
	}
	return s, nil
}

// newStore makes an empty checkpoint. It gets its name when it is whole: whoever
// ends this process meanwhile leaves none.
func newStore(path string, tree id256, next Node) error {
	s := &store{path: path + ".new", batch: foldBatch, unsaved: make(map[uint32]struct{})}
	if err := os.Remove(s.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	err := s.open()
	if err == nil {
		err = errors.Join(s.init(tree, next), s.db.Close())
	}
	if err == nil {
		err = os.Rename(s.path, path)
	}
	if err != nil {
		os.Remove(s.path)
		return err
	}
	return syncDir(filepath.Dir(path))
}

func (s *store) open() error {
	for k, size := range mapSizes {
		err := guarded(func() (err error) {
			s.db, err = bolt.Open(s.path, 0o600, &bolt.Options{
				Timeout:         time.Second,
				FreelistType:    bolt.FreelistMapType,
				InitialMmapSize: int(size),
				NoStatistics:    true,
			})
			return err
		})
		if err == nil {
			s.db.AllocSize = 1 << 20
			s.room = size
			return nil
		}
		if errors.Is(err, syscall.ENOMEM) && k < len(mapSizes)-1 {
			continue
		}
		var errno syscall.Errno
		if errors.As(err, &errno) || errors.Is(err, os.ErrPermission) {
			return err
		}
		return fmt.Errorf("%w: %s: %v", ErrDamaged, s.path, err)
	}
	panic("cow: internal error: no size of a map")
}

// guarded runs f. A fault under the map, or whatever bbolt panics of where its
// pages are not what it wrote, is ErrDamaged.
func guarded(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: checkpoint: %v", ErrDamaged, p)
		}
	}()
	return f()
}

// init makes the buckets of a new file.
func (s *store) init(tree id256, next Node) error {
	s.meta = meta{tree: tree, next: next}
	return guarded(func() error {
		return s.db.Update(func(tx *bolt.Tx) error {
			for _, name := range [][]byte{bucketInodes, bucketEntries, bucketXattrs, bucketChunks, bucketMeta} {
				if _, err := tx.CreateBucket(name); err != nil {
					return err
				}
			}
			return putMeta(tx.Bucket(bucketMeta), &s.meta)
		})
	})
}

func putMeta(b *bolt.Bucket, m *meta) error {
	for _, v := range []struct {
		key   string
		value []byte
	}{
		{"version", le.AppendUint32(nil, checkpointVersion)},
		{"sequence", le.AppendUint64(nil, m.seq)},
		{"next", le.AppendUint64(nil, uint64(m.next))},
		{"tree", m.tree[:]},
		{"records", le.AppendUint64(nil, uint64(m.records))},
	} {
		if err := putSummed(b, []byte(v.key), v.value); err != nil {
			return err
		}
	}
	return nil
}

// putSummed puts value with its checksum.
func putSummed(b *bolt.Bucket, key, value []byte) error {
	return b.Put(key, le.AppendUint32(bytes.Clone(value), valueSum(key, value)))
}

func valueSum(key, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
}

// unsum checks a value and returns it without its checksum.
func unsum(key, v []byte) ([]byte, error) {
	n := len(v) - 4
	if n < 0 || le.Uint32(v[n:]) != valueSum(key, v[:n]) {
		return nil, fmt.Errorf("%w: checkpoint: checksum of %x", ErrDamaged, key)
	}
	return v[:n:n], nil
}

// load reads what the file says of itself. Numbers of another tree than that of
// the given identity are looked for without the marks.
func (s *store) load(tree id256) error {
	return guarded(func() error {
		return s.db.View(func(tx *bolt.Tx) error {
			b := tx.Bucket(bucketMeta)
			err := s.loadMeta(b)
			switch {
			case err != nil:
			case s.meta.tree == tree:
				err = s.loadMarks(b)
			default:
				s.marks.all()
			}
			if err != nil {
				return fmt.Errorf("%s: %w", s.path, err)
			}
			return nil
		})
	})
}

func (s *store) loadMeta(b *bolt.Bucket) error {
	if b == nil {
		return fmt.Errorf("%w: no meta", ErrDamaged)
	}
	get := func(key string, n int) ([]byte, error) {
		v, err := unsum([]byte(key), b.Get([]byte(key)))
		if err == nil && len(v) != n {
			err = fmt.Errorf("%w: %s of %d bytes", ErrDamaged, key, len(v))
		}
		if err != nil {
			return make([]byte, n), err
		}
		return v, nil
	}
	version, err := get("version", 4)
	if err == nil && le.Uint32(version) != checkpointVersion {
		return fmt.Errorf("checkpoint of version %d: this imgfs knows %d", le.Uint32(version), checkpointVersion)
	}
	seq, err1 := get("sequence", 8)
	next, err2 := get("next", 8)
	tree, err3 := get("tree", 32)
	records, err4 := get("records", 8)
	if err := errors.Join(err, err1, err2, err3, err4); err != nil {
		return err
	}
	s.meta = meta{le.Uint64(seq), Node(le.Uint64(next)), id256(tree), int64(le.Uint64(records))}
	return nil
}

func (s *store) loadMarks(b *bolt.Bucket) error {
	c := b.Cursor()
	for k, v := c.Seek([]byte("b")); len(k) == 5 && k[0] == 'b'; k, v = c.Next() {
		bits, err := unsum(k, v)
		if err != nil {
			return err
		}
		at := int(binary.BigEndian.Uint32(k[1:]))
		if len(bits) != marksSegment {
			return fmt.Errorf("%w: bitmap of %d bytes", ErrDamaged, len(bits))
		}
		for i := range marksSegment / 4 {
			if w := at*marksSegment/4 + i; w < len(s.marks.bits) {
				s.marks.bits[w] = le.Uint32(bits[4*i:])
			}
		}
	}
	return nil
}

func (s *store) close() error { return s.db.Close() }

// A checkpoint is what was folded, read from one transaction of a bbolt file.
// It is safe for concurrent use until it is closed.
type checkpoint struct {
	tx     *bolt.Tx
	marks  *marks
	inodes bucket
	dirs   bucket
	xattrs bucket
	blocks bucket
	meta   meta
}

// bucket is a bucket that is read.
type bucket struct {
	b      *bolt.Bucket
	probes sync.Pool
}

// A probe is what one look-up needs. It is kept, for making one is the dearest of
// it.
type probe struct {
	c   *bolt.Cursor
	key [16 + maxName]byte
}

// checkpoint begins a transaction that shows what was committed last.
func (s *store) checkpoint() (c *checkpoint, err error) {
	c = &checkpoint{marks: &s.marks, meta: s.meta}
	err = guarded(func() error {
		c.tx, err = s.db.Begin(false)
		if err != nil {
			return err
		}
		for _, v := range []struct {
			to   *bucket
			name []byte
		}{{&c.inodes, bucketInodes}, {&c.dirs, bucketEntries}, {&c.xattrs, bucketXattrs}, {&c.blocks, bucketChunks}} {
			if v.to.b = c.tx.Bucket(v.name); v.to.b == nil {
				return fmt.Errorf("%w: checkpoint: no bucket %s", ErrDamaged, v.name)
			}
		}
		return nil
	})
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *checkpoint) close() {
	if c != nil && c.tx != nil {
		c.tx.Rollback()
		c.tx = nil
	}
}

func (b *bucket) probe() *probe {
	if p, ok := b.probes.Get().(*probe); ok {
		return p
	}
	return &probe{c: b.b.Cursor()}
}

// get returns the checked value of key in place, nil if there is none.
// key was made in p.key.
func (b *bucket) get(p *probe, key []byte) (v []byte, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: checkpoint: %v", ErrDamaged, p)
		}
	}()
	k, v := p.c.Seek(key)
	if v != nil && bytes.Equal(k, key) {
		v, err = unsum(key, v)
	} else {
		v = nil
	}
	b.probes.Put(p)
	return v, err
}

// each calls f for the checked pairs from key on, in their order, while they
// begin with the first prefix bytes of it, until it returns false. They lie in
// place.
func (b *bucket) each(key []byte, prefix int, f func(k, v []byte) bool) error {
	var cursor *bolt.Cursor
	var k, v []byte
	first := true
	for {
		err := guarded(func() (err error) {
			if first {
				cursor = b.b.Cursor()
				k, v = cursor.Seek(key)
				first = false
			} else {
				k, v = cursor.Next()
			}
			if k == nil || !bytes.HasPrefix(k, key[:prefix]) {
				k = nil
				return nil
			}
			v, err = unsum(k, v)
			return err
		})
		if err != nil {
			return err
		}
		if k == nil || !f(k, v) {
			return nil
		}
	}
}

func nodeKey(b []byte, n Node) []byte { return binary.BigEndian.AppendUint64(b, uint64(n)) }

// inode returns the record of n, nil if there is none; gone tells that it is of
// the tree and was removed.
func (c *checkpoint) inode(n Node) (i *inode, gone bool, err error) {
	if !c.marks.mayHold(n) {
		return nil, false, nil
	}
	p := c.inodes.probe()
	v, err := c.inodes.get(p, nodeKey(p.key[:0], n))
	if err != nil || v == nil {
		return nil, false, err
	}
	if len(v) == 0 {
		return nil, true, nil
	}
	i, err = decodeInode(v)
	return i, false, err
}

// eachInode calls f for each record, in the order of their nodes, until it
// returns false.
func (c *checkpoint) eachInode(f func(n Node, i *inode) bool) error {
	var bad error
	err := c.inodes.each(nil, 0, func(k, v []byte) bool {
		if len(v) == 0 {
			return true
		}
		i, err := decodeInode(v)
		if err == nil && len(k) != 8 {
			err = fmt.Errorf("%w: key of %d bytes", ErrDamaged, len(k))
		}
		if err != nil {
			bad = err
			return false
		}
		return f(Node(binary.BigEndian.Uint64(k)), i)
	})
	return errors.Join(err, bad)
}

const entrySize = 9

func decodeEntry(v []byte) (e entry, err error) {
	if len(v) != entrySize {
		return e, fmt.Errorf("%w: entry of %d bytes", ErrDamaged, len(v))
	}
	return entry{Node(le.Uint64(v)), v[8]}, nil
}

// entry returns the entry name of dir; hash is that of the name.
func (c *checkpoint) entry(dir Node, hash uint64, name string) (e entry, ok bool, err error) {
	p := c.dirs.probe()
	key := binary.BigEndian.AppendUint64(nodeKey(p.key[:0], dir), hash)
	v, err := c.dirs.get(p, append(key, name...))
	if err != nil || v == nil {
		return entry{}, false, err
	}
	e, err = decodeEntry(v)
	return e, err == nil, err
}

// entries calls f for the entries of dir, whiteouts included, in the order of
// their hashes (hashName), and of those with one hash of their names, from the
// given hash on, until it returns false.
func (c *checkpoint) entries(dir Node, from uint64, f func(hash uint64, name string, e entry) bool) error {
	if !c.marks.mayHold(dir) {
		return nil
	}
	var bad error
	key := binary.BigEndian.AppendUint64(nodeKey(nil, dir), from)
	err := c.dirs.each(key, 8, func(k, v []byte) bool {
		if len(k) <= 16 {
			bad = fmt.Errorf("%w: entry without a name", ErrDamaged)
			return false
		}
		e, err := decodeEntry(v)
		if err != nil {
			bad = err
			return false
		}
		return f(binary.BigEndian.Uint64(k[8:]), string(k[16:]), e)
	})
	return errors.Join(err, bad)
}

// xattr returns a copy of an xattr's value, nil if there is none.
func (c *checkpoint) xattr(n Node, name string) ([]byte, error) {
	p := c.xattrs.probe()
	v, err := c.xattrs.get(p, append(nodeKey(p.key[:0], n), name...))
	if err != nil || v == nil {
		return nil, err
	}
	return append([]byte{}, v...), nil
}

// eachXattr calls f for the xattrs of n, sorted by name, until it returns false.
func (c *checkpoint) eachXattr(n Node, f func(name string, value []byte) bool) error {
	return c.xattrs.each(nodeKey(nil, n), 8, func(k, v []byte) bool {
		return f(string(k[8:]), append([]byte{}, v...))
	})
}

// chunksOf calls f for the chunks of n from an index on, sorted, until it
// returns false.
func (c *checkpoint) chunksOf(n Node, from uint64, f func(index uint64) bool) error {
	if !c.marks.mayHold(n) {
		return nil
	}
	var bad error
	err := c.blocks.each(binary.BigEndian.AppendUint64(nodeKey(nil, n), from), 8, func(k, _ []byte) bool {
		if len(k) != 16 {
			bad = fmt.Errorf("%w: key of %d bytes", ErrDamaged, len(k))
			return false
		}
		return f(binary.BigEndian.Uint64(k[8:]))
	})
	return errors.Join(err, bad)
}

func (c *checkpoint) chunk(k chunkKey) (*chunk, error) {
	p := c.blocks.probe()
	v, err := c.blocks.get(p, binary.BigEndian.AppendUint64(nodeKey(p.key[:0], k.node), k.index))
	if err != nil || v == nil {
		return nil, err
	}
	if len(v) != chunkBlocks/8 {
		return nil, fmt.Errorf("%w: bitmap of %d bytes", ErrDamaged, len(v))
	}
	m := new(chunk)
	for i := range m {
		m[i] = le.Uint64(v[8*i:])
	}
	return m, nil
}
