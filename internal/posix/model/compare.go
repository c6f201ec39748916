// SPDX-License-Identifier: Apache-2.0

package model

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// whole is the size up to which files are compared byte by byte; of longer
// ones the ranges are compared that either side says hold data.
const whole = 8 << 20

// check compares everything.
func (r *run) check() string {
	c := &comparison{ids: r.ids, inode: [2]map[uint64]uint64{{}, {}}}
	for i := range slots {
		fa, fb := r.a.held[i], r.b.held[i]
		switch {
		case (fa < 0) != (fb < 0):
			c.say("descriptor %d is open on one side", i)
		case fa >= 0:
			c.held(fmt.Sprintf("descriptor %d", i), fa, fb)
		}
	}
	roots := [2]int{}
	for j, s := range []*side{r.a, r.b} {
		fd, err := unix.Openat(s.root, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return "open the root: " + err.Error()
		}
		defer unix.Close(fd)
		roots[j] = fd
	}
	c.inode2(".", roots)
	c.dir(".", roots)
	return strings.Join(c.found, "\n\t")
}

// A comparison is one look at two whole trees.
type comparison struct {
	ids   map[identity]uint64
	inode [2]map[uint64]uint64 // inode number on one side → on the other
	found []string             // differences, at most maxFound
	buf   [2][]byte
}

const maxFound = 5

func (c *comparison) say(format string, args ...any) {
	if len(c.found) < maxFound {
		c.found = append(c.found, fmt.Sprintf(format, args...))
	}
}

// held compares what two descriptors show; their files may have no name.
func (c *comparison) held(what string, fa, fb int) {
	var st [2]unix.Stat_t
	for j, fd := range []int{fa, fb} {
		if err := unix.Fstat(fd, &st[j]); err != nil {
			c.say("%s: fstat: %v", what, err)
			return
		}
	}
	if a, b := show(&st[0]), show(&st[1]); a != b {
		c.say("%s is\n\ta: %s\n\tb: %s", what, a, b)
	}
	flags, err := unix.FcntlInt(uintptr(fa), unix.F_GETFL, 0)
	if err == nil && flags&(unix.O_PATH|unix.O_ACCMODE) != unix.O_WRONLY && flags&(unix.O_PATH|unix.O_DIRECT) == 0 &&
		st[0].Mode&unix.S_IFMT == unix.S_IFREG {
		c.content(what, [2]int{fa, fb}, st[0].Size)
	}
}

// dir compares two directories and all below.
func (c *comparison) dir(at string, fd [2]int) {
	var ls [2][]dirent
	for j := range fd {
		var err error
		if ls[j], err = list(fd[j], 32<<10, 0); err != nil {
			c.say("%s: listing %c: %v", at, 'a'+j, err)
			return
		}
		slices.SortFunc(ls[j], func(x, y dirent) int { return strings.Compare(x.name, y.name) })
	}
	if !slices.Equal(names(ls[0]), names(ls[1])) {
		c.say("%q lists\n\ta: %q\n\tb: %q", at, names(ls[0]), names(ls[1]))
	}
	c.xattrs(at, [2]string{procFD(fd[0]), procFD(fd[1])})
	for i := range ls[0] {
		d := ls[0][i]
		at2 := slices.IndexFunc(ls[1], func(x dirent) bool { return x.name == d.name })
		if at2 < 0 || d.name == "." || d.name == ".." || len(c.found) >= maxFound {
			continue
		}
		c.entry(at+"/"+d.name, fd, ls[1][at2])
	}
}

func procFD(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// entry compares one name; listed is what b's listing said of it.
func (c *comparison) entry(at string, dir [2]int, listed dirent) {
	name := listed.name
	var st [2]unix.Stat_t
	var path [2]int
	for j := range dir {
		fd, err := unix.Openat(dir[j], name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			c.say("%q: open in %c: %v", at, 'a'+j, err)
			return
		}
		defer unix.Close(fd)
		path[j] = fd
		if err := unix.Fstat(fd, &st[j]); err != nil {
			c.say("%q: fstat in %c: %v", at, 'a'+j, err)
			return
		}
	}
	if a, b := show(&st[0]), show(&st[1]); a != b {
		c.say("%q is\n\ta: %s\n\tb: %s", at, a, b)
		if st[0].Mode&unix.S_IFMT != st[1].Mode&unix.S_IFMT {
			return
		}
	}
	kind := st[1].Mode & unix.S_IFMT
	if listed.ino != st[1].Ino || uint32(listed.typ)<<12 != kind {
		c.say("%q: b lists inode %d of type %#o, stat says %d of %#o", at, listed.ino, uint32(listed.typ)<<12, st[1].Ino, kind)
	}
	c.inode2(at, path)
	if kind != unix.S_IFDIR {
		c.xattrs(at, [2]string{procFD(path[0]), procFD(path[1])})
	}
	switch kind {
	case unix.S_IFLNK:
		if a, b := target(path[0]), target(path[1]); a != b {
			c.say("%q leads to\n\ta: %q\n\tb: %q", at, a, b)
		}
	case unix.S_IFREG, unix.S_IFDIR:
		var fd [2]int
		for j := range dir {
			var err error
			fd[j], err = unix.Openat(dir[j], name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NOATIME|unix.O_CLOEXEC, 0)
			if err != nil {
				c.say("%q: open for reading in %c: %v", at, 'a'+j, err)
				return
			}
			defer unix.Close(fd[j])
		}
		if kind == unix.S_IFDIR {
			c.dir(at, fd)
		} else {
			c.content(at, fd, st[0].Size)
		}
	}
}

func target(fd int) string {
	buf := make([]byte, 4096)
	n, err := unix.Readlinkat(fd, "", buf)
	return tell(err, "%s", buf[:max(n, 0)])
}

// inode2 compares which inode is which: names that are one inode on one side
// are one on the other, and a file keeps its number as long as it lives.
func (c *comparison) inode2(at string, fd [2]int) {
	var st [2]unix.Statx_t
	for j := range fd {
		if err := unix.Statx(fd[j], "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st[j]); err != nil {
			c.say("%q: statx in %c: %v", at, 'a'+j, err)
			return
		}
	}
	for j := range fd {
		mine, other := st[j].Ino, st[1-j].Ino
		if was, ok := c.inode[j][mine]; ok && was != other {
			c.say("%q: inode %d of %c is inodes %d and %d of the other side", at, mine, 'a'+j, was, other)
		}
		c.inode[j][mine] = other
	}
	id := identity{st[0].Ino, st[0].Btime}
	if was, ok := c.ids[id]; ok && was != st[1].Ino {
		c.say("%q: it was inode %d of b, and now is %d", at, was, st[1].Ino)
	}
	c.ids[id] = st[1].Ino
}

func (c *comparison) xattrs(at string, path [2]string) {
	var ls [2]string
	for j := range path {
		ls[j] = showXattrs(path[j])
	}
	if ls[0] != ls[1] {
		c.say("%q has xattrs\n\ta: %s\n\tb: %s", at, ls[0], ls[1])
	}
}

func showXattrs(path string) string {
	buf := make([]byte, 64<<10)
	n, err := unix.Listxattr(path, buf)
	if err != nil {
		return "list: " + result(err)
	}
	var b strings.Builder
	value := make([]byte, 64<<10)
	for _, name := range sortedNames(buf[:n]) {
		n, err := unix.Getxattr(path, name, value)
		fmt.Fprintf(&b, " %s=%s", name, tell(err, "%q", value[:max(n, 0)]))
	}
	return b.String()
}

// content compares two files of this size, and b's holes with what a reads.
func (c *comparison) content(at string, fd [2]int, size int64) {
	var data [2][][2]int64
	for j := range fd {
		var err error
		if data[j], err = dataRanges(fd[j], size); err != nil {
			c.say("%q: data ranges of %c: %v", at, 'a'+j, err)
			return
		}
	}
	ranges := [][2]int64{{0, size}}
	if size > whole {
		ranges = slices.Concat(data[0], data[1])
	}
	for _, x := range ranges {
		for off := x[0]; off < x[1]; off += 1 << 20 {
			if !c.same(at, fd, off, min(1<<20, x[1]-off), data[1]) {
				return
			}
		}
	}
}

// same compares the n bytes at off; data is where b says that data lie.
func (c *comparison) same(at string, fd [2]int, off, n int64, data [][2]int64) bool {
	for j := range fd {
		if c.buf[j] == nil {
			c.buf[j] = make([]byte, 1<<20)
		}
		if got, err := readAt(fd[j], c.buf[j][:n], off); err != nil || int64(got) != n {
			c.say("%q: read %d bytes at %d of %c: got %d, %v", at, n, off, 'a'+j, got, err)
			return false
		}
	}
	a, b := c.buf[0][:n], c.buf[1][:n]
	if !bytes.Equal(a, b) {
		i := 0
		for a[i] == b[i] {
			i++
		}
		j := min(i+8, len(a))
		c.say("%q: content differs from byte %d on:\n\ta: % x\n\tb: % x", at, off+int64(i), a[i:j], b[i:j])
		return false
	}
	for i := range b {
		if b[i] != 0 && !inside(data, off+int64(i)) {
			c.say("%q: b says that byte %d lies in a hole, and it is %#x", at, off+int64(i), b[i])
			return false
		}
		if b[i] != 0 { // on to the end of this range
			for _, x := range data {
				if off+int64(i) >= x[0] && x[1] >= off+n {
					return true
				}
			}
		}
	}
	return true
}

func inside(ranges [][2]int64, at int64) bool {
	i, _ := slices.BinarySearchFunc(ranges, at, func(x [2]int64, at int64) int {
		if x[1] <= at {
			return -1
		}
		return 1
	})
	return i < len(ranges) && ranges[i][0] <= at
}

func readAt(fd int, buf []byte, off int64) (int, error) {
	total := 0
	for total < len(buf) {
		n, err := unix.Pread(fd, buf[total:], off+int64(total))
		if err == nil && n == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return total, err
		}
		total += n
	}
	return total, nil
}

// dataRanges asks SEEK_DATA and SEEK_HOLE for all data of a file, and puts its
// offset back.
func dataRanges(fd int, size int64) ([][2]int64, error) {
	was, err := unix.Seek(fd, 0, unix.SEEK_CUR)
	if err != nil {
		return nil, err
	}
	defer unix.Seek(fd, was, 0)
	var out [][2]int64
	for pos := int64(0); pos < size; {
		lo, err := unix.Seek(fd, pos, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break
		}
		if err != nil {
			return nil, err
		}
		hi, err := unix.Seek(fd, lo, unix.SEEK_HOLE)
		if err != nil {
			return nil, err
		}
		if lo < pos || hi <= lo || hi > size {
			return nil, fmt.Errorf("from %d of %d: data at %d, hole at %d", pos, size, lo, hi)
		}
		out = append(out, [2]int64{lo, hi})
		pos = hi
	}
	return out, nil
}
