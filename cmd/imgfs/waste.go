// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs/forensics"
	"github.com/imgfs/imgfs/internal/term"
)

// wasteRow is a file that waste names.
type wasteRow struct {
	Bytes, Why, Times, Layers, Path string
}

func newWaste(a *app) *cobra.Command {
	var (
		flags  imageFlags
		format string
		under  string
		top    int
	)
	c := &cobra.Command{
		Use:   "waste IMAGE",
		Short: "Measure the bytes that an image ships in vain",
		Long: `Waste measures the content that an image ships and does not show: files that a
later layer overwrote or deleted. Efficiency is what it shows of all that its
layers hold. Of what it shows, duplicates are counted: files with the content
of another file. Then come the files that waste most.

With --fail-under the verb exits with 1 if the efficiency is less: a check for
continuous integration. --format json prints one object; the placeholders of a
template, which is printed for each file, are .Bytes .Why .Times .Layers .Path`,
		Example: `  imgfs waste ./image.tar
  imgfs waste --fail-under 95% --top 5 app:latest`,
		Args:              takes(cobra.ExactArgs(1)),
		ValidArgsFunction: a.firstImage,
		RunE: func(c *cobra.Command, args []string) error {
			least, err := parseShare(under)
			if err != nil {
				return usagef("--fail-under: %w", err)
			}
			ctx, stop := interruptible(c.Context())
			defer stop()
			header := wasteRow{Bytes: "WASTED", Why: "WHY", Times: "TIMES", Layers: "LAYERS", Path: "PATH"}
			list := newListing(a, format, "{{.Bytes}}\t{{.Why}}\t{{.Times}}\t{{.Layers}}\t{{.Path}}", header)
			var w *forensics.Waste
			err = a.withStack(ctx, args[0], &flags, func(s *forensics.Stack) error {
				w, err = s.Waste(ctx, true, max(0, top))
				return err
			})
			if err != nil {
				return err
			}
			if err := printWaste(list, w); err != nil {
				return err
			}
			if w.Efficiency < least {
				return exitStatus(exitDiffers)
			}
			return nil
		},
	}
	c.Flags().StringVar(&under, "fail-under", "", "exit with 1 if the efficiency is under `SHARE` (0.95 or 95%)")
	c.Flags().IntVar(&top, "top", 20, "name the `N` files that waste most; 0 is all")
	c.Flags().StringVar(&format, "format", "", "print as `FORMAT`: table, json, a Go template, or \"table TEMPLATE\"")
	flags.add(a, c)
	return c
}

// parseShare reads "0.95" or "95%"; "" is 0.
func parseShare(s string) (float64, error) {
	if s == "" {
		return 0, nil
	}
	number, percent := strings.CutSuffix(s, "%")
	f, err := strconv.ParseFloat(number, 64)
	if percent {
		f /= 100
	}
	if err != nil || !(f >= 0 && f <= 1) {
		return 0, fmt.Errorf("%q: want a share: 0.95 or 95%%", s)
	}
	return f, nil
}

func printWaste(l *listing[wasteRow], w *forensics.Waste) error {
	if l.isJSON() {
		return errors.Join(term.JSON(l.out, w, ""), l.out.Flush())
	}
	if l.isTable() {
		fmt.Fprintf(l.out, "Efficiency   %.2f%%\n", w.Efficiency*100)
		for _, line := range []struct {
			name  string
			bytes int64
			what  string
		}{
			{"Content", w.Bytes, "in all layers"},
			{"Shown", w.Shown, "by the image"},
			{"Overwritten", w.Overwritten, "of it " + term.Size(w.Unchanged) + " by the same content"},
			{"Deleted", w.Deleted, "by a later layer"},
			{"Duplicate", w.Duplicate, "of what is shown"},
		} {
			fmt.Fprintf(l.out, "%-12s %-9s %s\n", line.name, term.Size(line.bytes), line.what)
		}
		if len(w.Files) == 0 {
			return l.out.Flush()
		}
		fmt.Fprintln(l.out)
	}
	for i := range w.Files {
		f := &w.Files[i]
		row := wasteRow{Bytes: strconv.FormatInt(f.Bytes, 10), Why: f.Why, Times: strconv.Itoa(f.Times), Path: f.Path}
		if l.isTable() {
			row.Bytes = term.Size(f.Bytes)
		}
		var layers []string
		for _, k := range f.Layers {
			layers = append(layers, strconv.Itoa(k))
		}
		row.Layers = strings.Join(layers, ",")
		l.rows = append(l.rows, row)
	}
	return l.end(nil)
}
