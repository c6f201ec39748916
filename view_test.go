// SPDX-License-Identifier: Apache-2.0

package imgfs_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/internal/fusetest"
)

// mountView mounts a view of an image, "" is the image itself, until the test
// ends, and returns the directory.
func mountView(t *testing.T, s *imgfs.Store, arg, view string) string {
	t.Helper()
	dir := t.TempDir()
	m, err := s.Mount(context.Background(), arg, dir, nil, imgfs.MountOptions{View: view})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(m.Unmount(false), m.Wait()); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// shownFiles returns the files below dir with their content, in order; links
// with where they lead, and directories with a slash.
func shownFiles(t *testing.T, dir string) string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		switch {
		case d.IsDir():
			name += "/"
		case d.Type() == 0:
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			name += "=" + string(b)
		}
		out = append(out, name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestViews(t *testing.T) {
	fusetest.Need(t)
	s := openStore(t)
	path := stackImage(t)
	for _, tt := range []struct{ view, want string }{
		{"layers", "0/ 0/d/ 0/d/x=x 0/d/y/ 0/d/y/z=z 0/etc/ 0/etc/a=1 0/etc/b=2 0/etc/c=3 " +
			"1/ 1/d/ 1/d/new=n 1/etc/ 1/etc/a=11 2/ 2/etc/ 2/etc/b=22 2/l=3"},
		{"deleted", "0/ 0/d/ 0/d/x=x 0/d/y/ 0/d/y/z=z 0/etc/ 0/etc/b=2 1/ 1/d/ 1/d/new=n"},
		{"upto=0", "d/ d/x=x d/y/ d/y/z=z etc/ etc/a=1 etc/b=2 etc/c=3"},
		{"upto=1", "d/ d/new=n etc/ etc/a=11 etc/c=3"},
	} {
		t.Run(tt.view, func(t *testing.T) {
			if got := shownFiles(t, mountView(t, s, path, tt.view)); got != tt.want {
				t.Errorf("\n got %s\nwant %s", got, tt.want)
			}
		})
	}
	for _, bad := range []string{"layer", "upto=3", "upto=", "upto"} {
		if _, err := s.Mount(t.Context(), path, t.TempDir(), nil, imgfs.MountOptions{View: bad}); err == nil {
			t.Errorf("view %q: no error", bad)
		}
	}
	if _, err := s.Mount(t.Context(), path, t.TempDir(), nil, imgfs.MountOptions{View: "layers", Writable: true}); !errors.Is(err, imgfs.ErrOption) {
		t.Errorf("a writable view: %v", err)
	}
}

// TestTimelineJudges: what the forms of timeline say is what sha256sum, mtree
// and mactime make of them.
func TestTimelineJudges(t *testing.T) {
	fusetest.Need(t)
	needTools(t, "sha256sum", "mtree", "mactime", "find")
	s := openStore(t)
	arg := fusetest.Image(t, "tiny")
	dir := mountView(t, s, arg, "")
	sums, rows := writeTimeline(t, s, arg, "sha256sum")
	judge(t, dir, sums, "sha256sum", "--strict", "--quiet", "-c", "-")
	if files := judge(t, dir, nil, "find", ".", "-type", "f", "-printf", "x"); len(files) != rows {
		t.Errorf("sha256sum has %d files, find %d", rows, len(files))
	}
	spec, _ := writeTimeline(t, s, arg, "mtree")
	if out := judge(t, dir, spec, "mtree", "-p", "."); len(out) > 0 {
		t.Errorf("mtree: %s", out)
	}
	body, rows := writeTimeline(t, s, arg, "bodyfile")
	out := judge(t, dir, body, "mactime", "-d", "-y", "-b", "-")
	if got := strings.Count(string(out), "live)"); got < rows {
		t.Errorf("mactime shows %d lines of %d live files", got, rows)
	}
	if !strings.Contains(string(out), ", deleted: whiteout by 2)") {
		t.Error("mactime shows no deleted file")
	}
	bad := bytes.Replace(sums, []byte("  ./etc/"), []byte("  ./etc/x/"), 1)
	if judgeErr(dir, bad, "sha256sum", "--strict", "--quiet", "-c", "-") == nil {
		t.Error("sha256sum finds no fault")
	}
}

// judge runs a program in dir and returns what it prints.
func judge(t *testing.T, dir string, stdin []byte, args ...string) []byte {
	t.Helper()
	c := exec.Command(args[0], args[1:]...)
	c.Dir, c.Stdin = dir, bytes.NewReader(stdin)
	var errs bytes.Buffer
	c.Stderr = &errs
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%q: %v\n%s%s", args, err, out, errs.Bytes())
	}
	return out
}

func judgeErr(dir string, stdin []byte, args ...string) error {
	c := exec.Command(args[0], args[1:]...)
	c.Dir, c.Stdin = dir, bytes.NewReader(stdin)
	return c.Run()
}
