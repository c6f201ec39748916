// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/imgfs/imgfs/image"
)

// Limits of a config file.
const (
	maxConfig  = 1 << 20 // bytes
	maxMirrors = 64      // of one registry
)

// A Config says how registries are reached. The zero Config knows of nothing
// special. It is not changed once a Client has it.
type Config struct {
	mirrors  map[string][]mirror // by registry: docker.io
	insecure []string            // host, host:port or an address range
	certs    []string            // directories as /etc/docker/certs.d
}

// A mirror is a server that is asked before a registry.
type mirror struct {
	host   string // mirror.example.com:5000
	plain  bool   // http:// was written
	prefix string // goes before the repository: "hub/", or ""
}

// file is config.toml.
type file struct {
	Mirrors  map[string][]string `toml:"mirrors"`
	Insecure []string            `toml:"insecure-registries"`
	Certs    []string            `toml:"certs-dirs"`
}

// ConfigPaths returns where config.toml is looked for:
// $XDG_CONFIG_HOME/imgfs, by default ~/.config/imgfs, then /etc/imgfs.
func ConfigPaths() []string {
	var paths []string
	if dir, err := os.UserConfigDir(); err == nil {
		paths = append(paths, filepath.Join(dir, "imgfs", "config.toml"))
	}
	return append(paths, "/etc/imgfs/config.toml")
}

// LoadConfig reads config files, of which any may be missing. The mirrors of a
// registry are those of the first file that has some; all other lists are
// put together. The error names the file, and the line where one is at fault.
func LoadConfig(paths ...string) (*Config, error) {
	c := new(Config)
	return c, c.Load(paths...)
}

// Load adds to c what LoadConfig reads; the mirrors that c has of a registry
// stay its only ones.
func (c *Config) Load(paths ...string) error {
	for _, path := range paths {
		raw, err := readFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := c.add(raw, filepath.Dir(path)); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > maxConfig {
		return nil, fmt.Errorf("%s: over %d bytes", path, maxConfig)
	}
	return raw, nil
}

// add merges one file. Directories in it are relative to dir.
func (c *Config) add(raw []byte, dir string) error {
	var f file
	dec := toml.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&f); err != nil {
		return tomlError(err)
	}
	for _, host := range f.Insecure {
		if err := c.AddInsecure(host); err != nil {
			return err
		}
	}
	for _, d := range f.Certs {
		if !filepath.IsAbs(d) {
			d = filepath.Join(dir, d)
		}
		c.certs = append(c.certs, d)
	}
	had := make(map[string]bool)
	for host := range c.mirrors {
		had[host] = true
	}
	for host, urls := range f.Mirrors {
		host, err := registryHost(host)
		if err != nil {
			return err
		}
		if had[host] {
			continue
		}
		for _, u := range urls {
			if err := c.AddMirror(host, u); err != nil {
				return err
			}
		}
	}
	return nil
}

// tomlError says in one line where and what.
func tomlError(err error) error {
	var (
		strict *toml.StrictMissingError
		decode *toml.DecodeError
	)
	switch {
	case errors.As(err, &strict) && len(strict.Errors) > 0:
		row, _ := strict.Errors[0].Position()
		return fmt.Errorf("line %d: unknown key %q", row, strings.Join(strict.Errors[0].Key(), "."))
	case errors.As(err, &decode):
		row, _ := decode.Position()
		return fmt.Errorf("line %d: %s", row, strings.TrimPrefix(decode.Error(), "toml: "))
	}
	return err
}

// AddMirror has rawURL asked before the registry host, after the mirrors that
// were added before. A path in the URL goes before the repository's.
func (c *Config) AddMirror(host, rawURL string) error {
	host, err := registryHost(host)
	if err != nil {
		return err
	}
	if !strings.Contains(rawURL, "://") {
		rawURL = "https://" + rawURL
	}
	u, err := url.Parse(rawURL)
	if err != nil {
		return fmt.Errorf("mirror: %w", errors.Unwrap(err))
	}
	shown := scrub(rawURL)
	switch {
	case u.Scheme != "https" && u.Scheme != "http":
		return fmt.Errorf("mirror %q: scheme is not http or https", shown)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("mirror %q: want only a host and a path; imgfs login keeps credentials", shown)
	}
	mirrorHost, err := registryHost(u.Host)
	if err != nil {
		return fmt.Errorf("mirror %q: %w", shown, err)
	}
	prefix := strings.Trim(u.Path, "/")
	if prefix != "" {
		if _, err := image.ParseReference(mirrorHost + "/" + prefix + "/x"); err != nil {
			return fmt.Errorf("mirror %q: %w", shown, err)
		}
		prefix += "/"
	}
	if len(c.mirrors[host]) == maxMirrors {
		return fmt.Errorf("over %d mirrors of %s", maxMirrors, host)
	}
	if c.mirrors == nil {
		c.mirrors = make(map[string][]mirror)
	}
	c.mirrors[host] = append(c.mirrors[host], mirror{mirrorHost, u.Scheme == "http", prefix})
	return nil
}

// AddInsecure lets host, with or without a port, speak plain HTTP or show a
// certificate that nobody vouches for. A range of addresses, 10.0.0.0/8,
// stands for each host that is written as one of them.
func (c *Config) AddInsecure(host string) error {
	if _, err := netip.ParsePrefix(host); err == nil {
		c.insecure = append(c.insecure, host)
		return nil
	}
	host, err := registryHost(host)
	if err != nil {
		return fmt.Errorf("insecure registry: %w", err)
	}
	c.insecure = append(c.insecure, host)
	return nil
}

// registryHost checks that s is a host with or without a port, and returns it
// as references have it.
func registryHost(s string) (string, error) {
	switch s {
	case "index.docker.io", "registry-1.docker.io":
		s = "docker.io"
	}
	ref, err := image.ParseReference(s + "/x/y")
	if err != nil || ref.Domain() != s {
		return "", fmt.Errorf("%q is not a registry's host", s)
	}
	return s, nil
}

// Host returns the host of a registry as references have it, of what a user
// calls it: a host with or without a port, or a URL as docker's
// https://index.docker.io/v1/. Nothing is docker.io.
func Host(s string) (string, error) {
	if s == "" {
		return "docker.io", nil
	}
	rest := strings.TrimPrefix(strings.TrimPrefix(s, "https://"), "http://")
	host, path, _ := strings.Cut(rest, "/")
	switch path {
	case "", "v1/", "v1", "v2/", "v2":
		return registryHost(host)
	}
	return "", fmt.Errorf("%q is not a registry's host", scrub(s))
}

// isInsecure reports whether host may go without verified TLS.
func (c *Config) isInsecure(host string) bool {
	if c == nil {
		return false
	}
	name := hostname(host)
	addr, addrErr := netip.ParseAddr(name)
	return slices.ContainsFunc(c.insecure, func(entry string) bool {
		if p, err := netip.ParsePrefix(entry); err == nil {
			return addrErr == nil && p.Contains(addr)
		}
		return entry == host || entry == name
	})
}

// hostname returns host without its port and brackets.
func hostname(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	return strings.Trim(host, "[]")
}

// isLoopback reports whether host is this machine.
func isLoopback(host string) bool {
	name := hostname(host)
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return true
	}
	addr, err := netip.ParseAddr(name)
	return err == nil && addr.IsLoopback()
}
