// SPDX-License-Identifier: Apache-2.0

package layerstore

import (
	"bytes"
	"context"
	_ "crypto/sha512" // digests may be sha512
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

var (
	// ErrNoBlob is returned for a blob that the store does not hold.
	ErrNoBlob = errors.New("no such blob")

	// ErrDigest marks bytes that are not those that their digest names.
	ErrDigest = errors.New("digest mismatch")
)

// A Store is the directory. Its methods are safe for concurrent use, also by
// several processes.
type Store struct {
	root     string
	sweepAge time.Duration // how old unlocked leftovers must be to be removed
	keep     Keep
}

// Open returns the store in directory root, which need not exist yet.
func Open(root string) (*Store, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	return &Store{root: root, sweepAge: defaultSweepAge}, nil
}

// Root returns the directory, absolute.
func (s *Store) Root() string { return s.root }

// Create makes the store's directories, readable by their owner only.
func (s *Store) Create() error {
	for _, d := range []string{"", "blobs", "index/layer", "index/tree", "index/seek", "index/sidecar", "index/hash", "index/place", "leases", "tmp"} {
		if err := os.MkdirAll(filepath.Join(s.root, d), 0o700); err != nil {
			return fmt.Errorf("store: %w", err)
		}
	}
	return nil
}

func (s *Store) blobPath(d digest.Digest) string {
	return filepath.Join(s.root, "blobs", d.Algorithm().String(), d.Encoded())
}

// LayerPath returns where the table of the layer diffID is.
func (s *Store) LayerPath(diffID digest.Digest) string {
	return filepath.Join(s.root, "index/layer", diffID.Encoded())
}

// TreePath returns where the tree of the stack chainID is.
func (s *Store) TreePath(chainID digest.Digest) string {
	return filepath.Join(s.root, "index/tree", chainID.Encoded())
}

func (s *Store) seekPath(d digest.Digest) string {
	return filepath.Join(s.root, "index/seek", d.Encoded())
}

func (s *Store) hashPath(diffID digest.Digest) string {
	return filepath.Join(s.root, "index/hash", diffID.Encoded())
}

func (s *Store) sidecarPath(d digest.Digest) string {
	return filepath.Join(s.root, "index/sidecar", d.Encoded())
}

// HasBlob reports whether the store holds a blob.
func (s *Store) HasBlob(d digest.Digest) bool {
	fi, err := os.Stat(s.blobPath(d))
	return err == nil && fi.Mode().IsRegular()
}

// OpenBlob opens a blob for reading; the error is ErrNoBlob where there is
// none. Its bytes were verified when they came, and may have been damaged
// since.
func (s *Store) OpenBlob(d digest.Digest) (*os.File, int64, error) {
	f, size, err := openSized(s.blobPath(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, fmt.Errorf("%s: %w", d, ErrNoBlob)
	}
	return f, size, err
}

// ReadBlob returns a small blob whole (limit bytes at most), verified.
func (s *Store) ReadBlob(d digest.Digest, limit int64) ([]byte, error) {
	f, size, err := s.OpenBlob(d)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size > limit {
		return nil, fmt.Errorf("%s: %d bytes, the limit is %d", d, size, limit)
	}
	b, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return nil, err
	}
	if d.Algorithm().FromBytes(b) != d {
		return nil, fmt.Errorf("%s: %w", d, ErrDigest)
	}
	return b, nil
}

// A Stage is a directory of its own where a load, or the rebuilding of what
// is derived, puts its files until all of them are good. Commit moves them
// to their names, Discard drops them. A stage whose process died is removed
// by the next one.
type Stage struct {
	s    *Store
	dir  string
	lock *os.File

	syncs errgroup.Group // of blobs, beside the passes over further layers

	mu    sync.Mutex // no I/O under it
	move  []move     // guarded by mu
	needs []string   // guarded by mu; blobs that were in the store already

	partials []digest.Digest // guarded by mu; blobs that came by a partial file
}

type move struct{ from, to string }

// NewStage makes an empty stage.
func (s *Store) NewStage() (*Stage, error) {
	if err := s.Create(); err != nil {
		return nil, err
	}
	s.sweep("tmp")
	s.sweep("leases")
	g := &Stage{s: s}
	g.syncs.SetLimit(8)
	err := s.claiming(func() (err error) {
		if g.dir, err = os.MkdirTemp(filepath.Join(s.root, "tmp"), "stage-"); err != nil {
			return err
		}
		if g.lock, err = os.Open(g.dir); err != nil {
			return err
		}
		if err = waitFlock(g.lock, unix.LOCK_EX); err != nil { // who tries whether it is locked does so for a moment
			os.RemoveAll(g.dir)
			g.lock.Close()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return g, nil
}

// flock opens and locks a file or directory, without waiting.
func flock(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// sweep removes what dead processes left in tmp or leases: entries that
// nobody holds locked. A name that was just made is locked within the same
// breath; the age keeps the sweep from that gap.
func (s *Store) sweep(dir string) {
	list, err := os.ReadDir(filepath.Join(s.root, dir))
	if err != nil {
		return
	}
	for _, e := range list {
		fi, err := e.Info()
		if err != nil || !olderThan(fi, s.sweepAge) || e.Name() == filepath.Base(partialDir) {
			continue
		}
		path := filepath.Join(s.root, dir, e.Name())
		if f, err := flock(path); err == nil {
			os.RemoveAll(path)
			f.Close()
		}
	}
}

// file returns the path of a new file in the stage that Commit moves to to.
func (g *Stage) file(to string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	from := filepath.Join(g.dir, fmt.Sprintf("%d", len(g.move)))
	g.move = append(g.move, move{from, to})
	return from
}

// Temp returns the path of a file that Commit does not move.
func (g *Stage) Temp(name string) string { return filepath.Join(g.dir, name) }

// Blob puts a small document into the stage under its digest.
func (g *Stage) Blob(d digest.Digest, raw []byte) error {
	path := g.s.blobPath(d)
	if g.staged(path) != "" {
		return nil
	}
	if err := g.claim(path); err != nil {
		return err
	}
	if have, err := g.s.ReadBlob(d, int64(len(raw))); err == nil && bytes.Equal(have, raw) {
		g.need(path)
		return nil
	}
	return writeSynced(g.file(path), raw)
}

// need notes that what the stage brings is not whole without the file path,
// which it has claimed.
func (g *Stage) need(path string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.needs = append(g.needs, path)
}

func writeSynced(path string, raw []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	return errors.Join(err, f.Sync(), f.Close())
}

// staged returns where the file that will be to lies now, or "".
func (g *Stage) staged(to string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, m := range g.move {
		if m.to == to {
			return m.from
		}
	}
	return ""
}

// Path returns where the file that is or will be path can be read now.
func (g *Stage) Path(path string) string {
	if from := g.staged(path); from != "" {
		return from
	}
	return path
}

// New returns the path for a new file in the stage that Commit moves to to.
func (g *Stage) New(to string) string { return g.file(to) }

// Commit moves all files to their names. What is there already is replaced by
// the same content. The names of blobs are durable when Commit returns; those of
// derived files need not be.
func (g *Stage) Commit() error {
	_, err := g.commit()
	if err == nil {
		g.Discard()
	}
	return err
}

// commit is Commit; made are the names that were not there before, also after
// an error.
func (g *Stage) commit() (made []string, err error) {
	if err := g.syncs.Wait(); err != nil {
		return nil, err
	}
	g.mu.Lock()
	moves := g.move
	g.mu.Unlock()
	targets := make([]string, len(moves))
	for i, m := range moves {
		targets[i] = m.to
	}
	if err := g.claim(targets...); err != nil {
		return nil, err
	}
	dirs := make(map[string]bool)
	for _, m := range moves {
		dir := filepath.Dir(m.to)
		if !dirs[dir] {
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return made, err
			}
			dirs[dir] = true
		}
		_, statErr := os.Lstat(m.to)
		if err := os.Rename(m.from, m.to); err != nil {
			return made, err
		}
		if statErr != nil {
			made = append(made, m.to)
		}
	}
	for dir := range dirs {
		if strings.HasPrefix(dir, g.s.root+"/index/") {
			continue
		}
		if err := syncDir(dir); err != nil {
			return made, err
		}
		if err := syncDir(filepath.Dir(dir)); err != nil { // dir itself may be new
			return made, err
		}
	}
	return made, nil
}

// ErrVanished is returned by Publish if a blob that the store held when the
// stage was filled is there no more. Filling a new stage is the cure.
var ErrVanished = errors.New("blob vanished while it was needed")

// Publish commits the stage and then stores images and the names that point
// to them, in one transaction: they are all there or none is. On an error the
// files that only this stage brought are removed again.
func (g *Stage) Publish(refs []Ref, images []Image) error {
	made, err := g.commit()
	if err == nil {
		err = g.s.addRefs(refs, images, g.whole)
	}
	if err != nil {
		g.takeBack(made)
		return err
	}
	g.s.dropPartials(g.partials)
	g.Discard() // the names hold it now
	return nil
}

// whole returns nil if every blob of the stage is in the store.
func (g *Stage) whole() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	blobs := filepath.Join(g.s.root, "blobs") + "/"
	paths := g.needs
	for _, m := range g.move {
		if strings.HasPrefix(m.to, blobs) {
			paths = append(paths, m.to)
		}
	}
	for _, path := range paths {
		if _, err := os.Lstat(path); err != nil {
			// Not the chain: nothing that the user named was not found.
			return fmt.Errorf("%w: %v", ErrVanished, err)
		}
	}
	return nil
}

// takeBack removes the files made, except those that something else than the
// stage keeps by now.
func (g *Stage) takeBack(made []string) {
	for i := range made {
		made[i] = g.s.rel(made[i])
	}
	os.Remove(filepath.Join(g.dir, claimsName))
	g.s.collect(context.Background(), made, g) // what it cannot remove is left to a prune
}

func syncDir(dir string) error { return syncFile(dir) }

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Discard drops the stage and what was not committed.
func (g *Stage) Discard() {
	g.syncs.Wait()
	os.RemoveAll(g.dir)
	g.lock.Close()
}
