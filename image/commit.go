// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A CommitOptions says what a commit adds to a config.
type CommitOptions struct {
	DiffID    digest.Digest // of the new layer
	Created   time.Time
	Author    string
	Comment   string
	CreatedBy string
	Changes   []Change // applied in their order
}

// Commit returns the config of the image that is the image of old with one
// layer more. What the old document holds and this package does not know
// stays, but for what told of the container that the old image was made from.
// The bytes depend on the arguments alone. The error wraps ErrMalformed if old
// is to blame, and is a *ChangeError if a change is.
func Commit(old []byte, opt CommitOptions) ([]byte, error) {
	cfg, err := ParseConfig(old)
	if err != nil {
		return nil, err
	}
	before := cfg.Config.clone()
	for _, c := range opt.Changes {
		if err := c.Apply(cfg); err != nil {
			return nil, err
		}
	}
	doc, err := parseDoc(old)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"container", "container_config", "id", "parent", "parent_id", "comment"} {
		doc.remove(name)
	}
	created := opt.Created.UTC()
	line := History{Created: &created, CreatedBy: opt.CreatedBy, Author: opt.Author, Comment: opt.Comment}
	err = firstError(
		doc.set("created", created),
		doc.setText("author", opt.Author),
		doc.edit("config", func(run object) error { return run.setChanged(before, cfg.Config) }),
		doc.edit("rootfs", func(fs object) error {
			return firstError(fs.set("type", "layers"), fs.set("diff_ids", append(slices.Clone(cfg.RootFS.DiffIDs), opt.DiffID)))
		}),
		doc.addHistory(cfg, line),
	)
	if err != nil {
		return nil, err
	}
	raw, err := marshal(doc)
	if err != nil {
		return nil, err
	}
	if _, err := ParseConfig(raw); err != nil {
		return nil, fmt.Errorf("the new %w", err) // over a limit
	}
	return raw, nil
}

// addHistory adds a line. The layers that no line tells of get empty ones
// first, or the new line would be taken for theirs.
func (o object) addHistory(cfg *Config, line History) error {
	var lines []json.RawMessage
	if raw, ok := o.get("history"); ok {
		if err := json.Unmarshal(raw, &lines); err != nil {
			return fmt.Errorf("config: history: %w: %w", err, ErrMalformed)
		}
	}
	told := 0
	for _, h := range cfg.History {
		if !h.EmptyLayer {
			told++
		}
	}
	for ; told < len(cfg.RootFS.DiffIDs); told++ {
		lines = append(lines, json.RawMessage("{}"))
	}
	raw, err := marshal(line)
	if err != nil {
		return err
	}
	return o.set("history", append(lines, raw))
}

// setChanged sets in o the fields that differ between two configs, and those
// alone.
func (o object) setChanged(before, after RunConfig) error {
	a, err := fields(before)
	if err != nil {
		return err
	}
	b, err := fields(after)
	if err != nil {
		return err
	}
	for name := range a {
		if _, ok := b[name]; !ok {
			o.remove(name)
		}
	}
	for name, value := range b {
		if bytes.Equal(a[name], value) {
			continue
		}
		if err := o.set(name, value); err != nil {
			return err
		}
	}
	return nil
}

// fields returns what c is in JSON, field by field.
func fields(c RunConfig) (object, error) {
	raw, err := marshal(c)
	if err != nil {
		return nil, err
	}
	o := make(object)
	return o, json.Unmarshal(raw, &o)
}

// CommitManifest returns the manifest, and its media type, of an image that
// has one layer more than the image of old: config is its config, layer its
// top layer, by a media type of OCI. The old layers stay as they are described.
// The manifest is of the kind that old is; one of docker that gets a layer it
// has no media type for (zstd) becomes one of OCI. The bytes depend on the
// arguments alone.
func CommitManifest(old, config []byte, layer ocispec.Descriptor) (raw []byte, mediaType string, err error) {
	m, err := ParseManifest(old, "")
	if err != nil {
		return nil, "", err
	}
	doc, err := parseDoc(old)
	if err != nil {
		return nil, "", err
	}
	k := ociKind
	if m.MediaType == MediaTypeDockerManifest {
		k = dockerKind
		if t := dockerLayerType(layer.MediaType); t != "" {
			layer.MediaType = t
		} else {
			k = ociKind
			if err := doc.layersToOCI(); err != nil {
				return nil, "", err
			}
		}
	}
	for _, name := range []string{"subject", "artifactType"} {
		doc.remove(name) // they say what the old one was
	}
	if _, ok := doc.get("annotations"); ok {
		err = doc.edit("annotations", func(a object) error {
			delete(a, ocispec.AnnotationCreated) // when the old one was
			return nil
		})
		if err != nil {
			return nil, "", err
		}
	}
	err = firstError(
		doc.set("schemaVersion", 2),
		doc.set("mediaType", k.manifest),
		doc.set("config", ocispec.Descriptor{MediaType: k.config, Digest: digest.FromBytes(config), Size: int64(len(config))}),
		doc.addLayer(layer),
	)
	if err != nil {
		return nil, "", err
	}
	if raw, err = marshal(doc); err != nil {
		return nil, "", err
	}
	if _, err := ParseManifest(raw, ""); err != nil {
		return nil, "", fmt.Errorf("the new %w", err) // over a limit
	}
	return raw, k.manifest, nil
}

// A kind is a family of media types.
type kind struct{ manifest, config string }

var (
	ociKind    = kind{ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageConfig}
	dockerKind = kind{MediaTypeDockerManifest, MediaTypeDockerConfig}
)

// dockerLayerType returns docker's media type for one of OCI, or "".
func dockerLayerType(t string) string {
	switch t {
	case ocispec.MediaTypeImageLayer:
		return MediaTypeDockerLayer
	case ocispec.MediaTypeImageLayerGzip:
		return MediaTypeDockerLayerGzip
	}
	return ""
}

// ociLayerType returns OCI's media type for one of docker; what is none of
// docker's stays.
func ociLayerType(t string) string {
	switch t {
	case MediaTypeDockerLayer:
		return ocispec.MediaTypeImageLayer
	case MediaTypeDockerLayerGzip:
		return ocispec.MediaTypeImageLayerGzip
	case MediaTypeDockerLayer + ".zstd":
		return ocispec.MediaTypeImageLayerZstd
	case MediaTypeDockerForeignLayer:
		return "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
	}
	return t
}

func (o object) layers() ([]json.RawMessage, error) {
	var list []json.RawMessage
	if raw, ok := o.get("layers"); ok {
		if err := json.Unmarshal(raw, &list); err != nil {
			return nil, fmt.Errorf("manifest: layers: %w: %w", err, ErrMalformed)
		}
	}
	return list, nil
}

// layersToOCI makes the media types of all layers those of OCI.
func (o object) layersToOCI() error {
	list, err := o.layers()
	if err != nil {
		return err
	}
	for i, raw := range list {
		layer, err := parseDoc(raw)
		if err != nil {
			return err
		}
		var d ocispec.Descriptor
		if err := json.Unmarshal(raw, &d); err != nil {
			return fmt.Errorf("manifest: layer %d: %w: %w", i, err, ErrMalformed)
		}
		if err := layer.set("mediaType", ociLayerType(d.MediaType)); err != nil {
			return err
		}
		if list[i], err = marshal(layer); err != nil {
			return err
		}
	}
	return o.set("layers", list)
}

func (o object) addLayer(d ocispec.Descriptor) error {
	list, err := o.layers()
	if err != nil {
		return err
	}
	raw, err := marshal(d)
	if err != nil {
		return err
	}
	return o.set("layers", append(list, raw))
}

// An object is a JSON object whose fields are kept as they are written. Its
// names are those of Go's decoder, which takes them in any case.
type object map[string]json.RawMessage

// parseDoc reads an object; null is an empty one.
func parseDoc(raw []byte) (object, error) {
	o := make(object)
	if err := json.Unmarshal(raw, &o); err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrMalformed)
	}
	if o == nil {
		o = make(object)
	}
	return o, nil
}

func (o object) get(name string) (json.RawMessage, bool) {
	for k, v := range o {
		if strings.EqualFold(k, name) {
			return v, true
		}
	}
	return nil, false
}

func (o object) remove(name string) {
	for k := range o {
		if strings.EqualFold(k, name) {
			delete(o, k)
		}
	}
}

func (o object) set(name string, v any) error {
	raw, err := marshal(v)
	if err != nil {
		return err
	}
	o.remove(name)
	o[name] = raw
	return nil
}

// setText sets a text; an empty one is not there.
func (o object) setText(name, v string) error {
	if v == "" {
		o.remove(name)
		return nil
	}
	return o.set(name, v)
}

// edit changes the object under name, which may be missing.
func (o object) edit(name string, change func(object) error) error {
	in := make(object)
	if raw, ok := o.get(name); ok {
		var err error
		if in, err = parseDoc(raw); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := change(in); err != nil {
		return err
	}
	return o.set(name, in)
}

// marshal is json.Marshal that leaves <, > and & as they are. Names of objects
// come out sorted.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
