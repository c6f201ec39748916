// SPDX-License-Identifier: Apache-2.0

package cow

import "sync/atomic"

// An inode without a name lives in memory alone, in Upper.orphans, until the
// kernel has forgotten it and nobody has it open: one whose last name went, or
// one made without a name (O_TMPFILE). The journal says of the former that it
// was dropped and of the latter nothing.

// loose is what orphans have besides their records. It is guarded by Upper.mu.
type loose struct {
	xattrs map[Node]map[string][]byte // of those with flagXattrs
	tmp    map[Node]struct{}          // made without a name: they may get one
	some   atomic.Bool                // there may be orphans; read without Upper.mu
}

func (l *loose) setXattrs(n Node, values map[string][]byte) {
	if l.xattrs == nil {
		l.xattrs = make(map[Node]map[string][]byte)
	}
	l.xattrs[n] = values
}

// gone is an inode that loses its last name by a change.
type gone struct {
	u      *Upper
	n      Node
	i      *inode // nil: none
	xattrs map[string][]byte
}

// lose takes one name from n, of a directory the only one. done is called on
// what it returns when the change is committed.
func (u *Upper) lose(t *tx, n Node, i *inode, now Time) (gone, error) {
	i.ctime = now
	if i.isDir() || i.nlink <= 1 {
		i.nlink = 0
	} else {
		i.nlink--
	}
	if i.nlink > 0 {
		t.put(n, i)
		return gone{}, nil
	}
	g := gone{u: u, n: n, i: i}
	if i.flags&flagXattrs != 0 {
		g.xattrs = make(map[string][]byte)
		err := u.eachXattr(n, func(name string, value []byte) bool {
			g.xattrs[name] = append([]byte{}, value...)
			return true
		})
		if err != nil {
			return gone{}, err
		}
	}
	if err := u.keepMap(n, i); err != nil {
		return gone{}, err
	}
	t.drop(n)
	return g, nil
}

// done makes an orphan of what is gone.
func (g *gone) done() {
	if g.i == nil {
		return
	}
	g.u.orphans[g.n] = g.i
	g.u.loose.some.Store(true)
	if g.xattrs != nil {
		g.u.loose.setXattrs(g.n, g.xattrs)
	}
}

// store makes i the record of n, and what t puts of n's xattrs holds: by a frame
// of the journal or, for an orphan, in memory.
func (u *Upper) store(t *tx, n Node, i *inode) error {
	if u.orphans[n] == nil {
		t.put(n, i)
		return t.commit()
	}
	if err := u.mayChange(); err != nil {
		return err
	}
	u.orphans[n] = i
	if i.flags&flagXattrs == 0 {
		return nil
	}
	values := u.loose.xattrs[n]
	if values == nil {
		values = make(map[string][]byte)
		u.loose.setXattrs(n, values)
	}
	for k := range t.muts {
		switch m := &t.muts[k]; m.kind {
		case putXattr:
			values[m.name] = m.value
		case dropXattr:
			delete(values, m.name)
		}
	}
	return nil
}

// unnamed makes an orphan of a new inode that gets no name yet.
func (u *Upper) unnamed(n Node, i *inode) {
	if u.loose.tmp == nil {
		u.loose.tmp = make(map[Node]struct{})
	}
	u.loose.tmp[n] = struct{}{}
	u.loose.some.Store(true)
	u.orphans[n] = i
}

// named makes an inode of what was made without a name and got one.
func (u *Upper) named(n Node) {
	delete(u.orphans, n)
	delete(u.loose.tmp, n)
	delete(u.loose.xattrs, n)
}

// Forget tells that the kernel holds n no longer. A node that has no name and
// is not open ends with it.
func (u *Upper) Forget(n Node) {
	if !u.loose.some.Load() {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.orphans[n] == nil {
		return
	}
	if c := u.files[n]; c != nil && c.refs > 0 {
		c.forgotten = true
		return
	}
	u.end(n)
}

// end ends an orphan that nobody can reach any more, its data too.
//
// Preconditions: u.mu is held for writing.
func (u *Upper) end(n Node) {
	i := u.orphans[n]
	if i == nil {
		return
	}
	if i.flags&flagData != 0 {
		u.doom(n, u.seq)
	}
	if c := u.files[n]; c != nil && c.refs == 0 {
		delete(u.files, n) // it had what was left of the map
	}
	u.named(n)
	u.loose.some.Store(len(u.orphans) > 0)
}
