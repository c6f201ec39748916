// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/internal/term"
)

// newUpper gathers the verbs about uppers.
func newUpper(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "upper VERB",
		Short: "List, remove and rename the changes of read-write mounts",
		Long: `An upper holds the changes that were made in a read-write mount over its image.
It stays when the mount goes, and is mounted again with imgfs mount --upper.`,
		Example: `  imgfs upper ls
  imgfs upper rm fix-ssl`,
		Args: noVerb,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	diff := newDiff(a)
	diff.Use = "diff NAME|DIR"
	c.AddCommand(newUpperLs(a), newUpperInspect(a), newUpperRm(a), newUpperRename(a), diff)
	return c
}

// upperRow is a line of upper ls.
type upperRow struct {
	Name, Image, ImageID, Platform, ChainID string
	Created, Changed, Size, Mount, PID      string
}

func newUpperLs(a *app) *cobra.Command {
	var (
		format string
		quiet  bool
	)
	c := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List uppers",
		Long: `Ls lists the uppers of the store: over which image each lies, how many files
and directories differ from it (? if its server was killed), what it takes on
disk, and where it is mounted.

Placeholders of --format: .Name .Image .ImageID .Platform .ChainID .Created
.Changed .Size .Mount .PID`,
		Example: `  imgfs upper ls
  imgfs upper ls -q
  imgfs upper ls --format json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			st, err := a.store()
			if err != nil {
				return err
			}
			list, bad := st.Uppers(c.Context()) // what could be read is listed
			if format == "json" {
				for _, u := range list {
					if err := term.JSON(a.stdout, u, ""); err != nil {
						return err
					}
				}
				return bad
			}
			rows := make([]upperRow, 0, len(list))
			for _, u := range list {
				rows = append(rows, newUpperRow(&u))
			}
			def := "{{.Name}}\t{{.Image}}\t{{.Created}}\t{{.Changed}}\t{{.Size}}\t{{.Mount}}"
			if quiet && (format == "" || format == "table") {
				format = "{{.Name}}"
			}
			header := upperRow{
				Name: "NAME", Image: "IMAGE", ImageID: "IMAGE ID", Platform: "PLATFORM", ChainID: "CHAIN ID",
				Created: "CREATED", Changed: "CHANGED", Size: "SIZE", Mount: "MOUNTED ON", PID: "PID",
			}
			return errors.Join(formatError(term.Rows(a.stdout, format, def, a.toTerminal(), header, rows)), bad)
		},
	}
	c.Flags().StringVar(&format, "format", "", "print as `FORMAT`: table, json (an object a line), a Go template, or \"table TEMPLATE\"")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "print names only")
	return c
}

func newUpperRow(u *imgfs.UpperInfo) upperRow {
	row := upperRow{
		Name: u.Name, Image: u.Image, ImageID: term.ShortID(u.ImageID), Platform: u.Platform, ChainID: u.ChainID,
		Created: term.Age(time.Now(), u.Created), Changed: "?", Size: term.Size(u.Size), Mount: u.Mount,
	}
	if u.Changed >= 0 {
		row.Changed = strconv.FormatInt(u.Changed, 10)
	}
	if u.PID > 0 {
		row.PID = strconv.Itoa(u.PID)
	}
	return row
}

func newUpperInspect(a *app) *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:               "inspect NAME…",
		Short:             "Show all that is known about uppers, as JSON",
		Long:              "Inspect prints a JSON array with an object for each upper.",
		Example:           "  imgfs upper inspect fix-ssl",
		Args:              takes(cobra.MinimumNArgs(1)),
		ValidArgsFunction: a.upperNames,
		RunE: func(c *cobra.Command, args []string) error {
			st, err := a.store()
			if err != nil {
				return err
			}
			found := []*imgfs.UpperInfo{}
			var missing []error
			for _, name := range args {
				u, err := st.Upper(c.Context(), name)
				if err != nil {
					missing = append(missing, err)
					continue
				}
				found = append(found, u)
			}
			return errors.Join(append([]error{formatError(printInspected(a.stdout, found, format, a.toTerminal()))}, missing...)...)
		},
	}
	c.Flags().StringVarP(&format, "format", "f", "", "print as `FORMAT`: json (an object a line) or a Go template")
	return c
}

func newUpperRm(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "rm NAME…",
		Aliases: []string{"remove"},
		Short:   "Remove uppers and the changes in them",
		Long:    "Rm removes uppers with all changes in them. It is refused for one that is mounted.",
		Example: `  imgfs upper rm fix-ssl
  imgfs upper rm $(imgfs upper ls -q)`,
		Args:              takes(cobra.MinimumNArgs(1)),
		ValidArgsFunction: a.upperNames,
		RunE: func(c *cobra.Command, args []string) error {
			st, err := a.store()
			if err != nil {
				return err
			}
			var errs []error
			for _, name := range args {
				if err := st.RemoveUpper(name); err != nil {
					errs = append(errs, err)
					continue
				}
				if _, err := fmt.Fprintln(a.stdout, name); err != nil {
					return err
				}
			}
			return errors.Join(errs...)
		},
	}
}

func newUpperRename(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "rename NAME NEW",
		Short:             "Give an upper another name",
		Long:              "Rename gives an upper another name. It is refused for one that is mounted.",
		Example:           "  imgfs upper rename debian-5f21c0de fix-ssl",
		Args:              takes(cobra.ExactArgs(2)),
		ValidArgsFunction: a.firstUpper,
		RunE: func(c *cobra.Command, args []string) error {
			st, err := a.store()
			if err != nil {
				return err
			}
			return st.RenameUpper(args[0], args[1])
		},
	}
}

// upperNames completes names of uppers.
func (a *app) upperNames(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	st, err := a.store()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	list, _ := st.Uppers(c.Context()) // what can be read is offered
	var names []string
	for _, u := range list {
		if !slices.Contains(args, u.Name) {
			names = append(names, u.Name+"\t"+u.Image)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// firstUpper completes the first argument with names of uppers, the others
// with nothing.
func (a *app) firstUpper(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.upperNames(c, nil, word)
}

// firstChanged completes the first argument with names of uppers and
// directories, the others with nothing.
func (a *app) firstChanged(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names, _ := a.upperNames(c, nil, word)
	return names, cobra.ShellCompDirectiveDefault
}
