// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/unionfs"
)

// A failing layer answers until it fails.
type failing struct {
	r    io.ReaderAt
	fail atomic.Bool
}

func (f *failing) ReadAt(p []byte, off int64) (int, error) {
	if f.fail.Load() {
		return 0, errors.New("this layer has failed")
	}
	return f.r.ReadAt(p, off)
}

func TestDropLayer(t *testing.T) {
	f := newFS(t, []item{
		{mode: index.ModeDir | 0o755},
		{path: "base", mode: index.ModeRegular | 0o644, data: "of the base"},
		{path: "top", mode: index.ModeRegular | 0o644, layer: 1, data: "of the top"},
		{path: "unread", mode: index.ModeRegular | 0o644, data: "never read"},
	})
	r, err := f.Layer(0)
	if err != nil {
		t.Fatal(err)
	}
	base, layers := &failing{r: r}, f
	f = unionfs.NewFS(f.Tree, f.Sources, func(k int) (io.ReaderAt, error) {
		if k == 0 {
			return base, nil
		}
		return layers.Layer(k)
	})
	c := counter{}
	dir, s := mountedServer(t, f, Options{Unverified: true, wrap: c.wrap})
	read := func(name string) string {
		raw, err := os.ReadFile(dir + "/" + name)
		if err != nil {
			return err.Error()
		}
		return string(raw)
	}
	open, err := os.Open(dir + "/base")
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	mapped, err := unix.Mmap(int(open.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mapped)
	if read("base") != "of the base" || read("top") != "of the top" || mapped[0] != 'o' {
		t.Fatalf("%q, %q", read("base"), read("top"))
	}

	base.fail.Store(true)
	if got := read("base"); got != "of the base" {
		t.Errorf("what the kernel keeps: %q", got)
	}
	c.take()
	s.DropLayer(0)
	if got := read("top"); got != "of the top" {
		t.Errorf("top: %q", got)
	}
	if ops, _ := c.take(); strings.Contains(ops, "read=") {
		t.Errorf("the other layer was read again: %s", ops)
	}
	for _, name := range []string{"base", "unread"} {
		if got := read(name); !strings.Contains(got, "input/output error") {
			t.Errorf("%s of a failed layer: %q", name, got)
		}
	}
	if n, err := open.ReadAt(make([]byte, 4), 0); !errors.Is(err, unix.EIO) {
		t.Errorf("an open file: %d bytes, %v", n, err)
	}
	var core [1]byte
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&mapped[0])), 4096, uintptr(unsafe.Pointer(&core[0])))
	// mm/mincore.c tells who neither owns the file nor may write it that every
	// page is there.
	if errno != 0 || core[0]&1 != 0 && os.Geteuid() == 0 {
		t.Errorf("the page is still in the kernel, errno %v", errno)
	}
	if fi, err := os.Stat(dir + "/base"); err != nil || fi.Size() != int64(len("of the base")) {
		t.Errorf("%v, %v", fi, err)
	}
}

func TestReadNodes(t *testing.T) {
	r := newReadNodes(200)
	want := []index.NodeID{1, 2, 63, 64, 65, 127, 128, 200}
	for _, id := range want {
		r.add(id)
		r.add(id)
	}
	var got []index.NodeID
	r.each(func(id index.NodeID) { got = append(got, id) })
	if !slices.Equal(got, want) {
		t.Errorf("got %d, want %d", got, want)
	}
	readNodes(nil).add(7)
	if n := testing.AllocsPerRun(100, func() { r.add(5) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
