// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/imgfs/imgfs/index"
)

// A checkpoint with flipped bits says that it is damaged, or that something is
// not there, but never something that was not written.
func TestDamagedCheckpointNeverLies(t *testing.T) {
	dir := memoryDir(t)
	path := filepath.Join(dir, checkpointName)
	d := newDelta()
	d.dirs[RootNode] = map[string]entry{}
	d.inodes[RootNode] = &inode{mode: index.ModeDir | 0o755, flags: flagXattrs}
	d.xattrs[RootNode] = map[string][]byte{}
	for k := range Node(2000) {
		d.inodes[FirstOwn+k] = &inode{mode: index.ModeRegular | uint32(k), size: int64(k)}
		d.dirs[RootNode][fmt.Sprint("name", k)] = entry{FirstOwn + k, 8}
		d.xattrs[RootNode][fmt.Sprint("user.", k)] = []byte(fmt.Sprint(k))
	}
	var v view
	s, err := openStore(path, 1, id256{1}, FirstOwn)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.fold(d, 1, FirstOwn+2000, v.hashName, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	used := int64(len(whole))
	for used > 0 && whole[used-1] == 0 {
		used--
	}
	r := rand.New(rand.NewPCG(1, 2))
	said, lost := 0, 0
	for range 300 {
		at := r.Int64N(used)
		if r.IntN(2) == 0 {
			at = at&^4095 + r.Int64N(64) // heads of pages
		}
		b := append([]byte{}, whole...)
		b[at] ^= 1 << r.IntN(8)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		damaged, gone := ask(t, path, d)
		if damaged {
			said++
		} else if gone {
			lost++
		}
	}
	t.Logf("of 300 flipped bits %d were noticed, %d more hid something", said, lost)
}

// ask compares all that a checkpoint says with d.
func ask(t *testing.T, path string, d *delta) (damaged, lost bool) {
	t.Helper()
	bad := func(err error) bool {
		if err != nil && !errors.Is(err, ErrDamaged) {
			t.Errorf("not said to be damage: %v", err)
		}
		damaged = damaged || err != nil
		return err != nil
	}
	s, err := openStore(path, 1, id256{1}, FirstOwn)
	if err != nil {
		return true, false
	}
	defer guarded(s.close)
	c, err := s.checkpoint()
	if bad(err) {
		return
	}
	defer guarded(func() error { c.close(); return nil })
	for n, want := range d.inodes {
		i, _, err := c.inode(n)
		if bad(err) {
			continue
		}
		if i == nil {
			lost = true
		} else if *i != *want {
			t.Errorf("node %d: %+v, want %+v", n, i, want)
		}
	}
	var v view
	for name, want := range d.dirs[RootNode] {
		e, ok, err := c.entry(RootNode, v.hashName(name), name)
		if bad(err) {
			continue
		}
		if !ok {
			lost = true
		} else if e != want {
			t.Errorf("%s: %v, want %v", name, e, want)
		}
	}
	seen := 0
	bad(c.entries(RootNode, 0, func(_ uint64, name string, e entry) bool {
		if d.dirs[RootNode][name] != e {
			t.Errorf("listed %q: %v", name, e)
		}
		seen++
		return seen < 5000 // a damaged list may have no end
	}))
	bad(c.eachXattr(RootNode, func(name string, value []byte) bool {
		if string(d.xattrs[RootNode][name]) != string(value) {
			t.Errorf("xattr %s: %q", name, value)
		}
		seen++
		return seen < 10000
	}))
	return damaged, lost
}

func TestCheckpointLooksUpWithoutGarbage(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector has pools forget")
	}
	d := newDelta()
	d.dirs[FirstOwn] = map[string]entry{"name": {FirstOwn + 1, 8}}
	d.inodes[FirstOwn] = &inode{mode: index.ModeDir}
	var v view
	s, err := openStore(filepath.Join(t.TempDir(), checkpointName), 9, id256{}, FirstOwn)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if err := s.fold(d, 1, FirstOwn+2, v.hashName, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	if v.cp, err = s.checkpoint(); err != nil {
		t.Fatal(err)
	}
	defer v.cp.close()
	for what, f := range map[string]func(){
		"an entry":                       func() { v.entry(FirstOwn, "name") },
		"a name that is not there":       func() { v.entry(FirstOwn, "none") },
		"a node without a record":        func() { v.record(7) },
		"a name in one":                  func() { v.entry(7, "name") },
		"a node of the upper that is no": func() { v.record(FirstOwn + 5) },
	} {
		if n := testing.AllocsPerRun(100, f); n > 0 {
			t.Errorf("%s: %v allocations", what, n)
		}
	}
}
