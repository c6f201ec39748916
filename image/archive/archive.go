// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/internal/noatime"
)

// Limits of an archive, over and above those of its documents.
const (
	maxMembers       = 1_000_000 // files remembered of one tar
	maxName          = 4096      // bytes of a name or a link's target
	maxText          = 256 << 20 // bytes of all names and links of one tar
	maxHops          = 40        // links followed on the way to one file
	maxIndexDepth    = 8         // indexes inside each other
	maxManifests     = 16384     // manifests and indexes visited
	maxLayers        = 1 << 18   // layers of all images together
	maxDocumentBytes = 256 << 20 // all documents of one source together
)

// The kinds of source, as Format returns them.
const (
	FormatOCIDir        = "oci-dir"
	FormatOCIArchive    = "oci-archive"
	FormatDockerArchive = "docker-archive"
	FormatDockerDir     = "docker-dir"        // a docker-archive that was unpacked
	FormatDockerLegacy  = "docker-archive-v1" // docker save before 1.10
)

// Sentinels that callers branch on.
var (
	// ErrNotImage marks a file or directory that is no image at all, such as
	// the tar of a root filesystem. It is an image.ErrMalformed too.
	ErrNotImage error = notImageError{}

	// ErrCompressed marks a file that is compressed as a whole: the caller
	// decompresses it to a temporary file and calls OpenFile. The error is a
	// *CompressedError.
	ErrCompressed = errors.New("compressed as a whole")

	// ErrStream marks a pipe, socket or device, in which nothing can be looked
	// up: the caller copies it to a temporary file and calls OpenFile.
	ErrStream = errors.New("not a regular file")

	// ErrMissing marks an image one of whose blobs the source lacks. It is
	// always joined with image.ErrMalformed.
	ErrMissing = errors.New("not in the archive")

	// ErrDirTransport marks a directory that skopeo wrote as "dir:". It is
	// always joined with image.ErrMalformed. The cure is to have skopeo copy it
	// to "oci:".
	ErrDirTransport = errors.New(`the layout of skopeo's "dir:" is not supported; skopeo can copy it to "oci:"`)

	// ErrArtifact marks a manifest that describes no filesystem: a chart, a
	// signature, an SBOM. It is always joined with image.ErrMalformed.
	ErrArtifact = errors.New("an artifact, not an image")
)

type notImageError struct{}

func (notImageError) Error() string        { return "not a container image" }
func (notImageError) Is(target error) bool { return target == image.ErrMalformed }

// A CompressedError says how a file is compressed.
type CompressedError struct {
	Format string // "gzip", "zstd", "xz" or "bzip2"
}

func (e *CompressedError) Error() string        { return e.Format + ": compressed as a whole" }
func (e *CompressedError) Is(target error) bool { return target == ErrCompressed }

// A Source is an open image file or layout directory. Its methods, and the
// blobs of its layers, may be used by several goroutines, until Close.
type Source struct {
	format  string
	entries []Entry
	files   files
}

// An Entry is one image of a source, for one platform or for several.
type Entry struct {
	// Names are the references the source gives, in canonical form
	// (docker.io/library/alpine:3). What is no docker reference is kept as it
	// stands, and so is a lone word under org.opencontainers.image.ref.name:
	// that is a tag, or any word at all. May be empty.
	Names []string

	// Target describes the root document, an index or a manifest. It is zero
	// for a docker-archive, which has neither.
	Target ocispec.Descriptor

	// Images are all manifests under Target in the order of the index, nested
	// indexes flattened; attestations and unusable ones are included.
	Images []Image

	// Documents are the indexes on the way, Target's first, as they came.
	Documents []Document
}

// An Image is one manifest of an Entry. Its slices are shared: read only.
type Image struct {
	Platform    ocispec.Platform // the index's word, else the config's
	Manifest    Document         // zero for a docker-archive
	Config      Document
	Parsed      *image.Config // nil if Missing or an attestation
	Layers      []Layer       // base first
	Attestation bool          // not an image, but BuildKit's word about one

	// Missing is not nil if this image cannot be used, and says why: it is
	// ErrMissing and names the blob, or ErrArtifact. Also image.ErrMalformed.
	Missing error
}

// A Document is a manifest, an index or a config: its bytes, which are what
// Desc says.
type Document struct {
	Desc ocispec.Descriptor
	Raw  []byte
}

// A Layer is one layer's blob. Its bytes are not verified.
type Layer struct {
	Desc   ocispec.Descriptor // Digest "" where a docker-archive does not say
	DiffID digest.Digest      // the config's word; "" for an attestation
	Blob   *io.SectionReader  // nil if the source lacks it (see Image.Missing), or has Bytes
	Bytes  Bytes              // of a layer that lies in no one file; else nil

	// Path is the file on disk that holds the blob, Offset its first byte
	// there. With Blob.Size they say where the bytes lie, for whoever mounts
	// them in place.
	Path   string
	Offset int64
}

// Open opens an image on disk: a directory that is an OCI layout, or a tar.
// The error is ErrCompressed or ErrStream if the file must be copied first,
// and wraps image.ErrMalformed if what lies there is refused.
//
// All documents are read and verified. A docker-archive of before engine 1.10
// has its layers read through too, because it does not say their diffIDs.
func Open(path string) (*Source, error) {
	// O_NONBLOCK: a pipe without a writer must not hang us.
	f, err := noatime.Open(path, syscall.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	switch {
	case info.Mode().IsRegular():
		return OpenFile(f, info.Size())
	case info.IsDir():
		f.Close()
		return openDir(path)
	}
	f.Close()
	return nil, fmt.Errorf("%s: %w", path, ErrStream)
}

// OpenFile opens the image tar that f holds in its first size bytes, as Open
// does. It takes f over: f is closed by Close, or before an error returns.
func OpenFile(f *os.File, size int64) (*Source, error) {
	s, err := newTarSource(f, f.Name(), size)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return s, nil
}

// newTarSource reads the tar in r; the source closes r if it is an io.Closer.
func newTarSource(r io.ReaderAt, path string, size int64) (*Source, error) {
	var head [headBytes]byte
	n, err := r.ReadAt(head[:min(size, int64(len(head)))], 0)
	if err != nil && err != io.EOF {
		return nil, err
	}
	if format := compression(head[:n]); format != "" {
		return nil, &CompressedError{format}
	}
	if err := CheckHead(head[:n]); err != nil {
		return nil, err
	}
	t, err := scanTar(r, path, size)
	if err != nil {
		return nil, err
	}
	return newSource(t, FormatOCIArchive, FormatDockerArchive)
}

// headBytes is how many first bytes CheckHead looks at: a tar header.
const headBytes = 512

// CheckHead tells from the first 512 bytes of an input, or all it has, what
// cannot be an image tar: the error is ErrNotImage. Whoever spools a stream
// asks before the rest, which may have no end.
func CheckHead(head []byte) error {
	switch {
	case len(head) == 0:
		return fmt.Errorf("the input is empty: %w", ErrNotImage)
	case len(head) < headBytes:
		return fmt.Errorf("not a tar: %w", ErrNotImage)
	}
	// The header alone is read; what it announces is not there.
	_, err := tar.NewReader(bytes.NewReader(head)).Next()
	switch {
	case err == io.EOF: // zeros
		return fmt.Errorf("a tar of nothing: %w", ErrNotImage)
	case errors.Is(err, tar.ErrHeader):
		return fmt.Errorf("not a tar: %w", ErrNotImage)
	}
	return nil
}

// isDirTransport reports whether the files are what skopeo writes as "dir:":
// manifest.json is there, and is one manifest.
func (l *loader) isDirTransport() bool {
	const first = "Directory Transport Version:"
	m, err := l.files.find("version")
	if err != nil || m.size < int64(len(first)) {
		return false
	}
	head := make([]byte, len(first))
	_, err = m.at.ReadAt(head, m.off)
	return string(head) == first && (err == nil || err == io.EOF)
}

func openDir(path string) (*Source, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(abs)
	if err != nil {
		return nil, err
	}
	s, err := newSource(&dirFiles{root: root, path: abs}, FormatOCIDir, FormatDockerDir)
	if err != nil {
		root.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// newSource finds out what the files are and reads their documents.
func newSource(f files, ociFormat, dockerFormat string) (*Source, error) {
	l := newLoader(f)
	has := func(name string) (bool, error) {
		_, err := f.find(name)
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return err == nil, err
	}
	hasIndex, err := has("index.json")
	if err != nil {
		return nil, err
	}
	hasManifest, err := has("manifest.json")
	if err != nil {
		return nil, err
	}
	s := &Source{files: f}
	switch {
	case hasIndex:
		s.format = ociFormat
		s.entries, err = l.ociLayout(hasManifest)
	case hasManifest && l.isDirTransport():
		return nil, fmt.Errorf("%w: %w", ErrDirTransport, image.ErrMalformed)
	case hasManifest:
		s.format = dockerFormat
		s.entries, err = l.dockerArchive()
	default:
		s.format = FormatDockerLegacy
		s.entries, err = l.legacyArchive()
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Close closes the files. No layer may be read any more.
func (s *Source) Close() error { return s.files.Close() }

// Format returns what kind of source this is, one of the Format constants. A
// tar with an OCI layout and a manifest.json is an oci-archive.
func (s *Source) Format() string { return s.format }

// Entries returns the images in the source's order. The slice is the
// source's: read only.
func (s *Source) Entries() []Entry { return s.entries }

// Find returns the entry that bears name: as written or as docker would read
// it; the only entry if name is "". The error wraps image.ErrNotFound and
// lists the names there are.
func (s *Source) Find(name string) (*Entry, error) {
	if name == "" && len(s.entries) == 1 {
		return &s.entries[0], nil
	}
	canonical := normalName(name)
	var names []string
	for i := range s.entries {
		for _, n := range s.entries[i].Names {
			if name != "" && (n == name || n == canonical) {
				return &s.entries[i], nil
			}
			names = append(names, n)
		}
	}
	if name == "" {
		return nil, fmt.Errorf("%d images here, name one of %q: %w", len(s.entries), names, image.ErrNotFound)
	}
	return nil, fmt.Errorf("%q is none of %q: %w", name, names, image.ErrNotFound)
}

// Select returns the image of e for a platform. A nil want stands for the
// host's, and then an entry that has a single usable image gives that one,
// whatever it was built for: it is looked at, not run. The error wraps
// image.ErrNotFound and lists the platforms there are, or is the Missing of
// the image that fits.
func (e *Entry) Select(want *ocispec.Platform) (*Image, error) {
	var usable, all []int
	var listed []string
	for i := range e.Images {
		m := &e.Images[i]
		if m.Attestation {
			continue
		}
		all = append(all, i)
		name := image.FormatPlatform(m.Platform)
		switch {
		case m.Missing == nil:
			usable = append(usable, i)
		case !errors.Is(m.Missing, ErrUnread):
			name += " (absent)"
		}
		listed = append(listed, name)
	}
	p := image.HostPlatform()
	if want != nil {
		p = *want
	}
	best := func(among []int) *Image {
		platforms := make([]ocispec.Platform, len(among))
		for k, i := range among {
			platforms[k] = e.Images[i].Platform
		}
		if k := image.BestPlatform(platforms, p); k >= 0 {
			return &e.Images[among[k]]
		}
		return nil
	}
	if m := best(usable); m != nil {
		return m, nil
	}
	if want == nil && len(usable) == 1 {
		return &e.Images[usable[0]], nil
	}
	m := best(all)
	if m == nil && want == nil && len(all) == 1 {
		m = &e.Images[all[0]]
	}
	if m != nil {
		return nil, m.Missing
	}
	return nil, fmt.Errorf("platform %s: image has %s: %w", image.FormatPlatform(p), strings.Join(listed, ", "), image.ErrNotFound)
}

// normalName returns the canonical form of name if docker would take it for a
// reference, else name.
func normalName(name string) string {
	r, err := image.ParseReference(name)
	if err != nil {
		return name
	}
	return r.String()
}

// compression names the format whose magic number begins b, or "".
func compression(b []byte) string {
	is := func(magic string) bool { return strings.HasPrefix(string(b), magic) }
	switch {
	case is("\x1f\x8b"):
		return "gzip"
	case is("\x28\xb5\x2f\xfd"), len(b) >= 4 && b[0]&0xf0 == 0x50 && is(string(b[:1])+"\x2a\x4d\x18"):
		return "zstd"
	case is("\xfd7zXZ\x00"):
		return "xz"
	case is("BZh"):
		return "bzip2"
	}
	return ""
}
