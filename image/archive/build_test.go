// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgfs/imgfs/image"
)

// A testFile is one entry of a hand-made tar: a symlink or hard link if it
// has a target, else a file.
type testFile struct {
	name, body    string
	symlink, hard string
}

// makeTar writes files in order.
func makeTar(t testing.TB, files ...testFile) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: 0o644, Typeflag: tar.TypeReg, Size: int64(len(f.body))}
		switch {
		case f.symlink != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, f.symlink
		case f.hard != "":
			h.Typeflag, h.Linkname = tar.TypeLink, f.hard
		case strings.HasSuffix(f.name, "/"):
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(f.body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// openBytes opens an archive in memory.
func openBytes(b []byte) (*Source, error) {
	return newTarSource(bytes.NewReader(b), "mem.tar", int64(len(b)))
}

// layerTar is a layer with one file of that name.
func layerTar(t testing.TB, name string) string {
	return string(makeTar(t, testFile{name: name, body: name}))
}

func sha(s string) string { return string(digest.FromString(s)) }

func hexOf(s string) string { return digest.FromString(s).Encoded() }

// configFor is the config of an image of those layers.
func configFor(platform string, layers ...string) string {
	ids := make([]string, len(layers))
	for i, l := range layers {
		ids[i] = sha(l)
	}
	system, arch, _ := strings.Cut(platform, "/")
	return toJSON(map[string]any{
		"architecture": arch, "os": system,
		"rootfs": map[string]any{"type": "layers", "diff_ids": ids},
	})
}

func toJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func descOf(mediaType, body string) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromString(body), Size: int64(len(body))}
}

func blobFile(body string) testFile { return testFile{name: "blobs/sha256/" + hexOf(body), body: body} }

// An ociImage is a manifest and the blobs under it.
type ociImage struct {
	manifest string
	desc     ocispec.Descriptor
	blobs    []testFile // manifest first, then config, then layers
}

func makeOCI(platform string, layers ...string) ociImage {
	config := configFor(platform, layers...)
	m := map[string]any{
		"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageManifest,
		"config": descOf(ocispec.MediaTypeImageConfig, config),
	}
	descs := []ocispec.Descriptor{}
	files := []testFile{blobFile(config)}
	for _, l := range layers {
		descs = append(descs, descOf(ocispec.MediaTypeImageLayer, l))
		files = append(files, blobFile(l))
	}
	m["layers"] = descs
	raw := toJSON(m)
	return ociImage{raw, descOf(ocispec.MediaTypeImageManifest, raw), append([]testFile{blobFile(raw)}, files...)}
}

func named(d ocispec.Descriptor, name string) ocispec.Descriptor {
	d.Annotations = map[string]string{ocispec.AnnotationRefName: name}
	return d
}

func onPlatform(d ocispec.Descriptor, platform string) ocispec.Descriptor {
	system, arch, _ := strings.Cut(platform, "/")
	d.Platform = &ocispec.Platform{OS: system, Architecture: arch}
	return d
}

func indexOf(descs ...ocispec.Descriptor) string {
	return toJSON(map[string]any{"schemaVersion": 2, "manifests": descs})
}

var layoutFile = testFile{name: "oci-layout", body: `{"imageLayoutVersion":"1.0.0"}`}

func indexFile(descs ...ocispec.Descriptor) testFile {
	return testFile{name: "index.json", body: indexOf(descs...)}
}

// dockerManifest is a manifest.json of one image.
func dockerManifest(config string, tags []string, layers ...string) testFile {
	return testFile{name: "manifest.json", body: toJSON([]map[string]any{{"Config": config, "RepoTags": tags, "Layers": layers}})}
}

func concat(lists ...[]testFile) []testFile {
	var all []testFile
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// summary is a source in a line that a reader can compare: for each entry its
// names, and for each image its platform with the files of its layers.
func summary(t testing.TB, s *Source) string {
	t.Helper()
	var out []string
	for _, e := range s.Entries() {
		line := strings.Join(e.Names, ",")
		for _, m := range e.Images {
			line += fmt.Sprintf(" [%s", image.FormatPlatform(m.Platform))
			if m.Attestation {
				line += " attestation"
			}
			if m.Missing != nil {
				line += " missing"
			}
			for _, l := range m.Layers {
				line += " " + firstName(t, l)
			}
			line += "]"
		}
		out = append(out, strings.TrimSpace(line))
	}
	return strings.Join(out, "\n")
}

// firstName reads the layer at its path and offset if the archive is a file,
// else through its blob.
func firstName(t testing.TB, l Layer) string {
	t.Helper()
	if l.Blob == nil {
		return "-"
	}
	b := make([]byte, l.Blob.Size())
	if _, err := l.Blob.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if f, err := os.Open(l.Path); err == nil {
		defer f.Close()
		there := make([]byte, len(b))
		if _, err := f.ReadAt(there, l.Offset); err != nil || !bytes.Equal(there, b) {
			t.Errorf("%s at %d is not the blob: %v", l.Path, l.Offset, err)
		}
	}
	if l.DiffID != "" && digest.FromBytes(b) != l.DiffID {
		return "other"
	}
	h, err := tar.NewReader(bytes.NewReader(b)).Next()
	if err != nil {
		return "bytes"
	}
	return h.Name
}

// writeDir writes files under a new directory.
func writeDir(t testing.TB, files ...testFile) string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range files {
		if strings.HasSuffix(f.name, "/") {
			continue
		}
		p := filepath.Join(dir, f.name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch {
		case f.symlink != "":
			err = os.Symlink(f.symlink, p)
		case f.hard != "":
			err = os.Link(filepath.Join(dir, f.hard), p)
		default:
			err = os.WriteFile(p, []byte(f.body), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
