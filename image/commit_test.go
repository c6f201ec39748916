// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const diffA, diffB = "sha256:aa" + zeros, "sha256:bb" + zeros

var someday = time.Date(2026, 1, 2, 3, 4, 5, 600, time.FixedZone("", 3600))

func mustChange(t testing.TB, s string) Change {
	t.Helper()
	c, err := ParseChange(s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCommit(t *testing.T) {
	line := `{"created":"2026-01-02T02:04:05.0000006Z"}`
	tests := []struct {
		name, old string
		opt       CommitOptions
		want      string
	}{
		{"the least config", `{}`, CommitOptions{},
			`{"config":{},"created":"2026-01-02T02:04:05.0000006Z","history":[` + line + `],"rootfs":{"diff_ids":["` + diffB + `"],"type":"layers"}}`},
		{"what is not known stays as it is",
			`{"x":{"b":1.50,"a":"<&>"},"config":{"Cmd":["a"],"Z":[1e2],"Labels":{},"Entrypoint":null},"rootfs":{"diff_ids":["` + diffA + `"],"type":"layers","y":0},"history":[{"z":1}]}`,
			CommitOptions{Changes: []Change{mustChange(t, "USER me")}},
			`{"config":{"Cmd":["a"],"Entrypoint":null,"Labels":{},"User":"me","Z":[1e2]},"created":"2026-01-02T02:04:05.0000006Z","history":[{"z":1},` + line + `],` +
				`"rootfs":{"diff_ids":["` + diffA + `","` + diffB + `"],"type":"layers","y":0},"x":{"b":1.50,"a":"<&>"}}`},
		{"author, comment and history; the old container is forgotten",
			`{"author":"old","comment":"old","container":"c","container_config":{"Cmd":["x"]},"config":null,"history":[{"comment":"<b>"},{"empty_layer":true}],"rootfs":{"type":"layers","diff_ids":["` + diffA + `"]}}`,
			CommitOptions{Author: "me <me@x>", Comment: "why", CreatedBy: "imgfs"},
			`{"author":"me <me@x>","config":{},"created":"2026-01-02T02:04:05.0000006Z","history":[{"comment":"<b>"},{"empty_layer":true},` +
				`{"created":"2026-01-02T02:04:05.0000006Z","created_by":"imgfs","author":"me <me@x>","comment":"why"}],"rootfs":{"diff_ids":["` + diffA + `","` + diffB + `"],"type":"layers"}}`},
		{"an old author is not the new one's", `{"author":"old"}`, CommitOptions{},
			`{"config":{},"created":"2026-01-02T02:04:05.0000006Z","history":[` + line + `],"rootfs":{"diff_ids":["` + diffB + `"],"type":"layers"}}`},
		{"layers without history get empty lines", `{"rootfs":{"diff_ids":["` + diffA + `"]},"history":[{"empty_layer":true}]}`, CommitOptions{},
			`{"config":{},"created":"2026-01-02T02:04:05.0000006Z","history":[{"empty_layer":true},{},` + line + `],"rootfs":{"diff_ids":["` + diffA + `","` + diffB + `"],"type":"layers"}}`},
		{"names in another case are the same names", `{"Config":{"cmd":["a"],"env":["A=1"]},"Created":"2020-01-01T00:00:00Z"}`,
			CommitOptions{Changes: []Change{mustChange(t, "CMD []")}},
			`{"config":{"env":["A=1"]},"created":"2026-01-02T02:04:05.0000006Z","history":[` + line + `],"rootfs":{"diff_ids":["` + diffB + `"],"type":"layers"}}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			opt := tt.opt
			opt.DiffID, opt.Created = diffB, someday
			got, err := Commit([]byte(tt.old), opt)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != tt.want {
				t.Errorf("\n got %s\nwant %s", got, tt.want)
			}
			again, err := Commit([]byte(tt.old), opt)
			if err != nil || !bytes.Equal(got, again) {
				t.Errorf("the second time %s, %v", again, err)
			}
			c, err := ParseConfig(got)
			if err != nil {
				t.Fatal(err)
			}
			lines := c.LayerHistory()
			if l := lines[len(lines)-1]; l.Created == nil || !l.Created.Equal(someday) {
				t.Errorf("the new layer's line is %+v", l)
			}
		})
	}
}

func TestCommitErrors(t *testing.T) {
	full := `{"rootfs":{"diff_ids":["` + diffA + strings.Repeat(`","`+diffA, MaxLayers-1) + `"]}}`
	tests := []struct{ old, change, want string }{
		{`[]`, "USER a", "malformed"},
		{`{"config":{"Cmd":1}}`, "USER a", "malformed"},
		{`{"history":{}}`, "USER a", "malformed"},
		{full, "USER a", "4097 diff_ids: limit is 4096"},
		{`{}`, "EXPOSE 1-65535", "over 16384 ports"},
		{`{}`, "STOPSIGNAL $X", "no signal"},
	}
	for _, tt := range tests {
		_, err := Commit([]byte(tt.old), CommitOptions{DiffID: diffB, Created: someday, Changes: []Change{mustChange(t, tt.change)}})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%.50s, %s: got %v, want … %s …", tt.old, tt.change, err, tt.want)
		}
		var e *ChangeError
		if !errors.As(err, &e) && !errors.Is(err, ErrMalformed) {
			t.Errorf("%v is of no kind", err)
		}
	}
}

func TestCommitManifest(t *testing.T) {
	config := []byte(`{}`)
	top := func(mediaType string) ocispec.Descriptor {
		return ocispec.Descriptor{MediaType: mediaType, Digest: diffB, Size: 7}
	}
	manifest := func(kind, layers, more string) string {
		return `{"schemaVersion":2,"mediaType":"` + kind + `","config":{"mediaType":"x","digest":"` + diffA + `","size":1},"layers":[` + layers + `]` + more + `}`
	}
	layer := func(mediaType, more string) string {
		return `{"mediaType":"` + mediaType + `","digest":"` + diffA + `","size":3` + more + `}`
	}
	const gz, zst, plain = ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd, ocispec.MediaTypeImageLayer
	tests := []struct {
		name, old, top string
		want           string // media types: manifest, config, layers
	}{
		{"OCI stays OCI", manifest(ocispec.MediaTypeImageManifest, layer(gz, ""), ""), gz, "oci.image.manifest.v1 oci.image.config.v1 oci.image.layer.v1.tar+gzip oci.image.layer.v1.tar+gzip"},
		{"OCI with zstd", manifest(ocispec.MediaTypeImageManifest, layer(plain, ""), ""), zst, "oci.image.manifest.v1 oci.image.config.v1 oci.image.layer.v1.tar oci.image.layer.v1.tar+zstd"},
		{"docker stays docker", manifest(MediaTypeDockerManifest, layer(MediaTypeDockerLayerGzip, ""), ""), gz,
			"docker.distribution.manifest.v2 docker.container.image.v1 docker.image.rootfs.diff.tar.gzip docker.image.rootfs.diff.tar.gzip"},
		{"docker, not compressed", manifest(MediaTypeDockerManifest, layer(MediaTypeDockerLayer, ""), ""), plain,
			"docker.distribution.manifest.v2 docker.container.image.v1 docker.image.rootfs.diff.tar docker.image.rootfs.diff.tar"},
		{"docker with zstd becomes OCI", manifest(MediaTypeDockerManifest, layer(MediaTypeDockerLayerGzip, "")+","+layer(MediaTypeDockerLayer, "")+","+layer(MediaTypeDockerForeignLayer, ""), ""), zst,
			"oci.image.manifest.v1 oci.image.config.v1 oci.image.layer.v1.tar+gzip oci.image.layer.v1.tar oci.image.layer.nondistributable.v1.tar+gzip oci.image.layer.v1.tar+zstd"},
		{"no media type of its own is OCI", strings.Replace(manifest("", layer(gz, ""), ""), `"mediaType":"",`, "", 1), gz,
			"oci.image.manifest.v1 oci.image.config.v1 oci.image.layer.v1.tar+gzip oci.image.layer.v1.tar+gzip"},
		{"no layers yet", manifest(ocispec.MediaTypeImageManifest, "", ""), gz, "oci.image.manifest.v1 oci.image.config.v1 oci.image.layer.v1.tar+gzip"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			raw, mediaType, err := CommitManifest([]byte(tt.old), config, top(tt.top))
			if err != nil {
				t.Fatal(err)
			}
			m, err := ParseManifest(raw, mediaType)
			if err != nil {
				t.Fatal(err)
			}
			types := []string{m.MediaType, m.Config.MediaType}
			for _, l := range m.Layers {
				types = append(types, l.MediaType)
			}
			got := strings.ReplaceAll(strings.ReplaceAll(strings.Join(types, " "), "application/vnd.", ""), "+json", "")
			if got != tt.want {
				t.Errorf("got %s\nwant %s", got, tt.want)
			}
			if err := VerifyDocument(config, m.Config); err != nil {
				t.Error(err)
			}
			last := m.Layers[len(m.Layers)-1]
			if last.Digest != diffB || last.Size != 7 {
				t.Errorf("the top layer is %+v", last)
			}
			again, _, err := CommitManifest([]byte(tt.old), config, top(tt.top))
			if err != nil || !bytes.Equal(raw, again) {
				t.Errorf("the second time %s, %v", again, err)
			}
		})
	}

	t.Run("descriptors and annotations stay", func(t *testing.T) {
		old := manifest(ocispec.MediaTypeImageManifest, layer(gz, `,"annotations":{"a":"<b>"},"x":1.0`),
			`,"annotations":{"k":"v","org.opencontainers.image.created":"then"},"subject":{"digest":"`+diffA+`"},"artifactType":"t","y":2`)
		raw, _, err := CommitManifest([]byte(old), config, top(gz))
		if err != nil {
			t.Fatal(err)
		}
		want := `{"annotations":{"k":"v"},"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + string(digest.FromBytes(config)) + `","size":2},` +
			`"layers":[` + layer(gz, `,"annotations":{"a":"<b>"},"x":1.0`) + `,{"mediaType":"` + gz + `","digest":"` + diffB + `","size":7}],` +
			`"mediaType":"application/vnd.oci.image.manifest.v1+json","schemaVersion":2,"y":2}`
		if string(raw) != want {
			t.Errorf("\n got %s\nwant %s", raw, want)
		}
	})
	for _, bad := range []string{`{}`, `[]`, `{"manifests":[]}`, manifest(ocispec.MediaTypeImageManifest, `{"digest":"x"}`, "")} {
		if _, _, err := CommitManifest([]byte(bad), config, top(gz)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	many := make([]json.RawMessage, MaxLayers)
	for i := range many {
		many[i] = json.RawMessage(layer(gz, ""))
	}
	list, _ := json.Marshal(many)
	if _, _, err := CommitManifest([]byte(manifest(ocispec.MediaTypeImageManifest, strings.Trim(string(list), "[]"), "")), config, top(gz)); err == nil || !strings.Contains(err.Error(), "limit is 4096") {
		t.Errorf("one layer over the limit: %v", err)
	}
}
