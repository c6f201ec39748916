// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/ulikunitz/xz"

	"github.com/imgfs/imgfs/image"
)

// samplesDir returns the folder of image files that other tools made, which
// may stand beside the checkout.
func samplesDir(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
			continue
		}
		samples := filepath.Join(dir, "..", "shared", "images")
		if _, err := os.Stat(samples); err == nil {
			return samples
		}
		break
	}
	t.Skip("no folder ../shared/images beside the checkout")
	return ""
}

// openAny opens path, decompressing it to a temporary file first if it must.
func openAny(t *testing.T, path string) (*Source, error) {
	t.Helper()
	s, err := Open(path)
	if !errors.Is(err, ErrCompressed) {
		return s, err
	}
	in, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.CreateTemp(t.TempDir(), "spool")
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(out, decompressor(t, in))
	if err != nil {
		t.Fatal(err)
	}
	return OpenFile(out, n)
}

// decompressor returns r without the compression its magic number tells.
func decompressor(t *testing.T, r io.ReadSeeker) io.Reader {
	t.Helper()
	head := make([]byte, 8)
	n, _ := io.ReadFull(r, head)
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	var out io.Reader = r
	var err error
	switch compression(head[:n]) {
	case "gzip":
		out, err = gzip.NewReader(r)
	case "xz":
		out, err = xz.NewReader(r)
	case "zstd":
		out, err = zstd.NewReader(r)
	case "bzip2":
		out = bzip2.NewReader(r)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// checkLayers reads every layer of the usable images and compares digest and
// diffID. It returns how many it read.
func checkLayers(t *testing.T, s *Source) int {
	t.Helper()
	read := 0
	for _, e := range s.Entries() {
		for _, m := range e.Images {
			if m.Missing != nil || m.Attestation {
				continue
			}
			for i, l := range m.Layers {
				stored := digest.Canonical.Digester()
				if _, err := io.Copy(stored.Hash(), io.NewSectionReader(l.Blob, 0, l.Blob.Size())); err != nil {
					t.Fatal(err)
				}
				if l.Desc.Digest != "" && stored.Digest() != l.Desc.Digest {
					t.Errorf("%q layer %d: digest %s, want %s", e.Names, i, stored.Digest(), l.Desc.Digest)
				}
				diff := digest.Canonical.Digester()
				if _, err := io.Copy(diff.Hash(), decompressor(t, io.NewSectionReader(l.Blob, 0, l.Blob.Size()))); err != nil {
					t.Errorf("%q layer %d: %v", e.Names, i, err)
				} else if diff.Digest() != l.DiffID {
					t.Errorf("%q layer %d: diffID %s, want %s", e.Names, i, diff.Digest(), l.DiffID)
				}
				read++
			}
		}
	}
	return read
}

func TestSamples(t *testing.T) {
	dir := samplesDir(t)
	const lib = "docker.io/library/"
	tests := []struct {
		file, format string
		names        string // of all entries, by commas; entries by spaces
		layers       int    // of all usable images
	}{
		{"alpine-310.tar.gz", FormatDockerArchive, lib + "alpine:3.10", 1},
		{"cimage-almostempty.tar", FormatDockerArchive, lib + "emptyimage:latest", 1},
		{"dive-oci-estargz.tar", FormatOCIArchive, "", 1},
		{"dive-oci-gzip.tar", FormatOCIArchive, "", 1},
		{"dive-oci-uncompressed.tar", FormatOCIArchive, "", 1},
		{"dive-oci-zstd.tar", FormatOCIArchive, "", 1},
		{"ggcr-overwritten_file.tar", FormatDockerArchive, "docker.io/bazel/pkg/v1/mutate:overwritten_file", 3},
		{"ggcr-source_image_with_empty_layer_history.tar", FormatDockerArchive, "docker.io/bazel/pkg/v1/mutate:source_image", 1},
		{"ggcr-test_bundle.tar", FormatDockerArchive, lib + "test_image_2:latest " + lib + "test_image_1:latest", 2},
		{"ggcr-test_image_1.tar", FormatDockerArchive, "docker.io/bazel/v1/tarball:test_image_1", 1},
		{"ggcr-whiteout_image.tar", FormatDockerArchive, "docker.io/bazel/pkg/v1/mutate:whiteout_image", 3},
		{"oras-hello-world.tar", FormatOCIArchive, lib + "hello-world:latest", 1},
		{"oras-hello-world-prefixed-path.tar", FormatOCIArchive, lib + "hello-world:latest", 1},
		{"podman-docker-two-images.tar.xz", FormatDockerArchive, "example.com/empty:latest example.com/empty/but:different", 2},
		{"podman-docker-two-names.tar.xz", FormatDockerArchive, lib + "pretty-empty:latest,example.com/empty:latest", 1},
		{"podman-docker-unnamed.tar.xz", FormatDockerArchive, "", 1},
		{"podman-oci-name-only.tar.gz", FormatOCIArchive, lib + "pretty-empty:latest", 1},
		{"podman-oci-non-docker-name.tar.gz", FormatOCIArchive, "UPPERCASE-IS-INVALID", 1},
		{"scalibr-symlink-basic.tar", FormatDockerArchive, lib + "symlink-basic:latest", 1},
		{"scalibr-symlink-cycle.tar", FormatDockerArchive, lib + "symlink-cycle:latest", 1},
		{"scalibr-symlink-dangling.tar", FormatDockerArchive, lib + "dangling-symlinks:latest", 2},
		{"scalibr-unpack-symlinks.tar", FormatDockerArchive, lib + "symlinks:latest", 2},
		{"stereoscope-multiplatform-oci-dir", FormatOCIDir, lib + "multi-platform:latest", 2},
		{"stereoscope-valid-oci.tar", FormatOCIArchive, lib + "sample:latest", 1},
	}
	for _, tt := range tests {
		t.Run(tt.file, func(t *testing.T) {
			s, err := openAny(t, filepath.Join(dir, tt.file))
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			var names []string
			for i := range s.Entries() {
				e := &s.Entries()[i]
				names = append(names, strings.Join(e.Names, ","))
				if _, err := e.Select(nil); err != nil {
					t.Errorf("entry %d: %v", i, err)
				}
			}
			if got := strings.Join(names, " "); got != tt.names || s.Format() != tt.format {
				t.Errorf("\n got %s %q\nwant %s %q", s.Format(), got, tt.format, tt.names)
			}
			if got := checkLayers(t, s); got != tt.layers {
				t.Errorf("%d layers, want %d", got, tt.layers)
			}
		})
	}
	for file, target := range map[string]error{
		"ggcr-no_manifest.tar":          image.ErrMalformed,
		"ggcr-null_manifest.tar":        image.ErrMalformed,
		"dive-gzip.tar":                 ErrNotImage,
		"containerdiff-la-croix-wh.tar": ErrNotImage,
	} {
		if s, err := Open(filepath.Join(dir, file)); !errors.Is(err, target) {
			t.Errorf("%s: got %v, %v; want %v", file, s, err, target)
		}
	}
}

// TestSkopeo has skopeo write one image in each of its formats.
func TestSkopeo(t *testing.T) {
	if _, err := exec.LookPath("skopeo"); err != nil {
		t.Skip("no skopeo program")
	}
	img := makeOCI("linux/amd64", layerTar(t, "a"), layerTar(t, "b"))
	src := writeDir(t, concat(img.blobs, []testFile{layoutFile, indexFile(named(img.desc, "x"))})...)
	out := t.TempDir()
	for _, tt := range []struct{ transport, path, name, want, format string }{
		{"docker-archive", "d.tar", ":n:1", "docker.io/library/n:1", FormatDockerArchive},
		{"oci-archive", "o.tar", ":example.com/n:1", "example.com/n:1", FormatOCIArchive},
		{"oci", "dir", ":n:1", "docker.io/library/n:1", FormatOCIDir},
	} {
		path := filepath.Join(out, tt.path)
		cmd := exec.Command("skopeo", "--insecure-policy", "copy", "--override-arch=amd64", "-q", "oci:"+src+":x", tt.transport+":"+path+tt.name)
		if msg, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("skopeo: %v: %s", err, msg)
			continue
		}
		s, err := Open(path)
		if err != nil {
			t.Errorf("%s: %v", tt.transport, err)
			continue
		}
		if e := s.Entries(); s.Format() != tt.format || len(e) != 1 || !slices.Equal(e[0].Names, []string{tt.want}) {
			t.Errorf("%s: got %s %v", tt.transport, s.Format(), e[0].Names)
		}
		if n := checkLayers(t, s); n != 2 {
			t.Errorf("%s: %d layers, want 2", tt.transport, n)
		}
		s.Close()
	}
}
