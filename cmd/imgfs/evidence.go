// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/forensics"
	"github.com/imgfs/imgfs/internal/noatime"
	"github.com/imgfs/imgfs/internal/term"
)

// evidenceFlags are those of verify --evidence.
type evidenceFlags struct {
	on            bool
	output, check string
	quiet         bool
	json          bool
}

func (f *evidenceFlags) options() imgfs.EvidenceOptions {
	v := buildInfo()
	return imgfs.EvidenceOptions{
		Tool:    forensics.EvidenceTool{Name: "imgfs", Version: v.Version, Commit: v.Commit, Go: v.GoVersion, Platform: v.Platform},
		Command: os.Args,
	}
}

// evidence writes a report of what args are, or checks one.
func (a *app) evidence(ctx context.Context, args []string, f *evidenceFlags) error {
	if f.check != "" {
		return a.checkEvidence(ctx, args, f)
	}
	if len(args) == 0 {
		return &hintError{err: usagef("--evidence takes images or files"), hint: "imgfs verify --evidence -o report.json ./image.tar"}
	}
	out, err := openReport(f.output)
	if err != nil {
		return err
	}
	e, err := a.examine(ctx, args, f)
	if err != nil {
		return errors.Join(err, out.drop())
	}
	if out.file == nil {
		if err := e.Write(a.stdout); err != nil {
			return err
		}
	} else if err := out.keep(e); err != nil {
		return err
	} else if err := a.printEvidence(e, f); err != nil {
		return err
	}
	if e.Result != forensics.Good {
		return exitStatus(exitDiffers)
	}
	return nil
}

func (a *app) examine(ctx context.Context, args []string, f *evidenceFlags) (e *forensics.Evidence, err error) {
	st, err := a.store()
	if err != nil {
		return nil, err
	}
	err = a.working(ctx, f.quiet, func(ctx context.Context, load imgfs.LoadOptions) (err error) {
		opt := f.options()
		opt.Progress = load.Progress
		e, err = st.Evidence(ctx, args, opt)
		return err
	})
	return e, err
}

// A reportFile is a report that is being written to a new file. It is there
// from the beginning, so that hours of reading are not in vain.
type reportFile struct{ file *os.File }

// openReport makes the file of a report; "" and "-" are none.
func openReport(path string) (*reportFile, error) {
	if path == "" || path == "-" {
		return &reportFile{}, nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, os.ErrExist) {
		return nil, &hintError{err: err, hint: "a report is never written over another: name a new file"}
	}
	return &reportFile{f}, err
}

// keep writes the report.
func (r *reportFile) keep(e *forensics.Evidence) error {
	return errors.Join(e.Write(r.file), r.file.Sync(), r.file.Close())
}

// drop removes the file of a report that does not come.
func (r *reportFile) drop() error {
	if r.file == nil {
		return nil
	}
	return errors.Join(r.file.Close(), os.Remove(r.file.Name()))
}

// printEvidence tells people what stands in a report.
func (a *app) printEvidence(e *forensics.Evidence, f *evidenceFlags) error {
	var b strings.Builder
	for i := range e.Sources {
		s := &e.Sources[i]
		if s.What != "" {
			fmt.Fprintf(&b, "%s: %s\n", term.Escape(s.Source), term.Escape(s.What))
		}
		for k := range s.Items {
			if item := &s.Items[k]; item.Result == forensics.Bad || item.Result == forensics.Lost {
				fmt.Fprintf(&b, "%s: %s\n", term.Escape(s.Source), term.Escape(badItem(item)))
			}
		}
		if s.Times != nil && len(s.Times.Touched) > 0 && !f.quiet {
			fmt.Fprintf(&b, "%s: its times or size are others since it was read: %s\n", term.Escape(s.Source), strings.Join(s.Times.Touched, ", "))
		}
	}
	if !f.quiet {
		good, bad := e.Count()
		fmt.Fprintf(&b, "%d good, %d bad\n", good, bad)
	}
	fmt.Fprintf(&b, "%s\n", e.Seal)
	_, err := io.WriteString(a.stdout, b.String())
	return err
}

// badItem tells what is wrong with an item, and where.
func badItem(i *forensics.EvidenceItem) string {
	line := i.Title()
	if i.Offset != nil {
		line += fmt.Sprintf(" at %d", *i.Offset)
	}
	line += ": " + i.What
	for _, d := range i.Damage {
		line += fmt.Sprintf("; damaged: bytes %d to %d of its tar", d.Offset, d.Offset+d.Size-1)
		if len(d.Paths) > 0 {
			line += ", in " + strings.Join(d.Paths, ", ")
		}
	}
	return line
}

// checkEvidence checks a report, and what it is about.
func (a *app) checkEvidence(ctx context.Context, args []string, f *evidenceFlags) error {
	raw, err := readReport(f.check)
	if err != nil {
		return err
	}
	e, err := forensics.ReadEvidence(raw)
	sealed := err
	if err != nil && !errors.Is(err, forensics.ErrSeal) {
		return fmt.Errorf("%s: %w", f.check, err)
	}
	if sealed != nil {
		a.report(fmt.Errorf("%s: %w", f.check, sealed))
	}
	st, err := a.store()
	if err != nil {
		return err
	}
	changes := 0
	err = a.working(ctx, f.quiet, func(ctx context.Context, load imgfs.LoadOptions) error {
		opt := f.options()
		opt.Progress = load.Progress
		return st.CheckEvidence(ctx, e, args, opt, func(c *forensics.EvidenceChange) error {
			changes++
			if f.json {
				return term.JSON(a.stdout, c, "")
			}
			_, err := fmt.Fprintln(a.stdout, term.Escape(changeLine(c)))
			return err
		})
	})
	if err != nil {
		return err
	}
	if changes > 0 || sealed != nil {
		return exitStatus(exitDiffers)
	}
	if f.quiet || f.json {
		return nil
	}
	good, bad := e.Count()
	_, err = fmt.Fprintf(a.stdout, "%d items are as the report says, %d good and %d bad\n%s\n", good+bad, good, bad, e.Seal)
	return err
}

// readReport reads a report of bounded size.
func readReport(path string) ([]byte, error) {
	f, err := noatime.Open(path, 0)
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(f, forensics.MaxEvidence+1))
	if err == nil && len(raw) > forensics.MaxEvidence {
		err = fmt.Errorf("%s: %w: over %d bytes", path, forensics.ErrNotEvidence, forensics.MaxEvidence)
	}
	return raw, errors.Join(err, f.Close())
}

// changeLine tells a change for people.
func changeLine(c *forensics.EvidenceChange) string {
	line := fmt.Sprintf("%s: %s: %s: %s", c.Source, c.Item, c.Change, c.What)
	for _, p := range c.Parts {
		line += fmt.Sprintf("; in bytes %d to %d", p.Offset, p.Offset+p.Size-1)
		if len(p.In) > 0 {
			line += " (" + strings.Join(p.In, ", ") + ")"
		}
	}
	return line
}
