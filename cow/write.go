// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// copyWhole is the size up to which a file of the layers is copied whole at
// its first write: a local file costs no frame for a write, and no look at a
// map for a read. The copy of 32 KiB costs about as much as making the data
// file, that of 128 KiB ten times as much.
const copyWhole = 64 << 10

// write writes p, which is not empty, at off. It returns how much of p it
// wrote, all of it without an error.
//
// Preconditions: c.mu is held for writing.
func (c *content) write(p []byte, off int64) (int, error) {
	if c.local {
		return c.writeLocal(p, off)
	}
	if off > maxSize-int64(len(p)) {
		return 0, syscall.EFBIG
	}
	end := off + int64(len(p))
	if !c.hasData && (c.size <= copyWhole || off == 0 && end >= c.size) {
		return c.writeWhole(p, off)
	}
	return c.writeBlocks(p, off)
}

// writeLocal writes to the data file of a local file, or to its record while
// it is small.
func (c *content) writeLocal(p []byte, off int64) (int, error) {
	if !c.hasData {
		if off <= maxInline-int64(len(p)) {
			return c.writeInline(c.inline, p, off)
		}
		return c.createAnd(func(fd int) (int, error) {
			if err := c.spill(fd); err != nil {
				return 0, err
			}
			return pwrite(fd, p, off)
		})
	}
	fd, err := c.lockFD()
	if err != nil {
		return 0, err
	}
	defer c.fdMu.RUnlock()
	return pwrite(fd, p, off)
}

// writeInline makes a local file of old with p written over it at off, all of
// it in the record.
//
// Preconditions: c.mu is held for writing, !c.hasData, it ends below maxInline.
func (c *content) writeInline(old string, p []byte, off int64) (int, error) {
	if err := c.commit(inlined(spliced(old, p, off))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// spliced returns old with p written over it at off, zeros between its end and
// that.
func spliced(old string, p []byte, off int64) string {
	at, end := int(off), int(off)+len(p)
	var all strings.Builder
	all.Grow(max(len(old), end))
	all.WriteString(old[:min(at, len(old))])
	for gap := at - all.Len(); gap > 0; gap = at - all.Len() {
		all.Write(zeros[:min(gap, len(zeros))])
	}
	all.Write(p)
	if end < len(old) {
		all.WriteString(old[end:])
	}
	return all.String()
}

// inlined returns the put of a local file that is all in its record.
func inlined(all string) put { return put{local: true, size: int64(len(all)), inline: all} }

// spill writes what lies in the record to a new data file.
func (c *content) spill(fd int) error {
	if len(c.inline) == 0 {
		return nil
	}
	_, err := pwrite(fd, []byte(c.inline), 0)
	return err
}

// makeFile gives a local file that has none its data file, and changes nothing
// else.
//
// Preconditions: c.mu is held for writing, c.local, !c.hasData.
func (c *content) makeFile() error {
	fd, err := c.u.makeData(c.node)
	if err != nil {
		return err
	}
	err = c.spill(fd)
	if err == nil && len(c.inline) > 0 {
		err = c.stampData(fd)
	}
	if err == nil {
		err = c.commit(put{local: true, hasData: true, barrier: len(c.inline) > 0, keepTimes: true})
	}
	if err != nil {
		c.discard(fd)
		return err
	}
	c.setFD(fd)
	return nil
}

// createAnd gives a file its data file, of which fill makes all the content,
// so that the file is local. fill returns how much was written of what was
// asked for; an error with nothing written leaves all as it was.
//
// Preconditions: c.mu is held for writing, !c.hasData.
func (c *content) createAnd(fill func(fd int) (int, error)) (int, error) {
	fd, err := c.u.makeData(c.node)
	if err != nil {
		return 0, err
	}
	n, failed := fill(fd)
	if failed != nil && n == 0 {
		c.discard(fd)
		return 0, failed
	}
	// A new file may lose what was not synced; what the layers or the journal
	// have must not be lost.
	if err := c.commit(put{local: true, hasData: true, barrier: !c.local || len(c.inline) > 0}); err != nil {
		c.discard(fd)
		return 0, err
	}
	c.setFD(fd)
	return n, failed
}

// dropFD removes a data file that was made for nothing.
func (c *content) dropFD() {
	c.closeFD()
	c.removeData()
}

func (c *content) discard(fd int) {
	unix.Close(fd)
	c.removeData()
}

func (c *content) removeData() {
	if err := c.u.removeData(c.node); err != nil {
		c.u.logf("node %d: %v", c.node, err) // no record names it: it goes after the next Open
	}
}

// writeWhole copies the file of a layer and writes p to it.
func (c *content) writeWhole(p []byte, off int64) (int, error) {
	if off <= maxInline-int64(len(p)) && c.size <= maxInline {
		old := make([]byte, c.size)
		if err := c.readBelow(old, 0); err != nil {
			return 0, err
		}
		return c.writeInline(string(old), p, off)
	}
	if off == 0 && int64(len(p)) >= c.size {
		return c.createAnd(func(fd int) (int, error) {
			n, err := pwrite(fd, p, 0)
			if int64(n) < c.size {
				return 0, err // of the rest nothing was copied
			}
			return n, err
		})
	}
	buf := buffers.Get().(*[copyWhole]byte)
	defer buffers.Put(buf)
	old := buf[:c.size]
	if err := c.readBelow(old, 0); err != nil {
		return 0, err
	}
	return c.createAnd(func(fd int) (int, error) {
		if end := off + int64(len(p)); off <= c.size && end <= copyWhole {
			all := buf[:max(c.size, end)]
			copy(all[off:], p)
			if _, err := pwrite(fd, all, 0); err != nil {
				return 0, err
			}
			return len(p), nil
		}
		if _, err := pwrite(fd, old, 0); err != nil {
			return 0, err
		}
		return pwrite(fd, p, off)
	})
}

// writeBlocks writes p to the data file of a file that is not local and brings
// its blocks into the map. Blocks of which p is only a part are completed.
func (c *content) writeBlocks(p []byte, off int64) (int, error) {
	end := off + int64(len(p))
	// What lies between the size and off comes to be seen now.
	if _, err := c.clean(off > c.size); err != nil {
		return 0, err
	}
	first, behind := uint64(off/blockSize), blocksOf(end)
	local, next, err := c.run(first, behind)
	if err != nil {
		return 0, err
	}
	inMap := local && next == behind
	var head, tail []byte
	if !inMap {
		buf := buffers.Get().(*[copyWhole]byte)
		defer buffers.Put(buf)
		if head, tail, err = c.complete(buf, off, end, local); err != nil {
			return 0, err
		}
	}
	created := !c.hasData
	if created {
		fd, err := c.u.makeData(c.node)
		if err != nil {
			return 0, err
		}
		c.setFD(fd)
	}
	n, failed := c.writeData(head, p, tail, off-int64(len(head)))
	if failed != nil && !inMap {
		// Of the last block it wrote to, nobody completed the rest.
		n = int(max(int64(n)+off-(int64(n)+off)%blockSize-off, 0))
	}
	if n > 0 {
		if err := c.wrote(off, off+int64(n), inMap); err != nil {
			n, failed = 0, err
		}
	}
	if created && !c.hasData {
		c.dropFD()
	}
	if failed != nil {
		c.stale = c.hasData
		return n, failed
	}
	if !inMap {
		if _, err := c.settle(false); err != nil {
			c.u.logf("node %d: %v", c.node, err) // the write itself holds
		}
	}
	return n, nil
}

// complete returns what lies before off in the first block and behind end in
// the last, so far as these blocks are not in the map. firstLocal tells of the
// first.
func (c *content) complete(buf *[copyWhole]byte, off, end int64, firstLocal bool) (head, tail []byte, err error) {
	if n := off % blockSize; n != 0 && !firstLocal {
		head = buf[:n]
		if err := c.readBelow(head, off-n); err != nil {
			return nil, nil, err
		}
	}
	if end%blockSize == 0 || end >= c.size {
		return head, nil, nil // what follows the end of the file is nothing
	}
	last := uint64(end / blockSize)
	local, err := c.has(last)
	if err != nil || local {
		return head, nil, err
	}
	tail = buf[blockSize:][:min(int64(last+1)*blockSize, c.size)-end]
	if err := c.readBelow(tail, end); err != nil {
		return nil, nil, err
	}
	return head, tail, nil
}

// writeData writes head, p and tail to the data file. It returns how much of p
// was written.
func (c *content) writeData(head, p, tail []byte, off int64) (int, error) {
	fd, err := c.lockFD()
	if err != nil {
		return 0, err
	}
	defer c.fdMu.RUnlock()
	n, err := pwritev(fd, head, p, tail, off)
	return min(max(n-len(head), 0), len(p)), err
}

// wrote makes the record say that the bytes from off to end stand in the data
// file. Unless inMap, their blocks come into the map, all of them complete.
func (c *content) wrote(off, end int64, inMap bool) error {
	p := c.state()
	p.hasData = true
	if end > p.size {
		p.size, p.barrier = end, true
	}
	if !inMap {
		p.first = uint64(off / blockSize)
		p.count = blocksOf(end) - p.first
		p.barrier = true
	}
	return c.commit(p)
}
