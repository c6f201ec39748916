// SPDX-License-Identifier: Apache-2.0

package crashfs

import (
	"fmt"
	"os"
	"sort"
	"sync"

	"golang.org/x/sys/unix"
)

// A Log is what a recorder recorded: a history, and with it all that a disk
// may have left of it. Its methods may be called by several at once.
type Log struct {
	Ops []Op // immutable

	ends   []int64 // of each record, in the log file
	nodes  []*inode
	target []int // per record: the node it is about, -1 = none

	mu sync.Mutex // guards synced and syncedTo of all nodes
}

// rootIno is the number go-fuse gives to the root.
const rootIno = 1

// An inode is a file or directory from its creation to its end, whatever
// number it had.
type inode struct {
	id   int
	born int    // its first record
	mode uint32 // with the type
	uid  uint32
	gid  uint32
	rdev uint64
	link string // a symlink's target

	changes []int // records about content and attributes, in order
	meta    []int // records that fsync of it makes durable with all names before
	data    []int // … fdatasync
	syncs   []int // Sync, SyncFailed and SyncFS

	// synced is its content after the records below syncedTo.
	synced   *content
	syncedTo int
}

func (n *inode) isDir() bool { return n.mode&unix.S_IFMT == unix.S_IFDIR }
func (n *inode) isReg() bool { return n.mode&unix.S_IFMT == unix.S_IFREG }

// ReadLog reads a log file.
func ReadLog(name string) (*Log, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	l := &Log{}
	for off := 0; off < len(b); {
		op, n, err := decodeOp(b[off:])
		if err != nil {
			return nil, fmt.Errorf("%s: record %d: %w", name, len(l.Ops), err)
		}
		off += n
		l.Ops = append(l.Ops, op)
		l.ends = append(l.ends, int64(off))
	}
	return l, l.index()
}

// Cut returns how many records there were when the log was pos bytes long.
func (l *Log) Cut(pos int64) int {
	return sort.Search(len(l.ends), func(i int) bool { return l.ends[i] > pos })
}

// Pos is how long the log was when it had cut records.
func (l *Log) Pos(cut int) int64 {
	if cut <= 0 {
		return 0
	}
	return l.ends[min(cut, len(l.ends))-1]
}

// index finds out which node each record is about.
func (l *Log) index() error {
	root := &inode{mode: unix.S_IFDIR | 0o755, synced: newContent()}
	l.nodes = []*inode{root}
	l.target = make([]int, len(l.Ops))
	live := map[uint64]*inode{rootIno: root}
	sizes := map[*inode]int64{}
	for i := range l.Ops {
		op := &l.Ops[i]
		l.target[i] = -1
		switch op.Kind {
		case Create, Mkdir, Symlink:
			live[op.Ino] = l.newInode(i)
		case SyncFS:
			for _, n := range l.nodes {
				n.syncs = append(n.syncs, i)
			}
			continue
		}
		for _, dir := range []uint64{op.Dir, op.Dir2} {
			if d := live[dir]; d != nil {
				d.meta = append(d.meta, i)
			} else if dir != 0 {
				return fmt.Errorf("record %d: %v: no such directory", i, op)
			}
		}
		n := live[op.Ino]
		if n == nil {
			return fmt.Errorf("record %d: %v: no such node", i, op)
		}
		l.target[i] = n.id
		switch op.Kind {
		case Link, Unlink, Rmdir, Rename:
			n.meta = append(n.meta, i)
		case Sync, SyncFailed:
			n.syncs = append(n.syncs, i)
		case SetAttr, SetXattr, RemoveXattr:
			n.changes = append(n.changes, i)
			n.meta = append(n.meta, i)
		case Write, Truncate, Fallocate:
			n.changes = append(n.changes, i)
			if size := op.sizeAfter(sizes[n]); size != sizes[n] || op.Kind == Fallocate {
				sizes[n] = size
				n.meta = append(n.meta, i)
				n.data = append(n.data, i)
			}
		}
	}
	return nil
}

func (l *Log) newInode(i int) *inode {
	op := &l.Ops[i]
	n := &inode{id: len(l.nodes), born: i, mode: op.Mode, uid: op.UID, gid: op.GID, rdev: uint64(op.Size), synced: newContent()}
	switch op.Kind {
	case Mkdir:
		n.mode |= unix.S_IFDIR
	case Symlink:
		n.mode, n.link = unix.S_IFLNK|0o777, string(op.Data)
	}
	n.meta, n.data = []int{i}, []int{i}
	l.nodes = append(l.nodes, n)
	return n
}

// sizeAfter returns a file's size after op.
func (op *Op) sizeAfter(size int64) int64 {
	switch {
	case op.Kind == Write:
		return max(size, op.Off+int64(len(op.Data)))
	case op.Kind == Truncate:
		return op.Size
	case op.Kind == Fallocate && op.Flags&unix.FALLOC_FL_KEEP_SIZE == 0:
		return max(size, op.Off+op.Size)
	}
	return size
}

// zeroed returns the range that op makes a hole, in a file of that size.
func (op *Op) zeroed(size int64) (lo, hi int64) {
	const end = 1<<63 - 1
	switch {
	case op.Kind == Truncate && op.Size < size:
		return op.Size, end
	case op.Kind == Fallocate && op.Flags&(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_ZERO_RANGE) != 0:
		return op.Off, op.Off + op.Size
	}
	return 0, 0
}

// below returns the last of sorted that is less than limit, or -1.
func below(sorted []int, limit int) int {
	if i := sort.SearchInts(sorted, limit); i > 0 {
		return sorted[i-1]
	}
	return -1
}

// pins are how much of a node a disk must have: records below these.
type pins struct {
	content int // data, size, holes
	attr    int // mode, owner, times, xattrs
}

// pinned returns what syncs that ended before cut made durable.
func (l *Log) pinned(n *inode, cut int) (p pins) {
	for _, s := range n.syncs {
		if s >= cut {
			break
		}
		op := &l.Ops[s]
		if op.Kind == SyncFailed {
			continue
		}
		p.content = max(p.content, int(op.Begin))
		if op.Kind == SyncFS || op.Flags == 0 {
			p.attr = max(p.attr, int(op.Begin))
		}
	}
	return p
}

// pinnedNames returns the record below which all changes of names are durable.
func (l *Log) pinnedNames(cut int) (pin int) {
	for i := range l.Ops[:cut] {
		op := &l.Ops[i]
		switch {
		case op.Kind == SyncFS:
			pin = max(pin, int(op.Begin))
		case op.Kind == Sync && op.Flags == 0:
			pin = max(pin, 1+below(l.nodes[l.target[i]].meta, int(op.Begin)))
		case op.Kind == Sync:
			pin = max(pin, 1+below(l.nodes[l.target[i]].data, int(op.Begin)))
		}
	}
	return pin
}

// doubtful returns the writes below the last failed sync before cut that no
// sync had covered before it: the kernel forgot that they were to be written.
func (l *Log) doubtful(n *inode, cut int) map[int]bool {
	var all map[int]bool
	covered := 0
	for _, s := range n.syncs {
		op := &l.Ops[s]
		if s >= cut {
			break
		}
		if op.Kind != SyncFailed {
			covered = max(covered, int(op.Begin))
			continue
		}
		for _, c := range n.changes {
			if c >= covered && c < s && l.Ops[c].Kind == Write {
				if all == nil {
					all = map[int]bool{}
				}
				all[c] = true
			}
		}
	}
	return all
}

// contentAt returns a copy of a node's content after the records below pin,
// which must not have a failed sync.
func (l *Log) contentAt(n *inode, pin int) *content {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n.syncedTo > pin {
		n.synced, n.syncedTo = newContent(), 0
	}
	for _, i := range n.changes {
		if i >= n.syncedTo && i < pin {
			n.synced.apply(&l.Ops[i])
		}
	}
	n.syncedTo = pin
	return n.synced.clone()
}

// apply does the whole of op.
func (c *content) apply(op *Op) {
	if lo, hi := op.zeroed(c.size); lo < hi {
		c.zero(lo, hi)
	}
	if op.Kind == Write {
		c.write(op.Data, op.Off, pageSize, func(int64) bool { return true })
	}
	c.size = op.sizeAfter(c.size)
}
