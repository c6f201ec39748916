// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/term"
	"github.com/imgfs/imgfs/unionfs"
)

func newTree(a *app) *cobra.Command {
	var (
		flags imageFlags
		p     treePrinter
	)
	c := &cobra.Command{
		Use:   "tree IMAGE[:PATH]",
		Short: "Draw the directories of an image",
		Long:  "Tree draws what is below a directory of an image, sorted by name.",
		Example: `  imgfs tree -L 1 alpine
  imgfs tree -a ./image.tar:/etc`,
		Args:              takes(cobra.ExactArgs(1)),
		ValidArgsFunction: a.firstImage,
		RunE: func(c *cobra.Command, args []string) error {
			if c.Flags().Changed("level") && p.level < 1 {
				return usagef("--level %d: want 1 or more", p.level)
			}
			out := bufio.NewWriterSize(a.stdout, 64<<10)
			p.w, p.quote = out, a.toTerminal()
			err := a.withImage(c.Context(), args[0], &flags, func(img *imgfs.Image) error {
				return p.root(img, args[0])
			})
			return errors.Join(err, out.Flush())
		},
	}
	c.Flags().IntVarP(&p.level, "level", "L", 0, "go down `N` directories (default: all)")
	c.Flags().BoolVarP(&p.all, "all", "a", false, "show names that begin with a dot")
	c.Flags().BoolVarP(&p.dirsOnly, "dirs-only", "d", false, "show directories only")
	flags.add(a, c)
	return c
}

// A treePrinter draws a tree and counts what it draws.
type treePrinter struct {
	w             io.Writer
	quote         bool
	level         int // 0: all
	all, dirsOnly bool

	dirs, files int
}

func (p *treePrinter) root(img *imgfs.Image, arg string) error {
	id, n, err := lookup(img, arg, true)
	if err != nil {
		return err
	}
	path := img.Path
	if path == "" {
		path = "/"
	}
	if _, err := fmt.Fprintln(p.w, p.name(path)); err != nil {
		return err
	}
	if n.IsDir() {
		p.dirs++
		if err := p.dir(img.FS, id, "", 1); err != nil {
			return err
		}
	} else {
		p.files++
	}
	_, err = fmt.Fprintf(p.w, "\n%s\n", p.count())
	return err
}

func (p *treePrinter) count() string {
	noun := func(n int, one, many string) string {
		if n == 1 {
			return "1 " + one
		}
		return fmt.Sprintf("%d %s", n, many)
	}
	s := noun(p.dirs, "directory", "directories")
	if !p.dirsOnly {
		s += ", " + noun(p.files, "file", "files")
	}
	return s
}

// name returns s for one line: quoted on a terminal, else escaped, since the
// drawing is by lines.
func (p *treePrinter) name(s string) string {
	if p.quote {
		return term.Quote(s)
	}
	return term.Escape(s)
}

func (p *treePrinter) dir(f *unionfs.FS, id index.NodeID, indent string, depth int) error {
	all, err := readDir(f, id)
	if err != nil {
		return err
	}
	list := all[:0]
	for _, e := range all {
		if (p.all || !hidden(e.name)) && (!p.dirsOnly || e.node.IsDir()) {
			list = append(list, e)
		}
	}
	for i := range list {
		e := &list[i]
		branch, below := "├── ", "│   "
		if i == len(list)-1 {
			branch, below = "└── ", "    "
		}
		line := indent + branch + p.name(e.name)
		if e.node.Type() == index.ModeSymlink {
			line += " -> " + p.name(e.target)
		}
		if _, err := fmt.Fprintln(p.w, line); err != nil {
			return err
		}
		if !e.node.IsDir() {
			p.files++
			continue
		}
		p.dirs++
		if p.level > 0 && depth >= p.level {
			continue
		}
		if err := p.dir(f, e.id, indent+below, depth+1); err != nil {
			return err
		}
	}
	return nil
}
