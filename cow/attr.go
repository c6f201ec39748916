// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs/index"
)

// What a SetAttr sets.
const (
	SetMode = 1 << iota
	SetUID
	SetGID
	SetSize
	SetAtime
	SetMtime
	SetCtime
	KillPriv // clear setuid, setgid and file capabilities, as a write by a user does
)

// A SetAttr is a change of attributes. "Now" is the caller's to fill in.
type SetAttr struct {
	Valid               uint32
	Mode, UID, GID      uint32
	Size                int64
	Atime, Mtime, Ctime Time
}

// Mode bits of which a change has more to say than to store them.
const (
	modeBits  = 0o7777
	setUID    = 0o4000
	setGID    = 0o2000
	groupExec = 0o010
)

const (
	dirSize = 4096 // st_size of a directory, however many names it has
	sector  = 512  // the unit of st_blocks
)

// Now is the time that a change gets: the clock that the kernel's own file
// systems stamp with. A finer one would let a directory seem newer than a file
// that is written to after it, whose mtime is that of its data file.
func Now() Time {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &ts) != nil {
		_ = unix.ClockGettime(unix.CLOCK_REALTIME, &ts) // cannot fail
	}
	return Time{int64(ts.Sec), uint32(ts.Nsec)}
}

// known returns the record of n, an orphan's too, or nil where n is as in the
// tree. The error is ESTALE for a node that is gone or never was.
//
// Preconditions: u.mu is held.
func (u *Upper) known(n Node) (*inode, error) { return u.knownOf(n, true) }

// knownHead is known for who does not ask for the tail: it may be missing.
func (u *Upper) knownHead(n Node) (*inode, error) { return u.knownOf(n, false) }

func (u *Upper) knownOf(n Node, whole bool) (*inode, error) {
	if len(u.orphans) != 0 {
		if i := u.orphans[n]; i != nil {
			return i, nil
		}
	}
	i, gone, err := u.recordOf(n, whole)
	if err != nil || i != nil {
		return i, err
	}
	if gone || n == 0 || uint64(n) > uint64(u.fs.Tree.Count()) {
		return nil, syscall.ESTALE
	}
	return nil, nil
}

// Attr fills a with the attributes of n. It allocates nothing for a node that
// is as in the tree.
func (u *Upper) Attr(n Node, a *Attr) error {
	rest, err := u.attrRLocked(n, a)
	if err != nil {
		return err
	}
	return u.stat(n, a, rest)
}

// A rest is what an Attr still lacks, since it is asked of the disk, which is
// not done under Upper.mu.
type rest uint8

const (
	restNone  rest = iota
	restLocal      // size, blocks and times are the data file's
	restMixed      // blocks of the data file come to the layer's
)

func (i *inode) rest() rest {
	switch {
	case !i.isRegular():
		return restNone
	case i.flags&(flagLocal|flagData) == flagLocal|flagData:
		return restLocal
	case i.flags&(flagMixed|flagData) == flagMixed|flagData:
		return restMixed
	}
	return restNone
}

// inData reports whether the data file has the say on size, blocks and times.
func (i *inode) inData() bool { return i.rest() == restLocal }

// stat adds what a lacks. It is called without locks.
func (u *Upper) stat(n Node, a *Attr, r rest) error {
	switch r {
	case restLocal:
		return u.statData(n, a)
	case restMixed:
		var st unix.Stat_t
		if err := u.fstatData(n, &st); err != nil {
			return err
		}
		// Never none: there are programs that take such a file for a hole.
		a.Blocks = max(1, min(a.Blocks+st.Blocks, sectors(a.Size)))
	}
	return nil
}

// attrRLocked fills a but for the rest.
func (u *Upper) attrRLocked(n Node, a *Attr) (rest, error) {
	u.mu.RLock()
	defer u.mu.RUnlock()
	return u.attr(n, a)
}

// attr fills a but for the rest.
//
// Preconditions: u.mu is held.
func (u *Upper) attr(n Node, a *Attr) (rest, error) {
	i, err := u.knownHead(n)
	if err != nil {
		return restNone, err
	}
	if i == nil {
		return restNone, u.treeAttr(n, a)
	}
	return i.rest(), u.fill(n, i, a)
}

// fill fills a from a record but for the rest.
func (u *Upper) fill(n Node, i *inode, a *Attr) error {
	*a = Attr{
		Node: n,
		Mode: i.mode, Nlink: i.nlink,
		UID: i.uid, GID: i.gid, Rdev: i.rdev,
		Size:  i.size,
		Atime: i.atime, Mtime: i.mtime, Ctime: i.ctime, Btime: i.btime,
	}
	switch i.typ() {
	case index.ModeDir:
		a.Size, a.Blocks = dirSize, dirSize/sector
	case index.ModeRegular:
		if i.flags&flagLocal != 0 {
			a.Blocks = sectors(i.size) // in the record; a data file has the say
			break
		}
		var t index.Node
		if err := u.fs.Tree.Node(index.NodeID(n), &t); err != nil {
			return err
		}
		blocks, err := u.treeBlocks(&t)
		if err != nil {
			return err
		}
		a.Blocks = min(blocks, sectors(i.lower))
	}
	return nil
}

// treeAttr fills a from the tree.
func (v *view) treeAttr(n Node, a *Attr) error {
	var t index.Node
	if err := v.fs.Tree.Node(index.NodeID(n), &t); err != nil {
		return err
	}
	time := Time{t.Mtime, t.MtimeNsec}
	*a = Attr{
		Node: n,
		Mode: t.Mode, Nlink: t.Nlink,
		UID: t.UID, GID: t.GID,
		Atime: time, Mtime: time, Ctime: time, Btime: time,
	}
	switch t.Type() {
	case index.ModeRegular:
		a.Size = t.Size
		var err error
		if a.Blocks, err = v.treeBlocks(&t); err != nil {
			return err
		}
	case index.ModeDir:
		a.Size, a.Blocks = dirSize, dirSize/sector
	case index.ModeSymlink:
		a.Size = t.Size
	case index.ModeChar, index.ModeBlock:
		a.Rdev = t.Rdev
	case index.ModeFIFO, index.ModeSocket:
	default:
		return fmt.Errorf("%w: node %d has mode %o", index.ErrCorrupt, n, t.Mode)
	}
	if a.Size < 0 {
		return fmt.Errorf("%w: node %d has size %d", index.ErrCorrupt, n, t.Size)
	}
	return nil
}

// maxCounted bounds how many runs of a sparse file are added up for st_blocks,
// as the read-only mount bounds it.
const maxCounted = 1 << 12

// treeBlocks returns the sectors that hold data of a regular file of the tree.
func (v *view) treeBlocks(t *index.Node) (int64, error) {
	extents, sparse, err := v.fs.Tree.Extents(t)
	if err != nil || !sparse {
		return sectors(t.Size), err
	}
	var sum int64
	for i := range min(extents.Len(), maxCounted) {
		sum += sectors(extents.At(i).Len)
	}
	return min(sum, sectors(t.Size)), nil
}

func sectors(size int64) int64 { return int64((uint64(size) + sector - 1) / sector) }

// copyOf returns a copy of n's record, made from the tree if there is none. The
// error is ESTALE for a node that is gone. Preconditions: u.mu is held.
func (u *Upper) copyOf(n Node) (*inode, error) {
	i, err := u.known(n)
	if err != nil {
		return nil, err
	}
	if i != nil {
		c := *i
		return &c, nil
	}
	return u.fromTree(n)
}

// fromTree makes a record of what n is in the tree.
func (v *view) fromTree(n Node) (*inode, error) {
	var a Attr
	if err := v.treeAttr(n, &a); err != nil {
		return nil, err
	}
	var t index.Node
	if err := v.fs.Tree.Node(index.NodeID(n), &t); err != nil {
		return nil, err
	}
	if a.Mtime.Nsec >= 1e9 { // no record can say so
		return nil, fmt.Errorf("%w: node %d has %d nanoseconds", index.ErrCorrupt, n, a.Mtime.Nsec)
	}
	i := &inode{
		mode: a.Mode, nlink: a.Nlink, uid: a.UID, gid: a.GID, rdev: a.Rdev,
		size:  a.Size,
		atime: a.Atime, mtime: a.Mtime, ctime: a.Ctime, btime: a.Btime,
		origin: origin{layer: uint32(t.Layer), header: t.Header},
	}
	switch {
	case i.isRegular():
		i.lower = i.size
	case i.isDir():
		d, err := v.fs.Tree.ReadDir(index.NodeID(n), 0)
		if err != nil {
			return nil, err
		}
		i.size = int64(d.Len())
		i.parent = Node(t.Parent)
		if t.Flags&index.FlagImplied != 0 {
			if i.origin.depth, err = v.treeDepth(n); err != nil {
				return nil, err
			}
		}
	}
	return i, nil
}

// maxDepth bounds a walk upwards, which only a damaged tree or upper makes
// endless.
const maxDepth = 1 << 24

// treeDepth returns how many components the path of a directory of the tree
// has.
func (v *view) treeDepth(n Node) (uint32, error) {
	var t index.Node
	for depth := uint32(0); depth < maxDepth; depth++ {
		if n == RootNode {
			return depth, nil
		}
		if err := v.fs.Tree.Node(index.NodeID(n), &t); err != nil {
			return 0, err
		}
		n = Node(t.Parent)
	}
	return 0, fmt.Errorf("%w: directory %d lies below itself", index.ErrCorrupt, n)
}

// parent returns the directory above the directory n, of the root itself.
//
// Preconditions: u.mu is held.
func (u *Upper) parent(n Node) (Node, error) {
	i, err := u.known(n)
	if err != nil {
		return 0, err
	}
	if n == RootNode {
		return n, nil
	}
	if i != nil {
		if !i.isDir() {
			return 0, syscall.ENOTDIR
		}
		return i.parent, nil
	}
	var t index.Node
	if err := u.fs.Tree.Node(index.NodeID(n), &t); err != nil {
		return 0, err
	}
	if !t.IsDir() {
		return 0, syscall.ENOTDIR
	}
	return Node(t.Parent), nil
}

// SetAttr changes attributes and fills a with what they are then.
func (u *Upper) SetAttr(c Caller, n Node, s *SetAttr, a *Attr) error {
	for _, t := range [...]*Time{&s.Atime, &s.Mtime, &s.Ctime} {
		if t.Nsec >= 1e9 {
			return syscall.EINVAL
		}
	}
	if s.Valid&SetSize != 0 {
		if err := u.setSize(n, s.Size); err != nil {
			return err
		}
	}
	rest, err := u.setAttr(n, s, a)
	if err != nil {
		return err
	}
	if rest == restLocal && s.Valid&(SetAtime|SetMtime) != 0 {
		if err := u.setDataTimes(n, s); err != nil {
			return err
		}
	}
	return u.stat(n, a, rest)
}

// setSize is truncate(2).
func (u *Upper) setSize(n Node, size int64) error {
	var a Attr
	if _, err := u.attrRLocked(n, &a); err != nil {
		return err
	}
	switch a.Mode & index.ModeType {
	case index.ModeRegular:
	case index.ModeDir:
		return syscall.EISDIR
	default:
		return syscall.EINVAL
	}
	if size < 0 {
		return syscall.EINVAL
	}
	return u.truncate(n, size)
}

// setAttr changes all but the size, and fills a but for the rest.
func (u *Upper) setAttr(n Node, s *SetAttr, a *Attr) (r rest, err error) {
	u.room()
	u.mu.Lock()
	defer u.mu.Unlock()
	defer u.guard(&err)
	t := u.begin()
	i, err := t.inode(n)
	if err != nil {
		return restNone, err
	}
	changed, err := u.change(t, n, i, s)
	if err == nil && changed {
		err = u.store(t, n, i)
	}
	if err != nil {
		return restNone, err
	}
	return i.rest(), u.fill(n, i, a)
}

// change applies s to i, and reports whether there is anything to put.
func (u *Upper) change(t *tx, n Node, i *inode, s *SetAttr) (changed bool, err error) {
	was, valid := *i, s.Valid
	if valid&(SetUID|SetGID) != 0 && valid&SetMode == 0 && !i.isDir() {
		valid |= KillPriv // chown_common of Linux
	}
	if valid&(KillPriv|SetSize) != 0 && !i.isDir() {
		// File capabilities go with any change of content, whoever makes it.
		if changed, err = u.dropCapability(t, n, &was, i); err != nil {
			return false, err
		}
	}
	if valid&KillPriv != 0 && !i.isDir() {
		i.mode = killPriv(i.mode)
	}
	if valid&SetMode != 0 {
		if i.typ() == index.ModeSymlink {
			return false, syscall.EOPNOTSUPP // notify_change of Linux
		}
		i.mode = i.typ() | s.Mode&modeBits
		if err := u.chmodACL(t, n, &was, i); err != nil {
			return false, err
		}
	}
	if valid&SetUID != 0 {
		i.uid = s.UID
	}
	if valid&SetGID != 0 {
		i.gid = s.GID
	}
	switch {
	case *i != was, valid&(SetMode|SetUID|SetGID) != 0:
		changed = true
	case valid&SetAtime == 0 && i.inData():
		// mtime and ctime are the data file's.
		return changed, nil
	}
	if valid&SetAtime != 0 {
		i.atime, changed = s.Atime, true
	}
	if valid&SetMtime != 0 {
		i.mtime, changed = s.Mtime, true
	}
	if valid&SetCtime != 0 {
		i.ctime, changed = s.Ctime, true
	} else if changed {
		i.ctime = Now()
	}
	return changed, nil
}

// killPriv takes setuid from a mode, and setgid if it lets a group execute
// (else it stands for mandatory locks): setattr_should_drop_suidgid of Linux.
func killPriv(mode uint32) uint32 {
	mode &^= setUID
	if mode&groupExec != 0 {
		mode &^= setGID
	}
	return mode
}

// dropCapability removes the file capabilities of i, whose record was was.
func (u *Upper) dropCapability(t *tx, n Node, was, i *inode) (dropped bool, err error) {
	_, ok, err := u.xattrOf(n, was, xattrCapability)
	if err != nil || !ok {
		return false, err
	}
	if err := u.ownXattrs(t, n, i); err != nil {
		return false, err
	}
	t.dropXattr(n, xattrCapability)
	return true, nil
}

// Statfs describes the file system: the disk's free space, the tree's and the
// upper's inodes.
type Statfs struct {
	Bsize, Blocks, Bfree, Bavail, Files, Ffree uint64
}

// Statfs fills s.
func (u *Upper) Statfs(s *Statfs) error {
	var st unix.Statfs_t
	if err := unix.Statfs(u.dir, &st); err != nil {
		return err
	}
	u.mu.RLock()
	used := uint64(u.fs.Tree.Count()) + uint64(u.next-FirstOwn)
	u.mu.RUnlock()
	*s = Statfs{
		Bsize: uint64(st.Bsize), Blocks: st.Blocks, Bfree: st.Bfree, Bavail: st.Bavail,
		Files: used + st.Ffree, Ffree: st.Ffree,
	}
	return nil
}
