// SPDX-License-Identifier: Apache-2.0

package layerstore

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// In partialDir are blobs on their way here: the bytes that came so far, from
// the first on, under ALGORITHM-HEX. Such a file is locked by who fetches its
// blob, and nothing in it is verified. It stays when that breaks off, so that
// the next to fetch the blob goes on at its end.

// partialAge is how long what was broken off is kept.
const partialAge = 7 * 24 * time.Hour

// partialPoll is how often somebody who waits for another's fetch looks. It is
// a network's time, not a disk's.
const partialPoll = 20 * time.Millisecond

// A partial is a blob of which bytes come, and which is read meanwhile. It is
// locked against all others.
type partial struct {
	f    *os.File
	path string

	mu    sync.Mutex
	grown sync.Cond // size or err changed
	size  int64     // guarded by mu; bytes that are there
	err   error     // guarded by mu; why no more come
}

func (s *Store) partialPath(d digest.Digest) string {
	return filepath.Join(s.root, partialDir, d.Algorithm().String()+"-"+d.Encoded())
}

// lockPartial opens what came of the blob d before, perhaps nothing. It waits
// until nobody else fetches d, or ctx ends.
func (s *Store) lockPartial(ctx context.Context, d digest.Digest) (*partial, error) {
	path := s.partialPath(d)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		fi, err := waitPartial(ctx, f)
		if err != nil {
			f.Close()
			return nil, err
		}
		// Whoever had it may have removed it, and another made a new one.
		if now, err := os.Lstat(path); err == nil && os.SameFile(fi, now) {
			p := &partial{f: f, path: path, size: fi.Size()}
			p.grown.L = &p.mu
			return p, nil
		}
		f.Close()
	}
}

// waitPartial locks f and returns what it is then.
func waitPartial(ctx context.Context, f *os.File) (fs.FileInfo, error) {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return f.Stat()
		case err != unix.EWOULDBLOCK && err != unix.EINTR:
			return nil, &fs.PathError{Op: "flock", Path: f.Name(), Err: err}
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(partialPoll):
		}
	}
}

// empty drops what is there.
func (p *partial) empty() error {
	p.mu.Lock()
	p.size, p.err = 0, nil
	p.mu.Unlock()
	if err := p.f.Truncate(0); err != nil {
		return err
	}
	_, err := p.f.Seek(0, io.SeekStart)
	return err
}

// fill appends what r has to the file and reports each piece.
func (p *partial) fill(r io.Reader) error {
	off, err := p.f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	w := &blobWriter{f: p.f, size: off, started: off}
	buf := make([]byte, bufferSize)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
			p.mu.Lock()
			p.size += int64(n)
			p.mu.Unlock()
			p.grown.Broadcast()
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// end says that no more bytes come, and why if it is not the end.
func (p *partial) end(err error) {
	p.mu.Lock()
	p.err = err
	p.mu.Unlock()
	p.grown.Broadcast()
}

// failed returns why bytes that were to come did not.
func (p *partial) failed() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// A partialReader reads a partial to byte total, and waits for bytes that are
// still to come.
type partialReader struct {
	p          *partial
	pos, total int64
	told       io.Writer
}

func (r *partialReader) Read(b []byte) (int, error) {
	if r.pos == r.total {
		return 0, io.EOF
	}
	r.p.mu.Lock()
	for r.p.size <= r.pos && r.p.err == nil {
		r.p.grown.Wait()
	}
	size, err := r.p.size, r.p.err
	r.p.mu.Unlock()
	if size <= r.pos {
		return 0, err
	}
	b = b[:min(int64(len(b)), size-r.pos, r.total-r.pos)]
	n, err := r.p.f.ReadAt(b, r.pos)
	r.pos += int64(n)
	r.told.Write(b[:n]) // a bar; it has nothing to say
	if err == io.EOF && n == len(b) {
		err = nil
	}
	return n, err
}

// remove removes the file's name. Who holds it by another has it still.
func (p *partial) remove() { os.Remove(p.path) }

// Close unlocks the file. It stays as it is, unless nothing is in it.
func (p *partial) Close() error {
	if p.size == 0 { // nobody else is at it any more
		p.remove()
	}
	return p.f.Close()
}

// dropPartials removes the partial files of blobs that are in the store now,
// unless somebody holds one.
func (s *Store) dropPartials(digests []digest.Digest) {
	for _, d := range digests {
		s.dropPartial(s.partialPath(d))
	}
}

func (s *Store) dropPartial(path string) {
	f, err := flock(path)
	if err != nil {
		return
	}
	os.Remove(path)
	f.Close()
}

// sweepPartials removes what was broken off long ago.
func (s *Store) sweepPartials() {
	dir := filepath.Join(s.root, partialDir)
	list, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range list {
		if fi, err := e.Info(); err == nil && olderThan(fi, partialAge) {
			s.dropPartial(filepath.Join(dir, e.Name()))
		}
	}
}

// linkOrMove gives a file a second name or, on a disk that has no such thing,
// another name.
func linkOrMove(from, to string) error {
	err := os.Link(from, to)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EMLINK) {
		return os.Rename(from, to)
	}
	return err
}
