// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/internal/term"
)

func newMounts(a *app) *cobra.Command {
	var (
		format    string
		long, all bool
	)
	c := &cobra.Command{
		Use:   "mounts",
		Short: "List the living mounts",
		Long: `Mounts lists the living mounts of this user, as root those of all users.
A NOTE says what is out of the ordinary: unverified (an image file that is
read in place and not yet checked), damaged (layers of such a file are not
what the image says, and cannot be read; the log tells which), silent (its
server does not answer), elsewhere (of another mount namespace, or detached
and still in use; listed with --all only).

Placeholders of --format: .Dir .Image .ImageID .Platform .Mode .Upper .PID
.Since .Options .Note .Log .Store`,
		Example: `  imgfs mounts
  imgfs mounts --format json
  imgfs mounts --format '{{.Dir}}'`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.printMounts(c.Context(), format, long, all)
		},
	}
	c.Flags().StringVar(&format, "format", "", "print as `FORMAT`: table, json (an object a line), a Go template, or \"table TEMPLATE\"")
	c.Flags().BoolVarP(&long, "long", "l", false, "show options and logs too")
	c.Flags().BoolVarP(&all, "all", "a", false, "list mounts that are elsewhere too")
	return c
}

// mountRow is a line of mounts.
type mountRow struct {
	Dir, Image, ImageID, Platform string
	Mode, Upper, PID, Since       string
	Options, Note, Log, Store     string
}

func (a *app) printMounts(ctx context.Context, format string, long, all bool) error {
	mounts, err := imgfs.Mounts(ctx, all)
	if err != nil {
		return err
	}
	if format == "json" {
		for _, m := range mounts {
			if err := term.JSON(a.stdout, m, ""); err != nil {
				return err
			}
		}
		return nil
	}
	rows := make([]mountRow, 0, len(mounts))
	for _, m := range mounts {
		rows = append(rows, mountRow{
			Dir: m.Dir, Image: m.Image, ImageID: m.ImageID, Platform: m.Platform,
			Mode: m.Mode, Upper: m.Upper, PID: strconv.Itoa(m.PID), Since: m.Since.Local().Format(time.DateTime),
			Options: strings.Join(m.Options, ","), Note: note(&m), Log: m.Log, Store: m.Store,
		})
	}
	def := "{{.Dir}}\t{{.Image}}\t{{.Mode}}\t{{.Upper}}\t{{.PID}}\t{{.Since}}\t{{.Note}}"
	if long {
		def += "\t{{.Options}}\t{{.Log}}"
	}
	header := mountRow{
		Dir: "DIR", Image: "IMAGE", ImageID: "IMAGE ID", Platform: "PLATFORM", Mode: "MODE", Upper: "UPPER", PID: "PID", Since: "SINCE",
		Options: "OPTIONS", Note: "NOTE", Log: "LOG", Store: "STORE",
	}
	return formatError(term.Rows(a.stdout, format, def, a.toTerminal(), header, rows))
}

// note says what is out of the ordinary with m.
func note(m *imgfs.MountInfo) string {
	var notes []string
	if m.Silent {
		notes = append(notes, "silent")
	}
	switch {
	case m.Silent: // it does not say
	case m.Damaged:
		notes = append(notes, "damaged")
	case !m.Verified:
		notes = append(notes, "unverified")
	}
	if m.Elsewhere {
		notes = append(notes, "elsewhere")
	}
	return strings.Join(notes, ", ")
}
