// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/term"
)

// imageFlags are the flags of the verbs that open an image.
type imageFlags struct {
	platform string
	verify   bool
	pull     pullFlag
}

func (f *imageFlags) add(a *app, c *cobra.Command) {
	c.Flags().StringVar(&f.platform, "platform", "", "take `OS/ARCH[/VARIANT]` from an index of several (default: this machine's)")
	c.Flags().BoolVar(&f.verify, "verify", false, "wait until an image file that is read in place is verified")
	f.pull.add(c)
	a.remoteFlags(c)
}

func (f *imageFlags) options(a *app) imgfs.OpenOptions {
	return imgfs.OpenOptions{
		Platform: f.platform, Verify: f.verify, Pull: f.pull.policy(),
		LoadOptions: imgfs.LoadOptions{Platform: f.platform, Warn: a.warn},
	}
}

// takes checks the number of arguments and, if it is wrong, says what the verb
// takes.
func takes(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil {
			return &hintError{err: err, hint: "usage: " + c.UseLine()}
		}
		return nil
	}
}

// checkPlatform finds fault with a --platform before anything is read.
func checkPlatform(platform string) error {
	if platform == "" {
		return nil
	}
	if _, err := image.ParsePlatform(platform); err != nil {
		return &usageError{err}
	}
	return nil
}

// warn prints a line about an oddity.
func (a *app) warn(line string) { fmt.Fprintf(a.stderr, "imgfs: %s\n", term.Escape(line)) }

// toTerminal reports whether stdout is a terminal: what is printed there is
// escaped.
func (a *app) toTerminal() bool { return term.IsTerminal(a.stdout) }

// withImage opens the image of arg ("-" is stdin), calls do with it and
// closes it. A fault under the map of a damaged index is an error.
func (a *app) withImage(ctx context.Context, arg string, f *imageFlags, do func(*imgfs.Image) error) error {
	if err := checkPlatform(f.platform); err != nil {
		return err
	}
	if src, _ := image.SplitPath(arg, nil); src == "-" {
		if err := a.refuseTerminal("imgfs reads a piped image: IMAGE may be a file or a name, too"); err != nil {
			return err
		}
	}
	st, err := a.store()
	if err != nil {
		return err
	}
	var img *imgfs.Image
	err = a.opening(ctx, f.options(a), func(ctx context.Context, opt imgfs.OpenOptions) (err error) {
		img, err = st.OpenImage(ctx, arg, a.stdin, opt)
		return err
	})
	if err != nil {
		return notImage(err)
	}
	err = index.Guard(func() error { return do(img) })
	return errors.Join(err, img.Close())
}

// eachImage does what withImage does for each of args. As cat and ls do, it
// goes on after one that cannot be read; the errors are joined.
func (a *app) eachImage(ctx context.Context, args []string, f *imageFlags, do func(img *imgfs.Image, arg string) error) error {
	var errs []error
	for _, arg := range args {
		err := a.withImage(ctx, arg, f, func(img *imgfs.Image) error { return do(img, arg) })
		if err == nil {
			continue
		}
		errs = append(errs, err)
		var (
			usage  *usageError
			output *outputError
		)
		if errors.As(err, &usage) || errors.As(err, &output) || ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

// An outputError says that nothing more can be printed.
type outputError struct{ err error }

func (e *outputError) Error() string { return e.err.Error() }
func (e *outputError) Unwrap() error { return e.err }

// refuseTerminal returns an error with its cure if stdin is a terminal.
func (a *app) refuseTerminal(hint string) error {
	if !term.IsTerminal(a.stdin) {
		return nil
	}
	return &hintError{err: usagef("standard input is a terminal"), hint: hint}
}

// notImage adds the cure to the error about a tar that is no image.
func notImage(err error) error {
	if !errors.Is(err, imgfs.ErrNotImage) {
		return err
	}
	return &hintError{err: err, hint: "imgfs import FILE NAME makes an image of the tar of a root filesystem"}
}

// lookup returns the node of the path of arg in img.
func lookup(img *imgfs.Image, arg string, follow bool) (index.NodeID, *index.Node, error) {
	// Resolve itself follows what a slash stands behind.
	id, err := img.FS.Resolve(img.Path, follow)
	if err != nil {
		return 0, nil, pathError(arg, err)
	}
	n := new(index.Node)
	if err := img.FS.Tree.Node(id, n); err != nil {
		return 0, nil, pathError(arg, err)
	}
	return id, n, nil
}

// pathError names the argument that a path of an image was given by.
func pathError(arg string, err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	if errors.Is(err, fs.ErrNotExist) {
		return noEntryError(arg)
	}
	err = fmt.Errorf("%s: %w", arg, err)
	if errors.Is(err, syscall.ENOTDIR) {
		return &notDirError{err}
	}
	return err
}

// A notDirError says that a file is in an image where the user takes a
// directory to be.
type notDirError struct{ err error }

func (e *notDirError) Error() string { return e.err.Error() }
func (e *notDirError) Unwrap() error { return e.err }

// A noEntryError is the argument whose path the image does not have.
type noEntryError string

func (e noEntryError) Error() string { return string(e) + ": no such file or directory" }
func (e noEntryError) Unwrap() error { return fs.ErrNotExist }

// interruptible returns a context that ends with the first SIGINT or SIGTERM;
// the second one ends the program.
func interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
}

// imageNames completes the names of the store's images.
func (a *app) imageNames(c *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	st, err := a.store()
	if err != nil {
		return nil, cobra.ShellCompDirectiveDefault
	}
	if names := st.EngineNames(c.Context(), prefix, false); names != nil {
		return names, cobra.ShellCompDirectiveDefault
	}
	images, err := st.Images(c.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveDefault
	}
	var names []string
	for _, i := range images {
		if i.Repository == "<none>" || i.Tag == "<none>" {
			continue
		}
		// The tag is offered when the name is written.
		name := i.Repository
		if strings.HasPrefix(prefix, name+":") || i.Tag != "latest" {
			name += ":" + i.Tag
		}
		if strings.HasPrefix(name, prefix) {
			names = append(names, name+"\t"+term.ShortID(i.ID.String()))
		}
	}
	// Files are images too.
	return names, cobra.ShellCompDirectiveDefault
}

// firstImage completes the first argument with images, the others with files.
func (a *app) firstImage(c *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return a.imageNames(c, args, prefix)
}

// formatError makes a bad --format a matter of usage.
func formatError(err error) error {
	if errors.Is(err, term.ErrTemplate) {
		return &usageError{err}
	}
	return err
}
