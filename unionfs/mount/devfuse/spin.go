// SPDX-License-Identifier: Apache-2.0

package devfuse

import (
	"bytes"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// spin says how long to look for a request before sleeping. It is the leader's.
type spin struct {
	most int64 // ns; 0 on one CPU
	now  int64 // ns, at most most
	load load
}

const (
	maxSpin = int64(200 * time.Microsecond)
	minSpin = maxSpin / 4 // below is as good as none

	// soon is how long a sleep may last, with the time it takes to wake up, to
	// say that looking a little longer would have spared it.
	soon = 3 * maxSpin
)

func (s *spin) init() {
	s.load.fd = -1
	if cpus := min(runtime.NumCPU(), runtime.GOMAXPROCS(0)); cpus > 1 {
		s.most, s.now = maxSpin, maxSpin
		s.load.init(runtime.NumCPU())
	}
}

func (s *spin) close() { s.load.close() }

// budget returns how long to look, in ns, from the time now.
func (s *spin) budget(now int64) int64 {
	if s.now == 0 || s.load.isHigh(now) {
		return 0
	}
	return s.now
}

// hit notes that a request was found by looking.
func (s *spin) hit() { s.now = s.most }

// slept notes that looking was in vain, and how long the sleep after it lasted.
func (s *spin) slept(ns int64) {
	if ns <= soon {
		s.now = min(max(2*s.now, minSpin), s.most)
	} else if s.now /= 2; s.now < minSpin {
		s.now = 0
	}
}

// load tells whether others want the CPUs: looking for requests must not take
// time from those who make them.
type load struct {
	fd   int // /proc/loadavg; -1 = the kernel does not tell
	cpus int
	next int64 // when to ask again
	high bool
	text [64]byte
}

// askLoad is how often the load is asked for, in ns. It takes 1 or 2 µs.
const askLoad = int64(time.Millisecond)

func (l *load) init(cpus int) {
	l.cpus = cpus
	if fd, err := unix.Open("/proc/loadavg", unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
		l.fd = fd
	}
}

func (l *load) close() {
	if l.fd >= 0 {
		unix.Close(l.fd)
	}
	l.fd = -1
}

// isHigh reports whether more threads want to run than there are CPUs, the one
// that asks among them.
func (l *load) isHigh(now int64) bool {
	if l.fd < 0 || now < l.next {
		return l.high
	}
	l.next = now + askLoad
	n, err := unix.Pread(l.fd, l.text[:], 0)
	l.high = err == nil && running(l.text[:n]) > l.cpus
	return l.high
}

// running returns how many threads run or want to, from /proc/loadavg's text:
// "0.20 0.18 0.12 1/80 11206".
func running(text []byte) int {
	before, _, ok := bytes.Cut(text, []byte{'/'})
	if !ok {
		return 0
	}
	n, _ := strconv.Atoi(string(before[bytes.LastIndexByte(before, ' ')+1:]))
	return n
}

// backlog says when the leader alone is not enough.
type backlog struct {
	most  int32        // helpers; programs that ask need CPUs too
	since int64        // when the leader last had to wait for a request; 0: it did just now; the leader's
	after atomic.Int64 // how long that must be ago for a helper to be called, in ns
}

const (
	minBacklog = int64(250 * time.Microsecond)
	maxBacklog = 64 * minBacklog
)

func (b *backlog) init(cpus int) {
	b.most = int32(cpus/2 - 1)
	b.after.Store(minBacklog)
}

// grows reports whether one more is to help, besides the helpers there are.
func (b *backlog) grows(now int64, helpers int32) bool {
	if helpers >= b.most {
		return false
	}
	if b.since == 0 {
		b.since = now
	}
	if now-b.since < b.after.Load() {
		return false
	}
	b.since = now
	return true
}

// ends notes that the leader waits.
func (b *backlog) ends() { b.since = 0 }

// worthIt is how many requests a helper should find.
const worthIt = 32

// helped notes how many requests a helper found. Calling one that finds few costs
// more than it saves, so the next one is called later.
func (b *backlog) helped(requests int) {
	if requests >= worthIt {
		b.after.Store(minBacklog)
	} else {
		b.after.Store(min(2*b.after.Load(), maxBacklog))
	}
}
