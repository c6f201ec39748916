// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// The journal is a row of files "journal.N", N in 16 hexadecimal digits. One
// change is one frame. Segment, little-endian:
//
//	 0   8  magic "imgfsJNL"
//	 8   4  version, 2
//	12   4  salt, random
//	16  16  id of the upper
//	32  16  id of the boot it was written in
//	48  32  identity of the tree
//	80   8  N
//	88   8  sequence of its first frame
//	96   4  CRC-32C of the bytes before
//	100  …  frames, one after another, until one does not hold
//
// Frame:
//
//	 0  4  n, bytes of the payload
//	 4  8  sequence, one more than that of the frame before
//	12  4  CRC-32C of salt, n, sequence and payload
//	16  n  payload: mutations
const (
	segmentMagic   = "imgfsJNL"
	journalVersion = 2 // 1: without putPart
	segmentHead    = 100
	frameHead      = 16
	maxFrame       = 4 << 20 // bytes of a payload
)

// segmentStep is how much room a segment gets at once, ahead of what is
// written: an fdatasync then finds the blocks and the size on disk and need not
// wait for the file system's own journal (measured on ext4: 130 against 190 µs).
const segmentStep = 256 << 10

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// id128 and id256 are random or hashed names, as they lie on disk.
type (
	id128 [16]byte
	id256 [32]byte
)

// A segment is one file of the journal.
type segment struct {
	f     *os.File
	n     uint64 // its number
	first uint64 // sequence of its first frame
	salt  uint32
	off   int64 // where the next frame goes
	end   int64 // how far there is room
	dirty bool  // something was written since the last fdatasync began
	old   bool  // of an earlier session: nothing is written to it any more
}

// journalName returns the name of segment n.
func journalName(n uint64) string { return fmt.Sprintf("journal.%016x", n) }

// A dataSyncer makes content durable.
type dataSyncer interface {
	// syncData syncs the content of n; that a node has none is no error. What
	// failed once fails for good.
	syncData(n Node) error
	// flushData syncs all content, as far as that fails for no node for good.
	// ok is false if it cannot, or did not.
	flushData(nodes []Node) (ok bool)
}

// A journal takes frames and makes them durable.
type journal struct {
	dir   string
	id    id128
	boot  id128
	tree  id256
	data  dataSyncer
	space *space
	fail  func(err error) // told of an fdatasync of the journal that failed

	// syncing is held by who waits for the disk; it orders before mu.
	syncing sync.Mutex
	broken  error // of an fdatasync that failed: no sync succeeds any more; guarded by syncing

	durable atomic.Uint64 // every frame up to it is on disk, and its barriers hold
	dirty   chan struct{} // told that there is something to sync

	// mu guards what follows. No disk is waited for under it but for the write
	// of a frame.
	mu       sync.Mutex
	segments []*segment // oldest first; the last one is written to
	next     uint64     // number of the next segment
	seq      uint64     // of the last frame
	barriers map[Node]barrierSpan
	stuck    uint64        // the first barrier whose data is lost; 0: none
	lost     map[Node]bool // nodes whose data the disk lost
	newNames bool          // a segment's name may not be on disk
	buf      []byte        // scratch of append
	armed    bool          // dirty was told
}

// barrierSpan says which frames wait for the data of a node. Those up to synced
// need not wait for a sync of it any more, only for a confirm.
type barrierSpan struct{ first, last, synced uint64 }

// errStuck tells that the journal cannot be made durable, since content that
// it speaks of was lost.
var errStuck = fmt.Errorf("content was lost by the disk: %w", syscall.EIO)

// append writes one frame and returns its sequence and how long it is. removes
// tells that the change gives space back: then the last reserve may be used.
// On an error nothing has changed.
func (j *journal) append(muts []mutation, removes bool) (seq uint64, n int, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.appendLocked(muts, removes)
}

func (j *journal) appendLocked(muts []mutation, removes bool) (seq uint64, n int, err error) {
	b := append(j.buf[:0], make([]byte, frameHead)...)
	for k := range muts {
		b = muts[k].append(b)
	}
	if cap(b) <= maxFrame/16 {
		j.buf = b
	}
	if len(b)-frameHead > maxFrame {
		return 0, 0, syscall.ENOSPC
	}
	s, err := j.roomLocked(int64(len(b)), removes)
	if err != nil {
		return 0, 0, err
	}
	seq = j.seq + 1
	le.PutUint32(b, uint32(len(b)-frameHead))
	le.PutUint64(b[4:], seq)
	le.PutUint32(b[12:], frameSum(s.salt, b))
	if err := writeAt(s.f, b, s.off); err != nil {
		return 0, 0, err
	}
	s.off += int64(len(b))
	s.dirty = true
	j.seq = seq
	for k := range muts {
		if m := &muts[k]; m.kind == barrier {
			j.barrierLocked(m.node, seq)
		}
	}
	if !j.armed {
		j.armLocked()
	}
	return seq, len(b), nil
}

// arm has the journal looked after within a second.
func (j *journal) arm() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.armed {
		j.armLocked()
	}
}

// armLocked tells who syncs every now and then that there is something.
func (j *journal) armLocked() {
	j.armed = true
	select {
	case j.dirty <- struct{}{}:
	default:
	}
}

func (j *journal) barrierLocked(n Node, seq uint64) {
	span, ok := j.barriers[n]
	if !ok {
		span.first = seq
	}
	span.last = seq
	j.barriers[n] = span
	if j.lost[n] && j.stuck == 0 {
		j.stuck = seq
	}
}

// frameSum returns the checksum of a frame whose head is filled in but for it.
func frameSum(salt uint32, b []byte) uint32 {
	var s [4]byte
	le.PutUint32(s[:], salt)
	sum := crc32.Checksum(s[:], castagnoli)
	sum = crc32.Update(sum, castagnoli, b[:12])
	return crc32.Update(sum, castagnoli, b[frameHead:])
}

// writeAt writes all of b or returns the disk's own word why not: ENOSPC,
// EDQUOT, EFBIG, or EIO.
func writeAt(f *os.File, b []byte, off int64) error {
	n, err := f.WriteAt(b, off)
	if err == nil && n == len(b) {
		return nil
	}
	return errnoOf(err)
}

// errnoOf reduces an error of the disk below to what a program is told.
func errnoOf(err error) error {
	for _, e := range [...]syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG} {
		if errors.Is(err, e) {
			return e
		}
	}
	return syscall.EIO
}

// roomLocked returns the segment to write n bytes to, with room for them.
func (j *journal) roomLocked(n int64, removes bool) (*segment, error) {
	if k := len(j.segments); k == 0 || j.segments[k-1].old {
		if err := j.beginLocked(removes); err != nil {
			return nil, err
		}
	}
	s := j.segments[len(j.segments)-1]
	if s.off+n <= s.end {
		return s, nil
	}
	err := j.space.try(leaving(removes), func() error { return s.grow(n) })
	return s, err
}

func leaving(removes bool) int64 {
	if removes {
		return leaveNone
	}
	return leaveAll
}

// grow gives s room for n bytes more.
func (s *segment) grow(n int64) error {
	end := s.off + max(n, segmentStep)
	err := allocate(s.f, s.end, end-s.end)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		end = s.off + n
		err = allocate(s.f, s.end, end-s.end)
	}
	if err != nil {
		return errnoOf(err)
	}
	s.end = end
	return nil
}

// allocate is fallocate(2). A file system that cannot is no error: writes find
// their room or say so.
func allocate(f *os.File, off, n int64) error {
	for {
		err := unix.Fallocate(int(f.Fd()), 0, off, n)
		switch err {
		case unix.EINTR:
			continue
		case unix.EOPNOTSUPP, unix.ENOSYS:
			return nil
		}
		return err
	}
}

// beginLocked begins the next segment. On an error the last one goes on.
func (j *journal) beginLocked(removes bool) error {
	var s *segment
	err := j.space.try(leaving(removes), func() (err error) {
		s, err = j.create()
		return err
	})
	if err != nil {
		return err
	}
	j.segments = append(j.segments, s)
	j.next++
	j.newNames = true
	return nil
}

// create makes the file of the next segment.
func (j *journal) create() (*segment, error) {
	path := filepath.Join(j.dir, journalName(j.next))
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, errnoOf(err)
	}
	s := &segment{f: f, n: j.next, first: j.seq + 1, salt: random32(), off: segmentHead}
	if err = s.grow(0); err == nil {
		err = writeAt(f, j.head(s), 0)
	}
	if err != nil {
		f.Close()
		os.Remove(path)
		return nil, err
	}
	return s, nil
}

// head returns the header of s.
func (j *journal) head(s *segment) []byte {
	b := make([]byte, 0, segmentHead)
	b = append(b, segmentMagic...)
	b = le.AppendUint32(b, journalVersion)
	b = le.AppendUint32(b, s.salt)
	b = append(b, j.id[:]...)
	b = append(b, j.boot[:]...)
	b = append(b, j.tree[:]...)
	b = le.AppendUint64(b, s.n)
	b = le.AppendUint64(b, s.first)
	return le.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// rotate begins a new segment, and returns the sequence of the last frame
// before it.
func (j *journal) rotate() (last uint64, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.segments) > 0 {
		err = j.beginLocked(true)
	}
	return j.seq, err
}

// disarm has the next frame arm again, and returns the sequence of the last.
func (j *journal) disarm() (last uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.armed = false
	return j.seq
}

// used reports whether there is anything in the journal.
func (j *journal) used() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.segments) > 0
}

// last returns the sequence of the last frame.
func (j *journal) last() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.seq
}

// drop removes the segments that hold nothing behind seq: what they hold is in
// the checkpoint.
func (j *journal) drop(seq uint64) error {
	j.syncing.Lock()
	defer j.syncing.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	var errs []error
	for len(j.segments) > 1 && j.segments[1].first <= seq+1 {
		s := j.segments[0]
		j.segments = j.segments[1:]
		errs = append(errs, s.f.Close(), os.Remove(filepath.Join(j.dir, journalName(s.n))))
	}
	return errors.Join(errs...)
}

// close lets go of the files. If all is in the checkpoint they are removed.
func (j *journal) close(folded bool) error {
	j.syncing.Lock()
	defer j.syncing.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	var errs []error
	for _, s := range j.segments {
		errs = append(errs, s.f.Close())
		if folded {
			errs = append(errs, os.Remove(filepath.Join(j.dir, journalName(s.n))))
		}
	}
	j.segments = nil
	return errors.Join(errs...)
}
