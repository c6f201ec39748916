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
		ev     evidenceFlags
		format string
	)
	c := &cobra.Command{
		Use:   "verify [IMAGE…] | --evidence {IMAGE…|FILE… | --check REPORT}",
		Short: "Reread everything in the store and tell what is wrong",
		Long: `Verify reads every blob and every index of the images, without IMAGE of the
whole store, and compares them with their digests and checksums. Each file that
is not good is told in a line, with the images that need it; the exit code is
then 1.

With --repair what is derived from layers is made anew, and a blob that is lost
or damaged is fetched from the registry that the image's name speaks of. The
exit code is 0 if everything is good then.

With --evidence it reads images of the store, image files, OCI layouts and what
other engines have (docker:NAME, see imgfs images --store) whole and writes a
report of what they are: the size and sha256 of the file, of all in it, of each
layer as shipped and uncompressed, by which tool, when, where and as whom, and a
seal over all that. What is examined is opened for reading only, and what is
derived of it goes to the store (--root). The seal is printed, to be noted or
signed elsewhere: who can change a report can seal it anew.

--check REPORT reads all again that a report names, or FILE… in its place, and
tells what is not as it says; the exit code is then 1, as for a seal that does
not hold.`,
		Example: `  imgfs verify
  imgfs verify --repair alpine:3
  imgfs verify --format json
  imgfs verify --evidence -o report.json ./image.tar
  imgfs verify --evidence --check report.json`,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: a.imageNames,
		RunE: func(c *cobra.Command, args []string) error {
			if format != "" && format != "json" {
				return usagef("--format %q: want json", format)
			}
			ev.json = format == "json"
			switch {
			case ev.on && opt.Repair:
				return usagef("--repair changes the store, --evidence changes nothing")
			case ev.on:
				return a.evidence(c.Context(), args, &ev)
			case ev.output != "" || ev.check != "":
				return usagef("-o and --check go with --evidence")
			}
			st, err := a.store()
			if err != nil {
				return err
			}
			var found *imgfs.Verified
			err = a.working(c.Context(), ev.quiet, func(ctx context.Context, load imgfs.LoadOptions) (err error) {
				opt.Progress = load.Progress
				found, err = st.Verify(ctx, args, opt)
				return err
			})
			if err != nil {
				return err
			}
			return a.printVerified(found, format, ev.quiet)
		},
	}
	c.Flags().BoolVar(&opt.Repair, "repair", false, "make anew what is derived, and fetch blobs that a registry still has")
	c.Flags().BoolVar(&ev.on, "evidence", false, "write a sealed report of what images or files are")
	c.Flags().StringVarP(&ev.output, "output", "o", "", "write the report to the new file `FILE`, not to standard output")
	c.Flags().StringVar(&ev.check, "check", "", "read again what `REPORT` is about, and tell what differs")
	c.Flags().BoolVarP(&ev.quiet, "quiet", "q", false, "print nothing but what is wrong")
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
