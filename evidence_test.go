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
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/forensics"
	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/internal/tartest"
)

// evidenceImage is an archive of an image of two layers that are not
// compressed, and says where the content of "big" lies in the archive.
func evidenceImage(t testing.TB) (file string, big int64) {
	t.Helper()
	text := strings.Repeat("0123456789abcdef", 3<<20/16)
	b := newOCI(t)
	layers := []packedLayer{packed(t, tartest.Tar(t, "a/ a/b=one"), "gzip"), packed(t, tartest.Tar(t, "a/c=two big="+text), "")}
	file = b.write(named(b.image("linux/amd64", layers, nil), "docker.io/library/e:1"))
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return file, int64(bytes.Index(raw, []byte(text)))
}

func evidence(t testing.TB, s *imgfs.Store, args ...string) *forensics.Evidence {
	t.Helper()
	e, err := s.Evidence(context.Background(), args, imgfs.EvidenceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := e.Write(&b); err != nil {
		t.Fatal(err)
	}
	back, err := forensics.ReadEvidence(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return back
}

// bad returns what of a report is bad, a line each.
func bad(e *forensics.Evidence) (list []string) {
	for _, s := range e.Sources {
		for _, i := range s.Items {
			if i.Result == forensics.Bad || i.Result == forensics.Lost {
				list = append(list, i.Title()+": "+i.What)
			}
		}
		if s.What != "" {
			list = append(list, s.Source+": "+s.What)
		}
	}
	return list
}

func changes(t testing.TB, s *imgfs.Store, e *forensics.Evidence, args ...string) (list []string) {
	t.Helper()
	err := s.CheckEvidence(context.Background(), e, args, imgfs.EvidenceOptions{}, func(c *forensics.EvidenceChange) error {
		line := c.Change + " " + c.Item
		for _, p := range c.Parts {
			line += fmt.Sprintf(" %d+%d in %s", p.Offset, p.Size, strings.Join(p.In, ","))
		}
		list = append(list, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// layoutOf unpacks an archive into dir.
func layoutOf(t testing.TB, file, dir string) string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			return dir
		}
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(r)
		path := filepath.Join(dir, h.Name)
		if err = errors.Join(err, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, raw, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}

// A report has every byte of a file, a layout and an image of the store, and
// holds as long as nobody changes one.
func TestEvidence(t *testing.T) {
	file, big := evidenceImage(t)
	dir := layoutOf(t, file, t.TempDir())
	s := openStore(t)
	mustLoad(t, s, file)
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	e := evidence(t, s, file, dir, "e:1")
	if list := bad(e); len(list) > 0 || e.Result != forensics.Good {
		t.Fatalf("%s: %q", e.Result, list)
	}
	whole := e.Sources[0].Items[0]
	if whole.Kind != "file" || whole.SHA256 != fmt.Sprintf("%x", sha256.Sum256(raw)) || whole.Size != int64(len(raw)) || len(whole.Pieces.SHA256) != 4 {
		t.Errorf("the file is %+v", whole)
	}
	for _, src := range e.Sources {
		kinds := map[string]int{}
		for _, i := range src.Items {
			kinds[i.Kind]++
			if i.Kind == "layer" && (i.Tar != i.DiffID || i.TarSize == 0) {
				t.Errorf("%s: %+v", src.Kind, i)
			}
		}
		want := map[string]string{
			"file":      "map[config:1 file:1 layer:2 manifest:1 member:6]",
			"directory": "map[config:1 file:6 layer:2 manifest:1]",
			"store":     "map[config:1 derived:7 layer:2 manifest:1]",
		}[src.Kind]
		if fmt.Sprint(kinds) != want {
			t.Errorf("%s: %v, want %s", src.Kind, kinds, want)
		}
		if len(src.Images) != 1 || len(src.Images[0].Layers) != 2 {
			t.Errorf("%s: images %+v", src.Kind, src.Images)
		}
	}
	if got := changes(t, s, e); len(got) > 0 {
		t.Errorf("nothing changed, and it says %q", got)
	}

	// A byte of the file, one of a blob of the layout, and one in the store.
	flip(t, file, big+1<<20, 3)
	var blob string
	for _, i := range e.Sources[1].Items {
		if i.Kind == "layer" && *i.Layer == 1 {
			blob = "blobs/sha256/" + strings.TrimPrefix(i.Digest, "sha256:")
		}
	}
	flip(t, filepath.Join(dir, blob), 2<<20, 3)
	flip(t, filepath.Join(s.Root(), blob), 2<<20, 3)
	now := evidence(t, s, file, dir, "e:1")
	text := strings.Join(bad(now), "\n")
	for _, want := range []string{"member " + blob + ": its bytes are", "e:1 (linux/amd64) layer 1: its bytes are", "file " + blob + ": its bytes are", "e:1 layer 1: its bytes are"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	for _, i := range now.Sources[2].Items {
		if i.Kind == "layer" && *i.Layer == 1 {
			d := i.Damage
			if len(d) != 1 || d[0].Offset > 2<<20 || d[0].Offset+d[0].Size <= 2<<20 || !slices.Equal(d[0].Paths, []string{"/big"}) {
				t.Errorf("the damage is at %+v", d)
			}
		}
	}
	at := (big + 1<<20) >> 20 << 20
	got := strings.Join(changes(t, s, e), "\n")
	for _, want := range []string{
		fmt.Sprintf("changed file %d+1048576 in e:1 (linux/amd64) layer 1,member %s", at, blob),
		"changed member " + blob, "changed e:1 (linux/amd64) layer 1",
		fmt.Sprintf("changed file %s 2097152+1048576 in e:1 (linux/amd64) layer 1", blob),
		"changed e:1 layer 1 2097152+1048576",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}

	// A copy somewhere else is as good as the file; what is gone is missing.
	copied := filepath.Join(t.TempDir(), "copy")
	if err := os.WriteFile(copied, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	one := evidence(t, s, copied)
	one.Sources[0].Path = file
	if got := changes(t, s, one, copied); len(got) > 0 {
		t.Errorf("the copy: %q", got)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if got := changes(t, s, one); len(got) != 1 || got[0] != "missing "+file {
		t.Errorf("without the file: %q", got)
	}
	if err := os.Remove(filepath.Join(s.Root(), blob)); err != nil {
		t.Fatal(err)
	}
	if got := bad(evidence(t, s, "e:1")); len(got) == 0 || got[0] != "e:1 layer 1: it is lost" {
		t.Errorf("without the blob: %q", got)
	}
}

// What the store derived is compared with what the layers make: checksums that
// hold do not make another layer's table the right one.
func TestEvidenceOfDerived(t *testing.T) {
	file, _ := evidenceImage(t)
	s := openStore(t)
	mustLoad(t, s, file)
	for _, arg := range []string{"e:1", file} {
		if arg == file { // what is derived in place
			i, err := s.OpenImage(context.Background(), file, nil, imgfs.OpenOptions{Verify: true})
			if err != nil {
				t.Fatal(err)
			}
			i.Close()
		}
		for _, dir := range []string{"index/layer", "index/hash", "index/place"} {
			list, err := os.ReadDir(filepath.Join(s.Root(), dir))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			exchange(t, filepath.Join(s.Root(), dir), list)
		}
		got := strings.Join(bad(evidence(t, s, arg)), "\n")
		for _, want := range map[string][]string{"e:1": {"index/layer/", "index/hash/"}, file: {"index/place/"}}[arg] {
			if strings.Count(got, want) < 1 || !strings.Contains(got, "not what the layer makes") {
				t.Errorf("%s: no %s in\n%s", arg, want, got)
			}
		}
	}
}

// exchange gives two files of a kind each other's content.
func exchange(t *testing.T, dir string, list []os.DirEntry) {
	t.Helper()
	byKind := map[string][]string{}
	for _, e := range list {
		kind := filepath.Ext(e.Name())
		byKind[kind] = append(byKind[kind], filepath.Join(dir, e.Name()))
	}
	for kind, paths := range byKind {
		if len(paths) < 2 || kind == ".tree" {
			continue
		}
		tmp := paths[0] + ".tmp"
		for _, move := range [][2]string{{paths[0], tmp}, {paths[1], paths[0]}, {tmp, paths[1]}} {
			if err := os.Rename(move[0], move[1]); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A file that cannot be read as images is reported all the same.
func TestEvidenceOfRuins(t *testing.T) {
	file, _ := evidenceImage(t)
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s := openStore(t)
	for name, content := range map[string][]byte{
		"empty": {}, "no tar": []byte("no tar at all"), "cut": raw[:len(raw)/2], "cut in a header": raw[:700],
		"cut gzip": packed(t, raw, "gzip").blob[:4000],
	} {
		path := filepath.Join(t.TempDir(), "x")
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
		e := evidence(t, s, path)
		got := e.Sources[0].Items[0]
		if e.Result != forensics.Bad || e.Sources[0].What == "" || got.SHA256 != fmt.Sprintf("%x", sha256.Sum256(content)) {
			t.Errorf("%s: %s %q %+v", name, e.Result, e.Sources[0].What, got)
		}
		if list := changes(t, s, e); len(list) > 0 {
			t.Errorf("%s: %q", name, list)
		}
	}
	packedFile := filepath.Join(t.TempDir(), "x.gz")
	if err := os.WriteFile(packedFile, packed(t, raw, "gzip").blob, 0o644); err != nil {
		t.Fatal(err)
	}
	if e := evidence(t, s, packedFile); e.Result != forensics.Good || e.Sources[0].Compression != "gzip" || len(e.Sources[0].Images) != 1 {
		t.Errorf("compressed as a whole: %q %+v", bad(e), e.Sources[0])
	}
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for arg, want := range map[string]error{"nothing": image.ErrNotFound, "./nothing": fs.ErrNotExist, pipe: imgfs.ErrOption, file + ":/a": imgfs.ErrOption} {
		if _, err := s.Evidence(context.Background(), []string{arg}, imgfs.EvidenceOptions{}); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", arg, err, want)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.Evidence(ctx, []string{file}, imgfs.EvidenceOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// state tells all about the files below a directory that looking at them could
// change; of directories not the time of access, which asking sets.
func state(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		if d.IsDir() {
			st.Atim = unix.Timespec{}
		}
		fmt.Fprintln(&b, path, st.Mode, st.Size, st.Nlink, st.Mtim, st.Ctim, st.Atim)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// Who examines changes nothing: not in a directory that could be written, nor
// needs it to be so; and the times of access stay.
func TestExaminingChangesNothing(t *testing.T) {
	file, _ := evidenceImage(t)
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "image.tar"), raw, 0o444); err != nil {
		t.Fatal(err)
	}
	layoutOf(t, file, filepath.Join(dir, "layout"))
	// An access time before the last change is set by the next access.
	err = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Chtimes(path, time.Unix(1000, 0), time.Time{}))
	})
	if err = errors.Join(err, os.Chmod(dir, 0o555)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod(dir, 0o755) })
	places := []string{dir}
	if os.Geteuid() == 0 { // whom modes do not hold
		ro := t.TempDir()
		if err := errors.Join(unix.Mount(dir, ro, "", unix.MS_BIND, ""), unix.Mount("", ro, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Unmount(ro, unix.MNT_DETACH) })
		places = append(places, ro)
	}
	before := state(t, dir)
	for _, place := range places {
		for _, arg := range []string{filepath.Join(place, "image.tar"), filepath.Join(place, "layout")} {
			s := openStore(t)
			if e := evidence(t, s, arg); e.Result != forensics.Good || len(e.Sources[0].Times.Touched) > 0 {
				t.Errorf("%s: %q, touched %q", arg, bad(e), e.Sources[0].Times.Touched)
			}
			if err := examine(t, s, arg); err != nil {
				t.Errorf("%s: %v", arg, err)
			}
			pattern, err := forensics.ParsePattern("^two$")
			if err != nil {
				t.Fatal(err)
			}
			found := 0
			count := func(*forensics.Record) error { found++; return nil }
			err = openStack(t, s, arg).Find(t.Context(), &forensics.Match{Content: pattern}, forensics.FindOptions{}, count)
			if err != nil || found != 1 {
				t.Errorf("%s: found %d, %v", arg, found, err)
			}
			tree := openStack(t, s, "dir:"+place)
			if got := differences(t, tree, tree, forensics.DiffOptions{}); len(got) > 0 {
				t.Errorf("%q", got)
			}
			if after := state(t, dir); after != before {
				t.Errorf("%s\n was %s\n now %s", arg, before, after)
			}
		}
	}
}
