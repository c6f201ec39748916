// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"sort"

	"golang.org/x/sys/unix"
)

// A bolt is a bbolt file that is only read, by a reader of our own: bbolt
// would wait for the lock that a running engine holds, map the file and panic
// or never end where a page lies. Here every number is bounded, and the elements
// that may be looked at are counted: pages that lead to themselves come to an end.
//
// A page begins with its number (8), flags (2), count (2) and how many pages
// more it takes (4); then come count elements of 16 bytes and what they point
// to, relative to themselves:
//
//	branch  position (4), size of the key (4), page (8)
//	leaf    flags (4), position (4), size of the key (4), of the value (4)
//
// The value of a leaf with flag 1 is a bucket: its root page (8) and a sequence
// (8); if the root is 0, the page follows.
type bolt struct {
	r     io.ReaderAt
	pages uint64 // in the file
	page  int64  // bytes of one
	root  uint64
	left  int // elements that may still be looked at
}

// A bucket is one of a bolt; nil is an empty one.
type bucket struct {
	b      *bolt
	root   uint64
	inline []byte // the page, if root is 0
}

const (
	boltMagic    = 0xED0CDAED
	boltVersion  = 2
	pageHead     = 16
	pageBranch   = 0x01
	pageLeaf     = 0x02
	maxBoltDepth = 32
	maxBoltPage  = 64 << 20 // bytes of one with all that it takes
)

// copyBolt copies the bbolt file name of the store to a temporary file and
// opens that. A running engine may write meanwhile: then it is copied again.
func copyBolt(ctx context.Context, d *dir, name string, temp func() (*os.File, error)) (_ *bolt, _ io.Closer, err error) {
	f, err := d.open(name)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	copied, err := temp()
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			copied.Close()
		}
	}()
	const tries = 20
	for range tries {
		var before, after unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &before); err != nil {
			return nil, nil, err
		}
		if err := copied.Truncate(0); err != nil {
			return nil, nil, err
		}
		n, err := io.Copy(io.NewOffsetWriter(copied, 0), contextReader{ctx, io.NewSectionReader(f, 0, before.Size)})
		if err != nil {
			return nil, nil, err
		}
		if err := unix.Fstat(int(f.Fd()), &after); err != nil {
			return nil, nil, err
		}
		if stampOf(&before) == stampOf(&after) {
			b, err := openBolt(copied, n)
			if err != nil {
				err = fmt.Errorf("%s: %w", d.join(name), err)
			}
			return b, copied, err
		}
	}
	return nil, nil, fmt.Errorf("%s: is being written without a pause", d.join(name))
}

// A contextReader ends with its context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// openBolt reads the meta pages of a file of size bytes.
func openBolt(r io.ReaderAt, size int64) (*bolt, error) {
	best := &bolt{r: r}
	var txid uint64
	for page := int64(1 << 9); page <= 1<<16; page <<= 1 {
		for _, at := range []int64{0, page} {
			head := make([]byte, pageHead+64)
			if readFull(r, head, at) != nil {
				continue
			}
			m := head[pageHead:]
			sum := fnv.New64a()
			sum.Write(m[:56])
			if u32(m) != boltMagic || u32(m[4:]) != boltVersion || int64(u32(m[8:])) != page || u64(m[56:]) != sum.Sum64() {
				continue
			}
			if best.page == 0 || u64(m[48:]) > txid {
				best.page, best.root, txid = page, u64(m[16:]), u64(m[48:])
			}
		}
	}
	if best.page == 0 {
		return nil, malformed("not a bbolt file")
	}
	best.pages = uint64(size / best.page)
	best.left = 1<<24 + int(min(size, 1<<40))
	return best, nil
}

func u16(b []byte) uint16 { return binary.LittleEndian.Uint16(b) }
func u32(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }
func u64(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }

// top returns the bucket of all buckets.
func (b *bolt) top() *bucket { return &bucket{b: b, root: b.root} }

// read returns page n with all that it takes.
func (b *bolt) read(n uint64) ([]byte, error) {
	if n < 2 || n >= b.pages {
		return nil, malformed("bbolt: page %d of %d", n, b.pages)
	}
	head := make([]byte, pageHead)
	if err := readFull(b.r, head, int64(n)*b.page); err != nil {
		return nil, err
	}
	more := uint64(u32(head[12:]))
	if more >= b.pages-n || int64(more+1)*b.page > maxBoltPage {
		return nil, malformed("bbolt: page %d takes %d more", n, more)
	}
	page := make([]byte, int64(more+1)*b.page)
	return page, readFull(b.r, page, int64(n)*b.page)
}

// An element is one of a page.
type element struct {
	key, value []byte
	isBucket   bool
	child      uint64 // of a branch
}

// elements returns those of a page.
func (b *bolt) elements(page []byte) (list []element, branch bool, err error) {
	if len(page) < pageHead {
		return nil, false, malformed("bbolt: a page of %d bytes", len(page))
	}
	flags, count := u16(page[8:]), int(u16(page[10:]))
	if flags != pageBranch && flags != pageLeaf {
		return nil, false, malformed("bbolt: a page of kind %#x", flags)
	}
	branch = flags == pageBranch
	if len(page) < pageHead+16*count {
		return nil, false, malformed("bbolt: a page of %d elements in %d bytes", count, len(page))
	}
	if b.left -= 1 + count; b.left < 0 {
		return nil, false, malformed("bbolt: its pages lead in circles")
	}
	list = make([]element, count)
	for i := range list {
		at := page[pageHead+16*i:]
		var pos, key, value uint64
		if branch {
			pos, key, list[i].child = uint64(u32(at)), uint64(u32(at[4:])), u64(at[8:])
		} else {
			pos, key, value = uint64(u32(at[4:])), uint64(u32(at[8:])), uint64(u32(at[12:]))
			list[i].isBucket = u32(at)&1 != 0
		}
		if pos+key+value > uint64(len(at)) {
			return nil, false, malformed("bbolt: an element leads out of its page")
		}
		list[i].key, list[i].value = at[pos:pos+key], at[pos+key:pos+key+value]
	}
	return list, branch, nil
}

func (k *bucket) page() ([]byte, error) {
	if k.root == 0 {
		return k.inline, nil
	}
	return k.b.read(k.root)
}

// each calls f for the elements in the order of their keys.
func (k *bucket) each(f func(element) error) error {
	if k == nil {
		return nil
	}
	page, err := k.page()
	if err != nil {
		return err
	}
	return k.walk(page, 0, f)
}

func (k *bucket) walk(page []byte, depth int, f func(element) error) error {
	list, branch, err := k.b.elements(page)
	if err != nil {
		return err
	}
	if depth > maxBoltDepth {
		return malformed("bbolt: over %d levels", maxBoltDepth)
	}
	for _, e := range list {
		if branch {
			below, err := k.b.read(e.child)
			if err == nil {
				err = k.walk(below, depth+1, f)
			}
			if err != nil {
				return err
			}
			continue
		}
		if err := f(e); err != nil {
			return err
		}
	}
	return nil
}

// find returns the element of a key; ok is false if there is none.
func (k *bucket) find(key string) (e element, ok bool, err error) {
	if k == nil {
		return e, false, nil
	}
	page, err := k.page()
	for depth := 0; err == nil; depth++ {
		list, branch, err := k.b.elements(page)
		if err != nil {
			return e, false, err
		}
		if depth > maxBoltDepth {
			return e, false, malformed("bbolt: over %d levels", maxBoltDepth)
		}
		i := sort.Search(len(list), func(i int) bool { return bytes.Compare(list[i].key, []byte(key)) > 0 }) - 1
		if !branch {
			if i < 0 || string(list[i].key) != key {
				return e, false, nil
			}
			return list[i], true, nil
		}
		if len(list) == 0 {
			return e, false, nil
		}
		if page, err = k.b.read(list[max(i, 0)].child); err != nil {
			return e, false, err
		}
	}
	return e, false, err
}

// get returns the value of a key, nil if there is none.
func (k *bucket) get(key string) ([]byte, error) {
	e, ok, err := k.find(key)
	if err != nil || !ok || e.isBucket {
		return nil, err
	}
	return e.value, nil
}

// sub returns the bucket below path, nil if there is none.
func (k *bucket) sub(path ...string) (*bucket, error) {
	for _, name := range path {
		e, ok, err := k.find(name)
		if err != nil || !ok || !e.isBucket {
			return nil, err
		}
		if k, err = k.b.bucket(e); err != nil {
			return nil, err
		}
	}
	return k, nil
}

// bucket returns the one that the element e is.
func (b *bolt) bucket(e element) (*bucket, error) {
	if len(e.value) < 16 {
		return nil, malformed("bbolt: a bucket of %d bytes", len(e.value))
	}
	k := &bucket{b: b, root: u64(e.value)}
	if k.root == 0 {
		k.inline = e.value[16:]
	}
	return k, nil
}
