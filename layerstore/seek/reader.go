// SPDX-License-Identifier: Apache-2.0

package seek

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/imgfs/imgfs/layerstore/seek/inflate"
)

// A Reader reads the uncompressed bytes of a stream at any offset. It is safe
// for concurrent use.
type Reader struct {
	t     *table // nil if the bytes are as they are, unverified
	size  int64
	index io.ReaderAt
	blob  io.ReaderAt
	limit int64 // bytes of blob
	cache *Cache

	active int  // guarded by cache.mu; what uses r now
	closed bool // guarded by cache.mu
}

// Open reads an index that Build wrote. blob is what Result says: the shipped
// blob, or the sidecar. The index stays open; cache may be nil. A faulty index
// is ErrCorrupt.
func Open(index io.ReaderAt, indexSize int64, blob io.ReaderAt, blobSize int64, cache *Cache) (*Reader, error) {
	t, err := readTable(index, indexSize)
	if err != nil {
		return nil, err
	}
	if cache == nil {
		cache = NewCache(defaultCache)
	}
	return &Reader{t: t, size: t.size, index: index, blob: blob, limit: min(blobSize, t.blobSize), cache: cache}, nil
}

// Plain returns a Reader of an uncompressed blob that has no index: nothing is
// verified and nothing cached.
func Plain(blob io.ReaderAt, size int64) *Reader {
	return &Reader{size: size, blob: blob, limit: size}
}

// Size returns the uncompressed size in bytes.
func (r *Reader) Size() int64 { return r.size }

// Close waits for the reads and decodes that are under way and forgets r's
// chunks. Reads that follow give os.ErrClosed. It closes neither index nor
// blob. A Reader of Plain needs no Close.
func (r *Reader) Close() error {
	if r.t != nil {
		r.cache.close(r)
	}
	return nil
}

// ReadAt is that of io.ReaderAt. Bytes that do not match their checksum are
// never given: errors.Is(err, ErrCorrupt). Errors of blob and index are
// wrapped. It allocates nothing when the chunk is in the cache.
func (r *Reader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("seek: offset %d is negative", off)
	}
	if off >= r.size {
		if len(p) == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	var atEnd error
	if int64(len(p)) > r.size-off {
		p, atEnd = p[:r.size-off], io.EOF
	}
	if r.t == nil {
		n, err := r.blob.ReadAt(p, off)
		if n == len(p) {
			return n, atEnd
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return n, err
	}
	n := 0
	for n < len(p) {
		k, err := r.readChunk(p[n:], off+int64(n))
		n += k
		if err != nil {
			return n, err
		}
	}
	return n, atEnd
}

// Cached reports whether the n bytes at off lie decoded, so that ReadAt waits
// for nothing.
func (r *Reader) Cached(off, n int64) bool {
	if r.t == nil || off < 0 || n <= 0 || off >= r.size || n > r.size-off {
		return false
	}
	for end := off + n; off < end; {
		i := r.t.find(off)
		lo, hi := r.t.span(i)
		if !r.cache.has(r, i, min(end, hi)-lo) {
			return false
		}
		off = hi
	}
	return true
}

// readChunk reads up to the end of the chunk that holds off.
func (r *Reader) readChunk(p []byte, off int64) (int, error) {
	i := r.t.find(off)
	lo, hi := r.t.span(i)
	if r.t.method == methodPlain && off == lo && int64(len(p)) >= hi-lo {
		return r.readPlain(p[:hi-lo], i)
	}
	p = p[:min(int64(len(p)), hi-off)]
	ch, err := r.cache.get(r, i, off-lo+int64(len(p)))
	if err != nil {
		return 0, err
	}
	copy(p, ch.data[off-lo:])
	r.cache.put(ch)
	return len(p), nil
}

// readPlain reads the whole plain chunk i past the cache.
func (r *Reader) readPlain(p []byte, i int) (int, error) {
	if err := r.cache.enter(r); err != nil {
		return 0, err
	}
	defer r.cache.leave(r)
	if _, err := r.decode(i, p); err != nil {
		clear(p)
		return 0, fmt.Errorf("chunk %d: %w", i, err)
	}
	return len(p), nil
}

// bufferSize returns the bytes that decode needs for chunk i.
func (r *Reader) bufferSize(i int) int {
	lo, hi := r.t.span(i)
	switch r.t.method {
	case methodGzip:
		return inflate.Window + int(hi-lo) + inflate.Slack
	case methodZstd:
		return int(hi-lo) + 64 // the decoder is faster with some room
	}
	return int(hi - lo)
}

// more decodes what is missing of the first want bytes of ch, or some more.
// ch.mu is held.
func (r *Reader) more(ch *chunk, want int64) (err error) {
	if r.t.method == methodGzip {
		return r.moreGzip(ch, want)
	}
	if ch.data, err = r.decode(ch.key.i, ch.buf); err == nil {
		ch.valid.Store(int64(len(ch.data)))
	}
	return err
}

// decode decodes chunk i, which is not of gzip, into buf and returns its bytes,
// verified.
func (r *Reader) decode(i int, buf []byte) (data []byte, err error) {
	lo, hi := r.t.span(i)
	n := int(hi - lo)
	var want uint32
	if r.t.method == methodPlain {
		want = r.t.crcs[i]
		data = buf[:n]
		err = readFull(io.NewSectionReader(r.blob, 0, r.limit), data, lo)
	} else {
		want = r.t.entries[i].crc
		data, err = r.decodeZstd(i, n, buf)
	}
	if err != nil {
		return nil, err
	}
	if crc32c(0, data) != want {
		return nil, errChecksum
	}
	return data, nil
}

var errChecksum = fmt.Errorf("wrong checksum: %w", ErrCorrupt)

func (r *Reader) decodeZstd(i, n int, buf []byte) ([]byte, error) {
	e := &r.t.entries[i]
	raw := r.cache.buffer(int(e.aux))
	defer func() {
		r.cache.mu.Lock()
		r.cache.spareLocked(raw)
		r.cache.mu.Unlock()
	}()
	raw = raw[:e.aux]
	var err error
	if e.auxLen == 1 {
		err = readFull(r.index, raw, e.in>>3)
	} else {
		err = readFull(io.NewSectionReader(r.blob, 0, r.limit), raw, e.in>>3)
	}
	if err != nil {
		return nil, err
	}
	data, err := r.cache.zstd.DecodeAll(raw, buf[:0:len(buf)])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrCorrupt)
	}
	if len(data) != n {
		return nil, fmt.Errorf("%d bytes, want %d: %w", len(data), n, ErrCorrupt)
	}
	return data, nil
}

// A gzipRun is the decoding of a gzip chunk, which goes on whenever more of the
// chunk is wanted.
type gzipRun struct {
	d        *inflate.Decoder // nil before the first byte, and after the last
	hist, op int              // see Decoder.Decode
	crc      uint32           // of the bytes that are verified
	inputErr error            // of blob or index themselves
}

// moreGzip is more for a chunk of gzip.
func (r *Reader) moreGzip(ch *chunk, want int64) error {
	z := &ch.gzip
	lo, hi := r.t.span(ch.key.i)
	var err error
	if z.d == nil {
		ch.data = ch.buf[inflate.Window : inflate.Window+hi-lo]
		z.d = r.cache.flate.Get().(*inflate.Decoder)
		err = r.beginGzip(z, ch.key.i, ch.buf)
	}
	for valid := ch.valid.Load(); err == nil && valid < want; {
		next := min(valid+partSize, hi-lo)
		if err = z.upTo(ch.buf, inflate.Window+int(next)); err != nil {
			break
		}
		e := &r.t.entries[ch.key.i]
		sum := e.crc
		if next < hi-lo {
			sum = r.t.sums[e.sums+int(valid/partSize)]
		}
		if z.crc = crc32c(z.crc, ch.data[valid:next]); z.crc != sum {
			err = errChecksum
			break
		}
		valid = next
		ch.valid.Store(valid)
	}
	if err != nil || ch.valid.Load() == hi-lo {
		r.cache.release(z)
	}
	switch {
	case err == nil:
		return nil
	case z.inputErr != nil:
		return z.inputErr
	case errors.Is(err, ErrCorrupt):
		return err
	}
	return fmt.Errorf("%w: %w", err, ErrCorrupt)
}

// beginGzip stands z at the first byte of chunk i, which is to come to
// buf[inflate.Window:].
func (r *Reader) beginGzip(z *gzipRun, i int, buf []byte) error {
	e := &r.t.entries[i]
	end := min((r.t.entries[i+1].in+7)>>3, r.limit)
	from := func(off int64) io.Reader {
		return &limitedReader{r: r.blob, off: off, end: end, err: &z.inputErr}
	}
	z.hist, z.op = inflate.Window, inflate.Window
	if e.auxLen == 0 {
		z.d.Reset(from(e.in>>3), e.in>>3)
		return readMember(z.d)
	}
	window, block, err := r.window(e, buf[:inflate.Window])
	if err != nil {
		if !errors.Is(err, ErrCorrupt) {
			z.inputErr = err
		}
		return err
	}
	z.hist -= window
	z.d.Reset(from(block>>3), block>>3)
	if err := z.d.SkipBits(uint(block & 7)); err != nil {
		return err
	}
	if block != e.in {
		return z.d.ResumeBlock(from(e.in>>3), e.in)
	}
	return nil
}

// upTo decodes until buf[:limit] is filled.
func (z *gzipRun) upTo(buf []byte, limit int) error {
	for z.op < limit {
		var ev inflate.Event
		var err error
		z.op, ev, err = z.d.Decode(buf, z.hist, z.op, limit)
		if err != nil {
			return err
		}
		if ev == inflate.StreamEnd && z.op < limit {
			if _, _, err := readTrailer(z.d); err != nil {
				return err
			}
			if err := readMember(z.d); err != nil {
				return err
			}
			z.hist = z.op
		}
	}
	return nil
}

// window reads the record of e, puts the window at the end of buf, and returns
// its length and the position of the block's header.
func (r *Reader) window(e *entry, buf []byte) (n int, block int64, err error) {
	rec := make([]byte, e.auxLen)
	if err := readFull(r.index, rec, e.aux); err != nil {
		return 0, 0, err
	}
	body := rec[:len(rec)-4]
	if crc32c(0, body) != binary.LittleEndian.Uint32(rec[len(body):]) {
		return 0, 0, fmt.Errorf("window record: wrong checksum: %w", ErrCorrupt)
	}
	n = int(binary.LittleEndian.Uint32(body))
	block = int64(binary.LittleEndian.Uint64(body[8:]))
	if n > len(buf) || block < 0 || block > e.in {
		return 0, 0, fmt.Errorf("window record: out of range: %w", ErrCorrupt)
	}
	if n == 0 {
		return 0, block, nil
	}
	at := len(buf) - n
	w, err := r.cache.zstd.DecodeAll(body[recordHead:], buf[at:at:len(buf)])
	if err != nil || len(w) != n {
		return 0, 0, fmt.Errorf("window record: bad window: %w", ErrCorrupt)
	}
	return n, block, nil
}

// limitedReader reads a range of a ReaderAt, keeping the error that is not
// io.EOF.
type limitedReader struct {
	r        io.ReaderAt
	off, end int64
	err      *error
}

func (l *limitedReader) Read(p []byte) (int, error) {
	if l.off >= l.end {
		return 0, io.EOF
	}
	n, err := l.r.ReadAt(p[:min(int64(len(p)), l.end-l.off)], l.off)
	l.off += int64(n)
	if err != nil && err != io.EOF {
		*l.err = err
	}
	return n, err
}
