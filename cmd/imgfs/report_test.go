// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/image"
)

func TestExitCode(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want int
	}{
		{nil, exitOK},
		{errors.New("else"), exitOther},
		{fmt.Errorf("load: %w", imgfs.ErrDamaged), exitMalformed},
		{fmt.Errorf("config: %w", imgfs.ErrDigest), exitMalformed},
		{fmt.Errorf("config: %w", imgfs.ErrNoBlob), exitMalformed},
		{fmt.Errorf("%w: %w", imgfs.ErrDamaged, fs.ErrNotExist), exitMalformed},
		{errors.Join(errors.New("else"), image.ErrMalformed), exitMalformed},
		{image.ErrNotFound, exitNotFound},
		{&fs.PathError{Op: "open", Path: "x", Err: syscall.ENOENT}, exitNotFound},
		{pathError("img:/f/x", &fs.PathError{Op: "resolve", Path: "f/x", Err: syscall.ENOTDIR}), exitNotFound},
		{&imgfs.RefusedError{Dir: "/m", Err: syscall.ENOTDIR}, exitRefused},
		{usagef("x"), exitUsage},
	} {
		if got := exitCode(tt.err); got != tt.want {
			t.Errorf("exitCode(%v) = %d, want %d", tt.err, got, tt.want)
		}
	}
}

func TestReport(t *testing.T) {
	missing := &fs.PathError{Op: "open", Path: "x.tar", Err: syscall.ENOENT}
	one, two := errors.New("one"), errors.New("two")
	for _, tt := range []struct {
		name string
		err  error
		want string
	}{
		{"nothing", nil, ""},
		{"joined errors take a line each", errors.Join(one, two), "one|two"},
		{"what wraps two is one sentence", fmt.Errorf("%w: %w", one, two), "one: two"},
		{"what is joined below a name has the name", fmt.Errorf("x: %w", errors.Join(one, two)), "x: one|x: two"},
		{"a sentence about joined errors", fmt.Errorf("%w, and more", errors.Join(one, two)), `one\ntwo, and more`},
		{"no system call", fmt.Errorf("mount: %w", missing), "mount: x.tar: no such file or directory"},
		{"a cure behind its error", errors.Join(one, &hintError{two, "cure"}), "one|two|hint: cure"},
		{"the cure of all stands for those of its parts", &hintError{errors.Join(one, &hintError{two, "cure"}), "better"}, "one|two|hint: better"},
		{"one cure of several", &hintError{errors.Join(one, two), "cure"}, "one|two|hint: cure"},
	} {
		var out bytes.Buffer
		(&app{stderr: &out}).report(tt.err)
		got := strings.ReplaceAll(strings.TrimSuffix(out.String(), "\n"), "\n", "|")
		if got = strings.ReplaceAll(got, "imgfs: ", ""); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, got, tt.want)
		}
	}
	wrapped := errors.Join(one, two)
	_ = joined(fmt.Errorf("x: %w", wrapped))
	if wrapped.Error() != "one\ntwo" {
		t.Errorf("joined changed its argument: %q", wrapped)
	}
}

// TestSudo: root is told of what the user who called sudo has, by a passwd of
// the test's own.
func TestSudo(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("who is not root was not called by sudo")
	}
	b := newBench(t)
	if out, err := exec.Command("unshare", "-m", "true").CombinedOutput(); err != nil {
		t.Skipf("no mount namespace to put a passwd into: %v: %s", err, out)
	}
	const uid = 4242
	home := b.point("home")
	if err := errors.Join(os.Chown(home, uid, uid), os.Chmod(b.dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	passwd := fmt.Sprintf("root:x:0:0::/root:/bin/sh\ntester:x:%d:%[1]d::%s:/bin/sh\n", uid, home)
	if err := os.WriteFile(b.path("passwd"), []byte(passwd), 0o644); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(home, ".local/share/imgfs")
	theirs := exec.Command("/proc/self/exe", "--root", root, "import", b.path("rootfs.tar"), "theirs:1")
	theirs.Args[0], theirs.Dir = "imgfs", b.dir
	theirs.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	if out, err := theirs.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	sudo := func(args ...string) (stderr string, code int) {
		c := exec.Command("unshare", append([]string{"-m", "sh", "-c", `mount --bind "$1" /etc/passwd && shift && exec "$@"`, "sh", b.path("passwd"), b.bin}, args...)...)
		c.Env = append(slices.Clone(b.env), fmt.Sprintf("SUDO_UID=%d", uid), fmt.Sprintf("SUDO_GID=%d", uid))
		out, _ := c.CombinedOutput() // the code tells
		return string(out), c.ProcessState.ExitCode()
	}
	hint := "hint: user tester has theirs:1: run it without sudo, or with --root " + root
	for _, args := range [][]string{{"mount", "theirs:1", b.point("m")}, {"mount", "theirs:1:/etc", b.point("m")}, {"ls", "theirs:1"}} {
		if out, code := sudo(args...); code != exitNotFound || !strings.Contains(out, hint) {
			t.Errorf("%v: exit %d: %s\nwant %q", args, code, out, hint)
		}
	}
	if out, code := sudo("ls", "nobodys"); code != exitNotFound || strings.Contains(out, "tester") {
		t.Errorf("what nobody has: exit %d: %s", code, out)
	}
	if out, code := sudo("ls", "img"); code != exitOK {
		t.Errorf("root's own: exit %d: %s", code, out)
	}
}
