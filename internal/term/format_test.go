// SPDX-License-Identifier: Apache-2.0

package term

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

type row struct{ Name, Note string }

func TestRows(t *testing.T) {
	head := row{"NAME", "NOTE"}
	rows := []row{{"alpine", "small"}, {"a\tb\x1b[31m", "x\ny"}}
	for _, tt := range []struct {
		name, format string
		escape       bool
		want         string
	}{
		{"a table escapes cells", "", false, "NAME           NOTE\nalpine         small\na\\tb\\x1b[31m   x\\ny\n"},
		{"table is the default one", "table", false, "NAME           NOTE\nalpine         small\na\\tb\\x1b[31m   x\\ny\n"},
		{"table with a template", `table {{.Note}}\t{{upper .Name}}`, false, "NOTE      NAME\nsmall     ALPINE\nx\\ny      A\\TB\\X1B[31M\n"},
		{"a template on a pipe is raw", "{{.Note}}", false, "small\nx\ny\n"},
		{"a template on a terminal is not", "{{.Note}}", true, "small\nx\\ny\n"},
		{"json is an object a line", "json", true, `{"Name":"alpine","Note":"small"}` + "\n" + `{"Name":"a\tb\u001b[31m","Note":"x\ny"}` + "\n"},
		{"json function", `{{json .Name}}`, false, "\"alpine\"\n\"a\\tb\\u001b[31m\"\n"},
		{"json function spares the header", `table {{json .Note}}`, false, "NOTE\n\"small\"\n\"x\\\\ny\"\n"},
		{"functions", `{{truncate .Name 2}}{{pad .Note 1 2}}|{{join (split .Name "p") "-"}}`, true, "al small  |al-ine\na\\ x\\ny  |a\\tb\\x1b[31m\n"},
	} {
		var b bytes.Buffer
		if err := Rows(&b, tt.format, "{{.Name}}\t{{.Note}}", tt.escape, head, rows); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if b.String() != tt.want {
			t.Errorf("%s: %q\n got %q\nwant %q", tt.name, tt.format, b.String(), tt.want)
		}
	}
	for _, format := range []string{"{{", "{{.Nope}}", "{{nope .Name}}", "table {{.Nope}}"} {
		if err := Rows(&bytes.Buffer{}, format, "", false, head, rows); !errors.Is(err, ErrTemplate) {
			t.Errorf("%q: got %v, want ErrTemplate", format, err)
		}
	}
}

func TestJSON(t *testing.T) {
	in := "a\x1b\u009b\u202e\U000e0041é<b>\x7f"
	var b bytes.Buffer
	if err := JSON(&b, in, ""); err != nil {
		t.Fatal(err)
	}
	if want := `"a\u001b\u009b\u202e\udb40\udc41é<b>\u007f"` + "\n"; b.String() != want {
		t.Errorf("got %s want %s", b.String(), want)
	}
	var back string
	if err := json.Unmarshal(b.Bytes(), &back); err != nil || back != in {
		t.Errorf("reads back as %q, %v", back, err)
	}
	if got := Base64("a\xff"); got != "Yf8=" {
		t.Errorf("Base64 %q", got)
	}
	if got := Base64("é"); got != "" {
		t.Errorf("Base64 of UTF-8 %q", got)
	}
}

func TestUnits(t *testing.T) {
	now := time.Date(2024, 5, 1, 0, 0, 0, 0, time.UTC)
	for _, tt := range []struct{ got, want string }{
		{Size(7377000), "7.38MB"},
		{speed(7377000, time.Second/2), " 14.8MB/s"},
		{speed(1000, time.Second), " 1kB/s"},
		{speed(1<<40, 1), ""},
		{Size(0), "0B"},
		{Age(now, now.Add(-15*24*time.Hour)), "2 weeks ago"},
		{Age(now, time.Time{}), "N/A"},
		{ShortID("sha256:0123456789abcdef"), "0123456789ab"},
		{ShortID("abc"), "abc"},
		{Ellipsis("héllo", 4), "hél…"},
		{Ellipsis("héllo", 5), "héllo"},
	} {
		if tt.got != tt.want {
			t.Errorf("got %q want %q", tt.got, tt.want)
		}
	}
}

func TestBars(t *testing.T) {
	if NewBars(t.Context(), &bytes.Buffer{}) != nil {
		t.Error("bars on what is no terminal")
	}
	var none *Bars
	none.Wait()
	var out bytes.Buffer
	b := newBars(t.Context(), &out)
	w := b.Start("layer \x1b[31m", 100)
	w.Write(make([]byte, 60))
	u := b.Start("archive", 0)
	u.Write(make([]byte, 5))
	u.Close()
	w.Close()
	w.Close()
	b.Wait()
	if !strings.Contains(out.String(), `layer \x1b[31m`) {
		t.Errorf("drew %q", out.String())
	}
}
