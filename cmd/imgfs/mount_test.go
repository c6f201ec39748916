// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/imgfs/imgfs/internal/fusetest"
)

// TestMain lets the test binary be the program, under each of its names: the
// server of a mount is started as /proc/self/exe.
func TestMain(m *testing.M) {
	name := filepath.Base(os.Args[0])
	if _, ok := programs[name]; ok || name == "imgfs" {
		os.Exit(run(os.Args))
	}
	os.Exit(m.Run())
}

// patience is how long what must happen may take on a busy machine.
const patience = 30 * time.Second

// A bench is a store with an image "img", a register and a program.
type bench struct {
	t    *testing.T
	bin  string
	dir  string
	root string
	env  []string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	fusetest.Need(t)
	dir, err := os.MkdirTemp("", "imgfs-cmd-")
	if err != nil {
		t.Fatal(err)
	}
	run, err := os.MkdirTemp("/tmp", "imgfs-run-") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, dir: dir, root: filepath.Join(dir, "store"), bin: filepath.Join(dir, "imgfs")}
	b.env = append(os.Environ(), "IMGFS_ROOT="+b.root, "IMGFS_RUNTIME_DIR="+run, "SHELL=/bin/sh",
		"IMGFS_PULL=never", "DOCKER_CONFIG="+filepath.Join(dir, ".docker"), "XDG_CONFIG_HOME="+filepath.Join(dir, ".config"),
		"GORACE=atexit_sleep_ms=0") // the program's own races are told at once
	if err := os.Symlink(exe, b.bin); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if out, err := b.cmd("umount", "-a", "-f").CombinedOutput(); err != nil {
			t.Errorf("umount -a -f: %v: %s", err, out)
		}
		if table := mountTable(t); strings.Contains(table, dir) {
			t.Errorf("a mount is left:\n%s", table)
		}
		os.RemoveAll(dir)
		os.RemoveAll(run)
	})
	rootfs := filepath.Join(dir, "rootfs.tar")
	if err := os.WriteFile(rootfs, smallRoot(t), 0o644); err != nil {
		t.Fatal(err)
	}
	b.ok("import", rootfs, "img")
	return b
}

func smallRoot(t *testing.T) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range []tar.Header{
		{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "etc/os-release", Typeflag: tar.TypeReg, Mode: 0o644, Size: 5},
		{Name: "inner/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "etc"},
	} {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			w.Write([]byte("hello"))
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func mountTable(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func (b *bench) cmd(args ...string) *exec.Cmd {
	c := exec.Command(b.bin, args...)
	c.Env, c.Dir = b.env, b.dir
	return c
}

// run returns what the program printed and its exit code.
func (b *bench) run(args ...string) (stdout, stderr string, code int) {
	b.t.Helper()
	c := b.cmd(args...)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		b.t.Fatal(err)
	}
	return out.String(), errs.String(), c.ProcessState.ExitCode()
}

func (b *bench) ok(args ...string) string {
	b.t.Helper()
	out, errs, code := b.run(args...)
	if code != 0 {
		b.t.Fatalf("imgfs %s: exit %d: %s", strings.Join(args, " "), code, errs)
	}
	return out
}

// fails checks the exit code and that stderr holds words.
func (b *bench) fails(code int, words string, args ...string) {
	b.t.Helper()
	_, errs, got := b.run(args...)
	if got != code || !strings.Contains(errs, words) {
		b.t.Errorf("imgfs %s: exit %d: %s\nwant exit %d with %q", strings.Join(args, " "), got, errs, code, words)
	}
}

func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

// point makes a directory to mount on.
func (b *bench) point(name string) string {
	b.t.Helper()
	p := b.path(name)
	if err := os.MkdirAll(p, 0o755); err != nil {
		b.t.Fatal(err)
	}
	return p
}

type listed struct {
	Dir, Image, Mode, Log string
	PID                   int
	Since                 time.Time
	Silent, Verified      bool
}

func (b *bench) mounts() []listed {
	b.t.Helper()
	var all []listed
	for line := range strings.Lines(b.ok("mounts", "--format", "json")) {
		var l listed
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			b.t.Fatal(err)
		}
		all = append(all, l)
	}
	return all
}

func (b *bench) reads(dir string) {
	b.t.Helper()
	if got, err := os.ReadFile(filepath.Join(dir, "link", "os-release")); string(got) != "hello" {
		b.t.Fatalf("read below %s: %q, %v", dir, got, err)
	}
}

// eventually waits until ok holds.
func (b *bench) eventually(what string, ok func() bool) {
	b.t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("never came true: %s", what)
		}
	}
}

func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

// stopped reports whether SIGSTOP has reached all threads of a process.
func stopped(pid int) bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, t := range threads {
		if stat, err := os.ReadFile(t); err != nil || !strings.Contains(string(stat), ") T ") {
			return false
		}
	}
	return len(threads) > 0
}

func TestMountAnswersAndLeavesNothing(t *testing.T) {
	b := newBench(t)
	dir := b.point("m")
	before := time.Now().Add(-2 * time.Second)
	if out := b.ok("mount", "img", dir); out != "" {
		t.Errorf("mount printed %q", out)
	}
	b.reads(dir)
	got := b.mounts()
	if len(got) != 1 {
		t.Fatalf("mounts: %+v", got)
	}
	m := got[0]
	if m.Dir != dir || m.Image != "img:latest" && m.Image != "img" || m.Mode != "ro" || !alive(m.PID) || m.Since.Before(before) || m.Log == "" || !m.Verified {
		t.Errorf("mounts: %+v", m)
	}
	if table := b.ok("mount"); !strings.Contains(table, dir) || !strings.Contains(table, "SINCE") {
		t.Errorf("mount without arguments printed %q", table)
	}
	if cwd, _ := os.Readlink(fmt.Sprintf("/proc/%d/cwd", m.PID)); cwd != "/" {
		t.Errorf("the server stands in %s", cwd)
	}
	if comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", m.PID)); string(comm) != "imgfs-mount\n" {
		t.Errorf("ps calls the server %q", comm)
	}
	b.ok("unmount", dir+"/")
	if alive(m.PID) {
		t.Error("the server lives after umount")
	}
	if left, _ := filepath.Glob(filepath.Dir(m.Log) + "/*"); len(left) > 0 {
		t.Errorf("left in the register: %v", left)
	}
	if out := b.ok("mounts", "--format", "json"); out != "" {
		t.Errorf("mounts after umount: %s", out)
	}
}

// TestMountKeepsNothingOfItsCaller: $(imgfs mount …) would hang on a pipe that
// the server keeps, and a lock on a descriptor would never be released.
func TestMountKeepsNothingOfItsCaller(t *testing.T) {
	b := newBench(t)
	dir := b.point("m")
	lock := b.path("lock")
	sh := exec.Command("sh", "-c", `exec 9>"$3"; got=$("$1" mount img "$2" 2>&1); echo "<$got>"`, "sh", b.bin, dir, lock)
	sh.Env = b.env
	out, err := sh.CombinedOutput() // ends with the last writer of the pipe
	if string(out) != "<>\n" {
		t.Fatalf("%q, %v", out, err)
	}
	b.reads(dir)
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", b.mounts()[0].PID))
	if err != nil || len(fds) == 0 {
		t.Fatal(fds, err)
	}
	for _, fd := range fds {
		if target, _ := os.Readlink(fd); target == lock || strings.HasPrefix(target, "pipe:") {
			t.Errorf("the server holds %s", target)
		}
	}
}

func TestMountOfAPartAFileAndStdin(t *testing.T) {
	b := newBench(t)
	dir := b.point("m")
	b.ok("mount", "img:/etc", dir)
	if got, err := os.ReadFile(dir + "/os-release"); string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
	b.ok("umount", dir)
	b.fails(exitNotFound, "nothing", "mount", "img:/nothing", dir)
	b.fails(exitNotFound, ":/etc/os-release: not a directory", "mount", "img:/etc/os-release", dir)
	b.fails(exitNotFound, "hint: a directory can be mounted; imgfs cat img:/etc/os-release", "mount", "-f", "img:/etc/os-release", dir)
	b.fails(exitUsage, "hint: usage: imgfs mount", "mount", "", dir)
	b.fails(exitNotFound, "imgfs: ./none.tar: no such file", "mount", "./none.tar", dir)
	b.fails(exitNotFound, "no such image", "mount", "other", dir)
	b.fails(exitMalformed, "", "mount", "./rootfs.tar", dir)
}

func TestMountRefuses(t *testing.T) {
	b := newBench(t)
	full := b.point("full/below")
	full = filepath.Dir(full)
	point := b.point("point")
	if err := os.Symlink(b.root, b.path("alias")); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		code  int
		words string
		args  []string
	}{
		{"a directory that is missing", exitRefused, "--mkdir", []string{"img", b.path("none")}},
		{"a file", exitRefused, "not a directory", []string{"img", b.path("rootfs.tar")}},
		{"a directory with something in it", exitRefused, "-o nonempty", []string{"img", full}},
		{"a directory of the store", exitRefused, "inside the store", []string{"img", b.root + "/blobs"}},
		{"a directory of the store, by a symlink", exitRefused, "inside the store", []string{"img", b.path("alias/blobs")}},
		{"a directory that holds the store", exitRefused, "lies inside it", []string{"img", b.dir, "-o", "nonempty"}},
		{"read-only and writable at once", exitUsage, "not both", []string{"img", point, "-o", "ro,rw"}},
		{"a remount", exitUsage, "anew", []string{"img", point, "-o", "remount"}},
		{"an owner that is no number", exitUsage, "number", []string{"img", point, "-o", "uid=me"}},
		{"one argument", exitUsage, "", []string{"img"}},
		{"a platform that it has not", exitNotFound, "", []string{"img", point, "--platform", "linux/s390x"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b.t = t
			b.fails(tt.code, tt.words, append([]string{"mount"}, tt.args...)...)
		})
	}
	b.t = t
	if got := b.mounts(); len(got) > 0 {
		t.Errorf("mounted all the same: %+v", got)
	}
	b.ok("mount", "-o", "nonempty,noexec", "img", full)
	b.reads(full)
	b.fails(exitRefused, "has an imgfs mount already", "mount", "img", full)
	if os.Geteuid() == 0 {
		b.ok("mount", "-o", "nonempty", "img", full)
		b.ok("umount", full)
		b.reads(full)
	} else { // fusermount3 mounts on what the user may write to
		b.fails(exitRefused, "", "mount", "-o", "nonempty", "img", full)
	}
	b.ok("umount", full)
	if _, err := os.Stat(full + "/below"); err != nil {
		t.Error(err)
	}
}

func TestMkdirIsUndone(t *testing.T) {
	b := newBench(t)
	kept := b.point("kept")
	dir := kept + "/made/too"
	b.fails(exitNotFound, "", "mount", "--mkdir", "nothing", dir)
	if _, err := os.Stat(kept + "/made"); !os.IsNotExist(err) {
		t.Errorf("a mount that failed left its directory: %v", err)
	}
	b.ok("mount", "--mkdir", "img", dir)
	b.reads(dir)
	b.ok("umount", dir)
	if left, _ := os.ReadDir(kept); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := os.Stat(kept); err != nil {
		t.Error(err)
	}
}

func TestKilledServer(t *testing.T) {
	b := newBench(t)
	dir := b.point("m")
	b.ok("mount", "img", dir)
	pid := b.mounts()[0].PID
	syscall.Kill(pid, syscall.SIGKILL)
	b.eventually("the server is gone", func() bool { return !alive(pid) })
	if got := b.mounts(); len(got) > 0 {
		t.Errorf("a dead mount is listed: %+v", got)
	}
	b.ok("mount", "img", dir)
	b.reads(dir)
	if n := strings.Count(mountTable(t), " "+dir+" "); n != 1 {
		t.Errorf("%d mounts on %s", n, dir)
	}
	pid = b.mounts()[0].PID
	syscall.Kill(pid, syscall.SIGKILL)
	b.eventually("the server is gone", func() bool { return !alive(pid) })
	b.ok("umount", dir)
	b.ok("mount", "--mkdir", "img", dir+"/made")
	pid = b.mounts()[0].PID
	syscall.Kill(pid, syscall.SIGKILL)
	b.eventually("the server is gone", func() bool { return !alive(pid) })
	b.ok("umount", "-a")
	if _, err := os.Stat(dir + "/made"); !os.IsNotExist(err) {
		t.Errorf("made for a mount whose server died, and left: %v", err)
	}
	// Not waited for: the threads of the server end one after another, and the
	// register must not take its last moments for an orderly end.
	for range 5 {
		b.ok("mount", "--mkdir", "img", dir+"/made")
		syscall.Kill(b.mounts()[0].PID, syscall.SIGKILL)
		b.ok("umount", "-a")
		if _, err := os.Stat(dir + "/made"); !os.IsNotExist(err) {
			t.Fatalf("made for a mount whose server was just killed, and left: %v", err)
		}
	}
	// A mount over a dead one has its number, and both are in the register.
	b.ok("mount", "--mkdir", "img", dir+"/made")
	pid = b.mounts()[0].PID
	syscall.Kill(pid, syscall.SIGKILL)
	b.eventually("the server is gone", func() bool { return !alive(pid) })
	b.ok("mount", "img", dir+"/made")
	pid = b.mounts()[0].PID
	b.ok("umount", "-a")
	if _, err := os.Stat(dir + "/made"); !os.IsNotExist(err) || alive(pid) {
		t.Errorf("after umount of the second mount: %v, its server lives: %v", err, alive(pid))
	}
}

// holder starts a process that stands in dir.
func (b *bench) holder(dir string) *exec.Cmd {
	b.t.Helper()
	c := exec.Command("cat")
	c.Dir = dir
	in, err := c.StdinPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { in.Close(); c.Process.Kill(); c.Wait() })
	return c
}

func TestUmountOfABusyMount(t *testing.T) {
	b := newBench(t)
	dir := b.point("m")
	b.ok("mount", "img", dir)
	pid := b.mounts()[0].PID
	h := b.holder(dir + "/etc")
	b.fails(exitOther, fmt.Sprintf("%d (cat: cwd)", h.Process.Pid), "umount", dir)
	b.fails(exitOther, "umount -l", "umount", dir)
	b.reads(dir)
	b.ok("umount", "-l", dir)
	if strings.Contains(mountTable(t), dir) {
		t.Error("umount -l left the mount")
	}
	if got, err := os.ReadFile(fmt.Sprintf("/proc/%d/cwd/os-release", h.Process.Pid)); string(got) != "hello" {
		t.Errorf("who holds a detached mount reads %q, %v", got, err)
	}
	if out := b.ok("mounts", "--all"); !strings.Contains(out, "elsewhere") {
		t.Errorf("mounts --all: %s", out)
	}
	h.Process.Kill()
	b.eventually("the server ends with its last user", func() bool { return !alive(pid) })
}

func TestUmountForce(t *testing.T) {
	b := newBench(t)
	dir, other := b.point("m"), b.point("other")
	b.ok("mount", "img", dir)
	b.ok("mount", "img", other)
	b.holder(dir)
	var pid int
	for _, m := range b.mounts() {
		if m.Dir == dir {
			pid = m.PID
		}
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	b.eventually("each thread of the server is stopped", func() bool { return stopped(pid) })
	hung := exec.Command("cat", dir+"/etc/os-release")
	if err := hung.Start(); err != nil {
		t.Fatal(err)
	}
	if got := b.mounts(); len(got) != 2 || !got[0].Silent || got[1].Silent {
		t.Errorf("mounts: %+v", got)
	}
	b.ok("umount", "-f", dir)
	hung.Wait() // it comes back
	if left, _ := filepath.Glob(filepath.Dir(b.mounts()[0].Log) + "/*.sock"); len(left) != 1 {
		t.Errorf("in the register: %v", left)
	}
	b.eventually("the server is gone", func() bool { return !alive(pid) })
	b.reads(other)
	if got := b.mounts(); len(got) != 1 || got[0].Dir != other {
		t.Errorf("mounts: %+v", got)
	}
}

func TestUmountOfWhatIsNone(t *testing.T) {
	b := newBench(t)
	dir := b.point("m")
	b.fails(exitNotFound, "not an imgfs mount", "umount", dir)
	b.fails(exitNotFound, "imgfs: "+b.path("none")+": no such file", "umount", b.path("none"))
	b.fails(exitNotFound, "not an imgfs mount", "umount", "/")
	b.fails(exitUsage, "", "umount")
	b.fails(exitUsage, "", "umount", "-a", dir)
	b.ok("umount", "-a")
	b.ok("mount", "img", dir)
	b.fails(exitNotFound, "a part of the one at "+dir, "umount", dir+"/etc")
	if err := os.Symlink(dir, b.path("alias")); err != nil {
		t.Fatal(err)
	}
	c := b.cmd("umount", "../alias")
	c.Dir = b.point("elsewhere")
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("by a relative path through a symlink: %v: %s", err, out)
	}
}

func TestNested(t *testing.T) {
	b := newBench(t)
	outer := b.point("m")
	b.ok("mount", "img", outer)
	if os.Geteuid() != 0 { // fusermount3 mounts on what the user may write to
		b.fails(exitRefused, "", "mount", "img", outer+"/inner")
		return
	}
	b.ok("mount", "img", outer+"/inner")
	b.reads(outer + "/inner")
	b.fails(exitOther, outer+"/inner", "umount", outer)
	b.ok("umount", "-a")
	if got := b.mounts(); len(got) > 0 {
		t.Errorf("mounts: %+v", got)
	}
}

func TestManyAtOnce(t *testing.T) {
	b := newBench(t)
	var dirs []string
	for i := range 10 {
		dirs = append(dirs, b.point(fmt.Sprintf("m%d", i)))
	}
	each := func(args ...string) {
		var wg sync.WaitGroup
		for _, dir := range dirs {
			wg.Go(func() {
				if out, err := b.cmd(append(slices.Clone(args), dir)...).CombinedOutput(); err != nil {
					t.Errorf("%v %s: %v: %s", args, dir, err, out)
				}
			})
		}
		wg.Wait()
	}
	each("mount", "img")
	if got := b.mounts(); len(got) != len(dirs) {
		t.Errorf("%d mounts", len(got))
	}
	for _, dir := range dirs {
		b.reads(dir)
	}
	each("umount")
	if got := b.mounts(); len(got) != 0 {
		t.Errorf("mounts: %+v", got)
	}
}

// Of several commands that find one directory free, one mounts there.
func TestOneDirectoryAtOnce(t *testing.T) {
	b := newBench(t)
	dir := b.point("m")
	for range 3 {
		var wg sync.WaitGroup
		var mounted atomic.Int32
		for range 4 {
			wg.Go(func() {
				if b.cmd("mount", "img", dir).Run() == nil {
					mounted.Add(1)
				}
			})
		}
		wg.Wait()
		if n := mounted.Load(); n != 1 {
			t.Errorf("%d commands say that they mounted", n)
		}
		b.ok("umount", dir)
		if got := b.mounts(); len(got) != 0 {
			t.Fatalf("mounts: %+v", got)
		}
	}
}

func TestSignals(t *testing.T) {
	b := newBench(t)
	dir := b.point("m")
	b.ok("mount", "img", dir)
	pid := b.mounts()[0].PID
	syscall.Kill(pid, syscall.SIGHUP)
	b.reads(dir)
	syscall.Kill(pid, syscall.SIGTERM)
	b.eventually("SIGTERM ends the server", func() bool { return !alive(pid) })
	if strings.Contains(mountTable(t), dir) {
		t.Error("SIGTERM left the mount")
	}
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		c := b.cmd("mount", "-f", "img", dir)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		b.eventually("it is mounted", func() bool { return len(b.mounts()) == 1 })
		b.reads(dir)
		c.Process.Signal(s)
		if err := c.Wait(); err != nil {
			t.Errorf("mount -f after %v: %v", s, err)
		}
	}
	c := b.cmd("mount", "-f", "img", dir)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	b.eventually("it is mounted", func() bool { return len(b.mounts()) == 1 })
	b.ok("umount", dir)
	if err := c.Wait(); err != nil {
		t.Errorf("mount -f after umount: %v", err)
	}
}

func TestShell(t *testing.T) {
	b := newBench(t)
	if os.Geteuid() != 0 {
		if err := exec.Command("unshare", "-Urm", "true").Run(); err != nil {
			t.Skipf("no user namespaces here: %v", err)
		}
	}
	out, errs, code := b.run("shell", "img", "sh", "-c", `cat etc/os-release; echo; echo $IMGFS_DIR; pwd; exit 7`)
	lines := strings.Split(out, "\n")
	if code != 7 || len(lines) != 4 || lines[0] != "hello" || lines[1] != lines[2] {
		t.Errorf("exit %d: %q %s", code, out, errs)
	}
	if _, err := os.Stat(lines[1]); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", lines[1], err)
	}
	if strings.Contains(mountTable(t), "imgfs-shell") {
		t.Error("the mount is seen outside")
	}
	if _, _, code := b.run("shell", "img", "sh", "-c", "kill -9 $$"); code != 128+9 {
		t.Errorf("a shell that was killed: exit %d", code)
	}
	b.fails(exitNotFound, "no such program", "shell", "--chroot", "img", "sh")
	b.fails(exitNotFound, "no such image", "shell", "other", "true")
	b.eventually("no mount lives on", func() bool { return b.ok("mounts", "--all", "--format", "json") == "" })
}

// TestMount8 has mount(8) call the helper, which is put into /sbin for a
// namespace of the test's own.
func TestMount8(t *testing.T) {
	if os.Geteuid() != 0 {
		return // only root may use fstab
	}
	b := newBench(t)
	dir, sbin := b.point("m"), b.point("sbin")
	b.point("m2")
	if err := os.Symlink(b.bin, sbin+"/"+helperName); err != nil {
		t.Fatal(err)
	}
	fstab := "img " + dir + " fuse.imgfs defaults,noauto,nofail,_netdev,x-systemd.requires=a,noexec,root=" + b.root + " 0 0\n"
	if err := os.WriteFile(b.path("fstab"), []byte(fstab), 0o644); err != nil {
		t.Fatal(err)
	}
	script := `
set -e
sbin=$(readlink -f /sbin)
mount -t overlay -o lowerdir="$1/sbin:$sbin" none "$sbin" || { echo no overlay; exit 0; }
unset IMGFS_ROOT
mount -t fuse.imgfs -o root="$1/store" img "$1/m"
cat "$1/m/etc/os-release"
umount "$1/m"
mount -T "$1/fstab" "$1/m"
grep -q "$1/m ro,nosuid,nodev,noexec" /proc/self/mountinfo
mount -t fuse.imgfs -o root="$1/store",upper=u,noexec img "$1/m2"
echo there >"$1/m2/x"
umount "$1/m2"
mount -t fuse.imgfs -o root="$1/store",rw,upper=u img "$1/m2"
grep -q there "$1/m2/x"
umount "$1/m2"
if mount -T "$1/fstab" -o remount "$1/m" 2>"$1/errs"; then exit 1; fi
grep -q anew "$1/errs"
fusermount3 -u "$1/m"
if mount -t fuse.imgfs -o root="$1/store" "touch $1/pwned" "$1/m" 2>"$1/errs"; then exit 1; fi
grep -q 'no such image' "$1/errs"
test ! -e "$1/pwned"
echo " all"`
	c := exec.Command("unshare", "-m", "sh", "-c", script, "sh", b.dir)
	c.Env = b.env
	out, err := c.CombinedOutput()
	switch {
	case strings.HasPrefix(string(out), "no overlay"), strings.Contains(string(out), "no overlay"):
		t.Skipf("no overlay to put the helper into /sbin with: %s", out)
	case err != nil || string(out) != "hello all\n":
		errs, _ := os.ReadFile(b.path("errs"))
		t.Errorf("%q, %v\n%s", out, err, errs)
	}
}

func TestHelperArguments(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"img /m -o rw", "img /m root= mkdir=false [] []"},
		{"img /m -s -n -v -o ro,noexec,user,_netdev,nofail,x-systemd.automount,X-y=z,comment=c", "img /m root= mkdir=false [noexec] [noexec]"},
		{"-sn img -o root=/s,allow_other /m -t fuse.imgfs -N 7", "img /m root=/s mkdir=false [allow_other] []"},
		{"img /m -oplatform=linux/arm64,uid=5,X-mount.mkdir", "img /m root= mkdir=true [platform=linux/arm64 uid=5] []"},
		{`img /m -o context="a,b",nodev`, "img /m root= mkdir=false [context=a,b nodev] [context=a,b]"},
		{"img /m -o ro,upper=u", "error"}, // mount(8) says ro only if somebody does
		{"img /m -o upper=", "error"},
		{"img /m -o remount", "error"},
		{"img", "error"},
		{"img /m -o", "error"},
		{"img /m -z", "error"},
		{"img /m -t nfs", "error"},
	} {
		a := newApp()
		req, _, err := parseHelper(a, strings.Fields(tt.args))
		got := "error"
		if err == nil {
			got = fmt.Sprintf("%s %s root=%s mkdir=%v %v %v", req.Image, req.Dir, a.root, req.Opt.MakeDir, req.Opt.Shown, req.Opt.Extra)
		}
		if got != tt.want {
			t.Errorf("%s\n got %s (%v)\nwant %s", tt.args, got, err, tt.want)
		}
	}
}
