// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/imgfs/imgfs/index"
)

// living reports whether the upper is mounted, so that it may change.
func (s *Snapshot) living() bool { return s.u != nil && s.u.opt.MountDir != "" }

// isOpen reports whether somebody has the content of n open now.
func (s *Snapshot) isOpen(n Node) bool {
	if !s.living() {
		return false
	}
	s.u.mu.RLock()
	defer s.u.mu.RUnlock()
	return s.u.files[n] != nil
}

// inode returns the record of n at the moment of the snapshot, made from the
// tree if there is none.
func (s *Snapshot) inode(n Node, rec *inode) (*inode, error) {
	if rec != nil {
		return rec, nil
	}
	return s.fromTree(n)
}

// target returns a symlink's target.
func (s *Snapshot) target(n Node, i *inode) (string, error) {
	if n >= FirstOwn {
		return i.tail, nil
	}
	var t index.Node
	if err := s.fs.Tree.Node(index.NodeID(n), &t); err != nil {
		return "", err
	}
	b, err := s.fs.Tree.Target(&t)
	return string(b), err
}

// xattrs calls f for the xattrs of n, in no order.
func (s *Snapshot) xattrs(n Node, i *inode, f func(name string, value []byte)) error {
	all := func(name string, value []byte) bool { f(name, value); return true }
	if i.flags&flagXattrs != 0 {
		return s.eachXattr(n, all)
	}
	if n >= FirstOwn {
		return nil
	}
	var t index.Node
	if err := s.fs.Tree.Node(index.NodeID(n), &t); err != nil {
		return err
	}
	return s.fs.Tree.EachXattr(&t, func(name, value []byte) bool { return all(string(name), value) })
}

// A snapFile reads the content of a regular file by the map that it had at the
// moment of the snapshot. What is written meanwhile may show.
type snapFile struct {
	s    *Snapshot
	node Node
	rec  *inode
	low  index.Node
	data *os.File // nil: none
}

// open opens the content of a regular file.
func (s *Snapshot) open(n Node, rec *inode) (_ *snapFile, err error) {
	f := &snapFile{s: s, node: n, rec: rec}
	if rec != nil && rec.flags&(flagLocal|flagData) == flagLocal && rec.size != int64(len(rec.tail)) {
		return nil, fmt.Errorf("%w: file of size %d with %d bytes", ErrDamaged, rec.size, len(rec.tail))
	}
	if n < FirstOwn && (rec == nil || rec.flags&flagLocal == 0) {
		if err := s.fs.Tree.Node(index.NodeID(n), &f.low); err != nil {
			return nil, err
		}
	}
	if rec != nil && rec.flags&flagData != 0 {
		path := filepath.Join(s.u.dir, "data", dataName(n))
		f.data, err = os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	}
	return f, err
}

func (f *snapFile) Close() error {
	if f.data == nil {
		return nil
	}
	return f.data.Close()
}

// A stamp tells whether content has changed.
type stamp struct {
	size         int64
	mtime, ctime Time
}

// stamp returns size and times as they are now.
func (f *snapFile) stamp() (stamp, error) {
	st := stamp{size: f.low.Size}
	if f.rec != nil {
		st = stamp{f.rec.size, f.rec.mtime, f.rec.ctime}
	}
	if f.data == nil {
		return st, nil
	}
	info, err := f.data.Stat()
	if err != nil {
		return st, err
	}
	sys, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return st, errors.ErrUnsupported
	}
	now := stamp{info.Size(), Time{sys.Mtim.Sec, uint32(sys.Mtim.Nsec)}, Time{sys.Ctim.Sec, uint32(sys.Ctim.Nsec)}}
	if f.rec.flags&flagLocal == 0 {
		now.size = st.size
	}
	return now, nil
}

// ReadAt reads content; all that is asked for lies below the size.
func (f *snapFile) ReadAt(p []byte, off int64) (int, error) {
	switch {
	case f.rec == nil || f.rec.flags&(flagLocal|flagMixed) == 0 && f.rec.lower >= off+int64(len(p)):
		return f.s.fs.ReadAt(&f.low, p, off)
	case f.rec.flags&flagLocal != 0:
		return f.readData(p, off)
	}
	for done := 0; done < len(p); {
		at := off + int64(done)
		end := min(int64(len(p)-done), blockSize-at%blockSize)
		if err := f.readBlock(p[done:done+int(end)], at); err != nil {
			return done, err
		}
		done += int(end)
	}
	return len(p), nil
}

// readData reads from the data file, behind whose end are zeros.
func (f *snapFile) readData(p []byte, off int64) (int, error) {
	if f.data == nil {
		clear(p[copy(p, f.rec.tail[min(off, int64(len(f.rec.tail))):]):])
		return len(p), nil
	}
	n, err := f.data.ReadAt(p, off)
	if errors.Is(err, io.EOF) {
		clear(p[n:])
		n, err = len(p), nil
	}
	return n, err
}

// readBlock reads within one block of a file that is not local.
func (f *snapFile) readBlock(p []byte, off int64) error {
	block := uint64(off / blockSize)
	c, err := f.s.chunk(chunkKey{f.node, block / chunkBlocks})
	if err != nil {
		return err
	}
	if c != nil && c.has(block%chunkBlocks) {
		_, err := f.readData(p, off)
		return err
	}
	below := min(max(f.rec.lower-off, 0), int64(len(p)))
	clear(p[below:])
	if below == 0 {
		return nil
	}
	n, err := f.s.fs.ReadAt(&f.low, p[:below], off)
	if int64(n) == below && (err == nil || errors.Is(err, io.EOF)) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = fs.ErrInvalid
	}
	return err
}
