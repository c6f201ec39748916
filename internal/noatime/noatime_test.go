// SPDX-License-Identifier: Apache-2.0

package noatime_test

import (
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/imgfs/imgfs/internal/noatime"
)

// What is read keeps the time of its last access, though that is before the
// last change: then every mount but one with noatime would set it.
func TestAccessTimeStays(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	long := time.Unix(1000, 0)
	for _, p := range []string{path, dir} {
		if err := os.Chtimes(p, long, time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for name, open := range map[string]func() (*os.File, error){
		"by path":    func() (*os.File, error) { return noatime.Open(path, syscall.O_NOFOLLOW) },
		"below root": func() (*os.File, error) { return noatime.OpenIn(root, "f", 0) },
	} {
		f, err := open()
		if err != nil {
			t.Fatal(name, err)
		}
		if b, err := io.ReadAll(f); err != nil || string(b) != "content" {
			t.Errorf("%s: read %q, %v", name, b, err)
		}
		f.Close()
	}
	d, err := noatime.Open(dir, syscall.O_DIRECTORY)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if names, err := d.Readdirnames(-1); err != nil || len(names) != 1 {
		t.Errorf("names %q, %v", names, err)
	}
	for _, p := range []string{path, dir} {
		fi, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if at := time.Unix(fi.Sys().(*syscall.Stat_t).Atim.Unix()); !at.Equal(long) {
			t.Errorf("%s was accessed at %v", p, at)
		}
	}
	if _, err := noatime.Open(filepath.Join(dir, "none"), 0); !os.IsNotExist(err) {
		t.Errorf("opening nothing: %v", err)
	}
}
