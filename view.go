// SPDX-License-Identifier: Apache-2.0

package imgfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"

	"github.com/imgfs/imgfs/forensics"
	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/layerstore"
	"github.com/imgfs/imgfs/unionfs"
)

// setView has img show what opt asks for instead of its whole tree.
func (s *Store) setView(ctx context.Context, img *Image, opt MountOptions) error {
	if opt.Writable {
		return optionError{fmt.Errorf("a view (%s) takes no changes", opt.View)}
	}
	o := &stackOpener{s: s, img: img, stack: &forensics.Stack{Name: img.Name}}
	defer o.stack.Close() // opened for reading
	if err := o.layers(); err != nil {
		return err
	}
	put, err := viewOf(o.stack, opt.View)
	if err != nil {
		return err
	}
	if err := o.newStage(); err != nil {
		return err
	}
	path := o.stage.Temp("view")
	if err := o.writeView(ctx, path, put); err != nil {
		return layerstore.NoBlock(path, err)
	}
	if err := layerstore.FillHoles(path); err != nil {
		return err
	}
	tree, err := index.Open[index.NodeID](path) // it stays when its name goes
	if err != nil {
		return err
	}
	whole := img.FS
	img.FS = unionfs.NewFS(tree, whole.Sources, whole.Layer)
	return whole.Tree.Close()
}

// A putter puts what layers hold into a table.
type putter func(ctx context.Context, s *forensics.Stack, tables []*index.Layer, w *index.Writer[index.NodeID]) error

// viewOf returns what makes the view of that name.
func viewOf(s *forensics.Stack, name string) (putter, error) {
	switch name {
	case "layers":
		return putVersions(true, func(*forensics.Version) bool { return true }), nil
	case "deleted":
		return putVersions(false, func(v *forensics.Version) bool {
			return v.State != forensics.Live && v.End != forensics.Replaced
		}), nil
	}
	_, which := cutSelector("x@" + name)
	if len(which) < len("upto=") {
		return nil, optionError{fmt.Errorf("%q is no view: there are layers, deleted and upto=N", name)}
	}
	k, err := s.FindLayer(which[len("upto="):])
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", s.Name, err)
	}
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, s *forensics.Stack, tables []*index.Layer, w *index.Writer[index.NodeID]) error {
		return unionfs.Merge(ctx, w, tables[:k+1], nil)
	}, nil
}

// putVersions makes a view of the versions for which shows is true, with a
// directory for each layer that has some, or for each if all is true.
func putVersions(all bool, shows func(*forensics.Version) bool) putter {
	return func(ctx context.Context, s *forensics.Stack, tables []*index.Layer, w *index.Writer[index.NodeID]) error {
		view, err := unionfs.NewView(ctx, tables)
		if err != nil {
			return err
		}
		for k := 0; all && k < len(tables); k++ {
			if err := view.Add(strconv.Itoa(k), k, index.RootID); err != nil {
				return err
			}
		}
		err = s.Versions(ctx, "", forensics.Versions{Version: func(v *forensics.Version) error {
			if !shows(v) {
				return nil
			}
			path := strconv.Itoa(v.Layer)
			if v.Path != "" {
				path += "/" + v.Path
			}
			return view.Add(path, v.Layer, v.ID)
		}})
		if err != nil {
			return err
		}
		return view.Write(w)
	}
}

// writeView writes a view to the new file path.
func (o *stackOpener) writeView(ctx context.Context, path string, put putter) error {
	var tables []*index.Layer
	for _, l := range o.stack.Layers {
		t, err := l.Table(ctx)
		if err != nil {
			return err
		}
		tables = append(tables, t)
	}
	w, err := index.Create[index.NodeID](path)
	if err != nil {
		return err
	}
	if err := index.Guard(func() error { return put(ctx, o.stack, tables, w) }); err != nil {
		w.Abort()
		return err
	}
	return nil
}
