// SPDX-License-Identifier: Apache-2.0

package imgfs_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/image"
)

// A file of several images says which they are, by the names that a mount
// takes once they are loaded.
func TestSeveralImages(t *testing.T) {
	b := newOCI(t)
	path := b.write(
		named(b.image("linux/amd64", textLayers(t, "plain", "a"), nil), "docker.io/library/alpine:3"),
		named(b.image("linux/amd64", textLayers(t, "plain", "b"), nil), "quay.io/x/y:1"))
	const names = "2 images are in it: alpine:3, quay.io/x/y:1"
	s := openStore(t)
	check := func(what string, err error, loaded bool) {
		t.Helper()
		var several *imgfs.SeveralError
		if !errors.As(err, &several) || several.Loaded != loaded || !errors.Is(err, image.ErrNotFound) {
			t.Fatalf("%s: %v", what, err)
		}
		if !strings.HasSuffix(err.Error(), names) {
			t.Errorf("%s: got %q, want %q", what, err, names)
		}
	}
	_, err := s.OpenImage(t.Context(), path, nil, imgfs.OpenOptions{})
	check("in place", err, false)
	_, err = s.Info(t.Context(), path, imgfs.OpenOptions{})
	check("documents in place", err, false)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, err = s.OpenImage(t.Context(), "-", f, imgfs.OpenOptions{})
	check("standard input", err, true)
	i, err := s.OpenImage(t.Context(), "alpine:3", nil, imgfs.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := i.Close(); err != nil {
		t.Error(err)
	}
}
