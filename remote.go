// SPDX-License-Identifier: Apache-2.0

package imgfs

import (
	"fmt"
	"strings"
	"sync"

	"github.com/imgfs/imgfs/image/registry"
)

// What registries refuse; see package registry.
var (
	ErrUnauthorized  = registry.ErrUnauthorized
	ErrDenied        = registry.ErrDenied
	ErrNotInRegistry = registry.ErrNotFound
	ErrOffline       = registry.ErrOffline
	ErrNotTLS        = registry.ErrNotTLS
	ErrCertificate   = registry.ErrCertificate
)

// A RegistryError says what a registry refused or failed to do.
type RegistryError = registry.Error

// RemoteOptions say how registries are reached, beside what config.toml and
// docker's config.json say.
type RemoteOptions struct {
	Insecure  []string // hosts that may speak plain HTTP or show any certificate
	Mirrors   []string // "URL" of a mirror of docker.io, "HOST=URL" of another's
	UserAgent string
	Log       func(format string, args ...any) // of retries and mirrors; may be nil
}

// config returns the settings of the files and of opt; a registry that opt
// names mirrors of has those alone.
func (opt RemoteOptions) config() (*registry.Config, error) {
	c := new(registry.Config)
	for _, m := range opt.Mirrors {
		host, url, ok := strings.Cut(m, "=")
		if !ok || strings.Contains(host, "/") {
			host, url = "docker.io", m
		}
		if err := c.AddMirror(host, url); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrOption, err)
		}
	}
	for _, host := range opt.Insecure {
		if err := c.AddInsecure(host); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrOption, err)
		}
	}
	return c, c.Load(registry.ConfigPaths()...)
}

// A reach is how a store reaches registries. It is made at the first need, so
// that what needs none reads no settings.
type reach struct {
	opt RemoteOptions

	mu     sync.Mutex // guards what follows
	client *registry.Client
	creds  *registry.DockerCredentials
}

// SetRemote says how registries are reached. It is called before the first
// use of one.
func (s *Store) SetRemote(opt RemoteOptions) { s.reach.opt = opt }

// Registry returns the client that reaches registries, with the settings of
// config.toml and the credentials of docker's config.json.
func (s *Store) Registry() (*registry.Client, error) {
	r := &s.reach
	creds, err := r.credentials()
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.client != nil {
		return r.client, nil
	}
	config, err := r.opt.config()
	if err != nil {
		return nil, err
	}
	r.client = registry.New(registry.Options{
		Config: config, Credentials: creds, UserAgent: r.opt.UserAgent, Log: r.opt.Log,
	})
	return r.client, nil
}

// credentials returns docker's.
func (r *reach) credentials() (*registry.DockerCredentials, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.creds != nil {
		return r.creds, nil
	}
	path, err := registry.DockerConfigPath()
	if err != nil {
		return nil, err
	}
	r.creds, err = registry.NewDockerCredentials(path)
	return r.creds, err
}
