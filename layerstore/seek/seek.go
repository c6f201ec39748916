// SPDX-License-Identifier: Apache-2.0

// Package seek gives random access to the bytes inside a compressed stream.
//
// Build decodes a stream once and records points at which decoding can start
// again, with a checksum of what lies between them; a Reader then answers
// ReadAt from the stream as it was shipped, decoding one chunk at a time into
// a bounded Cache.
//
// gzip has seek points at member starts and at block ends, each block end with
// the 32 KiB before it; a block too long for a chunk is entered in its middle.
// zstd has them at frames. What has none that serve (a long zstd frame, xz,
// bzip2) is packed anew, into a sidecar.
//
// The one lock is Cache.mu; nothing is decoded or read under it.
//
// The package knows nothing of layers, digests, tars or files: it is given
// readers and writers.
package seek

import (
	"errors"
	"fmt"
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

// headBytes is how many first bytes Detect looks at, and a zstd frame's header
// may take.
const headBytes = 18

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
