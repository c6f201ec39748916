// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/imgfs/imgfs/cow"
	"github.com/imgfs/imgfs/index"
)

// An openFile is a regular file that the kernel has open, once or several
// times. How its content comes to the kernel, through us or straight from its
// data file, is decided at the first open and holds until the last RELEASE, and
// longer while a program has it mapped.
type openFile struct {
	node cow.Node
	fh   uint64

	refs         int  // opened and not released; guarded by fileTable.mu
	marked       bool // passed through and opened for writing; guarded by fileTable.mu
	recent, used bool // see recentFiles; guarded by fileTable.mu

	// mu guards the rest, and orders before fileTable.mu. It is held while the
	// first open decides.
	mu      sync.Mutex
	decided bool
	closed  bool
	passed  bool  // the kernel reads and writes the data file itself
	fd      int   // that file
	backing int32 // the id that the kernel knows it by

	reader, writer atomic.Pointer[cow.File] // set under mu

	maker atomic.Uint32 // the process that made it, until it is known to be large; 0: not known

	// clean tells that the file has neither setuid, setgid nor capabilities, so
	// that a write need not clear them.
	clean atomic.Bool
}

// file returns the file to do things with.
func (o *openFile) file() *cow.File {
	if f := o.writer.Load(); f != nil {
		return f
	}
	return o.reader.Load()
}

// close closes what o has open. Nobody else has it any more.
func (o *openFile) close(v *top) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	if o.passed {
		var st syscall.Stat_t
		if o.maker.Load() != 0 && syscall.Fstat(o.fd, &st) == nil && st.Size > smallFile {
			o.large(v)
		}
		v.kernel.UnregisterBackingFd(o.backing)
	}
	for _, p := range [...]*atomic.Pointer[cow.File]{&o.reader, &o.writer} {
		if f := p.Load(); f != nil {
			if err := f.Close(); err != nil {
				v.errno("release", uint64(o.node), err)
			}
		}
	}
}

// large notes that o did not stay small.
func (o *openFile) large(v *top) {
	if pid := o.maker.Swap(0); pid != 0 {
		v.bursts.large(pid)
	}
}

// fileTable has the open files of a mount. A handle is a place in slots.
type fileTable struct {
	mu    sync.RWMutex
	nodes map[cow.Node]*openFile // guarded by mu
	slots []*openFile            // guarded by mu; 0 is none
	free  []uint64               // guarded by mu
	marks atomic.Int64           // how many are marked

	recent recentFiles
	mapped mappedFiles
}

func (t *fileTable) init() {
	t.nodes = make(map[cow.Node]*openFile)
	t.slots = make([]*openFile, 1)
}

// get returns the file of a handle, nil if there is none.
func (t *fileTable) get(fh uint64) *openFile {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if fh >= uint64(len(t.slots)) {
		return nil
	}
	return t.slots[fh]
}

// open reports whether n is open.
func (t *fileTable) open(n cow.Node) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.nodes[n] != nil
}

// take returns the open file of n with one more reference.
func (t *fileTable) take(n cow.Node) *openFile {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.takeLocked(n)
}

func (t *fileTable) takeLocked(n cow.Node) *openFile {
	o := t.nodes[n]
	if o == nil {
		o = &openFile{node: n, fh: uint64(len(t.slots))}
		if last := len(t.free) - 1; last >= 0 {
			o.fh = t.free[last]
			t.free = t.free[:last]
			t.slots[o.fh] = o
		} else {
			t.slots = append(t.slots, o)
		}
		t.nodes[n] = o
	}
	o.refs++
	return o
}

// release lets go of a reference, and of the file with the last one.
func (t *fileTable) release(v *top, o *openFile) {
	t.mu.Lock()
	o.refs--
	last, marked := o.refs == 0, o.marked
	if last && !marked {
		t.removeLocked(o)
	}
	t.mu.Unlock()
	switch {
	case !last:
	case marked:
		t.mapped.add(v, o)
	default:
		o.close(v)
	}
}

// removeLocked takes o, which has no references, out of the table.
func (t *fileTable) removeLocked(o *openFile) {
	delete(t.nodes, o.node)
	t.slots[o.fh] = nil
	t.free = append(t.free, o.fh)
	if o.marked {
		o.marked = false
		t.marks.Add(-1)
	}
}

func (t *fileTable) closeAll(v *top) {
	t.mapped.stop()
	t.mu.Lock()
	left := slices.Collect(maps.Values(t.nodes))
	for _, o := range left {
		t.removeLocked(o)
	}
	t.mu.Unlock()
	for _, o := range left {
		o.close(v)
	}
}

// written reports whether n may be written to without our knowing.
func (t *fileTable) written(n cow.Node) bool {
	if t.marks.Load() == 0 {
		return false
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	o := t.nodes[n]
	return o != nil && o.marked
}

// mark notes that o is open for writing and passed through, and reports whether
// that is news.
func (t *fileTable) mark(o *openFile) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if o.marked {
		return false
	}
	o.marked = true
	t.marks.Add(1)
	return true
}

// privileged notes that n may have setuid, setgid or capabilities now.
func (t *fileTable) privileged(n cow.Node) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if o := t.nodes[n]; o != nil {
		o.clean.Store(false)
	}
}

func writes(flags uint32) bool { return flags&syscall.O_ACCMODE != syscall.O_RDONLY }

// Open opens a regular file, if it must be. O_TRUNC is not ours to do (CAP_ATOMIC_O_TRUNC): the
// kernel would ask for it before it finds out that the file is a running program.
func (v *top) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) (status fuse.Status) {
	defer v.caught(debug.SetPanicOnFault(true), "open", in.NodeId, &status)
	if v.keepsOpen {
		return fuse.ENOSYS
	}
	return v.errno("open", in.NodeId, v.open(cow.Node(in.NodeId), nil, false, writes(in.Flags), out))
}

// open opens n. Where it was just made fresh is its file, and clean says that it
// has neither setuid nor setgid.
func (v *top) open(n cow.Node, fresh *cow.File, clean, write bool, out *fuse.OpenOut) error {
	o := v.files.take(n)
	if err := v.openAs(o, fresh, clean, write); err != nil {
		v.files.release(v, o)
		return err
	}
	out.Fh = o.fh
	out.OpenFlags = fuse.FOPEN_NOFLUSH
	if o.passed {
		out.OpenFlags |= fuse.FOPEN_PASSTHROUGH
		out.BackingID = o.backing
	} else {
		out.OpenFlags |= fuse.FOPEN_KEEP_CACHE
	}
	return nil
}

// openAs opens o's file for what is asked, and decides how its content is
// read and written if that is not decided.
func (v *top) openAs(o *openFile, fresh *cow.File, clean, write bool) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	f := fresh
	if f != nil {
		o.writer.Store(f)
	} else if f = o.file(); f == nil || write && o.writer.Load() == nil {
		var err error
		if f, err = v.u.Open(o.node, write); err != nil {
			return err
		}
		if write {
			o.writer.Store(f)
		} else {
			o.reader.Store(f)
		}
	}
	if !o.decided {
		if v.passthrough {
			v.pass(o, f, fresh != nil, write && !clean)
		}
		o.decided = true
	}
	if write && o.passed && v.files.mark(o) && fresh == nil {
		// What the kernel knows of it, it was told for ever.
		v.kernel.InodeNotify(uint64(o.node), attributesOnly, 0)
	}
	return nil
}

// pass has the kernel read and write o's data file itself if it takes no byte
// from a layer. kills says that a write would have to clear privileges, if there
// are some: it comes to us then. What the kernel holds of a file that might have
// been written past its pages is dropped. Preconditions: o.mu is held, and this
// is o's first open.
func (v *top) pass(o *openFile, f *cow.File, fresh, kills bool) {
	fd, ok, err := f.ExistingBacking()
	if err == nil && !ok {
		return
	}
	if err == nil && !(kills && v.hasPrivileges(o.node)) {
		id, errno := v.kernel.RegisterBackingFd(&fuse.BackingMap{Fd: int32(fd)})
		if errno == 0 {
			o.passed, o.fd, o.backing = true, fd, id
			return
		}
		v.once("passthrough", "passing node %d through: %v", o.node, errno)
	}
	if !fresh {
		v.kernel.InodeNotify(uint64(o.node), 0, 0)
	}
}

// hasPrivileges reports whether n has setuid, setgid or capabilities.
func (v *top) hasPrivileges(n cow.Node) bool {
	var a cow.Attr
	if err := v.u.Attr(n, &a); err != nil || a.Mode&(syscall.S_ISUID|syscall.S_ISGID) != 0 {
		return true
	}
	_, err := v.u.Xattr(n, capabilityXattr)
	return err != syscall.ENODATA
}

// Create makes a regular file and opens it.
func (v *top) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	return v.createFile("create", in, name, out)
}

// Tmpfile makes a regular file without a name.
func (v *top) Tmpfile(_ <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	return v.createFile("tmpfile", in, "", out)
}

func (v *top) createFile(op string, in *fuse.CreateIn, name string, out *fuse.CreateOut) (status fuse.Status) {
	defer v.caught(debug.SetPanicOnFault(true), op, in.NodeId, &status)
	var a cow.Attr
	k := cow.Creation{Mode: index.ModeRegular | in.Mode&0o7777, Umask: in.Umask}
	k.Small = v.passthrough && v.bursts.small(in.Caller.Pid, madeName{cow.Node(in.NodeId), name}, time.Now())
	f, err := v.u.CreateFile(caller(&in.InHeader), cow.Node(in.NodeId), name, k, &a)
	if err == nil {
		clean := a.Mode&(syscall.S_ISUID|syscall.S_ISGID) == 0
		err = v.open(a.Node, f, clean, writes(in.Flags), &out.OpenOut)
		if o := v.files.get(out.Fh); err == nil && o != nil {
			o.maker.Store(in.Caller.Pid)
		}
	}
	if err != nil {
		return v.errno(op, in.NodeId, err)
	}
	v.entry(&a, &out.EntryOut)
	return fuse.OK
}

// Release is the last of an open.
func (v *top) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	var status fuse.Status
	defer v.caught(debug.SetPanicOnFault(true), "release", in.NodeId, &status)
	if o := v.files.get(in.Fh); o != nil {
		v.files.release(v, o)
	}
}

// Flush has nothing to do. With a writeback cache it is answered all the same, at
// each close: the kernel sends the bytes that it has gathered before, and forgets
// it when the server dies meanwhile; that the close fails then is FLUSH's doing.
func (v *top) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status {
	if v.passthrough {
		return fuse.ENOSYS // OPEN asked for none
	}
	return fuse.OK
}

// using returns the open file of a handle, or of a node where none is given, to
// be released with done. write says what it is needed for.
func (v *top) using(fh, node uint64, write bool) (*openFile, *cow.File, error) {
	if fh == 0 && v.keepsOpen {
		o := v.files.use(v, cow.Node(node))
		if err := v.openAs(o, nil, false, write); err != nil {
			v.files.drop(v, o.node)
			v.files.release(v, o)
			return nil, nil, err
		}
		return o, o.file(), nil
	}
	o := v.files.get(fh)
	if o == nil {
		return nil, nil, fmt.Errorf("no open file has handle %d", fh)
	}
	if f := o.file(); !write || o.writer.Load() == f {
		return o, f, nil
	}
	return nil, nil, syscall.EBADF
}

// done ends using.
func (v *top) done(fh uint64, o *openFile) {
	if fh == 0 {
		v.files.release(v, o)
	}
}

// Read fills the buffer that goes to the kernel.
func (v *top) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (result fuse.ReadResult, status fuse.Status) {
	defer v.caught(debug.SetPanicOnFault(true), "read", in.NodeId, &status)
	o, f, err := v.using(in.Fh, in.NodeId, false)
	if err != nil {
		return nil, v.errno("read", in.NodeId, err)
	}
	defer v.done(in.Fh, o)
	if v.read != nil && in.NodeId < uint64(cow.FirstOwn) {
		v.read.add(index.NodeID(in.NodeId)) // before its layer is asked: see DropLayer
	}
	got, err := f.ReadAt(buf, int64(in.Offset))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, v.errno("read", in.NodeId, err)
	}
	r := readResults.Get().(*readResult)
	r.b = buf[:got]
	return r, fuse.OK
}

// Write takes what lies in one piece; Writev is asked first.
func (v *top) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	return v.write(in, data)
}

// Writev takes what lies in several pieces, but they are one.
func (v *top) Writev(_ <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	if len(data) != 1 {
		return 0, fuse.ENOSYS // Write gets them joined
	}
	return v.write(in, data[0])
}

func (v *top) write(in *fuse.WriteIn, data []byte) (written uint32, status fuse.Status) {
	defer v.caught(debug.SetPanicOnFault(true), "write", in.NodeId, &status)
	o, f, err := v.using(in.Fh, in.NodeId, true)
	if err != nil {
		return 0, v.errno("write", in.NodeId, err)
	}
	defer v.done(in.Fh, o)
	if in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0 {
		if err := v.clearPrivileges(o, &in.InHeader); err != nil {
			return 0, v.errno("write", in.NodeId, err)
		}
	}
	if in.Offset > smallFile {
		o.large(v)
	}
	n, err := f.WriteAt(data, int64(in.Offset))
	if err != nil && (n == 0 || in.WriteFlags&fuse.WRITE_CACHE != 0) { // the kernel's cache knows no short write
		return 0, v.errno("write", in.NodeId, err)
	}
	return uint32(n), fuse.OK
}

// clearPrivileges clears setuid, setgid and capabilities of a file that is
// written to by who may not keep them.
func (v *top) clearPrivileges(o *openFile, h *fuse.InHeader) error {
	if o.clean.Swap(true) {
		return nil // who sets one later says so later
	}
	if !v.hasPrivileges(o.node) {
		return nil
	}
	var a cow.Attr
	return v.u.SetAttr(caller(h), o.node, &cow.SetAttr{Valid: cow.KillPriv}, &a)
}

// Fsync makes a file durable.
func (v *top) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) (status fuse.Status) {
	defer v.caught(debug.SetPanicOnFault(true), "fsync", in.NodeId, &status)
	o, f, err := v.using(in.Fh, in.NodeId, false)
	if err != nil {
		return v.errno("fsync", in.NodeId, err)
	}
	defer v.done(in.Fh, o)
	return v.errno("fsync", in.NodeId, f.Sync(in.FsyncFlags&fsyncData != 0))
}

const fsyncData = 1 // FUSE_FSYNC_FDATASYNC

// Fallocate answers fallocate(2).
func (v *top) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) (status fuse.Status) {
	defer v.caught(debug.SetPanicOnFault(true), "fallocate", in.NodeId, &status)
	o, f, err := v.using(in.Fh, in.NodeId, true)
	if err != nil {
		return v.errno("fallocate", in.NodeId, err)
	}
	defer v.done(in.Fh, o)
	return v.errno("fallocate", in.NodeId, f.Allocate(in.Mode, int64(in.Offset), int64(in.Length)))
}

// Lseek answers SEEK_DATA and SEEK_HOLE, the only ones that come. What a
// program wrote may still lie in the kernel's cache, which writes it back when
// it is told to drop it.
func (v *top) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) (status fuse.Status) {
	defer v.caught(debug.SetPanicOnFault(true), "lseek", in.NodeId, &status)
	if in.Whence != seekData && in.Whence != seekHole {
		return fuse.EINVAL
	}
	o, f, err := v.using(in.Fh, in.NodeId, false)
	if err != nil {
		return v.errno("lseek", in.NodeId, err)
	}
	defer v.done(in.Fh, o)
	if !v.passthrough {
		v.kernel.InodeNotify(in.NodeId, 0, 0)
	}
	off, err := f.SeekData(int64(in.Offset), in.Whence == seekData)
	out.Offset = uint64(off)
	return v.errno("lseek", in.NodeId, err)
}
