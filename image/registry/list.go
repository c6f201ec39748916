// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/imgfs/imgfs/image"
)

// Limits of lists.
const (
	maxPages   = 5000
	maxNames   = 1 << 20 // tags or repositories
	maxResults = 1000    // of a search
)

// Tags returns the tags of the repository of ref, as the registry sorts them,
// page after page. The sequence ends with its first error.
func (c *Client) Tags(ctx context.Context, ref image.Reference) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		begun, n := false, 0
		stop := errors.New("stop")
		err := c.read(ctx, ref, "tags", nil, func(ctx context.Context, repo *remote.Repository) error {
			if begun {
				return stop // never a list of two servers
			}
			return repo.Tags(ctx, "", func(page []string) error {
				for _, tag := range page {
					begun = true
					if n++; n > maxNames {
						return fmt.Errorf("over %d tags", maxNames)
					}
					if r := (registry.Reference{Reference: tag}); r.ValidateReferenceAsTag() != nil {
						return fmt.Errorf("%.150q is not a tag: %w", tag, image.ErrMalformed)
					}
					if !yield(tag, nil) {
						return stop
					}
				}
				return nil
			})
		})
		if err != nil && !errors.Is(err, stop) {
			yield("", err)
		}
	}
}

// A SearchResult is a repository that a search found.
type SearchResult struct {
	Name        string
	Description string
	Stars       int
	Official    bool
}

// Search asks the registry host for repositories that have to do with term,
// at most limit of them: as docker does, at /v1/search. A registry that has no
// search is asked for all its repositories, and those with term in their name
// are returned.
func (c *Client) Search(ctx context.Context, host, term string, limit int) ([]SearchResult, error) {
	host, err := registryHost(host)
	if err != nil {
		return nil, err
	}
	limit = min(max(limit, 1), maxResults)
	list, err := c.search(ctx, host, term, limit)
	if errors.Is(err, ErrNotFound) {
		list, err = c.catalog(ctx, host, term, limit)
	}
	return list, newError(host, "", "search", err)
}

// searchHost is where docker.io is searched.
const searchHost = "index.docker.io"

func (c *Client) search(ctx context.Context, host, term string, limit int) ([]SearchResult, error) {
	server := host
	if host == "docker.io" {
		server = searchHost
	}
	plain, err := c.hosts.isPlain(ctx, server)
	if err != nil {
		return nil, err
	}
	u := url.URL{Scheme: "https", Host: server, Path: "/v1/search", RawQuery: url.Values{
		"q": {term}, "n": {strconv.Itoa(limit)},
	}.Encode()}
	if plain {
		u.Scheme = "http"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	resp, err := c.auth.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, newError(host, "", "search", answerError(resp))
	}
	raw, err := readAll(resp, image.MaxDocument)
	if err != nil {
		return nil, err
	}
	return parseSearch(raw, limit)
}

// parseSearch reads the answer of /v1/search.
func parseSearch(raw []byte, limit int) ([]SearchResult, error) {
	var answer struct {
		Results []struct {
			Name        string `json:"name"`
			Description string `json:"description"`
			StarCount   int    `json:"star_count"`
			IsOfficial  bool   `json:"is_official"`
		} `json:"results"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return nil, fmt.Errorf("the answer is not a list of results: %w", image.ErrMalformed)
	}
	list := []SearchResult{}
	for _, r := range answer.Results {
		if len(list) == limit {
			break
		}
		list = append(list, SearchResult{r.Name, r.Description, r.StarCount, r.IsOfficial})
	}
	return list, nil
}

// catalog searches the names of all repositories.
func (c *Client) catalog(ctx context.Context, host, term string, limit int) ([]SearchResult, error) {
	reg, err := c.registry(ctx, host, c.auth)
	if err != nil {
		return nil, err
	}
	stop := errors.New("stop")
	list, n, pages := []SearchResult{}, 0, 0
	err = reg.Repositories(ctx, "", func(page []string) error {
		if pages++; pages > maxPages {
			return fmt.Errorf("over %d pages of repositories", maxPages)
		}
		for _, name := range page {
			if n++; n > maxNames {
				return fmt.Errorf("over %d repositories", maxNames)
			}
			if strings.Contains(name, term) {
				list = append(list, SearchResult{Name: name})
			}
			if len(list) == limit {
				return stop
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, stop) {
		return nil, err
	}
	return list, nil
}

// registry returns oras-go's idea of host, whose requests client sends.
func (c *Client) registry(ctx context.Context, host string, client remote.Client) (*remote.Registry, error) {
	plain, err := c.hosts.isPlain(ctx, host)
	if err != nil {
		return nil, err
	}
	return &remote.Registry{RepositoryOptions: remote.RepositoryOptions{
		Client: client, Reference: registry.Reference{Registry: host}, PlainHTTP: plain,
		MaxMetadataBytes: image.MaxDocument,
	}}, nil
}

// Login asks the registry host whether user and secret are right, and stores
// nothing. A registry that asks nobody who he is takes anything.
func (c *Client) Login(ctx context.Context, host, user, secret string) error {
	host, err := registryHost(host)
	if err != nil {
		return err
	}
	reg, err := c.registry(ctx, host, newAuthorizer(c.auth.http, only{user, secret}))
	if err == nil {
		err = reg.Ping(ctx)
	}
	err = newError(host, "", "", err)
	var e *Error
	if errors.As(err, &e) && e.Status == http.StatusUnauthorized {
		e.Err, e.Message = fmt.Errorf("%w: the user name or the password is wrong", ErrUnauthorized), ""
	}
	return err
}

// only are the credentials of one login.
type only struct{ user, secret string }

func (o only) Get(context.Context, string) (user, secret, token string, err error) {
	return o.user, o.secret, "", nil
}
