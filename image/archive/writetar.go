// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"archive/tar"
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// WriteTar writes entries as one tar: an OCI layout (FormatOCIArchive), or
// one with a manifest.json beside it (FormatDockerArchive), which is what
// docker save writes since engine 25. Blobs go in as they are, layers of a
// docker-archive too: its readers decompress them. Each is written once and
// verified on the way. Only a manifest of docker's kind is not the same in an
// oci-archive: it gets the media types of OCI, since readers of those look for
// no others.
//
// The tar depends on entries, format and mtime alone. The documents come
// first, then the layers, base first, so who reads the tar as a stream knows
// of each layer what it is.
func WriteTar(ctx context.Context, w io.Writer, format string, entries []Entry, blobs Blobs, mtime time.Time) error {
	l, err := newLayout(entries, format)
	if err != nil {
		return err
	}
	index, err := l.indexFile(nil)
	if err != nil {
		return err
	}
	buf := bufio.NewWriterSize(w, 64<<10)
	t := &tarWriter{w: tar.NewWriter(buf), mtime: mtime, dirs: make(map[string]bool)}
	t.file(ocispec.ImageLayoutFile, layoutMark())
	t.file(ocispec.ImageIndexFile, index)
	switch format {
	case FormatDockerArchive:
		manifest, err := json.Marshal(l.docker)
		if err != nil {
			return err
		}
		t.file("manifest.json", manifest)
	case FormatOCIArchive:
	default:
		return fmt.Errorf("archive: internal error: no tar is %q", format)
	}
	for _, d := range l.docs {
		t.blobFile(d.Desc.Digest, d.Raw)
	}
	for _, d := range l.layers {
		t.blob(ctx, d, blobs)
	}
	if t.err != nil {
		return t.err
	}
	if err := t.w.Close(); err != nil {
		return err
	}
	return buf.Flush()
}

// A tarWriter writes members until one fails.
type tarWriter struct {
	w     *tar.Writer
	mtime time.Time
	dirs  map[string]bool
	err   error // the first; nothing is written after it
}

func (t *tarWriter) header(h *tar.Header) {
	h.ModTime = t.mtime
	if t.err == nil {
		t.err = t.w.WriteHeader(h)
	}
}

func (t *tarWriter) dir(name string) {
	if name == "." || t.dirs[name] {
		return
	}
	t.dir(path.Dir(name))
	t.dirs[name] = true
	t.header(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755})
}

func (t *tarWriter) start(name string, size int64) {
	t.dir(path.Dir(name))
	t.header(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size})
}

func (t *tarWriter) file(name string, raw []byte) {
	t.start(name, int64(len(raw)))
	if t.err == nil {
		_, t.err = t.w.Write(raw)
	}
}

func (t *tarWriter) blobFile(d digest.Digest, raw []byte) { t.file(blobName(d), raw) }

func (t *tarWriter) blob(ctx context.Context, d ocispec.Descriptor, blobs Blobs) {
	t.start(blobName(d.Digest), d.Size)
	if t.err == nil {
		t.err = copyBlob(ctx, t.w, d, blobs)
	}
}
