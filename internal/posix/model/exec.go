// SPDX-License-Identifier: Apache-2.0

package model

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// execs does operations by name, as s.do calls them: in the directory that
// paths start from, with the rights of who does it. Each returns what must be
// the same on both sides. "remount" and "check" concern both sides at once and
// are done by the run.
var execs map[string]func(s *side, o *op) string

func init() {
	execs = map[string]func(s *side, o *op) string{
		"remount": nil, // concerns both sides
		"check":   nil,

		"mkdir":   func(_ *side, o *op) string { return result(unix.Mkdir(o.P, o.Mode)) },
		"rmdir":   func(_ *side, o *op) string { return result(unix.Rmdir(o.P)) },
		"unlink":  func(_ *side, o *op) string { return result(unix.Unlink(o.P)) },
		"mknod":   func(_ *side, o *op) string { return result(unix.Mknod(o.P, o.Mode, int(o.Dev))) },
		"symlink": func(_ *side, o *op) string { return result(unix.Symlink(o.S, o.P)) },
		"link": func(_ *side, o *op) string {
			return result(unix.Linkat(unix.AT_FDCWD, o.P, unix.AT_FDCWD, o.Q, o.Flags))
		},
		"rename": func(_ *side, o *op) string {
			if o.Flags&unix.RENAME_WHITEOUT != 0 && isDir(o.P) {
				return "a directory" // where that fails, ext4 moves times all the same
			}
			return result(unix.Renameat2(unix.AT_FDCWD, o.P, unix.AT_FDCWD, o.Q, uint(o.Flags)))
		},
		"chmod":    func(_ *side, o *op) string { return result(unix.Chmod(o.P, o.Mode)) },
		"chown":    func(_ *side, o *op) string { return result(unix.Fchownat(unix.AT_FDCWD, o.P, o.UID, o.GID, o.Flags)) },
		"truncate": execTruncate,
		"access": func(_ *side, o *op) string {
			return result(unix.Faccessat2(unix.AT_FDCWD, o.P, uint32(o.Mode), unix.AT_EACCESS))
		},
		"utimens":  execUtimens,
		"stat":     execStat,
		"readlink": execReadlink,
		"umask":    func(_ *side, o *op) string { return fmt.Sprintf("%#o", unix.Umask(int(o.Mode))) },

		"setxattr": func(_ *side, o *op) string {
			buf := make([]byte, 1000)
			if n, err := unix.Lgetxattr(o.P, o.S, buf); isSame(o, buf, n, err) {
				return "as it is"
			}
			return result(unix.Lsetxattr(o.P, o.S, []byte(o.V), o.Flags))
		},
		"removexattr": func(_ *side, o *op) string { return result(unix.Lremovexattr(o.P, o.S)) },
		"getxattr": func(_ *side, o *op) string {
			buf := make([]byte, o.Len)
			n, err := unix.Lgetxattr(o.P, o.S, buf)
			return tell(err, "%d %q", n, buf[:min(max(n, 0), len(buf))])
		},
		"listxattr": func(_ *side, o *op) string {
			buf := make([]byte, 64<<10)
			n, err := unix.Llistxattr(o.P, buf)
			return tell(err, "%q", sortedNames(buf[:max(n, 0)]))
		},

		"writefile":  execWriteFile,
		"readfile":   execReadFile,
		"readdir":    execReadDir,
		"removesome": execRemoveSome,
		"rmtree":     func(_ *side, o *op) string { return removeTree(unix.AT_FDCWD, o.P) },

		"open":    execOpen,
		"close":   func(s *side, o *op) string { return s.drop(o.FD) },
		"tmpfile": execOpen,
		"linkfd":  execLinkFD,

		"pread":     onFD(execPread),
		"pwrite":    onFD(execPwrite),
		"read":      onFD(execRead),
		"write":     onFD(execWrite),
		"lseek":     onFD(execLseek),
		"seekdata":  onFD(execSeekData),
		"ftruncate": onFD(func(fd int, o *op) string { return result(unix.Ftruncate(fd, o.Len)) }),
		"fallocate": onFD(func(fd int, o *op) string { return result(unix.Fallocate(fd, o.Mode, o.Off, o.Len)) }),
		"fsync":     onFD(func(fd int, _ *op) string { return result(unix.Fsync(fd)) }),
		"fdatasync": onFD(func(fd int, _ *op) string { return result(unix.Fdatasync(fd)) }),
		"fchmod":    onFD(func(fd int, o *op) string { return result(unix.Fchmod(fd, o.Mode)) }),
		"fchown":    onFD(func(fd int, o *op) string { return result(unix.Fchown(fd, o.UID, o.GID)) }),
		"fstat":     onFD(execFstat),
		"fsetxattr": onFD(func(fd int, o *op) string {
			buf := make([]byte, 1000)
			if n, err := unix.Fgetxattr(fd, o.S, buf); isSame(o, buf, n, err) {
				return "as it is"
			}
			return result(unix.Fsetxattr(fd, o.S, []byte(o.V), o.Flags))
		}),
		"fgetdents":  onFD(execGetdents),
		"mmapwrite":  onFD(func(fd int, o *op) string { return mapped(fd, o, unix.MAP_SHARED) }),
		"mmapshadow": onFD(func(fd int, o *op) string { return mapped(fd, o, unix.MAP_PRIVATE) }),
		"mmapread":   onFD(execMapRead),
		"copyrange":  execCopyRange,
		"futimens":   onFD(execFutimens),
	}
}

// isSame tells that an xattr has the value already that it is to get: ext4
// then does nothing, others move the ctime.
func isSame(o *op, buf []byte, n int, err error) bool {
	return err == nil && o.Flags&unix.XATTR_CREATE == 0 && string(buf[:n]) == o.V
}

func isDir(name string) bool {
	var st unix.Stat_t
	return unix.Lstat(name, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

// onFD wraps what needs only a held descriptor.
func onFD(f func(fd int, o *op) string) func(*side, *op) string {
	return func(s *side, o *op) string {
		fd := s.held[o.FD]
		if fd < 0 {
			return "none"
		}
		return f(fd, o)
	}
}

func times(o *op) []unix.Timespec {
	return []unix.Timespec{{Sec: o.ASec, Nsec: o.ANsec}, {Sec: o.MSec, Nsec: o.MNsec}}
}

// execUtimens also tells the atime, if it was set: later it is nobody's. The path
// is not walked again for it: it may lead through the symlink that was set.
func execUtimens(_ *side, o *op) string {
	flags := unix.O_PATH | unix.O_CLOEXEC
	if o.Flags&unix.AT_SYMLINK_NOFOLLOW != 0 {
		flags |= unix.O_NOFOLLOW
	}
	fd, errOpen := unix.Open(o.P, flags, 0)
	if errOpen == nil {
		defer unix.Close(fd)
	}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, o.P, times(o), o.Flags); err != nil || errOpen != nil {
		return tell(err, "%s", result(errOpen))
	}
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return tell(err, "%s", showAtime(&st, o))
}

func execFutimens(fd int, o *op) string {
	ts := times(o)
	if err := futimens(fd, ts); err != nil {
		return result(err)
	}
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return tell(err, "%s", showAtime(&st, o))
}

func showAtime(st *unix.Stat_t, o *op) string {
	if o.ANsec == unix.UTIME_NOW || o.ANsec == unix.UTIME_OMIT {
		return "ok"
	}
	return fmt.Sprintf("atime=%d.%09d", st.Atim.Sec, st.Atim.Nsec)
}

func execStat(_ *side, o *op) string {
	var st unix.Stat_t
	err := unix.Fstatat(unix.AT_FDCWD, o.P, &st, o.Flags)
	return tell(err, "%s", show(&st))
}

func execFstat(fd int, _ *op) string {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return tell(err, "%s", show(&st))
}

// execTruncate leaves a file alone that has the size already: whether its times
// move then is every filesystem's own affair.
func execTruncate(_ *side, o *op) string {
	var st unix.Stat_t
	if err := unix.Stat(o.P, &st); err == nil && st.Size == o.Len && st.Mode&unix.S_IFMT == unix.S_IFREG {
		return "as it is"
	}
	return result(unix.Truncate(o.P, o.Len))
}

func execReadlink(_ *side, o *op) string {
	buf := make([]byte, o.Len)
	n, err := unix.Readlink(o.P, buf)
	return tell(err, "%q", buf[:max(n, 0)])
}

func execWriteFile(_ *side, o *op) string {
	if isDevice(o.P) {
		return "device"
	}
	fd, err := unix.Open(o.P, o.Flags|unix.O_NONBLOCK|unix.O_CLOEXEC, o.Mode)
	if err != nil {
		return result(err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return "not a file"
	}
	buf := aligned(int(o.Len))
	fill(buf, o.Seed)
	n, err := unix.Pwrite(fd, buf, o.Off)
	return tell(err, "wrote %d", n)
}

func execReadFile(_ *side, o *op) string {
	if isDevice(o.P) {
		return "device"
	}
	fd, err := unix.Open(o.P, o.Flags|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return result(err)
	}
	defer unix.Close(fd)
	buf := aligned(int(o.Len))
	n, err := unix.Pread(fd, buf, o.Off)
	return tell(err, "%s", sum(buf[:max(n, 0)]))
}

// execReadDir lists a directory and tells whether it can seek in its own
// listing: from the place after any entry it must go on as before.
func execReadDir(_ *side, o *op) string {
	fd, err := unix.Open(o.P, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return result(err)
	}
	defer unix.Close(fd)
	return execGetdents(fd, o)
}

func execGetdents(fd int, o *op) string {
	if _, err := unix.Seek(fd, 0, 0); err != nil {
		return result(err)
	}
	all, err := list(fd, int(max(o.Len, 300)), 0)
	if err != nil {
		return result(err)
	}
	if len(all) > 0 {
		at := int(o.Seed % uint64(len(all)))
		if _, err := unix.Seek(fd, all[at].next, 0); err != nil {
			return "seek in the listing: " + result(err)
		}
		rest, err := list(fd, 4096, 0)
		if err != nil {
			return "listing after a seek: " + result(err)
		}
		if !slices.Equal(names(rest), names(all[at+1:])) {
			return fmt.Sprintf("after seeking behind entry %d of %q: %q", at, names(all), names(rest))
		}
	}
	return fmt.Sprintf("%q", names(all))
}

// execRemoveSome removes about half of a directory's entries while it lists
// them, and tells whether those that stay were each seen once.
func execRemoveSome(_ *side, o *op) string {
	fd, err := unix.Open(o.P, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return result(err)
	}
	defer unix.Close(fd)
	seen := map[string]int{}
	var said []string
	for {
		some, err := list(fd, 512, 1)
		if err != nil {
			return result(err)
		}
		if len(some) == 0 {
			break
		}
		for _, d := range some {
			if d.name == "." || d.name == ".." {
				continue
			}
			seen[d.name]++
			if hash(d.name, o.Seed)%2 == 0 {
				said = append(said, d.name+": "+result(unix.Unlinkat(fd, d.name, 0)))
			}
		}
	}
	for name, n := range seen {
		said = append(said, fmt.Sprintf("%s %d", name, n))
	}
	slices.Sort(said)
	unix.Seek(fd, 0, 0)
	left, err := list(fd, 4096, 0)
	return tell(err, "%q left %q", said, names(left))
}

func hash(s string, seed uint64) uint64 {
	for i := range len(s) {
		seed = (seed ^ uint64(s[i])) * 0x100000001b3
	}
	return seed >> 17
}

// removeTree does what rm -rf does, entries removed while they are listed.
func removeTree(at int, name string) string {
	err := unix.Unlinkat(at, name, 0)
	if err != unix.EISDIR {
		return result(err)
	}
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return result(err)
	}
	defer unix.Close(fd)
	var said []string
	for {
		some, err := list(fd, 1024, 1)
		if err != nil {
			return result(err)
		}
		if len(some) == 0 {
			break
		}
		for _, d := range some {
			if d.name != "." && d.name != ".." {
				if r := removeTree(fd, d.name); r != "ok" {
					said = append(said, d.name+": "+r)
				}
			}
		}
	}
	slices.Sort(said)
	return strings.Join(append(said, result(unix.Unlinkat(at, name, unix.AT_REMOVEDIR))), " ")
}

// execOpen opens into a slot; what was there is closed.
func execOpen(s *side, o *op) string {
	s.drop(o.FD)
	if o.Flags&unix.O_PATH == 0 && isDevice(o.P) {
		return "device"
	}
	fd, err := unix.Open(o.P, o.Flags|unix.O_NONBLOCK|unix.O_CLOEXEC, o.Mode)
	if err != nil {
		return result(err)
	}
	s.held[o.FD] = fd
	return execFstat(fd, o)
}

func execLinkFD(s *side, o *op) string {
	fd := s.held[o.FD]
	if fd < 0 {
		return "none"
	}
	if o.Flags&unix.AT_EMPTY_PATH != 0 {
		return result(unix.Linkat(fd, "", unix.AT_FDCWD, o.Q, unix.AT_EMPTY_PATH))
	}
	return result(unix.Linkat(s.proc, strconv.Itoa(fd), unix.AT_FDCWD, o.Q, unix.AT_SYMLINK_FOLLOW))
}

func execPread(fd int, o *op) string {
	buf := aligned(int(o.Len))
	n, err := unix.Pread(fd, buf, o.Off)
	return tell(err, "%s", sum(buf[:max(n, 0)]))
}

func execPwrite(fd int, o *op) string {
	buf := aligned(int(o.Len))
	fill(buf, o.Seed)
	n, err := unix.Pwrite(fd, buf, o.Off)
	return tell(err, "wrote %d", n)
}

func execRead(fd int, o *op) string {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return "a directory" // EISDIR, or EINVAL where its offset is a big number
	}
	buf := aligned(int(o.Len))
	n, err := unix.Read(fd, buf)
	return tell(err, "%s", sum(buf[:max(n, 0)]))
}

// execWrite leaves FIFOs alone: whether they have times of their own that a
// write moves is every filesystem's own affair.
func execWrite(fd int, o *op) string {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return "not a file"
	}
	buf := aligned(int(o.Len))
	fill(buf, o.Seed)
	n, err := unix.Write(fd, buf)
	if err != nil {
		return result(err)
	}
	at, err := unix.Seek(fd, 0, unix.SEEK_CUR)
	return tell(err, "wrote %d, now at %d", n, at)
}

// execLseek is not for directories, whose offsets are their own.
func execLseek(fd int, o *op) string {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return "a directory"
	}
	at, err := unix.Seek(fd, o.Off, o.Flags)
	return tell(err, "at %d", at)
}

// execSeekData tells only whether the answers of SEEK_DATA and SEEK_HOLE from
// one place can be true.
func execSeekData(fd int, o *op) string {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return "not a file"
	}
	was, err := unix.Seek(fd, 0, unix.SEEK_CUR)
	if err != nil {
		return result(err)
	}
	defer unix.Seek(fd, was, 0)
	hole, err := unix.Seek(fd, o.Off, unix.SEEK_HOLE)
	if o.Off < 0 || o.Off >= st.Size || err != nil {
		return "hole: " + tell(err, "at %d", hole)
	}
	if hole < o.Off || hole > st.Size {
		return fmt.Sprintf("hole at %d, asked from %d of %d", hole, o.Off, st.Size)
	}
	data, err := unix.Seek(fd, o.Off, unix.SEEK_DATA)
	switch {
	case err == unix.ENXIO:
		data = st.Size
	case err != nil:
		return "data: " + result(err)
	case data < o.Off || data >= st.Size:
		return fmt.Sprintf("data at %d, asked from %d of %d", data, o.Off, st.Size)
	}
	if data != o.Off && hole != o.Off {
		return fmt.Sprintf("at %d is neither data (next %d) nor hole (next %d)", o.Off, data, hole)
	}
	return "plausible"
}

// aligned returns a buffer that O_DIRECT accepts.
func aligned(n int) []byte {
	buf := make([]byte, n+4096)
	skip := -int(addr(buf)) & 4095
	return buf[skip : skip+n : skip+n]
}

// mapped writes through a mapping of a file and, where it is private, tells
// what is read back there: the file itself must not have changed.
func mapped(fd int, o *op, how int) string {
	m, lo, hi, out := mapAt(fd, o, unix.PROT_READ|unix.PROT_WRITE, how)
	if m == nil {
		return out
	}
	defer unix.Munmap(m)
	buf := make([]byte, hi-lo)
	fill(buf, o.Seed)
	if err := poke(m[lo:hi], buf); err != nil {
		return "store: " + result(err)
	}
	if err := peek(buf, m[lo:hi]); err != nil {
		return "load: " + result(err)
	}
	return sum(buf) + " " + result(unix.Msync(m, unix.MS_SYNC))
}

func execMapRead(fd int, o *op) string {
	m, lo, hi, out := mapAt(fd, o, unix.PROT_READ, unix.MAP_SHARED)
	if m == nil {
		return out
	}
	defer unix.Munmap(m)
	buf := make([]byte, hi-lo)
	if err := peek(buf, m[lo:hi]); err != nil {
		return "load: " + result(err)
	}
	return sum(buf)
}

// mapAt maps the pages of [o.Off, o.Off+o.Len) as far as the file reaches and
// returns where in the mapping these bytes lie. No mapping: out says why.
func mapAt(fd int, o *op, prot, how int) (m []byte, lo, hi int, out string) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, 0, 0, result(err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, 0, 0, "not a file"
	}
	end := min(o.Off+o.Len, st.Size)
	if o.Off >= end {
		return nil, 0, 0, "behind the end"
	}
	start := o.Off &^ 4095
	m, err := unix.Mmap(fd, start, int(end-start), prot, how)
	if err != nil {
		return nil, 0, 0, "mmap: " + result(err)
	}
	return m, int(o.Off - start), int(end - start), ""
}

func execCopyRange(s *side, o *op) string {
	in, out := s.held[o.FD], s.held[o.FE]
	if in < 0 || out < 0 {
		return "none"
	}
	total := 0
	for from, to := o.Off, o.Off2; total < int(o.Len); {
		n, err := unix.CopyFileRange(in, &from, out, &to, int(o.Len)-total, 0)
		if err != nil {
			return fmt.Sprintf("%d %s", total, result(err))
		}
		if n == 0 {
			break
		}
		total += n
	}
	return fmt.Sprintf("copied %d", total)
}

// sortedNames splits what listxattr returned.
func sortedNames(list []byte) []string {
	var out []string
	for name := range bytes.SplitSeq(list, []byte{0}) {
		if len(name) > 0 {
			out = append(out, string(name))
		}
	}
	slices.Sort(out)
	return out
}
