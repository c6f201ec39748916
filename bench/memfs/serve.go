// SPDX-License-Identifier: Apache-2.0

package main

import (
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

func (m *memfs) String() string { return "memfs" }

// Forget frees nothing: a run is short.
func (m *memfs) Forget(uint64, uint64) {}

func (m *memfs) Lookup(_ <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := m.childLocked(in.NodeId, name)
	if id == 0 {
		out.EntryValid = forever
		return fuse.OK
	}
	m.entryLocked(id, out)
	return fuse.OK
}

func (m *memfs) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	out.AttrValid = forever
	m.attrLocked(in.NodeId, &out.Attr)
	return fuse.OK
}

func (m *memfs) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, now := m.nodes[in.NodeId], time.Now().UnixNano()
	if mode, ok := in.GetMode(); ok {
		n.mode = n.mode&syscall.S_IFMT | mode&0o7777
	}
	if uid, ok := in.GetUID(); ok {
		n.owner.Uid = uid
	}
	if gid, ok := in.GetGID(); ok {
		n.owner.Gid = gid
	}
	if size, ok := in.GetSize(); ok {
		n.size, n.mtime = size, now
	}
	if t, ok := in.GetMTime(); ok {
		n.mtime = t.UnixNano()
	}
	n.ctime = now
	out.AttrValid = forever
	m.attrLocked(in.NodeId, &out.Attr)
	return fuse.OK
}

// add makes a node under a name that the kernel has just seen to be free.
func (m *memfs) add(parent uint64, name string, mode uint32, owner fuse.Owner, more func(*node), out *fuse.EntryOut) fuse.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.childLocked(parent, name) != 0 {
		return fuse.Status(syscall.EEXIST)
	}
	now := time.Now().UnixNano()
	id := m.newNodeLocked(mode, owner, now)
	if more != nil {
		more(m.nodes[id])
	}
	m.linkLocked(parent, name, id)
	m.touchLocked(parent, now)
	m.entryLocked(id, out)
	return fuse.OK
}

func (m *memfs) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	return m.add(in.NodeId, name, in.Mode&^in.Umask, in.Owner, func(n *node) { n.rdev = in.Rdev }, out)
}

func (m *memfs) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return m.add(in.NodeId, name, syscall.S_IFDIR|in.Mode&^in.Umask&0o7777, in.Owner, nil, out)
}

func (m *memfs) Symlink(_ <-chan struct{}, in *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	return m.add(in.NodeId, name, syscall.S_IFLNK|0o777, in.Owner, func(n *node) {
		n.target, n.size = target, uint64(len(target))
	}, out)
}

func (m *memfs) Readlink(_ <-chan struct{}, in *fuse.InHeader) ([]byte, fuse.Status) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return []byte(m.nodes[in.NodeId].target), fuse.OK
}

func (m *memfs) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.childLocked(in.NodeId, name) != 0 {
		return fuse.Status(syscall.EEXIST)
	}
	m.linkLocked(in.NodeId, name, in.Oldnodeid)
	m.touchLocked(in.NodeId, time.Now().UnixNano())
	m.entryLocked(in.Oldnodeid, out)
	return fuse.OK
}

func (m *memfs) Unlink(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return m.remove(in.NodeId, name)
}

func (m *memfs) Rmdir(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return m.remove(in.NodeId, name)
}

func (m *memfs) remove(parent uint64, name string) fuse.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := m.childLocked(parent, name)
	if id == 0 {
		return fuse.ENOENT
	}
	if d := m.nodes[id].dir; d != nil && len(d.place) != 0 {
		return fuse.Status(syscall.ENOTEMPTY)
	}
	m.unlinkLocked(parent, name)
	m.touchLocked(parent, time.Now().UnixNano())
	return fuse.OK
}

// Rename knows no flags: nobody asks it for them.
func (m *memfs) Rename(_ <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	if in.Flags != 0 {
		return fuse.EINVAL
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	id := m.childLocked(in.NodeId, from)
	if id == 0 {
		return fuse.ENOENT
	}
	if old := m.childLocked(in.Newdir, to); old != 0 {
		if d := m.nodes[old].dir; d != nil && len(d.place) != 0 {
			return fuse.Status(syscall.ENOTEMPTY)
		}
		m.unlinkLocked(in.Newdir, to)
	}
	m.unlinkLocked(in.NodeId, from)
	m.linkLocked(in.Newdir, to, id)
	now := time.Now().UnixNano()
	m.touchLocked(in.NodeId, now)
	m.touchLocked(in.Newdir, now)
	return fuse.OK
}

func (m *memfs) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_NOFLUSH
	return m.add(in.NodeId, name, syscall.S_IFREG|in.Mode&^in.Umask&0o7777, in.Owner, nil, &out.EntryOut)
}

func (m *memfs) Open(_ <-chan struct{}, _ *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_NOFLUSH
	return fuse.OK
}

func (m *memfs) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	m.mu.Lock()
	size := m.nodes[in.NodeId].size
	m.mu.Unlock()
	if in.Offset >= size {
		return fuse.ReadResultData(nil), fuse.OK
	}
	buf = buf[:min(uint64(len(buf)), size-in.Offset)]
	clear(buf)
	return fuse.ReadResultData(buf), fuse.OK
}

func (m *memfs) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.nodes[in.NodeId]
	n.size = max(n.size, in.Offset+uint64(len(data)))
	n.mtime = time.Now().UnixNano()
	n.ctime = n.mtime
	return uint32(len(data)), fuse.OK
}

func (m *memfs) GetXAttr(<-chan struct{}, *fuse.InHeader, string, []byte) (uint32, fuse.Status) {
	if m.noxattr {
		return 0, fuse.ENOSYS
	}
	return 0, fuse.ENODATA
}

func (m *memfs) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	*out = fuse.StatfsOut{Blocks: 1 << 30, Bfree: 1 << 30, Bavail: 1 << 30, Files: 1 << 30, Ffree: 1 << 30, Bsize: 4096, Frsize: 4096, NameLen: 255}
	return fuse.OK
}

// Offsets of a directory's stream: 1 after ".", 2 after "..", i+3 after
// entries[i].
func (m *memfs) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.nodes[in.NodeId]
	for i := int(in.Offset); ; i++ {
		e := fuse.DirEntry{Off: uint64(i + 1), Mode: syscall.S_IFDIR}
		switch {
		case i == 0:
			e.Name, e.Ino = ".", in.NodeId
		case i == 1:
			e.Name, e.Ino = "..", n.parent
		case i-2 >= len(n.dir.entries):
			return fuse.OK
		default:
			at := n.dir.entries[i-2]
			if at.node == 0 {
				continue
			}
			e.Name, e.Ino, e.Mode = at.name, at.node, m.nodes[at.node].mode
		}
		entry := out.AddDirLookupEntry(e)
		if entry == nil {
			return fuse.OK
		}
		if i > 1 {
			m.entryLocked(e.Ino, entry)
		}
	}
}
