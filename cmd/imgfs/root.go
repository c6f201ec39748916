// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/layerstore/seek"
)

// The verbs, in the order that help lists them. A verb's file holds its
// constructor and nothing of another verb.
var verbs = []func(*app) *cobra.Command{
	newLoad, newImport, newImages, newImage, newInspect, newHistory,
	newLs, newCat, newStat, newTree,
	newVersion, newCompletion,
}

// An app is one run of the program: where it reads, where it prints and which
// store it uses. Tests run it in their own process.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer

	root   string // --root; empty: where imgfs.DefaultRoot says
	opened *imgfs.Store
	ran    bool // a verb was reached: its errors are not about usage
}

func newApp() *app {
	return &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
}

// storeRoot returns the directory of the store.
func (a *app) storeRoot() (string, error) {
	if a.root != "" {
		return a.root, nil
	}
	return imgfs.DefaultRoot()
}

// store returns the store, opened at the first call and closed by a.close.
func (a *app) store() (*imgfs.Store, error) {
	if a.opened != nil {
		return a.opened, nil
	}
	root, err := a.storeRoot()
	if err != nil {
		return nil, err
	}
	a.opened, err = imgfs.Open(root)
	return a.opened, err
}

func (a *app) close() {
	if a.opened != nil {
		if err := a.opened.Close(); err != nil {
			a.report(err)
		}
		a.opened = nil
	}
}

// run runs the verb that args name, prints its error and returns the exit
// code.
func (a *app) run(args []string) int {
	root := newRoot(a)
	root.SetArgs(args)
	err := root.ExecuteContext(context.Background())
	if err != nil && !a.ran {
		err = &usageError{err: err}
	}
	a.report(err)
	return exitCode(err)
}

// newRoot returns the command line of a.
func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "imgfs",
		Short: "Mount container images as directories",
		Long: "imgfs mounts any container image as one directory, straight from its layer tars:\n" +
			"no daemon, no root, no unpacking.",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          noVerb,
		RunE:          func(c *cobra.Command, args []string) error { return c.Help() },
	}
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetHelpCommand(&cobra.Command{Use: "no-help", Hidden: true})
	root.CompletionOptions.DisableDefaultCmd = true
	root.PersistentFlags().StringVar(&a.root, "root", "", "keep the store in `DIR` (default $IMGFS_ROOT, else $XDG_DATA_HOME/imgfs; as root /var/lib/imgfs)")
	for _, verb := range verbs {
		root.AddCommand(verb(a))
	}
	a.markRuns(root)
	return root
}

// markRuns has each command below c note that it was reached. What cobra
// finds wrong before that, with whatever error, is about usage.
func (a *app) markRuns(c *cobra.Command) {
	if runE := c.RunE; runE != nil {
		c.RunE = func(c *cobra.Command, args []string) error {
			a.ran = true
			return runE(c, args)
		}
	}
	for _, sub := range c.Commands() {
		a.markRuns(sub)
	}
}

// noVerb refuses what is not a verb, and says which was perhaps meant.
func noVerb(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := fmt.Errorf("unknown verb %q", args[0])
	if like := c.SuggestionsFor(args[0]); len(like) > 0 {
		return &hintError{err: err, hint: "did you mean imgfs " + strings.Join(like, ", imgfs ") + "?"}
	}
	return &hintError{err: err, hint: "imgfs --help lists the verbs"}
}

// report prints err, if any, and the cure if one is known.
func (a *app) report(err error) {
	var silent exitStatus
	if err == nil || errors.As(err, &silent) {
		return
	}
	fmt.Fprintf(a.stderr, "imgfs: %s\n", escapeLine(err.Error()))
	if h := hint(err); h != "" {
		fmt.Fprintf(a.stderr, "imgfs: hint: %s\n", escapeLine(h))
	}
}

// A usageError is a wrong command line.
type usageError struct{ err error }

func usagef(format string, args ...any) error {
	return &usageError{err: fmt.Errorf(format, args...)}
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// A hintError is an error with its cure.
type hintError struct {
	err  error
	hint string
}

func (e *hintError) Error() string { return e.err.Error() }
func (e *hintError) Unwrap() error { return e.err }

// An exitStatus ends the program with that status and prints nothing.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// Exit codes, as the man page lists them.
const (
	exitOK        = 0
	exitDiffers   = 1 // a comparison found a difference, or a check did not hold
	exitUsage     = 2
	exitNotFound  = 3
	exitMalformed = 4 // malformed or corrupt image, or a damaged store
	exitRefused   = 5 // a mount was refused
	exitOther     = 6
)

// exitCode is the one place where errors become exit codes.
func exitCode(err error) int {
	var (
		status exitStatus
		usage  *usageError
	)
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &status):
		return int(status)
	case errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, image.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return exitNotFound
	case errors.Is(err, image.ErrMalformed), errors.Is(err, index.ErrBadLayer), errors.Is(err, index.ErrLimit),
		errors.Is(err, index.ErrCorrupt), errors.Is(err, seek.ErrFormat), errors.Is(err, seek.ErrCorrupt):
		return exitMalformed
	}
	return exitOther
}

// hint returns the cure of err, empty if none is known.
func hint(err error) string {
	var h *hintError
	switch {
	case errors.As(err, &h):
		return h.hint
	}
	return ""
}

// escapeLine returns s with what would act on a terminal escaped: control
// characters, invalid UTF-8, and newlines too, so that it stays one line.
func escapeLine(s string) string {
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == '\uFFFD' && s[i] != "\uFFFD"[0]:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\x%02x`, r)
		case 0x80 <= r && r < 0xa0, r == '\u2028', r == '\u2029',
			0x202a <= r && r <= 0x202e, 0x2066 <= r && r <= 0x2069:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}
