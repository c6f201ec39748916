// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"slices"
	"sync"
	"time"

	"github.com/imgfs/imgfs/cow"
)

// A new file that is passed through costs the host a file, which pays when
// much is written to it. Who makes many files in a short time (tar, cp, git)
// makes small ones: from the fourth on they are made without, and lie in their
// records as long as they stay small. One file made again and again under the
// same name is no burst: a rollback journal is written in small pieces, and each
// would go through us into the record.
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
	files int // made in a row under new names, at least so many
	last  time.Time
	names [burstFiles]madeName // the last ones, as in a ring
	name  int                  // where the next one goes
}

// madeName is where a file was made; a file without a name has none.
type madeName struct {
	dir  cow.Node
	name string
}

// small notes that pid makes a file, and reports whether it is likely to stay
// small.
func (b *bursts) small(pid uint32, at madeName, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	m := b.findLocked(pid)
	if m.pid != pid {
		*m = maker{pid: pid}
	} else if now.Sub(m.last) > burstWindow {
		m.files = min(m.files, 0)
	}
	m.last = now
	if at.name != "" && slices.Contains(m.names[:], at) {
		return false
	}
	m.names[m.name] = at
	m.name = (m.name + 1) % len(m.names)
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
