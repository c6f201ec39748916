// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/internal/term"
)

func newPull(a *app) *cobra.Command {
	var t transfer
	c := &cobra.Command{
		Use:   "pull NAME[:TAG|@DIGEST]",
		Short: "Fetch an image from its registry into the store",
		Long: `Pull fetches an image from the registry that its name says and keeps it in
the store under that name. Short names are docker's: alpine is
docker.io/library/alpine:latest.

Layers come beside each other, each once, and are indexed while they come, so
the image can be mounted when the last byte is here. What the store has is not
fetched again. If a pull breaks off, by Ctrl-C too, what came stays for a week,
and the next pull goes on from there.

Of an image for several platforms the one of this machine is fetched, unless
--platform names another or --all-platforms asks for all. Every digest is
verified, whoever answered; NAME@DIGEST is that image and no other.`,
		Example: `  imgfs pull alpine
  imgfs pull --platform linux/arm64 debian:12
  imgfs pull registry.example.com:5000/team/app@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
  imgfs pull -a localhost:5000/app`,
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
			if !t.quiet && !t.allTags && !namesTag(args[0]) {
				fmt.Fprintln(a.stdout, "Using default tag: latest")
			}
			opt := imgfs.PullOptions{AllPlatforms: t.allPlatforms}
			var done []imgfs.Pulled
			err = a.working(c.Context(), t.quiet, func(ctx context.Context, load imgfs.LoadOptions) error {
				opt.LoadOptions = load
				opt.Platform = t.platform
				out := a.beside(load.Progress)
				if !t.quiet {
					opt.Found = func(ref image.Reference, _ digest.Digest) { printFound(out, ref) }
				}
				if t.allTags {
					done, err = a.pullAll(ctx, out, st, ref, opt)
					return err
				}
				one, err := st.Pull(ctx, args[0], opt)
				done = []imgfs.Pulled{one}
				return err
			})
			if err != nil {
				return err
			}
			if t.allTags {
				return a.printStatus(ref.FamiliarName(), ref.Name(), done, t.quiet)
			}
			if !t.quiet {
				fmt.Fprintf(a.stdout, "Digest: %s\n", done[0].Digest)
			}
			return a.printStatus(done[0].Ref.Familiar(), done[0].Ref.String(), done, t.quiet)
		},
	}
	f := c.Flags()
	f.BoolVarP(&t.allTags, "all-tags", "a", false, "pull every tag of the repository")
	f.StringVar(&t.platform, "platform", "", "pull the image for `OS/ARCH[/VARIANT]` (default: this machine's)")
	f.BoolVar(&t.allPlatforms, "all-platforms", false, "pull the images for all platforms")
	f.BoolVarP(&t.quiet, "quiet", "q", false, "print the name alone, and no progress")
	c.MarkFlagsMutuallyExclusive("platform", "all-platforms")
	a.remoteFlags(c)
	return c
}

// printFound says that a name was found, as docker does.
func printFound(w io.Writer, ref image.Reference) {
	what := ref.Tag()
	if what == "" {
		what = ref.Digest().String()
	}
	fmt.Fprintf(w, "%s: Pulling from %s\n", what, ref.Repository())
}

// printStatus prints the end of a pull, as docker does.
func (a *app) printStatus(familiar, name string, done []imgfs.Pulled, quiet bool) error {
	if quiet {
		_, err := fmt.Fprintln(a.stdout, name)
		return err
	}
	status := "Downloaded newer image for"
	if !slices.ContainsFunc(done, func(p imgfs.Pulled) bool { return !p.Current }) {
		status = "Image is up to date for"
	}
	_, err := fmt.Fprintf(a.stdout, "Status: %s %s\n%s\n", status, familiar, name)
	return err
}

// pullAll pulls every tag of a repository that stands for an image.
func (a *app) pullAll(ctx context.Context, out io.Writer, st *imgfs.Store, repo image.Reference, opt imgfs.PullOptions) ([]imgfs.Pulled, error) {
	var all []imgfs.Pulled
	var other error
	for done, err := range st.PullAll(ctx, repo.Name(), opt) {
		if errors.Is(err, imgfs.ErrArtifact) {
			a.warn("passed over: " + err.Error())
			other = err
			continue
		}
		if err != nil {
			return nil, err
		}
		if opt.Found != nil {
			fmt.Fprintf(out, "Digest: %s\n", done.Digest)
		}
		all = append(all, done)
	}
	if len(all) == 0 {
		return nil, other
	}
	return all, nil
}

// beside returns where lines go while progress is shown: above its bars if
// both are on a terminal, else to stdout.
func (a *app) beside(p imgfs.Progress) io.Writer {
	if bars, ok := p.(*term.Bars); ok && a.toTerminal() {
		return bars
	}
	return a.stdout
}

// A pullFlag is --pull.
type pullFlag string

// pullEnv is the variable that says what --pull is when nobody does.
const pullEnv = "IMGFS_PULL"

func (f *pullFlag) add(c *cobra.Command) {
	if f.Set(os.Getenv(pullEnv)) != nil {
		*f = pullFlag(imgfs.PullMissing)
	}
	c.Flags().Var(f, "pull", "fetch the image from its registry: `missing`, always or never (default $IMGFS_PULL)")
	complete(c, "pull", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return []string{"missing", "always", "never"}, cobra.ShellCompDirectiveNoFileComp
	})
}

func (f *pullFlag) String() string { return string(*f) }
func (f *pullFlag) Type() string   { return "policy" }

// Set implements pflag.Value.
func (f *pullFlag) Set(s string) error {
	switch imgfs.PullPolicy(s) {
	case imgfs.PullMissing, imgfs.PullAlways, imgfs.PullNever:
		*f = pullFlag(s)
		return nil
	}
	return fmt.Errorf("want missing, always or never")
}

func (f *pullFlag) policy() imgfs.PullPolicy { return imgfs.PullPolicy(*f) }

// opening runs do, which opens an image. If that has to be brought first, bars
// on a terminal tell how far it is, and SIGINT ends it.
func (a *app) opening(ctx context.Context, opt imgfs.OpenOptions, do func(context.Context, imgfs.OpenOptions) error) error {
	if opt.Pull == imgfs.PullNever {
		return do(ctx, opt)
	}
	ctx, stop := interruptible(ctx)
	defer stop()
	progress, end := a.progress(ctx, false)
	defer end()
	opt.Progress = progress
	return do(ctx, opt)
}

// progress returns bars if stderr is a terminal and quiet is false, else nil.
// end ends them.
func (a *app) progress(ctx context.Context, quiet bool) (p imgfs.Progress, end func()) {
	if quiet {
		return nil, func() {}
	}
	bars := term.NewBars(ctx, a.stderr)
	if bars == nil {
		return nil, func() {}
	}
	a.bars.Store(bars)
	return bars, func() { a.bars.Store(nil); bars.Wait() }
}
