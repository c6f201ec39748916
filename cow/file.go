// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"io"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// A File is an open regular file.
type File struct {
	c      *content
	pinned atomic.Bool
	closed atomic.Bool
}

// Open opens the regular file n. write tells that it may be written to.
func (u *Upper) Open(n Node, write bool) (*File, error) {
	c, err := u.acquire(n)
	if err != nil {
		return nil, err
	}
	return &File{c: c}, nil
}

// Node returns which file it is.
func (f *File) Node() Node { return f.c.node }

// Close lets go of the file.
func (f *File) Close() error {
	if f.closed.Swap(true) {
		return syscall.EBADF
	}
	if f.pinned.Load() {
		f.c.pins.Add(-1)
	}
	f.c.tidy()
	f.c.u.release(f.c)
	return nil
}

// ReadAt reads into p at off. It returns io.EOF with fewer bytes at the end.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, syscall.EINVAL
	}
	c := f.c
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.read(p, off)
}

// WriteAt writes p at off. Times are set; privileges are the caller's to kill.
// With an error it may have written some of p, and returns how much.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	switch {
	case off < 0:
		return 0, syscall.EINVAL
	case len(p) == 0:
		return 0, nil
	}
	c := f.c
	if err := c.u.mayWrite(); err != nil {
		return 0, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.write(p, off)
}

// Sync makes content, and unless dataOnly attributes and the names it was
// given, durable.
func (f *File) Sync(dataOnly bool) error {
	c := f.c
	if err := c.syncContent(dataOnly); err != nil {
		return err
	}
	if err := c.syncRecord(); err != nil {
		return err
	}
	c.tidy()
	return nil
}

func (c *content) syncContent(dataOnly bool) error {
	c.mu.RLock()
	if !c.hasData {
		c.mu.RUnlock()
		return nil
	}
	fd, err := c.lockFD()
	// mtime and size of a local file are its data file's; of others only the
	// size matters, which fdatasync keeps.
	dataOnly = dataOnly || !c.local
	upTo := c.u.journal.last() // what these frames say of the content was written
	c.mu.RUnlock()
	if err != nil {
		return err
	}
	defer c.fdMu.RUnlock()
	if err := c.u.syncDataFile(c.node, fd, dataOnly); err != nil {
		return err
	}
	c.u.journal.synced(c.node, upTo)
	return nil
}

// syncRecord makes the record of c durable, and with it all frames before.
func (c *content) syncRecord() error {
	if seq := c.u.seqOf(c.node); seq != 0 {
		return c.u.sync(seq)
	}
	return nil
}

// Backing returns the data file of a file that takes no byte from a layer, made
// if there is none yet: reads and writes may go to it directly. ok is false for
// any other file. The descriptor is good until Close.
func (f *File) Backing() (fd int, ok bool, err error) { return f.backing(true) }

// ExistingBacking is Backing, but changes nothing: a file that would have to
// change first has none. To look at a file must not change its times.
func (f *File) ExistingBacking() (fd int, ok bool, err error) { return f.backing(false) }

func (f *File) backing(create bool) (fd int, ok bool, err error) {
	c := f.c
	if err := c.u.mayWrite(); err != nil {
		return -1, false, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.local && create {
		if _, err := c.settle(true); err != nil {
			return -1, false, err
		}
	}
	if !c.local {
		return -1, false, nil
	}
	if !c.hasData {
		if !create {
			return -1, false, nil
		}
		if err := c.makeFile(); err != nil {
			return -1, false, err
		}
	}
	if fd, err = c.lockFD(); err != nil {
		return -1, false, err
	}
	if !f.pinned.Swap(true) {
		c.pins.Add(1)
	}
	c.fdMu.RUnlock()
	return fd, true, nil
}

// statData fills size, blocks and times of a file with flagLocal and flagData
// from its data file; the ctime is the later one of a's and the file's.
func (u *Upper) statData(n Node, a *Attr) error {
	var st unix.Stat_t
	if err := u.fstatData(n, &st); err != nil {
		return err
	}
	a.Size, a.Blocks = st.Size, st.Blocks
	a.Mtime = Time{st.Mtim.Sec, uint32(st.Mtim.Nsec)}
	if t := (Time{st.Ctim.Sec, uint32(st.Ctim.Nsec)}); a.Ctime.Before(t) {
		a.Ctime = t
	}
	return nil
}

func (u *Upper) fstatData(n Node, st *unix.Stat_t) error {
	dir, err := u.dataDir()
	if err != nil {
		return err
	}
	for {
		err := unix.Fstatat(dir, dataName(n), st, unix.AT_SYMLINK_NOFOLLOW)
		if err == unix.EINTR {
			continue
		}
		if err == unix.ENOENT {
			u.logf("node %d: its data file is gone", n)
		}
		return disk(err)
	}
}

// setDataTimes applies an explicit change of times to the data file of a file
// with flagLocal and flagData.
func (u *Upper) setDataTimes(n Node, s *SetAttr) error {
	if s.Valid&SetMtime == 0 {
		return nil // atime is the record's
	}
	dir, err := u.dataDir()
	if err != nil {
		return err
	}
	u.data.use(n)
	ts := [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: s.Mtime.Sec, Nsec: int64(s.Mtime.Nsec)}}
	return disk(unix.UtimesNanoAt(dir, dataName(n), ts[:], unix.AT_SYMLINK_NOFOLLOW))
}

// mayWrite waits for room in memory and returns why nothing can be changed, if
// so. It is called without locks.
func (u *Upper) mayWrite() error {
	u.room()
	return u.mayChange()
}

// createData makes the data file of n, a node that nobody knows yet. Its
// descriptor waits for the first use, or removeData.
func (u *Upper) createData(n Node) error {
	fd, err := u.makeData(n)
	if err != nil {
		return err
	}
	s := &u.data
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fresh == nil {
		s.fresh = make(map[Node]int)
	}
	s.fresh[n] = fd
	return nil
}

// takeFresh returns the descriptor that createData left for n, or -1.
func (s *dataStore) takeFresh(n Node) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	fd, ok := s.fresh[n]
	if !ok {
		return -1
	}
	delete(s.fresh, n)
	return fd
}

// read reads into p at off.
//
// Preconditions: c.mu is held.
func (c *content) read(p []byte, off int64) (int, error) {
	if c.local {
		return c.readData(p, off)
	}
	if off >= c.size {
		return 0, io.EOF
	}
	var eof error
	if int64(len(p)) > c.size-off {
		p, eof = p[:c.size-off], io.EOF
	}
	if !c.hasData {
		if err := c.readBelow(p, off); err != nil {
			return 0, err
		}
		return len(p), eof
	}
	for done := 0; done < len(p); {
		at := off + int64(done)
		local, next, err := c.run(uint64(at/blockSize), blocksOf(off+int64(len(p))))
		if err != nil {
			return done, err
		}
		part := p[done:]
		if n := int64(next)*blockSize - at; n < int64(len(part)) {
			part = part[:n]
		}
		if local {
			n, err := c.readData(part, at)
			if err != nil && err != io.EOF {
				return done, err
			}
			clear(part[n:])
		} else if err := c.readBelow(part, at); err != nil {
			return done, err
		}
		done += len(part)
	}
	return len(p), eof
}

// readData reads from the data file of a file, or what it has instead.
func (c *content) readData(p []byte, off int64) (int, error) {
	if !c.hasData {
		if off >= int64(len(c.inline)) {
			return 0, io.EOF
		}
		n := copy(p, c.inline[off:])
		if n < len(p) {
			return n, io.EOF
		}
		return n, nil
	}
	fd, err := c.lockFD()
	if err != nil {
		return 0, err
	}
	defer c.fdMu.RUnlock()
	n, err := pread(fd, p, off)
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

// readBelow fills p as if no block were in the map.
func (c *content) readBelow(p []byte, off int64) error {
	n := 0
	if lower := min(c.lower, c.low.Size); off < lower {
		n = int(min(int64(len(p)), lower-off))
		got, err := c.u.fs.ReadAt(&c.low, p[:n], off)
		if got < n {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return &belowError{err}
		}
	}
	clear(p[n:])
	return nil
}
