// SPDX-License-Identifier: Apache-2.0

package registry_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/imgfs/imgfs/image/registry"
)

// dockerConfig returns the credentials in a config.json of this text.
func dockerConfig(t testing.TB, text string) *registry.DockerCredentials {
	t.Helper()
	d, err := registry.NewDockerCredentials(writeFile(t, "config.json", text))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestCredentialsGet reads what docker, podman and their helpers write.
func TestCredentialsGet(t *testing.T) {
	helper(t)
	const auth = `{"auth":"bWU6c2VjOnJldA=="}` // me:sec:ret
	for _, tt := range []struct{ name, text, host, want string }{
		{"a host", `{"auths":{"h:5000":` + auth + `}}`, "h:5000", "me sec:ret "},
		{"another port", `{"auths":{"h:5000":` + auth + `}}`, "h", "  "},
		{"docker.io as docker has it", `{"auths":{"https://index.docker.io/v1/":` + auth + `}}`, "docker.io", "me sec:ret "},
		{"docker.io as podman has it", `{"auths":{"docker.io":` + auth + `}}`, "docker.io", "me sec:ret "},
		{"an old entry", `{"auths":{"https://h/v1/":` + auth + `}}`, "h", "me sec:ret "},
		{"an identity token", `{"auths":{"h":{"identitytoken":"idt"}}}`, "h", "  idt"},
		{"a helper of a host", `{"auths":{"h":{}},"credHelpers":{"h":"test"}}`, "h", "helped secret-of-h "},
		{"a helper of all", `{"credsStore":"test"}`, "docker.io", "helped secret-of-https://index.docker.io/v1/ "},
		{"a helper that has nothing", `{"credsStore":"test"}`, "none", "  "},
		{"nothing", `{}`, "h", "  "},
		{"an empty file", ``, "h", "  "},
	} {
		user, secret, token, err := dockerConfig(t, tt.text).Get(context.Background(), tt.host)
		if got := user + " " + secret + " " + token; err != nil || got != tt.want {
			t.Errorf("%s: got %q, %v, want %q", tt.name, got, err, tt.want)
		}
	}
	if _, err := registry.NewDockerCredentials(filepath.Join(t.TempDir(), "none", "config.json")); err != nil {
		t.Errorf("no file: %v", err)
	}
}

// helper puts a credential helper called test into the PATH.
func helper(t *testing.T) (log string) {
	dir := t.TempDir()
	log = filepath.Join(dir, "log")
	script := `#!/bin/sh
read -r key
echo "$1 $key" >>` + log + `
case "$1 $key" in
"get none") echo "credentials not found in native keychain"; exit 1 ;;
"get broken") echo "the keychain is locked"; exit 1 ;;
"get "*) printf '{"ServerURL":"%s","Username":"helped","Secret":"secret-of-%s"}' "$key" "$key" ;;
esac
`
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-test"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return log
}

// TestCredentialsErrors: what is wrong with a file is said without what is in
// it.
func TestCredentialsErrors(t *testing.T) {
	helper(t)
	for _, text := range []string{
		`{"auths":{"h":{"auth":"c2VzYW1l"}}}`, // sesame, no colon
		`{"auths":{"h":{"auth":"sesame!"}}}`,
		`{"auths":{"h":"sesame"}}`,
		`{"auths":"sesame"}`, `sesame`, `{"credsStore":["sesame"]}`,
		`{"credsStore":"no-such-helper"}`,
		`{"credHelpers":{"h":"no/such helper"}}`,
	} {
		d, err := registry.NewDockerCredentials(writeFile(t, "config.json", text))
		if err == nil {
			_, _, _, err = d.Get(context.Background(), "h")
		}
		if err == nil || strings.Contains(err.Error(), "sesame") {
			t.Errorf("%s: %v", text, err)
		}
	}
	_, _, _, err := dockerConfig(t, `{"credsStore":"test"}`).Get(context.Background(), "broken")
	if err == nil || !strings.Contains(err.Error(), "docker-credential-test: the keychain is locked") {
		t.Error(err)
	}
}

// TestCredentialsPut: what is kept can be read again, by its user alone; what
// else stands in the file stays; a helper is given what is its.
func TestCredentialsPut(t *testing.T) {
	ctx := context.Background()
	log := helper(t)
	path := writeFile(t, "config.json", `{"psFormat":"x","auths":{"old":{"auth":"YTpi"}},"credHelpers":{"helped":"test"}}`)
	link := filepath.Join(t.TempDir(), "config.json")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	d, err := registry.NewDockerCredentials(link)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	for host, wantPlain := range map[string]bool{"docker.io": true, "h:5000": true, "helped": false} {
		if plain, err := d.Put(ctx, host, "me", "sesame of "+host); err != nil || plain != wantPlain {
			t.Errorf("%s: %v, %v", host, plain, err)
		}
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"psFormat": "x"`, `"https://index.docker.io/v1/"`, `"old"`, `"h:5000"`} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("%s is not in\n%s", want, raw)
		}
	}
	if strings.Contains(string(raw), `"helped": {`) {
		t.Errorf("the helper's is in the file:\n%s", raw)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode().Type() != os.ModeSymlink {
		t.Errorf("the link is none any more: %v", err)
	}
	again := func() *registry.DockerCredentials {
		d, err := registry.NewDockerCredentials(path)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	if user, secret, _, err := again().Get(ctx, "docker.io"); err != nil || user != "me" || secret != "sesame of docker.io" {
		t.Errorf("%s %s %v", user, secret, err)
	}
	for _, host := range []string{"docker.io", "helped"} {
		if had, err := again().Delete(ctx, host); !had || err != nil {
			t.Errorf("%s: %v, %v", host, had, err)
		}
	}
	if had, err := again().Delete(ctx, "docker.io"); had || err != nil {
		t.Errorf("again: %v, %v", had, err)
	}
	calls, err := os.ReadFile(log)
	if err != nil || !strings.Contains(string(calls), "erase helped") || !strings.Contains(string(calls), "store {") {
		t.Errorf("the helper was asked %q, %v", calls, err)
	}
	if _, err := again().Put(ctx, "h", "a:b", "x"); err == nil {
		t.Error("a user with a colon")
	}
	if left, err := filepath.Glob(filepath.Dir(path) + "/*"); err != nil || len(left) != 1 {
		t.Errorf("left: %q, %v", left, err)
	}
}

func TestDockerConfigPath(t *testing.T) {
	t.Setenv("HOME", "/home/me")
	for _, tt := range []struct{ file, dir, want string }{
		{"", "", "/home/me/.docker/config.json"},
		{"", "/d", "/d/config.json"},
		{"/a/auth.json", "/d", "/a/auth.json"},
	} {
		t.Setenv("REGISTRY_AUTH_FILE", tt.file)
		t.Setenv("DOCKER_CONFIG", tt.dir)
		if got, err := registry.DockerConfigPath(); got != tt.want || err != nil {
			t.Errorf("got %s, %v, want %s", got, err, tt.want)
		}
	}
}

func FuzzDockerConfig(f *testing.F) {
	f.Add(`{"auths":{"h":{"auth":"bWU6c2VjcmV0"},"https://h/v1/":{}}}`)
	f.Add(`{"auths":{"h":{"username":"u","password":"p"}}}`)
	path := filepath.Join(f.TempDir(), "config.json")
	f.Setenv("PATH", "") // no helpers
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		d, err := registry.NewDockerCredentials(path)
		if err != nil {
			if err.Error() != path+": it is not docker's config.json" {
				t.Error(err)
			}
			return
		}
		for _, host := range []string{"h", "docker.io"} {
			if user, secret, _, err := d.Get(context.Background(), host); err != nil && user+secret != "" {
				t.Error("an error and a secret")
			}
		}
	})
}

func FuzzConfig(f *testing.F) {
	f.Add("insecure-registries = ['h:5000', '10.0.0.0/8']\ncerts-dirs = ['x']\n[mirrors]\n'docker.io' = ['https://m/p', 'm']\n")
	f.Add("[mirrors]\n'docker.io' = ['https://me:sesame@m/p']\n")
	path := filepath.Join(f.TempDir(), "config.toml")
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := registry.LoadConfig(path)
		if err != nil {
			if !strings.HasPrefix(err.Error(), path+": ") || strings.Contains(err.Error(), "\n") {
				t.Errorf("%q", err)
			}
			return
		}
		_ = fmt.Sprint(registry.New(registry.Options{Config: c}))
	})
}
