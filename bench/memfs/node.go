// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// root is the number of the root: FUSE says so. Number 0 is no node.
const root = fuse.FUSE_ROOT_ID

// A node is one inode. A node's number is its place in memfs.nodes and is
// never used again.
type node struct {
	mode         uint32 // as in st_mode
	nlink        uint32
	owner        fuse.Owner
	rdev         uint32
	size         uint64
	mtime, ctime int64 // ns since 1970
	parent       uint64
	target       string     // of a symlink
	dir          *directory // nil for everything else
}

// A directory keeps its entries in the order in which they came. The place of
// one that is gone stays empty, so that a reader's offset holds.
type directory struct {
	place   map[string]int // in entries
	entries []entry
}

type entry struct {
	name string
	node uint64 // 0: gone
}

// memfs is the whole filesystem. What it does not answer, RawFileSystem
// answers with ENOSYS, so that the kernel asks only once.
type memfs struct {
	fuse.RawFileSystem
	noxattr bool // immutable

	mu    sync.Mutex
	nodes []*node // guarded by mu
}

func newMemfs() *memfs {
	m := &memfs{RawFileSystem: fuse.NewDefaultRawFileSystem(), nodes: make([]*node, root, 1<<16)}
	n := m.newNodeLocked(syscall.S_IFDIR|0o755, fuse.Owner{}, time.Now().UnixNano())
	m.nodes[n].nlink, m.nodes[n].parent = 2, root
	return m
}

// fill copies the names and attributes below dir into node to. What is there
// already stays, directories merge.
func (m *memfs) fill(to uint64, dir string) error {
	list, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		info, err := e.Info()
		if err != nil {
			return err
		}
		id := m.childLocked(to, e.Name())
		if id != 0 && !(e.IsDir() && m.nodes[id].dir != nil) {
			continue
		}
		if id == 0 {
			id = m.copyLocked(to, e.Name(), info.Sys().(*syscall.Stat_t))
		}
		switch name := filepath.Join(dir, e.Name()); e.Type() {
		case fs.ModeSymlink:
			m.nodes[id].target, err = os.Readlink(name)
		case fs.ModeDir:
			err = m.fill(id, name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// copyLocked adds a node like the one that st is of.
func (m *memfs) copyLocked(to uint64, name string, st *syscall.Stat_t) uint64 {
	id := m.newNodeLocked(st.Mode, fuse.Owner{Uid: st.Uid, Gid: st.Gid}, st.Mtim.Nano())
	m.nodes[id].size, m.nodes[id].rdev = uint64(st.Size), uint32(st.Rdev)
	m.linkLocked(to, name, id)
	return id
}

func (m *memfs) newNodeLocked(mode uint32, owner fuse.Owner, now int64) uint64 {
	n := &node{mode: mode, owner: owner, mtime: now, ctime: now}
	if mode&syscall.S_IFMT == syscall.S_IFDIR {
		n.dir, n.nlink = &directory{place: map[string]int{}}, 1
	}
	m.nodes = append(m.nodes, n)
	return uint64(len(m.nodes) - 1)
}

// childLocked returns the node of a name, 0 if there is none.
func (m *memfs) childLocked(parent uint64, name string) uint64 {
	d := m.nodes[parent].dir
	if i, ok := d.place[name]; ok {
		return d.entries[i].node
	}
	return 0
}

func (m *memfs) linkLocked(parent uint64, name string, id uint64) {
	p, n := m.nodes[parent], m.nodes[id]
	p.dir.place[name] = len(p.dir.entries)
	p.dir.entries = append(p.dir.entries, entry{name, id})
	n.nlink++
	if n.dir != nil {
		n.parent = parent
		p.nlink++
	}
}

func (m *memfs) unlinkLocked(parent uint64, name string) {
	p := m.nodes[parent]
	i := p.dir.place[name]
	n := m.nodes[p.dir.entries[i].node]
	delete(p.dir.place, name)
	p.dir.entries[i] = entry{}
	n.nlink--
	if n.dir != nil {
		p.nlink--
	}
	if len(p.dir.place) == 0 {
		p.dir.entries = p.dir.entries[:0]
	}
}

func (m *memfs) touchLocked(id uint64, now int64) {
	m.nodes[id].mtime, m.nodes[id].ctime = now, now
}

// forever is how long the kernel may keep names and attributes, in seconds.
const forever = 1 << 30

func (m *memfs) attrLocked(id uint64, a *fuse.Attr) {
	n := m.nodes[id]
	*a = fuse.Attr{
		Ino: id, Size: n.size, Blocks: (n.size + 511) / 512, Blksize: 4096,
		Mode: n.mode, Nlink: n.nlink, Owner: n.owner, Rdev: n.rdev,
		Atime: uint64(n.mtime / 1e9), Atimensec: uint32(n.mtime % 1e9),
		Mtime: uint64(n.mtime / 1e9), Mtimensec: uint32(n.mtime % 1e9),
		Ctime: uint64(n.ctime / 1e9), Ctimensec: uint32(n.ctime % 1e9),
	}
}

func (m *memfs) entryLocked(id uint64, out *fuse.EntryOut) {
	out.NodeId, out.EntryValid, out.AttrValid = id, forever, forever
	m.attrLocked(id, &out.Attr)
}
