// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"context"
	"io"
	"os"
	"path/filepath"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Bytes are those of a layer that lies in no one file, and are put together
// when they are read.
type Bytes interface {
	io.ReaderAt
	io.Closer
	// Name says where the layer lies, for people.
	Name() string
	// Identity returns a text that no other bytes have. It changes where the
	// layer was seen to change.
	Identity() (string, error)
	// Size returns how many there are, for which much may have to be read.
	Size(ctx context.Context) (int64, error)
	// Headers reads the same, with zeros where the content of files is.
	Headers() io.ReaderAt
	// EachUnreadable calls f for each file of the layer that cannot be read.
	EachUnreadable(ctx context.Context, f func(error)) error
}

// Section returns the layer's blob, also of one that lies in no one file.
func (l *Layer) Section(ctx context.Context) (*io.SectionReader, error) {
	if l.Bytes == nil {
		return l.Blob, nil
	}
	size, err := l.Bytes.Size(ctx)
	if err != nil {
		return nil, err
	}
	return io.NewSectionReader(l.Bytes, 0, size), nil
}

// NewSource returns a source of entries that were found by other means. Close
// closes c.
func NewSource(format string, entries []Entry, c io.Closer) *Source {
	return &Source{format: format, entries: entries, files: otherFiles{c: c}}
}

// otherFiles are the files of NewSource.
type otherFiles struct {
	noFiles
	c io.Closer
}

func (f otherFiles) Close() error { return f.c.Close() }

// A BlobDir is a directory that has blobs/ALGORITHM/HEX as an OCI layout has
// them, and no index: others know what is in it.
type BlobDir struct{ files *dirFiles }

// OpenBlobs opens the directory path.
func OpenBlobs(path string) (*BlobDir, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(abs)
	if err != nil {
		return nil, err
	}
	return &BlobDir{&dirFiles{root: root, path: abs}}, nil
}

// Entry returns the image under target, a manifest or an index. What of it is
// not there, Image.Missing tells.
func (b *BlobDir) Entry(target ocispec.Descriptor) (*Entry, error) {
	e := &Entry{Target: target}
	return e, newLoader(b.files).flatten(e, target, 0)
}

// Close closes the files. No layer may be read any more.
func (b *BlobDir) Close() error { return b.files.Close() }
