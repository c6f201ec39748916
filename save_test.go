// SPDX-License-Identifier: Apache-2.0

package imgfs_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/internal/fusetest"
)

var saveFormats = []string{"docker-archive", "oci-archive", "oci-dir"}

func mustSave(t testing.TB, s *imgfs.Store, format, path string, images ...string) {
	t.Helper()
	if err := s.Save(context.Background(), path, nil, images, imgfs.SaveOptions{Format: format}); err != nil {
		t.Fatal(err)
	}
}

// savedArgs are the arguments that save what a load brought: names, and ids of
// what has none.
func savedArgs(loaded []imgfs.Loaded) []string {
	var args []string
	for _, l := range loaded {
		arg := l.Name
		if arg == "" {
			arg = string(l.ID)
		}
		if !slices.Contains(args, arg) {
			args = append(args, arg)
		}
	}
	return args
}

// documents are the digests of an image: its config, its layers as shipped,
// and, if all is true, its manifest.
func documents(t testing.TB, s *imgfs.Store, arg string, all bool) string {
	t.Helper()
	info, err := s.Info(context.Background(), arg, imgfs.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	text := info.ID.String()
	if all {
		text += " " + info.Digest.String()
	}
	for _, l := range info.Layers {
		text += " " + l.Digest.String()
	}
	return text
}

// roundTrip saves what was loaded in each format, loads that, and compares.
func roundTrip(t *testing.T, s *imgfs.Store, loaded []imgfs.Loaded) {
	args := savedArgs(loaded)
	dir := t.TempDir()
	for _, format := range saveFormats {
		path := filepath.Join(dir, format)
		mustSave(t, s, format, path, args...)
		again := openStore(t)
		got := mustLoad(t, again, path)
		if fmt.Sprint(got) != fmt.Sprint(loaded) {
			t.Errorf("%s\n got %v\nwant %v", format, got, loaded)
		}
		for _, arg := range args {
			// In OCI's formats a manifest of docker becomes one of OCI.
			all := format == "docker-archive"
			if got, want := documents(t, again, arg, all), documents(t, s, arg, all); got != want {
				t.Errorf("%s: %s\n got %s\nwant %s", format, arg, got, want)
			}
		}
		if format == "oci-dir" {
			continue
		}
		first, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		mustSave(t, s, format, path, args...)
		if second, err := os.ReadFile(path); err != nil || !bytes.Equal(first, second) {
			t.Errorf("%s: saved twice it differs (%v)", format, err)
		}
		var third bytes.Buffer
		if err := again.Save(context.Background(), "-", &third, args, imgfs.SaveOptions{Format: format}); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first, third.Bytes()) {
			t.Errorf("%s: what was loaded and saved again differs", format)
		}
	}
}

func TestSaveSamples(t *testing.T) {
	dir := sampleDir(t)
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		s := openStore(t)
		loaded, err := s.Load(context.Background(), filepath.Join(dir, e.Name()), nil, imgfs.LoadOptions{})
		if err != nil {
			continue // TestSamples knows which
		}
		t.Run(e.Name(), func(t *testing.T) { roundTrip(t, s, loaded) })
	}
}

func TestSaveMade(t *testing.T) {
	unraced(t)
	for _, shape := range []string{"tiny", "deep"} {
		t.Run(shape, func(t *testing.T) {
			s := openStore(t)
			roundTrip(t, s, mustLoad(t, s, fusetest.Image(t, shape)))
		})
	}
}

// manyPlatforms is a layout with an index for two platforms, one of them
// absent, under two tags, and another image of the repository.
func manyPlatforms(t testing.TB) string {
	b := newOCI(t)
	amd := b.image("linux/amd64", textLayers(t, "gzip", "a=amd"), nil)
	arm := b.image("linux/arm64", textLayers(t, "", "a=arm"), nil)
	absent := amd
	absent.Digest = "sha256:" + absent.Digest[7:71][32:] + absent.Digest[7:39]
	absent.Platform = &image.Platform{OS: "linux", Architecture: "s390x"}
	many := b.indexOf(amd, arm, absent)
	other := b.image("linux/amd64", textLayers(t, "zstd", "a=other"), nil)
	return b.write(named(many, "docker.io/library/many:1"), named(many, "docker.io/library/many:2"), named(other, "docker.io/library/many:3"))
}

func TestSavePlatforms(t *testing.T) {
	ctx := context.Background()
	s := openStore(t)
	mustLoad(t, s, manyPlatforms(t))
	info, err := s.Info(ctx, "many:1", imgfs.OpenOptions{Platform: "linux/arm64"})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	tests := []struct {
		name     string
		platform string
		args     string
		names    string // of the images that are loaded of it
		arm      bool   // the image for arm64 is in it
	}{
		{"a name with its index", "", "many:1", "many:1", true},
		{"a repository is all its tags", "", "many", "many:1 many:2 many:3", true},
		{"a name twice is one", "", "many:2 many:2 docker.io/library/many:2", "many:2", true},
		{"one platform, without its index", "linux/arm64", "many:1", "many:1", true},
		{"the other platform", "linux/amd64", "many:1", "many:1", false},
		{"an id has no name", "", info.ID.Encoded()[:12], "", true},
		{"nor has a digest", "", "many@" + string(info.Digest), "", true},
	}
	for _, tt := range tests {
		for _, format := range saveFormats {
			path := filepath.Join(dir, strings.ReplaceAll(tt.name+format, " ", "-"))
			err := s.Save(ctx, path, nil, strings.Fields(tt.args), imgfs.SaveOptions{Format: format, Platform: tt.platform})
			if err != nil {
				t.Errorf("%s: %v", tt.name, err)
				continue
			}
			again := openStore(t)
			var names []string
			for _, l := range mustLoad(t, again, path) {
				if l.Name != "" {
					names = append(names, l.Name)
				}
			}
			if got := strings.Join(names, " "); got != tt.names {
				t.Errorf("%s, %s: names %q, want %q", tt.name, format, got, tt.names)
			}
			got, err := again.Info(ctx, string(info.ID), imgfs.OpenOptions{})
			if (err == nil) != tt.arm || err == nil && got.Digest != info.Digest {
				t.Errorf("%s, %s: got %v, %v", tt.name, format, got, err)
			}
		}
	}
	for _, tt := range []struct {
		args, platform, format string
		want                   error
	}{
		{"many:1 nope", "", "", image.ErrNotFound},
		{"many:4", "", "", image.ErrNotFound},
		{"many:1", "linux/s390x", "", image.ErrNotFound},
		{"many:1", "no/such/thing/at/all", "", imgfs.ErrOption},
		{"many:1", "", "zip", imgfs.ErrOption},
	} {
		path := filepath.Join(dir, "not")
		err := s.Save(ctx, path, nil, strings.Fields(tt.args), imgfs.SaveOptions{Format: tt.format, Platform: tt.platform})
		if !errors.Is(err, tt.want) {
			t.Errorf("save %s %s %s: got %v, want %v", tt.args, tt.platform, tt.format, err, tt.want)
		}
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("save %s %s: a file is there", tt.args, tt.platform)
		}
	}
}

// TestSaveFails: what was at the path stays, and nothing is left beside it.
func TestSaveFails(t *testing.T) {
	ctx := context.Background()
	s := openStore(t)
	mustLoad(t, s, textImage(t, "docker.io/library/x:1", "", "a=text"))
	info, err := s.Info(ctx, "x:1", imgfs.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	d := info.Layers[0].Digest
	blob := filepath.Join(s.Root(), "blobs", d.Algorithm().String(), d.Encoded())
	raw, err := os.ReadFile(blob)
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	for _, tt := range []struct {
		name string
		ctx  context.Context
		do   func()
	}{
		{"the layer is damaged", ctx, func() {
			raw[600] ^= 1
			os.WriteFile(blob, raw, 0o600)
		}},
		{"the user has enough", ended, func() {}},
		{"the layer is short", ctx, func() { os.WriteFile(blob, raw[:512], 0o600) }},
		{"the layer is gone", ctx, func() { os.Remove(blob) }},
	} {
		tt.do()
		for _, format := range saveFormats {
			dir := t.TempDir()
			path := filepath.Join(dir, "out")
			if format != "oci-dir" {
				if err := os.WriteFile(path, []byte("before"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			err := s.Save(tt.ctx, path, nil, []string{"x:1"}, imgfs.SaveOptions{Format: format})
			if err == nil {
				t.Errorf("%s, %s: no error", tt.name, format)
			}
			list, _ := os.ReadDir(dir)
			was, _ := os.ReadFile(path)
			if format == "oci-dir" && len(list) > 0 || format != "oci-dir" && (len(list) != 1 || string(was) != "before") {
				t.Errorf("%s, %s: left %v", tt.name, format, list)
			}
		}
	}
}

// TestSaveJudged: tools of others read what Save writes, and see the tree.
func TestSaveJudged(t *testing.T) {
	unraced(t)
	needTools(t, "skopeo", "umoci", "podman")
	b := newOCI(t)
	var layers []packedLayer
	for i, raw := range judgeLayers(t) {
		layers = append(layers, packed(t, raw, []string{"gzip", "", "gzip"}[i]))
	}
	made := b.image("linux/amd64", layers, nil)
	s := openStore(t)
	mustLoad(t, s, b.write(named(made, "docker.io/library/made:1"), named(made, "example.com/also:2")))
	want := treeOf(t, s, "made:1")
	info, err := s.Info(context.Background(), "made:1", imgfs.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, format := range saveFormats {
		path := filepath.Join(dir, format)
		mustSave(t, s, format, path, "made:1", "example.com/also:2")
		from := strings.Replace(format, "oci-dir", "oci", 1) + ":" + path + ":example.com/also:2"
		layout := filepath.Join(dir, "of-"+format)
		run(t, "skopeo", "--insecure-policy", "copy", "-q", "--override-os=linux", "--override-arch=amd64", from, "oci:"+layout+":judged")
		out, err := exec.Command("skopeo", "inspect", "--override-arch=amd64", "--config", "--raw", from).CombinedOutput()
		if config, readErr := os.ReadFile(filepath.Join(s.Root(), "blobs/sha256", info.ID.Encoded())); err != nil || readErr != nil || !bytes.Equal(bytes.TrimSpace(out), bytes.TrimSpace(config)) {
			t.Errorf("%s: skopeo: %v: config\n got %s\nwant %s", format, err, out, config)
		}
		judged(t, layout, "judged", want)
		if format == "oci-dir" {
			judged(t, path, "made:1", want)
		}
	}
	mustSave(t, s, "oci-archive", filepath.Join(dir, "oci-archive"), "made:1") // podman takes one name of those
	for _, format := range []string{"docker-archive", "oci-archive"} {
		store := t.TempDir()
		podman := []string{"podman", "--root", store, "--runroot", t.TempDir(), "--storage-driver", "vfs"}
		run(t, append(podman, "load", "-q", "-i", filepath.Join(dir, format))...)
		out, err := exec.Command(podman[0], append(podman[1:], "image", "inspect", "-f", "{{.Id}}", "docker.io/library/made:1")...).CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != info.ID.Encoded() {
			t.Errorf("%s: podman has image %s, %v; want %s", format, got, err, info.ID.Encoded())
		}
	}
}

// TestSaveTar: the tar is what every reader of tars can read, and its times
// are those that the environment sets.
func TestSaveTar(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	s := openStore(t)
	mustLoad(t, s, textImage(t, "docker.io/library/x:1", "gzip", "a=text"))
	var out bytes.Buffer
	if err := s.Save(context.Background(), "-", &out, []string{"x:1"}, imgfs.SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(&out)
	var names []string
	for {
		h, err := r.Next()
		if err != nil {
			break
		}
		names = append(names, h.Name)
		if h.ModTime.Unix() != 1_700_000_000 || h.Uid != 0 || h.Uname != "" || h.Format&tar.FormatUSTAR == 0 {
			t.Errorf("%s: %+v", h.Name, h)
		}
	}
	if want := []string{"oci-layout", "index.json", "manifest.json", "blobs/", "blobs/sha256/"}; len(names) != len(want)+3 || !slices.Equal(names[:len(want)], want) {
		t.Errorf("got %q, want %q and three blobs", names, want)
	}
}
