// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/internal/term"
)

// searchRow is a line of search, with docker's placeholders.
type searchRow struct {
	Name, Description, StarCount, IsOfficial string
}

// descriptionWidth is where docker cuts DESCRIPTION.
const descriptionWidth = 45

func newSearch(a *app) *cobra.Command {
	var (
		format  string
		limit   int
		noTrunc bool
		filters []string
	)
	c := &cobra.Command{
		Use:   "search [HOST/]TERM",
		Short: "Search a registry for images",
		Long: `Search asks docker.io, or the registry HOST, for repositories that have to do with
TERM. Of a registry that has no search, as most have none, it lists the
repositories whose names have TERM in them.

Filters: is-official=true|false, stars=NUMBER (at least)
Placeholders of --format: .Name .Description .StarCount .IsOfficial`,
		Example: `  imgfs search busybox
  imgfs search --filter is-official=true --filter stars=100 --no-trunc alpine
  imgfs search localhost:5000/tools`,
		Args: takes(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if limit < 1 || limit > imgfs.MaxSearch {
				return usagef("limit %d outside range of [1, %d]", limit, imgfs.MaxSearch)
			}
			keep, err := searchFilter(filters)
			if err != nil {
				return err
			}
			ctx, stop := interruptible(c.Context())
			defer stop()
			st, err := a.store()
			if err != nil {
				return err
			}
			found, err := st.Search(ctx, args[0], limit)
			if err != nil {
				return err
			}
			rows := searchRows(slices.DeleteFunc(found, func(r imgfs.SearchResult) bool { return !keep(r) }), noTrunc)
			header := searchRow{Name: "NAME", Description: "DESCRIPTION", StarCount: "STARS", IsOfficial: "OFFICIAL"}
			def := "{{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}"
			return formatError(term.Rows(a.stdout, format, def, a.toTerminal(), header, rows))
		},
	}
	c.Flags().IntVar(&limit, "limit", 25, "show at most `NUMBER` results")
	c.Flags().StringArrayVarP(&filters, "filter", "f", nil, "show only what `KEY=VALUE` holds for")
	c.Flags().BoolVar(&noTrunc, "no-trunc", false, "show descriptions in full")
	c.Flags().StringVar(&format, "format", "", "print as `FORMAT`: table, json (an object a line), a Go template, or \"table TEMPLATE\"")
	a.remoteFlags(c)
	return c
}

// searchFilter returns what --filter lets pass.
func searchFilter(filters []string) (func(imgfs.SearchResult) bool, error) {
	var tests []func(imgfs.SearchResult) bool
	for _, f := range filters {
		key, value, _ := strings.Cut(f, "=")
		switch key {
		case "is-official":
			want, err := strconv.ParseBool(value)
			if err != nil {
				return nil, usagef("invalid filter %q: want true or false", f)
			}
			tests = append(tests, func(r imgfs.SearchResult) bool { return r.Official == want })
		case "stars":
			least, err := strconv.Atoi(value)
			if err != nil {
				return nil, usagef("invalid filter %q: want a number", f)
			}
			tests = append(tests, func(r imgfs.SearchResult) bool { return r.Stars >= least })
		default:
			return nil, usagef("invalid filter %q: there are is-official and stars", f)
		}
	}
	return func(r imgfs.SearchResult) bool {
		return !slices.ContainsFunc(tests, func(ok func(imgfs.SearchResult) bool) bool { return !ok(r) })
	}, nil
}

func searchRows(found []imgfs.SearchResult, noTrunc bool) []searchRow {
	rows := make([]searchRow, 0, len(found))
	for _, r := range found {
		row := searchRow{Name: r.Name, Description: strings.Join(strings.Fields(r.Description), " "), StarCount: strconv.Itoa(r.Stars)}
		if !noTrunc {
			row.Description = term.Ellipsis(row.Description, descriptionWidth)
		}
		if r.Official {
			row.IsOfficial = "[OK]"
		}
		rows = append(rows, row)
	}
	return rows
}
