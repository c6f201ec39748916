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
	mu    sync.Mutex  // orders before openFile.mu
	files []*openFile // guarded by mu
	over  bool        // guarded by mu
}

// The data file of one that was just closed is let go a moment later; then a
// mapping ends when it ends.
const (
	mappedSoon = 20 * time.Millisecond
	mappedLong = time.Second
)

// settle ends o, which has no references, or has it looked at again while
// somebody else has its data file open.
func (t *fileTable) settle(v *top, o *openFile, again bool) (ended bool) {
	o.mu.Lock()
	closed := o.closed
	busy := !closed && openElsewhere(o.fd)
	o.mu.Unlock()
	switch {
	case closed:
		return true
	case busy:
		if again {
			t.mapped.add(v, o)
		}
		return false
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
	return true // or whoever has it now will
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

func (m *mappedFiles) add(v *top, o *openFile) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.files = append(m.files, o)
	if len(m.files) == 1 && !m.over {
		time.AfterFunc(mappedSoon, func() { m.look(v) })
	}
}

// look ends those that nobody has mapped any more.
func (m *mappedFiles) look(v *top) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.over {
		return
	}
	left := m.files[:0]
	for _, o := range m.files {
		if !v.files.settle(v, o, false) {
			left = append(left, o)
		}
	}
	clear(m.files[len(left):])
	m.files = left
	if len(left) > 0 {
		time.AfterFunc(mappedLong, func() { m.look(v) })
	}
}

// stop returns when nothing is looked at any more.
func (m *mappedFiles) stop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.over = true
}
