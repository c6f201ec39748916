// SPDX-License-Identifier: Apache-2.0

package imgfs

import (
	"context"

	"github.com/imgfs/imgfs/image/registry"
)

// LoggedIn says where Login put the credentials.
type LoggedIn struct {
	Host  string // docker.io
	Path  string // docker's config.json
	Plain bool   // they stand in it in clear text; else a helper has them
}

// Login asks the registry server, by default docker.io, whether user and
// secret are right, and keeps them where docker does.
func (s *Store) Login(ctx context.Context, server, user, secret string) (LoggedIn, error) {
	host, err := registry.Host(server)
	if err != nil {
		return LoggedIn{}, optionError{err}
	}
	c, err := s.Registry()
	if err != nil {
		return LoggedIn{}, err
	}
	if err := c.Login(ctx, host, user, secret); err != nil {
		return LoggedIn{}, err
	}
	creds, err := s.reach.credentials()
	if err != nil {
		return LoggedIn{}, err
	}
	plain, err := creds.Put(ctx, host, user, secret)
	return LoggedIn{host, creds.Path(), plain}, err
}

// KnownLogin returns the user that docker's credentials have for server, empty
// if they have none. The error says that the server does not take them.
func (s *Store) KnownLogin(ctx context.Context, server string) (user string, err error) {
	host, err := registry.Host(server)
	if err != nil {
		return "", optionError{err}
	}
	c, err := s.Registry()
	if err != nil {
		return "", err
	}
	creds, err := s.reach.credentials()
	if err != nil {
		return "", err
	}
	user, secret, _, err := creds.Get(ctx, host)
	if err != nil || user == "" || secret == "" {
		return "", err
	}
	return user, c.Login(ctx, host, user, secret)
}

// Logout forgets the credentials of server, by default docker.io. It returns
// the registry's host, and whether there were any.
func (s *Store) Logout(ctx context.Context, server string) (host string, had bool, err error) {
	host, err = registry.Host(server)
	if err != nil {
		return "", false, optionError{err}
	}
	creds, err := s.reach.credentials()
	if err != nil {
		return host, false, err
	}
	had, err = creds.Delete(ctx, host)
	return host, had, err
}
