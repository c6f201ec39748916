// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/unionfs"
)

// forever is how long the kernel may keep what it was told, in seconds. It
// takes up to 2^62 ticks.
const forever = 1 << 40

// tree answers for a read-only tree. All of it is immutable after Mount.
type tree struct {
	readOnly
	*complaints

	fs   *unionfs.FS
	t    *index.Tree
	root index.NodeID // what FUSE calls node 1

	uid, gid   *uint32 // shown instead of the image's
	noSymlinks bool
	noSpecials bool
	xattrs     bool         // the image's are shown, and there are some
	sources    []provenance // per layer; nil = none are shown
	read       readNodes    // nil unless layers are still to be verified

	// What the kernel understands, known after begin.
	keepsOpen    bool // ENOSYS to OPEN means never ask again
	keepsOpenDir bool

	prefetch *prefetcher // nil: nothing is given before it is asked for
}

func newTree(f *unionfs.FS, opt *Options) *tree {
	v := &tree{
		readOnly:   readOnly{fuse.NewDefaultRawFileSystem()},
		complaints: &complaints{log: opt.Log},
		fs:         f, t: f.Tree, root: f.Root,
		uid: opt.UID, gid: opt.GID,
		noSymlinks: opt.NoSymlinks, noSpecials: opt.NoSpecials,
		xattrs: f.Tree.Meta().Xattrs && !opt.NoXattrs,
	}
	if opt.Provenance {
		v.sources = provenances(f.Sources)
	}
	if opt.Unverified {
		v.read = newReadNodes(f.Tree.Count())
	}
	return v
}

// begin learns what the kernel can do.
func (v *tree) begin(k kernel) {
	v.keepsOpen = k.Offered()&fuse.CAP_NO_OPEN_SUPPORT != 0
	v.keepsOpenDir = k.Offered()&fuse.CAP_NO_OPENDIR_SUPPORT != 0
	if v.read == nil { // else pages may have to be taken back, see DropLayer
		v.prefetch = newPrefetcher(v, k.InodeNotifyStoreCache)
	}
}

// id returns the tree's number for a FUSE node. They differ only for the
// mounted root, which FUSE calls 1; of a part, the tree's own node 1 lies
// outside and is no node at all.
func (v *tree) id(node uint64) (index.NodeID, error) {
	switch {
	case node == fuse.FUSE_ROOT_ID:
		return v.root, nil
	case node == 0 || node > uint64(v.t.Count()):
		return 0, fmt.Errorf("%w: no node %d", index.ErrCorrupt, node)
	}
	return index.NodeID(node), nil
}

// child checks what an entry points to. The kernel takes node 1 as nobody's
// child, and a directory above as no child of one below.
func (v *tree) child(id index.NodeID) error {
	if id <= index.RootID || id == v.root || uint32(id) > v.t.Count() {
		return fmt.Errorf("%w: entry of node %d", index.ErrCorrupt, id)
	}
	return nil
}

// hides reports whether nodes of this type (DT_*) are not shown.
func (v *tree) hides(typ uint8) bool {
	switch uint32(typ) << 12 {
	case index.ModeSymlink:
		return v.noSymlinks
	case index.ModeChar, index.ModeBlock, index.ModeFIFO, index.ModeSocket:
		return v.noSpecials
	}
	return false
}

// Lookup answers for a name, and for "." and ".." when a file handle
// (name_to_handle_at, NFS, overlayfs above) brings back a node that the kernel
// no longer holds. An absent name is an answer to keep too.
func (v *tree) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) (status fuse.Status) {
	defer v.caught(debug.SetPanicOnFault(true), "lookup", h.NodeId, &status)
	dir, err := v.id(h.NodeId)
	if err != nil {
		return v.errno("lookup", h.NodeId, err)
	}
	if name == "." || name == ".." {
		return v.handle(dir, name, out)
	}
	if len(name) > maxName {
		return fuse.Status(syscall.ENAMETOOLONG) // the kernel itself allows 1 024
	}
	id, typ, err := v.t.Lookup(dir, name)
	if err != nil {
		return v.errno("lookup", h.NodeId, err)
	}
	if id == 0 || v.hides(typ) {
		out.EntryValid = forever
		return fuse.OK
	}
	if err := v.child(id); err != nil {
		return v.errno("lookup", h.NodeId, err)
	}
	return v.entry(id, out)
}

const maxName = 255 // NAME_MAX

// handle answers a lookup of "." or "..".
func (v *tree) handle(id index.NodeID, name string, out *fuse.EntryOut) fuse.Status {
	var n index.Node
	if err := v.t.Node(id, &n); err != nil {
		return v.errno("lookup", uint64(id), err)
	}
	if v.hides(uint8(n.Mode >> 12)) {
		return fuse.ENOENT
	}
	if name == ".." && id != v.root {
		if !n.IsDir() {
			return fuse.ENOTDIR
		}
		id = index.NodeID(n.Parent)
	}
	status := v.entry(id, out)
	if id == v.root {
		out.NodeId = fuse.FUSE_ROOT_ID
	}
	return status
}

// entry fills out with node id.
func (v *tree) entry(id index.NodeID, out *fuse.EntryOut) fuse.Status {
	out.NodeId = uint64(id)
	out.EntryValid = forever
	out.AttrValid = forever
	return v.errno("lookup", uint64(id), v.attr(id, &out.Attr))
}

// GetAttr answers stat(2).
func (v *tree) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) (status fuse.Status) {
	defer v.caught(debug.SetPanicOnFault(true), "getattr", in.NodeId, &status)
	id, err := v.id(in.NodeId)
	if err == nil {
		out.AttrValid = forever
		err = v.attr(id, &out.Attr)
	}
	return v.errno("getattr", in.NodeId, err)
}

const (
	blockSize = 4096 // st_blksize, and st_size of a directory
	sector    = 512  // the unit of st_blocks
)

// attr fills a with the attributes of node id.
func (v *tree) attr(id index.NodeID, a *fuse.Attr) error {
	var n index.Node
	if err := v.t.Node(id, &n); err != nil {
		return err
	}
	*a = fuse.Attr{
		Ino:  uint64(id),
		Mode: n.Mode, Nlink: n.Nlink,
		Owner:   fuse.Owner{Uid: n.UID, Gid: n.GID},
		Blksize: blockSize,
		// Two's complement: the kernel reads them as signed.
		Atime: uint64(n.Mtime), Mtime: uint64(n.Mtime), Ctime: uint64(n.Mtime),
		Atimensec: n.MtimeNsec, Mtimensec: n.MtimeNsec, Ctimensec: n.MtimeNsec,
	}
	if v.uid != nil {
		a.Uid = *v.uid
	}
	if v.gid != nil {
		a.Gid = *v.gid
	}
	switch n.Type() {
	case index.ModeRegular:
		blocks, err := v.blocks(&n)
		if err != nil {
			return err
		}
		a.Size, a.Blocks = uint64(n.Size), blocks
	case index.ModeDir:
		a.Size, a.Blocks = blockSize, blockSize/sector
	case index.ModeSymlink:
		a.Size = uint64(n.Size)
	case index.ModeChar, index.ModeBlock:
		a.Rdev = n.Rdev
	case index.ModeFIFO, index.ModeSocket:
	default:
		return fmt.Errorf("%w: node %d has mode %o", index.ErrCorrupt, id, n.Mode)
	}
	if n.Size < 0 {
		return fmt.Errorf("%w: node %d has size %d", index.ErrCorrupt, id, n.Size)
	}
	return nil
}

// maxCounted bounds how many runs of a sparse file are added up for st_blocks,
// which is a hint: what matters is that it shows the file as sparse.
const maxCounted = 1 << 12

// blocks returns the sectors that hold data of the regular file n.
func (v *tree) blocks(n *index.Node) (uint64, error) {
	extents, sparse, err := v.t.Extents(n)
	if err != nil || !sparse {
		return sectors(n.Size), err
	}
	var sum uint64
	for i := range min(extents.Len(), maxCounted) {
		sum += sectors(extents.At(i).Len)
	}
	return min(sum, sectors(n.Size)), nil
}

func sectors(size int64) uint64 { return (uint64(size) + sector - 1) / sector }

// Readlink copies the target: it is sent after the handler, outside of
// what guards against a damaged map.
func (v *tree) Readlink(_ <-chan struct{}, h *fuse.InHeader) (target []byte, status fuse.Status) {
	defer v.caught(debug.SetPanicOnFault(true), "readlink", h.NodeId, &status)
	var n index.Node
	id, err := v.id(h.NodeId)
	if err == nil {
		err = v.t.Node(id, &n)
	}
	if err != nil {
		return nil, v.errno("readlink", h.NodeId, err)
	}
	if n.Type() != index.ModeSymlink {
		return nil, fuse.EINVAL
	}
	b, err := v.t.Target(&n)
	if err != nil {
		return nil, v.errno("readlink", h.NodeId, err)
	}
	if len(b) >= maxTarget {
		return nil, fuse.Status(syscall.ENAMETOOLONG)
	}
	return append([]byte(nil), b...), fuse.OK
}

const maxTarget = 4096 // PATH_MAX: the kernel takes no longer one

// Open is answered once: never ask again. The kernel then keeps pages, and
// neither FLUSH nor RELEASE come.
func (v *tree) Open(_ <-chan struct{}, _ *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if v.keepsOpen {
		return fuse.ENOSYS
	}
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	return fuse.OK
}

// Flush has nothing to do, and says so for good.
func (v *tree) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.ENOSYS }

// Read fills the buffer that goes to the kernel.
func (v *tree) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (result fuse.ReadResult, status fuse.Status) {
	defer v.caught(debug.SetPanicOnFault(true), "read", in.NodeId, &status)
	var n index.Node
	id, err := v.id(in.NodeId)
	if err == nil {
		err = v.t.Node(id, &n)
	}
	if err != nil {
		return nil, v.errno("read", in.NodeId, err)
	}
	if n.IsDir() {
		return nil, fuse.EISDIR
	}
	v.read.add(id) // before its layer is asked: see DropLayer
	got, err := v.fs.ReadAt(&n, buf, int64(in.Offset))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, v.errno("read", in.NodeId, err)
	}
	if in.Offset == 0 && v.prefetch != nil {
		v.prefetch.read(in.Pid, id)
	}
	r := readResults.Get().(*readResult)
	r.b = buf[:got]
	return r, fuse.OK
}

// A readResult is what was read. Done is called when it was sent.
type readResult struct{ b []byte }

var readResults = sync.Pool{New: func() any { return new(readResult) }}

func (r *readResult) Bytes([]byte) ([]byte, fuse.Status) { return r.b, fuse.OK }
func (r *readResult) Size() int                          { return len(r.b) }
func (r *readResult) Done()                              { r.b = nil; readResults.Put(r) }

// Lseek answers SEEK_DATA and SEEK_HOLE, the only ones that come.
func (v *tree) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) (status fuse.Status) {
	defer v.caught(debug.SetPanicOnFault(true), "lseek", in.NodeId, &status)
	if in.Whence != seekData && in.Whence != seekHole {
		return fuse.EINVAL
	}
	var n index.Node
	id, err := v.id(in.NodeId)
	if err == nil {
		err = v.t.Node(id, &n)
	}
	if err != nil {
		return v.errno("lseek", in.NodeId, err)
	}
	if !n.IsRegular() {
		return fuse.EINVAL
	}
	off, err := v.fs.Seek(&n, int64(in.Offset), in.Whence == seekData)
	out.Offset = uint64(off)
	return v.errno("lseek", in.NodeId, err)
}

const seekData, seekHole = 3, 4 // lseek(2)

// StatFs shows the image's size, full to the last block.
func (v *tree) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	m := v.t.Meta()
	*out = fuse.StatfsOut{
		Blocks: (uint64(max(m.Size, 0)) + blockSize - 1) / blockSize,
		Bsize:  blockSize, Frsize: blockSize,
		Files: uint64(v.t.Count()), NameLen: maxName,
	}
	return fuse.OK
}

// Ioctl passes nothing on.
func (v *tree) Ioctl(<-chan struct{}, *fuse.IoctlIn, []byte, *fuse.IoctlOut, []byte) fuse.Status {
	return fuse.Status(syscall.ENOTTY)
}
