// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs/forensics"
	"github.com/imgfs/imgfs/internal/term"
)

func newTimeline(a *app) *cobra.Command {
	var (
		flags        imageFlags
		format       string
		newer, older string
		hash         bool
	)
	c := &cobra.Command{
		Use:   "timeline IMAGE",
		Short: "List every version of every file by its time",
		Long: `Timeline lists what every layer of IMAGE brought, the oldest first, with its
layer and what became of it: live; shadowed, if something else shows under its
path; deleted, if nothing does.

The forms of --format:

  table      for people; or a Go template
  json       an object a line, as of find
  csv        with a line of headers
  bodyfile   for mactime of The Sleuth Kit: m and a are the file's time, b is when
             its layer was made, c when the layer was made that ended it
  mtree      what shows, to check a directory with mtree -p; the rest as comments
  sha256sum  the files that show, to check them with sha256sum -c; the rest as
             comments

The last three are in the order of paths, and mtree and sha256sum have the
hashes of files. IMAGE may also be one of its parts (IMAGE:/etc), one layer
(IMAGE#3), some (IMAGE@upto=3), upper:NAME, a mount, or dir:PATH.

Placeholders of --format: ` + recordFields,
		Example: `  imgfs timeline debian:12
  imgfs timeline --newer 2024-01-01 ./image.tar:/etc
  imgfs timeline --format bodyfile ./image.tar | mactime -d -y
  imgfs timeline --format mtree debian:12 | mtree -p /mnt
  imgfs timeline --format sha256sum debian:12 | (cd /mnt && sha256sum --quiet -c)`,
		Args:              takes(cobra.ExactArgs(1)),
		ValidArgsFunction: a.firstImage,
		RunE: func(c *cobra.Command, args []string) error {
			ctx, stop := interruptible(c.Context())
			defer stop()
			opt := forensics.TimelineOptions{Hash: hash}
			now := time.Now()
			at := func(s string) (time.Time, error) { return parseTime(s, now) }
			err := errors.Join(flagValue("newer", newer, &opt.Match.Since, at), flagValue("older", older, &opt.Match.Until, at))
			if err != nil {
				return err
			}
			p := newMomentPrinter(a, format, &opt)
			err = a.withStack(ctx, args[0], &flags, func(s *forensics.Stack) error {
				return s.Timeline(ctx, opt, p.add)
			})
			return p.end(err)
		},
	}
	c.Flags().StringVar(&newer, "newer", "", "changed at `TIME` or later: 2006-01-02, 2006-01-02T15:04:05, or 24h ago")
	c.Flags().StringVar(&older, "older", "", "changed before `TIME`")
	c.Flags().BoolVar(&hash, "hash", false, "with the sha256 of each file")
	c.Flags().StringVar(&format, "format", "", "print as `FORMAT`: table, json, csv, bodyfile, mtree, sha256sum or a Go template")
	complete(c, "format", cobra.FixedCompletions([]string{"table", "json", "csv", "bodyfile", "mtree", "sha256sum"}, cobra.ShellCompDirectiveNoFileComp))
	flags.add(a, c)
	return c
}

// A momentPrinter prints moments in one of the forms.
type momentPrinter struct {
	list     *listing[recordRow] // of the forms that all verbs know
	out      *bufio.Writer       // of the others
	terminal bool
	write    func(io.Writer, *forensics.Moment) error
	csv      *csv.Writer
	begun    bool // something was printed but for headers
}

// newMomentPrinter returns the printer of a form, and says in opt what it
// needs.
func newMomentPrinter(a *app, format string, opt *forensics.TimelineOptions) *momentPrinter {
	p := &momentPrinter{out: bufio.NewWriterSize(a.stdout, 64<<10), terminal: a.toTerminal()}
	switch format {
	case "bodyfile":
		p.write = forensics.WriteBodyfile
	case "mtree":
		p.write, opt.Hash = forensics.WriteMtree, true
		p.out.WriteString(forensics.MtreeHeader)
	case "sha256sum":
		p.write, opt.Hash = forensics.WriteSums, true
	case "csv":
		p.csv, opt.Chrono = csv.NewWriter(p.out), true
		p.csv.Write(csvHeader)
	default:
		def := "{{.Mtime}}\t{{.Layer}}\t{{.Ends}}\t{{.Mode}}\t{{.Size}}\t{{.Path}}"
		p.list, opt.Chrono = newListing(a, format, def, recordHeader()), true
	}
	return p
}

var csvHeader = []string{
	"mtime", "path", "type", "mode", "uid", "gid", "size", "target", "sha256", "layer", "diffid", "created",
	"created_by", "state", "how", "by", "by_path", "by_diffid", "by_created",
}

func (p *momentPrinter) add(m *forensics.Moment) error {
	p.begun = true
	switch {
	case p.write != nil && p.terminal:
		var line strings.Builder
		if err := p.write(&line, m); err != nil || line.Len() == 0 {
			return err
		}
		_, err := fmt.Fprintln(p.out, term.Escape(strings.TrimSuffix(line.String(), "\n")))
		return err
	case p.write != nil:
		return p.write(p.out, m)
	case p.csv != nil:
		return p.csv.Write(p.csvRow(m.Record))
	}
	return p.list.add(m.Record, func() recordRow { return newRecordRow(m.Record, p.list.isTable()) })
}

// csvRow returns the fields of csvHeader.
func (p *momentPrinter) csvRow(r *forensics.Record) []string {
	by := ""
	if r.By != nil {
		by = strconv.Itoa(*r.By)
	}
	row := []string{
		r.Mtime, r.RawPath(), r.Type, r.Mode, fmt.Sprint(r.UID), fmt.Sprint(r.GID), fmt.Sprint(r.Size), r.Target, r.SHA256,
		strconv.Itoa(r.Layer), r.DiffID, r.Created, r.CreatedBy, r.State, r.How, by, r.ByPath, r.ByDiffID, r.ByCreated,
	}
	if p.terminal {
		for i := range row {
			row[i] = term.Escape(row[i])
		}
	}
	return row
}

// end prints what is not printed yet.
func (p *momentPrinter) end(err error) error {
	if p.list != nil {
		return p.list.end(err)
	}
	if err != nil && !p.begun {
		return err // without headers
	}
	if p.csv != nil {
		p.csv.Flush()
		err = errors.Join(err, p.csv.Error())
	}
	return errors.Join(err, p.out.Flush())
}
