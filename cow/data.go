// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"errors"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// A dataStore is the directory of the data files: data/<2 hex>/<16 hex>, the
// node and before it the lowest byte but one: files made one after another lie
// in one directory, which the disk then puts near each other and syncs with one
// sync. The 256 directories are made when they are first needed. The zero value
// is ready.
type dataStore struct {
	// How many names were made in each directory, the last is data/ itself,
	// and how many of them are known to be on disk.
	made, named [257]atomic.Int64
	naming      [257]sync.Mutex // held while a directory is synced

	mu      sync.Mutex        // innermost
	dir     int               // descriptor of data/ plus 1, 0: not open; guarded by mu
	failed  map[Node]struct{} // whose sync failed; guarded by mu
	fresh   map[Node]int      // descriptors of new files, see createData; guarded by mu
	open    []*content        // that have a descriptor; guarded by mu
	hand    int               // where the next victim is looked for; guarded by mu
	maxOpen int               // 0: not known yet; guarded by mu

	// used are the files that may hold what is not on disk: all of this session
	// that had a descriptor or got times. nil with many of them, or if a
	// session before was not closed. Guarded by mu.
	used map[Node]struct{}
	many bool // guarded by mu
}

// dataName returns the name of n's data file below data/.
func dataName(n Node) string {
	const hex = "0123456789abcdef"
	d := dataDirOf(n)
	var b [2 + 1 + 16]byte
	b[2] = '/'
	for k := len(b) - 1; k > 2; k-- {
		b[k] = hex[n&15]
		n >>= 4
	}
	b[0], b[1] = hex[d>>4], hex[d&15]
	return string(b[:])
}

// dataDirOf returns which directory n's data file lies in.
func dataDirOf(n Node) int { return int(n >> 8 & 0xff) }

// dataDir returns the descriptor of data/, which it makes if need be.
func (u *Upper) dataDir() (int, error) {
	s := &u.data
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dir > 0 {
		return s.dir - 1, nil
	}
	path := u.dir + "/data"
	fd, err := openat(unix.AT_FDCWD, path, unix.O_DIRECTORY|unix.O_RDONLY, 0)
	if err == unix.ENOENT {
		if err := makeDataDir(path); err != nil {
			return 0, disk(err)
		}
		fd, err = openat(unix.AT_FDCWD, path, unix.O_DIRECTORY|unix.O_RDONLY, 0)
	}
	if err != nil {
		return 0, disk(err)
	}
	s.dir = fd + 1
	return fd, nil
}

// makeDataDir makes the directory data/. ext4 gives an inode that was freed in
// the last minute to nobody, and looks for one that was not again for each file:
// where many were removed, as an upper's are, a file then costs 540 to 790 µs and
// not 115 to 300. That each directory in data/ lies somewhere else on the disk
// (chattr +T) avoids it.
func makeDataDir(path string) error {
	if err := unix.Mkdir(path, 0o700); err != nil && err != unix.EEXIST {
		return err
	}
	fd, err := openat(unix.AT_FDCWD, path, unix.O_DIRECTORY|unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	// Other file systems know no such thing.
	if flags, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS); err == nil {
		_ = unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, flags|topDir)
	}
	return unix.Close(fd)
}

const topDir = 0x00020000 // FS_TOPDIR_FL

// closeData lets go of all descriptors. Files that are still open stay so to
// whoever has them, with errors.
func (u *Upper) closeData() error {
	s := &u.data
	s.mu.Lock()
	open, dir, fresh := s.open, s.dir-1, s.fresh
	s.open, s.dir, s.fresh = nil, 0, nil
	s.mu.Unlock()
	var errs []error
	for _, fd := range fresh {
		errs = append(errs, unix.Close(fd))
	}
	for _, c := range open {
		c.fdMu.Lock()
		if c.fd >= 0 {
			errs = append(errs, unix.Close(c.fd))
			c.fd = -1
		}
		c.fdMu.Unlock()
	}
	if dir >= 0 {
		errs = append(errs, unix.Close(dir))
	}
	return errors.Join(errs...)
}

// makeData makes the data file of n and returns its descriptor. A file of that
// name is what a change left that never came to be, since no record names it.
func (u *Upper) makeData(n Node) (int, error) {
	dir, err := u.dataDir()
	if err != nil {
		return -1, err
	}
	name := dataName(n)
	const flags = unix.O_CREAT | unix.O_EXCL | unix.O_RDWR
	fd, err := openat(dir, name, flags, 0o600)
	switch err {
	case unix.ENOENT:
		if err := unix.Mkdirat(dir, name[:2], 0o700); err != nil && err != unix.EEXIST {
			return -1, disk(err)
		}
		u.data.made[256].Add(1)
		fd, err = openat(dir, name, flags, 0o600)
	case unix.EEXIST:
		if err := unix.Unlinkat(dir, name, 0); err != nil && err != unix.ENOENT {
			return -1, disk(err)
		}
		fd, err = openat(dir, name, flags, 0o600)
	}
	if err != nil {
		return -1, disk(err)
	}
	u.data.made[dataDirOf(n)].Add(1)
	u.data.use(n)
	return fd, nil
}

// removeData removes the data file of n, if there is one.
func (u *Upper) removeData(n Node) error {
	if fd := u.data.takeFresh(n); fd >= 0 {
		unix.Close(fd)
	}
	dir, err := u.dataDir()
	if err != nil {
		return err
	}
	if err := unix.Unlinkat(dir, dataName(n), 0); err != nil && err != unix.ENOENT {
		return disk(err)
	}
	u.data.unuse(n)
	return nil
}

// sweepData removes the data file of n unless its record names it. It is for
// files found in the directory after Open, below the numbers given out since.
func (u *Upper) sweepData(n Node) error {
	c, err := u.acquire(n)
	if err == syscall.ESTALE || err == syscall.EINVAL {
		return u.removeData(n) // nobody can come to have it
	}
	if err != nil {
		return err
	}
	defer u.release(c)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hasData {
		return nil
	}
	return u.removeData(n)
}

// lockFD returns the descriptor of c's data file and keeps it open until
// c.fdMu.RUnlock. Preconditions: c.mu is held, c.hasData.
func (c *content) lockFD() (int, error) {
	for {
		c.fdMu.RLock()
		if c.fd >= 0 {
			if !c.used.Load() {
				c.used.Store(true)
			}
			return c.fd, nil
		}
		c.fdMu.RUnlock()
		if err := c.openFD(); err != nil {
			return -1, err
		}
	}
}

func (c *content) openFD() error {
	dir, err := c.u.dataDir()
	if err != nil {
		return err
	}
	c.fdMu.Lock()
	defer c.fdMu.Unlock()
	if c.fd >= 0 {
		return nil
	}
	fd := c.u.data.takeFresh(c.node)
	if fd < 0 {
		fd, err = openat(dir, dataName(c.node), unix.O_RDWR, 0)
	}
	if err == unix.ENOENT {
		c.u.logf("node %d: its data file is gone", c.node)
		return syscall.EIO
	}
	if err != nil {
		return disk(err)
	}
	c.fd = fd
	c.u.data.use(c.node)
	c.u.data.opened(c)
	return nil
}

// setFD gives c the descriptor of a file that was just made.
func (c *content) setFD(fd int) {
	c.fdMu.Lock()
	defer c.fdMu.Unlock()
	c.fd = fd
	c.u.data.opened(c)
}

// closeFD closes c's descriptor. A later use opens it again.
func (c *content) closeFD() {
	c.fdMu.Lock()
	defer c.fdMu.Unlock()
	if c.fd < 0 {
		return
	}
	c.u.data.closed(c)
	unix.Close(c.fd) // an error of what was written is told by a later fsync
	c.fd = -1
}

// opened counts c's new descriptor and closes one that was not used lately if
// there are too many. Preconditions: c.fdMu is held.
func (s *dataStore) opened(c *content) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.maxOpen == 0 {
		s.maxOpen = maxDescriptors()
	}
	for tries := 2 * len(s.open); len(s.open) >= s.maxOpen && tries > 0; tries-- {
		s.hand %= len(s.open)
		v := s.open[s.hand]
		if v == c || v.used.Swap(false) || v.pins.Load() > 0 || !v.fdMu.TryLock() {
			s.hand++
			continue
		}
		s.dropLocked(v)
		unix.Close(v.fd)
		v.fd = -1
		v.fdMu.Unlock()
	}
	c.slot = len(s.open)
	s.open = append(s.open, c)
}

func (s *dataStore) closed(c *content) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropLocked(c)
}

func (s *dataStore) dropLocked(c *content) {
	last := len(s.open) - 1
	if last < 0 || c.slot > last || s.open[c.slot] != c {
		return
	}
	s.open[c.slot] = s.open[last]
	s.open[c.slot].slot = c.slot
	s.open[last] = nil
	s.open = s.open[:last]
}

// maxDescriptors returns how many data files are kept open: half of what the
// process may have.
func maxDescriptors() int {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 256
	}
	return int(min(max(l.Cur/2, 16), 1<<16))
}

// disk returns what is answered for an error of the disk below.
func disk(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOSPC):
		return syscall.ENOSPC
	case errors.Is(err, syscall.EDQUOT):
		return syscall.EDQUOT
	case errors.Is(err, syscall.EFBIG):
		return syscall.EFBIG
	}
	return syscall.EIO
}

// A belowError is a layer that could not be read: EIO to who reads, whatever
// errno is inside.
type belowError struct{ err error }

func (e *belowError) Error() string { return "layer: " + e.err.Error() }

func (e *belowError) Is(target error) bool {
	if errno, ok := target.(syscall.Errno); ok {
		return errno == syscall.EIO
	}
	return errors.Is(e.err, target)
}

// System calls, begun again where a signal broke them off.

func openat(dir int, name string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_LARGEFILE, mode)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

func fsync(fd int, dataOnly bool) error {
	for {
		var err error
		if dataOnly {
			err = unix.Fdatasync(fd)
		} else {
			err = unix.Fsync(fd)
		}
		if err != unix.EINTR {
			return err
		}
	}
}

func ftruncate(fd int, size int64) error {
	for {
		if err := unix.Ftruncate(fd, size); err != unix.EINTR {
			return err
		}
	}
}

// pread reads until p is full or the file ends.
func pread(fd int, p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Pread(fd, p[done:], off+int64(done))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return done, disk(err)
		}
		if n == 0 {
			break
		}
		done += n
	}
	return done, nil
}

// pwrite writes all of p or returns why not, and how much it wrote.
func pwrite(fd int, p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Pwrite(fd, p[done:], off+int64(done))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return done, disk(err)
		}
		if n <= 0 {
			return done, syscall.EIO
		}
		done += n
	}
	return done, nil
}

// pwritev writes head, p and tail one after another, in one call if it can.
func pwritev(fd int, head, p, tail []byte, off int64) (int, error) {
	if len(head)+len(tail) == 0 {
		return pwrite(fd, p, off)
	}
	first, err := unix.Pwritev(fd, [][]byte{head, p, tail}, off)
	if err != nil && err != unix.EINTR {
		return 0, disk(err)
	}
	done := max(first, 0)
	at := 0 // where b lies
	for _, b := range [...][]byte{head, p, tail} {
		if skip := done - at; skip < len(b) {
			n, err := pwrite(fd, b[skip:], off+int64(done))
			done += n
			if err != nil {
				return done, err
			}
		}
		at += len(b)
	}
	return done, nil
}
