// SPDX-License-Identifier: Apache-2.0

// Package inflate decodes DEFLATE (RFC 1951) and can stop and start again
// anywhere between two symbols.
//
// It accepts exactly the streams that compress/flate accepts and gives the
// same bytes; a fuzz target holds it to that. Output goes straight into a
// buffer of the caller, whose earlier bytes are the history, so nothing is
// copied on the way.
//
// The package knows nothing of gzip, seek points or checksums.
package inflate

import (
	"fmt"
	"io"
)

const (
	// Window is the furthest a match reaches back, in bytes.
	Window = 32 << 10

	// Slack is how far Decode may write beyond the limit it was given: the
	// literals and the match of the last round, and the last word of its copy.
	Slack = 320

	inputSize = 128 << 10 // bytes read at a time
	inputEdge = 32        // with fewer bytes than these the careful loop decodes
)

// A CorruptError says that the stream is not DEFLATE.
type CorruptError struct {
	Offset int64  // byte of the stream near which it was seen
	What   string // what was wrong
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("offset %d: %s", e.Offset, e.What)
}

// Event says why Decode returned.
type Event uint8

// The events.
const (
	Full      Event = iota // the limit is reached
	BlockEnd               // a block ended, another follows
	StreamEnd              // the last block ended
)

type blockState uint8

const (
	betweenBlocks blockState = iota
	inStored
	inHuffman
	afterStream
)

// A Decoder decodes DEFLATE streams. The zero value is ready for Reset. It
// may be reused, and is for one goroutine at a time.
type Decoder struct {
	src io.Reader
	err error // of src, once it gave one

	in   []byte // read from src; in[ip:] is not yet in bb
	ip   int
	base int64 // offset in the stream of in[0]

	bb uint64 // the next bits, lowest first
	bn uint   // how many are valid; those above are zero between calls

	state     blockState
	final     bool  // the current block is the last
	stored    int   // bytes left of a stored block
	blockBit  int64 // position of the current block's header
	fixedTabs bool  // the tables are those of fixed blocks

	refs  *References // nil: nobody wants to know
	since int         // bytes put out since Track
	mark  int         // where in the buffer Track was called

	fastBounds
	lit   litTable
	dist  distTable
	inbuf []byte
	work  builder
}

// References tell which of the Window bytes before some position of the output
// are copied by matches behind it, and so are needed to start there. The zero
// value has none.
type References [Window / 64]uint64

// Keep makes zeros of the bytes of window, which are those before the position,
// that are not copied, and returns window from the first that is.
func (r *References) Keep(window []byte) []byte {
	off, first := Window-len(window), len(window)
	for w, bits := range r {
		lo, hi := max(64*w-off, 0), 64*w+64-off
		switch {
		case hi <= 0:
		case bits == 0:
			clear(window[lo:hi])
		default:
			for k := lo; k < hi; k++ {
				if bits>>((k+off)%64)&1 == 0 {
					window[k] = 0
				} else {
					first = min(first, k)
				}
			}
		}
	}
	return window[first:]
}

// add adds the bytes from to (excluded) to, counted from the first of the window.
func (r *References) add(from, to int) {
	for k := from; k < to; k++ {
		r[k/64] |= 1 << (k % 64)
	}
}

// Track adds to refs what is copied from before the present position of the
// output, until Window bytes were put out or it is called again. nil ends it.
func (d *Decoder) Track(refs *References) { d.refs, d.since = refs, 0 }

// Reset makes d read from src, whose first byte has the offset off in the
// stream that errors and positions are told in.
func (d *Decoder) Reset(src io.Reader, off int64) {
	if d.inbuf == nil {
		d.inbuf = make([]byte, inputSize)
	}
	d.setInput(src, off)
	d.Track(nil)
	d.Begin()
}

func (d *Decoder) setInput(src io.Reader, off int64) {
	d.src, d.err = src, nil
	d.in, d.ip, d.base = d.inbuf[:0], 0, off
	d.bb, d.bn = 0, 0
}

// Release lets go of the reader, so that d can be kept for later use.
func (d *Decoder) Release() { d.setInput(nil, 0); d.err = io.EOF }

// Begin starts a new DEFLATE stream at the present position.
func (d *Decoder) Begin() { d.state, d.final = betweenBlocks, false }

// Bit returns the position of the next bit, counted from the stream's start.
func (d *Decoder) Bit() int64 { return (d.base+int64(d.ip))<<3 - int64(d.bn) }

// BlockBit returns the position of the header of the block that Decode
// stopped in, or that of the next bit if it stopped between blocks.
func (d *Decoder) BlockBit() int64 {
	if d.state == inStored || d.state == inHuffman {
		return d.blockBit
	}
	return d.Bit()
}

// fill reads more input, keeping what is left and the bytes that unread may
// give back; false at the end of it.
func (d *Decoder) fill() bool {
	if d.err != nil {
		return false
	}
	from := max(0, d.ip-8)
	left := copy(d.inbuf, d.in[from:])
	d.base += int64(from)
	d.ip -= from
	d.in = d.inbuf[:left]
	for range 100 {
		n, err := d.src.Read(d.inbuf[left:])
		d.in = d.inbuf[:left+n]
		if err != nil {
			d.err = err
		}
		if n > 0 {
			return true
		}
		if err != nil {
			return false
		}
	}
	d.err = io.ErrNoProgress
	return false
}

// inputErr is the error for input that ended too early.
func (d *Decoder) inputErr() error {
	if d.err == nil || d.err == io.EOF {
		return fmt.Errorf("offset %d: %w", d.base+int64(len(d.in)), io.ErrUnexpectedEOF)
	}
	return d.err
}

func (d *Decoder) corrupt(what string) error {
	return &CorruptError{Offset: d.Bit() >> 3, What: what}
}

// need makes n ≤ 56 bits valid; false if the input ends before.
func (d *Decoder) need(n uint) bool {
	for d.bn < n {
		if d.ip == len(d.in) && !d.fill() {
			return false
		}
		d.bb |= uint64(d.in[d.ip]) << d.bn
		d.ip++
		d.bn += 8
	}
	return true
}

// take returns the next n ≤ 32 bits, which need has made valid.
func (d *Decoder) take(n uint) uint32 {
	v := uint32(d.bb & (1<<n - 1))
	d.bb >>= n
	d.bn -= n
	return v
}

// unread gives whole bytes back from the bit buffer to the input.
func (d *Decoder) unread() {
	d.ip -= int(d.bn >> 3)
	d.bn &= 7
	d.bb &= 1<<d.bn - 1
}

// Align skips to the next whole byte.
func (d *Decoder) Align() {
	d.unread()
	d.bb, d.bn = 0, 0
}

// ReadByte returns the next byte; the position must be a whole byte. The
// error is io.EOF if the input is at its end.
func (d *Decoder) ReadByte() (byte, error) {
	d.unread()
	if d.ip == len(d.in) && !d.fill() {
		return 0, d.err
	}
	c := d.in[d.ip]
	d.ip++
	return c, nil
}

// Peek returns up to n bytes ahead without taking them, fewer only at the end
// of the input or when it fails; n is at most 512. The position must be a
// whole byte.
func (d *Decoder) Peek(n int) []byte {
	d.unread()
	for len(d.in)-d.ip < n && d.fill() {
	}
	return d.in[d.ip:min(d.ip+n, len(d.in))]
}

// Err returns the error that ended the input, io.EOF at its plain end, or nil
// while there is more.
func (d *Decoder) Err() error {
	if d.ip < len(d.in) {
		return nil
	}
	return d.err
}

// Discard reads the rest of the input and returns how many bytes it had.
func (d *Decoder) Discard() (n int64, err error) {
	d.Align()
	for {
		n += int64(len(d.in) - d.ip)
		d.ip = len(d.in)
		if !d.fill() {
			if d.err == io.EOF {
				return n, nil
			}
			return n, d.err
		}
	}
}

// SkipBits skips n < 8 bits, to start inside a byte.
func (d *Decoder) SkipBits(n uint) error {
	if !d.need(n) {
		return d.inputErr()
	}
	d.take(n)
	return nil
}

// ResumeBlock starts inside a block: d must stand at the block's header, which
// it reads; then input goes on with src at the bit position bit, which has to
// lie between two symbols of that block (or bytes, if it is a stored one).
func (d *Decoder) ResumeBlock(src io.Reader, bit int64) error {
	if err := d.readHeader(); err != nil {
		return err
	}
	if d.state == inStored {
		done := bit>>3 - d.Bit()>>3
		if bit&7 != 0 || done < 0 || done > int64(d.stored) {
			return d.corrupt("position outside of the stored block")
		}
		d.stored -= int(done)
	}
	d.setInput(src, bit>>3)
	return d.SkipBits(uint(bit & 7))
}

// Decode decodes into buf, from buf[op] on, until it has reached limit, the
// end of a block or the end of the stream, and returns the new op. buf[hist:op]
// is the history. It may write up to Slack bytes beyond limit, and op then
// passes it; buf must have that room:
//
// Preconditions:
//   - 0 ≤ hist ≤ op, limit+Slack ≤ len(buf).
//
// Input that ends early is an error that wraps io.ErrUnexpectedEOF, any other
// fault of the stream is a *CorruptError.
func (d *Decoder) Decode(buf []byte, hist, op, limit int) (int, Event, error) {
	if limit+Slack > len(buf) || hist < 0 || op < hist {
		panic("inflate: internal error: buffer too small")
	}
	switch d.state {
	case betweenBlocks:
		if op >= limit {
			return op, Full, nil
		}
		if err := d.readHeader(); err != nil {
			return op, Full, err
		}
	case afterStream:
		return op, StreamEnd, nil
	}
	if d.since >= Window {
		d.refs = nil // no match reaches so far
	}
	start, ended := op, false
	d.mark = op - d.since
	var err error
	if d.state == inStored {
		op, ended, err = d.copyStored(buf, op, limit)
	} else {
		op, ended, err = d.huffman(buf, hist, op, limit)
	}
	d.since += op - start
	switch {
	case err != nil || !ended:
		return op, Full, err
	case d.final:
		d.state = afterStream
		return op, StreamEnd, nil
	}
	d.state = betweenBlocks
	return op, BlockEnd, nil
}

// readHeader reads the header of a block, with its tables.
func (d *Decoder) readHeader() error {
	at := d.Bit()
	if !d.need(3) {
		return d.inputErr()
	}
	final := d.take(1) == 1
	switch d.take(2) {
	case 0:
		d.Align()
		if !d.need(32) {
			return d.inputErr()
		}
		n := d.take(16)
		if c := d.take(16); n != c^0xffff {
			return d.corrupt("stored block's length does not match its complement")
		}
		d.state, d.stored = inStored, int(n)
	case 1:
		if !d.fixedTabs {
			d.setFixed()
			d.fixedTabs = true
		}
		d.state = inHuffman
	case 2:
		d.fixedTabs = false
		if err := d.readTables(); err != nil {
			return err
		}
		d.state = inHuffman
	default:
		return d.corrupt("reserved block type")
	}
	d.final, d.blockBit = final, at
	return nil
}

func (d *Decoder) copyStored(buf []byte, op, limit int) (int, bool, error) {
	d.unread() // a whole byte: copyStored follows Align, or SkipBits(0)
	for d.stored > 0 {
		if op >= limit {
			return op, false, nil
		}
		if d.ip == len(d.in) && !d.fill() {
			return op, false, d.inputErr()
		}
		n := copy(buf[op:min(limit, op+d.stored)], d.in[d.ip:])
		op += n
		d.ip += n
		d.stored -= n
	}
	return op, true, nil
}

// huffman decodes symbols: by the fast loop while there is room, by the
// careful one at the edge of the input.
func (d *Decoder) huffman(buf []byte, hist, op, limit int) (int, bool, error) {
	first := hist // of what the fast loop may copy
	if d.refs != nil {
		first = max(hist, d.mark)
	}
	for {
		if len(d.in)-d.ip >= inputEdge && op < limit {
			var st fastStatus
			op, st = d.fast(buf, first, op, limit)
			switch st {
			case fastEnd:
				return op, true, nil
			case fastBadSymbol:
				return op, false, d.corrupt("code of no symbol")
			case fastFar:
				var err error
				if op, err = d.match(buf, hist, op, d.length, d.back); err != nil {
					return op, false, err
				}
				continue
			}
		}
		if op >= limit {
			return op, false, nil
		}
		if len(d.in)-d.ip < inputEdge {
			d.unread()
			if d.fill() && len(d.in)-d.ip >= inputEdge {
				continue
			}
		}
		var ended bool
		var err error
		op, ended, err = d.careful(buf, hist, op)
		if ended || err != nil {
			return op, ended, err
		}
	}
}

// symbol looks up the next code of a table whose first level has root bits,
// and takes it with its extra bits. It returns the entry and the base plus
// extra bits.
func (d *Decoder) symbol(tab []uint32, root uint) (e, v uint32, err error) {
	d.need(48) // as many as there are; what is missing reads as zeros
	e = tab[d.bb&(1<<root-1)]
	if e&(flagOdd|flagSub) == flagOdd|flagSub {
		if d.bn < root {
			return 0, 0, d.inputErr()
		}
		d.take(root)
		e = tab[uint64(e>>16)+d.bb&(1<<(e>>8&15)-1)]
	}
	if e&(flagOdd|flagEnd) == flagOdd {
		if d.bn < maxCode && d.err != nil {
			return 0, 0, d.inputErr()
		}
		return 0, 0, d.corrupt("code of no symbol")
	}
	total := uint(e & 63)
	if total > d.bn {
		return 0, 0, d.inputErr()
	}
	bits := d.bb & (1<<total - 1)
	d.take(total)
	return e, e>>16&0x7fff + uint32(bits>>(e>>8&15)), nil
}

// careful decodes one symbol.
func (d *Decoder) careful(buf []byte, hist, op int) (int, bool, error) {
	e, v, err := d.symbol(d.lit[:], litBits)
	if err != nil {
		return op, false, err
	}
	if e&flagLit != 0 {
		buf[op] = byte(e >> 16)
		return op + 1, false, nil
	}
	if e&flagOdd != 0 {
		return op, true, nil
	}
	length := int(v)
	_, v, err = d.symbol(d.dist[:], distBits)
	if err != nil {
		return op, false, err
	}
	op, err = d.match(buf, hist, op, length, int(v))
	return op, false, err
}

// match copies length bytes from dist bytes before op, and notes what of them
// is wanted.
func (d *Decoder) match(buf []byte, hist, op, length, dist int) (int, error) {
	if dist > op-hist {
		return op, d.corrupt("match reaches back before the first byte")
	}
	if from := op - dist; d.refs != nil && from < d.mark {
		window := d.mark - Window
		d.refs.add(from-window, min(from+length, d.mark)-window)
	}
	for end := op + length; op < end; op++ {
		buf[op] = buf[op-dist]
	}
	return op, nil
}
