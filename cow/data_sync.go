// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"maps"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxUsed is how many data files are synced one by one, rather than with all
// that others have written to the same disk.
const maxUsed = 256

// use notes that the data file of n may hold what is not on disk.
func (s *dataStore) use(n Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.many:
	case len(s.used) >= maxUsed:
		s.used, s.many = nil, true
	default:
		if s.used == nil {
			s.used = make(map[Node]struct{})
		}
		s.used[n] = struct{}{}
	}
}

// useMany notes that nobody knows which files may.
func (s *dataStore) useMany() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used, s.many = nil, true
}

// unuse notes that what n holds matters no more.
func (s *dataStore) unuse(n Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.used, n)
}

// syncAll makes all content durable. A file of which a sync failed before is
// not asked again.
func (u *Upper) syncAll() error {
	s := &u.data
	s.mu.Lock()
	nodes := slices.Collect(maps.Keys(s.used))
	many := s.many
	s.mu.Unlock()
	if many {
		if !u.flushData(nil) {
			return syscall.EIO
		}
		return nil
	}
	for _, n := range nodes {
		u.writeBack(n)
	}
	var failed error
	for _, n := range nodes {
		if u.dataLost(n) {
			continue
		}
		if err := u.syncDataFile(n, -1, false); err != nil {
			failed = err
		}
	}
	return failed
}

// writeBack has the disk begin to write the data file of n: places of blocks are
// then chosen for many files before the first sync waits for its journal.
func (u *Upper) writeBack(n Node) {
	dir, err := u.dataDir()
	if err != nil {
		return
	}
	fd, err := openat(dir, dataName(n), unix.O_RDONLY, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	_ = unix.SyncFileRange(fd, 0, 0, unix.SYNC_FILE_RANGE_WRITE) // the sync says what is wrong
}

// syncData makes the data file of n durable, its name too. It takes no lock of
// content. What failed once fails for good: the pages may be gone.
func (u *Upper) syncData(n Node) error { return u.syncDataFile(n, -1, true) }

func (u *Upper) syncDataFile(n Node, fd int, dataOnly bool) error {
	s := &u.data
	s.mu.Lock()
	_, failed := s.failed[n]
	s.mu.Unlock()
	if failed {
		return syscall.EIO
	}
	if fd < 0 {
		dir, err := u.dataDir()
		if err != nil {
			return err
		}
		fd, err = openat(dir, dataName(n), unix.O_RDONLY, 0)
		if err == unix.ENOENT {
			return nil // it has none, or no more
		}
		if err != nil {
			return disk(err)
		}
		defer unix.Close(fd)
	}
	err := fsync(fd, dataOnly)
	if err == nil {
		err = u.syncNames(dataDirOf(n))
	}
	if err != nil {
		s.mu.Lock()
		if s.failed == nil {
			s.failed = make(map[Node]struct{})
		}
		s.failed[n] = struct{}{}
		s.mu.Unlock()
		u.logf("fsync of the data of node %d: %v", n, err)
		return syscall.EIO
	}
	return nil
}

// syncNames makes durable that the files made in directory k have names, and
// the directory itself.
func (u *Upper) syncNames(k int) error {
	if err := u.syncDataDir(256); err != nil {
		return err
	}
	return u.syncDataDir(k)
}

func (u *Upper) syncDataDir(k int) error {
	s := &u.data
	if s.named[k].Load() >= s.made[k].Load() {
		return nil
	}
	s.naming[k].Lock()
	defer s.naming[k].Unlock()
	made := s.made[k].Load()
	if s.named[k].Load() >= made {
		return nil
	}
	dir, err := u.dataDir()
	if err != nil {
		return err
	}
	name := "."
	if k < 256 {
		name = dataName(Node(k << 8))[:2]
	}
	fd, err := openat(dir, name, unix.O_DIRECTORY|unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// fdatasync would not do: ext4 takes a new name for no data.
	if err := fsync(fd, false); err != nil {
		return err
	}
	s.named[k].Store(made)
	return nil
}
