// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/imgfs/imgfs/index"
)

func names(list []Dirent) string {
	var s []string
	for _, e := range list {
		s = append(s, e.Name)
	}
	return strings.Join(s, " ")
}

// must runs commands that must not fail.
func (m *mounted) must(format string, args ...any) {
	m.tb.Helper()
	for _, op := range strings.Split(fmt.Sprintf(format, args...), ";") {
		if got := m.do(op); got != "" {
			m.tb.Fatalf("%s: %s", op, got)
		}
	}
}

func (m *mounted) node(p string) Node {
	m.tb.Helper()
	n, err := m.walk(p)
	if err != nil {
		m.tb.Fatalf("%s: %v", p, err)
	}
	return n
}

func (m *mounted) attr(p string) Attr {
	m.tb.Helper()
	var a Attr
	if err := m.Attr(m.node(p), &a); err != nil {
		m.tb.Fatalf("%s: %v", p, err)
	}
	return a
}

// fold has what is in memory written to the checkpoint.
func (m *mounted) fold() {
	m.tb.Helper()
	s, err := m.Snapshot()
	if err != nil {
		m.tb.Skipf("no folds yet: %v", err)
	}
	if err := s.Close(); err != nil {
		m.tb.Fatal(err)
	}
}

func TestListing(t *testing.T) {
	t.Run("the tree's names keep their places", func(t *testing.T) {
		m := over(t, "d/ d/a d/b d/c d/e x")
		m.must("rm d/b;touch n;rename n d/b;rm d/c;mkdir d/c;rm d/a")
		if got := names(m.list(m.node("d"), 2)); got != "b c e" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("cookies are those of the read-only mount", func(t *testing.T) {
		m := over(t, "d/ d/a d/b")
		for k, e := range m.list(m.node("d"), 1) {
			if e.Cookie>>18 != uint64(k+1) {
				t.Errorf("%s: cookie %#x", e.Name, e.Cookie)
			}
			if index.PackCookie(index.UnpackCookie(e.Cookie)) != e.Cookie {
				t.Errorf("%s: cookie %#x is not packed", e.Name, e.Cookie)
			}
		}
	})
	t.Run("a directory that is removed has no names", func(t *testing.T) {
		m := over(t, "d/ d/a")
		n := m.node("d")
		m.must("rm d/a;rmdir d")
		if got := m.list(n, 3); len(got) != 0 {
			t.Errorf("got %v", got)
		}
	})
	t.Run("what is no directory is not opened", func(t *testing.T) {
		m := over(t, "f")
		if _, err := m.OpenDir(m.node("f")); fmt.Sprint(err) != "not a directory" {
			t.Error(err)
		}
	})
}

// many makes a directory d with names of the tree and of the upper.
func many(tb testing.TB, tree, added int) *mounted {
	tb.Helper()
	var layer strings.Builder
	layer.WriteString("d/ ")
	for k := range tree {
		fmt.Fprintf(&layer, "d/t%d ", k)
	}
	m := over(tb, layer.String())
	d := m.node("d")
	for k := range added {
		var a Attr
		if err := m.Create(testCaller, d, fmt.Sprintf("n%d", k), Creation{Mode: index.ModeRegular}, &a); err != nil {
			tb.Fatal(err)
		}
	}
	return m
}

// Whoever removes what he lists ends with an empty directory, whatever he
// reads at a time, with all names in memory, all in the checkpoint, or both.
func TestRemoveWhileListing(t *testing.T) {
	for _, size := range []int{1, 7, 64, 1000} {
		for _, fold := range []string{"none", "all", "half", "between"} {
			t.Run(fmt.Sprintf("buffer=%d/folded=%s", size, fold), func(t *testing.T) {
				tree, added := 300, 300
				if size == 1000 {
					tree, added = 2*maxOverrides, 2*batchSize
				}
				m := many(t, tree, added)
				n := m.node("d")
				if fold == "all" || fold == "half" {
					m.fold()
				}
				if fold == "half" {
					for k := range 300 {
						m.must("touch d/h%d", k)
					}
				}
				d, err := m.OpenDir(n)
				if err != nil {
					t.Fatal(err)
				}
				removed := 0
				for cookie, batch := uint64(0), []string{""}; len(batch) > 0; {
					batch = batch[:0]
					err := d.Read(cookie, true, func(e *Dirent, a *Attr) bool {
						if len(batch) == size {
							return false
						}
						batch, cookie = append(batch, strings.Clone(e.Name)), e.Cookie
						return true
					})
					if err != nil {
						t.Fatal(err)
					}
					for _, name := range batch {
						m.must("rm d/%s", name)
						removed++
					}
					if fold == "between" && removed%(size/2+1) == 0 {
						m.fold()
					}
				}
				if got := m.list(n, 5); len(got) != 0 {
					t.Errorf("%d names are left", len(got))
				}
				m.must("rmdir d")
			})
		}
	}
}

// Names that stay are met just once, whatever comes and goes beside them.
func TestListWhileChanging(t *testing.T) {
	for _, fold := range []bool{false, true} {
		t.Run(fmt.Sprintf("fold=%v", fold), func(t *testing.T) {
			m := many(t, 100, 200)
			d, err := m.OpenDir(m.node("d"))
			if err != nil {
				t.Fatal(err)
			}
			met := map[string]int{}
			for cookie, n, round := uint64(0), 1, 0; n > 0; round++ {
				n = 0
				err := d.Read(cookie, false, func(e *Dirent, _ *Attr) bool {
					if n == 10 {
						return false
					}
					n++
					met[strings.Clone(e.Name)]++
					cookie = e.Cookie
					return true
				})
				if err != nil {
					t.Fatal(err)
				}
				m.must("touch d/x%d;touch d/y%d;rm d/y%d", round, round, round)
				if round > 0 {
					m.must("rename d/x%d d/z%d", round-1, round)
				}
				if fold && round%5 == 0 {
					m.fold()
				}
			}
			for k := range 200 {
				if got := met[fmt.Sprintf("n%d", k)]; got != 1 {
					t.Errorf("n%d was met %d times", k, got)
				}
			}
			for k := range 100 {
				if got := met[fmt.Sprintf("t%d", k)]; got != 1 {
					t.Errorf("t%d was met %d times", k, got)
				}
			}
		})
	}
}

// A cookie means the same to another reader, after a fold and after a remount.
func TestSeekDir(t *testing.T) {
	m := many(t, 50, 100)
	list := m.list(m.node("d"), 9)
	if len(list) != 150 {
		t.Fatalf("%d names", len(list))
	}
	from := func(cookie uint64) string {
		d, err := m.OpenDir(m.node("d"))
		if err != nil {
			t.Fatal(err)
		}
		var rest []Dirent
		if err := d.Read(cookie, false, func(e *Dirent, _ *Attr) bool {
			c := *e
			c.Name = strings.Clone(e.Name)
			rest = append(rest, c)
			return true
		}); err != nil {
			t.Fatal(err)
		}
		return names(rest)
	}
	check := func(when string) {
		for k := range list {
			if got, want := from(list[k].Cookie), names(list[k+1:]); got != want {
				t.Fatalf("%s, behind %s:\n got %q\nwant %q", when, list[k].Name, got, want)
			}
		}
	}
	check("at once")
	m.remount()
	check("after a remount")
	m.fold()
	check("after a fold")
}

// One reader that goes back meets the names again.
func TestRewindDir(t *testing.T) {
	m := many(t, 5, 200)
	d, err := m.OpenDir(m.node("d"))
	if err != nil {
		t.Fatal(err)
	}
	read := func(cookie uint64, n int) (list []Dirent) {
		if err := d.Read(cookie, false, func(e *Dirent, _ *Attr) bool {
			if len(list) == n {
				return false
			}
			c := *e
			c.Name = strings.Clone(e.Name)
			list = append(list, c)
			return true
		}); err != nil {
			t.Fatal(err)
		}
		return list
	}
	all := read(0, 1000)
	if got := read(all[150].Cookie, 3); names(got) != names(all[151:154]) {
		t.Errorf("forwards: %q, want %q", names(got), names(all[151:154]))
	}
	if got := read(all[70].Cookie, 3); names(got) != names(all[71:74]) {
		t.Errorf("backwards: %q, want %q", names(got), names(all[71:74]))
	}
	m.must("touch d/new")
	if got := read(0, 1000); len(got) != 206 || !slices.ContainsFunc(got, func(e Dirent) bool { return e.Name == "new" }) {
		t.Errorf("from the start: %d names", len(got))
	}
}

func TestHotPathsDoNotAllocate(t *testing.T) {
	m := over(t, "d/ d/f x")
	d := m.node("d")
	f := m.node("d/f")
	m.must("touch y;chmod x 600")
	x, y := m.node("x"), m.node("y")
	dir, err := m.OpenDir(d)
	if err != nil {
		t.Fatal(err)
	}
	var a Attr
	for name, call := range map[string]func(){
		"lookup of a name of the tree":        func() { m.Lookup(d, "f", &a) },
		"lookup of nothing":                   func() { m.Lookup(d, "g", &a) },
		"lookup in a directory that changed":  func() { m.Lookup(RootNode, "d", &a) },
		"lookup of a new name":                func() { m.Lookup(RootNode, "y", &a) },
		"attributes of a node of the tree":    func() { m.Attr(f, &a) },
		"attributes that changed":             func() { m.Attr(x, &a) },
		"attributes of a new file":            func() { m.Attr(y, &a) },
		"an xattr that is not there":          func() { m.Xattr(f, "user.a") },
		"a listing of a directory as it was":  func() { dir.Read(0, true, func(e *Dirent, a *Attr) bool { return true }) },
		"forgetting what still has its names": func() { m.Forget(f) },
	} {
		if got := testing.AllocsPerRun(100, call); got != 0 {
			t.Errorf("%s: %v allocations", name, got)
		}
	}
}

func BenchmarkLookup(b *testing.B) {
	m := many(b, 20_000, 20_000)
	d := m.node("d")
	for _, name := range []string{"t15000", "n15000", "none"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var a Attr
			for b.Loop() {
				if _, err := m.Lookup(d, name, &a); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkListing(b *testing.B) {
	for _, bb := range []struct {
		name        string
		tree, added int
		folded      bool
	}{
		{"tree=20k", 20_000, 0, false},
		{"tree=20k/added=1", 20_000, 1, false},
		{"tree=20k/added=1/folded", 20_000, 1, true},
		{"added=20k", 0, 20_000, false},
		{"added=20k/folded", 0, 20_000, true},
		{"tree=20k/added=20k", 20_000, 20_000, false},
	} {
		m := many(b, bb.tree, bb.added)
		d := m.node("d")
		if bb.folded {
			m.fold()
		}
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				dir, err := m.OpenDir(d)
				if err != nil {
					b.Fatal(err)
				}
				if err := dir.Read(0, true, func(*Dirent, *Attr) bool { n++; return true }); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/entry")
		})
	}
}

func BenchmarkCreateUnlink(b *testing.B) {
	m := over(b, "d/")
	d := m.node("d")
	b.ReportAllocs()
	for b.Loop() {
		var a Attr
		if err := m.Create(testCaller, d, "f", Creation{Mode: index.ModeRegular}, &a); err != nil {
			b.Fatal(err)
		}
		if err := m.Unlink(d, "f"); err != nil {
			b.Fatal(err)
		}
		m.Forget(a.Node)
	}
}
