// SPDX-License-Identifier: Apache-2.0

package seek

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/imgfs/imgfs/layerstore/seek/inflate"
)

// maxGap is the most compressed bytes between two seek points where there is
// any output: a stream of empty blocks must not make one endless chunk.
const maxGap = 32 << 20

// Flags of a gzip member's header (RFC 1952, 2.3.1).
const (
	gzHeaderCRC = 1 << 1
	gzExtra     = 1 << 2
	gzName      = 1 << 3
	gzComment   = 1 << 4
)

// headerReader reads the bytes of a member's header and sums them.
type headerReader struct {
	d   *inflate.Decoder
	crc uint32
	err error // the first error
}

func (h *headerReader) byte() byte {
	if h.err != nil {
		return 0
	}
	c, err := h.d.ReadByte()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	h.err = err
	b := [1]byte{c}
	h.crc = crc32.Update(h.crc, crc32.IEEETable, b[:])
	return c
}

func (h *headerReader) text() {
	for h.byte() != 0 && h.err == nil {
	}
}

// readMember reads the header of a gzip member, d standing at its first byte.
func readMember(d *inflate.Decoder) error {
	h := headerReader{d: d}
	if h.byte() != 0x1f || h.byte() != 0x8b || h.byte() != 8 {
		if h.err != nil {
			return h.err
		}
		return errors.New("not a gzip member")
	}
	flags := h.byte()
	for range 6 {
		h.byte()
	}
	if flags&gzExtra != 0 {
		n := int(h.byte()) | int(h.byte())<<8
		for ; n > 0 && h.err == nil; n-- {
			h.byte()
		}
	}
	if flags&gzName != 0 {
		h.text()
	}
	if flags&gzComment != 0 {
		h.text()
	}
	if flags&gzHeaderCRC != 0 {
		want := uint16(h.crc)
		if got := uint16(h.byte()) | uint16(h.byte())<<8; h.err == nil && got != want {
			return errors.New("gzip header: wrong checksum")
		}
	}
	if h.err != nil {
		return h.err
	}
	d.Begin()
	return nil
}

// readTrailer reads what follows the DEFLATE stream of a member.
func readTrailer(d *inflate.Decoder) (crc, isize uint32, err error) {
	d.Align()
	var b [8]byte
	for i := range b {
		if b[i], err = d.ReadByte(); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return 0, 0, err
		}
	}
	return binary.LittleEndian.Uint32(b[:]), binary.LittleEndian.Uint32(b[4:]), nil
}

// another says whether a further member follows. If not, err is nil when the
// input ended, errTrailing when other bytes follow, or the input's own error.
func another(d *inflate.Decoder) (bool, error) {
	b := d.Peek(3)
	switch {
	case len(b) == 3 && Detect(b) == Gzip:
		return true, nil
	case len(b) > 0:
		return false, errTrailing
	}
	if err := d.Err(); err != io.EOF {
		return false, err
	}
	return false, nil
}

var errTrailing = errors.New("bytes after the end")

// gzipProducer decodes gzip into a pipeline, marking seek points.
type gzipProducer struct {
	d        inflate.Decoder
	spacing  int64
	pl       *pipeline
	hist     int                 // where in the piece the member's output begins
	out      int64               // bytes put out before the current piece
	last     int64               // out at the last seek point
	lastIn   int64               // compressed byte of the last seek point
	refs     *inflate.References // of the last seek point's window; nil: they were told
	trailing bool
}

// since returns the bytes of output since the last seek point.
func (g *gzipProducer) since() int64 {
	return g.out + int64(g.pl.cur.hi-g.pl.cur.lo) - g.last
}

func (g *gzipProducer) mark(m mark) {
	p := g.pl.cur
	m.pos = p.hi
	if m.point {
		g.last = g.out + int64(p.hi-p.lo)
		g.lastIn = m.in >> 3
	}
	p.marks = append(p.marks, m)
}

// flush hands the piece on and takes another, with the history before it.
func (g *gzipProducer) flush() error {
	p := g.pl.cur
	hi := p.hi
	g.out += int64(hi - p.lo)
	if err := g.pl.emit(); err != nil {
		return err
	}
	g.pl.next()
	// p may be with the consumer, who only reads it, or be the next itself.
	copy(g.pl.cur.buf[:inflate.Window], p.buf[hi-inflate.Window:hi])
	g.hist = max(0, g.hist-(hi-inflate.Window))
	return nil
}

func (g *gzipProducer) run(src io.Reader, pl *pipeline) error {
	g.pl = pl
	g.d.Reset(src, 0)
	for more := true; more; {
		at := g.d.Bit()
		if err := readMember(&g.d); err != nil {
			return g.located(err)
		}
		g.hist = pl.cur.hi
		g.mark(mark{kind: memberStart, in: at, point: at == 0 || g.since() >= g.spacing*3/4})
		if err := g.member(); err != nil {
			return err
		}
		var err error
		if more, err = another(&g.d); err == errTrailing {
			g.trailing = true
			_, err = g.d.Discard()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// member decodes the rest of a member.
func (g *gzipProducer) member() error {
	for {
		p := g.pl.cur
		limit := inflate.Window + pieceSize
		if g.refs != nil {
			limit = min(limit, p.hi+inflate.Window-int(g.since()))
		}
		op, ev, err := g.d.Decode(p.buf, g.hist, p.hi, limit)
		p.hi = op
		if err != nil {
			return g.located(err)
		}
		since := g.since()
		if since >= inflate.Window || ev == inflate.StreamEnd {
			g.endWindow()
		}
		switch {
		case ev == inflate.StreamEnd:
			crc, isize, err := readTrailer(&g.d)
			if err != nil {
				return g.located(err)
			}
			g.mark(mark{kind: memberEnd, in: g.d.Bit(), crc: crc, isize: isize})
		case ev == inflate.BlockEnd && (since >= g.spacing || since > 0 && g.d.Bit()>>3-g.lastIn > maxGap),
			ev == inflate.Full && since >= min(4*g.spacing, maxChunk-pieceSize-inflate.Slack):
			g.endWindow()
			g.mark(mark{kind: blockPoint, in: g.d.Bit(), blockBit: g.d.BlockBit(), point: true, hist: g.hist})
			g.refs = new(inflate.References)
			g.d.Track(g.refs)
		}
		if p.hi >= inflate.Window+pieceSize || len(p.marks) >= maxMarks {
			if err := g.flush(); err != nil {
				return err
			}
		}
		if ev == inflate.StreamEnd {
			return nil
		}
	}
}

// endWindow tells, once, what is copied of the last seek point's window.
func (g *gzipProducer) endWindow() {
	if g.refs == nil {
		return
	}
	g.mark(mark{kind: windowEnd, refs: g.refs})
	g.refs = nil
	g.d.Track(nil)
}

// located adds the place in the compressed stream to an error of its format.
func (g *gzipProducer) located(err error) error {
	var c *inflate.CorruptError
	switch {
	case errors.As(err, &c):
		return fmt.Errorf("gzip: %w: %w", c, ErrFormat)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("gzip: offset %d: truncated: %w", g.d.Bit()>>3, ErrFormat)
	case g.d.Err() != nil && g.d.Err() != io.EOF:
		return err
	}
	return fmt.Errorf("gzip: offset %d: %w: %w", g.d.Bit()>>3, err, ErrFormat)
}

// gzipConsumer checks the pieces of gzipProducer and writes them and the index.
type gzipConsumer struct {
	b       *builder
	windows *zstd.Encoder // made at first need
	crc     uint32        // of the member so far
	size    int64         // of the member so far
	cur     entry         // the chunk being filled
	window  []byte        // the bytes before it
	block   int64         // position in bits of the block that it begins in
	sum     uint32        // its CRC-32C so far
}

func (g *gzipConsumer) consume(p *piece) error {
	at := p.lo
	for i := range p.marks {
		m := &p.marks[i]
		if err := g.data(p.buf[at:m.pos]); err != nil {
			return err
		}
		at = m.pos
		switch m.kind {
		case memberStart:
			g.crc, g.size = 0, 0
			if m.point {
				g.closeChunk()
				g.cur = entry{out: g.b.size, in: m.in}
			}
		case memberEnd:
			if m.crc != g.crc {
				return fmt.Errorf("gzip: offset %d: wrong checksum of a member: %w", m.in>>3-8, ErrFormat)
			}
			if m.isize != uint32(g.size) {
				return fmt.Errorf("gzip: offset %d: wrong length of a member: %w", m.in>>3-4, ErrFormat)
			}
		case blockPoint:
			g.closeChunk()
			g.cur, g.block = entry{out: g.b.size, in: m.in}, m.blockBit
			g.window = append(g.window[:0], p.buf[max(m.hist, at-inflate.Window):at]...)
		case windowEnd:
			if err := g.record(m.refs); err != nil {
				return err
			}
		}
	}
	return g.data(p.buf[at:p.hi])
}

func (g *gzipConsumer) data(p []byte) error {
	g.crc = crc32.Update(g.crc, crc32.IEEETable, p)
	g.size += int64(len(p))
	g.sums(p, g.b.size-g.cur.out)
	return g.b.write(p)
}

// sums adds p to the sum of the chunk, which has that many bytes before it, and
// notes the sum of each part that p goes beyond.
func (g *gzipConsumer) sums(p []byte, before int64) {
	for len(p) > 0 {
		in := before % partSize
		if in == 0 && before > 0 {
			g.b.t.sums = append(g.b.t.sums, g.sum)
		}
		n := min(int64(len(p)), partSize-in)
		g.sum = crc32c(g.sum, p[:n])
		p, before = p[n:], before+n
	}
}

// closeChunk ends the current chunk; one without bytes is forgotten.
func (g *gzipConsumer) closeChunk() {
	if g.b.size > g.cur.out {
		g.cur.crc = g.sum
		g.b.t.entries = append(g.b.t.entries, g.cur)
	}
	g.sum = 0
}

// record writes the current chunk's window record: the bytes that the chunk
// copies, and zeros between them, since most are not copied.
func (g *gzipConsumer) record(refs *inflate.References) error {
	window := refs.Keep(g.window)
	rec := binary.LittleEndian.AppendUint64(nil, uint64(len(window)))
	rec = binary.LittleEndian.AppendUint64(rec, uint64(g.block))
	if len(window) > 0 {
		if g.windows == nil {
			g.windows = newEncoder()
		}
		rec = g.windows.EncodeAll(window, rec)
	}
	rec = binary.LittleEndian.AppendUint32(rec, crc32c(0, rec))
	g.cur.aux, g.cur.auxLen = g.b.index.off, uint32(len(rec))
	_, err := g.b.index.Write(rec)
	return err
}
