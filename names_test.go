// SPDX-License-Identifier: Apache-2.0

package imgfs_test

import (
	"bytes"
	"context"
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
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/ulikunitz/xz"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/internal/tartest"
)

// which opens an image and returns what the file "who" in it says.
func which(t testing.TB, s *imgfs.Store, arg, platform string) string {
	t.Helper()
	i, err := s.OpenImage(context.Background(), arg, nil, imgfs.OpenOptions{Platform: platform})
	if errors.Is(err, image.ErrNotFound) {
		return "not found"
	}
	if err != nil {
		return "error: " + err.Error()
	}
	defer i.Close()
	id, err := i.FS.Resolve("/who", true)
	if err != nil {
		t.Fatal(err)
	}
	n := readNode(t, i, id)
	p := make([]byte, n.Size)
	if _, err := i.FS.ReadAt(&n, p, 0); err != nil {
		t.Fatal(err)
	}
	return string(p)
}

func TestReferences(t *testing.T) {
	s := openStore(t)
	load := func(name, who string) imgfs.Loaded {
		t.Helper()
		return mustLoad(t, s, textImage(t, name, "gzip", "who="+who))[0]
	}
	one := load("docker.io/library/one:latest", "one")
	two := load("docker.io/library/one:2", "two")
	load("registry.example:5000/a/b:v1", "three")
	load("UPPERCASE-IS-INVALID", "raw")
	none := load("", "nameless")
	info, err := s.Info(context.Background(), "one:2", imgfs.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// A hostile image whose name looks like another's id.
	load("docker.io/library/sha256:"+one.ID.Encoded(), "impostor")

	tests := []struct{ arg, want string }{
		{"one", "one"},
		{"one:latest", "one"},
		{"docker.io/library/one", "one"},
		{"docker.io/one:2", "two"},
		{"one:2", "two"},
		{"one:3", "not found"},
		{"two", "not found"},
		{"registry.example:5000/a/b:v1", "three"},
		{"registry.example:5000/a/b", "not found"},
		{"UPPERCASE-IS-INVALID", "raw"},
		{"one@" + string(info.Digest), "two"},
		{"one:2@" + string(info.Digest), "two"},
		{"other@" + string(info.Digest), "not found"},
		{"one@" + string(digest.FromString("x")), "not found"},
		{string(two.ID), "two"},
		{two.ID.Encoded(), "two"},
		{two.ID.Encoded()[:12], "two"},
		{"sha256:" + two.ID.Encoded()[:7], "two"},
		{info.Digest.Encoded()[:20], "two"},
		{string(info.Digest), "two"},
		{none.ID.Encoded()[:12], "nameless"},
		{string(one.ID), "one"},
		{strings.ToUpper(two.ID.Encoded()[:12]), "not found"},
		{two.ID.Encoded()[:3], "not found"},
		{"sha256:", "not found"},
		{"sha256:zzzz", "not found"},
		{"", "not found"},
		{"a b", "not found"},
		{"@", "not found"},
		{"@" + string(info.Digest), "not found"},
		{"../../etc/passwd", ""},
	}
	for _, tt := range tests {
		got := which(t, s, tt.arg, "")
		if tt.want == "" && !strings.HasPrefix(got, "error: ") || tt.want != "" && got != tt.want {
			t.Errorf("%q: got %s, want %s", tt.arg, got, tt.want)
		}
	}

	// Enough images that two ids begin alike.
	ids := map[string]string{}
	for i := 0; ; i++ {
		l := load("", fmt.Sprint("n", i))
		prefix := l.ID.Encoded()[:4]
		if ids[prefix] != "" {
			_, err := s.OpenImage(context.Background(), prefix, nil, imgfs.OpenOptions{})
			if !errors.Is(err, image.ErrNotFound) || !strings.Contains(err.Error(), "several") {
				t.Errorf("an ambiguous prefix: %v", err)
			}
			break
		}
		if ids[prefix] = l.ID.Encoded(); i > 40 {
			break // they need not, and it takes hundreds
		}
	}
}

// A name that moves leaves its image without one.
func TestRetag(t *testing.T) {
	s := openStore(t)
	list := func() string {
		t.Helper()
		images, err := s.Images(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		var lines []string
		for _, i := range images {
			lines = append(lines, i.Repository+":"+i.Tag+"="+which(t, s, i.ID.Encoded(), ""))
		}
		slices.Sort(lines)
		return strings.Join(lines, " ")
	}
	steps := []struct{ name, who, want string }{
		{"docker.io/library/x:latest", "a", "x:latest=a"},
		{"docker.io/library/x:latest", "a", "x:latest=a"},
		{"docker.io/library/x:latest", "b", "<none>:<none>=a x:latest=b"},
		{"docker.io/library/y:1", "a", "x:latest=b y:1=a"},
		{"docker.io/library/x:latest", "a", "<none>:<none>=b x:latest=a y:1=a"},
		{"", "a", "<none>:<none>=b x:latest=a y:1=a"},
		{"", "b", "<none>:<none>=b x:latest=a y:1=a"},
		{"docker.io/library/y:1", "c", "<none>:<none>=b x:latest=a y:1=c"},
		{"", "d", "<none>:<none>=b <none>:<none>=d x:latest=a y:1=c"},
	}
	for i, step := range steps {
		mustLoad(t, s, textImage(t, step.name, "gzip", "who="+step.who))
		if got := list(); got != step.want {
			t.Errorf("step %d:\n got %s\nwant %s", i, got, step.want)
		}
	}
}

func multiPlatform(t testing.TB, absent string) (string, *ociBuilder) {
	b := newOCI(t)
	var list []ocispec.Descriptor
	for _, p := range []string{"linux/amd64", "linux/arm64", "linux/s390x"} {
		layers := textLayers(t, "gzip", "who="+p)
		list = append(list, b.image(p, layers, nil))
		if strings.Contains(absent, p) {
			b.remove(digest.FromBytes(layers[0].blob))
		}
	}
	att := b.image("unknown/unknown", textLayers(t, "", "who=nobody"), nil)
	att.Annotations = map[string]string{
		"vnd.docker.reference.type":   "attestation-manifest",
		"vnd.docker.reference.digest": string(list[0].Digest),
	}
	return b.write(named(b.indexOf(append(list, att)...), "docker.io/library/multi:latest")), b
}

func TestPlatforms(t *testing.T) {
	host := image.FormatPlatform(image.HostPlatform())
	all := []string{"linux/amd64", "linux/arm64", "linux/s390x"}
	if !slices.Contains(all, host) {
		t.Skipf("%s is none of %q", host, all)
	}
	path, _ := multiPlatform(t, "")
	t.Run("in place", func(t *testing.T) {
		s := openStore(t)
		for _, p := range all {
			if got := which(t, s, path, p); got != p {
				t.Errorf("%s: got %s", p, got)
			}
		}
		if got := which(t, s, path, ""); got != host {
			t.Errorf("got %s, want the host's", got)
		}
		_, err := s.OpenImage(context.Background(), path, nil, imgfs.OpenOptions{Platform: "linux/riscv64"})
		for _, p := range all {
			if !errors.Is(err, image.ErrNotFound) || !strings.Contains(err.Error(), p) {
				t.Errorf("wrong platform: %v, want a list with %s", err, p)
			}
		}
		if _, err := s.OpenImage(context.Background(), path, nil, imgfs.OpenOptions{Platform: "a/b/c/d"}); err == nil {
			t.Error("a bad platform was taken")
		}
	})
	t.Run("load", func(t *testing.T) {
		s := openStore(t)
		loaded := mustLoad(t, s, path)
		if len(loaded) != 1 || loaded[0].Name != "multi:latest" {
			t.Errorf("got %v", loaded)
		}
		for _, p := range all {
			if got := which(t, s, "multi", p); got != p {
				t.Errorf("%s: got %s", p, got)
			}
		}
		if got := which(t, s, "multi", ""); got != host {
			t.Errorf("got %s, want the host's", got)
		}
		_, err := s.OpenImage(context.Background(), "multi", nil, imgfs.OpenOptions{Platform: "linux/riscv64"})
		for _, p := range all {
			if !errors.Is(err, image.ErrNotFound) || !strings.Contains(err.Error(), p) {
				t.Errorf("wrong platform: %v, want a list with %s", err, p)
			}
		}
		for _, arg := range []string{"multi", path} {
			info, err := s.Info(context.Background(), arg, imgfs.OpenOptions{Platform: "linux/arm64"})
			if err != nil {
				t.Fatal(err)
			}
			others := strings.Join(info.Others, "\n")
			if !strings.Contains(others, "linux/amd64") || !strings.Contains(others, "linux/s390x") ||
				!strings.Contains(others, "attestation sha256:") || strings.Contains(others, "arm64") {
				t.Errorf("%s: others %q", arg, info.Others)
			}
		}
		list, err := s.Images(context.Background())
		if err != nil || len(list) != 1 || list[0].Platform != host {
			t.Errorf("got %v, %v", list, err)
		}
		if got := which(t, s, list[0].Digest.Encoded()[:12], "linux/s390x"); got != "linux/s390x" {
			t.Errorf("by the index's id: got %s", got)
		}
	})
	t.Run("one, then another", func(t *testing.T) {
		s := openStore(t)
		for i, p := range []string{"linux/arm64", "linux/s390x"} {
			if _, err := s.Load(context.Background(), path, nil, imgfs.LoadOptions{Platform: p}); err != nil {
				t.Fatal(err)
			}
			if got := which(t, s, "multi", p); got != p {
				t.Errorf("%s: got %s", p, got)
			}
			if i == 1 {
				if got := which(t, s, "multi", "linux/arm64"); got != "linux/arm64" {
					t.Errorf("the first is lost: %s", got)
				}
			}
		}
		info, err := s.Info(context.Background(), "multi", imgfs.OpenOptions{Platform: "linux/arm64"})
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(info.Others, "\n"); strings.Contains(got, "s390x not loaded") || !strings.Contains(got, "linux/amd64 not loaded") {
			t.Errorf("others %q", info.Others)
		}
		if got := which(t, s, "multi", host); host == "linux/amd64" && got != "not found" {
			t.Errorf("%s was not loaded: got %s", host, got)
		}
	})
	t.Run("partial", func(t *testing.T) {
		for _, absent := range []string{"linux/arm64 linux/s390x", "linux/s390x", "linux/amd64", "linux/amd64 linux/s390x"} {
			path, _ := multiPlatform(t, absent)
			s := openStore(t)
			mustLoad(t, s, path)
			for _, p := range all {
				want := p
				if strings.Contains(absent, p) {
					want = "not found"
				}
				if got := which(t, s, "multi", p); got != want {
					t.Errorf("without %s: %s: got %s", absent, p, got)
				}
			}
			var info *imgfs.ImageInfo
			var err error
			for _, p := range all {
				if !strings.Contains(absent, p) {
					if info, err = s.Info(context.Background(), "multi", imgfs.OpenOptions{Platform: p}); err != nil {
						t.Fatal(err)
					}
				}
			}
			for p := range strings.FieldsSeq(absent) {
				if got := strings.Join(info.Others, "\n"); !strings.Contains(got, p+" absent") {
					t.Errorf("without %s: others %q", absent, info.Others)
				}
				if _, err := s.Load(context.Background(), path, nil, imgfs.LoadOptions{Platform: p}); !isRefusal(err) {
					t.Errorf("load of absent %s: %v", p, err)
				}
			}
		}
		path, _ := multiPlatform(t, strings.Join(all, " "))
		if _, err := openStore(t).Load(context.Background(), path, nil, imgfs.LoadOptions{}); !isRefusal(err) {
			t.Errorf("all absent: %v, want a refusal", err)
		}
	})
	t.Run("two, neither the host's", func(t *testing.T) {
		b := newOCI(t)
		path := b.write(named(b.indexOf(
			b.image("linux/ppc64le", textLayers(t, "", "who=ppc"), nil),
			b.image("linux/s390x", textLayers(t, "", "who=s390x"), nil)), "docker.io/library/far:latest"))
		s := openStore(t)
		if l := mustLoad(t, s, path); len(l) != 1 || l[0].ID == "" {
			t.Errorf("got %v", l)
		}
		if got := which(t, s, "far", "linux/s390x"); got != "s390x" {
			t.Errorf("got %s", got)
		}
	})
	t.Run("stereoscope", func(t *testing.T) {
		path := filepath.Join(sampleDir(t), "stereoscope-multiplatform-oci-dir")
		s := openStore(t)
		var trees []map[string]treeFile
		for _, p := range []string{"linux/amd64", "linux/arm64"} {
			i, err := s.OpenImage(context.Background(), path, nil, imgfs.OpenOptions{Platform: p})
			if err != nil {
				t.Fatal(err)
			}
			if i.Platform != p {
				t.Errorf("got %s, want %s", i.Platform, p)
			}
			trees = append(trees, readTree(t, i.FS))
			i.Close()
		}
		if len(trees[0]) == 0 || len(trees[1]) == 0 {
			t.Error("an empty tree")
		}
	})
}

// compressWhole compresses a file as a whole.
func compressWhole(t testing.TB, path, how string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	switch how {
	case "gz":
		b.Write(packed(t, raw, "gzip").blob)
	case "zst":
		w, err := zstd.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		w.Write(raw)
		w.Close()
	case "xz":
		w, err := xz.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		w.Write(raw)
		w.Close()
	case "bz2":
		cmd := exec.Command("bzip2", "-c")
		cmd.Stdin, cmd.Stdout = bytes.NewReader(raw), &b
		if err := cmd.Run(); err != nil {
			t.Skipf("no bzip2: %v", err)
		}
	}
	out := filepath.Join(t.TempDir(), filepath.Base(path)+"."+how)
	if err := os.WriteFile(out, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestCompressedWhole(t *testing.T) {
	path := textImage(t, "docker.io/library/whole:latest", "gzip", "who=whole")
	for _, how := range []string{"gz", "zst", "xz", "bz2"} {
		t.Run(how, func(t *testing.T) {
			file := compressWhole(t, path, how)
			s := openStore(t)
			for range 2 { // it is loaded, and again
				if got := which(t, s, file, ""); got != "whole" {
					t.Errorf("got %s", got)
				}
			}
			if got := which(t, s, "whole", ""); got != "whole" {
				t.Errorf("not in the store: %s", got)
			}
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s = openStore(t)
			i, err := s.OpenImage(context.Background(), "-", bytes.NewReader(raw), imgfs.OpenOptions{})
			if err != nil {
				t.Fatal(err)
			}
			i.Close()
			if got := which(t, s, "whole", ""); got != "whole" {
				t.Errorf("by stdin: %s", got)
			}
			// A pipe by its name.
			fifo := filepath.Join(t.TempDir(), "fifo")
			if err := syscall.Mkfifo(fifo, 0o600); err != nil {
				t.Fatal(err)
			}
			go os.WriteFile(fifo, raw, 0)
			s = openStore(t)
			mustLoad(t, s, fifo)
			if got := which(t, s, "whole", ""); got != "whole" {
				t.Errorf("by a pipe: %s", got)
			}
			// Cut short it is refused, and names no file of ours.
			for _, n := range []int{len(raw) / 2, len(raw) - 5} {
				s = openStore(t)
				_, err = s.Load(context.Background(), "-", bytes.NewReader(raw[:n]), imgfs.LoadOptions{})
				if !isRefusal(err) {
					t.Errorf("cut at %d of %d: %v, want a refusal", n, len(raw), err)
				} else if strings.Contains(err.Error(), s.Root()) {
					t.Errorf("the error names a temporary file: %v", err)
				}
				sameListing(t, listing(t, s), "")
			}
		})
	}
	s := openStore(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.Load(ctx, path, nil, imgfs.LoadOptions{}); !errors.Is(err, context.Canceled) || isRefusal(err) {
		t.Errorf("interrupted: %v", err)
	}
	if _, err := s.Load(ctx, compressWhole(t, path, "gz"), nil, imgfs.LoadOptions{}); !errors.Is(err, context.Canceled) || isRefusal(err) {
		t.Errorf("interrupted: %v", err)
	}
	sameListing(t, listing(t, s), "")
}

// What is verified behind a mount leaves the next to open it nothing to make.
func TestInPlaceVerifiedBehind(t *testing.T) {
	path := textImage(t, "docker.io/library/place:latest", "", "who=one a/ a/b=text || a/c=x")
	s := openStore(t)
	open := func(unverified bool) *imgfs.Image {
		i, err := s.OpenImage(context.Background(), path, nil, imgfs.OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if i.Unverified() != unverified {
			t.Errorf("unverified: %v", !unverified)
		}
		return i
	}
	first := open(true)
	if err := first.Verify(context.Background()); err != nil {
		t.Fatal(err)
	}
	first.Close()
	made, stamps := storeFiles(t, s, "index/place/"), modTimes(t, s)
	open(false).Close()
	if again := storeFiles(t, s, "index/place/"); !slices.Equal(again, made) || modTimes(t, s) != stamps {
		t.Errorf("there were %q, then %q", made, again)
	}
}

func TestInPlace(t *testing.T) {
	path := textImage(t, "docker.io/library/place:latest", "", "who=one a/ a/b=text || a/c=x")
	s := openStore(t)
	open := func(verify bool) *imgfs.Image {
		t.Helper()
		i, err := s.OpenImage(context.Background(), path, nil, imgfs.OpenOptions{Verify: verify})
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	places := func() (names []string) {
		for _, p := range storeFiles(t, s, "index/place/") {
			names = append(names, filepath.Base(p))
		}
		return names
	}
	first := open(false)
	if !first.Unverified() {
		t.Error("verified without reading")
	}
	want := readTree(t, first.FS)
	if want["who"].Content != digest.FromString("one").Encoded() {
		t.Errorf("got %v", want["who"])
	}
	made := places()
	if len(made) != 5 { // two tables, where they come from, and a tree
		t.Errorf("got %q", made)
	}
	if files := storeFiles(t, s, "blobs/"); len(files) > 0 {
		t.Errorf("blobs were copied: %q", files)
	}
	for _, p := range storeFiles(t, s, "index/layer/") {
		t.Errorf("an unverified table got a diffID's name: %s", p)
	}

	// Again: nothing is scanned anew.
	before := places()
	stamps := modTimes(t, s)
	second := open(false)
	diffTrees(t, "again", readTree(t, second.FS), want)
	second.Close()
	if !slices.Equal(places(), before) || modTimes(t, s) != stamps {
		t.Errorf("the second open wrote %q", places())
	}

	// Verified once, it stays so; the first sees it in its own time.
	verified := open(true)
	if verified.Unverified() {
		t.Error("unverified after Verify")
	}
	diffTrees(t, "verified", readTree(t, verified.FS), want)
	verified.Close()
	third := open(false)
	if third.Unverified() {
		t.Error("the mark was not kept")
	}
	diffTrees(t, "third", readTree(t, third.FS), want)
	third.Close()
	if err := first.Verify(context.Background()); err != nil {
		t.Error(err)
	}
	diffTrees(t, "first, verified", readTree(t, first.FS), want)
	first.Close()

	// Derived files lost: made again.
	for _, p := range storeFiles(t, s, "index/place/") {
		if err := os.Truncate(p, 10); err != nil {
			t.Fatal(err)
		}
	}
	fourth := open(true)
	diffTrees(t, "fourth", readTree(t, fourth.FS), want)
	fourth.Close()

	// Touched, it is another file.
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(path, later, later); err != nil {
		t.Fatal(err)
	}
	fifth := open(false)
	if !fifth.Unverified() {
		t.Error("a changed file is still verified")
	}
	// Written under the mount: its bytes are no longer those that were seen.
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.ReplaceAll(raw, []byte("one"), []byte("two")), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := readTree(t, fifth.FS)["who"].Content; !strings.HasPrefix(got, "error") {
		t.Errorf("a file that was changed is read: %s", got)
	}
	if err := fifth.Verify(context.Background()); err == nil {
		t.Error("a file that was changed is verified")
	}
	if got := readTree(t, fifth.FS)["who"].Content; !strings.HasPrefix(got, "error") {
		t.Errorf("a file that was changed is read: %s", got)
	}
	fifth.Close()
	sixth := open(false)
	if err := sixth.Verify(context.Background()); !isRefusal(err) {
		t.Errorf("got %v, want a refusal", err)
	}
	sixth.Close()

	if _, err := s.OpenImage(context.Background(), "./none.tar", nil, imgfs.OpenOptions{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if _, err := s.OpenImage(context.Background(), "-", nil, imgfs.OpenOptions{}); err == nil {
		t.Error("no stdin")
	}
}

func modTimes(t testing.TB, s *imgfs.Store) string {
	t.Helper()
	var b strings.Builder
	for _, p := range storeFiles(t, s, "index/") {
		fi, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&b, p, fi.ModTime().UnixNano(), fi.Size())
	}
	return b.String()
}

// A part of an image, in place and by name.
func TestParts(t *testing.T) {
	path := textImage(t, "docker.io/library/part:latest", "gzip", "usr/ usr/share/ usr/share/x=1")
	s := openStore(t)
	mustLoad(t, s, path)
	for _, arg := range []string{"part", "part:latest", path} {
		i, err := s.OpenImage(context.Background(), arg+":/usr/share", nil, imgfs.OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if i.Path != "/usr/share" {
			t.Errorf("%s: path %q", arg, i.Path)
		}
		i.Close()
	}
}

func TestImport(t *testing.T) {
	raw := tartest.Tar(t, "who=imported a/ a/b:4755=x a/c=>a/b .wh.gone l->a")
	dir := t.TempDir()
	path := filepath.Join(dir, "rootfs.tar")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	types := map[string]string{"": ocispec.MediaTypeImageLayer, "gz": ocispec.MediaTypeImageLayerGzip, "zst": ocispec.MediaTypeImageLayerZstd,
		"xz": ocispec.MediaTypeImageLayer, "bz2": ocispec.MediaTypeImageLayer}
	for how, mediaType := range types {
		t.Run("as "+how, func(t *testing.T) {
			file := path
			if how != "" {
				file = compressWhole(t, path, how)
			}
			for _, stdin := range []bool{false, true} {
				s := openStore(t)
				arg, in := file, (*os.File)(nil)
				if stdin {
					var err error
					if in, err = os.Open(file); err != nil {
						t.Fatal(err)
					}
					defer in.Close()
					arg = "-"
				}
				l, err := s.Import(context.Background(), arg, in, "my/root:v1", imgfs.LoadOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if l.Name != "my/root:v1" {
					t.Errorf("got %v", l)
				}
				tree := treeOf(t, s, "my/root:v1")
				if len(tree) != 6 || tree["a/b"].Nlink != 2 || tree["a/b"].Mode&0o7777 != 0o4755 {
					t.Errorf("got %v", tree)
				}
				info, err := s.Info(context.Background(), "my/root:v1", imgfs.OpenOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if got := info.Layers[0].MediaType; got != mediaType {
					t.Errorf("media type %s, want %s", got, mediaType)
				}
				if info.Layers[0].DiffID != digest.FromBytes(raw) {
					t.Errorf("diffID %s", info.Layers[0].DiffID)
				}
			}
		})
	}
	t.Run("without a name", func(t *testing.T) {
		s := openStore(t)
		l, err := s.Import(context.Background(), path, nil, "", imgfs.LoadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got := which(t, s, string(l.ID), ""); got != "imported" || l.Name != "" {
			t.Errorf("got %s, %v", got, l)
		}
	})
	t.Run("reproducible", func(t *testing.T) {
		t.Setenv("SOURCE_DATE_EPOCH", "1000000000")
		a, err := openStore(t).Import(context.Background(), path, nil, "x", imgfs.LoadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		b, err := openStore(t).Import(context.Background(), path, nil, "x", imgfs.LoadOptions{})
		if err != nil || a != b {
			t.Errorf("got %v and %v, %v", a, b, err)
		}
	})
	t.Run("refused", func(t *testing.T) {
		s := openStore(t)
		for what, body := range map[string][]byte{
			"garbage":   bytes.Repeat([]byte("garbage "), 300),
			"bad links": tartest.Tar(t, "a=>b"),
			"cut gzip":  packed(t, raw, "gzip").blob[:90],
			"cut tar":   raw[:600],
		} {
			_, err := s.Import(context.Background(), "-", bytes.NewReader(body), "x", imgfs.LoadOptions{})
			if !isRefusal(err) {
				t.Errorf("%s: %v, want a refusal", what, err)
			}
		}
		cutXZ, err := os.ReadFile(compressWhole(t, path, "xz"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Import(context.Background(), "-", bytes.NewReader(cutXZ[:len(cutXZ)/2]), "x", imgfs.LoadOptions{}); !isRefusal(err) {
			t.Errorf("cut xz: %v, want a refusal", err)
		}
		if _, err := s.Import(context.Background(), path, nil, "Bad Name", imgfs.LoadOptions{}); err == nil {
			t.Error("a bad name was taken")
		}
		if _, err := s.Import(context.Background(), dir, nil, "x", imgfs.LoadOptions{}); err == nil {
			t.Error("a directory was taken")
		}
		sameListing(t, listing(t, s), "")
	})
}
