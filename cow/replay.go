// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A scan reads the journal that a session left. Each segment continues the one
// before; a frame that does not hold ends it, and with it the journal, unless
// the next segment begins where it ended.
//
// In the boot that wrote them all valid frames hold: the kernel has what was
// written to it, whatever became of the server. In another boot, after a loss
// of power, frames hold up to the first that has a barrier which no later
// confirm covers: the content it speaks of may be older than it.
type scan struct {
	j    *journal
	boot bool // the segment at hand was written in this boot
	lost bool // one was not

	frames    uint64 // sequence of the last that is valid
	confirmed uint64
	barriers  []pendingBarrier // in the order of their frames
}

type pendingBarrier struct {
	node Node
	seq  uint64
}

// replay applies what the journal left to the active delta, and reports whether
// there was any: then the last session was not closed. What does not hold is
// cut off.
func (u *Upper) replay() (unclean bool, err error) {
	j := u.journal
	done := uint64(0)
	if u.folded != nil {
		done = u.folded.meta.seq
	}
	j.seq = done
	segments, err := j.open()
	if err != nil || len(segments) == 0 {
		return false, err
	}
	sc := &scan{j: j, frames: done, confirmed: done}
	if segments, err = sc.read(segments, u.logf); err != nil {
		return true, err
	}
	last := sc.holds()
	if segments, err = sc.cut(segments, last, u.logf); err != nil {
		return true, err
	}
	for _, s := range segments {
		err := s.each(func(f frame) error {
			if f.seq <= done || f.seq > last {
				return nil
			}
			u.active.bytes += int64(frameHead + len(f.payload))
			return u.replayFrame(f)
		})
		if err != nil {
			return true, err
		}
	}
	j.segments, j.seq, u.seq = segments, last, last
	j.durable.Store(done)
	if len(segments) > 0 {
		j.next = segments[len(segments)-1].n + 1
	}
	u.reserved = max(u.reserved, u.next)
	if sc.lost {
		err = u.mendData()
	}
	return true, err
}

// mendData makes empty the local files whose data file went with the power: it
// was never synced.
func (u *Upper) mendData() error {
	missing := func(n Node, i *inode) bool {
		const want = flagLocal | flagData
		if i == nil || i.flags&want != want {
			return false
		}
		_, err := os.Lstat(filepath.Join(u.dir, dataDirName, dataName(n)))
		return errors.Is(err, os.ErrNotExist)
	}
	mend := func(n Node, i *inode) {
		u.logf("node %d: its content was lost with the power, it is empty now", n)
		c := *i
		c.flags &^= flagData
		c.size, c.lower, c.tail = 0, 0, ""
		u.active.inodes[n] = &c
	}
	for n, i := range u.active.inodes {
		if missing(n, i) {
			mend(n, i)
		}
	}
	if u.cp == nil {
		return nil
	}
	return u.cp.eachInode(func(n Node, i *inode) bool {
		if _, ok := u.active.inodes[n]; !ok && missing(n, i) {
			mend(n, i)
		}
		return true
	})
}

// replayFrame applies a frame.
func (u *Upper) replayFrame(f frame) error {
	for b := f.payload; len(b) > 0; {
		var m mutation
		var err error
		if b, err = m.decode(b); err != nil {
			return err
		}
		switch m.kind {
		case barrier:
			u.journal.barrierLocked(m.node, f.seq)
		case confirm:
			for n, span := range u.journal.barriers {
				if span.last <= m.first {
					delete(u.journal.barriers, n)
				}
			}
		case reserve:
			u.next = max(u.next, Node(m.first))
		case putPart:
			before, _, err := u.record(m.node)
			if err != nil {
				return err
			}
			m.join(before)
			if err := u.apply(f.seq, &m); err != nil {
				return err
			}
		default:
			if err := u.apply(f.seq, &m); err != nil {
				return err
			}
		}
	}
	return nil
}

// open opens the segments that there are, in their order.
func (j *journal) open() (list []*segment, err error) {
	names, err := os.ReadDir(j.dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			for _, s := range list {
				s.f.Close()
			}
		}
	}()
	for _, e := range names {
		hex, ok := strings.CutPrefix(e.Name(), "journal.")
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(hex, 16, 64)
		if err != nil || journalName(n) != e.Name() {
			continue
		}
		f, err := os.OpenFile(filepath.Join(j.dir, e.Name()), os.O_RDWR|unix.O_NOFOLLOW, 0)
		if err != nil {
			return list, err
		}
		list = append(list, &segment{f: f, n: n})
	}
	slices.SortFunc(list, func(a, b *segment) int { return cmp.Compare(a.n, b.n) })
	return list, nil
}

// read checks all frames and learns of barriers. It returns the segments that
// belong to the journal; the others are removed.
func (sc *scan) read(segments []*segment, logf func(string, ...any)) (keep []*segment, err error) {
	for k, s := range segments {
		last := k == len(segments)-1
		boot, err := s.readHead(sc.j)
		if err == errUnwritten && sc.neverSynced(segments[k+1:]) {
			sc.lost = true
			logf("the journal ends at frame %d: what came after was lost with the power", sc.frames)
			return keep, errors.Join(sc.remove(segments[k:])...)
		}
		// A header is written before a frame is, and before the next segment is
		// begun: only the last one may have been just being begun.
		torn := last && (err == errUnwritten || errors.Is(err, errTorn))
		if err != nil && !torn {
			return nil, fmt.Errorf("%s: %w", journalName(s.n), err)
		}
		if err != nil {
			logf("%v", err)
			return keep, errors.Join(sc.remove(segments[k:])...)
		}
		sc.boot, sc.lost = boot, sc.lost || !boot
		if s.first > sc.frames+1 {
			if !boot {
				logf("the journal ends at frame %d: what came after was lost with the power", sc.frames)
				return keep, errors.Join(sc.remove(segments[k:])...)
			}
			return nil, fmt.Errorf("%w: frames %d to %d are missing from the journal", ErrDamaged, sc.frames+1, s.first-1)
		}
		keep = append(keep, s)
		if err := s.each(sc.frame); err != nil {
			return nil, fmt.Errorf("%s: %w", journalName(s.n), err)
		}
	}
	return keep, nil
}

// neverSynced reports whether the segments behind one without a header are of
// another boot, too: it was lost with the power, before any of them was synced.
func (sc *scan) neverSynced(behind []*segment) bool {
	for _, s := range behind {
		if boot, err := s.readHead(sc.j); err == nil && boot {
			return false
		}
	}
	return len(behind) > 0
}

// frame notes what a frame says of barriers.
func (sc *scan) frame(f frame) error {
	sc.frames = max(sc.frames, f.seq)
	for b := f.payload; len(b) > 0; {
		var m mutation
		var err error
		if b, err = m.decode(b); err != nil {
			return err
		}
		switch m.kind {
		case barrier:
			if sc.boot {
				continue
			}
			sc.barriers = append(sc.barriers, pendingBarrier{m.node, f.seq})
		case confirm:
			sc.confirmed = max(sc.confirmed, m.first)
		}
	}
	return nil
}

// holds returns the last frame that holds.
func (sc *scan) holds() uint64 {
	for _, b := range sc.barriers {
		if b.seq > sc.confirmed {
			return b.seq - 1
		}
	}
	return sc.frames
}

// cut makes last the last frame of the journal.
func (sc *scan) cut(segments []*segment, last uint64, logf func(string, ...any)) (keep []*segment, err error) {
	if last < sc.frames {
		logf("frames %d to %d of the journal are dropped: their content was lost with the power", last+1, sc.frames)
	}
	for k, s := range segments {
		if s.first > last {
			return keep, errors.Join(sc.remove(segments[k:])...)
		}
		end := int64(segmentHead)
		err := s.each(func(f frame) error {
			if f.seq <= last {
				end = f.end
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		s.off, s.end, s.old = end, end, true
		// What stands behind must not be taken for frames by the next replay.
		if err := s.f.Truncate(end); err != nil {
			return nil, err
		}
		if err := s.f.Sync(); err != nil {
			return nil, err
		}
		keep = append(keep, s)
	}
	return keep, nil
}

// remove removes segments that do not belong to the journal.
func (sc *scan) remove(segments []*segment) (errs []error) {
	for _, s := range segments {
		errs = append(errs, s.f.Close(), os.Remove(filepath.Join(sc.j.dir, journalName(s.n))))
	}
	return append(errs, syncDir(sc.j.dir))
}

// errUnwritten tells that there are zeros for a header, which lies in one
// sector: it never came to the disk.
var errUnwritten = fmt.Errorf("%w: a segment of the journal without a header", ErrDamaged)

// errTorn tells that a header is none.
var errTorn = fmt.Errorf("%w: a segment of the journal with half a header", ErrDamaged)

// readHead reads the header of s. boot tells that it was written in this boot.
func (s *segment) readHead(j *journal) (boot bool, err error) {
	b := make([]byte, segmentHead)
	if _, err := s.f.ReadAt(b, 0); err != nil && err != io.EOF {
		return false, err
	}
	if bytes.Count(b, []byte{0}) == len(b) {
		return false, errUnwritten
	}
	if string(b[:8]) != segmentMagic || le.Uint32(b[96:]) != crc32.Checksum(b[:96], castagnoli) {
		return false, errTorn
	}
	if v := le.Uint32(b[8:]); v < 1 || v > journalVersion {
		return false, fmt.Errorf("%w (journal of version %d, this one knows %d)", ErrFormat, v, journalVersion)
	}
	if id128(b[16:]) != j.id || le.Uint64(b[80:]) != s.n {
		return false, fmt.Errorf("%w: %s is of another upper", ErrDamaged, journalName(s.n))
	}
	s.salt, s.first = le.Uint32(b[12:]), le.Uint64(b[88:])
	return id128(b[32:]) == j.boot, nil
}

// A frame is one as it lies in a segment.
type frame struct {
	seq     uint64
	payload []byte // valid until the next
	end     int64  // where it ends
}

// each calls f for the valid frames of s, in order.
func (s *segment) each(f func(frame) error) error {
	off, seq := int64(segmentHead), s.first
	var b []byte
	for {
		n, err := readFrame(s.f, s.salt, off, seq, &b)
		if err != nil || n == 0 {
			return err
		}
		off += int64(n)
		if err := f(frame{seq, b[frameHead:n], off}); err != nil {
			return err
		}
		seq++
	}
}

// readFrame reads the frame at off into b, and returns how long it is; 0 if
// there is no valid one of that sequence.
func readFrame(r io.ReaderAt, salt uint32, off int64, seq uint64, b *[]byte) (int, error) {
	var head [frameHead]byte
	if n, err := r.ReadAt(head[:], off); n < frameHead {
		if err == io.EOF {
			err = nil
		}
		return 0, err
	}
	n := int(le.Uint32(head[:]))
	if n == 0 || n > maxFrame || le.Uint64(head[4:]) != seq {
		return 0, nil
	}
	n += frameHead
	*b = slices.Grow((*b)[:0], n)[:n]
	if m, err := r.ReadAt(*b, off); m < n {
		if err == io.EOF {
			err = nil
		}
		return 0, err
	}
	if frameSum(salt, *b) != le.Uint32((*b)[12:]) {
		return 0, nil
	}
	return n, nil
}
