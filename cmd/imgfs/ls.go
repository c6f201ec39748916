// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/term"
	"github.com/imgfs/imgfs/unionfs"
)

func newLs(a *app) *cobra.Command {
	var (
		flags imageFlags
		l     lister
		json  string
	)
	c := &cobra.Command{
		Use:   "ls IMAGE[:PATH]…",
		Short: "List files of an image",
		Long: `Ls lists a directory of an image, or a file, as GNU ls does: one name a line,
with -l its mode, links, owner and group (numbers), size or device number,
time, name and a symlink's target. Names are sorted byte by byte.

On a terminal odd names are quoted as ls quotes them, elsewhere they are raw.
With --format json each entry is an object on a line, with path, type, mode,
nlink, uid, gid, size, mtime, target, major, minor, inode and layer; a path
that is not UTF-8 is told whole by path_base64.`,
		Example: `  imgfs ls alpine
  imgfs ls -l ./image.tar:/etc
  imgfs ls -R --format json debian:12:/usr/share`,
		Args:              takes(cobra.MinimumNArgs(1)),
		ValidArgsFunction: a.imageNames,
		RunE: func(c *cobra.Command, args []string) error {
			switch json {
			case "json":
				l.json = true
			case "", "text":
			default:
				return usagef("--format %q: want text or json", json)
			}
			out := bufio.NewWriterSize(a.stdout, 64<<10)
			l.w, l.quote, l.now = out, a.toTerminal(), time.Now()
			err := a.eachImage(c.Context(), args, &flags, func(img *imgfs.Image, arg string) error {
				return l.list(img, arg, len(args) > 1)
			})
			return errors.Join(err, out.Flush())
		},
	}
	c.Flags().BoolVarP(&l.long, "long", "l", false, "print more than names")
	c.Flags().BoolVarP(&l.recursive, "recursive", "R", false, "list directories below, too")
	c.Flags().BoolVarP(&l.all, "all", "a", false, "list names that begin with a dot, . and .. too")
	c.Flags().BoolVarP(&l.almostAll, "almost-all", "A", false, "list names that begin with a dot")
	c.Flags().BoolVarP(&l.directory, "directory", "d", false, "list a directory itself, not what is in it")
	c.Flags().BoolVarP(&l.inode, "inode", "i", false, "print the inode number of a mount")
	c.Flags().BoolVar(&l.human, "human-readable", false, "print sizes for people (-l)")
	c.Flags().BoolVar(&l.fullTime, "full-time", false, "print times in full (implies -l)")
	c.Flags().StringVar(&json, "format", "", "print as `FORMAT`: text or json")
	flags.add(a, c)
	return c
}

// A lister prints directories as ls does.
type lister struct {
	w     io.Writer
	now   time.Time
	quote bool // names are quoted: a terminal

	long, recursive, all, almostAll, directory bool
	inode, human, fullTime, json               bool

	begun bool // something was printed
}

// list prints what arg names.
func (l *lister) list(img *imgfs.Image, arg string, header bool) error {
	l.long = l.long || l.fullTime
	// As ls: a symlink given as an argument is followed, but not with -l.
	id, n, err := lookup(img, arg, !l.long && !l.directory)
	if err != nil {
		return err
	}
	path := img.Path
	if path == "" {
		path = "/"
	}
	if !n.IsDir() || l.directory {
		e, err := newEntry(img.FS, path, id)
		if err != nil {
			return err
		}
		l.begun = true
		return l.print(img.FS, "", []entry{e})
	}
	return l.dir(img.FS, path, id, header || l.recursive)
}

// dir prints the directory id, called path, and with -R those below it.
func (l *lister) dir(f *unionfs.FS, path string, id index.NodeID, header bool) error {
	all, err := readDir(f, id)
	if err != nil {
		return err
	}
	list := all[:0:0]
	if l.all && !l.json {
		if list, err = l.dots(f, id); err != nil {
			return err
		}
	}
	for _, e := range all {
		if l.all || l.almostAll || !hidden(e.name) {
			list = append(list, e)
		}
	}
	if header && !l.json {
		if err := l.header(path); err != nil {
			return err
		}
	}
	if l.long && !l.json {
		if err := l.total(f, list); err != nil {
			return err
		}
	}
	l.begun = true
	if err := l.print(f, path, list); err != nil {
		return err
	}
	if !l.recursive {
		return nil
	}
	for i := range list {
		e := &list[i]
		if !e.node.IsDir() || e.name == "." || e.name == ".." {
			continue
		}
		if err := l.dir(f, childPath(path, e.name), e.id, true); err != nil {
			return err
		}
	}
	return nil
}

// dots returns the entries . and .. of a directory.
func (l *lister) dots(f *unionfs.FS, id index.NodeID) ([]entry, error) {
	dot, err := newEntry(f, ".", id)
	if err != nil {
		return nil, err
	}
	parent := id
	if id != f.Root {
		parent = index.NodeID(dot.node.Parent)
	}
	dotdot, err := newEntry(f, "..", parent)
	return []entry{dot, dotdot}, err
}

func (l *lister) header(path string) error {
	blank := ""
	if l.begun {
		blank = "\n"
	}
	_, err := fmt.Fprintf(l.w, "%s%s:\n", blank, l.name(path))
	return err
}

// total prints what ls -l prints first: blocks of 1 024 bytes.
func (l *lister) total(f *unionfs.FS, list []entry) error {
	total := int64(0)
	for i := range list {
		n, err := blocks(f, &list[i].node)
		if err != nil {
			return err
		}
		total += n
	}
	text := strconv.FormatInt((total+1)/2, 10)
	if l.human {
		text = term.Size(total * 512)
	}
	_, err := fmt.Fprintln(l.w, "total", text)
	return err
}

func (l *lister) name(s string) string {
	if l.quote {
		return term.Quote(s)
	}
	return s
}

// print prints the entries of directory dir, "" if their names are paths.
func (l *lister) print(f *unionfs.FS, dir string, list []entry) error {
	if l.json {
		for i := range list {
			path := list[i].name
			if dir != "" {
				path = childPath(dir, path)
			}
			if err := term.JSON(l.w, newFileInfo(path, &list[i]), ""); err != nil {
				return err
			}
		}
		return nil
	}
	if l.long {
		return l.printLong(list)
	}
	for i := range list {
		if err := l.printName(&list[i]); err != nil {
			return err
		}
	}
	return nil
}

func (l *lister) printName(e *entry) error {
	var err error
	if l.inode {
		_, err = fmt.Fprintf(l.w, "%d %s\n", e.id, l.name(e.name))
	} else {
		_, err = fmt.Fprintln(l.w, l.name(e.name))
	}
	return err
}

// Columns of a long listing, all right-aligned.
const (
	colInode = iota
	colNlink
	colUID
	colGID
	colSize
	colMajor // of a device, in place of its size
	colMinor
	columns
)

func (l *lister) columns(e *entry) (c [columns]string) {
	n := &e.node
	c[colInode] = strconv.FormatUint(uint64(e.id), 10)
	c[colNlink] = strconv.FormatUint(uint64(n.Nlink), 10)
	c[colUID] = strconv.FormatUint(uint64(n.UID), 10)
	c[colGID] = strconv.FormatUint(uint64(n.GID), 10)
	switch {
	case isDevice(n):
		c[colMajor] = strconv.FormatUint(uint64(major(n)), 10)
		c[colMinor] = strconv.FormatUint(uint64(minor(n)), 10)
	case l.human:
		c[colSize] = term.Size(n.Size)
	default:
		c[colSize] = strconv.FormatInt(n.Size, 10)
	}
	return c
}

// printLong prints a line for each entry, in columns as wide as they must be.
func (l *lister) printLong(list []entry) error {
	var width [columns]int
	for i := range list {
		for c, text := range l.columns(&list[i]) {
			width[c] = max(width[c], len(text))
		}
	}
	if width[colMajor] > 0 {
		width[colSize] = max(width[colSize], width[colMajor]+len(", ")+width[colMinor])
	}
	for i := range list {
		if err := l.printLine(&list[i], &width); err != nil {
			return err
		}
	}
	return nil
}

func (l *lister) printLine(e *entry, width *[columns]int) error {
	c := l.columns(e)
	size := c[colSize]
	if isDevice(&e.node) {
		size = fmt.Sprintf("%s, %*s", c[colMajor], width[colMinor], c[colMinor])
	}
	number := ""
	if l.inode {
		number = fmt.Sprintf("%*s ", width[colInode], c[colInode])
	}
	name := l.name(e.name)
	if e.node.Type() == index.ModeSymlink {
		name += " -> " + l.name(e.target)
	}
	_, err := fmt.Fprintf(l.w, "%s%s %*s %*s %*s %*s %s %s\n", number, modeString(e.node.Mode),
		width[colNlink], c[colNlink], width[colUID], c[colUID], width[colGID], c[colGID],
		width[colSize], size, l.time(mtime(&e.node)), name)
	return err
}

// time writes t as ls does: with the hour if it is of the last six months,
// else with the year.
func (l *lister) time(t time.Time) string {
	t = t.Local()
	if l.fullTime {
		return t.Format("2006-01-02 15:04:05.000000000 -0700")
	}
	const halfYear = 31556952 / 2 * time.Second
	if t.After(l.now.Add(-halfYear)) && !t.After(l.now) {
		return t.Format("Jan _2 15:04")
	}
	return t.Format("Jan _2  2006")
}
