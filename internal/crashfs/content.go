// SPDX-License-Identifier: Apache-2.0

package crashfs

import (
	"io"
	"maps"
	"slices"
)

const pageSize = 4096

// A content is the bytes of a file, of which pages that were never written, or
// were cut off or punched, are holes. Its pages are never changed in place, so
// that clones share them.
type content struct {
	size  int64
	pages map[int64][]byte // by offset / pageSize; each pageSize long
}

func newContent() *content { return &content{pages: map[int64][]byte{}} }

func (c *content) clone() *content { return &content{c.size, maps.Clone(c.pages)} }

// write puts data at off, but of each block of that many bytes only if has
// says so. It does not change the size.
func (c *content) write(data []byte, off, block int64, has func(block int64) bool) {
	for len(data) > 0 {
		page := off / pageSize
		var fresh []byte
		for len(data) > 0 && off/pageSize == page {
			n := min(int64(len(data)), block-off%block)
			if has(off / block) {
				if fresh == nil {
					fresh = make([]byte, pageSize)
					copy(fresh, c.pages[page])
				}
				copy(fresh[off%pageSize:], data[:n])
			}
			data, off = data[n:], off+n
		}
		if fresh != nil {
			c.pages[page] = fresh
		}
	}
}

// zero makes [lo, hi) a hole, of which only whole pages free something.
func (c *content) zero(lo, hi int64) {
	for page, old := range c.pages {
		from, to := max(lo-page*pageSize, 0), min(hi-page*pageSize, pageSize)
		switch {
		case from >= to:
		case from == 0 && to == pageSize:
			delete(c.pages, page)
		default:
			fresh := slices.Clone(old)
			clear(fresh[from:to])
			c.pages[page] = fresh
		}
	}
}

// writeTo writes the pages below the size, those that follow each other in one.
func (c *content) writeTo(w io.WriterAt) error {
	nums := slices.Sorted(maps.Keys(c.pages))
	for len(nums) > 0 {
		first, run := nums[0], []byte(nil)
		for len(nums) > 0 && nums[0] == first+int64(len(run))/pageSize {
			run = append(run, c.pages[nums[0]]...)
			nums = nums[1:]
		}
		off := first * pageSize
		if off >= c.size {
			break
		}
		if _, err := w.WriteAt(run[:min(int64(len(run)), c.size-off)], off); err != nil {
			return err
		}
	}
	return nil
}
