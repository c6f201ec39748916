// SPDX-License-Identifier: Apache-2.0

package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/image/registry"
	"github.com/imgfs/imgfs/internal/regtest"
)

// quick returns a client that does not wait long.
func quick(t testing.TB, opt registry.Options) *registry.Client {
	c := client(t, opt)
	c.Hurry()
	return c
}

// serve returns a fake that has img as team/app:1.
func serve(t testing.TB, img *testImage) *regtest.Fake {
	f := regtest.NewFake(t)
	f.Blob(img.layer)
	f.Blob(img.config)
	f.Manifest("team/app", "1", img.d.MediaType, img.manifest)
	return f
}

// layer returns bytes that tell where they are.
func layerOf(n int) []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "%d,", i)
	}
	return b.Bytes()[:n]
}

// noSecrets fails if the text of an error holds what it must not.
func noSecrets(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		return
	}
	for _, s := range []string{"sesame", "dGVzdGVy", "X-Amz", "sig=", "tok-", "\n"} {
		if strings.Contains(err.Error(), s) {
			t.Errorf("the error holds %q: %v", s, err)
		}
	}
}

// TestFaults: a registry has one fault after another, and what is read is
// whole, or an error of the right kind.
func TestFaults(t *testing.T) {
	const size = 300_000
	img := newImage(t, layerOf(size))
	isBlob := func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, img.layerD.Digest.String()) }
	isManifest := func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/manifests/") }
	isConfig := func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, img.configD.Digest.String()) }
	// first has do answer the first n requests that are meant.
	first := func(n int64, meant func(*http.Request) bool, do http.HandlerFunc) func(http.ResponseWriter, *http.Request) bool {
		var count atomic.Int64
		return func(w http.ResponseWriter, r *http.Request) bool {
			if !meant(r) || count.Add(1) > n {
				return false
			}
			do(w, r)
			return true
		}
	}
	const always = 1 << 40
	drop := func(w http.ResponseWriter, _ *http.Request) { regtest.Drop(w) }
	refuse := func(status int, header ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			regtest.Refuse(w, status, "TOOMANYREQUESTS", "slow down, https://me:sesame@x/y?sig=1\n\x1b[31m")
		}
	}
	body := func(text string, header ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.Write([]byte(text))
		}
	}
	for _, tt := range []struct {
		name      string
		intercept func(http.ResponseWriter, *http.Request) bool
		want      error  // nil: all is read
		text      string // of the error
	}{
		{"no fault", nil, nil, ""},
		{"dropped before the manifest", first(2, isManifest, drop), nil, ""},
		{"dropped before the config", first(2, isConfig, drop), nil, ""},
		{"dropped before the layer", first(2, isBlob, drop), nil, ""},
		{"dropped for ever", first(always, isBlob, drop), errAny, ""},
		{"cut within the manifest", first(2, isManifest, func(w http.ResponseWriter, _ *http.Request) { regtest.Cut(w, img.manifest, 10) }), nil, ""},
		{"cut within the config", first(2, isConfig, func(w http.ResponseWriter, _ *http.Request) { regtest.Cut(w, img.config, 0) }), nil, ""},
		{"cut within the layer", first(1, isBlob, func(w http.ResponseWriter, _ *http.Request) { regtest.Cut(w, img.layer, 1000) }), nil, ""},
		{"cut before the layer's first byte", first(3, isBlob, func(w http.ResponseWriter, _ *http.Request) { regtest.Cut(w, img.layer, 0) }), nil, ""},
		{"cut always at the same place, and no ranges", first(always, isBlob, func(w http.ResponseWriter, _ *http.Request) { regtest.Cut(w, img.layer, 1000) }), errAny, "unexpected EOF"},
		{"429 that asks for no time", first(2, isManifest, refuse(429, "Retry-After", "0")), nil, ""},
		{"429 that asks for a second", first(1, isBlob, refuse(429, "Retry-After", "1")), nil, ""},
		{"429 that asks for a day", first(always, isManifest, refuse(429, "Retry-After", "86400")), errAny, "too many requests (HTTP 429)"},
		{"503 at each step once", first(1, func(r *http.Request) bool { return true }, refuse(503)), nil, ""},
		{"500 for ever", first(always, isBlob, refuse(500)), errAny, "internal server error (HTTP 500): slow down"},
		{"403", first(always, isManifest, refuse(403)), registry.ErrDenied, ""},
		{"401 without a challenge", first(always, isBlob, refuse(401)), registry.ErrUnauthorized, ""},
		{"404 of a blob", first(always, isBlob, refuse(404)), registry.ErrNotFound, ""},
		{"404 that is a page", first(always, isManifest, func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }), image.ErrNotFound, ""},
		{"an answer of another kind", first(always, isManifest, refuse(418)), errAny, "teapot"},
		{"a layer of another length", first(always, isBlob, body("short")), image.ErrMalformed, "want 300000 bytes, the server has 5"},
		{"a config that is too long", first(always, isConfig, body(string(img.config)+" ")), image.ErrMalformed, ""},
		{"wrong bytes of a config", first(always, isConfig, body(strings.Replace(string(img.config), "amd64", "arm64", 1))), image.ErrMalformed, ""},
		{"a manifest that is too big", first(always, isManifest, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(image.MaxDocument+1))
		}), image.ErrMalformed, "over 4194304 bytes"},
		{"a manifest without end", first(always, isManifest, func(w http.ResponseWriter, _ *http.Request) {
			for block := make([]byte, 1<<20); ; {
				if _, err := w.Write(block); err != nil {
					return
				}
			}
		}), image.ErrMalformed, "over 4194304 bytes"},
		{"a manifest and an index in one", first(always, isManifest, body(`{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}`)), image.ErrMalformed, "manifest and index at once"},
		{"a manifest that is a page", first(always, isManifest, body("<html>", "Content-Type", "text/html")), image.ErrMalformed, ""},
		{"a manifest of the first schema", first(always, isManifest, body(`{"schemaVersion":1,"fsLayers":[]}`)), image.ErrMalformed, "schema 1"},
		{"a manifest with another digest than said", first(always, isManifest, body(string(img.manifest), "Docker-Content-Digest", img.layerD.Digest.String())), image.ErrMalformed, "the registry says"},
		{"a manifest called text", first(always, isManifest, body(string(img.manifest), "Content-Type", "text/plain")), nil, ""},
		{"a layer without length that ends early", first(1, isBlob, func(w http.ResponseWriter, _ *http.Request) {
			w.Write(img.layer[:100])
			w.(http.Flusher).Flush()
		}), nil, ""},
		{"a layer without length or end", first(1, isBlob, func(w http.ResponseWriter, _ *http.Request) {
			w.Write(img.layer)
			w.(http.Flusher).Flush()
			w.Write(img.layer)
		}), nil, ""},
		{"a server that knows no ranges", first(always, isBlob, func(w http.ResponseWriter, _ *http.Request) { w.Write(img.layer) }), nil, ""},
		{"a range from elsewhere", first(always, func(r *http.Request) bool { return isBlob(r) && r.Header.Get("Range") != "" }, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", "bytes 5-9/300000")
			w.WriteHeader(http.StatusPartialContent)
			w.Write([]byte("12345"))
		}), image.ErrMalformed, "the server has range"},
		{"a range of another blob", first(always, func(r *http.Request) bool { return isBlob(r) && r.Header.Get("Range") != "" }, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", "bytes 1-5/6")
			w.WriteHeader(http.StatusPartialContent)
			w.Write([]byte("12345"))
		}), image.ErrMalformed, "the server has 6"},
		{"no such range", first(always, func(r *http.Request) bool { return isBlob(r) && r.Header.Get("Range") != "" }, refuse(416)), image.ErrMalformed, "the server has fewer"},
		{"a redirect to itself", first(always, isBlob, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
		}), errAny, "over 10 redirects"},
		{"a redirect to a file", first(always, isBlob, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "file:///etc/passwd?sig=1", http.StatusTemporaryRedirect)
		}), errAny, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := serve(t, img)
			f.Intercept = tt.intercept
			err := img.pull(quick(t, registry.Options{Credentials: tester}), ref(t, f.Host+"/team/app:1"))
			switch {
			case tt.want == nil && err != nil:
				t.Error(err)
			case tt.want == errAny && err == nil, tt.want != nil && tt.want != errAny && !errors.Is(err, tt.want):
				t.Errorf("got %v, want %v", err, tt.want)
			case tt.want != nil && (!strings.Contains(err.Error(), tt.text) || !strings.Contains(err.Error(), f.Host+"/team/app")):
				t.Errorf("got %v, want %q of %s", err, tt.text, f.Host)
			}
			noSecrets(t, err)
			if n := len(f.Requests()); n > 60 {
				t.Errorf("%d requests", n)
			}
		})
	}
}

// errAny stands for any error.
var errAny = errors.New("any")

// TestResume: what was read is not asked for again.
func TestResume(t *testing.T) {
	img := newImage(t, layerOf(5<<20))
	f := serve(t, img)
	breaks := 0
	f.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") || breaks == 20 {
			return false
		}
		breaks++
		off := 0
		fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &off)
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", off, len(img.layer)-1, len(img.layer)))
		w.Header().Set("Content-Length", strconv.Itoa(len(img.layer)-off))
		w.WriteHeader(map[bool]int{true: 206, false: 200}[off > 0])
		w.Write(img.layer[off : off+200_000])
		w.(http.Flusher).Flush()
		regtest.Drop(w)
		return true
	}
	got, err := readBlob(quick(t, registry.Options{}), ref(t, f.Host+"/team/app:1"), img.layerD, 7)
	if err != nil || !bytes.Equal(got, img.layer[7:]) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	last := -1
	for i, r := range f.Requests()[1:] { // the first asks whether it is TLS… no: /v2/ is not seen by a plain server
		off := 0
		if fmt.Sscanf(r.Range, "bytes=%d-", &off); i > 0 && off <= last {
			t.Errorf("request %d from %d on, after %d", i, off, last)
		}
		last = off
	}
	if breaks != 20 {
		t.Errorf("broke %d times", breaks)
	}
}

// TestSilence: a server that sends nothing, or a byte now and then, is given
// up, and what it sent is kept.
func TestSilence(t *testing.T) {
	img := newImage(t, layerOf(100_000))
	for _, tt := range []struct {
		name  string
		every time.Duration
	}{{"nothing", time.Hour}, {"a trickle", time.Millisecond}} {
		t.Run(tt.name, func(t *testing.T) {
			f := serve(t, img)
			var once atomic.Bool
			f.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.HasSuffix(r.URL.Path, img.layerD.Digest.String()) || once.Swap(true) {
					return false
				}
				w.Header().Set("Content-Length", strconv.Itoa(len(img.layer)))
				for i := range img.layer {
					w.Write(img.layer[i : i+1])
					w.(http.Flusher).Flush()
					select {
					case <-r.Context().Done():
						return true
					case <-time.After(tt.every):
					}
				}
				return true
			}
			c := quick(t, registry.Options{})
			c.Impatient(200 * time.Millisecond)
			got, err := readBlob(c, ref(t, f.Host+"/team/app:1"), img.layerD, 0)
			if err != nil || !bytes.Equal(got, img.layer) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if n := f.Count("GET", img.layerD.Digest.String()); n != 2 {
				t.Errorf("asked %d times", n)
			}
		})
	}
}

// TestCancel: the end of the context is the error.
func TestCancel(t *testing.T) {
	img := newImage(t, layerOf(1000))
	f := serve(t, img)
	ctx, cancel := context.WithCancel(context.Background())
	f.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
		cancel()
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	}
	_, _, err := client(t, registry.Options{}).Resolve(ctx, ref(t, f.Host+"/team/app:1"))
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestRedirects: what a registry is told about the user it does not pass on.
func TestRedirects(t *testing.T) {
	img := newImage(t, layerOf(10_000))
	var seen []string
	cdn := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Header.Get("Authorization")+r.Header.Get("Cookie")+r.Header.Get("Referer"))
		switch r.URL.Path {
		case "/challenge":
			w.Header().Set("WWW-Authenticate", `Basic realm="give me your password"`)
			w.WriteHeader(http.StatusUnauthorized)
		case "/back":
			http.Redirect(w, r, r.URL.Query().Get("to"), http.StatusTemporaryRedirect)
		default:
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(img.layer))
		}
	}))
	defer cdn.Close()
	for _, tt := range []struct {
		name, path string
		want       error
	}{
		{"to another port", "/blob?X-Amz-Signature=sig=1", nil},
		{"to another name", "/blob?X-Amz-Signature=sig=1", nil},
		{"to who asks for a password", "/challenge?sig=1", registry.ErrUnauthorized},
		{"and back", "/back", registry.ErrUnauthorized}, // without the password it is not let in
	} {
		t.Run(tt.name, func(t *testing.T) {
			seen = nil
			f := serve(t, img)
			var back []string
			f.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path == "/v2/back" {
					back = append(back, r.Header.Get("Authorization"))
					regtest.Refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "who?")
					return true
				}
				if user, _, _ := r.BasicAuth(); user != regtest.User {
					w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
					regtest.Refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "who?")
					return true
				}
				if !strings.HasSuffix(r.URL.Path, img.layerD.Digest.String()) {
					return false
				}
				to := cdn.URL + tt.path
				if tt.name == "to another name" {
					to = strings.Replace(to, "127.0.0.1", "localhost", 1)
				}
				if tt.path == "/back" {
					to += "?to=" + f.URL + "/v2/back"
				}
				http.Redirect(w, r, to, http.StatusTemporaryRedirect)
				return true
			}
			c := quick(t, registry.Options{Credentials: tester})
			err := img.pull(c, ref(t, f.Host+"/team/app:1"))
			if !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			noSecrets(t, err)
			if len(seen) == 0 {
				t.Error("no redirect was followed")
			}
			for _, s := range append(seen, back...) {
				if s != "" {
					t.Errorf("told after the redirect: %q", s)
				}
			}
		})
	}
}

// TestForeignLayer: an address in a descriptor gets no credentials, and only
// a foreign layer's is asked.
func TestForeignLayer(t *testing.T) {
	img := newImage(t, layerOf(10_000))
	var told []string
	vendor := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		told = append(told, r.Header.Get("Authorization"))
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(img.layer))
	}))
	defer vendor.Close()
	f := regtest.NewFake(t)
	d := img.layerD
	d.URLs = []string{"ftp://x/y", "https://me:sesame@" + f.Host + "/", vendor.URL + "/layer"}
	c, name := quick(t, registry.Options{Credentials: tester}), ref(t, f.Host+"/team/app:1")
	if _, err := readBlob(c, name, d, 0); !errors.Is(err, registry.ErrNotFound) || len(told) > 0 {
		t.Errorf("an ordinary layer: %v", err)
	}
	d.MediaType = image.MediaTypeDockerForeignLayer
	for _, off := range []int64{0, 99} {
		if got, err := readBlob(c, name, d, off); err != nil || !bytes.Equal(got, img.layer[off:]) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}
	if strings.Join(told, "") != "" || len(told) != 2 {
		t.Errorf("told: %q", told)
	}
}

// TestBadArguments: nothing is asked for that cannot be.
func TestBadArguments(t *testing.T) {
	c, name := quick(t, registry.Options{}), ref(t, "127.0.0.1:1/x:1")
	d := describe("", []byte("x"))
	if _, err := c.Blob(context.Background(), name, d, 2); err == nil {
		t.Error("an offset beyond the end")
	}
	if _, err := c.Blob(context.Background(), name, ocispec.Descriptor{Digest: "sha256:../../x", Size: 1}, 0); !errors.Is(err, image.ErrMalformed) {
		t.Error("a digest that is none", err)
	}
	d.Size = image.MaxDocument + 1
	if _, err := c.Document(context.Background(), name, d); !errors.Is(err, image.ErrMalformed) {
		t.Error("a document that is too big", err)
	}
	if _, _, err := c.Resolve(context.Background(), name); !errors.Is(err, registry.ErrOffline) {
		t.Error("nobody there", err)
	}
}
