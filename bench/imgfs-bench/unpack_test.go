// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestOverlayShowsTheImage: what imgfs is measured against must be the same
// tree.
func TestOverlayShowsTheImage(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can unpack devices and mount overlayfs")
	}
	archive, err := makeImage(t.Context(), "../../scripts/mkimage", "tiny")
	if err != nil {
		t.Skip(err)
	}
	im := &image{shape: "tiny", archive: archive}
	b := &bench{ctx: t.Context()}
	work := t.TempDir()
	if im.layers, err = b.unpackLayers(im.archive, filepath.Join(work, "layers")); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(work, "mnt")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := b.mountOverlay(dir, im, ""); err != nil {
		if exec.Command("grep", "-qw", "overlay", "/proc/filesystems").Run() != nil {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	defer func() {
		if err := b.umount(dir); err != nil {
			t.Error(err)
		}
	}()
	for _, tt := range []struct{ dir, want string }{
		{"srv/history", "link-now-a-directory merged now-a-directory now-a-file now-setuid opaque " +
			"removed-and-made-again replaced three-names-1 three-names-3 unchanged"},
		{"srv/history/opaque", "new"},
		{"srv/history/merged", "new old"},
		{"srv/history/removed-and-made-again", "new"},
		{"usr/share/tiny", "00 01 02 04 05 06 07 08 09"},
	} {
		entries, err := os.ReadDir(filepath.Join(dir, tt.dir))
		if err != nil {
			t.Error(err)
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		slices.Sort(names)
		if got := strings.Join(names, " "); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.dir, got, tt.want)
		}
	}
}
