// SPDX-License-Identifier: Apache-2.0

package regtest

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// User and Password are who a registry with Htpasswd, and a token server, let
// in.
const (
	User     = "tester"
	Password = "open sesame"

	// Identity is the identity token of User, which a token server takes.
	Identity = "identity-token-of-tester"

	// htpasswd is the line of User and Password, by bcrypt at its lowest cost.
	htpasswd = User + ":$2y$04$abcdefghijklmnopqrstuu/LVz6MZlItEy42I2juLihZ66HnQx/cy\n"
)

// Options say what kind of registry Start starts. The zero Options make a
// plain one that takes all from everybody.
type Options struct {
	TLS      bool         // with a certificate of its own authority
	Htpasswd bool         // User with Password only, by basic authentication
	Token    *TokenServer // bearer tokens of this server only
	MirrorOf string       // URL of the registry it is a pull-through mirror of
	Dir      string       // where it keeps its data; empty: a new directory
}

// A Registry is a docker-registry that runs until its test ends.
type Registry struct {
	Host  string // 127.0.0.1:34567
	URL   string // with the scheme
	Dir   string // its data
	Certs string // a certs.d that has its authority, with TLS

	log  *log
	stop func()
}

// Start starts a registry and waits until it answers. Where docker-registry
// is not installed the test is skipped, or fails if IMGFS_TEST_NOSKIP=1.
func Start(t testing.TB, opt Options) *Registry {
	t.Helper()
	bin, err := exec.LookPath("docker-registry")
	if err != nil {
		skip(t, "no registry to test against: %v (scripts/setup test installs it)", err)
	}
	var last error
	for range 5 { // a free port may be taken by somebody else
		r, err := start(t, bin, opt)
		if err == nil {
			return r
		}
		last = err
	}
	t.Fatalf("docker-registry: %v", last)
	return nil
}

func skip(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("IMGFS_TEST_NOSKIP") == "1" {
		t.Fatalf("IMGFS_TEST_NOSKIP is set, but "+format, args...)
	}
	t.Skipf(format, args...)
}

func start(t testing.TB, bin string, opt Options) (*Registry, error) {
	t.Helper()
	dir := t.TempDir()
	r := &Registry{Host: freePort(t), Dir: opt.Dir, log: new(log)}
	if r.Dir == "" {
		r.Dir = filepath.Join(dir, "data")
	}
	r.URL = "http://" + r.Host
	var conf strings.Builder
	fmt.Fprintf(&conf, "version: 0.1\nlog:\n  accesslog:\n    disabled: true\n  level: warn\n"+
		"storage:\n  filesystem:\n    rootdirectory: %s\n  delete:\n    enabled: true\nhttp:\n  addr: %s\n  secret: test\n", r.Dir, r.Host)
	if opt.TLS {
		r.URL = "https://" + r.Host
		r.Certs = filepath.Join(dir, "certs.d")
		c := NewCertificate(t, hostname(r.Host))
		c.WriteCA(t, r.Certs, r.Host)
		cert, key := c.Write(t, dir)
		fmt.Fprintf(&conf, "  tls:\n    certificate: %s\n    key: %s\n", cert, key)
	}
	if opt.Htpasswd {
		path := filepath.Join(dir, "htpasswd")
		write(t, path, htpasswd)
		fmt.Fprintf(&conf, "auth:\n  htpasswd:\n    realm: test\n    path: %s\n", path)
	}
	if opt.Token != nil {
		fmt.Fprintf(&conf, "auth:\n  token:\n    realm: %s\n    service: %s\n    issuer: %s\n    rootcertbundle: %s\n",
			opt.Token.URL, opt.Token.Service, opt.Token.Issuer, opt.Token.certs)
	}
	if opt.MirrorOf != "" {
		fmt.Fprintf(&conf, "proxy:\n  remoteurl: %s\n", opt.MirrorOf)
	}
	path := filepath.Join(dir, "config.yml")
	write(t, path, conf.String())
	return r, r.run(t, bin, path)
}

// run starts the server and waits until it answers.
func (r *Registry) run(t testing.TB, bin, config string) error {
	t.Helper()
	c := exec.Command(bin, "serve", config)
	c.Stdout, c.Stderr = r.log, r.log
	// REGISTRY_… would overrule the configuration.
	c.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "REGISTRY_") }), "OTEL_TRACES_EXPORTER=none")
	if err := c.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() { c.Wait(); close(ended) }()
	r.stop = sync.OnceFunc(func() { c.Process.Kill(); <-ended })
	t.Cleanup(r.stop)
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true,
	}}
	for {
		resp, err := client.Get(r.URL + "/v2/")
		if err == nil {
			resp.Body.Close()
			return nil
		}
		select {
		case <-ended:
			return fmt.Errorf("it ended: %s", r.log)
		case <-t.Context().Done():
			return t.Context().Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Stop ends the registry before its test does.
func (r *Registry) Stop() { r.stop() }

// freePort returns an address of loopback that nobody listens at.
func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func hostname(host string) string {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		return host
	}
	return name
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A log keeps what a server says.
type log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
