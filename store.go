// SPDX-License-Identifier: Apache-2.0

package imgfs

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imgfs/imgfs/layerstore"
	"github.com/imgfs/imgfs/layerstore/seek"
)

// A Store is a directory of images: blobs, what is derived from them, and
// their names. Any number of processes may use one at a time.
type Store struct {
	ls      *layerstore.Store
	cache   *seek.Cache
	indexes indexCache
	reach   reach
	remote  remote // of tests; nil: Registry
}

// DefaultCache is how many bytes of decoded layers an open store keeps in
// memory.
const DefaultCache = 48 << 20

// DefaultRoot returns where the store is when nobody says: $IMGFS_ROOT, else
// /var/lib/imgfs for root, else $XDG_DATA_HOME/imgfs (~/.local/share/imgfs).
func DefaultRoot() (string, error) {
	if root := os.Getenv("IMGFS_ROOT"); root != "" {
		return root, nil
	}
	if os.Geteuid() == 0 && !inUserNamespace() {
		return "/var/lib/imgfs", nil
	}
	if data := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(data) {
		return filepath.Join(data, "imgfs"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("no place for the store: set IMGFS_ROOT or --root (%w)", err)
	}
	return filepath.Join(home, ".local/share/imgfs"), nil
}

// inUserNamespace reports whether uid 0 here is somebody else outside, as in
// "unshare -Ur" and rootless containers.
func inUserNamespace() bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(b)), " ") != "0 0 4294967295"
}

// Open returns the store at root, which is made at the first write.
func Open(root string) (*Store, error) {
	ls, err := layerstore.Open(root)
	if err != nil {
		return nil, err
	}
	s := &Store{ls: ls, cache: seek.NewCache(DefaultCache)}
	ls.SetKeep(layerstore.Keep{Uses: s.upperUses, Documents: s.indexDocuments})
	return s, nil
}

// Close releases what the store holds open.
func (s *Store) Close() error { return nil }

// Root returns the store's directory, absolute.
func (s *Store) Root() string { return s.ls.Root() }

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

// OpenOptions say how an image is opened.
type OpenOptions struct {
	Platform string // os/arch[/variant], empty: linux on this machine's architecture
	Verify   bool   // wait until a file opened in place is verified
	Pull     PullPolicy
	LoadOptions
}

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
	Layers     []LayerInfo // base first; nil from Images
	Shared     int64       // bytes of Size that are in layers of other images, too; 0 from Images
}

// ImageInfo is what inspect and history show.
type ImageInfo struct {
	ID          digest.Digest
	Digest      digest.Digest // of the manifest
	RepoTags    []string
	RepoDigests []string
	Platform    string
	Created     time.Time
	Tagged      time.Time // when the latest of its names was set; zero in place
	Size        int64     // bytes, uncompressed; -1 in place, if a layer is compressed
	Config      []byte    // the raw config document
	Manifest    []byte    // the raw manifest
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
	TarSize   int64 // bytes, uncompressed; -1 in place, if it is compressed
	Oddities  int
}
