// SPDX-License-Identifier: Apache-2.0

package term

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"text/tabwriter"
	"text/template"
	"unicode/utf8"
)

// ErrTemplate marks a --format that cannot be read or names a field that is
// not there.
var ErrTemplate = errors.New("bad --format")

// Rows prints rows as docker's --format asks:
//
//	"", "table"     the columns of the template def, with headers
//	"table TMPL"    the columns of TMPL, with headers
//	"json"          a JSON object a line
//	"TMPL"          the template, a line for each row
//
// T is a struct of strings; header is a T that holds the headers. In a table,
// and everywhere if escape is true (w is a terminal), the strings go through
// Escape. The error is ErrTemplate or one of w.
func Rows[T any](w io.Writer, format, def string, escape bool, header T, rows []T) error {
	if format == "json" {
		for _, row := range rows {
			if err := JSON(w, row, ""); err != nil {
				return err
			}
		}
		return nil
	}
	text, table := format, false
	if format == "" || format == "table" {
		text, table = def, true
	} else if rest, ok := strings.CutPrefix(format, "table "); ok {
		text, table = rest, true
	}
	t, err := Template(text)
	if err != nil {
		return err
	}
	out := w
	var tw *tabwriter.Writer
	if table {
		// docker's measures
		tw = tabwriter.NewWriter(w, 10, 1, 3, ' ', 0)
		out = tw
		head := template.Must(t.Clone()).Funcs(headerFuncs())
		if err := line(out, head, header); err != nil {
			return err
		}
	}
	for _, row := range rows {
		if table || escape {
			row = EscapeFields(row)
		}
		if err := line(out, t, row); err != nil {
			return err
		}
	}
	if tw != nil {
		return tw.Flush()
	}
	return nil
}

// Template reads a --format template with docker's functions. \t and \n in it
// mean a tab and a newline. The error is ErrTemplate.
func Template(text string) (*template.Template, error) {
	text = strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(text)
	t, err := template.New("").Option("missingkey=error").Funcs(funcs()).Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTemplate, err)
	}
	return t, nil
}

// Execute writes one line: the template with v put in.
func Execute(w io.Writer, t *template.Template, v any) error { return line(w, t, v) }

func line(w io.Writer, t *template.Template, v any) error {
	var b bytes.Buffer
	if err := t.Execute(&b, v); err != nil {
		return fmt.Errorf("%w: %w", ErrTemplate, err)
	}
	b.WriteByte('\n')
	_, err := w.Write(b.Bytes())
	return err
}

// funcs returns the functions that docker's templates know.
func funcs() template.FuncMap {
	return template.FuncMap{
		"json": func(v any) (string, error) {
			var b strings.Builder
			err := JSON(&b, v, "")
			return strings.TrimSuffix(b.String(), "\n"), err
		},
		"split": strings.Split,
		"join":  func(v any, sep string) (string, error) { return join(v, sep) },
		"title": func(s string) string {
			if s == "" {
				return s
			}
			return strings.ToUpper(s[:1]) + s[1:]
		},
		"lower": strings.ToLower,
		"upper": strings.ToUpper,
		"pad": func(s string, before, after int) string {
			if s == "" {
				return s
			}
			return strings.Repeat(" ", clampPad(before)) + s + strings.Repeat(" ", clampPad(after))
		},
		"truncate": func(s string, n int) string {
			if n < 0 || utf8.RuneCountInString(s) <= n {
				return s
			}
			return string([]rune(s)[:n])
		},
	}
}

func clampPad(n int) int { return max(0, min(n, 1024)) }

// join joins the elements of a list.
func join(v any, sep string) (string, error) {
	if v == nil {
		return "", nil
	}
	list := reflect.ValueOf(v)
	if k := list.Kind(); k != reflect.Slice && k != reflect.Array {
		return "", fmt.Errorf("join: want a list, got %T", v)
	}
	words := make([]string, list.Len())
	for i := range words {
		words[i] = fmt.Sprint(list.Index(i).Interface())
	}
	return strings.Join(words, sep), nil
}

// headerFuncs leaves a header as it is, whatever is done to the cells.
func headerFuncs() template.FuncMap {
	same := func(v any) any { return v }
	first := func(v any, _ ...any) any { return v }
	return template.FuncMap{
		"json": same, "title": same, "lower": same, "upper": same,
		"split": first, "join": first, "truncate": first,
		"pad": funcs()["pad"],
	}
}

// EscapeFields returns row with each string field escaped.
func EscapeFields[T any](row T) T {
	v := reflect.ValueOf(&row).Elem()
	if v.Kind() != reflect.Struct {
		return row
	}
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.String && f.CanSet() {
			f.SetString(Escape(f.String()))
		}
	}
	return row
}

// EscapeValues returns a copy of a decoded JSON value in which every string
// is escaped.
func EscapeValues(v any) any {
	switch v := v.(type) {
	case string:
		return Escape(v)
	case json.Number:
		return v
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = EscapeValues(v[i])
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, w := range v {
			out[Escape(k)] = EscapeValues(w)
		}
		return out
	}
	return v
}
