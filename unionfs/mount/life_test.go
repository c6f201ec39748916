// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/posixtest"
	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/fusetest"
)

// small is a tree of one file.
func small() []item {
	return []item{{path: "", mode: index.ModeDir | 0o755}, {path: "f", mode: index.ModeRegular | 0o644, data: "x"}}
}

// mountLine returns the line of mountinfo for dir.
func mountLine(t *testing.T, dir string) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 && f[4] == dir {
			return line
		}
	}
	return ""
}

// The source is the image's name whatever is in it, by either way of
// mounting; the type is ours; and nobody is given more than is asked for.
func TestMountinfo(t *testing.T) {
	f := newFS(t, small())
	for name, shown := range map[string]string{
		"":                        "imgfs",
		"docker.io/library/a:1.0": "docker.io/library/a:1.0",
		`a b,c\d,fd=3,,ro\`:       `a\040b,c\134d,fd=3,,ro\134`,
		"new\nline\ttab#hash":     `new\012line\011tab\043hash`,
		"ä\xff\"'$(x)`;":          "ä\xff\"'$(x)`;",
	} {
		dir, s := mountedServer(t, f, Options{Name: name, Extra: []string{"noexec", "noatime", "max_read=65536"}})
		line := mountLine(t, dir)
		_, tail, _ := strings.Cut(line, " - ")
		fields := strings.Fields(tail)
		if len(fields) != 3 || fields[0] != "fuse.imgfs" || fields[1] != shown {
			t.Errorf("%q is shown as %q", name, tail)
			continue
		}
		options := strings.Fields(line)[5] + "," + fields[2]
		for _, want := range []string{"ro", "nosuid", "nodev", "noexec", "noatime", "max_read=65536"} {
			if !strings.Contains(","+options+",", ","+want+",") {
				t.Errorf("no %s in %s", want, options)
			}
		}
		others := strings.Contains(options, "allow_other") && strings.Contains(options, "default_permissions")
		none := !strings.Contains(options, "allow_other") && !strings.Contains(options, "default_permissions")
		if owns := currentCredentials().ownsIDs; owns && !others || !owns && !none {
			t.Errorf("for others: %s", options)
		}
		if s.direct != currentCredentials().canMount {
			t.Errorf("direct: %v", s.direct)
		}
	}
}

// isRoot reports whether this is root of the machine, not of a namespace.
func isRoot() bool { return currentCredentials().ownsIDs }

func TestSuidDev(t *testing.T) {
	f := newFS(t, everything())
	if !currentCredentials().root {
		_, err := Mount(t.TempDir(), f, Options{Suid: true})
		var e *Error
		if !errors.As(err, &e) || e.Reason != RootOnly {
			t.Errorf("a user may: %v", err)
		}
		return
	}
	dir := mounted(t, f, Options{Suid: true, Dev: true})
	if line := mountLine(t, dir); strings.Contains(line, "nosuid") || strings.Contains(line, "nodev") && isRoot() {
		t.Errorf("%s", line)
	}
	if isRoot() {
		if b, err := os.ReadFile(dir + "/null"); err != nil || len(b) != 0 {
			t.Errorf("null: %q, %v", b, err)
		}
	}
}

func TestReadAhead(t *testing.T) {
	if !isRoot() {
		t.Skip("root's mounts only")
	}
	_, s := mountedServer(t, newFS(t, small()), Options{})
	b, err := os.ReadFile(fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", unix.Major(s.dev), unix.Minor(s.dev)))
	if err != nil || strings.TrimSpace(string(b)) != "1024" {
		t.Errorf("%q, %v", b, err)
	}
}

// waits fails if the server does not end.
func waits(t *testing.T, s *Server) {
	t.Helper()
	select {
	case <-s.served:
	case <-time.After(10 * time.Second):
		t.Fatal("Wait does not end")
	}
	s.Wait()
}

// However a mount ends, Wait ends and nothing stays.
func TestUnmounts(t *testing.T) {
	f := newFS(t, small())
	for _, tt := range []struct {
		name string
		by   func(s *Server) error
	}{
		{"by Unmount", (*Server).Unmount},
		{"by umount", func(s *Server) error { return unix.Unmount(s.dir, 0) }},
		{"lazily", func(s *Server) error { return unix.Unmount(s.dir, unix.MNT_DETACH) }},
		{"by fusermount3", func(s *Server) error { return exec.Command("fusermount3", "-u", s.dir).Run() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			needFUSE(t)
			c := currentCredentials()
			if !c.canMount && strings.Contains("by umount lazily", tt.name) || c.canMount && !c.ownsIDs && tt.name == "by fusermount3" {
				t.Skip("not this one's right")
			}
			before := openFiles(t)
			s, err := Mount(t.TempDir(), f, Options{Log: t.Logf})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := os.ReadFile(s.dir + "/f"); err != nil {
				t.Error(err)
			}
			if err := tt.by(s); err != nil {
				t.Fatal(err)
			}
			waits(t, s)
			if err := s.Unmount(); err != nil {
				t.Errorf("once more: %v", err)
			}
			if after := openFiles(t); len(after) != len(before) {
				t.Errorf("descriptors:\n before %q\n after %q", before, after)
			}
			if mountLine(t, s.dir) != "" {
				t.Error("it is still mounted")
			}
		})
	}
}

func TestBusy(t *testing.T) {
	dir, s := mountedServer(t, newFS(t, small()), Options{})
	file, err := os.Open(dir + "/f")
	if err != nil {
		t.Fatal(err)
	}
	err = s.Unmount()
	var e *Error
	if !errors.Is(err, unix.EBUSY) || !errors.As(err, &e) || e.Reason != Busy {
		t.Errorf("%v", err)
	}
	b := make([]byte, 2)
	if n, _ := file.Read(b); string(b[:n]) != "x" {
		t.Errorf("read %q of a busy mount", b[:n])
	}
	if err := file.Close(); err != nil {
		t.Error(err)
	}
}

// A mount that lies on ours is not unmounted in its place.
func TestCovered(t *testing.T) {
	if !currentCredentials().canMount {
		t.Skip("a user cannot cover it")
	}
	dir, s := mountedServer(t, newFS(t, small()), Options{})
	if err := unix.Mount("cover", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	err := s.Unmount()
	var e *Error
	if !errors.As(err, &e) || e.Reason != OtherMount {
		t.Errorf("%v", err)
	}
	if err := unix.Unmount(dir, 0); err != nil {
		t.Error(err)
	}
}

// A copy in another mount namespace lives on: Unmount does not wait for it.
func TestCopiedMount(t *testing.T) {
	if !isRoot() {
		t.Skip("root's")
	}
	needFUSE(t)
	s, err := Mount(t.TempDir(), newFS(t, small()), Options{Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", `echo; read x; cat "$0/f"`, s.dir)
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 8)
	if _, err := out.Read(b[:1]); err != nil {
		t.Error(err)
	}
	if err := s.Unmount(); err != nil {
		t.Error(err)
	}
	select {
	case <-s.served:
		t.Error("serving has ended under a copy")
	default:
	}
	in.Close()
	if n, _ := out.Read(b); string(b[:n]) != "x" {
		t.Errorf("the copy reads %q", b[:n])
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	waits(t, s)
}

func TestRefusals(t *testing.T) {
	needFUSE(t)
	f := newFS(t, small())
	base := t.TempDir()
	full, file, own := base+"/full", base+"/file", base+"/own"
	for _, err := range []error{os.MkdirAll(full+"/x", 0o700), os.WriteFile(file, nil, 0o600), os.Mkdir(own, 0o700), os.Symlink("own", base+"/link")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	before := openFiles(t)
	for _, tt := range []struct {
		dir  string
		opt  Options
		want Reason
		is   error
	}{
		{base + "/missing", Options{}, NoMountPoint, os.ErrNotExist},
		{file, Options{}, NotDirectory, unix.ENOTDIR},
		{file + "/x", Options{}, NotDirectory, unix.ENOTDIR},
		{full, Options{}, NotEmpty, nil},
		{own, Options{Extra: []string{"rw"}}, BadOption, nil},
		{own, Options{Extra: []string{"fd=7"}}, BadOption, nil},
		{own, Options{Extra: []string{"max_read=x"}}, BadOption, nil},
		{own, Options{Extra: []string{"frobnicate=1"}}, BadOption, nil},
		{own, Options{Name: "a\x00b"}, BadOption, nil},
		{own, Options{Name: strings.Repeat("a", 5000)}, BadOption, nil},
	} {
		tt.opt.Log = t.Logf
		s, err := Mount(tt.dir, f, tt.opt)
		if err == nil {
			t.Errorf("%s %v: mounted", tt.dir, tt.opt.Extra)
			s.Unmount()
			continue
		}
		var e *Error
		if !errors.As(err, &e) || e.Reason != tt.want || e.Path != tt.dir || tt.is != nil && !errors.Is(err, tt.is) {
			t.Errorf("%s %v: %v; want %q", tt.dir, tt.opt.Extra, err, tt.want)
		}
	}
	if after := openFiles(t); len(after) != len(before) {
		t.Errorf("descriptors:\n before %q\n after %q", before, after)
	}
	for dir, opt := range map[string]Options{full: {Nonempty: true}, base + "/link": {Extra: []string{"nonempty"}}} {
		opt.Log = t.Logf
		s, err := Mount(dir, f, opt)
		if err != nil {
			t.Error(err)
			continue
		}
		if err := s.Unmount(); err != nil {
			t.Error(err)
		}
	}
}

// What a user is told before fusermount3 says less.
func TestUserRefusals(t *testing.T) {
	c := currentCredentials()
	if c.root {
		t.Skip("root is refused nothing of it")
	}
	needFUSE(t)
	f := newFS(t, small())
	closed := t.TempDir() + "/closed"
	if err := os.Mkdir(closed, 0o500); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]Reason{closed: NotWritable, "/tmp": NotOurs} {
		_, err := Mount(dir, f, Options{Nonempty: true, Log: t.Logf})
		var e *Error
		if !errors.As(err, &e) || e.Reason != want {
			t.Errorf("%s: %v", dir, err)
		}
	}
	conf, _ := os.ReadFile(fuseConf)
	_, err := Mount(t.TempDir(), f, Options{AllowOther: true, Log: t.Logf})
	var e *Error
	if !allowsOther(string(conf)) && (!errors.As(err, &e) || e.Reason != NoAllowOther) {
		t.Errorf("allow_other: %v", err)
	}
}

// A file handle finds its node again when the kernel has forgotten it.
func TestFileHandles(t *testing.T) {
	if !isRoot() {
		t.Skip("only root opens by handle")
	}
	dir := mounted(t, newFS(t, everything()), Options{})
	handles := map[string]unix.FileHandle{}
	for _, path := range []string{"", "dir", "dir/sub/deep", "empty"} {
		h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, filepath.Join(dir, path), 0)
		if err != nil {
			t.Fatal(err)
		}
		handles[path] = h
	}
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0); err != nil {
		t.Fatal(err)
	}
	root, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(root)
	for path, h := range handles {
		fd, err := unix.OpenByHandleAt(root, h, unix.O_RDONLY)
		if err != nil {
			t.Errorf("%q: %v", path, err)
			continue
		}
		var a, b unix.Stat_t
		if err := errors.Join(unix.Fstat(fd, &a), unix.Lstat(filepath.Join(dir, path), &b)); err != nil || a != b {
			t.Errorf("%q is %+v, by handle %+v (%v)", path, b, a, err)
		}
		unix.Close(fd)
	}
}

// Of posixtest only this one does not write.
func TestPosix(t *testing.T) {
	posixtest.ReadDirConsistency(t, mounted(t, newFS(t, wide(1, 1000)), Options{})+"/dir0000")
}

// Where modes are enforced for others, access control lists are too.
func TestACL(t *testing.T) {
	if !isRoot() {
		t.Skip("a user's mount enforces nothing")
	}
	const nobody = 65534
	acl := []byte{2, 0, 0, 0}
	for _, e := range [][3]uint32{{1, 6, 0xffffffff}, {2, 0, nobody}, {4, 4, 0xffffffff}, {16, 4, 0xffffffff}, {32, 4, 0xffffffff}} {
		acl = binary.LittleEndian.AppendUint16(acl, uint16(e[0])) // user::rw- user:nobody:--- group::r-- mask::r-- other::r--
		acl = binary.LittleEndian.AppendUint16(acl, uint16(e[1]))
		acl = binary.LittleEndian.AppendUint32(acl, e[2])
	}
	items := append(small(), item{path: "secret", mode: index.ModeRegular | 0o644, data: "x",
		xattrs: []index.Xattr{{Name: "system.posix_acl_access", Value: acl}}})
	dir := mounted(t, newFS(t, items), Options{})
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	sh := func(name string) error {
		cmd := exec.Command("/bin/cat", filepath.Join("/proc/self/fd/3", name))
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		d, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		cmd.ExtraFiles = []*os.File{d}
		return cmd.Run()
	}
	if err := sh("f"); err != nil {
		t.Errorf("f: %v", err)
	}
	if err := sh("secret"); err == nil {
		t.Error("the list is not obeyed")
	}
}

// Root can take "ro" from the superblock: changes are refused all the same.
func TestRemountedWritable(t *testing.T) {
	if !isRoot() {
		t.Skip("root's")
	}
	dir := mounted(t, newFS(t, everything()), Options{})
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT, ""); err != nil {
		t.Skip(err)
	}
	_, created := unix.Open(dir+"/new", unix.O_CREAT|unix.O_WRONLY, 0o600)
	fd, err := unix.Open(dir+"/suid", unix.O_WRONLY, 0)
	if err == nil {
		_, err = unix.Write(fd, []byte("x"))
		unix.Close(fd)
	}
	for what, err := range map[string]error{
		"create": created, "write": err,
		"mkdir":    unix.Mkdir(dir+"/new", 0o700),
		"mknod":    unix.Mknod(dir+"/new", unix.S_IFIFO, 0),
		"symlink":  unix.Symlink("x", dir+"/new"),
		"link":     unix.Link(dir+"/empty", dir+"/new"),
		"unlink":   unix.Unlink(dir + "/empty"),
		"rmdir":    unix.Rmdir(dir + "/tmp"),
		"rename":   unix.Rename(dir+"/empty", dir+"/new"),
		"chmod":    unix.Chmod(dir+"/empty", 0),
		"truncate": unix.Truncate(dir+"/suid", 7),
		"setxattr": unix.Setxattr(dir+"/empty", "user.x", nil, 0),
	} {
		if err != unix.EROFS {
			t.Errorf("%s: %v", what, err)
		}
	}
	if b, err := os.ReadFile(dir + "/suid"); err != nil || len(b) != 640000 || b[0] != '0' {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

// The kernel's overlayfs stands on it.
func TestUnderOverlay(t *testing.T) {
	if !isRoot() {
		t.Skip("root's")
	}
	lower := mounted(t, newFS(t, everything()), Options{})
	base := t.TempDir()
	if err := unix.Mount("tmpfs", base, "tmpfs", 0, ""); err != nil {
		t.Skip(err)
	}
	defer unix.Unmount(base, unix.MNT_DETACH)
	for _, d := range []string{"/upper", "/work", "/merged"} {
		if err := os.Mkdir(base+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	merged := base + "/merged"
	data := "lowerdir=" + lower + ",upperdir=" + base + "/upper,workdir=" + base + "/work,index=on,nfs_export=on"
	if err := unix.Mount("overlay", merged, "overlay", 0, data); err != nil {
		t.Skip(err)
	}
	defer unix.Unmount(merged, 0)
	if err := os.WriteFile(merged+"/dir/hard", []byte("changed"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(merged + "/dir/file"); err != nil || string(b) != "changed" {
		t.Errorf("the other name reads %q, %v", b, err)
	}
	if err := os.RemoveAll(merged + "/dir"); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(lower + "/dir/file"); err != nil || string(b) != "hello, world\n" {
		t.Errorf("below: %q, %v", b, err)
	}
}

// Programs run from it.
func TestExec(t *testing.T) {
	echo, err := os.ReadFile("/bin/echo")
	if err != nil {
		t.Skip(err)
	}
	dir := mounted(t, newFS(t, append(small(), item{path: "echo", mode: index.ModeRegular | 0o755, data: string(echo)})), Options{})
	// By a shell: Go's fork holds the runtime until the exec is through, and
	// this process serves the file.
	out, err := exec.Command("sh", "-c", `"$0/echo" hello; "$0/f"`, dir).CombinedOutput()
	if !strings.HasPrefix(string(out), "hello\n") || !strings.Contains(string(out), "ermission denied") {
		t.Errorf("%q, %v", out, err)
	}
}

// The heap does not grow with what was looked at.
func TestMemory(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector has memory of its own")
	}
	dir := mounted(t, newFS(t, wide(100, 500)), Options{})
	walk := func() uint64 {
		cmd := exec.Command("find", dir, "-size", "+1000000k")
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := walk()
	start := time.Now()
	after := walk()
	t.Logf("50 000 files: warm walk %v, heap %d KiB more", time.Since(start), int64(after-before)>>10)
	if after > before+8<<20 {
		t.Errorf("the heap grew from %d to %d", before, after)
	}
}

// Nor does the process with what was read: buffers are few.
func TestReadMemory(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector has memory of its own")
	}
	items := []item{{path: "", mode: index.ModeDir | 0o755}}
	for i := range 8 {
		items = append(items, item{path: fmt.Sprint("hole", i), mode: index.ModeRegular | 0o644, size: 200 << 20, extents: []index.Extent{}})
	}
	// As the server of imgfs mount does.
	defer debug.SetGCPercent(debug.SetGCPercent(10))
	dir := mounted(t, newFS(t, items), Options{})
	debug.FreeOSMemory()
	before := rssAnon(t)
	var peak int64
	done := make(chan error, 1)
	go func() {
		done <- exec.Command("sh", "-c", `for f in "$0"/*; do dd if="$f" of=/dev/null bs=1M status=none & done; wait`, dir).Run()
	}()
	for tick := time.Tick(5 * time.Millisecond); ; {
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
			t.Logf("8 readers of 1.6 GB: at most %d MiB more", (peak-before)>>20)
			// What is read while one collection runs is garbage of the next:
			// with one processor, and that busy, 30 to 100 MiB were seen.
			if peak-before > 160<<20 {
				t.Errorf("memory grew from %d to %d", before, peak)
			}
			debug.FreeOSMemory() // twice: a sync.Pool survives once
			debug.FreeOSMemory()
			if after := rssAnon(t); after-before > 16<<20 {
				t.Errorf("%d bytes of memory are kept, %d before", after, before)
			}
			return
		case <-tick:
			peak = max(peak, rssAnon(t))
		}
	}
}

// rssAnon returns the bytes of memory that are this process's own.
func rssAnon(t *testing.T) int64 {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	var kb int64
	if _, after, ok := strings.Cut(string(b), "RssAnon:"); !ok {
		t.Skip("no RssAnon here")
	} else if _, err := fmt.Sscan(after, &kb); err != nil {
		t.Fatal(err)
	}
	return kb << 10
}

// otherTests are those in which it matters who mounts.
const otherTests = "Lstat|Content|Mountinfo|SuidDev|Unmounts|Busy|Covered|Refusals|Hidden|Exec|Part|" +
	"ReadOnly|ShownOwners|Provenance|XattrsThrough|DirentFields|Sparse|Statfs|Tar|Posix"

// The same as an ordinary user, by fusermount3, and as root of a user
// namespace, by mount(2).
func TestAsOthers(t *testing.T) {
	if !isRoot() {
		t.Skip("only root can become others")
	}
	fusetest.Need(t)
	asUser, err := filepath.Abs("../../scripts/as-user")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(asUser); err != nil {
		t.Skip(err)
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "imgfs-mount-test")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	exe := dir + "/test"
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(exe, self, 0o755), os.Chmod(exe, 0o755)); err != nil {
		t.Fatal(err)
	}
	for name, how := range map[string][]string{
		"user":      nil,
		"namespace": {"unshare", "--user", "--map-root-user", "--mount"},
	} {
		t.Run(name, func(t *testing.T) {
			arg := append(how, exe, "-test.v", "-test.timeout=40s", "-test.run="+otherTests)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, asUser, arg...)
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "IMGFS_TEST_NOSKIP=1")
			cmd.WaitDelay = 10 * time.Second
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Run(); err != nil {
				t.Errorf("%v\n%s", err, out.String())
			}
			if n := strings.Count(out.String(), "--- PASS"); n < 15 {
				t.Errorf("only %d tests ran:\n%s", n, out.String())
			}
		})
	}
}
