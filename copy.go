// SPDX-License-Identifier: Apache-2.0

package imgfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/image/archive"
	"github.com/imgfs/imgfs/image/engine"
	"github.com/imgfs/imgfs/layerstore"
)

// CopyOptions say what of an image is copied.
type CopyOptions struct {
	Platform     string // os/arch[/variant]: that one of an index, without the index
	AllPlatforms bool   // of an index in a registry every image; else this machine's
	Progress     Progress
	// Warn is told of oddities, a line each.
	Warn func(line string)
}

// An endpoint is one side of a copy.
type endpoint struct {
	kind endpointKind
	path string // of an archive or layout
	ref  string // "" = none

	store engine.Location // of an engine
}

type endpointKind string

const (
	inStore         endpointKind = "store"
	inRegistry      endpointKind = "docker"
	inDockerArchive endpointKind = "docker-archive"
	inOCIArchive    endpointKind = "oci-archive"
	inOCIDir        endpointKind = "oci"
	inEngine        endpointKind = "engine"
)

// parseEndpoint reads docker-archive:PATH[:REF], oci-archive:PATH[:REF],
// oci:DIR[:REF], docker://REF, store:NAME or NAME. As in skopeo, a path ends at
// the first colon.
func parseEndpoint(s string) (endpoint, error) {
	kind, rest, ok := strings.Cut(s, ":")
	switch k := endpointKind(kind); {
	case ok && (k == inDockerArchive || k == inOCIArchive || k == inOCIDir):
		path, ref, _ := strings.Cut(rest, ":")
		if path == "" {
			return endpoint{}, optionError{fmt.Errorf("%q names no file", s)}
		}
		return endpoint{kind: k, path: path, ref: ref}, nil
	case ok && k == inRegistry && strings.HasPrefix(rest, "//"):
		_, err := image.ParseReference(rest[2:])
		if err != nil {
			return endpoint{}, optionError{err}
		}
		return endpoint{kind: k, ref: rest[2:]}, nil
	case ok && k == inStore:
		return endpoint{kind: k, ref: rest}, nil
	case ok && slices.Contains([]string{"dir", "docker-daemon", "containers-storage", "ostree", "sif", "tarball"}, kind), strings.Contains(s, "://"):
		return endpoint{}, optionError{fmt.Errorf("%q is of no kind that is known here: docker-archive, oci-archive, oci, docker://, store", s)}
	}
	return endpoint{kind: inStore, ref: s}, nil
}

// parseOrigin is parseEndpoint of what is read from: the store of another
// engine, too, KIND:[ROOT:]NAME.
func (s *Store) parseOrigin(src string) (endpoint, error) {
	if l, ok := s.inEngine(src); ok {
		return endpoint{kind: inEngine, store: l}, nil
	}
	return parseEndpoint(src)
}

// named returns the name that an image gets at e, and that it has in the
// store and in archives; "" = those that it had. A lone word under oci: and
// oci-archive: stays one.
func (e *endpoint) named() (string, error) {
	if e.ref == "" {
		return "", nil
	}
	word := (e.kind == inOCIDir || e.kind == inOCIArchive) && !strings.ContainsAny(e.ref, ":/@")
	ref := e.ref
	if word {
		ref = "word:" + e.ref
	}
	r, err := image.ParseReference(ref)
	switch {
	case err != nil:
		return "", optionError{fmt.Errorf("name %q: %w", e.ref, err)}
	case word:
		return e.ref, nil
	case r.Digest() != "":
		return "", optionError{fmt.Errorf("reference %q: a name with a digest cannot be given", e.ref)}
	}
	return r.String(), nil
}

// ErrBothStored marks a copy from the store to the store: Tag gives an image
// there one more name. It is an ErrOption.
var ErrBothStored = errors.New("both are in the store, where nothing is copied")

// Copy copies images from src to dst, which are each one of
//
//	docker-archive:PATH[:REF]  oci-archive:PATH[:REF]  oci:DIR[:REF]
//	docker://REF  store:NAME  NAME
//
// or, of src alone, KIND:[ROOT:]NAME in the store of another engine,
// with their documents and layers bit for bit, as Save writes them and Pull
// brings them. Without a REF in dst names stay, and all images of an archive
// are copied; with one, it is the name of the one image that src is. To and
// from a registry an index gives one image, unless AllPlatforms is set. What
// is no such place, or cannot be copied to, is ErrOption. The images are
// returned under the names that they have in dst.
func (s *Store) Copy(ctx context.Context, src, dst string, opt CopyOptions) ([]Loaded, error) {
	if err := checkPlatform(opt.Platform); err != nil {
		return nil, err
	}
	from, err := s.parseOrigin(src)
	if err != nil {
		return nil, err
	}
	to, err := parseEndpoint(dst)
	if err != nil {
		return nil, err
	}
	name, err := to.named()
	if err != nil {
		return nil, err
	}
	if from.kind == inStore && to.kind == inStore {
		return nil, optionError{ErrBothStored}
	}
	o, err := s.open(ctx, &from, opt)
	if err != nil {
		return nil, about(src, err)
	}
	defer o.Close()
	if err := o.rename(name); err != nil {
		return nil, about(src, err)
	}
	if err := s.copyTo(ctx, o, &to, opt); err != nil {
		return nil, about(dst, err)
	}
	return o.images(to.kind == inStore), nil
}

// images says which images o has, under all their names: in the store, or as
// an archive has them.
func (o *origin) images(stored bool) []Loaded {
	var out []Loaded
	for i := range o.entries {
		e := &o.entries[i]
		var l Loaded
		if m, err := chosen(e); err == nil {
			l.ID = m.Config.Desc.Digest
		}
		for _, n := range e.Names {
			if l.Name = n; stored || isCanonical(n) {
				_, l.Name = storedName(n)
			}
			out = append(out, l)
		}
		if len(e.Names) == 0 {
			out = append(out, l)
		}
	}
	return out
}

// isCanonical reports whether a name is a reference spelled out, and not a
// word of a layout.
func isCanonical(name string) bool {
	r, err := image.ParseReference(name)
	return err == nil && r.String() == name
}

// rename gives the only image of o the name name, if that is not empty.
func (o *origin) rename(name string) error {
	if name == "" {
		return nil
	}
	if len(o.entries) != 1 {
		return several(o.entries)
	}
	o.entries[0].Names = []string{name}
	return nil
}

// open finds the images that e means.
func (s *Store) open(ctx context.Context, e *endpoint, opt CopyOptions) (*origin, error) {
	switch e.kind {
	case inStore:
		return s.oneFromStore(e.ref, opt.Platform)
	case inRegistry:
		return s.fromRegistry(ctx, e.ref, opt)
	}
	return s.fromFile(ctx, e, opt)
}

// copyTo puts the images of o where to says.
func (s *Store) copyTo(ctx context.Context, o *origin, to *endpoint, opt CopyOptions) error {
	if to.kind == inStore {
		return o.load(ctx, s, opt)
	}
	if err := o.complete(ctx); err != nil {
		return err
	}
	if o.one || to.kind == inRegistry && !opt.AllPlatforms {
		if err := o.narrowTo(chosen); err != nil {
			return err
		}
	}
	if to.kind == inRegistry {
		if len(o.entries) != 1 {
			return several(o.entries)
		}
		return o.push(ctx, s, to.ref, opt)
	}
	format := map[endpointKind]string{
		inDockerArchive: archive.FormatDockerArchive, inOCIArchive: archive.FormatOCIArchive, inOCIDir: archive.FormatOCIDir,
	}
	return o.write(ctx, to.path, nil, format[to.kind], opt.Progress)
}

// load brings the images of o into the store.
func (o *origin) load(ctx context.Context, s *Store, opt CopyOptions) (err error) {
	for range maxAgain {
		if err = o.loadOnce(ctx, s, opt); !errors.Is(err, layerstore.ErrVanished) {
			break
		}
	}
	return err
}

func (o *origin) loadOnce(ctx context.Context, s *Store, opt CopyOptions) error {
	load := LoadOptions{Progress: opt.Progress, Warn: opt.Warn}
	if b, ok := o.blobs.(remoteBlobs); ok {
		_, err := s.pullEntry(ctx, b.r, b.ref, &o.entries[0], nil, PullOptions{LoadOptions: load, AllPlatforms: !o.one})
		return err
	}
	stage, err := s.ls.NewStage()
	if err != nil {
		return err
	}
	defer stage.Discard()
	l := &loader{s: s, stage: stage, opt: load}
	_, err = l.load(ctx, o.entries)
	return err
}

// push sends the only image of o to a registry under a name.
func (o *origin) push(ctx context.Context, s *Store, name string, opt CopyOptions) error {
	ref, err := image.ParseReference(name)
	if err != nil {
		return optionError{err}
	}
	r, err := s.registry()
	if err != nil {
		return err
	}
	e := &o.entries[0]
	p := &pusher{s: s, src: pushed{o.blobs, e}, r: r, ref: ref, opt: PushOptions{Progress: opt.Progress}, blobs: make(map[digest.Digest]*pushedBlob)}
	if p.origin, err = s.origins(ref); err != nil {
		return err
	}
	_, err = p.document(ctx, e.Target, true, 0)
	return err
}

// pushed is what of an entry is pushed.
type pushed struct {
	archive.Blobs
	e *archive.Entry
}

func (p pushed) document(d digest.Digest) ([]byte, error) {
	for _, doc := range p.e.Documents {
		if doc.Desc.Digest == d {
			return doc.Raw, nil
		}
	}
	for i := range p.e.Images {
		m := &p.e.Images[i]
		if m.Missing == nil && m.Manifest.Desc.Digest == d {
			return m.Manifest.Raw, nil
		}
	}
	return nil, fmt.Errorf("%s: %w", d, ErrNoBlob)
}

func (p pushed) has(d digest.Digest) bool {
	for i := range p.e.Images {
		m := &p.e.Images[i]
		if m.Missing == nil && slices.ContainsFunc(m.Layers, func(l archive.Layer) bool { return l.Desc.Digest == d }) {
			return true
		}
	}
	return false
}

func (p pushed) Blob(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	for i := range p.e.Images {
		if m := &p.e.Images[i]; m.Config.Desc.Digest == d.Digest {
			return io.NopCloser(bytes.NewReader(m.Config.Raw)), nil
		}
	}
	return p.Blobs.Blob(ctx, d)
}
