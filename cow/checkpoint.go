// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"

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
func (c *checkpoint) inode(n Node) (i *inode, gone bool, err error) { return c.inodeOf(n, true) }

// inodeOf is inode, unless whole without a tail: to copy that may cost more than
// all else of it.
func (c *checkpoint) inodeOf(n Node, whole bool) (i *inode, gone bool, err error) {
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
	if !whole && len(v) > inodeHead {
		v = v[:inodeHead]
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
