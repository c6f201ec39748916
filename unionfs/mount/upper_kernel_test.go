// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The kernel's overlayfs keeps its upper and work directories on it. With
// passthrough the stack would be too deep.
func TestUpperUnderOverlay(t *testing.T) {
	if !isRoot() {
		t.Skip("root's")
	}
	ways(t, func(t *testing.T, opt Options) {
		dir, s := mountedUpper(t, newUpper(t, everything()), opt)
		lower := t.TempDir()
		must(t, os.MkdirAll(lower+"/d/e", 0o755))
		must(t, os.WriteFile(lower+"/d/f", []byte("below"), 0o644))
		must(t, os.WriteFile(lower+"/g", []byte("below"), 0o644))
		for _, d := range []string{"/upper", "/work", "/merged"} {
			must(t, os.Mkdir(dir+d, 0o755))
		}
		merged := t.TempDir()
		data := "lowerdir=" + lower + ",upperdir=" + dir + "/upper,workdir=" + dir + "/work"
		if err := unix.Mount("overlay", merged, "overlay", 0, data); err != nil {
			t.Fatalf("passthrough %v: %v", passes(s), err)
		}
		defer unix.Unmount(merged, unix.MNT_DETACH)
		must(t, os.WriteFile(merged+"/d/f", []byte("changed"), 0o644))
		must(t, os.Remove(merged+"/g"))                    // a whiteout: a device 0:0
		must(t, os.Rename(merged+"/d/f", merged+"/moved")) // RENAME_WHITEOUT
		must(t, os.RemoveAll(merged+"/d"))
		must(t, os.Mkdir(merged+"/d", 0o755)) // opaque: trusted.overlay.opaque
		for path, want := range map[string]string{"moved": "changed", "d/f": "", "g": ""} {
			b, err := os.ReadFile(filepath.Join(merged, path))
			if string(b) != want || (want == "") != os.IsNotExist(err) {
				t.Errorf("%s: %q, %v", path, b, err)
			}
		}
		var st unix.Stat_t
		if err := unix.Lstat(dir+"/upper/g", &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
			t.Errorf("no whiteout: %+v, %v", st, err)
		}
		if b, err := os.ReadFile(lower + "/d/f"); string(b) != "below" {
			t.Errorf("below: %q, %v", b, err)
		}
	})
}

// A file is found by its handle when the kernel has forgotten it.
func TestUpperHandles(t *testing.T) {
	if !isRoot() {
		t.Skip("root's")
	}
	ways(t, func(t *testing.T, opt Options) {
		dir, _ := mountedUpper(t, newUpper(t, everything()), opt)
		must(t, os.MkdirAll(dir+"/new/sub", 0o755))
		must(t, os.WriteFile(dir+"/new/sub/f", []byte("x"), 0o644))
		must(t, os.Rename(dir+"/dir", dir+"/new/dir"))
		handles := map[string]unix.FileHandle{}
		for _, path := range []string{"", "new", "new/sub", "new/sub/f", "new/dir/file", "new/dir/sub"} {
			h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, filepath.Join(dir, path), 0)
			must(t, err)
			handles[path] = h
		}
		gone := handles["new/sub/f"]
		must(t, os.Remove(dir+"/new/sub/f"))
		delete(handles, "new/sub/f")
		must(t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0))
		root, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		must(t, err)
		defer unix.Close(root)
		for path, h := range handles {
			fd, err := unix.OpenByHandleAt(root, h, unix.O_RDONLY)
			if err != nil {
				t.Errorf("%q: %v", path, err)
				continue
			}
			var a, b unix.Stat_t
			must(t, unix.Fstat(fd, &a))
			must(t, unix.Lstat(filepath.Join(dir, path), &b))
			if a != b {
				t.Errorf("%q is %+v, by handle %+v", path, b, a)
			}
			if got, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); a.Mode&unix.S_IFMT == unix.S_IFDIR && got != filepath.Join(dir, path) {
				t.Errorf("%q is %q, %v", path, got, err)
			}
			unix.Close(fd)
		}
		if fd, err := unix.OpenByHandleAt(root, gone, unix.O_RDONLY); err != unix.ESTALE {
			t.Errorf("removed: %d, %v", fd, err)
		}
	})
}

// aclOf makes the xattr of an access control list of (tag, permissions, id).
func aclOf(entries ...[3]uint32) []byte {
	acl := []byte{2, 0, 0, 0}
	for _, e := range entries {
		acl = binary.LittleEndian.AppendUint16(acl, uint16(e[0]))
		acl = binary.LittleEndian.AppendUint16(acl, uint16(e[1]))
		acl = binary.LittleEndian.AppendUint32(acl, e[2])
	}
	return acl
}

const anyID = 0xffffffff

// Access control lists are obeyed, set the mode, and are inherited; the umask
// holds where there are none.
func TestUpperACL(t *testing.T) {
	ways(t, func(t *testing.T, opt Options) {
		dir := forUsers(t, everything(), opt)
		must(t, os.WriteFile(dir+"/f", []byte("secret"), 0o600))
		h := newHelper(t, user)
		h.is("EACCES", "open f r %s/f", dir)
		acl := aclOf([3]uint32{1, 6, anyID}, [3]uint32{2, 4, user}, [3]uint32{4, 0, anyID}, [3]uint32{16, 4, anyID}, [3]uint32{32, 0, anyID})
		must(t, unix.Setxattr(dir+"/f", "system.posix_acl_access", acl, 0))
		h.do("open f r %s/f", dir)
		h.is("EACCES", "open f rw %s/f", dir)
		if m := mode(t, dir+"/f") & 0o777; m != 0o640 { // the group's bits show the mask
			t.Errorf("mode %o", m)
		}
		must(t, os.Chmod(dir+"/f", 0o600))
		h.is("EACCES", "open f r %s/f", dir)
		must(t, unix.Removexattr(dir+"/f", "system.posix_acl_access"))

		def := aclOf([3]uint32{1, 7, anyID}, [3]uint32{2, 7, user}, [3]uint32{4, 5, anyID}, [3]uint32{16, 7, anyID}, [3]uint32{32, 5, anyID})
		must(t, os.Mkdir(dir+"/d", 0o755))
		must(t, unix.Setxattr(dir+"/d", "system.posix_acl_default", def, 0))
		old := unix.Umask(0o077)
		defer unix.Umask(old)
		must(t, os.WriteFile(dir+"/d/f", nil, 0o666))
		must(t, os.Mkdir(dir+"/d/sub", 0o777))
		must(t, os.WriteFile(dir+"/plain", nil, 0o666))
		for path, want := range map[string]uint32{"d/f": 0o664, "d/sub": 0o775, "plain": 0o600} {
			if m := mode(t, filepath.Join(dir, path)) & 0o777; m != want {
				t.Errorf("%s has mode %o, want %o", path, m, want)
			}
		}
		buf := make([]byte, 100)
		if n, err := unix.Getxattr(dir+"/d/sub", "system.posix_acl_default", buf); err != nil || string(buf[:n]) != string(def) {
			t.Errorf("the default list of a subdirectory: %x, %v", buf[:max(n, 0)], err)
		}
		h.do("open f rw %s/d/f", dir)
	})
}

func TestUpperXattrs(t *testing.T) {
	ways(t, func(t *testing.T, opt Options) {
		dir, _ := mountedUpper(t, newUpper(t, everything()), opt)
		must(t, os.WriteFile(dir+"/new", nil, 0o644))
		for _, path := range []string{dir + "/new", dir + "/capable", dir + "/dir"} {
			if err := unix.Setxattr(path, "user.a", []byte("1"), unix.XATTR_REPLACE); err != unix.ENODATA {
				t.Errorf("replace: %v", err)
			}
			must(t, unix.Setxattr(path, "user.a", []byte("1"), unix.XATTR_CREATE))
			if err := unix.Setxattr(path, "user.a", []byte("1"), unix.XATTR_CREATE); err != unix.EEXIST {
				t.Errorf("create: %v", err)
			}
			must(t, unix.Setxattr(path, "user.big", []byte(strings.Repeat("b", 60000)), 0))
			must(t, unix.Setxattr(path, "user.empty", nil, 0))
			buf := make([]byte, 64<<10)
			if n, err := unix.Getxattr(path, "user.big", buf); n != 60000 || err != nil {
				t.Errorf("big: %d, %v", n, err)
			}
			if n, err := unix.Getxattr(path, "user.empty", buf); n != 0 || err != nil {
				t.Errorf("empty: %d, %v", n, err)
			}
			if _, err := unix.Getxattr(path, "user.big", buf[:10]); err != unix.ERANGE {
				t.Errorf("in 10 bytes: %v", err)
			}
			must(t, unix.Removexattr(path, "user.a"))
			if err := unix.Removexattr(path, "user.a"); err != unix.ENODATA {
				t.Errorf("removed twice: %v", err)
			}
			n, err := unix.Listxattr(path, buf)
			must(t, err)
			names := strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00")
			if slices.Contains(names, "user.a") || !slices.Contains(names, "user.big") || !slices.Contains(names, "user.empty") {
				t.Errorf("%s lists %q", path, names)
			}
		}
		if !isRoot() {
			return
		}
		must(t, unix.Lsetxattr(dir+"/link", "trusted.x", []byte("on a symlink"), 0))
		buf := make([]byte, 100)
		if n, err := unix.Lgetxattr(dir+"/link", "trusted.x", buf); err != nil || string(buf[:n]) != "on a symlink" {
			t.Errorf("%q, %v", buf[:max(n, 0)], err)
		}
	})
}

// What stat tells is true after each change, though the kernel keeps what it
// was told for ever.
func TestUpperAttributes(t *testing.T) {
	ways(t, func(t *testing.T, opt Options) {
		dir, _ := mountedUpper(t, newUpper(t, everything()), opt)
		must(t, os.WriteFile(dir+"/new", []byte("x"), 0o644))
		stat := func(path string) (st unix.Stat_t) {
			t.Helper()
			must(t, unix.Lstat(filepath.Join(dir, path), &st))
			return st
		}
		tick := func() { time.Sleep(12 * time.Millisecond) }
		for _, c := range []struct {
			op   string
			do   func() error
			see  string // whose ctime changes
			also string // whose mtime too
		}{
			{"chmod", func() error { return os.Chmod(dir+"/dir/file", 0o600) }, "dir/hard", ""},
			{"chmod back", func() error { return os.Chmod(dir+"/dir/file", 0o640) }, "dir/file", ""},
			{"link", func() error { return os.Link(dir+"/dir/file", dir+"/l") }, "dir/file", ""},
			{"link: the directory", func() error { return os.Link(dir+"/dir/file", dir+"/l2") }, "", ""},
			{"unlink", func() error { return os.Remove(dir + "/l") }, "dir/file", ""},
			{"unlink: the directory", func() error { return os.Remove(dir + "/l2") }, "", ""},
			{"rename: the directory", func() error { return os.Rename(dir+"/new", dir+"/new2") }, "", ""},
			{"rename forth and back", func() error {
				return errors.Join(os.Rename(dir+"/new2", dir+"/dir/file2"), os.Rename(dir+"/dir/file2", dir+"/new2"))
			}, "new2", ""},
			{"rename back", func() error { return os.Rename(dir+"/new2", dir+"/new") }, "", ""},
			{"setxattr", func() error { return unix.Setxattr(dir+"/new", "user.x", nil, 0) }, "new", ""},
			{"write", func() error { return os.WriteFile(dir+"/new", []byte("xyz"), 0) }, "new", "new"},
			{"write to the image's", func() error { return os.WriteFile(dir+"/dir/hard", []byte("xyz"), 0) }, "dir/file", "dir/file"},
			{"truncate", func() error { return os.Truncate(dir+"/new", 100) }, "new", "new"},
			{"mkdir", func() error { return os.Mkdir(dir+"/dir/d", 0o755) }, "dir", "dir"},
			{"rmdir", func() error { return os.Remove(dir + "/dir/d") }, "dir", "dir"},
		} {
			before := stat(c.see)
			tick()
			if err := c.do(); err != nil {
				t.Errorf("%s: %v", c.op, err)
				continue
			}
			after := stat(c.see)
			if after.Ctim == before.Ctim {
				t.Errorf("%s: ctime of %q stays", c.op, c.see)
			}
			if c.also != "" && after.Mtim == before.Mtim {
				t.Errorf("%s: mtime of %q stays", c.op, c.see)
			}
		}
		if st := stat("dir/file"); st.Nlink != 2 || st.Size != 3 || st.Mode&0o777 != 0o640 {
			t.Errorf("%+v", st)
		}
		if a, b := stat("dir").Nlink, stat("").Nlink; a != 3 || b != 4 {
			t.Errorf("nlink of directories: %d, %d", a, b)
		}
		must(t, os.Rename(dir+"/dir/sub", dir+"/sub"))
		if a, b := stat("dir").Nlink, stat("").Nlink; a != 2 || b != 5 {
			t.Errorf("nlink of directories after a rename: %d, %d", a, b)
		}
		// One name is written over by another.
		must(t, os.Link(dir+"/new", dir+"/other"))
		must(t, os.WriteFile(dir+"/over", nil, 0o644))
		must(t, os.Rename(dir+"/over", dir+"/other"))
		if st := stat("new"); st.Nlink != 1 {
			t.Errorf("nlink after its name was overwritten: %d", st.Nlink)
		}
		// Times to the nanosecond, and one of them alone.
		ts := []unix.Timespec{{Sec: -5, Nsec: 123456789}, {Nsec: unix.UTIME_OMIT}}
		was := stat("new").Mtim
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, dir+"/new", ts, 0))
		if st := stat("new"); st.Atim != ts[0] || st.Mtim != was {
			t.Errorf("utimes: %+v, %+v", st.Atim, st.Mtim)
		}
		ts = []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: 1 << 33, Nsec: 999999999}}
		for _, name := range []string{"new", "dir/file", "dir", "link"} {
			must(t, unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(dir, name), ts, unix.AT_SYMLINK_NOFOLLOW))
			if st := stat(name); st.Mtim != ts[1] {
				t.Errorf("utimes of %s: %+v", name, st.Mtim)
			}
		}
		var sx unix.Statx_t
		must(t, unix.Statx(unix.AT_FDCWD, dir+"/new", 0, unix.STATX_BTIME|unix.STATX_BASIC_STATS, &sx))
		if sx.Mask&unix.STATX_BTIME == 0 || time.Since(time.Unix(sx.Btime.Sec, 0)) > time.Minute {
			t.Errorf("btime: %+v", sx.Btime)
		}
	})
}

func TestUpperSpecials(t *testing.T) {
	ways(t, func(t *testing.T, opt Options) {
		dir, _ := mountedUpper(t, newUpper(t, small()), opt)
		must(t, unix.Mkfifo(dir+"/fifo", 0o600))
		must(t, unix.Mknod(dir+"/plain", unix.S_IFREG|0o600, 0))
		must(t, os.WriteFile(dir+"/plain", []byte("x"), 0))
		if isRoot() {
			must(t, unix.Mknod(dir+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
			must(t, unix.Mknod(dir+"/big", unix.S_IFBLK|0o600, int(unix.Mkdev(259, 70000))))
			var st unix.Stat_t
			must(t, unix.Stat(dir+"/big", &st))
			if st.Rdev != unix.Mkdev(259, 70000) {
				t.Errorf("rdev %#x", st.Rdev)
			}
		}
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		must(t, err)
		defer unix.Close(fd)
		must(t, os.Chdir(dir)) // the path may be long
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: "sock"})
		must(t, os.Chdir("/"))
		must(t, err)
		if m := mode(t, dir+"/sock"); m&unix.S_IFMT != unix.S_IFSOCK {
			t.Errorf("socket: %o", m)
		}
		must(t, os.Symlink(strings.Repeat("s", 4095), dir+"/long"))
		if to, err := os.Readlink(dir + "/long"); len(to) != 4095 {
			t.Errorf("%d bytes, %v", len(to), err)
		}
		for _, err := range []error{
			unix.Mkdir(dir+"/"+strings.Repeat("n", 256), 0o755),
			unix.Link(dir+"/plain", dir+"/"+strings.Repeat("n", 256)),
			unix.Rename(dir+"/plain", dir+"/"+strings.Repeat("n", 256)),
			unix.Symlink("x", dir+"/"+strings.Repeat("n", 256)),
		} {
			if err != unix.ENAMETOOLONG {
				t.Errorf("a name of 256 bytes: %v", err)
			}
		}
		must(t, unix.Mkdir(dir+"/"+strings.Repeat("n", 255), 0o755))
	})
}

// Holes and data are told apart, also while the kernel has not written back
// what it caches.
func TestUpperHoles(t *testing.T) {
	ways(t, func(t *testing.T, opt Options) {
		dir, _ := mountedUpper(t, newUpper(t, everything()), opt)
		f, err := os.Create(dir + "/new")
		must(t, err)
		defer f.Close()
		_, err = f.WriteAt([]byte("data"), 1<<20)
		must(t, err)
		must(t, f.Truncate(3<<20))
		for _, tt := range []struct {
			off    int64
			whence int
			want   int64
		}{{0, unix.SEEK_DATA, 1 << 20}, {0, unix.SEEK_HOLE, 0}, {1 << 20, unix.SEEK_HOLE, 1<<20 + 4096}} {
			if got, err := f.Seek(tt.off, tt.whence); got != tt.want {
				t.Errorf("seek(%d, %d) is %d, want %d (%v)", tt.off, tt.whence, got, tt.want, err)
			}
		}
		_, err = f.WriteAt([]byte("more"), 2<<20) // may lie in the kernel's cache
		must(t, err)
		if got, err := f.Seek(1<<20+4096, unix.SEEK_DATA); got != 2<<20 {
			t.Errorf("data at %d, %v", got, err)
		}
		s, err := os.OpenFile(dir+"/sparse", os.O_RDWR, 0)
		must(t, err)
		defer s.Close()
		if got, err := s.Seek(0, unix.SEEK_DATA); got != 1<<20 {
			t.Errorf("the image's: data at %d, %v", got, err)
		}
		_, err = s.WriteAt([]byte("x"), 3<<20)
		must(t, err)
		if got, err := s.Seek(2<<20, unix.SEEK_DATA); got != 3<<20 {
			t.Errorf("the image's, written: data at %d, %v", got, err)
		}
	})
}

// Where modes are not enforced, in a user's mount, everything is allowed to its
// user but what the kernel itself refuses.
func TestUpperAsUser(t *testing.T) {
	if isRoot() {
		t.Skip("a user's")
	}
	dir, _ := mountedUpper(t, newUpper(t, everything()), Options{})
	must(t, os.WriteFile(dir+"/disk2", nil, 0o000))
	must(t, os.WriteFile(dir+"/disk2", []byte("written in spite of its mode"), 0))
	must(t, os.Chown(dir+"/dir/file", 12345, 54321))
	must(t, unix.Chmod(dir+"/dir/file", 0o4755))
	var st unix.Stat_t
	must(t, unix.Stat(dir+"/dir/file", &st))
	if st.Uid != shownID(12345) || st.Gid != shownID(54321) || st.Mode&0o7777 != 0o4755 {
		t.Errorf("%+v", st)
	}
	if err := unix.Mknod(dir+"/dev", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))); err != unix.EPERM {
		t.Errorf("a device: %v", err)
	}
	if err := unix.Setxattr(dir+"/suid", "trusted.x", nil, 0); err != unix.EPERM {
		t.Errorf("trusted: %v", err)
	}
}
