// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/image/archive"
)

// Options say what the package does not know.
type Options struct {
	// Temp makes a file that has no name any more, to be read and written. It is
	// closed by who got it.
	Temp func() (*os.File, error)

	Whiteout string // begins the names of whiteouts in a layer
	Opaque   string // the name that makes its directory opaque in a layer
	Root     bool   // xattrs trusted.* can be read
}

// A Store is the store of an engine. It is read as it is at each moment; it may
// be used by one goroutine at a time, the images that came from it by several.
type Store struct {
	at     Location // with the root filled in
	root   *dir
	driver driver
}

// A driver knows the form of one engine's store.
type driver interface {
	// items lists images and containers.
	items(ctx context.Context) ([]*Item, error)
	// entry returns the image that i is, without names, or the one below the
	// container. Its layers that are kept unpacked have Bytes.
	entry(ctx context.Context, i *Item) (*archive.Entry, error)
	// changes returns what a container has on top of its image, the lowest first;
	// the last is what it changed itself.
	changes(ctx context.Context, i *Item) ([]archive.Layer, error)
	io.Closer
}

// An Item is an image or a container of a store.
type Item struct {
	ID        string   // of an image sha256:…, of a container as its engine has it
	Names     []string // of an image canonical; of a container its own
	Digests   []string // of an image: NAME@sha256:…
	Target    digest.Digest
	Namespace string // containerd's
	Created   time.Time
	Size      int64  // bytes of the unpacked layers; -1 = not known
	Platform  string // "" = not known without reading
	Labels    map[string]string

	Container bool
	Image     string // of a container: its image, as people call it
	ImageID   string // of a container: the ID of its image, or (containerd) its name

	ref any // the driver's own
}

// Open opens the store at l.Root, or where that kind of engine has it.
func Open(ctx context.Context, l Location, opt Options) (*Store, error) {
	if l.Root == "" {
		l.Root = DefaultRoot(l.Kind)
	}
	root, err := openRoot(l.Root)
	if err != nil {
		return nil, err
	}
	s := &Store{at: l, root: root}
	s.at.Root = root.path
	switch l.Kind {
	case Docker:
		s.driver, err = openDocker(root, &opt)
	case Containerd:
		s.driver, err = openContainerd(ctx, root, &opt)
	case Storage:
		s.driver, err = openStorage(root, &opt)
	default:
		err = fmt.Errorf("no such engine: %.50q", l.Kind)
	}
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return s, nil
}

// A notStoreError says that a directory is no store of the kind it was taken
// for. It is image.ErrNotFound.
type notStoreError struct {
	path, kind, other string
}

func notStore(root *dir, kind Kind) error {
	e := &notStoreError{path: root.path, kind: string(kind)}
	for _, is := range []struct {
		kind Kind
		has  string
	}{
		{Docker, "image/overlay2"}, {Containerd, metaDB}, {Storage, "overlay-images"}, {Storage, "vfs-images"},
	} {
		if is.kind != kind && root.has(is.has) {
			e.other = string(is.kind)
		}
	}
	return e
}

func (e *notStoreError) Error() string {
	text := fmt.Sprintf("%s: not a store of %s", e.path, e.kind)
	if e.other != "" {
		text += fmt.Sprintf(", but one of %s (%s:%s)", e.other, e.other, e.path)
	}
	return text
}

func (e *notStoreError) Unwrap() error { return image.ErrNotFound }

// Location says where the store is and what was asked for, with an absolute
// root.
func (s *Store) Location() Location { return s.at }

// Close ends reading. Images that came from it are not read any more.
func (s *Store) Close() error { return errors.Join(s.driver.Close(), s.root.Close()) }

// Items lists the images and containers, the newest first.
func (s *Store) Items(ctx context.Context) ([]*Item, error) {
	list, err := s.driver.items(ctx)
	if err == nil && len(list) > maxItems {
		err = malformed("%s: over %d images and containers", s.root.path, maxItems)
	}
	slices.SortStableFunc(list, func(a, b *Item) int { return b.Created.Compare(a.Created) })
	return list, err
}

// A NotFoundError says that a store does not have just one thing of a name. It
// is image.ErrNotFound.
type NotFoundError struct {
	Store string // as an argument: docker:/var/lib/docker
	Root  string // of the store
	Name  string // "" if none was asked for
	Have  []string
	Found []string // what the name may mean, if it is several
}

func (e *NotFoundError) Error() string {
	list := func(names []string) string {
		const most = 8
		text := strings.Join(names[:min(len(names), most)], ", ")
		if len(names) > most {
			text += ", …"
		}
		return text
	}
	switch {
	case len(e.Found) > 0:
		return fmt.Sprintf("in %s it may be %s", e.Root, list(e.Found))
	case len(e.Have) == 0:
		return fmt.Sprintf("in %s is neither an image nor a container", e.Root)
	case e.Name == "":
		return fmt.Sprintf("in %s there is %s", e.Root, list(e.Have))
	}
	return fmt.Sprintf("in %s neither an image nor a container is called so; there is %s", e.Root, list(e.Have))
}

// Unwrap returns image.ErrNotFound.
func (e *NotFoundError) Unwrap() error { return image.ErrNotFound }

// Find returns the item that a name means: of an image its name as docker
// reads it or its digest, an id or its first digits, else of a container its
// name, id or the first digits of that. "" is the only image. The error is a
// *NotFoundError.
func (s *Store) Find(ctx context.Context, name string) (*Item, error) {
	all, err := s.Items(ctx)
	if err != nil {
		return nil, err
	}
	failed := &NotFoundError{Store: Location{s.at.Kind, s.at.Root, ""}.String(), Root: s.at.Root, Name: name}
	for _, i := range all {
		failed.Have = append(failed.Have, i.Title())
	}
	found := match(all, name)
	if len(found) == 1 {
		return found[0], nil
	}
	for _, i := range found {
		if name != "" {
			failed.Found = append(failed.Found, i.Title())
		}
	}
	return nil, failed
}

// match returns what name may mean, by the first rule that knows it.
func match(all []*Item, name string) []*Item {
	for _, rule := range rules(name) {
		var found []*Item
		for _, i := range all {
			same := func(x *Item) bool { return x.ID == i.ID && x.Container == i.Container && x.Target == i.Target }
			if rule(i) && !slices.ContainsFunc(found, same) {
				found = append(found, i)
			}
		}
		if len(found) > 0 {
			return found
		}
	}
	return nil
}

func rules(name string) []func(*Item) bool {
	if name == "" {
		return []func(*Item) bool{func(i *Item) bool { return !i.Container }}
	}
	var rules []func(*Item) bool
	if r, err := image.ParseReference(name); err == nil {
		full := r.String()
		rules = append(rules,
			func(i *Item) bool { return !i.Container && slices.Contains(i.Names, full) },
			func(i *Item) bool { return !i.Container && r.Digest() != "" && i.hasDigest(r) },
			func(i *Item) bool { return !i.Container && r.Digest() == "" && i.isLocally(r) })
	}
	hex := strings.TrimPrefix(name, "sha256:")
	return append(rules,
		func(i *Item) bool { return !i.Container && slices.Contains(i.Names, name) },
		func(i *Item) bool { return i.Container && slices.Contains(i.Names, strings.TrimPrefix(name, "/")) },
		func(i *Item) bool { return i.Container && i.ID == name },
		func(i *Item) bool {
			return len(hex) >= 4 && (strings.HasPrefix(i.ID, "sha256:"+hex) || !i.Container && i.Target != "" && strings.HasPrefix(i.Target.Encoded(), hex))
		},
		func(i *Item) bool { return i.Container && len(name) >= 4 && strings.HasPrefix(i.ID, name) })
}

// hasDigest reports whether i is what a reference with a digest means.
func (i *Item) hasDigest(r image.Reference) bool {
	if slices.Contains(i.Digests, r.Name()+"@"+string(r.Digest())) {
		return true
	}
	return i.Target == r.Digest() && slices.ContainsFunc(i.Names, func(n string) bool {
		have, err := image.ParseReference(n)
		return err == nil && have.Name() == r.Name()
	})
}

// isLocally reports whether i has the name of r on the host localhost, which is
// where podman puts what it built.
func (i *Item) isLocally(r image.Reference) bool {
	return slices.Contains(i.Names, "localhost/"+r.Familiar())
}

// Title returns what i is called by people: its first name, or its short id.
func (i *Item) Title() string {
	name := i.ID
	if d := digest.Digest(i.ID); d.Validate() == nil {
		name = d.Encoded()
	}
	name = name[:min(12, len(name))]
	if len(i.Names) > 0 {
		name = i.Names[0]
		if r, err := image.ParseReference(name); err == nil && !i.Container {
			name = r.Familiar()
		}
	}
	if i.Container {
		return "container " + name
	}
	return name
}

// Format is what Source.Format says of what came from a store.
const Format = "engine"

// Source returns an image as an archive that has it alone. Of a container it is
// its image with its changes on top: layers that no config tells of, whose
// number is returned, too. base leaves the last of them away.
func (s *Store) Source(ctx context.Context, i *Item, base bool) (_ *archive.Source, changes int, err error) {
	e, err := s.driver.entry(ctx, i)
	if err != nil {
		return nil, 0, err
	}
	e.Names = slices.Clone(i.Names)
	if i.Container {
		e.Names = nil
		top, err := s.driver.changes(ctx, i)
		if err != nil {
			return nil, 0, err
		}
		if base {
			top = top[:len(top)-1]
		}
		changes = len(top)
		images := e.Images
		e.Images = nil
		for _, m := range images {
			if !m.Attestation && m.Missing == nil {
				m.Layers = append(slices.Clone(m.Layers), top...)
			}
			e.Images = append(e.Images, m)
		}
	}
	return archive.NewSource(Format, []archive.Entry{*e}, closers{e, s}), changes, nil
}

// closers close what an entry reads, and the store.
type closers struct {
	e *archive.Entry
	s *Store
}

func (c closers) Close() error {
	var errs []error
	for _, m := range c.e.Images {
		for _, l := range m.Layers {
			if l.Bytes != nil {
				errs = append(errs, l.Bytes.Close())
			}
		}
	}
	return errors.Join(append(errs, c.s.Close())...)
}

// unpackedImage returns the image of a config whose layers are kept unpacked.
// layer returns the one of a diffID and a chainID.
func unpackedImage(config []byte, id digest.Digest, layer func(k int, c *image.Config) (archive.Bytes, error)) (*archive.Entry, error) {
	desc := ocispec.Descriptor{MediaType: image.MediaTypeDockerConfig, Digest: id, Size: int64(len(config))}
	if err := image.VerifyDocument(config, desc); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	parsed, err := image.ParseConfig(config)
	if err != nil {
		return nil, err
	}
	m := archive.Image{Platform: parsed.Platform(), Config: archive.Document{Desc: desc, Raw: config}, Parsed: parsed}
	for k, diffID := range parsed.RootFS.DiffIDs {
		b, err := layer(k, parsed)
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", k+1, err)
		}
		m.Layers = append(m.Layers, archive.Layer{
			Desc: ocispec.Descriptor{MediaType: image.MediaTypeDockerLayer}, DiffID: diffID, Bytes: b, Path: b.Name(),
		})
	}
	return &archive.Entry{Images: []archive.Image{m}}, nil
}
