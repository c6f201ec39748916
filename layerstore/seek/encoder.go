// SPDX-License-Identifier: Apache-2.0

package seek

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"runtime"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
)

// Levels that NewEncoder takes for 0.
const (
	defaultGzipLevel = 6
	defaultZstdLevel = 3
)

const (
	gzipBlock  = 1 << 20  // uncompressed bytes that are compressed at a time
	zstdBlock  = 2 << 20  // those of a frame: about a chunk
	gzipWindow = 32 << 10 // bytes that a block of gzip may refer to before it
	maxJobs    = 8        // blocks compressed at a time, at most
)

// ParseCompression returns what NewEncoder can make: "gzip", "zstd", or
// "none".
func ParseCompression(name string) (Compression, error) {
	for _, c := range []Compression{Gzip, Zstd, None} {
		if name == c.String() {
			return c, nil
		}
	}
	return None, fmt.Errorf("compression %.20q: want gzip, zstd or none", name)
}

// NewEncoder returns a writer that compresses onto w, on all processors: gzip
// (level 1 to 9), zstd (1 to 22, in frames that a reader can enter) or not at
// all. Level 0 is a middle one. The bytes depend on those that are written,
// on c and on level alone: not on the time, on how they are cut into writes,
// nor on the number of processors. An encoder that is given up needs no Close;
// Close does not close w.
func NewEncoder(w io.Writer, c Compression, level int) (io.WriteCloser, error) {
	e := &encoder{w: w}
	switch c {
	case None:
		if level != 0 {
			return nil, errors.New("no level without compression")
		}
		return plainEncoder{w}, nil
	case Gzip:
		if level == 0 {
			level = defaultGzipLevel
		}
		if level < 1 || level > 9 {
			return nil, fmt.Errorf("gzip level %d: want 1 to 9", level)
		}
		e.codec, e.size = &gzipBlocks{level: level}, gzipBlock
	case Zstd:
		if level == 0 {
			level = defaultZstdLevel
		}
		if level < 1 || level > 22 {
			return nil, fmt.Errorf("zstd level %d: want 1 to 22", level)
		}
		codec, err := newZstdFrames(level)
		if err != nil {
			return nil, err
		}
		e.codec, e.size = codec, zstdBlock
	default:
		return nil, fmt.Errorf("%s: nothing is compressed so", c)
	}
	return e, nil
}

type plainEncoder struct{ io.Writer }

func (plainEncoder) Close() error { return nil }

// A blockCodec compresses one block apart from the others.
type blockCodec interface {
	// head and tail are what stands before and behind the blocks.
	head() []byte
	tail() []byte
	// add is told of each block, in order, and returns what compresses it; it
	// runs beside others. The last block may be empty; there always is one.
	add(block []byte, last bool) func() ([]byte, error)
}

// An encoder cuts what is written into blocks, and writes them in order.
type encoder struct {
	w     io.Writer
	codec blockCodec
	size  int // bytes of a block
	buf   []byte
	free  [][]byte
	jobs  []chan encoded // oldest first
	begun bool
	err   error // the first error; nothing is written after it
}

type encoded struct {
	raw  []byte // its buffer, to be used again
	data []byte
	err  error
}

var errEncoderClosed = errors.New("write to a closed encoder")

func (e *encoder) Write(p []byte) (int, error) {
	n := 0
	for n < len(p) && e.err == nil {
		if len(e.buf) == e.size { // a block that is full may still be the last
			e.submit(false)
			continue
		}
		if e.buf == nil {
			e.buf = e.take()
		}
		k := min(len(p)-n, e.size-len(e.buf))
		e.buf = append(e.buf, p[n:n+k]...)
		n += k
	}
	return n, e.err
}

func (e *encoder) take() []byte {
	if n := len(e.free); n > 0 {
		b := e.free[n-1][:0]
		e.free = e.free[:n-1]
		return b
	}
	return make([]byte, 0, e.size)
}

// submit compresses the block in the background.
func (e *encoder) submit(last bool) {
	for len(e.jobs) >= min(runtime.GOMAXPROCS(0), maxJobs) && e.err == nil {
		e.collect()
	}
	if e.err != nil {
		return
	}
	raw := e.buf
	e.buf = nil
	compress := e.codec.add(raw, last)
	job := make(chan encoded, 1)
	e.jobs = append(e.jobs, job)
	go func() {
		data, err := compress()
		job <- encoded{raw, data, err}
	}()
}

// collect writes the oldest block that was submitted.
func (e *encoder) collect() {
	done := <-e.jobs[0]
	e.jobs = e.jobs[1:]
	if done.raw != nil {
		e.free = append(e.free, done.raw)
	}
	if done.err != nil {
		e.err = done.err
		return
	}
	if !e.begun {
		e.begun = true
		e.write(e.codec.head())
	}
	e.write(done.data)
}

func (e *encoder) write(p []byte) {
	if e.err != nil || len(p) == 0 {
		return
	}
	n, err := e.w.Write(p)
	if err == nil && n != len(p) {
		err = io.ErrShortWrite
	}
	e.err = err
}

// Close writes what is left and ends the stream.
func (e *encoder) Close() error {
	e.submit(true)
	for len(e.jobs) > 0 && e.err == nil {
		e.collect()
	}
	e.write(e.codec.tail())
	if e.err != nil {
		return e.err
	}
	e.err = errEncoderClosed
	return nil
}

// gzipBlocks makes one member without a name or time. Each block ends at a
// byte, and may refer to the end of the one before it.
type gzipBlocks struct {
	level  int
	crc    uint32
	size   uint32 // modulo 2^32
	window []byte // the end of the last block; never changed
}

// head is the header of RFC 1952, 2.3: no flags, no time, no system.
func (g *gzipBlocks) head() []byte { return []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255} }

func (g *gzipBlocks) tail() []byte {
	b := binary.LittleEndian.AppendUint32(nil, g.crc)
	return binary.LittleEndian.AppendUint32(b, g.size)
}

func (g *gzipBlocks) add(block []byte, last bool) func() ([]byte, error) {
	g.crc = crc32.Update(g.crc, crc32.IEEETable, block)
	g.size += uint32(len(block))
	level, window := g.level, g.window
	g.window = bytes.Clone(block[max(0, len(block)-gzipWindow):])
	return func() ([]byte, error) {
		// A new writer each time: what an old one remembers must not show in
		// the bytes.
		var out bytes.Buffer
		out.Grow(len(block)/2 + 64)
		w, err := flate.NewWriterDict(&out, level, window)
		if err != nil {
			return nil, err
		}
		if _, err := w.Write(block); err != nil {
			return nil, err
		}
		if last {
			err = w.Close()
		} else {
			err = w.Flush()
		}
		return out.Bytes(), err
	}
}

// zstdFrames makes a frame of each block, with its size and checksum.
type zstdFrames struct {
	enc   *zstd.Encoder
	begun bool
}

func newZstdFrames(level int) (*zstdFrames, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)),
		zstd.WithEncoderConcurrency(min(runtime.GOMAXPROCS(0), maxJobs)), zstd.WithWindowSize(zstdBlock),
		zstd.WithZeroFrames(true), zstd.WithLowerEncoderMem(true))
	return &zstdFrames{enc: enc}, err
}

func (z *zstdFrames) head() []byte { return nil }
func (z *zstdFrames) tail() []byte { return nil }

func (z *zstdFrames) add(block []byte, _ bool) func() ([]byte, error) {
	none := len(block) == 0 && z.begun
	z.begun = true
	return func() ([]byte, error) {
		if none {
			return nil, nil
		}
		return z.enc.EncodeAll(block, nil), nil
	}
}
