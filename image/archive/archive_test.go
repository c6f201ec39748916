// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgfs/imgfs/image"
)

func TestOpenOCI(t *testing.T) {
	a, b := layerTar(t, "a"), layerTar(t, "b")
	amd := makeOCI("linux/amd64", a, b)
	arm := makeOCI("linux/arm64", a)
	att := makeOCI("unknown/unknown", b)
	attDesc := onPlatform(att.desc, "unknown/unknown")
	attDesc.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest"}
	nested := indexOf(onPlatform(amd.desc, "linux/amd64"), onPlatform(arm.desc, "linux/arm64"), attDesc)
	nestedDesc := descOf(ocispec.MediaTypeImageIndex, nested)
	cosign := amd.desc
	cosign.MediaType = "application/vnd.oci.artifact.manifest.v1+json"
	noType := amd.desc
	noType.MediaType = ""
	tagManifest := dockerManifest("blobs/sha256/"+hexOf(configFor("linux/amd64", a, b)), []string{"extra:1", "n:1"},
		"blobs/sha256/"+hexOf(a), "blobs/sha256/"+hexOf(b))

	tests := []struct {
		rule  string
		files []testFile
		want  string
	}{
		{"one manifest", concat(amd.blobs, []testFile{layoutFile, indexFile(named(amd.desc, "n:1"))}),
			"docker.io/library/n:1 [linux/amd64 a b]"},
		{"oci-layout left out", concat(amd.blobs, []testFile{indexFile(amd.desc)}), "[linux/amd64 a b]"},
		{"a descriptor without a media type", concat(amd.blobs, []testFile{indexFile(noType)}), "[linux/amd64 a b]"},
		{"a lone word is no reference", concat(amd.blobs, []testFile{indexFile(named(amd.desc, "latest"))}),
			"latest [linux/amd64 a b]"},
		{"a name that is no reference", concat(amd.blobs, []testFile{indexFile(named(amd.desc, "A/B:c d"))}),
			"A/B:c d [linux/amd64 a b]"},
		{"one manifest under two names", concat(amd.blobs, []testFile{indexFile(named(amd.desc, "n:1"), named(amd.desc, "n:2"))}),
			"docker.io/library/n:1,docker.io/library/n:2 [linux/amd64 a b]"},
		{"an index in the index", concat(amd.blobs, arm.blobs, att.blobs, []testFile{blobFile(nested), indexFile(named(nestedDesc, "n:1"))}),
			"docker.io/library/n:1 [linux/amd64 a b] [linux/arm64 a] [unknown/unknown attestation b]"},
		{"platforms without a name are one image", concat(amd.blobs, arm.blobs, []testFile{indexFile(onPlatform(amd.desc, "linux/amd64"), onPlatform(arm.desc, "linux/arm64"))}),
			"[linux/amd64 a b] [linux/arm64 a]"},
		{"platforms with names are several", concat(amd.blobs, arm.blobs, []testFile{indexFile(named(onPlatform(amd.desc, "linux/amd64"), "n:1"), named(onPlatform(arm.desc, "linux/arm64"), "n:2"))}),
			"docker.io/library/n:1 [linux/amd64 a b]\ndocker.io/library/n:2 [linux/arm64 a]"},
		{"C5 an absent platform is listed", concat(amd.blobs, []testFile{blobFile(nested), indexFile(nestedDesc)}),
			"[linux/amd64 a b] [linux/arm64 missing] [unknown/unknown attestation missing]"},
		{"C5 an absent layer is told", concat(amd.blobs[:2], amd.blobs[3:], []testFile{indexFile(amd.desc)}),
			"[linux/amd64 missing - b]"},
		{"an artifact is told", concat(amd.blobs, []testFile{indexFile(cosign, named(amd.desc, "n:1"))}),
			"docker.io/library/n:1 [unknown/unknown missing]"},
		{"names with ./", concat([]testFile{{name: "./"}, {name: "./index.json", body: indexOf(amd.desc)}}, dotted(amd.blobs)),
			"[linux/amd64 a b]"},
		{"a blob that is a link", concat(amd.blobs[:3], []testFile{{name: "x", body: b}, {name: amd.blobs[3].name, symlink: "../../x"}, indexFile(amd.desc)}),
			"[linux/amd64 a b]"},
		{"docker 25: names of manifest.json", concat(amd.blobs, []testFile{layoutFile, indexFile(named(amd.desc, "n:1")), tagManifest}),
			"docker.io/library/n:1,docker.io/library/extra:1 [linux/amd64 a b]"},
	}
	for _, tt := range tests {
		t.Run(tt.rule, func(t *testing.T) {
			s, err := openBytes(makeTar(t, tt.files...))
			if err != nil {
				t.Fatal(err)
			}
			if s.Format() != FormatOCIArchive {
				t.Errorf("format %s", s.Format())
			}
			if got := summary(t, s); got != tt.want {
				t.Errorf("tar\n got %s\nwant %s", got, tt.want)
			}
			d, err := Open(writeDir(t, tt.files...))
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			if d.Format() != FormatOCIDir {
				t.Errorf("format %s", d.Format())
			}
			if got := summary(t, d); got != tt.want {
				t.Errorf("directory\n got %s\nwant %s", got, tt.want)
			}
		})
	}

	t.Run("documents are kept bit for bit", func(t *testing.T) {
		s, err := openBytes(makeTar(t, concat(amd.blobs, arm.blobs, []testFile{blobFile(nested), indexFile(nestedDesc)})...))
		if err != nil {
			t.Fatal(err)
		}
		e := s.Entries()[0]
		if len(e.Documents) != 1 || string(e.Documents[0].Raw) != nested || e.Documents[0].Desc.Digest != e.Target.Digest {
			t.Errorf("documents %v", e.Documents)
		}
		if string(e.Images[0].Manifest.Raw) != amd.manifest {
			t.Error("manifest is not as stored")
		}
	})
}

func dotted(files []testFile) []testFile {
	var out []testFile
	for _, f := range files {
		f.name = "./" + f.name
		out = append(out, f)
	}
	return out
}

func TestOpenDocker(t *testing.T) {
	a, b := layerTar(t, "a"), layerTar(t, "b")
	config := configFor("linux/amd64", a, b)
	cfg := testFile{name: hexOf(config) + ".json", body: config}
	man := dockerManifest(cfg.name, []string{"n:1", "host:5000/x:2"}, "1/layer.tar", "2/layer.tar")
	const want = "docker.io/library/n:1,host:5000/x:2 [linux/amd64 a b]"
	layers := []testFile{{name: "1/layer.tar", body: a}, {name: "2/layer.tar", body: b}}
	absent := strings.Replace(want, "a b]", "missing a -]", 1)

	tests := []struct {
		rule  string
		files []testFile
		want  string
	}{
		{"classic", concat(layers, []testFile{cfg, man}), want},
		{"manifest first", concat([]testFile{man, cfg}, layers), want},
		{"names with ./ in the tar", concat(dotted(layers), []testFile{cfg, man}), want},
		{"names with ./ in manifest.json", concat(layers, []testFile{cfg, dockerManifest("./"+cfg.name, nil, "./1/layer.tar", "2//layer.tar")}),
			"[linux/amd64 a b]"},
		{"kaniko and crane", []testFile{{name: sha(config), body: config}, {name: "a.tar.gz", body: a}, {name: "b.tar.gz", body: b},
			dockerManifest(sha(config), []string{"n:1"}, "a.tar.gz", "b.tar.gz")}, "docker.io/library/n:1 [linux/amd64 a b]"},
		{"a layer is a symlink to another's", []testFile{cfg, man, layers[0], {name: "3/layer.tar", body: b}, {name: "2/layer.tar", symlink: "../3/layer.tar"}}, want},
		{"a symlink before its target", []testFile{cfg, man, layers[0], {name: "2/layer.tar", symlink: "../3/layer.tar"}, {name: "3/layer.tar", body: b}}, want},
		{"a hard link", []testFile{cfg, man, layers[0], {name: "3/layer.tar", body: b}, {name: "2/layer.tar", hard: "3/layer.tar"}}, want},
		{"a directory that is a symlink", []testFile{cfg, man, layers[0], {name: "3/layer.tar", body: b}, {name: "2", symlink: "3"}}, want},
		{"links in a row", []testFile{cfg, man, layers[0], {name: "5/layer.tar", body: b}, {name: "2/layer.tar", symlink: "../3/layer.tar"}, {name: "3/layer.tar", symlink: "../4/layer.tar"}, {name: "4/layer.tar", symlink: "./../5/./layer.tar"}}, want},
		{"no name", concat(layers, []testFile{cfg, dockerManifest(cfg.name, nil, "1/layer.tar", "2/layer.tar")}), "[linux/amd64 a b]"},
		{"a config whose name is not its digest", concat(layers, []testFile{{name: strings.Repeat("0", 64) + ".json", body: config}, dockerManifest(strings.Repeat("0", 64)+".json", nil, "1/layer.tar", "2/layer.tar")}), "[linux/amd64 a b]"},
		{"the last of a layer's name wins", concat([]testFile{{name: "1/layer.tar", body: "old"}}, layers, []testFile{cfg, man}), want},
		{"the same manifest twice", concat(layers, []testFile{cfg, man, man}), want},
		{"C5 an absent layer", []testFile{layers[0], cfg, man}, absent},
		{"C5 a dangling link", []testFile{layers[0], cfg, man, {name: "2/layer.tar", symlink: "gone"}}, absent},
	}
	for _, tt := range tests {
		t.Run(tt.rule, func(t *testing.T) {
			s, err := openBytes(makeTar(t, tt.files...))
			if err != nil {
				t.Fatal(err)
			}
			if got := summary(t, s); got != tt.want || s.Format() != FormatDockerArchive {
				t.Errorf("%s\n got %s\nwant %s", s.Format(), got, tt.want)
			}
		})
	}
}

func TestForeignLayer(t *testing.T) {
	a := layerTar(t, "a")
	config := configFor("windows/amd64", a)
	s, err := openBytes(makeTar(t, testFile{name: "c.json", body: config}, testFile{name: "manifest.json", body: toJSON([]map[string]any{{
		"Config": "c.json", "Layers": []string{"1/layer.tar"},
		"LayerSources": map[string]any{sha(a): ocispec.Descriptor{
			MediaType: image.MediaTypeDockerForeignLayer, Digest: digest.Digest(sha(a)), Size: 5, URLs: []string{"https://example.com/layer"},
		}},
	}})}))
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Entries()[0].Select(nil)
	if !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "foreign") || !strings.Contains(err.Error(), "https://example.com/layer") {
		t.Errorf("got %v", err)
	}
}

func TestOpenLegacy(t *testing.T) {
	a, b := layerTar(t, "a"), layerTar(t, "b")
	id := func(c string) string { return strings.Repeat(c, 64) }
	part := func(c, parent, layer string) []testFile {
		fields := map[string]any{"id": id(c), "os": "linux", "architecture": "amd64", "Size": 5,
			"created": "2015-01-02T03:04:05.6Z", "container_config": map[string]any{"Cmd": []string{"make", c}},
			"config": map[string]any{"Memory": 9007199254740993, "Env": []string{"A=b"}}}
		if parent != "" {
			fields["parent"] = id(parent)
		}
		return []testFile{{name: id(c) + "/"}, {name: id(c) + "/VERSION", body: "1.0"},
			{name: id(c) + "/json", body: toJSON(fields)}, {name: id(c) + "/layer.tar", body: layer}}
	}
	repos := testFile{name: "repositories", body: `{"n":{"1":"` + id("b") + `","2":"` + id("b") + `","base":"` + id("a") + `"}}`}
	chain := concat(part("b", "a", b), part("a", "", a))

	s, err := openBytes(makeTar(t, concat(chain, []testFile{repos})...))
	if err != nil {
		t.Fatal(err)
	}
	want := "docker.io/library/n:base [linux/amd64 a]\ndocker.io/library/n:1,docker.io/library/n:2 [linux/amd64 a b]"
	if got := summary(t, s); got != want || s.Format() != FormatDockerLegacy {
		t.Errorf("%s\n got %s\nwant %s", s.Format(), got, want)
	}
	m := s.Entries()[1].Images[0]
	if h := m.Parsed.LayerHistory(); len(h) != 2 || h[0].CreatedBy != "make a" || h[1].CreatedBy != "make b" {
		t.Errorf("history %v", h)
	}
	for _, gone := range []string{`"id"`, `"parent"`, `"Size"`} {
		if bytes.Contains(m.Config.Raw, []byte(gone)) {
			t.Errorf("config still has %s: %s", gone, m.Config.Raw)
		}
	}
	if !bytes.Contains(m.Config.Raw, []byte("9007199254740993")) {
		t.Errorf("a number lost its digits: %s", m.Config.Raw)
	}
	if err := image.VerifyDocument(m.Config.Raw, m.Config.Desc); err != nil {
		t.Error(err)
	}

	s, err = openBytes(makeTar(t, chain...))
	if err != nil {
		t.Fatal(err)
	}
	if got := summary(t, s); got != "[linux/amd64 a b]" {
		t.Errorf("without repositories: got %s", got)
	}

	bad := map[string][]testFile{
		"parent absent":           concat(part("b", "a", b), []testFile{repos}),
		"parents in a ring":       concat(part("b", "a", b), part("a", "b", a), []testFile{repos}),
		"a ring without names":    concat(part("b", "a", b), part("a", "b", a)),
		"own parent":              concat(part("a", "a", a), []testFile{{name: "repositories", body: `{"n":{"1":"` + id("a") + `"}}`}}),
		"id that is a path":       concat(chain, []testFile{{name: "repositories", body: `{"n":{"1":"../../etc"}}`}}),
		"repositories is null":    concat(chain, []testFile{{name: "repositories", body: `null`}}),
		"config, but no manifest": concat(chain, []testFile{repos, {name: id("c") + ".json", body: "{}"}}),
		"layer absent":            concat(part("a", "", a)[:3], []testFile{{name: "repositories", body: `{"n":{"1":"` + id("a") + `"}}`}}),
	}
	for rule, files := range bad {
		if s, err := openBytes(makeTar(t, files...)); !errors.Is(err, image.ErrMalformed) || errors.Is(err, ErrNotImage) {
			t.Errorf("%s: got %v, %v; want ErrMalformed", rule, s, err)
		}
	}
}

// TestRefuse holds the archives that are refused, each with a word its error
// must have.
func TestRefuse(t *testing.T) {
	a, b := layerTar(t, "a"), layerTar(t, "b")
	img := makeOCI("linux/amd64", a, b)
	config := configFor("linux/amd64", a)
	cfg := testFile{name: "c.json", body: config}
	lay := testFile{name: "l.tar", body: a}
	man := dockerManifest("c.json", nil, "l.tar")
	wrongSize, wrongType, negative := img.desc, img.desc, img.desc
	wrongSize.Size++
	wrongType.MediaType = image.MediaTypeDockerManifest
	negative.Size = -1
	huge := img.desc
	huge.Size = 1 << 40
	path := img.desc
	path.Digest = "sha256:../../../etc/passwd"
	both := toJSON(map[string]any{"config": img.desc, "layers": []any{}, "manifests": []any{}})
	c1 := toJSON(map[string]any{"config": descOf(ocispec.MediaTypeImageConfig, config), "layers": []any{descOf(ocispec.MediaTypeImageLayer, a), descOf(ocispec.MediaTypeImageLayer, b)}})
	layerSize := descOf(ocispec.MediaTypeImageLayer, a)
	layerSize.Size--
	badLayer := toJSON(map[string]any{"config": descOf(ocispec.MediaTypeImageConfig, config), "layers": []any{layerSize}})
	deep := indexOf(img.desc)
	deepFiles := []testFile{blobFile(deep)}
	for range 2 * maxIndexDepth {
		deep = indexOf(descOf(ocispec.MediaTypeImageIndex, deep))
		deepFiles = append(deepFiles, blobFile(deep))
	}
	other := makeOCI("linux/arm64", b)

	tests := []struct {
		rule, word string
		files      []testFile
	}{
		{"C1 diff_ids for docker", "diff_ids", []testFile{cfg, lay, dockerManifest("c.json", nil, "l.tar", "l.tar")}},
		{"C1 diff_ids for OCI", "diff_ids", []testFile{blobFile(config), blobFile(a), blobFile(b), blobFile(c1), indexFile(descOf(ocispec.MediaTypeImageManifest, c1))}},
		{"C3 manifest and index", "at once", []testFile{blobFile(both), indexFile(descOf(ocispec.MediaTypeImageManifest, both))}},
		{"C3 media type", "media type", concat(img.blobs, []testFile{indexFile(wrongType)})},
		{"C3 two manifest.json", "two files", []testFile{cfg, lay, man, dockerManifest("d.json", nil)}},
		{"C3 one name, two images", "another image", concat(img.blobs, other.blobs, []testFile{cfg, lay, indexFile(named(other.desc, "n:1")), dockerManifest("c.json", []string{"n:1"}, "l.tar")})},
		{"C4 digest is a path", "digest", concat(img.blobs, []testFile{indexFile(path)})},
		{"C4 config climbs", "leads out", []testFile{cfg, lay, dockerManifest("../c.json", nil, "l.tar")}},
		{"C4 config climbs later", "leads out", []testFile{cfg, lay, dockerManifest("x/../../c.json", nil, "l.tar")}},
		{"C4 config is absolute", "leads out", []testFile{cfg, lay, dockerManifest("/etc/passwd", nil, "l.tar")}},
		{"C4 layer climbs", "leads out", []testFile{cfg, lay, dockerManifest("c.json", nil, "../../l.tar")}},
		{"C4 layer is absolute", "leads out", []testFile{cfg, lay, dockerManifest("c.json", nil, "/l.tar")}},
		{"C4 layer is a link out", "through a link", []testFile{cfg, man, {name: "l.tar", symlink: "../../etc/passwd"}}},
		{"C4 layer is an absolute link", "through a link", []testFile{cfg, man, {name: "l.tar", symlink: "/etc/passwd"}}},
		{"C4 layer is a hard link out", "through a link", []testFile{cfg, man, {name: "l.tar", hard: "../etc/passwd"}}},
		{"C4 a link out in a row of links", "through a link", []testFile{cfg, man, {name: "l.tar", symlink: "x/y"}, {name: "x", symlink: "z/.."}, {name: "y", symlink: "../y"}}},
		{"C4 config is a link out", "through a link", []testFile{lay, man, {name: "c.json", symlink: "../c.json"}}},
		{"C4 manifest.json is a link out", "through a link", []testFile{cfg, lay, {name: "manifest.json", symlink: "../m"}}},
		{"a link to itself", "links", []testFile{cfg, man, {name: "l.tar", symlink: "l.tar"}}},
		{"links in a ring", "links", []testFile{cfg, man, {name: "l.tar", symlink: "m.tar"}, {name: "m.tar", hard: "l.tar"}}},
		{"a link that grows", "links", []testFile{cfg, man, {name: "l.tar", symlink: "l.tar/l.tar"}}},
		{"a config without a name", "empty", []testFile{lay, dockerManifest("", nil, "l.tar")}},
		{"C5 config absent", "c.json", []testFile{lay, man}},
		{"C5 size", "bytes", concat(img.blobs, []testFile{indexFile(wrongSize)})},
		{"C5 negative", "size -1", concat(img.blobs, []testFile{indexFile(negative)})},
		{"C5 layer size", "layer 0", []testFile{blobFile(config), blobFile(a), blobFile(badLayer), indexFile(descOf(ocispec.MediaTypeImageManifest, badLayer))}},
		{"C5 bytes of a manifest", "digest", concat(img.blobs[1:], []testFile{{name: img.blobs[0].name, body: flip(img.manifest)}, indexFile(img.desc)})},
		{"C5 bytes of a config", "config", concat(img.blobs[:1], img.blobs[2:], []testFile{{name: img.blobs[1].name, body: flip(img.blobs[1].body)}, indexFile(img.desc)})},
		{"C5 bytes of docker's config by digest", "digest", []testFile{{name: sha(config), body: flip(config)}, lay, dockerManifest(sha(config), nil, "l.tar")}},
		{"a huge document", "limit", concat(img.blobs, []testFile{indexFile(huge)})},
		{"indexes too deep", "nested", concat(deepFiles, img.blobs, []testFile{indexFile(descOf(ocispec.MediaTypeImageIndex, deep))})},
		{"manifest.json is null", "no image", []testFile{{name: "manifest.json", body: "null"}}},
		{"manifest.json is empty", "no image", []testFile{{name: "manifest.json", body: "[]"}}},
		{"manifest.json is no json", "manifest.json", []testFile{{name: "manifest.json", body: "{"}}},
		{"manifest.json of nothing", "empty", []testFile{{name: "manifest.json", body: "[null]"}}},
		{"index.json lists nothing", "no manifest", []testFile{layoutFile, {name: "index.json", body: `{"manifests":[]}`}}},
		{"index.json is null", "index.json", []testFile{layoutFile, {name: "index.json", body: `null`}}},
		{"another layout version", "version", []testFile{{name: "oci-layout", body: `{"imageLayoutVersion":"9"}`}, indexFile(img.desc)}},
		{"schema 1", "schema 1", []testFile{blobFile(`{"schemaVersion":1}`), indexFile(descOf("application/vnd.docker.distribution.manifest.v1+prettyjws", `{"schemaVersion":1}`))}},
	}
	for _, tt := range tests {
		t.Run(tt.rule, func(t *testing.T) {
			s, err := openBytes(makeTar(t, tt.files...))
			if !errors.Is(err, image.ErrMalformed) || errors.Is(err, ErrNotImage) {
				t.Fatalf("got %v, %v; want ErrMalformed", s, err)
			}
			if !strings.Contains(err.Error(), tt.word) {
				t.Errorf("error %q does not say %q", err, tt.word)
			}
		})
	}
}

// flip changes the last but one byte.
func flip(s string) string {
	b := []byte(s)
	b[len(b)-2] ^= 1
	return string(b)
}

func TestArtifacts(t *testing.T) {
	a := layerTar(t, "a")
	config := configFor("linux/amd64", a)
	manifest := func(configType, layerType string) []testFile {
		raw := toJSON(map[string]any{"config": descOf(configType, config), "layers": []any{descOf(layerType, a)}})
		return []testFile{blobFile(config), blobFile(a), blobFile(raw), indexFile(descOf(ocispec.MediaTypeImageManifest, raw))}
	}
	for rule, files := range map[string][]testFile{
		"a chart":     manifest("application/vnd.cncf.helm.config.v1+json", ocispec.MediaTypeImageLayerGzip),
		"a signature": manifest(ocispec.MediaTypeImageConfig, "application/vnd.dev.cosign.simplesigning.v1+json"),
		"encrypted":   manifest(ocispec.MediaTypeImageConfig, ocispec.MediaTypeImageLayerGzip+"+encrypted"),
	} {
		s, err := openBytes(makeTar(t, files...))
		if err != nil {
			t.Fatalf("%s: %v", rule, err)
		}
		if _, err := s.Entries()[0].Select(nil); !errors.Is(err, ErrArtifact) || !errors.Is(err, image.ErrMalformed) {
			t.Errorf("%s: got %v, want ErrArtifact", rule, err)
		}
	}
}

func TestNotImage(t *testing.T) {
	for rule, b := range map[string][]byte{
		"root filesystem":       makeTar(t, testFile{name: "etc/"}, testFile{name: "etc/os-release", body: "ID=x"}),
		"one with index.json":   makeTar(t, testFile{name: "index.json", body: "{}"}, testFile{name: "etc/x"}),
		"climbing names":        makeTar(t, testFile{name: "../manifest.json", body: "[]"}, testFile{name: "a/../manifest.json", body: "[]"}),
		"empty tar":             makeTar(t),
		"empty file":            nil,
		"text":                  []byte(strings.Repeat("not a tar ", 1000)),
		"a manifest.json below": makeTar(t, testFile{name: "x/manifest.json", body: "[]"}),
	} {
		if s, err := openBytes(b); !errors.Is(err, ErrNotImage) || !errors.Is(err, image.ErrMalformed) {
			t.Errorf("%s: got %v, %v; want ErrNotImage", rule, s, err)
		}
	}
	if s, err := Open(t.TempDir()); !errors.Is(err, ErrNotImage) {
		t.Errorf("empty directory: got %v, %v", s, err)
	}
}

// What skopeo writes as "dir:" has a manifest.json too, but not docker's.
func TestDirTransport(t *testing.T) {
	dir := t.TempDir()
	img := makeOCI("linux/amd64", layerTar(t, "a"))
	for name, text := range map[string]string{"version": "Directory Transport Version: 1.1\n", "manifest.json": img.manifest} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if s, err := Open(dir); !errors.Is(err, ErrDirTransport) || !errors.Is(err, image.ErrMalformed) || !strings.Contains(err.Error(), "oci:") {
		t.Errorf("got %v, %v; want ErrDirTransport", s, err)
	}
}

// The first 512 bytes tell what need not be read to its end.
func TestCheckHead(t *testing.T) {
	pax := makeTar(t, testFile{name: strings.Repeat("long/", 40)})
	tests := []struct {
		rule string
		head []byte
		word string // "" if it may be an image
	}{
		{"a member", makeTar(t, testFile{name: "a", body: "text"})[:512], ""},
		{"a large member", makeTar(t, testFile{name: "a", body: strings.Repeat("x", 5000)})[:512], ""},
		{"what comes before a member", pax[:512], ""},
		{"nothing", nil, "the input is empty"},
		{"a short text", []byte("text\n"), "not a tar"},
		{"a header cut short", pax[:511], "not a tar"},
		{"yes", bytes.Repeat([]byte("y\n"), 256), "not a tar"},
		{"zeros", make([]byte, 512), "a tar of nothing"},
	}
	for _, tt := range tests {
		err := CheckHead(tt.head)
		if (err == nil) != (tt.word == "") || err != nil && (!errors.Is(err, ErrNotImage) || !strings.Contains(err.Error(), tt.word)) {
			t.Errorf("%s: got %v, want %q", tt.rule, err, tt.word)
		}
	}
}

// The names of 40 members whose PAX block has 1 MiB are kept, not the blocks.
func TestNamesAlone(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := range 40 {
		h := &tar.Header{
			Name: fmt.Sprintf("%s%d", strings.Repeat("n", 150), i), Linkname: strings.Repeat("l", 150), Typeflag: tar.TypeSymlink,
			PAXRecords: map[string]string{"IMGFS.x": strings.Repeat("x", 1<<20-1000)},
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	files, err := scanTar(bytes.NewReader(b.Bytes()), "x", int64(b.Len()))
	if err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 1<<20 {
		t.Errorf("%d bytes of heap for %d entries", grown, len(files.entries))
	}
	runtime.KeepAlive(files)
}

func TestTextLimit(t *testing.T) {
	files := &tarFiles{entries: map[string]*tarEntry{"manifest.json": {}}, text: maxText - 10}
	h := &tar.Header{Name: "12345", Linkname: "12345", Typeflag: tar.TypeSymlink}
	if err := files.add(h, 0, 0); err != nil {
		t.Error(err)
	}
	if err := files.add(h, 0, 0); !errors.Is(err, image.ErrMalformed) || errors.Is(err, ErrNotImage) || !strings.Contains(err.Error(), fmt.Sprint(maxText)) {
		t.Errorf("over the limit: got %v", err)
	}
}

// TestOuterTar holds what the tar itself can have wrong.
func TestOuterTar(t *testing.T) {
	a := layerTar(t, "a")
	config := configFor("linux/amd64", a)
	good := makeTar(t, testFile{name: "manifest.json", body: dockerManifest("c.json", nil, "l.tar").body},
		testFile{name: "c.json", body: config}, testFile{name: "l.tar", body: a})
	open := func(b []byte) error {
		s, err := openBytes(b)
		if err == nil {
			_, err = s.Entries()[0].Select(nil)
		}
		return err
	}
	if err := open(good); err != nil {
		t.Fatal(err)
	}
	if err := open(good[:len(good)-1024]); err != nil {
		t.Errorf("no end blocks: %v", err)
	}
	if err := open(append(bytes.Clone(good), "trailing"...)); err != nil {
		t.Errorf("data after the end: %v", err)
	}
	for n := 512; n < len(good)-1024; n += 512 {
		err := open(good[:n-100])
		if !errors.Is(err, image.ErrMalformed) {
			t.Fatalf("cut at %d: got %v", n-100, err)
		}
	}
	damaged := bytes.Clone(good)
	damaged[1024] ^= 1 // the second header
	if err := open(damaged); !errors.Is(err, image.ErrMalformed) || !strings.Contains(err.Error(), "offset") {
		t.Errorf("bad checksum: got %v", err)
	}

	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []*tar.Header{
		{Name: "manifest.json", Typeflag: tar.TypeReg, Size: int64(len(dockerManifest("c.json", nil, "l.tar").body))},
		{Name: "c.json", Typeflag: tar.TypeFifo},
	} {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			io.WriteString(w, dockerManifest("c.json", nil, "l.tar").body)
		}
	}
	w.Close()
	if err := open(b.Bytes()); !errors.Is(err, image.ErrMalformed) || !strings.Contains(err.Error(), "regular") {
		t.Errorf("config is a FIFO: got %v", err)
	}
	if err := open(makeTar(t, testFile{name: strings.Repeat("n/", 3000) + "f", body: "x"})); !errors.Is(err, image.ErrMalformed) {
		t.Errorf("long name: got %v", err)
	}
}

// TestSparse has GNU tar make an archive whose layer is stored with holes.
func TestSparse(t *testing.T) {
	if _, err := exec.LookPath("tar"); err != nil {
		t.Skip("no tar program")
	}
	dir := t.TempDir()
	layer, err := os.Create(filepath.Join(dir, "l.tar"))
	if err != nil {
		t.Fatal(err)
	}
	if err := layer.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	layer.Close()
	zeros := string(make([]byte, 1<<20))
	for name, body := range map[string]string{"c.json": configFor("linux/amd64", zeros), "manifest.json": dockerManifest("c.json", nil, "l.tar").body} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, format := range []string{"gnu", "posix"} {
		out := filepath.Join(t.TempDir(), format+".tar")
		cmd := exec.Command("tar", "--format="+format, "-S", "-cf", out, "-C", dir, "manifest.json", "c.json", "l.tar")
		if msg, err := cmd.CombinedOutput(); err != nil {
			t.Skipf("tar: %v: %s", err, msg)
		}
		if s, err := Open(out); !errors.Is(err, image.ErrMalformed) || !strings.Contains(err.Error(), "sparse") {
			t.Errorf("%s: got %v, %v; want a word about sparse files", format, s, err)
		}
	}
}

func TestCompressed(t *testing.T) {
	for magic, want := range map[string]string{
		"\x1f\x8b\x08": "gzip", "\x28\xb5\x2f\xfd": "zstd", "\x50\x2a\x4d\x18": "zstd", "\x5f\x2a\x4d\x18": "zstd",
		"\xfd7zXZ\x00": "xz", "BZh9": "bzip2",
	} {
		_, err := openBytes([]byte(magic + strings.Repeat("x", 600)))
		var c *CompressedError
		if !errors.Is(err, ErrCompressed) || !errors.As(err, &c) || c.Format != want {
			t.Errorf("%q: got %v, want %s", magic, err, want)
		}
	}
}

func TestDirectoryIsConfined(t *testing.T) {
	a := layerTar(t, "a")
	img := makeOCI("linux/amd64", a)
	outside := writeDir(t, img.blobs...)
	for rule, files := range map[string][]testFile{
		"a blob that is a link out": concat(img.blobs[:2], []testFile{{name: img.blobs[2].name, symlink: filepath.Join(outside, img.blobs[2].name)}, indexFile(img.desc)}),
		"blobs is a link out":       {{name: "blobs", symlink: filepath.Join(outside, "blobs")}, indexFile(img.desc)},
		"a link ring":               concat(img.blobs[:2], []testFile{{name: img.blobs[2].name, symlink: filepath.Base(img.blobs[2].name)}, indexFile(img.desc)}),
	} {
		if s, err := Open(writeDir(t, files...)); !errors.Is(err, image.ErrMalformed) {
			t.Errorf("%s: got %v, %v; want ErrMalformed", rule, s, err)
		}
	}

	dir := writeDir(t, concat(img.blobs[:2], []testFile{indexFile(img.desc)})...)
	if err := syscall.Mkfifo(filepath.Join(dir, img.blobs[2].name), 0o600); err != nil {
		t.Skip(err)
	}
	if s, err := Open(dir); !errors.Is(err, image.ErrMalformed) {
		t.Errorf("a blob that is a FIFO: got %v, %v", s, err)
	}
	if _, err := Open(filepath.Join(dir, img.blobs[2].name)); !errors.Is(err, ErrStream) {
		t.Errorf("opening a FIFO: got %v, want ErrStream", err)
	}
}

// TestDirectoryChanges replaces a blob between Open and the first read.
func TestDirectoryChanges(t *testing.T) {
	img := makeOCI("linux/amd64", layerTar(t, "a"))
	dir := writeDir(t, concat(img.blobs, []testFile{indexFile(img.desc)})...)
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	l := s.Entries()[0].Images[0].Layers[0]
	if err := os.Rename(filepath.Join(dir, "index.json"), l.Path); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Blob.ReadAt(make([]byte, 1), 0); err == nil || !strings.Contains(err.Error(), "changed") {
		t.Errorf("got %v, want a word about the change", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("second Close: %v", err)
	}
}

func TestFindAndSelect(t *testing.T) {
	a := layerTar(t, "a")
	amd, arm := makeOCI("linux/amd64", a), makeOCI("linux/arm/v7", a)
	riscv := makeOCI("linux/riscv64", a, layerTar(t, "b"))
	nested := indexOf(onPlatform(arm.desc, "linux/arm"), onPlatform(riscv.desc, "linux/riscv64"))
	s, err := openBytes(makeTar(t, concat(amd.blobs, arm.blobs[:3], []testFile{blobFile(nested),
		indexFile(named(amd.desc, "n:1"), named(descOf(ocispec.MediaTypeImageIndex, nested), "Multi"))})...))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"n:1", "docker.io/library/n:1", "Multi"} {
		if _, err := s.Find(name); err != nil {
			t.Errorf("Find(%q): %v", name, err)
		}
	}
	for _, name := range []string{"", "n", "other"} {
		if _, err := s.Find(name); !errors.Is(err, image.ErrNotFound) {
			t.Errorf("Find(%q): got %v, want ErrNotFound", name, err)
		}
	}
	e, _ := s.Find("Multi")
	want := func(p string, target error) {
		t.Helper()
		platform, err := image.ParsePlatform(p)
		if err != nil {
			t.Fatal(err)
		}
		if m, err := e.Select(&platform); !errors.Is(err, target) {
			t.Errorf("Select(%s) = %v, %v; want %v", p, m, err, target)
		}
	}
	want("linux/arm/v7", nil)
	want("linux/riscv64", ErrMissing)
	want("linux/s390x", image.ErrNotFound)
	if m, err := e.Select(nil); err != nil || image.FormatPlatform(m.Platform) != "linux/arm" {
		t.Errorf("the only usable image: got %v, %v", m, err)
	}
}

func TestLimits(t *testing.T) {
	a := layerTar(t, "a")
	layers := make([]string, image.MaxLayers)
	names := make([]string, image.MaxLayers)
	for i := range layers {
		layers[i], names[i] = a, "l"
	}
	config := configFor("linux/amd64", layers...)
	items := make([]map[string]any, maxLayers/image.MaxLayers+1)
	for i := range items {
		items[i] = map[string]any{"Config": "c", "Layers": names}
	}
	_, err := openBytes(makeTar(t, testFile{name: "c", body: config}, testFile{name: "l", body: a}, testFile{name: "manifest.json", body: toJSON(items)}))
	if !errors.Is(err, image.ErrMalformed) || !strings.Contains(err.Error(), fmt.Sprint(maxLayers)) {
		t.Errorf("many layers: got %v", err)
	}

	// An index that fans out: 8 deep, each listing the next many times.
	img := makeOCI("linux/amd64", a)
	files := img.blobs
	d := img.desc
	for range 6 {
		descs := make([]ocispec.Descriptor, 100)
		for i := range descs {
			descs[i] = d
		}
		raw := indexOf(descs...)
		files = append(files, blobFile(raw))
		d = descOf(ocispec.MediaTypeImageIndex, raw)
	}
	_, err = openBytes(makeTar(t, append(files, indexFile(d))...))
	if !errors.Is(err, image.ErrMalformed) || !strings.Contains(err.Error(), fmt.Sprint(maxManifests)) {
		t.Errorf("fan-out: got %v", err)
	}
}

func FuzzArchive(f *testing.F) {
	a := layerTar(f, "a")
	img := makeOCI("linux/amd64", a)
	f.Add(makeTar(f, concat(img.blobs, []testFile{layoutFile, indexFile(named(img.desc, "n:1"))})...))
	f.Add(makeTar(f, testFile{name: "c", body: configFor("linux/amd64", a)}, testFile{name: "x/l", body: a},
		testFile{name: "l", symlink: "x/../x/l"}, dockerManifest("c", []string{"n"}, "l")))
	id := strings.Repeat("a", 64)
	f.Add(makeTar(f, testFile{name: id + "/json", body: `{"id":"` + id + `"}`}, testFile{name: id + "/layer.tar", body: a}))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := openBytes(b)
		if err != nil {
			if !errors.Is(err, image.ErrMalformed) && !errors.Is(err, ErrCompressed) {
				t.Errorf("%v is neither ErrMalformed nor ErrCompressed", err)
			}
			return
		}
		for _, e := range s.Entries() {
			for _, m := range e.Images {
				if m.Missing == nil && !m.Attestation && (m.Parsed == nil || len(m.Parsed.RootFS.DiffIDs) != len(m.Layers)) {
					t.Error("an image with no fault lacks a config")
				}
				for i, l := range m.Layers {
					if l.Blob == nil {
						if m.Missing == nil {
							t.Errorf("layer %d is absent without a word", i)
						}
						continue
					}
					if end := l.Offset + l.Blob.Size(); l.Offset < 0 || end > int64(len(b)) {
						t.Errorf("layer %d ends at %d of %d", i, end, len(b))
					}
				}
			}
		}
	})
}
