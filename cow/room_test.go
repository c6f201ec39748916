// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// memoryDisk mounts a tmpfs of size bytes.
func memoryDisk(t *testing.T, size int) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root mounts a tmpfs")
	}
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Skipf("tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestNamesOnFullDisk(t *testing.T) {
	for _, size := range []int{8, 18, 24, 33} {
		t.Run(fmt.Sprintf("MiB=%d", size), func(t *testing.T) { namesOnFullDisk(t, size<<20) })
	}
}

func namesOnFullDisk(t *testing.T, size int) {
	disk := memoryDisk(t, size)
	tree := emptyTree(t)
	dir := filepath.Join(disk, "u")
	if err := Create(dir, Base{ChainID: "c"}); err != nil {
		t.Fatal(err)
	}
	u := openUpper(t, dir, tree, Options{foldAt: 1 << 20, foldBy: 4 << 20})
	defer u.Close()
	var a Attr
	made := 0
	var full error
	for full == nil && made < 1_000_000 {
		if full = u.Create(Caller{}, RootNode, fmt.Sprint(made), Creation{Mode: 0o100644}, &a); full == nil {
			made++
		}
	}
	if full != syscall.ENOSPC {
		t.Fatalf("after %d files: %v", made, full)
	}
	t.Logf("%d files", made)
	for k := range made / 2 {
		if err := u.Unlink(RootNode, fmt.Sprint(k)); err != nil {
			out, _ := exec.Command("ls", "-ls", dir).CombinedOutput()
			t.Fatalf("unlink %d of %d on a full disk: %v\n%s", k, made, err, out)
		}
	}
	if err := u.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := u.Close(); err != nil {
		t.Fatal(err)
	}
	u = openUpper(t, dir, tree, Options{})
	defer u.Close()
	for _, v := range []struct {
		name string
		want bool
	}{{"0", false}, {fmt.Sprint(made/2 - 1), false}, {fmt.Sprint(made / 2), true}, {fmt.Sprint(made - 1), true}, {fmt.Sprint(made), false}} {
		if ok, err := u.Lookup(RootNode, v.name, &a); err != nil || ok != v.want {
			t.Errorf("%s: %v, %v", v.name, ok, err)
		}
	}
	if err := u.Create(Caller{}, RootNode, "again", Creation{Mode: 0o100644}, &a); err != nil && !errors.Is(err, syscall.ENOSPC) {
		t.Error(err)
	}
}
