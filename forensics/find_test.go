// SPDX-License-Identifier: Apache-2.0

package forensics

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"regexp"
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
		{"whole line", "(?m)^abc$", strings.Repeat("x", window-5) + "\nabc\n" + strings.Repeat("y", 100), true},
		{"across the end of a piece", "needle", strings.Repeat("x", window-3) + "needle" + strings.Repeat("y", window), true},
		{"lines over the end of a piece", "(?m)^needle$", strings.Repeat("line\n", window/5) + "needle\nmore", true},
		{"a line does not begin where a piece does", "(?m)^b", strings.Repeat("a\n", 10) + strings.Repeat("c", window-22) + "\ncb", false},
		{"at the very end", "end$", strings.Repeat("x", 3*window) + "end", true},
	} {
		got, err := searchContent(context.Background(), regexp.MustCompile(tt.re), strings.NewReader(tt.text))
		if err != nil || got != tt.want {
			t.Errorf("%s: %v %v", tt.name, got, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := searchContent(ctx, regexp.MustCompile("x"), strings.NewReader("x")); err == nil {
		t.Error("a search goes on after its context")
	}
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
