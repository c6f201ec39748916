// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
)

func TestMemfs(t *testing.T) {
	if f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); err != nil {
		t.Skip("needs /dev/fuse:", err)
	} else {
		f.Close()
	}
	from, dir := t.TempDir(), t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(from, "image"), 0o700),
		os.WriteFile(filepath.Join(from, "image/file"), []byte("four"), 0o600)); err != nil {
		t.Fatal(err)
	}
	m := newMemfs()
	if err := errors.Join(m.fill(root, from), m.fill(root, from)); err != nil {
		t.Fatal(err)
	}
	server, err := fuse.NewServer(m, dir, options(false))
	if err != nil {
		t.Skip("cannot mount:", err)
	}
	go server.Serve()
	t.Cleanup(func() {
		if err := server.Unmount(); err != nil {
			t.Error(err)
		}
	})
	if err := server.WaitMount(); err != nil {
		t.Fatal(err)
	}

	info, err := os.Stat(filepath.Join(dir, "image/file"))
	if err != nil || info.Size() != 4 || info.Mode() != 0o600 {
		t.Errorf("a file of the image: %v, %v", info, err)
	}
	const files = 2000 // more than one answer of READDIRPLUS
	sub := filepath.Join(dir, "new")
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range files {
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprint(i)), []byte("content"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(sub, filepath.Join(dir, "image/moved")); err != nil {
		t.Fatal(err)
	}
	list, err := os.ReadDir(filepath.Join(dir, "image/moved"))
	if err != nil || len(list) != files {
		t.Errorf("listed %d, %v, want %d", len(list), err, files)
	}
	if err := os.RemoveAll(filepath.Join(dir, "image")); err != nil {
		t.Error(err)
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 0 {
		t.Errorf("the root still has %v, %v", list, err)
	}
}
