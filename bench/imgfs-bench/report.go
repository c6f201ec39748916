// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

// A report collects the figures of a run.
type report struct {
	Version string            `json:"version"` // of imgfs
	Machine string            `json:"machine"`
	Time    time.Time         `json:"time"`
	Runs    int               `json:"runs"`
	Skipped map[string]string `json:"skipped,omitempty"` // why, by system
	Lines   []*line           `json:"lines"`
}

// A line is one figure of a row, by each system, one a run.
type line struct {
	Row     string               `json:"row"`
	Shape   string               `json:"shape,omitempty"`
	Name    string               `json:"name,omitempty"`
	Unit    unit                 `json:"unit"`
	Figures map[string][]float64 `json:"figures,omitempty"`
	Refused map[string]string    `json:"refused,omitempty"` // errno by system
	Efforts map[string][]effort  `json:"efforts,omitempty"`
}

// A unit is what a figure counts.
type unit string

const (
	seconds            unit = "s"
	mebibytes          unit = "MiB"
	megabytesPerSecond unit = "MB/s"
	percent            unit = "%"
	pieces             unit = "pieces"
)

func newReport(runs int) *report {
	return &report{
		Machine: machine(), Time: time.Now().UTC().Truncate(time.Second), Runs: runs,
		Skipped: map[string]string{},
	}
}

// machine says what the figures were measured on.
func machine() string {
	model := "unknown processor"
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if _, rest, ok := strings.Cut(string(info), "model name\t: "); ok {
			model, _, _ = strings.Cut(rest, "\n")
		}
	}
	kernel := "of unknown release"
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		// What follows the numbers is who built it.
		kernel, _, _ = strings.Cut(strings.TrimSpace(string(release)), "-")
	}
	var si syscall.Sysinfo_t
	memory := "unknown memory"
	if syscall.Sysinfo(&si) == nil {
		memory = fmt.Sprintf("%d GB", (uint64(si.Totalram)*uint64(si.Unit)+1<<29)>>30)
	}
	return fmt.Sprintf("%s, %d cores, %s, Linux %s, %s", model, runtime.NumCPU(), memory,
		kernel, runtime.Version())
}

func (t *report) line(r row, name string) *line {
	if l := t.find(r.name, r.shape, name); l != nil {
		return l
	}
	l := &line{
		Row: r.name, Shape: r.shape, Name: name, Unit: seconds,
		Figures: map[string][]float64{}, Refused: map[string]string{}, Efforts: map[string][]effort{},
	}
	t.Lines = append(t.Lines, l)
	return l
}

// drop forgets a row that came to no end.
func (t *report) drop(r row) {
	t.Lines = slices.DeleteFunc(t.Lines, func(l *line) bool { return l.Row == r.name && l.Shape == r.shape })
}

// find returns a line, or nil.
func (t *report) find(row, shape, name string) *line {
	i := slices.IndexFunc(t.Lines, func(l *line) bool { return l.Row == row && l.Shape == shape && l.Name == name })
	if i < 0 {
		return nil
	}
	return t.Lines[i]
}

func (t *report) add(r row, name, system string, u unit, v float64) {
	l := t.line(r, name)
	l.Unit = u
	l.Figures[system] = append(l.Figures[system], v)
}

func (t *report) refused(r row, name, system, errno string) { t.line(r, name).Refused[system] = errno }

func (t *report) effort(r row, name, system string, e effort) {
	l := t.line(r, name)
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

// A verdict says how a figure stands to one limit.
type verdict struct {
	limit limit
	is    float64 // the figure, or the ratio
	known bool
	holds bool
}

// verdicts returns how the figures of a line stand to the limits of its row.
func (l *line) verdicts(r row) (vs []verdict) {
	for _, lim := range r.limits[l.Name] {
		v := verdict{limit: lim}
		of := cmp.Or(lim.of, r.systems0())
		if lim.peer != "" {
			v.is, v.known = l.ratio(of, lim.peer)
		} else {
			v.is, v.known = median(l.Figures[of]), len(l.Figures[of]) > 0
		}
		v.holds = v.known && (lim.atLeast && v.is >= lim.most || !lim.atLeast && v.is <= lim.most)
		vs = append(vs, v)
	}
	return vs
}

// systems0 is the system that a row is about.
func (r row) systems0() string {
	if len(r.systems) == 0 {
		return imgfsIs
	}
	return r.systems[0]
}

// text says a verdict in a line with this unit.
func (v verdict) text(u unit) string {
	sign := "≤"
	if v.limit.atLeast {
		sign = "≥"
	}
	said := fmt.Sprintf("%s %s", sign, u.text(v.limit.most))
	if v.limit.peer != "" {
		said = fmt.Sprintf("%s %.3g × %s", sign, v.limit.most, v.limit.peer)
		if v.known {
			said += fmt.Sprintf(": %.2f", v.is)
		}
	}
	switch {
	case !v.known:
		return said + ": not measured"
	case !v.holds:
		return said + " MISSED"
	}
	return said + " ok"
}

// text prints a figure with its unit.
func (u unit) text(v float64) string {
	switch {
	case u == pieces:
		return number(v)
	case u != seconds:
		return number(v) + " " + string(u)
	case v < 1e-6:
		return number(v*1e9) + " ns"
	case v < 1e-3:
		return number(v*1e6) + " µs"
	case v < 1:
		return number(v*1e3) + " ms"
	}
	return number(v) + " s"
}

// cell says what a system did: the median, and how far the runs are apart.
func (l *line) cell(system string) string {
	if errno := l.Refused[system]; errno != "" {
		return errno
	}
	f := l.Figures[system]
	if len(f) == 0 {
		return ""
	}
	s := l.Unit.text(median(f))
	if m := median(f); len(f) > 1 && m != 0 {
		s += fmt.Sprintf(" ±%.0f%%", 50*(slices.Max(f)-slices.Min(f))/m)
	}
	return s
}

// each calls f for each line of each row.
func (t *report) each(rows []row, f func(row, *line)) {
	for _, r := range rows {
		for _, l := range t.Lines {
			if l.Row == r.name && l.Shape == r.shape {
				f(r, l)
			}
		}
	}
}

// sort puts the lines in the order of the rows.
func (t *report) sort(rows []row) {
	place := func(l *line) int {
		return slices.IndexFunc(rows, func(r row) bool { return r.name == l.Row && r.shape == l.Shape })
	}
	slices.SortStableFunc(t.Lines, func(a, b *line) int { return place(a) - place(b) })
}

// measured returns the systems that have a figure in a line, in the row's order,
// then the others.
func (l *line) measured(r row) []string {
	return slices.DeleteFunc(slices.Concat(r.systems, []string{imgfsIs, memfsCachedIs, memfsBareIs, imgfsCachedIs, goMapIs, goGzipIs}), func() func(s string) bool {
		seen := map[string]bool{}
		return func(s string) bool {
			out := seen[s] || l.cell(s) == ""
			seen[s] = true
			return out
		}
	}())
}

// print writes the whole table: a block for each figure, in it a line for each
// system, with the ratio of ours to it and what it took.
func (t *report) print(w io.Writer, rows []row) {
	fmt.Fprintf(w, "imgfs %s; %s; %d runs in turn\n", t.Version, t.Machine, t.Runs)
	fmt.Fprint(w, "Medians ± half of most less least; ratio: the median of the runs' ratios, ours to it; s of CPU of\n"+
		"the program that asked and of the server; system calls of the server; MB that it had written.\n\n")
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "row\tfigure\tsystem\tmedian\tratio\tasker\tserver\treads\twrites\tMB\tlimit")
	t.each(rows, func(r row, l *line) {
		verdicts := l.verdicts(r)
		title, name := r.title(), l.Name
		for _, system := range l.measured(r) {
			ratio := ""
			if v, ok := l.ratio(r.systems0(), system); ok && system != r.systems0() {
				ratio = fmt.Sprintf("%.2f", v)
			}
			said := ""
			if len(verdicts) > 0 {
				said, verdicts = verdicts[0].text(l.Unit), verdicts[1:]
			}
			fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", title, name, system, l.cell(system), ratio, l.spent(system), said)
			title, name = "", ""
		}
		for _, v := range verdicts {
			fmt.Fprintf(tw, "\t\t\t\t\t\t\t\t\t\t%s\n", v.text(l.Unit))
		}
	})
	tw.Flush()
	t.printMounts(w)
	for system, why := range sorted(t.Skipped) {
		fmt.Fprintf(w, "\nnot measured: %s: %s", system, why)
	}
	missed, known := 0, 0
	t.each(rows, func(r row, l *line) {
		for _, v := range l.verdicts(r) {
			if v.known {
				known++
			}
			if v.known && !v.holds {
				missed++
			}
		}
	})
	fmt.Fprintf(w, "\n%d of %d limits hold\n", known-missed, known)
}

// spent says what a system took for a figure, in five cells.
func (l *line) spent(system string) string {
	f := l.Efforts[system]
	if len(f) == 0 {
		return "\t\t\t\t"
	}
	of := func(get func(effort) float64) float64 { return medianOf(f, get) }
	asker := number(of(func(e effort) float64 { return e.Worker }))
	server := of(func(e effort) float64 { return e.CPU })
	if server == 0 { // the kernel's
		return asker + "\t\t\t\t"
	}
	return fmt.Sprintf("%s\t%s\t%.0f\t%.0f\t%s", asker, number(server),
		of(func(e effort) float64 { return e.Reads }), of(func(e effort) float64 { return e.Writes }),
		number(of(func(e effort) float64 { return e.MB })))
}

// printMounts says how far apart the images' mount times are.
func (t *report) printMounts(w io.Writer) {
	var medians []float64
	for _, l := range t.Lines {
		if l.Row == "mount" {
			medians = append(medians, median(l.Figures[imgfsIs]))
		}
	}
	if len(medians) > 1 {
		fmt.Fprintf(w, "\nslowest mount / fastest mount over the images: %.2f (≤ 1.5)\n", slices.Max(medians)/slices.Min(medians))
	}
}

// printRow says how a row went, while the others are still to come.
func (t *report) printRow(w io.Writer, r row) {
	t.each([]row{r}, func(r row, l *line) {
		fmt.Fprint(w, strings.TrimSpace(r.title()+" "+l.Name)+":")
		for _, system := range l.measured(r) {
			fmt.Fprintf(w, " %s %s,", system, l.cell(system))
		}
		for _, v := range l.verdicts(r) {
			fmt.Fprintf(w, " %s;", v.text(l.Unit))
		}
		fmt.Fprintln(w)
	})
}

// write keeps all figures as JSON.
func (t *report) write(name string) error {
	b, err := json.Marshal(t)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, append(b, '\n'), 0o644)
}

func readReport(name string) (*report, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var t report
	if err := json.Unmarshal(b, &t); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &t, nil
}

// writeLines writes each figure as a line of a Go benchmark, for benchstat.
func (t *report) writeLines(name string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "pkg: github.com/imgfs/imgfs\nmachine: %s\nversion: %s\n", t.Machine, t.Version)
	for _, l := range t.Lines {
		for system, figures := range sorted(l.Figures) {
			key := "Benchmark" + strings.ToUpper(l.Row[:1]) + word(l.Row[1:])
			for _, part := range [][2]string{{"image", l.Shape}, {"figure", l.Name}, {"system", system}} {
				if part[1] != "" {
					key += "/" + part[0] + "=" + word(part[1])
				}
			}
			for _, v := range figures {
				u, v := string(l.Unit), v
				if l.Unit == seconds {
					u, v = "ns/op", v*1e9
				}
				fmt.Fprintf(&b, "%s 1 %.4g %s\n", key, v, u)
			}
		}
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, []byte(b.String()), 0o644)
}

// word makes one word of a name, as a benchmark's name is.
func word(s string) string {
	return strings.NewReplacer(" ", "-", ",", "", "/", "-", "=", "-").Replace(s)
}
