// SPDX-License-Identifier: Apache-2.0

package devfuse

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A testFS does as its functions say.
type testFS struct {
	fuse.RawFileSystem
	lookup func(cancel <-chan struct{}, h *fuse.InHeader, name string) fuse.Status
	read   func(in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status)
	forgot atomic.Int64
}

func newTestFS() *testFS {
	return &testFS{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		lookup:        func(<-chan struct{}, *fuse.InHeader, string) fuse.Status { return fuse.OK },
	}
}

func (f *testFS) Lookup(cancel <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	out.NodeId = uint64(len(name))
	return f.lookup(cancel, h, name)
}

func (f *testFS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	out.Ino = in.NodeId
	return fuse.OK
}

func (f *testFS) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	return f.read(in, buf)
}

func (f *testFS) Writev(_ <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	if uintptr(unsafe.Pointer(unsafe.SliceData(data[0])))%page != 0 {
		return 0, fuse.EIO
	}
	return uint32(len(data[0])), fuse.OK
}

func (f *testFS) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	for out.AddDirLookupEntry(fuse.DirEntry{Name: "a name", Ino: 7}) != nil {
	}
	return fuse.OK
}

func (f *testFS) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, name string, buf []byte) (uint32, fuse.Status) {
	if len(buf) < len(name) {
		return uint32(len(name)), fuse.ERANGE
	}
	return uint32(copy(buf, name)), fuse.OK
}

func (f *testFS) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, name string, value []byte) fuse.Status {
	if string(value) != "value" || in.Flags != 1 || in.SetXAttrFlags != 0 {
		return fuse.EIO
	}
	return fuse.OK
}

func (f *testFS) Rename(_ <-chan struct{}, in *fuse.RenameIn, name, to string) fuse.Status {
	if name != "name" || to != "to" || in.Newdir != 9 || in.NodeId != 1 {
		return fuse.EIO
	}
	return fuse.Status(in.Flags)
}

func (f *testFS) Forget(_, times uint64) { f.forgot.Add(int64(times)) }

func TestInit(t *testing.T) {
	all := uint64(1<<64 - 1)
	want := testOptions.Capabilities
	for _, tt := range []struct {
		name   string
		init   []byte
		ok     bool
		minor  uint32
		agreed uint64
	}{
		{"Linux 6.18", initIn(45, all), true, 45, want},
		{"a later one", initIn(99, all), true, 45, want},
		{"Linux 5.4, whose INIT is short", initIn(31, all&^(1<<30))[:56], true, 31, want & (1<<32 - 1)},
		{"a kernel without Flags2", initIn(31, all&^(1<<30)), true, 31, want & (1<<32 - 1)},
		{"a kernel that can do nothing", initIn(31, 0), true, 31, 0},
		{"too old", initIn(8, all), false, 0, 0},
		{"too short", initIn(31, all)[:50], false, 0, 0},
		{"something else", bytesOf(&fuse.OpenIn{InHeader: fuse.InHeader{Opcode: opOpen}}), false, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := connect(t)
			defer unix.Close(k.fd)
			k.send(tt.init)
			s := k.new(newTestFS())
			if s == nil != !tt.ok {
				t.Fatalf("ok = %v, want %v", s != nil, tt.ok)
			}
			if s == nil {
				return
			}
			_, body := k.receive(make([]byte, 256))
			out := as[fuse.InitOut](t, body)
			if out.Minor != tt.minor || out.Flags64()&^initExt != tt.agreed || s.agreed != tt.agreed {
				t.Errorf("minor %d, agreed %#x, want %d, %#x", out.Minor, out.Flags64(), tt.minor, tt.agreed)
			}
			if out.MaxWrite != 64<<10 || out.MaxPages != 16 || out.MaxBackground != 12 || out.CongestionThreshold != 9 {
				t.Errorf("%+v", out)
			}
			s.dev.close()
			s.spin.close()
		})
	}
	k := connect(t)
	unix.Close(k.fd)
	if k.new(newTestFS()) != nil {
		t.Error("a mount that is gone is served")
	}
}

func TestRequests(t *testing.T) {
	fs := newTestFS()
	fs.read = func(in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
		switch in.Offset {
		case 0:
			return fuse.ReadResultData(buf[:copy(buf, "here")]), fuse.OK
		case 1:
			return fuse.ReadResultData([]byte("there")), fuse.OK
		case 2:
			return nil, fuse.EISDIR
		case 3:
			return fuse.ReadResultData(make([]byte, in.Size+1)), fuse.OK
		}
		return fuse.ReadResultData(nil), fuse.OK
	}
	k := serve(t, fs)
	root := fuse.InHeader{NodeId: 1}
	read := func(off uint64, size uint32) []byte {
		return bytesOf(&fuse.ReadIn{InHeader: root, Offset: off, Size: size})
	}
	xattr := func(size uint32) []byte { return bytesOf(&fuse.GetXAttrIn{InHeader: root, Size: size}) }
	oldRename := bytesOf(&fuse.RenameIn{InHeader: root, Newdir: 9})[:48]
	oldSetXattr := bytesOf(&fuse.SetXAttrIn{InHeader: root, Size: 5, Flags: 1})[:48]
	extended := root
	extended.TotalExtlen = 1
	absurd := root
	absurd.TotalExtlen = 1<<16 - 1
	for _, tt := range []struct {
		name    string
		op      uint32
		request []byte
		rest    string
		status  fuse.Status
		body    int
	}{
		{"a lookup", opLookup, bytesOf(&root), "name\x00", fuse.OK, 128},
		{"… with an extension", opLookup, bytesOf(&extended), "name\x0012345678", fuse.OK, 128},
		{"… that is longer than all", opLookup, bytesOf(&absurd), "name\x00", fuse.EINVAL, 0},
		{"… without an end", opLookup, bytesOf(&root), "name", fuse.EINVAL, 0},
		{"… without a name", opLookup, bytesOf(&root), "", fuse.EINVAL, 0},
		{"attributes", opGetAttr, bytesOf(&fuse.GetAttrIn{InHeader: root}), "", fuse.OK, 104},
		{"… cut short", opGetAttr, bytesOf(&root), "", fuse.EINVAL, 0},
		{"a read into the buffer", opRead, read(0, 100), "", fuse.OK, 4},
		{"a read of elsewhere", opRead, read(1, 100), "", fuse.OK, 5},
		{"a read that fails", opRead, read(2, 100), "", fuse.EISDIR, 0},
		{"a read that gives too much", opRead, read(3, 100), "", fuse.EIO, 0},
		{"a read at the end", opRead, read(4, 100), "", fuse.OK, 0},
		{"a read that asks for too much", opRead, read(0, 1<<31), "", fuse.EINVAL, 0},
		{"a write", opWrite, bytesOf(&fuse.WriteIn{InHeader: root, Size: 3}), "abc", fuse.OK, 8},
		{"… of less than it says", opWrite, bytesOf(&fuse.WriteIn{InHeader: root, Size: 4}), "abc", fuse.EINVAL, 0},
		{"a listing", opReadDirPlus, read(0, 1024), "", fuse.OK, 960},
		{"… that asks for too much", opReadDirPlus, read(0, 1<<30), "", fuse.EINVAL, 0},
		{"an xattr's length", opGetXattr, xattr(0), "user.a\x00", fuse.OK, 8},
		{"an xattr", opGetXattr, xattr(64), "user.a\x00", fuse.OK, 6},
		{"… with too little room", opGetXattr, xattr(5), "user.a\x00", fuse.ERANGE, 0},
		{"… with too much", opGetXattr, xattr(1 << 31), "user.a\x00", fuse.EINVAL, 0},
		{"an xattr to set", opSetXattr, oldSetXattr, "name\x00value", fuse.OK, 0},
		{"… of less than it says", opSetXattr, oldSetXattr, "name\x00valu", fuse.EINVAL, 0},
		{"a rename", opRename, oldRename, "name\x00to\x00", fuse.OK, 0},
		{"… with flags", opRename2, bytesOf(&fuse.RenameIn{InHeader: root, Newdir: 9, Flags: 22}), "name\x00to\x00", 22, 0},
		{"… with one name", opRename, oldRename, "name\x00", fuse.EINVAL, 0},
		{"an ioctl that asks for too much", opIoctl, bytesOf(&fuse.IoctlIn{InHeader: root, OutSize: 1 << 31}), "", fuse.EINVAL, 0},
		{"an ioctl with less than it says", opIoctl, bytesOf(&fuse.IoctlIn{InHeader: root, InSize: 9}), "", fuse.EINVAL, 0},
		{"what the file system does not know", opReadlink, bytesOf(&root), "", fuse.ENOSYS, 0},
		{"what nobody knows", 63, bytesOf(&root), "", fuse.ENOSYS, 0},
		{"what nobody ever will", 4096, bytesOf(&root), "", fuse.ENOSYS, 0},
		{"INIT once more", opInit, initIn(31, 0), "", fuse.EIO, 0},
		{"an interrupt of nothing", opInterrupt, bytesOf(&fuse.InterruptIn{InHeader: root, Unique: 1234}), "", fuse.EAGAIN, 0},
		{"polling's file", opLookup, bytesOf(&root), PollName + "\x00", fuse.OK, 128},
		{"polling", opPoll, append(bytesOf(&root), make([]byte, 24)...), "", fuse.ENOSYS, 0},
	} {
		a := k.ask(tt.op, tt.request, tt.rest)
		if a.status != tt.status || len(a.body) != tt.body {
			t.Errorf("%s: %v and %d bytes, want %v and %d", tt.name, a.status, len(a.body), tt.status, tt.body)
		}
	}
	name := func() uint64 {
		return as[fuse.EntryOut](t, k.ask(opLookup, bytesOf(&root), PollName, "\x00").body).NodeId
	}
	if got, want := name(), uint64(len(PollName)); got != want {
		t.Errorf("after polling %s is node %d, not the file system's", PollName, got)
	}
	// What has no answer: those that come after it are answered.
	k.send(bytesOf(&fuse.ForgetIn{InHeader: fuse.InHeader{Opcode: opForget, NodeId: 7}, Nlookup: 3}))
	batch := append(bytesOf(&fuse.InHeader{Opcode: opBatchForget}), 2, 0, 0, 0, 0, 0, 0, 0)
	for range 4 {
		batch = append(batch, 5, 0, 0, 0, 0, 0, 0, 0)
	}
	k.send(batch)
	k.send(bytesOf(&fuse.InHeader{Opcode: opForget}))
	k.send([]byte{9, 0, 0, 0, 1, 0, 0, 0, 9})
	k.lookup("x")
	if got := fs.forgot.Load(); got != 3+2*5 {
		t.Errorf("%d forgotten", got)
	}
}

func TestPanic(t *testing.T) {
	fs := newTestFS()
	fs.lookup = func(_ <-chan struct{}, _ *fuse.InHeader, name string) fuse.Status {
		if name == "bad" {
			panic("bad")
		}
		return fuse.OK
	}
	k := serve(t, fs)
	for _, tt := range []struct {
		name string
		want fuse.Status
	}{{"bad", fuse.EIO}, {"good", fuse.OK}, {"bad", fuse.EIO}} {
		if got := k.lookup(tt.name); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// Who does not come back from a handler stops nobody, and what it waits for may
// be another request.
func TestStuck(t *testing.T) {
	release := make(chan struct{})
	fs := newTestFS()
	fs.lookup = func(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
		switch {
		case name == "release":
			close(release)
		case strings.HasPrefix(name, "stuck"):
			<-release
		}
		return fuse.OK
	}
	k := serve(t, fs)
	var stuck []chan answer
	for i := range 2 * maxIdle {
		_, c := k.start(opLookup, bytesOf(&fuse.InHeader{NodeId: 1}), fmt.Sprint("stuck", i), "\x00")
		stuck = append(stuck, c)
		k.lookup("quick")
	}
	k.lookup("release")
	for _, c := range stuck {
		if a := <-c; a.status != fuse.OK {
			t.Error(a.status)
		}
	}
	k.lookup("quick")
	for k.idle() > maxIdle {
		runtime.Gosched()
	}
}

func (k *kernel) idle() int {
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	return len(k.s.all) - 1
}

// What took long is not waited for the next time.
func TestSlow(t *testing.T) {
	fs := newTestFS()
	k := serve(t, fs)
	h := &fuse.InHeader{Opcode: opGetAttr}
	if k.s.isSlow(h) {
		t.Fatal("attributes are slow from the first")
	}
	for range 20 {
		k.s.took(h, 2*slow)
	}
	if !k.s.isSlow(h) {
		t.Fatal("it took long and is not slow")
	}
	for range 100 {
		if a := k.ask(opGetAttr, bytesOf(&fuse.GetAttrIn{})); a.status != fuse.OK {
			t.Fatal(a.status)
		}
		k.s.took(h, 0)
	}
	if k.s.isSlow(h) {
		t.Error("it is quick again and still slow")
	}
}

func TestInterrupt(t *testing.T) {
	begun := make(chan struct{})
	fs := newTestFS()
	fs.lookup = func(cancel <-chan struct{}, _ *fuse.InHeader, name string) fuse.Status {
		if name == "waits" {
			begun <- struct{}{}
			<-cancel
			return fuse.EINTR
		}
		select {
		case <-cancel:
			return fuse.EIO
		default:
			return fuse.OK
		}
	}
	k := serve(t, fs)
	for range 100 {
		unique, c := k.start(opLookup, bytesOf(&fuse.InHeader{NodeId: 1}), "waits", "\x00")
		<-begun
		k.send(bytesOf(&fuse.InterruptIn{InHeader: fuse.InHeader{Opcode: opInterrupt, Unique: unique + 1}, Unique: unique}))
		if a := <-c; a.status != fuse.EINTR {
			t.Fatalf("%v, want EINTR", a.status)
		}
		if st := k.lookup("after"); st != fuse.OK {
			t.Fatalf("the next one: %v", st)
		}
	}
}

// A handler may tell the kernel what makes it ask something else first.
func TestNotify(t *testing.T) {
	asked := make(chan struct{})
	fs := newTestFS()
	var k *kernel
	ready := make(chan struct{})
	fs.lookup = func(_ <-chan struct{}, _ *fuse.InHeader, name string) fuse.Status {
		if name == "other" {
			close(asked)
			return fuse.OK
		}
		<-ready
		st := k.s.InodeNotify(5, 0, 100)
		<-asked
		if st == fuse.OK {
			st = k.s.InodeNotifyStoreCache(6, 10, []byte("data"))
		}
		return st
	}
	k = serve(t, fs)
	close(ready)
	_, c := k.start(opLookup, bytesOf(&fuse.InHeader{NodeId: 1}), "notifies", "\x00")
	k.lookup("other")
	if a := <-c; a.status != fuse.OK {
		t.Fatal(a.status)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	want := []string{
		"\x28\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" +
			"\x05\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x64\x00\x00\x00\x00\x00\x00\x00",
		"\x2c\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" +
			"\x06\x00\x00\x00\x00\x00\x00\x00\x0a\x00\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00data",
	}
	if len(k.notices) != 2 || string(k.notices[0]) != want[0] || string(k.notices[1]) != want[1] {
		t.Errorf("got %q\nwant %q", k.notices, want)
	}
}

// Many ask at once, with helpers and without.
func TestManyAskers(t *testing.T) {
	for _, helpers := range []int32{0, 2} {
		t.Run(fmt.Sprint("helpers=", helpers), func(t *testing.T) {
			fs := newTestFS()
			var helped atomic.Bool
			var server *Server
			fs.read = func(in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
				if server.helpers.Load() > 0 {
					helped.Store(true)
				}
				buf[0] = byte(in.Offset)
				return fuse.ReadResultData(buf), fuse.OK
			}
			k := serve(t, fs, func(s *Server) {
				s.backlog.most = helpers
				s.backlog.after.Store(0)
				server = s
			})
			var askers sync.WaitGroup
			for range 64 {
				askers.Go(func() {
					for i := range 200 {
						a := k.ask(opRead, bytesOf(&fuse.ReadIn{Offset: uint64(i), Size: uint32(i + 1)}))
						if a.status != fuse.OK || len(a.body) != i+1 || a.body[0] != byte(i) {
							t.Errorf("read %d: %v, %d bytes", i, a.status, len(a.body))
							return
						}
					}
				})
			}
			askers.Wait()
			if helped.Load() != (helpers > 0) {
				t.Errorf("helped: %v", helped.Load())
			}
		})
	}
}

// When the mount goes, handlers are told, and Serve returns after the last one.
func TestEnd(t *testing.T) {
	for range 20 {
		fs := newTestFS()
		var inside atomic.Int32
		begun := make(chan struct{}, 8)
		fs.lookup = func(cancel <-chan struct{}, _ *fuse.InHeader, _ string) fuse.Status {
			inside.Add(1)
			begun <- struct{}{}
			<-cancel
			inside.Add(-1)
			return fuse.EINTR
		}
		k := serve(t, fs)
		for i := range 8 {
			k.start(opLookup, bytesOf(&fuse.InHeader{NodeId: 1}), fmt.Sprint(i), "\x00")
		}
		for range 8 {
			<-begun
		}
		unix.Shutdown(k.fd, unix.SHUT_RDWR)
		<-k.done
		if n := inside.Load(); n != 0 {
			t.Errorf("%d handlers still run", n)
		}
		if st := k.s.InodeNotify(1, 0, 0); st != fuse.ENODEV {
			t.Errorf("a notification after the end: %v", st)
		}
		if errno := k.s.UnregisterBackingFd(1); errno != unix.EBADF {
			t.Errorf("an ioctl after the end: %v", errno)
		}
	}
}

// A server that nobody asks does nothing.
func TestIdle(t *testing.T) {
	k := serve(t, newTestFS())
	for range 100 {
		k.lookup("x")
	}
	for k.s.watched.Load() || k.s.lead.Load()&1 != 0 {
		time.Sleep(tick)
	}
	time.Sleep(2 * time.Duration(maxSpin))
	before := reads(t)
	time.Sleep(50 * tick)
	if n := reads(t) - before; n > 20 {
		t.Errorf("%d reads while nobody asks", n)
	}
	k.lookup("x")
}

// reads returns how many read calls this process made.
func reads(t *testing.T) (n int) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		t.Skip(err)
	}
	for line := range strings.Lines(string(text)) {
		fmt.Sscanf(line, "syscr: %d", &n)
	}
	return n
}

// hot returns a call of each request that must be quick, from the question to
// the answer.
func hot(tb testing.TB) map[string]func() {
	fs := newTestFS()
	result := fuse.ReadResultData(make([]byte, 4096))
	fs.read = func(in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) { return result, fuse.OK }
	k := connect(tb)
	k.send(initIn(45, 0))
	s := k.new(fs)
	k.receive(make([]byte, 256))
	go s.Serve()
	tb.Cleanup(func() { unix.Close(k.fd) })
	calls := map[string]func(){}
	buf := make([]byte, 64<<10)
	for name, c := range map[string]struct {
		op      uint32
		request []byte
	}{
		"lookup":      {opLookup, append(bytesOf(&fuse.InHeader{NodeId: 1}), "some name\x00"...)},
		"getattr":     {opGetAttr, bytesOf(&fuse.GetAttrIn{})},
		"read":        {opRead, bytesOf(&fuse.ReadIn{Size: 4096})},
		"readdirplus": {opReadDirPlus, bytesOf(&fuse.ReadIn{Size: 32 << 10})},
		"write":       {opWrite, append(bytesOf(&fuse.WriteIn{Size: 4096}), make([]byte, 4096)...)},
		"getxattr":    {opGetXattr, append(bytesOf(&fuse.GetXAttrIn{Size: 64}), "security.capability\x00"...)},
	} {
		h := (*fuse.InHeader)(unsafe.Pointer(&c.request[0]))
		h.Opcode, h.Unique = c.op, 6
		calls[name] = func() {
			unix.Write(k.fd, c.request)
			if h, _ := k.receive(buf); h == nil || h.Status != 0 {
				tb.Fatalf("%s: %+v", name, h)
			}
		}
	}
	return calls
}

func TestNoAllocs(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	for name, call := range hot(t) {
		if n := testing.AllocsPerRun(1000, call); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}

func BenchmarkRequest(b *testing.B) {
	for name, call := range hot(b) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				call()
			}
		})
	}
}

// Whatever comes, the answer is one that the kernel could ask for.
func FuzzRequest(f *testing.F) {
	for op := range uint32(maxOpcode) {
		h := fuse.InHeader{Opcode: op, Unique: 3, NodeId: 1}
		f.Add(bytesOf(&h))
		f.Add(append(bytesOf(&fuse.ReadIn{InHeader: h, Size: 512}), "name\x00other\x00"...))
		f.Add(append(bytesOf(&fuse.GetXAttrIn{InHeader: h, Size: 3}), "name\x00other\x00"...))
		f.Add(append(bytesOf(&fuse.InHeader{Opcode: op, NodeId: pollNode, TotalExtlen: 1}), "name\x00other\x00"...))
	}
	fs := newTestFS()
	fs.read = func(in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
		return fuse.ReadResultData(buf), fuse.OK
	}
	s := &Server{fs: fs, opt: testOptions, all: map[*worker]struct{}{}}
	s.opt.Log = func(string, ...any) {}
	null, err := unix.Open("/dev/null", unix.O_WRONLY, 0)
	if err != nil {
		f.Fatal(err)
	}
	s.dev.fd = null
	w, err := s.newWorker()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, request []byte) {
		if len(request) < int(unsafe.Sizeof(fuse.InHeader{})) || len(request) > len(w.space) {
			return
		}
		w.in = w.space[:copy(w.space, request)]
		status, n := w.dispatch(w.header())
		if status > maxErrno || status == fuse.OK && (n < 0 || n > len(w.body())) {
			t.Errorf("%v and %d bytes", status, n)
		}
		w.handle()
	})
}

func TestRunning(t *testing.T) {
	for text, want := range map[string]int{
		"0.20 0.18 0.12 1/80 11206\n":   1,
		"0.20 0.18 0.12 130/8000 11206": 130,
		"0.20 0.18 0.12":                0,
		"/":                             0,
		"":                              0,
	} {
		if got := running([]byte(text)); got != want {
			t.Errorf("running(%q) = %d, want %d", text, got, want)
		}
	}
}

// Looking for requests is given up when none come, and begun again when one came
// right after.
func TestSpin(t *testing.T) {
	s := spin{most: maxSpin, now: maxSpin, load: load{fd: -1}}
	for range 8 {
		s.slept(soon + 1)
	}
	if got := s.budget(0); got != 0 {
		t.Errorf("after long sleeps: %d ns", got)
	}
	s.slept(soon)
	if got := s.budget(0); got != minSpin {
		t.Errorf("after a short sleep: %d ns", got)
	}
	s.hit()
	if got := s.budget(0); got != maxSpin {
		t.Errorf("after a hit: %d ns", got)
	}
	s.load.high = true
	if got := s.budget(0); got != 0 {
		t.Errorf("under load: %d ns", got)
	}
	one := spin{load: load{fd: -1}}
	one.slept(0)
	one.hit()
	if got := one.budget(0); got != 0 {
		t.Errorf("on one CPU: %d ns", got)
	}
}
