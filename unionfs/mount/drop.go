// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"math/bits"
	"sync/atomic"

	"github.com/imgfs/imgfs/index"
)

// readNodes are the nodes that the kernel may hold pages of. A nil one keeps
// no account.
type readNodes []atomic.Uint64 // a bit a node

func newReadNodes(count uint32) readNodes { return make(readNodes, count/64+1) }

// add notes that node id is about to be read.
func (r readNodes) add(id index.NodeID) {
	if r == nil {
		return
	}
	// A bit that is there already is only looked at: reads of one file follow
	// each other closely.
	w, bit := &r[id/64], uint64(1)<<(id%64)
	if w.Load()&bit == 0 {
		w.Or(bit)
	}
}

// each calls f for each node that was read.
func (r readNodes) each(f func(index.NodeID)) {
	for i := range r {
		for w := r[i].Load(); w != 0; w &= w - 1 {
			f(index.NodeID(i*64 + bits.TrailingZeros64(w)))
		}
	}
}

// DropLayer has the kernel forget what it was given of the content of a
// layer's files, so that it asks again: the layer answers otherwise now. Only
// a mount with Options.Unverified can. It must not be called from within a
// read, for which it may wait.
func (s *Server) DropLayer(layer int) {
	s.what.read.each(func(id index.NodeID) {
		var n index.Node
		err := index.Guard(func() error { return s.what.fs.Tree.Node(id, &n) })
		if err != nil || n.Layer == layer {
			// Attributes go with the pages. An error says that the kernel
			// holds nothing of it, or that the mount is gone.
			s.fuse.InodeNotify(uint64(id), 0, -1)
		}
	})
}
