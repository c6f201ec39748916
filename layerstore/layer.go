// SPDX-License-Identifier: Apache-2.0

package layerstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/layerstore/seek"
)

// AddLayer brings a layer into the stage: in one pass over src the blob is
// copied and verified against digest and diffID, its table and seek index are
// made. want.Digest and want.DiffID may be "": then they are what the bytes
// are. If the store holds this layer, verified, and src is an io.Seeker, the
// bytes are only compared; what differs is read as if it were new, and takes
// the place of a blob that was damaged. The errors are ErrDigest,
// seek.ErrFormat, index.ErrBadLayer, or those of src and of the disk. sidecar
// reports that a second, seekable copy had to be made.
func (g *Stage) AddLayer(ctx context.Context, want Layer, src io.Reader, limits index.Limits) (l Layer, sidecar bool, err error) {
	known, ok, err := g.known(want)
	if err != nil {
		return want, false, err
	}
	if ok {
		same, err := g.holds(ctx, known, src)
		if err != nil {
			return want, false, err
		}
		if same {
			known.MediaType = want.MediaType
			return known, false, nil
		}
	}
	tmp, err := os.MkdirTemp(g.dir, "layer-")
	if err != nil {
		return want, false, err
	}
	files := passFiles{blob: tmp + "/blob", table: tmp + "/table", seek: tmp + "/seek", sidecar: tmp + "/sidecar", hashes: tmp + "/hashes"}
	res, err := runPass(ctx, src, files, want.Digest, want.DiffID, limits)
	if err != nil {
		os.RemoveAll(tmp)
		return want, false, err
	}
	return g.take(want, files, &res), res.seek.Sidecar, nil
}

// take takes the files of a pass over the layer want into the stage, and
// returns what the layer is.
func (g *Stage) take(want Layer, files passFiles, res *passResult) Layer {
	g.syncs.Go(func() error { return syncFile(files.blob) })
	l := res.layer(want)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.move = append(g.move,
		move{files.blob, g.s.blobPath(l.Digest)},
		move{files.table, g.s.LayerPath(l.DiffID)},
		move{files.hashes, g.s.hashPath(l.DiffID)},
		move{files.seek, g.s.seekPath(l.Digest)})
	if res.seek.Sidecar {
		g.move = append(g.move, move{files.sidecar, g.s.sidecarPath(l.Digest)})
	}
	return l
}

// layer returns want with what the pass found.
func (res *passResult) layer(want Layer) Layer {
	l := want
	l.Digest, l.DiffID, l.Size = res.digest, res.diffID, res.size
	l.TarSize, l.Compression = res.seek.Size, res.seek.Compression.String()
	l.setOddities(res.meta)
	if res.seek.Trailing {
		l.Oddities++
		l.Oddity = "bytes after the end of the gzip stream (C7)"
	}
	return l
}

// setOddities takes the count and the first of the oddities that a scan met.
func (l *Layer) setOddities(m *index.Meta) {
	l.Oddities, l.Oddity = m.Odd, ""
	if len(m.Oddities) > 0 {
		o := &m.Oddities[0]
		l.Oddity = fmt.Sprintf("offset %d: %s (%s)", o.Off, o.What, o.Rule)
		if o.Name != "" {
			l.Oddity = strconv.Quote(o.Name) + " at " + l.Oddity
		}
	}
}

// setUnproven takes the reason why nothing proves the layer, if there is one.
func (l *Layer) setUnproven(why string) {
	if l.Unproven = why; why != "" {
		l.Oddities++
		l.Oddity = why
	}
}

// known returns what the store knows of a layer, by its digest or, for one
// whose digest nobody told, by its diffID: most such are not compressed, and
// then the two are the same.
func (g *Stage) known(want Layer) (l Layer, ok bool, err error) {
	d := want.Digest
	if d == "" {
		d = want.DiffID
	}
	l, ok, err = g.s.layer(d)
	if ok && want.Digest != "" && want.DiffID != "" && l.DiffID != want.DiffID {
		err = fmt.Errorf("%w: the uncompressed layer is %s, the config says %s", ErrDigest, l.DiffID, want.DiffID)
	}
	if ok && want.DiffID != "" && l.DiffID != want.DiffID {
		ok = false
	}
	return l, ok, err
}

// holds reports whether the store has the layer l, with its table, and src
// holds the same bytes. If not, src is at its beginning again.
func (g *Stage) holds(ctx context.Context, l Layer, src io.Reader) (bool, error) {
	from, ok := src.(io.ReadSeeker)
	if !ok {
		return false, nil
	}
	if err := g.claimLayer(l); err != nil {
		return false, err
	}
	f, size, err := g.s.OpenBlob(l.Digest)
	if err != nil || size != l.Size {
		return false, nil
	}
	defer f.Close()
	t, err := index.Open[index.EntryID](g.s.LayerPath(l.DiffID))
	if err != nil {
		return false, nil
	}
	t.Close()
	same, err := sameBytes(ctx, f, from)
	if err != nil {
		return false, err
	}
	if !same {
		_, err = from.Seek(0, io.SeekStart)
		return false, err
	}
	g.need(f.Name())
	return true, nil
}

// claimLayer has the stage keep the files of a layer.
func (g *Stage) claimLayer(l Layer) error {
	return g.claim(g.s.blobPath(l.Digest), g.s.LayerPath(l.DiffID), g.s.hashPath(l.DiffID), g.s.seekPath(l.Digest), g.s.sidecarPath(l.Digest))
}

// sameBytes compares a file of the store with src to the ends of both. A
// file that cannot be read is another; the error is that of src.
func sameBytes(ctx context.Context, f *os.File, src io.Reader) (bool, error) {
	a, b := make([]byte, 256<<10), make([]byte, 256<<10)
	for {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		n, errSrc := io.ReadFull(src, a)
		if errSrc != nil && errSrc != io.EOF && errSrc != io.ErrUnexpectedEOF {
			return false, errSrc
		}
		m, errFile := io.ReadFull(f, b)
		if n != m || !bytes.Equal(a[:n], b[:n]) || (errSrc == nil) != (errFile == nil) {
			return false, nil
		}
		if errSrc != nil {
			return errFile == io.EOF || errFile == io.ErrUnexpectedEOF, nil
		}
	}
}

// Rebuild makes a layer's table, seek index and content hashes anew from its blob, which is
// verified on the way.
func (s *Store) Rebuild(ctx context.Context, l Layer) error {
	f, size, err := s.OpenBlob(l.Digest)
	if err != nil {
		return err
	}
	defer f.Close()
	g, err := s.NewStage()
	if err != nil {
		return err
	}
	defer g.Discard()
	files := passFiles{table: g.Temp("table"), seek: g.Temp("seek"), sidecar: g.Temp("sidecar"), hashes: g.Temp("hashes")}
	res, err := runPass(ctx, io.NewSectionReader(f, 0, size), files, l.Digest, l.DiffID, index.Limits{})
	if err != nil {
		return err
	}
	g.move = append(g.move, move{files.table, s.LayerPath(l.DiffID)}, move{files.hashes, s.hashPath(l.DiffID)},
		move{files.seek, s.seekPath(l.Digest)})
	if res.seek.Sidecar {
		g.move = append(g.move, move{files.sidecar, s.sidecarPath(l.Digest)})
	}
	return g.Commit()
}

// OpenTable opens the table of a layer, made anew if it is missing or
// damaged.
func (s *Store) OpenTable(ctx context.Context, l Layer) (*index.Layer, error) {
	return openDerived(s.LayerPath(l.DiffID), func() error { return s.Rebuild(ctx, l) })
}

// OpenHashes opens the content hashes of a layer, made anew if they are missing
// or damaged.
func (s *Store) OpenHashes(ctx context.Context, l Layer) (*index.Hashes, error) {
	path := s.hashPath(l.DiffID)
	return orRebuilt(func() (*index.Hashes, error) { return index.OpenHashes(path) }, func() error { return s.Rebuild(ctx, l) })
}

func openDerived(path string, rebuild func() error) (*index.Layer, error) {
	return orRebuilt(func() (*index.Layer, error) { return index.Open[index.EntryID](path) }, rebuild)
}

// orRebuilt opens what is derived, made anew if it is missing or damaged.
func orRebuilt[T any](open func() (T, error), rebuild func() error) (T, error) {
	t, err := open()
	if !IsDerivedBad(err) {
		return t, err
	}
	if err := rebuild(); err != nil {
		return t, err
	}
	return open()
}

// FillHoles gives blocks to the holes of the new table file path. Tables are
// read through a map, and on tmpfs a hole takes a block only then, when there
// may be none.
func FillHoles(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil || fi.Size() == 0 {
		return err
	}
	for {
		err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, fi.Size())
		switch err {
		case nil, unix.EOPNOTSUPP, unix.ENOSYS:
			return nil
		case unix.EINTR:
		default:
			return &fs.PathError{Op: "fallocate", Path: path, Err: err}
		}
	}
}

// NoBlock returns err, which came from making the file path, as what it is: a
// new file that is read through a map while it is made cannot be corrupt, the
// disk had no block for it.
func NoBlock(path string, err error) error {
	if !errors.Is(err, index.ErrCorrupt) {
		return err
	}
	cause := unix.EIO
	var st unix.Statfs_t
	if e := unix.Statfs(filepath.Dir(path), &st); e == nil && st.Bavail*uint64(st.Bsize) < 1<<20 {
		cause = unix.ENOSPC
	}
	return &fs.PathError{Op: "write", Path: path, Err: cause}
}

// IsDerivedBad reports whether err says that a derived file is missing or
// damaged, so that making it anew is the cure.
func IsDerivedBad(err error) bool {
	return err != nil && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, index.ErrCorrupt) || errors.Is(err, seek.ErrCorrupt))
}

// A Content is the uncompressed tar of one layer.
type Content struct {
	*seek.Reader
	files []io.Closer
}

// Close ends reading.
func (c *Content) Close() error {
	err := c.Reader.Close()
	for _, f := range c.files {
		err = errors.Join(err, f.Close())
	}
	return err
}

// OpenContent opens a layer for random access; a seek index that is missing
// or damaged is made anew.
func (s *Store) OpenContent(ctx context.Context, l Layer, cache *seek.Cache) (*Content, error) {
	c, err := s.openContent(l.Digest, cache)
	if !IsDerivedBad(err) {
		return c, err
	}
	if err := s.Rebuild(ctx, l); err != nil {
		return nil, err
	}
	return s.openContent(l.Digest, cache)
}

func (s *Store) openContent(d digest.Digest, cache *seek.Cache) (*Content, error) {
	blob, size, err := s.OpenBlob(d)
	if err != nil {
		return nil, err
	}
	return newContent(s.seekPath(d), s.sidecarPath(d), blob, 0, size, cache)
}

// newContent reads blob, which it takes over, size bytes from off.
func newContent(seekPath, sidecarPath string, blob *os.File, off, size int64, cache *seek.Cache) (*Content, error) {
	c, err := contentOf(seekPath, sidecarPath, io.NewSectionReader(blob, off, size), size, cache)
	if err != nil {
		blob.Close()
		return nil, err
	}
	c.files = append(c.files, blob)
	return c, nil
}

// contentOf reads blob, of size bytes; a seek index that speaks of a sidecar
// reads that instead.
func contentOf(seekPath, sidecarPath string, blob io.ReaderAt, size int64, cache *seek.Cache) (*Content, error) {
	c := new(Content)
	err := func() error {
		points, n, err := openSized(seekPath)
		if err != nil {
			return err
		}
		c.files = append(c.files, points)
		from := blob
		if sidecar, err := seek.UsesSidecar(points, n); err != nil {
			return err
		} else if sidecar {
			side, m, err := openSized(sidecarPath)
			if err != nil {
				return err
			}
			c.files = append(c.files, side)
			from, size = side, m
		}
		c.Reader, err = seek.Open(points, n, from, size, cache)
		return err
	}()
	if err != nil {
		for _, f := range c.files {
			f.Close()
		}
		return nil, err
	}
	return c, nil
}

func openSized(path string) (*os.File, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, fi.Size(), nil
}
