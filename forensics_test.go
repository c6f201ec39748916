// SPDX-License-Identifier: Apache-2.0

package imgfs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/forensics"
	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/internal/fusetest"
	"github.com/imgfs/imgfs/internal/tartest"
)

func openStack(t testing.TB, s *imgfs.Store, arg string) *forensics.Stack {
	t.Helper()
	st, err := s.OpenStack(context.Background(), arg, imgfs.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return st
}

// differences compares two stacks: a line for each difference.
func differences(t testing.TB, a, b *forensics.Stack, opt forensics.DiffOptions) []string {
	t.Helper()
	var got []string
	err := forensics.Diff(context.Background(), a, b, opt, func(d *forensics.Difference) error {
		line := d.Change.Letter() + " /" + d.Path
		if d.What != 0 {
			line += " " + strings.Join(d.What.Names(), ",")
		}
		got = append(got, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func paths(t testing.TB, s *forensics.Stack) string {
	t.Helper()
	var list []string
	err := s.Tree.Walk(context.Background(), func(e *forensics.Entry) error {
		list = append(list, "/"+e.Path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(list, " ")
}

// stackImage has a layer of each kind of change.
func stackImage(t testing.TB) string {
	b := newOCI(t)
	var layers []packedLayer
	for _, text := range []string{
		"etc/ etc/a=1 etc/b=2 etc/c=3 d/ d/x=x d/y/ d/y/z=z",
		"etc/a=11 etc/.wh.b d/.wh..wh..opq d/new=n",
		"etc/b=22 l=>etc/c d/.wh.new",
	} {
		layers = append(layers, packed(t, tartest.Tar(t, text), "gzip"))
	}
	return b.write(named(b.image("linux/amd64", layers, nil), "docker.io/library/s:latest"))
}

// Everything that can be named is opened as what it is.
func TestOpenStack(t *testing.T) {
	file := stackImage(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := openStore(t)
	mustLoad(t, s, file)
	st := openStack(t, s, "s")
	for _, tt := range []struct {
		arg    string
		want   string
		layers int
	}{
		{"s", "/ /d /etc /etc/a /etc/b /etc/c /l", 3},
		{file, "/ /d /etc /etc/a /etc/b /etc/c /l", 3},
		{"s:/etc", "/ /a /b /c", 3},
		{"s:/etc/a", "/", 3},
		{"s#0", "/ /d /d/x /d/y /d/y/z /etc /etc/a /etc/b /etc/c", 1},
		{"s#1", "/ /d /d/new /etc /etc/a", 1},
		{file + "#2", "/ /d /etc /etc/b /l", 1},
		{"s#" + st.Layers[1].DiffID, "/ /d /d/new /etc /etc/a", 1},
		{"s#" + st.Layers[1].Digest[:20] + ":/d", "/ /new", 1},
		{"s@upto=0", "/ /d /d/x /d/y /d/y/z /etc /etc/a /etc/b /etc/c", 1},
		{"s@upto=1", "/ /d /d/new /etc /etc/a /etc/c", 2},
		{file + "@upto=1:/d", "/ /new", 2},
		{"dir:" + dir, "/ /f", 0},
	} {
		got := openStack(t, s, tt.arg)
		if paths(t, got) != tt.want || len(got.Layers) != tt.layers {
			t.Errorf("%s:\n got %s, %d layers\nwant %s, %d", tt.arg, paths(t, got), len(got.Layers), tt.want, tt.layers)
		}
	}
	for arg, want := range map[string]error{
		"nope": image.ErrNotFound, "s#3": forensics.ErrNoLayer, "s#sha256:00000000": forensics.ErrNoLayer, "s@upto=x": forensics.ErrNoLayer,
		"s:/none": fs.ErrNotExist, "upper:none": imgfs.ErrNoUpper, "upper:../x": imgfs.ErrOption, "dir:" + dir + "/none": fs.ErrNotExist,
	} {
		if _, err := s.OpenStack(context.Background(), arg, imgfs.OpenOptions{}); !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", arg, err, want)
		}
	}
}

// What differs is told, and how.
func TestDiffOfLayers(t *testing.T) {
	s := openStore(t)
	mustLoad(t, s, stackImage(t))
	got := differences(t, openStack(t, s, "s@upto=0"), openStack(t, s, "s"), forensics.DiffOptions{})
	want := []string{"D /d/x", "D /d/y", "D /d/y/z", "C /etc/a size,content", "C /etc/b size,content", "A /l"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

// An image is the same as itself in every form it can have: loaded, in place,
// squashed to one layer, and unpacked by tar.
func TestDiffOfForms(t *testing.T) {
	unraced(t)
	for _, name := range []string{"tiny", "base"} {
		t.Run(name, func(t *testing.T) {
			file := fusetest.Image(t, name)
			s := openStore(t)
			loaded := mustLoad(t, s, file)
			var root bytes.Buffer
			if err := s.Export(context.Background(), loaded[0].Name, &root, imgfs.ExportOptions{}); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Import(context.Background(), "-", bytes.NewReader(root.Bytes()), "flat", imgfs.LoadOptions{}); err != nil {
				t.Fatal(err)
			}
			forms := []string{file, "flat"}
			if os.Geteuid() == 0 {
				dir := t.TempDir()
				tar := exec.Command("tar", "-x", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-p", "-C", dir)
				tar.Stdin = &root
				if out, err := tar.CombinedOutput(); err != nil {
					t.Fatalf("tar: %v\n%s", err, out)
				}
				forms = append(forms, "dir:"+dir)
			}
			a := openStack(t, s, loaded[0].Name)
			for _, form := range forms {
				if got := differences(t, a, openStack(t, s, form), forensics.DiffOptions{}); len(got) > 0 {
					t.Errorf("%s: %d differences, the first %q", form, len(got), got[:min(5, len(got))])
				}
			}
		})
	}
}

// flatten loads an image and makes another one of the same tree in one layer.
func flatten(b *testing.B, name string) (s *imgfs.Store, many, one *forensics.Stack) {
	s = openStore(b)
	loaded := mustLoad(b, s, fusetest.Image(b, name))
	r, w := io.Pipe()
	go func() {
		w.CloseWithError(s.Export(context.Background(), loaded[0].Name, w, imgfs.ExportOptions{}))
	}()
	if _, err := s.Import(context.Background(), "-", r, "flat", imgfs.LoadOptions{}); err != nil {
		b.Fatal(err)
	}
	return s, openStack(b, s, loaded[0].Name), openStack(b, s, "flat")
}

// BenchmarkDiff compares two images that have all files and no layer in
// common, so that every hash is asked for. That both are opened is counted.
func BenchmarkDiff(b *testing.B) {
	s, many, one := flatten(b, "app")
	names := [2]string{many.Name, one.Name}
	files := strings.Count(paths(b, many), " ") + 1
	b.Run(fmt.Sprintf("names=%d", files), func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var stacks [2]*forensics.Stack
			for i, name := range names {
				st, err := s.OpenStack(context.Background(), name, imgfs.OpenOptions{})
				if err != nil {
					b.Fatal(err)
				}
				stacks[i] = st
			}
			if got := differences(b, stacks[0], stacks[1], forensics.DiffOptions{}); len(got) > 0 {
				b.Fatal(got[:min(5, len(got))])
			}
			if err := errors.Join(stacks[0].Close(), stacks[1].Close()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkDeleted(b *testing.B) {
	s := openStore(b)
	loaded := mustLoad(b, s, fusetest.Image(b, "app"))
	st := openStack(b, s, loaded[0].Name)
	for b.Loop() {
		n := 0
		err := st.Deleted(context.Background(), forensics.DeletedOptions{}, func(*forensics.DeletedFile) error { n++; return nil })
		if err != nil || n == 0 {
			b.Fatal(n, err)
		}
	}
}
