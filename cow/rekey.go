// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	bolt "go.etcd.io/bbolt"

	"github.com/imgfs/imgfs/index"
)

// The numbers of a tree change when a rule of stacking or of reading tars does.
// Records of its inodes then get new numbers through their origins. It is done
// in these steps; what ends between two of them is done again, or finished, by
// the next Open:
//
//	fold the journal into the checkpoint, under the old numbers
//	write the file "rekey"
//	give data files second names: their new numbers, and ".rekey"
//	write a new checkpoint, give it the name of the old one
//	give data files their new names for good
//	remove the file "rekey"
const (
	rekeyName   = "rekey"
	rekeySuffix = ".rekey"
)

// keyedTree returns the identity of the tree whose numbers the upper uses.
func (u *Upper) keyedTree() (id256, error) {
	if u.folded != nil {
		return u.folded.meta.tree, nil
	}
	var id id256
	if !fromHex(id[:], u.info.Tree) {
		return id, fmt.Errorf("%w: identity of the tree", ErrDamaged)
	}
	return id, nil
}

// rekey gives records of the tree's inodes the numbers that they have now.
// Nothing else uses u yet.
func (u *Upper) rekey() error {
	var now id256
	if !fromHex(now[:], u.fs.Tree.Meta().Identity) {
		return fmt.Errorf("%w: the tree's table has no identity", index.ErrCorrupt)
	}
	if err := u.finishRekey(); err != nil {
		return err
	}
	if u.journal.tree != now {
		u.logf("the numbers of the tree have changed: records get new ones")
		if err := u.foldAll(); err != nil {
			return err
		}
		u.journal.tree = now
		if u.folded != nil {
			if err := u.rekeyStore(now); err != nil {
				return err
			}
		}
	}
	if text := hex.EncodeToString(now[:]); u.info.Tree != text {
		u.info.Tree = text
		return writeInfo(u.dir, &u.info)
	}
	return nil
}

// foldAll brings what was replayed into the checkpoint and removes the journal.
func (u *Upper) foldAll() error {
	j := u.journal
	if !j.used() {
		return nil
	}
	if err := j.sync(j.last()); err != nil {
		return err
	}
	if u.folded == nil {
		s, err := openStore(filepath.Join(u.dir, checkpointName), 0, j.tree, u.next)
		if err != nil {
			return err
		}
		s.marks.all()
		u.folded = s
	}
	err := u.folded.fold(u.active, j.last(), u.next, u.hashName, func() error { return nil })
	if err != nil {
		return err
	}
	u.active = newDelta()
	return j.close(true)
}

// rekeyStore replaces the checkpoint by one with new numbers.
func (u *Upper) rekeyStore(now id256) error {
	old, err := u.folded.checkpoint()
	if err != nil {
		return err
	}
	defer func() { old.close() }()
	r := &rekeyer{u: u, old: old, numbers: map[Node]Node{RootNode: RootNode}}
	if err := r.match(); err != nil {
		return err
	}
	if err := u.linkData(r, now); err != nil {
		return err
	}
	path := filepath.Join(u.dir, checkpointName)
	fresh := path + rekeySuffix
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s, err := openStore(fresh, u.fs.Tree.Count(), now, u.folded.meta.next)
	if err != nil {
		return err
	}
	if err := errors.Join(r.write(s), s.close()); err != nil {
		return err
	}
	old.close()
	u.cp.close()
	u.cp = nil
	if err := u.folded.close(); err != nil {
		return err
	}
	if err := errors.Join(os.Rename(fresh, path), syncDir(u.dir)); err != nil {
		return err
	}
	if u.folded, err = openStore(path, u.fs.Tree.Count(), now, 0); err != nil {
		return err
	}
	if u.cp, err = u.folded.checkpoint(); err != nil {
		return err
	}
	return u.finishRekey()
}

// A rekeyer knows the new numbers of the tree's inodes that have records.
type rekeyer struct {
	u       *Upper
	old     *checkpoint
	numbers map[Node]Node
	data    []Node // those of them with data files, old numbers
}

// match finds the inodes of the tree by their origins.
func (r *rekeyer) match() error {
	want := make(map[origin]Node)
	err := r.old.eachInode(func(n Node, i *inode) bool {
		if n < FirstOwn {
			if n != RootNode {
				want[i.origin] = n
			}
			if i.flags&flagData != 0 {
				r.data = append(r.data, n)
			}
		}
		return true
	})
	if err != nil {
		return err
	}
	tree := r.u.fs.Tree
	left := len(want)
	var n index.Node
	for id := index.NodeID(RootNode + 1); left > 0 && uint32(id) <= tree.Count(); id++ {
		if err := tree.Node(id, &n); err != nil {
			return err
		}
		o := origin{layer: uint32(n.Layer), header: n.Header}
		if n.IsDir() && n.Flags&index.FlagImplied != 0 {
			if o.depth, err = r.u.treeDepth(Node(id)); err != nil {
				return err
			}
		}
		if old, ok := want[o]; ok {
			r.numbers[old] = Node(id)
			delete(want, o)
			left--
		}
	}
	for o := range want {
		return fmt.Errorf("%w: nothing comes from layer %d at offset %d of its tar any more, which the upper changes", ErrOtherTree, o.layer+1, o.header)
	}
	return nil
}

// number returns the new number of n.
func (r *rekeyer) number(n Node) (Node, error) {
	if n >= FirstOwn {
		return n, nil
	}
	if k, ok := r.numbers[n]; ok {
		return k, nil
	}
	return 0, fmt.Errorf("%w: node %d of the tree has no record", ErrDamaged, n)
}

// write writes all of the old checkpoint to s, under new numbers.
func (r *rekeyer) write(s *store) error {
	w := &folder{s: s, each: func() error { return nil }, said: s.meta}
	defer func() {
		if w.tx != nil {
			guarded(func() error { return w.tx.Rollback() })
		}
	}()
	return guarded(func() error {
		if err := w.begin(); err != nil {
			return err
		}
		if err := r.writeInodes(w); err != nil {
			return err
		}
		for _, b := range []struct {
			from *bucket
			to   func() *bolt.Bucket
		}{{&r.old.dirs, w.entryBucket}, {&r.old.xattrs, w.xattrBucket}, {&r.old.blocks, w.chunkBucket}} {
			if err := r.writeBucket(w, b.from, b.to); err != nil {
				return err
			}
		}
		w.said.seq = r.old.meta.seq
		return w.commit()
	})
}

func (r *rekeyer) writeInodes(w *folder) error {
	var bad error
	err := r.old.eachInode(func(n Node, i *inode) bool {
		bad = r.writeInode(w, n, i)
		return bad == nil
	})
	return errors.Join(err, bad)
}

func (r *rekeyer) writeInode(w *folder, n Node, i *inode) error {
	to, err := r.number(n)
	if err != nil {
		return err
	}
	if i.isDir() {
		if err := r.directory(n, to, i); err != nil {
			return err
		}
	}
	return w.putInode(to, i)
}

// directory brings what the record of a directory says of its surroundings to
// what the new tree has there.
func (r *rekeyer) directory(n, to Node, i *inode) error {
	tree := r.u.fs.Tree
	if p, err := r.number(i.parent); err == nil {
		i.parent = p
	} else {
		var t index.Node
		if err := tree.Node(index.NodeID(to), &t); err != nil {
			return err
		}
		i.parent = Node(t.Parent)
	}
	if n >= FirstOwn {
		return nil
	}
	i.size, i.nlink = 0, 2
	count := func(dt uint8) {
		i.size++
		if dt == index.ModeDir>>12 {
			i.nlink++
		}
	}
	names := make(map[string]struct{})
	err := r.old.entries(n, 0, func(_ uint64, name string, e entry) bool {
		names[name] = struct{}{}
		if e.node != 0 {
			count(e.typ)
		}
		return true
	})
	if err != nil {
		return err
	}
	d, err := tree.ReadDir(index.NodeID(to), 0)
	for {
		e, ok, nerr := d.Next()
		if err = errors.Join(err, nerr); err != nil || !ok {
			return err
		}
		if _, over := names[string(e.Name)]; !over {
			count(e.Type)
		}
	}
}

// writeBucket copies pairs whose keys begin with a node.
func (r *rekeyer) writeBucket(w *folder, from *bucket, to func() *bolt.Bucket) error {
	var bad error
	entries := from == &r.old.dirs
	err := from.each(nil, 0, func(k, v []byte) bool {
		if len(k) < 8 {
			bad = fmt.Errorf("%w: key of %d bytes", ErrDamaged, len(k))
			return false
		}
		var n Node
		if n, bad = r.number(Node(binary.BigEndian.Uint64(k))); bad != nil {
			return false
		}
		w.key = append(nodeKey(w.key[:0], n), k[8:]...)
		value := append(newValue(len(v)), v...)
		if entries {
			var e entry
			if e, bad = decodeEntry(v); bad != nil {
				return false
			}
			if e.node != 0 {
				if n, bad = r.number(e.node); bad != nil {
					return false
				}
				le.PutUint64(value, uint64(n))
			}
		}
		bad = w.put(to, value)
		return bad == nil
	})
	return errors.Join(err, bad)
}

// linkData gives the data files of the tree's inodes second names.
func (u *Upper) linkData(r *rekeyer, now id256) error {
	if len(r.data) == 0 {
		return nil
	}
	marker := filepath.Join(u.dir, rekeyName)
	if err := os.WriteFile(marker, []byte(hex.EncodeToString(now[:])), 0o600); err != nil {
		return err
	}
	if err := errors.Join(syncPath(marker), syncDir(u.dir)); err != nil {
		return err
	}
	data := filepath.Join(u.dir, dataDirName)
	dirs := map[string]struct{}{data: {}}
	for _, n := range r.data {
		to := filepath.Join(data, dataName(r.numbers[n])+rekeySuffix)
		dirs[filepath.Dir(to)] = struct{}{}
		if err := os.Mkdir(filepath.Dir(to), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		err := os.Link(filepath.Join(data, dataName(n)), to)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for dir := range dirs {
		if err := syncDir(dir); err != nil {
			return err
		}
	}
	return nil
}

// finishRekey gives data files the names that the checkpoint knows them by: the
// new ones if it has the new numbers, else the second names go.
func (u *Upper) finishRekey() error {
	marker := filepath.Join(u.dir, rekeyName)
	text, err := os.ReadFile(marker)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	done := u.folded != nil && hex.EncodeToString(u.folded.meta.tree[:]) == string(text)
	dirs := map[string]struct{}{}
	err = filepath.WalkDir(filepath.Join(u.dir, dataDirName), func(path string, e fs.DirEntry, err error) error {
		name, second := strings.CutSuffix(path, rekeySuffix)
		if err != nil || e.IsDir() || !second {
			return err
		}
		dirs[filepath.Dir(path)] = struct{}{}
		if done {
			return os.Rename(path, name)
		}
		return os.Remove(path)
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for dir := range dirs {
		if err := syncDir(dir); err != nil {
			return err
		}
	}
	u.unswept = true // the old names
	return errors.Join(os.Remove(marker), syncDir(u.dir))
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
