// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// truncate sets the size of n. It is called without locks.
func (u *Upper) truncate(n Node, size int64) error {
	if err := u.mayWrite(); err != nil {
		return err
	}
	c, err := u.acquire(n)
	if err != nil {
		return err
	}
	defer u.release(c)
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.truncate(size)
}

// truncate sets the size.
//
// Preconditions: c.mu is held for writing.
func (c *content) truncate(size int64) error {
	switch {
	case size < 0:
		return syscall.EINVAL
	case c.local:
		return c.truncateLocal(size)
	case size > maxSize:
		return syscall.EFBIG
	}
	p := c.state()
	p.size, p.lower = size, min(c.lower, size)
	switch {
	case size == 0 && !c.hasData:
		// Local, and so far without a data file: after a power loss either
		// the old bytes or what is written next.
		p.local, p.barrier = true, true
	case size == 0:
		p.barrier = true
	case size > c.size:
		if _, err := c.clean(true); err != nil {
			return err
		}
	}
	shrinks := size < c.size
	if err := c.commit(p); err != nil {
		return err
	}
	if shrinks && c.hasData {
		c.stale = true
	}
	return nil
}

func (c *content) truncateLocal(size int64) error {
	if !c.hasData {
		if size <= maxInline {
			all := make([]byte, size)
			copy(all, c.inline)
			return c.commit(inlined(string(all)))
		}
		_, err := c.createAnd(func(fd int) (int, error) {
			if err := c.spill(fd); err != nil {
				return 0, err
			}
			return 0, disk(ftruncate(fd, size))
		})
		return err
	}
	if err := c.settled(); err != nil {
		return err
	}
	fd, err := c.lockFD()
	if err != nil {
		return err
	}
	defer c.fdMu.RUnlock()
	return disk(ftruncate(fd, size))
}

// settled makes sure that no loss of power makes c a file again whose bytes
// come partly from its data file: of such a one nothing may be cut off or moved
// in the data file before the record that says so is durable.
//
// Preconditions: c.mu is held for writing, c.local.
func (c *content) settled() error {
	if c.lower == 0 {
		return nil
	}
	if seq := c.u.cutSeq(c.node); seq != 0 {
		if err := c.u.sync(seq); err != nil {
			return err
		}
	}
	c.lower = 0
	return nil
}

// clean cuts off what the data file has behind the size, left by a truncation
// or by a change that failed, and reports whether nothing is there now. Bytes
// that a record not long ago counted must stay until the record that cut them
// off is durable: unless force that is not waited for.
//
// Preconditions: c.mu is held for writing, !c.local.
func (c *content) clean(force bool) (bool, error) {
	if !c.stale || !c.hasData {
		return true, nil
	}
	fd, err := c.lockFD()
	if err != nil {
		return false, err
	}
	defer c.fdMu.RUnlock()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, disk(err)
	}
	if st.Size > c.size {
		if seq := c.u.cutSeq(c.node); seq != 0 {
			if !force {
				return false, nil
			}
			if err := c.u.sync(seq); err != nil {
				return false, err
			}
		}
		if err := ftruncate(fd, c.size); err != nil {
			return false, disk(err)
		}
	}
	c.stale = false
	return true, nil
}

// tidy cuts off what is behind the size if nothing has to be waited for and
// nobody uses c right now. That c may be local then is for the next write to
// see: times of the data file, which change now, are not yet those of the file.
func (c *content) tidy() {
	if !c.mu.TryLock() {
		return
	}
	defer c.mu.Unlock()
	if c.local {
		return
	}
	if _, err := c.clean(false); err != nil {
		c.u.logf("node %d: %v", c.node, err)
	}
}

// settle makes c local if no byte comes from the layer any more, and reports
// whether it is. Unless force it lets be what would have to wait for the disk.
//
// Preconditions: c.mu is held for writing.
func (c *content) settle(force bool) (bool, error) {
	if c.local {
		return true, nil
	}
	if !c.hasData {
		if c.lower > 0 || !force {
			return false, nil
		}
		size := c.size
		_, err := c.createAnd(func(fd int) (int, error) { return 0, disk(ftruncate(fd, size)) })
		return err == nil, err
	}
	clean, err := c.clean(force)
	if err != nil || !clean {
		return false, err
	}
	if full, err := c.filled(); err != nil || !full {
		return false, err
	}
	fd, err := c.lockFD()
	if err != nil {
		return false, err
	}
	defer c.fdMu.RUnlock()
	if pure, err := c.punchUnmapped(fd); err != nil || !pure {
		return false, err
	}
	if err := ftruncate(fd, c.size); err != nil {
		return false, disk(err)
	}
	if err := c.stampData(fd); err != nil {
		return false, err
	}
	// That lower is not 0 tells that the data file was a mixed one's; see
	// settled.
	err = c.commit(put{local: true, hasData: true, lower: max(c.lower, 1), barrier: true, keepTimes: true})
	return err == nil, err
}

// stampData gives the data file the record's mtime, since it has the say of it
// from now on.
func (c *content) stampData(fd int) error {
	mtime, err := c.mtime()
	if err != nil {
		return err
	}
	ts := [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: mtime.Sec, Nsec: int64(mtime.Nsec)}}
	return disk(futimens(fd, &ts))
}

// mtime returns the record's mtime.
func (c *content) mtime() (Time, error) {
	c.u.mu.RLock()
	defer c.u.mu.RUnlock()
	i, err := c.u.knownHead(c.node)
	if err != nil {
		return Time{}, err
	}
	if i == nil {
		return Time{}, syscall.ESTALE
	}
	return i.mtime, nil
}

// maxRuns bounds how many holes are looked into before a file becomes local.
const maxRuns = 1 << 14

// punchUnmapped makes a hole in the data file of every block below size that is
// not in the map: they may hold what a change left that never came to be. It
// reports whether they are all holes.
func (c *content) punchUnmapped(fd int) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, disk(err)
	}
	end := blocksOf(min(c.size, st.Size))
	runs := 0
	for b := c.gap; b < end; {
		local, next, err := c.run(b, end)
		if err != nil {
			return false, err
		}
		if !local {
			if runs++; runs > maxRuns {
				return false, nil
			}
			lo, hi := int64(b)*blockSize, int64(next)*blockSize
			if at, err := unix.Seek(fd, lo, unix.SEEK_DATA); err == nil && at < hi || err != nil && err != unix.ENXIO {
				if err := fallocate(fd, punchHole, lo, hi-lo); err != nil {
					return false, nil // it stays as it is, and is right so
				}
			}
		}
		b = next
	}
	return true, nil
}
