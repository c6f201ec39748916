// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/internal/term"
)

func newPush(a *app) *cobra.Command {
	var t transfer
	c := &cobra.Command{
		Use:   "push NAME[:TAG]",
		Short: "Send an image of the store to its registry",
		Long: `Push sends an image to the registry that its name says; imgfs tag gives an
image such a name. Manifests and layers are sent byte for byte as they came,
so their digests stay. Layers that the registry has are not sent, and those
that another repository of it has are mounted from there.

Of an image for several platforms the one of this machine is pushed, unless
--platform names another or --all-platforms asks for the whole index.`,
		Example: `  imgfs tag alpine localhost:5000/alpine && imgfs push localhost:5000/alpine
  imgfs push -a registry.example.com/team/app
  imgfs push --all-platforms registry.example.com/team/app:1.2`,
		Args:              takes(cobra.ExactArgs(1)),
		ValidArgsFunction: a.imageNames,
		RunE: func(c *cobra.Command, args []string) error {
			ref, err := t.reference(args[0])
			if err != nil {
				return err
			}
			st, err := a.store()
			if err != nil {
				return err
			}
			if !t.quiet {
				fmt.Fprintf(a.stdout, "The push refers to repository [%s]\n", ref.Name())
				if !t.allTags && !namesTag(args[0]) {
					fmt.Fprintln(a.stdout, "Using default tag: latest")
				}
			}
			return a.working(c.Context(), t.quiet, func(ctx context.Context, load imgfs.LoadOptions) error {
				opt := imgfs.PushOptions{Platform: t.platform, AllPlatforms: t.allPlatforms, Progress: load.Progress}
				out := a.beside(load.Progress)
				if !t.quiet {
					opt.Layer = pushedPrinter(out)
				}
				if t.allTags {
					for done, err := range st.PushAll(ctx, ref.Name(), opt) {
						if err != nil {
							return err
						}
						if err := printPushed(out, done, t.quiet); err != nil {
							return err
						}
					}
					return nil
				}
				done, err := st.Push(ctx, args[0], opt)
				if err != nil {
					return err
				}
				return printPushed(out, done, t.quiet)
			})
		},
	}
	f := c.Flags()
	f.BoolVarP(&t.allTags, "all-tags", "a", false, "push every tag of the repository that the store has")
	f.StringVar(&t.platform, "platform", "", "push the image for `OS/ARCH[/VARIANT]` (default: this machine's)")
	f.BoolVar(&t.allPlatforms, "all-platforms", false, "push the index and the images for all platforms")
	f.BoolVarP(&t.quiet, "quiet", "q", false, "print the name alone, and no progress")
	c.MarkFlagsMutuallyExclusive("platform", "all-platforms")
	a.remoteFlags(c)
	return c
}

// pushedPrinter returns what prints a line for each layer, as docker does.
func pushedPrinter(w io.Writer) func(imgfs.PushedLayer) {
	var mu sync.Mutex
	return func(l imgfs.PushedLayer) {
		what := "Pushed"
		switch {
		case l.Mounted != "":
			what = "Mounted from " + l.Mounted
		case !l.Sent:
			what = "Layer already exists"
		}
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(w, "%s: %s\n", term.ShortID(l.Digest.String()), what)
	}
}

func printPushed(w io.Writer, done imgfs.Pushed, quiet bool) (err error) {
	if quiet {
		_, err = fmt.Fprintln(w, done.Ref)
		return err
	}
	what := done.Ref.Tag()
	if what == "" {
		what = done.Ref.Digest().String()
	}
	_, err = fmt.Fprintf(w, "%s: digest: %s size: %d\n", what, done.Digest, done.Size)
	return err
}
