// SPDX-License-Identifier: Apache-2.0

package crashfs

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A Variant is a kind of loss.
type Variant int

const (
	Nothing   Variant = iota // nothing that no sync covered is there
	All                      // all is: as if only the programs had died
	Torn                     // all but the last write, which came in part
	NamesOnly                // names, sizes and attributes came, no data
	DataOnly                 // only data came
	Ordered                  // each file is as it was at some moment
	Random                   // each file and block is as it pleases
)

var variantNames = [...]string{"nothing", "all", "torn", "names only", "data only", "ordered", "random"}

func (v Variant) String() string { return variantNames[v] }

// A State is what a disk holds after a loss of power.
type State struct {
	Cut     int // the records that were made
	Variant Variant
	Seed    uint64

	log   *Log
	names int // changes of names below this record are there
}

func (s State) String() string {
	return fmt.Sprintf("cut %d of %d, %v, seed %d, names up to %d", s.Cut, len(s.log.Ops), s.Variant, s.Seed, s.names)
}

// State returns one state: the same for the same arguments.
func (l *Log) State(cut int, v Variant, seed uint64) State {
	cut = max(0, min(cut, len(l.Ops)))
	s := State{Cut: cut, Variant: v, Seed: seed, log: l, names: cut}
	pin := l.pinnedNames(cut)
	switch v {
	case Nothing, DataOnly:
		s.names = pin
	case Ordered, Random:
		switch r := mix(seed, uint64(cut), 1); r % 4 {
		case 0:
			s.names = pin
		case 1:
		default:
			s.names = pin + int(mix(r, 0, 0)%uint64(cut-pin+1))
		}
	}
	return s
}

// States yields at most limit states that a disk may be in if power is lost
// when the first cut records were made: first one of each kind, then random
// ones. Where everything is synced there is but one.
func (l *Log) States(cut int, seed uint64, limit int) iter.Seq[State] {
	return func(yield func(State) bool) {
		cut = max(0, min(cut, len(l.Ops)))
		if l.settled(cut) {
			limit = min(limit, 1)
		}
		for i := range limit {
			v, sub := Variant(i), uint64(0)
			if i >= int(Ordered) {
				v, sub = Ordered+Variant(i&1), seed+uint64(i)
			} else if v == Torn {
				sub = seed
			}
			if !yield(l.State(cut, v, sub)) {
				return
			}
		}
	}
}

// settled reports whether all that was done before cut is durable.
func (l *Log) settled(cut int) bool {
	names := l.pinnedNames(cut)
	pinned := make([]pins, len(l.nodes))
	for i, n := range l.nodes {
		pinned[i] = l.pinned(n, cut)
	}
	for i := range l.Ops[:cut] {
		switch op := &l.Ops[i]; op.Kind {
		case Sync, SyncFS:
		case SyncFailed:
			return false
		case Write, Truncate, Fallocate, SetAttr, SetXattr, RemoveXattr:
			p := pinned[l.target[i]]
			if i >= p.content || (i >= p.attr && op.Kind >= SetAttr) {
				return false
			}
		default:
			if i >= names {
				return false
			}
		}
	}
	return true
}

// mix returns a number that looks random and depends on nothing else.
func mix(a, b, c uint64) uint64 {
	h := uint64(0x9e3779b97f4a7c15)
	for _, v := range [...]uint64{a, b, c} {
		h ^= v
		h *= 0xbf58476d1ce4e5b9
		h ^= h >> 29
		h *= 0x94d049bb133111eb
		h ^= h >> 32
	}
	return h
}

// A fate is what becomes of one file: records of each kind below these
// moments are there, of data by block.
type fate struct {
	pins
	meta, attr int
	block      int64
	data       func(block int64) int
}

// fate decides on n.
func (s State) fate(n *inode) fate {
	l := s.log
	f := fate{pins: l.pinned(n, s.Cut), meta: s.Cut, attr: s.Cut, block: pageSize}
	whole := func(t int) func(int64) int { return func(int64) int { return t } }
	f.data = whole(s.Cut)
	moment := func(from int, salt uint64) int {
		pending := pendingBetween(n.changes, from, s.Cut)
		k := mix(s.Seed, uint64(n.id), salt) % uint64(len(pending)+1)
		if int(k) == len(pending) {
			return s.Cut
		}
		return max(from, pending[k])
	}
	variant := s.Variant
	if variant == Random {
		variant = [...]Variant{Nothing, All, NamesOnly, DataOnly, Ordered, Random, Random, Random}[mix(s.Seed, uint64(n.id), 2)%8]
	}
	switch variant {
	case Nothing:
		f.meta, f.attr, f.data = f.pins.content, f.pins.attr, whole(f.pins.content)
	case NamesOnly:
		f.data = whole(f.pins.content)
	case DataOnly:
		f.meta, f.attr = f.pins.content, f.pins.attr
	case Ordered:
		t := moment(f.pins.content, 3)
		f.meta, f.data, f.attr = t, whole(t), max(f.pins.attr, moment(f.pins.attr, 4))
	case Torn:
		if last := s.lastWrite(); last >= f.pins.content && last >= 0 && l.target[last] == n.id {
			f.block = 512
			f.data = func(b int64) int {
				if mix(s.Seed, uint64(b), 5)%2 == 0 {
					return last
				}
				return s.Cut
			}
		}
	case Random:
		f.meta, f.attr = moment(f.pins.content, 3), moment(f.pins.attr, 4)
		if mix(s.Seed, uint64(n.id), 6)%2 == 0 {
			f.block = 512
		}
		f.data = func(b int64) int { return moment(f.pins.content, 7+uint64(b)) }
	}
	return f
}

// lastWrite returns the last write before the cut, or -1.
func (s State) lastWrite() int {
	for i := s.Cut - 1; i >= 0; i-- {
		if s.log.Ops[i].Kind == Write {
			return i
		}
	}
	return -1
}

// pendingBetween returns those of sorted in [lo, hi).
func pendingBetween(sorted []int, lo, hi int) []int {
	i, _ := slices.BinarySearch(sorted, lo)
	j, _ := slices.BinarySearch(sorted, max(lo, hi))
	return sorted[i:j]
}

// content returns what is left of a file.
func (s State) content(n *inode, f fate) *content {
	l := s.log
	doubtful := l.doubtful(n, s.Cut)
	from := f.pins.content
	if doubtful != nil {
		from = 0
	}
	c := l.contentAt(n, from)
	truth := c.size // as the programs saw it
	type hole struct{ lo, hi int64 }
	var unseen []hole // made after f.meta: what was written there later is lost
	for _, i := range pendingBetween(n.changes, from, s.Cut) {
		op := &l.Ops[i]
		if lo, hi := op.zeroed(truth); lo < hi {
			if i < max(f.meta, f.pins.content) {
				c.zero(lo, hi)
			} else {
				unseen = append(unseen, hole{lo, hi})
			}
		}
		if op.Kind == Write {
			c.write(op.Data, op.Off, f.block, func(b int64) bool {
				for _, h := range unseen {
					if h.lo <= b*f.block && (b+1)*f.block <= h.hi {
						return false
					}
				}
				if doubtful[i] && s.Variant != All {
					return mix(s.Seed, uint64(b), uint64(i))%2 == 0
				}
				return i < f.pins.content || i < f.data(b)
			})
		}
		truth = op.sizeAfter(truth)
		if i < max(f.meta, f.pins.content) {
			c.size = op.sizeAfter(c.size)
		}
	}
	c.zero(c.size, 1<<63-1)
	return c
}

// tree returns the children of each directory, by node.
func (s State) tree() map[int]map[string]int {
	dirs := map[int]map[string]int{0: {}}
	id := map[uint64]int{rootIno: 0}
	for i := range s.log.Ops[:s.names] {
		op := &s.log.Ops[i]
		dir := dirs[id[op.Dir]]
		switch op.Kind {
		case Mkdir:
			dirs[s.log.target[i]] = map[string]int{}
			fallthrough
		case Create, Symlink:
			id[op.Ino] = s.log.target[i]
			fallthrough
		case Link:
			dir[op.Name] = s.log.target[i]
		case Unlink, Rmdir:
			delete(dir, op.Name)
		case Rename:
			to := dirs[id[op.Dir2]]
			moved, replaced := dir[op.Name], to[op.Name2]
			if op.Flags&unix.RENAME_EXCHANGE != 0 {
				dir[op.Name], to[op.Name2] = replaced, moved
				break
			}
			if moved == replaced {
				break // two names of one file: rename does nothing
			}
			delete(dir, op.Name)
			to[op.Name2] = moved
		}
	}
	return dirs
}

// Materialize lays the state out in dir, which must be empty or not exist.
func (s State) Materialize(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	m := materializer{State: s, dirs: s.tree(), done: map[int]string{}}
	if err := m.fill(dir, 0); err != nil {
		return fmt.Errorf("%v: %w", s, err)
	}
	return nil
}

type materializer struct {
	State
	dirs map[int]map[string]int
	done map[int]string // where a file was made
}

func (m *materializer) fill(dir string, id int) error {
	for _, name := range slices.Sorted(maps.Keys(m.dirs[id])) {
		child, to := m.dirs[id][name], filepath.Join(dir, name)
		if first, ok := m.done[child]; ok {
			if err := os.Link(first, to); err != nil {
				return err
			}
			continue
		}
		m.done[child] = to
		n := m.log.nodes[child]
		if err := m.make(to, n); err != nil {
			return err
		}
		if n.isDir() {
			if err := m.fill(to, child); err != nil {
				return err
			}
		}
		if err := m.dress(to, n); err != nil {
			return err
		}
	}
	return nil
}

// make makes n at a path, without what dress does.
func (m *materializer) make(to string, n *inode) error {
	switch {
	case n.isDir():
		return os.Mkdir(to, 0o700)
	case n.link != "":
		return os.Symlink(n.link, to)
	case !n.isReg():
		return unix.Mknod(to, n.mode, int(n.rdev))
	}
	file, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	c := m.content(n, m.fate(n))
	return errors.Join(c.writeTo(file), file.Truncate(c.size), file.Close())
}

// dress sets mode, owner, xattrs and mtime.
func (m *materializer) dress(to string, n *inode) error {
	mode, uid, gid, mtime := n.mode, n.uid, n.gid, int64(0)
	if n.id > 0 {
		mtime = m.log.Ops[n.born].Time
	}
	f := m.fate(n)
	xattrs := map[string][]byte{}
	for _, i := range pendingBetween(n.changes, 0, f.attr) {
		op := &m.log.Ops[i]
		switch op.Kind {
		case SetAttr:
			if op.Flags&setMode != 0 {
				mode = mode&unix.S_IFMT | op.Mode&0o7777
			}
			if op.Flags&setOwner != 0 {
				uid, gid = op.UID, op.GID
			}
			if op.Flags&setTime != 0 {
				mtime = op.Time
			}
		case SetXattr:
			xattrs[op.Name] = op.Data
		case RemoveXattr:
			delete(xattrs, op.Name)
		default:
			mtime = op.Time
		}
	}
	for name, value := range xattrs {
		if err := unix.Lsetxattr(to, name, value, 0); err != nil {
			return err
		}
	}
	if int(uid) != os.Geteuid() || int(gid) != os.Getegid() {
		if err := os.Lchown(to, int(uid), int(gid)); err != nil {
			return err
		}
	}
	if n.mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Chmod(to, mode&0o7777); err != nil {
			return err
		}
	}
	if n.isDir() {
		return nil // its own times change with its names
	}
	ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(mtime)}
	return unix.UtimesNanoAt(unix.AT_FDCWD, to, ts, unix.AT_SYMLINK_NOFOLLOW)
}

// Explain lists what the state lacks of the records, and where that is no
// prefix, which files are concerned.
func (s State) Explain() string {
	var b strings.Builder
	fmt.Fprintln(&b, s)
	for i := s.names; i < s.Cut; i++ {
		switch op := &s.log.Ops[i]; op.Kind {
		case Create, Mkdir, Symlink, Link, Unlink, Rmdir, Rename:
			fmt.Fprintf(&b, "  lost %d: %v\n", i, op)
		}
	}
	for _, n := range s.log.nodes {
		f := s.fate(n)
		pending := pendingBetween(n.changes, f.pins.content, s.Cut)
		if len(pending) == 0 {
			continue
		}
		created := "the root"
		if n.id > 0 {
			created = s.log.Ops[n.born].String()
		}
		fmt.Fprintf(&b, "  %s: data pinned at %d, sizes up to %d, attributes up to %d, blocks of %d\n",
			created, f.pins.content, f.meta, f.attr, f.block)
		for _, i := range pending {
			fmt.Fprintf(&b, "    open %d: %v\n", i, &s.log.Ops[i])
		}
	}
	return b.String()
}
