// SPDX-License-Identifier: Apache-2.0

package archtest

import (
	"go/ast"
	"go/token"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// maxLines is where a file has to be cut. 500 is the advice, 700 the habit.
const maxLines = 900

func TestEveryFileBeginsWithItsLicence(t *testing.T) {
	for _, f := range sources(t) {
		if !strings.HasPrefix(f.text, "// SPDX-License-Identifier: Apache-2.0\n") {
			t.Errorf("%s: the first line is not the SPDX line", f.name)
		}
	}
}

func TestFilesAreShort(t *testing.T) {
	for _, f := range sources(t) {
		switch n := strings.Count(f.text, "\n"); {
		case n > maxLines:
			t.Errorf("%s: %d lines, at most %d", f.name, n, maxLines)
		case n > 700:
			t.Logf("%s: %d lines: could it be two files?", f.name, n)
		}
	}
}

// TestWhiteoutIsSpelledOnce: the rule of whiteouts has one place, in index.
// What writes test images and what sets up peers to measure against share
// nothing with us on purpose.
func TestWhiteoutIsSpelledOnce(t *testing.T) {
	var in []string
	for _, f := range sources(t) {
		if f.isTest() || isUnder(f.pkg(), "scripts") || isUnder(f.pkg(), "bench") || isUnder(f.pkg(), "internal") {
			continue
		}
		ast.Inspect(f.file, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING && strings.Contains(lit.Value, ".wh.") &&
				!slices.Contains(in, f.name) {
				in = append(in, f.name)
			}
			return true
		})
	}
	if len(in) != 1 || !strings.HasPrefix(in[0], "index/") {
		t.Errorf("the whiteout prefix is spelled in %q, want one file of index", in)
	}
}

// TestOnlyMainEndsTheProcess: a library returns its errors. Print functions
// of fmt that write to stdout count, too: the façade prints nothing.
func TestOnlyMainEndsTheProcess(t *testing.T) {
	banned := map[string]*regexp.Regexp{
		"os":  regexp.MustCompile(`^Exit$`),
		"log": regexp.MustCompile(`^(Fatal|Panic)`),
		"fmt": regexp.MustCompile(`^Print`),
	}
	for _, f := range sources(t) {
		if f.isTest() || f.isMain() {
			continue
		}
		ast.Inspect(f.file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := sel.X.(*ast.Ident); ok && banned[x.Name] != nil && banned[x.Name].MatchString(sel.Sel.Name) {
				t.Errorf("%s:%d: %s.%s in a library", f.name, f.line(n.Pos()), x.Name, sel.Sel.Name)
			}
			return true
		})
	}
}

var (
	todo      = regexp.MustCompile(`\b(TODO|FIXME|XXX|HACK)\b`)
	withIssue = regexp.MustCompile(`\bTODO\((issue )?#?\d+\)`)
)

func TestEveryTodoHasAnIssue(t *testing.T) {
	for _, f := range sources(t) {
		for _, group := range f.file.Comments {
			for _, c := range group.List {
				if todo.MatchString(c.Text) && !withIssue.MatchString(c.Text) {
					t.Errorf("%s:%d: %s: no issue number, as in TODO(#7)", f.name, f.line(c.Pos()), c.Text)
				}
			}
		}
	}
}

func TestPackagesHaveNamesAndWords(t *testing.T) {
	documented := map[string]bool{}
	for _, f := range sources(t) {
		pkg := f.pkg()
		if f.isTest() {
			continue
		}
		documented[pkg] = documented[pkg] || f.file.Doc != nil
		switch f.file.Name.Name {
		case "util", "utils", "common", "helper", "helpers", "misc":
			t.Errorf("%s: a package is a noun of the domain, not %q", f.name, f.file.Name.Name)
		}
	}
	for pkg, ok := range documented {
		if !ok {
			t.Errorf("package %s has no package comment", pkg)
		}
	}
}

// TestMutexesAreNamedAndHidden: an embedded or exported mutex is locked by
// whoever likes to.
func TestMutexesAreNamedAndHidden(t *testing.T) {
	for _, f := range sources(t) {
		ast.Inspect(f.file, func(n ast.Node) bool {
			st, ok := n.(*ast.StructType)
			if !ok {
				return true
			}
			for _, field := range st.Fields.List {
				sel, ok := field.Type.(*ast.SelectorExpr)
				if !ok || !strings.HasSuffix(sel.Sel.Name, "Mutex") {
					continue
				}
				if x, ok := sel.X.(*ast.Ident); !ok || x.Name != "sync" {
					continue
				}
				if len(field.Names) == 0 || field.Names[0].IsExported() {
					t.Errorf("%s:%d: an embedded or exported mutex", f.name, f.line(field.Pos()))
				}
			}
			return true
		})
	}
}
