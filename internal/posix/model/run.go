// SPDX-License-Identifier: Apache-2.0

package model

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// slack is how far behind the clock a time may lie that a kernel gave: its
// coarse clock ticks every 10 ms at the slowest, and late on a busy machine.
const slack = 100 * time.Millisecond

// A run is a sequence that is being applied.
type run struct {
	a, b *side
	last string // what the last operation returned
	fine bool   // a gives every change that could be seen a time of its own

	// ids are the inode numbers that files of a, by inode number and time
	// of birth, have in b. They hold through everything.
	ids map[identity]uint64
}

// An identity names a file of a filesystem that reuses inode numbers.
type identity struct {
	ino   uint64
	birth unix.StatxTimestamp
}

// begin opens both sides and compares what they begin with.
func begin(a, b Tree) (*run, string) {
	unix.Umask(0o022)
	r := &run{a: &side{tree: a}, b: &side{tree: b}, ids: map[identity]uint64{}}
	aerr, berr := r.a.open(), r.b.open()
	if err := errors.Join(aerr, berr); err != nil {
		return r, "open: " + err.Error()
	}
	r.fine = isFine(r.a)
	if why := r.check(); why != "" {
		return r, "before the first operation: " + why
	}
	return r, ""
}

func (r *run) end() {
	r.a.close()
	r.b.close()
}

// isFine tries whether two changes in a row have two times.
func isFine(s *side) bool {
	var first, second unix.Stat_t
	if unix.Fchdir(s.root) != nil || unix.Stat(".", &first) != nil {
		return false
	}
	mode := first.Mode & 0o7777
	for _, st := range []*unix.Stat_t{&first, &second} {
		if unix.Chmod(".", mode) != nil || unix.Stat(".", st) != nil {
			return false
		}
	}
	return first.Ctim != second.Ctim
}

// step does one operation on both sides and returns what was different.
func (r *run) step(o op) string {
	switch o.Kind {
	case "check":
		return r.check()
	case "remount":
		return r.remount()
	case "umask":
		r.last = execs["umask"](nil, &o) // one thread, one umask
		return ""
	}
	pairs := r.watch(&o)
	defer pairs.close()
	start := time.Now()
	r.last = r.a.do(&o)
	out := r.b.do(&o)
	if out != r.last {
		return fmt.Sprintf("%s\n\ta: %s\n\tb: %s", o, r.last, out)
	}
	if why := pairs.compare(start, r.fine, ctimeOf(&o)); why != "" {
		return fmt.Sprintf("%s: %s\n\t%s", o, r.last, why)
	}
	return ""
}

// A latitude says how the ctimes of two filesystems may differ.
type latitude int

const (
	alike    latitude = iota
	moreMove          // they may move on the second side alone
	anyMove
)

// ctimeOf returns what is left to filesystems: whether the ctime moves when an
// ACL is removed that is not there, an owner set to none, or an xattr to what it
// is (ext4 leaves it; it also keeps no ACL that says no more than the mode).
func ctimeOf(o *op) latitude {
	switch o.Kind {
	case "removexattr":
		if strings.HasPrefix(o.S, "system.posix_acl_") {
			return anyMove
		}
	case "chown", "fchown":
		if o.UID == -1 && o.GID == -1 {
			return anyMove
		}
	case "setxattr", "fsetxattr":
		return moreMove
	}
	return alike
}

// remount takes both trees away and brings them back.
func (r *run) remount() string {
	r.a.close()
	r.b.close()
	for _, s := range []*side{r.a, r.b} {
		if s.tree.Remount != nil {
			if err := s.tree.Remount(); err != nil {
				return "remount: " + err.Error()
			}
		}
		if err := s.open(); err != nil {
			return "open after a remount: " + err.Error()
		}
	}
	if why := r.check(); why != "" {
		return "after a remount: " + why
	}
	return ""
}

// A pair is one inode, on both sides, that an operation may concern.
type pair struct {
	what  string
	fd    [2]int
	owned bool // to be closed
	was   [2]unix.Stat_t
}

type pairs []pair

// watch looks at all that o may change: what its paths name, the directories
// these lie in, and what is held.
func (r *run) watch(o *op) pairs {
	var all pairs
	if o.At == 0 || r.a.held[o.At-1] >= 0 && r.b.held[o.At-1] >= 0 {
		seen := map[string]bool{}
		for _, p := range []string{o.P, o.Q} {
			if p == "" {
				continue
			}
			for _, name := range []string{p, path.Dir(p)} {
				if !seen[name] {
					seen[name] = true
					all = r.watchPath(all, o.At, name)
				}
			}
		}
	}
	for i := range slots {
		reused := i == o.FD && (o.Kind == "open" || o.Kind == "tmpfile" || o.Kind == "close")
		if !reused && r.a.held[i] >= 0 && r.b.held[i] >= 0 {
			all = append(all, pair{what: fmt.Sprintf("descriptor %d", i), fd: [2]int{r.a.held[i], r.b.held[i]}})
		}
	}
	for i := range all {
		for j, fd := range all[i].fd {
			unix.Fstat(fd, &all[i].was[j])
		}
	}
	return all
}

func (r *run) watchPath(all pairs, at int, name string) pairs {
	p := pair{what: fmt.Sprintf("%q", name), owned: true}
	for j, s := range []*side{r.a, r.b} {
		base := s.root
		if at > 0 {
			base = s.held[at-1]
		}
		fd := -1
		err := s.inside(base, func() {
			var err error
			if fd, err = unix.Open(name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err != nil {
				fd = -1
			}
		})
		if err != nil || fd < 0 {
			if j == 1 {
				unix.Close(p.fd[0])
			}
			return all
		}
		p.fd[j] = fd
	}
	return append(all, p)
}

func (p pairs) close() {
	for i := range p {
		if p[i].owned {
			unix.Close(p[i].fd[0])
			unix.Close(p[i].fd[1])
		}
	}
}

// compare looks again and says what is not the same, or has moved on one side
// alone, as far as ctimes may not. The operation began at start.
func (p pairs) compare(start time.Time, fine bool, ctime latitude) string {
	for i := range p {
		var now [2]unix.Stat_t
		for j, fd := range p[i].fd {
			if err := unix.Fstat(fd, &now[j]); err != nil {
				return fmt.Sprintf("%s: fstat: %v", p[i].what, err)
			}
		}
		if a, b := show(&now[0]), show(&now[1]); a != b {
			return fmt.Sprintf("%s is\n\ta: %s\n\tb: %s", p[i].what, a, b)
		}
		was := &p[i].was
		if why := moved(was[0].Mtim, now[0].Mtim, was[1].Mtim, now[1].Mtim, start, fine); why != "" {
			return fmt.Sprintf("mtime of %s %s", p[i].what, why)
		}
		if why := moved(was[0].Ctim, now[0].Ctim, was[1].Ctim, now[1].Ctim, start, fine); why != "" && ctime != anyMove && !(ctime == moreMove && was[0].Ctim == now[0].Ctim) {
			return fmt.Sprintf("ctime of %s %s", p[i].what, why)
		}
	}
	return ""
}

// moved says what is wrong with how a time of b went from b0 to b1 when that
// of a went from a0 to a1 in an operation that began at start.
func moved(a0, a1, b0, b1 unix.Timespec, start time.Time, fine bool) string {
	since := start.Add(-slack)
	isRecent := func(ts unix.Timespec) bool { return !time.Unix(ts.Unix()).Before(since) }
	switch {
	case a0 == a1 && b0 == b1, !isNow(a1): // times that programs gave are equal: show says so
		return ""
	case a0 == a1 && (fine || !isRecent(a0)):
		return fmt.Sprintf("moved in b alone, from %s to %s", clock(b0), clock(b1))
	case a0 != a1 && isRecent(a1) && !isRecent(b1):
		return fmt.Sprintf("moved in a, but not in b: it is %s there, the operation began at %s", clock(b1), start.Format(clockForm))
	case a0 != a1 && isRecent(a1) && time.Unix(b1.Unix()).After(time.Now().Add(slack)):
		return fmt.Sprintf("is %s in b, which is still to come", clock(b1))
	}
	return ""
}

const clockForm = "2006-01-02 15:04:05.000000000"

func clock(ts unix.Timespec) string { return time.Unix(ts.Unix()).Format(clockForm) }
