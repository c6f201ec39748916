// SPDX-License-Identifier: Apache-2.0

package imgfs_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/tartest"
	"github.com/imgfs/imgfs/layerstore"
)

// The layers that these tests commit onto, and what they commit.
const (
	commitBase = "etc/ etc/a=A etc/b=B etc/hard=>etc/a opq/ opq/old=x gone=1 link->etc/a || etc/c=C su:4755=s"
	commitTop  = "etc/ etc/.wh.b etc/a=changed etc/d=>etc/a opq/ opq/.wh..wh..opq opq/new=n .wh.gone new/ new/fifo| new/null%1,3 own@7:8=o"
)

var commitTime = time.Unix(1_700_000_000, 0)

// commitTar commits a tar onto the image arg as ref, in the store or a file.
func commitTar(t testing.TB, s *imgfs.Store, arg, ref string, raw []byte, opt imgfs.CommitOptions) (digest.Digest, error) {
	t.Helper()
	base, err := s.OpenImage(context.Background(), arg, nil, imgfs.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	if opt.Created.IsZero() {
		opt.Created = commitTime
	}
	return s.CommitLayer(context.Background(), base, ref, writes(raw), opt)
}

func writes(raw []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := w.Write(raw)
		return err
	}
}

func mustCommit(t testing.TB, s *imgfs.Store, arg, ref string, raw []byte, opt imgfs.CommitOptions) digest.Digest {
	t.Helper()
	id, err := commitTar(t, s, arg, ref, raw, opt)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func mustInfo(t testing.TB, s *imgfs.Store, arg string) *imgfs.ImageInfo {
	t.Helper()
	info, err := s.Info(context.Background(), arg, imgfs.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func change(t testing.TB, text string) image.Change {
	t.Helper()
	c, err := image.ParseChange(text)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// loadedTree is the tree of an image of layers that are loaded, not committed.
func loadedTree(t testing.TB, text string) map[string]treeFile {
	t.Helper()
	s := openStore(t)
	mustLoad(t, s, textImage(t, "docker.io/library/want:latest", "", text))
	return treeOf(t, s, "want")
}

// dockerArchive writes what "docker save" wrote before it wrote OCI.
func dockerArchive(t testing.TB, name, text string) string {
	t.Helper()
	tw := newTar(t)
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, RootFS: ocispec.RootFS{Type: "layers"}}
	var files []string
	for i, l := range textLayers(t, "", text) {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(l.tar))
		files = append(files, fmt.Sprintf("%d/layer.tar", i))
		tw.file(files[i], l.tar)
	}
	raw, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	file := digest.FromBytes(raw).Encoded() + ".json"
	tw.file(file, raw)
	list, err := json.Marshal([]any{map[string]any{"Config": file, "RepoTags": []string{name}, "Layers": files}})
	if err != nil {
		t.Fatal(err)
	}
	tw.file("manifest.json", list)
	path := filepath.Join(t.TempDir(), "docker.tar")
	if err := os.WriteFile(path, tw.bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// commitBases are the same image in several forms.
func commitBases(t testing.TB) map[string]string {
	return map[string]string{
		"oci gzip":       textImage(t, "docker.io/library/base:latest", "gzip", commitBase),
		"oci plain":      textImage(t, "docker.io/library/base:latest", "", commitBase),
		"oci zstd":       textImage(t, "docker.io/library/base:latest", "zstd", commitBase),
		"docker-archive": dockerArchive(t, "base:latest", commitBase),
	}
}

func TestCommitLayer(t *testing.T) {
	want := loadedTree(t, commitBase+" || "+commitTop)
	top := tartest.Tar(t, commitTop)
	for name, path := range commitBases(t) {
		for _, how := range []string{"", "gzip", "zstd", "none"} {
			t.Run(name+"/"+how, func(t *testing.T) {
				s := openStore(t)
				mustLoad(t, s, path)
				old := mustInfo(t, s, "base")
				id := mustCommit(t, s, "base", "new:1", top, imgfs.CommitOptions{
					Author: "me", Message: "why", CreatedBy: "by hand", Compression: how,
					Changes: []image.Change{change(t, `CMD ["a"]`), change(t, "ENV A=1")},
				})
				diffTrees(t, "committed", treeOf(t, s, "new:1"), want)
				diffTrees(t, "by id", treeOf(t, s, string(id)), want)
				checkCommitted(t, old, mustInfo(t, s, "new:1"), top, how)
				if got := tmpFiles(t, s); len(got) > 0 {
					t.Errorf("left behind: %q", got)
				}
				if again := mustInfo(t, s, "base"); again.ID != old.ID || again.Digest != old.Digest {
					t.Errorf("the base is now %s", again.ID)
				}
			})
		}
	}
}

// checkCommitted compares the documents of a committed image with its base's.
func checkCommitted(t *testing.T, old, got *imgfs.ImageInfo, top []byte, how string) {
	t.Helper()
	c, err := image.ParseConfig(got.Config)
	if err != nil {
		t.Fatal(err)
	}
	n := len(old.Layers)
	if len(c.RootFS.DiffIDs) != n+1 || len(got.Layers) != n+1 || c.RootFS.DiffIDs[n] != digest.FromBytes(top) || !slices.Equal(c.RootFS.DiffIDs[:n], old.DiffIDs) {
		t.Fatalf("diff_ids %v on top of %v", c.RootFS.DiffIDs, old.DiffIDs)
	}
	line := c.LayerHistory()[n]
	if line.Author != "me" || line.Comment != "why" || line.CreatedBy != "by hand" || !line.Created.Equal(commitTime) || !got.Created.Equal(commitTime) || c.Author != "me" {
		t.Errorf("history %+v, created %v, author %q", line, got.Created, c.Author)
	}
	if !slices.Equal(c.Config.Cmd, []string{"a"}) || !slices.Contains(c.Config.Env, "A=1") {
		t.Errorf("config %+v", c.Config)
	}
	m, err := image.ParseManifest(got.Manifest, "")
	if err != nil {
		t.Fatal(err)
	}
	before, err := image.ParseManifest(old.Manifest, "")
	if err != nil {
		t.Fatal(err)
	}
	docker := before.MediaType == image.MediaTypeDockerManifest
	if (m.MediaType == image.MediaTypeDockerManifest) != (docker && how != "zstd") {
		t.Errorf("the manifest is %s, was %s", m.MediaType, before.MediaType)
	}
	for i, l := range before.Layers {
		if m.Layers[i].Digest != l.Digest || m.Layers[i].Size != l.Size || how != "zstd" && m.Layers[i].MediaType != l.MediaType {
			t.Errorf("layer %d is %+v, was %+v", i, m.Layers[i], l)
		}
	}
	suffix := map[string]string{"": "gzip", "gzip": "gzip", "zstd": "zstd", "none": ".tar"}[how]
	if got := m.Layers[n].MediaType; !strings.HasSuffix(got, suffix) {
		t.Errorf("the new layer is %s, want …%s", got, suffix)
	}
	if got.Layers[n].Oddities != 0 || got.Layers[n].TarSize != int64(len(top)) {
		t.Errorf("the new layer: %+v", got.Layers[n])
	}
}

// A store that has never seen another, or as many processors, makes the same.
func TestCommitReproducible(t *testing.T) {
	big := newTar(t)
	for i := range 3 {
		big.file(fmt.Sprint("f", i), bytes.Repeat([]byte("some text, and more "), 100_000))
	}
	top := big.bytes()
	for _, how := range []string{"gzip", "zstd", "none"} {
		var want string
		for _, procs := range []int{1, 4} {
			old := runtime.GOMAXPROCS(procs)
			s := openStore(t)
			mustLoad(t, s, textImage(t, "docker.io/library/base:latest", "gzip", commitBase))
			t.Setenv("SOURCE_DATE_EPOCH", "1234567")
			base, err := s.OpenImage(context.Background(), "base", nil, imgfs.OpenOptions{})
			if err != nil {
				t.Fatal(err)
			}
			_, err = s.CommitLayer(context.Background(), base, "new", func(w io.Writer) error {
				for p := top; len(p) > 0; {
					n, err := w.Write(p[:min(len(p), 1000*procs+7)])
					if err != nil {
						return err
					}
					p = p[n:]
				}
				return nil
			}, imgfs.CommitOptions{Compression: how, Message: "m"})
			if err := errors.Join(err, base.Close()); err != nil {
				t.Fatal(err)
			}
			runtime.GOMAXPROCS(old)
			info := mustInfo(t, s, "new")
			got := fmt.Sprintln(info.ID, info.Digest, info.Layers[len(info.Layers)-1].Digest)
			if want == "" {
				want = got
			}
			if got != want {
				t.Errorf("%s: got %s, want %s", how, got, want)
			}
			if info.Created.Unix() != 1234567 {
				t.Errorf("created %s", info.Created)
			}
		}
	}
}

// A commit that fails leaves no trace.
func TestCommitFails(t *testing.T) {
	s := openStore(t)
	mustLoad(t, s, textImage(t, "docker.io/library/base:latest", "gzip", commitBase))
	before := listing(t, s)
	base, err := s.OpenImage(context.Background(), "base", nil, imgfs.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	top := tartest.Tar(t, commitTop)
	own := errors.New("of its own")
	noise := encodableNoise(3 << 20)
	tests := []struct {
		name  string
		ref   string
		write func(context.CancelFunc, io.Writer) error
		opt   imgfs.CommitOptions
		want  func(error) bool
	}{
		{"the writer", "new", func(_ context.CancelFunc, w io.Writer) error {
			w.Write(noise)
			return own
		}, imgfs.CommitOptions{}, func(err error) bool { return errors.Is(err, own) }},
		{"the writer, before it began", "new", func(_ context.CancelFunc, w io.Writer) error { return own }, imgfs.CommitOptions{}, func(err error) bool { return errors.Is(err, own) }},
		{"the context", "new", func(cancel context.CancelFunc, w io.Writer) error {
			cancel()
			for {
				if _, err := w.Write(noise); err != nil {
					return fmt.Errorf("wrapped: %w", err)
				}
			}
		}, imgfs.CommitOptions{}, func(err error) bool { return errors.Is(err, context.Canceled) }},
		{"the context at the end", "new", func(cancel context.CancelFunc, w io.Writer) error {
			_, err := w.Write(top)
			cancel()
			return err
		}, imgfs.CommitOptions{}, func(err error) bool { return errors.Is(err, context.Canceled) }},
		{"no tar", "new", func(_ context.CancelFunc, w io.Writer) error {
			for {
				if _, err := w.Write(noise); err != nil {
					return fmt.Errorf("wrapped: %w", err)
				}
			}
		}, imgfs.CommitOptions{}, func(err error) bool { return errors.Is(err, index.ErrBadLayer) }},
		{"a tar cut short", "new", func(_ context.CancelFunc, w io.Writer) error {
			_, err := w.Write(tartest.Tar(t, "a=text")[:600])
			return err
		}, imgfs.CommitOptions{Compression: "zstd"}, func(err error) bool { return errors.Is(err, index.ErrBadLayer) }},
		{"a link to nothing", "new", func(_ context.CancelFunc, w io.Writer) error {
			_, err := w.Write(tartest.Tar(t, "a=>nothing"))
			return err
		}, imgfs.CommitOptions{}, func(err error) bool { return errors.Is(err, index.ErrBadLayer) }},
		{"a change", "new", func(context.CancelFunc, io.Writer) error { panic("called") }, imgfs.CommitOptions{Changes: []image.Change{change(t, "STOPSIGNAL $X")}},
			func(err error) bool { var e *image.ChangeError; return errors.As(err, &e) }},
		{"a name", "New", nil, imgfs.CommitOptions{}, func(err error) bool { return errors.Is(err, imgfs.ErrOption) && strings.Contains(err.Error(), `"New"`) }},
		{"a digest", "x@sha256:" + strings.Repeat("0", 64), nil, imgfs.CommitOptions{}, func(err error) bool {
			return errors.Is(err, imgfs.ErrOption) && strings.Contains(err.Error(), "cannot be given a digest")
		}},
		{"a compression", "new", nil, imgfs.CommitOptions{Compression: "xz"}, func(err error) bool {
			return errors.Is(err, imgfs.ErrOption) && strings.Contains(err.Error(), "gzip, zstd or none")
		}},
		{"a level", "new", nil, imgfs.CommitOptions{Level: 10}, func(err error) bool {
			return errors.Is(err, imgfs.ErrOption) && strings.Contains(err.Error(), "1 to 9")
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			_, err := s.CommitLayer(ctx, base, tt.ref, func(w io.Writer) error { return tt.write(cancel, w) }, tt.opt)
			if err == nil || !tt.want(err) {
				t.Errorf("got %v", err)
			}
			sameListing(t, listing(t, s), before)
			if got := tmpFiles(t, s); len(got) > 0 {
				t.Errorf("left behind: %q", got)
			}
		})
	}
	t.Run("a panic", func(t *testing.T) {
		func() {
			defer func() {
				if p := recover(); p != "ours" {
					t.Errorf("got panic %v", p)
				}
			}()
			s.CommitLayer(context.Background(), base, "new", func(w io.Writer) error {
				w.Write(noise)
				panic("ours")
			}, imgfs.CommitOptions{})
		}()
		sameListing(t, listing(t, s), before)
		if got := tmpFiles(t, s); len(got) > 0 {
			t.Errorf("left behind: %q", got)
		}
	})
}

// encodableNoise returns bytes that are no tar and do not compress.
func encodableNoise(n int) []byte {
	b := make([]byte, n)
	x := uint64(88172645463325252)
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x)
	}
	return b
}

// Layers of a file that is open in place come along; the base gets no name.
func TestCommitInPlace(t *testing.T) {
	want := loadedTree(t, commitBase+" || "+commitTop)
	for name, path := range commitBases(t) {
		t.Run(name, func(t *testing.T) {
			s := openStore(t)
			mustCommit(t, s, path, "new", tartest.Tar(t, commitTop), imgfs.CommitOptions{})
			os.Remove(path)
			diffTrees(t, "committed", treeOf(t, s, "new"), want)
			list, err := s.Images(context.Background())
			if err != nil || len(list) != 1 {
				t.Errorf("got %+v, %v", list, err)
			}
			if blobs, err := os.ReadDir(filepath.Join(s.Root(), "blobs/sha256")); err != nil || len(blobs) != 5 {
				t.Errorf("%d blobs, %v, want 3 layers and 2 documents", len(blobs), err)
			}
		})
	}
}

func TestCommitChain(t *testing.T) {
	s := openStore(t)
	mustLoad(t, s, textImage(t, "docker.io/library/base:latest", "gzip", "d/ d/f0=0"))
	text := "d/ d/f0=0"
	for i := 1; i <= 6; i++ {
		top := fmt.Sprintf("d/ d/f%d=%d d/.wh.f%d", i, i, i-1)
		how := []string{"gzip", "zstd", "none"}[i%3]
		mustCommit(t, s, "base", "base", tartest.Tar(t, top), imgfs.CommitOptions{Compression: how, CreatedBy: fmt.Sprint("step ", i)})
		text += " || " + top
	}
	diffTrees(t, "chain", treeOf(t, s, "base"), loadedTree(t, text))
	c, err := image.ParseConfig(mustInfo(t, s, "base").Config)
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range c.LayerHistory() {
		if i > 0 && l.CreatedBy != fmt.Sprint("step ", i) {
			t.Errorf("layer %d is of %q", i, l.CreatedBy)
		}
	}
}

// An upper without changes still makes a layer; without a name the image is
// there by its ID.
func TestCommitEmpty(t *testing.T) {
	s := openStore(t)
	mustLoad(t, s, textImage(t, "docker.io/library/base:latest", "gzip", commitBase))
	id := mustCommit(t, s, "base", "", tartest.Tar(t, ""), imgfs.CommitOptions{Changes: []image.Change{change(t, "USER me")}})
	diffTrees(t, "empty", treeOf(t, s, string(id)), treeOf(t, s, "base"))
	if got, want := len(mustInfo(t, s, string(id)).Layers), len(mustInfo(t, s, "base").Layers)+1; got != want {
		t.Errorf("%d layers, want %d", got, want)
	}
}

// A base that has no layer yet.
func TestCommitOnNothing(t *testing.T) {
	b := newOCI(t)
	path := b.write(named(b.image("linux/amd64", nil, nil), "docker.io/library/base:latest"))
	for _, arg := range []string{"base", path} {
		s := openStore(t)
		mustLoad(t, s, path)
		mustCommit(t, s, arg, "new", tartest.Tar(t, "a=1"), imgfs.CommitOptions{})
		diffTrees(t, arg, treeOf(t, s, "new"), loadedTree(t, "a=1"))
	}
}

// TestHelperCommit is no test: it is the process that TestKillDuringCommit
// kills.
func TestHelperCommit(t *testing.T) {
	root := os.Getenv("IMGFS_TEST_COMMIT_ROOT")
	if root == "" {
		return // not that child
	}
	s, err := imgfs.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	tw := newTar(t)
	for i := range 8 {
		tw.file(fmt.Sprint("f", i), encodableNoise(100_000))
	}
	mustCommit(t, s, "base", "new", tw.bytes(), imgfs.CommitOptions{})
}

func TestKillDuringCommit(t *testing.T) {
	path := textImage(t, "docker.io/library/base:latest", "gzip", commitBase)
	process := func(s *imgfs.Store) *exec.Cmd {
		mustLoad(t, s, path)
		cmd := exec.Command(os.Args[0], "-test.run=^TestHelperCommit$")
		cmd.Env = append(os.Environ(), "IMGFS_TEST_COMMIT_ROOT="+s.Root())
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	s := openStore(t)
	cmd := process(s)
	began := time.Now()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	k := killer{whole: time.Since(began), rounds: 16}
	want := treeOf(t, s, "new")
	for k.next() {
		s := openStore(t)
		k.wait(process(s))
		if _, err := s.Info(context.Background(), "new", imgfs.OpenOptions{}); err == nil {
			diffTrees(t, fmt.Sprintf("round %d, as it was left", k.round), treeOf(t, s, "new"), want)
		} else if !errors.Is(err, image.ErrNotFound) {
			t.Error(err)
		}
		checkFiles(t, s)
		if err := process(s).Wait(); err != nil {
			t.Fatal(err)
		}
		diffTrees(t, fmt.Sprintf("round %d, committed again", k.round), treeOf(t, s, "new"), want)
	}
	k.end(t)
}

// A name that is taken moves; what it named stays without a name.
func TestCommitMovesName(t *testing.T) {
	s := openStore(t)
	mustLoad(t, s, textImage(t, "docker.io/library/base:latest", "gzip", commitBase))
	old := mustInfo(t, s, "base").ID
	id := mustCommit(t, s, "base", "base", tartest.Tar(t, "x"), imgfs.CommitOptions{})
	if got := mustInfo(t, s, "base").ID; got != id {
		t.Errorf("base is %s, want %s", got, id)
	}
	if got := mustInfo(t, s, string(old)); got.ID != old || len(got.RepoTags) != 0 {
		t.Errorf("the old one is %s %v", got.ID, got.RepoTags)
	}
}

func TestCommitTogether(t *testing.T) {
	s := openStore(t)
	mustLoad(t, s, textImage(t, "docker.io/library/base:latest", "gzip", commitBase))
	base, err := s.OpenImage(context.Background(), "base", nil, imgfs.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	var g errgroup.Group
	for i := range 8 {
		raw := tartest.Tar(t, fmt.Sprintf("f%d same=%d", i, i/2))
		g.Go(func() error {
			_, err := s.CommitLayer(context.Background(), base, fmt.Sprint("new", i), writes(raw), imgfs.CommitOptions{})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for i := range 8 {
		files := treeOf(t, s, fmt.Sprint("new", i))
		if _, ok := files[fmt.Sprint("f", i)]; !ok || len(files) != len(treeOf(t, s, "base"))+2 {
			t.Errorf("new%d has %d files", i, len(files))
		}
	}
}

// A base whose layer goes away meanwhile makes no image that cannot be read.
func TestCommitVanished(t *testing.T) {
	s := openStore(t)
	mustLoad(t, s, textImage(t, "docker.io/library/base:latest", "gzip", commitBase))
	base, err := s.OpenImage(context.Background(), "base", nil, imgfs.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	layer := mustInfo(t, s, "base").Layers[0].Digest
	_, err = s.CommitLayer(context.Background(), base, "new", func(w io.Writer) error {
		_, err := w.Write(tartest.Tar(t, "x"))
		return errors.Join(err, os.Remove(filepath.Join(s.Root(), "blobs/sha256", layer.Encoded())))
	}, imgfs.CommitOptions{})
	if !errors.Is(err, layerstore.ErrVanished) {
		t.Errorf("got %v", err)
	}
	if _, err := s.Info(context.Background(), "new", imgfs.OpenOptions{}); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("the new image: %v", err)
	}
}

// A full disk ends a commit; with space again it works.
func TestCommitDiskFull(t *testing.T) {
	dir := smallDisk(t, 12<<20)
	s, err := imgfs.Open(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	mustLoad(t, s, textImage(t, "docker.io/library/base:latest", "gzip", commitBase))
	before := listing(t, s)
	big := newTar(t)
	big.file("big", encodableNoise(20<<20))
	if _, err := commitTar(t, s, "base", "new", big.bytes(), imgfs.CommitOptions{}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v", err)
	}
	sameListing(t, listing(t, s), before)
	if got := tmpFiles(t, s); len(got) > 0 {
		t.Errorf("left behind: %q", got)
	}
	mustCommit(t, s, "base", "new", tartest.Tar(t, commitTop), imgfs.CommitOptions{})
}

// writeLayout writes an image of the store as an OCI layout with the tag
// "judged": its blobs, hard-linked.
func writeLayout(t testing.TB, s *imgfs.Store, arg string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "oci")
	info := mustInfo(t, s, arg)
	m, err := image.ParseManifest(info.Manifest, "")
	if err != nil {
		t.Fatal(err)
	}
	root := ocispec.Descriptor{
		MediaType: m.MediaType, Digest: info.Digest, Size: int64(len(info.Manifest)),
		Annotations: map[string]string{ocispec.AnnotationRefName: "judged"},
	}
	if err := os.MkdirAll(filepath.Join(dir, "blobs/sha256"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range append(m.Layers, m.Config, root) {
		name := "blobs/sha256/" + d.Digest.Encoded()
		if err := os.Link(filepath.Join(s.Root(), name), filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrExist) {
			t.Fatal(err)
		}
	}
	x := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{root}}
	x.SchemaVersion = 2
	raw, err := json.Marshal(x)
	if err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string][]byte{"index.json": raw, "oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`)} {
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// writeDir writes an image of the store as skopeo's "dir:".
func writeDir(t testing.TB, s *imgfs.Store, arg string) string {
	t.Helper()
	dir := t.TempDir()
	info := mustInfo(t, s, arg)
	m, err := image.ParseManifest(info.Manifest, "")
	if err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string][]byte{"manifest.json": info.Manifest, "version": []byte("Directory Transport Version: 1.1\n")} {
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range append(m.Layers, m.Config) {
		hex := d.Digest.Encoded()
		if err := os.Link(filepath.Join(s.Root(), "blobs/sha256", hex), filepath.Join(dir, hex)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// What umoci unpacks of a committed image is what we show of it, and what
// skopeo makes of it in other forms comes back the same.
func TestCommitAgainstUmoci(t *testing.T) {
	unraced(t)
	needTools(t, "umoci", "skopeo")
	layers := judgeLayers(t)
	b := newOCI(t)
	oci := b.write(named(b.image("linux/amd64", []packedLayer{packed(t, layers[0], "gzip")}, nil), "docker.io/library/base:latest"))
	docker := filepath.Join(t.TempDir(), "docker.tar")
	run(t, "skopeo", "--insecure-policy", "copy", "-q", "oci-archive:"+oci, "docker-archive:"+docker+":base:latest")
	for _, tt := range []struct{ name, path, how string }{
		{"oci with gzip", oci, "gzip"}, {"oci with zstd", oci, "zstd"}, {"oci, plain", oci, "none"},
		{"docker with gzip", docker, "gzip"}, {"docker with zstd", docker, "zstd"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := openStore(t)
			mustLoad(t, s, tt.path)
			for _, raw := range layers[1:] {
				mustCommit(t, s, "base", "base", raw, imgfs.CommitOptions{
					Compression: tt.how, Author: "me", Message: "m", CreatedBy: "test",
					Changes: []image.Change{change(t, "ENV A=b"), change(t, "EXPOSE 80"), change(t, "HEALTHCHECK CMD true"), change(t, "LABEL l=<&>")},
				})
			}
			want := treeOf(t, s, "base")
			from := "oci:" + writeLayout(t, s, "base") + ":judged"
			isDocker := tt.name == "docker with gzip" // no layout can hold docker's media types
			if isDocker {
				from = "dir:" + writeDir(t, s, "base")
			}
			inspected := filepath.Join(t.TempDir(), "inspect.json")
			run(t, "sh", "-c", `skopeo inspect "$1" >"$2"`, "sh", from, inspected)
			raw, err := os.ReadFile(inspected)
			if err != nil {
				t.Fatal(err)
			}
			var got struct {
				Digest string
				Labels map[string]string
				Env    []string
				Layers []string
			}
			if err := json.Unmarshal(raw, &got); err != nil {
				t.Fatal(err)
			}
			if info := mustInfo(t, s, "base"); got.Digest != string(info.Digest) || len(got.Layers) != 3 || got.Labels["l"] != "<&>" || !slices.Contains(got.Env, "A=b") {
				t.Errorf("skopeo sees %s", raw)
			}

			dir := t.TempDir()
			// As gzip in any case: there are umocis that know no zstd.
			run(t, "skopeo", "--insecure-policy", "copy", "-q", "--format", "oci", "--dest-compress", "--dest-compress-format=gzip", from, "oci:"+dir+"/o:judged")
			if tt.how != "zstd" { // skopeo makes no docker-archive of zstd
				run(t, "skopeo", "--insecure-policy", "copy", "-q", from, "docker-archive:"+dir+"/d.tar:judged:latest")
				again := openStore(t)
				mustLoad(t, again, dir+"/d.tar")
				diffTrees(t, "by docker-archive", treeOf(t, again, "judged"), want)
			}
			if !isDocker && tt.how != "zstd" {
				judged(t, strings.Split(from, ":")[1], "judged", want)
			}
			judged(t, dir+"/o", "judged", want)
		})
	}
}

// Images of many makers take one layer more and lose nothing, neither files nor
// fields.
func TestCommitOntoSamples(t *testing.T) {
	dir := sampleDir(t)
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	committed := 0
	for _, f := range files {
		s := openStore(t)
		path := filepath.Join(dir, f.Name())
		base, err := s.OpenImage(context.Background(), path, nil, imgfs.OpenOptions{})
		if err != nil {
			continue // refused, or several images: TestSamples knows
		}
		old := readTree(t, base.FS)
		before, err := s.Info(context.Background(), path, imgfs.OpenOptions{})
		if err == nil {
			_, err = s.CommitLayer(context.Background(), base, "new", writes(tartest.Tar(t, "added/ added/f=1")), imgfs.CommitOptions{})
		}
		if err := errors.Join(err, base.Close()); err != nil {
			t.Errorf("%s: %v", f.Name(), err)
			continue
		}
		committed++
		now := treeOf(t, s, "new")
		if _, ok := now["added/f"]; !ok {
			t.Errorf("%s: the new file is not there", f.Name())
		}
		delete(now, "added")
		delete(now, "added/f")
		for _, files := range []map[string]treeFile{now, old} {
			for name, f := range files {
				f.Ino = 0
				if name == "." {
					f.Nlink = 0
				}
				files[name] = f
			}
		}
		diffTrees(t, f.Name(), now, old)
		sameFields(t, f.Name(), mustInfo(t, s, "new").Config, before.Config)
	}
	if committed < 15 {
		t.Errorf("only %d samples were committed onto", committed)
	}
}

// sameFields reports the fields of a config that a commit has lost or changed
// without need.
func sameFields(t *testing.T, what string, got, want []byte) {
	t.Helper()
	var a, b map[string]any
	if err := errors.Join(json.Unmarshal(got, &a), json.Unmarshal(want, &b)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"created", "author", "comment", "history", "rootfs", "container", "container_config", "parent"} {
		delete(a, name)
		delete(b, name)
	}
	if a["config"] == nil || b["config"] == nil { // empty and missing are the same
		delete(a, "config")
		delete(b, "config")
	}
	if !reflect.DeepEqual(a, b) {
		t.Errorf("%s: config\n got %v\nwant %v", what, a, b)
	}
}

func BenchmarkCommit(b *testing.B) {
	s := openStore(b)
	mustLoad(b, s, textImage(b, "docker.io/library/base:latest", "gzip", commitBase))
	tw := newTar(b)
	for i := range 64 {
		raw := encodableNoise(1 << 20)
		for k := range raw {
			if k%512 > i*4 {
				raw[k] = byte(k)
			}
		}
		tw.file(fmt.Sprint("f", i), raw)
	}
	top := tw.bytes()
	for _, how := range []string{"gzip", "zstd", "none"} {
		b.Run(how, func(b *testing.B) {
			b.SetBytes(int64(len(top)))
			for b.Loop() {
				mustCommit(b, s, "base", "new", top, imgfs.CommitOptions{Compression: how})
			}
		})
	}
}
