// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/internal/term"
)

// statInfo is what stat prints as JSON.
type statInfo struct {
	fileInfo
	Blocks    int64   `json:"blocks"` // of 512 bytes
	DiffID    string  `json:"diffid"`
	CreatedBy string  `json:"created_by"`
	Xattrs    []xattr `json:"xattrs,omitempty"`

	mode  uint32 // st_mode
	mtime time.Time
}

func newStat(a *app) *cobra.Command {
	var (
		flags  imageFlags
		follow bool
		format string
	)
	c := &cobra.Command{
		Use:   "stat IMAGE:PATH…",
		Short: "Show all about files of an image",
		Long: `Stat shows what GNU stat shows of a file, and the layer that brought it: its
number (0 is the base), its diffID, and the step that created it.

--format json prints an object a line: the fields of ls, and blocks, diffid,
created_by, xattrs. In a template they are .Path .Type .Mode .Nlink .UID .GID
.Size .Mtime .Target .Major .Minor .Inode .Layer .Blocks .DiffID .CreatedBy`,
		Example: `  imgfs stat alpine:/etc/os-release
  imgfs stat --format '{{.Layer}} {{.CreatedBy}}' ./image.tar:/usr/bin/env`,
		Args:              takes(cobra.MinimumNArgs(1)),
		ValidArgsFunction: a.imageNames,
		RunE: func(c *cobra.Command, args []string) error {
			return a.eachImage(c.Context(), args, &flags, func(img *imgfs.Image, arg string) error {
				i, err := newStatInfo(img, arg, follow)
				if err != nil {
					return err
				}
				return formatError(i.print(a.stdout, format, a.toTerminal()))
			})
		},
	}
	c.Flags().BoolVarP(&follow, "dereference", "L", false, "follow a symlink")
	c.Flags().StringVar(&format, "format", "", "print as `FORMAT`: json or a Go template")
	flags.add(a, c)
	return c
}

func newStatInfo(img *imgfs.Image, arg string, follow bool) (*statInfo, error) {
	id, _, err := lookup(img, arg, follow)
	if err != nil {
		return nil, err
	}
	path := img.Path
	if path == "" {
		path = "/"
	}
	e, err := newEntry(img.FS, path, id)
	if err != nil {
		return nil, err
	}
	i := &statInfo{fileInfo: newFileInfo(path, &e), mode: e.node.Mode, mtime: mtime(&e.node)}
	if i.Blocks, err = blocks(img.FS, &e.node); err != nil {
		return nil, err
	}
	if i.Xattrs, err = readXattrs(img.FS, &e.node); err != nil {
		return nil, err
	}
	if l := e.node.Layer; l < len(img.FS.Sources) {
		i.DiffID, i.CreatedBy = img.FS.Sources[l].DiffID, img.FS.Sources[l].CreatedBy
	}
	return i, nil
}

func (i *statInfo) print(w io.Writer, format string, escape bool) error {
	switch format {
	case "json":
		return term.JSON(w, i, "")
	case "":
		_, err := io.WriteString(w, i.text())
		return err
	}
	t, err := term.Template(format)
	if err != nil {
		return err
	}
	v := *i
	if escape {
		v = term.EscapeFields(v)
		v.fileInfo = term.EscapeFields(v.fileInfo)
	}
	return term.Execute(w, t, v)
}

// text returns the fields as GNU stat prints them, names quoted where they
// need it.
func (i *statInfo) text() string {
	var b strings.Builder
	name := term.Quote(i.Path)
	if i.Type == "symlink" {
		name += " -> " + term.Quote(i.Target)
	}
	fmt.Fprintf(&b, "  File: %s\n", name)
	fmt.Fprintf(&b, "  Size: %-15d Blocks: %-10d %s\n", i.Size, i.Blocks, i.typeText())
	device := ""
	if i.Type == "char" || i.Type == "block" {
		device = fmt.Sprintf("  Device type: %d,%d", i.Major, i.Minor)
	}
	fmt.Fprintf(&b, " Inode: %-15d Links: %d%s\n", i.Inode, i.Nlink, device)
	fmt.Fprintf(&b, "Access: (%s/%s)  Uid: %d   Gid: %d\n", i.Mode, modeString(i.mode), i.UID, i.GID)
	fmt.Fprintf(&b, "Modify: %s\n", i.mtime.UTC().Format("2006-01-02 15:04:05.000000000 -0700"))
	fmt.Fprintf(&b, " Layer: %d\n", i.Layer)
	fmt.Fprintf(&b, "DiffID: %s\n", i.DiffID)
	fmt.Fprintf(&b, "    By: %s\n", term.Escape(i.CreatedBy))
	for _, x := range i.Xattrs {
		fmt.Fprintf(&b, " Xattr: %s=%s\n", term.Escape(x.Name), xattrText(x.Value))
	}
	return b.String()
}

// typeText returns the type in GNU stat's words.
func (i *statInfo) typeText() string {
	switch i.Type {
	case "file":
		if i.Size == 0 {
			return "regular empty file"
		}
		return "regular file"
	case "symlink":
		return "symbolic link"
	case "char":
		return "character special file"
	case "block":
		return "block special file"
	}
	return i.Type
}

// xattrText returns a value as getfattr prints it: text in quotes, else hex.
func xattrText(v []byte) string {
	if s := string(v); term.Escape(s) == s {
		return strconv.Quote(s)
	}
	return "0x" + hex.EncodeToString(v)
}
