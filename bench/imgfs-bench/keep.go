// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// keepMain puts a run on record: its JSON under its version, and a line for
// each figure in the history.
func keepMain(args []string) error {
	flags := flag.NewFlagSet("imgfs-bench keep", flag.ExitOnError)
	history := flags.String("history", "bench/HISTORY.md", "the file to append to")
	results := flags.String("results", "bench/results", "the directory to put the JSON into")
	flags.Parse(args)
	if flags.NArg() != 1 {
		return errors.New("keep wants the JSON of a run")
	}
	t, err := readReport(flags.Arg(0))
	if err != nil {
		return err
	}
	if err := t.write(filepath.Join(*results, t.fileName())); err != nil {
		return err
	}
	old, err := os.ReadFile(*history)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.WriteFile(*history, t.appendHistory(old, allRows()), 0o644)
}

// fileName is the name under which a run is kept.
func (t *report) fileName() string {
	version := strings.NewReplacer("/", "-", " ", "-").Replace(cmp.Or(t.Version, "unknown"))
	return t.Time.Format("2006-01-02") + "-" + version + ".json"
}

const historyHead = `# Figures, version by version

What ` + "`make bench-keep`" + ` appends: the medians of imgfs, and for rows with a peer the ratio to it (the median of the runs' ratios).
Compare lines of one machine only. The whole runs are in results/.

| version | day | row | figure | imgfs | ratio | limit |
|---|---|---|---|---|---|---|
`

// appendHistory returns the history with a run's lines. Those that an earlier
// keeping of the same run wrote go.
func (t *report) appendHistory(old []byte, rows []row) []byte {
	if len(bytes.TrimSpace(old)) == 0 {
		old = []byte(historyHead)
	}
	mark := fmt.Sprintf("| %s | %s |", t.Version, t.Time.Format("2006-01-02"))
	var b bytes.Buffer
	for line := range bytes.Lines(old) {
		if !bytes.HasPrefix(line, []byte(mark)) {
			b.Write(line)
		}
	}
	t.each(rows, func(r row, l *line) {
		ours := l.cell(r.systems0())
		if ours == "" {
			return
		}
		var said []string
		for _, v := range l.verdicts(r) {
			if v.limit.of == "" && v.known {
				said = append(said, v.text(l.Unit))
			}
		}
		ratio := ""
		for _, peer := range l.measured(r) {
			if v, ok := l.ratio(r.systems0(), peer); ok && peer != r.systems0() && !strings.HasPrefix(peer, imgfsIs) {
				ratio = fmt.Sprintf("%.2f × %s", v, peer)
				break
			}
		}
		fmt.Fprintf(&b, "%s %s | %s | %s | %s | %s |\n", mark, r.title(), l.Name, ours, ratio, strings.Join(said, "; "))
	})
	return b.Bytes()
}
