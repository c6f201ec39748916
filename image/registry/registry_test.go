// SPDX-License-Identifier: Apache-2.0

package registry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/image/registry"
	"github.com/imgfs/imgfs/internal/fusetest"
	"github.com/imgfs/imgfs/internal/regtest"
)

// login is who tests are where somebody is asked for.
type login struct{ user, secret, token string }

func (l login) Get(context.Context, string) (user, secret, token string, err error) {
	return l.user, l.secret, l.token, nil
}

var tester = login{user: regtest.User, secret: regtest.Password}

func ref(t testing.TB, s string) image.Reference {
	t.Helper()
	r, err := image.ParseReference(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// client returns a client that tells the test's log what it retries.
func client(t testing.TB, opt registry.Options) *registry.Client {
	opt.Log = t.Logf
	return registry.New(opt)
}

func describe(mediaType string, b []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
}

// testImage is an image of one layer that is no tar: a registry does not care.
type testImage struct {
	layer, config, manifest []byte
	layerD, configD, d      ocispec.Descriptor
}

func newImage(t testing.TB, layer []byte) *testImage {
	t.Helper()
	i := &testImage{layer: layer, config: []byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`)}
	i.layerD = describe(ocispec.MediaTypeImageLayerGzip, i.layer)
	i.configD = describe(ocispec.MediaTypeImageConfig, i.config)
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: i.configD, Layers: []ocispec.Descriptor{i.layerD}}
	m.SchemaVersion = 2
	var err error
	if i.manifest, err = json.Marshal(m); err != nil {
		t.Fatal(err)
	}
	i.d = describe(ocispec.MediaTypeImageManifest, i.manifest)
	return i
}

func opener(b []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
}

// push pushes i and returns how many blobs were sent.
func (i *testImage) push(c *registry.Client, r image.Reference, from *image.Reference) (int, error) {
	n := 0
	for _, b := range []struct {
		d   ocispec.Descriptor
		raw []byte
	}{{i.layerD, i.layer}, {i.configD, i.config}} {
		sent, err := c.PushBlob(context.Background(), r, b.d, from, opener(b.raw))
		if err != nil {
			return n, err
		}
		if sent {
			n++
		}
	}
	return n, c.PushManifest(context.Background(), r, i.d, i.manifest)
}

// pull reads all of i and compares.
func (i *testImage) pull(c *registry.Client, r image.Reference) error {
	ctx := context.Background()
	d, raw, err := c.Resolve(ctx, r)
	if err != nil {
		return err
	}
	if d.Digest != i.d.Digest || d.MediaType != i.d.MediaType || d.Size != i.d.Size || !bytes.Equal(raw, i.manifest) {
		return fmt.Errorf("resolved to %+v, want %+v", d, i.d)
	}
	config, err := c.Document(ctx, r, i.configD)
	if err != nil {
		return err
	}
	if !bytes.Equal(config, i.config) {
		return fmt.Errorf("config %q", config)
	}
	for _, off := range []int64{0, 1, i.layerD.Size / 2, i.layerD.Size} {
		got, err := readBlob(c, r, i.layerD, off)
		if err != nil {
			return err
		}
		if !bytes.Equal(got, i.layer[off:]) {
			return fmt.Errorf("layer from %d on: got %d bytes, other ones than were pushed", off, len(got))
		}
	}
	return nil
}

func readBlob(c *registry.Client, r image.Reference, d ocispec.Descriptor, off int64) ([]byte, error) {
	rc, err := c.Blob(context.Background(), r, d, off)
	if err != nil {
		return nil, err
	}
	got, err := io.ReadAll(rc)
	return got, errors.Join(err, rc.Close())
}

// TestRoundTrip pushes and pulls with each kind of the real server.
func TestRoundTrip(t *testing.T) {
	for _, tt := range []struct {
		name   string
		opt    func(t *testing.T) regtest.Options
		creds  login
		denied bool // without credentials
	}{
		{"plain", func(*testing.T) regtest.Options { return regtest.Options{} }, login{}, false},
		{"TLS", func(*testing.T) regtest.Options { return regtest.Options{TLS: true} }, login{}, false},
		{"TLS and passwords", func(*testing.T) regtest.Options { return regtest.Options{TLS: true, Htpasswd: true} }, tester, true},
		{"a token server", func(t *testing.T) regtest.Options { return regtest.Options{Token: regtest.StartTokenServer(t)} }, tester, true},
		{"an identity token", func(t *testing.T) regtest.Options { return regtest.Options{Token: regtest.StartTokenServer(t)} },
			login{token: regtest.Identity}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := regtest.Start(t, tt.opt(t))
			opt := registry.Options{Config: certs(t, r), Credentials: tt.creds}
			c := client(t, opt)
			img := newImage(t, bytes.Repeat([]byte("layer of a test "), 10_000))
			one, two := ref(t, r.Host+"/team/one:1"), ref(t, r.Host+"/team/two:1")
			if n, err := img.push(c, one, nil); err != nil || n != 2 {
				t.Fatalf("sent %d blobs, %v", n, err)
			}
			if n, err := img.push(c, one, nil); err != nil || n != 0 {
				t.Errorf("again: sent %d blobs, %v", n, err)
			}
			if n, err := img.push(c, two, &one); err != nil || n != 0 {
				t.Errorf("mounted: sent %d blobs, %v", n, err)
			}
			for _, r := range []image.Reference{one, two, ref(t, r.Host+"/team/one@"+img.d.Digest.String())} {
				if err := img.pull(client(t, opt), r); err != nil {
					t.Errorf("%s: %v", r, err)
				}
			}
			if has, err := c.HasBlob(context.Background(), one, describe("", []byte("not there"))); has || err != nil {
				t.Errorf("a blob that is not there: %v, %v", has, err)
			}
			_, _, err := c.Resolve(context.Background(), ref(t, r.Host+"/team/one:none"))
			if !errors.Is(err, registry.ErrNotFound) || !errors.Is(err, image.ErrNotFound) {
				t.Errorf("a tag that is not there: %v", err)
			}
			if tt.denied {
				err := img.pull(client(t, registry.Options{Config: certs(t, r)}), one)
				if !errors.Is(err, registry.ErrUnauthorized) {
					t.Errorf("anonymous: %v", err)
				}
			}
		})
	}
}

// certs returns a config that trusts r.
func certs(t testing.TB, r *regtest.Registry) *registry.Config {
	t.Helper()
	if r.Certs == "" {
		return new(registry.Config)
	}
	return config(t, fmt.Sprintf("certs-dirs = [%q]\n", r.Certs))
}

// TestSkopeo: the tools of others read what was pushed, and their pushes can
// be read.
func TestSkopeo(t *testing.T) {
	file := fusetest.Image(t, "tiny")
	skopeo := func(args ...string) string {
		t.Helper()
		out, err := exec.Command("skopeo", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("skopeo %s: %v\n%s", args, err, out)
		}
		return string(out)
	}
	r := regtest.Start(t, regtest.Options{})
	skopeo("copy", "-q", "--dest-tls-verify=false", "--preserve-digests", "oci-archive:"+file, "docker://"+r.Host+"/x/tiny:1")
	c, ctx := client(t, registry.Options{}), context.Background()
	from, to := ref(t, r.Host+"/x/tiny:1"), ref(t, r.Host+"/y/tiny:1")
	d, raw, err := c.Resolve(ctx, from)
	if err != nil {
		t.Fatal(err)
	}
	m, err := image.ParseManifest(raw, d.MediaType)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range append(m.Layers, m.Config) {
		if _, err := c.PushBlob(ctx, to, b, nil, func() (io.ReadCloser, error) { return c.Blob(ctx, from, b, 0) }); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.PushManifest(ctx, to, d, raw); err != nil {
		t.Fatal(err)
	}
	if out := skopeo("inspect", "--tls-verify=false", "--format", "{{.Digest}}", "docker://"+to.String()); strings.TrimSpace(out) != d.Digest.String() {
		t.Errorf("skopeo sees %s, want %s", out, d.Digest)
	}
	skopeo("copy", "-q", "--src-tls-verify=false", "docker://"+to.String(), "oci:"+t.TempDir()+"/copy")
}
