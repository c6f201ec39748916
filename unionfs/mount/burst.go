// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"sync"
	"time"
)

// A new file that is passed through costs the host a file, which pays when
// much is written to it. Who makes many files in a short time (tar, cp, git)
// makes small ones: from the fourth on they are made without, and lie in their
// records as long as they stay small.
const (
	burstFiles  = 3
	burstWindow = 50 * time.Millisecond // from one to the next
	smallFile   = 64 << 10              // bytes; one larger ends the burst
	burstPause  = 16                    // files, after a larger one
)

// bursts watches who makes files. It remembers the last few processes.
type bursts struct {
	mu    sync.Mutex
	makes [8]maker // guarded by mu
}

type maker struct {
	pid   uint32
	files int // made in a row, at least so many
	last  time.Time
}

// small notes that pid makes a file, and reports whether it is likely to stay
// small.
func (b *bursts) small(pid uint32, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	m := b.findLocked(pid)
	if m.pid != pid || now.Sub(m.last) > burstWindow {
		*m = maker{pid: pid, files: min(m.files, 0)}
	}
	m.last = now
	m.files++
	return m.files > burstFiles
}

// large notes that a file that pid made did not stay small.
func (b *bursts) large(pid uint32) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if m := b.findLocked(pid); m.pid == pid {
		m.files = -burstPause
	}
}

// findLocked returns the place of pid, or that of who made no file the longest.
func (b *bursts) findLocked(pid uint32) *maker {
	oldest := &b.makes[0]
	for i := range b.makes {
		m := &b.makes[i]
		if m.pid == pid && !m.last.IsZero() {
			return m
		}
		if m.last.Before(oldest.last) {
			oldest = m
		}
	}
	return oldest
}
