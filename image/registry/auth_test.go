// SPDX-License-Identifier: Apache-2.0

package registry_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/imgfs/imgfs/image/registry"
	"github.com/imgfs/imgfs/internal/regtest"
)

func serverTLS(c *regtest.Certificate) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{c.TLS}, ClientAuth: tls.RequestClientCert}
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestTokens: a real registry behind a token server.
func TestTokens(t *testing.T) {
	s := regtest.StartTokenServer(t)
	r := regtest.Start(t, regtest.Options{Token: s})
	img := newImage(t, layerOf(100_000))
	name, open := ref(t, r.Host+"/team/app:1"), ref(t, r.Host+"/public/app:1")
	c := quick(t, registry.Options{Credentials: tester})
	for _, n := range []string{name.String(), open.String()} {
		if _, err := img.push(c, ref(t, n), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := img.pull(quick(t, registry.Options{}), open); err != nil {
		t.Errorf("anonymous, what is public: %v", err)
	}
	if err := img.pull(quick(t, registry.Options{}), name); !errors.Is(err, registry.ErrUnauthorized) {
		t.Errorf("anonymous, what is not: %v", err)
	}
	err := img.pull(quick(t, registry.Options{Credentials: login{user: "tester", secret: "sesame, open"}}), name)
	if !errors.Is(err, registry.ErrUnauthorized) || !strings.Contains(err.Error(), "the user name or the password is wrong") {
		t.Errorf("a wrong password: %v", err)
	}
	noSecrets(t, err)

	// Many at a time share one token.
	asked := s.Asked.Load()
	c = quick(t, registry.Options{Credentials: tester})
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if _, err := readBlob(c, name, img.layerD, 0); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := s.Asked.Load() - asked; n != 1 {
		t.Errorf("asked for %d tokens", n)
	}
}

// TestExpiry: a token that runs out in the middle of a blob, and between
// requests, is replaced.
func TestExpiry(t *testing.T) {
	img := newImage(t, layerOf(3<<20))
	f := serve(t, img)
	var issued atomic.Int64
	tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"token":"tok-%d"}`, issued.Add(1))
	}))
	defer tokens.Close()
	uses := map[string]int{}
	f.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
		a := r.Header.Get("Authorization")
		if uses[a]++; a != fmt.Sprintf("Bearer tok-%d", issued.Load()) || uses[a] > 2 { // good for two requests
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="x",error="invalid_token"`, tokens.URL))
			regtest.Refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "expired")
			return true
		}
		if strings.Contains(r.URL.Path, "/blobs/") && r.Header.Get("Range") == "" {
			regtest.Cut(w, img.layer, 2<<20)
			return true
		}
		return false
	}
	c, name := quick(t, registry.Options{Credentials: tester}), ref(t, f.Host+"/team/app:1")
	for range 3 {
		if _, _, err := c.Resolve(context.Background(), name); err != nil {
			t.Fatal(err)
		}
		if got, err := readBlob(c, name, img.layerD, 0); err != nil || len(got) != len(img.layer) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
	}
	if n := issued.Load(); n < 3 || n > 6 {
		t.Errorf("%d tokens", n)
	}
}

// TestTokenServerFaults: what a token server can do wrong.
func TestTokenServerFaults(t *testing.T) {
	img := newImage(t, layerOf(100))
	thief := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a := r.Header.Get("Authorization"); a != "" {
			t.Errorf("credentials came to another server: %s", a)
		}
		fmt.Fprint(w, `{"token":"tok-stolen"}`)
	}))
	defer thief.Close()
	for _, tt := range []struct {
		name, realm string // %s: the token server
		answer      http.HandlerFunc
		want        string // of the error
	}{
		{"it is not JSON", "%s", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "tok-1") }, "its answer is no token"},
		{"it has no token", "%s", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"token":""}`) }, "its answer is no token"},
		{"it does not end", "%s", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"token":"`, strings.Repeat("tok-", 1<<20), `"}`)
		}, "its answer is no token"},
		{"a token that is no header", "%s", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"token":"tok-\r\nX: y"}`) }, "its answer is no token"},
		{"it refuses", "%s", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) }, "the password is wrong"},
		{"it is broken", "%s", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, "HTTP 500"},
		{"it drops connections", "%s", func(w http.ResponseWriter, _ *http.Request) { regtest.Drop(w) }, "EOF"},
		{"it is none", "", nil, "its address is malformed"},
		{"it is a file", "file:///etc/passwd", nil, "its address is malformed"},
		{"it has a password of its own", "http://me:sesame@x.invalid/", nil, "its address is malformed"},
		{"it redirects to a thief", "%s", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, thief.URL+"/?sig=1", http.StatusTemporaryRedirect)
		}, "authentication required"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tokens := httptest.NewServer(tt.answer)
			defer tokens.Close()
			f := serve(t, img)
			f.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
				realm := strings.ReplaceAll(tt.realm, "%s", tokens.URL+"/?sig=1")
				w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer realm=%q,service=x", realm))
				regtest.Refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "who?")
				return true
			}
			err := img.pull(quick(t, registry.Options{Credentials: tester}), ref(t, f.Host+"/team/app:1"))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
			noSecrets(t, err)
		})
	}
}

// TestLogin asks servers of each kind.
func TestLogin(t *testing.T) {
	ctx := context.Background()
	tokens := regtest.StartTokenServer(t)
	for _, tt := range []struct {
		name string
		opt  regtest.Options
		open bool
	}{
		{"passwords", regtest.Options{Htpasswd: true}, false},
		{"tokens", regtest.Options{Token: tokens}, false},
		{"open", regtest.Options{}, true},
	} {
		r := regtest.Start(t, tt.opt)
		c := quick(t, registry.Options{})
		if err := c.Login(ctx, r.Host, regtest.User, regtest.Password); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		err := c.Login(ctx, r.Host, regtest.User, "sesame?")
		if !tt.open && (!errors.Is(err, registry.ErrUnauthorized) || !strings.Contains(err.Error(), "is wrong")) || tt.open && err != nil {
			t.Errorf("%s: a wrong password: %v", tt.name, err)
		}
		noSecrets(t, err)
	}
	if err := quick(t, registry.Options{}).Login(ctx, "a b", "u", "p"); err == nil {
		t.Error("a host that is none")
	}
}

func TestParseChallenges(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   []string
		want []string // scheme, then its parameters
	}{
		{"docker's", []string{`Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:x:pull,push"`},
			[]string{"bearer map[realm:https://auth.docker.io/token scope:repository:x:pull,push service:registry.docker.io]"}},
		{"basic", []string{`Basic realm="a \"b\" \\ c"`}, []string{`basic map[realm:a "b" \ c]`}},
		{"two in one header", []string{`Negotiate, Basic realm=x , bearer  Realm = "y" , service=z`},
			[]string{"negotiate map[]", "basic map[realm:x]", "bearer map[realm:y service:z]"}},
		{"two headers", []string{"NTLM", "Basic realm=x"}, []string{"ntlm map[]", "basic map[realm:x]"}},
		{"no end of a string", []string{`Bearer realm="x`}, []string{"bearer map[]"}},
		{"a parameter of nothing", []string{`realm="x"`}, nil},
		{"nothing", []string{""}, nil},
	} {
		var got []string
		for _, c := range registry.ParseChallenges(tt.in) {
			got = append(got, fmt.Sprint(c.Scheme(), " ", c.Params()))
		}
		if !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s:\n got %q\nwant %q", tt.name, got, tt.want)
		}
	}
}

func FuzzChallenges(f *testing.F) {
	f.Add(`Bearer realm="https://auth/token",service=x, Basic realm="\""`)
	f.Add(`a b=c,d="e`)
	f.Fuzz(func(t *testing.T, s string) {
		list := registry.ParseChallenges([]string{s, s})
		if len(list) > 16 {
			t.Errorf("%d challenges", len(list))
		}
		for _, c := range list {
			if c.Scheme() == "" || strings.ContainsAny(c.Scheme(), " ,=\"\r\n") || len(c.Params()) > 64 {
				t.Errorf("%q", c)
			}
		}
	})
}

// TestScrub: nothing of a URL is shown but where it leads.
func TestScrub(t *testing.T) {
	for in, want := range map[string]string{
		"no url": "no url",
		"GET https://h/p?X-Amz-Signature=abc: refused": "GET https://h/p refused",
		`Get "http://u:p@h:5000/v2/?a=b#c": EOF`:       `Get "http://h:5000/v2/": EOF`,
		"https://u@h":                                  "https://h",
		"a: 5 ?x":                                      "a: 5 ?x",
	} {
		if got := registry.Scrub(in); got != want {
			t.Errorf("Scrub(%q)\n got %q\nwant %q", in, got, want)
		}
	}
}

func FuzzScrub(f *testing.F) {
	f.Add("https://u:p@h/p?q#f")
	f.Add("x://a@b@c?d://e?f")
	f.Fuzz(func(t *testing.T, s string) {
		out := registry.Scrub(s + " https://user:hunter2@host/path?token=hunter2 end")
		if strings.Contains(strings.TrimPrefix(out, s), "hunter2") && !strings.Contains(s, "hunter2") {
			t.Errorf("%q leaves %q", s, out)
		}
	})
}
