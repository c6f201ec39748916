// SPDX-License-Identifier: Apache-2.0

package devfuse

import (
	"bytes"
	"math"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The kinds of requests that are known here; another one is answered ENOSYS.
const (
	opLookup        = 1
	opForget        = 2
	opGetAttr       = 3
	opSetAttr       = 4
	opReadlink      = 5
	opSymlink       = 6
	opMknod         = 8
	opMkdir         = 9
	opUnlink        = 10
	opRmdir         = 11
	opRename        = 12
	opLink          = 13
	opOpen          = 14
	opRead          = 15
	opWrite         = 16
	opStatfs        = 17
	opRelease       = 18
	opFsync         = 20
	opSetXattr      = 21
	opGetXattr      = 22
	opListXattr     = 23
	opRemoveXattr   = 24
	opFlush         = 25
	opInit          = 26
	opOpenDir       = 27
	opReadDir       = 28
	opReleaseDir    = 29
	opFsyncDir      = 30
	opGetLk         = 31
	opSetLk         = 32
	opSetLkw        = 33
	opAccess        = 34
	opCreate        = 35
	opInterrupt     = 36
	opDestroy       = 38
	opIoctl         = 39
	opPoll          = 40
	opNotifyReply   = 41
	opBatchForget   = 42
	opFallocate     = 43
	opReadDirPlus   = 44
	opRename2       = 45
	opLseek         = 46
	opCopyFileRange = 47
	opTmpfile       = 51
	opStatx         = 52

	maxOpcode = 64
)

const (
	eproto = unix.EPROTO

	noAnswer = fuse.Status(math.MinInt32) // the kernel expects none
)

// scratch is what handlers are given that does not lie in a request as it is.
type scratch struct {
	list     fuse.DirEntryList
	vec      [1][]byte
	rename   fuse.RenameIn
	setXattr fuse.SetXAttrIn
	iov      [2]unix.Iovec
}

// atomicUnique is a request's number, or interrupted.
type atomicUnique struct{ atomic.Uint64 }

const interrupted = math.MaxUint64

// interruptLocked tells the handler of a request that nobody waits for it any
// more, and reports whether w handles that one. Preconditions: Server.mu is held.
func (w *worker) interruptLocked(unique uint64) bool {
	if unique == 0 || unique == interrupted || !w.unique.CompareAndSwap(unique, interrupted) {
		return false
	}
	close(w.cancel)
	return true
}

// interrupt looks for the request that nobody waits for any more. Another worker
// may have read it and not yet begun: EAGAIN has the kernel say it again.
func (s *Server) interrupt(unique uint64) fuse.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.all {
		if w.interruptLocked(unique) {
			return noAnswer
		}
	}
	return fuse.EAGAIN
}

// handle handles the request that was read, and answers it.
func (w *worker) handle() {
	h := w.header()
	w.unique.Store(h.Unique)
	status, n := w.safely(h)
	if w.unique.Swap(0) == interrupted {
		w.s.mu.Lock() // until cancel is closed
		w.cancel = make(chan struct{})
		w.s.mu.Unlock()
	}
	if status != noAnswer {
		w.answered(h, w.answer(status, n))
	}
}

// answered complains of an answer that the kernel did not take.
func (w *worker) answered(h *fuse.InHeader, errno unix.Errno) {
	switch errno {
	case 0:
	case unix.ENOENT, unix.ENODEV, unix.EPERM, unix.ECONNABORTED:
		// Nobody waits for it any more, or the mount is gone.
	default:
		w.s.opt.Log("answering request %d: %v", h.Opcode, errno)
	}
}

// safely is what dispatch is, and EIO if a handler panics.
func (w *worker) safely(h *fuse.InHeader) (status fuse.Status, n int) {
	defer func() {
		if p := recover(); p != nil {
			w.s.opt.Log("request %d: panic: %v\n%s", h.Opcode, p, debug.Stack())
			status, n = fuse.EIO, 0
		}
	}()
	return w.dispatch(h)
}

// body returns room for an answer.
func (w *worker) body() []byte { return w.reply[outRoom:] }

// result returns the beginning of the answer, as a T that is zero.
func result[T any](w *worker) *T {
	t := (*T)(unsafe.Pointer(&w.reply[outRoom]))
	*t = *new(T)
	return t
}

// answer answers with n bytes of the body.
func (w *worker) answer(status fuse.Status, n int) unix.Errno {
	n = w.sign(status, n)
	for {
		_, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(w.s.dev.fd), uintptr(unsafe.Pointer(&w.reply[0])), uintptr(n))
		if errno != unix.EINTR {
			return errno
		}
	}
}

// answerWith answers with data, which does not lie in the body.
func (w *worker) answerWith(data []byte) unix.Errno {
	w.sign(fuse.OK, len(data))
	w.iov[0].Base, w.iov[1].Base = &w.reply[0], &data[0]
	w.iov[0].SetLen(outRoom)
	w.iov[1].SetLen(len(data))
	for {
		_, _, errno := unix.RawSyscall(unix.SYS_WRITEV, uintptr(w.s.dev.fd), uintptr(unsafe.Pointer(&w.iov[0])), 2)
		if errno != unix.EINTR {
			w.iov[1].Base = nil
			return errno
		}
	}
}

// maxErrno is the largest error that the kernel takes.
const maxErrno = 511

// sign writes the answer's header, and returns its length with n bytes of body.
func (w *worker) sign(status fuse.Status, n int) int {
	switch {
	case status < 0 || status > maxErrno:
		status, n = fuse.EIO, 0
	case status != fuse.OK:
		n = 0
	}
	*(*fuse.OutHeader)(unsafe.Pointer(&w.reply[0])) = fuse.OutHeader{
		Length: uint32(outRoom + n), Status: int32(-status), Unique: w.header().Unique,
	}
	return outRoom + n
}

// fixed is how long a request of each kind is without names and data.
var fixed = [maxOpcode]uint16{
	opLookup:        sizeOf[fuse.InHeader](),
	opForget:        sizeOf[fuse.ForgetIn](),
	opGetAttr:       sizeOf[fuse.GetAttrIn](),
	opSetAttr:       sizeOf[fuse.SetAttrIn](),
	opReadlink:      sizeOf[fuse.InHeader](),
	opSymlink:       sizeOf[fuse.InHeader](),
	opMknod:         sizeOf[fuse.MknodIn](),
	opMkdir:         sizeOf[fuse.MkdirIn](),
	opUnlink:        sizeOf[fuse.InHeader](),
	opRmdir:         sizeOf[fuse.InHeader](),
	opRename:        sizeOf[fuse.InHeader]() + 8,
	opLink:          sizeOf[fuse.LinkIn](),
	opOpen:          sizeOf[fuse.OpenIn](),
	opRead:          sizeOf[fuse.ReadIn](),
	opWrite:         sizeOf[fuse.WriteIn](),
	opStatfs:        sizeOf[fuse.InHeader](),
	opRelease:       sizeOf[fuse.ReleaseIn](),
	opFsync:         sizeOf[fuse.FsyncIn](),
	opSetXattr:      sizeOf[fuse.InHeader]() + 8,
	opGetXattr:      sizeOf[fuse.GetXAttrIn](),
	opListXattr:     sizeOf[fuse.GetXAttrIn](),
	opRemoveXattr:   sizeOf[fuse.InHeader](),
	opFlush:         sizeOf[fuse.FlushIn](),
	opInit:          sizeOf[fuse.InHeader](),
	opOpenDir:       sizeOf[fuse.OpenIn](),
	opReadDir:       sizeOf[fuse.ReadIn](),
	opReleaseDir:    sizeOf[fuse.ReleaseIn](),
	opFsyncDir:      sizeOf[fuse.FsyncIn](),
	opGetLk:         sizeOf[fuse.LkIn](),
	opSetLk:         sizeOf[fuse.LkIn](),
	opSetLkw:        sizeOf[fuse.LkIn](),
	opAccess:        sizeOf[fuse.AccessIn](),
	opCreate:        sizeOf[fuse.CreateIn](),
	opInterrupt:     sizeOf[fuse.InterruptIn](),
	opDestroy:       sizeOf[fuse.InHeader](),
	opIoctl:         sizeOf[fuse.IoctlIn](),
	opPoll:          sizeOf[fuse.InHeader](),
	opNotifyReply:   sizeOf[fuse.InHeader](),
	opBatchForget:   sizeOf[fuse.InHeader]() + 8,
	opFallocate:     sizeOf[fuse.FallocateIn](),
	opReadDirPlus:   sizeOf[fuse.ReadIn](),
	opRename2:       sizeOf[fuse.RenameIn](),
	opLseek:         sizeOf[fuse.LseekIn](),
	opCopyFileRange: sizeOf[fuse.CopyFileRangeIn](),
	opTmpfile:       sizeOf[fuse.CreateIn](),
	opStatx:         sizeOf[fuse.StatxIn](),
}

func sizeOf[T any]() uint16 { return uint16(unsafe.Sizeof(*new(T))) }

// in returns the request as what it is. Its length was checked.
func in[T any](w *worker) *T { return (*T)(unsafe.Pointer(&w.space[0])) }

// payload returns the request's names or data, false if it is too short for
// what it says to be.
func (w *worker) payload(h *fuse.InHeader) ([]byte, bool) {
	size := int(fixed[h.Opcode])
	if h.Opcode == opSetXattr && w.s.agreed&fuse.CAP_SETXATTR_EXT != 0 {
		size = int(sizeOf[fuse.SetXAttrIn]())
	}
	end := len(w.in) - 8*int(h.TotalExtlen) // extensions, which nobody asked for
	if size > end {
		return nil, false
	}
	return w.in[size:end], true
}

// dispatch has the request handled, and returns how many bytes of body the answer
// has.
func (w *worker) dispatch(h *fuse.InHeader) (status fuse.Status, n int) {
	if h.Opcode >= maxOpcode || fixed[h.Opcode] == 0 {
		return fuse.ENOSYS, 0
	}
	p, ok := w.payload(h)
	if !ok {
		w.s.opt.Log("request %d of %d bytes", h.Opcode, len(w.in))
		if h.Opcode == opForget || h.Opcode == opBatchForget {
			return noAnswer, 0
		}
		return fuse.EINVAL, 0
	}
	if h.NodeId == pollNode {
		return w.pollFile(h)
	}
	fs := w.s.fs
	switch h.Opcode {
	case opForget:
		fs.Forget(h.NodeId, in[fuse.ForgetIn](w).Nlookup)
		return noAnswer, 0
	case opBatchForget:
		w.forgets(p)
		return noAnswer, 0
	case opInterrupt:
		return w.s.interrupt(in[fuse.InterruptIn](w).Unique), 0
	case opNotifyReply:
		return noAnswer, 0
	case opGetAttr:
		out := result[fuse.AttrOut](w)
		return fs.GetAttr(w.cancel, in[fuse.GetAttrIn](w), out), size(out)
	case opSetAttr:
		out := result[fuse.AttrOut](w)
		return fs.SetAttr(w.cancel, in[fuse.SetAttrIn](w), out), size(out)
	case opStatx:
		out := result[fuse.StatxOut](w)
		return fs.Statx(w.cancel, in[fuse.StatxIn](w), out), size(out)
	case opStatfs:
		out := result[fuse.StatfsOut](w)
		return fs.StatFs(w.cancel, h, out), size(out)
	case opReadlink:
		target, status := fs.Readlink(w.cancel, h)
		return status, copy(w.body(), target)
	case opAccess:
		return fs.Access(w.cancel, in[fuse.AccessIn](w)), 0
	case opOpen:
		out := result[fuse.OpenOut](w)
		return fs.Open(w.cancel, in[fuse.OpenIn](w), out), size(out)
	case opRead:
		return w.readFile(in[fuse.ReadIn](w))
	case opWrite:
		return w.write(in[fuse.WriteIn](w), p)
	case opFlush:
		return fs.Flush(w.cancel, in[fuse.FlushIn](w)), 0
	case opRelease:
		fs.Release(w.cancel, in[fuse.ReleaseIn](w))
		return fuse.OK, 0
	case opFsync:
		return fs.Fsync(w.cancel, in[fuse.FsyncIn](w)), 0
	case opFallocate:
		return fs.Fallocate(w.cancel, in[fuse.FallocateIn](w)), 0
	case opLseek:
		out := result[fuse.LseekOut](w)
		return fs.Lseek(w.cancel, in[fuse.LseekIn](w), out), size(out)
	case opCopyFileRange:
		out := result[fuse.WriteOut](w)
		out.Size, status = fs.CopyFileRange(w.cancel, in[fuse.CopyFileRangeIn](w))
		return status, size(out)
	case opIoctl:
		return w.ioctl(in[fuse.IoctlIn](w), p)
	case opOpenDir:
		out := result[fuse.OpenOut](w)
		return fs.OpenDir(w.cancel, in[fuse.OpenIn](w), out), size(out)
	case opReadDir, opReadDirPlus:
		return w.readDir(in[fuse.ReadIn](w))
	case opReleaseDir:
		fs.ReleaseDir(in[fuse.ReleaseIn](w))
		return fuse.OK, 0
	case opFsyncDir:
		return fs.FsyncDir(w.cancel, in[fuse.FsyncIn](w)), 0
	case opGetLk:
		out := result[fuse.LkOut](w)
		return fs.GetLk(w.cancel, in[fuse.LkIn](w), out), size(out)
	case opSetLk:
		return fs.SetLk(w.cancel, in[fuse.LkIn](w)), 0
	case opSetLkw:
		return fs.SetLkw(w.cancel, in[fuse.LkIn](w)), 0
	case opListXattr:
		x := in[fuse.GetXAttrIn](w)
		return w.xattr(x.Size, func(buf []byte) (uint32, fuse.Status) { return fs.ListXAttr(w.cancel, h, buf) })
	case opTmpfile:
		out := result[fuse.CreateOut](w)
		return fs.Tmpfile(w.cancel, in[fuse.CreateIn](w), out), size(out)
	case opPoll:
		w.s.polled.Store(true)
		return fuse.ENOSYS, 0 // which is said once
	case opDestroy:
		return fuse.OK, 0
	case opInit:
		return fuse.EIO, 0 // that was the first
	}
	return w.dispatchNamed(h, p)
}

func size[T any](*T) int { return int(unsafe.Sizeof(*new(T))) }

// dispatchNamed has a request with names handled.
func (w *worker) dispatchNamed(h *fuse.InHeader, p []byte) (status fuse.Status, n int) {
	end := bytes.IndexByte(p, 0)
	if end < 0 {
		return fuse.EINVAL, 0
	}
	first, rest := p[:end], p[end+1:]
	fs := w.s.fs
	switch h.Opcode {
	case opLookup:
		name := unsafe.String(unsafe.SliceData(first), len(first))
		if h.NodeId == fuse.FUSE_ROOT_ID && name == PollName && !w.s.polled.Load() {
			return w.pollFile(h)
		}
		out := result[fuse.EntryOut](w)
		return fs.Lookup(w.cancel, h, name, out), size(out)
	case opGetXattr:
		name := unsafe.String(unsafe.SliceData(first), len(first))
		x := in[fuse.GetXAttrIn](w)
		return w.xattr(x.Size, func(buf []byte) (uint32, fuse.Status) { return fs.GetXAttr(w.cancel, h, name, buf) })
	}
	name := string(first) // may be kept
	switch h.Opcode {
	case opMknod:
		out := result[fuse.EntryOut](w)
		return fs.Mknod(w.cancel, in[fuse.MknodIn](w), name, out), size(out)
	case opMkdir:
		out := result[fuse.EntryOut](w)
		return fs.Mkdir(w.cancel, in[fuse.MkdirIn](w), name, out), size(out)
	case opUnlink:
		return fs.Unlink(w.cancel, h, name), 0
	case opRmdir:
		return fs.Rmdir(w.cancel, h, name), 0
	case opLink:
		out := result[fuse.EntryOut](w)
		return fs.Link(w.cancel, in[fuse.LinkIn](w), name, out), size(out)
	case opCreate:
		out := result[fuse.CreateOut](w)
		return fs.Create(w.cancel, in[fuse.CreateIn](w), name, out), size(out)
	case opRemoveXattr:
		return fs.RemoveXAttr(w.cancel, h, name), 0
	case opSetXattr:
		return w.setXattrs(h, name, rest), 0
	}
	if end = bytes.IndexByte(rest, 0); end < 0 {
		return fuse.EINVAL, 0
	}
	second := string(rest[:end])
	switch h.Opcode {
	case opSymlink:
		out := result[fuse.EntryOut](w)
		return fs.Symlink(w.cancel, h, second, name, out), size(out)
	case opRename:
		w.rename = fuse.RenameIn{InHeader: *h, Newdir: in[fuse.RenameIn](w).Newdir}
		return fs.Rename(w.cancel, &w.rename, name, second), 0
	case opRename2:
		return fs.Rename(w.cancel, in[fuse.RenameIn](w), name, second), 0
	}
	return fuse.ENOSYS, 0
}

// forgets hands on a BATCH_FORGET: pairs of a node and how often it is forgotten.
func (w *worker) forgets(pairs []byte) {
	type one struct{ node, times uint64 }
	const length = int(unsafe.Sizeof(one{}))
	for ; len(pairs) >= length; pairs = pairs[length:] {
		if f := (*one)(unsafe.Pointer(&pairs[0])); f.node != pollNode {
			w.s.fs.Forget(f.node, f.times)
		}
	}
}

// readFile answers READ. What the handler gives is sent from where it lies.
func (w *worker) readFile(r *fuse.ReadIn) (fuse.Status, int) {
	body := w.body()
	if int(r.Size) > len(body) {
		return fuse.EINVAL, 0
	}
	buf := body[:r.Size]
	got, status := w.s.fs.Read(w.cancel, r, buf)
	if got == nil {
		return status, 0
	}
	defer got.Done()
	if status != fuse.OK {
		return status, 0
	}
	data, status := got.Bytes(buf)
	switch {
	case status != fuse.OK || len(data) == 0:
		return status, 0
	case len(data) > len(buf):
		return fuse.EIO, 0
	case &data[0] == &buf[0]:
		return fuse.OK, len(data)
	}
	w.answered(&r.InHeader, w.answerWith(data))
	return noAnswer, 0
}

// write answers WRITE.
func (w *worker) write(in *fuse.WriteIn, data []byte) (status fuse.Status, n int) {
	if int(in.Size) > len(data) {
		return fuse.EINVAL, 0
	}
	data = data[:in.Size]
	out := result[fuse.WriteOut](w)
	w.vec[0] = data
	out.Size, status = w.s.fs.Writev(w.cancel, in, w.vec[:])
	if status == fuse.ENOSYS {
		out.Size, status = w.s.fs.Write(w.cancel, in, data)
	}
	return status, size(out)
}

// readDir answers READDIR and READDIRPLUS.
func (w *worker) readDir(r *fuse.ReadIn) (status fuse.Status, n int) {
	body := w.body()
	if int(r.Size) > len(body) {
		return fuse.EINVAL, 0
	}
	w.list = *fuse.NewDirEntryList(body[:r.Size], r.Offset)
	if r.Opcode == opReadDirPlus {
		status = w.s.fs.ReadDirPlus(w.cancel, r, &w.list)
	} else {
		status = w.s.fs.ReadDir(w.cancel, r, &w.list)
	}
	return status, len(w.list.Bytes())
}

// xattr answers GETXATTR and LISTXATTR: with at most room bytes that get gives,
// or with how many they are if room is 0.
func (w *worker) xattr(room uint32, get func([]byte) (uint32, fuse.Status)) (fuse.Status, int) {
	body := w.body()
	if int64(room) > int64(len(body)) {
		return fuse.EINVAL, 0
	}
	n, status := get(body[:room])
	if room == 0 {
		if status == fuse.ERANGE {
			status = fuse.OK
		}
		out := result[fuse.GetXAttrOut](w)
		out.Size = n
		return status, size(out)
	}
	if status == fuse.OK && n > room {
		status = fuse.ERANGE
	}
	return status, int(n)
}

// setXattrs answers SETXATTR.
func (w *worker) setXattrs(h *fuse.InHeader, name string, value []byte) fuse.Status {
	x := in[fuse.SetXAttrIn](w)
	if w.s.agreed&fuse.CAP_SETXATTR_EXT == 0 {
		w.setXattr = fuse.SetXAttrIn{InHeader: *h, Size: x.Size, Flags: x.Flags}
		x = &w.setXattr
	}
	if int64(x.Size) > int64(len(value)) {
		return fuse.EINVAL
	}
	return w.s.fs.SetXAttr(w.cancel, x, name, value[:x.Size])
}

// ioctl answers IOCTL.
func (w *worker) ioctl(in *fuse.IoctlIn, data []byte) (fuse.Status, int) {
	out := result[fuse.IoctlOut](w)
	room := w.body()[size(out):]
	if int64(in.InSize) > int64(len(data)) || int64(in.OutSize) > int64(len(room)) {
		return fuse.EINVAL, 0
	}
	room = room[:in.OutSize]
	clear(room)
	return w.s.fs.Ioctl(w.cancel, in, data[:in.InSize], out, room), size(out) + len(room)
}

// PollName is a file that stands in the root until the kernel has asked once
// whether files can be polled, which cannot be told it otherwise: no. A Go program
// that opens files of a mount that it serves itself could hang else, since the
// runtime has its files polled by a thread that holds what our handlers run on.
const PollName = ".go-fuse-epoll-hack"

const pollNode = math.MaxUint64 // PollName's, also after it is gone

// pollFile answers for PollName.
func (w *worker) pollFile(h *fuse.InHeader) (fuse.Status, int) {
	attr := fuse.Attr{Ino: pollNode, Mode: syscall.S_IFREG | 0o444, Nlink: 1}
	switch h.Opcode {
	case opLookup:
		out := result[fuse.EntryOut](w)
		out.NodeId, out.Attr = pollNode, attr
		return fuse.OK, size(out)
	case opGetAttr:
		out := result[fuse.AttrOut](w)
		out.Attr = attr
		return fuse.OK, size(out)
	case opOpen:
		out := result[fuse.OpenOut](w)
		out.Fh = pollNode
		return fuse.OK, size(out)
	case opPoll:
		w.s.polled.Store(true)
		return fuse.ENOSYS, 0
	case opGetXattr:
		return fuse.ENODATA, 0
	case opAccess, opFlush, opRelease:
		return fuse.OK, 0
	case opForget, opNotifyReply:
		return noAnswer, 0
	case opInterrupt:
		return w.s.interrupt(in[fuse.InterruptIn](w).Unique), 0
	}
	return fuse.ERANGE, 0 // ENOSYS would hold for other files too
}
