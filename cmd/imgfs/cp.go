// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/internal/hostfs"
	"github.com/imgfs/imgfs/internal/term"
)

func newCp(a *app) *cobra.Command {
	var (
		flags                  imageFlags
		archive, follow, quiet bool
	)
	c := &cobra.Command{
		Use:   "cp IMAGE:PATH DST|-",
		Short: "Copy files out of an image",
		Long: `Cp copies a file or a directory with all below it out of an image, as docker cp
does. If DST is a directory, PATH goes into it; if there is no DST, PATH
becomes it. PATH/. copies what is in the directory PATH, and so does an IMAGE
without a path. To DST "-" a tar is written to standard output.

Modes, times, hard links and holes are kept. Nothing is written outside of
DST whatever the image holds: symlinks are copied as they are and never
followed there. A file that is in the way is replaced; a directory in the way
of a file, or anything else in the way of a directory, is an error.
Directories that were there keep their attributes.

Owners, device nodes, setuid and setgid bits and extended attributes are left
out, and that is said, unless --archive is given; it takes root to set them
all. A tar holds them always.`,
		Example: `  imgfs cp alpine:/etc ./etc
  imgfs cp alpine:/etc/. ./existing
  imgfs cp ./image.tar:/usr/share/doc - | tar tv`,
		Args: takes(cobra.ExactArgs(2)),
		ValidArgsFunction: func(c *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
			return a.firstImage(c, args, prefix)
		},
		RunE: func(c *cobra.Command, args []string) error {
			src, dst := args[0], args[1]
			if dst == "" {
				return usagef("DST is empty")
			}
			if dst == "-" && a.toTerminal() {
				return &hintError{
					err:  usagef("a tar is not written to a terminal"),
					hint: "pipe it: imgfs cp " + src + " - | tar tv",
				}
			}
			ctx, stop := interruptible(c.Context())
			defer stop()
			left := &leftOut{a: a, quiet: quiet, archive: archive}
			err := a.withImage(ctx, src, &flags, func(img *imgfs.Image) error {
				id, n, err := lookup(img, src, follow)
				if err != nil {
					return err
				}
				s := source{f: img.FS, id: id, node: n, name: path.Base(path.Clean("/" + img.Path))}
				s.content = n.IsDir() && (s.name == "/" || strings.HasSuffix(src, "/."))
				if dst == "-" {
					return s.tar(ctx, a.stdout)
				}
				return s.copyTo(ctx, dst, hostfs.Options{Archive: archive, LeftOut: left.report})
			})
			left.end()
			return err
		},
	}
	c.Flags().BoolVarP(&archive, "archive", "a", false, "keep owners, devices, setuid bits and extended attributes (as root)")
	c.Flags().BoolVarP(&follow, "follow-link", "L", false, "copy what the symlink PATH points to")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "do not say what is left out")
	flags.add(a, c)
	return c
}

// copyTo copies s to dst by docker cp's rules.
func (s *source) copyTo(ctx context.Context, dst string, opt hostfs.Options) error {
	dir, name, err := s.place(dst)
	if err != nil {
		return err
	}
	d, err := hostfs.Open(dir, opt)
	if err != nil {
		return err
	}
	c := &copier{ctx: ctx, f: s.f, links: make(linkMap)}
	if name == "" {
		err = c.children(d, s.id)
	} else {
		err = c.entry(d, name, s.id, s.node)
	}
	return errors.Join(err, d.Close())
}

// place returns the directory that s is written in, and its name there; ""
// means that what s holds goes into the directory itself.
func (s *source) place(dst string) (dir, name string, err error) {
	clean := filepath.Clean(dst)
	wantDir := clean != dst && (strings.HasSuffix(dst, "/") || strings.HasSuffix(dst, "/."))
	fi, err := os.Stat(dst)
	switch {
	case err == nil && fi.IsDir():
		if s.content {
			return dst, "", nil
		}
		return dst, s.name, nil
	case err == nil || !errors.Is(err, fs.ErrNotExist):
		if err != nil {
			return "", "", err
		}
		if s.node.IsDir() {
			return "", "", fmt.Errorf("%s: a directory is not copied over what is none", dst)
		}
		if !fi.Mode().IsRegular() {
			return "", "", &hintError{
				err:  fmt.Errorf("%s: not a regular file", dst),
				hint: `imgfs cat prints a file, and "-" is standard output`,
			}
		}
	case wantDir && !s.node.IsDir():
		return "", "", &fs.PathError{Op: "copy to", Path: dst, Err: syscall.ENOENT}
	}
	// A symlink as DST is perhaps what an image left there before.
	if fi, err := os.Lstat(clean); err == nil && fi.Mode()&fs.ModeSymlink != 0 {
		return "", "", &hintError{
			err:  fmt.Errorf("%s: is a symlink", dst),
			hint: "name the file that it points to, or remove it",
		}
	}
	if clean == "/" || filepath.Base(clean) == ".." {
		return "", "", &fs.PathError{Op: "copy to", Path: dst, Err: fs.ErrInvalid}
	}
	return filepath.Dir(clean), filepath.Base(clean), nil
}

// leftOut says what was left out: the first few, then how many.
type leftOut struct {
	a              *app
	quiet, archive bool
	n              int
}

const maxLeftOut = 10

func (l *leftOut) report(path, what string) {
	l.n++
	if !l.quiet && l.n <= maxLeftOut {
		fmt.Fprintf(l.a.stderr, "imgfs: left out: %s: %s\n", term.Quote(path), term.Escape(what))
	}
}

func (l *leftOut) end() {
	if l.quiet || l.n == 0 {
		return
	}
	if l.n > maxLeftOut {
		fmt.Fprintf(l.a.stderr, "imgfs: left out: %d more\n", l.n-maxLeftOut)
	}
	switch {
	case !l.archive:
		fmt.Fprintln(l.a.stderr, "imgfs: hint: as root, --archive keeps them")
	case os.Geteuid() != 0:
		fmt.Fprintln(l.a.stderr, "imgfs: hint: root can keep more")
	}
}
