// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/forensics"
	"github.com/imgfs/imgfs/internal/term"
)

// driftRow is a line of drift.
type driftRow struct {
	Letter, Change, Path, What, Class, Why, SHA256 string
}

// A driftInfo is a change of a container as JSON.
type driftInfo struct {
	Path       string              `json:"path"`
	PathBase64 string              `json:"path_base64,omitempty"`
	Change     string              `json:"change"` // added, changed or deleted
	What       []string            `json:"what"`   // of changed; empty, not absent, of the others
	Class      string              `json:"class"`  // executable, privileged or other
	Why        []string            `json:"why"`    // of that class; empty of other
	SHA256     string              `json:"sha256,omitempty"`
	Old        *forensics.FileInfo `json:"old,omitempty"`
	New        *forensics.FileInfo `json:"new,omitempty"`
}

func newDrift(a *app) *cobra.Command {
	var (
		flags  imageFlags
		format string
	)
	c := &cobra.Command{
		Use:   "drift CONTAINER",
		Short: "Show what a container has changed against its image",
		Long: `Drift shows what a container has changed against the image that it was made
of, executables first: files that came or were changed and have an x bit or begin
as an ELF file or a script; then files whose setuid or setgid bit or capabilities
came or were changed; then all else, also what was deleted.

CONTAINER is docker:NAME, containerd:NAME or containers-storage:NAME, where
NAME is a container's name, its ID or the beginning of that, also with the
store's directory before it (docker:/mnt/var/lib/docker:web): the store is read
where it lies, nothing runs and nothing is written there. It may also be an upper
of imgfs (upper:NAME) or a directory with a read-write mount. A :/path behind it
shows that part only.

It exits with 0 if nothing was changed, 1 if something was, above 1 if it
cannot tell.

--format json prints an object a line, see docs/forensics.md. Placeholders of
a template: .Letter .Change .Path .What .Class .Why .SHA256`,
		Example: `  imgfs drift docker:web
  imgfs drift containers-storage:/mnt/evidence/storage:db
  imgfs drift --format '{{.SHA256}}  {{.Path}}' docker:web:/usr/bin
  imgfs drift upper:fix-ssl`,
		Args:              takes(cobra.ExactArgs(1)),
		ValidArgsFunction: a.driftArgs,
		RunE: func(c *cobra.Command, args []string) error {
			ctx, stop := interruptible(c.Context())
			defer stop()
			return a.printDrift(ctx, args[0], format, &flags)
		},
	}
	c.Flags().StringVar(&format, "format", "", "print as `FORMAT`: table, json (an object a line), a Go template, or \"table TEMPLATE\"")
	flags.add(a, c)
	return c
}

func (a *app) printDrift(ctx context.Context, arg, format string, flags *imageFlags) error {
	if err := checkPlatform(flags.platform); err != nil {
		return err
	}
	st, err := a.store()
	if err != nil {
		return err
	}
	var base, container *forensics.Stack
	err = a.opening(ctx, flags.options(a), func(ctx context.Context, opt imgfs.OpenOptions) (err error) {
		base, container, err = st.OpenDrift(ctx, arg, opt)
		return err
	})
	var image *imgfs.NotContainerError
	if errors.As(err, &image) {
		return &hintError{err: &usageError{err}, hint: "imgfs diff A B compares two images"}
	}
	if err != nil {
		return err
	}
	base.OnUnread(a.couldNotRead)
	container.OnUnread(a.couldNotRead)
	list, err := forensics.Drift(ctx, base, container)
	if err := errors.Join(err, container.Close(), base.Close()); err != nil {
		return err
	}
	if err := a.printDrifted(list, format); err != nil {
		return err
	}
	if len(list) > 0 {
		return exitStatus(exitDiffers)
	}
	return nil
}

func (a *app) printDrifted(list []*forensics.Drifted, format string) error {
	header := driftRow{Letter: "CHANGE", Change: "CHANGE", Path: "PATH", What: "WHAT", Class: "CLASS", Why: "WHY", SHA256: "SHA256"}
	rows := newListing(a, format, "{{.Letter}}\t{{.Class}}\t{{.Path}}\t{{.Why}}\t{{.What}}", header)
	for _, d := range list {
		info := &driftInfo{
			Path: "/" + d.Path, PathBase64: term.Base64(d.Path), Change: d.Change.String(), What: d.What.Names(),
			Class: d.Class.String(), Why: d.Why, SHA256: d.SHA256,
			Old: forensics.NewFileInfo(d.A), New: forensics.NewFileInfo(d.B),
		}
		if info.Why == nil {
			info.Why = []string{}
		}
		err := rows.add(info, func() driftRow {
			return driftRow{
				Letter: d.Change.Letter(), Change: info.Change, Path: info.Path, What: strings.Join(info.What, ", "),
				Class: info.Class, Why: strings.Join(info.Why, ", "), SHA256: info.SHA256,
			}
		})
		if err != nil {
			return rows.end(err)
		}
	}
	return rows.end(nil)
}

// driftArgs completes kinds of stores, uppers and directories.
func (a *app) driftArgs(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	if rest, ok := strings.CutPrefix(word, "upper:"); ok {
		names, directive := a.upperNames(c, nil, rest)
		for i := range names {
			names[i] = "upper:" + names[i]
		}
		return names, directive
	}
	if st, err := a.store(); err == nil {
		if names := st.EngineNames(c.Context(), word, true); names != nil {
			return names, cobra.ShellCompDirectiveDefault
		}
	}
	var list []string
	for _, kind := range []string{"docker:", "containerd:", "containers-storage:", "upper:"} {
		if strings.HasPrefix(kind, word) {
			list = append(list, kind)
		}
	}
	return list, cobra.ShellCompDirectiveNoSpace
}
