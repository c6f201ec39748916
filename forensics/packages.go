// SPDX-License-Identifier: Apache-2.0

package forensics

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// A Package is what a package manager says is installed.
type Package struct {
	Manager string `json:"manager"` // dpkg or apk
	Name    string `json:"name"`
	Arch    string `json:"arch,omitempty"`
	Version string `json:"version"`
}

// A PackageChange is a package that two trees do not have in one version.
type PackageChange struct {
	Change  string `json:"change"` // added, changed or deleted
	Manager string `json:"manager"`
	Name    string `json:"name"`
	Arch    string `json:"arch,omitempty"`
	Old     string `json:"old,omitempty"` // version
	New     string `json:"new,omitempty"`
}

// maxDatabase bounds what is read of a package database, in bytes.
const maxDatabase = 64 << 20

// databases are the files that package managers keep. A directory holds such
// files, as in images without a package manager.
var databases = []struct {
	manager, path string
	dir           bool
}{
	{"dpkg", "var/lib/dpkg/status", false},
	{"dpkg", "var/lib/dpkg/status.d", true},
	{"apk", "lib/apk/db/installed", false},
	{"apk", "usr/lib/apk/db/installed", false},
}

// Packages returns the installed packages of a tree, sorted by manager, name
// and architecture.
func Packages(ctx context.Context, s *Stack) ([]Package, error) {
	var list []Package
	for _, db := range databases {
		files, err := databaseFiles(ctx, s, db.path, db.dir)
		if err != nil {
			return nil, err
		}
		for _, e := range files {
			if e.Size > maxDatabase {
				return nil, fmt.Errorf("%s: /%s: over %d bytes", s.Name, e.Path, maxDatabase)
			}
			text, err := readAll(ctx, s.Tree, e)
			if err != nil {
				if err := s.passes(fmt.Errorf("%s: /%s: %w", s.Name, e.Path, err)); err != nil {
					return nil, err
				}
				continue
			}
			list = append(list, parsePackages(db.manager, text)...)
		}
	}
	slices.SortFunc(list, comparePackages)
	return slices.CompactFunc(list, func(a, b Package) bool { return a == b }), nil
}

func comparePackages(a, b Package) int {
	return cmp.Or(strings.Compare(a.Manager, b.Manager), strings.Compare(a.Name, b.Name),
		strings.Compare(a.Arch, b.Arch), strings.Compare(a.Version, b.Version))
}

// databaseFiles returns the regular files of a database, none if it is not
// there.
func databaseFiles(ctx context.Context, s *Stack, path string, dir bool) ([]*Entry, error) {
	real, err := Resolve(ctx, s.Tree, path)
	if errors.Is(err, fs.ErrNotExist) || isNotDir(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	e, err := s.Tree.Lookup(ctx, real)
	switch {
	case err != nil:
		return nil, err
	case e.IsRegular() && !dir:
		return []*Entry{e}, nil
	case !e.IsDir() || !dir:
		return nil, nil
	}
	part, err := s.Part(ctx, real)
	if err != nil {
		return nil, err
	}
	var list []*Entry
	err = part.Tree.Walk(ctx, func(e *Entry) error {
		if e.IsDir() && e.Path != "" {
			return fs.SkipDir
		}
		if e.IsRegular() && !strings.HasSuffix(e.Path, ".md5sums") {
			found := *e
			found.Path = joinPath(real, e.Path)
			list = append(list, &found)
		}
		return nil
	})
	return list, err
}

// parsePackages reads the records of a database, which stand between empty
// lines. What is no record is passed over.
func parsePackages(manager string, text []byte) (list []Package) {
	name, version, arch := "Package:", "Version:", "Architecture:"
	if manager == "apk" {
		name, version, arch = "P:", "V:", "A:"
	}
	p, installed := Package{Manager: manager}, true
	end := func() {
		if p.Name != "" && installed {
			list = append(list, p)
		}
		p, installed = Package{Manager: manager}, true
	}
	for line := range bytes.Lines(text) {
		s := strings.TrimSpace(string(line[:min(len(line), 1024)]))
		if s == "" {
			end()
			continue
		}
		if line[0] == ' ' || line[0] == '\t' {
			continue
		}
		if v, ok := strings.CutPrefix(s, name); ok {
			p.Name = strings.TrimSpace(v)
		} else if v, ok := strings.CutPrefix(s, version); ok {
			p.Version = strings.TrimSpace(v)
		} else if v, ok := strings.CutPrefix(s, arch); ok {
			p.Arch = strings.TrimSpace(v)
		} else if v, ok := strings.CutPrefix(s, "Status:"); ok && manager == "dpkg" {
			words := strings.Fields(v)
			installed = len(words) == 3 && words[2] == "installed"
		}
	}
	end()
	return list
}

// DiffPackages returns which packages differ from a to b, in their order.
func DiffPackages(ctx context.Context, a, b *Stack) ([]PackageChange, error) {
	old, err := Packages(ctx, a)
	if err != nil {
		return nil, err
	}
	now, err := Packages(ctx, b)
	if err != nil {
		return nil, err
	}
	var list []PackageChange
	change := func(c Change, p *Package, from, to string) {
		list = append(list, PackageChange{c.String(), p.Manager, p.Name, p.Arch, from, to})
	}
	key := func(p Package) Package { p.Version = ""; return p }
	for len(old) > 0 || len(now) > 0 {
		c := 0
		switch {
		case len(old) == 0:
			c = 1
		case len(now) == 0:
			c = -1
		default:
			c = comparePackages(key(old[0]), key(now[0]))
		}
		switch {
		case c < 0:
			change(Removed, &old[0], old[0].Version, "")
			old = old[1:]
		case c > 0:
			change(Added, &now[0], "", now[0].Version)
			now = now[1:]
		default:
			if old[0].Version != now[0].Version {
				change(Changed, &now[0], old[0].Version, now[0].Version)
			}
			old, now = old[1:], now[1:]
		}
	}
	return list, nil
}
