// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs/forensics"
	"github.com/imgfs/imgfs/internal/term"
)

// lintMost is how many findings of a rule a table shows.
const lintMost = 10

// lintRow is a line of lint.
type lintRow struct {
	Level, Rule, Layer, Path, What, DiffID, Offset, Spec, Elsewhere string
}

// lintInfo is a finding as JSON.
type lintInfo struct {
	Rule       string `json:"rule"` // a row of docs/semantics.md
	Level      string `json:"level"`
	Path       string `json:"path"`
	PathBase64 string `json:"path_base64,omitempty"`
	Layer      *int   `json:"layer"` // 0 is the base; null: no layer
	DiffID     string `json:"diffid,omitempty"`
	Offset     *int64 `json:"offset"` // of the header in the uncompressed tar; null: there is none
	What       string `json:"what"`
	Spec       string `json:"spec"`
	Elsewhere  string `json:"elsewhere,omitempty"`
}

func newLint(a *app) *cobra.Command {
	var (
		flags          imageFlags
		format, failOn string
		least          string
	)
	c := &cobra.Command{
		Use:   "lint IMAGE",
		Short: "Tell what is odd about an image",
		Long: `Lint tells every oddity that an image holds: what its layers' tars hold that
engines read differently, what is odd where layers meet, and names, times,
modes and devices that may mislead. A rule is a row of docs/semantics.md.

The levels: error, where engines and scanners do not see the same files;
warning, what is worth a look; info, what is worth knowing. Lint exits with 1
if it finds what --fail-on names.

IMAGE may also be one layer (IMAGE#3), some (IMAGE@upto=3), upper:NAME, a
mount or dir:PATH.

Placeholders of --format: .Level .Rule .Layer .Path .What .DiffID .Offset
.Spec .Elsewhere. A table shows the first ` + strconv.Itoa(lintMost) + ` findings of a rule; json all.`,
		Example: `  imgfs lint debian:12
  imgfs lint --fail-on warning ./image.tar
  imgfs lint --fail-on X2,V1 --format json alpine`,
		Args:              takes(cobra.ExactArgs(1)),
		ValidArgsFunction: a.firstImage,
		RunE: func(c *cobra.Command, args []string) error {
			fail, err := forensics.ParseFailOn(failOn)
			if err != nil {
				return usagef("--fail-on: %w", err)
			}
			level, err := forensics.ParseLevel(least)
			if err != nil {
				return usagef("--level: %w", err)
			}
			ctx, stop := interruptible(c.Context())
			defer stop()
			p := newLintPrinter(a, format)
			failed := false
			err = a.withStack(ctx, args[0], &flags, func(s *forensics.Stack) error {
				return forensics.Lint(ctx, s, forensics.LintOptions{}, func(f *forensics.Finding) error {
					failed = failed || fail.Matches(f)
					if f.Level < level {
						return nil
					}
					return p.add(s, f)
				})
			})
			if err := p.end(err); err != nil {
				return err
			}
			if failed {
				return exitStatus(exitDiffers)
			}
			return nil
		},
	}
	c.Flags().StringVar(&failOn, "fail-on", "error", "exit with 1 at findings of `LEVEL` and above, of rules (X2,V1), or never (none)")
	complete(c, "fail-on", cobra.FixedCompletions([]string{"info", "warning", "error", "none"}, cobra.ShellCompDirectiveNoFileComp))
	c.Flags().StringVar(&least, "level", "info", "show findings of `LEVEL` and above: info, warning, error")
	complete(c, "level", cobra.FixedCompletions([]string{"info", "warning", "error"}, cobra.ShellCompDirectiveNoFileComp))
	c.Flags().StringVar(&format, "format", "", "print as `FORMAT`: table, json (an object a line) or a Go template")
	flags.add(a, c)
	return c
}

// A lintPrinter prints findings, a table with the worst first.
type lintPrinter struct {
	list  *listing[lintRow]
	seen  map[string]int // findings by rule
	order []string       // of rules
}

func newLintPrinter(a *app, format string) *lintPrinter {
	header := lintRow{
		Level: "LEVEL", Rule: "RULE", Layer: "LAYER", Path: "PATH", What: "WHAT", DiffID: "DIFFID",
		Offset: "OFFSET", Spec: "SPEC", Elsewhere: "ELSEWHERE",
	}
	def := "{{.Level}}\t{{.Rule}}\t{{.Layer}}\t{{.What}}\t{{.Path}}"
	return &lintPrinter{list: newListing(a, format, def, header), seen: make(map[string]int)}
}

func (p *lintPrinter) add(s *forensics.Stack, f *forensics.Finding) error {
	if p.seen[f.Rule.ID]++; p.seen[f.Rule.ID] == 1 {
		p.order = append(p.order, f.Rule.ID)
	}
	if p.list.isTable() && p.seen[f.Rule.ID] > lintMost {
		return nil
	}
	return p.list.add(newLintInfo(s, f), func() lintRow {
		r := lintRow{
			Level: f.Level.String(), Rule: f.Rule.ID, Layer: "-", Path: f.Path, What: f.What, Offset: "-",
			Spec: f.Rule.Spec, Elsewhere: f.Rule.Elsewhere,
		}
		if f.Layer >= 0 {
			r.Layer, r.DiffID = strconv.Itoa(f.Layer), diffID(s, f.Layer)
		}
		if f.Offset >= 0 {
			r.Offset = strconv.FormatInt(f.Offset, 10)
		}
		return r
	})
}

// end prints what is not printed yet; a table without rows is nothing.
func (p *lintPrinter) end(err error) error {
	if p.list.isTable() {
		for _, id := range p.order {
			if more := p.seen[id] - lintMost; more > 0 {
				what := fmt.Sprintf("and %d more (--format json shows all)", more)
				p.list.rows = append(p.list.rows, lintRow{Level: forensics.RuleOf(id).Level.String(), Rule: id, Layer: "-", What: what})
			}
		}
		slices.SortStableFunc(p.list.rows, func(a, b lintRow) int { return cmp.Compare(levelOf(b), levelOf(a)) })
		if len(p.list.rows) == 0 {
			return err
		}
	}
	return p.list.end(err)
}

// levelOf returns the level of a row.
func levelOf(r lintRow) forensics.Level {
	l, _ := forensics.ParseLevel(r.Level) // which wrote it
	return l
}

func newLintInfo(s *forensics.Stack, f *forensics.Finding) lintInfo {
	i := lintInfo{
		Rule: f.Rule.ID, Level: f.Level.String(), Path: f.Path, PathBase64: term.Base64(f.Path),
		What: f.What, Spec: f.Rule.Spec, Elsewhere: f.Rule.Elsewhere,
	}
	if f.Layer >= 0 {
		i.Layer, i.DiffID = &f.Layer, diffID(s, f.Layer)
	}
	if f.Offset >= 0 {
		i.Offset = &f.Offset
	}
	return i
}

// diffID returns the diffID of the layer of that number, "" if it has none.
func diffID(s *forensics.Stack, number int) string {
	for _, l := range s.Layers {
		if l.Index == number {
			return l.DiffID
		}
	}
	return ""
}
