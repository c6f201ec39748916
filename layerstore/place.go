// SPDX-License-Identifier: Apache-2.0

package layerstore

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/layerstore/seek"
)

// A Place is a layer that is read where it lies: a range of a file that is
// not the store's. The file is known by device, inode, size, mtime and ctime;
// what is derived is kept under that identity and never under a diffID, which
// is only the image's word until the layer is verified.
type Place struct {
	s     *Store
	layer Layer // Digest may be ""
	f     *os.File
	id    [sha256.Size]byte
	off   int64
	size  int64
	cache *seek.Cache

	state atomic.Pointer[placeState]
}

// placeState is immutable.
type placeState struct {
	r        io.ReaderAt
	content  *Content // nil while unverified
	verified bool
	err      error // the layer failed: no read succeeds any more
}

// OpenPlace opens size bytes at off of the file path as the layer l. A
// compressed layer that was not seen before is decoded and verified whole
// here; a plain tar is only scanned for its names, and Verify is to be called.
func (s *Store) OpenPlace(ctx context.Context, l Layer, path string, off, size int64, cache *seek.Cache, limits index.Limits) (*Place, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	p := &Place{s: s, layer: l, f: f, off: off, size: size, cache: cache}
	if err := p.open(ctx, limits); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

func (p *Place) identity() (id [sha256.Size]byte, err error) {
	fi, err := p.f.Stat()
	if err != nil {
		return id, err
	}
	st := fi.Sys().(*syscall.Stat_t)
	return sha256.Sum256(fmt.Appendf(nil, "%d %d %d %d %d %d %d %d %d",
		st.Dev, st.Ino, st.Size, st.Mtim.Sec, st.Mtim.Nsec, st.Ctim.Sec, st.Ctim.Nsec, p.off, p.size)), nil
}

func (p *Place) path(kind string) string {
	return filepath.Join(p.s.root, "index/place", fmt.Sprintf("%x.%s", p.id, kind))
}

// Key names the place in a tree's meta and in the tree's own name.
func (p *Place) Key() string { return fmt.Sprintf("%x", p.id) }

// Layer returns what is known of the layer by now.
func (p *Place) Layer() Layer { return p.layer }

// Verified reports whether the bytes were found to be those of their digests.
func (p *Place) Verified() bool { return p.state.Load().verified }

func (p *Place) section() *io.SectionReader { return io.NewSectionReader(p.f, p.off, p.size) }

func (p *Place) open(ctx context.Context, limits index.Limits) (err error) {
	if p.id, err = p.identity(); err != nil {
		return err
	}
	if known, ok := p.known(); ok {
		if err := p.agrees(known); err != nil {
			return err
		}
		known.MediaType = p.layer.MediaType
		p.layer = known
		c, err := p.content()
		if err == nil {
			p.state.Store(&placeState{r: c, content: c, verified: true})
			return nil
		}
		if !IsDerivedBad(err) {
			return err
		}
	}
	head := make([]byte, 512)
	n, err := p.section().ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return err
	}
	if seek.Detect(head[:n]) != seek.None {
		return p.pass(ctx, limits)
	}
	p.layer.Size, p.layer.TarSize, p.layer.Compression = p.size, p.size, seek.None.String()
	p.state.Store(&placeState{r: &unverified{p}})
	t, err := index.Open[index.EntryID](p.path("table"))
	if err == nil {
		p.layer.setOddities(t.Meta())
		return t.Close()
	}
	if !IsDerivedBad(err) {
		return err
	}
	return p.scan(limits)
}

// known reads the word that an earlier pass left: this place is verified.
func (p *Place) known() (l Layer, ok bool) {
	raw, err := os.ReadFile(p.path("ok"))
	return l, err == nil && json.Unmarshal(raw, &l) == nil
}

func (p *Place) agrees(known Layer) error {
	if p.layer.DiffID != "" && known.DiffID != p.layer.DiffID {
		return fmt.Errorf("%w: the uncompressed layer is %s, the config says %s", ErrDigest, known.DiffID, p.layer.DiffID)
	}
	if p.layer.Digest != "" && known.Digest != p.layer.Digest {
		return fmt.Errorf("%w: the blob is %s, not %s", ErrDigest, known.Digest, p.layer.Digest)
	}
	return nil
}

// scan makes the table of a plain tar from its headers alone.
func (p *Place) scan(limits index.Limits) error {
	g, err := p.s.NewStage()
	if err != nil {
		return err
	}
	defer g.Discard()
	m, err := scanTable(&headerReader{r: p.section()}, g.New(p.path("table")), limits)
	if err != nil {
		return err
	}
	p.layer.setOddities(m)
	return g.Commit()
}

// unverified reads a plain tar as it lies. A file that is changed under the
// mount has another identity: its bytes are not those that were scanned.
type unverified struct{ p *Place }

func (u *unverified) ReadAt(b []byte, off int64) (int, error) {
	n, err := u.p.section().ReadAt(b, off)
	if errID := u.p.unchanged(); errID != nil {
		return 0, errID
	}
	return n, err
}

// ErrChanged marks a file that was changed while it was mounted in place.
var ErrChanged = errors.New("the file was changed while it was in use")

func (p *Place) unchanged() error {
	id, err := p.identity()
	if err == nil && id != p.id {
		err = fmt.Errorf("%s: %w", p.f.Name(), ErrChanged)
	}
	return err
}

// pass reads the layer whole, verifies it and keeps what is derived.
func (p *Place) pass(ctx context.Context, limits index.Limits) error {
	g, err := p.s.NewStage()
	if err != nil {
		return err
	}
	defer g.Discard()
	files := passFiles{table: g.Temp("table"), seek: g.Temp("seek"), sidecar: g.Temp("sidecar")}
	res, err := runPass(ctx, p.section(), files, p.layer.Digest, p.layer.DiffID, limits)
	if err != nil {
		return err
	}
	if err := p.unchanged(); err != nil {
		return err
	}
	l := res.layer(p.layer)
	g.move = append(g.move, move{files.table, p.path("table")}, move{files.seek, p.path("seek")})
	if res.seek.Sidecar {
		g.move = append(g.move, move{files.sidecar, p.path("sidecar")})
	}
	raw, err := json.Marshal(l)
	if err != nil {
		return err
	}
	if err := os.WriteFile(g.New(p.path("ok")), raw, 0o600); err != nil {
		return err
	}
	if err := g.Commit(); err != nil {
		return err
	}
	c, err := p.content()
	if err != nil {
		return err
	}
	if p.state.Load() == nil {
		p.layer = l
	}
	p.state.Store(&placeState{r: c, content: c, verified: true})
	return nil
}

// content opens the checked reader. It has a descriptor of its own.
func (p *Place) content() (*Content, error) {
	fd, err := syscall.Dup(int(p.f.Fd()))
	if err != nil {
		return nil, err
	}
	syscall.CloseOnExec(fd)
	return newContent(p.path("seek"), p.path("sidecar"), os.NewFile(uintptr(fd), p.f.Name()), p.off, p.size, p.cache)
}

// OpenTable opens the layer's table.
func (p *Place) OpenTable(ctx context.Context) (*index.Layer, error) {
	return openDerived(p.path("table"), func() error {
		if p.Verified() {
			return p.pass(ctx, index.Limits{})
		}
		return p.scan(index.Limits{})
	})
}

// Verify reads the layer whole, unless that was done before. If it is not
// what its digests say, every read fails from then on; an error of the disk
// (it may be full) leaves it unverified.
func (p *Place) Verify(ctx context.Context) error {
	if st := p.state.Load(); st.verified || st.err != nil {
		return st.err
	}
	err := p.pass(ctx, index.Limits{})
	switch {
	case errors.Is(err, ErrDigest), errors.Is(err, ErrChanged), errors.Is(err, seek.ErrFormat),
		errors.Is(err, index.ErrBadLayer), errors.Is(err, index.ErrLimit):
		p.state.Store(&placeState{err: err})
	}
	return err
}

// ReadAt reads the uncompressed tar.
func (p *Place) ReadAt(b []byte, off int64) (int, error) {
	st := p.state.Load()
	if st.err != nil {
		return 0, st.err
	}
	return st.r.ReadAt(b, off)
}

// Close ends reading.
func (p *Place) Close() error {
	err := p.f.Close()
	if st := p.state.Load(); st != nil && st.content != nil {
		err = errors.Join(err, st.content.Close())
	}
	return err
}

// PlaceTreePath returns where the tree of a stack of places is, by their keys.
func (s *Store) PlaceTreePath(keys []string) string {
	h := sha256.New()
	for _, k := range keys {
		fmt.Fprintln(h, k)
	}
	return filepath.Join(s.root, "index/place", fmt.Sprintf("%x.tree", h.Sum(nil)))
}

// A headerReader reads a tar whose content is leapt over: through a small
// buffer, since headers of small files lie close together.
type headerReader struct {
	r      *io.SectionReader
	pos    int64
	buf    [4096]byte
	lo, hi int64 // what buf holds of r
}

func (h *headerReader) Read(p []byte) (int, error) {
	if len(p) >= len(h.buf) {
		n, err := h.r.ReadAt(p, h.pos)
		h.pos += int64(n)
		if n > 0 {
			err = nil
		}
		return n, err
	}
	if h.pos < h.lo || h.pos >= h.hi {
		n, err := h.r.ReadAt(h.buf[:], h.pos)
		h.lo, h.hi = h.pos, h.pos+int64(n)
		if n == 0 {
			return 0, err
		}
	}
	n := copy(p, h.buf[h.pos-h.lo:h.hi-h.lo])
	h.pos += int64(n)
	return n, nil
}

func (h *headerReader) Seek(off int64, whence int) (int64, error) {
	if whence != io.SeekCurrent || off < 0 {
		return h.pos, errors.ErrUnsupported
	}
	h.pos += off
	return h.pos, nil
}
