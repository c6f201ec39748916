// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/internal/term"
)

func newPrune(a *app) *cobra.Command {
	var (
		all, force bool
		filters    []string
	)
	c := &cobra.Command{
		Use:   "prune",
		Short: "Remove what nothing uses from the store",
		Long: `Prune removes images without a name that no mount and no upper needs, with -a
those with names, too. It also removes what lies in the store and belongs to no
image: layers that are left over, indexes of image files that are gone or have
changed, and what commands that were killed left behind, such as downloads that
broke off. It is safe beside any other command.

Filters: until=DURATION|TIME (created before), label=KEY[=VALUE], and
label!=KEY[=VALUE].`,
		Example: `  imgfs prune
  imgfs prune -af --filter until=240h
  imgfs prune -f --filter 'label!=keep'`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			opt, err := pruneOptions(all, filters)
			if err != nil {
				return err
			}
			if !force {
				if ok, err := a.confirm(pruneWarning(all)); err != nil || !ok {
					return err
				}
			}
			st, err := a.store()
			if err != nil {
				return err
			}
			ctx, stop := interruptible(c.Context())
			defer stop()
			pruned, err := st.Prune(ctx, opt)
			if pruned == nil {
				return err
			}
			if printErr := a.printPruned(pruned); printErr != nil {
				return printErr
			}
			return err
		},
	}
	c.Flags().BoolVarP(&all, "all", "a", false, "remove images with names, too")
	c.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	c.Flags().StringArrayVar(&filters, "filter", nil, "remove only images that `KEY=VALUE` is true of")
	return c
}

func pruneOptions(all bool, flags []string) (opt imgfs.PruneOptions, err error) {
	filters, err := parseFilters(flags, "until", "label")
	if err != nil {
		return opt, err
	}
	opt.All = all
	for _, f := range filters {
		if f.key == "label" {
			opt.Labels = append(opt.Labels, f.label())
		} else if opt.Until, err = parseTime(f.value, time.Now()); err != nil {
			return opt, err
		}
	}
	return opt, nil
}

func pruneWarning(all bool) string {
	if all {
		return "WARNING! This will remove all images that no mount and no upper uses."
	}
	return "WARNING! This will remove all dangling images."
}

// confirm asks on the terminal, as docker does. Where there is none it refuses.
func (a *app) confirm(warning string) (bool, error) {
	if !term.IsTerminal(a.stdin) {
		return false, &hintError{err: usagef("standard input is no terminal, so nobody can be asked"), hint: "-f does it without asking"}
	}
	if _, err := fmt.Fprintf(a.stdout, "%s\nAre you sure you want to continue? [y/N] ", warning); err != nil {
		return false, err
	}
	line, err := bufio.NewReader(a.stdin).ReadString('\n')
	if err != nil {
		fmt.Fprintln(a.stdout)
		return false, nil // the end of input is no
	}
	return strings.EqualFold(strings.TrimSpace(line), "y"), nil
}

func (a *app) printPruned(p *imgfs.Pruned) error {
	if len(p.Images) > 0 {
		if _, err := fmt.Fprintln(a.stdout, "Deleted Images:"); err != nil {
			return err
		}
		for i := range p.Images {
			if err := printRemoved(a.stdout, "untagged: ", "deleted: ", &p.Images[i]); err != nil {
				return err
			}
		}
		if _, err := fmt.Fprintln(a.stdout); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(a.stdout, "Total reclaimed space: %s\n", term.Size(p.Bytes))
	return err
}
