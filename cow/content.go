// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/imgfs/imgfs/index"
)

// maxSize is the largest size of a file that is not local; of a local one the
// disk below has the say. It is ext4's.
const maxSize = 1<<44 - blockSize

// content is what is shared by all that have one regular file open, or change
// its content. Where bytes come from:
//
//	local             the data file, or the record where there is none
//	block in the map  the data file; behind its end zeros
//	below lower       the layer
//	else              zeros
//
// In the data file of a file that is not local, a block that is not in the map
// may hold anything (a change that failed, or that a loss of power took back),
// and so may all behind size (see stale).
type content struct {
	u    *Upper
	node Node

	// mu guards where bytes come from: a change of content holds it for
	// writing, a read for reading. See the package comment for the order.
	mu      sync.RWMutex
	low     index.Node // the layer's file; of a file that is not local immutable
	local   bool       // guarded by mu
	hasData bool       // there is a data file; guarded by mu
	size    int64      // unless local; guarded by mu
	lower   int64      // of a local file not 0: see cut; guarded by mu
	inline  string     // all of a local file without a data file; guarded by mu
	stale   bool       // the data file may have bytes behind size; guarded by mu
	gap     uint64     // every block below it is in the map; guarded by mu

	mapMu  sync.Mutex
	chunks map[uint64]*chunk // the map as far as it was asked for; guarded by mapMu
	// whole tells that chunks is all of the map, which the upper has no more;
	// guarded by mapMu.
	whole bool

	fdMu sync.RWMutex // innermost but for dataStore.mu
	fd   int          // of the data file, -1: not open; guarded by fdMu
	slot int          // guarded by dataStore.mu
	used atomic.Bool
	pins atomic.Int32 // whom the descriptor was promised to

	refs      int  // guarded by Upper.mu
	forgotten bool // Forget came while it was open; guarded by Upper.mu
}

// loadLocked sets what the record of the regular file c says, or the tree if
// there is none. Preconditions: u.mu is held.
func (u *Upper) loadLocked(c *content) error {
	n, low := c.node, &c.low
	i, err := u.known(n)
	if err != nil {
		return err
	}
	if i != nil && !i.isRegular() {
		return syscall.EINVAL
	}
	if n < FirstOwn && (i == nil || i.flags&flagLocal == 0) {
		if err := u.fs.Tree.Node(index.NodeID(n), low); err != nil {
			return &belowError{err}
		}
		if !low.IsRegular() {
			return syscall.EINVAL
		}
		if low.Size < 0 {
			return &belowError{index.ErrCorrupt}
		}
	}
	if i == nil {
		c.size, c.lower = low.Size, low.Size
		return nil
	}
	c.size, c.lower = i.size, i.lower
	c.local, c.hasData = i.flags&flagLocal != 0, i.flags&flagData != 0
	switch {
	case c.local && !c.hasData && i.size != int64(len(i.tail)):
		return fmt.Errorf("%w: file of size %d with %d bytes", ErrDamaged, i.size, len(i.tail))
	case c.local:
		c.inline = i.tail
	default:
		c.lower = min(c.lower, low.Size)
		c.stale = c.hasData
	}
	return nil
}

// acquire returns the content of the regular file n, ESTALE if that is gone.
// Each needs a release.
func (u *Upper) acquire(n Node) (*content, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.acquireLocked(n)
}

func (u *Upper) acquireLocked(n Node) (*content, error) {
	if c := u.files[n]; c != nil {
		c.refs++
		return c, nil
	}
	c := &content{u: u, node: n, fd: -1, refs: 1}
	if err := u.loadLocked(c); err != nil {
		return nil, err
	}
	u.files[n] = c
	return c, nil
}

// release gives back what acquire gave.
func (u *Upper) release(c *content) {
	u.mu.Lock()
	c.refs--
	last := c.refs == 0
	if last {
		u.restLocked(c)
	}
	u.mu.Unlock()
	if last {
		c.closeFD()
	}
}

// restLocked ends what nobody uses any more: an orphan that the kernel forgot,
// and c itself unless it has what is left of an orphan's map.
//
// Preconditions: u.mu is held for writing.
func (u *Upper) restLocked(c *content) {
	if c.forgotten {
		u.end(c.node)
	}
	c.mapMu.Lock()
	keep := c.whole && u.orphans[c.node] != nil
	c.mapMu.Unlock()
	if !keep {
		delete(u.files, c.node)
	}
}

// A put is a change of the record of a file.
type put struct {
	local, hasData bool
	size, lower    int64
	inline         string // all content, if it is local and has no data file
	first, count   uint64 // blocks that come into the map
	barrier        bool   // after a power loss it holds only with the data
	keepTimes      bool   // mtime and ctime are not set
}

// commit makes p the state of c, and sets mtime and ctime. On an error nothing
// has changed. Preconditions: c.mu is held for writing.
func (c *content) commit(p put) error {
	if err := c.record(p); err != nil {
		return err
	}
	c.local, c.hasData, c.size, c.lower, c.inline = p.local, p.hasData, p.size, p.lower, p.inline
	if p.local {
		c.dropMap()
	} else if p.count > 0 {
		c.addBlocks(p.first, p.count)
	}
	return nil
}

func (c *content) record(p put) (err error) {
	u, now := c.u, Now()
	u.mu.Lock()
	defer u.mu.Unlock()
	defer u.guard(&err)
	if err := u.mayChange(); err != nil {
		return err
	}
	if i := u.orphans[c.node]; i != nil {
		k := *i
		k.put(p, now)
		u.orphans[c.node] = &k
		if !c.hasData {
			c.emptyMap() // the upper keeps none of an orphan
		}
		return nil
	}
	if p.count == 0 && !p.barrier && p.hasData {
		// An overwrite: the clock is coarse, so one frame a tick will do.
		i, _, err := u.view.record(c.node)
		if err != nil {
			return err
		}
		if i != nil && i.mtime == now && i.ctime == now && i.size == p.size && i.lower == p.lower &&
			i.flags&contentFlags == p.flags() {
			return nil
		}
	}
	t := u.begin()
	i, err := t.inode(c.node)
	if err != nil {
		return err
	}
	i.put(p, now)
	t.put(c.node, i)
	if p.count > 0 {
		t.blocks(c.node, p.first, p.count)
	}
	if p.barrier {
		t.barrier(c.node)
	}
	return t.commit()
}

const contentFlags = flagData | flagLocal | flagMixed

func (p *put) flags() uint32 {
	switch {
	case p.local && p.hasData:
		return flagLocal | flagData
	case p.local:
		return flagLocal
	case p.hasData:
		return flagMixed | flagData
	}
	return 0
}

// put sets what p says.
func (i *inode) put(p put, now Time) {
	i.flags = i.flags&^contentFlags | p.flags()
	i.size, i.lower, i.tail = p.size, p.lower, p.inline
	if !p.keepTimes {
		i.mtime, i.ctime = now, now
	}
}

// state returns the put that changes nothing.
func (c *content) state() put {
	return put{local: c.local, hasData: c.hasData, size: c.size, lower: c.lower, inline: c.inline}
}

// buffers are for completing blocks and for copying small files.
var buffers = sync.Pool{New: func() any { return new([copyWhole]byte) }}
