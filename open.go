// SPDX-License-Identifier: Apache-2.0

package imgfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/image/archive"
	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/layerstore"
	"github.com/imgfs/imgfs/unionfs"
)

// An Image is an open image: its documents and its tree. It holds leases on
// what it needs until Close.
type Image struct {
	Name     string        // as it was asked for, familiar form: alpine:3, ./x.tar
	ID       digest.Digest // digest of the config
	Digest   digest.Digest // of the manifest, "" for a docker-archive in place
	Platform string        // os/arch[/variant]
	FS       *unionfs.FS   // the whole tree
	Path     string        // the part that was asked for ("NAME:/usr"), "" = all

	chain     digest.Digest       // names the stack of layers
	places    []*layerstore.Place // in place
	where     string              // in an engine's store: how it is opened from anywhere
	container *found              // of an engine's store; nil for others
	lease     *layerstore.Lease
	source    io.Closer                                               // the archive
	keepTree  func(context.Context) error                             // in place: makes the tree that the layers have by now
	hashes    func(ctx context.Context, k int) (*index.Hashes, error) // of an image of the store

	mu      sync.Mutex
	closers []io.Closer // guarded by mu; layers that were read
}

// OpenImage opens arg: NAME[:TAG|@DIGEST], a prefix of an id, ./file.tar or
// ./oci-dir, or KIND:[ROOT:]NAME of an image or a container in the store of
// another engine (docker, containerd, containers-storage), each with ":/path"
// behind it for a part (see image.SplitPath). An archive that is compressed as a whole, and "-" (stdin), are loaded into the
// store first. errors.Is(err, image.ErrNotFound) tells that there is no such
// image.
func (s *Store) OpenImage(ctx context.Context, arg string, stdin io.Reader, opt OpenOptions) (*Image, error) {
	src, path := SplitArg(arg)
	i, err := s.openSource(ctx, src, stdin, opt)
	if err != nil {
		return nil, about(src, err)
	}
	i.Path = path
	return i, nil
}

// about puts the source before an error that does not name it yet.
func about(src string, err error) error {
	var path *fs.PathError
	if errors.As(err, &path) && path.Path == src || strings.HasPrefix(err.Error(), src+": ") {
		return err
	}
	return fmt.Errorf("%s: %w", src, err)
}

func onDisk(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// isPath reports whether a source is spelled as a path and never as a name.
func isPath(src string) bool {
	return src == "." || src == ".." || strings.HasPrefix(src, "/") ||
		strings.HasPrefix(src, "./") || strings.HasPrefix(src, "../")
}

func (s *Store) openSource(ctx context.Context, src string, stdin io.Reader, opt OpenOptions) (*Image, error) {
	if src == "-" {
		return s.loadAndOpen(ctx, src, stdin, opt)
	}
	if isPath(src) {
		return s.openFile(ctx, src, opt)
	}
	if l, ok := s.inEngine(src); ok {
		return s.openEngineTold(ctx, src, l, opt)
	}
	for again := 0; ; again++ {
		rec, name, err := s.findOrPull(ctx, src, opt)
		if errors.Is(err, image.ErrNotFound) && onDisk(src) {
			return s.openFile(ctx, src, opt)
		}
		if err != nil {
			return nil, err
		}
		i, err := s.openRecord(ctx, rec, name)
		if err != errRemoved || again == maxAgain {
			return i, err
		}
	}
}

// errRemoved says that an image was removed after it was found: the name may
// lead to another by now.
var errRemoved = fmt.Errorf("%w any more", image.ErrNotFound)

// loadAndOpen loads an archive and opens the only image in it.
func (s *Store) loadAndOpen(ctx context.Context, src string, stdin io.Reader, opt OpenOptions) (*Image, error) {
	load := opt.LoadOptions
	if load.Platform == "" {
		load.Platform = opt.Platform
	}
	loaded, err := s.Load(ctx, src, stdin, load)
	if err != nil {
		return nil, err
	}
	one, err := oneLoaded(loaded)
	if err != nil {
		return nil, err
	}
	rec, name, err := s.find(string(one.ID), "")
	if err != nil {
		return nil, err
	}
	if one.Name != "" {
		name = one.Name
	}
	return s.openRecord(ctx, rec, name)
}

// find returns the image that a name, a digest or the beginning of an id
// means, and the name as docker prints it.
func (s *Store) find(src, platform string) (*layerstore.Image, string, error) {
	rec, name, err := s.findAny(src, platform)
	for range maxAgain { // a name and its image are read one after the other
		if !errors.Is(err, layerstore.ErrDamaged) {
			break
		}
		rec, name, err = s.findAny(src, platform)
	}
	if errors.Is(err, image.ErrNotFound) {
		if err := s.ls.Check(); err != nil {
			return nil, "", err
		}
	}
	return rec, name, err
}

func (s *Store) findAny(src, platform string) (*layerstore.Image, string, error) {
	if isID(src) { // never a name, also if a hostile image has one like it
		return s.findID(src, platform)
	}
	ref, name, err := s.findRef(src)
	if err != nil {
		return nil, "", err
	}
	if ref != nil {
		rec, err := s.choose(ref.Images, platform)
		return rec, name, err
	}
	return s.findID(src, platform)
}

// isID reports whether a source is spelled as an id and never as a name.
func isID(src string) bool {
	hex, prefixed := strings.CutPrefix(src, "sha256:")
	return (prefixed || len(hex) == 64) && isHex(hex)
}

func isHex(s string) bool { return s != "" && strings.Trim(s, "0123456789abcdef") == "" }

// findRef looks src up as a name: as docker reads it, with a digest behind
// it, or as it stands. A nil ref is none.
func (s *Store) findRef(src string) (*layerstore.Ref, string, error) {
	r, parseErr := image.ParseReference(src)
	keys := []string{src}
	if parseErr == nil {
		keys = []string{r.String(), src}
	}
	for _, key := range keys {
		ref, ok, err := s.ls.Ref(key)
		if err != nil {
			return nil, "", err
		}
		if ok && ref.Name != "" {
			_, name := storedName(ref.Name)
			return &ref, name, nil
		}
	}
	if parseErr != nil || r.Digest() == "" {
		return nil, "", nil
	}
	refs, err := s.ls.Refs()
	if err != nil {
		return nil, "", err
	}
	for i := range refs {
		have, err := image.ParseReference(refs[i].Name)
		if err != nil || have.Name() != r.Name() {
			continue
		}
		if refs[i].Target == r.Digest() {
			return &refs[i], r.Familiar(), nil
		}
		for _, m := range refs[i].Images {
			if m == r.Digest() {
				ref := refs[i]
				ref.Images = []digest.Digest{m}
				return &ref, r.Familiar(), nil
			}
		}
	}
	return nil, "", nil
}

// findID looks src up as a digest, with or without sha256:, or the first
// digits of one: of a config, a manifest or an index.
func (s *Store) findID(src, platform string) (*layerstore.Image, string, error) {
	hex := strings.TrimPrefix(src, "sha256:")
	if len(hex) < 4 || !isHex(hex) {
		return nil, "", image.ErrNotFound
	}
	all, err := s.ls.Images()
	if err != nil {
		return nil, "", err
	}
	refs, err := s.ls.Refs()
	if err != nil {
		return nil, "", err
	}
	// What a prefix may stand for, and the manifests each of them means.
	found := make(map[digest.Digest][]digest.Digest)
	for _, i := range all {
		if strings.HasPrefix(i.ID.Encoded(), hex) {
			found[i.ID] = append(found[i.ID], i.Manifest)
		} else if strings.HasPrefix(i.Manifest.Encoded(), hex) {
			found[i.ID] = append(found[i.ID], i.Manifest)
		}
	}
	for _, r := range refs {
		if _, ok := all[r.Target]; !ok && len(r.Images) > 0 && strings.HasPrefix(r.Target.Encoded(), hex) {
			found[r.Target] = r.Images
		}
	}
	if len(found) > 1 {
		return nil, "", fmt.Errorf("%w: %s is the beginning of several", image.ErrNotFound, src)
	}
	for id, manifests := range found {
		if _, ok := all[manifests[0]]; ok && all[manifests[0]].ID == id {
			// One config under several manifests is one image.
			slices.Sort(manifests)
			manifests = manifests[:1]
		}
		rec, err := s.choose(manifests, platform)
		if err != nil {
			return nil, "", err
		}
		return rec, short(rec.ID), nil
	}
	return nil, "", image.ErrNotFound
}

// choose picks the image for a platform among the manifests of a name. One
// that stands alone is taken whatever it was built for, unless somebody asked.
func (s *Store) choose(manifests []digest.Digest, platform string) (*layerstore.Image, error) {
	want := image.HostPlatform()
	if platform != "" {
		var err error
		if want, err = image.ParsePlatform(platform); err != nil {
			return nil, err
		}
	}
	var recs []layerstore.Image
	var platforms []image.Platform
	var names []string
	for _, m := range manifests {
		rec, ok, err := s.ls.Image(m)
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, fmt.Errorf("%w: it has lost image %s", layerstore.ErrDamaged, m)
		}
		p, err := image.ParsePlatform(rec.Platform)
		if err != nil {
			p = image.Platform{} // an image that names none
		}
		recs, platforms, names = append(recs, rec), append(platforms, p), append(names, rec.Platform)
	}
	if k := image.BestPlatform(platforms, want); k >= 0 {
		return &recs[k], nil
	}
	if platform == "" && len(recs) == 1 {
		return &recs[0], nil
	}
	return nil, fmt.Errorf("%w for %s, there is %s (--platform)", image.ErrNotFound, image.FormatPlatform(want), strings.Join(names, ", "))
}

// openRecord opens an image of the store.
func (s *Store) openRecord(ctx context.Context, rec *layerstore.Image, name string) (*Image, error) {
	sources := make([]unionfs.Source, len(rec.Layers))
	for i, l := range rec.Layers {
		sources[i] = unionfs.Source{DiffID: string(l.DiffID), CreatedBy: l.CreatedBy}
	}
	_, lease, ok, err := s.ls.LeaseImage(rec.Manifest)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, errRemoved
	}
	path := s.ls.TreePath(treeChain(rec))
	tree, err := openTree(path, func() error { return s.rebuildTree(ctx, rec) })
	if err != nil {
		lease.Close()
		return nil, err
	}
	i := &Image{Name: name, ID: rec.ID, Digest: rec.Manifest, Platform: rec.Platform, chain: treeChain(rec), lease: lease}
	i.hashes = func(ctx context.Context, k int) (*index.Hashes, error) { return s.ls.OpenHashes(ctx, rec.Layers[k]) }
	i.FS = unionfs.NewFS(tree, sources, func(k int) (io.ReaderAt, error) {
		c, err := s.ls.OpenContent(context.Background(), rec.Layers[k], s.cache)
		if err != nil {
			return nil, layerError(k, err)
		}
		i.mu.Lock()
		i.closers = append(i.closers, c)
		i.mu.Unlock()
		return c, nil
	})
	i.FS.Damaged = func() { os.Remove(path) }
	return i, nil
}

// openTree opens a tree file, made anew if it is missing or damaged.
func openTree(path string, rebuild func() error) (*index.Tree, error) {
	t, err := index.Open[index.NodeID](path)
	if !layerstore.IsDerivedBad(err) {
		return t, err
	}
	if err := rebuild(); err != nil {
		return nil, err
	}
	return index.Open[index.NodeID](path)
}

// rebuildTree merges the tables of an image anew; tables that are missing or
// damaged are made from their blobs.
func (s *Store) rebuildTree(ctx context.Context, rec *layerstore.Image) error {
	stage, err := s.ls.NewStage()
	if err != nil {
		return err
	}
	defer stage.Discard()
	if err := s.mergeTree(ctx, stage, *rec); err != nil {
		return err
	}
	return stage.Commit()
}

// openFile opens an image in place.
func (s *Store) openFile(ctx context.Context, path string, opt OpenOptions) (*Image, error) {
	src, err := openOnDisk(path)
	if mustSpool(err) {
		return s.loadAndOpen(ctx, path, nil, opt)
	}
	if err != nil {
		return nil, err
	}
	i, err := s.openPlaces(ctx, path, src, opt)
	if err != nil {
		src.Close()
	}
	return i, err
}

func (s *Store) openPlaces(ctx context.Context, path string, src *archive.Source, opt OpenOptions) (*Image, error) {
	_, m, err := selectImage(src, opt.Platform)
	if err != nil {
		return nil, err
	}
	i := &Image{
		Name: path, ID: m.Config.Desc.Digest, Digest: m.Manifest.Desc.Digest,
		Platform: image.FormatPlatform(m.Parsed.Platform()), source: src,
		places: make([]*layerstore.Place, len(m.Layers)),
	}
	// Layers that are to be verified are so before their tree is made.
	errs := make([]error, len(m.Layers))
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(max(2, runtime.NumCPU()))
	for k := range m.Layers {
		group.Go(func() (err error) {
			i.places[k], err = s.openPlace(gctx, k, &m.Layers[k], opt)
			if opt.Verify && ctx.Err() == nil {
				err, errs[k] = nil, err // the others are still to be verified
			}
			return err
		})
	}
	err = group.Wait()
	if err == nil {
		err = joinLayers(errs)
	}
	if err == nil {
		err = i.openPlaceTree(ctx, s, m.Parsed)
	}
	if err != nil {
		i.source = nil
		i.Close()
		return nil, err
	}
	warnStack(opt.Warn, i.FS.Tree.Meta())
	return i, nil
}

// selectImage picks the image of a file that holds one, for a platform.
func selectImage(src *archive.Source, platform string) (*archive.Entry, *archive.Image, error) {
	e, err := oneOf(src)
	if err != nil {
		return nil, nil, err
	}
	var want *image.Platform
	if platform != "" {
		p, err := image.ParsePlatform(platform)
		if err != nil {
			return nil, nil, err
		}
		want = &p
	}
	m, err := e.Select(want)
	return e, m, err
}

func (s *Store) openPlace(ctx context.Context, k int, a *archive.Layer, opt OpenOptions) (*layerstore.Place, error) {
	want := layerstore.Layer{Digest: a.Desc.Digest, DiffID: a.DiffID, MediaType: a.Desc.MediaType}
	if a.Bytes != nil {
		p, err := s.ls.OpenBytes(ctx, want, a.Bytes, opt.Verify, s.cache, index.Limits{})
		if err != nil {
			return nil, layerError(k, err)
		}
		warnOdd(opt.Warn, k, p.Layer())
		return p, nil
	}
	path, err := filepath.Abs(a.Path)
	if err != nil {
		return nil, err
	}
	at := layerstore.Range{Path: path, Off: a.Offset, Size: a.Blob.Size()}
	// The layer is of the file that the documents came from, if that is one.
	if outer, _, _ := a.Blob.Outer(); outer != nil {
		if f, ok := outer.(interface{ Stat() (fs.FileInfo, error) }); ok {
			if at.File, err = f.Stat(); err != nil {
				return nil, err
			}
		}
	}
	p, err := s.ls.OpenPlace(ctx, want, at, opt.Verify, s.cache, index.Limits{})
	if err != nil {
		return nil, layerError(k, err)
	}
	warnOdd(opt.Warn, k, p.Layer())
	return p, nil
}

// openPlaceTree opens the file system of layers in place.
func (i *Image) openPlaceTree(ctx context.Context, s *Store, c *image.Config) error {
	sources := make([]unionfs.Source, len(i.places))
	history := c.LayerHistory()
	for k, p := range i.places {
		sources[k].DiffID = string(p.Layer().DiffID)
		if k < len(history) {
			sources[k].CreatedBy = history[k].CreatedBy
		}
	}
	i.chain = emptyChain
	diffIDs := c.RootFS.DiffIDs
	for _, p := range i.places[min(len(diffIDs), len(i.places)):] {
		diffIDs = append(diffIDs[:len(diffIDs):len(diffIDs)], p.Layer().DiffID) // a container's own
	}
	if chain := image.ChainIDs(diffIDs); len(chain) > 0 {
		i.chain = chain[len(chain)-1]
	}
	tree, path, err := i.placeTree(ctx, s)
	if err != nil {
		return err
	}
	i.FS = unionfs.NewFS(tree, sources, func(k int) (io.ReaderAt, error) { return i.places[k], nil })
	i.FS.Damaged = func() { os.Remove(path) }
	i.keepTree = func(ctx context.Context) error {
		tree, _, err := i.placeTree(ctx, s)
		if err != nil {
			return err
		}
		return tree.Close()
	}
	return nil
}

// placeTree opens the tree of layers in place, made if it is not there.
func (i *Image) placeTree(ctx context.Context, s *Store) (tree *index.Tree, path string, err error) {
	keys := make([]string, len(i.places))
	for k, p := range i.places {
		keys[k] = p.Key()
	}
	path = s.ls.PlaceTreePath(keys)
	tree, err = openTree(path, func() error {
		stage, err := s.ls.NewStage()
		if err != nil {
			return err
		}
		defer stage.Discard()
		var tables []*index.Layer
		defer func() {
			for _, t := range tables {
				t.Close()
			}
		}()
		for k, p := range i.places {
			t, err := p.OpenTable(ctx)
			if err != nil {
				return layerError(k, err)
			}
			tables = append(tables, t)
		}
		if err := writeTree(ctx, stage, path, tables, keys); err != nil {
			return err
		}
		return stage.Commit()
	})
	return tree, path, err
}

// Hashes opens the content hashes of layer k, 0 is the base, for whoever asks
// which file holds what: a regular file of the tree is found in those of its
// Node.Layer by its Node.Header. Where they are not there, they are made first,
// which reads the whole layer and verifies it; ctx ends that.
func (i *Image) Hashes(ctx context.Context, k int) (*index.Hashes, error) {
	open := func() (*index.Hashes, error) { return i.hashes(ctx, k) }
	if i.places != nil {
		open = func() (*index.Hashes, error) { return i.places[k].OpenHashes(ctx) }
	}
	h, err := open()
	if err != nil {
		return nil, layerError(k, err)
	}
	return h, nil
}

// Unverified reports whether layers of an image opened in place are still to
// be verified. A layer that fails answers reads with an error.
func (i *Image) Unverified() bool {
	for _, p := range i.places {
		if !p.Verified() {
			return true
		}
	}
	return false
}

// Damaged reports whether a layer of an image opened in place was found not to
// be what its digests say.
func (i *Image) Damaged() bool {
	for _, p := range i.places {
		if p.Failed() != nil {
			return true
		}
	}
	return false
}

// Verify reads the layers of an image opened in place that were not verified
// before, and returns at the end. The errors of all that fail are joined; each
// names its layer.
func (i *Image) Verify(ctx context.Context) error {
	return i.verify(ctx, func(int) {})
}

// verify is Verify. settled is called for each layer that was unverified and
// has changed: it is read with checks from now on, or not at all.
func (i *Image) verify(ctx context.Context, settled func(layer int)) error {
	var errs []error
	before := i.Unverified()
	for k, p := range i.places {
		if p.Verified() {
			continue
		}
		err := p.Verify(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			errs = append(errs, layerError(k, err))
		}
		if p.Verified() || p.Failed() != nil {
			settled(k)
		}
	}
	if before && !i.Unverified() {
		// The tree that the next to open the image looks for. If it cannot be
		// kept, that one makes it.
		_ = i.keepTree(ctx)
	}
	return joinLayers(errs)
}

// layerErrors are what is wrong with several layers, in their order.
type layerErrors []error

func (e layerErrors) Error() string {
	text := make([]string, len(e))
	for i, err := range e {
		text[i] = err.Error()
	}
	return strings.Join(text, "; ")
}

func (e layerErrors) Unwrap() []error { return e }

// joinLayers returns the errors of list that are not nil as one.
func joinLayers(list []error) error {
	switch list = slices.DeleteFunc(list, func(err error) bool { return err == nil }); len(list) {
	case 0:
		return nil
	case 1:
		return list[0]
	}
	return layerErrors(list)
}

// Close releases the image. Nothing may read it any more.
func (i *Image) Close() error {
	var err error
	if i.FS != nil {
		err = i.FS.Tree.Close()
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, c := range i.closers {
		err = errors.Join(err, c.Close())
	}
	for _, p := range i.places {
		if p != nil {
			err = errors.Join(err, p.Close())
		}
	}
	if i.source != nil {
		err = errors.Join(err, i.source.Close())
	}
	return errors.Join(err, i.lease.Close())
}
