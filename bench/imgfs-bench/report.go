// SPDX-License-Identifier: Apache-2.0

package main

import (
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

// The systems that every run measures.
const (
	imgfsIs   = "imgfs"
	overlayIs = "overlayfs"
)

// A report collects figures and prints medians.
type report struct {
	Machine string    `json:"machine"`
	Time    time.Time `json:"time"`
	Runs    int       `json:"runs"`
	Rows    []*row    `json:"rows"`
}

// A row is one figure on one shape, for imgfs and maybe a peer.
type row struct {
	Name    string               `json:"name"`
	Shape   string               `json:"shape"`
	Unit    string               `json:"unit"`
	Figures map[string][]float64 `json:"figures"` // by system, one a run
}

func newReport(runs int) *report {
	return &report{Machine: machine(), Time: time.Now().UTC().Truncate(time.Second), Runs: runs}
}

// machine says what the figures were measured on.
func machine() string {
	model := "unknown processor"
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if _, rest, ok := strings.Cut(string(info), "model name\t: "); ok {
			model, _, _ = strings.Cut(rest, "\n")
		}
	}
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		kernel = []byte("of unknown release")
	}
	var si syscall.Sysinfo_t
	memory := "unknown memory"
	if syscall.Sysinfo(&si) == nil {
		memory = fmt.Sprintf("%d GB", (uint64(si.Totalram)*uint64(si.Unit)+1<<29)>>30)
	}
	return fmt.Sprintf("%s, %d cores, %s, Linux %s, %s", model, runtime.NumCPU(), memory,
		strings.TrimSpace(string(kernel)), runtime.Version())
}

func (r *report) add(name, shape, unit, system string, v float64) {
	i := slices.IndexFunc(r.Rows, func(w *row) bool { return w.Name == name && w.Shape == shape })
	if i < 0 {
		r.Rows = append(r.Rows, &row{Name: name, Shape: shape, Unit: unit, Figures: map[string][]float64{}})
		i = len(r.Rows) - 1
	}
	r.Rows[i].Figures[system] = append(r.Rows[i].Figures[system], v)
}

// A target is what issue by issue was promised of a row. A row's ratio is
// imgfs to peer; without a peer the figure itself counts.
type target struct {
	most  float64
	shape string // empty: every shape
}

var targets = map[string]target{
	"mount":              {most: 30},
	"first walk":         {most: 1.0},
	"second walk":        {most: 1.1},
	"store / blobs":      {most: 1.07},
	"RssAnon after walk": {most: 64, shape: "many"},
}

func (r *report) print(w io.Writer) {
	fmt.Fprintf(w, "%s; %d runs, median (least to most)\n\n", r.Machine, r.Runs)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "row\tshape\tunit\timgfs\tpeer\tratio\ttarget\t")
	rows := slices.Clone(r.Rows)
	slices.SortStableFunc(rows, func(a, b *row) int { return order(r.Rows, a.Name) - order(r.Rows, b.Name) })
	for _, w := range rows {
		ours, peer, ratio := spread(w.Figures[imgfsIs]), "", ""
		counts := median(w.Figures[imgfsIs])
		for system, figures := range w.Figures {
			if system != imgfsIs {
				peer = system + " " + spread(figures)
				counts = median(w.Figures[imgfsIs]) / median(figures)
				ratio = fmt.Sprintf("%.2f", counts)
			}
		}
		verdict := ""
		if t, ok := targets[w.Name]; ok && (t.shape == "" || t.shape == w.Shape) {
			verdict = fmt.Sprintf("≤ %g ok", t.most)
			if counts > t.most {
				verdict = fmt.Sprintf("≤ %g MISSED", t.most)
			}
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", w.Name, w.Shape, w.Unit, ours, peer, ratio, verdict)
	}
	tw.Flush()
	r.printSpread(w)
}

// printSpread says how far apart the shapes' mount times are.
func (r *report) printSpread(w io.Writer) {
	var medians []float64
	for _, row := range r.Rows {
		if row.Name == "mount" {
			medians = append(medians, median(row.Figures[imgfsIs]))
		}
	}
	if len(medians) > 1 {
		fmt.Fprintf(w, "\nslowest mount / fastest mount over the shapes: %.2f (target ≤ 1.5)\n",
			slices.Max(medians)/slices.Min(medians))
	}
}

// order is where a row's name first came up.
func order(rows []*row, name string) int {
	return slices.IndexFunc(rows, func(w *row) bool { return w.Name == name })
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

func spread(v []float64) string {
	switch len(v) {
	case 0:
		return ""
	case 1:
		return number(v[0])
	}
	return fmt.Sprintf("%s (%s to %s)", number(median(v)), number(slices.Min(v)), number(slices.Max(v)))
}

// number keeps three figures.
func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

// write keeps all figures as JSON.
func (r *report) write(name string) error {
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, append(b, '\n'), 0o644)
}
