// SPDX-License-Identifier: Apache-2.0

package seek

import (
	"bufio"
	"errors"
	"fmt"
	"io"
)

const (
	defaultSpacing = 512 << 10
	minSpacing     = 64 << 10
	defaultMaxSize = int64(1) << 40
)

// Options of Build; the zero value works.
type Options struct {
	// Spacing is how many bytes of output lie between two seek points, about;
	// 0 is 512 KiB. It is kept between 64 KiB and 4 MiB.
	Spacing int64

	// Sidecar is called at most once, when the stream cannot be entered
	// anywhere but at its start (one long zstd frame, xz, bzip2): the seekable
	// copy, zstd of many frames, is written to what it returns. The caller of
	// Build closes that. Without Sidecar the copy goes into the index.
	Sidecar func() (io.Writer, error)

	// MaxSize is the limit of the uncompressed bytes; 0 is 1 TiB.
	MaxSize int64
}

// Result is what Build learned.
type Result struct {
	Compression Compression
	Size        int64 // bytes, uncompressed
	Chunks      int
	Sidecar     bool // chunks are read from the sidecar, not from the blob
	Trailing    bool // zeros or garbage after the end of a gzip stream; read, not decoded
}

// Build decodes src once, writes the uncompressed bytes to dst in order, and
// the seek index to index. It reads src to its end, also when the stream turns
// out to be malformed, so that a hash of src above it sees every byte; only an
// error of src, dst, index or the sidecar, or one of a limit, ends it earlier.
//
// Memory is bounded whatever the stream: about 4 MiB for gzip and plain, for
// zstd up to 12 MiB and the frame's window (128 MiB at most), and 32 bytes for
// each chunk. Decoding has a goroutine of its own beside dst.
//
// The error is ErrFormat if the stream is malformed or too large.
func Build(src io.Reader, dst io.Writer, index io.Writer, opt Options) (Result, error) {
	in := &sourceReader{r: src}
	b := &builder{dst: dst, index: &offsetWriter{w: index}, max: opt.MaxSize, spacing: opt.Spacing}
	if b.max <= 0 {
		b.max = defaultMaxSize
	}
	if b.spacing <= 0 {
		b.spacing = defaultSpacing
	}
	b.max = min(b.max, maxSize)
	b.spacing = min(max(b.spacing, minSpacing), maxChunk/2)
	if _, err := b.index.Write(head()); err != nil {
		return Result{}, err
	}
	err := b.build(in, opt)
	if in.err != nil {
		return Result{}, in.err
	}
	if errors.Is(err, ErrFormat) && !errors.Is(err, errLimit) || err == nil {
		if _, more := io.Copy(io.Discard, in); more != nil {
			return Result{}, more
		}
	}
	if err != nil {
		return Result{}, err
	}
	return b.finish(in.off)
}

// errLimit marks a stream that is over MaxSize.
var errLimit = fmt.Errorf("uncompressed size over the limit: %w", ErrFormat)

// sourceReader counts what is read and keeps the error that is not io.EOF.
type sourceReader struct {
	r   io.Reader
	off int64
	err error
}

func (s *sourceReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.off += int64(n)
	if err != nil && err != io.EOF && s.err == nil {
		s.err = err
	}
	return n, err
}

// builder writes what Build makes.
type builder struct {
	dst     io.Writer
	index   *offsetWriter
	side    *offsetWriter // the sidecar, once it is used
	max     int64
	spacing int64
	size    int64 // uncompressed bytes so far
	t       table
}

// write gives uncompressed bytes to dst.
func (b *builder) write(p []byte) error {
	if int64(len(p)) > b.max-b.size {
		return fmt.Errorf("more than %d bytes: %w", b.max, errLimit)
	}
	n, err := b.dst.Write(p)
	b.size += int64(n)
	if err == nil && n != len(p) {
		err = io.ErrShortWrite
	}
	return err
}

func (b *builder) build(in *sourceReader, opt Options) error {
	br := bufio.NewReaderSize(in, zstdInput)
	first, err := br.Peek(headBytes)
	if err != nil && err != io.EOF {
		return err
	}
	b.t.compression = Detect(first)
	pack := &packer{b: b, sidecar: opt.Sidecar}
	switch b.t.compression {
	case None:
		return b.plain(br)
	case Gzip:
		b.t.method = methodGzip
		p := &gzipProducer{spacing: b.spacing}
		c := &gzipConsumer{b: b}
		err = run(func(pl *pipeline) error { return p.run(br, pl) }, c.consume)
		b.t.trailing = p.trailing
		c.closeChunk()
	case Zstd:
		b.t.method = methodZstd
		c := &zstdConsumer{b: b, pack: pack}
		err = run(func(pl *pipeline) error { return new(zstdProducer).run(br, pl) }, c.consume)
		if err == nil {
			c.closeGroup()
		}
		err = pack.end(err)
	default:
		b.t.method = methodZstd
		err = b.packAll(br, in, pack)
	}
	if pack.all {
		b.side = pack.to
	}
	return err
}

// plain takes an uncompressed stream.
func (b *builder) plain(r io.Reader) error {
	b.t.method, b.t.chunkSize = methodPlain, plainChunk
	for buf := make([]byte, plainChunk); ; {
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			b.t.crcs = append(b.t.crcs, crc32c(0, buf[:n]))
			if err := b.write(buf[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// packAll takes a stream that can be entered at its start only.
func (b *builder) packAll(r io.Reader, in *sourceReader, pack *packer) error {
	located := func(err error) error {
		return fmt.Errorf("%s: before offset %d: %w: %w", b.t.compression, in.off, err, ErrFormat)
	}
	consume := func(p *piece) error {
		data := p.buf[p.lo:p.hi]
		if len(data) == 0 {
			return nil
		}
		if b.size == 0 {
			if err := pack.useSidecar(); err != nil {
				return err
			}
			pack.start(0)
		}
		if err := b.write(data); err != nil {
			return err
		}
		return pack.write(data)
	}
	err := run(func(pl *pipeline) error {
		dec, err := newStream(r, b.t.compression)
		if err != nil {
			return located(err)
		}
		defer dec.Close()
		for {
			p := pl.cur
			n, err := dec.Read(p.room())
			p.hi += n
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return located(err)
			}
			if len(p.room()) > 0 {
				continue
			}
			if err := pl.emit(); err != nil {
				return err
			}
			pl.next()
		}
	}, consume)
	return pack.end(err)
}

// finish writes the table; blobSize is what was read of the source.
func (b *builder) finish(blobSize int64) (Result, error) {
	t := &b.t
	t.size, t.blobSize = b.size, blobSize
	if b.side != nil {
		t.sidecar, t.blobSize = true, b.side.off
	}
	if t.method != methodPlain {
		t.entries = append(t.entries, entry{out: t.size, in: t.blobSize << 3})
	}
	if err := t.write(b.index); err != nil {
		return Result{}, err
	}
	return Result{
		Compression: t.compression, Size: t.size, Chunks: t.chunks(),
		Sidecar: t.sidecar, Trailing: t.trailing,
	}, nil
}
