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
const reserveStep = 4 << 20

// A space is that reserve.
type space struct {
	path string

	mu   sync.Mutex
	held int64 // guarded by mu
}

// try does f, which needs room on the disk. If there is none and dip is true,
// it is done again with some of the reserve let go of, until that is used up.
func (s *space) try(dip bool, f func() error) error {
	for {
		err := f()
		if !dip || !isFull(err) || !s.release() {
			return err
		}
	}
}

// isFull reports whether err tells that there is no room.
func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// release lets go of a step of the reserve; ok is false if none was left.
func (s *space) release() (ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held == 0 {
		return false
	}
	f, err := os.OpenFile(s.path, os.O_WRONLY, 0)
	if err != nil {
		s.held = 0
		return false
	}
	defer f.Close()
	s.held = max(0, s.held-reserveStep)
	// A file system with a journal gives freed blocks out only when that has
	// been written.
	return f.Truncate(s.held) == nil && f.Sync() == nil
}

// take takes the whole reserve again, if there is room.
func (s *space) take() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held == reserveSize {
		return
	}
	f, err := os.OpenFile(s.path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	if err := allocate(f, 0, reserveSize); err != nil {
		f.Truncate(s.held)
		return
	}
	s.held = reserveSize
}

// shrink leaves what a closed upper holds, for the next that opens it.
func (s *space) shrink() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held > reserveStep {
		if os.Truncate(s.path, reserveStep) == nil {
			s.held = reserveStep
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
