// SPDX-License-Identifier: Apache-2.0

package index

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// leaper is a reader that can leap ahead and nothing else, and counts what is
// read from it.
type leaper struct {
	r    *bytes.Reader
	pos  int64
	read int64
}

func (l *leaper) Read(p []byte) (int, error) {
	n, err := l.r.ReadAt(p, l.pos)
	l.pos += int64(n)
	l.read += int64(n)
	if n > 0 {
		err = nil
	}
	return n, err
}

func (l *leaper) Seek(off int64, whence int) (int64, error) {
	if whence != io.SeekCurrent || off < 0 {
		return l.pos, errors.ErrUnsupported
	}
	l.pos += off
	return l.pos, nil
}

// Content is leapt over where the reader can: a scan of an image in place
// reads headers, and a load does not copy what it only hashes.
func TestScanLeaps(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	body := make([]byte, 1<<20)
	for _, name := range []string{"a", "b", "c", "d"} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(body))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l := &leaper{r: bytes.NewReader(b.Bytes())}
	m, err := Scan(l, filepath.Join(t.TempDir(), "t"), Limits{})
	if err != nil || m.Nodes != 5 || m.TarSize != int64(b.Len()) {
		t.Fatalf("%+v, %v", m, err)
	}
	if l.read > 64<<10 {
		t.Errorf("%d of %d bytes were read", l.read, b.Len())
	}
}

// A header may have a megabyte of PAX records; what is kept of it must not
// keep the rest.
func TestScanKeepsNoPAXBlock(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := range 200 {
		h := &tar.Header{Typeflag: tar.TypeSymlink, Name: strings.Repeat("n", i+1), Linkname: strings.Repeat("t", 200), Format: tar.FormatPAX,
			PAXRecords: map[string]string{"X.big": strings.Repeat("x", 900<<10), "SCHILY.xattr.trusted.a": "v"}}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	s := newScanner(bytes.NewReader(b.Bytes()), Limits{})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	if err := s.scan(); err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 20<<20 {
		t.Errorf("%d bytes are kept of 200 entries", grown)
	}
	runtime.KeepAlive(s)
}

// Two thousand entries imply no million directories.
func TestScanImpliedLimit(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := range 1100 {
		name := string([]byte{'a' + byte(i%26), 'a' + byte(i/26%26), 'a' + byte(i/676)}) + strings.Repeat("/d", 1000)
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Format: tar.FormatPAX}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Scan(&b, filepath.Join(t.TempDir(), "t"), Limits{}); !errors.Is(err, ErrLimit) || !strings.Contains(err.Error(), "implied") {
		t.Errorf("got %v", err)
	}
}
