// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/internal/term"
)

// historyRow is a line of history, with docker's placeholders.
type historyRow struct {
	ID, CreatedSince, CreatedAt, CreatedBy, Size, Comment string
}

func newHistory(a *app) *cobra.Command {
	var (
		flags                 imageFlags
		format                string
		quiet, noTrunc, human bool
	)
	c := &cobra.Command{
		Use:   "history IMAGE",
		Short: "Show the steps an image was built in",
		Long: `History shows the steps an image was built in, newest first. The first line
has the image's ID, a step that made a layer the layer's diffID (where docker
has <missing>), any other step <missing>. SIZE is that of the layer's uncompressed tar.

Placeholders of --format: .ID .CreatedSince .CreatedAt .CreatedBy .Size
.Comment`,
		Example: `  imgfs history alpine
  imgfs history --no-trunc --format '{{.CreatedBy}}' alpine`,
		Args:              takes(cobra.ExactArgs(1)),
		ValidArgsFunction: a.firstImage,
		RunE: func(c *cobra.Command, args []string) error {
			if err := checkPlatform(flags.platform); err != nil {
				return err
			}
			st, err := a.store()
			if err != nil {
				return err
			}
			info, err := st.Info(c.Context(), args[0], flags.options(a))
			if err != nil {
				return err
			}
			rows, err := historyRows(info, noTrunc, human, time.Now())
			if err != nil {
				return err
			}
			def := "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"
			if !human {
				def = "{{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"
			}
			if quiet && (format == "" || format == "table") {
				format = "{{.ID}}"
			}
			header := historyRow{
				ID: "IMAGE", CreatedSince: "CREATED", CreatedAt: "CREATED AT",
				CreatedBy: "CREATED BY", Size: "SIZE", Comment: "COMMENT",
			}
			return formatError(term.Rows(a.stdout, format, def, a.toTerminal(), header, rows))
		},
	}
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "print IDs only")
	c.Flags().BoolVar(&noTrunc, "no-trunc", false, "show all of each field")
	c.Flags().BoolVarP(&human, "human", "H", true, "print sizes and dates for people")
	c.Flags().StringVar(&format, "format", "", "print as `FORMAT`: table, json (an object a line), a Go template, or \"table TEMPLATE\"")
	flags.add(a, c)
	return c
}

// createdByWidth is where docker cuts CREATED BY.
const createdByWidth = 45

// historyRows returns the steps of an image, newest first. Layers that the
// config's history does not tell of come first.
func historyRows(info *imgfs.ImageInfo, noTrunc, human bool, now time.Time) ([]historyRow, error) {
	config, err := image.ParseConfig(info.Config)
	if err != nil {
		return nil, err
	}
	steps := config.History
	told := 0
	for _, h := range steps {
		if !h.EmptyLayer {
			told++
		}
	}
	for ; told < len(info.Layers); told++ {
		steps = append(steps, image.History{})
	}
	rows := make([]historyRow, len(steps))
	layer := 0
	for i, h := range steps {
		row := historyRow{ID: "<missing>", CreatedBy: strings.ReplaceAll(h.CreatedBy, "\t", " "), Comment: h.Comment}
		size := int64(0)
		if !h.EmptyLayer && layer < len(info.Layers) {
			row.ID = info.Layers[layer].DiffID.String()
			size = info.Layers[layer].TarSize
			layer++
		}
		if i == len(steps)-1 {
			row.ID = info.ID.String()
		}
		var created time.Time
		if h.Created != nil {
			created = *h.Created
		}
		row.CreatedSince, row.CreatedAt = term.Age(now, created), created.Format(time.RFC3339)
		row.Size = "N/A" // of an image file whose layers are compressed
		if size >= 0 {
			row.Size = term.Size(size)
		}
		if !human {
			row.CreatedSince, row.Size = row.CreatedAt, strconv.FormatInt(size, 10)
		}
		if !noTrunc {
			if row.ID != "<missing>" {
				row.ID = term.ShortID(row.ID)
			}
			row.CreatedBy = term.Ellipsis(row.CreatedBy, createdByWidth)
		}
		rows[len(rows)-1-i] = row
	}
	return rows, nil
}
