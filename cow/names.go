// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"fmt"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs/index"
)

// A Caller is who asks for a change.
type Caller struct{ UID, GID uint32 }

// A Creation says what is made. The mode has the file type; the umask holds
// unless the directory has a default ACL.
type Creation struct {
	Mode, Umask uint32
	Rdev        uint32
	Target      string // of a symlink
	Small       bool   // a file that is likely to stay small: it gets a data file only at need
}

// checkName refuses what cannot be a name. The kernel sends no such ones but
// for those too long.
func checkName(name string) error {
	switch {
	case len(name) > maxName:
		return syscall.ENAMETOOLONG
	case name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00"):
		return syscall.EINVAL
	}
	return nil
}

// child returns what name leads to in dir, whose record, if it has one, is i;
// node 0: nothing.
//
// Preconditions: u.mu is held.
func (u *Upper) child(dir Node, i *inode, name string) (entry, error) {
	if i != nil {
		if !i.isDir() {
			return entry{}, syscall.ENOTDIR
		}
		if i.nlink == 0 {
			return entry{}, nil // removed: what the tree had there is gone with it
		}
		e, ok, err := u.entry(dir, name)
		if err != nil || ok {
			if e.node == 0 {
				e = entry{}
			}
			return e, err
		}
		if dir >= FirstOwn {
			return entry{}, nil
		}
	}
	id, typ, err := u.fs.Tree.Lookup(index.NodeID(dir), name)
	if err != nil {
		if err == index.ErrNotDir {
			err = syscall.ENOTDIR
		}
		return entry{}, err
	}
	if id == 0 {
		return entry{}, nil
	}
	return entry{Node(id), typ}, u.checkTreeNode(Node(id))
}

// checkTreeNode refuses a number that a damaged tree made up: the root is
// nobody's child.
func (u *Upper) checkTreeNode(n Node) error {
	if n <= RootNode || uint64(n) > uint64(u.fs.Tree.Count()) {
		return fmt.Errorf("%w: entry of node %d", index.ErrCorrupt, n)
	}
	return nil
}

// Lookup finds name in dir and fills a. A name that is not there is found =
// false and no error.
func (u *Upper) Lookup(dir Node, name string, a *Attr) (found bool, err error) {
	if len(name) > maxName {
		return false, syscall.ENAMETOOLONG
	}
	n, rest, err := u.lookupRLocked(dir, name, a)
	if err != nil || n == 0 {
		return false, err
	}
	err = u.stat(n, a, rest)
	return err == nil, err
}

func (u *Upper) lookupRLocked(dir Node, name string, a *Attr) (n Node, r rest, err error) {
	u.mu.RLock()
	defer u.mu.RUnlock()
	i, err := u.knownHead(dir)
	if err != nil {
		return 0, restNone, err
	}
	e, err := u.child(dir, i, name)
	if err != nil || e.node == 0 {
		return 0, restNone, err
	}
	r, err = u.attr(e.node, a)
	return e.node, r, err
}

// Readlink returns a symlink's target, EINVAL for what is none.
func (u *Upper) Readlink(n Node) ([]byte, error) {
	u.mu.RLock()
	defer u.mu.RUnlock()
	i, err := u.known(n)
	if err != nil {
		return nil, err
	}
	if i != nil && n >= FirstOwn {
		if i.typ() != index.ModeSymlink {
			return nil, syscall.EINVAL
		}
		return []byte(i.tail), nil
	}
	var t index.Node
	if err := u.fs.Tree.Node(index.NodeID(n), &t); err != nil {
		return nil, err
	}
	if t.Type() != index.ModeSymlink {
		return nil, syscall.EINVAL
	}
	target, err := u.fs.Tree.Target(&t)
	if err != nil {
		return nil, err
	}
	if len(target) > maxTarget {
		return nil, syscall.ENAMETOOLONG
	}
	return append([]byte(nil), target...), nil
}

// dirToChange returns a copy of the record of a directory that names are to be
// put into or taken from.
func (t *tx) dirToChange(n Node) (*inode, error) {
	i, err := t.inode(n)
	switch {
	case err != nil:
		return nil, err
	case !i.isDir():
		return nil, syscall.ENOTDIR
	case i.nlink == 0:
		return nil, syscall.ENOENT
	}
	return i, nil
}

// changed stamps a directory whose names changed, by how many it has more and
// how many of them are directories.
func (i *inode) changed(names int64, dirs int, now Time) error {
	if dirs > 0 && i.nlink >= maxLinks-1 {
		return syscall.EMLINK
	}
	i.size += names
	i.nlink += uint32(dirs)
	i.mtime, i.ctime = now, now
	return nil
}

// Create makes a file of any type but an open regular one (see CreateFile).
func (u *Upper) Create(c Caller, dir Node, name string, k Creation, a *Attr) (err error) {
	if err := checkName(name); err != nil {
		return err
	}
	if err := k.check(); err != nil {
		return err
	}
	u.room()
	u.mu.Lock()
	defer u.mu.Unlock()
	defer u.guard(&err)
	return u.create(c, dir, name, k, 0, 0, a)
}

// check refuses what cannot be made.
func (k *Creation) check() error {
	switch k.Mode & index.ModeType {
	case 0:
		k.Mode |= index.ModeRegular
	case index.ModeRegular, index.ModeDir, index.ModeFIFO, index.ModeSocket:
	case index.ModeChar, index.ModeBlock:
		return nil
	case index.ModeSymlink:
		if k.Target == "" {
			return syscall.ENOENT
		}
		if len(k.Target) > maxTarget {
			return syscall.ENAMETOOLONG
		}
	default:
		return syscall.EINVAL
	}
	k.Rdev = 0
	return nil
}

// create puts a new inode into dir: n, or the next one if that is 0.
//
// Preconditions: u.mu is held for writing.
func (u *Upper) create(c Caller, dir Node, name string, k Creation, n Node, flags uint32, a *Attr) error {
	t := u.begin()
	p, err := t.dirToChange(dir)
	if err != nil {
		return err
	}
	if e, err := u.child(dir, p, name); err != nil {
		return err
	} else if e.node != 0 {
		return syscall.EEXIST
	}
	if n == 0 {
		if n, err = u.newNode(); err != nil {
			return err
		}
	}
	i, err := u.newInode(t, c, dir, p, k, n)
	if err != nil {
		return err
	}
	i.flags |= flags
	dirs := 0
	if i.isDir() {
		dirs = 1
	}
	if err := p.changed(1, dirs, i.ctime); err != nil {
		return err
	}
	t.put(n, i)
	t.put(dir, p)
	t.link(dir, name, n, i.dt())
	if err := t.commit(); err != nil {
		return err
	}
	return u.fill(n, i, a)
}

// newInode makes the record of a new inode in dir, whose record is p, and puts
// the ACLs that it inherits (inode_init_owner of Linux).
func (u *Upper) newInode(t *tx, c Caller, dir Node, p *inode, k Creation, n Node) (*inode, error) {
	now := Now()
	i := &inode{
		mode: k.Mode & (index.ModeType | modeBits), nlink: 1,
		uid: c.UID, gid: c.GID, rdev: k.Rdev,
		atime: now, mtime: now, ctime: now, btime: now,
	}
	if p.mode&setGID != 0 {
		i.gid = p.gid
	}
	switch i.typ() {
	case index.ModeRegular:
		i.flags = flagLocal
	case index.ModeDir:
		i.nlink, i.parent = 2, dir
		i.mode |= p.mode & setGID
	case index.ModeSymlink:
		i.mode = index.ModeSymlink | 0o777
		i.tail, i.size = k.Target, int64(len(k.Target))
	}
	return i, u.inherit(t, dir, p, n, i, k.Umask)
}

// SetPassthrough is Options.Passthrough for who knows it only after Open. It is
// called before anything is made.
func (u *Upper) SetPassthrough(on bool) { u.opt.Passthrough = on }

// CreateFile makes a regular file and opens it for writing. An empty name
// makes one without a name (O_TMPFILE).
func (u *Upper) CreateFile(c Caller, dir Node, name string, k Creation, a *Attr) (*File, error) {
	if name != "" {
		if err := checkName(name); err != nil {
			return nil, err
		}
	}
	k.Mode = index.ModeRegular | k.Mode&modeBits
	if err := k.check(); err != nil {
		return nil, err
	}
	u.room()
	n, flags := Node(0), uint32(0)
	if u.opt.Passthrough && !k.Small {
		var err error
		if n, err = u.newFile(dir, name); err != nil {
			return nil, err
		}
		flags = flagData
	}
	if err := u.createFile(c, dir, name, k, n, flags, a); err != nil {
		return nil, err
	}
	if flags&flagData != 0 {
		if err := u.statData(a.Node, a); err != nil {
			return nil, err
		}
	}
	return u.Open(a.Node, true)
}

// newFile makes the data file of a file that is to be made in dir, if it can
// be, and returns its number.
func (u *Upper) newFile(dir Node, name string) (Node, error) {
	n, err := u.reserveFile(dir, name)
	if err != nil {
		return 0, err
	}
	return n, u.createData(n)
}

// reserveFile returns the number of a file to be made in dir, if it can be.
func (u *Upper) reserveFile(dir Node, name string) (n Node, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	defer u.guard(&err)
	if err := u.mayChange(); err != nil {
		return 0, err
	}
	i, err := u.known(dir)
	if err != nil {
		return 0, err
	}
	if name != "" {
		if e, err := u.child(dir, i, name); err != nil {
			return 0, err
		} else if e.node != 0 {
			return 0, syscall.EEXIST
		}
	}
	return u.newNode()
}

// createFile makes the regular file n, or the next one if that is 0.
func (u *Upper) createFile(c Caller, dir Node, name string, k Creation, n Node, flags uint32, a *Attr) (err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	defer func() {
		if err != nil && flags&flagData != 0 {
			u.doom(n, u.seq)
		}
	}()
	defer u.guard(&err)
	if name != "" {
		return u.create(c, dir, name, k, n, flags, a)
	}
	t := u.begin()
	p, err := t.dirToChange(dir)
	if err != nil {
		return err
	}
	if err := u.mayChange(); err != nil {
		return err
	}
	if n == 0 {
		if n, err = u.newNode(); err != nil {
			return err
		}
	}
	i, err := u.newInode(t, c, dir, p, k, n)
	if err != nil {
		return err
	}
	i.nlink = 0
	i.flags |= flags
	u.unnamed(n, i)
	if err := u.store(t, n, i); err != nil {
		return err
	}
	return u.fill(n, i, a)
}

// Link makes one more name for n, which is no directory.
func (u *Upper) Link(n, dir Node, name string, a *Attr) error {
	rest, err := u.link(n, dir, name, a)
	if err != nil {
		return err
	}
	return u.stat(n, a, rest)
}

func (u *Upper) link(n, dir Node, name string, a *Attr) (r rest, err error) {
	if err := checkName(name); err != nil {
		return restNone, err
	}
	u.room()
	u.mu.Lock()
	defer u.mu.Unlock()
	defer u.guard(&err)
	t := u.begin()
	p, err := t.dirToChange(dir)
	if err != nil {
		return restNone, err
	}
	i, err := t.inode(n)
	if err != nil {
		return restNone, err
	}
	if i.isDir() {
		return restNone, syscall.EPERM
	}
	if e, err := u.child(dir, p, name); err != nil {
		return restNone, err
	} else if e.node != 0 {
		return restNone, syscall.EEXIST
	}
	_, tmp := u.loose.tmp[n]
	switch {
	case i.nlink == 0 && !tmp:
		return restNone, syscall.ENOENT // its last name went: it gets no new one
	case i.nlink >= maxLinks:
		return restNone, syscall.EMLINK
	}
	i.nlink++
	i.ctime = Now()
	if err := p.changed(1, 0, i.ctime); err != nil {
		return restNone, err
	}
	for name, value := range u.loose.xattrs[n] {
		t.setXattr(n, name, value)
	}
	t.put(n, i)
	t.put(dir, p)
	t.link(dir, name, n, i.dt())
	if err := t.commit(); err != nil {
		return restNone, err
	}
	if tmp {
		u.named(n)
	}
	return i.rest(), u.fill(n, i, a)
}

// Unlink takes the name of what is no directory away.
func (u *Upper) Unlink(dir Node, name string) error { return u.remove(dir, name, false) }

// Rmdir removes an empty directory.
func (u *Upper) Rmdir(dir Node, name string) error { return u.remove(dir, name, true) }

func (u *Upper) remove(dir Node, name string, isDir bool) (err error) {
	if err := checkName(name); err != nil {
		return err
	}
	u.room()
	u.mu.Lock()
	defer u.mu.Unlock()
	defer u.guard(&err)
	t := u.begin()
	p, err := t.dirToChange(dir)
	if err != nil {
		return err
	}
	e, err := u.child(dir, p, name)
	if err != nil {
		return err
	}
	if e.node == 0 {
		return syscall.ENOENT
	}
	i, err := t.inode(e.node)
	if err != nil {
		return err
	}
	if err := mayGo(i, isDir); err != nil {
		return err
	}
	now, dirs := Now(), 0
	if isDir {
		dirs = -1
	}
	if err := p.changed(-1, dirs, now); err != nil {
		return err
	}
	if err := t.unlink(dir, name); err != nil {
		return err
	}
	t.put(dir, p)
	g, err := u.lose(t, e.node, i, now)
	if err != nil {
		return err
	}
	if err := t.commit(); err != nil {
		return err
	}
	g.done()
	return nil
}

// mayGo reports why a name of i may not be taken away: what is removed or gives
// way is a directory if and only if asDir says so.
func mayGo(i *inode, asDir bool) error {
	switch {
	case !asDir && i.isDir():
		return syscall.EISDIR
	case asDir && !i.isDir():
		return syscall.ENOTDIR
	case asDir && i.size != 0:
		return syscall.ENOTEMPTY
	}
	return nil
}

const renameFlags = unix.RENAME_NOREPLACE | unix.RENAME_EXCHANGE | unix.RENAME_WHITEOUT

// Rename moves name to newName in newDir; flags are renameat2(2)'s.
func (u *Upper) Rename(c Caller, dir Node, name string, newDir Node, newName string, flags uint32) (err error) {
	for _, name := range [...]string{name, newName} {
		if err := checkName(name); err != nil {
			return err
		}
	}
	if flags&^renameFlags != 0 || flags&unix.RENAME_EXCHANGE != 0 && flags != unix.RENAME_EXCHANGE {
		return syscall.EINVAL
	}
	u.room()
	u.mu.Lock()
	defer u.mu.Unlock()
	defer u.guard(&err)
	r := rename{u: u, t: u.begin(), c: c, flags: flags, now: Now()}
	if err := r.find(dir, name, newDir, newName); err != nil || r.from.e.node == r.to.e.node {
		return err
	}
	if err := r.check(); err != nil {
		return err
	}
	if flags&unix.RENAME_EXCHANGE != 0 {
		err = r.exchange()
	} else {
		err = r.move()
	}
	if err != nil {
		return err
	}
	if err := r.t.commit(); err != nil {
		return err
	}
	r.gone.done()
	return nil
}

// A rename is one change that moves a name, or exchanges two.
type rename struct {
	u        *Upper
	t        *tx
	c        Caller
	flags    uint32
	now      Time
	from, to side
	gone     gone // what lost its last name
}

// A side is one of the two names of a rename, and what it leads to.
type side struct {
	dir  Node
	name string
	p    *inode // of dir; both sides share it if it is the same directory
	e    entry
	i    *inode // of e.node; nil: the name is not there
}

// dirs returns how many subdirectories the side's directory has by its name.
func (s *side) dirs() int {
	if s.i != nil && s.i.isDir() {
		return 1
	}
	return 0
}

// find fills both sides.
func (r *rename) find(dir Node, name string, newDir Node, newName string) error {
	var err error
	r.from, r.to = side{dir: dir, name: name}, side{dir: newDir, name: newName}
	if r.from.p, err = r.t.dirToChange(dir); err != nil {
		return err
	}
	r.to.p = r.from.p
	if newDir != dir {
		if r.to.p, err = r.t.dirToChange(newDir); err != nil {
			return err
		}
	}
	for _, s := range [...]*side{&r.from, &r.to} {
		if s.e, err = r.u.child(s.dir, s.p, s.name); err != nil {
			return err
		}
	}
	switch {
	case r.from.e.node == 0, r.to.e.node == 0 && r.flags&unix.RENAME_EXCHANGE != 0:
		return syscall.ENOENT
	case r.to.e.node != 0 && r.flags&unix.RENAME_NOREPLACE != 0:
		return syscall.EEXIST
	}
	for _, s := range [...]*side{&r.from, &r.to} {
		if s.e.node == 0 {
			continue
		}
		if s.i, err = r.t.inode(s.e.node); err != nil {
			return err
		}
	}
	return nil
}

// check says why the rename cannot be, in the order that Linux looks.
func (r *rename) check() error {
	if r.from.i.isDir() {
		if below, err := r.u.isBelow(r.to.dir, r.from.e.node); err != nil {
			return err
		} else if below {
			return syscall.EINVAL
		}
	}
	if r.to.i == nil {
		return nil
	}
	if r.to.i.isDir() {
		if below, err := r.u.isBelow(r.from.dir, r.to.e.node); err != nil {
			return err
		} else if below && r.flags&unix.RENAME_EXCHANGE != 0 {
			return syscall.EINVAL
		} else if below {
			return syscall.ENOTEMPTY
		}
	}
	if r.flags&unix.RENAME_EXCHANGE != 0 {
		return nil
	}
	return mayGo(r.to.i, r.from.i.isDir())
}

// isBelow reports whether the directory n is top or lies below it.
func (u *Upper) isBelow(n, top Node) (bool, error) {
	for range maxDepth {
		if n == top {
			return true, nil
		}
		if n == RootNode {
			return false, nil
		}
		var err error
		if n, err = u.parent(n); err != nil {
			return false, err
		}
	}
	return false, fmt.Errorf("%w: directory %d lies below itself", ErrDamaged, n)
}

// move moves from to to, and what was there is gone.
func (r *rename) move() error {
	t, from, to := r.t, &r.from, &r.to
	if to.i != nil {
		if err := to.p.changed(-1, -to.dirs(), r.now); err != nil {
			return err
		}
		g, err := r.u.lose(t, to.e.node, to.i, r.now)
		if err != nil {
			return err
		}
		r.gone = g
		r.barrier(from)
	}
	if err := from.p.changed(-1, -from.dirs(), r.now); err != nil {
		return err
	}
	if err := to.p.changed(1, from.dirs(), r.now); err != nil {
		return err
	}
	if err := r.leave(); err != nil {
		return err
	}
	r.arrive(from, to)
	t.put(from.dir, from.p)
	t.put(to.dir, to.p)
	return nil
}

// leave takes the old name away, or puts a whiteout there.
func (r *rename) leave() error {
	if r.flags&unix.RENAME_WHITEOUT == 0 {
		return r.t.unlink(r.from.dir, r.from.name)
	}
	n, err := r.u.newNode()
	if err != nil {
		return err
	}
	i, err := r.u.newInode(r.t, r.c, r.from.dir, r.from.p, Creation{Mode: index.ModeChar}, n)
	if err != nil {
		return err
	}
	if err := r.from.p.changed(1, 0, r.now); err != nil {
		return err
	}
	r.t.put(n, i)
	r.t.link(r.from.dir, r.from.name, n, i.dt())
	return nil
}

// exchange has each name lead to what the other led to.
func (r *rename) exchange() error {
	from, to := &r.from, &r.to
	if err := from.p.changed(0, to.dirs()-from.dirs(), r.now); err != nil {
		return err
	}
	if err := to.p.changed(0, from.dirs()-to.dirs(), r.now); err != nil {
		return err
	}
	r.barrier(from)
	r.barrier(to)
	r.arrive(from, to)
	r.arrive(to, from)
	r.t.put(from.dir, from.p)
	r.t.put(to.dir, to.p)
	return nil
}

// arrive makes the name of to lead to what the name of from leads to.
func (r *rename) arrive(from, to *side) {
	from.i.ctime = r.now
	if from.i.isDir() {
		from.i.parent = to.dir
	}
	r.t.put(from.e.node, from.i)
	r.t.link(to.dir, to.name, from.e.node, from.e.typ)
}

// barrier has the rename wait for the content of what gets another's name: a
// power loss shows the old file or the new one, never neither.
func (r *rename) barrier(s *side) {
	if s.i.isRegular() && s.i.flags&flagData != 0 {
		r.t.barrier(s.e.node)
	}
}

// SyncDir makes the names in n durable.
func (u *Upper) SyncDir(n Node) error {
	if err := u.mayChange(); err != nil {
		return syscall.EIO
	}
	seq := u.seqOf(n)
	if seq == 0 {
		return nil
	}
	return u.sync(seq)
}
