// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"syscall"

	"github.com/imgfs/imgfs/index"
)

// ErrMoved marks a path that cannot be reset alone, since what the tree has
// there is at another path of the upper, or what is above it has changed.
var ErrMoved = errors.New("it, or something below it, was moved to another path: reset that one too")

// Reset makes the path at, and all below it, as it is in the tree; symlinks
// are not followed. The upper must not be mounted. The error is ErrMoved, or
// fs.ErrNotExist where neither the tree nor the upper has it.
func (u *Upper) Reset(at string) error {
	at = path.Clean("/" + at)
	if at == "/" {
		return fmt.Errorf("%w: the root is reset as a whole", fs.ErrInvalid)
	}
	dir, name := path.Split(at)
	up, err := u.resolve(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w: reset it", path.Clean(dir), err)
	}
	if err != nil {
		return err
	}
	low, err := u.treeNode(at)
	if err != nil {
		return err
	}
	lowUp, err := u.treeNode(dir)
	if err != nil {
		return err
	}
	if low != 0 && lowUp != up {
		return fmt.Errorf("%s: %w", path.Clean(dir), ErrMoved)
	}
	var a Attr
	found, err := u.Lookup(up, name, &a)
	if err == syscall.ENOTDIR || err == nil && !found && low == 0 {
		return fs.ErrNotExist
	}
	if err != nil {
		return err
	}
	if found {
		if err := u.removeAll(up, name, &a, 0); err != nil {
			return err
		}
	}
	if low == 0 {
		return nil
	}
	// What was dropped is out of the checkpoint then, and can be put anew.
	snap, err := u.Snapshot()
	if err != nil {
		return err
	}
	if err := snap.Close(); err != nil {
		return err
	}
	if err := u.free(low); err != nil {
		return err
	}
	return u.restore(up, name, low)
}

// resolve returns the node at a path of the merged tree.
func (u *Upper) resolve(at string) (Node, error) {
	n := RootNode
	for name := range strings.SplitSeq(at, "/") {
		if name == "" {
			continue
		}
		var a Attr
		found, err := u.Lookup(n, name, &a)
		if err == syscall.ENOTDIR || err == nil && !found {
			return 0, fs.ErrNotExist
		}
		if err != nil {
			return 0, err
		}
		n = a.Node
	}
	return n, nil
}

// treeNode returns the node at a path of the tree, 0 if there is none.
func (u *Upper) treeNode(at string) (Node, error) {
	id := index.NodeID(index.RootID)
	for name := range strings.SplitSeq(at, "/") {
		if name == "" {
			continue
		}
		next, _, err := u.fs.Tree.Lookup(id, name)
		if errors.Is(err, index.ErrNotDir) || err == nil && next == 0 {
			return 0, nil
		}
		if err != nil {
			return 0, err
		}
		id = next
	}
	return Node(id), nil
}

// removeAll removes name from dir and all below it.
func (u *Upper) removeAll(dir Node, name string, a *Attr, depth int) error {
	if depth > 16*maxWalkDepth {
		return fmt.Errorf("%w: directories %d deep", ErrDamaged, depth)
	}
	if a.Mode&index.ModeType != index.ModeDir {
		if err := u.Unlink(dir, name); err != nil {
			return err
		}
		u.Forget(a.Node)
		return nil
	}
	d, err := u.OpenDir(a.Node)
	if err != nil {
		return err
	}
	var names []string
	if err := d.Read(0, false, func(e *Dirent, _ *Attr) bool {
		names = append(names, strings.Clone(e.Name))
		return true
	}); err != nil {
		return err
	}
	for _, below := range names {
		var b Attr
		found, err := u.Lookup(a.Node, below, &b)
		if err == nil && found {
			err = u.removeAll(a.Node, below, &b, depth+1)
		}
		if err != nil {
			return err
		}
	}
	if err := u.Rmdir(dir, name); err != nil {
		return err
	}
	u.Forget(a.Node)
	return nil
}

// free makes sure that no directory of the tree from n on down is in use at
// another path.
func (u *Upper) free(n Node) error {
	var t index.Node
	if err := u.fs.Tree.Node(index.NodeID(n), &t); err != nil {
		return err
	}
	u.mu.RLock()
	rec, gone, err := u.record(n)
	u.mu.RUnlock()
	if err != nil {
		return err
	}
	inUse := rec != nil && !gone && rec.nlink > 0
	if !t.IsDir() {
		if inUse && t.Nlink == 1 {
			return ErrMoved
		}
		return nil
	}
	if inUse {
		return ErrMoved
	}
	d, err := u.fs.Tree.ReadDir(index.NodeID(n), 0)
	if err != nil {
		return err
	}
	for {
		e, ok, err := d.Next()
		if err != nil || !ok {
			return err
		}
		if err := u.free(Node(e.ID)); err != nil {
			return err
		}
	}
}

// restore puts n, which the tree has at that place, back as name into dir, and
// all below it.
func (u *Upper) restore(dir Node, name string, n Node) error {
	isDir, err := u.restoreOne(dir, name, n)
	if err != nil || !isDir {
		return err
	}
	d, err := u.fs.Tree.ReadDir(index.NodeID(n), 0)
	if err != nil {
		return err
	}
	for {
		e, ok, err := d.Next()
		if err != nil || !ok {
			return err
		}
		if err := u.restore(n, string(e.Name), Node(e.ID)); err != nil {
			return err
		}
	}
}

func (u *Upper) restoreOne(dir Node, name string, n Node) (isDir bool, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	defer u.guard(&err)
	t := u.begin()
	up, err := t.inode(dir)
	if err != nil {
		return false, err
	}
	i, err := u.fromTree(n)
	if err != nil {
		return false, err
	}
	old, _, err := u.record(n)
	if err != nil {
		return false, err
	}
	var data bool
	switch {
	case i.isDir():
		i.size, i.nlink, i.parent = 0, 2, dir // its names come one by one
	case old == nil:
		i.nlink = 1
	default:
		i.nlink = old.nlink + 1
		data = old.flags&flagData != 0
		if old.flags&flagXattrs != 0 {
			if err := u.eachXattr(n, func(name string, _ []byte) bool {
				t.dropXattr(n, name)
				return true
			}); err != nil {
				return false, err
			}
		}
	}
	up.size++
	if i.isDir() {
		up.nlink++
	}
	t.put(dir, up)
	t.put(n, i)
	t.link(dir, name, n, i.dt())
	if err := t.commit(); err != nil {
		return false, err
	}
	if data {
		u.doom(n, u.seq)
	}
	return i.isDir(), nil
}
