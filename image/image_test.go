// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	hex64 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	dgst  = "sha256:" + hex64
)

func TestParseReference(t *testing.T) {
	tests := []struct{ in, canonical, familiar string }{
		{"alpine", "docker.io/library/alpine:latest", "alpine:latest"},
		{"alpine:3", "docker.io/library/alpine:3", "alpine:3"},
		{"docker.io/alpine:3", "docker.io/library/alpine:3", "alpine:3"},
		{"index.docker.io/library/alpine", "docker.io/library/alpine:latest", "alpine:latest"},
		{"user/app", "docker.io/user/app:latest", "user/app:latest"},
		{"host:5000/x", "host:5000/x:latest", "host:5000/x:latest"},
		{"host:5000/x/y:v1", "host:5000/x/y:v1", "host:5000/x/y:v1"},
		{"localhost/x", "localhost/x:latest", "localhost/x:latest"},
		{"[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest"},
		{"alpine@" + dgst, "docker.io/library/alpine@" + dgst, "alpine@" + dgst},
		{"alpine:3@" + dgst, "docker.io/library/alpine:3@" + dgst, "alpine:3@" + dgst},
	}
	for _, tt := range tests {
		r, err := ParseReference(tt.in)
		if err != nil {
			t.Errorf("ParseReference(%q): %v", tt.in, err)
			continue
		}
		if got := r.String(); got != tt.canonical {
			t.Errorf("ParseReference(%q)\n got %q\nwant %q", tt.in, got, tt.canonical)
		}
		if got := r.Familiar(); got != tt.familiar {
			t.Errorf("ParseReference(%q).Familiar()\n got %q\nwant %q", tt.in, got, tt.familiar)
		}
		for _, s := range []string{r.String(), r.Familiar()} {
			if again, err := ParseReference(s); again != r || err != nil {
				t.Errorf("ParseReference(%q) = %v, %v; want %v again", s, again, err, r)
			}
		}
	}
	for _, bad := range []string{
		"", ":", "a:", "UPPER", "a//b", "-a", "../a", "/a", "a@sha256:12", hex64,
		"a@md5:d41d8cd98f00b204e9800998ecf8427e", "a@sha256:" + strings.ToUpper(hex64),
		"a b", "a\nb", "a:\x1b[0m", strings.Repeat("a", 300), "./x", "a:" + strings.Repeat("t", 129),
	} {
		if r, err := ParseReference(bad); err == nil {
			t.Errorf("ParseReference(%q) = %v, want an error", bad, r)
		}
	}
	var zero Reference
	if zero.String() != "" || zero.Familiar() != "" || zero.Domain() != "" || !zero.IsZero() {
		t.Errorf("the zero reference names something: %q", zero)
	}
}

func TestSplitPath(t *testing.T) {
	tests := []struct {
		rule, arg, exists, src, path string
	}{
		{"no path", "alpine:3", "", "alpine:3", ""},
		{"path after a name", "alpine:/usr", "", "alpine", "/usr"},
		{"path after a tag", "alpine:3:/usr/share", "", "alpine:3", "/usr/share"},
		{"path after a digest", "a@" + dgst + ":/x", "", "a@" + dgst, "/x"},
		{"a port is no path", "host:5000/x:/usr", "", "host:5000/x", "/usr"},
		{"the root", "alpine:/", "", "alpine", "/"},
		{"a file", "./file.tar:/usr", "./file.tar", "./file.tar", "/usr"},
		{"a directory", "/abs/dir:/usr/share", "/abs/dir", "/abs/dir", "/usr/share"},
		{"the whole exists", "./odd:/name.tar", "./odd:/name.tar", "./odd:/name.tar", ""},
		{"the last that exists", "./odd:/name.tar:/usr", "./odd:/name.tar", "./odd:/name.tar", "/usr"},
		{"a path with :/ in a file", "./f.tar:/a:/b", "./f.tar", "./f.tar", "/a:/b"},
		{"a path with :/ in a name", "alpine:/a:/b", "", "alpine", "/a:/b"},
		{"a scheme is no path", "docker://alpine:3", "", "docker://alpine:3", ""},
		{"a path after a scheme", "docker://alpine:3:/usr", "", "docker://alpine:3", "/usr"},
		{"not a scheme", "a_b://x", "", "a_b", "//x"},
		{"nothing", "", "", "", ""},
		{"only a path", ":/x", "", "", "/x"},
	}
	for _, tt := range tests {
		t.Run(tt.rule, func(t *testing.T) {
			exists := func(s string) bool { return tt.exists != "" && s == tt.exists }
			src, path := SplitPath(tt.arg, exists)
			if src != tt.src || path != tt.path {
				t.Errorf("SplitPath(%q)\n got %q, %q\nwant %q, %q", tt.arg, src, path, tt.src, tt.path)
			}
		})
	}
	if src, path := SplitPath("alpine:/usr", nil); src != "alpine" || path != "/usr" {
		t.Errorf("SplitPath with no disk: got %q, %q", src, path)
	}
}

func TestParsePlatform(t *testing.T) {
	tests := []struct{ in, want string }{
		{"linux/amd64", "linux/amd64"},
		{"Linux/X86_64", "linux/amd64"},
		{"linux/amd64/v1", "linux/amd64"},
		{"linux/amd64/v3", "linux/amd64/v3"},
		{"linux/aarch64", "linux/arm64"},
		{"linux/arm64/v8", "linux/arm64"},
		{"linux/arm64/8", "linux/arm64"},
		{"linux/arm", "linux/arm/v7"},
		{"linux/armhf", "linux/arm/v7"},
		{"linux/armel", "linux/arm/v6"},
		{"linux/armv6l", "linux/arm/v6"},
		{"linux/arm/6", "linux/arm/v6"},
		{"linux/i686", "linux/386"},
		{"arm64", "linux/arm64"},
		{"macos/arm64", "darwin/arm64"},
	}
	for _, tt := range tests {
		p, err := ParsePlatform(tt.in)
		if got := FormatPlatform(p); got != tt.want || err != nil {
			t.Errorf("ParsePlatform(%q) = %q, %v; want %q", tt.in, got, err, tt.want)
		}
	}
	for _, bad := range []string{"", "/", "linux/", "a/b/c/d", "linux/am d64", "nonsense", "linux/\x1b"} {
		if p, err := ParsePlatform(bad); err == nil {
			t.Errorf("ParsePlatform(%q) = %v, want an error", bad, p)
		}
	}
}

func TestBestPlatform(t *testing.T) {
	tests := []struct {
		rule, have, want string
		best             int
	}{
		{"the same", "linux/amd64 linux/arm64", "linux/arm64", 1},
		{"another spelling", "linux/x86_64 linux/aarch64", "linux/arm64/v8", 1},
		{"arm/v7 runs v6", "linux/arm/v5 linux/arm/v6", "linux/arm/v7", 1},
		{"the nearest wins", "linux/arm/v6 linux/arm/v7 linux/arm/v5", "linux/arm/v7", 1},
		{"arm/v6 does not run v7", "linux/arm/v7", "linux/arm/v6", -1},
		{"amd64 does not run v3", "linux/amd64/v3", "linux/amd64", -1},
		{"amd64/v3 runs amd64", "linux/amd64 linux/amd64/v4", "linux/amd64/v3", 0},
		{"the system counts", "windows/amd64", "linux/amd64", -1},
		{"no minor is over a major", "linux/arm64/v9", "linux/arm64/v8.2", -1},
		{"the first of equals", "linux/amd64 linux/amd64", "linux/amd64", 0},
		{"odd variants match themselves", "linux/mips/x linux/mips/y", "linux/mips/y", 1},
		{"nothing", "", "linux/amd64", -1},
	}
	for _, tt := range tests {
		t.Run(tt.rule, func(t *testing.T) {
			var have []Platform
			for _, s := range strings.Fields(tt.have) {
				have = append(have, rawPlatform(s))
			}
			if got := BestPlatform(have, rawPlatform(tt.want)); got != tt.best {
				t.Errorf("got %d, want %d", got, tt.best)
			}
		})
	}
}

// rawPlatform splits without normalising.
func rawPlatform(s string) Platform {
	p := append(strings.Split(s, "/"), "")
	return Platform{OS: p[0], Architecture: p[1], Variant: p[2]}
}

func desc(size int) string {
	return fmt.Sprintf(`{"mediaType":"x","digest":%q,"size":%d}`, dgst, size)
}

func TestParseManifest(t *testing.T) {
	oci, docker := ocispec.MediaTypeImageManifest, MediaTypeDockerManifest
	tests := []struct {
		rule, raw, mediaType string
		ok                   bool
	}{
		{"OCI", `{"schemaVersion":2,"mediaType":"` + oci + `","config":` + desc(1) + `,"layers":[` + desc(2) + `]}`, oci, true},
		{"docker", `{"schemaVersion":2,"mediaType":"` + docker + `","config":` + desc(1) + `,"layers":[]}`, docker, true},
		{"no media type of its own", `{"config":` + desc(1) + `}`, oci, true},
		{"C3 index too", `{"config":` + desc(1) + `,"layers":[],"manifests":[]}`, oci, false},
		{"C3 index too, by case", `{"config":` + desc(1) + `,"Manifests":[]}`, oci, false},
		{"C3 media type is not the descriptor's", `{"mediaType":"` + docker + `","config":` + desc(1) + `}`, oci, false},
		{"C3 media type is an index's", `{"mediaType":"` + ocispec.MediaTypeImageIndex + `","config":` + desc(1) + `}`, "", false},
		{"C3 layers twice", `{"config":` + desc(1) + `,"layers":[],"layers":[` + desc(1) + `]}`, oci, false},
		{"C3 layers twice, by case", `{"config":` + desc(1) + `,"layers":[],"Layers":[` + desc(1) + `]}`, oci, false},
		{"annotations differ by case", `{"config":` + desc(1) + `,"annotations":{"a":"1","A":"2"}}`, oci, true},
		{"C4 md5", `{"config":{"digest":"md5:d41d8cd98f00b204e9800998ecf8427e","size":1}}`, oci, false},
		{"C4 upper case", `{"config":{"digest":"sha256:` + strings.ToUpper(hex64) + `","size":1}}`, oci, false},
		{"C4 path", `{"config":{"digest":"sha256:../../../../etc/passwd","size":1}}`, oci, false},
		{"C4 no digest", `{"config":{"size":1}}`, oci, false},
		{"C4 sha512", `{"config":{"digest":"sha512:` + hex64 + hex64 + `","size":1}}`, oci, true},
		{"C4 bad layer", `{"config":` + desc(1) + `,"layers":[{"digest":"x","size":1}]}`, oci, false},
		{"C5 negative config", `{"config":` + desc(-1) + `}`, oci, false},
		{"C5 negative layer", `{"config":` + desc(1) + `,"layers":[` + desc(-2) + `]}`, oci, false},
		{"size over int64", `{"config":{"digest":"` + dgst + `","size":99999999999999999999}}`, oci, false},
		{"schema 1", `{"schemaVersion":1,"fsLayers":[]}`, "", false},
		{"schema 1 by its media type", `{"config":` + desc(1) + `}`, mediaTypeSchema1Signed, false},
		{"schema 3", `{"schemaVersion":3,"config":` + desc(1) + `}`, oci, false},
		{"no config", `{"schemaVersion":2}`, oci, false},
		{"null", `null`, oci, false},
		{"list", `[]`, oci, false},
		{"empty", ``, oci, false},
		{"cut", `{"config":`, oci, false},
		{"two documents", `{"config":` + desc(1) + `}{}`, oci, false},
		{"too many layers", `{"config":` + desc(1) + `,"layers":[` + strings.Repeat(desc(1)+",", MaxLayers) + desc(1) + `]}`, oci, false},
		{"bomb of empty layers", `{"config":` + desc(1) + `,"layers":[` + strings.Repeat("{},", 1<<20) + `{}]}`, oci, false},
		{"over the limit", `{"config":` + desc(1) + strings.Repeat(" ", MaxDocument) + `}`, oci, false},
		{"deep", strings.Repeat("[", 1<<20), oci, false},
		{"deep under a key", `{"x":` + strings.Repeat(`[`, 100) + strings.Repeat(`]`, 100) + `,"config":` + desc(1) + `}`, oci, false},
	}
	for _, tt := range tests {
		t.Run(tt.rule, func(t *testing.T) {
			m, err := ParseManifest([]byte(tt.raw), tt.mediaType)
			if tt.ok != (err == nil) {
				t.Fatalf("got %v, %v; want ok %v", m, err, tt.ok)
			}
			if err != nil && !errors.Is(err, ErrMalformed) {
				t.Errorf("got %v, want ErrMalformed", err)
			}
		})
	}
}

func TestParseIndex(t *testing.T) {
	oci, list := ocispec.MediaTypeImageIndex, MediaTypeDockerManifestList
	tests := []struct {
		rule, raw, mediaType string
		ok                   bool
	}{
		{"OCI", `{"schemaVersion":2,"manifests":[` + desc(1) + `]}`, oci, true},
		{"docker's list", `{"mediaType":"` + strings.ReplaceAll(list, "/", `\/`) + `","manifests":[` + desc(1) + `]}`, list, true},
		{"empty", `{"manifests":[]}`, oci, true},
		{"null", `{"manifests":null}`, oci, false},
		{"none", `{}`, oci, false},
		{"C3 manifest too", `{"manifests":[],"config":` + desc(1) + `}`, oci, false},
		{"C3 has layers", `{"manifests":[],"layers":[]}`, oci, false},
		{"C3 another type", `{"mediaType":"` + oci + `","manifests":[]}`, list, false},
		{"C3 a manifest's type", `{"manifests":[]}`, ocispec.MediaTypeImageManifest, false},
		{"C4", `{"manifests":[{"digest":"sha256:..","size":1}]}`, oci, false},
		{"C5", `{"manifests":[` + desc(-1) + `]}`, oci, false},
	}
	for _, tt := range tests {
		t.Run(tt.rule, func(t *testing.T) {
			x, err := ParseIndex([]byte(tt.raw), tt.mediaType)
			if tt.ok != (err == nil) {
				t.Fatalf("got %v, %v; want ok %v", x, err, tt.ok)
			}
			if err != nil && !errors.Is(err, ErrMalformed) {
				t.Errorf("got %v, want ErrMalformed", err)
			}
		})
	}
}

func TestParseConfig(t *testing.T) {
	c, err := ParseConfig([]byte(`{
		"created":"2021-09-23T23:47:57.442225064Z","architecture":"arm","variant":"v7",
		"config":{"Env":["A=b"],"Cmd":"/bin/sh","Entrypoint":["/e","f"],"Labels":{"k":"v","K":"w"},"ExposedPorts":{"80/tcp":{}}},
		"rootfs":{"type":"layers","diff_ids":["` + dgst + `","` + dgst + `"]},
		"history":[{"created_by":"one"},{"created_by":"ENV","empty_layer":true},{"created_by":"two"},{"created_by":"three"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if got := FormatPlatform(c.Platform()); got != "linux/arm/v7" {
		t.Errorf("platform %s, want linux/arm/v7", got)
	}
	if !slices.Equal(c.Config.Cmd, Words{"/bin/sh"}) || !slices.Equal(c.Config.Entrypoint, Words{"/e", "f"}) {
		t.Errorf("Cmd %q, Entrypoint %q", c.Config.Cmd, c.Config.Entrypoint)
	}
	if h := c.LayerHistory(); len(h) != 2 || h[0].CreatedBy != "one" || h[1].CreatedBy != "two" {
		t.Errorf("LayerHistory = %v", h)
	}
	if c.Created.Nanosecond() != 442225064 || c.Config.Labels["K"] != "w" || len(c.Raw) == 0 {
		t.Errorf("got %+v", c)
	}
	if err := c.CheckLayers(2); err != nil {
		t.Error(err)
	}
	if err := c.CheckLayers(3); !errors.Is(err, ErrMalformed) {
		t.Errorf("C1: got %v, want ErrMalformed", err)
	}
	for _, bad := range []string{
		``, `[]`, `"x"`, `{"rootfs":{"type":"other"}}`, `{"created":"yesterday"}`,
		`{"rootfs":{"diff_ids":["md5:x"]}}`, `{"rootfs":{},"rootfs":{}}`, `{"rootfs":{},"RootFS":{}}`,
		`{"rootfs":{"diff_ids":["` + dgst + strings.Repeat(`","`+dgst, MaxLayers) + `"]}}`,
	} {
		if _, err := ParseConfig([]byte(bad)); !errors.Is(err, ErrMalformed) {
			t.Errorf("ParseConfig(%.50s) = %v, want ErrMalformed", bad, err)
		}
	}
	if c, err := ParseConfig([]byte(`{"history":[{"created_by":"x"}]}`)); err != nil || len(c.LayerHistory()) != 0 {
		t.Errorf("more history than layers: %v", err)
	}
}

func TestChainIDs(t *testing.T) {
	a := digest.FromString("a")
	b := digest.FromString("b")
	c := digest.FromString("c")
	ab := digest.FromString(string(a) + " " + string(b))
	abc := digest.FromString(string(ab) + " " + string(c))
	if got := ChainIDs([]digest.Digest{a, b, c}); !slices.Equal(got, []digest.Digest{a, ab, abc}) {
		t.Errorf("got %v", got)
	}
	if got := ChainIDs(nil); len(got) != 0 {
		t.Errorf("got %v for no layer", got)
	}
}

func TestVerifyDocument(t *testing.T) {
	raw := []byte("{}")
	d := ocispec.Descriptor{Digest: digest.FromBytes(raw), Size: 2}
	if err := VerifyDocument(raw, d); err != nil {
		t.Error(err)
	}
	d.Digest = digest.SHA512.FromBytes(raw)
	if err := VerifyDocument(raw, d); err != nil {
		t.Error(err)
	}
	for _, bad := range []ocispec.Descriptor{
		{Digest: d.Digest, Size: 3}, {Digest: d.Digest, Size: -1}, {Digest: dgst, Size: 2}, {Digest: "sha384:0", Size: 2},
		{Digest: digest.SHA384.FromBytes(raw), Size: 2},
	} {
		if err := VerifyDocument(raw, bad); !errors.Is(err, ErrMalformed) {
			t.Errorf("VerifyDocument(%v) = %v, want ErrMalformed", bad, err)
		}
	}
}

func FuzzReference(f *testing.F) {
	for _, s := range []string{"alpine", "host:5000/x:1@" + dgst, "a:/usr:/b", "docker://x:/y", "linux/arm/v7"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if r, err := ParseReference(s); err == nil {
			for _, form := range []string{r.String(), r.Familiar()} {
				if again, err := ParseReference(form); again != r || err != nil {
					t.Errorf("%q: %q is %v, %v; want %v", s, form, again, err, r)
				}
			}
			if src, path := SplitPath(r.String()+":/p", nil); src != r.String() || path != "/p" {
				t.Errorf("SplitPath takes %q apart into %q, %q", r, src, path)
			}
		}
		src, path := SplitPath(s, nil)
		if path != "" && (path[0] != '/' || src+":"+path != s) || path == "" && src != s {
			t.Errorf("SplitPath(%q) = %q, %q", s, src, path)
		}
		if p, err := ParsePlatform(s); err == nil && !MatchPlatform(p, p) {
			t.Errorf("platform %q does not match itself", s)
		}
	})
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"config":`+desc(1)+`,"layers":[`+desc(2)+`]}`), ocispec.MediaTypeImageManifest)
	f.Add([]byte(`{"schemaVersion":2,"manifests":[`+desc(1)+`]}`), ocispec.MediaTypeImageIndex)
	f.Add([]byte(`{"config":{"Cmd":"x"},"rootfs":{"type":"layers","diff_ids":["`+dgst+`"]},"history":[{}]}`), "")
	f.Fuzz(func(t *testing.T, raw []byte, mediaType string) {
		m, merr := ParseManifest(raw, mediaType)
		x, xerr := ParseIndex(raw, mediaType)
		c, cerr := ParseConfig(raw)
		for _, err := range []error{merr, xerr, cerr} {
			if err != nil && !errors.Is(err, ErrMalformed) {
				t.Errorf("%v is not ErrMalformed", err)
			}
		}
		if merr == nil && xerr == nil {
			t.Error("manifest and index at once")
		}
		if merr == nil {
			for _, d := range append(m.Layers, m.Config) {
				if err := ValidateDescriptor(d); err != nil {
					t.Error(err)
				}
			}
		}
		if xerr == nil {
			for _, d := range x.Manifests {
				IsAttestation(d)
			}
		}
		if cerr == nil {
			if n := len(c.RootFS.DiffIDs); len(c.LayerHistory()) != n || len(ChainIDs(c.RootFS.DiffIDs)) != n {
				t.Error("lengths differ")
			}
		}
	})
}
