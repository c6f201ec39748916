// SPDX-License-Identifier: Apache-2.0

package layerstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/noatime"
	"github.com/imgfs/imgfs/layerstore/seek"
)

// A Place is a layer that is read where it lies: Bytes that are not the
// store's, most often a range of a file, which is known by device, inode, size,
// mtime and ctime. What is derived is kept under that identity:
//
//	HEX.scan     the table made from the headers alone
//	HEX.table    the table made by a pass that verified the layer
//	HEX.seek     its seek points, HEX.sidecar its seekable copy
//	HEX.hash     the content hashes of its files
//	HEX.at       where it lies, so that a prune finds out when it is gone
//	HEX.ok       the word that HEX.table and HEX.seek are of a verified layer
//
// The identity is no proof: a file that is written through a map changes
// without a new mtime. So a scan is never taken for a verified table, and a
// place that was read by a scan is verified only if the verifying pass finds
// the very same table.
type Place struct {
	s     *Store
	want  Layer // Digest may be ""
	src   Bytes
	id    [sha256.Size]byte // the hash of src's identity
	size  int64             // of src
	why   string            // nothing proves the layer; "" = its diffID does
	cache *seek.Cache

	// scanned is the sha256 of the table that an unverified place shows. It is
	// set by OpenPlace and immutable then.
	scanned [sha256.Size]byte

	verify sync.Mutex // held while Verify reads the layer
	state  atomic.Pointer[placeState]
}

// placeState is immutable.
type placeState struct {
	layer    Layer // what is known by now
	r        io.ReaderAt
	content  *Content // nil while unverified
	verified bool
	err      error // the layer failed: no read succeeds any more
}

// A Range says where a layer lies.
type Range struct {
	Path      string
	Off, Size int64       // bytes
	File      fs.FileInfo // Path must still be this file; nil = it may be any
}

// OpenPlace opens what lies at at as the layer l. A compressed layer that was
// not seen before is decoded and verified whole here, any layer if verify is
// true; else a plain tar is only scanned for its names, and Verify is to be
// called.
func (s *Store) OpenPlace(ctx context.Context, l Layer, at Range, verify bool, cache *seek.Cache, limits index.Limits) (*Place, error) {
	f, err := openRegular(at.Path, at.File)
	if err != nil {
		return nil, err
	}
	src := &fileRange{io.NewSectionReader(f, at.Off, at.Size), f}
	p, err := s.OpenBytes(ctx, l, src, verify, cache, limits)
	if err != nil {
		f.Close()
	}
	return p, err
}

// OpenBytes is OpenPlace of bytes that lie in no one file. They are the place's
// to close, unless there is an error.
func (s *Store) OpenBytes(ctx context.Context, l Layer, src Bytes, verify bool, cache *seek.Cache, limits index.Limits) (*Place, error) {
	p := &Place{s: s, want: l, src: src, cache: cache}
	if err := p.open(ctx, verify, limits); err != nil {
		return nil, errors.Join(err, p.closeContent())
	}
	return p, nil
}

// openRegular opens a regular file, and no other than same if that is not nil.
func openRegular(path string, same fs.FileInfo) (*os.File, error) {
	// O_NONBLOCK: a pipe that took the file's place must not hang us.
	f, err := noatime.Open(path, syscall.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	switch {
	case err != nil:
	case !fi.Mode().IsRegular():
		err = &fs.PathError{Op: "open", Path: path, Err: errors.New("not a regular file")}
	case same != nil && !os.SameFile(fi, same):
		err = fmt.Errorf("%s: %w", path, ErrChanged)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (p *Place) identity() (id [sha256.Size]byte, err error) {
	text, err := p.src.Identity()
	return sha256.Sum256([]byte(text)), err
}

func (p *Place) path(kind string) string {
	return filepath.Join(p.s.root, "index/place", fmt.Sprintf("%x.%s", p.id, kind))
}

// Key names the layer's table in a tree's meta and in the tree's own name: by
// its diffID if it is verified, else by what was scanned.
func (p *Place) Key() string {
	if st := p.state.Load(); st.verified {
		return string(st.layer.DiffID)
	}
	return fmt.Sprintf("%x %x", p.id, p.scanned)
}

// Bytes returns what the layer is read from.
func (p *Place) Bytes() Bytes { return p.src }

// Layer returns what is known of the layer by now.
func (p *Place) Layer() Layer { return p.state.Load().layer }

// Verified reports whether the bytes were found to be those of their digests.
func (p *Place) Verified() bool { return p.state.Load().verified }

// Failed returns why the layer is not what its digests say, or nil as long as
// nothing speaks against it.
func (p *Place) Failed() error { return p.state.Load().err }

func (p *Place) section() *io.SectionReader { return io.NewSectionReader(p.src, 0, p.size) }

func (p *Place) open(ctx context.Context, verify bool, limits index.Limits) (err error) {
	if p.id, err = p.identity(); err != nil {
		return err
	}
	// A word that disagrees condemns nothing: the bytes are asked then.
	if known, ok := p.known(); ok && p.agrees(known) {
		known.MediaType, p.size, p.why = p.want.MediaType, known.Size, known.Unproven
		c, err := p.content()
		if err == nil {
			p.state.Store(&placeState{layer: known, r: c, content: c, verified: true})
			return nil
		}
		if !IsDerivedBad(err) {
			return err
		}
	}
	if at, ok := p.scannedAt(); ok && !verify {
		p.size, p.why = at.Size, at.Unproven
		return p.openScanned(ctx, limits)
	}
	if p.size, err = p.src.Size(ctx); err != nil {
		return err
	}
	if p.why, err = p.unproven(ctx); err != nil {
		return err
	}
	head := make([]byte, 512)
	n, err := p.src.Headers().ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return err
	}
	if verify || seek.Detect(head[:n]) != seek.None {
		return p.pass(ctx, limits)
	}
	return p.openScanned(ctx, limits)
}

// openScanned opens a plain tar by its headers alone.
func (p *Place) openScanned(ctx context.Context, limits index.Limits) error {
	t, sum, err := p.openScan(ctx, limits)
	if err != nil {
		return err
	}
	p.scanned = sum
	l := p.want
	l.Size, l.TarSize, l.Compression = p.size, p.size, seek.None.String()
	l.setOddities(t.Meta())
	l.setUnproven(p.why)
	p.state.Store(&placeState{layer: l, r: &unverified{p}})
	return t.Close()
}

// known reads the word that an earlier pass left: this place is verified.
func (p *Place) known() (l Layer, ok bool) { return readWord(p.path("ok")) }

// readWord reads what writeWord wrote.
func readWord(path string) (l Layer, ok bool) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return l, false
	}
	sum, word, found := bytes.Cut(raw, []byte("\n"))
	if !found || string(sum) != wordSum(word) || json.Unmarshal(word, &l) != nil {
		return Layer{}, false
	}
	return l, l.DiffID != ""
}

// writeWord writes what known reads: the sha256 of the second line, in hex,
// and the layer.
func writeWord(path string, l Layer) error {
	word, err := json.Marshal(l)
	if err != nil {
		return err
	}
	return os.WriteFile(path, append([]byte(wordSum(word)+"\n"), word...), 0o600)
}

func wordSum(word []byte) string { return fmt.Sprintf("%x", sha256.Sum256(word)) }

func (p *Place) agrees(known Layer) bool {
	return (p.want.DiffID == "" || known.Unproven != "" || known.DiffID == p.want.DiffID) &&
		(p.want.Digest == "" || known.Digest == p.want.Digest)
}

// openScan opens the table that was scanned from the headers, made anew if it
// is missing or damaged, and returns the sha256 of its file.
func (p *Place) openScan(ctx context.Context, limits index.Limits) (*index.Layer, [sha256.Size]byte, error) {
	t, sum, err := openSummed(p.path("scan"))
	if !IsDerivedBad(err) {
		return t, sum, err
	}
	if err := p.scan(ctx, limits); err != nil {
		return nil, sum, err
	}
	return openSummed(p.path("scan"))
}

// openSummed opens a table and returns the sha256 of its file.
func openSummed(path string) (*index.Layer, [sha256.Size]byte, error) {
	for {
		f, err := os.Open(path)
		if err != nil {
			return nil, [sha256.Size]byte{}, err
		}
		t, sum, again, err := openSame(path, f)
		f.Close()
		if !again {
			return t, sum, err
		}
	}
}

// openSame opens the table path, which is the open file f. again tells that
// another file has taken its place.
func openSame(path string, f *os.File) (t *index.Layer, sum [sha256.Size]byte, again bool, err error) {
	if sum, err = sumFile(f); err != nil {
		return nil, sum, false, err
	}
	if t, err = index.Open[index.EntryID](path); err != nil {
		return nil, sum, false, err
	}
	// What path was before and is behind the opening, it was meanwhile.
	now, err := os.Stat(path)
	then, errThen := f.Stat()
	if err = errors.Join(err, errThen); err == nil && os.SameFile(now, then) {
		return t, sum, false, nil
	}
	t.Close()
	return nil, sum, err == nil, err
}

func sumFile(f *os.File) (sum [sha256.Size]byte, err error) {
	h := sha256.New()
	_, err = io.Copy(h, f)
	h.Sum(sum[:0])
	return sum, err
}

// scan makes the table of a plain tar from its headers alone. Nothing but the
// names, as they are at this moment, is known then.
func (p *Place) scan(ctx context.Context, limits index.Limits) error {
	g, err := p.s.NewStage()
	if err != nil {
		return err
	}
	defer g.Discard()
	if err := p.writeAt(g.New(p.path("at"))); err != nil {
		return err
	}
	if _, err := scanTable(ctx, &headerReader{ctx: ctx, r: io.NewSectionReader(p.src.Headers(), 0, p.size)}, g.New(p.path("scan")), limits, nil); err != nil {
		return err
	}
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
		err = fmt.Errorf("%s: %w", p.src.Name(), ErrChanged)
	}
	return err
}

// pass reads the layer whole, verifies it and keeps what is derived. The state
// is verified then; one that was so before stays as it is, readers may be in it.
func (p *Place) pass(ctx context.Context, limits index.Limits) error {
	g, err := p.s.NewStage()
	if err != nil {
		return err
	}
	defer g.Discard()
	files := passFiles{table: g.Temp("table"), seek: g.Temp("seek"), sidecar: g.Temp("sidecar"), hashes: g.Temp("hashes")}
	st := p.state.Load()
	want := p.want
	if st != nil && st.verified {
		want = st.layer
	}
	if p.why != "" {
		want.DiffID = ""
	}
	res, err := runPass(ctx, p.section(), files, want.Digest, want.DiffID, limits)
	if err != nil {
		return err
	}
	if err := p.unchanged(); err != nil {
		return err
	}
	if st != nil && !st.verified {
		if err := p.sameTable(files.table); err != nil {
			return err
		}
	}
	l := res.layer(p.want)
	l.setUnproven(p.why)
	if err := p.writeAt(g.New(p.path("at"))); err != nil {
		return err
	}
	g.move = append(g.move, move{files.table, p.path("table")}, move{files.hashes, p.path("hash")}, move{files.seek, p.path("seek")})
	if res.seek.Sidecar {
		g.move = append(g.move, move{files.sidecar, p.path("sidecar")})
	}
	if err := writeWord(g.New(p.path("ok")), l); err != nil { // moved last
		return err
	}
	if err := g.Commit(); err != nil {
		return err
	}
	if st != nil && st.verified {
		return nil
	}
	c, err := p.content()
	if err != nil {
		return err
	}
	p.state.Store(&placeState{layer: l, r: c, content: c, verified: true})
	return nil
}

// sameTable makes sure that the table path, made by a verifying pass, is the
// one that was scanned and may be mounted: its names and modes are verified by
// that. A scan that differs is dropped, so that the next opening makes another.
func (p *Place) sameTable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	sum, err := sumFile(f)
	if err != nil || sum == p.scanned {
		return err
	}
	os.Remove(p.path("scan"))
	return fmt.Errorf("%s: %w", p.src.Name(), ErrChanged)
}

// content opens the checked reader. Closing it leaves src open.
func (p *Place) content() (*Content, error) {
	return contentOf(p.path("seek"), p.path("sidecar"), p.section(), p.size, p.cache)
}

// OpenTable opens the layer's table: the one that Key names.
func (p *Place) OpenTable(ctx context.Context) (*index.Layer, error) {
	if p.Verified() {
		return openDerived(p.path("table"), func() error { return p.pass(ctx, index.Limits{}) })
	}
	t, sum, err := p.openScan(ctx, index.Limits{})
	if err != nil {
		return nil, err
	}
	if sum != p.scanned {
		t.Close()
		return nil, fmt.Errorf("%s: %w", p.src.Name(), ErrChanged)
	}
	return t, nil
}

// OpenHashes opens the content hashes of the layer, which is read whole and
// verified before if it was not yet.
func (p *Place) OpenHashes(ctx context.Context) (*index.Hashes, error) {
	if err := p.Verify(ctx); err != nil {
		return nil, err
	}
	path := p.path("hash")
	return orRebuilt(func() (*index.Hashes, error) { return index.OpenHashes(path) }, func() error { return p.pass(ctx, index.Limits{}) })
}

// Verify reads the layer whole, unless that was done before. If it is not
// what its digests say, or its names are not those that were scanned, every
// read fails from then on; an error of the disk (it may be full) leaves it
// unverified.
func (p *Place) Verify(ctx context.Context) error {
	p.verify.Lock()
	defer p.verify.Unlock()
	st := p.state.Load()
	if st.verified || st.err != nil {
		return st.err
	}
	err := p.pass(ctx, index.Limits{})
	switch {
	case errors.Is(err, ErrDigest), errors.Is(err, ErrChanged), errors.Is(err, seek.ErrFormat),
		errors.Is(err, index.ErrBadLayer), errors.Is(err, index.ErrLimit):
		p.state.Store(&placeState{layer: st.layer, err: err})
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

// Cached is that of seek.Reader; of a layer that is not verified nothing is.
func (p *Place) Cached(off, n int64) bool {
	st := p.state.Load()
	return st.verified && st.content.Cached(off, n)
}

// Close ends reading.
func (p *Place) Close() error {
	return errors.Join(p.closeContent(), p.src.Close())
}

func (p *Place) closeContent() error {
	if st := p.state.Load(); st != nil && st.content != nil {
		return st.content.Close()
	}
	return nil
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
	ctx    context.Context
	r      *io.SectionReader
	pos    int64
	buf    [4096]byte
	lo, hi int64 // what buf holds of r
}

func (h *headerReader) Read(p []byte) (int, error) {
	if err := h.ctx.Err(); err != nil {
		return 0, err
	}
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
