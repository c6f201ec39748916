// SPDX-License-Identifier: Apache-2.0

package mount

import "github.com/imgfs/imgfs/cow"

// Where nothing is passed through, OPEN is answered once: never ask again. The
// kernel then reads and writes files by their nodes and does not say when it is
// done, so the files that it used last stay open for a while.

// maxRecent is how many.
const maxRecent = 128

// recentFiles holds a reference to each of its files. It replaces by the clock:
// one that was used since the hand last came by stays.
type recentFiles struct {
	files [maxRecent]*openFile // guarded by fileTable.mu, as all of it
	hand  int
}

// use returns the open file of n with one more reference, which makes it
// recent.
func (t *fileTable) use(v *top, n cow.Node) *openFile {
	t.mu.Lock()
	o := t.takeLocked(n)
	var old *openFile
	o.used = true
	if !o.recent {
		old = t.replaceLocked(o)
	}
	t.mu.Unlock()
	if old != nil {
		old.close(v)
	}
	return o
}

// replaceLocked makes o recent, and returns the file that is to be closed for
// it.
func (t *fileTable) replaceLocked(o *openFile) *openFile {
	r := &t.recent
	for r.files[r.hand] != nil && r.files[r.hand].used {
		r.files[r.hand].used = false
		r.hand = (r.hand + 1) % maxRecent
	}
	old := r.files[r.hand]
	r.files[r.hand] = o
	r.hand = (r.hand + 1) % maxRecent
	o.recent = true
	o.refs++
	if old == nil {
		return nil
	}
	old.recent = false
	if old.refs--; old.refs > 0 {
		return nil
	}
	t.removeLocked(old)
	return old
}

// drop closes n if it is only recent: nobody can use it any more.
func (t *fileTable) drop(v *top, n cow.Node) {
	t.mu.Lock()
	o := t.nodes[n]
	last := false
	if o != nil && o.recent {
		for i, f := range t.recent.files {
			if f == o {
				t.recent.files[i] = nil
			}
		}
		o.recent = false
		o.refs--
		if last = o.refs == 0; last {
			t.removeLocked(o)
		}
	}
	t.mu.Unlock()
	if last {
		o.close(v)
	}
}
