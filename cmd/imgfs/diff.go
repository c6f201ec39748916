// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/internal/term"
)

func newDiff(a *app) *cobra.Command {
	var d diffVerb
	c := &cobra.Command{
		Use:   "diff A B | NAME|DIR",
		Short: "Compare two images, or list what a read-write mount has changed",
		Long: `Diff A B compares two trees: images, parts of them (IMAGE:/etc), one layer
(IMAGE#3), some layers (IMAGE@upto=3), uppers (upper:NAME), mounts of imgfs and
directories (dir:PATH). It prints a path a line: A was added in B, C was
changed, D was deleted, and of C what differs: type, mode, owner, size, content,
target, device, times, xattrs, capabilities or links (which names are hard
links of one file). The config, history and manifest of two images are compared,
too, unless paths are named.

--semantic leaves out what differs between two builds of the same: times, the
manifest, diffIDs and the order of environment variables. A pattern of --path and
--exclude is of whole paths if it has a slash (/usr/share/doc), else of any name
(*.pyc); ** is anything.

It exits with 0 if both are the same, 1 if they differ, above 1 if it cannot
tell.

Diff NAME or DIR lists what differs from the image under an upper or a
read-write mount: A, C (of a directory also: something in it), D.

--format json prints an object a line, see docs/forensics.md. Placeholders of
a template: .Letter .Change .Path .What .Old .New`,
		Example: `  imgfs diff alpine:3.19 alpine:3.20
  imgfs diff --semantic --exclude '*.pyc' ./old.tar ./new.tar
  imgfs diff -u app:1:/etc app:2:/etc
  imgfs diff --packages debian:12 dir:/srv/root
  imgfs diff /mnt`,
		Args:              takes(cobra.RangeArgs(1, 2)),
		ValidArgsFunction: a.imageNames,
		RunE: func(c *cobra.Command, args []string) error {
			ctx, stop := interruptible(c.Context())
			defer stop()
			if len(args) == 2 {
				return d.run(ctx, a, args[0], args[1])
			}
			for _, name := range d.ofTwo {
				if c.Flags().Changed(name) {
					return usagef("--%s compares two: imgfs diff A B", name)
				}
			}
			return a.diffUpper(ctx, args[0], d.format)
		},
	}
	d.add(a, c)
	return c
}

// diffUpper lists what an upper has changed.
func (a *app) diffUpper(ctx context.Context, arg, format string) error {
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
	err = st.Changes(ctx, arg, func(ch imgfs.Change) error {
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
}
