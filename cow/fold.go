// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// foldBatch bounds the keys of one transaction, and with them how many pages
// bbolt holds in memory: each key may touch a page of its own.
const (
	foldBatch = 4000
	minBatch  = 50 // where the disk is full
)

// errOutgrown tells that the checkpoint would not fit where it is mapped.
var errOutgrown = errors.New("the checkpoint outgrew the address space that there is")

// fold writes d, the frames up to seq, in transactions of bounded size; the
// last one brings the sequence. Until that is committed, d must be looked at
// before what the transactions show. each is called after every one of them.
// Doing it again after it was broken off is doing it once.
func (s *store) fold(d *delta, seq uint64, next Node, hash func(name string) uint64, each func() error) error {
	w := &folder{s: s, d: d, hash: hash, each: each, said: s.meta}
	defer func() {
		if w.tx != nil {
			guarded(func() error { return w.tx.Rollback() })
		}
	}()
	err := guarded(func() error {
		if err := w.begin(); err != nil {
			return err
		}
		for _, f := range []func() error{w.putInodes, w.putEntries, w.putXattrs, w.putChunks} {
			if err := f(); err != nil {
				return err
			}
		}
		w.said.seq, w.said.next = seq, next
		return w.commit()
	})
	if err != nil {
		return err
	}
	return each()
}

// A folder is a fold under way.
type folder struct {
	s    *store
	d    *delta
	hash func(name string) uint64
	each func() error

	tx                                    *bolt.Tx // nil: none
	inodes, entries, xattrs, chunks, meta *bolt.Bucket
	keys                                  int   // put or deleted in tx
	bytes                                 int64 // of their values
	said                                  meta
	key                                   []byte // scratch
}

func (w *folder) begin() (err error) {
	w.tx, err = w.s.db.Begin(true)
	if err != nil {
		return err
	}
	w.keys, w.bytes = 0, 0
	for _, b := range []struct {
		to   **bolt.Bucket
		name []byte
		fill float64
	}{
		{&w.inodes, bucketInodes, 0.9}, // mostly appended to
		{&w.entries, bucketEntries, 0.7},
		{&w.xattrs, bucketXattrs, 0.7},
		{&w.chunks, bucketChunks, 0.9},
		{&w.meta, bucketMeta, 0.9},
	} {
		if *b.to = w.tx.Bucket(b.name); *b.to == nil {
			return fmt.Errorf("%w: checkpoint: no bucket %s", ErrDamaged, b.name)
		}
		(*b.to).FillPercent = b.fill
	}
	return nil
}

func (w *folder) commit() error {
	for k := range w.s.unsaved {
		key := binary.BigEndian.AppendUint32([]byte("b"), k)
		if err := putSummed(w.meta, key, w.s.marks.segment(k)); err != nil {
			return err
		}
	}
	if err := putMeta(w.meta, &w.said); err != nil {
		return err
	}
	// Each key may rewrite its leaf and the branches above.
	if grown := w.tx.Size() + w.bytes + int64(w.keys)*4*4096 + 16<<20; grown > w.s.room {
		return errOutgrown
	}
	tx := w.tx
	if err := tx.Commit(); err != nil {
		return err
	}
	w.tx = nil
	w.s.meta = w.said
	clear(w.s.unsaved)
	return nil
}

// step counts a key, and commits when there are enough.
func (w *folder) step(n int) error {
	w.keys++
	w.bytes += int64(n)
	if w.keys < w.s.batch && w.bytes < 16<<20 {
		return nil
	}
	if err := w.commit(); err != nil {
		return err
	}
	if err := w.each(); err != nil {
		return err
	}
	return w.begin()
}

// put puts value, which has room for its checksum behind it, under w.key. bbolt
// keeps it until the commit, so that it is never scratch.
func (w *folder) put(b func() *bolt.Bucket, value []byte) error {
	value = le.AppendUint32(value, valueSum(w.key, value))
	if err := b().Put(w.key, value); err != nil {
		return err
	}
	return w.step(len(w.key) + len(value))
}

// newValue returns room for a value of n bytes and its checksum.
func newValue(n int) []byte { return make([]byte, 0, n+4) }

func (w *folder) delete(b func() *bolt.Bucket) error {
	if err := b().Delete(w.key); err != nil {
		return err
	}
	return w.step(len(w.key))
}

// The buckets are those of the transaction at hand, which changes on the way.
func (w *folder) inodeBucket() *bolt.Bucket { return w.inodes }
func (w *folder) entryBucket() *bolt.Bucket { return w.entries }
func (w *folder) xattrBucket() *bolt.Bucket { return w.xattrs }
func (w *folder) chunkBucket() *bolt.Bucket { return w.chunks }

// deleteAll deletes all keys of a bucket that begin with n.
func (w *folder) deleteAll(b func() *bolt.Bucket, n Node) error {
	prefix := nodeKey(nil, n)
	for {
		k, _ := b().Cursor().Seek(prefix)
		if !bytes.HasPrefix(k, prefix) {
			return nil
		}
		w.key = append(w.key[:0], k...)
		if err := w.delete(b); err != nil {
			return err
		}
	}
}

func (w *folder) putInodes() error {
	for _, n := range slices.Sorted(maps.Keys(w.d.inodes)) {
		if err := w.putInode(n, w.d.inodes[n]); err != nil {
			return err
		}
	}
	return nil
}

// putInode puts a record, or removes it if i is nil, and what hung on the one
// before. That goes first, for its record alone says that it is there.
func (w *folder) putInode(n Node, i *inode) error {
	old, err := w.old(n)
	if err != nil {
		return err
	}
	if old != nil {
		if err := w.prune(n, old, i); err != nil {
			return err
		}
	}
	w.key = nodeKey(w.key[:0], n)
	switch {
	case old == nil && i != nil:
		w.said.records++
	case old != nil && i == nil:
		w.said.records--
	}
	if i == nil && n >= FirstOwn {
		return w.delete(w.inodeBucket)
	}
	if segment, fresh := w.s.marks.set(n); fresh {
		w.s.unsaved[segment] = struct{}{}
	}
	if i == nil {
		return w.put(w.inodeBucket, newValue(0))
	}
	return w.put(w.inodeBucket, i.append(newValue(inodeHead+len(i.tail))))
}

// old returns the record that the checkpoint has of n.
func (w *folder) old(n Node) (*inode, error) {
	if !w.s.marks.mayHold(n) {
		return nil, nil
	}
	w.key = nodeKey(w.key[:0], n)
	v := w.inodes.Get(w.key)
	if v == nil {
		return nil, nil
	}
	v, err := unsum(w.key, v)
	if err != nil || len(v) == 0 {
		return nil, err
	}
	return decodeInode(v)
}

// prune removes what hung on the record old and does not on i.
func (w *folder) prune(n Node, old, i *inode) error {
	if old.flags&flagXattrs != 0 && i == nil {
		if err := w.deleteAll(w.xattrBucket, n); err != nil {
			return err
		}
	}
	if old.flags&flagMixed != 0 && (i == nil || i.flags&flagMixed == 0) {
		if err := w.deleteAll(w.chunkBucket, n); err != nil {
			return err
		}
	}
	if old.isDir() && i == nil {
		return w.deleteAll(w.entryBucket, n)
	}
	return nil
}

// dropped reports whether n is gone, and all that belongs to it.
func (w *folder) dropped(n Node) bool {
	i, ok := w.d.inodes[n]
	return ok && i == nil
}

func (w *folder) putEntries() error {
	type named struct {
		hash uint64
		name string
	}
	var names []named
	for _, dir := range slices.Sorted(maps.Keys(w.d.dirs)) {
		if w.dropped(dir) {
			continue
		}
		entries := w.d.dirs[dir]
		names = names[:0]
		for name := range entries {
			names = append(names, named{w.hash(name), name})
		}
		slices.SortFunc(names, func(a, b named) int {
			return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.name, b.name))
		})
		for _, v := range names {
			w.key = binary.BigEndian.AppendUint64(nodeKey(w.key[:0], dir), v.hash)
			w.key = append(w.key, v.name...)
			e := entries[v.name]
			if e == (entry{}) {
				if err := w.delete(w.entryBucket); err != nil {
					return err
				}
				continue
			}
			value := append(le.AppendUint64(newValue(entrySize), uint64(e.node)), e.typ)
			if err := w.put(w.entryBucket, value); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *folder) putXattrs() error {
	for _, n := range slices.Sorted(maps.Keys(w.d.xattrs)) {
		if w.dropped(n) {
			continue
		}
		values := w.d.xattrs[n]
		for _, name := range slices.Sorted(maps.Keys(values)) {
			w.key = append(nodeKey(w.key[:0], n), name...)
			var err error
			if value := values[name]; value == nil {
				err = w.delete(w.xattrBucket)
			} else {
				err = w.put(w.xattrBucket, append(newValue(len(value)), value...))
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *folder) putChunks() error {
	keys := slices.SortedFunc(maps.Keys(w.d.chunks), func(a, b chunkKey) int {
		return cmp.Or(cmp.Compare(a.node, b.node), cmp.Compare(a.index, b.index))
	})
	for _, k := range keys {
		if i, ok := w.d.inodes[k.node]; ok && (i == nil || i.flags&flagMixed == 0) {
			continue
		}
		w.key = binary.BigEndian.AppendUint64(nodeKey(w.key[:0], k.node), k.index)
		value := newValue(chunkBlocks / 8)
		for _, v := range w.d.chunks[k] {
			value = le.AppendUint64(value, v)
		}
		if err := w.put(w.chunkBucket, value); err != nil {
			return err
		}
	}
	return nil
}
