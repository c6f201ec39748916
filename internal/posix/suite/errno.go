// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A pathCall is a system call with a path.
type pathCall struct {
	name    string
	creates bool // the path names what is to be made
	lstat   bool // a symlink at the end is not followed
	call    func(path string) error
}

var pathCalls = []pathCall{
	{"access", false, false, func(p string) error { return unix.Access(p, unix.F_OK) }},
	{"chdir", false, false, unix.Chdir},
	{"chmod", false, false, func(p string) error { return unix.Chmod(p, 0o600) }},
	{"chown", false, false, func(p string) error { return unix.Chown(p, -1, -1) }},
	{"getxattr", false, false, func(p string) error { _, err := unix.Getxattr(p, "user.x", nil); return err }},
	{"lchown", false, true, func(p string) error { return unix.Lchown(p, -1, -1) }},
	{"link from", false, true, func(p string) error { return unix.Link(p, "made") }},
	{"link to", true, true, func(p string) error { return unix.Link("file", p) }},
	{"listxattr", false, false, func(p string) error { _, err := unix.Listxattr(p, nil); return err }},
	{"lstat", false, true, func(p string) error { var st unix.Stat_t; return unix.Lstat(p, &st) }},
	{"mkdir", true, true, func(p string) error { return unix.Mkdir(p, 0o755) }},
	{"mkfifo", true, true, func(p string) error { return unix.Mkfifo(p, 0o644) }},
	{"mknod", true, true, func(p string) error { return unix.Mknod(p, unix.S_IFREG|0o644, 0) }},
	{"open", false, false, func(p string) error { return openClose(p, "rdonly", "") }},
	{"open O_CREAT", true, false, func(p string) error { return openClose(p, "wronly,creat", "644") }},
	{"open O_EXCL", true, true, func(p string) error { return openClose(p, "wronly,creat,excl", "644") }},
	{"open O_TMPFILE", false, false, func(p string) error { return openClose(p, "wronly,tmpfile", "644") }},
	{"readlink", false, true, func(p string) error { _, err := unix.Readlink(p, make([]byte, 10)); return err }},
	{"removexattr", false, false, func(p string) error { return unix.Removexattr(p, "user.x") }},
	{"rename from", false, true, func(p string) error { return unix.Rename(p, "made") }},
	{"rename to", true, true, func(p string) error { return unix.Rename("file", p) }},
	{"rmdir", false, true, unix.Rmdir},
	{"setxattr", false, false, func(p string) error { return unix.Setxattr(p, "user.x", []byte("y"), 0) }},
	{"stat", false, false, func(p string) error { var st unix.Stat_t; return unix.Stat(p, &st) }},
	{"statfs", false, false, func(p string) error { var st unix.Statfs_t; return unix.Statfs(p, &st) }},
	{"symlink", true, true, func(p string) error { return unix.Symlink("x", p) }},
	{"truncate", false, false, func(p string) error { return unix.Truncate(p, 0) }},
	{"unlink", false, true, unix.Unlink},
	{"utimensat", false, false, func(p string) error {
		return unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{{Sec: 1}, {Sec: 1}}, 0)
	}},
}

// errnoRules tests of every call with a path what it says to a bad one.
func errnoRules(t *testing.T, in func(*testing.T, string, func(*env))) {
	long := strings.Repeat("n", 256)
	for _, c := range pathCalls {
		in(t, c.name, func(e *env) {
			e.run("create file\nsymlink loop loop\nsymlink looped2 looped1\nsymlink looped1 looped2\nsymlink nowhere dangling\nmkdir closed 755\nmkdir readonly 755\nmkdir plain 755\ncreate closed/f")
			for _, tt := range []struct{ what, path, want string }{
				{"a component that is a file", "file/x", "ENOTDIR"},
				{"a component that is a file, and dot-dot", "file/../x", "ENOTDIR"},
				{"a missing component", "missing/x", "ENOENT"},
				{"a component that leads nowhere", "dangling/x", "ENOENT"},
				{"a component too long", long + "/x", "ENAMETOOLONG"},
				{"a name too long", "plain/" + long, "ENAMETOOLONG"},
				{"a path too long", expand("x^4096"), "ENAMETOOLONG"},
				{"a component that is a loop", "loop/x", "ELOOP"},
				{"a component of two that are a loop", "looped1/x", "ELOOP"},
				{"no path", "", "ENOENT"},
			} {
				e.want(tt.what, c.call(tt.path), tt.want)
			}
			if !c.creates {
				e.want("a missing name", c.call("missing"), "ENOENT")
			}
			if !c.creates && !c.lstat {
				e.want("a name that leads nowhere", c.call("dangling"), "ENOENT")
				e.want("a name that is a loop", c.call("loop"), "ELOOP")
			}
			e.must(unix.Chown("file", 65535, 65535)) // who may link it
			e.must(unix.Chmod("closed", 0o644))
			e.as(65535, 65535, func() { e.want("a directory without x", c.call("closed/f"), "EACCES") })
			if c.creates {
				e.as(65535, 65535, func() { e.want("a directory without w", c.call("readonly/new"), "EACCES") })
			}
			e.must(unix.Chdir(e.dir))
		})
	}
	bad := ^uintptr(0) - 4095 // no user address
	in(t, "a path that is no address", func(e *env) {
		for _, c := range []struct {
			name string
			nr   uintptr
			args [4]uintptr
		}{
			{"chmod", unix.SYS_FCHMODAT, [4]uintptr{at, bad, 0o644}},
			{"chown", unix.SYS_FCHOWNAT, [4]uintptr{at, bad}},
			{"mkdir", unix.SYS_MKDIRAT, [4]uintptr{at, bad, 0o755}},
			{"mknod", unix.SYS_MKNODAT, [4]uintptr{at, bad, unix.S_IFIFO}},
			{"open", unix.SYS_OPENAT, [4]uintptr{at, bad}},
			{"truncate", unix.SYS_TRUNCATE, [4]uintptr{bad}},
			{"unlink", unix.SYS_UNLINKAT, [4]uintptr{at, bad}},
			{"rmdir", unix.SYS_UNLINKAT, [4]uintptr{at, bad, unix.AT_REMOVEDIR}},
			{"utimensat", unix.SYS_UTIMENSAT, [4]uintptr{at, bad}},
			{"lgetxattr", unix.SYS_LGETXATTR, [4]uintptr{bad, bad}},
		} {
			_, _, errno := unix.Syscall6(c.nr, c.args[0], c.args[1], c.args[2], c.args[3], 0, 0)
			e.want(c.name, errno, "EFAULT")
		}
		e.run("create f")
		name := []byte("f\x00")
		for what, pair := range map[string][2]uintptr{
			"rename from": {bad, uintptr(unsafe.Pointer(&name[0]))}, "rename to": {uintptr(unsafe.Pointer(&name[0])), bad},
		} {
			_, _, errno := unix.Syscall6(unix.SYS_RENAMEAT2, at, pair[0], at, pair[1], 0, 0)
			e.want(what, errno, "EFAULT")
			_, _, errno = unix.Syscall6(unix.SYS_LINKAT, at, pair[0], at, pair[1], 0, 0)
			e.want("as link", errno, "EFAULT")
		}
		_, _, errno := unix.Syscall(unix.SYS_SYMLINKAT, uintptr(unsafe.Pointer(&name[0])), at, bad)
		e.want("symlink", errno, "EFAULT")
	})
}

const at = ^uintptr(99) // AT_FDCWD
