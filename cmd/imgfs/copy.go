// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs"
)

func newCopy(a *app) *cobra.Command {
	var (
		opt   imgfs.CopyOptions
		quiet bool
	)
	c := &cobra.Command{
		Use:   "copy SRC DST",
		Short: "Copy an image between archives, layouts, registries and the store",
		Long: `Copy copies an image from SRC to DST, with its documents and layers bit for
bit. Each is one of

  docker-archive:FILE[:REF]  the tar that docker save writes
  oci-archive:FILE[:REF]     a tar of an OCI layout
  oci:DIR[:REF]              an OCI layout
  docker://NAME[:TAG]        a registry
  store:NAME, or NAME        the store of imgfs

Without a REF in DST names stay as they are, and of an archive all images are
copied. An image gets the name REF if DST has one. A FILE or DIR ends at the
first colon.

To and from a registry, one image of an index is copied, for this machine or
--platform; --all-platforms copies the index and all its images. From archives
to archives all that is there is copied, unless --platform names one.`,
		Example: `  imgfs copy docker://alpine:3 oci:./layout:alpine
  imgfs copy docker-archive:app.tar docker://registry.example.com/app:1
  imgfs copy debian:12 oci-archive:debian.tar`,
		Args:              takes(cobra.ExactArgs(2)),
		ValidArgsFunction: a.endpoints,
		RunE: func(c *cobra.Command, args []string) error {
			if err := checkPlatform(opt.Platform); err != nil {
				return err
			}
			st, err := a.store()
			if err != nil {
				return err
			}
			var copied []imgfs.Loaded
			err = a.working(c.Context(), quiet, func(ctx context.Context, load imgfs.LoadOptions) (err error) {
				opt.Progress, opt.Warn = load.Progress, load.Warn
				copied, err = st.Copy(ctx, args[0], args[1], opt)
				return err
			})
			if errors.Is(err, imgfs.ErrBothStored) {
				return &hintError{err: err, hint: "imgfs tag IMAGE NAME gives an image one more name"}
			}
			if err != nil {
				return notImage(err)
			}
			return a.printLoaded("Copied", copied)
		},
	}
	c.Flags().StringVar(&opt.Platform, "platform", "", "copy only `OS/ARCH[/VARIANT]` of an index, without the index")
	c.Flags().BoolVar(&opt.AllPlatforms, "all-platforms", false, "copy all images of an index to or from a registry")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	a.remoteFlags(c)
	return c
}

// endpoints completes SRC and DST of copy: kinds of places, the names of the
// store, and files behind a kind.
func (a *app) endpoints(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 1 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names, _ := a.imageNames(c, nil, strings.TrimPrefix(word, "store:"))
	for _, kind := range []string{"docker-archive:", "oci-archive:", "oci:", "docker://", "store:"} {
		if strings.HasPrefix(kind, word) {
			names = append(names, kind)
		}
	}
	return names, cobra.ShellCompDirectiveNoSpace
}
