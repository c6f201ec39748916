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
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
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
