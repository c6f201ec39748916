// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/internal/term"
)

func newCommit(a *app) *cobra.Command {
	var (
		opt           imgfs.CommitOptions
		changes       []string
		allowChanging bool
		quiet         bool
	)
	c := &cobra.Command{
		Use:   "commit NAME|DIR [IMAGE[:TAG]]",
		Short: "Make an image of what a read-write mount has changed",
		Long: `Commit makes an image of an upper's image and one layer more, which holds what
differs, and prints its ID. It takes the name of an upper or the directory of a
read-write mount, which may be in use: names and attributes are those of one
moment. A file that is being written is read again a few times, then named in
an error.

Changes of -c are instructions as in a Dockerfile: CMD, ENTRYPOINT, ENV,
EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR.

With SOURCE_DATE_EPOCH set, the same changes make the same digests.`,
		Example: `  imgfs commit -m 'fix ssl' /mnt debian:fixed
  imgfs commit -c 'CMD ["/bin/app"]' -c 'ENV MODE=prod' fix-ssl app:1`,
		Args: takes(cobra.RangeArgs(1, 2)),
		ValidArgsFunction: func(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				names, _ := a.imageNames(c, nil, word)
				return names, cobra.ShellCompDirectiveNoFileComp
			}
			return a.firstChanged(c, args, word)
		},
		RunE: func(c *cobra.Command, args []string) error {
			for _, text := range changes {
				change, err := image.ParseChange(text)
				if err != nil {
					return &usageError{err: err}
				}
				opt.Changes = append(opt.Changes, change)
			}
			ref := ""
			if len(args) == 2 {
				ref = args[1]
				if _, err := image.ParseReference(ref); err != nil {
					return &usageError{err: err}
				}
			}
			ctx, stop := interruptible(c.Context())
			defer stop()
			st, err := a.store()
			if err != nil {
				return err
			}
			opt.Warn = a.warn
			if term.IsTerminal(a.stderr) && !quiet {
				bars := term.NewBars(ctx, a.stderr)
				defer bars.Wait()
				opt.Progress = bars
			}
			id, err := st.Commit(ctx, args[0], ref, opt, allowChanging)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.stdout, id)
			return err
		},
	}
	f := c.Flags()
	f.StringVarP(&opt.Author, "author", "a", "", "`AUTHOR` of the image: 'Name <mail>'")
	f.StringVarP(&opt.Message, "message", "m", "", "`MESSAGE` for the history")
	f.StringArrayVarP(&changes, "change", "c", nil, "apply the Dockerfile `INSTRUCTION` to the config")
	f.StringVar(&opt.Compression, "compression", "gzip", "compress the layer by `METHOD`: gzip, zstd or none")
	complete(c, "compression", cobra.FixedCompletions([]string{"gzip", "zstd", "none"}, cobra.ShellCompDirectiveNoFileComp))
	f.IntVar(&opt.Level, "compression-level", 0, "`LEVEL` of the compression (default: a middle one)")
	f.BoolVar(&allowChanging, "allow-changing", false, "take files that are being written as they are")
	f.BoolVarP(&quiet, "quiet", "q", false, "no progress")
	return c
}
