// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/imgfs/imgfs/forensics"
	"github.com/imgfs/imgfs/internal/term"
)

// A diffVerb is one comparison of two trees.
type diffVerb struct {
	flags                              imageFlags
	format                             string
	semantic, unified, stat, byPackage bool
	ignore, paths, exclude             []string
	ofTwo                              []string // flags that need two arguments

	opt   forensics.DiffOptions
	docs  map[string]bool // that are compared
	list  *listing[diffRow]
	total diffTotal
}

// diffRow is a line of diff.
type diffRow struct {
	Letter, Change, Path, What, Old, New string
}

// A diffInfo is a difference as JSON.
type diffInfo struct {
	Path       string              `json:"path"`
	PathBase64 string              `json:"path_base64,omitempty"`
	Change     string              `json:"change"` // added, changed or deleted
	What       []string            `json:"what"`   // of changed; empty, not absent, of the others
	Old        *forensics.FileInfo `json:"old,omitempty"`
	New        *forensics.FileInfo `json:"new,omitempty"`
	Diff       string              `json:"diff,omitempty"` // with -u
}

// A diffTotal is what --stat prints.
type diffTotal struct {
	Added        int            `json:"added"`
	Changed      int            `json:"changed"`
	Deleted      int            `json:"deleted"`
	AddedBytes   int64          `json:"added_bytes"`   // content of added files
	DeletedBytes int64          `json:"deleted_bytes"` // of deleted ones
	GrownBytes   int64          `json:"grown_bytes"`   // by which changed files grew; negative: shrank
	What         map[string]int `json:"what"`          // how many changed so
	Documents    int            `json:"documents"`     // fields of config, history and manifest
	Packages     int            `json:"packages"`
}

func (t *diffTotal) differs() bool {
	return t.Added+t.Changed+t.Deleted+t.Documents+t.Packages > 0
}

func (d *diffVerb) add(a *app, c *cobra.Command) {
	f := c.Flags()
	before := make(map[string]bool)
	f.VisitAll(func(fl *pflag.Flag) { before[fl.Name] = true })
	f.BoolVar(&d.semantic, "semantic", false, "leave out times, the manifest, diffIDs and order")
	f.StringSliceVar(&d.ignore, "ignore", nil, "leave out `WHAT`: mode, owner, times, xattrs, ...; config, history, manifest")
	f.StringArrayVar(&d.paths, "path", nil, "compare only what matches the `PATTERN`")
	f.StringArrayVar(&d.exclude, "exclude", nil, "do not compare what matches the `PATTERN`")
	f.BoolVarP(&d.unified, "unified", "u", false, "show what differs in text files, as diff -u does")
	f.BoolVar(&d.stat, "stat", false, "print how much differs, not what")
	f.BoolVar(&d.byPackage, "packages", false, "compare the installed packages (dpkg, apk), not files")
	d.flags.add(a, c)
	f.VisitAll(func(fl *pflag.Flag) {
		if !before[fl.Name] {
			d.ofTwo = append(d.ofTwo, fl.Name)
		}
	})
	f.StringVar(&d.format, "format", "", "print as `FORMAT`: table, json (an object a line), a Go template, or \"table TEMPLATE\"")
}

// run compares the trees that two arguments mean.
func (d *diffVerb) run(ctx context.Context, a *app, left, right string) error {
	if err := d.options(); err != nil {
		return &usageError{err}
	}
	header := diffRow{Letter: "CHANGE", Change: "CHANGE", Path: "PATH", What: "WHAT", Old: "OLD", New: "NEW"}
	def := "{{.Change}}\t{{.Path}}\t{{.What}}"
	if d.byPackage {
		def, header.Path = "{{.Change}}\t{{.Path}}\t{{.Old}}\t{{.New}}", "PACKAGE"
	}
	format := d.format
	if format == "" && !d.byPackage {
		format = `{{.Letter}} {{.Path}}{{if .What}} ({{.What}}){{end}}`
	}
	d.list = newListing(a, format, def, header)
	d.total.What = make(map[string]int)
	err := a.withStack(ctx, left, &d.flags, func(x *forensics.Stack) error {
		return a.withStack(ctx, right, &d.flags, func(y *forensics.Stack) error {
			return d.compare(ctx, x, y)
		})
	})
	switch {
	case err != nil:
		return d.list.end(err)
	case d.stat:
		err = d.printStat()
	case d.unified && !d.list.isJSON():
		err = d.list.out.Flush()
	default:
		err = d.list.end(nil)
	}
	if err == nil && d.total.differs() {
		return exitStatus(exitDiffers)
	}
	return err
}

// options reads --ignore, --path and --exclude.
func (d *diffVerb) options() error {
	if d.unified && d.format != "" && d.format != "json" {
		return fmt.Errorf("-u has a format of its own, and json")
	}
	d.docs = map[string]bool{}
	for _, name := range forensics.Documents {
		d.docs[name] = len(d.paths) == 0
	}
	if d.semantic {
		d.opt.Ignore |= forensics.DiffTimes
	}
	for _, name := range d.ignore {
		if _, ok := d.docs[name]; ok {
			d.docs[name] = false
			continue
		}
		w, err := forensics.ParseWhat(name)
		if err != nil {
			return fmt.Errorf("--ignore: %w, %s", err, strings.Join(forensics.Documents, ", "))
		}
		d.opt.Ignore |= w
	}
	only, err := parseGlobs(d.paths)
	if err != nil {
		return fmt.Errorf("--path: %w", err)
	}
	not, err := parseGlobs(d.exclude)
	if err != nil {
		return fmt.Errorf("--exclude: %w", err)
	}
	if len(only)+len(not) > 0 {
		d.opt.Skip = func(path string) bool {
			return len(only) > 0 && !matchesGlob(only, path) || matchesGlob(not, path)
		}
	}
	return nil
}

func parseGlobs(patterns []string) (list []*forensics.Glob, err error) {
	for _, p := range patterns {
		g, err := forensics.ParseGlob(p)
		if err != nil {
			return nil, err
		}
		list = append(list, g)
	}
	return list, nil
}

func matchesGlob(globs []*forensics.Glob, path string) bool {
	for _, g := range globs {
		if g.Matches(path) {
			return true
		}
	}
	return false
}

// compare compares what is asked for.
func (d *diffVerb) compare(ctx context.Context, x, y *forensics.Stack) error {
	if d.byPackage {
		return d.packages(ctx, x, y)
	}
	err := forensics.Diff(ctx, x, y, d.opt, func(diff *forensics.Difference) error {
		d.count(diff)
		if d.stat {
			return nil
		}
		return d.file(ctx, x, y, diff)
	})
	if err != nil {
		return err
	}
	fields, err := forensics.DiffDocuments(x, y, d.semantic)
	if err != nil || x.Path != "" || y.Path != "" {
		return err
	}
	for i := range fields {
		if f := &fields[i]; d.docs[f.Document] {
			if err := d.field(f); err != nil {
				return err
			}
		}
	}
	return nil
}

// count adds a difference to the totals.
func (d *diffVerb) count(diff *forensics.Difference) {
	size := func(e *forensics.Entry) int64 {
		if e == nil || !e.IsRegular() {
			return 0
		}
		return e.Size
	}
	switch diff.Change {
	case forensics.Added:
		d.total.Added++
		d.total.AddedBytes += size(diff.B)
	case forensics.Removed:
		d.total.Deleted++
		d.total.DeletedBytes += size(diff.A)
	default:
		d.total.Changed++
		d.total.GrownBytes += size(diff.B) - size(diff.A)
	}
	for _, name := range diff.What.Names() {
		d.total.What[name]++
	}
}

// file prints a difference of files.
func (d *diffVerb) file(ctx context.Context, x, y *forensics.Stack, diff *forensics.Difference) error {
	var text []byte
	if d.unified {
		var err error
		if text, err = forensics.Unified(ctx, x, y, diff); err != nil {
			return err
		}
	}
	row := func() diffRow {
		return diffRow{
			Letter: diff.Change.Letter(), Change: diff.Change.String(), Path: "/" + diff.Path,
			What: strings.Join(diff.What.Names(), ", "),
		}
	}
	if d.unified && !d.list.isJSON() {
		return d.printUnified(row(), text)
	}
	var info *diffInfo
	if d.list.isJSON() {
		info = &diffInfo{
			Path: "/" + diff.Path, PathBase64: term.Base64(diff.Path), Change: diff.Change.String(), What: diff.What.Names(),
			Old: forensics.NewFileInfo(diff.A), New: forensics.NewFileInfo(diff.B), Diff: string(text),
		}
	}
	return d.list.add(info, row)
}

// printUnified prints the line of a difference, which patch passes over, and
// the text behind it.
func (d *diffVerb) printUnified(row diffRow, text []byte) error {
	what := ""
	if row.What != "" {
		what = " (" + row.What + ")"
	}
	path := term.Escape(row.Path) // one line, also for patch
	if _, err := fmt.Fprintf(d.list.out, "%s %s%s\n", row.Letter, path, what); err != nil {
		return err
	}
	if !d.list.terminal {
		_, err := d.list.out.Write(text)
		return err
	}
	for line := range bytes.Lines(text) {
		fields := strings.Split(strings.TrimSuffix(string(line), "\n"), "\t")
		for i := range fields {
			fields[i] = term.Escape(fields[i])
		}
		if _, err := d.list.out.WriteString(strings.Join(fields, "\t") + "\n"); err != nil {
			return err
		}
	}
	return nil
}

// field prints a difference of documents.
func (d *diffVerb) field(f *forensics.FieldChange) error {
	d.total.Documents++
	if d.stat {
		return nil
	}
	text := func(v any) string {
		if v == nil {
			return ""
		}
		s := fmt.Sprint(v)
		if _, ok := v.(string); ok {
			s = strconv.Quote(s)
		}
		return s
	}
	row := diffRow{
		Letter: map[string]string{"added": "A", "changed": "C", "deleted": "D"}[f.Change], Change: f.Change,
		Path: f.Document + ":" + f.Field, Old: text(f.Old), New: text(f.New),
	}
	const width = 60
	switch f.Change {
	case "added":
		row.What = term.Ellipsis(row.New, width)
	case "deleted":
		row.What = term.Ellipsis(row.Old, width)
	default:
		row.What = term.Ellipsis(row.Old, width) + " -> " + term.Ellipsis(row.New, width)
	}
	if d.unified && !d.list.isJSON() {
		return d.printUnified(row, nil)
	}
	return d.list.add(f, func() diffRow { return row })
}

// packages compares the installed packages.
func (d *diffVerb) packages(ctx context.Context, x, y *forensics.Stack) error {
	changes, err := forensics.DiffPackages(ctx, x, y)
	if err != nil {
		return err
	}
	d.total.Packages = len(changes)
	for i := range changes {
		p := &changes[i]
		if d.stat {
			continue
		}
		err := d.list.add(p, func() diffRow {
			name := p.Name
			if p.Arch != "" {
				name += ":" + p.Arch
			}
			return diffRow{
				Letter: map[string]string{"added": "A", "changed": "C", "deleted": "D"}[p.Change], Change: p.Change,
				Path: name, Old: p.Old, New: p.New,
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// printStat prints the totals.
func (d *diffVerb) printStat() error {
	t, out := &d.total, d.list.out
	if d.list.isJSON() {
		return errors.Join(term.JSON(out, t, ""), out.Flush())
	}
	if d.byPackage {
		fmt.Fprintf(out, "%d packages differ\n", t.Packages)
		return out.Flush()
	}
	fmt.Fprintf(out, "%d added (%s), %d deleted (%s), %d changed (%+d bytes)", t.Added, term.Size(t.AddedBytes),
		t.Deleted, term.Size(t.DeletedBytes), t.Changed, t.GrownBytes)
	if t.Documents > 0 {
		fmt.Fprintf(out, ", %d fields of documents", t.Documents)
	}
	fmt.Fprintln(out)
	for _, name := range (^forensics.What(0)).Names() {
		if n := t.What[name]; n > 0 {
			fmt.Fprintf(out, "%8d %s\n", n, name)
		}
	}
	return out.Flush()
}
