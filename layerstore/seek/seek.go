// SPDX-License-Identifier: Apache-2.0

// Package seek gives random access to the bytes inside a compressed stream.
//
// Build decodes a stream once and records points at which decoding can start
// again, with a checksum of what lies between them; a Reader then answers
// ReadAt from the stream as it was shipped, decoding one chunk at a time into
// a bounded Cache.
//
// The package knows nothing of layers, digests, tars or files: it is given
// readers and writers.
package seek

import (
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// ErrFormat marks a compressed stream that breaks the rules of its format:
// truncated, a wrong checksum or length, bytes after the end of a zstd stream.
// The message names the offset in the compressed stream.
var ErrFormat = errors.New("malformed compressed stream")

// ErrCorrupt marks stored bytes, or an index, that changed after they were
// verified.
var ErrCorrupt = errors.New("stored bytes are corrupt")

// Compression says how a stream is compressed.
type Compression uint8

// The compressions Detect tells apart.
const (
	None Compression = iota
	Gzip
	Zstd
	Bzip2
	XZ
)

// String returns the usual name in lower case.
func (c Compression) String() string {
	switch c {
	case None:
		return "none"
	case Gzip:
		return "gzip"
	case Zstd:
		return "zstd"
	case Bzip2:
		return "bzip2"
	case XZ:
		return "xz"
	}
	return fmt.Sprintf("compression(%d)", uint8(c))
}

// Detect tells the compression of a stream from its first bytes; 18 are
// enough. A zstd stream may begin with a skippable frame.
func Detect(head []byte) Compression {
	switch {
	case len(head) >= 3 && head[0] == 0x1f && head[1] == 0x8b && head[2] == 8:
		return Gzip
	case len(head) >= 4 && head[0] == 0x28 && head[1] == 0xb5 && head[2] == 0x2f && head[3] == 0xfd:
		return Zstd
	case len(head) >= 4 && head[0]&0xf0 == 0x50 && head[1] == 0x2a && head[2] == 0x4d && head[3] == 0x18:
		return Zstd
	case len(head) >= 6 && string(head[:6]) == "\xfd7zXZ\x00":
		return XZ
	case len(head) >= 10 && string(head[:3]) == "BZh" && head[3] >= '1' && head[3] <= '9' &&
		(string(head[4:10]) == "1AY&SY" || string(head[4:10]) == "\x17\x72\x45\x38\x50\x90"):
		return Bzip2
	}
	return None
}

// Options of Build; the zero value works.
type Options struct {
	Spacing int64                     // bytes of output between seek points; 0 is 2 MiB
	Sidecar func() (io.Writer, error) // where the seekable copy goes, if one is needed
	MaxSize int64                     // limit of the uncompressed bytes; 0 is 1 TiB
}

// Result is what Build learned.
type Result struct {
	Compression Compression
	Size        int64 // bytes, uncompressed
	Chunks      int
	Sidecar     bool // chunks are read from the sidecar, not from the blob
	Trailing    bool // bytes after the end of a gzip stream, read and ignored
}

// Build decodes src (skeleton: the index holds everything).
func Build(src io.Reader, dst io.Writer, index io.Writer, opt Options) (Result, error) {
	d, c, err := NewDecoder(src)
	if err != nil {
		return Result{}, err
	}
	defer d.Close()
	n, err := io.Copy(io.MultiWriter(dst, index), d)
	if err != nil {
		return Result{}, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	_, err = io.Copy(io.Discard, src)
	return Result{Compression: c, Size: n, Chunks: 1}, err
}

// NewDecoder decodes a stream of whatever compression.
func NewDecoder(r io.Reader) (io.ReadCloser, Compression, error) {
	head := make([]byte, 18)
	n, err := io.ReadFull(r, head)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return nil, None, err
	}
	r = io.MultiReader(bytes.NewReader(head[:n]), r)
	c := Detect(head[:n])
	switch c {
	case Gzip:
		z, err := gzip.NewReader(r)
		return z, c, err
	case Zstd:
		z, err := zstd.NewReader(r)
		if err != nil {
			return nil, c, err
		}
		return z.IOReadCloser(), c, nil
	case Bzip2:
		return io.NopCloser(bzip2.NewReader(r)), c, nil
	case XZ:
		z, err := xz.NewReader(r)
		return io.NopCloser(z), c, err
	}
	return io.NopCloser(r), c, nil
}

// Cache is a bounded memory of decoded chunks.
type Cache struct{}

// NewCache returns a cache of at most maxBytes.
func NewCache(maxBytes int64) *Cache { return &Cache{} }

// Reader reads the uncompressed bytes.
type Reader struct {
	index io.ReaderAt
	size  int64
}

// Open opens an index (skeleton).
func Open(index io.ReaderAt, indexSize int64, blob io.ReaderAt, blobSize int64, cache *Cache) (*Reader, error) {
	return &Reader{index, indexSize}, nil
}

// Plain reads an uncompressed blob as it is, unverified.
func Plain(blob io.ReaderAt, size int64) *Reader { return &Reader{blob, size} }

// ReadAt is io.ReaderAt.
func (r *Reader) ReadAt(p []byte, off int64) (int, error) {
	return io.NewSectionReader(r.index, 0, r.size).ReadAt(p, off)
}

// Size is the count of uncompressed bytes.
func (r *Reader) Size() int64 { return r.size }

// Close ends the reader.
func (r *Reader) Close() error { return nil }
