// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/forensics"
	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/hostfs"
	"github.com/imgfs/imgfs/internal/term"
)

// recordRow is a line about a version of a file.
type recordRow struct {
	Layer, DiffID, Created, CreatedBy      string
	Type, Mode, UID, GID, Size, Mtime      string
	Path, Target, SHA256                   string
	State, How, By, ByPath                 string
	ByDiffID, ByCreated, ByCreatedBy, Ends string
	Linked                                 string
	Image                                  string // of find and timeline
}

func recordHeader() recordRow {
	return recordRow{
		Layer: "LAYER", DiffID: "DIFFID", Created: "CREATED", CreatedBy: "CREATED BY",
		Type: "TYPE", Mode: "MODE", UID: "UID", GID: "GID", Size: "SIZE", Mtime: "MTIME",
		Path: "PATH", Target: "TARGET", SHA256: "SHA256",
		State: "STATE", How: "HOW", By: "BY", ByPath: "BY PATH",
		ByDiffID: "BY DIFFID", ByCreated: "BY CREATED", ByCreatedBy: "BY CREATED BY", Ends: "STATE",
		Linked: "LINKED", Image: "IMAGE",
	}
}

// recordFields says in help which placeholders recordRow has.
const recordFields = `.Path .Type .Mode .UID .GID .Size .Mtime .Target .SHA256 .Layer
.DiffID .Created .CreatedBy .State .How .By .ByPath .ByDiffID .ByCreated
.ByCreatedBy .Linked`

// newRecordRow makes the row of r, for people if table is true.
func newRecordRow(r *forensics.Record, table bool) recordRow {
	row := recordRow{
		Layer: strconv.Itoa(r.Layer), DiffID: r.DiffID, Created: r.Created, CreatedBy: r.CreatedBy,
		Type: r.Type, Mode: r.Mode, UID: strconv.Itoa(int(r.UID)), GID: strconv.Itoa(int(r.GID)),
		Size: strconv.FormatInt(r.Size, 10), Mtime: r.Mtime, Path: r.Path, Target: r.Target, SHA256: r.SHA256,
		State: r.State, How: r.How, ByPath: r.ByPath, Ends: r.State,
		ByDiffID: r.ByDiffID, ByCreated: r.ByCreated, ByCreatedBy: r.ByCreatedBy,
		Linked: strconv.FormatBool(r.Linked),
	}
	if r.By != nil {
		row.By = strconv.Itoa(*r.By)
		row.Ends = r.How + " by " + row.By
	}
	if !table {
		return row
	}
	row.Size = term.Size(r.Size)
	row.CreatedBy = term.Ellipsis(strings.ReplaceAll(r.CreatedBy, "\t", " "), createdByWidth)
	row.ByCreatedBy = term.Ellipsis(strings.ReplaceAll(r.ByCreatedBy, "\t", " "), createdByWidth)
	if r.Type == "directory" {
		row.Path = strings.TrimSuffix(row.Path, "/") + "/"
	}
	if r.Target != "" {
		row.Path += " -> " + r.Target
	}
	return row
}

func newDeleted(a *app) *cobra.Command {
	var (
		flags           imageFlags
		format, extract string
		all, quiet      bool
	)
	c := &cobra.Command{
		Use:   "deleted IMAGE",
		Short: "List the files that a later layer took away",
		Long: `Deleted lists every file, directory and link that one layer brought and a
later one removed or hid: what "rm" in a Dockerfile leaves in the image for
everyone to read. HOW is whiteout, opaque (its directory was emptied) or parent
gone (a directory on its path was removed or replaced).

--extract DIR writes them below DIR, those of a layer under its number; imgfs
cat --layer N IMAGE:PATH prints one. IMAGE may also be one of its parts
(IMAGE:/etc), some layers (IMAGE@upto=3), upper:NAME or a mount.

Placeholders of --format: ` + recordFields,
		Example: `  imgfs deleted ./image.tar
  imgfs deleted --extract ./found alpine
  imgfs deleted --format json debian | jq -r 'select(.size > 1000000) | .path'`,
		Args:              takes(cobra.ExactArgs(1)),
		ValidArgsFunction: a.firstImage,
		RunE: func(c *cobra.Command, args []string) error {
			ctx, stop := interruptible(c.Context())
			defer stop()
			list := newListing(a, format, "{{.Layer}}\t{{.Size}}\t{{.How}}\t{{.By}}\t{{.Path}}", recordHeader())
			var out *extractor
			if extract != "" {
				left := &leftOut{a: a, quiet: quiet}
				defer left.end()
				out = &extractor{ctx: ctx, dir: extract, opt: hostfs.Options{LeftOut: left.report}}
			}
			src, path := splitStack(args[0])
			err := a.withStack(ctx, src, &flags, func(s *forensics.Stack) error {
				opt := forensics.DeletedOptions{Path: path, Replaced: all, Hash: !list.isTable()}
				return s.Deleted(ctx, opt, func(d *forensics.DeletedFile) error {
					if out != nil {
						if err := out.write(d); err != nil {
							return err
						}
					}
					return list.add(d.Record, func() recordRow { return newRecordRow(d.Record, list.isTable()) })
				})
			})
			if out != nil {
				err = errors.Join(err, out.close())
			}
			return list.end(err)
		},
	}
	c.Flags().StringVar(&extract, "extract", "", "write what was deleted below `DIR`: DIR/LAYER/PATH")
	c.Flags().BoolVarP(&all, "all", "a", false, "also what was overwritten: earlier versions of files")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "do not say what --extract leaves out")
	c.Flags().StringVar(&format, "format", "", "print as `FORMAT`: table, json (an object a line), a Go template, or \"table TEMPLATE\"")
	flags.add(a, c)
	return c
}

// splitStack splits an argument into what OpenStack opens and the path in it,
// which the tree need not have any more.
func splitStack(arg string) (src, path string) {
	if strings.HasPrefix(arg, "dir:") {
		return arg, ""
	}
	if rest, ok := strings.CutPrefix(arg, "upper:"); ok {
		src, path = image.SplitPath(rest, nil)
		return "upper:" + src, path
	}
	return imgfs.SplitArg(arg)
}

// An extractor writes files of layers below a directory. Files come in the
// order of a walk, so the directories on the way to the last one stay open.
type extractor struct {
	ctx context.Context
	dir string
	opt hostfs.Options

	names []string      // of open: the layer's, then those of its path
	open  []*hostfs.Dir // the directory itself, then what is below it
}

// write writes d as DIR/LAYER/PATH.
func (x *extractor) write(d *forensics.DeletedFile) error {
	names := append([]string{strconv.Itoa(d.Layer)}, strings.Split(strings.Trim(d.Path, "/"), "/")...)
	if d.Type == "directory" {
		_, err := x.enter(names)
		return err
	}
	dir, err := x.enter(names[:len(names)-1])
	if err != nil {
		return err
	}
	name := names[len(names)-1]
	n := &d.Node
	meta := &hostfs.Meta{Mode: n.Mode, UID: n.UID, GID: n.GID, Mtime: n.Mtime, MtimeNsec: int64(n.MtimeNsec)}
	switch {
	case d.Content != nil: // also of a hard link
		return dir.File(name, meta, d.Size, func(w io.WriterAt) error {
			n, err := io.Copy(io.NewOffsetWriter(w, 0), io.NewSectionReader(d.Content, 0, d.Size))
			if err == nil && n != d.Size {
				err = io.ErrUnexpectedEOF
			}
			if err != nil {
				return fmt.Errorf("%s: %w", d.Path, err)
			}
			return x.ctx.Err()
		})
	case d.Type == "symlink":
		return dir.Symlink(name, d.Target, meta)
	}
	x.opt.LeftOut(path.Join(names...), d.Type)
	return nil
}

// enter opens the directory of names, made if it is not there, and closes
// those that are not on the way.
func (x *extractor) enter(names []string) (*hostfs.Dir, error) {
	if len(x.open) == 0 {
		if err := os.MkdirAll(x.dir, 0o755); err != nil {
			return nil, err
		}
		d, err := hostfs.Open(x.dir, x.opt)
		if err != nil {
			return nil, err
		}
		x.open = append(x.open, d)
	}
	same := 0
	for same < len(names) && same < len(x.names) && names[same] == x.names[same] {
		same++
	}
	if err := x.leave(same); err != nil {
		return nil, err
	}
	for _, name := range names[same:] {
		meta := &hostfs.Meta{Mode: index.ModeDir | 0o755, Mtime: time.Now().Unix()}
		d, err := x.open[len(x.open)-1].Dir(name, meta)
		if err != nil {
			return nil, err
		}
		x.open, x.names = append(x.open, d), append(x.names, name)
	}
	return x.open[len(x.open)-1], nil
}

// leave closes directories until depth of them are open.
func (x *extractor) leave(depth int) error {
	var errs []error
	for len(x.names) > depth {
		d := x.open[len(x.open)-1]
		errs = append(errs, d.Finish(), d.Close())
		x.open, x.names = x.open[:len(x.open)-1], x.names[:len(x.names)-1]
	}
	return errors.Join(errs...)
}

func (x *extractor) close() error {
	err := x.leave(0)
	if len(x.open) > 0 {
		err = errors.Join(err, x.open[0].Close())
		x.open = nil
	}
	return err
}
