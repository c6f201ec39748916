// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"runtime/debug"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/imgfs/imgfs/index"
)

const (
	maxPrefetch     = 128 << 10 // bytes of a file: what the kernel asks for by one READ
	maxPrefetchRun  = 64        // files at a time
	maxPrefetchSum  = 1 << 20   // bytes at a time: somebody waits meanwhile
	nearby          = 16        // nodes between two files that are read one after the other, at most
	walksRemembered = 8         // programs that read files at the same time
)

// A prefetcher gives the kernel the content of small files that nobody has asked
// for yet: while a program reads file after file in the order in which they are
// listed, those that come next and lie in memory, decoded. They are in the page
// cache before the request that they come with is answered, so whoever asked
// finds them there. Nothing is decoded for it.
type prefetcher struct {
	t     *tree
	store func(node uint64, off int64, data []byte) fuse.Status

	mu    sync.Mutex // tried, never waited for: who gives may wait for a page that is being read
	walks [walksRemembered]walk
	buf   []byte
	room  int64 // bytes that may still be given
}

// A walk is what one thread reads.
type walk struct {
	pid  uint32
	last index.NodeID // read, or given, last
	run  int          // files to give at a time
}

func newPrefetcher(t *tree, store func(node uint64, off int64, data []byte) fuse.Status) *prefetcher {
	return &prefetcher{t: t, store: store, buf: make([]byte, maxPrefetch)}
}

// read is told that thread pid reads file id from its beginning.
func (p *prefetcher) read(pid uint32, id index.NodeID) {
	if !p.mu.TryLock() {
		return
	}
	defer p.mu.Unlock()
	var ignored fuse.Status // who asked has an answer
	defer p.t.caught(debug.SetPanicOnFault(true), "prefetch", uint64(id), &ignored)
	w := &p.walks[pid%walksRemembered]
	if w.pid != pid {
		*w = walk{pid: pid}
	}
	forwards := w.last != 0 && id > w.last && id-w.last <= nearby
	w.last = id
	if !forwards {
		w.run /= 2 // to another directory, maybe
		return
	}
	w.run, p.room = min(max(2*w.run, 2), maxPrefetchRun), maxPrefetchSum
	last := min(id+nearby, index.NodeID(p.t.t.Count()))
	for next, left := id+1, w.run; next <= last && left > 0; next++ {
		switch p.give(next) {
		case given:
			left--
			last = min(next+nearby, index.NodeID(p.t.t.Count()))
		case passedOver:
		default:
			return
		}
		w.last = next
	}
}

// listed is told that thread pid has seen all names of a directory.
func (p *prefetcher) listed(pid uint32, dir index.NodeID) {
	if !p.mu.TryLock() {
		return
	}
	defer p.mu.Unlock()
	var ignored fuse.Status
	defer p.t.caught(debug.SetPanicOnFault(true), "prefetch", uint64(dir), &ignored)
	w := &p.walks[pid%walksRemembered]
	if w.pid != pid || w.run < 2 {
		return
	}
	d, err := p.t.t.ReadDir(dir, 0)
	if err != nil {
		return
	}
	p.room = maxPrefetchSum
	for left := w.run; left > 0; left-- {
		e, ok, err := d.Next()
		if err != nil || !ok || p.t.child(e.ID) != nil {
			return
		}
		switch p.give(e.ID) {
		case given:
			w.last = e.ID
		case passedOver:
		default:
			return
		}
	}
}

type gift int

const (
	given      gift = iota
	passedOver      // it has no content that is read
	withheld
)

// give gives file id, whole.
func (p *prefetcher) give(id index.NodeID) gift {
	var n index.Node
	switch err := p.t.t.Node(id, &n); {
	case err != nil:
		return withheld
	case !n.IsRegular() || n.Size == 0:
		return passedOver
	case n.Size > min(maxPrefetch, p.room) || !p.t.fs.Cached(&n):
		return withheld
	}
	if got, err := p.t.fs.ReadAt(&n, p.buf[:n.Size], 0); int64(got) != n.Size || err != nil {
		return withheld // whoever asks for it is told
	}
	p.room -= n.Size
	if p.store(uint64(id), 0, p.buf[:n.Size]) != fuse.OK {
		return withheld // the kernel does not know it
	}
	return given
}
