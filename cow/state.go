// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// keeping is what an upper needs to keep its state: the part of Upper that
// knows journal and checkpoint.
type keeping struct {
	failed  atomic.Pointer[error] // why nothing can be changed any more
	closed  atomic.Bool
	unswept bool        // there may be data files that nothing names; of Open
	crowded atomic.Bool // memory holds more than it should while a fold runs

	journal *journal
	space   *space
	folded  *store // nil: nothing was folded yet; of who folds, else guarded by mu

	// What follows is guarded by Upper.mu.

	folding   *folding // nil: none
	reserved  Node     // numbers below it may be given out
	wanted    Node     // those below it once the frame wantedAt is durable
	wantedAt  uint64
	doomed    []doomed
	snapshots int // open ones: what is doomed waits for them

	stop  chan struct{}  // closed by Close
	tasks sync.WaitGroup // goroutines
	hurry chan struct{}  // have the journal synced now, not within a second
}

// A doomed data file is removed once the frame that says so is durable.
type doomed struct {
	node Node
	seq  uint64
}

// What memory holds before it is folded, in bytes of the journal. It takes up to
// twice as many, in each of two deltas.
const (
	foldAt = 16 << 20
	foldBy = 32 << 20 // changes wait from there on, while a fold is under way

	tightFold = 256 << 10 // both, while removals live off the reserve
)

// syncEvery is how long something may stay in the journal without being synced.
const syncEvery = time.Second

// append writes muts as one frame of the journal and applies them to the
// active delta. On an error nothing has changed. Preconditions: u.mu is held
// for writing.
func (u *Upper) append(muts []mutation) error {
	if err := u.mayChange(); err != nil {
		return err
	}
	removes := onlyRemove(muts)
	if err := u.prepare(muts, removes); err != nil {
		return err
	}
	seq, n, err := u.journal.append(muts, removes)
	if err != nil {
		if isFull(err) {
			u.syncSoon() // what was removed may still hold space
		}
		return err
	}
	u.seq = seq
	u.active.bytes += int64(n)
	for k := range muts {
		if err := u.apply(seq, &muts[k]); err != nil {
			u.poison(syscall.EIO) // the journal says what memory does not
			return err
		}
	}
	// Where room is short the journal gives back what it can at once, and
	// changes wait for that.
	limit, by := u.opt.foldAt, u.opt.foldBy
	if removes && u.space.tight() {
		limit, by = min(limit, tightFold), min(by, tightFold)
	}
	switch {
	case u.active.bytes < limit:
	case u.folding == nil:
		u.freeze()
	case u.active.bytes >= by:
		u.crowded.Store(true)
	}
	return nil
}

// onlyRemove reports whether muts take names away and bring none, so that they
// are what makes room on a full disk.
func onlyRemove(muts []mutation) bool {
	removes := false
	for k := range muts {
		switch m := &muts[k]; m.kind {
		case dropInode, dropXattr:
			removes = true
		case putEntry:
			if m.entry.node != 0 {
				return false
			}
			removes = true
		case putXattr, putBlocks:
			return false
		}
	}
	return removes
}

// prepare does what could fail of applying muts, before the journal has them.
func (u *Upper) prepare(muts []mutation, removes bool) error {
	if f := u.folding; f != nil && !removes {
		// A fold that finds no room gets what comes back before the journal does.
		limit := u.opt.foldBy
		err := f.failing()
		if isFull(err) {
			limit = u.opt.foldAt
		}
		if err != nil && u.active.bytes >= limit {
			return errnoOf(err)
		}
	}
	for k := range muts {
		switch m := &muts[k]; m.kind {
		case putBlocks:
			if err := u.loadChunks(m); err != nil {
				return err
			}
		case putInode:
			if m.inode.tail == "" {
				continue
			}
			if before, _, err := u.record(m.node); err == nil && before != nil {
				m.part(before)
			}
		}
	}
	return nil
}

// mayChange returns why nothing can be changed any more: EIO after a panic,
// EROFS after the disk failed to keep the journal or the checkpoint.
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
func (u *Upper) room() {
	if !u.crowded.Load() {
		return
	}
	u.mu.RLock()
	f := u.folding
	u.mu.RUnlock()
	if f == nil {
		return
	}
	select {
	case <-f.done:
	case <-f.failed: // append says what is wrong
	}
}

// seqOf returns the sequence of the frame that last put the record of n, to be
// given to sync, or 0 if that is durable already. It is called without locks.
func (u *Upper) seqOf(n Node) uint64 {
	u.mu.RLock()
	defer u.mu.RUnlock()
	i, _ := u.deltaRecord(n)
	if i == nil || i.seq <= u.journal.durable.Load() {
		return 0
	}
	return i.seq
}

// cutSeq is seqOf for who is about to destroy what an older record of n counts.
// That may be one that n had before it lost its last name.
func (u *Upper) cutSeq(n Node) uint64 {
	u.mu.RLock()
	defer u.mu.RUnlock()
	seq := u.seq
	switch i, gone := u.deltaRecord(n); {
	case i != nil:
		seq = i.seq
	case !gone:
		return 0
	}
	if seq <= u.journal.durable.Load() {
		return 0
	}
	return seq
}

// numbersAhead is how many numbers of nodes are reserved at once.
const numbersAhead = 1 << 16

// newNode returns a number that was never used. Preconditions: u.mu is held
// for writing.
func (u *Upper) newNode() (Node, error) {
	if err := u.mayChange(); err != nil {
		return 0, err
	}
	if u.wanted <= u.reserved && u.reserved-u.next < numbersAhead/2 {
		m := [1]mutation{{kind: reserve, first: uint64(u.reserved + numbersAhead)}}
		seq, _, err := u.journal.append(m[:], false)
		if err == nil {
			u.wanted, u.wantedAt = u.reserved+numbersAhead, seq
			u.syncSoon()
		} else if u.next >= u.reserved {
			return 0, err
		}
	}
	if u.next >= u.reserved { // seldom: the first of a session, or creating outruns the disk
		if err := u.journal.sync(u.wantedAt); err != nil {
			return 0, err
		}
	}
	if u.wanted > u.reserved && u.journal.durable.Load() >= u.wantedAt {
		u.reserved = u.wanted
	}
	n := u.next
	u.next++
	return n, nil
}

// sync makes every frame up to the sequence seq durable, and the data that
// barriers in them wait for. It is called without locks; callers that come
// together share one fdatasync.
func (u *Upper) sync(seq uint64) error {
	if err := u.journal.sync(seq); err != nil {
		return syscall.EIO
	}
	return nil
}

// flushData syncs all data files at once.
func (u *Upper) flushData(nodes []Node) (ok bool) {
	for _, n := range nodes {
		if u.dataLost(n) {
			return false
		}
	}
	if u.opt.flush != nil {
		return u.opt.flush() == nil
	}
	dir, err := u.dataDir()
	return err == nil && unix.Syncfs(dir) == nil
}

// dataLost reports whether an fdatasync of n's data file failed.
func (u *Upper) dataLost(n Node) bool {
	u.data.mu.Lock()
	defer u.data.mu.Unlock()
	_, lost := u.data.failed[n]
	return lost
}

// syncSoon has the journal synced without waiting for it.
func (u *Upper) syncSoon() {
	select {
	case u.hurry <- struct{}{}:
	default:
	}
}

// doom has the data file of n removed once the frame seq is durable.
// Preconditions: u.mu is held for writing.
func (u *Upper) doom(n Node, seq uint64) {
	u.doomed = append(u.doomed, doomed{n, seq})
	u.journal.arm()
}

// removeDoomed removes the data files whose end is durable, unless a snapshot
// may still read them.
func (u *Upper) removeDoomed() {
	u.mu.Lock()
	if u.snapshots > 0 {
		u.mu.Unlock()
		return
	}
	durable := u.journal.durable.Load()
	k := 0
	for k < len(u.doomed) && u.doomed[k].seq <= durable {
		k++
	}
	todo := u.doomed[:k:k]
	u.doomed = u.doomed[k:]
	if len(u.doomed) == 0 {
		u.doomed = nil
	}
	u.mu.Unlock()
	for _, d := range todo {
		if err := u.removeData(d.node); err != nil {
			u.logf("node %d: its data file stays: %v", d.node, err)
		}
	}
}

// keep syncs the journal every now and then until the upper is closed. It
// sleeps while there is nothing to sync.
func (u *Upper) keep() {
	defer u.tasks.Done()
	var said error
	timer := time.NewTimer(syncEvery)
	defer timer.Stop()
	for {
		select {
		case <-u.stop:
			return
		case <-u.hurry:
		case <-u.journal.dirty:
			timer.Reset(syncEvery)
			select {
			case <-u.stop:
				return
			case <-u.hurry:
			case <-timer.C:
			}
		}
		if err := u.journal.sync(u.journal.disarm()); err != nil && said == nil {
			u.logf("the journal is not synced any more: %v", err)
			said = err
		}
		u.removeDoomed()
		u.space.take()
	}
}

// sweep removes the data files that no record names: what a change left that
// never came to be, or one that was undone by a loss of power. Close waits for
// it, since the next Open may find no reason to do it.
func (u *Upper) sweep(below Node) {
	defer u.tasks.Done()
	err := filepath.WalkDir(filepath.Join(u.dir, dataDirName), func(path string, e fs.DirEntry, err error) error {
		if u.mayChange() != nil {
			return fs.SkipAll
		}
		if err != nil || e.IsDir() {
			return err
		}
		var n Node
		if _, err := fmt.Sscanf(e.Name(), "%016x", &n); err != nil || filepath.Base(dataName(n)) != e.Name() || n >= below {
			return nil
		}
		u.mu.RLock()
		i, gone, err := u.record(n)
		used := err != nil || u.orphans[n] != nil || u.files[n] != nil || i != nil && !gone && i.flags&flagData != 0
		u.mu.RUnlock()
		if used {
			return nil
		}
		return u.sweepData(n)
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		u.logf("data files that nothing names: %v", err)
	}
}
