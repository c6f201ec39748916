// SPDX-License-Identifier: Apache-2.0

package devfuse

import (
	"sync"
	"syscall"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A device is the connection to the kernel. Workers use it as long as they
// live, others only under mu.
type device struct {
	fd int

	mu     sync.RWMutex
	closed bool // guarded by mu
}

func (d *device) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closed {
		d.closed = true
		unix.Close(d.fd)
	}
}

// InodeNotify has the kernel forget the attributes of a node, and its content in
// [off, off+length) or, where length is not positive, from off on. A negative off
// leaves content alone. ENOENT says that the kernel does not hold the node.
//
// It may wait for pages that are being read or written back.
func (s *Server) InodeNotify(node uint64, off, length int64) fuse.Status {
	n := fuse.NotifyInvalInodeOut{Ino: node, Off: off, Length: length}
	if off >= 0 {
		s.yield()
	}
	return notify(s, fuse.NOTIFY_INVAL_INODE, &n, nil)
}

// InodeNotifyStoreCache gives the kernel content of a node, as if it had read
// that. ENOENT says that the kernel does not hold the node. It may wait for pages
// that are being read: only another worker can answer that.
func (s *Server) InodeNotifyStoreCache(node uint64, off int64, data []byte) fuse.Status {
	n := fuse.NotifyStoreOut{Nodeid: node, Offset: uint64(off), Size: uint32(len(data))}
	return notify(s, fuse.NOTIFY_STORE_CACHE, &n, data)
}

// yield takes the lead from a handler, if the leader is in one: what follows may
// wait for another request.
func (s *Server) yield() {
	if lead := s.lead.Load(); lead&1 != 0 {
		s.handOn(lead)
	}
}

// notify writes a notification.
func notify[T any](s *Server, code int32, head *T, data []byte) fuse.Status {
	var buf [outRoom + 64]byte
	n := outRoom + copy(buf[outRoom:], unsafe.Slice((*byte)(unsafe.Pointer(head)), unsafe.Sizeof(*head)))
	h := fuse.OutHeader{Length: uint32(n + len(data)), Status: -code}
	copy(buf[:], unsafe.Slice((*byte)(unsafe.Pointer(&h)), unsafe.Sizeof(h)))
	iov, parts := [2]unix.Iovec{{Base: &buf[0], Len: uint64(n)}}, 1
	if len(data) > 0 {
		iov[1], parts = unix.Iovec{Base: &data[0], Len: uint64(len(data))}, 2
	}
	s.dev.mu.RLock()
	defer s.dev.mu.RUnlock()
	if s.dev.closed {
		return fuse.ENODEV
	}
	for {
		_, _, errno := unix.Syscall(unix.SYS_WRITEV, uintptr(s.dev.fd), uintptr(unsafe.Pointer(&iov[0])), uintptr(parts))
		switch errno {
		case unix.EINTR:
		case unix.EINVAL:
			return fuse.ENOSYS // an older kernel
		default:
			return fuse.Status(errno)
		}
	}
}

const (
	devIocBackingOpen  = 0x4010e501 // FUSE_DEV_IOC_BACKING_OPEN
	devIocBackingClose = 0x4004e502 // FUSE_DEV_IOC_BACKING_CLOSE
)

// RegisterBackingFd returns the id by which an answer to OPEN can name a file
// that the kernel reads and writes itself.
func (s *Server) RegisterBackingFd(m *fuse.BackingMap) (int32, syscall.Errno) {
	id, errno := s.dev.ioctl(devIocBackingOpen, unsafe.Pointer(m))
	return int32(id), errno
}

// UnregisterBackingFd ends an id.
func (s *Server) UnregisterBackingFd(id int32) syscall.Errno {
	_, errno := s.dev.ioctl(devIocBackingClose, unsafe.Pointer(&id))
	return errno
}

func (d *device) ioctl(what uintptr, arg unsafe.Pointer) (uintptr, syscall.Errno) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closed {
		return 0, unix.EBADF
	}
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(d.fd), what, uintptr(arg))
	return r, errno
}
