// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/internal/term"
)

func newLoad(a *app) *cobra.Command {
	var (
		input, platform string
		quiet           bool
	)
	c := &cobra.Command{
		Use:   "load [-i FILE]",
		Short: "Load images from an image tar or an OCI layout into the store",
		Long: `Load reads an image archive and keeps its images in the store.

FILE is what docker save, podman save, skopeo copy, kaniko or crane wrote: a
docker-archive, an OCI archive, or the directory of an OCI layout. An archive
may be compressed with gzip, zstd, xz or bzip2. Without -i it is read from
standard input.

Layers are kept bit for bit as they came and are not unpacked. Every digest
is verified; if one does not hold, or the image breaks a rule, nothing is
kept and the exit code is 4.

An image prints "Loaded image: NAME:TAG", one without a name "Loaded image
ID: sha256:…".`,
		Example: `  imgfs load -i debian.tar
  docker save alpine | imgfs load
  imgfs load -i ./oci-layout --platform linux/arm64`,
		Args: takes(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkPlatform(platform); err != nil {
				return err
			}
			if input == "" {
				if err := a.refuseTerminal("imgfs load -i FILE, or imgfs load < FILE"); err != nil {
					return err
				}
				input = "-"
			}
			st, err := a.store()
			if err != nil {
				return err
			}
			var loaded []imgfs.Loaded
			err = a.working(c.Context(), quiet, func(ctx context.Context, opt imgfs.LoadOptions) (err error) {
				opt.Platform = platform
				loaded, err = st.Load(ctx, input, a.stdin, opt)
				return err
			})
			if err != nil {
				return notImage(err)
			}
			return a.printLoaded("Loaded", loaded)
		},
	}
	c.Flags().StringVarP(&input, "input", "i", "", "read the archive from `FILE`, not from standard input")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	c.Flags().StringVar(&platform, "platform", "", "load only `OS/ARCH[/VARIANT]` of an index of several")
	return c
}

// printLoaded prints a line for each image that was loaded, or copied.
func (a *app) printLoaded(done string, loaded []imgfs.Loaded) (err error) {
	for _, l := range loaded {
		if l.Name != "" {
			_, err = fmt.Fprintf(a.stdout, "%s image: %s\n", done, term.Escape(l.Name))
		} else {
			_, err = fmt.Fprintf(a.stdout, "%s image ID: %s\n", done, l.ID)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// working runs do with progress bars if stderr is a terminal and quiet is
// false. Warnings go above the bars. SIGINT ends do's context.
func (a *app) working(ctx context.Context, quiet bool, do func(context.Context, imgfs.LoadOptions) error) error {
	ctx, stop := interruptible(ctx)
	defer stop()
	opt := imgfs.LoadOptions{Warn: a.warn}
	if quiet {
		return do(ctx, opt)
	}
	bars := term.NewBars(ctx, a.stderr)
	if bars == nil {
		return do(ctx, opt)
	}
	opt.Progress = bars
	a.bars.Store(bars)
	opt.Warn = func(line string) { fmt.Fprintf(bars, "imgfs: %s\n", term.Escape(line)) }
	err := do(ctx, opt)
	a.bars.Store(nil)
	bars.Wait()
	return err
}
