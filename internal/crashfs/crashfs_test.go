// SPDX-License-Identifier: Apache-2.0

package crashfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs/internal/crashfs"
	"github.com/imgfs/imgfs/internal/fusetest"
)

func TestMain(m *testing.M) {
	if crashfs.IsServer() {
		os.Exit(crashfs.Serve())
	}
	os.Exit(m.Run())
}

// mount mounts a recorder for the length of a test.
func mount(t *testing.T) *crashfs.FS {
	t.Helper()
	fusetest.Need(t)
	if os.Geteuid() != 0 {
		t.Skip("the recorder mounts by mount(2)")
	}
	f, err := crashfs.Mount(t.TempDir(), crashfs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Unmount(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// perform does one line of a scenario below dir:
//
//	write NAME TEXT[@OFF]  mkdir NAME  rename OLD NEW  rm NAME  link OLD NEW
//	truncate NAME N  punch NAME OFF N  sync NAME  datasync NAME  syncfs
func perform(f *crashfs.FS, line string) error {
	w := strings.Fields(line)
	at := func(i int) string { return filepath.Join(f.Dir, w[i]) }
	open := func(flags int, do func(fd int) error) error {
		fd, err := unix.Open(at(1), flags|unix.O_CLOEXEC, 0o644)
		if err != nil {
			return err
		}
		return errors.Join(do(fd), unix.Close(fd))
	}
	num := func(i int) (n int64) { fmt.Sscan(w[i], &n); return n }
	switch w[0] {
	case "write":
		text, off, _ := strings.Cut(w[2], "@")
		var n int64
		fmt.Sscan(off, &n)
		return open(unix.O_WRONLY|unix.O_CREAT, func(fd int) error { _, err := unix.Pwrite(fd, []byte(text), n); return err })
	case "mkdir":
		return os.Mkdir(at(1), 0o755)
	case "rename":
		return os.Rename(at(1), at(2))
	case "rm":
		return os.Remove(at(1))
	case "link":
		return os.Link(at(1), at(2))
	case "truncate":
		return os.Truncate(at(1), num(2))
	case "punch":
		return open(unix.O_WRONLY, func(fd int) error {
			return unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE|unix.FALLOC_FL_PUNCH_HOLE, num(2), num(3))
		})
	case "sync":
		return open(unix.O_RDONLY, unix.Fsync)
	case "datasync":
		return open(unix.O_RDONLY, unix.Fdatasync)
	case "syncfs":
		return f.SyncFS()
	}
	return fmt.Errorf("no such verb: %s", line)
}

// listing returns the names below dir with their contents, holes as dots.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var all []string
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		if d.IsDir() {
			all = append(all, name+"/")
			return nil
		}
		b, err := os.ReadFile(filepath.Join(dir, name))
		all = append(all, name+"="+string(bytes.ReplaceAll(b, []byte{0}, []byte{'.'})))
		return err
	})
	must(t, err)
	slices.Sort(all)
	return strings.Join(all, " ")
}

// after returns the listings of states after the last record.
func after(t *testing.T, l *crashfs.Log, max int) (all []string) {
	t.Helper()
	tmp := t.TempDir()
	for s := range l.States(len(l.Ops), 1, max) {
		dir := filepath.Join(tmp, fmt.Sprint(len(all)))
		must(t, s.Materialize(dir))
		all = append(all, listing(t, dir))
	}
	return all
}

func TestWhatALossLeaves(t *testing.T) {
	for _, tt := range []struct{ name, script, always, may, never string }{
		{"what a sync covered is there", "write a one; sync a", "a=one", "", ""},
		{"a new name without a sync may be gone", "write a one", "", "|a=one|a=|a=...", ""},
		{"an overwrite comes or not", "write a one; sync a; write a two", "", "a=one|a=two", "a=|a=..."},
		{"fdatasync of a new file makes its name durable", "write a one; datasync a", "a=one", "", ""},
		{"and the names before it", "mkdir d; write a one; datasync a", "a=one d/", "", ""},
		{"fdatasync of an old file makes no names durable", "write a one; syncfs; mkdir d; datasync a", "", "a=one|a=one d/", ""},
		{"nor does its overwriting", "write a one; syncfs; mkdir d; write a two; datasync a", "", "a=two|a=two d/", "a=one"},
		{"but its growth does", "write a one; syncfs; mkdir d; write a four; datasync a", "a=four d/", "", ""},
		{"sync of a directory makes its names durable", "mkdir d; write d/a one; sync d", "", "d/ d/a=one|d/ d/a=|d/ d/a=...", "|d/"},
		{"names are a prefix", "write a x; write b y; sync a; sync b; rm a; rm b", "", "a=x b=y|b=y|", "a=x"},
		{"rename over, new data not synced", "write a old; sync a; write b new; rename b a", "", "a=old|a=new|a=old b=|a=", "b=new"},
		{"rename over, new data synced", "write a old; sync a; write b new; sync b; rename b a", "", "a=old b=new|a=new", "a=|a=..."},
		{"truncated bytes do not come back", "write a oldold; sync a; truncate a 0; truncate a 6", "", "a=oldold|a=|a=......", ""},
		{"a truncate alone", "write a oldold; sync a; truncate a 3; sync a; truncate a 6", "", "a=old|a=old...", "a=oldold"},
		{"links share what is there", "write a one; link a b; sync a", "a=one b=one", "", ""},
		{"a removed file stays gone once synced", "mkdir d; write d/a one; rm d/a; sync d", "d/", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := mount(t)
			for line := range strings.SplitSeq(tt.script, "; ") {
				must(t, perform(f, line))
			}
			l, err := f.Log()
			must(t, err)
			got := after(t, l, 200)
			if tt.may == "" && tt.never == "" {
				for _, g := range got {
					if g != tt.always {
						t.Errorf("a state is %q, want %q alone", g, tt.always)
					}
				}
				return
			}
			may, never := strings.Split(tt.may, "|"), strings.Split(tt.never, "|")
			for _, want := range may {
				if !slices.Contains(got, want) {
					t.Errorf("no state is %q", want)
				}
			}
			for _, bad := range never {
				if tt.never != "" && slices.Contains(got, bad) {
					t.Errorf("a state is %q, which must not be", bad)
				}
			}
		})
	}
}

// TestAllIsWhatPrograms: nothing lost is what the programs saw, and with all
// synced every state is.
func TestAllIsWhatProgramsSaw(t *testing.T) {
	f := mount(t)
	rng := rand.New(rand.NewPCG(1, 2))
	name := func() string { return string(rune('a' + rng.IntN(6))) }
	type moment struct {
		pos int64
		is  string
	}
	var moments []moment
	for i := range 400 {
		var line string
		switch rng.IntN(10) {
		case 0, 1, 2, 3:
			line = fmt.Sprintf("write %s %s@%d", name(), strings.Repeat(name(), 1+rng.IntN(3000)), rng.IntN(9000))
		case 4:
			line = fmt.Sprintf("truncate %s %d", name(), rng.IntN(9000))
		case 5:
			line = fmt.Sprintf("punch %s %d %d", name(), rng.IntN(9000), 1+rng.IntN(6000))
		case 6:
			line = fmt.Sprintf("rename %s %s", name(), name())
		case 7:
			line = "rm " + name()
		case 8:
			line = fmt.Sprintf("link %s %s", name(), name())
		case 9:
			line = "datasync " + name()
		}
		if err := perform(f, line); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrExist) {
			t.Fatalf("%s: %v", line, err)
		}
		if i%40 == 0 {
			pos, err := f.Pos()
			must(t, err)
			moments = append(moments, moment{pos, listing(t, f.Dir)})
		}
	}
	last := listing(t, f.Dir)
	must(t, f.SyncFS())
	l, err := f.Log()
	must(t, err)
	for i, m := range moments {
		dir := filepath.Join(t.TempDir(), fmt.Sprint(i))
		must(t, l.State(l.Cut(m.pos), crashfs.All, 0).Materialize(dir))
		if got := listing(t, dir); got != m.is {
			t.Fatalf("at %d:\n got %.2000q\nwant %.2000q", m.pos, got, m.is)
		}
	}
	for v := crashfs.Nothing; v <= crashfs.Random; v++ {
		dir := filepath.Join(t.TempDir(), v.String())
		must(t, l.State(len(l.Ops), v, 1).Materialize(dir))
		if got := listing(t, dir); got != last {
			t.Errorf("%v after all was synced:\n got %.2000q\nwant %.2000q", v, got, last)
		}
	}
}

func TestFaults(t *testing.T) {
	f := mount(t)
	must(t, perform(f, "write a one"))
	must(t, perform(f, "sync a"))
	must(t, f.Fail(crashfs.Fault{Kinds: []crashfs.Kind{crashfs.Write}, Path: "a", Skip: 1, Count: 1, Errno: unix.ENOSPC}))
	for i, want := range []error{nil, unix.ENOSPC, nil} {
		if err := perform(f, "write a two"); !errors.Is(err, want) {
			t.Errorf("write %d: %v, want %v", i, err, want)
		}
	}
	must(t, f.Fail(crashfs.Fault{Kinds: []crashfs.Kind{crashfs.Sync}, Count: 1, Errno: unix.EIO}))
	if err := perform(f, "datasync a"); !errors.Is(err, unix.EIO) {
		t.Errorf("sync: %v, want EIO", err)
	}
	must(t, perform(f, "datasync a")) // … and yet the data may not be there
	l, err := f.Log()
	must(t, err)
	got := after(t, l, 100)
	if !slices.Contains(got, "a=one") || !slices.Contains(got, "a=two") {
		t.Errorf("after a failed sync and one that did not fail: %q, want a=one and a=two", slices.Compact(got))
	}
	if n, err := f.Struck(); n != 2 || err != nil {
		t.Errorf("struck: %d, %v, want 2", n, err)
	}
}

// TestSyncFSDoesNotReachUs pins what the package comment says: if the kernel
// begins to send it, SyncFS is not needed any more.
func TestSyncFSDoesNotReachUs(t *testing.T) {
	f := mount(t)
	must(t, perform(f, "write a one"))
	before, err := f.Pos()
	must(t, err)
	fd, err := unix.Open(f.Dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(fd)
	must(t, unix.Syncfs(fd))
	if after, err := f.Pos(); err != nil || after != before {
		t.Errorf("syncfs was recorded, or %v", err)
	}
}
