// SPDX-License-Identifier: Apache-2.0

package regtest

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// A Fake is a registry in memory that serves what it was given to whoever
// asks, and keeps no uploads. Intercept may answer in its place.
type Fake struct {
	Host string // 127.0.0.1:34567
	URL  string

	// Intercept is called before each answer. If it returns true, it has
	// answered. Set it before the first request.
	Intercept func(w http.ResponseWriter, r *http.Request) bool

	mu       sync.Mutex
	blobs    map[string][]byte // by digest, manifests too
	types    map[string]string // media types of manifests, by digest
	tags     map[string]string // "repository:tag" → digest
	requests []Request
}

// A Request is one that a Fake got.
type Request struct {
	Method, Path  string // with the query, if there is one
	Range         string
	Authorization string
}

// NewFake starts a Fake that runs until its test ends.
func NewFake(t testing.TB) *Fake {
	t.Helper()
	f := &Fake{blobs: map[string][]byte{}, types: map[string]string{}, tags: map[string]string{}}
	srv := httptest.NewServer(f)
	t.Cleanup(srv.Close)
	f.URL = srv.URL
	f.Host = strings.TrimPrefix(srv.URL, "http://")
	return f
}

// Digest returns the digest of b.
func Digest(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

// Blob adds a blob to every repository, and returns its digest.
func (f *Fake) Blob(b []byte) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := Digest(b)
	f.blobs[d] = b
	return d
}

// Manifest adds a manifest or an index under a name of a repository, which is
// a tag or may be empty, and returns its digest.
func (f *Fake) Manifest(repository, tag, mediaType string, b []byte) string {
	d := f.Blob(b)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.types[d] = mediaType
	if tag != "" {
		f.tags[repository+":"+tag] = d
	}
	return d
}

// Requests returns what was asked for.
func (f *Fake) Requests() []Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.requests)
}

// Count returns how many requests have method and a path that ends so.
func (f *Fake) Count(method, suffix string) int {
	n := 0
	for _, r := range f.Requests() {
		if r.Method == method && strings.HasSuffix(r.Path, suffix) {
			n++
		}
	}
	return n
}

// ServeHTTP implements the reading half of the protocol.
func (f *Fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.requests = append(f.requests, Request{r.Method, r.URL.RequestURI(), r.Header.Get("Range"), r.Header.Get("Authorization")})
	f.mu.Unlock()
	if f.Intercept != nil && f.Intercept(w, r) {
		return
	}
	f.Serve(w, r)
}

// Serve answers without a fault.
func (f *Fake) Serve(w http.ResponseWriter, r *http.Request) {
	path, ok := strings.CutPrefix(r.URL.Path, "/v2/")
	switch {
	case !ok:
		http.NotFound(w, r)
	case path == "":
		w.WriteHeader(http.StatusOK)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		Refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "a fake takes nothing")
	case strings.HasSuffix(path, "/tags/list"):
		f.serveTags(w, strings.TrimSuffix(path, "/tags/list"))
	default:
		f.serveContent(w, r, path)
	}
}

// Refuse answers with a registry's error.
func Refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{"errors": []any{map[string]string{"code": code, "message": message}}})
}

func (f *Fake) serveTags(w http.ResponseWriter, repository string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	tags := []string{}
	for name := range f.tags {
		if tag, ok := strings.CutPrefix(name, repository+":"); ok {
			tags = append(tags, tag)
		}
	}
	slices.Sort(tags)
	json.NewEncoder(w).Encode(map[string]any{"name": repository, "tags": tags})
}

func (f *Fake) serveContent(w http.ResponseWriter, r *http.Request, path string) {
	parts := strings.Split(path, "/")
	if len(parts) < 3 {
		http.NotFound(w, r)
		return
	}
	kind, name := parts[len(parts)-2], parts[len(parts)-1]
	repository := strings.Join(parts[:len(parts)-2], "/")
	f.mu.Lock()
	if d, ok := f.tags[repository+":"+name]; ok && kind == "manifests" {
		name = d
	}
	body, ok := f.blobs[name]
	mediaType := f.types[name]
	f.mu.Unlock()
	switch {
	case !ok:
		Refuse(w, http.StatusNotFound, strings.ToUpper(strings.TrimSuffix(kind, "s"))+"_UNKNOWN", "nothing of that name here")
		return
	case kind == "manifests":
		w.Header().Set("Content-Type", mediaType)
	default:
		w.Header().Set("Content-Type", "application/octet-stream")
	}
	w.Header().Set("Docker-Content-Digest", name)
	if kind == "manifests" {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		if r.Method == http.MethodGet {
			w.Write(body)
		}
		return
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
}

// Cut sends the first n bytes of an answer of size bytes, and then closes the
// connection.
func Cut(w http.ResponseWriter, body []byte, n int) {
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(http.StatusOK)
	w.Write(body[:n])
	w.(http.Flusher).Flush()
	Drop(w)
}

// Drop closes the connection without an answer, or in the middle of one.
func Drop(http.ResponseWriter) { panic(http.ErrAbortHandler) }
