// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/imgfs/imgfs/image"
)

// Options say how a Client goes about its work. The zero Options are of use.
type Options struct {
	Config      *Config     // mirrors, insecure hosts, certificates; nil: none
	Credentials Credentials // nil: anonymous
	UserAgent   string      // empty: imgfs

	// Log is told of what did not end the work: retries, a mirror that failed.
	// It is never told a secret. It may be called from several goroutines.
	Log func(format string, args ...any)
}

// Credentials know who the user is at a registry.
type Credentials interface {
	// Get returns what to show to host: a user with a secret, or an identity
	// token, which a token server takes in their place. All are empty for a
	// host that nothing is known of. Hosts are as references have them:
	// docker.io, localhost:5000.
	Get(ctx context.Context, host string) (user, secret, token string, err error)
}

// A Client talks to registries. It may be used from several goroutines.
type Client struct {
	config *Config
	log    func(format string, args ...any)
	hosts  *hosts
	auth   *authorizer

	firstWait time.Duration // after a break, before the second try

	// mu guards what was found out about servers.
	mu     sync.Mutex
	down   map[string]bool // mirrors that do not answer
	served map[served]bool // by whom a blob was given; false: with wrong bytes
}

// served is a blob from a mirror.
type served struct {
	host   string
	digest digest.Digest
}

// New returns a client.
func New(opt Options) *Client {
	if opt.Config == nil {
		opt.Config = new(Config)
	}
	if opt.Log == nil {
		opt.Log = func(string, ...any) {}
	}
	if opt.UserAgent == "" {
		opt.UserAgent = "imgfs"
	}
	c := &Client{config: opt.Config, log: opt.Log, firstWait: firstWait, down: make(map[string]bool), served: make(map[served]bool)}
	c.hosts = newHosts(opt.Config, opt.UserAgent, opt.Log)
	c.auth = newAuthorizer(c.hosts.client(), opt.Credentials)
	return c
}

// An endpoint is a repository on one of the servers that may have it.
type endpoint struct {
	host       string // as references have it: docker.io
	repository string // with the mirror's prefix
	isMirror   bool
	mirror     mirror
}

// endpoints returns who is asked for ref, in order: mirrors, then the origin.
func (c *Client) endpoints(ref image.Reference) []endpoint {
	host := ref.Domain()
	repository := ref.Repository()
	var list []endpoint
	for _, m := range c.config.mirrors[host] {
		list = append(list, endpoint{m.host, m.prefix + repository, true, m})
	}
	return append(list, endpoint{host: host, repository: repository})
}

// repo returns oras-go's idea of e.
func (c *Client) repo(ctx context.Context, e endpoint) (*remote.Repository, error) {
	plain, err := e.mirror.plain, error(nil)
	switch {
	case !e.isMirror:
		plain, err = c.hosts.isPlain(ctx, e.host)
	case plain && !isLoopback(e.host) && !c.config.isInsecure(e.host):
		err = errPlainMirror
	}
	if err != nil {
		return nil, newError(e.host, e.repository, "", err)
	}
	return &remote.Repository{
		Client:           c.auth,
		Reference:        registry.Reference{Registry: e.host, Repository: e.repository},
		PlainHTTP:        plain,
		MaxMetadataBytes: image.MaxDocument,
		TagListMaxPages:  maxPages,
	}, nil
}

var errPlainMirror = errors.New("a mirror by plain HTTP has to be named as an insecure registry")

// origin returns the registry that ref names, which is the one that is
// written to.
func (c *Client) origin(ctx context.Context, ref image.Reference) (*remote.Repository, error) {
	list := c.endpoints(ref)
	return c.repo(ctx, list[len(list)-1])
}

// read calls do with one server after another until it succeeds: the mirrors
// of ref, then its registry, whose error is the one returned. A mirror is
// asked once; the registry is asked again after what passes. Mirrors that did
// not answer before are left out, and those that skip, if it is not nil, says.
func (c *Client) read(ctx context.Context, ref image.Reference, what string, skip func(host string) bool, do func(context.Context, *remote.Repository) error) error {
	for _, e := range c.endpoints(ref) {
		if e.isMirror && (c.isDown(e.host) || skip != nil && skip(e.host)) {
			continue
		}
		err := c.ask(ctx, e, what, do)
		if err == nil || !e.isMirror || ctx.Err() != nil {
			return err
		}
		c.mirrorFailed(e, err)
	}
	panic("registry: internal error: no origin")
}

func (c *Client) ask(ctx context.Context, e endpoint, what string, do func(context.Context, *remote.Repository) error) error {
	if e.isMirror {
		ctx = withoutRetries(ctx)
	}
	repo, err := c.repo(ctx, e)
	if err == nil {
		err = do(ctx, repo)
	}
	return newError(e.host, e.repository, what, err)
}

func (c *Client) isDown(host string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.down[host]
}

// mirrorFailed says that a mirror is left out. What did not answer is not
// asked again.
func (c *Client) mirrorFailed(e endpoint, err error) {
	var failed *Error
	if !errors.Is(err, ErrNotFound) {
		c.log("mirror %s is left out: %v", e.host, err)
	}
	if !errors.As(err, &failed) || failed.Status == 0 && !errors.Is(err, image.ErrMalformed) || failed.Status >= 500 || failed.Status == http.StatusTooManyRequests {
		c.mu.Lock()
		c.down[e.host] = true
		c.mu.Unlock()
	}
}

// Distrust says that the bytes read of blob d were not the blob's. It reports
// whether a mirror gave some of them: such mirrors are not asked for d again,
// so that a new read of d, from its beginning, goes to somebody else.
func (c *Client) Distrust(ref image.Reference, d ocispec.Descriptor) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	changed := false
	for _, e := range c.endpoints(ref) {
		s := served{e.host, d.Digest}
		if e.isMirror && c.served[s] {
			c.served[s], changed = false, true
		}
	}
	return changed
}

// noteServed says that a mirror gives bytes of a blob.
func (c *Client) noteServed(host string, d ocispec.Descriptor) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.served[served{host, d.Digest}] = true
}

// isDistrusted reports whether Distrust was told about host and d.
func (c *Client) isDistrusted(host string, d ocispec.Descriptor) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	good, asked := c.served[served{host, d.Digest}]
	return asked && !good
}

// Limits of time.
const (
	connectTime = 20 * time.Second // until a connection stands, TLS and all
	silence     = 60 * time.Second // without a byte, then the server is given up
	trickle     = 4 << 10          // bytes in that time that count as some
)
