// SPDX-License-Identifier: Apache-2.0

package crashfs

import (
	"context"
	"path"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A node is a go-fuse loopback node whose changes are recorded.
type node struct {
	fs.LoopbackNode
	s *server
}

// WrapChild makes the children of a node recorded ones, too.
func (n *node) WrapChild(context.Context, fs.InodeEmbedder) fs.InodeEmbedder {
	return &node{LoopbackNode: fs.LoopbackNode{RootData: n.RootData}, s: n.s}
}

// below returns the node's path below the mount.
func (n *node) below() string { return n.Path(n.Root()) }

func (n *node) ino() uint64 { return n.StableAttr().Ino }

// child returns the number of a child that was looked up.
func child(in *fs.Inode) uint64 { return in.StableAttr().Ino }

func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (in *fs.Inode, h fs.FileHandle, fl uint32, errno syscall.Errno) {
	op := Op{Kind: Create, Mode: mode&0o7777 | unix.S_IFREG, Dir: n.ino(), Name: name}
	errno = n.s.fill(&op, path.Join(n.below(), name), func() syscall.Errno {
		in, h, fl, errno = n.LoopbackNode.Create(ctx, name, flags|unix.O_EXCL, mode, out)
		if errno == 0 {
			op.Ino, op.UID, op.GID, op.Time = child(in), out.Uid, out.Gid, mtime(&out.Attr)
		}
		return errno
	})
	if errno != 0 {
		return nil, nil, 0, errno
	}
	return in, n.s.handleOf(in, h), fl, 0
}

func (n *node) Mknod(ctx context.Context, name string, mode, rdev uint32, out *fuse.EntryOut) (in *fs.Inode, errno syscall.Errno) {
	op := Op{Kind: Create, Mode: mode, Size: int64(rdev), Dir: n.ino(), Name: name}
	return n.made(&op, out, func() (*fs.Inode, syscall.Errno) { return n.LoopbackNode.Mknod(ctx, name, mode, rdev, out) })
}

func (n *node) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	op := Op{Kind: Mkdir, Mode: mode, Dir: n.ino(), Name: name}
	return n.made(&op, out, func() (*fs.Inode, syscall.Errno) { return n.LoopbackNode.Mkdir(ctx, name, mode, out) })
}

func (n *node) Symlink(ctx context.Context, target, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	op := Op{Kind: Symlink, Dir: n.ino(), Name: name, Data: []byte(target)}
	return n.made(&op, out, func() (*fs.Inode, syscall.Errno) { return n.LoopbackNode.Symlink(ctx, target, name, out) })
}

func (n *node) Link(ctx context.Context, target fs.InodeEmbedder, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	op := Op{Kind: Link, Dir: n.ino(), Name: name}
	return n.made(&op, out, func() (*fs.Inode, syscall.Errno) { return n.LoopbackNode.Link(ctx, target, name, out) })
}

// made records what gives a name in n to a node.
func (n *node) made(op *Op, out *fuse.EntryOut, make func() (*fs.Inode, syscall.Errno)) (in *fs.Inode, errno syscall.Errno) {
	errno = n.s.fill(op, path.Join(n.below(), op.Name), func() syscall.Errno {
		if in, errno = make(); errno == 0 {
			op.Ino, op.UID, op.GID, op.Time = child(in), out.Uid, out.Gid, mtime(&out.Attr)
		}
		return errno
	})
	return in, errno
}

func (n *node) Unlink(ctx context.Context, name string) syscall.Errno {
	op := Op{Kind: Unlink, Ino: n.childIno(name), Dir: n.ino(), Name: name}
	return n.s.do(op, path.Join(n.below(), name), func() syscall.Errno { return n.LoopbackNode.Unlink(ctx, name) })
}

func (n *node) Rmdir(ctx context.Context, name string) syscall.Errno {
	op := Op{Kind: Rmdir, Ino: n.childIno(name), Dir: n.ino(), Name: name}
	return n.s.do(op, path.Join(n.below(), name), func() syscall.Errno { return n.LoopbackNode.Rmdir(ctx, name) })
}

func (n *node) Rename(ctx context.Context, name string, to fs.InodeEmbedder, name2 string, flags uint32) syscall.Errno {
	if flags&unix.RENAME_WHITEOUT != 0 {
		return syscall.EINVAL
	}
	op := Op{Kind: Rename, Flags: flags, Ino: n.childIno(name), Dir: n.ino(), Name: name, Dir2: child(to.EmbeddedInode()), Name2: name2}
	return n.s.do(op, path.Join(to.EmbeddedInode().Path(n.Root()), name2), func() syscall.Errno {
		return n.LoopbackNode.Rename(ctx, name, to, name2, flags)
	})
}

// childIno returns the number of the child of a name, 0 if it is not known.
func (n *node) childIno(name string) uint64 {
	if in := n.GetChild(name); in != nil {
		return child(in)
	}
	return 0
}

func (n *node) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if flags&unix.O_TRUNC != 0 {
		return nil, 0, syscall.EINVAL // the kernel truncates by SETATTR
	}
	h, fl, errno := n.LoopbackNode.Open(ctx, flags)
	if errno != 0 {
		return nil, 0, errno
	}
	return n.s.handleOf(n.EmbeddedInode(), h), fl, 0
}

// OpendirHandle hides the stream's own fsync.
func (n *node) OpendirHandle(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	h, fl, errno := n.LoopbackNode.OpendirHandle(ctx, flags)
	if errno != 0 {
		return nil, 0, errno
	}
	return &dirHandle{stream: h.(stream), n: n}, fl, 0
}

type stream interface {
	fs.FileReaddirenter
	fs.FileSeekdirer
	fs.FileReleasedirer
}

type dirHandle struct {
	stream
	n *node
}

func (d *dirHandle) Fsyncdir(_ context.Context, flags uint32) syscall.Errno {
	return d.n.s.sync(d.n.ino(), d.n.below(), flags)
}

func (n *node) Setattr(ctx context.Context, f fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if h, ok := f.(*handle); ok {
		f = h.file
	}
	name := n.below()
	if size, ok := in.GetSize(); ok {
		only := *in
		only.Valid = fuse.FATTR_SIZE
		op := Op{Kind: Truncate, Ino: n.ino(), Size: int64(size)}
		errno := n.s.fill(&op, name, func() syscall.Errno {
			errno := n.LoopbackNode.Setattr(ctx, f, &only, out)
			op.Time = mtime(&out.Attr)
			return errno
		})
		if errno != 0 {
			return errno
		}
	}
	rest := *in
	rest.Valid &^= fuse.FATTR_SIZE
	op := Op{Kind: SetAttr, Ino: n.ino()}
	if _, ok := rest.GetMode(); ok {
		op.Flags |= setMode
	}
	_, uid := rest.GetUID()
	_, gid := rest.GetGID()
	if uid || gid {
		op.Flags |= setOwner
	}
	if _, ok := rest.GetMTime(); ok {
		op.Flags |= setTime
	}
	if op.Flags == 0 { // times that come with a truncate, or atime alone
		return n.LoopbackNode.Setattr(ctx, f, &rest, out)
	}
	return n.s.fill(&op, name, func() syscall.Errno {
		errno := n.LoopbackNode.Setattr(ctx, f, &rest, out)
		op.Mode, op.UID, op.GID = out.Mode, out.Uid, out.Gid
		op.Time = mtime(&out.Attr)
		return errno
	})
}

func (n *node) Setxattr(ctx context.Context, attr string, data []byte, flags uint32) syscall.Errno {
	op := Op{Kind: SetXattr, Ino: n.ino(), Name: attr, Data: data}
	return n.s.do(op, n.below(), func() syscall.Errno { return n.LoopbackNode.Setxattr(ctx, attr, data, flags) })
}

func (n *node) Removexattr(ctx context.Context, attr string) syscall.Errno {
	op := Op{Kind: RemoveXattr, Ino: n.ino(), Name: attr}
	return n.s.do(op, n.below(), func() syscall.Errno { return n.LoopbackNode.Removexattr(ctx, attr) })
}

// Tmpfile answers that there is none: a name comes from nowhere in no log.
func (n *node) Tmpfile(context.Context, uint32, uint32, *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	return nil, nil, 0, syscall.EOPNOTSUPP
}

// CopyFileRange answers so that the kernel reads and writes.
func (n *node) CopyFileRange(context.Context, fs.FileHandle, uint64, *fs.Inode, fs.FileHandle, uint64, uint64, uint64) (uint32, syscall.Errno) {
	return 0, syscall.ENOSYS
}

// A handle is an open file. It is not passed through, and has no locks of its
// own: the kernel's are right for one mount.
type handle struct {
	file *fs.LoopbackFile
	in   *fs.Inode
	s    *server
}

func (s *server) handleOf(in *fs.Inode, h fs.FileHandle) fs.FileHandle {
	return &handle{file: h.(*fs.LoopbackFile), in: in, s: s}
}

func (h *handle) name() string { return h.in.Path(h.in.Root()) }

func (h *handle) Read(ctx context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	h.s.mu.Lock()
	errno, _ := h.s.faultLocked(Read, h.name())
	h.s.mu.Unlock()
	if errno != 0 {
		return nil, errno
	}
	return h.file.Read(ctx, dest, off)
}

func (h *handle) Write(ctx context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	errno, partial := h.s.faultLocked(Write, h.name())
	if errno != 0 && (!partial || len(data) < 2) {
		return 0, errno
	}
	if errno != 0 {
		data = data[:len(data)/2]
	}
	n, errno := h.file.Write(ctx, data, off)
	if errno == 0 {
		h.s.recordLocked(Op{Kind: Write, Ino: child(h.in), Off: off, Data: data[:n], Time: h.mtime(ctx)})
	}
	return n, errno
}

// mtime returns the file's, in nanoseconds; 0 if it cannot be had.
func (h *handle) mtime(ctx context.Context) int64 {
	var a fuse.AttrOut
	if h.file.Getattr(ctx, &a) != 0 {
		return 0
	}
	return mtime(&a.Attr)
}

func mtime(a *fuse.Attr) int64 { return int64(a.Mtime)*1e9 + int64(a.Mtimensec) }

func (h *handle) Allocate(ctx context.Context, off, size uint64, mode uint32) syscall.Errno {
	if mode&^(unix.FALLOC_FL_KEEP_SIZE|unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_ZERO_RANGE) != 0 {
		return syscall.EOPNOTSUPP
	}
	op := Op{Kind: Fallocate, Ino: child(h.in), Flags: mode, Off: int64(off), Size: int64(size)}
	return h.s.fill(&op, h.name(), func() syscall.Errno {
		errno := h.allocate(ctx, off, size, mode)
		op.Time = h.mtime(ctx)
		return errno
	})
}

// allocate is fallocate, also where the directory below cannot zero a range, as
// a tmpfs.
func (h *handle) allocate(ctx context.Context, off, size uint64, mode uint32) syscall.Errno {
	errno := h.file.Allocate(ctx, off, size, mode)
	if errno != syscall.EOPNOTSUPP || mode&unix.FALLOC_FL_ZERO_RANGE == 0 {
		return errno
	}
	if errno := h.file.Allocate(ctx, off, size, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE); errno != 0 {
		return errno
	}
	return h.file.Allocate(ctx, off, size, mode&unix.FALLOC_FL_KEEP_SIZE)
}

func (h *handle) Fsync(_ context.Context, flags uint32) syscall.Errno {
	return h.s.sync(child(h.in), h.name(), flags)
}

func (h *handle) Getattr(ctx context.Context, out *fuse.AttrOut) syscall.Errno {
	return h.file.Getattr(ctx, out)
}

func (h *handle) Lseek(ctx context.Context, off uint64, whence uint32) (uint64, syscall.Errno) {
	return h.file.Lseek(ctx, off, whence)
}

func (h *handle) Flush(context.Context) syscall.Errno       { return 0 }
func (h *handle) Release(ctx context.Context) syscall.Errno { return h.file.Release(ctx) }
