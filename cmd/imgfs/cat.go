// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/unionfs"
)

func newCat(a *app) *cobra.Command {
	var flags imageFlags
	c := &cobra.Command{
		Use:   "cat IMAGE:PATH…",
		Short: "Print files of an image",
		Long: `Cat prints regular files of an image, byte for byte. Symlinks are followed
inside the image.`,
		Example: `  imgfs cat alpine:/etc/os-release
  imgfs cat ./image.tar:/var/lib/dpkg/status | grep ^Package`,
		Args:              takes(cobra.MinimumNArgs(1)),
		ValidArgsFunction: a.imageNames,
		RunE: func(c *cobra.Command, args []string) error {
			ctx, stop := interruptible(c.Context())
			defer stop()
			return a.eachImage(ctx, args, &flags, func(img *imgfs.Image, arg string) error {
				_, n, err := lookup(img, arg, true)
				if err != nil {
					return err
				}
				return cat(ctx, a.stdout, img.FS, n, arg)
			})
		},
	}
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
