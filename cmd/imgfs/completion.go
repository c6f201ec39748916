// SPDX-License-Identifier: Apache-2.0

package main

import "github.com/spf13/cobra"

// complete has f complete the values of a flag of c.
func complete(c *cobra.Command, flag string, f cobra.CompletionFunc) {
	if err := c.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic("imgfs: internal error: " + err.Error())
	}
}

func newCompletion(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish|powershell",
		Short: "Print the completion script of a shell",
		Long: `Completion prints a script by which a shell completes verbs, flags and the
names of the store's images.`,
		Example: `  source <(imgfs completion bash)
  imgfs completion zsh >~/.zfunc/_imgfs
  imgfs completion fish >~/.config/fish/completions/imgfs.fish`,
		Args:                  takes(cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs)),
		ValidArgs:             []string{"bash", "zsh", "fish", "powershell"},
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, args []string) error {
			root := c.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.stdout, true)
			case "zsh":
				return root.GenZshCompletion(a.stdout)
			case "fish":
				return root.GenFishCompletion(a.stdout, true)
			default:
				return root.GenPowerShellCompletionWithDesc(a.stdout)
			}
		},
	}
}
