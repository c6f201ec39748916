// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// A table collects the figures of writable mounts.
type table struct {
	Machine string    `json:"machine"`
	Time    time.Time `json:"time"`
	Runs    int       `json:"runs"`
	Lines   []*line   `json:"lines"`
}

// A line is one figure of a row, by each system, one a run.
type line struct {
	Row     string               `json:"row"`
	Name    string               `json:"name,omitempty"`
	Figures map[string][]float64 `json:"figures"`
	Refused map[string]string    `json:"refused,omitempty"` // errno by system
	Efforts map[string][]effort  `json:"efforts,omitempty"`
}

func newTable(runs int) *table {
	return &table{Machine: machine(), Time: time.Now().UTC().Truncate(time.Second), Runs: runs}
}

func (t *table) line(row, name string) *line {
	i := slices.IndexFunc(t.Lines, func(l *line) bool { return l.Row == row && l.Name == name })
	if i < 0 {
		t.Lines = append(t.Lines, &line{
			Row: row, Name: name,
			Figures: map[string][]float64{}, Refused: map[string]string{}, Efforts: map[string][]effort{},
		})
		i = len(t.Lines) - 1
	}
	return t.Lines[i]
}

func (t *table) add(row, name, system string, v float64) {
	l := t.line(row, name)
	l.Figures[system] = append(l.Figures[system], v)
}

func (t *table) refused(row, name, system, errno string) { t.line(row, name).Refused[system] = errno }

func (t *table) effort(row, name, system string, e effort) {
	l := t.line(row, name)
	l.Efforts[system] = append(l.Efforts[system], e)
}

// ratio returns the median of the ratios of the runs, ours to the peer's: what
// disturbs a run on a shared machine disturbs both.
func (l *line) ratio(ours, peer string) (r float64, ok bool) {
	a, b := l.Figures[ours], l.Figures[peer]
	var ratios []float64
	for i := range min(len(a), len(b)) {
		ratios = append(ratios, a[i]/b[i])
	}
	return median(ratios), len(ratios) > 0
}

// verdict says how the figure of a line stands to its limits.
func (l *line) verdict(r writeRow) string {
	ours := r.systems[0]
	var said []string
	for _, lim := range r.limits[l.Name] {
		is, ok, text := 0.0, false, ""
		if lim.peer == "" {
			is, ok = median(l.Figures[ours]), len(l.Figures[ours]) > 0
			text = "≤ " + l.unit(lim.most)
		} else {
			is, ok = l.ratio(ours, lim.peer)
			text = fmt.Sprintf("%.2f × %s ≤ %.3g", is, lim.peer, lim.most)
		}
		switch {
		case !ok:
			text = strings.TrimPrefix(text, "0.00 × ") + ": not measured"
		case is > lim.most:
			text += " MISSED"
		default:
			text += " ok"
		}
		said = append(said, text)
	}
	return strings.Join(said, "; ")
}

// unit prints a figure with its unit.
func (l *line) unit(v float64) string {
	if l.Name == theDisk || strings.HasPrefix(l.Name, theAnon) {
		return number(v) + " MiB"
	}
	switch {
	case v < 0.001:
		return number(v*1e6) + " µs"
	case v < 1:
		return number(v*1e3) + " ms"
	}
	return number(v) + " s"
}

func (l *line) cell(system string) string {
	if errno := l.Refused[system]; errno != "" {
		return errno
	}
	f := l.Figures[system]
	if len(f) == 0 {
		return ""
	}
	s := l.unit(median(f))
	if len(f) > 1 {
		s += fmt.Sprintf(" ±%.0f%%", 50*(slices.Max(f)-slices.Min(f))/median(f))
	}
	return s
}

// print writes the whole table and what the servers spent.
func (t *table) print(w io.Writer, rows []writeRow) {
	fmt.Fprintf(w, "%s; %d runs in turn: median ± half of most less least; a ratio is the median of the runs' ratios\n\n", t.Machine, t.Runs)
	var peers []string // that have a figure
	for _, p := range []string{overlayIs, fuseOverlayIs, memfsIs, memfsCachedIs, memfsBareIs, diskIs, imgfsReadIs} {
		if slices.ContainsFunc(t.Lines, func(l *line) bool { return len(l.Figures[p]) > 0 }) {
			peers = append(peers, p)
		}
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "row\tfigure\timgfs\t"+strings.Join(peers, "\t")+"\tlimit")
	t.each(rows, func(r writeRow, l *line) {
		fmt.Fprintf(tw, "%s\t%s", r.name, l.Name)
		fmt.Fprintf(tw, "\t%s", l.cell(r.systems[0]))
		for _, p := range peers {
			fmt.Fprintf(tw, "\t%s", l.cell(p))
		}
		fmt.Fprintf(tw, "\t%s\n", l.verdict(r))
	})
	tw.Flush()
	t.printEfforts(w, rows)
}

// printEfforts says what it took, and how much more CPU than the peers' it was.
func (t *table) printEfforts(w io.Writer, rows []writeRow) {
	fmt.Fprint(w, "\nWhat it took: s of CPU of the program that asked and of the server; system calls of the server; MB that it had written; all CPU against imgfs's.\n\n")
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "row\tfigure\tsystem\tasker\tserver\treads\twrites\tMB\timgfs / it")
	t.each(rows, func(r writeRow, l *line) {
		ours := total(l.Efforts[r.systems[0]])
		for system, f := range sorted(l.Efforts) {
			of := func(get func(effort) float64) float64 { return medianOf(f, get) }
			ratio := ""
			if system != r.systems[0] && ours > 0 {
				ratio = fmt.Sprintf("%.2f", ours/total(f))
			}
			fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%.0f\t%.0f\t%s\t%s\n", r.name, l.Name, system,
				number(of(func(e effort) float64 { return e.Worker })), number(of(func(e effort) float64 { return e.CPU })),
				of(func(e effort) float64 { return e.Reads }), of(func(e effort) float64 { return e.Writes }),
				number(of(func(e effort) float64 { return e.MB })), ratio)
		}
	})
	tw.Flush()
}

// total is the CPU time of a step, whoever spent it.
func total(efforts []effort) float64 {
	return medianOf(efforts, func(e effort) float64 { return e.Worker + e.CPU })
}

func medianOf(efforts []effort, get func(effort) float64) float64 {
	var v []float64
	for _, e := range efforts {
		v = append(v, get(e))
	}
	return median(v)
}

// sorted goes through a map by its keys.
func sorted[V any](m map[string]V) iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}

// each calls f for each line of each row.
func (t *table) each(rows []writeRow, f func(writeRow, *line)) {
	for _, r := range rows {
		for _, l := range t.Lines {
			if l.Row == r.name {
				f(r, l)
			}
		}
	}
}

// printRow says how a row went, while the others are still to come.
func (t *table) printRow(w io.Writer, r writeRow) {
	t.each([]writeRow{r}, func(r writeRow, l *line) {
		fmt.Fprintf(w, "%s %s:", r.name, l.Name)
		for _, system := range r.systems {
			if c := l.cell(system); c != "" {
				fmt.Fprintf(w, " %s %s,", system, c)
			}
		}
		fmt.Fprintf(w, " %s\n", l.verdict(r))
	})
}

// write keeps all figures as JSON.
func (t *table) write(name string) error {
	b, err := json.MarshalIndent(t, "", "\t")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, append(b, '\n'), 0o644)
}
