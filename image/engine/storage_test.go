// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/imgfs/imgfs/image"
)

// storageFiles writes a store of containers-storage as its documents say.
func storageFiles(t *testing.T, files map[string]string) *Store {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644))
	}
	s, err := Open(context.Background(), Location{Kind: Storage, Root: root}, testOptions)
	must(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

// goodStorage are the documents of an image of one layer and of a container.
func goodStorage() map[string]string {
	config := fmt.Sprintf(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:%064d"]}}`, 1)
	id := digest.FromString(config)
	manifest := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
		"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},
		"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:%064d","size":1}]}`, id, len(config), 1)
	dir := "overlay-images/" + id.Encoded() + "/"
	return map[string]string{
		"overlay-images/images.json": fmt.Sprintf(`[{"id":%q,"names":["docker.io/library/a:1"],"layer":"l1"}]`, id.Encoded()),
		dir + "manifest":             manifest,
		dir + "=" + base64.StdEncoding.EncodeToString([]byte(id)): config,
		"overlay-layers/layers.json":                              `[{"id":"l1","diff-size":10},{"id":"c1","parent":"l1"}]`,
		"overlay-containers/containers.json":                      fmt.Sprintf(`[{"id":"cc","names":["web"],"image":%q,"layer":"c1"}]`, id.Encoded()),
		"overlay/c1/diff/f":                                       "x",
	}
}

// TestStorageDocuments: what the documents of a store may say, and may not. An
// image that is refused does not hide the others.
func TestStorageDocuments(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(files map[string]string)
		of     string // what is opened
		says   string // "" = it opens
	}{
		{"an image", nil, "a:1", ""},
		{"a container", nil, "web", ""},
		{"the first digits of an id", nil, "cc", ""},
		{"layers in a circle", func(f map[string]string) {
			f["overlay-layers/layers.json"] = `[{"id":"l1","parent":"l2"},{"id":"l2","parent":"l1"},{"id":"c1","parent":"l1"}]`
		}, "a:1", "stands on over 4096 others"},
		{"a layer that is lost", func(f map[string]string) { f["overlay-layers/layers.json"] = `[{"id":"c1","parent":"l1"}]` }, "a:1", "has lost layer"},
		{"a layer that leads out", func(f map[string]string) {
			f["overlay-images/images.json"] = strings.Replace(f["overlay-images/images.json"], `"l1"`, `"../../etc"`, 1)
			f["overlay-layers/layers.json"] = `[{"id":"../../etc"}]`
		}, "a:1", "not an id"},
		{"an image that leads out", func(f map[string]string) {
			f["overlay-images/images.json"] = `[{"id":"..","names":["docker.io/library/a:1"],"layer":"l1"}]`
		}, "a:1", "not an id"},
		{"a container on another image", func(f map[string]string) {
			f["overlay-layers/layers.json"] = `[{"id":"l1"},{"id":"l2"},{"id":"c1","parent":"l2"}]`
		}, "web", "does not stand on its image"},
		{"a container without an image", func(f map[string]string) {
			f["overlay-containers/containers.json"] = `[{"id":"cc","names":["web"],"layer":"c1"}]`
		}, "web", "made of no image"},
		{"another config than its digest", func(f map[string]string) {
			for name := range f {
				if strings.Contains(name, "/=") {
					f[name] += " "
				}
			}
		}, "a:1", "config"},
		{"more layers than the config has", func(f map[string]string) {
			f["overlay-layers/layers.json"] = `[{"id":"l0"},{"id":"l1","parent":"l0"}]`
		}, "a:1", "the store has 2 layers, the config 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			files := goodStorage()
			if tt.change != nil {
				tt.change(files)
			}
			s := storageFiles(t, files)
			i, err := s.Find(context.Background(), tt.of)
			if err == nil {
				_, _, err = s.Source(context.Background(), i, false)
			}
			if tt.says == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v, want %q", err, tt.says)
			}
		})
	}
}

// TestStorageFollowsNoSymlink: a document that is a symlink is refused.
func TestStorageFollowsNoSymlink(t *testing.T) {
	s := storageFiles(t, goodStorage())
	path := filepath.Join(s.at.Root, "overlay-layers/layers.json")
	must(t, os.Rename(path, path+".real"), os.Symlink("layers.json.real", path))
	if _, err := s.Items(context.Background()); err != nil {
		t.Errorf("the image can be listed: %v", err)
	}
	i, err := s.Find(context.Background(), "a:1")
	must(t, err)
	if _, _, err = s.Source(context.Background(), i, false); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("source: %v", err)
	}
}

// TestFind: what a name means, the nearer first, and what is said where it is
// nothing or several.
func TestFind(t *testing.T) {
	all := []*Item{
		{ID: "sha256:" + strings.Repeat("ab", 32), Names: []string{"docker.io/library/a:latest"}, Digests: []string{"docker.io/library/a@sha256:" + strings.Repeat("01", 32)}},
		{ID: "sha256:" + strings.Repeat("ac", 32), Names: []string{"localhost/b:1", "docker.io/library/web:latest"}},
		{ID: strings.Repeat("cd", 32), Names: []string{"web"}, Container: true},
		{ID: "abab99", Names: []string{"c2"}, Container: true},
	}
	for _, tt := range []struct {
		name string
		want string // IDs, the beginnings of them
	}{
		{"a", "sha256:abab"},
		{"docker.io/library/a:latest", "sha256:abab"},
		{"a@sha256:" + strings.Repeat("01", 32), "sha256:abab"},
		{"b:1", "sha256:acac"},
		{"web", "sha256:acac"}, // an image before a container
		{"/web", "cdcdcd"},
		{"cdcd", "cdcdcd"},
		{"abab", "sha256:abab"},
		{"abab99", "abab99"},
		{"aba", ""},
		{"", "sha256:abab sha256:acac"},
		{"none", ""},
		{"a:2", ""},
	} {
		var got []string
		for _, i := range match(all, tt.name) {
			got = append(got, i.ID[:min(len(i.ID), len("sha256:abab"))])
		}
		for k, want := range strings.Fields(tt.want) {
			if k >= len(got) || !strings.HasPrefix(got[k], want) {
				t.Errorf("%q means %q, want %q", tt.name, got, tt.want)
			}
		}
		if len(got) != len(strings.Fields(tt.want)) {
			t.Errorf("%q means %q, want %q", tt.name, got, tt.want)
		}
	}
	err := error(&NotFoundError{Name: "x", Have: []string{"a", "b"}, Root: "/r"})
	if !errors.Is(err, image.ErrNotFound) || !strings.Contains(err.Error(), "a, b") {
		t.Error(err)
	}
}

// TestEmptyStorage: a store that never had an image has none, and is no error. A
// driver's leftovers do not hide the images of another.
func TestEmptyStorage(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files []string
		says  string // "" = it opens
	}{
		{"never had an image", []string{"overlay-images/images.lock", "overlay-layers/layers.lock"}, ""},
		{"of another driver", []string{"zfs-images/images.lock", "zfs-layers/layers.lock"}, "not zfs"},
		{"beside another driver's images", []string{"overlay-images/images.lock", "overlay-layers/layers.lock", "zfs-images/images.json"}, "not zfs"},
		{"a directory with such a name", []string{"my-images/cat.png"}, "not a store of containers-storage"},
	} {
		root := t.TempDir()
		for _, name := range tt.files {
			path := filepath.Join(root, name)
			must(t, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, 0o600))
		}
		s, err := Open(context.Background(), Location{Kind: Storage, Root: root}, testOptions)
		if err == nil {
			var items []*Item
			if items, err = s.Items(context.Background()); len(items) != 0 {
				t.Errorf("%s: %d items", tt.name, len(items))
			}
			s.Close()
		}
		if tt.says == "" && err != nil || tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.says)
		}
	}
}
