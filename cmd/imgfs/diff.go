// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/internal/term"
)

func newDiff(a *app) *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "diff NAME|DIR",
		Short: "List what a read-write mount has changed",
		Long: `Diff prints what differs from the image, a path a line: A was added, C was
changed (of a directory also: something in it), D was deleted. It takes the
name of an upper or the directory of a read-write mount.`,
		Example: `  imgfs diff /mnt
  imgfs diff fix-ssl --format json`,
		Args:              takes(cobra.ExactArgs(1)),
		ValidArgsFunction: a.firstChanged,
		RunE: func(c *cobra.Command, args []string) error {
			ctx, stop := interruptible(c.Context())
			defer stop()
			st, err := a.store()
			if err != nil {
				return err
			}
			switch format {
			case "", "json":
			default:
				return usagef("--format %s: there is json, and none", format)
			}
			out := bufio.NewWriter(a.stdout)
			err = st.Changes(ctx, args[0], func(ch imgfs.Change) error {
				if format == "json" {
					return term.JSON(out, ch, "")
				}
				path := ch.Path
				if a.toTerminal() {
					path = term.Escape(path)
				}
				_, err := fmt.Fprintf(out, "%s %s\n", ch.Kind, path)
				return err
			})
			return errors.Join(err, out.Flush())
		},
	}
	c.Flags().StringVar(&format, "format", "", "print as `FORMAT`: json (an object a line)")
	return c
}
