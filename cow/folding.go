// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"errors"
	"io/fs"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// A folding is a fold under way: it brings the frozen delta into the
// checkpoint, then what the journal has of it is removed.
type folding struct {
	d    *delta
	seq  uint64 // frames up to it are folded
	next Node

	done   chan struct{} // closed when it has succeeded
	failed chan struct{} // closed when it failed for the first time
	once   sync.Once

	mu  sync.Mutex
	err error // why it does not succeed; guarded by mu

	// wanted has a snapshot made of what it brings; guarded by Upper.mu.
	wanted   bool
	snapshot *checkpoint // of whom wanted it, when done is closed
}

func (f *folding) failing() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

func (f *folding) fail(err error) {
	f.mu.Lock()
	f.err = err
	f.mu.Unlock()
	f.once.Do(func() { close(f.failed) })
}

// freeze has what is in memory folded: changes go to a new delta and a new
// segment of the journal. Preconditions: u.mu is held for writing, u.folding is
// nil. On an error nothing is folded, and the next change tries again.
func (u *Upper) freeze() error {
	seq, err := u.journal.rotate()
	if err != nil {
		return err
	}
	f := &folding{d: u.active, seq: seq, next: max(u.next, u.reserved, u.wanted),
		done: make(chan struct{}), failed: make(chan struct{})}
	u.frozen, u.active, u.folding = u.active, newDelta(), f
	u.tasks.Add(1)
	go u.fold(f)
	return nil
}

// retryEvery is how long a fold waits for room on the disk.
const retryEvery = time.Second

// fold brings f into the checkpoint. Where the disk is full it tries again
// until there is room, else what cannot be written makes the upper read-only.
func (u *Upper) fold(f *folding) {
	defer u.tasks.Done()
	for {
		err := u.foldOnce(f)
		if err == nil {
			return
		}
		if f.failing() == nil {
			u.logf("changes stay in the journal: %v", err)
		}
		f.fail(err)
		if !errors.Is(err, errStuck) && !isRoomError(err) {
			u.poison(syscall.EROFS)
			return
		}
		select {
		case <-u.stop:
			return
		case <-time.After(retryEvery):
		}
	}
}

// isRoomError reports whether err is that of a write for which there was no
// room, as opposed to a sync that failed, after which nobody knows what is on
// disk.
func isRoomError(err error) bool {
	var path *fs.PathError
	return isFull(err) && errors.As(err, &path)
}

func (u *Upper) foldOnce(f *folding) error {
	if err := u.journal.sync(f.seq); err != nil {
		return err
	}
	if u.folded == nil {
		var s *store
		err := u.space.try(leaveSome, func() (err error) {
			s, err = openStore(filepath.Join(u.dir, checkpointName), u.fs.Tree.Count(), u.journal.tree, f.next)
			return err
		})
		if err != nil {
			return err
		}
		u.mu.Lock()
		u.folded = s
		u.mu.Unlock()
	}
	err := u.space.try(leaveSome, func() error {
		for {
			err := u.folded.fold(f.d, f.seq, f.next, u.hashName, u.renew)
			if !isFull(err) || u.folded.batch <= minBatch {
				return err
			}
			// Smaller ones need less at once, and give back what they replace.
			u.folded.batch = max(u.folded.batch/4, minBatch)
		}
	})
	if err != nil {
		return err
	}
	u.folded.batch = foldBatch
	if err := u.foldDone(f); err != nil {
		return err
	}
	if err := u.journal.drop(f.seq); err != nil {
		u.logf("journal: %v", err) // the next Open passes it over
	}
	u.space.take()
	close(f.done)
	return nil
}

// renew has the checkpoint show what was committed last. With a part of the
// frozen delta in it nothing changes, since that is asked first.
func (u *Upper) renew() error {
	c, err := u.folded.checkpoint()
	if err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.cp.close()
	u.cp = c
	return nil
}

// foldDone forgets the frozen delta, since the checkpoint has all of it.
func (u *Upper) foldDone(f *folding) (err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if f.wanted {
		if f.snapshot, err = u.folded.checkpoint(); err != nil {
			return err
		}
	}
	u.frozen, u.folding = nil, nil
	u.crowded.Store(false)
	return nil
}

// A Snapshot is the upper at one moment. Content is read as it is when it is
// read.
type Snapshot struct {
	u *Upper
	view
}

// Snapshot folds what is in memory and returns the state of that moment.
// Changes go on meanwhile.
func (u *Upper) Snapshot() (*Snapshot, error) {
	for {
		u.mu.Lock()
		f := u.folding
		if f == nil && u.active.empty() {
			defer u.mu.Unlock()
			s := &Snapshot{u: u, view: view{fs: u.fs, key: u.key}}
			if u.folded != nil {
				var err error
				if s.cp, err = u.folded.checkpoint(); err != nil {
					return nil, err
				}
			}
			u.snapshots++
			return s, nil
		}
		mine := f == nil
		if mine {
			if err := u.freeze(); err != nil {
				u.mu.Unlock()
				return nil, err
			}
			f = u.folding
			f.wanted = true
			u.snapshots++ // what loses its name from here on is still read
		}
		u.mu.Unlock()
		select {
		case <-f.done:
		case <-f.failed:
			if !mine || u.unwant(f) {
				return nil, f.failing()
			}
		}
		if mine {
			return &Snapshot{u: u, view: view{fs: u.fs, key: u.key, cp: f.snapshot}}, nil
		}
	}
}

// unwant gives up the snapshot that f was to bring, and returns false if it
// just did. One that came later nobody would close.
func (u *Upper) unwant(f *folding) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if f.snapshot != nil {
		return false
	}
	f.wanted = false
	u.snapshots--
	u.journal.arm()
	return true
}

// Close lets go of the snapshot.
func (s *Snapshot) Close() error {
	s.cp.close()
	if s.u == nil {
		return nil
	}
	s.u.mu.Lock()
	s.u.snapshots--
	s.u.mu.Unlock()
	s.u.journal.arm()
	return nil
}
