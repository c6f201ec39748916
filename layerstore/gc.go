// SPDX-License-Identifier: Apache-2.0

package layerstore

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// What keeps a file of blobs/ or index/:
//
//   - a name, through the image records of its platforms, and the documents of
//     its index; an image without a name is kept by a record under NUL + digest
//   - a claim: the lease of an open image, or a stage (see claims)
//   - what the caller keeps (see Keep): uppers
//   - index/place: the file that it was made from, as long as that is unchanged
//
// Names are removed in a transaction that sees all of these at one moment.
// Files are removed later, in batches: each takes the lock of the database
// alone, looks again at what keeps files, and moves those that nothing keeps
// into a stage, which is one rename each. They are deleted when the lock is
// free again. A process that dies between any two of these steps leaves files
// that nothing keeps, or a stage that nobody has locked: the next prune has
// them.

// A Use says that somebody relies on an image, whatever its names.
type Use struct {
	By       string        // "upper x", "process 123"
	PID      int           // 0: no process
	Manifest digest.Digest // "" if ID tells it
	ID       digest.Digest
}

// Keep tells a store what else keeps images. The functions are called with the
// lock of the database held, and must neither wait nor use the store's
// database. The zero Keep keeps nothing.
type Keep struct {
	// Uses returns the images that are relied on by what the store does not
	// know. On an error nothing is removed.
	Uses func() ([]Use, error)
	// Documents returns the blobs that a name needs besides its target and the
	// images of its platforms.
	Documents func(Ref) ([]digest.Digest, error)
}

// SetKeep says what else keeps images. It is called before the store is used.
func (s *Store) SetKeep(k Keep) { s.keep = k }

// noLayers stands for the chainID of an image without layers.
const noLayers = digest.Digest("sha256:0000000000000000000000000000000000000000000000000000000000000000")

// imageFiles returns the files that an image needs, or that are derived from
// it, relative to the store, whether they are there or not.
func (s *Store) imageFiles(i *Image) []string {
	chain := i.ChainID
	if chain == "" {
		chain = noLayers
	}
	paths := []string{s.TreePath(chain)}
	for _, d := range []digest.Digest{i.ID, i.Manifest} {
		if d.Validate() == nil {
			paths = append(paths, s.blobPath(d))
		}
	}
	for _, l := range i.Layers {
		paths = append(paths, s.layerFiles(l)...)
	}
	for k := range paths {
		paths[k] = paths[k][len(s.root)+1:]
	}
	return paths
}

// layerFiles returns the files of a layer.
func (s *Store) layerFiles(l Layer) (paths []string) {
	if l.Digest.Validate() == nil {
		paths = append(paths, s.blobPath(l.Digest), s.seekPath(l.Digest), s.sidecarPath(l.Digest))
	}
	if l.DiffID.Validate() == nil {
		paths = append(paths, s.LayerPath(l.DiffID), s.hashPath(l.DiffID))
	}
	return paths
}

// claimed is what leases and stages keep at one moment.
type claimed struct {
	all   bool // nothing may be removed
	files []string
	uses  []Use
}

// readAllClaims reads the claims of living processes, and returns what dead
// ones left, locked.
//
// Preconditions: the lock of the database is held alone, or nothing is removed.
func (s *Store) readAllClaims() (c claimed, dead []*os.File, err error) {
	for _, dir := range []string{"leases", "tmp"} {
		list, err := os.ReadDir(filepath.Join(s.root, dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return c, dead, err
		}
		for _, e := range list {
			path := filepath.Join(s.root, dir, e.Name())
			if dir == "tmp" && !strings.HasPrefix(e.Name(), "stage-") {
				continue
			}
			f, err := flock(path)
			switch {
			case err == nil:
				dead = append(dead, f)
				continue
			case errors.Is(err, fs.ErrNotExist):
				continue
			case !errors.Is(err, unix.EWOULDBLOCK):
				return c, dead, err
			}
			if dir == "tmp" {
				path = filepath.Join(path, claimsName)
			}
			c.add(readClaims(path))
		}
	}
	return c, dead, nil
}

func (c *claimed) add(one claims) {
	c.all = c.all || one.all
	c.files = append(c.files, one.files...)
	if one.image != "" {
		c.uses = append(c.uses, Use{By: "process", PID: one.pid, Manifest: one.image})
	}
}

// named returns the files that names and image records keep, relative to the
// store.
func (c *Catalog) named(s *Store) (map[string]bool, error) {
	files := make(map[string]bool)
	for _, i := range c.Images {
		for _, path := range s.imageFiles(&i) {
			files[path] = true
		}
	}
	for _, r := range c.Refs {
		docs := []digest.Digest{r.Target}
		if s.keep.Documents != nil {
			more, err := s.keep.Documents(r)
			if err != nil {
				return nil, err
			}
			docs = append(docs, more...)
		}
		for _, d := range docs {
			if d.Validate() == nil {
				files[s.rel(s.blobPath(d))] = true
			}
		}
	}
	return files, nil
}

// A keeper tells which files are kept at one moment after another. It reads
// names again only if they have changed.
type keeper struct {
	s       *Store
	tx      int // the last transaction that was seen
	names   map[string]bool
	claimed map[string]bool
	all     bool // every file is kept
}

// look looks at what is kept now.
//
// Preconditions: the lock of the database is held, alone if files are to be
// removed.
func (k *keeper) look() error {
	err := k.s.openDB(true, func(db *bolt.DB) error { return db.View(k.lookAtNames) })
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	c := &Catalog{}
	if err := c.findUses(k.s); err != nil {
		return err
	}
	k.all = c.claimed.all
	k.claimed = make(map[string]bool)
	for _, path := range c.claimed.files {
		k.claimed[path] = true
	}
	return nil
}

func (k *keeper) lookAtNames(tx *bolt.Tx) error {
	if k.names != nil && tx.ID() == k.tx {
		return nil
	}
	c, err := k.s.catalog(tx)
	if err != nil {
		return err
	}
	k.tx = tx.ID()
	k.names, err = c.named(k.s)
	return err
}

// keeps reports whether something keeps a file.
func (k *keeper) keeps(path string) bool { return k.all || k.names[path] || k.claimed[path] }

// Freed is what a collection removed.
type Freed struct {
	Files int
	Bytes int64 // that the disk has again
}

func (f *Freed) add(fi fs.FileInfo) {
	f.Files++
	f.Bytes += diskSize(fi)
}

// diskSize returns how many bytes of the disk go with the last name of a file.
func diskSize(fi fs.FileInfo) int64 {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || fi.Mode().IsRegular() && st.Nlink > 1 {
		return 0
	}
	return st.Blocks * 512
}

// collectBatch is how many files are moved away under one lock.
const collectBatch = 512

// collectNow removes those of paths, relative to the store, that nothing keeps.
func (s *Store) collectNow(ctx context.Context, paths []string) (freed Freed, err error) {
	if len(paths) == 0 {
		return freed, nil
	}
	trash, err := s.NewStage()
	if err != nil {
		return freed, err
	}
	defer trash.Discard()
	return s.collect(ctx, paths, trash)
}

// collect removes those of paths that nothing keeps, by way of trash. What was
// moved there is deleted beside the next batch: deleting waits for the disk.
func (s *Store) collect(ctx context.Context, paths []string, trash *Stage) (freed Freed, err error) {
	k := &keeper{s: s}
	var deleting errgroup.Group
	deleting.SetLimit(4)
	defer deleting.Wait()
	for batch := range slices.Chunk(paths, collectBatch) {
		if err := ctx.Err(); err != nil {
			return freed, err
		}
		dir, err := os.MkdirTemp(trash.dir, "trash-")
		if err != nil {
			return freed, err
		}
		err = s.locked(false, func() error { return k.discard(batch, dir, &freed) })
		if err != nil {
			return freed, err
		}
		deleting.Go(func() error { return os.RemoveAll(dir) })
	}
	return freed, deleting.Wait()
}

// discard moves those of paths that nothing keeps into dir.
//
// Preconditions: the lock of the database is held alone.
func (k *keeper) discard(paths []string, dir string, freed *Freed) error {
	if err := k.look(); err != nil {
		return err
	}
	for n, path := range paths {
		if k.keeps(path) {
			continue
		}
		from := filepath.Join(k.s.root, path)
		fi, err := os.Lstat(from)
		if err != nil || !fi.Mode().IsRegular() {
			continue
		}
		if err := os.Rename(from, filepath.Join(dir, strconv.Itoa(n))); err != nil {
			return err
		}
		freed.add(fi)
	}
	return nil
}

// Collect removes the files of images that are gone, as Change returned them,
// unless something else keeps them.
func (s *Store) Collect(ctx context.Context, gone []Image) (Freed, error) {
	seen := make(map[string]bool)
	var paths []string
	for i := range gone {
		for _, path := range s.imageFiles(&gone[i]) {
			if !seen[path] {
				seen[path] = true
				paths = append(paths, path)
			}
		}
	}
	return s.collectNow(ctx, paths)
}

// CollectAll removes everything that nothing keeps: blobs, what is derived from
// them and from files mounted in place, and what dead processes left.
func (s *Store) CollectAll(ctx context.Context) (Freed, error) {
	paths, err := s.collectable()
	if err != nil {
		return Freed{}, err
	}
	freed, err := s.collectNow(ctx, paths)
	if err != nil {
		return freed, err
	}
	rest, err := s.collectTmp(ctx)
	freed.Files += rest.Files
	freed.Bytes += rest.Bytes
	return freed, err
}

// storeDirs are the directories whose files are collected, besides index/place.
func (s *Store) storeDirs() ([]string, error) {
	dirs := []string{"index/layer", "index/tree", "index/seek", "index/sidecar", "index/hash"}
	algorithms, err := os.ReadDir(filepath.Join(s.root, "blobs"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range algorithms {
		if e.IsDir() {
			dirs = append(dirs, "blobs/"+e.Name())
		}
	}
	return dirs, nil
}

// collectable returns the files that may be removed if nothing keeps them,
// relative to the store.
func (s *Store) collectable() (paths []string, err error) {
	dirs, err := s.storeDirs()
	if err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		list, err := os.ReadDir(filepath.Join(s.root, dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range list {
			if e.Type().IsRegular() && isHex(e.Name()) {
				paths = append(paths, dir+"/"+e.Name())
			}
		}
	}
	places, err := s.deadPlaces()
	return append(paths, places...), err
}

func isHex(s string) bool {
	return s != "" && strings.Trim(s, "0123456789abcdef") == ""
}

// collectTmp removes what dead processes left: stages, leases and, whoever
// left them, blobs that did not come whole.
func (s *Store) collectTmp(ctx context.Context) (freed Freed, err error) {
	var dead []*os.File
	err = s.locked(false, func() (err error) {
		_, dead, err = s.readAllClaims()
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	partial, partialErr := s.unlockedPartials()
	for _, f := range append(dead, partial...) {
		freed.remove(f.Name())
		f.Close()
	}
	return freed, errors.Join(err, partialErr, ctx.Err())
}

// treeSize returns what removing a file, or a directory with all in it, frees.
func treeSize(path string) (all Freed) {
	filepath.WalkDir(path, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if fi, err := e.Info(); err == nil && fi.Mode().IsRegular() {
			all.add(fi)
		}
		return nil
	})
	return all
}

// remove removes a file or a directory with all in it.
func (f *Freed) remove(path string) {
	all := treeSize(path)
	if os.RemoveAll(path) == nil {
		f.Files += all.Files
		f.Bytes += all.Bytes
	}
}

// partialDir is where the bytes of blobs lie that have not come whole; who
// writes one has it locked.
const partialDir = "tmp/partial"

// unlockedPartials returns the blobs that did not come whole and that nobody
// writes, locked.
func (s *Store) unlockedPartials() (files []*os.File, err error) {
	list, err := os.ReadDir(filepath.Join(s.root, partialDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range list {
		if f, err := flock(filepath.Join(s.root, partialDir, e.Name())); err == nil {
			files = append(files, f)
		}
	}
	return files, nil
}
