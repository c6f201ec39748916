// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs/internal/term"
)

// tagRow is a line of tags.
type tagRow struct{ Repository, Tag string }

func newTags(a *app) *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "tags REPOSITORY",
		Short: "List the tags that a registry has of a repository",
		Long: `Tags asks a registry for the tags of a repository and prints one a line,
sorted. Nothing is pulled.

Placeholders of --format: .Repository .Tag`,
		Example: `  imgfs tags alpine
  imgfs tags --format '{{.Repository}}:{{.Tag}}' localhost:5000/team/app`,
		Args:              takes(cobra.ExactArgs(1)),
		ValidArgsFunction: a.firstImage,
		RunE: func(c *cobra.Command, args []string) error {
			ctx, stop := interruptible(c.Context())
			defer stop()
			st, err := a.store()
			if err != nil {
				return err
			}
			tags, err := st.Tags(ctx, args[0])
			if err != nil {
				return err
			}
			rows := make([]tagRow, len(tags))
			for i, tag := range tags {
				rows[i] = tagRow{args[0], tag}
			}
			if format == "" {
				format = "{{.Tag}}"
			}
			header := tagRow{Repository: "REPOSITORY", Tag: "TAG"}
			return formatError(term.Rows(a.stdout, format, "{{.Repository}}\t{{.Tag}}", a.toTerminal(), header, rows))
		},
	}
	c.Flags().StringVar(&format, "format", "", "print as `FORMAT`: table, json (an object a line), a Go template, or \"table TEMPLATE\" (default: the tags alone)")
	a.remoteFlags(c)
	return c
}
