// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/imgfs/imgfs/index"
)

// A counter counts the requests that come from the kernel.
type counter struct {
	fuse.RawFileSystem

	mu sync.Mutex
	n  map[string]int // guarded by mu
}

func (c *counter) wrap(raw fuse.RawFileSystem) fuse.RawFileSystem {
	c.RawFileSystem, c.n = raw, map[string]int{}
	return c
}

func (c *counter) count(op string) {
	c.mu.Lock()
	c.n[op]++
	c.mu.Unlock()
}

// take returns the requests since the last time, and how many they were.
func (c *counter) take() (string, int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []string
	sum := 0
	for op, n := range c.n {
		list = append(list, fmt.Sprint(op, "=", n))
		sum += n
	}
	sort.Strings(list)
	c.n = map[string]int{}
	return strings.Join(list, " "), sum
}

func (c *counter) Lookup(x <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	c.count("lookup")
	return c.RawFileSystem.Lookup(x, h, name, out)
}

func (c *counter) GetAttr(x <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	c.count("getattr")
	return c.RawFileSystem.GetAttr(x, in, out)
}

func (c *counter) Readlink(x <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	c.count("readlink")
	return c.RawFileSystem.Readlink(x, h)
}

func (c *counter) Access(x <-chan struct{}, in *fuse.AccessIn) fuse.Status {
	c.count("access")
	return c.RawFileSystem.Access(x, in)
}

func (c *counter) GetXAttr(x <-chan struct{}, h *fuse.InHeader, name string, buf []byte) (uint32, fuse.Status) {
	c.count("getxattr")
	return c.RawFileSystem.GetXAttr(x, h, name, buf)
}

func (c *counter) ListXAttr(x <-chan struct{}, h *fuse.InHeader, buf []byte) (uint32, fuse.Status) {
	c.count("listxattr")
	return c.RawFileSystem.ListXAttr(x, h, buf)
}

func (c *counter) Open(x <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	c.count("open")
	return c.RawFileSystem.Open(x, in, out)
}

func (c *counter) OpenDir(x <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	c.count("opendir")
	return c.RawFileSystem.OpenDir(x, in, out)
}

func (c *counter) Read(x <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	c.count("read")
	return c.RawFileSystem.Read(x, in, buf)
}

func (c *counter) ReadDir(x <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	c.count("readdir")
	return c.RawFileSystem.ReadDir(x, in, out)
}

func (c *counter) ReadDirPlus(x <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	c.count("readdirplus")
	return c.RawFileSystem.ReadDirPlus(x, in, out)
}

func (c *counter) Flush(x <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	c.count("flush")
	return c.RawFileSystem.Flush(x, in)
}

func (c *counter) Release(x <-chan struct{}, in *fuse.ReleaseIn) {
	c.count("release")
	c.RawFileSystem.Release(x, in)
}

func (c *counter) ReleaseDir(in *fuse.ReleaseIn) {
	c.count("releasedir")
	c.RawFileSystem.ReleaseDir(in)
}

func (c *counter) StatFs(x <-chan struct{}, h *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	c.count("statfs")
	return c.RawFileSystem.StatFs(x, h, out)
}

func (c *counter) Lseek(x <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	c.count("lseek")
	return c.RawFileSystem.Lseek(x, in, out)
}

func (c *counter) Statx(x <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	c.count("statx")
	return c.RawFileSystem.Statx(x, in, out)
}

func (c *counter) SetAttr(x <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	c.count("setattr")
	return c.RawFileSystem.SetAttr(x, in, out)
}

func (c *counter) Mknod(x <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	c.count("mknod")
	return c.RawFileSystem.Mknod(x, in, name, out)
}

func (c *counter) Mkdir(x <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	c.count("mkdir")
	return c.RawFileSystem.Mkdir(x, in, name, out)
}

func (c *counter) Unlink(x <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	c.count("unlink")
	return c.RawFileSystem.Unlink(x, h, name)
}

func (c *counter) Rmdir(x <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	c.count("rmdir")
	return c.RawFileSystem.Rmdir(x, h, name)
}

func (c *counter) Rename(x <-chan struct{}, in *fuse.RenameIn, name, newName string) fuse.Status {
	c.count("rename")
	return c.RawFileSystem.Rename(x, in, name, newName)
}

func (c *counter) Link(x <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	c.count("link")
	return c.RawFileSystem.Link(x, in, name, out)
}

func (c *counter) Create(x <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	c.count("create")
	return c.RawFileSystem.Create(x, in, name, out)
}

func (c *counter) Write(x <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	c.count("write")
	return c.RawFileSystem.Write(x, in, data)
}

func (c *counter) Writev(x <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	if len(data) == 1 {
		c.count("write")
	}
	return c.RawFileSystem.Writev(x, in, data)
}

func (c *counter) Fsync(x <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	c.count("fsync")
	return c.RawFileSystem.Fsync(x, in)
}

func (c *counter) SetXAttr(x <-chan struct{}, in *fuse.SetXAttrIn, name string, value []byte) fuse.Status {
	c.count("setxattr")
	return c.RawFileSystem.SetXAttr(x, in, name, value)
}

// wide is a tree of dirs directories with files files each, a few bytes in
// each file.
func wide(dirs, files int) []item {
	items := []item{{path: "", mode: index.ModeDir | 0o755}}
	for d := range dirs {
		name := fmt.Sprintf("dir%04d", d)
		items = append(items, item{path: name, mode: index.ModeDir | 0o755})
		for f := range files {
			items = append(items, item{path: fmt.Sprintf("%s/file%05d", name, f), mode: index.ModeRegular | 0o644, data: "some bytes\n"})
		}
	}
	return items
}

// What was asked once is never asked again.
func TestRequests(t *testing.T) {
	items := append(wide(20, 50), item{path: "link", mode: index.ModeSymlink | 0o777, target: "dir0000"})
	var c counter
	dir := mounted(t, newFS(t, items), Options{wrap: c.wrap})
	c.take()
	sh := func(script string) {
		t.Helper()
		cmd := exec.Command("sh", "-c", script)
		cmd.Dir = filepath.Dir(dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", script, err, out)
		}
	}
	for _, tt := range []struct {
		script string
		first  int // at most
		again  int // at most
	}{
		{"find $D -printf '%s %m %T@\\n' >/dev/null", 90, 1}, // statfs
		{"ls -lR $D >/dev/null", 1100, 1100},                 // newer ones list the xattrs of each file, older ones send nothing
		{"cat $D/dir0003/* >/dev/null", 52, 0},
		{"readlink $D/link; cat $D/link/file00001; test ! -e $D/absent", 6, 0},
		{"tar cf - -C $D . | cat >/dev/null", 955, 0}, // most of it reads
		{"cd $D/dir0001 && test -r file00001 && test ! -w file00001", 2, 0},
	} {
		script := strings.ReplaceAll(tt.script, "$D", dir)
		sh(script)
		what, n := c.take()
		sh(script)
		whatAgain, nAgain := c.take()
		t.Logf("%s\n\tfirst: %s\n\tagain: %s", tt.script, what, whatAgain)
		if n > tt.first || nAgain > tt.again {
			t.Errorf("%s: %d requests, want at most %d; again %d, want at most %d", tt.script, n, tt.first, nAgain, tt.again)
		}
	}
}

// A change is one request, and what was not changed is not asked again.
func TestUpperRequests(t *testing.T) {
	ways(t, func(t *testing.T, opt Options) {
		var c counter
		opt.wrap = c.wrap
		items := append(wide(20, 50), item{path: "link", mode: index.ModeSymlink | 0o777, target: "dir0000"})
		u := newUpper(t, items)
		dir, _ := mountedUpper(t, u, opt)
		for _, tt := range []struct {
			script string
			most   int
		}{
			{"find $D -printf '%s %m %T@\\n' >/dev/null", 66},
			{"ls -lR $D >/dev/null", 2100}, // two xattrs that are not there, of each
			{"find $D -printf '%s %m %T@\\n' >/dev/null", 4},
			{"cat $D/dir0003/* >/dev/null", 155}, // open, read, release
			{"cat $D/dir0003/* >/dev/null", 155}, // the kernel asks whether atime changed, with a writeback cache after each close
			// lookup, create, whether there are capabilities, release; twice
			// attributes, of the directory that changed and of what is written
			{"mkdir $D/new; for i in 0 1 2 3 4 5 6 7 8 9; do echo $i >$D/new/$i; done", 90}, // some shells close twice,
			{"sleep 0.1; cat $D/new/* >/dev/null", 35},
			{"stat -c %s $D/new/* >/dev/null", 12},
			{"stat -c %s $D/new/* >/dev/null", 0},
			{"chmod -R 700 $D/dir0004", 55},
			{"rm -r $D/new", 35},
			{"rm -r $D/dir0005", 155}, // unlink, the directory's attributes; of a writeback cache also times
			{"mv $D/dir0006 $D/moved", 5},
		} {
			c.take()
			script := strings.ReplaceAll(tt.script, "$D", dir)
			if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", script, err, out)
			}
			what, n := c.take()
			t.Logf("%s: %d: %s", tt.script, n, what)
			if n > tt.most {
				t.Errorf("%s: %d requests, want at most %d", tt.script, n, tt.most)
			}
		}
	})
}

// Where the kernel gathers writes, a close asks for an answer.
func TestUpperFlush(t *testing.T) {
	ways(t, func(t *testing.T, opt Options) {
		var c counter
		opt.wrap = c.wrap
		dir, s := mountedUpper(t, newUpper(t, small()), opt)
		c.take()
		for i := range 5 {
			must(t, os.WriteFile(fmt.Sprintf("%s/%d", dir, i), []byte("x"), 0o644))
		}
		what, _ := c.take()
		if want := !passes(s); strings.Contains(what, "flush=5") != want || strings.Contains(what, "flush") != want {
			t.Errorf("passthrough %v: %s", passes(s), what)
		}
	})
}
