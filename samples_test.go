// SPDX-License-Identifier: Apache-2.0

package imgfs_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/image"
)

// sampleDir returns the folder of images that other tools made, which lies
// beside the project, or skips.
func sampleDir(t testing.TB) string {
	t.Helper()
	dir, err := filepath.Abs("../shared/images")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "README.md")); err != nil {
		t.Skipf("no sample images beside the project: %v", err)
	}
	return dir
}

func TestSamples(t *testing.T) {
	dir := sampleDir(t)
	tests := []struct {
		file  string
		names string // as load prints them ("-": none), each with its ID; or "refused"
		holds string // paths that must be in the (first) tree
	}{
		{"alpine-310.tar.gz", "alpine:3.10 af341ccd2df8", "etc/os-release bin/busybox"},
		{"dive-oci-gzip.tar", "- 3eaccc100f86", ""},
		{"dive-oci-uncompressed.tar", "- 3eaccc100f86", ""},
		{"dive-oci-zstd.tar", "- 3eaccc100f86", ""},
		{"dive-oci-estargz.tar", "- 5c153971f5fe", ""},
		{"dive-gzip.tar", "refused", ""},
		{"oras-hello-world.tar", "hello-world:latest feb5d9fea6a5", "hello"},
		{"oras-hello-world-prefixed-path.tar", "hello-world:latest feb5d9fea6a5", "hello"},
		{"ggcr-test_bundle.tar", "test_image_2:latest 930705ce23e3 test_image_1:latest 6e0b05049ed9", ""},
		{"ggcr-no_manifest.tar", "refused", ""},
		{"ggcr-null_manifest.tar", "refused", ""},
		{"ggcr-test_image_1.tar", "bazel/v1/tarball:test_image_1 6e0b05049ed9", ""},
		{"ggcr-source_image_with_empty_layer_history.tar", "bazel/pkg/v1/mutate:source_image 05b5ec129058", ""},
		{"ggcr-whiteout_image.tar", "bazel/pkg/v1/mutate:whiteout_image decb630649c3", ""},
		{"ggcr-overwritten_file.tar", "bazel/pkg/v1/mutate:overwritten_file 68f6eb746cdb", ""},
		{"cimage-almostempty.tar", "emptyimage:latest 9d7f147c0d0c", ""},
		{"podman-docker-two-images.tar.xz", "example.com/empty:latest ec9293436c2e example.com/empty/but:different 5a7ef13e1893", ""},
		{"podman-docker-two-names.tar.xz", "pretty-empty:latest ec9293436c2e example.com/empty:latest ec9293436c2e", ""},
		{"podman-docker-unnamed.tar.xz", "- ec9293436c2e", ""},
		{"podman-oci-name-only.tar.gz", "pretty-empty:latest 5c8aca8137ac", ""},
		{"podman-oci-non-docker-name.tar.gz", "UPPERCASE-IS-INVALID 5c8aca8137ac", ""},
		{"scalibr-symlink-basic.tar", "symlink-basic:latest 2a92a3c5e77b", ""},
		{"scalibr-symlink-cycle.tar", "symlink-cycle:latest 373315c77960", ""},
		{"scalibr-symlink-dangling.tar", "dangling-symlinks:latest 67d1cadc6211", ""},
		{"scalibr-unpack-symlinks.tar", "symlinks:latest 3d88044e75a2", ""},
		{"containerdiff-la-croix-wh.tar", "refused", ""},
		{"stereoscope-valid-oci.tar", "sample:latest 61ee19e869a5", ""},
		{"stereoscope-multiplatform-oci-dir", "multi-platform:latest 549248a7ac95", ""},
	}
	for _, tt := range tests {
		t.Run(tt.file, func(t *testing.T) {
			s := openStore(t)
			path := filepath.Join(dir, tt.file)
			var warned []string
			loaded, err := s.Load(context.Background(), path, nil, imgfs.LoadOptions{Warn: func(l string) { warned = append(warned, l) }})
			if len(warned) > 0 {
				t.Logf("warned: %q", warned)
			}
			if tt.names == "refused" {
				if !errors.Is(err, image.ErrMalformed) {
					t.Errorf("got %v, want ErrMalformed", err)
				}
				t.Log(err)
				if got := listing(t, s); got != "" {
					t.Errorf("the store holds\n%s", got)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			for _, l := range loaded {
				if l.Name == "" {
					l.Name = "-"
				}
				got += fmt.Sprintf("%s %s ", l.Name, l.ID.Encoded()[:12])
			}
			if got = strings.TrimSpace(got); got != tt.names {
				t.Errorf("load\n got %q\nwant %q", got, tt.names)
			}
			for k, l := range loaded {
				arg := l.Name
				if arg == "" {
					arg = string(l.ID)
				}
				tree := treeOf(t, s, arg)
				if k == 0 {
					for _, p := range strings.Fields(tt.holds) {
						if _, ok := tree[p]; !ok {
							t.Errorf("%s: no %s", arg, p)
						}
					}
				}
				again := treeOf(t, s, l.ID.Encoded()[:12])
				diffTrees(t, "by id", again, tree)
			}
			one := true
			for _, l := range loaded {
				one = one && l.ID == loaded[0].ID
			}
			if !one {
				_, err := s.OpenImage(context.Background(), path, nil, imgfs.OpenOptions{})
				if err == nil {
					t.Errorf("a file of several images was opened")
				}
				return
			}
			inPlace := openStore(t)
			diffTrees(t, "in place", treeOf(t, inPlace, path), treeOf(t, s, string(loaded[0].ID)))
		})
	}
}
