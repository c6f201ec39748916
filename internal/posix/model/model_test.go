// SPDX-License-Identifier: Apache-2.0

package model

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs/internal/posix/thread"
)

var (
	seedFlag = flag.Uint64("seed", 1, "first seed of the model tests")
	seeds    = flag.Int("seeds", 1, "how many seeds")
	opsFlag  = flag.Int("ops", 3000, "operations of each")
	dirB     = flag.String("b", "", "a directory on the filesystem to compare with")
)

// populated returns a tree of its own below dir.
func populated(t *testing.T, dir string, seed uint64) Tree {
	t.Helper()
	var tree Tree
	n := 0
	reset := func() error {
		if tree.Dir != "" {
			if err := os.RemoveAll(tree.Dir); err != nil {
				return err
			}
		}
		n++
		tree.Dir = filepath.Join(dir, fmt.Sprint("t", n))
		return errors.Join(os.Mkdir(tree.Dir, 0o755), Populate(tree.Dir, seed))
	}
	if err := reset(); err != nil {
		t.Fatal(err)
	}
	return tree
}

// TestAgainstItself: two directories of one filesystem never differ.
func TestAgainstItself(t *testing.T) {
	for seed := *seedFlag; seed < *seedFlag+uint64(*seeds); seed++ {
		other := t.TempDir()
		if *dirB != "" {
			var err error
			if other, err = os.MkdirTemp(*dirB, "model"); err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(other)
		}
		a, b := populated(t, t.TempDir(), seed), populated(t, other, seed)
		b.Remount = func() error { return nil }
		Run(t, seed, *opsFlag, a, b)
		if t.Failed() {
			return
		}
	}
}

// TestFindsWhatChanged: what happens to one side behind the run's back is
// found, each by the thing that differs.
func TestFindsWhatChanged(t *testing.T) {
	for _, tt := range []struct {
		name   string
		damage func(dir string) error
		want   string
	}{
		{"mode", func(dir string) error { return os.Chmod(dir+"/usr/lib/f4", 0o640) }, "0640"},
		{"content", func(dir string) error { return patch(dir+"/usr/lib/f4", 4000) }, "content differs from byte 4000"},
		{"name", func(dir string) error { return os.Remove(dir + "/usr/bin/tool") }, "lists"},
		{"hard link", func(dir string) error {
			return errors.Join(os.Remove(dir+"/etc/h3"), os.WriteFile(dir+"/etc/h3", nil, 0o644))
		}, "nlink"},
		{"xattr", func(dir string) error { return unix.Setxattr(dir+"/usr/bin/tool", "user.x", nil, 0) }, "xattrs"},
		{"link target", func(dir string) error {
			return errors.Join(os.Remove(dir+"/lib"), os.Symlink("usr/lic", dir+"/lib"), unix.Lutimes(dir+"/lib", make([]unix.Timeval, 2)))
		}, "leads to"},
		{"mtime", func(dir string) error {
			return unix.UtimesNanoAt(unix.AT_FDCWD, dir+"/usr/bin/tool", []unix.Timespec{{}, {Sec: 5, Nsec: 6}}, 0)
		}, "mtime=5.000000006"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := populated(t, t.TempDir(), 7), populated(t, t.TempDir(), 7)
			b.Remount = func() error { return tt.damage(b.Dir) }
			var r recorder
			Replay(&r, "stat p=\".\"\nremount\n", a, b)
			if !strings.Contains(r.said, tt.want) {
				t.Errorf("said %q, want something of %q", r.said, tt.want)
			}
		})
	}
}

// patch changes one byte and puts the times back.
func patch(name string, at int64) error {
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		return err
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var b [1]byte
	_, rerr := f.ReadAt(b[:], at)
	_, werr := f.WriteAt([]byte{^b[0]}, at)
	return errors.Join(rerr, werr, unix.UtimesNanoAt(unix.AT_FDCWD, name, []unix.Timespec{st.Mtim, st.Mtim}, 0))
}

// TestShrinks: of a long sequence only what matters is left.
func TestShrinks(t *testing.T) {
	a, b := populated(t, t.TempDir(), 3), populated(t, t.TempDir(), 3)
	where := []string{filepath.Dir(a.Dir), filepath.Dir(b.Dir)}
	for i, tree := range []*Tree{&a, &b} {
		tree.Reset = func() error {
			dir := filepath.Join(where[i], "t1")
			return errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o755), Populate(dir, 3))
		}
	}
	b.Remount = func() error {
		if _, err := os.Stat(b.Dir + "/tmp/x"); err == nil {
			return os.Chmod(b.Dir+"/tmp/x", 0o711)
		}
		return nil
	}
	text := strings.Repeat("mkdir p=\"tmp/y\" mode=0755\nrmdir p=\"tmp/y\"\n", 10) + "mkdir p=\"tmp/x\" mode=0755\nstat p=\"etc\"\nremount\n"
	seq, err := parseScript(text)
	if err != nil {
		t.Fatal(err)
	}
	thread.Run(func() {
		for _, tree := range []Tree{a, b} {
			if err := tree.Reset(); err != nil {
				t.Error(err)
				return
			}
		}
		why, _ := try(seq, a, b)
		seq, _ = shrink(seq, why, a, b, deadlineOf(t))
	})
	if got, want := script(seq), "mkdir mode=0755 p=\"tmp/x\"\nremount\n"; got != want && got != "mkdir p=\"tmp/x\" mode=0755\nremount\n" {
		t.Errorf("shrunk to\n%swant\n%s", got, want)
	}
}

func TestOpText(t *testing.T) {
	for _, o := range []op{
		{Kind: "check"},
		{Kind: "rename", As: 2, At: 3, P: "a b\n\xff", Q: "\"", Flags: 2},
		{Kind: "pwrite", FD: 9, Off: -1, Len: 1 << 40, Seed: 1<<64 - 1},
		{Kind: "utimens", P: "x", ASec: -5, ANsec: unix.UTIME_OMIT, MSec: 7, MNsec: 999},
		{Kind: "setxattr", P: "f", S: "user.x", V: "\x00\x01", Mode: 0o7777, UID: -1, GID: 3_000_000_000, Dev: 1 << 50},
	} {
		got, err := parseOp(o.String())
		if err != nil || got != o {
			t.Errorf("%s: read back %+v, %v", o, got, err)
		}
	}
	if _, err := parseOp("explode p=\"x\""); err == nil {
		t.Error("an unknown operation is accepted")
	}
}

// A recorder keeps what a failing run said.
type recorder struct {
	testing.TB
	said string
}

func (r *recorder) Helper()                           {}
func (r *recorder) Errorf(format string, args ...any) { r.said += fmt.Sprintf(format, args...) }
func (r *recorder) Logf(string, ...any)               {}

func deadlineOf(*testing.T) time.Time { return time.Now().Add(shrinkFor) }
