// SPDX-License-Identifier: Apache-2.0

package registry_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/image/registry"
	"github.com/imgfs/imgfs/internal/regtest"
)

func tags(c *registry.Client, r image.Reference) (list []string, err error) {
	for tag, err := range c.Tags(context.Background(), r) {
		if err != nil {
			return list, err
		}
		list = append(list, tag)
	}
	return list, nil
}

// TestTags follows pages, and no further than a registry should go.
func TestTags(t *testing.T) {
	page := func(w http.ResponseWriter, link string, tags ...string) {
		if link != "" {
			w.Header().Set("Link", link)
		}
		json.NewEncoder(w).Encode(map[string]any{"tags": tags})
	}
	for _, tt := range []struct {
		name string
		do   func(w http.ResponseWriter, r *http.Request)
		want string // "a b", or a text in the error
		fail bool
	}{
		{"pages", func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Query().Get("last") {
			case "":
				page(w, `</v2/x/y/tags/list?last=b>; rel="next"`, "a", "b")
			default:
				page(w, "", "c")
			}
		}, "a b c", false},
		{"none", func(w http.ResponseWriter, r *http.Request) { page(w, "") }, "", false},
		{"null", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, `{"tags":null}`) }, "", false},
		{"a link to another server", func(w http.ResponseWriter, r *http.Request) {
			page(w, `<http://localhost:1/v2/x/y/tags/list?sig=1>; rel="next"`, "a")
		}, "not the same origin", true},
		{"a link that is none", func(w http.ResponseWriter, r *http.Request) { page(w, "next", "a") }, "invalid next link", true},
		{"a link to itself", func(w http.ResponseWriter, r *http.Request) { page(w, "<"+r.URL.Path+">", "a") }, "pages", true},
		{"what is no tag", func(w http.ResponseWriter, r *http.Request) { page(w, "", "a", "../../etc/passwd") }, "is not a tag", true},
		{"what is not JSON", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "<html>") }, "decode", true},
		{"no repository", func(w http.ResponseWriter, r *http.Request) { regtest.Refuse(w, 404, "NAME_UNKNOWN", "no such") }, "not found", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := regtest.NewFake(t)
			f.Intercept = func(w http.ResponseWriter, r *http.Request) bool { tt.do(w, r); return true }
			got, err := tags(quick(t, registry.Options{}), ref(t, f.Host+"/x/y"))
			switch {
			case !tt.fail && (err != nil || strings.Join(got, " ") != tt.want):
				t.Errorf("got %q, %v", got, err)
			case tt.fail && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %q, %v, want an error with %q", got, err, tt.want)
			}
			noSecrets(t, err)
		})
	}
	// Who has enough is not asked for more.
	f := serve(t, newImage(t, []byte("x")))
	for tag, err := range quick(t, registry.Options{}).Tags(context.Background(), ref(t, f.Host+"/team/app")) {
		if tag != "1" || err != nil {
			t.Error(tag, err)
		}
		break
	}
}

// recorded has the shape of what index.docker.io answers.
const recorded = `{"num_pages":1,"num_results":2,"page_size":25,"page":1,"query":"alpine","results":[
{"star_count":11000,"is_official":true,"name":"alpine","is_automated":false,"description":"A minimal Docker image"},
{"star_count":3,"is_official":false,"name":"me/alpine","is_automated":true,"description":"\u001b[31m"}]}`

func TestSearch(t *testing.T) {
	ctx := context.Background()
	f := regtest.NewFake(t)
	answer, query := recorded, ""
	f.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/v1/search" {
			query = r.URL.RawQuery
			fmt.Fprint(w, answer)
			return true
		}
		return false
	}
	c := quick(t, registry.Options{})
	got, err := c.Search(ctx, f.Host, "a&b", 25)
	if err != nil || len(got) != 2 || got[0] != (registry.SearchResult{Name: "alpine", Description: "A minimal Docker image", Stars: 11000, Official: true}) {
		t.Errorf("%+v, %v", got, err)
	}
	if query != "n=25&q=a%26b" {
		t.Errorf("asked %q", query)
	}
	if got, err := c.Search(ctx, f.Host, "a", 1); err != nil || len(got) != 1 {
		t.Errorf("a limit: %+v, %v", got, err)
	}
	for _, bad := range []string{"", "[]", `{"results":{}}`, strings.Repeat(" ", image.MaxDocument+1)} {
		answer = bad
		if _, err := c.Search(ctx, f.Host, "a", 1); !errors.Is(err, image.ErrMalformed) {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
}

// TestSearchNames: a registry that has no search has names.
func TestSearchNames(t *testing.T) {
	r := regtest.Start(t, regtest.Options{})
	c := quick(t, registry.Options{})
	img := newImage(t, []byte("x"))
	for _, name := range []string{"team/one", "team/two", "other/one"} {
		if _, err := img.push(c, ref(t, r.Host+"/"+name), nil); err != nil {
			t.Fatal(err)
		}
	}
	for term, want := range map[string]int{"one": 2, "team/": 2, "none": 0} {
		got, err := c.Search(context.Background(), r.Host, term, 25)
		if err != nil || len(got) != want {
			t.Errorf("%s: %+v, %v", term, got, err)
		}
	}
	f := regtest.NewFake(t) // pages without end
	f.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/v2/_catalog" {
			return false
		}
		w.Header().Set("Link", "</v2/_catalog>")
		fmt.Fprint(w, `{"repositories":[]}`)
		return true
	}
	if _, err := c.Search(context.Background(), f.Host, "x", 25); err == nil {
		t.Error("pages without end")
	}
}

func FuzzSearch(f *testing.F) {
	f.Add([]byte(recorded), 3)
	f.Fuzz(func(t *testing.T, raw []byte, limit int) {
		limit = min(max(limit, 1), 100)
		if list, err := registry.ParseSearch(raw, limit); err == nil && len(list) > limit {
			t.Errorf("%d results", len(list))
		}
	})
}
