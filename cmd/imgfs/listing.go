// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"

	"github.com/imgfs/imgfs/internal/term"
)

// A listing prints what comes one by one: as JSON at once, else as rows of a
// table or a template at the end. Row is a struct of strings.
type listing[Row any] struct {
	out      *bufio.Writer
	terminal bool
	format   string
	def      string // the table's columns
	header   Row
	rows     []Row
}

func newListing[Row any](a *app, format, def string, header Row) *listing[Row] {
	return &listing[Row]{out: bufio.NewWriterSize(a.stdout, 64<<10), terminal: a.toTerminal(), format: format, def: def, header: header}
}

// isJSON reports whether the values are printed, not the rows.
func (l *listing[Row]) isJSON() bool { return l.format == "json" }

// isTable reports whether it is for people.
func (l *listing[Row]) isTable() bool { return l.format == "" || l.format == "table" }

// add prints v as JSON, or keeps its row.
func (l *listing[Row]) add(v any, row func() Row) error {
	if l.isJSON() {
		return term.JSON(l.out, v, "")
	}
	l.rows = append(l.rows, row())
	return nil
}

// end prints the rows, also those before err.
func (l *listing[Row]) end(err error) error {
	if !l.isJSON() && (err == nil || len(l.rows) > 0) {
		err = errors.Join(err, formatError(term.Rows(l.out, l.format, l.def, l.terminal, l.header, l.rows)))
	}
	return errors.Join(err, l.out.Flush())
}
