// SPDX-License-Identifier: Apache-2.0

package layerstore

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/tartest"
)

func openPlace(s *Store, at Range, verify bool) (*Place, error) {
	return s.OpenPlace(context.Background(), Layer{}, at, verify, nil, index.Limits{})
}

// placeFile writes a plain layer tar and returns its path and bytes.
func placeFile(t *testing.T) (path string, raw []byte) {
	t.Helper()
	path, raw = filepath.Join(t.TempDir(), "layer"), tartest.Tar(t, "a=1")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, raw
}

func TestOpenPlaceWantsTheFile(t *testing.T) {
	s := testStore(t)
	path, raw := placeFile(t)
	dir := filepath.Dir(path)
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	p, err := openPlace(s, Range{path, 0, fi.Size(), fi}, false)
	if err != nil {
		t.Fatal(err)
	}
	p.Close()

	other := filepath.Join(dir, "other")
	if err := os.WriteFile(other, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openPlace(s, Range{other, 0, fi.Size(), fi}, false); !errors.Is(err, ErrChanged) {
		t.Errorf("another file: %v", err)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{fifo, dir} {
		if _, err := openPlace(s, Range{path, 0, 1024, nil}, false); err == nil {
			t.Errorf("%s: no error", path)
		}
	}
}

func countFDs(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// A pass made again for a lost table leaves readers and descriptors alone.
func TestPlaceTableLost(t *testing.T) {
	s := testStore(t)
	path, raw := placeFile(t)
	open := func() *Place {
		p, err := openPlace(s, Range{path, 0, int64(len(raw)), nil}, true)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	open().Close() // the runtime opens what it needs
	before := countFDs(t)
	p := open()
	if !p.Verified() || p.Failed() != nil || p.Key() != string(p.Layer().DiffID) {
		t.Errorf("verified %v, %v, key %s", p.Verified(), p.Failed(), p.Key())
	}
	for range 3 {
		if err := os.Remove(p.path("table")); err != nil {
			t.Fatal(err)
		}
		table, err := p.OpenTable(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		table.Close()
	}
	got := make([]byte, len(raw))
	if _, err := p.ReadAt(got, 0); err != nil && err != io.EOF || string(got) != string(raw) {
		t.Errorf("reading: %v", err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if after := countFDs(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

// Only of a verified place is anything given ahead.
func TestPlaceCached(t *testing.T) {
	s := testStore(t)
	path, raw := placeFile(t)
	p, err := openPlace(s, Range{path, 0, int64(len(raw)), nil}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	read := func(want bool) {
		t.Helper()
		if p.Cached(0, 1) {
			t.Error("cached before it was read")
		}
		if _, err := p.ReadAt(make([]byte, 1), 0); err != nil {
			t.Error(err)
		}
		if got := p.Cached(0, 1); got != want {
			t.Errorf("cached: %v, want %v", got, want)
		}
	}
	read(false)
	if err := p.Verify(context.Background()); err != nil {
		t.Fatal(err)
	}
	read(true)
	if p.Cached(int64(len(raw)), 1) {
		t.Error("cached beyond the end")
	}
}
