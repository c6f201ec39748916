// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/imgfs/imgfs/unionfs"
)

// hugeTree has "huge", a file of 2^63-1 bytes: ten, and a hole of exabytes.
func hugeTree(t *testing.T) *unionfs.FS {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	const size = math.MaxInt64
	pax := ""
	for _, r := range []string{"GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=huge", fmt.Sprint("GNU.sparse.realsize=", int64(size))} {
		n := len(r) + 4
		pax += fmt.Sprintf("%02d %s\n", n, r)
	}
	body := make([]byte, 512)
	copy(body, "1\n0\n10\n")
	body = append(body, "0123456789"...)
	put := func(h *tar.Header, body []byte) {
		h.Size = int64(len(body))
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(body); err != nil {
			t.Fatal(err)
		}
	}
	put(&tar.Header{Typeflag: tar.TypeReg, Name: "EXTENDED", Mode: 0o600, Format: tar.FormatUSTAR}, []byte(pax))
	put(&tar.Header{Typeflag: tar.TypeReg, Name: "x", Mode: 0o600, Format: tar.FormatUSTAR}, body)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	raw := b.Bytes()
	raw[156] = 'x' // the first is what the second's header lacks
	sum := 0
	copy(raw[148:156], "        ")
	for _, c := range raw[:512] {
		sum += int(c)
	}
	copy(raw[148:], fmt.Sprintf("%06o\x00 ", sum))
	return treeOf(t, raw)
}

// A file of an image may be nothing but a hole of exabytes. Nothing that is
// done to it goes through it block by block.
func TestHugeHole(t *testing.T) {
	m := overFS(t, hugeTree(t))
	n := m.node("huge")
	if a := m.attr("huge"); a.Size != math.MaxInt64 {
		t.Fatalf("size %d", a.Size)
	}
	f, err := m.Open(n, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		do   func() error
	}{
		{"write", func() error { _, err := f.WriteAt([]byte("x"), 1<<30); return err }},
		{"write far", func() error { _, err := f.WriteAt([]byte("x"), 1<<43); return err }},
		{"write too far", func() error { _, err := f.WriteAt([]byte("x"), 1<<62); return err }},
		{"data", func() error { _, err := f.SeekData(4096, true); return err }},
		{"data far", func() error { _, err := f.SeekData(1<<43+4096, true); return err }},
		{"hole", func() error { _, err := f.SeekData(0, false); return err }},
		{"hole far", func() error { _, err := f.SeekData(1<<43+8192, false); return err }},
		{"read", func() error { _, err := f.ReadAt(make([]byte, 100), 1<<62); return err }},
		{"punch", func() error { return f.Allocate(3, 0, math.MaxInt64) }},
		{"sync", func() error { return f.Sync(false) }},
		{"fold", func() error { m.fold(); return nil }},
		{"link", func() error { m.must("link huge h"); return nil }},
		{"rename", func() error { m.must("rename huge g"); return nil }},
		{"unlink", func() error { m.must("rm h;rm g"); return nil }},
		{"truncate", func() error { var a Attr; return m.SetAttr(testCaller, n, &SetAttr{Valid: SetSize, Size: 5}, &a) }},
		{"close", f.Close},
	} {
		done := make(chan error)
		begun := time.Now()
		go func() { done <- tt.do() }()
		select {
		case <-done:
			if took := time.Since(begun); took > 5*time.Second {
				t.Errorf("%s takes %v", tt.name, took)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s takes for ever", tt.name)
		}
	}
}

// A file that no layer can hold is named before its zeros are written.
func TestHugeFileInNoLayer(t *testing.T) {
	m := over(t, "")
	n := m.writeNew("sparse", "some")
	var a Attr
	if err := m.SetAttr(testCaller, n, &SetAttr{Valid: SetSize, Size: maxLayer + 1}, &a); err != nil {
		t.Skipf("the disk has no such files: %v", err)
	}
	check := func(when string) {
		t.Helper()
		s, err := m.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		var tooLarge *SizeError
		err = s.WriteLayer(t.Context(), &stop{1 << 20}, TarOptions{})
		if !errors.As(err, &tooLarge) || tooLarge.Path != "/sparse" || tooLarge.Size != maxLayer+1 {
			t.Errorf("%s: %v", when, err)
		}
	}
	check("closed")
	f, err := m.Open(n, true)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	check("open")
}
