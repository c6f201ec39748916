// SPDX-License-Identifier: Apache-2.0

package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/image/registry"
	"github.com/imgfs/imgfs/internal/regtest"
)

// mirrored returns the config in which registries has these mirrors.
func mirrored(t testing.TB, host string, urls ...string) *registry.Config {
	t.Helper()
	c := new(registry.Config)
	for _, u := range urls {
		if err := c.AddMirror(host, u); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// TestMirrorFails: whatever is wrong with a mirror, the next one or the
// registry itself is asked.
func TestMirrorFails(t *testing.T) {
	img := newImage(t, layerOf(100_000))
	other := newImage(t, layerOf(100_000+1))
	everything := func(h http.HandlerFunc) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool { h(w, r); return true }
	}
	for _, tt := range []struct {
		name      string
		intercept func(http.ResponseWriter, *http.Request) bool
		most      int // requests to the mirror
	}{
		{"it has nothing", everything(func(w http.ResponseWriter, _ *http.Request) { regtest.Refuse(w, 404, "NAME_UNKNOWN", "") }), 6},
		{"it wants a login", everything(func(w http.ResponseWriter, _ *http.Request) { regtest.Refuse(w, 401, "UNAUTHORIZED", "") }), 6},
		{"it refuses", everything(func(w http.ResponseWriter, _ *http.Request) { regtest.Refuse(w, 403, "DENIED", "") }), 6},
		{"it is broken, and asked once", everything(func(w http.ResponseWriter, _ *http.Request) { regtest.Refuse(w, 500, "", "") }), 1},
		{"it has too much to do, and is asked once", everything(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "60")
			regtest.Refuse(w, 429, "", "")
		}), 1},
		{"it drops connections", everything(func(w http.ResponseWriter, _ *http.Request) { regtest.Drop(w) }), 1},
		{"it serves pages", everything(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>welcome</html>") }), 6},
		{"it lies about content", func(w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "/manifests/") {
				regtest.Refuse(w, 404, "", "")
				return true
			}
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(other.config))
			return true
		}, 6},
		{"it breaks off within a layer", func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, img.layerD.Digest.String()) {
				return false
			}
			regtest.Cut(w, img.layer, 50_000)
			return true
		}, 6},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m, o := serve(t, img), serve(t, img)
			m.Intercept = tt.intercept
			c := quick(t, registry.Options{Config: mirrored(t, o.Host, m.URL)})
			if err := img.pull(c, ref(t, o.Host+"/team/app:1")); err != nil {
				t.Error(err)
			}
			if n := len(m.Requests()); n == 0 || n > tt.most {
				t.Errorf("the mirror was asked %d times, at most %d", n, tt.most)
			}
			if len(o.Requests()) == 0 {
				t.Error("the registry was not asked")
			}
		})
	}
}

// TestMirrorHas: with a mirror that has all, the registry is not asked, and
// need not be there.
func TestMirrorHas(t *testing.T) {
	img := newImage(t, layerOf(100_000))
	for _, prefix := range []string{"", "/hub/cache"} {
		m := regtest.NewFake(t)
		m.Blob(img.layer)
		m.Blob(img.config)
		m.Manifest(strings.TrimPrefix(prefix+"/library/app", "/"), "1", img.d.MediaType, img.manifest)
		c := quick(t, registry.Options{Config: mirrored(t, "docker.io", "http://127.0.0.1:1", m.URL+prefix)})
		if err := img.pull(c, ref(t, "app:1")); err != nil {
			t.Error(err)
		}
	}
}

// TestDistrust: a mirror that gave wrong bytes is told from a registry that
// did, and is not asked for the blob again.
func TestDistrust(t *testing.T) {
	img := newImage(t, layerOf(1000))
	m, o := serve(t, img), serve(t, img)
	m.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, img.layerD.Digest.String()) {
			return false
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(bytes.ToUpper(append([]byte("wrong"), img.layer[5:]...))))
		return true
	}
	c, name := quick(t, registry.Options{Config: mirrored(t, o.Host, m.URL)}), ref(t, o.Host+"/team/app:1")
	for i, want := range []bool{true, false} {
		got, err := readBlob(c, name, img.layerD, 0)
		if err != nil || bytes.Equal(got, img.layer) == want {
			t.Fatalf("read %d: %d bytes, %v", i, len(got), err)
		}
		if got := c.Distrust(name, img.layerD); got != want {
			t.Errorf("read %d: Distrust = %v", i, got)
		}
	}
}

// TestPullThrough: Debian's registry as a mirror of another.
func TestPullThrough(t *testing.T) {
	o := regtest.Start(t, regtest.Options{})
	m := regtest.Start(t, regtest.Options{MirrorOf: o.URL})
	img, name := newImage(t, layerOf(100_000)), ref(t, o.Host+"/team/app:1")
	c := quick(t, registry.Options{Config: mirrored(t, o.Host, m.URL)})
	if _, err := img.push(c, name, nil); err != nil { // to the registry, not to the mirror
		t.Fatal(err)
	}
	if err := img.pull(c, name); err != nil {
		t.Fatal(err)
	}
	o.Stop()
	if err := img.pull(quick(t, registry.Options{Config: mirrored(t, o.Host, m.URL)}), name); err != nil {
		t.Errorf("the registry is gone, its mirror is not: %v", err)
	}
	if _, _, err := quick(t, registry.Options{}).Resolve(context.Background(), name); !errors.Is(err, registry.ErrOffline) {
		t.Errorf("the registry is gone: %v", err)
	}
}

// TestPlainMirror: a mirror by plain HTTP is this machine's, or one that was
// named insecure.
func TestPlainMirror(t *testing.T) {
	var said []string
	c := registry.New(registry.Options{
		Config: mirrored(t, "x.invalid", "http://mirror.invalid"),
		Log:    func(f string, a ...any) { said = append(said, fmt.Sprintf(f, a...)) },
	})
	c.Hurry()
	_, _, err := c.Resolve(context.Background(), ref(t, "x.invalid/a/b"))
	if !errors.Is(err, registry.ErrOffline) || !strings.Contains(strings.Join(said, ""), "has to be named as an insecure registry") {
		t.Errorf("%v, %q", err, said)
	}
}

// TestProxy: a registry is reached through the proxy of the environment, which
// a process reads once.
func TestProxy(t *testing.T) {
	const name = "registry.invalid"
	img := newImage(t, layerOf(1000))
	if os.Getenv("REGISTRY_TEST_PROXY") == "" {
		f := serve(t, img)
		var asked []string
		proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked = append(asked, r.Method+" "+r.Host)
			if r.Method == http.MethodConnect {
				regtest.Refuse(w, http.StatusBadGateway, "", "")
				return
			}
			f.ServeHTTP(w, r)
		}))
		defer proxy.Close()
		c := exec.Command(os.Args[0], "-test.run=^TestProxy$")
		c.Env = append(os.Environ(), "REGISTRY_TEST_PROXY=1", "HTTP_PROXY="+proxy.URL, "HTTPS_PROXY="+proxy.URL, "NO_PROXY=")
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if all := strings.Join(asked, ","); !strings.Contains(all, "CONNECT "+name+":443,GET "+name) {
			t.Errorf("the proxy was asked: %s", all)
		}
		return
	}
	conf := new(registry.Config)
	if err := conf.AddInsecure(name); err != nil {
		t.Fatal(err)
	}
	if err := img.pull(quick(t, registry.Options{Config: conf}), ref(t, name+"/team/app:1")); err != nil {
		t.Error(err)
	}
}

// TestCertificates: TLS is verified, by what stands in a certs.d, and not
// where a registry is named insecure.
func TestCertificates(t *testing.T) {
	img := newImage(t, layerOf(1000))
	cert := regtest.NewCertificate(t, "127.0.0.1")
	f := serve(t, img)
	var asked []string
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, c := range r.TLS.PeerCertificates {
			asked = append(asked, c.Subject.CommonName)
		}
		f.ServeHTTP(w, r)
	}))
	srv.TLS = serverTLS(cert)
	srv.StartTLS()
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "https://")
	name := ref(t, host+"/team/app:1")
	if err := img.pull(quick(t, registry.Options{}), name); !errors.Is(err, registry.ErrCertificate) {
		t.Errorf("nobody vouches for it: %v", err)
	}
	insecure := new(registry.Config)
	if err := insecure.AddInsecure("127.0.0.0/8"); err != nil {
		t.Fatal(err)
	}
	if err := img.pull(quick(t, registry.Options{Config: insecure}), name); err != nil {
		t.Errorf("insecure: %v", err)
	}
	dir := t.TempDir()
	cert.WriteCA(t, dir, host)
	conf := func() *registry.Config { return config(t, fmt.Sprintf("certs-dirs = [%q]", dir)) }
	if err := img.pull(quick(t, registry.Options{Config: conf()}), name); err != nil || len(asked) > 0 {
		t.Errorf("certs.d: %v, showed %q", err, asked)
	}
	cert.Write(t, dir+"/"+host)
	if err := img.pull(quick(t, registry.Options{Config: conf()}), name); err != nil || len(asked) == 0 {
		t.Errorf("certs.d: %v, showed %q", err, asked)
	}
	write(t, dir+"/"+host+"/bad.crt", "no certificate")
	if err := img.pull(quick(t, registry.Options{Config: conf()}), name); err == nil || !strings.Contains(err.Error(), "bad.crt: no certificate in it") {
		t.Errorf("a bad certificate: %v", err)
	}
	if _, _, err := quick(t, registry.Options{}).Resolve(context.Background(), ref(t, f.Host+"/none")); !errors.Is(err, image.ErrNotFound) {
		t.Error(err)
	}
}
