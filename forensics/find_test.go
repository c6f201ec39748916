// SPDX-License-Identifier: Apache-2.0

package forensics

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func TestParseSize(t *testing.T) {
	for _, tt := range []struct {
		text string
		has  []int64
		not  []int64
	}{
		{"0", []int64{0}, []int64{1}},
		{"100", []int64{100}, []int64{99, 101}},
		{"+100c", []int64{101, 1 << 60}, []int64{100}},
		{"-4k", []int64{0, 4095}, []int64{4096}},
		{"+1M", []int64{1<<20 + 1}, []int64{1 << 20}},
		{"2G", []int64{2 << 30}, []int64{2<<30 - 1}},
	} {
		r, err := ParseSize(tt.text)
		if err != nil {
			t.Fatalf("%q: %v", tt.text, err)
		}
		for _, n := range tt.has {
			if !r.has(n) {
				t.Errorf("%s does not have %d", tt.text, n)
			}
		}
		for _, n := range tt.not {
			if r.has(n) {
				t.Errorf("%s has %d", tt.text, n)
			}
		}
	}
	for _, bad := range []string{"", "+", "-0", "+-1", "1T", "k", "9999999999G", "-", "1 k"} {
		if _, err := ParseSize(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestParsePerm(t *testing.T) {
	for _, tt := range []struct {
		text string
		mode uint32
		want bool
	}{
		{"755", 0o755, true}, {"755", 0o4755, false}, {"-4000", 0o4755, true}, {"-6000", 0o4755, false},
		{"/6000", 0o4755, true}, {"/6000", 0o755, false}, {"/0", 0o755, true}, {"-0", 0, true},
		{"setuid", 0o4000, true}, {"setgid", 0o2000, true}, {"sticky", 0o1000, true}, {"world-writable", 0o666, true},
		{"world-writable", 0o664, false},
	} {
		p, err := ParsePerm(tt.text)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.has(0o100000 | tt.mode); got != tt.want {
			t.Errorf("%s of %04o: %v", tt.text, tt.mode, got)
		}
	}
	for _, bad := range []string{"", "-", "/", "8", "77777", "u+s"} {
		if _, err := ParsePerm(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

// TestSums compares with a plain search, where hashes begin alike.
func TestSums(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	random := func() []byte {
		b := make([]byte, sha256.Size)
		for i := range b {
			b[i] = byte(r.IntN(2)) // many begin alike
		}
		return b
	}
	for range 300 {
		var s Sums
		for range r.IntN(8) {
			if err := s.Add(hex.EncodeToString(random()[:minSum+r.IntN(sha256.Size-minSum+1)])); err != nil {
				t.Fatal(err)
			}
		}
		s.Sort()
		for range 50 {
			sum := random()
			want := slices.ContainsFunc(s, func(p []byte) bool { return bytes.HasPrefix(sum, p) })
			if got := s.has(sum); got != want {
				t.Fatalf("%x in %x: %v", sum, s, got)
			}
		}
	}
	var s Sums
	for _, bad := range []string{"", "12", "1234567", "123456789", "xx345678", strings.Repeat("0", 66)} {
		if err := s.Add(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

// TestSearchContent: matches where one piece that is read ends and the next
// begins.
func TestSearchContent(t *testing.T) {
	for _, tt := range []struct {
		name, re string
		text     string
		want     bool
	}{
		{"empty", "^$", "", true},
		{"in a line", "b+", "aaa\nabbba\n", true},
		{"not", "c", "aaa\nabbba\n", false},
		{"whole line", "^abc$", strings.Repeat("x", window-5) + "\nabc\n" + strings.Repeat("y", 100), true},
		{"across the end of a piece", "needle", strings.Repeat("x", window-3) + "needle" + strings.Repeat("y", window), true},
		{"lines over the end of a piece", "^needle$", strings.Repeat("line\n", window/5) + "needle\nmore", true},
		{"a line does not begin where a piece does", "^b", strings.Repeat("a\n", 10) + strings.Repeat("c", window-22) + "\ncb", false},
		{"at the very end", "end$", strings.Repeat("x", 3*window) + "end", true},
	} {
		got, err := pattern(t, tt.re).in(t.Context(), strings.NewReader(tt.text), new(room))
		if err != nil || got != tt.want {
			t.Errorf("%s: %v %v", tt.name, got, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := pattern(t, "x").in(ctx, strings.NewReader("x"), new(room)); err == nil {
		t.Error("a search goes on after its context")
	}
}

func pattern(t testing.TB, text string) *Pattern {
	t.Helper()
	p, err := ParsePattern(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The text that all matches hold is found, and never one that some lack.
func TestPatternLiteral(t *testing.T) {
	for _, tt := range []struct {
		re, text     string
		fold, inLine bool
	}{
		{"^pass.ord", "pass", false, true},
		{"BEGIN .*PRIVATE KEY", "PRIVATE KEY", false, true},
		{"(abc)+d?", "abc", false, true},
		{"(abc){2,}", "abc", false, true},
		{"(abc){0,2}x", "x", false, true},
		{"abc|abd", "ab", false, true}, // factored out by the parser
		{"abc|xyz", "", false, true},
		{"(abc)*", "", false, true},
		{"[0-9]{16}", "", false, true},
		{"(?i)password", "word", true, true}, // s has a third case
		{"(?i)k", "", false, true},
		{"(?i)straße_x", "tra", true, true},
		{"a(?s:.*)bc", "bc", false, false},
		{`a\sbc`, "bc", false, false},
		{"[^x]bcd", "bcd", false, false},
		{"a\nbc", "a\nbc", false, false},
		{`\Aabc`, "abc", false, false},
		{`abc\z`, "abc", false, false},
		{"a\uFFFDb", "", false, true}, // any byte that is not UTF-8
	} {
		p := pattern(t, tt.re)
		if p.need != (literal{tt.text, tt.fold}) || p.inLine != tt.inLine {
			t.Errorf("%q: got %+v %v, want %q %v %v", tt.re, p.need, p.inLine, tt.text, tt.fold, tt.inLine)
		}
	}
}

// FuzzPattern: a search by a literal finds what the expression alone does.
func FuzzPattern(f *testing.F) {
	f.Add("^pass.ord", "x\npassword\ny")
	f.Add("(?i)pass", "x\nPAſſ\npaSS")
	f.Add("a(?s:.*)b", "a\n\nb")
	f.Add("x$", "ax\nxb\nx")
	f.Add(`\bfoo\b`, "a foo\nfoobar")
	f.Add("[^b]a", "\na")
	f.Add("a\uFFFD", "a\xff")
	f.Add("(ab|ac)d{2}", "abd\nacdd")
	f.Fuzz(func(t *testing.T, re, text string) {
		p, err := ParsePattern(re)
		if err != nil {
			return
		}
		if got, want := p.match([]byte(text), new(room)), p.re.MatchString(text); got != want {
			t.Errorf("%q in %q: %v, want %v (by %+v)", re, text, got, want, p.need)
		}
	})
}

// TestHostileStacks: what is odd is found, told and written, and never fails.
func TestHostileStacks(t *testing.T) {
	for _, layers := range []string{
		"a->b b->a a/x | a/ a/b", "d/a | d | d/b | .wh.d", "a | h=>a | .wh.a | i=>h", ".wh..wh..opq a | .wh..wh.aufs a/.wh.x",
		"n%0a%1b[2Jx=1 %ff%fe=2 | .wh.n%0a%1b[2Jx", "real/x link->real | link/y | link/.wh.y",
		"x/y/z=1 | x/.wh.y x/y/ x/y/w=2 | x->..", "dev%0,0 p| | .wh.dev",
	} {
		s := layersOf(t, tarsOf(t, layers)...)
		if err := Lint(t.Context(), s, LintOptions{}, func(*Finding) error { return nil }); err != nil {
			t.Errorf("lint %s: %v", layers, err)
		}
		n := 0
		if err := s.Find(t.Context(), new(Match), FindOptions{Deleted: true}, func(*Record) error { n++; return nil }); err != nil || n == 0 {
			t.Errorf("find %s: %d %v", layers, n, err)
		}
		var out bytes.Buffer
		err := s.Timeline(t.Context(), TimelineOptions{Chrono: true}, func(m *Moment) error {
			if err := WriteBodyfile(&out, m); err != nil {
				return err
			}
			return WriteMtree(&out, m)
		})
		if err != nil {
			t.Errorf("timeline %s: %v", layers, err)
		}
		for line := range strings.Lines(out.String()) {
			if strings.ContainsAny(strings.TrimSuffix(line, "\n"), "\n\r\x1b") {
				t.Errorf("%s: line %q", layers, line)
			}
			if !strings.HasPrefix(line, "0|") && !strings.HasPrefix(line, ".") && !strings.HasPrefix(line, "# .") {
				t.Errorf("%s: a name broke the line %q", layers, line)
			}
		}
	}
}

// TestFindOpenLinks: a hard link to a file of a lower layer is that file.
func TestFindOpenLinks(t *testing.T) {
	s := layersOf(t, tarsOf(t, "a:4755=text | b=>a .wh.a | c=>b")...)
	var got []string
	err := s.Find(t.Context(), &Match{Types: "f", Perm: Perm{0o4000, '-'}}, FindOptions{}, func(r *Record) error {
		got = append(got, fmt.Sprintf("%s %d %s %d", r.Path, r.Layer, r.Mode, r.Size))
		return nil
	})
	if want := []string{"/b 0 4755 4", "/c 0 4755 4"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q %v, want %q", got, err, want)
	}
}

// TestLostLinks: a hard link into a lower layer that was taken away is the file
// that it led to then, whatever became of that.
func TestLostLinks(t *testing.T) {
	tars := tarsOf(t, "a:0600=text | b=>a .wh.a | a:0644=other c=>b | .wh.b .wh.c")
	s := layersOf(t, tars...)
	for i, b := range tars {
		s.Layers[i].content = bytes.NewReader(b)
	}
	var got []string
	err := s.Deleted(t.Context(), DeletedOptions{}, func(d *DeletedFile) error {
		text, err := io.ReadAll(io.NewSectionReader(d.Content, 0, d.Size))
		got = append(got, fmt.Sprintf("%s %d %s %s %v %q", d.Path, d.Layer, d.Type, d.Mode, d.Linked, text))
		return err
	})
	want := []string{`/a 0 file 0600 false "text"`, `/b 1 hardlink 0600 false "text"`, `/c 2 hardlink 0600 false "text"`}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("deleted: %v\n got %q\nwant %q", err, got, want)
	}
	rec, content, err := s.OpenVersion(t.Context(), "/c", "2")
	if err != nil || content == nil || rec.Size != 4 {
		t.Errorf("version: %+v %v %v", rec, content, err)
	}
	got = nil
	m := &Match{Content: pattern(t, "^text$"), Types: "f"}
	err = s.Find(t.Context(), m, FindOptions{Deleted: true}, func(r *Record) error {
		got = append(got, fmt.Sprintf("%s %d %s", r.Path, r.Layer, r.State))
		return nil
	})
	if want := []string{"/a 0 shadowed", "/b 1 deleted", "/c 2 deleted"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("find: %v\n got %q\nwant %q", err, got, want)
	}
	// A layer without those below it has only the link.
	s.Layers = s.Layers[1:2]
	if rec, content, err := s.OpenVersion(t.Context(), "/b", "1"); err != nil || content != nil || rec.Target != "/a" || rec.Mode != "0000" {
		t.Errorf("alone: %+v %v %v", rec, content, err)
	}
}

// TestOwnerOfPart: names of users are those of the image, also where a part of
// it is looked at.
func TestOwnerOfPart(t *testing.T) {
	tars := tarsOf(t, "etc/ etc/passwd->real etc/real=root:x:0:0::%0ajohn:x:7:8::%0a etc/group->/d d/ d/f@7:8=x loop->loop")
	s := layersOf(t, tars...)
	s.Layers[0].content = bytes.NewReader(tars[0])
	part, err := s.Part(t.Context(), "/d")
	if err != nil {
		t.Fatal(err)
	}
	if id, err := part.OwnerID(t.Context(), "etc/passwd", "john"); err != nil || id != 7 {
		t.Errorf("john is %d, %v", id, err)
	}
	if _, err := part.OwnerID(t.Context(), "etc/passwd", "paul"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("paul: %v", err)
	}
	for _, file := range []string{"etc/group", "loop", "none"} {
		if id, err := part.OwnerID(t.Context(), file, "john"); err == nil {
			t.Errorf("%s: john is %d", file, id)
		}
	}
}

func FuzzCapabilities(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Add([]byte{1, 0, 0, 3})
	f.Fuzz(func(t *testing.T, v []byte) {
		if c, ok := ParseCapabilities(v); ok && c.String() == "" {
			t.Error("capabilities without a word")
		}
	})
}

func FuzzMatchWords(f *testing.F) {
	f.Add("+1M")
	f.Add("-4000")
	f.Add("X2,V1")
	f.Fuzz(func(t *testing.T, s string) {
		if r, err := ParseSize(s); err == nil && r.Hi != 0 && r.Hi <= r.Lo {
			t.Errorf("size %q: %+v", s, r)
		}
		if p, err := ParsePerm(s); err == nil && p.bits > 0o7777 {
			t.Errorf("perm %q: %+v", s, p)
		}
		ParseFailOn(s)
		var sums Sums
		sums.Add(s)
	})
}
