// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"
)

func newReset(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "reset NAME [PATH…]",
		Short: "Throw changes of an upper away",
		Long: `Reset makes an upper's tree as the image has it: all of it, or what is at and
below each PATH. It is refused while the upper is mounted.`,
		Example: `  imgfs reset fix-ssl
  imgfs reset fix-ssl /etc/ssl`,
		Args:              takes(cobra.MinimumNArgs(1)),
		ValidArgsFunction: a.firstUpper,
		RunE: func(c *cobra.Command, args []string) error {
			ctx, stop := interruptible(c.Context())
			defer stop()
			st, err := a.store()
			if err != nil {
				return err
			}
			return st.Reset(ctx, args[0], args[1:])
		},
	}
}
