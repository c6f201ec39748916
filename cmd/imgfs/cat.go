// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/forensics"
	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/unionfs"
)

func newCat(a *app) *cobra.Command {
	var (
		flags imageFlags
		layer string
	)
	c := &cobra.Command{
		Use:   "cat IMAGE:PATH…",
		Short: "Print files of an image",
		Long: `Cat prints regular files of an image, byte for byte. Symlinks are followed
inside the image. With --layer it is what that layer brought, also if a later
one replaced or removed it (imgfs layers, versions and deleted tell which).`,
		Example: `  imgfs cat alpine:/etc/os-release
  imgfs cat --layer 2 ./image.tar:/root/.netrc
  imgfs cat ./image.tar:/var/lib/dpkg/status | grep ^Package`,
		Args:              takes(cobra.MinimumNArgs(1)),
		ValidArgsFunction: a.imageNames,
		RunE: func(c *cobra.Command, args []string) error {
			ctx, stop := interruptible(c.Context())
			defer stop()
			if layer != "" {
				return a.catLayer(ctx, args, &flags, layer)
			}
			return a.eachImage(ctx, args, &flags, func(img *imgfs.Image, arg string) error {
				_, n, err := lookup(img, arg, true)
				if err != nil {
					return err
				}
				return cat(ctx, a.stdout, img.FS, n, arg)
			})
		},
	}
	c.Flags().StringVar(&layer, "layer", "", "print what layer `N` brought: its number, 0 is the base, or its digest")
	flags.add(a, c)
	return c
}

func cat(ctx context.Context, w io.Writer, f *unionfs.FS, n *index.Node, arg string) error {
	switch {
	case n.IsDir():
		return fmt.Errorf("%s: %w", arg, syscall.EISDIR)
	case !n.IsRegular():
		return fmt.Errorf("%s: not a regular file: %s", arg, index.TypeName(n.Mode))
	}
	buf := make([]byte, 256<<10)
	for off := int64(0); off < n.Size; {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		k, err := f.ReadAt(n, buf, off)
		if k > 0 {
			if _, err := w.Write(buf[:k]); err != nil {
				return &outputError{err}
			}
			off += int64(k)
		}
		if err != nil && err != io.EOF || k == 0 {
			return fmt.Errorf("%s: at %d: %w", arg, off, err)
		}
	}
	return nil
}

// catLayer prints what one layer brought at the paths of args.
func (a *app) catLayer(ctx context.Context, args []string, flags *imageFlags, layer string) error {
	var errs []error
	for _, arg := range args {
		src, path := splitStack(arg)
		err := a.withStack(ctx, src, flags, func(s *forensics.Stack) error {
			rec, content, err := s.OpenVersion(ctx, path, layer)
			switch {
			case errors.Is(err, forensics.ErrNoLayer):
				return &hintError{err: fmt.Errorf("%s: %w", src, err), hint: "imgfs layers " + src + " lists them"}
			case errors.Is(err, fs.ErrNotExist):
				return &hintError{
					err:  fmt.Errorf("%w in layer %s", noEntryError(arg), layer),
					hint: "imgfs versions " + src + " " + path + " lists what there is",
				}
			case err != nil:
				return fmt.Errorf("%s: %w", arg, err)
			case content == nil:
				return fmt.Errorf("%s: not a regular file: %s", arg, rec.Type)
			}
			if n, err := io.Copy(&outputWriter{a.stdout}, io.NewSectionReader(content, 0, rec.Size)); err != nil || n < rec.Size {
				return readError(n, err)
			}
			return nil
		})
		if errs = append(errs, err); ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

// An outputWriter tells errors of the output from others.
type outputWriter struct{ w io.Writer }

func (o *outputWriter) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	if err != nil {
		err = &outputError{err}
	}
	return n, err
}
