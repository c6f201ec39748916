// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"runtime/debug"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/imgfs/imgfs/cow"
)

// forgets are nodes without a name that the kernel may hold no longer. How
// often it was told of a node is not counted, which would take memory for each
// file a mount has shown; instead it is asked whether it holds this one. That
// cannot be done while FORGET is served: until then no other reader may be
// there to serve what the kernel waits for.
type forgets struct {
	mu   sync.Mutex
	todo []cow.Node // guarded by mu
	over bool       // guarded by mu
	some sync.Cond
	done chan struct{}
}

func (f *forgets) start(v *top) {
	f.some.L = &f.mu
	f.done = make(chan struct{})
	go func() {
		defer close(f.done)
		for todo := f.wait(nil); todo != nil; todo = f.wait(todo) {
			for _, n := range todo {
				v.forgotten(n)
			}
		}
	}()
}

// wait returns what is to be done, nil at the end. It takes what was done to
// use its memory again.
func (f *forgets) wait(done []cow.Node) []cow.Node {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.todo) == 0 {
		if f.over {
			return nil
		}
		f.some.Wait()
	}
	todo := f.todo
	f.todo = done[:0]
	return todo
}

func (f *forgets) add(n cow.Node) {
	f.mu.Lock()
	f.todo = append(f.todo, n)
	f.mu.Unlock()
	f.some.Signal()
}

// stop returns when all is done. Preconditions: no FORGET comes any more.
func (f *forgets) stop() {
	f.mu.Lock()
	f.over = true
	f.mu.Unlock()
	f.some.Signal()
	<-f.done
}

// Forget tells that the kernel holds a node no longer. That matters for one
// without a name only.
func (v *top) Forget(node, _ uint64) {
	var status fuse.Status
	defer v.caught(debug.SetPanicOnFault(true), "forget", node, &status)
	var a cow.Attr
	if err := v.u.Attr(cow.Node(node), &a); err == nil && a.Nlink == 0 {
		v.forgets.add(cow.Node(node))
	}
}

// forgotten ends a node without a name, unless the kernel holds it again: this
// FORGET was an old one then, and another one will come.
func (v *top) forgotten(n cow.Node) {
	var status fuse.Status
	defer v.caught(debug.SetPanicOnFault(true), "forget", uint64(n), &status)
	if v.kernel.InodeNotify(uint64(n), attributesOnly, 0) != fuse.OK {
		v.files.drop(v, n)
		v.u.Forget(n)
	}
}

// attributesOnly, as an InodeNotify's offset, leaves pages alone.
const attributesOnly = -1
