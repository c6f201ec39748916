// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// mappedFiles are files that were passed through, written and released, but may
// still be stored to: who maps one holds the data file, not ours, and no RELEASE
// tells of the end. Until then nothing of their attributes is told for long, and
// they are passed through to whoever opens them.
type mappedFiles struct {
	mu    sync.Mutex // orders before openFile.mu
	files []mapped   // guarded by mu
	over  bool       // guarded by mu
}

type mapped struct {
	o     *openFile
	looks int       // how often it was looked at
	due   time.Time // when to look
}

// looksAfter is how long until a file is looked at once more. Who closes one
// lets its data file go a moment after RELEASE; a mapping may last.
var looksAfter = [...]time.Duration{time.Millisecond, 10 * time.Millisecond, time.Second}

// add takes o, which has no references.
func (m *mappedFiles) add(v *top, o *openFile) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.files = append(m.files, mapped{o: o, due: time.Now().Add(looksAfter[0])})
	if len(m.files) == 1 {
		m.lookIn(v, looksAfter[0])
	}
}

// lookIn has them looked at after d. Preconditions: m.mu is held.
func (m *mappedFiles) lookIn(v *top, d time.Duration) {
	if !m.over {
		time.AfterFunc(d, func() { m.look(v) })
	}
}

// look ends those that are due and that nobody has mapped any more.
func (m *mappedFiles) look(v *top) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.over {
		return
	}
	now := time.Now()
	next := now.Add(looksAfter[len(looksAfter)-1])
	left := m.files[:0]
	for _, f := range m.files {
		if f.due.After(now) || !v.files.settle(v, f.o) {
			if !f.due.After(now) {
				f.looks = min(f.looks+1, len(looksAfter)-1)
				f.due = now.Add(looksAfter[f.looks])
			}
			left = append(left, f)
			if f.due.Before(next) {
				next = f.due
			}
		}
	}
	clear(m.files[len(left):])
	m.files = left
	if len(left) > 0 {
		// Not sooner than files come: many of them are looked at together.
		m.lookIn(v, max(next.Sub(now), looksAfter[0]))
	}
}

// stop returns when nothing is looked at any more.
func (m *mappedFiles) stop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.over = true
}

// settle ends o if it has no references and nobody else has its data file open.
// It reports whether o is of no concern any more.
func (t *fileTable) settle(v *top, o *openFile) bool {
	t.mu.RLock()
	used := o.refs > 0
	t.mu.RUnlock()
	if used {
		return true // its last RELEASE brings it back
	}
	o.mu.Lock()
	closed := o.closed
	busy := !closed && openElsewhere(o.fd)
	o.mu.Unlock()
	if closed || busy {
		return closed
	}
	t.mu.Lock()
	over := o.refs == 0 && t.nodes[o.node] == o
	if over {
		t.removeLocked(o)
	}
	t.mu.Unlock()
	if over {
		o.close(v)
	}
	return true
}

// openElsewhere reports whether there is another open file of fd's inode. A
// lease of writing is granted only to who is alone.
func openElsewhere(fd int) bool {
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		return err == unix.EAGAIN
	}
	unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_UNLCK)
	return false
}
