// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/internal/term"
)

func newRmi(a *app) *cobra.Command {
	var opt imgfs.RemoveOptions
	c := &cobra.Command{
		Use:   "rmi IMAGE…",
		Short: "Remove images from the store",
		Long: `Rmi removes names of images, and with the last name the image itself: its
documents, the layers that no other image has, and their indexes. IMAGE is a
name, NAME@DIGEST, or the beginning of an ID.

An ID that has several names is refused without -f. So is an image that a mount
or an upper needs; -f then removes its name alone, and prune the rest when
nothing uses it any more.

It prints "Untagged: NAME" for each name and "Deleted: DIGEST" for the image and
for each layer, by its diffID, that goes with it.`,
		Example: `  imgfs rmi alpine:3
  imgfs rmi -f 0123456789ab
  imgfs rmi $(imgfs images -q 'test/*')`,
		Args:              takes(cobra.MinimumNArgs(1)),
		ValidArgsFunction: a.storedImages,
		RunE: func(c *cobra.Command, args []string) error {
			st, err := a.store()
			if err != nil {
				return err
			}
			ctx, stop := interruptible(c.Context())
			defer stop()
			removed, err := st.Remove(ctx, args, opt)
			for _, r := range removed {
				if err := printRemoved(a.stdout, "Untagged: ", "Deleted: ", &r); err != nil {
					return err
				}
			}
			return err
		},
	}
	c.Flags().BoolVarP(&opt.Force, "force", "f", false, "remove all names of an ID, and the name of an image that is in use")
	c.Flags().BoolVar(&opt.NoPrune, "no-prune", false, "leave the layers to the next prune")
	return c
}

func printRemoved(w io.Writer, untagged, deleted string, r *imgfs.Removed) error {
	var b strings.Builder
	for _, name := range r.Untagged {
		b.WriteString(untagged + term.Escape(name) + "\n")
	}
	for _, d := range r.Deleted {
		b.WriteString(deleted + string(d) + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// removeHint returns the cure of an error of rmi, empty if there is none.
func removeHint(err error) string {
	var used *imgfs.InUseError
	switch {
	case errors.As(err, &used):
		cure := "imgfs rmi -f removes the name alone"
		if used.Dir != "" {
			cure = fmt.Sprintf("imgfs umount %s first; %s", used.Dir, cure)
		}
		if !used.Named {
			cure, _, _ = strings.Cut(cure, "; ")
		}
		return cure
	case errors.Is(err, imgfs.ErrSeveralNames):
		return "name one of them, or take all with -f"
	}
	return ""
}

// storedImages completes names of the store's images, each once.
func (a *app) storedImages(c *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	names, _ := a.imageNames(c, nil, prefix)
	names = slices.DeleteFunc(names, func(n string) bool {
		name, _, _ := strings.Cut(n, "\t")
		return slices.Contains(args, name)
	})
	return names, cobra.ShellCompDirectiveNoFileComp
}
