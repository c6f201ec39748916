// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// farOff lies behind what a record holds: a byte there takes a data file.
const farOff = 100_000

func TestDataName(t *testing.T) {
	for _, n := range []Node{1, FirstOwn, 0x123456789abcdef0} {
		if got, want := dataName(n), fmt.Sprintf("%02x/%016x", uint8(n>>8), uint64(n)); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// smallData has the data files of the upper in dir on a disk of size bytes.
func smallData(t *testing.T, dir string, size int) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can mount a small disk")
	}
	if err := Create(dir, Base{Image: "test", ChainID: "sha256:1"}); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	if err := os.MkdirAll(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", data, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Skipf("a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(data, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// On a full disk a change fails with ENOSPC, or does part of what it was asked
// and says how much; nothing else is lost, and work goes on when there is
// space.
func TestFullDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "u")
	smallData(t, dir, 512<<10)
	files := []lowFile{{data: pattern(1 << 20)}, {data: pattern(100 << 10)}, {data: nil}}
	u := newContentUpper(t, lowFS(t, nil, files...), dir)
	want, open := make([][]byte, len(files)), make([]*File, len(files))
	for k := range files {
		want[k], open[k] = files[k].bytes(), openFile(t, u, Node(k+2))
	}
	rnd := rand.New(rand.NewPCG(1, 1))
	full := 0
	for range 150 {
		k := rnd.IntN(len(files))
		off, n := rnd.Int64N(1<<20), 1+rnd.Int64N(100<<10)
		if rnd.IntN(2) == 0 {
			off = off / blockSize * blockSize
		}
		b := noise(rnd, n, 0)
		got, err := open[k].WriteAt(b, off)
		switch {
		case err == nil && got == len(b):
		case err == syscall.ENOSPC && got < len(b):
			full++
		default:
			t.Fatalf("write: %d of %d, %v", got, len(b), err)
		}
		now := readAll(t, open[k], 3<<20)
		if got > 0 {
			if end := int(off) + got; end > len(want[k]) {
				want[k] = append(want[k], make([]byte, end-len(want[k]))...)
			}
			copy(want[k][off:], b[:got])
		}
		if len(now) != len(want[k]) {
			t.Fatalf("file %d: %d bytes after a write of %d at %d that wrote %d, want %d", k, len(now), n, off, got, len(want[k]))
		}
		// What a write that failed would have written, may stand there.
		lo, hi := min(off+int64(got), int64(len(now))), min(off+n, int64(len(now)))
		for i := lo; i < hi; i++ {
			if now[i] == b[i-off] {
				want[k][i] = now[i]
			}
		}
		if !bytes.Equal(now, want[k]) {
			t.Fatalf("file %d: differs at %d after a write of %d at %d that wrote %d, %v", k, differ(now, want[k]), n, off, got, err)
		}
		if err != nil {
			// Give some back.
			for k := range files {
				lo := rnd.Int64N(1 << 20)
				if err := open[k].Allocate(punchHole, lo, 300<<10); err != nil && err != syscall.ENOSPC {
					t.Fatal(err)
				}
				want[k] = readAll(t, open[k], 3<<20)
			}
			if rnd.IntN(4) == 0 {
				if err := u.truncate(4, 0); err != nil {
					t.Fatal(err)
				}
				want[2] = nil
			}
		}
	}
	if full < 10 {
		t.Errorf("the disk was full %d times only", full)
	}
	for k := range files {
		open[k].Close()
	}
	if err := u.Close(); err != nil {
		t.Error(err)
	}
}

// A first write that finds no room for the copy leaves the file as it was.
func TestNoRoomForTheFirstWrite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "u")
	smallData(t, dir, 32<<10)
	files := []lowFile{{data: pattern(60 << 10)}, {data: pattern(1 << 20)}}
	u := newContentUpper(t, lowFS(t, nil, files...), dir)
	big := make([]byte, 80<<10)
	for k := range files {
		f := openFile(t, u, Node(k+2))
		if n, err := f.WriteAt(big, 10); err != syscall.ENOSPC || n >= len(big) {
			t.Errorf("write: %d, %v", n, err)
		} else if n == 0 {
			if got := readAll(t, f, 2<<20); !bytes.Equal(got, files[k].data) {
				t.Error("the file changed")
			}
		}
		if k == 0 && (f.c.hasData || len(u.data.open) != 0) {
			t.Error("something is left of it")
		}
		f.Close()
	}
	if err := u.Close(); err != nil {
		t.Error(err)
	}
}

// The last name of a file goes while it is open: all goes on, without the
// journal, until nobody has it any more.
func TestOrphanContent(t *testing.T) {
	files := []lowFile{{data: pattern(300_000)}, {data: pattern(300)}, {data: pattern(1 << 20)}}
	for k := range files {
		for _, wasOpen := range []bool{true, false} {
			u := newContentUpper(t, lowFS(t, nil, files...), filepath.Join(t.TempDir(), "u"))
			n := Node(k + 2)
			f := openFile(t, u, n)
			want := files[k].bytes()
			write := func(off int64) {
				t.Helper()
				if _, err := f.WriteAt([]byte("here"), off); err != nil {
					t.Fatal(err)
				}
				if grow := int(off) + 4 - len(want); grow > 0 {
					want = append(want, make([]byte, grow)...)
				}
				copy(want[off:], "here")
			}
			if k < 2 {
				write(5000)
			}
			if !wasOpen {
				f.Close()
			}
			if err := u.Unlink(RootNode, fmt.Sprint(k)); err != nil {
				t.Fatal(err)
			}
			if !wasOpen {
				f = openFile(t, u, n) // by /proc/self/fd of one opened with O_PATH
			}
			if got := readAll(t, f, len(want)); !bytes.Equal(got, want) {
				t.Errorf("file %d: unlinked, differs at %d", k, differ(got, want))
			}
			seq := u.seq
			write(100_000)
			write(299_999)
			if err := u.truncate(n, 120_000); err != nil {
				t.Fatal(err)
			}
			want = want[:120_000]
			write(130_000)
			if u.seq != seq {
				t.Errorf("file %d: %d frames for a file without a name", k, u.seq-seq)
			}
			if got := readAll(t, f, len(want)); !bytes.Equal(got, want) {
				t.Errorf("file %d: changed, differs at %d", k, differ(got, want))
			}
			if err := f.Sync(false); err != nil {
				t.Error(err)
			}
			f.Close()
			f = openFile(t, u, n)
			if got := readAll(t, f, len(want)); !bytes.Equal(got, want) {
				t.Errorf("file %d: opened again, differs at %d", k, differ(got, want))
			}
			if wasOpen {
				u.Forget(n)
				f.Close()
			} else {
				f.Close()
				u.Forget(n)
			}
			if len(u.files)+len(u.orphans)+len(u.data.open) != 0 {
				t.Errorf("file %d: left are %d contents, %d orphans, %d descriptors", k, len(u.files), len(u.orphans), len(u.data.open))
			}
			if _, err := u.Open(n, false); err != syscall.ESTALE {
				t.Errorf("file %d: open of what is gone: %v", k, err)
			}
		}
	}
}

func TestTemporaryFile(t *testing.T) {
	u := newContentUpper(t, lowFS(t, nil), filepath.Join(t.TempDir(), "u"))
	var a Attr
	f, err := u.CreateFile(Caller{}, RootNode, "", Creation{Mode: 0o600}, &a)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := f.WriteAt([]byte("hello"), 3); n != 5 || err != nil {
		t.Fatal(n, err)
	}
	if err := u.Link(f.Node(), RootNode, "name", &a); err != nil || a.Size != 8 || a.Nlink != 1 {
		t.Fatal(a, err)
	}
	if n, err := f.WriteAt([]byte("!"), 8); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	f.Close()
	f = openFile(t, u, a.Node)
	if got := readAll(t, f, 9); string(got) != "\x00\x00\x00hello!" {
		t.Errorf("%q", got)
	}
	f.Close()
}

// Descriptors of data files are closed and opened again when there are many.
func TestManyOpenFiles(t *testing.T) {
	u := newContentUpper(t, lowFS(t, nil), filepath.Join(t.TempDir(), "u"))
	u.data.maxOpen = 4
	var a Attr
	var open []*File
	for k := range 20 {
		f, err := u.CreateFile(Caller{}, RootNode, fmt.Sprint(k), Creation{Mode: 0o600}, &a)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, f)
	}
	fd, ok, err := open[0].Backing()
	if err != nil || !ok {
		t.Fatal(fd, ok, err)
	}
	var wg sync.WaitGroup
	for k, f := range open {
		wg.Go(func() {
			for r := range 50 {
				if _, err := f.WriteAt([]byte{byte(k), byte(r)}, int64(2*r)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if len(u.data.open) > 4+1 {
		t.Errorf("%d descriptors", len(u.data.open))
	}
	if _, err := unix.Pwrite(fd, []byte("direct"), 0); err != nil {
		t.Errorf("the backing descriptor: %v", err)
	}
	for k, f := range open {
		b := readAll(t, f, 100)
		if len(b) != 100 || k > 0 && (b[98] != byte(k) || b[99] != 49) || k == 0 && string(b[:6]) != "direct" {
			t.Errorf("file %d: %q", k, b)
		}
		f.Close()
	}
	if len(u.data.open) != 0 {
		t.Errorf("%d descriptors after the last close", len(u.data.open))
	}
}

// A sync that failed once fails for good, also when the file is opened anew.
func TestFailedSyncStays(t *testing.T) {
	u := newContentUpper(t, lowFS(t, nil), filepath.Join(t.TempDir(), "u"))
	var a Attr
	f, err := u.CreateFile(Caller{}, RootNode, "f", Creation{Mode: 0o600}, &a)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("x"), farOff); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(true); err != nil {
		t.Fatal(err)
	}
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(p[0])
	f.c.closeFD()
	f.c.setFD(p[1]) // what cannot be synced
	if err := f.Sync(true); err != syscall.EIO {
		t.Errorf("sync: %v", err)
	}
	f.c.closeFD()
	if err := f.Sync(false); err != syscall.EIO {
		t.Errorf("sync, opened again: %v", err)
	}
	f.Close()
	f = openFile(t, u, a.Node)
	if err := f.Sync(false); err != syscall.EIO {
		t.Errorf("sync of another opening: %v", err)
	}
	f.Close()
}

func TestMissingDataFile(t *testing.T) {
	u := newContentUpper(t, lowFS(t, nil, lowFile{data: pattern(10)}), filepath.Join(t.TempDir(), "u"))
	f := openFile(t, u, 2)
	if _, err := f.WriteAt([]byte("x"), farOff); err != nil {
		t.Fatal(err)
	}
	f.c.closeFD()
	if err := os.Remove(filepath.Join(u.dir, "data", dataName(2))); err != nil {
		t.Fatal(err)
	}
	if n, err := f.ReadAt(make([]byte, 5), 0); n != 0 || !errors.Is(err, syscall.EIO) {
		t.Errorf("read: %d, %v", n, err)
	}
	var a Attr
	if err := u.Attr(2, &a); !errors.Is(err, syscall.EIO) {
		t.Errorf("attr: %v", err)
	}
	f.Close()
}

// What a sweep finds is removed only if nothing names it and nobody is about to.
func TestSweepData(t *testing.T) {
	u := newContentUpper(t, lowFS(t, nil, lowFile{data: pattern(10)}, lowFile{data: pattern(10)}), filepath.Join(t.TempDir(), "u"))
	f := openFile(t, u, 2)
	if _, err := f.WriteAt([]byte("x"), farOff); err != nil {
		t.Fatal(err)
	}
	f.Close()
	for _, n := range []Node{3, FirstOwn + 7, 999} {
		fd, err := u.makeData(n)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
	}
	for n, want := range map[Node]bool{2: true, 3: false, FirstOwn + 7: false, 999: false} {
		if err := u.sweepData(n); err != nil {
			t.Error(err)
		}
		_, err := os.Stat(filepath.Join(u.dir, "data", dataName(n)))
		if got := err == nil; got != want {
			t.Errorf("node %d: there %v, want %v", n, got, want)
		}
	}
	// What was left behind is no hindrance.
	fd, err := u.makeData(3)
	if err != nil {
		t.Fatal(err)
	}
	unix.Pwrite(fd, []byte("left behind, and longer than what comes"), 0)
	unix.Close(fd)
	f = openFile(t, u, 3)
	if _, err := f.WriteAt([]byte("y"), 0); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, f, 10); !bytes.Equal(got, append([]byte("y"), pattern(10)[1:]...)) {
		t.Errorf("%q", got)
	}
	f.Close()
}

// Times follow what is done, also where no frame says so.
func TestContentTimes(t *testing.T) {
	for _, file := range []lowFile{{data: pattern(100)}, {data: pattern(1 << 20)}} {
		u := newContentUpper(t, lowFS(t, nil, file), filepath.Join(t.TempDir(), "u"))
		f := openFile(t, u, 2)
		var a Attr
		check := func(what string, changed bool, do func() error) {
			t.Helper()
			old := SetAttr{Valid: SetMtime | SetCtime, Mtime: Time{Sec: 1e9}, Ctime: Time{Sec: 1e9}}
			if err := u.SetAttr(Caller{}, 2, &old, &a); err != nil || a.Mtime != old.Mtime {
				t.Fatal(what, a, err)
			}
			if err := do(); err != nil && err != io.EOF {
				t.Fatal(what, err)
			}
			if err := u.Attr(2, &a); err != nil {
				t.Fatal(err)
			}
			if got := a.Mtime != old.Mtime; got != changed {
				t.Errorf("%s of %d bytes: mtime changed %v", what, len(file.data), got)
			}
		}
		for range 2 {
			check("write", true, func() error { _, err := f.WriteAt([]byte("x"), 50); return err })
			check("read", false, func() error { _, err := f.ReadAt(make([]byte, 9), 50); return err })
			check("sync", false, func() error { return f.Sync(false) })
			check("truncate", true, func() error { return u.truncate(2, int64(len(file.data))) })
			check("punch", true, func() error { return f.Allocate(punchHole, 10, 5000) })
			check("allocate", true, func() error { return f.Allocate(0, int64(len(file.data)), 5000) })
			check("shrink", true, func() error { return u.truncate(2, 60) })
			check("reopen", false, func() error { f.Close(); f = openFile(t, u, 2); return nil })
			check("whole", true, func() error { _, err := f.WriteAt(file.data, 0); return err })
		}
		if !f.c.local {
			t.Errorf("written whole, and not local: %d bytes", len(file.data))
		}
		f.Close()
	}
}
