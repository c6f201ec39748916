// SPDX-License-Identifier: Apache-2.0

package forensics

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"io"
	"slices"
	"strings"
)

// A DriftClass says how much a change of a container matters.
type DriftClass uint8

// The classes, that which matters most first.
const (
	DriftExecutable DriftClass = iota // what can be executed came or was changed
	DriftPrivileged                   // setuid, setgid or capabilities came or were changed
	DriftOther
)

// String returns the word for c in output.
func (c DriftClass) String() string {
	return [...]string{"executable", "privileged", "other"}[c]
}

// A Drifted is a path that a container changed.
type Drifted struct {
	Path   string // as Entry.Path
	Change Change
	What   What // of Changed
	Class  DriftClass
	Why    []string // the class: "mode", "elf", "script", "setuid", "setgid", "capabilities"
	A, B   *Entry   // in the image, in the container; nil where it has none
	SHA256 string   // of an executable; "" if it cannot be read
}

// Drift returns what a container changed against its image, by class and then
// by path. That a directory has another time is no change: each name that comes
// or goes in it does that. What was in a directory that is gone is not told. Nor are attributes of the root: engines make it anew
// for each container.
func Drift(ctx context.Context, image, container *Stack) ([]*Drifted, error) {
	var list []*Drifted
	gone := "/" // the last directory that was deleted, with a slash behind it
	err := Diff(ctx, image, container, DiffOptions{}, func(diff *Difference) error {
		if diff.What == DiffTimes && diff.B.IsDir() || diff.Path == "" && diff.A.IsDir() && diff.B.IsDir() {
			return nil
		}
		if diff.Change == Removed {
			if strings.HasPrefix(diff.Path, gone) {
				return nil
			}
			if diff.A.IsDir() {
				gone = diff.Path + "/"
			}
		}
		d := &Drifted{Path: diff.Path, Change: diff.Change, What: diff.What, A: clone(diff.A), B: clone(diff.B), Class: DriftOther}
		list = append(list, d)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := container.eachUnread(ctx, len(image.Layers)); err != nil {
		return nil, err
	}
	for _, d := range list {
		if err := d.classify(ctx, container); err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(list, func(a, b *Drifted) int {
		return cmp.Or(cmp.Compare(a.Class, b.Class), ComparePaths(a.Path, b.Path))
	})
	return list, nil
}

func clone(e *Entry) *Entry {
	if e == nil {
		return nil
	}
	c := *e
	return &c
}

// What of a file that is there can make it executable, or give rights.
const (
	driftRuns   = DiffType | DiffMode | DiffSize | DiffContent | DiffLinks
	driftRights = DiffType | DiffMode | DiffOwner | DiffSize | DiffContent | DiffCapabilities | DiffLinks
)

// classify finds out how much d matters.
func (d *Drifted) classify(ctx context.Context, container *Stack) error {
	if d.B == nil || !d.B.IsRegular() {
		return nil
	}
	added := d.Change == Added
	var rights []string
	if added || d.What&driftRights != 0 {
		var err error
		if rights, err = rightsOf(container, d.B); err != nil {
			return err
		}
	}
	var runs []string
	if added || d.What&driftRuns != 0 {
		if d.B.Mode&0o111 != 0 {
			runs = append(runs, "mode")
		}
		kind, err := kindOf(container, d.B)
		if err != nil {
			return err
		}
		if kind != "" {
			runs = append(runs, kind)
		}
	}
	d.Why = append(runs, rights...)
	switch {
	case len(runs) > 0:
		d.Class = DriftExecutable
	case len(rights) > 0:
		d.Class = DriftPrivileged
		return nil
	default:
		return nil
	}
	sum, ok, err := container.hash(ctx, d.B)
	if ok {
		d.SHA256 = hex.EncodeToString(sum[:])
	}
	return err
}

// rightsOf returns which rights a file gives to who executes it.
func rightsOf(s *Stack, e *Entry) (list []string, err error) {
	if e.Mode&0o4000 != 0 {
		list = append(list, "setuid")
	}
	if e.Mode&0o2000 != 0 {
		list = append(list, "setgid")
	}
	xattrs, _, err := s.xattrs(e)
	for _, x := range xattrs {
		if x.Name == capabilityXattr {
			list = append(list, "capabilities")
		}
	}
	return list, err
}

// kindOf returns "elf" or "script" of a file that begins as one, else "".
func kindOf(s *Stack, e *Entry) (string, error) {
	head := make([]byte, min(e.Size, 4))
	if len(head) < 2 {
		return "", nil
	}
	r, err := s.Tree.Open(e)
	if err != nil {
		return "", s.passes(err)
	}
	if c, ok := r.(io.Closer); ok {
		defer c.Close() // it was only read
	}
	if n, err := r.ReadAt(head, 0); n < len(head) && err != nil {
		return "", s.passes(err)
	}
	switch {
	case string(head) == "\x7fELF":
		return "elf", nil
	case bytes.HasPrefix(head, []byte("#!")):
		return "script", nil
	}
	return "", nil
}
