// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs/internal/posix/thread"
)

// A script has a system call a line and what comes of it:
//
//	mkdir d 755                      # must succeed
//	create d/f 644
//	as 1000 unlink d/f = EACCES      # as user 1000, group 1000, no others
//	as 1000:5,6 stat d/f mode,uid = 644,0    # group 5, and 6 beside it
//	move d:mc d/f:c | link d/f d/g   # the call moves mtime and ctime of d, …
//	move a>b:c .:MC | chmod b 600    # … of what was a and is b; not those of .
//
// Several results may be given, as in EACCES|EPERM. Words and results in quotes
// are as in Go. Of the words, N255 stands for a name of 255 bytes, N256 for one that is
// too long; a word that ends in ^4095 is a path filled up to that length.
// Modes are octal.

// run runs a script and ends the rule at the first line that does not hold.
func (e *env) run(script string) {
	e.Helper()
	for line := range strings.Lines(script) {
		line, _, _ = strings.Cut(line, " #")
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			e.line(line)
		}
	}
}

func (e *env) line(line string) {
	e.Helper()
	call, wanted, hasWant := strings.Cut(line, " = ")
	watched, after, ok := strings.Cut(call, " | ")
	if !ok {
		after, watched = call, ""
	}
	w := words(after)
	if !hasWant {
		wanted = "ok"
	}
	any := strings.Split(wanted, "|")
	if quoted, err := strconv.Unquote(wanted); err == nil {
		any = []string{quoted}
	}
	check := e.watch(words(watched))
	got := e.call(w)
	if !slices.Contains(any, got) {
		e.failf("%s: got %q", line, got)
	}
	if err := check(); err != "" {
		e.failf("%s: %s", line, err)
	}
}

// words splits a line; a word in quotes is unquoted.
func words(line string) []string {
	var out []string
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimSpace(line) {
		if q, err := strconv.QuotedPrefix(line); err == nil {
			w, _ := strconv.Unquote(q)
			out = append(out, w)
			line = line[len(q):]
			continue
		}
		var w string
		w, line, _ = strings.Cut(line, " ")
		out = append(out, expand(w))
	}
	return out
}

func expand(w string) string {
	w = strings.ReplaceAll(w, "N255", strings.Repeat("n", 255))
	w = strings.ReplaceAll(w, "N256", strings.Repeat("n", 256))
	if head, length, ok := strings.Cut(w, "^"); ok {
		n, err := strconv.Atoi(length)
		if err != nil {
			return w
		}
		fill := n - len(head)
		return strings.Repeat("./", fill/2) + strings.Repeat("/", fill%2) + head
	}
	return w
}

// watch looks at the times that a call must move, or must not. What it returns
// looks again and says what was wrong.
func (e *env) watch(w []string) func() string {
	if len(w) == 0 {
		return func() string { return "" }
	}
	if w[0] != "move" {
		panic("no such watch: " + w[0])
	}
	type watched struct {
		name, times string
		before      unix.Stat_t
	}
	var all []watched
	for _, word := range w[1:] {
		name, times, _ := strings.Cut(word, ":")
		from, to, renamed := strings.Cut(name, ">")
		if !renamed {
			to = from
		}
		all = append(all, watched{to, times, e.stat(from)})
	}
	tick()
	return func() string {
		for _, x := range all {
			e.compareTimes(x.name, x.times, x.before, e.stat(x.name))
		}
		return ""
	}
}

// call does one call and returns its result.
func (e *env) call(w []string) (out string) {
	if w[0] == "as" {
		who, groups, _ := strings.Cut(w[1], ":")
		uid := num(who)
		ids := []int{uid}
		if groups != "" {
			ids = ids[:0]
			for g := range strings.SplitSeq(groups, ",") {
				ids = append(ids, num(g))
			}
		}
		thread.As(uid, ids[0], ids[1:], func() { out = e.call(w[2:]) })
		return out
	}
	verb, ok := verbs[w[0]]
	if !ok {
		panic("no such call: " + w[0])
	}
	args := w[1:]
	if len(args) < verb.args {
		panic(fmt.Sprintf("%s takes %d words", w[0], verb.args))
	}
	return verb.do(e, append(args, "", "", ""))
}

func num(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(err)
	}
	return n
}

func octal(s string) uint32 {
	if s == "" {
		return 0o644
	}
	n, err := strconv.ParseUint(s, 8, 32)
	if err != nil {
		panic(err)
	}
	return uint32(n)
}

// A verb is a call of a script. It gets at least args words, and empty ones
// after the last.
type verb struct {
	args int
	do   func(e *env, a []string) string
}

// simple makes a verb of what only succeeds or fails.
func simple(args int, f func(a []string) error) verb {
	return verb{args, func(_ *env, a []string) string { return thread.Errno(f(a)) }}
}

// onFD makes a verb of a call on a descriptor of the script.
func onFD(args int, f func(fd int, a []string) error) verb {
	return verb{args, func(e *env, a []string) string { return thread.Errno(f(e.fd(a[0]), a)) }}
}

func (e *env) fd(name string) int {
	fd, ok := e.fds[name]
	if !ok {
		panic("no descriptor " + name)
	}
	return fd
}

var verbs map[string]verb

func init() {
	verbs = map[string]verb{
		"make":    simple(2, func(a []string) error { return makeType(a[0], a[1], a[2]) }),
		"mkdir":   simple(2, func(a []string) error { return unix.Mkdir(a[0], octal(a[1])) }),
		"create":  simple(1, func(a []string) error { return openClose(a[0], "wronly,creat,excl", a[1]) }),
		"open":    simple(2, func(a []string) error { return openClose(a[0], a[1], a[2]) }),
		"mkfifo":  simple(2, func(a []string) error { return unix.Mkfifo(a[0], octal(a[1])) }),
		"mknod":   simple(3, func(a []string) error { return makeType(a[1], a[0], a[2]) }),
		"symlink": simple(2, func(a []string) error { return unix.Symlink(a[0], a[1]) }),
		"link": simple(2, func(a []string) error {
			return unix.Linkat(unix.AT_FDCWD, a[0], unix.AT_FDCWD, a[1], map[string]int{"follow": unix.AT_SYMLINK_FOLLOW}[a[2]])
		}),
		"unlink": simple(1, func(a []string) error { return unix.Unlink(a[0]) }),
		"rmdir":  simple(1, func(a []string) error { return unix.Rmdir(a[0]) }),
		"rename": simple(2, func(a []string) error {
			flags := map[string]uint{"noreplace": unix.RENAME_NOREPLACE, "exchange": unix.RENAME_EXCHANGE,
				"whiteout": unix.RENAME_WHITEOUT, "both": unix.RENAME_NOREPLACE | unix.RENAME_EXCHANGE}[a[2]]
			return unix.Renameat2(unix.AT_FDCWD, a[0], unix.AT_FDCWD, a[1], flags)
		}),
		"chmod": simple(2, func(a []string) error { return unix.Chmod(a[0], octal(a[1])) }),
		"chown": simple(3, func(a []string) error { return unix.Chown(a[0], num(a[1]), num(a[2])) }),
		"lchown": simple(3, func(a []string) error {
			return unix.Lchown(a[0], num(a[1]), num(a[2]))
		}),
		"truncate": simple(2, func(a []string) error { return unix.Truncate(a[0], int64(num(a[1]))) }),
		"utimens": simple(3, func(a []string) error {
			return unix.UtimesNanoAt(unix.AT_FDCWD, a[0], []unix.Timespec{moment(a[1]), moment(a[2])},
				map[string]int{"nofollow": unix.AT_SYMLINK_NOFOLLOW}[a[3]])
		}),
		"access": simple(2, func(a []string) error {
			var how uint32
			for _, c := range a[1] {
				how |= map[rune]uint32{'r': unix.R_OK, 'w': unix.W_OK, 'x': unix.X_OK}[c]
			}
			return unix.Faccessat2(unix.AT_FDCWD, a[0], how, unix.AT_EACCESS)
		}),
		"write":  simple(2, func(a []string) error { return writeTo(a[0], a[1], unix.O_TRUNC) }),
		"append": simple(2, func(a []string) error { return writeTo(a[0], a[1], unix.O_APPEND) }),
		"read": {1, func(_ *env, a []string) string {
			data, err := os.ReadFile(a[0])
			return tell(unwrap(err), string(data))
		}},
		"ls": {1, func(_ *env, a []string) string {
			all, err := os.ReadDir(a[0])
			var names []string
			for _, d := range all {
				names = append(names, d.Name())
			}
			return tell(unwrap(err), strings.Join(names, ","))
		}},
		"stat": {2, func(_ *env, a []string) string {
			var st unix.Stat_t
			err := unix.Stat(a[0], &st)
			return tell(err, fields(&st, a[1]))
		}},
		"lstat": {2, func(_ *env, a []string) string {
			var st unix.Stat_t
			err := unix.Lstat(a[0], &st)
			return tell(err, fields(&st, a[1]))
		}},
		"same": {2, func(e *env, a []string) string {
			x, y := e.stat(a[0]), e.stat(a[1])
			return strconv.FormatBool(x.Ino == y.Ino && x.Dev == y.Dev)
		}},
		"gone": simple(1, func(a []string) error {
			var st unix.Stat_t
			if err := unix.Lstat(a[0], &st); err != unix.ENOENT {
				return fmt.Errorf("there: %v", err)
			}
			return nil
		}),
		"readlink": {1, func(_ *env, a []string) string {
			buf := make([]byte, 5000)
			n, err := unix.Readlink(a[0], buf)
			return tell(err, string(buf[:max(n, 0)]))
		}},
		"umask": simple(1, func(a []string) error { unix.Umask(int(octal(a[0]))); return nil }),
		"chdir": simple(1, func(a []string) error { return unix.Chdir(a[0]) }),

		"setxattr": simple(3, func(a []string) error {
			return unix.Lsetxattr(a[0], a[1], []byte(a[2]), map[string]int{"create": unix.XATTR_CREATE, "replace": unix.XATTR_REPLACE}[a[3]])
		}),
		"removexattr": simple(2, func(a []string) error { return unix.Lremovexattr(a[0], a[1]) }),
		"getxattr": {2, func(_ *env, a []string) string {
			buf := make([]byte, 65536)
			n, err := unix.Lgetxattr(a[0], a[1], buf)
			return tell(err, string(buf[:max(n, 0)]))
		}},
		"listxattr": {1, func(_ *env, a []string) string {
			buf := make([]byte, 65536)
			n, err := unix.Llistxattr(a[0], buf)
			return tell(err, strings.Join(xattrNames(buf[:max(n, 0)]), ","))
		}},
		"setacl": simple(3, func(a []string) error {
			return unix.Lsetxattr(a[0], "system.posix_acl_"+a[1], encodeACL(a[2]), 0)
		}),
		"getacl": {2, func(_ *env, a []string) string {
			buf := make([]byte, 65536)
			n, err := unix.Lgetxattr(a[0], "system.posix_acl_"+a[1], buf)
			if err != nil {
				return thread.Errno(err)
			}
			return decodeACL(buf[:n])
		}},

		"fopen": {3, func(e *env, a []string) string {
			fd, err := unix.Open(a[1], openFlags(a[2])|unix.O_CLOEXEC, octal(a[3]))
			if err == nil {
				e.fds[a[0]] = fd
			}
			return thread.Errno(err)
		}},
		"fclose": {1, func(e *env, a []string) string {
			err := unix.Close(e.fd(a[0]))
			delete(e.fds, a[0])
			return thread.Errno(err)
		}},
		"fwrite": onFD(2, func(fd int, a []string) error { _, err := unix.Write(fd, []byte(a[1])); return err }),
		"fread": {1, func(e *env, a []string) string {
			buf := make([]byte, 4096)
			n, err := unix.Pread(e.fd(a[0]), buf, 0)
			return tell(err, string(buf[:max(n, 0)]))
		}},
		"fstat": {2, func(e *env, a []string) string {
			var st unix.Stat_t
			err := unix.Fstat(e.fd(a[0]), &st)
			return tell(err, fields(&st, a[1]))
		}},
		"ftruncate": onFD(2, func(fd int, a []string) error { return unix.Ftruncate(fd, int64(num(a[1]))) }),
		"fchmod":    onFD(2, func(fd int, a []string) error { return unix.Fchmod(fd, octal(a[1])) }),
		"fchown":    onFD(3, func(fd int, a []string) error { return unix.Fchown(fd, num(a[1]), num(a[2])) }),
		"fsync":     onFD(1, func(fd int, _ []string) error { return unix.Fsync(fd) }),
		"fsetxattr": onFD(3, func(fd int, a []string) error { return unix.Fsetxattr(fd, a[1], []byte(a[2]), 0) }),
		"fallocate": onFD(4, func(fd int, a []string) error {
			var mode uint32
			for m := range strings.SplitSeq(a[1], ",") {
				mode |= map[string]uint32{"keep": unix.FALLOC_FL_KEEP_SIZE, "punch": unix.FALLOC_FL_PUNCH_HOLE, "zero": unix.FALLOC_FL_ZERO_RANGE}[m]
			}
			return unix.Fallocate(fd, mode, int64(num(a[2])), int64(num(a[3])))
		}),
		"flink": onFD(2, func(fd int, a []string) error {
			return unix.Linkat(fd, "", unix.AT_FDCWD, a[1], unix.AT_EMPTY_PATH)
		}),
	}
}

// needsRoot says whether a script can be run only by root.
func needsRoot(script string) bool {
	for _, s := range []string{"as ", "chown ", "block", "char", "trusted.", "security.", "whiteout", "setacl"} {
		if strings.Contains(script, s) {
			return true
		}
	}
	return false
}

func tell(err error, s string) string {
	if err != nil {
		return thread.Errno(err)
	}
	return s
}

// unwrap returns the error of the system call in an error of package os.
func unwrap(err error) error {
	if p, ok := err.(*os.PathError); ok {
		return p.Err
	}
	return err
}

func makeType(kind, name, mode string) error {
	m := octal(mode)
	switch kind {
	case "file":
		return unix.Mknod(name, unix.S_IFREG|m, 0)
	case "dir":
		if mode == "" {
			m = 0o755
		}
		return unix.Mkdir(name, m)
	case "fifo":
		return unix.Mknod(name, unix.S_IFIFO|m, 0)
	case "socket":
		return unix.Mknod(name, unix.S_IFSOCK|m, 0)
	case "block":
		return unix.Mknod(name, unix.S_IFBLK|m, int(unix.Mkdev(7, 300)))
	case "char":
		return unix.Mknod(name, unix.S_IFCHR|m, int(unix.Mkdev(1, 70_000)))
	case "symlink":
		return unix.Symlink("nowhere", name)
	}
	panic("no such type: " + kind)
}

var openWords = map[string]int{
	"rdonly": unix.O_RDONLY, "wronly": unix.O_WRONLY, "rdwr": unix.O_RDWR, "creat": unix.O_CREAT, "excl": unix.O_EXCL,
	"trunc": unix.O_TRUNC, "append": unix.O_APPEND, "directory": unix.O_DIRECTORY, "nofollow": unix.O_NOFOLLOW,
	"path": unix.O_PATH, "tmpfile": unix.O_TMPFILE, "noatime": unix.O_NOATIME, "nonblock": unix.O_NONBLOCK, "direct": unix.O_DIRECT,
}

func openFlags(s string) int {
	flags := 0
	for w := range strings.SplitSeq(s, ",") {
		f, ok := openWords[w]
		if !ok {
			panic("no such flag: " + w)
		}
		flags |= f
	}
	return flags
}

func openClose(name, flags, mode string) error {
	fd, err := unix.Open(name, openFlags(flags)|unix.O_CLOEXEC, octal(mode))
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func writeTo(name, data string, flags int) error {
	fd, err := unix.Open(name, unix.O_WRONLY|flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(data))
	return err
}

// moment reads SECONDS.NANOSECONDS, now or omit.
func moment(s string) unix.Timespec {
	switch s {
	case "now":
		return unix.Timespec{Nsec: unix.UTIME_NOW}
	case "omit":
		return unix.Timespec{Nsec: unix.UTIME_OMIT}
	}
	sec, nsec, _ := strings.Cut(s, ".")
	ts := unix.Timespec{Sec: int64(num(sec))}
	if nsec != "" {
		ts.Nsec = int64(num(strings.TrimLeft(nsec, "0") + map[bool]string{true: "0"}[strings.Trim(nsec, "0") == ""]))
	}
	return ts
}

// fields returns the fields of a stat that are named.
func fields(st *unix.Stat_t, names string) string {
	var out []string
	for name := range strings.SplitSeq(names, ",") {
		switch name {
		case "mode":
			out = append(out, fmt.Sprintf("%o", st.Mode&0o7777))
		case "type":
			out = append(out, map[uint32]string{unix.S_IFREG: "file", unix.S_IFDIR: "dir", unix.S_IFIFO: "fifo", unix.S_IFBLK: "block",
				unix.S_IFCHR: "char", unix.S_IFSOCK: "socket", unix.S_IFLNK: "symlink"}[st.Mode&unix.S_IFMT])
		case "nlink":
			out = append(out, fmt.Sprint(st.Nlink))
		case "uid":
			out = append(out, fmt.Sprint(st.Uid))
		case "gid":
			out = append(out, fmt.Sprint(st.Gid))
		case "size":
			out = append(out, fmt.Sprint(st.Size))
		case "rdev":
			out = append(out, fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)))
		case "atime":
			out = append(out, fmt.Sprintf("%d.%09d", st.Atim.Sec, st.Atim.Nsec))
		case "mtime":
			out = append(out, fmt.Sprintf("%d.%09d", st.Mtim.Sec, st.Mtim.Nsec))
		default:
			panic("no such field: " + name)
		}
	}
	return strings.Join(out, ",")
}

func xattrNames(list []byte) []string {
	names := strings.FieldsFunc(string(list), func(r rune) bool { return r == 0 })
	slices.Sort(names)
	return names
}
