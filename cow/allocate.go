// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	keepSize  = unix.FALLOC_FL_KEEP_SIZE
	punchHole = unix.FALLOC_FL_PUNCH_HOLE | keepSize
	zeroRange = unix.FALLOC_FL_ZERO_RANGE
	collapse  = unix.FALLOC_FL_COLLAPSE_RANGE
	insert    = unix.FALLOC_FL_INSERT_RANGE
)

// Allocate is fallocate(2).
func (f *File) Allocate(mode uint32, off, n int64) error {
	switch mode {
	case 0, keepSize, punchHole, zeroRange, zeroRange | keepSize, collapse, insert:
	default:
		return syscall.EOPNOTSUPP
	}
	if off < 0 || n <= 0 {
		return syscall.EINVAL
	}
	if off > 1<<63-1-n {
		return syscall.EFBIG
	}
	c := f.c
	if err := c.u.mayWrite(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.local && !c.hasData && c.size <= copyWhole {
		if _, err := c.writeWhole(nil, 0); err != nil {
			return err
		}
	}
	if c.local {
		return c.allocateLocal(mode, off, n)
	}
	end := off + n
	if end > maxSize {
		if mode != punchHole {
			return syscall.EFBIG
		}
		end = max(maxSize, off)
	}
	switch mode {
	case collapse, insert:
		return syscall.EOPNOTSUPP
	case 0, keepSize:
		return c.reserve(mode, off, end)
	}
	if err := c.zero(mode, off, end); err != nil || !c.local {
		return err
	}
	return c.allocateLocal(mode, off, n) // it became local on the way
}

func (c *content) allocateLocal(mode uint32, off, n int64) error {
	if !c.hasData {
		if err := c.makeFile(); err != nil {
			return err
		}
	}
	if mode == collapse || mode == insert {
		if err := c.settled(); err != nil {
			return err
		}
	}
	fd, err := c.lockFD()
	if err != nil {
		return err
	}
	defer c.fdMu.RUnlock()
	err = fallocate(fd, mode, off, n)
	if err == unix.EOPNOTSUPP && mode&^keepSize == zeroRange {
		err = zeroFile(fd, off, n, mode&keepSize == 0)
	}
	return answer(err)
}

// zeroFile is FALLOC_FL_ZERO_RANGE for a disk that knows only how to punch.
func zeroFile(fd int, off, n int64, grow bool) error {
	if err := fallocate(fd, punchHole, off, n); err != nil || !grow {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Size >= off+n {
		return err
	}
	return ftruncate(fd, off+n)
}

// answer returns what is answered for an error of fallocate.
func answer(err error) error {
	for _, e := range [...]syscall.Errno{syscall.EOPNOTSUPP, syscall.EINVAL} {
		if errors.Is(err, e) {
			return e
		}
	}
	return disk(err)
}

// withData gives c a data file for the time of f, which stays if f makes c have
// one.
func (c *content) withData(f func(fd int) error) error {
	created := !c.hasData
	if created {
		fd, err := c.u.makeData(c.node)
		if err != nil {
			return err
		}
		c.setFD(fd)
	}
	err := c.locked(f)
	if created && !c.hasData {
		c.dropFD()
	}
	if err != nil {
		c.stale = c.hasData
	}
	return err
}

func (c *content) locked(f func(fd int) error) error {
	fd, err := c.lockFD()
	if err != nil {
		return err
	}
	defer c.fdMu.RUnlock()
	return f(fd)
}

// reserve holds room on the disk for what will be written to [off, end). The
// blocks stay where they are.
func (c *content) reserve(mode uint32, off, end int64) error {
	grows := mode == 0 && end > c.size
	if grows {
		if _, err := c.clean(true); err != nil {
			return err
		}
	}
	return c.withData(func(fd int) error {
		if err := fallocate(fd, keepSize, off, end-off); err != nil {
			return answer(err)
		}
		p := c.state()
		// A data file that the record names must be there.
		p.barrier = grows || !p.hasData
		p.hasData = true
		if grows {
			p.size = end
		}
		return c.commit(p)
	})
}

// maxZeroed bounds how many blocks come into the map for one call: what is
// punched into a file of the layers that is nothing but a hole of exabytes is
// not worth a map.
const maxZeroed = 1 << 26

// zeroStep is how many blocks come into the map with one frame.
const zeroStep = 1 << 16

// zero makes [off, end) read as zeros: FALLOC_FL_PUNCH_HOLE or ZERO_RANGE.
func (c *content) zero(mode uint32, off, end int64) error {
	grows := mode == zeroRange && end > c.size
	if grows {
		if _, err := c.clean(true); err != nil {
			return err
		}
	}
	stop := min(end, c.size) // behind it there is nothing
	if off < stop {
		if err := c.zeroInside(off, stop); err != nil || c.local {
			return err
		}
	}
	p := c.state()
	if grows {
		p.size, p.barrier = end, c.hasData
	} else if off < stop {
		return nil
	}
	return c.commit(p)
}

// zeroInside makes [off, end), which is below size, zeros, or less if the file
// becomes local on the way.
func (c *content) zeroInside(off, end int64) error {
	lo := (off + blockSize - 1) / blockSize * blockSize
	hi := end / blockSize * blockSize
	if end == c.size {
		hi = int64(blocksOf(end)) * blockSize
	}
	if lo > hi { // inside one block
		return c.writeZeros(off, end)
	}
	if err := c.writeZeros(off, min(lo, end)); err != nil || c.local {
		return err
	}
	if err := c.writeZeros(max(hi, off), end); err != nil {
		return err
	}
	if lo == hi || c.local {
		return nil
	}
	return c.withData(func(fd int) error { return c.zeroBlocks(fd, lo, hi) })
}

func (c *content) writeZeros(off, end int64) error {
	if off >= end {
		return nil
	}
	_, err := c.writeBlocks(zeros[:end-off], off)
	return err
}

var zeros [blockSize]byte

// zeroBlocks makes whole blocks zeros.
func (c *content) zeroBlocks(fd int, lo, hi int64) error {
	first, end := uint64(lo/blockSize), uint64(hi/blockSize)
	mapped := min(end, blocksOf(c.lower)) // above lower it is zeros unless in the map
	if hi >= c.size {
		mapped = first // the layer's end is drawn here instead
	}
	if mapped > first && mapped-first > maxZeroed {
		return syscall.EOPNOTSUPP
	}
	if err := fallocate(fd, punchHole, lo, hi-lo); err != nil {
		return answer(err)
	}
	for b := first; b < mapped; b += zeroStep {
		p := c.state()
		p.hasData, p.barrier = true, true
		p.first, p.count = b, min(zeroStep, mapped-b)
		if err := c.commit(p); err != nil {
			return err
		}
	}
	if mapped > first {
		return nil
	}
	p := c.state()
	p.hasData, p.barrier = true, true
	if hi >= c.size {
		p.lower = min(p.lower, lo)
	}
	return c.commit(p)
}

func fallocate(fd int, mode uint32, off, n int64) error {
	for {
		if err := unix.Fallocate(fd, mode, off, n); err != unix.EINTR {
			return err
		}
	}
}

func futimens(fd int, ts *[2]unix.Timespec) error {
	return unix.UtimesNanoAt(fd, "", ts[:], unix.AT_EMPTY_PATH)
}
