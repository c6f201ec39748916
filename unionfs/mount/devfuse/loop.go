// SPDX-License-Identifier: Apache-2.0

package devfuse

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// A worker reads requests and handles them, one at a time.
type worker struct {
	s    *Server
	turn chan uint64 // what it is to do next: the number it leads with, or toHelp

	// unique is the request that is handled, 0 if there is none. Who counts it
	// interrupted closes cancel, under Server.mu.
	unique atomicUnique
	cancel chan struct{}

	memory []byte // where the rest lies
	space  []byte // for a request: its payload, if that is a WRITE's, begins a page
	reply  []byte // for an answer: its body begins a page
	in     []byte // the request, in space
	poll   [1]unix.PollFd
	scratch
}

const toHelp = 1

const (
	page    = 4096
	minRoom = 128 << 10 // for xattrs, however small a WRITE may be
	inRoom  = int(unsafe.Sizeof(fuse.WriteIn{}))
	outRoom = int(unsafe.Sizeof(fuse.OutHeader{}))
)

func (s *Server) newWorker() (*worker, error) {
	room := max((s.opt.MaxWrite+page-1)&^(page-1), minRoom)
	memory, err := unix.Mmap(-1, 0, 2*(page+room), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, err
	}
	return &worker{
		s: s, turn: make(chan uint64, 1), cancel: make(chan struct{}),
		memory: memory,
		space:  memory[page-inRoom : page+room],
		reply:  memory[page+room+page-outRoom:],
	}, nil
}

// free gives the worker's memory back.
func (w *worker) free() { unix.Munmap(w.memory) }

// run works until there is nothing more to do.
func (w *worker) run(turn uint64) {
	defer w.s.living.Done()
	for ok := true; ok; turn, ok = w.rest() {
		if turn == toHelp {
			w.help()
		} else {
			w.leads(turn)
		}
	}
	w.free()
}

// rest waits for the next turn.
func (w *worker) rest() (turn uint64, ok bool) {
	s := w.s
	s.mu.Lock()
	if s.over || len(s.idle) >= maxIdle {
		delete(s.all, w)
		s.mu.Unlock()
		return 0, false
	}
	s.idle = append(s.idle, w)
	s.mu.Unlock()
	if turn, ok = <-w.turn; !ok {
		s.mu.Lock()
		delete(s.all, w)
		s.mu.Unlock()
	}
	return turn, ok
}

// leads reads and handles requests until it has lost the lead, or the mount is
// gone.
func (w *worker) leads(turn uint64) {
	s := w.s
	for {
		at, ok := w.await()
		if !ok {
			s.end()
			return
		}
		grows := s.backlog.grows(at, s.helpers.Load())
		s.lead.Store(turn + 1) // from here on the lead may be lost, and with it what is the leader's
		if !s.watched.Load() {
			s.look()
		}
		if s.isSlow(w.header()) {
			s.handOn(turn + 1)
		} else if grows {
			s.callHelp()
		}
		w.handle()
		s.took(w.header(), now()-at)
		if !s.lead.CompareAndSwap(turn+1, turn+2) {
			return
		}
		turn += 2
	}
}

// help handles requests as long as there are some.
func (w *worker) help() {
	s := w.s
	defer s.helpers.Add(-1)
	requests := 0
	defer func() { s.backlog.helped(requests) }()
	from := now()
	for at := from; at-from < helpSpin; at = now() {
		switch errno := w.read(); errno {
		case 0:
			requests++
			w.handle()
			from = now()
			s.took(w.header(), from-at)
		case unix.EAGAIN:
		default:
			return // the leader sees it too
		}
	}
}

// helpSpin is how long a helper looks for a request, in ns. It must be over
// when the leader sleeps.
const helpSpin = minSpin / 8

// workerLocked returns one without anything to do, nil if there may be none more.
// Preconditions: s.mu is held.
func (s *Server) workerLocked() *worker {
	if s.over {
		return nil
	}
	if last := len(s.idle) - 1; last >= 0 {
		w := s.idle[last]
		s.idle = s.idle[:last]
		return w
	}
	if len(s.all) >= maxWorkers {
		return nil
	}
	w, err := s.newWorker()
	if err != nil {
		return nil
	}
	s.all[w] = struct{}{}
	s.living.Add(1)
	go func() {
		if turn, ok := <-w.turn; ok {
			w.run(turn)
			return
		}
		w.free()
		s.living.Done()
	}()
	return w
}

// handOn takes the lead from who handles a request, and gives it to another.
func (s *Server) handOn(handling uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.workerLocked()
	switch {
	case w == nil:
	case s.lead.CompareAndSwap(handling, handling+1):
		w.turn <- handling + 1
	default:
		s.idle = append(s.idle, w)
	}
}

// callHelp has another worker handle requests too.
func (s *Server) callHelp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.workerLocked(); w != nil {
		s.helpers.Add(1)
		w.turn <- toHelp
	}
}

// look wakes the watchdog.
func (s *Server) look() {
	select {
	case s.burst <- struct{}{}:
	default:
	}
}

const (
	tick       = time.Millisecond
	quietTicks = 4 // without a request, until the watchdog sleeps
)

// watch takes the lead from who does not come back from a handler. It sleeps
// while nothing is asked.
func (s *Server) watch() {
	defer s.living.Done()
	for {
		select {
		case <-s.burst:
		case <-s.ended:
			return
		}
		s.watched.Store(true)
		last := uint64(0)
		for quiet := 0; quiet < quietTicks; {
			time.Sleep(tick)
			lead := s.lead.Load()
			switch {
			case lead != last:
				quiet, last = 0, lead
			case lead&1 != 0:
				s.handOn(lead)
			default:
				quiet++
			}
			if quiet == quietTicks {
				// Who counts up lead looks at watched after it.
				s.watched.Store(false)
				if s.lead.Load() != last {
					s.watched.Store(true)
					quiet = 0
				}
			}
			if s.isOver() {
				return
			}
		}
	}
}

func (s *Server) isOver() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

// A kind of request is slow if it took this long of late, in ns: waking another
// worker is little beside it.
const slow = int64(400 * time.Microsecond)

// slowSync is that of a sync, which waits for the disk: who syncs does so again
// and again, and a wake-up for each shows beside a fast disk.
const slowSync = int64(time.Millisecond)

// slowWrite is that of a write: of a mebibyte the copying alone takes as long as
// what is slow else, and many of them at once only wait for the lock of the file
// that they go to, each with memory of its own.
const slowWrite = 8 * slow

// usuallySlow has what takes long from the first.
var usuallySlow = map[uint32]int64{
	opFsync:         2 * slowSync,
	opFsyncDir:      2 * slowSync,
	opCopyFileRange: 8 * slow,
	opFallocate:     8 * slow,
	opSetLkw:        8 * slow,
}

func (s *Server) isSlow(h *fuse.InHeader) bool {
	limit := slow
	switch h.Opcode {
	case opFsync, opFsyncDir:
		limit = slowSync
	case opWrite:
		limit = slowWrite
	}
	return h.Opcode < maxOpcode && s.slowness[h.Opcode].Load() >= limit
}

// took notes that a request took so many ns: the mean of about eight.
func (s *Server) took(h *fuse.InHeader, ns int64) {
	if h.Opcode >= maxOpcode {
		return
	}
	mean := &s.slowness[h.Opcode]
	was := mean.Load()
	if was|ns < slow/8 {
		return // quick ever since: nothing that others read is written
	}
	mean.Store(was + (min(ns, 16*slow)-was)/8)
}

// await reads the next request, for the leader, and returns when it came, false
// if the mount is gone.
func (w *worker) await() (at int64, ok bool) {
	s := w.s
	errno := w.read()
	if errno == 0 {
		return now(), true
	}
	s.backlog.ends()
	for {
		from := now()
		until := from + s.spin.budget(from)
		for at = from; errno == unix.EAGAIN && at < until; at = now() {
			errno = w.read()
		}
		switch errno {
		case 0:
			s.spin.hit()
			return at, true
		case unix.EAGAIN:
			w.poll[0] = unix.PollFd{Fd: int32(s.dev.fd), Events: unix.POLLIN}
			unix.Poll(w.poll[:], -1) // an error is a reason to look, too
			errno = w.read()
			s.spin.slept(now() - at)
			if errno == 0 {
				return now(), true
			}
		case unix.ENODEV, unix.ECONNABORTED:
			return 0, false
		default:
			s.opt.Log("reading a request: %v", errno)
			return 0, false
		}
	}
}

// read reads a request if there is one: EAGAIN says there is none. It does not
// wait, so the scheduler need not know.
func (w *worker) read() unix.Errno {
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(w.s.dev.fd), uintptr(unsafe.Pointer(&w.space[0])), uintptr(len(w.space)))
		switch {
		case errno == unix.EINTR, errno == unix.ENOENT: // ENOENT: one that was interrupted
		case errno != 0:
			return errno
		case n == 0:
			return unix.ENODEV // a socket, in a test
		case n < unsafe.Sizeof(fuse.InHeader{}):
			w.s.opt.Log("a request of %d bytes", n)
		default:
			w.in = w.space[:n]
			return 0
		}
	}
}

// header returns the request's header.
func (w *worker) header() *fuse.InHeader { return (*fuse.InHeader)(unsafe.Pointer(&w.space[0])) }
