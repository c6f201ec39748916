// SPDX-License-Identifier: Apache-2.0

package crashfs

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// serverEnv has the server's orders, as JSON.
const serverEnv = "IMGFS_CRASHFS_SERVER"

// orders are what the server is told at its start.
type orders struct {
	Backing string
	Point   string
	Log     string
	Delay   time.Duration // the longest sync
}

// A request is a line to the server; it answers each with a line, empty or an
// error.
type request struct {
	Fault  *Fault `json:",omitempty"`
	Clear  bool   `json:",omitempty"` // no faults any more
	SyncFS bool   `json:",omitempty"`
	Kill   int    `json:",omitempty"` // the process to kill …
	At     uint64 `json:",omitempty"` // … once there are so many records
	Count  bool   `json:",omitempty"` // of the faults that struck
}

// A Fault makes calls fail.
type Fault struct {
	Kinds   []Kind        // which; of Sync, also directories
	Path    string        // a path.Match pattern for the name below the mount; "" = any
	Skip    int           // how many such calls succeed first
	Count   int           // how many fail; 0 = all from then on
	Errno   syscall.Errno // what they return
	Partial bool          // a write does half of its bytes first
}

// IsServer reports whether this process was started by Mount to serve.
func IsServer() bool { return os.Getenv(serverEnv) != "" }

// Serve serves until it is unmounted and returns the process's exit status.
// It must be called first thing by a process of which IsServer is true.
func Serve() int {
	if err := serve(); err != nil {
		fmt.Fprintln(os.Stderr, "crashfs:", err)
		return 1
	}
	return 0
}

func serve() error {
	var o orders
	if err := json.Unmarshal([]byte(os.Getenv(serverEnv)), &o); err != nil {
		return err
	}
	syscall.Umask(0)
	log, err := os.OpenFile(o.Log, os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	s := &server{log: log, delay: o.Delay}
	root := &fs.LoopbackRoot{Path: o.Backing}
	var st syscall.Stat_t
	if err := syscall.Stat(o.Backing, &st); err != nil {
		return err
	}
	root.Dev = st.Dev
	top := &node{LoopbackNode: fs.LoopbackNode{RootData: root}, s: s}
	root.RootNode = top
	long := time.Hour
	opt := &fs.Options{
		MountOptions: fuse.MountOptions{
			FsName: "crashfs", Name: "crashfs", MaxWrite: 1 << 20, DirectMount: true,
			DisabledCapabilities: fuse.CAP_PASSTHROUGH | fuse.CAP_ATOMIC_O_TRUNC,
		},
		EntryTimeout: &long, AttrTimeout: &long, NegativeTimeout: &long, NullPermissions: true,
	}
	fsrv, err := fs.Mount(o.Point, top, opt)
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout) // it answers
	go s.listen(os.Stdin, func() { fsrv.Unmount() })
	fsrv.Wait()
	return errors.Join(s.err, log.Close())
}

// A server records and lets fail.
type server struct {
	log   *os.File
	delay time.Duration

	mu     sync.Mutex // held while a change is applied and recorded
	n      uint64     // records written
	err    error      // the first that recording met
	faults []*Fault
	struck int // faults that did
	victim int // 0 = none
	killAt uint64
}

func (s *server) listen(in io.Reader, end func()) {
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var r request
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			fmt.Fprintln(os.Stdout, err)
			continue
		}
		fmt.Fprintln(os.Stdout, s.obey(r))
	}
	end() // the test's process is gone
}

// obey does what r says and returns the answer.
func (s *server) obey(r request) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case r.Fault != nil:
		s.faults = append(s.faults, r.Fault)
	case r.Clear:
		s.faults = nil
	case r.SyncFS:
		if errno, _ := s.faultLocked(SyncFS, ""); errno != 0 {
			return errno.Error()
		}
		s.recordLocked(Op{Kind: SyncFS, Begin: s.n})
	case r.Kill != 0:
		s.victim, s.killAt = r.Kill, r.At
	case r.Count:
		return fmt.Sprint(s.struck)
	}
	if s.err != nil {
		return s.err.Error()
	}
	return ""
}

// faultLocked returns what a call of this kind must fail with; 0: nothing.
func (s *server) faultLocked(k Kind, name string) (errno syscall.Errno, partial bool) {
	for _, f := range s.faults {
		if !f.hits(k, name) {
			continue
		}
		if f.Skip > 0 {
			f.Skip--
			continue
		}
		if f.Count < 0 {
			continue
		}
		if f.Count > 0 {
			if f.Count--; f.Count == 0 {
				f.Count = -1
			}
		}
		s.struck++
		return f.Errno, f.Partial
	}
	return 0, false
}

func (f *Fault) hits(k Kind, name string) bool {
	for _, want := range f.Kinds {
		if want == k {
			ok, err := path.Match(f.Path, name)
			return f.Path == "" || (ok && err == nil)
		}
	}
	return false
}

func (s *server) recordLocked(op Op) {
	if op.Time == 0 {
		op.Time = time.Now().UnixNano()
	}
	if _, err := s.log.Write(op.encode()); err != nil && s.err == nil {
		s.err = err
	}
	s.n++
	if s.victim != 0 && s.n >= s.killAt {
		unix.Kill(s.victim, unix.SIGKILL)
		s.victim = 0
	}
}

// do applies a change and records it, unless it fails or must.
func (s *server) do(op Op, name string, apply func() syscall.Errno) syscall.Errno {
	return s.fill(&op, name, apply)
}

// fill is do for an apply that learns fields of the record.
func (s *server) fill(op *Op, name string, apply func() syscall.Errno) syscall.Errno {
	s.mu.Lock()
	defer s.mu.Unlock()
	if errno, _ := s.faultLocked(op.Kind, name); errno != 0 {
		return errno
	}
	if errno := apply(); errno != 0 {
		return errno
	}
	s.recordLocked(*op)
	return 0
}

// sync records a sync, after a while in which others go on.
func (s *server) sync(ino uint64, name string, datasync uint32) syscall.Errno {
	s.mu.Lock()
	op := Op{Kind: Sync, Ino: ino, Flags: datasync & 1, Begin: s.n}
	s.mu.Unlock()
	if s.delay > 0 {
		time.Sleep(rand.N(s.delay))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	errno, _ := s.faultLocked(Sync, name)
	if errno != 0 {
		op.Kind = SyncFailed
	}
	s.recordLocked(op)
	return errno
}
