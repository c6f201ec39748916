// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs/index"
)

// TarOptions say how a snapshot is written as a tar.
type TarOptions struct {
	// AllowChanging takes a file that is being written as it is then.
	AllowChanging bool `json:"allow_changing,omitempty"`
	// Clamp, if not zero, is the latest time of modification that is written.
	Clamp time.Time `json:"clamp,omitzero"`
}

// A ChangingError names a file that was written while it was read.
type ChangingError struct{ Path string }

func (e *ChangingError) Error() string { return e.Path + ": is being written" }

// Unwrap returns EAGAIN.
func (e *ChangingError) Unwrap() error { return syscall.EAGAIN }

// A NameError names a path that no layer can hold.
type NameError struct{ Path string }

func (e *NameError) Error() string {
	return fmt.Sprintf("%s: a layer cannot hold a name that begins %s", e.Path, index.WhiteoutPrefix)
}

// A SizeError names a file that makes a layer too large. A tar has no holes: of
// a sparse file it holds the zeros.
type SizeError struct {
	Path string
	Size int64 // bytes of the file
}

func (e *SizeError) Error() string {
	return fmt.Sprintf("%s: %d bytes, and a layer has at most %d with the zeros of all holes", e.Path, e.Size, int64(maxLayer))
}

// maxLayer is how large a layer may be, uncompressed: one that is larger would be
// refused by who reads it.
const maxLayer = 1 << 40

// WriteLayer writes what differs from the tree as the tar of a layer
// (image-spec layer.md, "Change Types"): parents first, the whiteouts of a
// directory before its names, those sorted; a directory that replaced another
// is opaque, and no other is. The same changes give the same bytes. Of sockets,
// which a tar has none of, only what they replaced is told. The error is a
// *ChangingError, a *NameError or, before the file is read, a *SizeError.
func (s *Snapshot) WriteLayer(ctx context.Context, w io.Writer, opt TarOptions) error {
	linked, err := s.newlyLinked(ctx)
	if err != nil {
		return err
	}
	t := newTarWriter(s, w, opt)
	t.left = maxLayer
	walk := walker{s: s, ctx: ctx, apart: true, touched: linked, met: t.layer}
	if err := walk.walk(); err != nil {
		return err
	}
	return t.tar.Close()
}

// newlyLinked returns the files of the tree that have a name at which the tree
// has none, or another file: then all their names are told, so that they are
// one file again in the layer.
func (s *Snapshot) newlyLinked(ctx context.Context) (map[Node]bool, error) {
	linked := map[Node]bool{}
	w := walker{s: s, ctx: ctx, apart: true, met: func(m *meeting) error {
		if m.node != 0 && m.node < FirstOwn && m.kind != kindSame && m.rec != nil && !m.rec.isDir() && m.rec.nlink > 1 {
			linked[m.node] = true
		}
		return nil
	}}
	return linked, w.walk()
}

// WriteTree writes the whole merged tree as a tar.
func (s *Snapshot) WriteTree(ctx context.Context, w io.Writer, opt TarOptions) error {
	t := newTarWriter(s, w, opt)
	if err := t.tree(ctx, "", RootNode, 0); err != nil {
		return err
	}
	return t.tar.Close()
}

// A tarWriter writes nodes of a snapshot.
type tarWriter struct {
	s     *Snapshot
	tar   *tar.Writer
	opt   TarOptions
	left  int64           // bytes of content that it may still write
	first map[Node]string // the first name of files that have several
	buf   []byte
}

func newTarWriter(s *Snapshot, w io.Writer, opt TarOptions) *tarWriter {
	return &tarWriter{s: s, tar: tar.NewWriter(w), opt: opt, left: 1<<63 - 1, first: map[Node]string{}, buf: make([]byte, 256<<10)}
}

// layer writes what a walk met.
func (t *tarWriter) layer(m *meeting) error {
	dir, name := path.Split(m.path)
	socket := m.typ == index.ModeSocket>>12
	switch {
	case m.kind == kindSame, socket && m.kind == kindAdded:
		return nil
	case socket, m.kind == kindDeleted:
		return t.marker(dir + index.WhiteoutPrefix + name)
	case strings.HasPrefix(name, index.WhiteoutPrefix):
		return &NameError{m.path}
	}
	if err := t.node(m.path, m.node, m.rec); err != nil {
		return err
	}
	if m.replaced {
		return t.marker(m.path + "/" + index.OpaqueMarker)
	}
	return nil
}

// marker writes a whiteout.
func (t *tarWriter) marker(path string) error {
	return t.tar.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: strings.TrimPrefix(path, "/"), Mode: 0o600,
		ModTime: time.Unix(0, 0), Format: tar.FormatPAX,
	})
}

// tree writes the directory n at path and all below it.
func (t *tarWriter) tree(ctx context.Context, at string, n Node, depth int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := checkWay(at, depth); err != nil {
		return err
	}
	rec, _, err := t.s.record(n)
	if err != nil {
		return err
	}
	name := at
	if name == "" {
		name = "/"
	}
	if err := t.node(name, n, rec); err != nil {
		return err
	}
	children, err := t.s.children(n, rec)
	if err != nil {
		return err
	}
	for _, c := range children {
		if c.typ == index.ModeDir>>12 {
			err = t.tree(ctx, at+"/"+c.name, c.node, depth+1)
		} else if rec, _, err = t.s.record(c.node); err == nil {
			err = t.node(at+"/"+c.name, c.node, rec)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// node writes the entry of one node.
func (t *tarWriter) node(at string, n Node, rec *inode) error {
	i, err := t.s.inode(n, rec)
	if err != nil {
		return err
	}
	if i.typ() == index.ModeSocket {
		return nil
	}
	h := &tar.Header{
		Name: strings.TrimPrefix(at, "/"), Mode: int64(i.mode & modeBits), Uid: int(i.uid), Gid: int(i.gid),
		Format: tar.FormatPAX,
	}
	t.setTime(h, i.mtime)
	if i.nlink > 1 && !i.isDir() {
		if first, ok := t.first[n]; ok {
			h.Typeflag, h.Linkname = tar.TypeLink, first
			return t.tar.WriteHeader(h)
		}
		t.first[n] = h.Name
	}
	var odd error
	err = t.s.xattrs(n, i, func(name string, value []byte) {
		if strings.Contains(name, "=") {
			odd = fmt.Errorf("%s: a layer cannot hold an xattr with = in its name: %q", at, name)
		}
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[paxXattr+name] = string(value)
	})
	if err := errors.Join(err, odd); err != nil {
		return err
	}
	switch i.typ() {
	case index.ModeDir:
		h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
		if at == "/" {
			h.Name = "./"
		}
	case index.ModeSymlink:
		h.Typeflag = tar.TypeSymlink
		if h.Linkname, err = t.s.target(n, i); err != nil {
			return err
		}
	case index.ModeChar:
		h.Typeflag = tar.TypeChar
	case index.ModeBlock:
		h.Typeflag = tar.TypeBlock
	case index.ModeFIFO:
		h.Typeflag = tar.TypeFifo
	default:
		h.Typeflag = tar.TypeReg
		return t.file(at, h, n, rec)
	}
	if i.typ() == index.ModeChar || i.typ() == index.ModeBlock {
		h.Devmajor, h.Devminor = int64(unix.Major(uint64(i.rdev))), int64(unix.Minor(uint64(i.rdev)))
	}
	return t.tar.WriteHeader(h)
}

const paxXattr = "SCHILY.xattr."

func (t *tarWriter) setTime(h *tar.Header, at Time) {
	h.ModTime = time.Unix(at.Sec, int64(at.Nsec))
	if !t.opt.Clamp.IsZero() && h.ModTime.After(t.opt.Clamp) {
		h.ModTime = t.opt.Clamp
	}
}

// retries is how often a file is read again that was written meanwhile.
const retries = 4

// file writes a regular file. Of one that is written meanwhile a copy is made
// aside first, until one was made in peace.
func (t *tarWriter) file(at string, h *tar.Header, n Node, rec *inode) error {
	f, err := t.s.open(n, rec)
	if errors.Is(err, os.ErrNotExist) && t.s.living() {
		return &ChangingError{at} // it lost its last name since
	}
	if err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	defer f.Close()
	if f.data == nil || !t.s.isOpen(n) {
		before, err := f.stamp()
		if err != nil {
			return err
		}
		if err := t.copy(at, h, f, &before, rec); err != nil {
			return err
		}
		if after, err := f.stamp(); err != nil || after != before && !t.opt.AllowChanging {
			return errors.Join(err, &ChangingError{at}) // it was opened since
		}
		return nil
	}
	spool, err := os.CreateTemp("", "imgfs-")
	if err != nil {
		return err
	}
	defer spool.Close()
	if err := os.Remove(spool.Name()); err != nil {
		return err
	}
	for try := 1; ; try++ {
		before, err := f.stamp()
		if err != nil {
			return err
		}
		if before.size > t.left {
			return &SizeError{at, before.size}
		}
		if err := t.spool(spool, f, before.size); err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		after, err := f.stamp()
		if err != nil {
			return err
		}
		switch {
		case before == after || t.opt.AllowChanging:
			return t.copy(at, h, spool, &before, rec)
		case try == retries:
			return &ChangingError{at}
		}
		time.Sleep(time.Duration(try) * 20 * time.Millisecond)
	}
}

// spool copies size bytes of f to the file spool.
func (t *tarWriter) spool(spool *os.File, f io.ReaderAt, size int64) error {
	if err := spool.Truncate(size); err != nil {
		return err
	}
	for off := int64(0); off < size; {
		n := min(size-off, int64(len(t.buf)))
		if err := readFull(f, t.buf[:n], off); err != nil {
			return err
		}
		if _, err := spool.WriteAt(t.buf[:n], off); err != nil {
			return err
		}
		off += n
	}
	return nil
}

// copy writes the entry h with the content of r.
func (t *tarWriter) copy(at string, h *tar.Header, r io.ReaderAt, st *stamp, rec *inode) error {
	if st.size > t.left {
		return &SizeError{at, st.size}
	}
	t.left -= st.size
	h.Size = st.size
	if rec != nil && rec.inData() {
		t.setTime(h, st.mtime)
	}
	if err := t.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	for off := int64(0); off < st.size; {
		n := min(st.size-off, int64(len(t.buf)))
		if err := readFull(r, t.buf[:n], off); err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		if _, err := t.tar.Write(t.buf[:n]); err != nil {
			return err
		}
		off += n
	}
	return nil
}

// readFull fills p; fewer bytes are an error.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}
