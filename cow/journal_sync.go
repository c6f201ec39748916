// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"os"
	"syscall"
)

// sync makes every frame up to seq durable: first the data that barriers among
// them wait for, then the frames with a confirm that says so. Callers that come
// together share one fdatasync.
func (j *journal) sync(seq uint64) error {
	if seq <= j.durable.Load() {
		return nil
	}
	j.syncing.Lock()
	defer j.syncing.Unlock()
	if seq <= j.durable.Load() {
		return nil
	}
	if j.broken != nil {
		return syscall.EIO
	}
	if err := j.confirmBarriers(); err != nil {
		return err
	}
	upTo, err := j.syncSegments()
	if err != nil {
		return err
	}
	if seq > upTo {
		return errStuck
	}
	return nil
}

// synced tells that a sync of n's data succeeded which began when upTo was the
// last frame.
func (j *journal) synced(n Node, upTo uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if span, ok := j.barriers[n]; ok {
		span.synced = max(span.synced, upTo)
		j.barriers[n] = span
	}
}

// confirmBarriers syncs the data of the nodes that barriers name and appends a
// confirm for them. Data that cannot be synced is lost: its barrier is never
// confirmed, and the journal stays where it was before it for good.
// Preconditions: j.syncing is held.
func (j *journal) confirmBarriers() error {
	j.mu.Lock()
	upTo, stuck := j.seq, j.stuck
	pending := make([]Node, 0, len(j.barriers))
	unsynced := make([]Node, 0, len(j.barriers))
	for n, span := range j.barriers {
		if stuck != 0 && span.first >= stuck {
			continue
		}
		pending = append(pending, n)
		if span.last > span.synced {
			unsynced = append(unsynced, n)
		}
	}
	j.mu.Unlock()
	if len(pending) == 0 {
		return nil
	}
	failed := j.syncData(unsynced)
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, n := range failed {
		j.loseLocked(n)
	}
	if j.stuck != 0 {
		upTo = min(upTo, j.stuck-1)
	}
	done := pending[:0]
	for _, n := range pending {
		if j.barriers[n].first <= upTo && !j.lost[n] {
			done = append(done, n)
		}
	}
	if len(done) == 0 {
		return nil
	}
	// Nothing is confirmed before the frame that says so is written.
	if _, _, err := j.appendLocked([]mutation{{kind: confirm, first: upTo}}, true); err != nil {
		return err
	}
	for _, n := range done {
		span := j.barriers[n]
		if span.last <= upTo {
			delete(j.barriers, n)
		} else {
			j.barriers[n] = barrierSpan{upTo + 1, span.last, span.synced}
		}
	}
	return nil
}

// loseLocked says that the disk lost content of n: frames that wait for it never
// become durable.
func (j *journal) loseLocked(n Node) {
	j.lost[n] = true
	if span, ok := j.barriers[n]; ok && (j.stuck == 0 || span.first < j.stuck) {
		j.stuck = span.first
	}
}

// manyNodes is from how many data files on one sync of their whole file system
// is preferred to one of each.
const manyNodes = 16

// syncData makes the content of nodes durable and returns those of which it
// could not.
func (j *journal) syncData(nodes []Node) (failed []Node) {
	if len(nodes) > manyNodes && j.data.flushData(nodes) {
		return nil
	}
	for _, n := range nodes {
		if err := j.data.syncData(n); err != nil {
			failed = append(failed, n)
		}
	}
	return failed
}

func fdatasync(f *os.File) error {
	for {
		if err := syscall.Fdatasync(int(f.Fd())); err != syscall.EINTR {
			return err
		}
	}
}

// syncSegments makes what was written durable, and returns up to which frame.
// Preconditions: j.syncing is held.
func (j *journal) syncSegments() (upTo uint64, err error) {
	j.mu.Lock()
	upTo = j.seq
	for _, span := range j.barriers { // those that came meanwhile
		upTo = min(upTo, span.first-1)
	}
	var todo []*segment
	for _, s := range j.segments {
		if s.dirty {
			todo = append(todo, s)
			s.dirty = false
		}
	}
	names := j.newNames
	j.newNames = false
	j.mu.Unlock()
	for _, s := range todo {
		if err = fdatasync(s.f); err != nil {
			break
		}
	}
	if err == nil && names {
		err = syncDir(j.dir)
	}
	if err != nil {
		j.broken = err
		j.fail(err)
		return 0, err
	}
	if upTo > j.durable.Load() {
		j.durable.Store(upTo)
	}
	return upTo, nil
}
