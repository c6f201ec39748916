// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/image"
)

func newImport(a *app) *cobra.Command {
	var (
		platform string
		quiet    bool
	)
	c := &cobra.Command{
		Use:   "import FILE|- [NAME[:TAG]]",
		Short: "Make an image of a plain root filesystem tar",
		Long: `Import makes an image of one layer from the tar of a root filesystem, which
may be compressed, and prints the image's ID. "-" is standard input.`,
		Example: `  imgfs import rootfs.tar.xz debian:custom
  mmdebstrap --variant=minbase stable - | imgfs import - debian`,
		Args: takes(cobra.RangeArgs(1, 2)),
		RunE: func(c *cobra.Command, args []string) error {
			if args[0] == "-" {
				if err := a.refuseTerminal("imgfs import FILE, or a tar piped to imgfs import -"); err != nil {
					return err
				}
			}
			name := ""
			if len(args) == 2 {
				name = args[1]
				if _, err := image.ParseReference(name); err != nil {
					return &usageError{err}
				}
			}
			if err := checkPlatform(platform); err != nil {
				return err
			}
			st, err := a.store()
			if err != nil {
				return err
			}
			var loaded imgfs.Loaded
			err = a.working(c.Context(), quiet, func(ctx context.Context, opt imgfs.LoadOptions) (err error) {
				opt.Platform = platform
				loaded, err = st.Import(ctx, args[0], a.stdin, name, opt)
				return err
			})
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.stdout, loaded.ID)
			return err
		},
	}
	c.Flags().StringVar(&platform, "platform", "", "the image is for `OS/ARCH[/VARIANT]` (default: this machine's)")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	return c
}
