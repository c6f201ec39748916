// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// SeekData is lseek(2) with SEEK_DATA (data true) or SEEK_HOLE.
func (f *File) SeekData(off int64, data bool) (int64, error) {
	if off < 0 {
		return 0, syscall.ENXIO
	}
	c := f.c
	c.mu.RLock()
	defer c.mu.RUnlock()
	if !c.hasData {
		if c.local {
			size := int64(len(c.inline))
			switch {
			case off >= size:
				return 0, syscall.ENXIO
			case data:
				return off, nil
			}
			return size, nil
		}
		return c.seek(-1, off, data)
	}
	fd, err := c.lockFD()
	if err != nil {
		return 0, err
	}
	defer c.fdMu.RUnlock()
	if c.local {
		return seekFile(fd, off, data)
	}
	return c.seek(fd, off, data)
}

// seekFile is lseek(2) on a descriptor of which nobody uses the offset.
func seekFile(fd int, off int64, data bool) (int64, error) {
	whence := unix.SEEK_HOLE
	if data {
		whence = unix.SEEK_DATA
	}
	at, err := unix.Seek(fd, off, whence)
	if err == unix.ENXIO {
		return 0, syscall.ENXIO
	}
	return at, disk(err)
}

// seek goes from run to run until one is what is looked for.
func (c *content) seek(fd int, off int64, data bool) (int64, error) {
	if off >= c.size {
		return 0, syscall.ENXIO
	}
	ends := min(c.lower, c.size) // behind it there are only holes
	if fd >= 0 {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return 0, disk(err)
		}
		ends = max(ends, min(st.Size, c.size))
	}
	for off < ends {
		isData, next, err := c.stretch(fd, off)
		if err != nil {
			return 0, err
		}
		if isData == data {
			return off, nil
		}
		off = min(next, c.size)
	}
	switch {
	case data:
		return 0, syscall.ENXIO
	default:
		return off, nil
	}
}

// stretch reports whether at off there is data, and an offset behind off up to
// which that is so.
func (c *content) stretch(fd int, off int64) (isData bool, next int64, err error) {
	local, behind, err := c.run(uint64(off/blockSize), blocksOf(c.size))
	if err != nil {
		return false, 0, err
	}
	next = c.size
	if behind < blocksOf(c.size) { // else its bytes may be no offset
		next = int64(behind) * blockSize
	}
	var seek func(off int64, data bool) (int64, error)
	switch {
	case local:
		seek = func(off int64, data bool) (int64, error) { return seekFile(fd, off, data) }
	case off >= c.lower:
		return false, next, nil
	default:
		next = min(next, c.lower)
		seek = func(off int64, data bool) (int64, error) {
			at, err := c.u.fs.Seek(&c.low, off, data)
			if err != nil && err != syscall.ENXIO {
				err = &belowError{err}
			}
			return at, err
		}
	}
	at, err := seek(off, true)
	if err == syscall.ENXIO {
		return false, next, nil
	}
	if err != nil {
		return false, 0, err
	}
	if at > off {
		return false, min(next, at), nil
	}
	hole, err := seek(off, false)
	if err == syscall.ENXIO {
		hole, err = next, nil
	}
	return true, min(next, hole), err
}
