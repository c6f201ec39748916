// SPDX-License-Identifier: Apache-2.0

package term

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestEscape(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"plain text stays", `etc/os-release "x" \n`, `etc/os-release "x" \n`},
		{"printable unicode stays", "é 日本 \u00a0", "é 日本 \u00a0"},
		{"a line stays one", "a\nb\tc\rd", `a\nb\tc\rd`},
		{"escape sequences", "\x1b[31mred", `\x1b[31mred`},
		{"DEL and C1", "\x7f\u009b31m", `\x7f\u009b31m`},
		{"bytes that are not UTF-8", "a\xffb\xc3", `a\xffb\xc3`},
		{"the replacement character itself", "\ufffd", "\ufffd"},
		{"text direction", "a\u202etxt.exe", `a\u202etxt.exe`},
		{"invisible, beyond the first plane", "\U000e0041", `\U000e0041`},
		{"line separators", "a\u2028b", `a\u2028b`},
	} {
		if got := Escape(tt.in); got != tt.want {
			t.Errorf("%s: Escape(%q)\n got %q\nwant %q", tt.name, tt.in, got, tt.want)
		}
	}
}

func TestQuote(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", "''"},
		{"plain", "plain"},
		{"a b", "'a b'"},
		{"it's", `"it's"`},
		{"it's $x", `'it'\''s $x'`},
		{"a\nb", `'a'$'\n''b'`},
		{"\nb", `''$'\n''b'`},
		{"\n'b", `''$'\n'\''b'`},
		{"\x1b]0;x\a", `''$'\033'']0;x'$'\a'`},
		{"\xff", `''$'\377'`},
		{"a\u202eb", `'a'$'\342\200\256''b'`},
		{"~", "'~'"},
		{"a~", "a~"},
	} {
		if got := Quote(tt.in); got != tt.want {
			t.Errorf("Quote(%q)\n got %s\nwant %s", tt.in, got, tt.want)
		}
	}
}

// TestQuoteAsLs compares with GNU ls itself, and a shell's reading with the
// name.
func TestQuoteAsLs(t *testing.T) {
	v, err := exec.Command("ls", "--version").Output()
	if err != nil || !strings.Contains(string(v), "coreutils") {
		t.Skip("no GNU ls here")
	}
	const alphabet = "abAZ09 !\"#$%&'()*+,-.:;<=>?@[\\]^_`{|}~\n\t\x1b\x7f\x80\xffé\x01"
	rng := rand.New(rand.NewPCG(1, 2))
	dir := t.TempDir()
	for range 150 {
		b := make([]byte, 1+rng.IntN(6))
		for i := range b {
			b[i] = alphabet[rng.IntN(len(alphabet))]
		}
		name := string(b)
		if name == "." || name == ".." {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("ls", "-1A", "--quoting-style=shell-escape", dir)
		cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		if got := Quote(name) + "\n"; got != string(out) {
			t.Errorf("Quote(%q)\n got %s\nls has %s", name, got, out)
		}
		if bash, err := exec.LookPath("bash"); err == nil {
			echo, err := exec.Command(bash, "-c", "printf %s "+Quote(name)).Output()
			if err != nil || string(echo) != name {
				t.Errorf("bash reads %s as %q, want %q (%v)", Quote(name), echo, name, err)
			}
		}
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}

func FuzzEscape(f *testing.F) {
	f.Add("a\x1b\u009b\xff\u202e")
	f.Fuzz(func(t *testing.T, s string) {
		for _, out := range []string{Escape(s), Quote(s)} {
			if needsEscape(out) {
				t.Errorf("%q leaves %q", s, out)
			}
		}
	})
}
