// SPDX-License-Identifier: Apache-2.0

package imgfs

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imgfs/imgfs/unionfs"
)

// A Store is a directory of images: blobs, what is derived from them, and
// their names. Any number of processes may use one at a time.
type Store struct {
	root string
}

// DefaultRoot returns where the store is when nobody says: $IMGFS_ROOT, else
// $XDG_DATA_HOME/imgfs (~/.local/share/imgfs), for root /var/lib/imgfs.
func DefaultRoot() (string, error) { return "", errors.New("not yet") }

// Open returns the store at root, which is made at the first write.
func Open(root string) (*Store, error) { return nil, errors.New("not yet") }

// Close releases what the store holds open.
func (s *Store) Close() error { return nil }

// Root returns the store's directory, absolute.
func (s *Store) Root() string { return s.root }

// A Progress is told of long work. Its methods may be called from several
// goroutines. A nil Progress is silent.
type Progress interface {
	// Start begins a piece of work of total bytes (0: not known) and returns
	// what is told of its bytes; Close of that ends it.
	Start(what string, total int64) io.WriteCloser
}

// LoadOptions say how images come into the store.
type LoadOptions struct {
	Platform string // os/arch[/variant]: only that one of an index
	Progress Progress
	// Warn is told of oddities and of copies that load had to make, a line each.
	Warn func(line string)
}

// Loaded is one name, or an image without one, that Load brought.
type Loaded struct {
	Name string        // as docker prints it: alpine:3; empty without a name
	ID   digest.Digest // digest of the config
}

// Load reads an image archive (a file or directory path, or "-" with stdin)
// into the store and returns its images in the archive's order. On an error
// the store is as it was before.
func (s *Store) Load(ctx context.Context, path string, stdin io.Reader, opt LoadOptions) ([]Loaded, error) {
	return nil, errors.New("not yet")
}

// Import makes an image of one layer from a plain root filesystem tar, which
// may be compressed, and names it ref if that is not empty.
func (s *Store) Import(ctx context.Context, path string, stdin io.Reader, ref string, opt LoadOptions) (Loaded, error) {
	return Loaded{}, errors.New("not yet")
}

// OpenOptions say how an image is opened.
type OpenOptions struct {
	Platform string // os/arch[/variant], empty: linux on this machine's architecture
	Verify   bool   // wait until a file opened in place is verified
	LoadOptions
}

// An Image is an open image: its documents and its tree. It holds leases on
// what it needs until Close.
type Image struct {
	Name     string        // as it was asked for, familiar form: alpine:3, ./x.tar
	ID       digest.Digest // digest of the config
	Digest   digest.Digest // of the manifest
	Platform string        // os/arch[/variant]
	FS       *unionfs.FS   // the part that was asked for ("NAME:/usr")
	Path     string        // that part, "" = all
}

// OpenImage opens arg: NAME[:TAG|@DIGEST], a prefix of an id, ./file.tar or
// ./oci-dir, each with ":/path" behind it for a part. An archive that is
// compressed as a whole, and "-" (stdin), are loaded into the store first. The
// path must be a directory only if dir is true; else Image.Path says it and FS
// is the whole tree. errors.Is(err, image.ErrNotFound) tells that there is no
// such image.
func (s *Store) OpenImage(ctx context.Context, arg string, stdin io.Reader, opt OpenOptions) (*Image, error) {
	return nil, errors.New("not yet")
}

// Unverified reports whether layers of an image opened in place are still
// being verified. A layer that fails answers reads with an error.
func (i *Image) Unverified() bool { return false }

// Verify starts the verifying pass of an image opened in place, if one is
// due, and returns at its end. OpenOptions.Verify has it done before.
func (i *Image) Verify(ctx context.Context) error { return nil }

// Close releases the image.
func (i *Image) Close() error { return nil }

// ImageSummary is a row of the image list, one per name (or per image
// without one).
type ImageSummary struct {
	Repository string // familiar: alpine; "<none>" without a name
	Tag        string // "<none>" without one
	ID         digest.Digest
	Digest     digest.Digest // of the document that the name points to
	Created    time.Time
	Size       int64 // bytes, uncompressed
	Platform   string
	Labels     map[string]string
}

// Images lists the images of the store, newest first.
func (s *Store) Images(ctx context.Context) ([]ImageSummary, error) {
	return nil, errors.New("not yet")
}

// ImageInfo is what inspect and history show.
type ImageInfo struct {
	ID          digest.Digest
	Digest      digest.Digest // of the manifest
	RepoTags    []string
	RepoDigests []string
	Platform    string
	Created     time.Time
	Size        int64  // bytes, uncompressed
	Config      []byte // the raw config document
	Manifest    []byte // the raw manifest
	DiffIDs     []digest.Digest
	// Layers, base first.
	Layers []LayerInfo
	// Others lists what else the name's index holds: other platforms, absent
	// ones, attestations. A line each.
	Others []string
}

// LayerInfo is one layer of an image.
type LayerInfo struct {
	Digest    digest.Digest // as shipped
	DiffID    digest.Digest
	MediaType string
	Size      int64 // bytes as shipped
	TarSize   int64 // bytes, uncompressed
	Oddities  int
}

// Info returns the documents of an image.
func (s *Store) Info(ctx context.Context, arg string, opt OpenOptions) (*ImageInfo, error) {
	return nil, errors.New("not yet")
}
