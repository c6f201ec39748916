// SPDX-License-Identifier: Apache-2.0

package seek

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// maxWindow is the greatest window of a zstd frame that is decoded: more would
// let a stream of strangers choose how much memory is taken.
const maxWindow = 128 << 20

const zstdInput = 128 << 10

// newZstdDecoder returns a decoder of streams that makes no goroutines.
func newZstdDecoder(r io.Reader) (*zstd.Decoder, error) {
	return zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
}

// frameReader gives the bytes of one zstd frame, and then io.EOF. It finds the
// end by the headers of the blocks.
type frameReader struct {
	br       *bufio.Reader
	off      int64 // in the stream, of the next byte of br
	left     int64 // bytes to give before the next block header
	head     [3]byte
	headLeft []byte // of a block header not yet given
	last     bool   // the block is the last
	checksum bool   // the frame ends in one
	done     bool   // the frame's last byte was given
	err      error
}

// start makes f give the frame that begins at off, whose header is h.
func (f *frameReader) start(h *zstd.Header) {
	f.left, f.headLeft = int64(h.HeaderSize), nil
	f.last, f.checksum, f.done, f.err = false, h.HasCheckSum, false, nil
}

func (f *frameReader) Read(p []byte) (int, error) {
	for f.err == nil && len(f.headLeft) == 0 && f.left == 0 {
		f.advance()
	}
	if f.err != nil {
		return 0, f.err
	}
	if len(f.headLeft) > 0 {
		n := copy(p, f.headLeft)
		f.headLeft = f.headLeft[n:]
		return n, nil
	}
	n, err := f.br.Read(p[:min(int64(len(p)), f.left)])
	f.left -= int64(n)
	f.off += int64(n)
	f.fail(err)
	return n, f.err
}

// fail keeps the first error; an end inside a frame is not a plain one.
func (f *frameReader) fail(err error) {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if f.err == nil {
		f.err = err
	}
}

// advance goes to the next block, or to the end of the frame.
func (f *frameReader) advance() {
	if f.last {
		if f.checksum {
			f.checksum, f.left = false, 4
			return
		}
		f.done, f.err = true, io.EOF
		return
	}
	n, err := io.ReadFull(f.br, f.head[:])
	f.off += int64(n)
	if err != nil {
		f.fail(err)
		return
	}
	v := int64(f.head[0]) | int64(f.head[1])<<8 | int64(f.head[2])<<16
	f.last = v&1 != 0
	f.left = v >> 3
	switch v >> 1 & 3 {
	case 1: // one byte, repeated
		f.left = 1
	case 3:
		f.err = errors.New("reserved block type")
	}
	f.headLeft = f.head[:]
}

// zstdProducer decodes zstd into a pipeline, marking frames.
type zstdProducer struct {
	pl *pipeline
}

func (z *zstdProducer) flush() error {
	if err := z.pl.emit(); err != nil {
		return err
	}
	z.pl.next()
	return nil
}

func (z *zstdProducer) run(src io.Reader, pl *pipeline) error {
	z.pl = pl
	f := &frameReader{br: bufio.NewReaderSize(src, zstdInput)}
	dec, err := newZstdDecoder(nil)
	if err != nil {
		return err
	}
	defer dec.Close()
	for {
		head, err := f.br.Peek(zstd.HeaderMaxSize)
		if len(head) == 0 {
			if err == io.EOF {
				return nil
			}
			return err
		}
		var h zstd.Header
		if err := h.Decode(head); err != nil {
			if err == io.ErrUnexpectedEOF {
				return zstdError(f.off, errors.New("truncated"))
			}
			return zstdError(f.off, err)
		}
		if h.Skippable {
			n, err := io.CopyN(io.Discard, f.br, int64(h.HeaderSize)+int64(h.SkippableSize))
			f.off += n
			if err == io.EOF {
				return zstdError(f.off, errors.New("truncated"))
			} else if err != nil {
				return err
			}
			continue
		}
		if err := z.frame(f, dec, &h); err != nil {
			return err
		}
	}
}

func zstdError(off int64, err error) error {
	if err == io.ErrUnexpectedEOF {
		err = errors.New("truncated")
	}
	return fmt.Errorf("zstd: offset %d: %w: %w", off, err, ErrFormat)
}

// frame decodes one frame.
func (z *zstdProducer) frame(f *frameReader, dec *zstd.Decoder, h *zstd.Header) error {
	size := int64(-1)
	if h.HasFCS && h.FrameContentSize < 1<<62 {
		size = int64(h.FrameContentSize)
	}
	p := z.pl.cur
	p.marks = append(p.marks, mark{pos: p.hi, kind: frameStart, in: f.off, size: size})
	f.start(h)
	if err := dec.Reset(f); err != nil {
		return z.frameError(f, err)
	}
	got := int64(0)
	for {
		p := z.pl.cur
		n, err := dec.Read(p.room())
		p.hi += n
		got += int64(n)
		if err == io.EOF {
			break
		}
		if err != nil {
			return z.frameError(f, err)
		}
		if len(p.room()) == 0 {
			if err := z.flush(); err != nil {
				return err
			}
		}
	}
	if _, err := io.Copy(io.Discard, f); err != nil {
		return z.frameError(f, err)
	}
	if h.HasFCS && uint64(got) != h.FrameContentSize {
		return zstdError(f.off, fmt.Errorf("frame has %d bytes, its header says %d", got, h.FrameContentSize))
	}
	p = z.pl.cur
	p.marks = append(p.marks, mark{pos: p.hi, kind: frameEnd, in: f.off})
	if len(p.room()) == 0 || len(p.marks) >= maxMarks {
		return z.flush()
	}
	return nil
}

// frameError tells what a decoder met from what its source met.
func (z *zstdProducer) frameError(f *frameReader, err error) error {
	if f.err != nil && f.err != io.EOF && !f.done {
		err = f.err
	}
	if errors.Is(err, zstd.ErrWindowSizeExceeded) {
		err = fmt.Errorf("window over the limit of %d bytes", maxWindow)
	}
	return zstdError(f.off, err)
}

// zstdConsumer groups the frames of zstdProducer into chunks. A frame that is
// too large for one is packed anew.
type zstdConsumer struct {
	b        *builder
	pack     *packer
	packing  bool   // the current frame is packed
	frame    []byte // of the current frame, while it is not
	frameIn  int64
	frameOut int64

	group    entry // the chunk being filled with frames
	groupEnd int64 // compressed offset of its end
	groupLen int64
}

func (z *zstdConsumer) consume(p *piece) error {
	at := p.lo
	for i := range p.marks {
		m := &p.marks[i]
		if err := z.data(p.buf[at:m.pos]); err != nil {
			return err
		}
		at = m.pos
		var err error
		if m.kind == frameStart {
			err = z.start(m)
		} else {
			err = z.end(m)
		}
		if err != nil {
			return err
		}
	}
	return z.data(p.buf[at:p.hi])
}

func (z *zstdConsumer) start(m *mark) error {
	z.packing = z.pack.all
	z.frame, z.frameIn, z.frameOut = z.frame[:0], m.in, z.b.size
	if !z.packing && m.size > maxChunk {
		return z.startPacking()
	}
	return nil
}

func (z *zstdConsumer) data(p []byte) error {
	if err := z.b.write(p); err != nil {
		return err
	}
	if !z.packing && len(z.frame)+len(p) > maxChunk {
		if err := z.startPacking(); err != nil {
			return err
		}
	}
	if z.packing {
		return z.pack.write(p)
	}
	z.frame = append(z.frame, p...)
	return nil
}

// startPacking packs the current frame: into the sidecar if nothing came
// before it, so that all chunks are there, and else into the index.
func (z *zstdConsumer) startPacking() error {
	z.closeGroup()
	if z.frameOut == 0 {
		if err := z.pack.useSidecar(); err != nil {
			return err
		}
	}
	z.packing = true
	z.pack.start(z.frameOut)
	return z.pack.write(z.frame)
}

func (z *zstdConsumer) end(m *mark) error {
	long := m.in - z.frameIn
	if !z.packing && long > maxFrames && len(z.frame) > 0 {
		if err := z.startPacking(); err != nil {
			return err
		}
	}
	if z.packing {
		if z.pack.all {
			return nil // the next frame's bytes go on in the same chunk
		}
		return z.pack.finish()
	}
	n := int64(len(z.frame))
	if n == 0 {
		return nil
	}
	if z.groupLen+n > z.b.spacing || m.in-z.group.in>>3 > maxFrames {
		z.closeGroup()
	}
	if z.groupLen == 0 {
		z.group = entry{out: z.frameOut, in: z.frameIn << 3}
	}
	z.groupLen += n
	z.groupEnd = m.in
	z.group.crc = crc32c(z.group.crc, z.frame)
	return nil
}

func (z *zstdConsumer) closeGroup() {
	if z.groupLen > 0 {
		z.group.aux = z.groupEnd - z.group.in>>3
		z.b.t.entries = append(z.b.t.entries, z.group)
	}
	z.groupLen = 0
}
