// SPDX-License-Identifier: Apache-2.0

package imgfs_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/forensics"
	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/fusetest"
	"github.com/imgfs/imgfs/internal/tartest"
)

// What was deleted is what the layers' tars hold and the tree does not, with
// the content that the tars have.
func TestDeletedAgainstTars(t *testing.T) {
	unraced(t)
	for _, shape := range []string{"tiny", "deep"} {
		t.Run(shape, func(t *testing.T) {
			s := openStore(t)
			st := openStack(t, s, mustLoad(t, s, fusetest.Image(t, shape))[0].Name)
			shown := map[string]bool{}
			if err := st.Tree.Walk(context.Background(), func(e *forensics.Entry) error { shown[e.Path] = true; return nil }); err != nil {
				t.Fatal(err)
			}
			want := map[string]string{}
			for k, l := range st.Layers {
				readTar(t, l, func(name string, h *tar.Header, sum string) {
					if !shown[name] {
						want[fmt.Sprint(k, " ", name)] = sum
					}
				})
			}
			got := map[string]string{}
			err := st.Deleted(context.Background(), forensics.DeletedOptions{Hash: true, Replaced: true}, func(d *forensics.DeletedFile) error {
				if d.State != "deleted" {
					return nil
				}
				sum := d.SHA256
				if d.Content != nil {
					h := sha256.New()
					if _, err := io.Copy(h, io.NewSectionReader(d.Content, 0, d.Size)); err != nil {
						return err
					}
					if sum = fmt.Sprintf("%x", h.Sum(nil)); sum != d.SHA256 {
						t.Errorf("%s: content has %s, the record %s", d.Path, sum, d.SHA256)
					}
				}
				got[fmt.Sprint(d.Layer, " ", strings.Trim(d.Path, "/"))] = sum
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if len(want) < 20 {
				t.Fatalf("the tars have %d files that were deleted", len(want))
			}
			for name, sum := range want {
				if have, ok := got[name]; !ok || sum != "" && have != sum {
					t.Errorf("%s: got %q %v, want %q", name, have, ok, sum)
				}
				delete(got, name)
			}
			for name := range got {
				t.Errorf("%s: deleted, but no tar holds it", name)
			}
		})
	}
}

// readTar calls f for the names of a layer's tar that are no marks.
func readTar(t *testing.T, l *forensics.Layer, f func(name string, h *tar.Header, sum string)) {
	t.Helper()
	content, err := l.Content(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(io.NewSectionReader(content, 0, l.TarSize))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		name := strings.Trim(path.Clean("/"+h.Name), "/")
		if name == "" || strings.HasPrefix(path.Base(name), index.WhiteoutPrefix) {
			continue
		}
		sum := ""
		if h.Typeflag == tar.TypeReg {
			w := sha256.New()
			if _, err := io.Copy(w, r); err != nil {
				t.Fatal(err)
			}
			sum = fmt.Sprintf("%x", w.Sum(nil))
		}
		f(name, h, sum)
	}
}

// The packages of an image are those that dpkg-query lists.
func TestPackagesAgainstDpkgQuery(t *testing.T) {
	needTools(t, "dpkg-query")
	s := openStore(t)
	st := openStack(t, s, mustLoad(t, s, fusetest.Image(t, "base"))[0].Name)
	list, err := forensics.Packages(context.Background(), st)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range list {
		got = append(got, fmt.Sprintf("%s %s %s %s", p.Manager, p.Name, p.Arch, p.Version))
	}
	e, err := st.Tree.Lookup(context.Background(), "var/lib/dpkg/status")
	if err != nil {
		t.Fatal(err)
	}
	r, err := st.Tree.Open(e)
	if err != nil {
		t.Fatal(err)
	}
	status, err := io.ReadAll(forensics.Content(r, e))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "status"), status, 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("dpkg-query", "--admindir", dir, "-W", "-f", "dpkg ${Package} ${Architecture} ${Version}\n").Output()
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(strings.TrimSpace(string(out)), "\n")
	slices.Sort(want)
	slices.Sort(got)
	if len(want) < 20 || !slices.Equal(got, want) {
		t.Errorf("%d packages\n got %q\nwant %q", len(want), got, want)
	}
}

// Two directories that differ at random differ as diff -r says.
func TestDiffAgainstGNU(t *testing.T) {
	needTools(t, "diff")
	rnd := rand.New(rand.NewPCG(3, 4))
	s := openStore(t)
	for round := range 20 {
		a, b := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
		for _, dir := range []string{a, b} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			for range 60 {
				mutate(t, rnd, dir)
			}
		}
		var got []string
		opt := forensics.DiffOptions{Ignore: ^(forensics.DiffType | forensics.DiffContent | forensics.DiffTarget)}
		for _, line := range differences(t, openStack(t, s, "dir:"+a), openStack(t, s, "dir:"+b), opt) {
			got = append(got, strings.Join(strings.Fields(line)[:2], " "))
		}
		all := slices.Clone(got)
		got = slices.DeleteFunc(got, func(line string) bool { // diff -r names a directory, not what is in it
			dir := path.Dir(line[2:])
			return line[0] != 'C' && (slices.Contains(all, line[:2]+dir) || slices.Contains(all, "C "+dir))
		})
		slices.Sort(got)
		if want := gnuDiff(t, a, b); !slices.Equal(got, want) {
			t.Errorf("round %d\n got %q\nwant %q", round, got, want)
		}
	}
}

// mutate makes or removes something of few names below dir.
func mutate(t *testing.T, rnd *rand.Rand, dir string) {
	t.Helper()
	names := []string{"a", "b", "a-b", "a.b", "c"}
	at := dir
	for range rnd.IntN(3) {
		if next := filepath.Join(at, names[rnd.IntN(len(names))]); isDirectory(next) {
			at = next
		}
	}
	at = filepath.Join(at, names[rnd.IntN(len(names))])
	var err error
	switch rnd.IntN(6) {
	case 0:
		err = os.RemoveAll(at)
	case 1, 2:
		err = os.Mkdir(at, 0o755)
	case 3:
		err = os.Symlink(names[rnd.IntN(2)], at)
	default:
		if fi, lerr := os.Lstat(at); lerr == nil && !fi.Mode().IsRegular() {
			return
		}
		err = os.WriteFile(at, []byte(names[rnd.IntN(2)]), 0o644)
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
}

func isDirectory(p string) bool {
	fi, err := os.Lstat(p)
	return err == nil && fi.IsDir()
}

// gnuDiff returns what diff -r says, in our words.
func gnuDiff(t *testing.T, a, b string) []string {
	t.Helper()
	cmd := exec.Command("diff", "-rq", "--no-dereference", a, b)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
		t.Fatal(err)
	}
	list := []string{}
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSpace(line)
		words := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "Only in "+a):
			list = append(list, "D "+path.Join("/", strings.TrimSuffix(words[2], ":")[len(a):], words[3]))
		case strings.HasPrefix(line, "Only in "+b):
			list = append(list, "A "+path.Join("/", strings.TrimSuffix(words[2], ":")[len(b):], words[3]))
		case strings.HasPrefix(line, "Files "), strings.HasPrefix(line, "File "):
			list = append(list, "C "+words[1][len(a):])
		case strings.HasPrefix(line, "Symbolic links "):
			list = append(list, "C "+words[2][len(a):])
		default:
			t.Fatalf("diff says %q", line)
		}
	}
	slices.Sort(list)
	return list
}

// Layers that engines quarrel about: every question has an answer, and what is
// live is what the tree shows.
func TestForensicsOfOddLayers(t *testing.T) {
	for _, layers := range [][]string{
		{},
		{""},
		{"a=1 a=2 a/b", "a/.wh.b"},
		{"d/x=1 d/y=2", ".wh.d d/z=3", "d/.wh..wh..opq d/z=4"},
		{"l->d d/x=1", "l/x=2 .wh.none none/.wh.x"},
		{"a=1 b=>a", ".wh.a c=>b", ".wh.b"},
		{"x/.wh..wh..opq .wh..wh.aufs .wh.x/y=1", "x|", "x/ x/y%1,3 x/z:6755@1:2=s"},
		{"%1b[31m=x a%0ab/%09=y %ff%fe=z", ".wh.%1b[31m a%0ab/.wh.%09"},
		{"loop->loop etc->/etc", "loop/x=1", "etc/y=2"},
	} {
		b := newOCI(t)
		var list []packedLayer
		for _, text := range layers {
			list = append(list, packed(t, tartest.Tar(t, text), "gzip"))
		}
		file := b.write(named(b.image("linux/amd64", list, nil), "docker.io/library/odd:latest"))
		s := openStore(t)
		loaded, err := s.Load(context.Background(), file, nil, imgfs.LoadOptions{})
		if err != nil {
			t.Logf("%q: refused: %v", layers, err)
			continue
		}
		for _, arg := range []string{loaded[0].Name, file} {
			if err := examine(t, s, arg); err != nil && len(layers) > 0 {
				t.Errorf("%q: %v", layers, err)
			}
		}
	}
}

// examine asks everything of a stack.
func examine(t *testing.T, s *imgfs.Store, arg string) error {
	t.Helper()
	ctx := context.Background()
	st := openStack(t, s, arg)
	if got := differences(t, st, openStack(t, s, arg), forensics.DiffOptions{}); len(got) > 0 {
		t.Errorf("differs from itself: %q", got)
	}
	for k := range st.Layers {
		if err := openStack(t, s, fmt.Sprintf("%s#%d", arg, k)).Tree.Walk(ctx, func(*forensics.Entry) error { return nil }); err != nil {
			return err
		}
		openStack(t, s, fmt.Sprintf("%s@upto=%d", arg, k))
	}
	var live []string
	err := st.Blame(ctx, "/", forensics.BlameOptions{Recursive: true, Gone: true, Hash: true}, func(b *forensics.Blame) error {
		if slices.ContainsFunc(b.Versions, func(r *forensics.Record) bool { return r.State == "live" }) {
			live = append(live, b.Path)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if got, want := strings.Join(live, " "), paths(t, st); got != want {
		t.Errorf("live:\n got %q\nwant %q", got, want)
	}
	var out bytes.Buffer
	err = st.Deleted(ctx, forensics.DeletedOptions{Hash: true, Replaced: true}, func(d *forensics.DeletedFile) error {
		if d.Content != nil {
			_, err := io.Copy(&out, io.NewSectionReader(d.Content, 0, d.Size))
			return err
		}
		return nil
	})
	if err != nil {
		return err
	}
	sums, err := st.Summaries(ctx)
	if err != nil {
		return err
	}
	w, err := st.Waste(ctx, true, 0)
	if err != nil {
		return err
	}
	var wasted int64
	for _, l := range sums {
		wasted += l.Wasted
	}
	if in := w.Overwritten + w.Deleted; in != wasted {
		t.Errorf("waste %d, that of the layers %d", in, wasted)
	}
	return nil
}
