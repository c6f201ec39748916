// SPDX-License-Identifier: Apache-2.0

package layerstore

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/tartest"
	"github.com/imgfs/imgfs/layerstore/seek"
)

func TestRootCause(t *testing.T) {
	first, second := errors.New("first"), errors.New("second")
	echo := errors.Join(errFanStopped)
	tests := []struct {
		rule string
		errs []error
		want error
	}{
		{"none", []error{nil, nil}, nil},
		{"the first", []error{nil, first, second}, first},
		{"not an echo", []error{errFanStopped, nil, echo, first}, first},
		{"an echo alone", []error{nil, echo}, echo},
	}
	for _, tt := range tests {
		if got := rootCause(tt.errs...); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.rule, got, tt.want)
		}
	}
}

// A disk that is full during a pass is all that the error tells.
func TestPassOnFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("no tmpfs:", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	s, err := Open(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Create(); err != nil {
		t.Fatal(err)
	}
	raw := tartest.Tar(t, "big="+strings.Repeat("x", 4<<20))
	g := testStage(t, s)
	_, _, err = g.AddLayer(context.Background(), Layer{}, strings.NewReader(string(raw)), index.Limits{})
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("got %v, want ENOSPC", err)
	}
	if line := err.Error(); strings.Contains(line, "\n") || strings.Contains(line, errFanStopped.Error()) {
		t.Errorf("got %q, want one cause", line)
	}
}

// A file that lies where a sidecar would is read only if the seek index says
// so.
func TestSidecarByIndex(t *testing.T) {
	s := testStore(t)
	raw := tartest.Tar(t, "a=text")
	g := testStage(t, s)
	l, sidecar, err := g.AddLayer(context.Background(), Layer{}, strings.NewReader(string(raw)), index.Limits{})
	if err != nil || sidecar {
		t.Fatal(sidecar, err)
	}
	if err := publish(g, "x", l); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.sidecarPath(l.Digest), []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := s.OpenContent(context.Background(), l, seek.NewCache(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got := make([]byte, len(raw))
	if _, err := c.ReadAt(got, 0); err != nil && err != io.EOF || string(got) != string(raw) {
		t.Errorf("read beside a stray sidecar: %v", err)
	}
}

// A blob that goes while a stage relies on it is ErrVanished, which is not
// that something a user named was not found.
func TestVanished(t *testing.T) {
	s := testStore(t)
	raw := tartest.Tar(t, "a=text")
	l, err := addLayer(t, s, "x", raw)
	if err != nil {
		t.Fatal(err)
	}
	g := testStage(t, s)
	if _, _, err := g.AddLayer(context.Background(), l, bytes.NewReader(raw), index.Limits{}); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(s.blobPath(l.Digest)); err != nil {
		t.Fatal(err)
	}
	if err := publish(g, "y", l); !errors.Is(err, ErrVanished) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want ErrVanished and no fs.ErrNotExist", err)
	}
}
