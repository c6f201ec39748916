// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs/index"
)

// A modelNode is an inode as a file system in memory would have it.
type modelNode struct {
	id               Node
	mode, uid, gid   uint32
	nlink            uint32
	target           string
	xattrs           map[string]string
	kids             map[string]*modelNode // directories
	parent           *modelNode
	tmp, gone, ended bool // made without a name; without one; forgotten too
	a                Attr // as it was seen last
}

func (n *modelNode) isDir() bool { return n.mode&index.ModeType == index.ModeDir }

// What an operation does to an inode's times.
const (
	touchC = 1 << iota
	touchM
)

// A model is compared with an upper after each operation.
type model struct {
	m     *mounted
	r     *rand.Rand
	root  *modelNode
	all   []*modelNode
	times map[*modelNode]int // what the operation at hand touches
	log   []string
}

// newModel takes what m shows now for right.
func newModel(m *mounted, seed uint64) *model {
	o := &model{m: m, r: rand.New(rand.NewPCG(seed, 1)), times: map[*modelNode]int{}}
	byID := map[Node]*modelNode{}
	paths := fsck(m)
	for _, p := range slices.Sorted(maps.Keys(paths)) {
		id := paths[p]
		n := byID[id]
		if n == nil {
			n = &modelNode{id: id, xattrs: map[string]string{}}
			if err := m.Attr(id, &n.a); err != nil {
				m.tb.Fatal(err)
			}
			n.mode, n.uid, n.gid, n.nlink = n.a.Mode, n.a.UID, n.a.GID, n.a.Nlink
			if n.isDir() {
				n.kids = map[string]*modelNode{}
			}
			for name, value := range o.xattrs(id) {
				n.xattrs[name] = value
			}
			byID[id] = n
			o.all = append(o.all, n)
		}
		if p == "/" {
			n.parent, o.root = n, n
			continue
		}
		parent := byID[paths[path.Dir(p)]]
		parent.kids[path.Base(p)] = n
		if n.isDir() {
			n.parent = parent
		}
	}
	return o
}

func (o *model) xattrs(n Node) map[string]string {
	o.m.tb.Helper()
	got := map[string]string{}
	err := o.m.EachXattr(n, func(name string) bool {
		value, err := o.m.Xattr(n, name)
		if err != nil {
			o.m.tb.Error(err)
		}
		got[name] = string(value)
		return true
	})
	if err != nil {
		o.m.tb.Error(err)
	}
	return got
}

func (o *model) fatalf(format string, args ...any) {
	o.m.tb.Helper()
	from := max(0, len(o.log)-30)
	for _, line := range o.log[from:] {
		o.m.tb.Log(line)
	}
	o.m.tb.Fatalf(format, args...)
}

// pick returns any inode, also one that is gone, and with dir mostly a
// directory that is there.
func (o *model) pick(dir bool) *modelNode {
	for try := 0; ; try++ {
		n := o.all[o.r.IntN(len(o.all))]
		if dir && (!n.isDir() || n.gone) && try < 20 && o.r.IntN(20) > 0 {
			continue
		}
		if n.ended && o.r.IntN(10) > 0 {
			continue
		}
		return n
	}
}

func (o *model) name(dir *modelNode) string {
	if len(dir.kids) > 0 && o.r.IntN(3) > 0 {
		names := slices.Sorted(maps.Keys(dir.kids))
		return names[o.r.IntN(len(names))]
	}
	return fmt.Sprintf("n%d", o.r.IntN(12))
}

// in says why nothing can be made in or taken from dir.
func (o *model) in(dir *modelNode) error {
	switch {
	case dir.ended:
		return syscall.ESTALE
	case !dir.isDir():
		return syscall.ENOTDIR
	case dir.gone:
		return syscall.ENOENT
	}
	return nil
}

func (o *model) touch(n *modelNode, what int) { o.times[n] |= what }

// add puts n into dir, or with sub < 0 takes it out.
func (o *model) add(dir *modelNode, name string, n *modelNode) {
	dir.kids[name] = n
	o.touch(dir, touchM|touchC)
	if n.isDir() {
		n.parent = dir
		dir.nlink++
	}
}

func (o *model) take(dir *modelNode, name string) *modelNode {
	n := dir.kids[name]
	delete(dir.kids, name)
	o.touch(dir, touchM|touchC)
	o.touch(n, touchC)
	if n.isDir() {
		dir.nlink--
	}
	return n
}

func (o *model) lose(n *modelNode) {
	if n.nlink--; n.isDir() {
		n.nlink = 0
	}
	n.gone = n.nlink == 0
}

// step does one operation with both and compares.
func (o *model) step() {
	o.m.tb.Helper()
	clear(o.times)
	start := Now()
	got, want := o.op()
	if got != want && !errors.Is(got, want) {
		o.fatalf("%s: got %v, want %v", o.log[len(o.log)-1], got, want)
	}
	for _, n := range o.all {
		o.compare(n, start)
	}
}

func (o *model) compare(n *modelNode, start Time) {
	o.m.tb.Helper()
	var a Attr
	err := o.m.Attr(n.id, &a)
	if n.ended {
		if err != syscall.ESTALE {
			o.fatalf("node %d has ended: attributes give %v", n.id, err)
		}
		return
	}
	if err != nil || a.Mode != n.mode || a.UID != n.uid || a.GID != n.gid || a.Nlink != n.nlink {
		o.fatalf("node %d: mode %o, owner %d:%d, nlink %d, %v; want %o, %d:%d, %d", n.id,
			a.Mode, a.UID, a.GID, a.Nlink, err, n.mode, n.uid, n.gid, n.nlink)
	}
	what := o.times[n]
	for _, c := range []struct {
		name     string
		was, now Time
		touched  bool
	}{
		{"atime", n.a.Atime, a.Atime, false},
		{"btime", n.a.Btime, a.Btime, false},
		{"mtime", n.a.Mtime, a.Mtime, what&touchM != 0},
		{"ctime", n.a.Ctime, a.Ctime, what&touchC != 0},
	} {
		if c.touched && c.now.Before(start) || !c.touched && n.a.Node != 0 && c.now != c.was {
			o.fatalf("node %d: %s was %v, is %v; touched: %v", n.id, c.name, c.was, c.now, c.touched)
		}
	}
	n.a = a
}

// full compares everything.
func (o *model) full() {
	o.m.tb.Helper()
	paths := fsck(o.m)
	count := 0
	var walk func(n *modelNode, p string)
	walk = func(n *modelNode, p string) {
		count++
		if paths[p] != n.id {
			o.fatalf("%s is node %d, want %d", p, paths[p], n.id)
		}
		if got := o.xattrs(n.id); !maps.Equal(got, n.xattrs) {
			o.fatalf("%s has xattrs %v, want %v", p, got, n.xattrs)
		}
		if n.target != "" {
			if got, err := o.m.Readlink(n.id); string(got) != n.target || err != nil {
				o.fatalf("%s leads to %q, %v; want %q", p, got, err, n.target)
			}
		}
		for name, k := range n.kids {
			walk(k, path.Join(p, name))
		}
	}
	walk(o.root, "/")
	if count != len(paths) {
		o.fatalf("%d paths, want %d", len(paths), count)
	}
	if o.m.tb.Failed() {
		o.fatalf("fsck")
	}
}

func (o *model) logf(format string, args ...any) {
	o.log = append(o.log, fmt.Sprintf(format, args...))
}

func (o *model) op() (got, want error) {
	switch k := o.r.IntN(100); {
	case k < 25:
		return o.opCreate()
	case k < 45:
		return o.opRename()
	case k < 55:
		return o.opRemove(false)
	case k < 65:
		return o.opRemove(true)
	case k < 73:
		return o.opLink()
	case k < 80:
		return o.opForget()
	case k < 90:
		return o.opSetAttr()
	default:
		return o.opXattr()
	}
}

func (o *model) opCreate() (got, want error) {
	dir := o.pick(true)
	name := o.name(dir)
	modes := []uint32{index.ModeRegular, index.ModeRegular, index.ModeDir, index.ModeDir, index.ModeFIFO, index.ModeSymlink}
	k := Creation{Mode: modes[o.r.IntN(len(modes))] | uint32(o.r.IntN(0o10000)), Umask: 0o27, Target: "to"}
	c := Caller{uint32(o.r.IntN(3)), uint32(o.r.IntN(3))}
	tmp := o.r.IntN(10) == 0
	o.logf("create %d %s %o tmp %v", dir.id, name, k.Mode, tmp)
	var a Attr
	if tmp {
		k.Mode = index.ModeRegular | k.Mode&0o7777
		f, err := o.m.CreateFile(c, dir.id, "", k, &a)
		if got = err; err == nil {
			if err := f.Close(); err != nil {
				o.fatalf("close: %v", err)
			}
		}
	} else {
		got = o.m.Create(c, dir.id, name, k, &a)
	}
	if want = o.in(dir); want != nil {
		return got, want
	}
	if dir.kids[name] != nil && !tmp {
		return got, syscall.EEXIST
	}
	n := &modelNode{id: a.Node, mode: k.Mode &^ 0o27, uid: c.UID, gid: c.GID, nlink: 1, xattrs: map[string]string{}, tmp: tmp}
	if dir.mode&0o2000 != 0 {
		n.gid = dir.gid
	}
	switch k.Mode & index.ModeType {
	case index.ModeDir:
		n.nlink, n.kids = 2, map[string]*modelNode{}
		n.mode |= dir.mode & 0o2000
	case index.ModeSymlink:
		n.mode, n.target = index.ModeSymlink|0o777, "to"
	}
	o.all = append(o.all, n)
	o.touch(n, touchC|touchM)
	if tmp {
		n.nlink, n.gone = 0, true
		return got, nil
	}
	o.add(dir, name, n)
	return got, nil
}

func (o *model) opRemove(isDir bool) (got, want error) {
	dir := o.pick(true)
	name := o.name(dir)
	o.logf("remove %d %s %v", dir.id, name, isDir)
	if isDir {
		got = o.m.Rmdir(dir.id, name)
	} else {
		got = o.m.Unlink(dir.id, name)
	}
	if want = o.in(dir); want != nil {
		return got, want
	}
	n := dir.kids[name]
	switch {
	case n == nil:
		return got, syscall.ENOENT
	case isDir && !n.isDir():
		return got, syscall.ENOTDIR
	case !isDir && n.isDir():
		return got, syscall.EISDIR
	case len(n.kids) > 0:
		return got, syscall.ENOTEMPTY
	}
	o.lose(o.take(dir, name))
	return got, nil
}

func (o *model) opLink() (got, want error) {
	n, dir := o.pick(false), o.pick(true)
	name := o.name(dir)
	o.logf("link %d %d %s", n.id, dir.id, name)
	var a Attr
	got = o.m.Link(n.id, dir.id, name, &a)
	if want = o.in(dir); want != nil {
		return got, want
	}
	switch {
	case n.ended:
		return got, syscall.ESTALE
	case n.isDir():
		return got, syscall.EPERM
	case dir.kids[name] != nil:
		return got, syscall.EEXIST
	case n.gone && !n.tmp:
		return got, syscall.ENOENT
	}
	o.add(dir, name, n)
	n.nlink++
	n.gone, n.tmp = false, false
	o.touch(n, touchC)
	return got, nil
}

func (o *model) opForget() (got, want error) {
	n := o.pick(false)
	o.logf("forget %d", n.id)
	o.m.Forget(n.id)
	if n.gone {
		n.ended = true
	}
	return nil, nil
}

func (o *model) isBelow(n, top *modelNode) bool {
	for ; n != top; n = n.parent {
		if n == o.root {
			return false
		}
	}
	return true
}

func (o *model) opRename() (got, want error) {
	dir, newDir := o.pick(true), o.pick(true)
	if o.r.IntN(3) == 0 {
		newDir = dir
	}
	name, newName := o.name(dir), o.name(newDir)
	flags := []uint32{0, 0, 0, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE, unix.RENAME_EXCHANGE, unix.RENAME_WHITEOUT, unix.RENAME_EXCHANGE | unix.RENAME_WHITEOUT}[o.r.IntN(8)]
	o.logf("rename %d %s %d %s %d", dir.id, name, newDir.id, newName, flags)
	next := o.m.next
	got = o.m.Rename(testCaller, dir.id, name, newDir.id, newName, flags)
	if flags == unix.RENAME_EXCHANGE|unix.RENAME_WHITEOUT {
		return got, syscall.EINVAL
	}
	for _, d := range []*modelNode{dir, newDir} {
		if want = o.in(d); want != nil {
			return got, want
		}
	}
	exchange := flags == unix.RENAME_EXCHANGE
	from, to := dir.kids[name], newDir.kids[newName]
	switch {
	case from == nil, to == nil && exchange:
		return got, syscall.ENOENT
	case to != nil && flags == unix.RENAME_NOREPLACE:
		return got, syscall.EEXIST
	case from == to:
		return got, nil
	case from.isDir() && o.isBelow(newDir, from), exchange && to.isDir() && o.isBelow(dir, to):
		return got, syscall.EINVAL
	case exchange:
	case to != nil && to.isDir() && o.isBelow(dir, to):
		return got, syscall.ENOTEMPTY
	case to != nil && from.isDir() && !to.isDir():
		return got, syscall.ENOTDIR
	case to != nil && !from.isDir() && to.isDir():
		return got, syscall.EISDIR
	case to != nil && len(to.kids) > 0:
		return got, syscall.ENOTEMPTY
	}
	o.take(dir, name)
	if to != nil {
		o.take(newDir, newName)
	}
	o.add(newDir, newName, from)
	switch {
	case exchange:
		o.add(dir, name, to)
	case to != nil:
		o.lose(to)
	}
	if flags == unix.RENAME_WHITEOUT {
		n := &modelNode{id: next, mode: index.ModeChar, uid: testCaller.UID, gid: testCaller.GID, nlink: 1, xattrs: map[string]string{}}
		if dir.mode&0o2000 != 0 {
			n.gid = dir.gid
		}
		o.all = append(o.all, n)
		o.touch(n, touchC|touchM)
		o.add(dir, name, n)
	}
	return got, nil
}

func (o *model) opSetAttr() (got, want error) {
	n := o.pick(false)
	s := SetAttr{Mode: uint32(o.r.IntN(0o10000)), UID: uint32(o.r.IntN(5)), GID: uint32(o.r.IntN(5))}
	s.Valid = []uint32{SetMode, SetUID, SetUID | SetGID, KillPriv, SetMode | SetGID}[o.r.IntN(5)]
	o.logf("setattr %d %+v", n.id, s)
	var a Attr
	got = o.m.SetAttr(testCaller, n.id, &s, &a)
	if n.ended {
		return got, syscall.ESTALE
	}
	if s.Valid&SetMode != 0 && n.mode&index.ModeType == index.ModeSymlink {
		return got, syscall.EOPNOTSUPP
	}
	was := n.mode
	if !n.isDir() && (s.Valid&KillPriv != 0 || s.Valid&SetMode == 0) {
		n.mode &^= 0o4000
		if n.mode&0o010 != 0 {
			n.mode &^= 0o2000
		}
	}
	if s.Valid&SetMode != 0 {
		n.mode = n.mode&index.ModeType | s.Mode
	}
	if s.Valid&SetUID != 0 {
		n.uid = s.UID
	}
	if s.Valid&SetGID != 0 {
		n.gid = s.GID
	}
	if s.Valid != KillPriv || n.mode != was {
		o.touch(n, touchC)
	}
	return got, nil
}

func (o *model) opXattr() (got, want error) {
	n := o.pick(false)
	name := fmt.Sprintf("user.x%d", o.r.IntN(4))
	_, has := n.xattrs[name]
	if o.r.IntN(3) == 0 {
		o.logf("removexattr %d %s", n.id, name)
		got = o.m.RemoveXattr(n.id, name)
		switch {
		case n.ended:
			return got, syscall.ESTALE
		case !has:
			return got, syscall.ENODATA
		}
		delete(n.xattrs, name)
		o.touch(n, touchC)
		return got, nil
	}
	flags, value := uint32(o.r.IntN(4)), fmt.Sprint(o.r.IntN(3))
	o.logf("setxattr %d %s %s %d", n.id, name, value, flags)
	got = o.m.SetXattr(n.id, name, []byte(value), flags, false)
	switch {
	case n.ended:
		return got, syscall.ESTALE
	case has && flags&unix.XATTR_CREATE != 0:
		return got, syscall.EEXIST
	case !has && flags&unix.XATTR_REPLACE != 0:
		return got, syscall.ENODATA
	}
	n.xattrs[name] = value
	o.touch(n, touchC)
	return got, nil
}

// remount ends all that has no name.
func (o *model) remount() {
	o.m.tb.Helper()
	o.m.remount()
	for _, n := range o.all {
		n.ended = n.ended || n.gone
	}
	// The tree's own that ended look as in the tree again to who knows their
	// numbers, and nobody does.
	o.all = slices.DeleteFunc(o.all, func(n *modelNode) bool { return n.ended })
	for _, n := range o.all {
		o.compare(n, Time{})
	}
}

func TestModel(t *testing.T) {
	steps := 1500
	if testing.Short() {
		steps = 500
	}
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			m := over(t, "d/ d/e/ d/e/f d/n1 d/n2=>d/n1 g/ g/n3 n4 l->d n5/ n6|", "d/n7 d/e/h/i g/n3=x n5/.wh.n6")
			if seed%2 == 1 { // a fold is always under way
				m.opt.foldAt, m.opt.foldBy = 4<<10, 32<<10
				m.remount()
			}
			o := newModel(m, seed)
			for step := range steps {
				o.step()
				if step%97 == 0 {
					o.full()
				}
				if o.r.IntN(100) == 0 {
					m.fold()
				}
				if o.r.IntN(300) == 0 {
					clear(o.times)
					o.logf("remount")
					o.remount()
					o.full()
				}
			}
			o.full()
		})
	}
}

// Changes from all sides leave counts and names that agree, in memory and on
// disk.
func TestNamesRace(t *testing.T) {
	m := over(t, "d/ d/e/ d/e/f d/n1 d/n2=>d/n1 g/ g/n3 n4")
	m.opt.foldAt, m.opt.foldBy = 16<<10, 64<<10
	m.remount()
	dirs := []Node{RootNode, m.node("d"), m.node("d/e"), m.node("g")}
	var wg sync.WaitGroup
	for g := range uint64(4) {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(g, 7))
			var a Attr
			for range 1500 {
				dir, newDir := dirs[r.IntN(len(dirs))], dirs[r.IntN(len(dirs))]
				name, newName := fmt.Sprintf("n%d", r.IntN(6)), fmt.Sprintf("n%d", r.IntN(6))
				var err error
				switch r.IntN(10) {
				case 0, 1:
					err = m.Create(testCaller, dir, name, Creation{Mode: index.ModeRegular | 0o644}, &a)
				case 2:
					err = m.Create(testCaller, dir, name, Creation{Mode: index.ModeDir | 0o755}, &a)
				case 3:
					err = m.Rmdir(dir, name)
				case 4:
					err = m.Unlink(dir, name)
				case 5, 6:
					err = m.Rename(testCaller, dir, name, newDir, newName, uint32(r.IntN(5)))
				case 7:
					var found bool
					if found, err = m.Lookup(dir, name, &a); found {
						err = m.Link(a.Node, newDir, newName, &a)
					}
				case 8:
					var d *Dir
					if d, err = m.OpenDir(dir); err == nil {
						err = d.Read(0, true, func(*Dirent, *Attr) bool { return r.IntN(20) > 0 })
					}
				case 9:
					var found bool
					if found, err = m.Lookup(dir, name, &a); found {
						err = m.SetXattr(a.Node, "user."+newName, []byte(name), 0, false)
					}
				}
				if errno := syscall.Errno(0); err != nil && (!errors.As(err, &errno) || errno == syscall.EIO) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	before := fsck(m)
	m.remount()
	if after := fsck(m); !maps.Equal(before, after) {
		t.Errorf("after a remount\n got %v\nwant %v", after, before)
	}
}
