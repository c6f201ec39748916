// SPDX-License-Identifier: Apache-2.0

package registry_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/imgfs/imgfs/image/registry"
)

// config returns the config that a file of this text makes.
func config(t testing.TB, text string) *registry.Config {
	t.Helper()
	c, err := registry.LoadConfig(writeFile(t, "config.toml", text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func writeFile(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoadConfigRefuses(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"an unknown key", "x = 1\nmirror = []\n", `line 1: unknown key "x"`},
		{"what is not TOML", "a\nb", "line 1: "},
		{"a wrong type", "\nmirrors = 1\n", "line 2: "},
		{"a host that is none", "insecure-registries = ['a b']\n", `"a b" is not a registry's host`},
		{"a host with a path", "[mirrors]\n'quay.io/x' = []\n", `"quay.io/x" is not a registry's host`},
		{"credentials in a mirror", "[mirrors]\n'quay.io' = ['https://me:hunter2@m.example']\n", "imgfs login keeps credentials"},
		{"another scheme", "[mirrors]\n'quay.io' = ['ftp://m.example']\n", "scheme is not http or https"},
		{"a path that is no repository", "[mirrors]\n'quay.io' = ['https://m.example/A']\n", "mirror"},
	} {
		_, err := registry.LoadConfig(writeFile(t, "config.toml", tt.text))
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s:\n got %v\nwant %s", tt.name, err, tt.want)
		}
	}
	if _, err := registry.LoadConfig("/nonexistent/config.toml"); err != nil {
		t.Errorf("a missing file: %v", err)
	}
}
