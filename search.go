// SPDX-License-Identifier: Apache-2.0

package imgfs

import (
	"context"
	"strings"

	"github.com/imgfs/imgfs/image/registry"
)

// A SearchResult is a repository that Search found.
type SearchResult = registry.SearchResult

// MaxSearch is the most that a search may ask for.
const MaxSearch = 100

// Search asks a registry for repositories that have to do with term, at most
// limit of them: docker.io, or HOST of HOST/TERM. Of a registry without a
// search it finds the repositories whose names have TERM in them. Names are
// such that Pull takes them.
func (s *Store) Search(ctx context.Context, term string, limit int) ([]SearchResult, error) {
	host, rest, ok := strings.Cut(term, "/")
	if !ok || !strings.ContainsAny(host, ".:") && host != "localhost" { // as docker tells a host from a name
		host, rest = "docker.io", term
	}
	c, err := s.Registry()
	if err != nil {
		return nil, err
	}
	found, err := c.Search(ctx, host, rest, limit)
	for i := range found {
		if host != "docker.io" && !strings.HasPrefix(found[i].Name, host+"/") {
			found[i].Name = host + "/" + found[i].Name
		}
	}
	return found, err
}
