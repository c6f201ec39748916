// SPDX-License-Identifier: Apache-2.0

package forensics

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// asNobody has the calling goroutine's thread see files as one who owns none.
func asNobody(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		return // files without permissions are closed to an ordinary user
	}
	runtime.LockOSThread() // it ends with the test
	if err := unix.Setfsuid(65534); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.Setfsuid(0)
		runtime.UnlockOSThread()
	})
}

// What cannot be read is told, and all else is walked, found and listed.
func TestUnreadable(t *testing.T) {
	dir := t.TempDir()
	for d := filepath.Dir(dir); d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"a", "closed/x", "open/y", "secret", "z"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("text"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, mode := range map[string]os.FileMode{".": 0o755, "closed": 0, "secret": 0} {
		if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { os.Chmod(filepath.Join(dir, "closed"), 0o755) })
	asNobody(t)

	tree, err := TreeOfDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	s := &Stack{Name: "dir", Tree: tree}
	find := func(m *Match) (got []string, err error) {
		err = s.Find(t.Context(), m, FindOptions{Hash: m.Types != ""}, func(r *Record) error {
			got = append(got, r.Path)
			return nil
		})
		return got, err
	}
	if _, err := find(new(Match)); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("nobody is told, and it ends with %v", err)
	}
	var told []string
	s.OnUnread(func(err error) {
		var p *fs.PathError
		if errors.As(err, &p) {
			told = append(told, strings.TrimPrefix(p.Path, dir))
		}
	})
	for _, tt := range []struct {
		name       string
		m          *Match
		want, told string
	}{
		{"names", new(Match), "[/ /a /closed /open /open/y /secret /z]", "[/closed]"},
		{"content", &Match{Content: pattern(t, "^te")}, "[/a /open/y /z]", "[/closed /secret]"},
		{"hashes told", &Match{Types: "f"}, "[/a /open/y /secret /z]", "[/closed /secret]"},
	} {
		told = nil
		got, err := find(tt.m)
		slices.Sort(told)
		if err != nil || fmt.Sprint(got) != tt.want || fmt.Sprint(told) != tt.told {
			t.Errorf("%s: %v\n got %v, told %v\nwant %s, told %s", tt.name, err, got, told, tt.want, tt.told)
		}
	}
	told = nil
	if err := Lint(t.Context(), s, LintOptions{}, func(*Finding) error { return nil }); err != nil || !slices.Contains(told, "/closed") {
		t.Errorf("lint: %v, told %v", err, told)
	}
}
