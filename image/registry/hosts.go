// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// hosts is a transport that treats each host its own way: its certificates,
// whether its TLS is verified, whether it speaks plain HTTP. A redirect to
// another host thereby meets that host's settings and not the first one's.
type hosts struct {
	config    *Config
	userAgent string
	log       func(format string, args ...any)
	silence   time.Duration // of a server, before it is given up

	mu         sync.Mutex
	transports map[string]http.RoundTripper // by host; guarded by mu
	plain      map[string]bool              // by host, once known; guarded by mu
}

func newHosts(config *Config, userAgent string, log func(string, ...any)) *hosts {
	return &hosts{
		config: config, userAgent: userAgent, log: log, silence: silence,
		transports: make(map[string]http.RoundTripper), plain: make(map[string]bool),
	}
}

// client returns what sends requests: with retries, and along redirects.
func (h *hosts) client() *http.Client {
	return &http.Client{Transport: &retrying{base: h, first: firstWait, log: h.log}, CheckRedirect: h.checkRedirect}
}

// maxRedirects bounds a chain of redirects.
const maxRedirects = 10

// checkRedirect lets a request follow a redirect: without what was meant for
// the first origin alone, never from TLS to plain HTTP, and never with a body
// to another origin.
func (h *hosts) checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return fmt.Errorf("over %d redirects", maxRedirects)
	}
	req.Header.Del("Referer")
	if last := via[len(via)-1]; last.URL.Scheme == "https" && req.URL.Scheme != "https" && !h.config.isInsecure(req.URL.Host) {
		return fmt.Errorf("redirect from TLS to plain HTTP on %s", req.URL.Host)
	}
	first := origin(via[0].URL)
	left := origin(req.URL) != first
	for _, r := range via {
		left = left || origin(r.URL) != first
	}
	if !left {
		return nil
	}
	if req.Body != nil && req.Body != http.NoBody {
		return fmt.Errorf("redirect of an upload to another server, %s", req.URL.Host)
	}
	req.Header.Del("Authorization")
	return nil
}

// origin returns scheme, host and port of u.
func origin(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return u.Scheme + "://" + net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}

// RoundTrip sends one request. A server that falls silent is given up.
func (h *hosts) RoundTrip(req *http.Request) (*http.Response, error) {
	t, err := h.transport(req.URL.Host)
	if err != nil {
		return nil, err
	}
	req = req.Clone(req.Context())
	req.Header.Set("User-Agent", h.userAgent)
	return watch(t, req, h.silence)
}

// transport returns the transport of host.
func (h *hosts) transport(host string) (http.RoundTripper, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t := h.transports[host]; t != nil {
		return t, nil
	}
	conf, err := h.config.tlsConfig(host)
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: connectTime}
	t := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            dialer.DialContext,
		TLSClientConfig:        conf,
		TLSHandshakeTimeout:    connectTime,
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    8,
		IdleConnTimeout:        time.Minute,
		ResponseHeaderTimeout:  5 * time.Minute, // a registry may take its time to accept a large blob
		MaxResponseHeaderBytes: 256 << 10,
		DisableCompression:     true, // digests are of bytes as they are sent
	}
	h.transports[host] = t
	return t, nil
}

// isPlain reports whether host is spoken to by plain HTTP. That may be so of
// this machine and of hosts named as insecure, and of these only when they do
// not answer by TLS, which they are asked once. A certificate that is not
// trusted is an answer.
func (h *hosts) isPlain(ctx context.Context, host string) (bool, error) {
	if !isLoopback(host) && !h.config.isInsecure(host) {
		return false, nil
	}
	h.mu.Lock()
	plain, known := h.plain[host]
	h.mu.Unlock()
	if known {
		return plain, nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+"/v2/", nil)
	if err != nil {
		return false, err
	}
	resp, err := h.RoundTrip(req)
	if err == nil {
		resp.Body.Close()
	}
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	var untrusted *tls.CertificateVerificationError
	plain = err != nil && !errors.As(err, &untrusted)
	h.mu.Lock()
	h.plain[host] = plain
	h.mu.Unlock()
	return plain, nil
}

// certsDirs returns where docker and podman keep certificates, after those
// that the config names.
func (c *Config) certsDirs() []string {
	dirs := append([]string(nil), c.certs...)
	if dir, err := os.UserConfigDir(); err == nil {
		dirs = append(dirs, filepath.Join(dir, "containers", "certs.d"), filepath.Join(dir, "docker", "certs.d"))
	}
	return append(dirs, "/etc/containers/certs.d", "/etc/docker/certs.d")
}

// tlsConfig returns the TLS settings of host: from the first certs.d that has
// a directory called host, *.crt are authorities beside the system's, and
// *.cert with *.key are what the client shows, as docker reads it.
func (c *Config) tlsConfig(host string) (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: c.isInsecure(host)}
	if host != filepath.Base(host) || host == "." || host == ".." {
		return conf, nil
	}
	for _, dir := range c.certsDirs() {
		dir = filepath.Join(dir, host)
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, entry := range entries {
			if err := addCertificate(conf, dir, entry.Name()); err != nil {
				return nil, err
			}
		}
		break
	}
	return conf, nil
}

// addCertificate adds one file of a certs.d to conf.
func addCertificate(conf *tls.Config, dir, name string) error {
	path := filepath.Join(dir, name)
	switch filepath.Ext(name) {
	case ".crt":
		raw, err := readFile(path)
		if err != nil {
			return err
		}
		if conf.RootCAs == nil {
			if conf.RootCAs, err = x509.SystemCertPool(); err != nil {
				conf.RootCAs = x509.NewCertPool()
			}
		}
		if !conf.RootCAs.AppendCertsFromPEM(raw) {
			return fmt.Errorf("%s: no certificate in it", path)
		}
	case ".cert":
		key := strings.TrimSuffix(path, ".cert") + ".key"
		pair, err := tls.LoadX509KeyPair(path, key)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		conf.Certificates = append(conf.Certificates, pair)
	}
	return nil
}
