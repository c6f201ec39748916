// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/posixtest"
	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs/cow"
)

const testChain = "sha256:0000000000000000000000000000000000000000000000000000000000000000"

// newUpper returns a fresh upper over items.
func newUpper(tb testing.TB, items []item) *cow.Upper {
	tb.Helper()
	dir := filepath.Join(tb.TempDir(), "upper")
	if err := cow.Create(dir, cow.Base{Image: "test", ChainID: testChain}); err != nil {
		tb.Fatal(err)
	}
	u, err := cow.Open(dir, newFS(tb, items), testChain, cow.Options{Log: tb.Logf})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := u.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
	return u
}

// mountedUpper mounts u for the test's time.
func mountedUpper(tb testing.TB, u *cow.Upper, opt Options) (string, *Server) {
	tb.Helper()
	needFUSE(tb)
	dir := tb.TempDir()
	if opt.Log == nil {
		opt.Log = tb.Logf
	}
	s, err := MountUpper(dir, u, opt)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Unmount(); err != nil {
			tb.Errorf("unmount: %v", err)
			unix.Unmount(dir, unix.MNT_DETACH)
		}
		s.Wait()
	})
	return dir, s
}

// ways are the two ways that content comes to the kernel.
func ways(t *testing.T, f func(t *testing.T, opt Options)) {
	t.Helper()
	for name, opt := range map[string]Options{"passthrough": {}, "writeback": {NoPassthrough: true}} {
		t.Run(name, func(t *testing.T) { f(t, opt) })
	}
}

// must ends the test at an error.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func passes(s *Server) bool { return s.what.raw.(*top).passthrough }

func TestPassthroughIsChosen(t *testing.T) {
	_, s := mountedUpper(t, newUpper(t, small()), Options{})
	if got := passes(s); got != isRoot() {
		t.Errorf("passthrough: %v", got)
	}
	_, s = mountedUpper(t, newUpper(t, small()), Options{NoPassthrough: true})
	if passes(s) {
		t.Error("passthrough where none was wanted")
	}
}

func TestUpperRefusals(t *testing.T) {
	id := uint32(1)
	for name, opt := range map[string]Options{
		"ro": {Extra: []string{"ro"}}, "uid": {UID: &id}, "gid": {GID: &id},
		"symlinks": {NoSymlinks: true}, "specials": {NoSpecials: true}, "xattrs": {NoXattrs: true},
	} {
		_, err := MountUpper(t.TempDir(), newUpper(t, small()), opt)
		var e *Error
		if !errors.As(err, &e) || e.Reason != BadOption || e.Hint == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Everyday life: files are made, changed, renamed and removed, and what the
// image holds is changed too.
func TestUpperEveryday(t *testing.T) {
	ways(t, func(t *testing.T, opt Options) {
		dir, _ := mountedUpper(t, newUpper(t, everything()), opt)
		read := func(name, want string) {
			t.Helper()
			if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != want {
				t.Errorf("%s: %.40q, want %.40q (%v)", name, b, want, err)
			}
		}
		must(t, os.WriteFile(dir+"/new", []byte("fresh"), 0o644))
		read("new", "fresh")
		must(t, os.Rename(dir+"/new", dir+"/dir/moved"))
		read("dir/moved", "fresh")
		if _, err := os.Stat(dir + "/new"); !os.IsNotExist(err) {
			t.Errorf("new: %v", err)
		}
		must(t, os.Link(dir+"/dir/moved", dir+"/again"))
		read("again", "fresh")
		must(t, os.Symlink("again", dir+"/soft"))
		read("soft", "fresh")
		must(t, os.MkdirAll(dir+"/a/b/c", 0o755))
		must(t, os.WriteFile(dir+"/a/b/c/f", bytes.Repeat([]byte("0123456789"), 100000), 0o600))
		must(t, os.Rename(dir+"/a", dir+"/dir/a"))
		read("dir/a/b/c/f", strings.Repeat("0123456789", 100000))

		read("dir/file", "hello, world\n")
		f, err := os.OpenFile(dir+"/dir/file", os.O_WRONLY|os.O_APPEND, 0)
		must(t, err)
		_, err = f.WriteString("more\n")
		must(t, err)
		read("dir/hard", "hello, world\nmore\n")
		must(t, f.Close())
		read("dir/file", "hello, world\nmore\n")
		must(t, os.Truncate(dir+"/dir/file", 5))
		read("dir/file", "hello")
		must(t, os.WriteFile(dir+"/suid", []byte("small"), 0))
		read("suid", "small")

		must(t, os.RemoveAll(dir+"/dir"))
		read("again", "fresh")
		must(t, os.Remove(dir+"/again"))
		entries, err := os.ReadDir(dir)
		must(t, err)
		for _, e := range entries {
			if e.Name() == "dir" || e.Name() == "again" || e.Name() == "new" {
				t.Errorf("%s is still listed", e.Name())
			}
		}
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil || st.Bavail == 0 {
			t.Errorf("statfs: %+v, %v", st, err)
		}
	})
}

// A mount that is made again shows what was left.
func TestUpperRemount(t *testing.T) {
	u := newUpper(t, everything())
	var ino uint64
	for round := range 3 {
		dir := t.TempDir()
		needFUSE(t)
		s, err := MountUpper(dir, u, Options{Log: t.Logf})
		must(t, err)
		name := fmt.Sprintf("%s/dir/round%d", dir, round)
		must(t, os.WriteFile(name, []byte("x"), 0o644))
		var st unix.Stat_t
		must(t, unix.Stat(dir+"/dir/round0", &st))
		if round == 0 {
			ino = st.Ino
		} else if st.Ino != ino {
			t.Errorf("inode %d was %d", st.Ino, ino)
		}
		must(t, s.Unmount())
		s.Wait()
	}
}

func TestUpperPosix(t *testing.T) {
	// FcntlFlockLocksFile fails on every file system; XAttrLarge is for those
	// that keep an xattr in an inode.
	ways(t, func(t *testing.T, opt Options) {
		for name, fn := range posixtest.All {
			if name == "FcntlFlockLocksFile" {
				continue
			}
			t.Run(name, func(t *testing.T) {
				dir, _ := mountedUpper(t, newUpper(t, []item{{path: "", mode: unix.S_IFDIR | 0o755}}), opt)
				fn(t, dir)
			})
		}
	})
}

// shell runs a script. It runs programs of a mount that this process serves:
// Go's fork holds the runtime until the exec is through.
func shell(t *testing.T, script string, arg ...string) string {
	t.Helper()
	out, err := exec.Command("sh", append([]string{"-c", script}, arg...)...).CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

func TestUpperExec(t *testing.T) {
	ways(t, func(t *testing.T, opt Options) {
		dir, _ := mountedUpper(t, newUpper(t, small()), opt)
		must(t, os.Chmod(dir, 0o755))
		b, err := os.ReadFile("/bin/echo")
		must(t, err)
		must(t, os.WriteFile(dir+"/echo", b, 0o755))
		if got := shell(t, `"$0/echo" hello`, dir); got != "hello\n" {
			t.Errorf("%q", got)
		}
		must(t, os.WriteFile(dir+"/script", []byte("#!/bin/sh\necho $0\n"), 0o755))
		if got := shell(t, `"$0/script"`, dir); got != dir+"/script\n" {
			t.Errorf("%q", got)
		}
	})
}

// The last of an open file goes with the last who has it.
func TestUpperOpenUnlinked(t *testing.T) {
	ways(t, func(t *testing.T, opt Options) {
		dir, _ := mountedUpper(t, newUpper(t, everything()), opt)
		for _, name := range []string{"new", "dir/sub/deep"} {
			path := filepath.Join(dir, name)
			if name == "new" {
				must(t, os.WriteFile(path, []byte("deep"), 0o600))
			}
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			must(t, err)
			must(t, os.Remove(path))
			var st unix.Stat_t
			must(t, unix.Fstat(int(f.Fd()), &st))
			if st.Nlink != 0 || st.Size != 4 {
				t.Errorf("%s: nlink %d, size %d", name, st.Nlink, st.Size)
			}
			_, err = f.WriteAt([]byte("er"), 4)
			must(t, err)
			b := make([]byte, 10)
			if n, err := f.ReadAt(b, 0); err != io.EOF || string(b[:n]) != "deeper" {
				t.Errorf("%s: %q, %v", name, b[:n], err)
			}
			must(t, f.Close())
		}
	})
}

// The kernel forgets what has no name, and the upper ends it.
func TestUpperOrphansEnd(t *testing.T) {
	ways(t, func(t *testing.T, opt Options) {
		u := newUpper(t, small())
		dir, _ := mountedUpper(t, u, opt)
		path := dir + "/gone"
		must(t, os.WriteFile(path, []byte("x"), 0o600))
		var st unix.Stat_t
		must(t, unix.Stat(path, &st))
		fd, err := unix.Open(path, unix.O_PATH, 0)
		must(t, err)
		must(t, os.Remove(path))
		var a cow.Attr
		time.Sleep(20 * time.Millisecond)
		if err := u.Attr(cow.Node(st.Ino), &a); err != nil || a.Nlink != 0 {
			t.Errorf("while it is held: %+v, %v", a, err)
		}
		if b, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", fd)); err != nil || string(b) != "x" {
			t.Errorf("by its descriptor: %q, %v", b, err)
		}
		unix.Close(fd)
		for range 200 {
			if u.Attr(cow.Node(st.Ino), &a) == unix.ESTALE {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
		t.Error("it does not end")
	})
}

func TestUpperTmpfile(t *testing.T) {
	ways(t, func(t *testing.T, opt Options) {
		dir, _ := mountedUpper(t, newUpper(t, everything()), opt)
		fd, err := unix.Open(dir+"/dir", unix.O_TMPFILE|unix.O_RDWR, 0o640)
		must(t, err)
		defer unix.Close(fd)
		_, err = unix.Write(fd, []byte("no name yet"))
		must(t, err)
		var st unix.Stat_t
		must(t, unix.Fstat(fd, &st))
		if st.Nlink != 0 || st.Size != 11 {
			t.Errorf("nlink %d, size %d", st.Nlink, st.Size)
		}
		must(t, unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, dir+"/dir/named", unix.AT_SYMLINK_FOLLOW))
		must(t, unix.Fstat(fd, &st))
		if st.Nlink != 1 {
			t.Errorf("with a name: nlink %d", st.Nlink)
		}
		if b, err := os.ReadFile(dir + "/dir/named"); err != nil || string(b) != "no name yet" {
			t.Errorf("%q, %v", b, err)
		}
	})
}

// A directory is emptied while it is listed, whoever's names these are.
func TestUpperRemoveAll(t *testing.T) {
	ways(t, func(t *testing.T, opt Options) {
		const files = 3000
		dir, _ := mountedUpper(t, newUpper(t, wide(1, files)), opt)
		for i := range files {
			must(t, os.WriteFile(fmt.Sprintf("%s/dir0000/new%05d", dir, i), nil, 0o644))
		}
		names, err := os.ReadDir(dir + "/dir0000")
		must(t, err)
		if len(names) != 2*files {
			t.Errorf("%d names", len(names))
		}
		d, err := os.Open(dir + "/dir0000")
		must(t, err)
		for {
			batch, err := d.Readdirnames(100)
			if err == io.EOF {
				break
			}
			must(t, err)
			for _, name := range batch {
				must(t, os.Remove(filepath.Join(dir, "dir0000", name)))
			}
		}
		must(t, d.Close())
		must(t, os.Remove(dir+"/dir0000"))
	})
}

// What is listed is what is there, after every change.
func TestUpperListing(t *testing.T) {
	ways(t, func(t *testing.T, opt Options) {
		dir, _ := mountedUpper(t, newUpper(t, everything()), opt)
		sub := dir + "/dir"
		want := []string{"file", "hard", "sub"}
		check := func(after string) {
			t.Helper()
			for range 2 { // the second from the kernel's cache
				entries, err := os.ReadDir(sub)
				must(t, err)
				var got []string
				for _, e := range entries {
					got = append(got, e.Name())
				}
				slices.Sort(want)
				if !slices.Equal(got, want) {
					t.Errorf("after %s: %q, want %q", after, got, want)
				}
			}
		}
		check("nothing")
		must(t, os.WriteFile(sub+"/a", nil, 0o644))
		want = append(want, "a")
		check("create")
		must(t, os.Remove(sub+"/file"))
		want = slices.DeleteFunc(want, func(s string) bool { return s == "file" })
		check("unlink")
		must(t, os.Rename(sub+"/a", sub+"/file"))
		want = slices.DeleteFunc(want, func(s string) bool { return s == "a" })
		want = append(want, "file")
		check("rename")
		must(t, os.Rename(sub+"/hard", dir+"/hard"))
		want = slices.DeleteFunc(want, func(s string) bool { return s == "hard" })
		check("rename out")
		must(t, os.Mkdir(sub+"/d", 0o755))
		must(t, os.Symlink("x", sub+"/l"))
		must(t, unix.Mkfifo(sub+"/p", 0o600))
		must(t, os.Link(dir+"/hard", sub+"/h"))
		want = append(want, "d", "l", "p", "h")
		check("mkdir, symlink, mkfifo and link")
		must(t, unix.Renameat2(unix.AT_FDCWD, sub+"/d", unix.AT_FDCWD, sub+"/h", unix.RENAME_EXCHANGE))
		check("exchange")
		must(t, os.Remove(sub+"/h"))
		want = slices.DeleteFunc(want, func(s string) bool { return s == "h" })
		check("rmdir")
	})
}

// However a mount ends, also with files open, nothing of it uses the upper
// afterwards, and what was written is there.
func TestUpperUnmounts(t *testing.T) {
	needFUSE(t)
	if !currentCredentials().canMount {
		t.Skip("a user cannot unmount lazily")
	}
	control := t.TempDir()
	if err := unix.Mount("fusectl", control, "fusectl", 0, ""); err != nil {
		t.Skip(err) // before anything is open: it could not be closed
	}
	defer unix.Unmount(control, 0)
	abort := func(s *Server) error {
		name := fmt.Sprintf("%s/%d/abort", control, unix.Minor(s.dev))
		return errors.Join(os.WriteFile(name, []byte("1"), 0), unix.Unmount(s.dir, unix.MNT_DETACH))
	}
	lazily := func(s *Server) error { return unix.Unmount(s.dir, unix.MNT_DETACH) }
	ways(t, func(t *testing.T, opt Options) {
		for name, end := range map[string]func(*Server) error{"lazily": lazily, "aborted": abort} {
			t.Run(name, func(t *testing.T) {
				u := newUpper(t, everything())
				dir := t.TempDir()
				opt.Log = t.Logf
				s, err := MountUpper(dir, u, opt)
				must(t, err)
				kept, err := os.Create(dir + "/kept")
				must(t, err)
				_, err = kept.WriteString("kept")
				must(t, err)
				must(t, kept.Sync())
				gone, err := os.Create(dir + "/gone")
				must(t, err)
				_, err = gone.WriteString("gone")
				must(t, err)
				must(t, os.Remove(dir+"/gone"))
				image, err := os.Open(dir + "/suid")
				must(t, err)
				must(t, end(s))
				for _, f := range []*os.File{kept, gone, image} {
					f.Close()
				}
				waits(t, s)
				for _, name := range openFiles(t) {
					if strings.Contains(name, "/upper/data/") {
						t.Errorf("%s stays open", name)
					}
				}
				dir, _ = mountedUpper(t, u, opt)
				if b, err := os.ReadFile(dir + "/kept"); string(b) != "kept" {
					t.Errorf("%q, %v", b, err)
				}
			})
		}
	})
}
