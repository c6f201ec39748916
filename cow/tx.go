// SPDX-License-Identifier: Apache-2.0

package cow

// A tx is one change: all that it puts becomes one frame of the journal and
// goes to the active delta, or nothing of it does. It lives under Upper.mu.
type tx struct {
	u    *Upper
	muts []mutation
}

// begin starts a change. The caller holds u.mu for writing until the change is
// committed or given up.
func (u *Upper) begin() *tx {
	u.tx = tx{u: u, muts: u.tx.muts[:0]}
	return &u.tx
}

// inode returns a copy of n's record to be changed and put, made from the
// tree if there is none yet. It sees what t has put. The error is ESTALE for
// a node that is gone.
func (t *tx) inode(n Node) (*inode, error) {
	for k := len(t.muts) - 1; k >= 0; k-- {
		if m := &t.muts[k]; m.kind == putInode && m.node == n {
			c := *m.inode
			return &c, nil
		}
	}
	return t.u.copyOf(n)
}

// put makes i the record of n. i is not to be written to afterwards.
func (t *tx) put(n Node, i *inode) {
	for k := range t.muts {
		if m := &t.muts[k]; m.kind == putInode && m.node == n {
			m.inode = i
			return
		}
	}
	t.muts = append(t.muts, mutation{kind: putInode, node: n, inode: i})
}

// drop says that no name leads to n any more and nobody can open it by one.
func (t *tx) drop(n Node) { t.muts = append(t.muts, mutation{kind: dropInode, node: n}) }

// link makes name in dir lead to n.
func (t *tx) link(dir Node, name string, n Node, typ uint8) {
	t.muts = append(t.muts, mutation{kind: putEntry, node: dir, name: name, entry: entry{n, typ}})
}

// unlink takes name out of dir.
func (t *tx) unlink(dir Node, name string) error {
	e := entry{}
	below, err := t.u.below(dir, name)
	if err != nil {
		return err
	}
	if below {
		e.typ = whiteout
	}
	t.muts = append(t.muts, mutation{kind: putEntry, node: dir, name: name, entry: e})
	return nil
}

func (t *tx) setXattr(n Node, name string, value []byte) {
	if value == nil {
		value = []byte{}
	}
	t.muts = append(t.muts, mutation{kind: putXattr, node: n, name: name, value: value})
}

func (t *tx) dropXattr(n Node, name string) {
	t.muts = append(t.muts, mutation{kind: dropXattr, node: n, name: name})
}

// blocks says that blocks of a mixed file are local.
func (t *tx) blocks(n Node, first, count uint64) {
	t.muts = append(t.muts, mutation{kind: putBlocks, node: n, first: first, count: count})
}

// barrier says that after a power loss the frame holds only if the data that n
// has now was on disk.
func (t *tx) barrier(n Node) { t.muts = append(t.muts, mutation{kind: barrier, node: n}) }

// commit writes the frame and applies it. On an error nothing has changed.
func (t *tx) commit() error { return t.u.append(t.muts) }
