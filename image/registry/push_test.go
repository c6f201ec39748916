// SPDX-License-Identifier: Apache-2.0

package registry_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/image/registry"
	"github.com/imgfs/imgfs/internal/regtest"
)

// TestPushFaults: something stands between the client and a real registry.
func TestPushFaults(t *testing.T) {
	img := newImage(t, layerOf(2<<20))
	r := regtest.Start(t, regtest.Options{})
	back, err := url.Parse(r.URL)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name      string
		intercept func(n int64, w http.ResponseWriter, r *http.Request) bool // n counts uploads of bytes
		want      string                                                     // of the error; empty: it is there
	}{
		{"no fault", func(int64, http.ResponseWriter, *http.Request) bool { return false }, ""},
		{"cut within an upload", func(n int64, w http.ResponseWriter, r *http.Request) bool {
			if n != 1 {
				return false
			}
			io.CopyN(io.Discard, r.Body, 1<<20)
			regtest.Drop(w)
			return true
		}, ""},
		{"cut after an upload", func(n int64, w http.ResponseWriter, r *http.Request) bool {
			if n != 1 {
				return false
			}
			io.Copy(io.Discard, r.Body)
			regtest.Drop(w)
			return true
		}, ""},
		{"busy", func(n int64, w http.ResponseWriter, r *http.Request) bool {
			if n != 1 {
				return false
			}
			regtest.Refuse(w, http.StatusServiceUnavailable, "", "")
			return true
		}, ""},
		{"full for ever", func(n int64, w http.ResponseWriter, r *http.Request) bool {
			if n == 0 {
				return false
			}
			regtest.Refuse(w, http.StatusInsufficientStorage, "", "disk full")
			return true
		}, "disk full"},
		{"read only", func(n int64, w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPost {
				return false
			}
			regtest.Refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "read only")
			return true
		}, "read only"},
		{"not for you", func(n int64, w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPost {
				return false
			}
			regtest.Refuse(w, http.StatusForbidden, "DENIED", "requested access to the resource is denied")
			return true
		}, "access denied"},
		{"an upload to another server", func(n int64, w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPost {
				return false
			}
			w.Header().Set("Location", "http://localhost:1/upload?sig=1")
			w.WriteHeader(http.StatusAccepted)
			return true
		}, "different host"},
		{"a redirect to another server", func(n int64, w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPut {
				return false
			}
			http.Redirect(w, r, "http://localhost:1/?sig=1", http.StatusTemporaryRedirect)
			return true
		}, ""}, // see below
	} {
		t.Run(tt.name, func(t *testing.T) {
			var uploads atomic.Int64
			proxy := httputil.NewSingleHostReverseProxy(back)
			proxy.ErrorLog = nil
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				n := int64(0)
				if r.Method == http.MethodPut && r.ContentLength > 1<<20 {
					n = uploads.Add(1)
				}
				if !tt.intercept(n, w, r) {
					proxy.ServeHTTP(w, r)
				}
			}))
			defer srv.Close()
			c, to := quick(t, registry.Options{Credentials: tester}), ref(t, strings.TrimPrefix(srv.URL, "http://")+"/"+strings.ReplaceAll(tt.name, " ", "-")+"/app:1")
			n, err := img.push(c, to, nil)
			noSecrets(t, err)
			switch {
			case strings.HasPrefix(tt.name, "a redirect"):
				if err == nil {
					t.Error("an upload followed a redirect to another server")
				}
			case tt.want != "":
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("got %v, want %q", err, tt.want)
				}
			case err != nil || n != 2:
				t.Errorf("sent %d blobs: %v", n, err)
			default:
				if err := img.pull(c, ref(t, r.Host+strings.TrimPrefix(to.String(), to.Domain()))); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestPushRefuses what is not what its descriptor says, and tells the
// caller's own errors as they are.
func TestPushRefuses(t *testing.T) {
	img := newImage(t, layerOf(1000))
	r := regtest.Start(t, regtest.Options{})
	c, to, ctx := quick(t, registry.Options{}), ref(t, r.Host+"/team/app:1"), context.Background()
	if _, err := c.PushBlob(ctx, to, img.layerD, nil, opener(bytes.ToUpper(append([]byte("x"), img.layer[1:]...)))); err == nil {
		t.Error("wrong bytes")
	}
	if _, err := c.PushBlob(ctx, to, img.layerD, nil, opener(img.layer[:10])); err == nil {
		t.Error("too few bytes")
	}
	mine := errors.New("the disk is gone")
	if _, err := c.PushBlob(ctx, to, img.layerD, nil, func() (io.ReadCloser, error) { return nil, mine }); !errors.Is(err, mine) {
		t.Error(err)
	}
	if err := c.PushManifest(ctx, to, img.d, img.manifest[1:]); !errors.Is(err, image.ErrMalformed) {
		t.Error(err)
	}
	if err := c.PushManifest(ctx, to, img.d, img.manifest); err == nil { // its blobs are not there
		t.Error("a manifest without its blobs")
	}
	if _, err := c.PushBlob(ctx, to, img.layerD, nil, opener(img.layer)); err != nil {
		t.Error(err)
	}
	// From a repository that does not have it, and from another registry.
	for _, from := range []string{r.Host + "/none/none", "quay.io/x/y"} {
		f := ref(t, from)
		if sent, err := c.PushBlob(ctx, ref(t, r.Host+"/team/"+strings.ReplaceAll(f.Domain(), ":", "-")), img.layerD, &f, opener(img.layer)); err != nil || !sent {
			t.Errorf("from %s: %v, %v", from, sent, err)
		}
	}
	pinned := ref(t, r.Host+"/team/app@"+img.d.Digest.String())
	if _, err := c.PushBlob(ctx, pinned, img.configD, nil, opener(img.config)); err != nil {
		t.Error(err)
	}
	if err := c.PushManifest(ctx, pinned, img.d, img.manifest); err != nil {
		t.Error(err)
	}
	if err := img.pull(c, pinned); err != nil {
		t.Error(err)
	}
}
