// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"encoding/binary"
	"fmt"
	"os"

	bolt "go.etcd.io/bbolt"
)

// bbolt follows whatever its branch pages say, and where one leads back to
// itself it recurses until the process is killed. So the branches are walked
// once when the file is opened. They are some hundredth of it; leaves are not
// read, for what is wrong in them ends in a fault or a checksum.
//
// Page of bbolt, in the machine's order of bytes:
//
//	 0   8  its number
//	 8   2  1 a branch, 2 a leaf
//	10   2  n, number of elements
//	12   4  how many pages follow that belong to it
//	16 16n  of a branch: place of the key (4), its length (4), number of the page below (8)
type pages struct {
	f    *os.File
	size int64 // of a page
	seen map[uint64]struct{}
}

const (
	pageHead   = 16
	pageBranch = 1
	pageLeaf   = 2
	maxHeight  = 16 // no tree of 2^48 bytes is as high
)

// checkPages makes sure that the branches of all buckets are trees.
func (s *store) checkPages() error {
	f, err := os.Open(s.path)
	if err != nil {
		return err
	}
	defer f.Close()
	p := &pages{f: f, size: int64(s.db.Info().PageSize), seen: make(map[uint64]struct{})}
	return guarded(func() error {
		return s.db.View(func(tx *bolt.Tx) error {
			if _, err := p.check(uint64(tx.Cursor().Bucket().Root()), 0); err != nil {
				return fmt.Errorf("%s: %w", s.path, err)
			}
			return tx.ForEach(func(name []byte, b *bolt.Bucket) error {
				if b.Root() == 0 { // it lies in its parent's leaf
					return nil
				}
				if _, err := p.check(uint64(b.Root()), 0); err != nil {
					return fmt.Errorf("%s: bucket %q: %w", s.path, name, err)
				}
				return nil
			})
		})
	})
}

// check walks the branches from page id down and reports whether it is a leaf.
func (p *pages) check(id uint64, height int) (leaf bool, err error) {
	bad := func(what string) (bool, error) {
		return false, fmt.Errorf("%w: page %d %s", ErrDamaged, id, what)
	}
	if height > maxHeight {
		return bad("is too deep")
	}
	if id < 2 || id > 1<<40 {
		return bad("is none")
	}
	if height == 0 {
		if _, twice := p.seen[id]; twice {
			return bad("is the root of two")
		}
		p.seen[id] = struct{}{}
	}
	ne := binary.NativeEndian
	b := make([]byte, p.size)
	if n, err := p.f.ReadAt(b, int64(id)*p.size); int64(n) < p.size {
		return false, fmt.Errorf("%w: page %d: %v", ErrDamaged, id, err)
	}
	if ne.Uint64(b) != id {
		return bad("has another number")
	}
	switch ne.Uint16(b[8:]) {
	case pageLeaf:
		return true, nil
	case pageBranch:
	default:
		return bad("is neither branch nor leaf")
	}
	n := int64(ne.Uint16(b[10:]))
	whole := p.size * (1 + int64(ne.Uint32(b[12:])))
	if n == 0 || pageHead+16*n > whole {
		return bad("has no room for its elements")
	}
	if need := pageHead + 16*n; need > p.size {
		b = make([]byte, need)
		if k, err := p.f.ReadAt(b, int64(id)*p.size); int64(k) < need {
			return false, fmt.Errorf("%w: page %d: %v", ErrDamaged, id, err)
		}
	}
	leaves := false
	for k := range n {
		below := ne.Uint64(b[pageHead+16*k+8:])
		if _, twice := p.seen[below]; twice {
			return bad("leads to a page twice")
		}
		p.seen[below] = struct{}{}
		// All leaves lie equally deep: the first tells of the others.
		if k > 0 && leaves {
			continue
		}
		if leaves, err = p.check(below, height+1); err != nil {
			return false, err
		}
	}
	return false, nil
}
