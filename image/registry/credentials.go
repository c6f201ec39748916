// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
)

// hubKey is what docker calls docker.io in its config.json.
const hubKey = "https://index.docker.io/v1/"

// DockerCredentials are the credentials in docker's config.json, or those that
// its credential helpers keep.
type DockerCredentials struct {
	path    string
	store   *credentials.DynamicStore
	helpers helpers
}

// helpers are the programs docker-credential-NAME that a config.json has
// instead of secrets.
type helpers struct {
	Store string            `json:"credsStore"`
	Hosts map[string]string `json:"credHelpers"`
}

// of returns the name of the helper that has what is called key, or "".
func (h helpers) of(key string) string {
	if name := h.Hosts[key]; name != "" {
		return name
	}
	return h.Store
}

// DockerConfigPath returns the file that docker's credentials are kept in:
// $REGISTRY_AUTH_FILE as podman has it, else config.json in $DOCKER_CONFIG,
// by default ~/.docker.
func DockerConfigPath() (string, error) {
	if path := os.Getenv("REGISTRY_AUTH_FILE"); path != "" {
		return path, nil
	}
	dir := os.Getenv("DOCKER_CONFIG")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("no place for credentials: set DOCKER_CONFIG (%w)", err)
		}
		dir = filepath.Join(home, ".docker")
	}
	return filepath.Join(dir, "config.json"), nil
}

// NewDockerCredentials returns the credentials kept at path, a file in the
// format of docker's config.json that may be missing.
func NewDockerCredentials(path string) (*DockerCredentials, error) {
	// The file is replaced when it is written; a link to it stays one.
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	var h helpers
	raw, err := readFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if len(bytes.TrimSpace(raw)) > 0 && json.Unmarshal(raw, &h) != nil {
		return nil, notDockers(path)
	}
	store, err := credentials.NewStore(path, credentials.StoreOptions{AllowPlaintextPut: true})
	if err != nil {
		return nil, notDockers(path)
	}
	return &DockerCredentials{path, store, h}, nil
}

// notDockers says no more: what the parsers say may repeat a secret.
func notDockers(path string) error { return fmt.Errorf("%s: it is not docker's config.json", path) }

// Path returns where the credentials are kept.
func (d *DockerCredentials) Path() string { return d.path }

// keys returns the names that host goes by, the one written first.
func keys(host string) []string {
	if host == "docker.io" {
		return []string{hubKey, "docker.io", "index.docker.io", hubHost}
	}
	return []string{host}
}

// Get implements Credentials.
func (d *DockerCredentials) Get(ctx context.Context, host string) (user, secret, token string, err error) {
	for _, key := range keys(host) {
		cred, err := d.store.Get(ctx, key)
		if err != nil {
			return "", "", "", d.wrap(host, key, err)
		}
		if cred != auth.EmptyCredential {
			return cred.Username, cred.Password, cred.RefreshToken, nil
		}
	}
	return "", "", "", nil
}

// Put keeps the credentials of host, in a helper if the file names one for
// it, else in the file, in clear text and readable by the user alone. plain
// says which it was.
func (d *DockerCredentials) Put(ctx context.Context, host, user, secret string) (plain bool, err error) {
	key := keys(host)[0]
	if err := d.store.Put(ctx, key, auth.Credential{Username: user, Password: secret}); err != nil {
		return false, d.wrap(host, key, err)
	}
	return d.helpers.of(key) == "", nil
}

// Delete forgets the credentials of host, and reports whether there were any.
func (d *DockerCredentials) Delete(ctx context.Context, host string) (had bool, err error) {
	for _, key := range keys(host) {
		cred, err := d.store.Get(ctx, key)
		if err == nil && cred == auth.EmptyCredential {
			continue
		}
		if err := d.store.Delete(ctx, key); err != nil {
			return had, d.wrap(host, key, err)
		}
		had = true
	}
	return had, nil
}

// wrap makes an error that does not repeat what is in the file, as those of
// oras-go may.
func (d *DockerCredentials) wrap(host, key string, err error) error {
	var path *fs.PathError
	helper := d.helpers.of(key)
	switch {
	case helper != "":
		return fmt.Errorf("credentials of %s: docker-credential-%s: %s", host, helper, bounded(err.Error()))
	case errors.As(err, &path):
		return fmt.Errorf("credentials of %s: %w", host, path)
	case errors.Is(err, credentials.ErrBadCredentialFormat):
		return fmt.Errorf("credentials of %s: a user name holds no colon", host)
	}
	return fmt.Errorf("credentials of %s: %s: the entry is malformed", host, d.path)
}
