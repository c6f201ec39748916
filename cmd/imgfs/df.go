// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/internal/term"
)

// usageRow is a line of df, with docker's placeholders.
type usageRow struct {
	Type, TotalCount, Active, Size, Reclaimable string
}

func newDf(a *app) *cobra.Command {
	var (
		format  string
		verbose bool
	)
	c := &cobra.Command{
		Use:   "df",
		Short: "Show what the store takes on disk",
		Long: `Df shows what the store takes on disk; nothing is counted twice. Images: the
blobs as they were shipped; active are those that a mount, an upper or a
command uses. Unused blobs: those that no image needs. Indexes: what is derived
from layers, and made anew if it is missing. Uppers: active are mounted ones.
Partial blobs: what is on its way into the store, or was when that broke off.

RECLAIMABLE is what is not active: prune -a removes it, but for uppers (upper rm).

With -v each image has a line, with the size that it shares with others and the
size that goes with it, and so has each upper.

Placeholders of --format: .Type .TotalCount .Active .Size .Reclaimable`,
		Example: `  imgfs df
  imgfs df -v
  imgfs df --format '{{.Type}}: {{.Size}}'`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if verbose && format != "" && format != "json" {
				return usagef("-v takes no --format but json")
			}
			st, err := a.store()
			if err != nil {
				return err
			}
			usage, bad := st.DiskUsage(c.Context()) // what could be read is shown
			if usage == nil {
				return bad
			}
			if verbose {
				err = a.printUsageDetails(usage, format)
			} else {
				err = a.printUsage(usage, format)
			}
			return errors.Join(err, bad)
		},
	}
	c.Flags().BoolVarP(&verbose, "verbose", "v", false, "show each image and each upper")
	c.Flags().StringVar(&format, "format", "", "print as `FORMAT`: table, json (an object a line), a Go template, or \"table TEMPLATE\"")
	return c
}

func (a *app) printUsage(u *imgfs.DiskUsage, format string) error {
	var rows []usageRow
	for _, r := range u.Rows {
		row := usageRow{
			Type: r.Type, TotalCount: strconv.Itoa(r.Total), Active: strconv.Itoa(r.Active),
			Size: term.Size(r.Size), Reclaimable: term.Size(r.Reclaimable),
		}
		if r.Size > 0 {
			row.Reclaimable += fmt.Sprintf(" (%d%%)", r.Reclaimable*100/r.Size)
		}
		rows = append(rows, row)
	}
	header := usageRow{Type: "TYPE", TotalCount: "TOTAL", Active: "ACTIVE", Size: "SIZE", Reclaimable: "RECLAIMABLE"}
	def := "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}"
	return formatError(term.Rows(a.stdout, format, def, a.toTerminal(), header, rows))
}

// imageUsageRow is a line of df -v.
type imageUsageRow struct {
	Repository, Tag, ID, CreatedSince    string
	Size, SharedSize, UniqueSize, UsedBy string
}

func (a *app) printUsageDetails(u *imgfs.DiskUsage, format string) error {
	var rows []imageUsageRow
	for _, i := range u.Images {
		rows = append(rows, imageUsageRow{
			Repository: i.Repository, Tag: i.Tag, ID: term.ShortID(string(i.ID)), CreatedSince: term.Age(time.Now(), i.Created),
			Size: term.Size(i.Size), SharedSize: term.Size(i.Shared), UniqueSize: term.Size(i.Size - i.Shared),
			UsedBy: strings.Join(i.UsedBy, ", "),
		})
	}
	uppers := make([]upperRow, 0, len(u.Uppers))
	for k := range u.Uppers {
		uppers = append(uppers, newUpperRow(&u.Uppers[k]))
	}
	heading := func(text string) error {
		if format != "" {
			return nil
		}
		_, err := fmt.Fprintln(a.stdout, text)
		return err
	}
	imageHeader := imageUsageRow{
		Repository: "REPOSITORY", Tag: "TAG", ID: "IMAGE ID", CreatedSince: "CREATED",
		Size: "SIZE", SharedSize: "SHARED SIZE", UniqueSize: "UNIQUE SIZE", UsedBy: "USED BY",
	}
	upperHeader := upperRow{Name: "NAME", Image: "IMAGE", Created: "CREATED", Changed: "CHANGED", Size: "SIZE", Mount: "MOUNTED ON"}
	return errors.Join(
		heading("Images space usage:\n"),
		term.Rows(a.stdout, format, "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.UsedBy}}", a.toTerminal(), imageHeader, rows),
		heading("\nUppers space usage:\n"),
		term.Rows(a.stdout, format, "{{.Name}}\t{{.Image}}\t{{.Created}}\t{{.Changed}}\t{{.Size}}\t{{.Mount}}", a.toTerminal(), upperHeader, uppers),
	)
}
