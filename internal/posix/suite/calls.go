// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A call is a rule that needs more than a script.
type call struct {
	name string
	user bool // an ordinary user alone can test it, too
	test func(e *env)
}

var calls = append([]call{
	{"flock excludes by open file", true, testFlock},
	{"fcntl and OFD locks exclude by range", true, testLocks},
	{"inotify tells of every change", true, testInotify},
	{"scripts and programs run", true, testExec},
	{"a program that runs is not written, one being written does not run", true, testTextBusy},
	{"ioctls for the disk below are not for us", true, testIoctls},
	{"statfs is plausible", true, testStatfs},
	{"birth time", true, testBirth},
	{"sockets are bound and connected", true, testSocket},
	{"FIFOs carry data", true, testFIFO},
	{"names of any bytes", true, testNames},
	{"the working directory is renamed and removed", true, testCwd},
	{"paths longer than PATH_MAX", true, testDeep},
	{"another filesystem is EXDEV", true, testXdev},
	{"a read-only mount of it is EROFS", false, testReadOnly},
	{"hundreds of xattrs", true, testManyXattrs},
	{"sizes of xattr values", true, testXattrSizes},
	{"sync calls", true, testSync},
	{"a path descriptor", true, testPathFD},
}, append(dirCalls, dataCalls...)...)

func testFlock(e *env) {
	e.put("f", "")
	one, two := e.open("f", unix.O_RDONLY, 0), e.open("f", unix.O_RDWR, 0)
	e.must(unix.Flock(one, unix.LOCK_EX))
	e.want("second exclusive", unix.Flock(two, unix.LOCK_EX|unix.LOCK_NB), "EAGAIN")
	e.want("shared beside exclusive", unix.Flock(two, unix.LOCK_SH|unix.LOCK_NB), "EAGAIN")
	e.must(unix.Flock(one, unix.LOCK_SH))
	e.must(unix.Flock(two, unix.LOCK_SH|unix.LOCK_NB))
	e.want("upgrade beside shared", unix.Flock(two, unix.LOCK_EX|unix.LOCK_NB), "EAGAIN")
	e.must(unix.Unlink("f")) // the lock is the inode's
	e.close(one)
	e.must(unix.Flock(two, unix.LOCK_EX|unix.LOCK_NB))
	dir, again := e.open(".", unix.O_RDONLY, 0), e.open(".", unix.O_RDONLY, 0)
	e.must(unix.Flock(dir, unix.LOCK_EX))
	e.want("a directory", unix.Flock(again, unix.LOCK_EX|unix.LOCK_NB), "EAGAIN")
}

// testLocks uses locks of the process on one descriptor and of open files on
// others, since a process never conflicts with itself.
func testLocks(e *env) {
	e.put("f", "0123456789")
	one, two, three := e.open("f", unix.O_RDWR, 0), e.open("f", unix.O_RDWR, 0), e.open("f", unix.O_RDONLY, 0)
	lock := func(fd, cmd int, kind int16, from, n int64) error {
		return unix.FcntlFlock(uintptr(fd), cmd, &unix.Flock_t{Type: kind, Start: from, Len: n})
	}
	e.must(lock(one, unix.F_SETLK, unix.F_WRLCK, 0, 5))
	e.want("overlap", lock(two, unix.F_OFD_SETLK, unix.F_WRLCK, 4, 1), "EAGAIN")
	e.want("read beside write", lock(two, unix.F_OFD_SETLK, unix.F_RDLCK, 0, 1), "EAGAIN")
	e.must(lock(two, unix.F_OFD_SETLK, unix.F_WRLCK, 5, 0))
	e.want("write lock on a descriptor for reading", lock(three, unix.F_OFD_SETLK, unix.F_WRLCK, 100, 1), "EBADF")
	found := unix.Flock_t{Type: unix.F_RDLCK, Start: 0, Len: 100}
	e.must(unix.FcntlFlock(uintptr(three), unix.F_OFD_GETLK, &found))
	if found.Type != unix.F_WRLCK || found.Start != 0 || found.Len != 5 {
		e.failf("the lock found is %+v", found)
	}
	e.must(lock(one, unix.F_SETLK, unix.F_UNLCK, 2, 1)) // splits it
	e.must(lock(three, unix.F_OFD_SETLK, unix.F_RDLCK, 2, 1))
	e.want("left of the split", lock(three, unix.F_OFD_SETLK, unix.F_RDLCK, 1, 1), "EAGAIN")
	e.close(e.open("f", unix.O_RDONLY, 0)) // closing any descriptor drops the process's locks
	e.must(lock(three, unix.F_OFD_SETLK, unix.F_RDLCK, 0, 5))
}

func testInotify(e *env) {
	watch, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	e.must(err)
	e.fds["inotify"] = watch
	e.must(unix.Mkdir("d", 0o755))
	_, err = unix.InotifyAddWatch(watch, "d", unix.IN_ALL_EVENTS&^(unix.IN_OPEN|unix.IN_ACCESS|unix.IN_CLOSE_NOWRITE))
	e.must(err)
	e.run("create d/f\nwrite d/f data\nchmod d/f 600\nlink d/f d/g\nrename d/f d/h\nunlink d/g\nmkdir d/e 755\nrmdir d/e\nsetxattr d/h user.x y\nsymlink x d/s")
	buf := make([]byte, 64<<10)
	n, err := unix.Read(watch, buf)
	e.must(err)
	var got []string
	for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
		mask, size := binary.NativeEndian.Uint32(b[4:]), unix.SizeofInotifyEvent+int(binary.NativeEndian.Uint32(b[12:]))
		name := strings.TrimRight(string(b[unix.SizeofInotifyEvent:size]), "\x00")
		for bit, word := range map[uint32]string{unix.IN_CREATE: "create", unix.IN_MODIFY: "modify", unix.IN_ATTRIB: "attrib",
			unix.IN_CLOSE_WRITE: "close", unix.IN_MOVED_FROM: "from", unix.IN_MOVED_TO: "to", unix.IN_DELETE: "delete"} {
			if mask&bit != 0 {
				got = append(got, word+" "+name)
			}
		}
		b = b[size:]
	}
	want := "create f, close f, modify f, close f, attrib f, create g, from f, to h, delete g, create e, delete e, attrib h, create s"
	// The inode changes its link count, too: told or not, and a truncation of
	// an empty file.
	have := strings.Join(got, ", ")
	for _, w := range strings.Split(want, ", ") {
		_, after, ok := strings.Cut(have+", ", w+", ")
		if !ok {
			e.failf("%s is missing from %s", w, strings.Join(got, ", "))
		}
		have = after
	}
}

func testExec(e *env) {
	if e.isNoexec() {
		e.skip("mounted noexec")
	}
	e.put("script", "#!/bin/sh\necho \"$0 $1\"\n")
	e.want("without x", e.output("./script", "a"), "EACCES")
	e.must(unix.Chmod("script", 0o755))
	out, err := exec.Command("./script", "a").Output()
	e.must(err)
	equal(e, "output", string(out), "./script a\n")
	e.program("prog")
	out, err = exec.Command("./prog", "b").Output()
	e.must(err)
	equal(e, "output of a program", string(out), "b\n")
	e.run("unlink script\nrename prog moved\nlink moved again")
	out, err = exec.Command("./again", "c").Output()
	e.must(err)
	equal(e, "output after a rename", string(out), "c\n")
	e.put("bad", "#!/no/such/interpreter\n")
	e.must(unix.Chmod("bad", 0o755))
	e.want("no interpreter", e.output("./bad"), "ENOENT")
	e.put("empty", "\x00\x00")
	e.must(unix.Chmod("empty", 0o755))
	e.want("no program", e.output("./empty"), "ENOEXEC")
}

func (e *env) isNoexec() bool {
	var st unix.Statfs_t
	e.must(unix.Statfs(".", &st))
	return st.Flags&unix.ST_NOEXEC != 0
}

// output runs a program and returns the error of the system call.
func (e *env) output(name string, args ...string) error {
	_, err := exec.Command(name, args...).Output()
	if p, ok := err.(*os.PathError); ok {
		return p.Err
	}
	if p, ok := err.(*exec.Error); ok {
		return unwrap(p.Err)
	}
	return err
}

// program makes an executable copy of echo.
func (e *env) program(name string) {
	path, err := exec.LookPath("echo")
	e.must(err)
	data, err := os.ReadFile(path)
	e.must(err)
	e.put(name, string(data))
	e.must(unix.Chmod(name, 0o755))
}

func testTextBusy(e *env) {
	if e.isNoexec() {
		e.skip("mounted noexec")
	}
	path, err := exec.LookPath("sleep")
	e.must(err)
	data, err := os.ReadFile(path)
	e.must(err)
	e.put("prog", string(data))
	e.must(unix.Chmod("prog", 0o755))
	cmd := exec.Command("./prog", "100")
	e.must(cmd.Start())
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	e.run("open prog wronly = ETXTBSY\nopen prog rdwr = ETXTBSY\ntruncate prog 0 = ETXTBSY\nopen prog rdonly,trunc = ETXTBSY\nopen prog rdonly\nchmod prog 700\nrename prog other\nunlink other")
	e.program("busy")
	fd := e.open("busy", unix.O_WRONLY, 0)
	e.want("run what is open for writing", e.output("./busy"), "ETXTBSY")
	e.close(fd)
	e.want("run it then", e.output("./busy"), "ok")
}

// testIoctls never asks for anything that would do harm if it got through.
func testIoctls(e *env) {
	if e.runner.opt.OwnIoctls {
		e.skip("this filesystem has ioctls of its own")
	}
	e.put("f", "data")
	dir, file := e.open(".", unix.O_RDONLY, 0), e.open("f", unix.O_RDWR, 0)
	const (
		shutdown = 0x8004587d
		fitrim   = 0xc0185879
		getFlags = 0x80086601
		getXattr = 0x801c581f
		fibmap   = 1
	)
	var arg [64]byte
	for i := range arg {
		arg[i] = 0xff // no valid way to shut down, no range to trim
	}
	for _, fd := range []int{dir, file} {
		for name, nr := range map[string]uintptr{"FS_IOC_SHUTDOWN": shutdown, "FITRIM": fitrim, "FS_IOC_GETFLAGS": getFlags, "FS_IOC_FSGETXATTR": getXattr} {
			_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), nr, uintptr(unsafe.Pointer(&arg[0])))
			if errno != unix.ENOTTY && errno != unix.EOPNOTSUPP {
				e.failf("%s: %v", name, errno)
			}
		}
	}
	equal(e, "the file", e.get("f"), "data")
}

func testStatfs(e *env) {
	var st, fst unix.Statfs_t
	e.must(unix.Statfs(".", &st))
	fd := e.open(".", unix.O_RDONLY, 0)
	e.must(unix.Fstatfs(fd, &fst))
	if st.Bsize < 512 || st.Bsize > 1<<20 || st.Frsize < 512 || st.Namelen != 255 || st.Blocks == 0 || st.Bfree > st.Blocks || st.Bavail > st.Bfree {
		e.failf("%+v", st)
	}
	equal(e, "type by descriptor", fst.Type, st.Type)
	equal(e, "identity by descriptor", fst.Fsid, st.Fsid)
}

func (e *env) statx(name string) unix.Statx_t {
	var st unix.Statx_t
	e.must(unix.Statx(unix.AT_FDCWD, name, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st))
	return st
}

func testBirth(e *env) {
	before := time.Now().Add(-20 * time.Millisecond)
	e.run("create f\nmkdir d 755\nsymlink x s")
	for _, name := range []string{"f", "d", "s"} {
		st := e.statx(name)
		if st.Mask&unix.STATX_BTIME == 0 {
			e.failf("%s has no birth time", name)
		}
		born := time.Unix(st.Btime.Sec, int64(st.Btime.Nsec))
		if born.Before(before) || born.After(time.Now().Add(20*time.Millisecond)) {
			e.failf("%s was born %v, now is %v", name, born, time.Now())
		}
	}
	born := e.statx("f").Btime
	tick()
	e.run("write f data\nchmod f 600\nutimens f 1 2\nlink f g\nrename g h\ntruncate f 0\nsetxattr f user.x y")
	equal(e, "birth time after changes", e.statx("h").Btime, born)
}

func testSocket(e *env) {
	listener, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	e.must(err)
	defer unix.Close(listener)
	e.must(unix.Bind(listener, &unix.SockaddrUnix{Name: "s"}))
	if err := unix.Bind(listener, &unix.SockaddrUnix{Name: "s"}); err != unix.EADDRINUSE && err != unix.EINVAL {
		e.failf("bind again: %v", err)
	}
	e.must(unix.Listen(listener, 1))
	e.run("lstat s type,nlink = socket,1\nlink s t\nrename t u")
	for _, name := range []string{"s", "u"} {
		client, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		e.must(err)
		defer unix.Close(client)
		e.must(unix.Connect(client, &unix.SockaddrUnix{Name: name}))
		server, _, err := unix.Accept(listener)
		e.must(err)
		defer unix.Close(server)
	}
	e.run("unlink s\nunlink u")
	e.put("f", "")
	client, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	e.must(err)
	defer unix.Close(client)
	e.want("connect to a file", unix.Connect(client, &unix.SockaddrUnix{Name: "f"}), "ECONNREFUSED")
	e.want("connect to what is gone", unix.Connect(client, &unix.SockaddrUnix{Name: "s"}), "ENOENT")
}

func testFIFO(e *env) {
	e.must(unix.Mkfifo("p", 0o644))
	r := e.open("p", unix.O_RDONLY|unix.O_NONBLOCK, 0)
	w := e.open("p", unix.O_WRONLY|unix.O_NONBLOCK, 0)
	e.write(w, "through")
	buf := make([]byte, 10)
	n, err := unix.Read(r, buf)
	e.must(err)
	equal(e, "read", string(buf[:n]), "through")
	e.must(unix.Unlink("p"))
	e.write(w, "still")
}

func testNames(e *env) {
	var all []string
	for b := 1; b < 256; b++ {
		if b != '/' && b != '.' {
			all = append(all, string([]byte{byte(b)}))
		}
	}
	all = append(all, "a\xc3", "\xed\xa0\x80", "é", "e\u0301", "A B\n", "...", strings.Repeat("\xff", 255), "-rf", ".wh", ".wh..", "x.wh.y")
	for _, name := range all {
		e.put(name, name)
	}
	listed, err := os.ReadDir(".")
	e.must(err)
	equal(e, "names listed", len(listed), len(all))
	for _, name := range all {
		equal(e, fmt.Sprintf("content of %q", name), e.get(name), name)
		e.must(unix.Rename(name, "x"+name[1:]+"-moved"[:min(6, 255-len(name))]))
		e.must(unix.Unlink("x" + name[1:] + "-moved"[:min(6, 255-len(name))]))
	}
}

func testCwd(e *env) {
	e.run("mkdir a 755\nmkdir a/b 755\ncreate a/b/f\nchdir a/b\nrename ../../a ../../c")
	cwd, err := unix.Getwd()
	e.must(err)
	if !strings.HasSuffix(cwd, "/c/b") {
		e.failf("working directory is %s", cwd)
	}
	e.run("stat f type = file\nunlink f\nrmdir ../b\nstat . nlink = 0\ncreate f = ENOENT\nstat .. type = dir")
	if _, err := unix.Getwd(); err != unix.ENOENT {
		e.failf("getcwd in a removed directory: %v", err)
	}
	e.must(unix.Chdir(e.dir))
}

// testDeep makes directories deeper than a path can name, and moves and
// removes them.
func testDeep(e *env) {
	name := strings.Repeat("d", 200)
	for range 40 {
		e.must(unix.Mkdir(name, 0o755))
		e.must(unix.Chdir(name))
	}
	e.put("f", "deep")
	equal(e, "content", e.get("f"), "deep")
	if _, err := unix.Getwd(); err != unix.ENAMETOOLONG && err != unix.ERANGE {
		e.failf("getcwd: %v", err)
	}
	e.must(unix.Unlink("f"))
	for range 40 {
		e.must(unix.Chdir(".."))
		e.must(unix.Rename(name, "x"))
		e.must(unix.Rmdir("x"))
	}
	equal(e, "left", strings.Join(dirNames(e, "."), ","), "")
}

func testXdev(e *env) {
	other, err := os.MkdirTemp("/dev/shm", "posix")
	if err != nil {
		e.skip("no other filesystem: " + err.Error())
	}
	defer os.RemoveAll(other)
	var here, there unix.Stat_t
	e.must(unix.Stat(".", &here))
	e.must(unix.Stat(other, &there))
	if here.Dev == there.Dev {
		e.skip("it is the same filesystem")
	}
	e.put("f", "")
	e.must(unix.Mkdir("d", 0o755))
	e.want("rename", unix.Rename("f", other+"/f"), "EXDEV")
	e.want("rename a directory", unix.Rename("d", other+"/d"), "EXDEV")
	e.want("link", unix.Link("f", other+"/f"), "EXDEV")
	e.must(os.WriteFile(other+"/f", []byte("x"), 0o644))
	e.want("rename in", unix.Rename(other+"/f", "g"), "EXDEV")
}

// testReadOnly looks at the filesystem through a read-only bind mount that
// only this thread sees.
func testReadOnly(e *env) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		e.skip("no mount namespace: " + err.Error())
	}
	e.must(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	e.run("mkdir m 755\ncreate m/f\nmkdir m/d 755\nsymlink f m/s")
	e.must(unix.Mount("m", "m", "", unix.MS_BIND, ""))
	defer unix.Unmount(e.dir+"/m", unix.MNT_DETACH)
	e.must(unix.Mount("", "m", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	e.run(`
		create m/x = EROFS
		mkdir m/x 755 = EROFS
		mkfifo m/x 644 = EROFS
		symlink x m/x = EROFS
		link m/f m/x = EROFS
		rename m/f m/x = EROFS
		unlink m/f = EROFS
		rmdir m/d = EROFS
		chmod m/f 600 = EROFS
		chown m/f 1 1 = EROFS
		lchown m/s 1 1 = EROFS
		truncate m/f 0 = EROFS
		utimens m/f 1 1 = EROFS
		setxattr m/f user.x y = EROFS
		removexattr m/f user.x = EROFS
		open m/f wronly = EROFS
		open m/f rdwr = EROFS
		open m/f rdonly,trunc = EROFS
		open m/f rdonly
		access m/f w = EROFS
		mkdir m/d 755 = EEXIST
		create m/f = EEXIST`)
}

func testManyXattrs(e *env) {
	e.put("f", "")
	want := map[string]string{}
	for i := range 500 {
		name, value := fmt.Sprintf("user.number%d", i), strings.Repeat("v", i%50)
		err := unix.Setxattr("f", name, []byte(value), unix.XATTR_CREATE)
		if err == unix.ENOSPC && e.runner.opt.OwnIoctls && i >= 20 {
			break // ext4 has one block for them
		}
		e.must(err)
		want[name] = value
	}
	check := func() {
		buf := make([]byte, 64<<10)
		n, err := unix.Listxattr("f", buf)
		e.must(err)
		names := xattrNames(buf[:n])
		equal(e, "names listed", len(names), len(want))
		for _, name := range names {
			m, err := unix.Getxattr("f", name, buf)
			e.must(err)
			value, ok := want[name]
			if !ok || string(buf[:m]) != value {
				e.failf("%s is %q, want %q", name, buf[:m], value)
			}
		}
		size, err := unix.Listxattr("f", nil)
		e.must(err)
		equal(e, "size of the list", size, n)
		_, err = unix.Listxattr("f", make([]byte, n-1))
		e.want("a buffer too small", err, "ERANGE")
	}
	check()
	for name := range want {
		if len(name)%2 == 0 {
			e.must(unix.Removexattr("f", name))
			delete(want, name)
		}
	}
	check()
}

func testXattrSizes(e *env) {
	e.put("f", "")
	e.want("more than 64 KiB", unix.Setxattr("f", "user.big", make([]byte, 65537), 0), "E2BIG")
	for _, n := range []int{1, 100, 1000, 2000} {
		value := bytes.Repeat([]byte{'v'}, n)
		e.must(unix.Setxattr("f", "user.v", value, 0))
		got, err := unix.Getxattr("f", "user.v", nil)
		e.must(err)
		equal(e, "size", got, n)
		_, err = unix.Getxattr("f", "user.v", make([]byte, n-1))
		if n > 1 { // a buffer of no bytes asks for the size
			e.want("a buffer too small", err, "ERANGE")
		}
		buf := make([]byte, n+10)
		got, err = unix.Getxattr("f", "user.v", buf)
		e.must(err)
		if !bytes.Equal(buf[:got], value) {
			e.failf("%d bytes are read back as %q", n, buf[:got])
		}
	}
	if !e.runner.opt.OwnIoctls {
		value := bytes.Repeat([]byte{'b'}, 65536)
		e.must(unix.Setxattr("f", "user.big", value, 0))
		buf := make([]byte, 65536)
		n, err := unix.Getxattr("f", "user.big", buf)
		e.must(err)
		if !bytes.Equal(buf[:n], value) {
			e.failf("64 KiB are read back as %d bytes", n)
		}
	}
}

func testSync(e *env) {
	e.put("f", "data")
	fd, dir := e.open("f", unix.O_RDWR, 0), e.open(".", unix.O_RDONLY, 0)
	for _, d := range []int{fd, dir} {
		e.must(unix.Fsync(d))
		e.must(unix.Fdatasync(d))
		e.must(unix.Syncfs(d))
	}
	e.must(unix.SyncFileRange(fd, 0, 100, unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER))
	e.must(unix.Unlink("f"))
	e.must(unix.Fsync(fd))
	e.write(e.open("g", unix.O_WRONLY|unix.O_CREAT|unix.O_SYNC, 0o644), "data")
	e.write(e.open("h", unix.O_WRONLY|unix.O_CREAT|unix.O_DSYNC, 0o644), "data")
	p := e.open("g", unix.O_PATH, 0)
	e.want("fsync of a path", unix.Fsync(p), "EBADF")
}

func testPathFD(e *env) {
	e.run("create f 600\nmkdir d 700\nsymlink f s")
	fd := e.open("f", unix.O_PATH, 0)
	_, err := unix.Read(fd, make([]byte, 1))
	e.want("read", err, "EBADF")
	e.must(unix.Unlink("f"))
	equal(e, "nlink", e.fstat(fd).Nlink, 0)
	link := e.open("s", unix.O_PATH|unix.O_NOFOLLOW, 0)
	buf := make([]byte, 10)
	n, err := unix.Readlinkat(link, "", buf)
	e.must(err)
	equal(e, "target", string(buf[:n]), "f")
	dir := e.open("d", unix.O_PATH, 0)
	e.must(unix.Rename("d", "e"))
	e.must(unix.Mkdirat(dir, "in", 0o755))
	e.run("lstat e/in type = dir")
	// Opened again by its number, a removed file is the same file.
	e.put("g", "data")
	g := e.open("g", unix.O_PATH, 0)
	e.must(unix.Unlink("g"))
	again, err := unix.Open(filepath.Join("/proc/self/fd", fmt.Sprint(g)), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	e.must(err)
	f := os.NewFile(uintptr(again), "again")
	defer f.Close()
	data, err := io.ReadAll(f)
	e.must(err)
	equal(e, "content", string(data), "data")
}
