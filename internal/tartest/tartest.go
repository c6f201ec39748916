// SPDX-License-Identifier: Apache-2.0

// Package tartest makes small tars from text that a reader can see. It is for
// tests only.
package tartest

import (
	"archive/tar"
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Tar makes an uncompressed tar. Entries are separated by blanks:
//
//	name/        directory          name/:0700   with a mode
//	name         empty file         name=text    with content
//	name:4755=x  with a mode        name@7:8=x   with an owner (uid:gid)
//	name->to     symlink            name=>to     hard link
//	name|        FIFO               name%1,3     char device
//
// "%20" in a name is a blank, "%0a" a newline and so on; "%%" a per cent sign.
// Modes default to 0755 and 0644, the time to 1.000000002 seconds.
func Tar(t testing.TB, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, s := range strings.Fields(text) {
		h, body := Header(t, s)
		if err := w.WriteHeader(h); err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		if _, err := w.Write([]byte(body)); err != nil {
			t.Fatalf("%q: %v", s, err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Header makes one entry.
func Header(t testing.TB, s string) (*tar.Header, string) {
	t.Helper()
	h := &tar.Header{Typeflag: tar.TypeReg, Mode: 0o644, ModTime: time.Unix(1, 2), Format: tar.FormatPAX}
	body := ""
	set := func(sep string, f func(string)) bool {
		name, rest, ok := strings.Cut(s, sep)
		if ok {
			s = name
			f(rest)
		}
		return ok
	}
	switch {
	case set("->", func(to string) { h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, unescape(t, to), 0o777 }):
	case set("=>", func(to string) { h.Typeflag, h.Linkname = tar.TypeLink, unescape(t, to) }):
	case set("=", func(text string) { body = unescape(t, text) }):
	}
	set("@", func(o string) {
		if _, err := fmt.Sscanf(o, "%d:%d", &h.Uid, &h.Gid); err != nil {
			t.Fatalf("%q: %v", o, err)
		}
	})
	mode := ""
	set(":", func(m string) { mode = m })
	switch {
	case strings.HasSuffix(s, "|"):
		s, h.Typeflag = strings.TrimSuffix(s, "|"), tar.TypeFifo
	case strings.Contains(s, "%") && strings.Contains(s, ","):
		set("%", func(d string) {
			h.Typeflag = tar.TypeChar
			if _, err := fmt.Sscanf(d, "%d,%d", &h.Devmajor, &h.Devminor); err != nil {
				t.Fatalf("%q: %v", d, err)
			}
		})
	case strings.HasSuffix(s, "/") && h.Typeflag == tar.TypeReg && body == "":
		h.Typeflag, h.Mode = tar.TypeDir, 0o755
	}
	if mode != "" {
		m, err := strconv.ParseInt(mode, 8, 64)
		if err != nil {
			t.Fatal(err)
		}
		h.Mode = m
	}
	h.Name, h.Size = unescape(t, s), int64(len(body))
	return h, body
}

func unescape(t testing.TB, s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b.WriteByte(s[i])
			continue
		}
		if i+1 < len(s) && s[i+1] == '%' {
			b.WriteByte('%')
			i++
			continue
		}
		if i+2 >= len(s) {
			t.Fatalf("%q: bad escape", s)
		}
		c, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
		if err != nil {
			t.Fatal(err)
		}
		b.WriteByte(byte(c))
		i += 2
	}
	return b.String()
}
