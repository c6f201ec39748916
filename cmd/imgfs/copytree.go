// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/hostfs"
	"github.com/imgfs/imgfs/unionfs"
)

// A source is what cp copies: a node of a tree.
type source struct {
	f       *unionfs.FS
	id      index.NodeID
	node    *index.Node
	name    string // "/" for the root
	content bool   // what the directory holds, not itself
}

// A linkMap knows the inodes of which more names are still to come.
type linkMap map[index.NodeID]*linked

type linked struct {
	path string // of the first name
	left uint32 // names to come
}

// seen returns the path of the first name of a file, "" if this is the first
// of several.
func (m linkMap) seen(id index.NodeID, n *index.Node) string {
	l := m[id]
	if n.IsDir() || l == nil {
		return ""
	}
	if l.left--; l.left == 0 {
		delete(m, id)
	}
	return l.path
}

// add notes path as the name that later ones are linked to.
func (m linkMap) add(id index.NodeID, n *index.Node, path string) {
	if !n.IsDir() && n.Nlink > 1 {
		m[id] = &linked{path, n.Nlink - 1}
	}
}

// eachChild calls do for the entries of a directory, in the order in which
// their content lies in the layers.
func eachChild(f *unionfs.FS, id index.NodeID, do func(name string, id index.NodeID, n *index.Node) error) error {
	d, err := f.Tree.ReadDir(id, 0)
	if err != nil {
		return err
	}
	for {
		e, ok, err := d.Next()
		if err != nil || !ok {
			return err
		}
		n := new(index.Node)
		if err := f.Tree.Node(e.ID, n); err != nil {
			return err
		}
		if err := do(string(e.Name), e.ID, n); err != nil {
			return err
		}
	}
}

// content writes what file n holds to w; holes are not written.
func content(ctx context.Context, f *unionfs.FS, n *index.Node, w io.WriterAt) error {
	buf := make([]byte, min(256<<10, n.Size))
	for off := int64(0); off < n.Size; {
		lo, err := f.Seek(n, off, true)
		if errors.Is(err, syscall.ENXIO) {
			return nil
		}
		if err != nil {
			return err
		}
		hi, err := f.Seek(n, lo, false)
		if err != nil {
			return err
		}
		for lo < hi {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			p := buf[:min(int64(len(buf)), hi-lo)]
			if k, err := f.ReadAt(n, p, lo); k < len(p) {
				return readError(lo, err)
			}
			if _, err := w.WriteAt(p, lo); err != nil {
				return err
			}
			lo += int64(len(p))
		}
		off = hi
	}
	return nil
}

func readError(off int64, err error) error {
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read at %d: %w", off, err)
}

// A copier writes a tree to the host.
type copier struct {
	ctx   context.Context
	f     *unionfs.FS
	links linkMap
}

func (c *copier) children(d *hostfs.Dir, id index.NodeID) error {
	return eachChild(c.f, id, func(name string, id index.NodeID, n *index.Node) error {
		return c.entry(d, name, id, n)
	})
}

// entry writes node id as name in d.
func (c *copier) entry(d *hostfs.Dir, name string, id index.NodeID, n *index.Node) error {
	if err := context.Cause(c.ctx); err != nil {
		return err
	}
	if first := c.links.seen(id, n); first != "" {
		err := d.Link(name, first)
		if !errors.Is(err, hostfs.ErrNoLink) {
			return err
		}
	}
	meta, err := c.meta(n)
	if err != nil {
		return fmt.Errorf("%s: %w", d.Path(name), err)
	}
	switch n.Type() {
	case index.ModeDir:
		return c.dir(d, name, id, meta)
	case index.ModeRegular:
		err = d.File(name, meta, n.Size, func(w io.WriterAt) error {
			if err := content(c.ctx, c.f, n, w); err != nil {
				return fmt.Errorf("%s: %w", d.Path(name), err)
			}
			return nil
		})
	case index.ModeSymlink:
		target, terr := c.f.Tree.Target(n)
		if terr != nil {
			return fmt.Errorf("%s: %w", d.Path(name), terr)
		}
		err = d.Symlink(name, string(target), meta)
	default:
		made, err := d.Node(name, n.Rdev, meta)
		if err != nil || !made {
			return err
		}
	}
	if err == nil {
		c.links.add(id, n, d.Path(name))
	}
	return err
}

func (c *copier) dir(d *hostfs.Dir, name string, id index.NodeID, meta *hostfs.Meta) error {
	sub, err := d.Dir(name, meta)
	if err != nil {
		return err
	}
	if err := c.children(sub, id); err != nil {
		sub.Close()
		return err
	}
	return errors.Join(sub.Finish(), sub.Close())
}

func (c *copier) meta(n *index.Node) (*hostfs.Meta, error) {
	m := &hostfs.Meta{Mode: n.Mode, UID: n.UID, GID: n.GID, Mtime: n.Mtime, MtimeNsec: int64(n.MtimeNsec)}
	if !n.HasExtra() {
		return m, nil
	}
	err := c.f.Tree.EachXattr(n, func(name, value []byte) bool {
		m.Xattrs = append(m.Xattrs, hostfs.Xattr{Name: string(name), Value: bytes.Clone(value)})
		return true
	})
	return m, err
}

// tar writes s as a tar to w, owners, devices and extended attributes
// included.
func (s *source) tar(ctx context.Context, w io.Writer) error {
	t := &tarrer{ctx: ctx, f: s.f, w: tar.NewWriter(w), links: make(linkMap)}
	name := s.name
	if s.content {
		name = "."
	}
	if err := t.entry(name, s.id, s.node); err != nil {
		return err
	}
	return t.w.Close()
}

// A tarrer writes a tree as a tar.
type tarrer struct {
	ctx   context.Context
	f     *unionfs.FS
	w     *tar.Writer
	links linkMap
}

func (t *tarrer) entry(path string, id index.NodeID, n *index.Node) error {
	if err := context.Cause(t.ctx); err != nil {
		return err
	}
	h, err := t.header(path, n)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if first := t.links.seen(id, n); first != "" {
		h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
	} else {
		t.links.add(id, n, path)
	}
	if err := t.w.WriteHeader(h); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if h.Typeflag == tar.TypeReg {
		if err := t.content(n); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	if !n.IsDir() {
		return nil
	}
	return eachChild(t.f, id, func(name string, id index.NodeID, n *index.Node) error {
		return t.entry(path+"/"+name, id, n)
	})
}

// header returns the header of n. A socket, which a tar cannot hold, cannot
// come from one.
func (t *tarrer) header(path string, n *index.Node) (*tar.Header, error) {
	h := &tar.Header{
		Name: path, Mode: int64(n.Mode & 0o7777), Uid: int(n.UID), Gid: int(n.GID),
		ModTime: time.Unix(n.Mtime, int64(n.MtimeNsec)), Format: tar.FormatPAX,
	}
	switch n.Type() {
	case index.ModeDir:
		h.Typeflag, h.Name = tar.TypeDir, path+"/"
	case index.ModeRegular:
		h.Typeflag, h.Size = tar.TypeReg, n.Size
	case index.ModeSymlink:
		target, err := t.f.Tree.Target(n)
		if err != nil {
			return nil, err
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, string(target)
	case index.ModeFIFO:
		h.Typeflag = tar.TypeFifo
	case index.ModeChar, index.ModeBlock:
		h.Typeflag = tar.TypeChar
		if n.Type() == index.ModeBlock {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(major(n)), int64(minor(n))
	default:
		return nil, errors.New("a tar cannot hold it: " + index.TypeName(n.Mode))
	}
	if !n.HasExtra() {
		return h, nil
	}
	h.PAXRecords = map[string]string{}
	err := t.f.Tree.EachXattr(n, func(name, value []byte) bool {
		h.PAXRecords["SCHILY.xattr."+string(name)] = string(value)
		return true
	})
	return h, err
}

func (t *tarrer) content(n *index.Node) error {
	buf := make([]byte, min(256<<10, n.Size))
	for off := int64(0); off < n.Size; {
		if err := context.Cause(t.ctx); err != nil {
			return err
		}
		p := buf[:min(int64(len(buf)), n.Size-off)]
		if k, err := t.f.ReadAt(n, p, off); k < len(p) {
			return readError(off, err)
		}
		if _, err := t.w.Write(p); err != nil {
			return err
		}
		off += int64(len(p))
	}
	return nil
}
