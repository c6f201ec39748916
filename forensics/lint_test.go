// SPDX-License-Identifier: Apache-2.0

package forensics

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/imgfs/imgfs/index"
)

// A tableSource is a layer of a test.
type tableSource struct {
	LayerSource
	path string
}

func (s tableSource) OpenTable(context.Context) (*index.Layer, error) {
	return index.Open[index.EntryID](s.path)
}

// layersOf makes a stack of layers in the words of tartest, and its tree.
func layersOf(t testing.TB, tars ...[]byte) *Stack {
	t.Helper()
	s := new(Stack)
	var list []*index.Layer
	for i, b := range tars {
		path := filepath.Join(t.TempDir(), fmt.Sprint(i))
		scanTable(t, b, path)
		l := NewLayer(i, tableSource{path: path})
		l.DiffID = fmt.Sprintf("sha256:%064d", i)
		s.Layers = append(s.Layers, l)
		table, err := l.Table(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, table)
	}
	tree, err := merge(t, list)
	if err != nil {
		t.Fatal(err)
	}
	s.Tree = TreeOf(tree, index.RootID, s.Layers)
	t.Cleanup(func() { s.Close() })
	return s
}

func showFindings(t testing.TB, s *Stack) string {
	t.Helper()
	var out []string
	err := Lint(context.Background(), s, LintOptions{Now: time.Unix(1e9, 0)}, func(f *Finding) error {
		out = append(out, fmt.Sprintf("%v %s %d:%s", f.Level, f.Rule.ID, f.Layer, f.Path))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, ", ")
}

func TestLint(t *testing.T) {
	for _, tt := range []struct {
		rule   string
		layers string
		want   string
	}{
		{"nothing", "a/ a/b | a/c", ""},
		{"D1", "a a", "warning D1 0:a"},
		{"D5", "a a/ a/b", "warning D1 0:a/"},
		{"H2", "a | b=>a", "warning H2 1:b"},
		{"H10", "d/ d/../a", "warning H10 0:d/../a"},
		{"G1", ".go-fuse-epoll-hack", "info G1 0:.go-fuse-epoll-hack"},
		{"L1", "d/ l->d | l/", "info L1 1:/l"},
		{"L2", "d/ l->d | l/a", "error L2 1:/l, info M1 1:/l"},
		{"M1", "d/a", "info M1 0:/d"},
		{"M1 not where a layer below has it", "d/ | d/a", ""},
		{"M5", "a:4755 b:2755 c:6755 d:0666 e/:0777 f/:1777 g:4757", "info M5 0:/a, info M5 0:/b, info M5 0:/c, warning M5 0:/d, warning M5 0:/e, warning M5 0:/g"},
		{"M5 of what is gone", "a:4755 | .wh.a", ""},
		{"N1", "README readme d/ d/x D/ D/x", "warning N1 0:/d, warning N1 0:/readme"},
		{"N1 of what is gone", "README readme | .wh.readme", ""},
		{"N2", "a%1b[31m b%ff c%e2%80%aed d->%07", "warning N2 0:/a\x1b[31m, info N2 0:/b\xff, warning N2 0:/c\u202ed, warning N2 0:/d"},
		{"P8", "a/ a/b->../../c d->../c e->/../x f->/a/../b g->a/../../b", "info P8 0:/a/b, info P8 0:/d, info P8 0:/e, info P8 0:/g"},
		{"P10", "a->b b->a a/x", "warning P10 0:a/x"},
		{"V1", "a%0,0 b%1,3 c|", "error V1 0:/a, info V2 0:/b, info V2 0:/c"},
		{"W5", "a | .wh..wh..opq", "error W5 1:/"},
		{"W9", "a/ a/.wh..wh.b", "warning W9 0:a/.wh..wh.b"},
		{"W11", "d/ d/a | .wh.d d/ d/b", "error W11 1:/d"},
		{"W11 where nothing lay", "a | .wh.d d/ d/b", ""},
		{"W14", "a | .wh.b", "info W14 1:/b"},
		{"W19", ".wh.b d/ d/.wh..wh..opq", "info W19 0:/b, info W19 0:/d"},
		{"W20", "a .wh.b/ .wh.b/c", "warning W20 0:.wh.b/c, info W19 0:/b"},
		{"a whiteout that hides, an opaque directory", "a d/ d/x | .wh.a d/.wh..wh..opq", ""},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			s := layersOf(t, tarsOf(t, tt.layers)...)
			if got := showFindings(t, s); got != tt.want {
				t.Errorf("%s\n got %q\nwant %q", tt.layers, got, tt.want)
			}
		})
	}
}

// TestLintXattrs: what overlayfs would obey, and capabilities.
func TestLintXattrs(t *testing.T) {
	s := layersOf(t, paxTar(t, "d/", "trusted.overlay.opaque", "y", "f", "user.overlay.redirect", "/etc/shadow",
		"ping", "security.capability", "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	var out []string
	err := Lint(context.Background(), s, LintOptions{Now: time.Unix(1e9, 0)}, func(f *Finding) error {
		out = append(out, f.Rule.ID+" "+f.Path+": "+f.What)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := "X2 /d: xattr trusted.overlay.opaque, X3 /f: xattr user.overlay.redirect, X4 /ping: cap_net_raw=ep"
	if got := strings.Join(out, ", "); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestLintTimes: the future and the time before 1970.
func TestLintTimes(t *testing.T) {
	s := layersOf(t, timesTar(t, map[string]int64{"old": -5, "new": 2e9, "far": 1 << 40, "now": 1e9}))
	if got, want := showFindings(t, s), "warning T17 0:/far, warning T17 0:/new, info T17 0:/old"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestLintManyOddities: a table keeps some, lint says how many more.
func TestLintManyOddities(t *testing.T) {
	s := layersOf(t, tarsOf(t, strings.Repeat("a ", index.MaxOddities+8))...)
	last := ""
	n := 0
	if err := Lint(context.Background(), s, LintOptions{}, func(f *Finding) error {
		n++
		last = f.What
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if n != index.MaxOddities+1 || !strings.HasPrefix(last, "7 more") {
		t.Errorf("%d findings, the last %q", n, last)
	}
}

func TestFailOn(t *testing.T) {
	for _, tt := range []struct {
		text, rule string
		want       bool
	}{
		{"error", "V1", true}, {"error", "D1", false}, {"warning", "D1", true}, {"info", "M1", true},
		{"none", "V1", false}, {"d1, x2", "D1", true}, {"D1,X2", "V1", false},
	} {
		f, err := ParseFailOn(tt.text)
		if err != nil {
			t.Fatal(err)
		}
		r := RuleOf(tt.rule)
		if got := f.Matches(&Finding{Rule: r, Level: r.Level}); got != tt.want {
			t.Errorf("--fail-on %s, %s: %v", tt.text, tt.rule, got)
		}
	}
	for _, bad := range []string{"", "fatal", "V1,Q9", "none,V1"} {
		if _, err := ParseFailOn(bad); err == nil {
			t.Errorf("--fail-on %q: no error", bad)
		}
	}
}

// TestRulesAreRows: each rule is a row of the rules' document, and each rule
// that the scan reports is described.
func TestRulesAreRows(t *testing.T) {
	text, err := os.ReadFile("../docs/semantics.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range Rules() {
		if !regexp.MustCompile(`\| ([A-Z0-9a-z–]+ )*` + id + `[ –]`).Match(text) {
			t.Errorf("%s is no row of docs/semantics.md", id)
		}
	}
	files, err := filepath.Glob("../index/*.go")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, name := range files {
		code, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`s\.report\("([A-Z0-9]+)"`).FindAllSubmatch(code, -1) {
			n++
			if RuleOf(string(m[1])).Spec == "" {
				t.Errorf("%s reports %s, which has no rule", name, m[1])
			}
		}
	}
	if n < 10 {
		t.Errorf("only %d reports found", n)
	}
}

func TestCapabilities(t *testing.T) {
	for _, tt := range []struct{ value, want string }{
		{"\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "cap_net_raw=ep"},
		{"\x00\x00\x00\x02\x00\x30\x00\x00\x00\x10\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "cap_net_admin=ip cap_net_raw=p"},
		{"\x01\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00\x00\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "cap_bpf=ep"},
		{"\x00\x00\x00\x01\x00\x00\x00\x00\x01\x00\x00\x00", "cap_chown=i"},
		{"\x01\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x80\x00\x00\x00\x00", "cap_63=ep"},
		{"", "none"}, {"\x01\x00\x00\x02", "none"}, {"\x01\x00\x00\x09\x00\x00\x00\x00\x00\x00\x00\x00", "none"},
	} {
		c, ok := ParseCapabilities([]byte(tt.value))
		got := "none"
		if ok {
			got = c.String()
		}
		if got != tt.want {
			t.Errorf("%x: got %s, want %s", tt.value, got, tt.want)
		}
	}
}
