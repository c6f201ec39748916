// SPDX-License-Identifier: Apache-2.0

package hostfs

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// writes opens a directory in a fresh one, beside a file "outside/secret"
// that nothing may touch, and checks that at the end.
func writes(t *testing.T, opt Options) (d *Dir, dst string) {
	t.Helper()
	tmp := t.TempDir()
	outside := filepath.Join(tmp, "outside")
	dst = filepath.Join(tmp, "dst")
	for _, dir := range []string{outside, dst} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := Open(dst, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.Close()
		if b, err := os.ReadFile(secret); err != nil || string(b) != "untouched" {
			t.Errorf("outside was written to: %q, %v", b, err)
		}
		if list, err := os.ReadDir(outside); err != nil || len(list) != 1 {
			t.Errorf("outside holds %v, %v", list, err)
		}
		if list, err := os.ReadDir(tmp); err != nil || len(list) != 2 {
			t.Errorf("beside dst: %v, %v", list, err)
		}
	})
	return d, dst
}

func text(s string) func(io.WriterAt) error {
	return func(w io.WriterAt) error {
		_, err := w.WriteAt([]byte(s), 0)
		return err
	}
}

func file(d *Dir, name, s string, meta *Meta) error {
	return d.File(name, meta, int64(len(s)), text(s))
}

func TestNamesThatAreNone(t *testing.T) {
	d, dst := writes(t, Options{Archive: true})
	meta := &Meta{Mode: 0o644}
	for _, name := range []string{"", ".", "..", "../outside/x", "/etc/x", "a/b", "a\x00b", "../../x"} {
		ops := map[string]error{
			"file":    file(d, name, "x", meta),
			"symlink": d.Symlink(name, "x", meta),
			"link":    d.Link(name, "x"),
		}
		_, ops["dir"] = d.Dir(name, meta)
		_, ops["fifo"] = d.Node(name, 0, &Meta{Mode: unix.S_IFIFO})
		for op, err := range ops {
			if !errors.Is(err, ErrName) {
				t.Errorf("%s %q: got %v, want ErrName", op, name, err)
			}
		}
	}
	if list, _ := os.ReadDir(dst); len(list) != 0 {
		t.Errorf("dst holds %v", list)
	}
}

func TestOddNamesAreNames(t *testing.T) {
	d, dst := writes(t, Options{})
	for _, name := range []string{"a\nb", "\x1b[31m", "\xff\xfe", "...", "-rf", "~", `a\b`, strings.Repeat("n", 255)} {
		if err := file(d, name, name, &Meta{Mode: 0o600}); err != nil {
			t.Error(err)
			continue
		}
		if b, err := os.ReadFile(filepath.Join(dst, name)); err != nil || string(b) != name {
			t.Errorf("%q: %q, %v", name, b, err)
		}
	}
}

func TestSymlinksAreNotFollowed(t *testing.T) {
	d, dst := writes(t, Options{})
	meta := &Meta{Mode: 0o755}
	for _, target := range []string{"../outside", "../outside/secret", "/", "inside", "loop", "."} {
		if err := os.MkdirAll(filepath.Join(dst, "inside"), 0o755); err != nil {
			t.Fatal(err)
		}
		link := filepath.Join(dst, "link")
		plant := func() {
			t.Helper()
			if err := d.Symlink("link", target, meta); err != nil {
				t.Fatal(err)
			}
		}
		plant()
		if got, err := os.Readlink(link); err != nil || got != target {
			t.Errorf("target %q, %v, want %q", got, err, target)
		}
		if sub, err := d.Dir("link", meta); err == nil {
			t.Errorf("a symlink to %s was entered", target)
			sub.Close()
		}
		if err := file(d, "link", "new", meta); err != nil {
			t.Error(err)
		}
		if fi, err := os.Lstat(link); err != nil || !fi.Mode().IsRegular() {
			t.Errorf("a file over a symlink to %s: %v, %v", target, fi, err)
		}
		plant()
		if _, err := d.Node("link", 0, &Meta{Mode: unix.S_IFIFO | 0o600}); err != nil {
			t.Error(err)
		}
		if fi, err := os.Lstat(link); err != nil || fi.Mode().Type() != fs.ModeNamedPipe {
			t.Errorf("a FIFO over a symlink to %s: %v, %v", target, fi, err)
		}
	}
	// A hard link to a symlink is to the symlink.
	if err := d.Symlink("s", "../outside/secret", meta); err != nil {
		t.Fatal(err)
	}
	if err := d.Link("s2", "s"); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Lstat(filepath.Join(dst, "s2")); err != nil || fi.Mode().Type() != fs.ModeSymlink {
		t.Errorf("%v, %v", fi, err)
	}
	// A hard link out of the directory, by name or through a symlink.
	if err := d.Symlink("out", "../outside", meta); err != nil {
		t.Fatal(err)
	}
	for _, old := range []string{"../outside/secret", "out/secret", "/etc/passwd"} {
		if err := d.Link("stolen", old); err == nil {
			t.Errorf("linked to %s", old)
		}
	}
}

// TestDirSwapped has another process turn a directory into a symlink while
// it is entered: os.Root confines it.
func TestDirSwapped(t *testing.T) {
	d, dst := writes(t, Options{})
	meta := &Meta{Mode: 0o755}
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			os.Remove(filepath.Join(dst, "d"))
			os.Symlink("../outside", filepath.Join(dst, "d"))
			os.Remove(filepath.Join(dst, "d"))
		}
	}()
	for range 2000 {
		sub, err := d.Dir("d", meta)
		if err != nil {
			continue
		}
		// The directory may be gone or replaced by now.
		if err := file(sub, "f", "x", meta); err == nil {
			sub.root.Remove("f")
		}
		sub.Close()
	}
	close(stop)
	<-done
	// writes checks what is outside
}

func TestAttributes(t *testing.T) {
	var out []string
	d, dst := writes(t, Options{LeftOut: func(path, what string) { out = append(out, path+": "+what) }})
	sub, err := d.Dir("d", &Meta{Mode: unix.S_IFDIR | unix.S_ISVTX | unix.S_ISGID | 0o555, Mtime: 86400, MtimeNsec: 7})
	if err != nil {
		t.Fatal(err)
	}
	meta := &Meta{
		Mode: unix.S_ISUID | unix.S_ISGID | 0o4711, UID: 4, GID: 5, Mtime: -86400, MtimeNsec: 123456789,
		Xattrs: []Xattr{{"security.capability", []byte{1}}},
	}
	if err := file(sub, "f", "hello", meta); err != nil {
		t.Fatal(err)
	}
	if err := sub.Symlink("s", "nowhere", &Meta{Mtime: 5}); err != nil {
		t.Fatal(err)
	}
	if made, err := sub.Node("null", uint32(unix.Mkdev(1, 3)), &Meta{Mode: unix.S_IFCHR | 0o666}); made || err != nil {
		t.Errorf("device node: %v, %v", made, err)
	}
	if made, err := sub.Node("p", 0, &Meta{Mode: unix.S_IFIFO | 0o622, Mtime: 6}); !made || err != nil {
		t.Errorf("FIFO: %v, %v", made, err)
	}
	if err := sub.Link("f2", sub.Path("f")); err != nil {
		t.Error(err)
	}
	if err := errors.Join(sub.Finish(), sub.Close()); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		mode uint32
		sec  int64
		nsec int64
	}{
		{"d", unix.S_IFDIR | unix.S_ISVTX | 0o555, 86400, 7},
		{"d/f", unix.S_IFREG | 0o711, -86400, 123456789},
		{"d/f2", unix.S_IFREG | 0o711, -86400, 123456789},
		{"d/s", unix.S_IFLNK | 0o777, 5, 0},
		{"d/p", unix.S_IFIFO | 0o622, 6, 0},
	} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dst, tt.name), &st); err != nil {
			t.Error(err)
			continue
		}
		if st.Mode != tt.mode || st.Mtim.Sec != tt.sec || st.Mtim.Nsec != tt.nsec || int(st.Uid) != os.Geteuid() {
			t.Errorf("%s: mode %o time %d.%09d uid %d, want %o %d.%09d", tt.name,
				st.Mode, st.Mtim.Sec, st.Mtim.Nsec, st.Uid, tt.mode, tt.sec, tt.nsec)
		}
	}
	want := `d/f: setuid bit
d/f: setgid bit
d/f: extended attribute security.capability
d/null: character device 1,3
d: setgid bit`
	if got := strings.Join(out, "\n"); got != want {
		t.Errorf("left out\n%s\nwant\n%s", got, want)
	}
}

func TestArchive(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	d, dst := writes(t, Options{Archive: true, LeftOut: func(path, what string) { t.Errorf("left out %s: %s", path, what) }})
	capability := []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	meta := &Meta{Mode: 0o6755, UID: 1234, GID: 70000, Xattrs: []Xattr{{"security.capability", capability}}}
	if err := file(d, "f", "x", meta); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	f := filepath.Join(dst, "f")
	if err := unix.Lstat(f, &st); err != nil {
		t.Fatal(err)
	}
	if st.Mode&0o7777 != 0o6755 || st.Uid != 1234 || st.Gid != 70000 {
		t.Errorf("mode %o owner %d:%d", st.Mode, st.Uid, st.Gid)
	}
	buf := make([]byte, 64)
	if n, err := unix.Lgetxattr(f, "security.capability", buf); err != nil || string(buf[:n]) != string(capability) {
		t.Errorf("capability %x, %v", buf[:max(n, 0)], err)
	}
	made, err := d.Node("null", uint32(unix.Mkdev(1, 3)), &Meta{Mode: unix.S_IFCHR | 0o666, UID: 7})
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Lstat(filepath.Join(dst, "null"), &st); made && (err != nil || st.Rdev != unix.Mkdev(1, 3) || st.Uid != 7) {
		t.Errorf("null: %+v, %v", st, err)
	}
}

func TestSparse(t *testing.T) {
	d, dst := writes(t, Options{})
	const size = 1 << 30
	err := d.File("f", &Meta{Mode: 0o600}, size, func(w io.WriterAt) error {
		_, err := w.WriteAt([]byte("end"), size-3)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.File("hole", &Meta{Mode: 0o600}, size, func(io.WriterAt) error { return nil }); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"f", "hole"} {
		fi, err := os.Stat(filepath.Join(dst, name))
		if err != nil || fi.Size() != size || fi.Sys().(*syscall.Stat_t).Blocks > 128 {
			t.Errorf("%s: %+v, %v", name, fi, err)
		}
	}
}

func TestReplace(t *testing.T) {
	d, dst := writes(t, Options{})
	path := func(name string) string { return filepath.Join(dst, name) }
	meta := &Meta{Mode: 0o644}
	if err := os.WriteFile(path("old"), []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(path("old"), path("other")); err != nil {
		t.Fatal(err)
	}
	// A read that fails leaves the old file, and nothing else.
	broken := errors.New("broken layer")
	err := d.File("old", meta, 3, func(io.WriterAt) error { return broken })
	if b, _ := os.ReadFile(path("old")); !errors.Is(err, broken) || string(b) != "old" {
		t.Errorf("got %v, %q", err, b)
	}
	err = d.File("fresh", meta, 3, func(io.WriterAt) error { return broken })
	if list, _ := os.ReadDir(dst); !errors.Is(err, broken) || len(list) != 2 {
		t.Errorf("got %v, dst holds %v", err, list)
	}
	if err := file(d, "old", "new", meta); err != nil {
		t.Error(err)
	}
	// The other name of the old file keeps its content.
	for name, want := range map[string]string{"old": "new", "other": "old"} {
		if b, err := os.ReadFile(path(name)); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v, want %q", name, b, err, want)
		}
	}
	// Directories and what is none do not replace each other.
	if err := os.Mkdir(path("dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := file(d, "dir", "x", meta); err == nil {
		t.Error("a file replaced an empty directory")
	}
	if err := d.Symlink("dir", "x", meta); err == nil {
		t.Error("a symlink replaced an empty directory")
	}
	if _, err := d.Dir("old", meta); err == nil {
		t.Error("a directory replaced a file")
	}
	// A directory that was there keeps its attributes.
	sub, err := d.Dir("dir", &Meta{Mode: 0o777})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(sub.Finish(), sub.Close()); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(path("dir")); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
}

func TestDeep(t *testing.T) {
	d, _ := writes(t, Options{})
	name := strings.Repeat("d", 200)
	at := d
	for i := range 100 { // 20 kB of path: over PATH_MAX
		sub, err := at.Dir(name, &Meta{Mode: 0o700})
		if err != nil {
			t.Fatalf("level %d: %v", i, err)
		}
		defer sub.Close()
		at = sub
	}
	if err := file(at, "f", "x", &Meta{Mode: 0o600}); err != nil {
		t.Error(err)
	}
	if err := at.Link("f2", at.Path("f")); err != nil {
		t.Error(err)
	}
}

func TestOwnersAreLeftOutOnce(t *testing.T) {
	var out []string
	d, _ := writes(t, Options{Archive: true, LeftOut: func(path, what string) { out = append(out, path+": "+what) }})
	refuse := func() error { return &fs.PathError{Op: "chown", Path: "x", Err: unix.EPERM} }
	broken := func() error { return unix.EINVAL } // an owner this user namespace does not have
	for _, set := range []func() error{refuse, refuse, broken, refuse, broken} {
		if d.chown("f", set) {
			t.Error("owned")
		}
	}
	want := "f: owner, here and elsewhere: operation not permitted|f: owner: invalid argument|f: owner: invalid argument"
	if got := strings.Join(out, "|"); got != want {
		t.Errorf("left out\n got %s\nwant %s", got, want)
	}
}
