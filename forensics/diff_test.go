// SPDX-License-Identifier: Apache-2.0

package forensics

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/imgfs/imgfs/index"
)

func TestPatchName(t *testing.T) {
	for name, want := range map[string]string{
		"a/x y": "a/x y", "a/é": "a/é", "a/n\nl": `"a/n\012l"`, "a/q\"\\": `"a/q\"\\"`, "a/\xff": `"a/\377"`,
	} {
		if got := patchName(name); got != want {
			t.Errorf("%q: got %s, want %s", name, got, want)
		}
	}
}

// ComparePaths orders as a walk does.
func TestComparePaths(t *testing.T) {
	want := []string{"", "a", "a/b", "a/b/c", "a/c", "a-b", "a-b/c", "a.b", "ab", "b"}
	got := slices.Clone(want)
	slices.Reverse(got)
	slices.SortFunc(got, ComparePaths)
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestGlob(t *testing.T) {
	for _, tt := range []struct{ pattern, yes, no string }{
		{"*.pyc", "a.pyc usr/lib/x.pyc x.pyc/below", "a.py pyc"},
		{"doc", "doc usr/doc usr/doc/x", "docs usr/xdoc"},
		{"/usr/share/doc", "usr/share/doc usr/share/doc/x", "usr/share x/usr/share/doc usr/share/docs"},
		{"usr/*/doc", "usr/share/doc usr/x/doc/y", "usr/doc usr/a/b/doc"},
		{"/usr/**/x", "usr/x usr/a/x usr/a/b/x/y", "x usr/ax"},
		{"/a**", "a ab a/b", "b/a"},
		{"/[a-c]?", "ab cd/e", "da a abc"},
		{"/[^a]", "b", "a"},
		{`/a\*`, "a*", "ab"},
		{"/a.b", "a.b", "axb"},
		{"/(x|y)", "(x|y)", "x"},
	} {
		g, err := ParseGlob(tt.pattern)
		if err != nil {
			t.Errorf("%s: %v", tt.pattern, err)
			continue
		}
		for _, p := range strings.Fields(tt.yes) {
			if !g.Matches(p) {
				t.Errorf("%s does not match %s", tt.pattern, p)
			}
		}
		for _, p := range strings.Fields(tt.no) {
			if g.Matches(p) {
				t.Errorf("%s matches %s", tt.pattern, p)
			}
		}
	}
	for _, bad := range []string{"", "[", "a[", `\`} {
		if _, err := ParseGlob(bad); err == nil {
			t.Errorf("%q is taken for a pattern", bad)
		}
	}
}

// FuzzGlob: a pattern from the command line is taken or refused.
func FuzzGlob(f *testing.F) {
	for _, s := range []string{"*.pyc", "/usr/**/x", "[a-z]?", `\[`, "[]a]", "[^]-a]", "**"} {
		f.Add(s, "usr/x")
	}
	f.Fuzz(func(t *testing.T, pattern, path string) {
		if g, err := ParseGlob(pattern); err == nil {
			g.Matches(path)
		}
	})
}

func TestDiffXattrs(t *testing.T) {
	x := func(words string) (list []index.Xattr) {
		for w := range strings.FieldsSeq(words) {
			name, value, _ := strings.Cut(w, "=")
			list = append(list, index.Xattr{Name: name, Value: []byte(value)})
		}
		return list
	}
	for _, tt := range []struct {
		a, b string
		want What
	}{
		{"", "", 0},
		{"user.a=1 user.b=2", "user.a=1 user.b=2", 0},
		{"user.a=1", "user.a=2", DiffXattrs},
		{"user.a=1", "", DiffXattrs},
		{"", "security.capability=1", DiffCapabilities},
		{"security.capability=1 user.a=1", "security.capability=2 user.b=1", DiffCapabilities | DiffXattrs},
	} {
		if got := diffXattrs(x(tt.a), x(tt.b)); got != tt.want {
			t.Errorf("%q %q: got %v, want %v", tt.a, tt.b, got.Names(), tt.want.Names())
		}
	}
}

// FuzzPackages: a package database is a stranger's text.
func FuzzPackages(f *testing.F) {
	f.Add("dpkg", []byte("Package: a\nStatus: install ok installed\nVersion: 1\n\nPackage:\n\n x"))
	f.Add("apk", []byte("P:a\nV:1\nA:x\n\n"))
	f.Fuzz(func(t *testing.T, manager string, text []byte) {
		for _, p := range parsePackages(manager, text) {
			if p.Name == "" || len(p.Name) > 1024 {
				t.Errorf("a package called %q", p.Name)
			}
		}
	})
}

func TestDiffDocuments(t *testing.T) {
	a := &Stack{Config: []byte(`{"created":"x","config":{"Env":["A=1","B=2"],"Cmd":["a/b~"]},"rootfs":{"diff_ids":["1"]},"history":[{"created_by":"x"}]}`), Manifest: []byte(`{"n":1}`)}
	b := &Stack{Config: []byte(`{"created":"y","config":{"Env":["B=2","A=1"],"x/y":1},"rootfs":{"diff_ids":["2"]},"history":[{"created_by":"x"},{}]}`), Manifest: []byte(`{"n":2}`)}
	show := func(semantic bool) string {
		list, err := DiffDocuments(a, b, semantic)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, f := range list {
			out = append(out, f.Change+" "+f.Document+f.Field)
		}
		return strings.Join(out, ", ")
	}
	if got, want := show(true), "deleted config/config/Cmd/0, added config/config/x~1y"; got != want {
		t.Errorf("semantic:\n got %s\nwant %s", got, want)
	}
	want := "deleted config/config/Cmd/0, changed config/config/Env/0, changed config/config/Env/1, added config/config/x~1y, " +
		"changed config/created, changed config/rootfs/diff_ids/0, changed manifest/n"
	if got := show(false); got != want {
		t.Errorf("strict:\n got %s\nwant %s", got, want)
	}
	b.Config = []byte("{")
	if _, err := DiffDocuments(a, b, false); err == nil {
		t.Error("a config that is no JSON was read")
	}
}

// TestDiffHistory: steps that were added or taken away do not change the others.
func TestDiffHistory(t *testing.T) {
	history := func(steps string) *Stack {
		var list []string
		for step := range strings.FieldsSeq(steps) {
			by, created, _ := strings.Cut(step, "@")
			list = append(list, fmt.Sprintf(`{"created":%q,"created_by":%q}`, created, by))
		}
		return &Stack{Config: []byte(`{"history":[` + strings.Join(list, ",") + `]}`)}
	}
	for _, tt := range []struct{ a, b, want string }{
		{"a b c", "a b c", ""},
		{"a b c", "a x b c", "added /1/created_by"},
		{"a b c", "a c", "deleted /1/created_by"},
		{"a b c", "a x c", "changed /1/created_by"},
		{"a b c d", "x b y z d", "changed /0/created_by, changed /2/created_by, added /3/created_by"},
		{"a b", "b a", "deleted /0/created_by, added /1/created_by"},
		{"a@1 b@1", "x@2 a@2 b@1", "added /0/created, added /0/created_by, changed /1/created"},
		{"", "a", "added /0/created_by"},
		{"a", "", "deleted /0/created_by"},
		{"a a a", "a a", "deleted /2/created_by"},
	} {
		list, err := DiffDocuments(history(tt.a), history(tt.b), false)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range list {
			if f.Old != "" && f.New != "" {
				got = append(got, f.Change+" "+f.Field)
			}
		}
		if got := strings.Join(got, ", "); got != tt.want {
			t.Errorf("%q to %q\n got %s\nwant %s", tt.a, tt.b, got, tt.want)
		}
	}
	// Too many to be aligned are compared one by one.
	long := func(first string) (steps []any) {
		for i := range 3000 {
			steps = append(steps, map[string]any{"created_by": first + strconv.Itoa(i)})
		}
		return steps
	}
	if got := len(alignSteps(long("a"), long("b"))); got != 3000 {
		t.Errorf("%d pairs of 3000 steps", got)
	}
}
