// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

// reserveSize is held on disk for the journal and the checkpoint, so that
// names can be removed when the disk is full. It is the size of the file
// "reserve", which has no content.
const reserveSize = 16 << 20

const reserveName = "reserve"

// reserveStep is how much of it is let go of at once.
const reserveStep = 1 << 20

// A space is that reserve.
type space struct {
	path string

	mu   sync.Mutex
	held int64 // guarded by mu
	most int64 // that ever was held; guarded by mu
	// trying is how many are about to use what was let go of; guarded by mu.
	trying int
}

// What a change may leave of the reserve.
const (
	leaveAll  = reserveSize
	leaveSome = reserveSize / 4 // a fold: the rest is for the journal. Of a smaller reserve a quarter too
	leaveNone = 0               // what gives room: removals, and what makes them durable
)

// try does f, which needs room on the disk. If there is none it is done again
// with some of the reserve let go of, until no more than leave is left.
func (s *space) try(leave int64, f func() error) error {
	s.use(1)
	defer s.use(-1)
	for {
		err := f()
		if !isFull(err) || !s.release(leave) {
			return err
		}
	}
}

func (s *space) use(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trying += n
}

// isFull reports whether err tells that there is no room.
func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// release lets go of a step of the reserve; ok is false if no more than leave
// was left.
func (s *space) release(leave int64) (ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held == 0 && leave == 0 {
		// The disk may be out of inodes: the reserve's own is the last one.
		return os.Remove(s.path) == nil && syncDir(filepath.Dir(s.path)) == nil
	}
	if leave == leaveSome {
		leave = min(leave, s.most/4)
	}
	if s.held <= leave {
		return false
	}
	f, err := os.OpenFile(s.path, os.O_WRONLY, 0)
	if err != nil {
		s.held = 0
		return false
	}
	defer f.Close()
	s.held = max(leave, s.held-reserveStep)
	// A file system with a journal gives freed blocks out only when that has
	// been written.
	return f.Truncate(s.held) == nil && f.Sync() == nil
}

// take takes the whole reserve again, if there is room and nobody is about to
// use what was let go of.
func (s *space) take() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held == reserveSize || s.trying > 0 {
		return
	}
	f, err := os.OpenFile(s.path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	// A small disk may have room for a part of it only.
	for size := int64(reserveSize); size > s.held; size /= 2 {
		if allocate(f, 0, size) == nil {
			s.held, s.most = size, max(s.most, size)
			return
		}
		f.Truncate(s.held)
		if size <= 1<<20 {
			return
		}
	}
}

// tight reports whether some of the reserve was let go of.
func (s *space) tight() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held < s.most
}

// shrink leaves what a closed upper holds, for the next that opens it.
func (s *space) shrink() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held > leaveSome {
		if os.Truncate(s.path, leaveSome) == nil {
			s.held = leaveSome
		}
	}
}

func openSpace(dir string) *space {
	s := &space{path: filepath.Join(dir, reserveName)}
	if fi, err := os.Stat(s.path); err == nil {
		s.held = min(fi.Size(), reserveSize)
	}
	s.take()
	return s
}
