// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs"
)

func newSave(a *app) *cobra.Command {
	var (
		output string
		opt    imgfs.SaveOptions
		quiet  bool
	)
	c := &cobra.Command{
		Use:   "save [-o FILE] IMAGE…",
		Short: "Write images to a tar that docker, podman and skopeo load",
		Long: `Save writes images of the store to FILE, or to standard output, with all their
documents and layers bit for bit as they came: digests stay as they are.
Saving twice gives the same file; its times are $SOURCE_DATE_EPOCH, or zero.

IMAGE is a name or an ID; a repository without a tag stands for all its tags.
Of an image for several platforms all that are in the store are written, or
the one of --platform.

Formats:
  docker-archive  as docker save: an OCI layout and a manifest.json in a tar
  oci-archive     an OCI layout in a tar
  oci-dir         an OCI layout in the directory FILE; to one that is there the
                  images are added

FILE is there when it is whole, or not at all.`,
		Example: `  imgfs save -o alpine.tar alpine:3
  imgfs save debian:12 | ssh host docker load
  imgfs save --format oci-dir -o ./layout debian alpine`,
		Args:              takes(cobra.MinimumNArgs(1)),
		ValidArgsFunction: a.imageNames,
		RunE: func(c *cobra.Command, args []string) error {
			if err := checkPlatform(opt.Platform); err != nil {
				return err
			}
			if output == "" {
				output = "-"
			}
			if output == "-" && a.toTerminal() {
				return &hintError{err: usagef("cowardly refusing to save to a terminal"), hint: "imgfs save -o FILE " + args[0] + ", or redirect it"}
			}
			st, err := a.store()
			if err != nil {
				return err
			}
			return a.working(c.Context(), quiet, func(ctx context.Context, load imgfs.LoadOptions) error {
				opt.Progress = load.Progress
				return st.Save(ctx, output, a.stdout, args, opt)
			})
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "", "write to `FILE`, not to standard output")
	c.Flags().StringVar(&opt.Format, "format", "docker-archive", "write a docker-archive, an oci-archive or an oci-dir")
	c.Flags().StringVar(&opt.Platform, "platform", "", "write only `OS/ARCH[/VARIANT]` of an image for several")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	complete(c, "format", cobra.FixedCompletions([]string{"docker-archive", "oci-archive", "oci-dir"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}
