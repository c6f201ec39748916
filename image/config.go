// SPDX-License-Identifier: Apache-2.0

package image

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
)

// A Config is the config document of an image: OCI's fields, and those that
// docker has beside them. Keys are docker's, so it prints as docker's.
type Config struct {
	Created       *time.Time `json:"created,omitempty"`
	Author        string     `json:"author,omitempty"`
	Comment       string     `json:"comment,omitempty"`
	Architecture  string     `json:"architecture"`
	Variant       string     `json:"variant,omitempty"`
	OS            string     `json:"os"`
	OSVersion     string     `json:"os.version,omitempty"`
	OSFeatures    []string   `json:"os.features,omitempty"`
	DockerVersion string     `json:"docker_version,omitempty"`
	Container     string     `json:"container,omitempty"`
	Config        RunConfig  `json:"config"`
	RootFS        RootFS     `json:"rootfs"`
	History       []History  `json:"history,omitempty"`

	// Raw is the document as it came, for those who need a field that is not
	// here, or its digest. It must not be changed.
	Raw json.RawMessage `json:"-"`

	cmdChanged bool // a Change set the command
}

// A RunConfig says how a container of the image is started.
type RunConfig struct {
	Hostname     string              `json:",omitempty"`
	Domainname   string              `json:",omitempty"`
	User         string              `json:",omitempty"`
	ExposedPorts map[string]struct{} `json:",omitempty"`
	Env          []string            `json:",omitempty"`
	Entrypoint   Words               `json:",omitempty"`
	Cmd          Words               `json:",omitempty"`
	Healthcheck  *Healthcheck        `json:",omitempty"`
	ArgsEscaped  bool                `json:",omitempty"`
	Volumes      map[string]struct{} `json:",omitempty"`
	WorkingDir   string              `json:",omitempty"`
	OnBuild      []string            `json:",omitempty"`
	Labels       map[string]string   `json:",omitempty"`
	StopSignal   string              `json:",omitempty"`
	StopTimeout  *int                `json:",omitempty"` // seconds
	Shell        Words               `json:",omitempty"`
}

// A Healthcheck says how docker tests a running container.
type Healthcheck struct {
	Test          []string      `json:",omitempty"`
	Interval      time.Duration `json:",omitempty"`
	Timeout       time.Duration `json:",omitempty"`
	StartPeriod   time.Duration `json:",omitempty"`
	StartInterval time.Duration `json:",omitempty"`
	Retries       int           `json:",omitempty"`
}

// A RootFS lists the layers by the digests of their uncompressed tars.
type RootFS struct {
	Type    string          `json:"type"` // "layers"
	DiffIDs []digest.Digest `json:"diff_ids"`
}

// A History line tells one step of the build, base first.
type History struct {
	Created    *time.Time `json:"created,omitempty"`
	CreatedBy  string     `json:"created_by,omitempty"`
	Author     string     `json:"author,omitempty"`
	Comment    string     `json:"comment,omitempty"`
	EmptyLayer bool       `json:"empty_layer,omitempty"` // the step made no layer
}

// Words are the words of a command line. Old engines wrote one string where
// today's write a list.
type Words []string

// UnmarshalJSON takes a list of strings, or one string.
func (w *Words) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		var s string
		if err := json.Unmarshal(b, &s); err != nil {
			return err
		}
		*w = Words{s}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(w))
}

// ParseConfig reads the config of an image and keeps raw in it. Every diffID
// is valid and there are at most MaxLayers. The error wraps ErrMalformed.
func ParseConfig(raw []byte) (*Config, error) {
	c := new(Config)
	if err := Unmarshal(raw, c); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	if t := c.RootFS.Type; t != "layers" && t != "" {
		return nil, fmt.Errorf("config: rootfs of type %.50q: %w", t, ErrMalformed)
	}
	if n := len(c.RootFS.DiffIDs); n > MaxLayers {
		return nil, fmt.Errorf("config: %d diff_ids: limit is %d: %w", n, MaxLayers, ErrMalformed)
	}
	for i, d := range c.RootFS.DiffIDs {
		if err := ValidateDigest(d); err != nil {
			return nil, fmt.Errorf("config: diff_id %d: %w", i, err)
		}
	}
	c.Raw = raw
	return c, nil
}

// Platform returns the platform the config says; an old config that names no
// system is linux.
func (c *Config) Platform() Platform {
	p := Platform{
		OS: c.OS, Architecture: c.Architecture, Variant: c.Variant,
		OSVersion: c.OSVersion, OSFeatures: c.OSFeatures,
	}
	if p.OS == "" {
		p.OS = "linux"
	}
	return p
}

// CheckLayers returns nil if the config has as many diffIDs as the image has
// layers. The error wraps ErrMalformed.
func (c *Config) CheckLayers(n int) error {
	if got := len(c.RootFS.DiffIDs); got != n {
		return fmt.Errorf("config has %d diff_ids for %d layers: %w", got, n, ErrMalformed)
	}
	return nil
}

// LayerHistory returns, for each layer, the history line of the step that
// made it; the zero line where the history tells of fewer layers. It is as
// long as DiffIDs.
func (c *Config) LayerHistory() []History {
	lines := make([]History, len(c.RootFS.DiffIDs))
	i := 0
	for _, h := range c.History {
		if h.EmptyLayer {
			continue
		}
		if i == len(lines) {
			break
		}
		lines[i] = h
		i++
	}
	return lines
}

// ChainIDs returns, for each layer, the name of the stack that ends with it,
// as the OCI image-spec (config.md, "Layer ChainID") computes it: the first is
// the first diffID, each next one the sha256 of the one before, a space and
// the next diffID.
func ChainIDs(diffIDs []digest.Digest) []digest.Digest {
	chain := make([]digest.Digest, len(diffIDs))
	for i, d := range diffIDs {
		if i == 0 {
			chain[i] = d
			continue
		}
		chain[i] = digest.SHA256.FromString(string(chain[i-1]) + " " + string(d))
	}
	return chain
}
