// SPDX-License-Identifier: Apache-2.0

package archtest

import (
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/imgfs/imgfs"

// arrows is the house of docs/design.md: what each package may import of ours,
// besides internal/. Arrows point down only. A package that is not here may
// import none. "." is the façade.
var arrows = map[string][]string{
	"cmd/imgfs":               {".", "cow", "forensics", "image", "index", "layerstore/seek", "unionfs", "unionfs/mount"},
	".":                       {"cow", "forensics", "image", "image/archive", "image/engine", "image/registry", "layerstore", "layerstore/seek", "index", "unionfs", "unionfs/mount"},
	"image":                   {},
	"image/archive":           {"image"},
	"image/engine":            {"image", "image/archive"},
	"image/registry":          {"image"},
	"layerstore":              {"layerstore/seek", "index"},
	"layerstore/seek":         {"layerstore/seek/inflate"},
	"layerstore/seek/inflate": {},
	"index":                   {},
	"unionfs":                 {"index"},
	"unionfs/mount":           {"cow", "unionfs", "index", "unionfs/mount/devfuse"},
	"unionfs/mount/devfuse":   {},
	"cow":                     {"unionfs", "index"},
	"forensics":               {"image", "index", "unionfs"},
}

// only says who may import a module of others, by the prefix of its path. A
// module that is not here may be imported by anyone.
var only = map[string][]string{
	"github.com/hanwen/go-fuse":         {"unionfs/mount", "unionfs/mount/devfuse", "bench/memfs", "internal/crashfs"},
	"go.etcd.io/bbolt":                  {"cow", "index", "layerstore"},
	"github.com/spf13/cobra":            {"cmd/imgfs"},
	"github.com/vbauerster/mpb":         {"internal/term"},
	"golang.org/x/term":                 {"internal/term"},
	"github.com/klauspost/compress":     {"layerstore/seek"},
	"github.com/ulikunitz/xz":           {"layerstore/seek"},
	"github.com/distribution/reference": {"image"},
	"testing":                           {"internal/fusetest", "internal/tartest", "internal/posix/model", "internal/posix/suite", "internal/regtest", "internal/enginetest"},
	"oras.land/oras-go":                 {"image/registry"},
	"github.com/pelletier/go-toml":      {"image/registry"},
	"log":                               {"unionfs/mount"},
}

func TestArrows(t *testing.T) {
	for _, f := range sources(t) {
		if f.isTest() {
			continue
		}
		for _, imported := range f.imports() {
			if why := forbidden(f.pkg(), imported); why != "" {
				t.Errorf("%s imports %s: %s", f.name, imported, why)
			}
		}
	}
}

// TestArrowsPointAtPackages keeps the table from naming what is gone.
func TestArrowsPointAtPackages(t *testing.T) {
	have := map[string]bool{}
	for _, f := range sources(t) {
		have[f.pkg()] = true
	}
	for _, from := range slices.Sorted(maps.Keys(arrows)) {
		if !have[from] {
			t.Errorf("the house draws %s, which does not exist", from)
		}
	}
}

// forbidden says why pkg may not import a path; empty: it may.
func forbidden(pkg, imported string) string {
	if imported != module && !strings.HasPrefix(imported, module+"/") {
		for prefix, users := range only {
			if (imported == prefix || strings.HasPrefix(imported, prefix+"/")) && !slices.Contains(users, pkg) {
				return "only " + strings.Join(users, ", ") + " may"
			}
		}
		return ""
	}
	to := path.Clean(strings.TrimPrefix(strings.TrimPrefix(imported, module), "/"))
	switch {
	case isUnder(to, "internal"):
		return ""
	case isUnder(pkg, "internal"):
		return "internal packages import only each other"
	case slices.Contains(arrows[pkg], to):
		return ""
	}
	return "the house has no such arrow (docs/design.md)"
}

func isUnder(pkg, dir string) bool { return pkg == dir || strings.HasPrefix(pkg, dir+"/") }

func TestForbidden(t *testing.T) {
	for _, tt := range []struct {
		name, from, to string
		allowed        bool
	}{
		{"an arrow down", "unionfs", module + "/index", true},
		{"an arrow up", "index", module + "/unionfs", false},
		{"an arrow to the façade", "unionfs/mount", module, false},
		{"a package nobody drew", "forgotten", module + "/index", false},
		{"internal from anywhere", "index", module + "/internal/tartest", true},
		{"from internal to a package", "internal/term", module + "/image", false},
		{"go-fuse where it belongs", "unionfs/mount", "github.com/hanwen/go-fuse/v2/fuse", true},
		{"go-fuse elsewhere", "unionfs", "github.com/hanwen/go-fuse/v2/fuse", false},
		{"the standard library", "index", "os", true},
	} {
		if got := forbidden(tt.from, tt.to) == ""; got != tt.allowed {
			t.Errorf("%s: %s imports %s: allowed = %v, want %v", tt.name, tt.from, tt.to, got, tt.allowed)
		}
	}
}
