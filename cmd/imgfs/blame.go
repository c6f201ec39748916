// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs/forensics"
)

func newBlame(a *app) *cobra.Command {
	var (
		flags  imageFlags
		format string
		opt    forensics.BlameOptions
	)
	c := &cobra.Command{
		Use:   "blame IMAGE PATH…",
		Short: "Show which layer brought a file, and what was there before",
		Long: `Blame shows the layer that brought what an image has at a path, when, and by
which step; and below it every earlier version with how it ended: replaced,
removed by a whiteout, hidden by an opaque directory, or gone with its parent.
A path that the image does not show any more is told of, too.

--format json prints an object a path with all its versions, the latest first.
Placeholders of --format: ` + recordFields,
		Example: `  imgfs blame alpine /etc/passwd
  imgfs blame -r ./image.tar /etc
  imgfs blame --format '{{.Path}} {{.DiffID}}' debian /bin/sh`,
		Args:              takes(cobra.MinimumNArgs(2)),
		ValidArgsFunction: a.firstImage,
		RunE: func(c *cobra.Command, args []string) error {
			ctx, stop := interruptible(c.Context())
			defer stop()
			list := newListing(a, format, "{{.Layer}}\t{{.Created}}\t{{.Ends}}\t{{.Path}}\t{{.CreatedBy}}", recordHeader())
			opt.Hash = !list.isTable()
			err := a.blame(ctx, args, &flags, opt, func(b *forensics.Blame) error {
				if list.isJSON() {
					return list.add(b, nil)
				}
				return addRecords(list, b)
			})
			return list.end(err)
		},
	}
	c.Flags().BoolVarP(&opt.Recursive, "recursive", "r", false, "also all below a directory")
	c.Flags().BoolVarP(&opt.Gone, "all", "a", false, "with -r: also paths that the image does not show any more")
	c.Flags().StringVar(&format, "format", "", "print as `FORMAT`: table, json (an object a line), a Go template, or \"table TEMPLATE\"")
	flags.add(a, c)
	return c
}

// addRecords adds a row for each version of b.
func addRecords(list *listing[recordRow], b *forensics.Blame) error {
	for _, r := range b.Versions {
		if err := list.add(r, func() recordRow { return newRecordRow(r, list.isTable()) }); err != nil {
			return err
		}
	}
	return nil
}

// blame calls do for the paths behind the image. It goes on after one that is
// not there.
func (a *app) blame(ctx context.Context, args []string, flags *imageFlags, opt forensics.BlameOptions, do func(*forensics.Blame) error) error {
	return a.withStack(ctx, args[0], flags, func(s *forensics.Stack) error {
		var errs []error
		for _, path := range args[1:] {
			err := s.Blame(ctx, path, opt, do)
			if err == nil {
				continue
			}
			if errors.Is(err, fs.ErrNotExist) {
				err = noEntryError(args[0] + ":" + path)
			} else if !strings.HasPrefix(err.Error(), args[0]+": ") {
				err = fmt.Errorf("%s: %w", args[0], err)
			}
			if errs = append(errs, err); ctx.Err() != nil {
				break
			}
		}
		return errors.Join(errs...)
	})
}

func newVersions(a *app) *cobra.Command {
	var (
		flags  imageFlags
		format string
	)
	c := &cobra.Command{
		Use:   "versions IMAGE PATH",
		Short: "List all versions of a file that the layers of an image hold",
		Long: `Versions lists what the layers of an image brought under one path, the latest
first, with size, time and hash of the content. imgfs cat --layer N IMAGE:PATH
prints one of them.

Placeholders of --format: ` + recordFields,
		Example: `  imgfs versions alpine /etc/passwd
  imgfs versions --format json ./image.tar /etc/shadow`,
		Args:              takes(cobra.ExactArgs(2)),
		ValidArgsFunction: a.firstImage,
		RunE: func(c *cobra.Command, args []string) error {
			ctx, stop := interruptible(c.Context())
			defer stop()
			list := newListing(a, format, "{{.Layer}}\t{{.Size}}\t{{.Mtime}}\t{{.Ends}}\t{{.SHA256}}\t{{.Path}}", recordHeader())
			err := a.blame(ctx, args, &flags, forensics.BlameOptions{Hash: true}, func(b *forensics.Blame) error {
				return addRecords(list, b)
			})
			return list.end(err)
		},
	}
	c.Flags().StringVar(&format, "format", "", "print as `FORMAT`: table, json (an object a line), a Go template, or \"table TEMPLATE\"")
	flags.add(a, c)
	return c
}
