// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"runtime/debug"
	"syscall"
)

// append writes muts as one frame of the journal and applies them to the
// active delta. On an error nothing has changed. Preconditions: u.mu is held
// for writing.
func (u *Upper) append(muts []mutation) error {
	if err := u.mayChange(); err != nil {
		return err
	}
	u.seq++
	for k := range muts {
		if err := u.apply(u.seq, &muts[k]); err != nil {
			return err
		}
	}
	return nil
}

// mayChange returns why nothing can be changed any more: EIO after a panic,
// EROFS after the disk failed to keep the journal.
func (u *Upper) mayChange() error {
	if e := u.failed.Load(); e != nil {
		return *e
	}
	return nil
}

// poison ends all changes: they answer err from now on, reads go on. The first
// reason holds.
func (u *Upper) poison(err error) { u.failed.CompareAndSwap(nil, &err) }

// guard turns a panic in a change into EIO for it and, since nobody knows what
// it left half done, for all that follow; what the journal holds is replayed by
// the next Open. It is deferred behind the unlocking of u.mu, so that it runs
// before:
//
//	u.mu.Lock()
//	defer u.mu.Unlock()
//	defer u.guard(&err)
func (u *Upper) guard(err *error) {
	p := recover()
	if p == nil {
		return
	}
	u.poison(syscall.EIO)
	u.logf("panic in a change, no more are taken: %v\n%s", p, debug.Stack())
	*err = syscall.EIO
}

func (u *Upper) logf(format string, args ...any) {
	if u.opt.Log != nil {
		u.opt.Log(format, args...)
	}
}

// room waits while memory holds more than it should of what is not folded yet.
// A method that changes something calls it first, without locks.
func (u *Upper) room() {}

// seqOf returns the sequence of the frame that last put the record of n, to be
// given to sync, or 0 if that is durable already. It is called without locks.
func (u *Upper) seqOf(n Node) uint64 { return 0 }

// apply applies m, which is of the frame seq, to the active delta.
func (u *Upper) apply(seq uint64, m *mutation) error {
	d := u.active
	switch m.kind {
	case putInode:
		m.inode.seq = seq
		d.inodes[m.node] = m.inode
	case dropInode:
		d.inodes[m.node] = nil
		delete(d.xattrs, m.node)
	case putEntry:
		names := d.dirs[m.node]
		if names == nil {
			names = make(map[string]entry)
			d.dirs[m.node] = names
		}
		names[m.name] = m.entry
	case putXattr, dropXattr:
		values := d.xattrs[m.node]
		if values == nil {
			values = make(map[string][]byte)
			d.xattrs[m.node] = values
		}
		values[m.name] = m.value
	case putBlocks:
		for b := m.first; b < m.first+m.count; b++ {
			k := chunkKey{m.node, b / chunkBlocks}
			c, ok := d.chunks[k]
			if !ok {
				old, err := u.chunk(k)
				if err != nil {
					return err
				}
				c = new(chunk)
				if old != nil {
					*c = *old
				}
				d.chunks[k] = c
			}
			c.set(b % chunkBlocks)
		}
	}
	return nil
}

// newNode returns a number that was never used. Preconditions: u.mu is held
// for writing.
func (u *Upper) newNode() (Node, error) {
	n := u.next
	u.next++
	return n, nil
}

// sync makes every frame up to the sequence seq durable, and the data that
// barriers in them wait for. It is called without locks; callers that come
// together share one fdatasync.
func (u *Upper) sync(seq uint64) error { return nil }

// doom has the data file of n removed once the frame seq is durable.
// Preconditions: u.mu is held for writing.
func (u *Upper) doom(n Node, seq uint64) {}

type journal struct{}
