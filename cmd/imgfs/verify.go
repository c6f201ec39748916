// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/internal/term"
)

func newVerify(a *app) *cobra.Command {
	var (
		opt    imgfs.VerifyOptions
		format string
		quiet  bool
	)
	c := &cobra.Command{
		Use:   "verify [IMAGE…]",
		Short: "Reread everything in the store and tell what is wrong",
		Long: `Verify reads every blob and every index of the images, without IMAGE of the
whole store, and compares them with their digests and checksums. Each file that
is not good is told in a line, with the images that need it; the exit code is
then 1.

With --repair what is derived from layers is made anew, and a blob that is lost
or damaged is fetched from the registry that the image's name speaks of. The
exit code is 0 if everything is good then.`,
		Example: `  imgfs verify
  imgfs verify --repair alpine:3
  imgfs verify --format json`,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: a.storedImages,
		RunE: func(c *cobra.Command, args []string) error {
			if format != "" && format != "json" {
				return usagef("--format %q: want json", format)
			}
			st, err := a.store()
			if err != nil {
				return err
			}
			var found *imgfs.Verified
			err = a.working(c.Context(), quiet, func(ctx context.Context, load imgfs.LoadOptions) (err error) {
				opt.Progress = load.Progress
				found, err = st.Verify(ctx, args, opt)
				return err
			})
			if err != nil {
				return err
			}
			return a.printVerified(found, format, quiet)
		},
	}
	c.Flags().BoolVar(&opt.Repair, "repair", false, "make anew what is derived, and fetch blobs that a registry still has")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "print nothing but what is wrong")
	c.Flags().StringVar(&format, "format", "", "print as `FORMAT`: json (an object for each thing that is wrong, a line each)")
	return c
}

func (a *app) printVerified(v *imgfs.Verified, format string, quiet bool) error {
	left := 0
	for i := range v.Problems {
		p := &v.Problems[i]
		if !p.Repaired {
			left++
		}
		if format == "json" {
			if err := term.JSON(a.stdout, p, ""); err != nil {
				return err
			}
		} else if _, err := fmt.Fprintln(a.stdout, term.Escape(problemLine(p))); err != nil {
			return err
		}
	}
	if format == "" && !quiet {
		_, err := fmt.Fprintf(a.stdout, "%d images, %d blobs, %d indexes read: %s\n", v.Images, v.Blobs, v.Indexes, verdict(len(v.Problems), left))
		if err != nil {
			return err
		}
	}
	if left > 0 {
		return exitStatus(exitDiffers)
	}
	return nil
}

func verdict(found, left int) string {
	switch {
	case found == 0:
		return "all good"
	case left == 0:
		return fmt.Sprintf("%d bad, all repaired", found)
	case left == found:
		return fmt.Sprintf("%d bad", found)
	}
	return fmt.Sprintf("%d bad, %d repaired", found, found-left)
}

// problemLine tells a problem: the image, the layer, the file and what is wrong.
func problemLine(p *imgfs.Problem) string {
	var b strings.Builder
	if len(p.Images) > 0 {
		b.WriteString(strings.Join(p.Images, ", ") + ": ")
	}
	if p.Layer > 0 {
		fmt.Fprintf(&b, "layer %d: ", p.Layer)
	}
	fmt.Fprintf(&b, "%s: %s", p.File, p.What)
	switch {
	case p.Repaired:
		b.WriteString(" (repaired)")
	case p.Cure != "":
		b.WriteString(" (not repaired: " + p.Cure + ")")
	}
	return b.String()
}
