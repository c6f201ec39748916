// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// deafKernel is what a top talks to without one.
type deafKernel struct{}

func (deafKernel) Offered() uint64                              { return 0 }
func (deafKernel) InodeNotify(uint64, int64, int64) fuse.Status { return fuse.ENOENT }
func (deafKernel) InodeNotifyStoreCache(uint64, int64, []byte) fuse.Status {
	return fuse.ENOENT
}
func (deafKernel) RegisterBackingFd(*fuse.BackingMap) (int32, syscall.Errno) {
	return 0, syscall.EPERM
}
func (deafKernel) UnregisterBackingFd(int32) syscall.Errno { return 0 }

// newRawTop returns the handlers of an upper, as they are without a kernel.
func newRawTop(tb testing.TB, items []item) *top {
	v := newTop(newUpper(tb, items), &Options{Log: tb.Logf}, false)
	v.kernel, v.keepsOpenDir = deafKernel{}, true
	v.forgets.start(v)
	tb.Cleanup(v.end)
	return v
}

// What is asked often takes no memory, of what the image holds and of what was
// made.
func TestUpperNoAllocs(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	v := newRawTop(t, wide(1, 1000))
	check := func(op string, st fuse.Status) {
		if st != fuse.OK {
			t.Fatalf("%s: %v", op, st)
		}
	}
	var made fuse.CreateOut
	create := fuse.CreateIn{InHeader: header(2), Mode: 0o644, Flags: syscall.O_RDWR}
	check("create", v.Create(nil, &create, "new", &made))
	data := make([]byte, 32<<10) // more than a record may hold
	write := fuse.WriteIn{InHeader: header(made.NodeId), Fh: made.Fh}
	pieces := [][]byte{data}
	_, st := v.Writev(nil, &write, pieces)
	check("write", st)
	var opened fuse.OpenOut
	check("open", v.Open(nil, &fuse.OpenIn{InHeader: header(3)}, &opened))

	h := header(2)
	var entry fuse.EntryOut
	var attr fuse.AttrOut
	list := fuse.NewDirEntryList(make([]byte, 32<<10), 0)
	fresh := *list
	for name, call := range map[string]func(){
		"lookup":      func() { check("lookup", v.Lookup(nil, &h, "file00007", &entry)) },
		"lookup new":  func() { check("lookup", v.Lookup(nil, &h, "new", &entry)) },
		"absent":      func() { check("lookup", v.Lookup(nil, &h, "nothing", &entry)) },
		"getattr":     func() { check("getattr", v.GetAttr(nil, &fuse.GetAttrIn{InHeader: header(3)}, &attr)) },
		"getattr new": func() { check("getattr", v.GetAttr(nil, &fuse.GetAttrIn{InHeader: header(made.NodeId)}, &attr)) },
		"getxattr": func() {
			if _, st := v.GetXAttr(nil, &h, capabilityXattr, data); st != fuse.ENODATA {
				t.Fatal(st)
			}
		},
		"read": func() {
			r, st := v.Read(nil, &fuse.ReadIn{InHeader: header(3), Fh: opened.Fh, Size: 4096}, data)
			check("read", st)
			r.Done()
		},
		"read new": func() {
			r, st := v.Read(nil, &fuse.ReadIn{InHeader: header(made.NodeId), Fh: made.Fh, Size: 4096}, data)
			check("read", st)
			r.Done()
		},
		"write": func() {
			_, st := v.Writev(nil, &write, pieces)
			check("write", st)
		},
	} {
		most := 0.0
		if name == "lookup new" || name == "getattr new" {
			most = 1 // the name of its data file
		}
		if n := testing.AllocsPerRun(100, call); n > most {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	// A listing has a batch of its own, whatever its size.
	readdir := fuse.ReadIn{InHeader: header(2), Size: 32 << 10}
	if n := testing.AllocsPerRun(100, func() {
		*list = fresh
		check("readdirplus", v.ReadDirPlus(nil, &readdir, list))
	}); n > 30 {
		t.Errorf("readdirplus: %v allocations", n)
	}
}
