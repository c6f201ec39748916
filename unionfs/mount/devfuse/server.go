// SPDX-License-Identifier: Apache-2.0

package devfuse

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Options say what a Server asks of the kernel.
type Options struct {
	MaxWrite      int    // bytes in a WRITE and in a READ, at most; 4096 or more
	MaxBackground int    // requests that nobody waits for, under way at once
	MaxStackDepth int    // of the file systems that files are passed through to, with this one
	Capabilities  uint64 // fuse.CAP_*: those the kernel has are agreed on

	// Log is told what is wrong with requests and handlers.
	Log func(format string, args ...any)
}

// A Server serves one mount.
type Server struct {
	fs  fuse.RawFileSystem
	opt Options
	dev device

	offered, agreed uint64 // fuse.CAP_*
	polled          atomic.Bool

	// lead tells who leads: an even number while the leader looks for a request,
	// one more while it handles one. Then whoever counts it up once more has
	// taken the lead from it, and gives that number to another worker.
	lead    atomic.Uint64
	watched atomic.Bool   // the watchdog looks
	burst   chan struct{} // has it look

	spin     spin // the leader's
	backlog  backlog
	helpers  atomic.Int32
	slowness [maxOpcode]atomic.Int64 // ns that a kind of request took of late

	mu     sync.Mutex
	all    map[*worker]struct{} // guarded by mu
	idle   []*worker            // without anything to do, the last one first; guarded by mu
	over   bool                 // guarded by mu
	ended  chan struct{}        // closed with over
	living sync.WaitGroup       // workers and the watchdog
}

// maxWorkers bounds how many requests are handled at once. A handler may wait
// for another request, so there must be more than the programs that ask at once.
const maxWorkers = 1024

// maxIdle is how many workers are kept when there is nothing to do.
const maxIdle = 4

// New returns a server for the mount whose connection fd is, which it takes,
// after the kernel's first request was answered. Serve answers the others.
func New(fd int, fs fuse.RawFileSystem, opt Options) (*Server, error) {
	s := &Server{
		fs: fs, opt: opt,
		burst: make(chan struct{}, 1),
		all:   make(map[*worker]struct{}),
		ended: make(chan struct{}),
	}
	s.dev.fd = fd
	s.spin.init()
	s.backlog.init(runtime.GOMAXPROCS(0))
	for op, took := range usuallySlow {
		s.slowness[op].Store(took)
	}
	err := s.begin()
	if err != nil {
		s.dev.close()
		s.spin.close()
		return nil, err
	}
	return s, nil
}

// begin answers INIT.
func (s *Server) begin() error {
	w, err := s.newWorker()
	if err != nil {
		return err
	}
	defer w.free()
	if err := unix.SetNonblock(s.dev.fd, true); err != nil {
		return err
	}
	return w.answerInit()
}

// Offered returns the capabilities that the kernel has (fuse.CAP_*).
func (s *Server) Offered() uint64 { return s.offered }

// Serve answers requests until the mount is gone, and returns when the last
// handler has. It is called once.
func (s *Server) Serve() {
	w, err := s.newWorker()
	if err != nil {
		s.opt.Log("serving: %v", err) // no memory: who asks gets an error at least
	} else {
		s.mu.Lock()
		s.all[w] = struct{}{}
		s.living.Add(2)
		s.mu.Unlock()
		s.lead.Store(2)
		go w.run(2)
		go s.watch()
		s.living.Wait()
	}
	s.dev.close()
	s.spin.close()
	s.fs.OnUnmount()
}

// end has everybody stop: the mount is gone.
func (s *Server) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return
	}
	s.over = true
	close(s.ended)
	for _, w := range s.idle {
		close(w.turn)
	}
	s.idle = nil
	for w := range s.all {
		w.interruptLocked(w.unique.Load())
	}
}

// epoch is what time is counted from.
var epoch = time.Now()

// now returns ns since epoch.
func now() int64 { return int64(time.Since(epoch)) }
