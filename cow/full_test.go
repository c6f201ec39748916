// SPDX-License-Identifier: Apache-2.0

package cow_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs/cow"
	"github.com/imgfs/imgfs/index"
)

// smallDisk mounts a tmpfs of that many bytes.
func smallDisk(t *testing.T, bytes int64, inodes int) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root mounts a tmpfs")
	}
	dir := t.TempDir()
	if err := unix.Mount("imgfs-test", dir, "tmpfs", 0, fmt.Sprintf("size=%d,nr_inodes=%d", bytes, inodes)); err != nil {
		t.Skipf("mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount the disk: %v", err)
			unix.Unmount(dir, unix.MNT_DETACH)
		}
	})
	return dir
}

// isENOSPC tells the errors of a full disk.
func isENOSPC(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// A filled is what a test put on a small disk.
type filled struct {
	t     *testing.T
	u     *cow.Upper
	files map[string][]byte // in the root: what was answered
}

// fill makes files of that size until the disk is full.
func (f *filled) fill(prefix string, size int) {
	f.t.Helper()
	for i := 0; ; i++ {
		if i == 1<<17 {
			f.t.Fatal("the disk does not get full")
		}
		name := fmt.Sprintf("%s%d", prefix, i)
		err := f.add(name, size)
		if err == nil {
			continue
		}
		if !isENOSPC(err) {
			f.t.Fatalf("a full disk: %s: %v, want ENOSPC", name, err)
		}
		return
	}
}

func (f *filled) add(name string, size int) error {
	var a cow.Attr
	file, err := f.u.CreateFile(crashCaller, cow.RootNode, name, cow.Creation{Mode: index.ModeRegular | 0o644}, &a)
	if err != nil {
		var b cow.Attr
		if found, ferr := f.u.Lookup(cow.RootNode, name, &b); found || ferr != nil {
			f.t.Fatalf("%s: could not be made (%v) and yet is there: %v, %v", name, err, found, ferr)
		}
		return err
	}
	f.files[name] = nil
	data := crashNoise(uint64(a.Node), 0, 0, size)
	n, err := file.WriteAt(data, 0)
	f.files[name] = data[:n]
	if err != nil {
		// What of it is there is no promise, but none of it may be wrong.
		got, _, rerr := wholeContent(f.u, a.Node)
		if rerr != nil || !bytes.HasPrefix(data, got) {
			f.t.Fatalf("%s: after a write that failed (%v): %d bytes that were not written, %v", name, err, len(got), rerr)
		}
		f.files[name] = got
	}
	return errors.Join(err, file.Close())
}

// remove removes files of the root by their names.
func (f *filled) remove(name string) {
	f.t.Helper()
	var a cow.Attr
	if found, err := f.u.Lookup(cow.RootNode, name, &a); err != nil || !found {
		f.t.Fatalf("look up %s: %v %v", name, found, err)
	}
	if err := f.u.Unlink(cow.RootNode, name); err != nil {
		f.t.Fatalf("unlink %s on a full disk: %v", name, err)
	}
	f.u.Forget(a.Node)
	delete(f.files, name)
}

// check compares what is there with what was answered.
func (f *filled) check(when string) {
	f.t.Helper()
	all, err := places(f.u)
	if err != nil {
		f.t.Fatalf("%s: %v", when, err)
	}
	seen := 0
	for _, p := range all {
		want, ok := f.files[p.name]
		if !ok || p.dir != cow.RootNode {
			continue
		}
		seen++
		got, _, err := wholeContent(f.u, p.attr.Node)
		if err != nil || !bytes.Equal(got, want) {
			f.t.Fatalf("%s: %s: %d bytes, %v, want %d bytes", when, p.name, len(got), err, len(want))
		}
	}
	if seen != len(f.files) {
		f.t.Fatalf("%s: %d of %d files are there", when, seen, len(f.files))
	}
}

// again waits until something succeeds: what unlinked files held comes back
// behind the answer.
func (f *filled) again(what string, do func() error) {
	f.t.Helper()
	err := errors.New("not tried")
	for end := time.Now().Add(10 * time.Second); err != nil && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err = do(); err != nil && !isENOSPC(err) {
			f.t.Fatalf("%s: %v", what, err)
		}
	}
	if err != nil {
		f.t.Fatalf("%s when there is space again: %v", what, err)
	}
}

// TestDiskFull: on a full disk operations fail with ENOSPC, nothing is lost,
// names can be removed, and work goes on when there is space.
func TestDiskFull(t *testing.T) {
	for _, tt := range []struct {
		name   string
		size   int64
		inodes int
		file   int // bytes of each
	}{
		{"by large files", 24 << 20, 0, 1 << 20},
		{"by small files", 8 << 20, 0, 3000},
		{"by names", 5 << 20, 0, 0},
		{"of inodes", 48 << 20, 400, 40_000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			disk := smallDisk(t, tt.size, tt.inodes)
			fs := crashFS(t, crashTar(t))
			dir := filepath.Join(disk, "u")
			if err := cow.Create(dir, cow.Base{Image: "full", ChainID: crashChain}); err != nil {
				t.Fatal(err)
			}
			open := func() *cow.Upper {
				u, err := cow.Open(dir, fs, crashChain, cow.Options{Log: t.Logf})
				if err != nil {
					t.Fatalf("open: %v", err)
				}
				return u
			}
			f := &filled{t, open(), map[string][]byte{}}
			defer func() {
				if f.u != nil {
					f.u.Close()
				}
			}()
			reopen := func(when string) {
				t.Helper()
				u := f.u
				f.u = nil
				if err := u.Close(); err != nil {
					t.Errorf("close %s: %v", when, err)
				}
				f.u = open()
			}
			if err := f.add("first", 5000); err != nil {
				t.Fatal(err)
			}
			f.fill("a", tt.file)
			if tt.inodes == 0 {
				f.fill("b", min(tt.file, 1))
			}
			if tt.file > 0 && tt.inodes == 0 { // an empty file takes no inode of the disk
				f.fill("c", 0)
			}
			t.Logf("%d files", len(f.files))
			f.check("on a full disk")
			if err := f.u.Sync(); err != nil && !isENOSPC(err) {
				t.Errorf("sync on a full disk: %v", err)
			}
			for _, name := range []string{"s", "h1", "a0", "a1", "a2", "a3"} {
				if _, ok := f.files[name]; ok || name[0] != 'a' {
					f.remove(name)
				}
			}
			f.check("after removing on a full disk")
			tries := 0
			f.again("make a file", func() error { tries++; return f.add(fmt.Sprint("later", tries), min(tt.file, 50_000)) })
			f.again("change a file of the image", func() error {
				var a cow.Attr
				if found, err := f.u.Lookup(cow.RootNode, "big0", &a); !found {
					return fmt.Errorf("big0: not found: %w", err)
				}
				file, err := f.u.Open(a.Node, true)
				if err != nil {
					return err
				}
				_, err = file.WriteAt([]byte("changed"), 10)
				return errors.Join(err, file.Close())
			})
			if err := f.u.Sync(); err != nil {
				t.Errorf("sync with space again: %v", err)
			}
			f.check("with space again")

			// Full once more, and closed so.
			f.fill("d", tt.file)
			reopen("on a full disk")
			f.check("opened on a full disk")
			for _, name := range []string{"first", "h2"} {
				f.remove(name)
			}
			reopen("at the end")
			f.check("opened again")
		})
	}
}
