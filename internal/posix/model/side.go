// SPDX-License-Identifier: Apache-2.0

package model

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs/internal/posix/thread"
)

// slots is how many descriptors a sequence can hold.
const slots = 10

// users are who does an operation; the first is who runs the test.
var users = []struct {
	id     int
	groups []int
}{{}, {1000, nil}, {1001, []int{1000, 2000}}}

// as runs f with the rights of users[who].
func as(who int, f func()) {
	if who == 0 {
		f()
		return
	}
	thread.As(users[who].id, users[who].id, users[who].groups, f)
}

// A side is one tree while a sequence runs.
type side struct {
	tree Tree
	root int        // O_PATH
	host int        // the root of the process, O_PATH
	proc int        // /proc/self/fd
	held [slots]int // open descriptors, -1: none
}

func (s *side) open() (err error) {
	for i := range s.held {
		s.held[i] = -1
	}
	s.root, s.host, s.proc = -1, -1, -1
	for _, f := range []struct {
		fd   *int
		path string
	}{{&s.root, s.tree.Dir}, {&s.host, "/"}, {&s.proc, "/proc/self/fd"}} {
		if *f.fd, err = unix.Open(f.path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
			return fmt.Errorf("%s: %w", f.path, err)
		}
	}
	return nil
}

// close leaves nothing open, and the thread outside of the tree.
func (s *side) close() {
	for i := range s.held {
		s.drop(i)
	}
	for _, fd := range []*int{&s.root, &s.host, &s.proc} {
		if *fd >= 0 {
			unix.Close(*fd)
		}
		*fd = -1
	}
	unix.Chdir("/")
}

// inside runs f in directory base of the tree. For root the tree is all there
// is then: no ".." and no symlink leads out of it, whatever f does.
func (s *side) inside(base int, f func()) error {
	if !isRoot() {
		if err := unix.Fchdir(base); err != nil {
			return err
		}
		f()
		return nil
	}
	if err := errors.Join(unix.Fchdir(s.root), unix.Chroot(".")); err != nil {
		panic("enter the tree: " + err.Error())
	}
	defer func() {
		if err := errors.Join(unix.Fchdir(s.host), unix.Chroot(".")); err != nil {
			panic("leave the tree: " + err.Error())
		}
	}()
	if err := unix.Fchdir(base); err != nil {
		return err
	}
	f()
	return nil
}

func (s *side) drop(i int) string {
	fd := s.held[i]
	if fd < 0 {
		return "none"
	}
	s.held[i] = -1
	return result(unix.Close(fd))
}

// do does o and returns what came of it.
func (s *side) do(o *op) (out string) {
	base := s.root
	if o.At > 0 {
		if base = s.held[o.At-1]; base < 0 {
			return "no directory"
		}
	}
	err := s.inside(base, func() {
		as(o.As, func() { out = execs[o.Kind](s, o) })
	})
	if err != nil {
		return "chdir " + result(err)
	}
	return out
}

// result is how an error is told.
func result(err error) string { return thread.Errno(err) }

// tell returns the error, or what format says if there is none.
func tell(err error, format string, args ...any) string {
	if err != nil {
		return result(err)
	}
	return fmt.Sprintf(format, args...)
}

// isNow says whether a time is one that the kernel gave, not a program:
// sequences set times far from their own.
func isNow(ts unix.Timespec) bool { return ts.Sec > 1_700_000_000 && ts.Sec < 4_000_000_000 }

// show is what of a stat must be equal: everything but times that the kernel
// gave, and sizes of directories.
func show(st *unix.Stat_t) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%06o nlink=%d %d:%d", st.Mode, st.Nlink, st.Uid, st.Gid)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
	case unix.S_IFCHR, unix.S_IFBLK:
		fmt.Fprintf(&b, " rdev=%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	default:
		fmt.Fprintf(&b, " size=%d", st.Size)
	}
	if isNow(st.Mtim) {
		b.WriteString(" mtime=now")
	} else {
		fmt.Fprintf(&b, " mtime=%d.%09d", st.Mtim.Sec, st.Mtim.Nsec)
	}
	return b.String()
}

func sum(b []byte) string {
	h := fnv.New64a()
	h.Write(b)
	return fmt.Sprintf("%d bytes %016x", len(b), h.Sum64())
}

// isDevice says whether opening name would open a device: mounts differ in
// whether they allow it.
func isDevice(name string) bool {
	var st unix.Stat_t
	err := unix.Stat(name, &st)
	return err == nil && (st.Mode&unix.S_IFMT == unix.S_IFCHR || st.Mode&unix.S_IFMT == unix.S_IFBLK)
}

// A dirent is one entry of a listing.
type dirent struct {
	name string
	ino  uint64
	next int64 // where the listing goes on after it
	typ  byte
}

// list reads a directory from where fd stands, bufSize bytes at a time, and
// stops after limit calls if limit is not 0.
func list(fd, bufSize, limit int) ([]dirent, error) {
	var all []dirent
	buf := make([]byte, bufSize)
	for i := 0; limit == 0 || i < limit; i++ {
		n, err := unix.Getdents(fd, buf)
		if err != nil {
			return all, err
		}
		if n == 0 {
			break
		}
		for b := buf[:n]; len(b) > 0; {
			d, size := parseDirent(b)
			all = append(all, d)
			b = b[size:]
		}
	}
	return all, nil
}

// parseDirent reads a linux_dirent64 and returns its size.
func parseDirent(b []byte) (d dirent, size int) {
	ne := binary.NativeEndian
	d.ino, d.next, size, d.typ = ne.Uint64(b), int64(ne.Uint64(b[8:])), int(ne.Uint16(b[16:])), b[18]
	name := b[19:size]
	d.name = string(name[:slices.Index(name, 0)])
	return d, size
}

func names(all []dirent) []string {
	out := make([]string, len(all))
	for i := range all {
		out[i] = all[i].name
	}
	slices.Sort(out)
	return out
}
