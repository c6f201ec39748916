// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs/internal/term"
)

func newLogout(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "logout [SERVER]",
		Short: "Log out from a registry",
		Long:  "Logout forgets the credentials of the registry SERVER, by default docker.io, which login or docker login has stored.",
		Example: `  imgfs logout
  imgfs logout registry.example.com`,
		Args: takes(cobra.MaximumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			st, err := a.store()
			if err != nil {
				return err
			}
			host, had, err := st.Logout(c.Context(), strings.Join(args, ""))
			if err != nil {
				return err
			}
			text := "Not logged in to %s\n"
			if had {
				text = "Removing login credentials for %s\n"
			}
			_, err = fmt.Fprintf(a.stdout, text, term.Escape(host))
			return err
		},
	}
}
