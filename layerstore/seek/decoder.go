// SPDX-License-Identifier: Apache-2.0

package seek

import (
	"bufio"
	"compress/bzip2"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/imgfs/imgfs/layerstore/seek/inflate"
)

// NewDecoder decodes r as a stream, whatever its compression, which it tells.
// Bytes after the end of gzip are read and ignored. Reads give ErrFormat for a
// malformed stream, and errors of r as they are. Close does not close r.
func NewDecoder(r io.Reader) (io.ReadCloser, Compression, error) {
	src := &sourceReader{r: r}
	br := bufio.NewReaderSize(src, zstdInput)
	first, err := br.Peek(headBytes)
	if err != nil && err != io.EOF {
		return nil, None, err
	}
	c := Detect(first)
	dec, err := newStream(br, c)
	if err != nil {
		if src.err != nil {
			return nil, c, src.err
		}
		return nil, c, fmt.Errorf("%s: %w: %w", c, err, ErrFormat)
	}
	return &streamDecoder{dec: dec, src: src, c: c}, c, nil
}

// streamDecoder marks the errors of a decoder.
type streamDecoder struct {
	dec io.ReadCloser
	src *sourceReader
	c   Compression
}

func (s *streamDecoder) Read(p []byte) (int, error) {
	n, err := s.dec.Read(p)
	switch {
	case err == nil || err == io.EOF || errors.Is(err, ErrFormat):
		return n, err
	case s.src.err != nil:
		return n, s.src.err
	}
	return n, fmt.Errorf("%s: before offset %d: %w: %w", s.c, s.src.off, err, ErrFormat)
}

func (s *streamDecoder) Close() error { return s.dec.Close() }

// newStream returns a decoder for one compression.
func newStream(r io.Reader, c Compression) (io.ReadCloser, error) {
	switch c {
	case Gzip:
		return newGzipReader(r), nil
	case Zstd:
		z, err := newZstdDecoder(r)
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	case Bzip2:
		return io.NopCloser(bzip2.NewReader(r)), nil
	case XZ:
		z, err := xz.NewReader(newXZGuard(r))
		if err != nil {
			return nil, err
		}
		return io.NopCloser(z), nil
	}
	return io.NopCloser(r), nil
}

// gzipReader decodes gzip as a stream.
type gzipReader struct {
	d      inflate.Decoder
	buf    []byte
	hist   int // where in buf the member's output begins
	lo, op int // buf[lo:op] is not yet read by the caller
	crc    uint32
	size   uint32
	inside bool // of a member
	begun  bool // there was a member
	err    error
}

func newGzipReader(r io.Reader) *gzipReader {
	z := &gzipReader{buf: make([]byte, inflate.Window+pieceSize+inflate.Slack), lo: inflate.Window, op: inflate.Window}
	z.d.Reset(r, 0)
	return z
}

func (z *gzipReader) Read(p []byte) (int, error) {
	for z.lo == z.op && z.err == nil && len(p) > 0 {
		if z.op >= inflate.Window+pieceSize {
			shift := z.op - inflate.Window
			copy(z.buf[:inflate.Window], z.buf[shift:z.op])
			z.hist = max(0, z.hist-shift)
			z.lo, z.op = inflate.Window, inflate.Window
		}
		z.err = z.more()
	}
	if z.lo < z.op {
		n := copy(p, z.buf[z.lo:z.op])
		z.lo += n
		return n, nil
	}
	return 0, z.err
}

// more decodes until there is output, or a member ends.
func (z *gzipReader) more() error {
	at := func(err error) error {
		var c *inflate.CorruptError
		switch {
		case errors.As(err, &c):
			return fmt.Errorf("gzip: %w: %w", c, ErrFormat)
		case errors.Is(err, io.ErrUnexpectedEOF):
			return fmt.Errorf("gzip: offset %d: truncated: %w", z.d.Bit()>>3, ErrFormat)
		case z.d.Err() != nil && z.d.Err() != io.EOF:
			return err
		}
		return fmt.Errorf("gzip: offset %d: %w: %w", z.d.Bit()>>3, err, ErrFormat)
	}
	if !z.inside {
		if z.begun {
			more, err := another(&z.d)
			if err == errTrailing {
				_, err = z.d.Discard()
			}
			if err != nil {
				return err
			}
			if !more {
				return io.EOF
			}
		}
		if err := readMember(&z.d); err != nil {
			return at(err)
		}
		z.begun, z.inside, z.hist, z.crc, z.size = true, true, z.op, 0, 0
	}
	was := z.op
	op, ev, err := z.d.Decode(z.buf, z.hist, z.op, inflate.Window+pieceSize)
	z.op = op
	z.crc = crc32.Update(z.crc, crc32.IEEETable, z.buf[was:op])
	z.size += uint32(op - was)
	if err != nil {
		return at(err)
	}
	if ev == inflate.StreamEnd {
		z.inside = false
		crc, isize, err := readTrailer(&z.d)
		if err != nil {
			return at(err)
		}
		if crc != z.crc || isize != z.size {
			return at(errors.New("wrong checksum or length of a member"))
		}
	}
	return nil
}

func (z *gzipReader) Close() error { return nil }

// zstdCodec returns a decoder for chunks: safe for concurrent use, without
// goroutines.
func zstdCodec() *zstd.Decoder {
	// The options are constants: no error can come.
	d, _ := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecodeAllCapLimit(true),
		zstd.WithDecoderMaxMemory(maxWindow), zstd.WithDecoderMaxWindow(maxWindow))
	return d
}
