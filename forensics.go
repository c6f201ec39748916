// SPDX-License-Identifier: Apache-2.0

package imgfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/imgfs/imgfs/cow"
	"github.com/imgfs/imgfs/forensics"
	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/image/archive"
	"github.com/imgfs/imgfs/image/engine"
	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/control"
	"github.com/imgfs/imgfs/internal/control/mtab"
	"github.com/imgfs/imgfs/layerstore"
	"github.com/imgfs/imgfs/unionfs"
)

// OpenStack opens what can be examined:
//
//	what OpenImage opens   an image: its tree and its layers
//	IMAGE#3, IMAGE#sha256:…  one layer of it alone, by number (0 is the base), diffID or digest, or their beginning
//	IMAGE@upto=3           its layers up to that one
//	upper:NAME             an upper: its image and, as one layer more, its changes
//	a mount of imgfs       its image, or its upper
//	dir:PATH               a directory of the host, which has no layers
//
// each but the last with ":/path" behind it for a part. Nothing is written but
// below the store's root. errors.Is(err, image.ErrNotFound) tells that there
// is no such image, ErrNoUpper no such upper.
func (s *Store) OpenStack(ctx context.Context, arg string, opt OpenOptions) (*forensics.Stack, error) {
	if dir, ok := strings.CutPrefix(arg, "dir:"); ok {
		t, err := forensics.TreeOfDir(dir)
		if err != nil {
			return nil, err
		}
		return &forensics.Stack{Name: arg, Tree: t}, nil
	}
	if rest, ok := strings.CutPrefix(arg, "upper:"); ok {
		name, path := image.SplitPath(rest, nil)
		if err := s.hasUpper(name); err != nil {
			return nil, err
		}
		holders, err := s.upperHolders(ctx)
		if err != nil {
			return nil, err
		}
		return s.openUpperStack(ctx, &upperSource{s, name, holders[name]}, arg, path)
	}
	src, path := SplitArg(arg)
	if src == "-" {
		return nil, errors.New("-: load it first (imgfs load)")
	}
	if onDisk(src) {
		if place, err := mtab.Locate(src); err == nil && place.IsOurs() {
			return s.openMountStack(ctx, place, arg, path, opt)
		}
	}
	src, which := cutSelector(src)
	i, err := s.OpenImage(ctx, src, nil, opt)
	if err != nil {
		return nil, err
	}
	o := &stackOpener{s: s, img: i, stack: &forensics.Stack{Name: arg, Closers: []io.Closer{i}}}
	return o.open(ctx, which, path)
}

// cutSelector cuts what chooses layers off a source: "#…" or "upto=…". A file
// that is called so is a file.
func cutSelector(src string) (image, which string) {
	if onDisk(src) {
		return src, ""
	}
	if l, ok := engine.Parse(src, isDir); ok && l.Name != "" {
		name, which := cutSelector(l.Name)
		l.Name = name
		return l.String(), which
	}
	if i := strings.LastIndex(src, "@upto="); i > 0 {
		return src[:i], src[i+1:]
	}
	if i := strings.LastIndexByte(src, '#'); i > 0 {
		return src[:i], src[i:]
	}
	return src, ""
}

// openMountStack opens what a mount of imgfs shows.
func (s *Store) openMountStack(ctx context.Context, place *mtab.Place, arg, path string, opt OpenOptions) (*forensics.Stack, error) {
	if up, err := s.findUpper(ctx, place.Path); err == nil {
		return s.openUpperStack(ctx, up, arg, path)
	} else if r := (*RefusedError)(nil); !errors.As(err, &r) || r.Hint != "" {
		return nil, err
	}
	found, err := registered(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range found {
		if r.at == nil || r.at.Device != place.Mount.Device || r.State == control.Dead {
			continue
		}
		src, part := SplitArg(r.Image)
		if _, engines := engine.Parse(src, isDir); !engines && r.ImageID != "" && s.hasImage(r.ImageID, r.Platform) {
			src = r.ImageID
		}
		opt.Platform = r.Platform
		i, err := s.OpenImage(ctx, src, nil, opt)
		if err != nil {
			return nil, about(arg, err)
		}
		o := &stackOpener{s: s, img: i, stack: &forensics.Stack{Name: arg, Closers: []io.Closer{i}}}
		return o.open(ctx, "", strings.TrimSuffix(part, "/")+path)
	}
	return nil, fmt.Errorf("%s: %w that answers", arg, ErrNotMounted)
}

// A stackOpener makes a stack of an image.
type stackOpener struct {
	s     *Store
	img   *Image
	stack *forensics.Stack // which closes all that was opened so far
	stage *layerstore.Stage
}

// open makes the stack of the layers that which chooses; "" is all.
func (o *stackOpener) open(ctx context.Context, which, path string) (*forensics.Stack, error) {
	err := o.layers()
	if err == nil {
		err = o.tree(ctx, which)
	}
	if err == nil {
		err = o.part(ctx, path)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", o.stack.Name, err), o.stack.Close())
	}
	return o.stack, nil
}

// layers lists the layers of the image and reads its documents.
func (o *stackOpener) layers() error {
	st, i := o.stack, o.img
	if src, ok := i.source.(*archive.Source); ok {
		m := findConfig(src, i.ID)
		if m == nil {
			return image.ErrNotFound
		}
		st.Config, st.Manifest = m.Config.Raw, m.Manifest.Raw
		for _, p := range i.places {
			o.add(placeSource{p}, p.Layer()).Key = p.Key()
		}
	} else {
		rec, ok, err := o.s.ls.Image(i.Digest)
		if err == nil && !ok {
			err = image.ErrNotFound
		}
		if err != nil {
			return err
		}
		if st.Config, err = o.s.ls.ReadBlob(rec.ID, image.MaxDocument); err != nil {
			return err
		}
		if st.Manifest, err = o.s.ls.ReadBlob(rec.Manifest, image.MaxDocument); err != nil {
			return err
		}
		for _, l := range rec.Layers {
			o.add(storeSource{o.s, l}, l).Key = string(l.DiffID)
		}
	}
	c, err := image.ParseConfig(st.Config)
	if err != nil {
		return err
	}
	if f := i.container; f != nil { // no config tells of its layers
		for _, l := range st.Layers[len(st.Layers)-f.changes:] {
			l.CreatedBy, l.Created = f.item.Title(), f.item.Created
		}
	}
	for k, h := range c.LayerHistory() {
		if k < len(st.Layers) {
			st.Layers[k].CreatedBy = h.CreatedBy
			if h.Created != nil {
				st.Layers[k].Created = *h.Created
			}
		}
	}
	return nil
}

func (o *stackOpener) add(src forensics.LayerSource, l layerstore.Layer) *forensics.Layer {
	f := forensics.NewLayer(len(o.stack.Layers), src)
	f.DiffID, f.Digest, f.MediaType = string(l.DiffID), string(l.Digest), l.MediaType
	f.Size, f.TarSize, f.CreatedBy = l.Size, l.TarSize, l.CreatedBy
	f.Oddities = blobOddities(l)
	o.stack.Layers = append(o.stack.Layers, f)
	return f
}

// tree makes the tree of the layers that which chooses, and leaves only them.
func (o *stackOpener) tree(ctx context.Context, which string) error {
	st := o.stack
	all := st.Layers
	switch {
	case which == "":
		st.Tree = forensics.TreeOf(o.img.FS.Tree, index.RootID, all)
		return nil
	case strings.HasPrefix(which, "#"):
		k, err := st.FindLayer(which[1:])
		if err != nil {
			return err
		}
		t, err := all[k].Table(ctx)
		if err != nil {
			return err
		}
		st.Layers, st.Tree = all[k:k+1], forensics.TreeOfLayer(t, all, k)
		return nil
	}
	k, err := st.FindLayer(strings.TrimPrefix(which, "upto="))
	if err != nil {
		return err
	}
	st.Layers = all[:k+1]
	return o.merge(ctx)
}

// merge makes a tree of the stack's layers, which goes with the stack.
func (o *stackOpener) merge(ctx context.Context) error {
	if err := o.newStage(); err != nil {
		return err
	}
	var tables []*index.Layer
	var keys []string
	for _, l := range o.stack.Layers {
		t, err := l.Table(ctx)
		if err != nil {
			return err
		}
		tables, keys = append(tables, t), append(keys, l.DiffID)
	}
	path := o.stage.Temp("merged")
	w, err := index.Create[index.NodeID](path)
	if err != nil {
		return err
	}
	if err := index.Guard(func() error { return unionfs.Merge(ctx, w, tables, keys) }); err != nil {
		w.Abort()
		return layerstore.NoBlock(path, err)
	}
	if err := layerstore.FillHoles(path); err != nil {
		return err
	}
	t, err := index.Open[index.NodeID](path)
	if err != nil {
		return err
	}
	o.stack.Closers = append(o.stack.Closers, t)
	o.stack.Tree = forensics.TreeOf(t, index.RootID, o.stack.Layers)
	return nil
}

// newStage gives the stack a place for files that go with it.
func (o *stackOpener) newStage() (err error) {
	if o.stage != nil {
		return nil
	}
	if o.stage, err = o.s.ls.NewStage(); err == nil {
		o.stack.Closers = append(o.stack.Closers, discard{o.stage})
	}
	return err
}

// discard drops a stage.
type discard struct{ stage *layerstore.Stage }

func (d discard) Close() error {
	d.stage.Discard()
	return nil
}

// part restricts the stack to what is at path, symlinks on the way followed
// inside the image.
func (o *stackOpener) part(ctx context.Context, path string) error {
	part, err := o.stack.Part(ctx, path)
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		return p.Err // the stack's name has the path
	}
	if err == nil {
		o.stack.Tree, o.stack.Path = part.Tree, part.Path
	}
	return err
}

// storeSource opens a layer of the store.
type storeSource struct {
	s *Store
	l layerstore.Layer
}

func (o storeSource) OpenTable(ctx context.Context) (*index.Layer, error) {
	return o.s.ls.OpenTable(ctx, o.l)
}

func (o storeSource) OpenHashes(ctx context.Context) (*index.Hashes, error) {
	return o.s.ls.OpenHashes(ctx, o.l)
}

func (o storeSource) OpenContent(ctx context.Context) (io.ReaderAt, error) {
	return o.s.ls.OpenContent(ctx, o.l, o.s.cache)
}

// placeSource opens a layer in place, which the image closes.
type placeSource struct{ p *layerstore.Place }

func (o placeSource) OpenTable(ctx context.Context) (*index.Layer, error) { return o.p.OpenTable(ctx) }

func (o placeSource) OpenHashes(ctx context.Context) (*index.Hashes, error) {
	h, err := o.p.OpenHashes(ctx)
	return h, unread(err)
}

func (o placeSource) OpenContent(context.Context) (io.ReaderAt, error) {
	return placeContent(o), nil // not to be closed
}

// EachUnreadable calls f for each file of an engine's store that the layer
// lacks.
func (o placeSource) EachUnreadable(ctx context.Context, f func(error)) error {
	if b, ok := o.p.Bytes().(archive.Bytes); ok {
		return b.EachUnreadable(ctx, f)
	}
	return nil
}

// A placeContent tells files of an engine's store that cannot be read from
// what is wrong with an image.
type placeContent struct{ p *layerstore.Place }

func (c placeContent) ReadAt(b []byte, off int64) (int, error) {
	n, err := c.p.ReadAt(b, off)
	return n, unread(err)
}

// unread makes the error about a file of an engine's store one that an
// examination may go on after.
func unread(err error) error {
	if u := (*UnreadableError)(nil); errors.As(err, &u) {
		return &forensics.UnreadError{Err: err}
	}
	return err
}

// openUpperStack opens an upper over its image. Its changes are written as the
// layer that commit would make of them, and that layer is on top.
func (s *Store) openUpperStack(ctx context.Context, up *upperSource, name, path string) (*forensics.Stack, error) {
	arg, _, err := s.imageOf(up.name)
	if err != nil {
		return nil, err
	}
	i, err := s.OpenImage(ctx, arg, nil, OpenOptions{})
	if err != nil {
		return nil, fmt.Errorf("the image below upper %s: %w", up.name, err)
	}
	o := &stackOpener{s: s, img: i, stack: &forensics.Stack{Name: name, Closers: []io.Closer{i}}}
	err = o.layers()
	if err == nil {
		err = o.upper(ctx, up)
	}
	if err == nil {
		err = o.merge(ctx)
	}
	if err == nil {
		err = o.part(ctx, path)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), o.stack.Close())
	}
	return o.stack, nil
}

// upper writes the changes of an upper as a layer and puts it on top.
func (o *stackOpener) upper(ctx context.Context, up *upperSource) error {
	if err := o.newStage(); err != nil {
		return err
	}
	f, err := os.OpenFile(o.stage.Temp("upper.tar"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	o.stack.Closers = append(o.stack.Closers, f)
	if err := up.call(ctx, callLayer, cow.TarOptions{AllowChanging: true}, f); err != nil {
		return err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	src := &forensics.TarSource{
		Tar: io.NewSectionReader(f, 0, size), TablePath: o.stage.Temp("upper.table"), HashesPath: o.stage.Temp("upper.hashes"),
	}
	o.add(src, layerstore.Layer{TarSize: size, CreatedBy: "upper " + up.name})
	return nil
}
