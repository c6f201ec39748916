// SPDX-License-Identifier: Apache-2.0

package imgfs_test

import (
	"context"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgfs/imgfs/forensics"
	"github.com/imgfs/imgfs/internal/tartest"
)

// TestLintOfBlobs: what is odd about a layer as it was shipped, in the store
// and in place.
func TestLintOfBlobs(t *testing.T) {
	plain := tartest.Tar(t, "a/ a/b=text")
	gz, zs := packed(t, plain, "gzip"), packed(t, plain, "zstd")
	b := newOCI(t)
	path := b.write(named(b.image("linux/amd64", []packedLayer{
		{plain, append(gz.blob[:len(gz.blob):len(gz.blob)], "garbage"...), ocispec.MediaTypeImageLayerGzip},
		{plain, zs.blob, ocispec.MediaTypeImageLayerGzip},
	}, nil), "docker.io/library/odd:latest"))
	s := openStore(t)
	mustLoad(t, s, path)
	for _, arg := range []string{"odd", path} {
		var got []string
		err := forensics.Lint(context.Background(), openStack(t, s, arg), forensics.LintOptions{}, func(f *forensics.Finding) error {
			got = append(got, f.Rule.ID+": "+f.What)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		want := "C7: bytes after the end of the gzip stream; C2: the media type says compression gzip, the bytes are zstd; D7: the same layer as layer 0"
		if strings.Join(got, "; ") != want {
			t.Errorf("%s:\n got %q\nwant %q", arg, got, want)
		}
	}
}
