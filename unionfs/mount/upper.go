// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"errors"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs/cow"
	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/unionfs/mount/devfuse"
)

// MountUpper serves u, writable, at dir and returns when the directory
// answers. The error is an *Error where something that can be cured is in the
// way. u must stay open until Wait returns.
func MountUpper(dir string, u *cow.Upper, opt Options) (*Server, error) {
	opt.writable = true
	return attachServer(dir, &opt, func(set *settings) (served, error) {
		if u.FS().Root != index.RootID {
			return served{}, refused(BadOption, "mount the whole image", errors.New("a part of an image is read-only"))
		}
		raiseFiles()
		depth := 0
		if !opt.NoPassthrough {
			depth = passthroughDepth(u)
		}
		u.SetPassthrough(depth > 0)
		v := newTop(u, &opt, depth > 0)
		v.enforced = set.allowOther
		return served{raw: v, fs: u.FS(), read: v.read, begin: v.begin, end: v.end, options: topOptions(set, depth)}, nil
	})
}

// topOptions returns what the kernel is told of a writable mount whose files
// are passed through if depth, of the file systems stacked below and with it,
// is not 0. Passthrough and writeback cache exclude each other. Asynchronous
// direct I/O is not asked for: its writes would leave old pages behind.
func topOptions(set *settings, depth int) devfuse.Options {
	o := devfuse.Options{
		MaxWrite:      maxRead,
		MaxStackDepth: depth,
		Capabilities: capabilities(set.allowOther) | fuse.CAP_DONT_MASK |
			fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_SETXATTR_EXT,
	}
	if depth > 0 {
		o.Capabilities |= fuse.CAP_PASSTHROUGH
	} else {
		o.Capabilities |= fuse.CAP_WRITEBACK_CACHE
	}
	return o
}

// raiseFiles lets this process open as many files as it may: each open file of
// the upper has one on the disk.
func raiseFiles() {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) == nil && l.Cur < l.Max {
		l.Cur = l.Max
		unix.Setrlimit(unix.RLIMIT_NOFILE, &l)
	}
}

// top answers for an upper. A FUSE NodeID is a cow.Node.
type top struct {
	fuse.RawFileSystem
	*complaints

	u       *cow.Upper
	sources []provenance // per layer of the tree; nil = none are shown
	read    readNodes    // nil unless layers are still to be verified

	enforced     bool // modes hold: the mount is not its user's alone
	passthrough  bool
	keepsOpen    bool   // ENOSYS to OPEN means never ask again, and nothing is passed through; known after begin
	keepsOpenDir bool   // as keepsOpen, of OPENDIR
	kernel       kernel // known after begin
	files        fileTable
	bursts       bursts
	uncapped     atomic.Uint64 // the node that root last took the capabilities of
	dirs         dirTable
	forgets      forgets
}

// kernel is what handlers know of the kernel, and say to it unasked. A
// *devfuse.Server is one.
type kernel interface {
	Offered() uint64 // fuse.CAP_*
	InodeNotifyStoreCache(node uint64, off int64, data []byte) fuse.Status
	InodeNotify(node uint64, off, length int64) fuse.Status
	RegisterBackingFd(*fuse.BackingMap) (int32, syscall.Errno)
	UnregisterBackingFd(id int32) syscall.Errno
}

func newTop(u *cow.Upper, opt *Options, passthrough bool) *top {
	v := &top{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		complaints:    &complaints{log: opt.Log},
		u:             u, passthrough: passthrough,
	}
	if opt.Provenance {
		v.sources = provenances(u.FS().Sources)
	}
	if opt.Unverified {
		v.read = newReadNodes(u.FS().Tree.Count())
	}
	v.files.init()
	return v
}

// begin learns what the kernel can do.
func (v *top) begin(k kernel) {
	v.kernel = k
	v.keepsOpen = k.Offered()&fuse.CAP_NO_OPEN_SUPPORT != 0 && !v.passthrough
	v.keepsOpenDir = k.Offered()&fuse.CAP_NO_OPENDIR_SUPPORT != 0
	v.forgets.start(v)
}

// end lets go of the upper.
func (v *top) end() {
	v.forgets.stop()
	v.files.closeAll(v)
}

func caller(h *fuse.InHeader) cow.Caller { return cow.Caller{UID: h.Uid, GID: h.Gid} }

// Lookup answers for a name, and for "." and ".." when a file handle
// (name_to_handle_at, NFS, overlayfs above) brings back a node that the kernel
// no longer holds. An absent name is an answer to keep too.
func (v *top) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) (status fuse.Status) {
	defer v.caught(debug.SetPanicOnFault(true), "lookup", h.NodeId, &status)
	if name == "." || name == ".." {
		return v.handle(cow.Node(h.NodeId), name, out)
	}
	if len(name) > maxName {
		return fuse.Status(syscall.ENAMETOOLONG) // the kernel itself allows 1 024
	}
	var a cow.Attr
	found, err := v.u.Lookup(cow.Node(h.NodeId), name, &a)
	if err != nil {
		return v.errno("lookup", h.NodeId, err)
	}
	if !found {
		out.EntryValid = forever
		return fuse.OK
	}
	v.entry(&a, out)
	return fuse.OK
}

// handle answers a lookup of "." or "..". A file without a name is not brought
// back: where it is still in use the kernel holds it and does not ask.
func (v *top) handle(n cow.Node, name string, out *fuse.EntryOut) fuse.Status {
	if name == ".." {
		d, err := v.u.OpenDir(n)
		if err != nil {
			return v.errno("lookup", uint64(n), err)
		}
		if n, err = d.Parent(); err != nil {
			return v.errno("lookup", uint64(n), err)
		}
	}
	var a cow.Attr
	if err := v.u.Attr(n, &a); err != nil {
		return v.errno("lookup", uint64(n), err)
	}
	if a.Nlink == 0 {
		return fuse.Status(syscall.ESTALE)
	}
	v.entry(&a, out)
	return fuse.OK
}

// entry fills out with a node.
func (v *top) entry(a *cow.Attr, out *fuse.EntryOut) {
	out.NodeId = uint64(a.Node)
	out.EntryValid = forever
	out.AttrValid = v.valid(a)
	fill(a, &out.Attr)
}

// valid returns how long the kernel may keep attributes. A store to a file that
// is mapped past us changes its times without a word, but one without a byte has
// to grow first, and the kernel asks again then.
func (v *top) valid(a *cow.Attr) uint64 {
	if a.Size > 0 && v.files.written(a.Node) {
		return 0
	}
	return forever
}

// fill converts attributes.
func fill(a *cow.Attr, out *fuse.Attr) {
	*out = fuse.Attr{
		Ino:  uint64(a.Node),
		Mode: a.Mode, Nlink: a.Nlink, Rdev: a.Rdev,
		Owner: fuse.Owner{Uid: a.UID, Gid: a.GID},
		Size:  uint64(a.Size), Blocks: uint64(a.Blocks), Blksize: blockSize,
		// Two's complement: the kernel reads them as signed.
		Atime: uint64(a.Atime.Sec), Mtime: uint64(a.Mtime.Sec), Ctime: uint64(a.Ctime.Sec),
		Atimensec: a.Atime.Nsec, Mtimensec: a.Mtime.Nsec, Ctimensec: a.Ctime.Nsec,
	}
}

// GetAttr answers stat(2).
func (v *top) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) (status fuse.Status) {
	defer v.caught(debug.SetPanicOnFault(true), "getattr", in.NodeId, &status)
	var a cow.Attr
	if err := v.u.Attr(cow.Node(in.NodeId), &a); err != nil {
		return v.errno("getattr", in.NodeId, err)
	}
	v.attr(&a, out)
	return fuse.OK
}

func (v *top) attr(a *cow.Attr, out *fuse.AttrOut) {
	out.AttrValid = v.valid(a)
	fill(a, &out.Attr)
}

// Statx is asked by who wants to know when a file was made.
func (v *top) Statx(_ <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) (status fuse.Status) {
	defer v.caught(debug.SetPanicOnFault(true), "statx", in.NodeId, &status)
	var a cow.Attr
	if err := v.u.Attr(cow.Node(in.NodeId), &a); err != nil {
		return v.errno("statx", in.NodeId, err)
	}
	out.AttrValid = v.valid(&a)
	out.Statx = fuse.Statx{
		Mask: unix.STATX_BASIC_STATS | unix.STATX_BTIME, Blksize: blockSize,
		Nlink: a.Nlink, Uid: a.UID, Gid: a.GID, Mode: uint16(a.Mode), Ino: uint64(a.Node),
		Size: uint64(a.Size), Blocks: uint64(a.Blocks),
		Atime: sxTime(a.Atime), Btime: sxTime(a.Btime), Ctime: sxTime(a.Ctime), Mtime: sxTime(a.Mtime),
		RdevMajor: unix.Major(uint64(a.Rdev)), RdevMinor: unix.Minor(uint64(a.Rdev)),
	}
	if a.Btime == (cow.Time{}) {
		out.Mask &^= unix.STATX_BTIME // an image does not tell
	}
	return fuse.OK
}

func sxTime(t cow.Time) fuse.SxTime { return fuse.SxTime{Sec: uint64(t.Sec), Nsec: t.Nsec} }

// SetAttr changes attributes. One that changes none means that setuid, setgid
// and capabilities are to be cleared: somebody writes who may not keep them, or
// there was a chown to nobody. When root writes to a file with capabilities the
// kernel removes them, and then says the same.
func (v *top) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) (status fuse.Status) {
	defer v.caught(debug.SetPanicOnFault(true), "setattr", in.NodeId, &status)
	var s cow.SetAttr
	changes(in, &s)
	if in.Caller.Uid != 0 {
		if in.Valid&asks == 0 && v.strangers(in) {
			return fuse.EPERM
		}
		v.dropGroupID(in, &s)
	} else if !flushesTimes(in) && v.uncapped.CompareAndSwap(in.NodeId, 0) && in.Valid&asks == 0 && v.mayWrite(in) {
		s.Valid = 0 // root writes: what it takes is gone, setuid and setgid stay
	}
	var a cow.Attr
	if err := v.u.SetAttr(caller(&in.InHeader), cow.Node(in.NodeId), &s, &a); err != nil {
		return v.errno("setattr", in.NodeId, err)
	}
	if s.Valid&cow.SetMode != 0 {
		v.files.privileged(a.Node)
	}
	v.attr(&a, out)
	return fuse.OK
}

// asks are the changes that a SetAttr can ask for. With a writeback cache the
// kernel adds its ctime to what asks for nothing.
const asks = fuse.FATTR_MODE | fuse.FATTR_UID | fuse.FATTR_GID | fuse.FATTR_SIZE | fuse.FATTR_ATIME | fuse.FATTR_MTIME

// flushesTimes reports whether in is the kernel's, which writes back the times
// that it has before it asks for something else.
func flushesTimes(in *fuse.SetAttrIn) bool {
	return in.Valid&asks == fuse.FATTR_MTIME && in.Valid&fuse.FATTR_CTIME != 0
}

// changes fills s with what in asks for.
func changes(in *fuse.SetAttrIn, s *cow.SetAttr) {
	if in.Valid&asks == 0 || in.Valid&fuse.FATTR_KILL_SUIDGID != 0 {
		s.Valid |= cow.KillPriv
	}
	if in.Valid&fuse.FATTR_MODE != 0 {
		s.Valid |= cow.SetMode
		s.Mode = in.Mode
	}
	if in.Valid&fuse.FATTR_UID != 0 {
		s.Valid |= cow.SetUID
		s.UID = in.Uid
	}
	if in.Valid&fuse.FATTR_GID != 0 {
		s.Valid |= cow.SetGID
		s.GID = in.Gid
	}
	if in.Valid&fuse.FATTR_SIZE != 0 {
		s.Valid |= cow.SetSize
		s.Size = int64(in.Size)
	}
	if in.Valid&fuse.FATTR_ATIME != 0 {
		s.Valid |= cow.SetAtime
		s.Atime = timeOf(in.Valid&fuse.FATTR_ATIME_NOW != 0, in.Atime, in.Atimensec)
	}
	if in.Valid&fuse.FATTR_MTIME != 0 {
		s.Valid |= cow.SetMtime
		s.Mtime = timeOf(in.Valid&fuse.FATTR_MTIME_NOW != 0, in.Mtime, in.Mtimensec)
	}
	if in.Valid&fuse.FATTR_CTIME != 0 {
		s.Valid |= cow.SetCtime
		s.Ctime = timeOf(false, in.Ctime, in.Ctimensec)
	}
}

// mayWrite reports whether in, which asks for nothing, may come before a write: a
// chown(2) to no owner and no group looks the same, but for its ctime. Without a
// writeback cache the kernel sends none; then whoever has the file open may write.
func (v *top) mayWrite(in *fuse.SetAttrIn) bool {
	if v.passthrough {
		return v.files.open(cow.Node(in.NodeId))
	}
	return in.Valid&fuse.FATTR_CTIME == 0
}

// strangers reports whether in, which asks for nothing, is a chown(2) to no owner
// and no group by who does not own the file, which would lose setuid or setgid by
// it. The kernel leaves that to us, where setattr_prepare of Linux says EPERM.
func (v *top) strangers(in *fuse.SetAttrIn) bool {
	var a cow.Attr
	if !v.enforced || v.mayWrite(in) || v.u.Attr(cow.Node(in.NodeId), &a) != nil {
		return false
	}
	if a.UID == in.Caller.Uid || a.Mode&syscall.S_IFMT == syscall.S_IFDIR || a.Mode&(syscall.S_ISUID|syscall.S_ISGID) == 0 {
		return false
	}
	return a.Mode&syscall.S_ISUID != 0 || a.Mode&syscall.S_IXGRP != 0 || !inGroup(&in.Caller, a.GID)
}

// dropGroupID adds to s what the kernel does not tell: it has a setgid that lets
// no group execute cleared too, unless the caller is of that group.
func (v *top) dropGroupID(in *fuse.SetAttrIn, s *cow.SetAttr) {
	if s.Valid&cow.KillPriv == 0 || s.Valid&cow.SetMode != 0 {
		return
	}
	const bits = syscall.S_IFMT | syscall.S_ISGID | syscall.S_IXGRP
	var was cow.Attr
	if err := v.u.Attr(cow.Node(in.NodeId), &was); err != nil || was.Mode&bits != syscall.S_IFREG|syscall.S_ISGID {
		return
	}
	if !inGroup(&in.Caller, was.GID) {
		s.Valid |= cow.SetMode
		s.Mode = was.Mode & 0o7777 &^ (syscall.S_ISUID | syscall.S_ISGID)
	}
}

// inGroup reports whether c is of a group.
func inGroup(c *fuse.Caller, gid uint32) bool {
	if c.Gid == gid {
		return true
	}
	status, _ := os.ReadFile("/proc/" + strconv.FormatUint(uint64(c.Pid), 10) + "/status")
	for line := range strings.Lines(string(status)) {
		if list, ok := strings.CutPrefix(line, "Groups:"); ok {
			return slices.Contains(strings.Fields(list), strconv.FormatUint(uint64(gid), 10))
		}
	}
	return false
}

// timeOf returns the current time, or the given one.
func timeOf(isNow bool, sec uint64, nsec uint32) cow.Time {
	if isNow {
		return cow.Now()
	}
	return cow.Time{Sec: int64(sec), Nsec: nsec}
}

// StatFs shows the disk's free space.
func (v *top) StatFs(_ <-chan struct{}, h *fuse.InHeader, out *fuse.StatfsOut) (status fuse.Status) {
	defer v.caught(debug.SetPanicOnFault(true), "statfs", h.NodeId, &status)
	var s cow.Statfs
	if err := v.u.Statfs(&s); err != nil {
		return v.errno("statfs", h.NodeId, err)
	}
	*out = fuse.StatfsOut{
		Blocks: s.Blocks, Bfree: s.Bfree, Bavail: s.Bavail,
		Files: s.Files, Ffree: s.Ffree,
		Bsize: uint32(s.Bsize), Frsize: uint32(s.Bsize), NameLen: maxName,
	}
	return fuse.OK
}

// Ioctl passes nothing on.
func (v *top) Ioctl(<-chan struct{}, *fuse.IoctlIn, []byte, *fuse.IoctlOut, []byte) fuse.Status {
	return fuse.Status(syscall.ENOTTY)
}

// Readlink returns a symlink's target.
func (v *top) Readlink(_ <-chan struct{}, h *fuse.InHeader) (target []byte, status fuse.Status) {
	defer v.caught(debug.SetPanicOnFault(true), "readlink", h.NodeId, &status)
	b, err := v.u.Readlink(cow.Node(h.NodeId))
	if err != nil {
		return nil, v.errno("readlink", h.NodeId, err)
	}
	if len(b) >= maxTarget {
		return nil, fuse.Status(syscall.ENAMETOOLONG)
	}
	// it is sent after the handler, outside of what guards against a
	// damaged map.
	return append([]byte(nil), b...), fuse.OK
}

// provenance returns the provenance xattr name of n, empty if there is none.
func (v *top) provenance(n cow.Node, name string) string {
	if v.sources == nil || n >= cow.FirstOwn || !strings.HasPrefix(name, provenancePrefix) {
		return ""
	}
	var node index.Node
	if err := v.u.FS().Tree.Node(index.NodeID(n), &node); err != nil {
		return ""
	}
	return provenanceOf(v.sources, &node, name)
}
