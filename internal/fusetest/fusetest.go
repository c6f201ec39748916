// SPDX-License-Identifier: Apache-2.0

// Package fusetest helps tests that mount and tests that want real images. A
// package whose tests import it is run again on one CPU and as an ordinary
// user by `make test`. It knows nothing of how imgfs mounts.
package fusetest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Need skips the test where this process cannot mount by FUSE: without a
// /dev/fuse it may open, or as an ordinary user without fusermount3. With
// IMGFS_TEST_NOSKIP=1, as continuous integration sets it, the test fails
// instead.
func Need(t testing.TB) {
	t.Helper()
	dev, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		skip(t, "no FUSE here: %v", err)
		return
	}
	dev.Close()
	if os.Geteuid() != 0 {
		if _, err := exec.LookPath("fusermount3"); err != nil {
			skip(t, "a user cannot mount here: %v", err)
		}
	}
}

// Image returns the path of an OCI archive of a shape that scripts/mkimage
// makes: tiny, base, app, deep or many. It is made at first need; where it
// cannot be, the test is skipped as by Need.
func Image(t testing.TB, shape string) string {
	t.Helper()
	cmd := exec.Command(filepath.Join(moduleRoot(t), "scripts", "mkimage"), shape)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		skip(t, "mkimage %s: %v: %s", shape, err, errs.String())
	}
	return strings.TrimSpace(string(out))
}

// skip skips, or fails where nothing may be skipped.
func skip(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("IMGFS_TEST_NOSKIP") == "1" {
		t.Fatalf("IMGFS_TEST_NOSKIP is set, but "+format, args...)
	}
	t.Skipf(format, args...)
}

// moduleRoot returns the directory of go.mod.
func moduleRoot(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if filepath.Dir(dir) == dir {
			t.Fatal("no go.mod above the test's directory")
		}
		dir = filepath.Dir(dir)
	}
}
