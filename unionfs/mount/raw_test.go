// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/imgfs/imgfs/index"
)

// newRaw returns the handlers of a tree, as they are without a kernel.
func newRaw(tb testing.TB, items []item, opt Options) *tree {
	if opt.Log == nil {
		opt.Log = tb.Logf
	}
	return newTree(newFS(tb, items), &opt)
}

func header(node uint64) fuse.InHeader { return fuse.InHeader{NodeId: node} }

// hot returns a call of each request that must be fast, by name.
func hot(tb testing.TB, v *tree) map[string]func() {
	tb.Helper()
	check := func(op string, st fuse.Status) {
		if st != fuse.OK {
			tb.Fatalf("%s: %v", op, st)
		}
	}
	h := header(2)
	var entry fuse.EntryOut
	var attr fuse.AttrOut
	getattr := fuse.GetAttrIn{InHeader: header(3)}
	read := fuse.ReadIn{InHeader: header(3), Size: 4096}
	readdir := fuse.ReadIn{InHeader: header(2), Size: 32 << 10}
	buf := make([]byte, 32<<10)
	list := fuse.NewDirEntryList(buf, 0)
	fresh := *list
	calls := map[string]func(){
		"lookup": func() { check("lookup", v.Lookup(nil, &h, "file00007", &entry)) },
		"absent": func() { check("lookup", v.Lookup(nil, &h, "file", &entry)) },
		"getattr": func() {
			check("getattr", v.GetAttr(nil, &getattr, &attr))
		},
		"readdirplus": func() {
			*list = fresh
			check("readdirplus", v.ReadDirPlus(nil, &readdir, list))
		},
		"readdir": func() {
			*list = fresh
			check("readdir", v.ReadDir(nil, &readdir, list))
		},
		"read": func() {
			r, st := v.Read(nil, &read, buf)
			check("read", st)
			if b, _ := r.Bytes(nil); string(b) != "some bytes\n" {
				tb.Fatalf("read %q", b)
			}
			r.Done()
		},
	}
	return calls
}

func TestNoAllocs(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	v := newRaw(t, wide(1, 100), Options{})
	for op, call := range hot(t, v) {
		if n := testing.AllocsPerRun(1000, call); n != 0 {
			t.Errorf("%s allocates %v times", op, n)
		}
	}
}

func BenchmarkRequest(b *testing.B) {
	v := newRaw(b, wide(1, 100), Options{})
	for op, call := range hot(b, v) {
		b.Run(op, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				call()
			}
		})
	}
}

// readAll lists a directory by requests of size bytes, from offset off.
func readAll(t *testing.T, v *tree, node, off uint64, size int) (names []string, offs []uint64) {
	t.Helper()
	for range 1 << 20 {
		list := fuse.NewDirEntryList(make([]byte, size), off)
		in := fuse.ReadIn{InHeader: header(node), Offset: off}
		if st := v.ReadDir(nil, &in, list); st != fuse.OK {
			t.Fatalf("readdir at %d: %v", off, st)
		}
		entries, err := fuse.ParseDirEntries(list.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) == 0 {
			return names, offs
		}
		for _, e := range entries {
			names, offs, off = append(names, e.Name), append(offs, e.Off), e.Off
		}
	}
	t.Fatal("a directory without an end")
	return nil, nil
}

// Every place in a directory can be come back to, in replies of any size.
func TestReadDirOffsets(t *testing.T) {
	v := newRaw(t, wide(1, 40), Options{})
	all, offs := readAll(t, v, 2, 0, 1<<20)
	if len(all) != 42 || all[0] != "." || all[1] != ".." || all[2] != "file00000" || all[41] != "file00039" {
		t.Fatalf("%q", all)
	}
	for i, off := range offs {
		if off >= 1<<31 {
			t.Errorf("%s has offset %#x, too much for 32 bits", all[i], off)
		}
		rest, _ := readAll(t, v, 2, off, 48)
		if got, want := strings.Join(rest, " "), strings.Join(all[i+1:], " "); got != want {
			t.Errorf("behind %s:\n got %s\nwant %s", all[i], got, want)
		}
	}
}

// An offset that the kernel never had from us ends in an error or the end,
// never elsewhere in the file.
func FuzzReadDirOffset(f *testing.F) {
	dir := newRawF(f)
	for _, off := range []uint64{0, 1, 2, 3, 1 << 18, 1<<18 | 4, 1 << 31, 1<<32 | 812, 1 << 63, ^uint64(0)} {
		f.Add(off)
	}
	f.Fuzz(func(t *testing.T, off uint64) {
		list := fuse.NewDirEntryList(make([]byte, 4096), off)
		in := fuse.ReadIn{InHeader: header(2), Offset: off}
		if st := dir.ReadDirPlus(nil, &in, list); st != fuse.OK && st != fuse.EIO {
			t.Errorf("offset %d: %v", off, st)
		}
		if _, _, err := fuse.ParseDirLookupEntries(list.Bytes()); err != nil {
			t.Errorf("offset %d: %v", off, err)
		}
	})
}

func newRawF(f *testing.F) *tree {
	return newRaw(f, wide(1, 100), Options{Log: func(string, ...any) {}})
}

func TestXattr(t *testing.T) {
	items := everything()
	node := map[string]uint64{}
	n := uint64(0)
	for _, it := range items {
		if it.link == "" {
			n++
			node[it.path] = n
		}
	}
	plain, from := newRaw(t, items, Options{}), newRaw(t, items, Options{Provenance: true})
	without := newRaw(t, wide(1, 1), Options{})
	hidden := newRaw(t, items, Options{NoXattrs: true})
	for _, tt := range []struct {
		v      *tree
		path   string
		name   string
		size   int
		value  string
		length uint32
		status fuse.Status
	}{
		{plain, "capable", "user.word", 5, "value", 5, fuse.OK},
		{plain, "capable", "user.word", 99, "value", 5, fuse.OK},
		{plain, "capable", "user.word", 4, "", 5, fuse.ERANGE},
		{plain, "capable", "user.word", 0, "", 5, fuse.ERANGE}, // devfuse makes it OK
		{plain, "capable", "user.empty", 0, "", 0, fuse.OK},
		{plain, "capable", "user.empty", 9, "", 0, fuse.OK},
		{plain, "capable", "user.none", 9, "", 0, fuse.ENODATA},
		{plain, "empty", "user.word", 9, "", 0, fuse.ENODATA},
		{plain, "dir", XattrLayer, 9, "", 0, fuse.ENODATA},
		{from, "dir", XattrLayer, 9, "1", 1, fuse.OK},
		{from, "dir/file", XattrCreatedBy, 99, "RUN step 1", 10, fuse.OK},
		{from, "dir/file", XattrCreatedBy, 0, "", 10, fuse.ERANGE},
		{from, "empty", XattrDiffID, 71, "sha256:" + strings.Repeat("0", 64), 71, fuse.OK},
		{from, "link", XattrLayer, 9, "", 0, fuse.ENODATA},
		{from, "null", XattrLayer, 9, "", 0, fuse.ENODATA},
		{from, "capable", "user.word", 5, "value", 5, fuse.OK},
		{without, "", "user.word", 9, "", 0, fuse.ENOSYS},
		{hidden, "capable", "user.word", 9, "", 0, fuse.ENOSYS},
	} {
		h := header(max(node[tt.path], 1))
		buf := make([]byte, tt.size)
		length, status := tt.v.GetXAttr(nil, &h, tt.name, buf)
		if status == fuse.OK {
			buf = buf[:length]
		} else {
			buf = nil
		}
		if string(buf) != tt.value || length != tt.length || status != tt.status {
			t.Errorf("%s of %q in %d bytes: %q, %d, %v; want %q, %d, %v",
				tt.name, tt.path, tt.size, buf, length, status, tt.value, tt.length, tt.status)
		}
	}
	const names = "security.capability\x00user.empty\x00user.word\x00"
	h := header(node["capable"])
	buf := make([]byte, 100)
	for _, v := range []*tree{plain, from} {
		for size, want := range map[int]fuse.Status{0: fuse.ERANGE, len(names) - 1: fuse.ERANGE, len(names): fuse.OK, 100: fuse.OK} {
			n, st := v.ListXAttr(nil, &h, buf[:size])
			if n != uint32(len(names)) || st != want || st == fuse.OK && string(buf[:n]) != names {
				t.Errorf("list in %d bytes: %d, %v, %q", size, n, st, buf)
			}
		}
	}
	for _, v := range []*tree{without, hidden} {
		if n, st := v.ListXAttr(nil, &h, buf); n != 0 || st != fuse.OK {
			t.Errorf("list without any: %d, %v", n, st)
		}
	}
}

// A name of the image's own loses against provenance, and only if that is
// shown.
func TestXattrCollision(t *testing.T) {
	items := []item{
		{path: "", mode: index.ModeDir | 0o755},
		{path: "f", mode: index.ModeRegular, xattrs: []index.Xattr{{Name: "user.imgfs.other", Value: []byte("o")}, {Name: XattrLayer, Value: []byte("forged")}}},
		{path: "l", mode: index.ModeSymlink, target: "f", xattrs: []index.Xattr{{Name: XattrLayer, Value: []byte("kept")}}},
	}
	buf := make([]byte, 100)
	for _, tt := range []struct {
		from   bool
		node   uint64
		name   string
		want   string
		listed string
	}{
		{false, 2, XattrLayer, "forged", "user.imgfs.other\x00user.imgfs.layer\x00"},
		{true, 2, XattrLayer, "0", "user.imgfs.other\x00"},
		{true, 2, "user.imgfs.other", "o", "user.imgfs.other\x00"},
		{true, 3, XattrLayer, "kept", "user.imgfs.layer\x00"},
	} {
		v := newRaw(t, items, Options{Provenance: tt.from})
		h := header(tt.node)
		n, st := v.GetXAttr(nil, &h, tt.name, buf)
		if string(buf[:n]) != tt.want || st != fuse.OK {
			t.Errorf("provenance=%v: %s of node %d is %q, %v; want %q", tt.from, tt.name, tt.node, buf[:n], st, tt.want)
		}
		n, st = v.ListXAttr(nil, &h, buf)
		if string(buf[:n]) != tt.listed || st != fuse.OK {
			t.Errorf("provenance=%v: list of node %d is %q, %v; want %q", tt.from, tt.node, buf[:n], st, tt.listed)
		}
	}
}

// Handles bring back nodes that the kernel forgot.
func TestLookupDots(t *testing.T) {
	v := newRaw(t, everything(), Options{NoSymlinks: true})
	for _, tt := range []struct {
		node   uint64
		name   string
		want   uint64
		status fuse.Status
	}{
		{1, ".", 1, fuse.OK},
		{1, "..", 1, fuse.OK},
		{2, ".", 2, fuse.OK},
		{2, "..", 1, fuse.OK},
		{4, "..", 2, fuse.OK},
		{3, ".", 3, fuse.OK},
		{3, "..", 0, fuse.ENOTDIR},
		{8, ".", 0, fuse.ENOENT}, // the symlink
		{1000, ".", 0, fuse.EIO},
		{0, ".", 0, fuse.EIO},
	} {
		h := header(tt.node)
		var out fuse.EntryOut
		if st := v.Lookup(nil, &h, tt.name, &out); st != tt.status || st == fuse.OK && out.NodeId != tt.want {
			t.Errorf("%q of node %d: %d, %v; want %d, %v", tt.name, tt.node, out.NodeId, st, tt.want, tt.status)
		}
	}
}

// A tree that points where none should is refused, not shown.
func TestHostileEntries(t *testing.T) {
	f := newFS(t, everything())
	sub, err := f.Sub("dir")
	if err != nil {
		t.Fatal(err)
	}
	opt := Options{Log: t.Logf}
	v := newTree(sub, &opt)
	h := header(1)
	for _, id := range []index.NodeID{0, 1, sub.Root, 1 << 30} {
		if v.child(id) == nil {
			t.Errorf("node %d passes for a child", id)
		}
	}
	var out fuse.EntryOut
	if st := v.Lookup(nil, &h, "file", &out); st != fuse.OK || out.NodeId != 3 || out.Ino != 3 {
		t.Errorf("dir/file of a part is node %d, inode %d (%v)", out.NodeId, out.Ino, st)
	}
}

func TestPanicIsEIO(t *testing.T) {
	var log logbook
	v := newRaw(t, everything(), Options{Log: log.logf})
	v.t = nil // every use of the table faults
	h := header(1)
	var out fuse.EntryOut
	for range 100 {
		if st := v.Lookup(nil, &h, "x", &out); st != fuse.EIO {
			t.Fatalf("%v", st)
		}
		if _, st := v.Readlink(nil, &h); st != fuse.EIO {
			t.Fatalf("%v", st)
		}
	}
	if n := len(log.lines); n < 1 || n > 2 {
		t.Errorf("%d lines logged:\n%s", n, log.text())
	}
}

func TestComplaintsEnd(t *testing.T) {
	var log logbook
	c := complaints{log: log.logf}
	for i := range 10000 {
		if st := c.errno("read", 1, fmt.Errorf("error %d", i)); st != fuse.EIO {
			t.Fatal(st)
		}
	}
	if len(log.lines) != maxComplaints || len(c.seen) != maxComplaints {
		t.Errorf("%d lines, %d remembered", len(log.lines), len(c.seen))
	}
}
