// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"fmt"
	"os"
	"runtime/debug"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs/internal/posix/thread"
)

// An env is where one rule is tested: an empty directory, which is the working
// directory of the thread. Tests call its methods and never T.Fatal, which
// would end only their thread.
type env struct {
	*testing.T
	dir    string
	fds    map[string]int
	runner runner

	skipWhy string // why nothing was tested
}

// stop ends a rule that failed.
type stop struct{}

// skipped ends a rule that cannot be tested, and says why.
type skipped string

func (e *env) skip(why string) { panic(skipped(why)) }

func (e *env) begin() {
	if err := os.Mkdir(e.dir, 0o755); err != nil {
		e.failf("%v", err)
	}
	e.must(os.Chmod(e.dir, 0o755))
	e.must(unix.Chdir(e.dir))
}

// end cleans up and takes what ended the rule.
func (e *env) end() {
	switch p := recover().(type) {
	case nil, stop:
	case skipped:
		e.skipWhy = string(p)
	default:
		e.Errorf("panic: %v\n%s", p, debug.Stack())
	}
	for _, fd := range e.fds {
		unix.Close(fd)
	}
	unix.Chdir("/")
	if err := os.RemoveAll(e.dir); err != nil {
		e.Errorf("clean up: %v", err)
	}
}

// failf fails the rule and ends it.
func (e *env) failf(format string, args ...any) {
	e.Helper()
	e.Errorf(format, args...)
	panic(stop{})
}

func (e *env) must(err error) {
	e.Helper()
	if err != nil {
		e.failf("%v", err)
	}
}

// want ends the rule unless err is the one that is wanted, by name.
func (e *env) want(what string, err error, want string) {
	e.Helper()
	if got := thread.Errno(err); got != want {
		e.failf("%s: got %s, want %s", what, got, want)
	}
}

// equal ends the rule unless got is what is wanted.
func equal[T comparable](e *env, what string, got, want T) {
	e.Helper()
	if got != want {
		e.failf("%s: got %v, want %v", what, got, want)
	}
}

// as runs f as an ordinary user.
func (e *env) as(uid, gid int, f func()) { thread.As(uid, gid, nil, f) }

func (e *env) stat(name string) unix.Stat_t {
	e.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		e.failf("lstat %s: %v", name, err)
	}
	return st
}

func (e *env) fstat(fd int) unix.Stat_t {
	e.Helper()
	var st unix.Stat_t
	e.must(unix.Fstat(fd, &st))
	return st
}

// open opens a file that is closed when the rule ends.
func (e *env) open(name string, flags int, mode uint32) int {
	e.Helper()
	fd, err := unix.Open(name, flags|unix.O_CLOEXEC, mode)
	if err != nil {
		e.failf("open %s: %v", name, err)
	}
	e.fds[fmt.Sprint("#", fd)] = fd
	return fd
}

func (e *env) close(fd int) {
	delete(e.fds, fmt.Sprint("#", fd))
	e.must(unix.Close(fd))
}

func (e *env) write(fd int, data string) {
	e.Helper()
	n, err := unix.Write(fd, []byte(data))
	if err != nil || n != len(data) {
		e.failf("write: %d of %d bytes, %v", n, len(data), err)
	}
}

func (e *env) put(name, data string) {
	e.Helper()
	fd := e.open(name, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC, 0o644)
	e.write(fd, data)
	e.close(fd)
}

func (e *env) get(name string) string {
	e.Helper()
	data, err := os.ReadFile(name)
	e.must(err)
	return string(data)
}

// tick waits until a coarse clock has moved on from all that was before.
func tick() { time.Sleep(12 * time.Millisecond) }

func later(a, b unix.Timespec) bool { return a.Sec > b.Sec || a.Sec == b.Sec && a.Nsec > b.Nsec }

// moved ends the rule unless f moved the times of name that are given as
// letters: m, c. Those in capitals must not move.
func (e *env) moved(name, times string, f func()) {
	e.Helper()
	before := e.stat(name)
	tick()
	f()
	e.compareTimes(name, times, before, e.stat(name))
}

func (e *env) compareTimes(name, times string, before, after unix.Stat_t) {
	e.Helper()
	for _, c := range times {
		was, is, must := before.Mtim, after.Mtim, true
		if c == 'c' || c == 'C' {
			was, is = before.Ctim, after.Ctim
		}
		if c < 'a' {
			must = false
		}
		switch {
		case must && !later(is, was):
			e.failf("%ctime of %s did not move: %d.%09d, was %d.%09d", c|0x20, name, is.Sec, is.Nsec, was.Sec, was.Nsec)
		case !must && is != was:
			e.failf("%ctime of %s moved: %d.%09d, was %d.%09d", c|0x20, name, is.Sec, is.Nsec, was.Sec, was.Nsec)
		}
	}
}
