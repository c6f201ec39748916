// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs/forensics"
	"github.com/imgfs/imgfs/internal/term"
)

// layerRow is a line of layers.
type layerRow struct {
	Layer, DiffID, Digest, MediaType, Created, CreatedBy string
	Size, TarSize, Files, Bytes, Added, Changed, Removed string
	Wasted                                               string
}

func newLayers(a *app) *cobra.Command {
	var (
		flags   imageFlags
		format  string
		noTrunc bool
	)
	c := &cobra.Command{
		Use:   "layers IMAGE",
		Short: "Show what each layer of an image does",
		Long: `Layers shows the layers of an image, the base first: their numbers, which other
verbs take (IMAGE#3, IMAGE@upto=3, cat --layer 3); their size as shipped and
that of the content of their files; how many files they add, change and remove;
and how many bytes of their content no path of the image shows any more. A file
is anything but a directory.

Placeholders of --format: .Layer .DiffID .Digest .MediaType .Created
.CreatedBy .Size .TarSize .Files .Bytes .Added .Changed .Removed .Wasted`,
		Example: `  imgfs layers alpine
  imgfs layers --format 'table {{.Layer}}\t{{.Wasted}}\t{{.CreatedBy}}' ./image.tar`,
		Args:              takes(cobra.ExactArgs(1)),
		ValidArgsFunction: a.firstImage,
		RunE: func(c *cobra.Command, args []string) error {
			ctx, stop := interruptible(c.Context())
			defer stop()
			header := layerRow{
				Layer: "LAYER", DiffID: "DIFFID", Digest: "DIGEST", MediaType: "MEDIA TYPE", Created: "CREATED",
				CreatedBy: "CREATED BY", Size: "SIZE", TarSize: "TAR SIZE", Files: "FILES", Bytes: "CONTENT",
				Added: "ADDED", Changed: "CHANGED", Removed: "REMOVED", Wasted: "WASTED",
			}
			def := "{{.Layer}}\t{{.DiffID}}\t{{.Size}}\t{{.Bytes}}\t{{.Added}}\t{{.Changed}}\t{{.Removed}}\t{{.Wasted}}\t{{.CreatedBy}}"
			list := newListing(a, format, def, header)
			err := a.withStack(ctx, args[0], &flags, func(s *forensics.Stack) error {
				sums, err := s.Summaries(ctx)
				for i := range sums {
					err = list.add(&sums[i], func() layerRow { return newLayerRow(&sums[i], list.isTable(), noTrunc) })
				}
				return err
			})
			return list.end(err)
		},
	}
	c.Flags().BoolVar(&noTrunc, "no-trunc", false, "show all of each field")
	c.Flags().StringVar(&format, "format", "", "print as `FORMAT`: table, json (an object a line), a Go template, or \"table TEMPLATE\"")
	flags.add(a, c)
	return c
}

func newLayerRow(l *forensics.LayerSummary, table, noTrunc bool) layerRow {
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	row := layerRow{
		Layer: strconv.Itoa(l.Layer), DiffID: l.DiffID, Digest: l.Digest, MediaType: l.MediaType,
		Created: l.Created, CreatedBy: strings.ReplaceAll(l.CreatedBy, "\t", " "),
		Size: number(l.Size), TarSize: number(l.TarSize), Files: number(l.Files), Bytes: number(l.Bytes),
		Added: number(l.Added), Changed: number(l.Changed), Removed: number(l.Removed), Wasted: number(l.Wasted),
	}
	if table {
		row.Size, row.TarSize, row.Bytes, row.Wasted = term.Size(l.Size), term.Size(l.TarSize), term.Size(l.Bytes), term.Size(l.Wasted)
		if !noTrunc {
			row.DiffID, row.Digest = term.ShortID(l.DiffID), term.ShortID(l.Digest)
			row.CreatedBy = term.Ellipsis(row.CreatedBy, createdByWidth)
		}
	}
	return row
}
