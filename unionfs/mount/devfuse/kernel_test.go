// SPDX-License-Identifier: Apache-2.0

package devfuse

import (
	"bytes"
	"encoding/binary"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A kernel is the other end of a server's connection: a socket that keeps
// messages apart, as the device does.
type kernel struct {
	t    testing.TB
	fd   int
	s    *Server
	done chan struct{}

	mu      sync.Mutex
	unique  uint64                 // guarded by mu
	waiting map[uint64]chan answer // guarded by mu
	notices [][]byte               // guarded by mu
}

type answer struct {
	status fuse.Status
	body   []byte
}

// initIn is INIT as this kernel says it.
func initIn(minor uint32, flags uint64) []byte {
	return bytesOf(&fuse.InitIn{
		InHeader: fuse.InHeader{Opcode: opInit, Unique: 2},
		Major:    7, Minor: minor, MaxReadAhead: 128 << 10, Flags: uint32(flags), Flags2: uint32(flags >> 32),
	})
}

func bytesOf[T any](t *T) []byte {
	return bytes.Clone(unsafe.Slice((*byte)(unsafe.Pointer(t)), unsafe.Sizeof(*t)))
}

func as[T any](t testing.TB, b []byte) *T {
	t.Helper()
	v := new(T)
	if len(b) != int(unsafe.Sizeof(*v)) {
		t.Fatalf("%d bytes are no %T", len(b), *v)
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(v)), len(b)), b)
	return v
}

var testOptions = Options{
	MaxWrite: 64 << 10, MaxBackground: 12, MaxStackDepth: 1,
	Capabilities: fuse.CAP_ASYNC_READ | fuse.CAP_BIG_WRITES | fuse.CAP_MAX_PAGES | fuse.CAP_PASSTHROUGH,
}

// serve serves fs to a kernel that says everything it can, until the end of the
// test.
func serve(t testing.TB, fs fuse.RawFileSystem, prepare ...func(*Server)) *kernel {
	t.Helper()
	k := connect(t)
	k.send(initIn(45, 1<<64-1))
	s := k.new(fs)
	if s == nil {
		t.FailNow()
	}
	for _, f := range prepare {
		f(s)
	}
	k.receive(make([]byte, 256))
	go func() {
		s.Serve()
		close(k.done)
	}()
	go k.listen()
	t.Cleanup(func() {
		unix.Shutdown(k.fd, unix.SHUT_RDWR)
		<-k.done
		unix.Close(k.fd)
		if n := len(s.all); n != 0 {
			t.Errorf("%d workers are left", n)
		}
	})
	return k
}

func connect(t testing.TB) *kernel {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	k := &kernel{t: t, fd: pair[0], unique: 4, waiting: map[uint64]chan answer{}, done: make(chan struct{})}
	k.s = &Server{dev: device{fd: pair[1]}}
	return k
}

// new has INIT answered.
func (k *kernel) new(fs fuse.RawFileSystem) *Server {
	opt := testOptions
	opt.Log = k.logf
	s, err := New(k.s.dev.fd, fs, opt)
	if err != nil {
		k.t.Log(err)
		return nil
	}
	k.s = s
	return s
}

func (k *kernel) logf(format string, args ...any) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.t.Logf(format, args...)
}

func (k *kernel) send(request []byte) {
	binary.NativeEndian.PutUint32(request, uint32(len(request)))
	if _, err := unix.Write(k.fd, request); err != nil {
		k.t.Errorf("asking: %v", err)
	}
}

func (k *kernel) receive(buf []byte) (*fuse.OutHeader, []byte) {
	n, err := unix.Read(k.fd, buf)
	for err == unix.EINTR {
		n, err = unix.Read(k.fd, buf)
	}
	if err != nil || n < outRoom {
		return nil, nil
	}
	return (*fuse.OutHeader)(unsafe.Pointer(&buf[0])), buf[outRoom:n]
}

// listen hands answers to who waits for them.
func (k *kernel) listen() {
	buf := make([]byte, 256<<10)
	for {
		h, body := k.receive(buf)
		if h == nil {
			return
		}
		if int(h.Length) != outRoom+len(body) {
			k.t.Errorf("an answer of %d bytes says it has %d", outRoom+len(body), h.Length)
		}
		k.mu.Lock()
		if h.Unique == 0 {
			k.notices = append(k.notices, bytes.Clone(buf[:outRoom+len(body)]))
		} else if c := k.waiting[h.Unique]; c != nil {
			c <- answer{fuse.Status(-h.Status), bytes.Clone(body)}
			delete(k.waiting, h.Unique)
		} else {
			k.t.Errorf("an answer to %d, which nobody asked", h.Unique)
		}
		k.mu.Unlock()
	}
}

// start sends a request: its structure, which begins with a header, and what
// follows.
func (k *kernel) start(op uint32, request []byte, rest ...string) (unique uint64, c chan answer) {
	c = make(chan answer, 1)
	k.mu.Lock()
	k.unique += 2
	unique = k.unique
	k.waiting[unique] = c
	k.mu.Unlock()
	for _, r := range rest {
		request = append(request, r...)
	}
	h := (*fuse.InHeader)(unsafe.Pointer(&request[0]))
	h.Opcode, h.Unique = op, unique
	k.send(request)
	return unique, c
}

// ask waits for the answer.
func (k *kernel) ask(op uint32, request []byte, rest ...string) answer {
	k.t.Helper()
	_, c := k.start(op, request, rest...)
	select {
	case a := <-c:
		return a
	case <-time.After(20 * time.Second):
		k.t.Fatalf("request %d is not answered", op)
		return answer{}
	}
}

func (k *kernel) lookup(name string) fuse.Status {
	k.t.Helper()
	return k.ask(opLookup, bytesOf(&fuse.InHeader{NodeId: 1}), name, "\x00").status
}
