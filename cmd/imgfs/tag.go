// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"
)

func newTag(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "tag IMAGE NAME[:TAG]",
		Short: "Give an image one more name",
		Long: `Tag gives an image of the store another name; NAME without a tag is
NAME:latest. If another image had the name, that one keeps its content and is
listed as <none>, unless it has more names.`,
		Example: `  imgfs tag alpine:3 registry.example.com/base:2024
  imgfs tag 0123456789ab mine`,
		Args:              takes(cobra.ExactArgs(2)),
		ValidArgsFunction: a.storedImages,
		RunE: func(c *cobra.Command, args []string) error {
			st, err := a.store()
			if err != nil {
				return err
			}
			return st.Tag(c.Context(), args[0], args[1])
		},
	}
}
