// SPDX-License-Identifier: Apache-2.0

package seek

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
)

// Index file, little-endian:
//
//	  0    4  magic "IMSK"
//	  4    4  version, 2
//	  8    …  records, one after another: windows, and packed chunks
//	  …    …  table
//	-48    8  size of the stream, bytes uncompressed
//	-40    8  length of the blob the chunks are read from, bytes
//	-32    8  offset of the table
//	-24    8  n, number of chunks
//	-16    4  bytes of a chunk if the method is plain, else 0
//	-12    1  compression as shipped: 0 none, 1 gzip, 2 zstd, 3 bzip2, 4 xz
//	-11    1  method: 0 plain, 1 gzip, 2 zstd
//	-10    1  flags: 1 the blob is the sidecar, 2 bytes after the end of gzip
//	 -9    1  0
//	 -8    4  magic "IMSK"
//	 -4    4  CRC-32C of the first 8 bytes, the table, and the footer up to here
//
// The table holds 4 bytes for each chunk if the method is plain, its CRC-32C;
// otherwise 32 bytes, sorted by out:
//
//	 0    8  out, offset of its first byte, uncompressed
//	 8    8  in, position of its first bit in the blob (method zstd: or in this file)
//	16    8  gzip: offset of its window record; zstd: compressed bytes
//	24    4  gzip: length of that record, 0 for none; zstd: 1 if it is packed in this file
//	28    4  CRC-32C of its bytes, uncompressed
//
// If the method is gzip, the table goes on with 4 bytes for each 128 KiB of a
// chunk but the last: the CRC-32C of the chunk's bytes up to there. So a chunk
// can be checked, and given out, while it is decoded.
//
// A gzip chunk without a record begins at the header of a member. A window
// record:
//
//	 0    4  bytes of the window, uncompressed, at most 32768
//	 4    4  0
//	 8    8  position in bits of the header of the block the chunk begins in;
//	         that of the chunk itself if it begins between two blocks
//	16    …  the window, a zstd frame; nothing if it has no bytes
//	-4    4  CRC-32C of the record before it
const (
	magic      = "IMSK"
	version    = 2
	headSize   = 8
	footSize   = 48
	entrySize  = 32
	recordHead = 16

	flagSidecar  = 1
	flagTrailing = 2
)

// Limits that Build keeps and Open demands.
const (
	maxChunk   = 8 << 20        // bytes of a chunk, uncompressed
	maxFrames  = 16 << 20       // compressed bytes of a zstd chunk
	maxRecord  = 64 << 10       // bytes of a window record
	plainChunk = 128 << 10      // bytes of a chunk of a plain stream
	partSize   = 128 << 10      // bytes of a gzip chunk that are decoded and checked at a time
	maxSize    = int64(1) << 50 // bytes of a stream, uncompressed
)

type method uint8

const (
	methodPlain method = iota
	methodGzip
	methodZstd
)

// entry is a chunk; see the drawing above.
type entry struct {
	out    int64
	in     int64 // bits
	aux    int64
	auxLen uint32
	crc    uint32

	sums int // in memory: where its sums begin in those of the table
}

func (e *entry) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(e.out))
	b = binary.LittleEndian.AppendUint64(b, uint64(e.in))
	b = binary.LittleEndian.AppendUint64(b, uint64(e.aux))
	b = binary.LittleEndian.AppendUint32(b, e.auxLen)
	return binary.LittleEndian.AppendUint32(b, e.crc)
}

func (e *entry) decode(b []byte) {
	e.out = int64(binary.LittleEndian.Uint64(b))
	e.in = int64(binary.LittleEndian.Uint64(b[8:]))
	e.aux = int64(binary.LittleEndian.Uint64(b[16:]))
	e.auxLen = binary.LittleEndian.Uint32(b[24:])
	e.crc = binary.LittleEndian.Uint32(b[28:])
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func crc32c(crc uint32, p []byte) uint32 { return crc32.Update(crc, castagnoli, p) }

// table is an index file's table and footer, in memory.
type table struct {
	compression Compression
	method      method
	sidecar     bool
	trailing    bool
	size        int64    // uncompressed
	blobSize    int64    // of the blob the chunks are read from
	at          int64    // offset of the table in the file
	chunkSize   int64    // of a plain chunk
	crcs        []uint32 // plain chunks
	entries     []entry  // other chunks, and one more that ends the last
	sums        []uint32 // of gzip chunks: of all parts but the last, chunk by chunk
}

// chunks returns how many chunks t has.
func (t *table) chunks() int {
	if t.method == methodPlain {
		return len(t.crcs)
	}
	return max(0, len(t.entries)-1)
}

// span returns the half-open range of bytes, uncompressed, of chunk i.
func (t *table) span(i int) (lo, hi int64) {
	if t.method == methodPlain {
		lo = int64(i) * t.chunkSize
		return lo, min(lo+t.chunkSize, t.size)
	}
	return t.entries[i].out, t.entries[i+1].out
}

// sumsOf returns how many sums a gzip chunk of n > 0 bytes has.
func sumsOf(n int64) int { return int((n - 1) / partSize) }

// find returns the chunk that holds the byte off; off < size.
func (t *table) find(off int64) int {
	if t.method == methodPlain {
		return int(off / t.chunkSize)
	}
	lo, hi := 0, len(t.entries)-1
	for hi-lo > 1 {
		if mid := int(uint(lo+hi) >> 1); t.entries[mid].out <= off {
			lo = mid
		} else {
			hi = mid
		}
	}
	return lo
}

// write writes the table and the footer. The entry that ends the last chunk is
// not written: it is made of size and blobSize.
func (t *table) write(w *offsetWriter) error {
	t.at = w.off
	crc := crc32c(0, head())
	buf := make([]byte, 0, 64<<10)
	flush := func() error {
		crc = crc32c(crc, buf)
		_, err := w.Write(buf)
		buf = buf[:0]
		return err
	}
	n := t.chunks()
	for i := range n {
		if t.method == methodPlain {
			buf = binary.LittleEndian.AppendUint32(buf, t.crcs[i])
		} else {
			buf = t.entries[i].append(buf)
		}
		if cap(buf)-len(buf) < entrySize+footSize {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	for _, sum := range t.sums {
		buf = binary.LittleEndian.AppendUint32(buf, sum)
		if cap(buf)-len(buf) < entrySize+footSize {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	buf = binary.LittleEndian.AppendUint64(buf, uint64(t.size))
	buf = binary.LittleEndian.AppendUint64(buf, uint64(t.blobSize))
	buf = binary.LittleEndian.AppendUint64(buf, uint64(t.at))
	buf = binary.LittleEndian.AppendUint64(buf, uint64(n))
	buf = binary.LittleEndian.AppendUint32(buf, uint32(t.chunkSize))
	flags := uint8(0)
	if t.sidecar {
		flags |= flagSidecar
	}
	if t.trailing {
		flags |= flagTrailing
	}
	buf = append(buf, uint8(t.compression), uint8(t.method), flags, 0)
	buf = append(buf, magic...)
	if err := flush(); err != nil {
		return err
	}
	_, err := w.Write(binary.LittleEndian.AppendUint32(nil, crc))
	return err
}

func head() []byte {
	return binary.LittleEndian.AppendUint32([]byte(magic), version)
}

// readTable reads what write wrote. Every fault of the file is ErrCorrupt.
func readTable(index io.ReaderAt, size int64) (*table, error) {
	bad := func(what string) (*table, error) {
		return nil, fmt.Errorf("seek index: %s: %w", what, ErrCorrupt)
	}
	if size < headSize+footSize {
		return bad("too short")
	}
	var first [headSize]byte
	var foot [footSize]byte
	if err := readFull(index, first[:], 0); err != nil {
		return nil, err
	}
	if err := readFull(index, foot[:], size-footSize); err != nil {
		return nil, err
	}
	if string(first[:4]) != magic || string(foot[40:44]) != magic {
		return bad("wrong magic")
	}
	if v := binary.LittleEndian.Uint32(first[4:]); v != version {
		return bad(fmt.Sprintf("version %d, want %d", v, version))
	}
	le := binary.LittleEndian
	t := &table{
		size: int64(le.Uint64(foot[0:])), blobSize: int64(le.Uint64(foot[8:])), at: int64(le.Uint64(foot[16:])),
		chunkSize: int64(le.Uint32(foot[32:])), compression: Compression(foot[36]), method: method(foot[37]),
		sidecar: foot[38]&flagSidecar != 0, trailing: foot[38]&flagTrailing != 0,
	}
	n := le.Uint64(foot[24:])
	width := int64(entrySize)
	if t.method == methodPlain {
		width = 4
	}
	switch {
	case t.at < headSize || t.at > size-footSize || n > uint64(size)/4 || int64(n)*width > size-footSize-t.at ||
		t.method != methodGzip && int64(n)*width != size-footSize-t.at:
		return bad("table out of place")
	case t.size < 0 || t.size > maxSize || t.blobSize < 0 || t.blobSize > maxSize:
		return bad("size out of range")
	case t.method > methodZstd || t.compression > XZ:
		return bad("unknown method")
	}
	raw := make([]byte, size-footSize-t.at)
	if err := readFull(index, raw, t.at); err != nil {
		return nil, err
	}
	crc := crc32c(crc32c(crc32c(0, first[:]), raw), foot[:footSize-4])
	if crc != le.Uint32(foot[footSize-4:]) {
		return bad("wrong checksum")
	}
	if err := t.decode(raw, int(n)); err != nil {
		return nil, err
	}
	return t, nil
}

// UsesSidecar reports whether an index that Build wrote speaks of the sidecar,
// and not of the blob. Nothing else of the index is verified: Open does that.
func UsesSidecar(index io.ReaderAt, indexSize int64) (bool, error) {
	if indexSize < headSize+footSize {
		return false, fmt.Errorf("seek index: too short: %w", ErrCorrupt)
	}
	var foot [footSize]byte
	err := readFull(index, foot[:], indexSize-footSize)
	return foot[38]&flagSidecar != 0, err
}

// decode fills the chunks from the n entries in raw and checks each.
func (t *table) decode(raw []byte, n int) error {
	if t.method == methodPlain {
		if t.chunkSize < 1 || t.chunkSize > maxChunk || (t.size+t.chunkSize-1)/t.chunkSize != int64(n) {
			return fmt.Errorf("seek index: chunk size out of range: %w", ErrCorrupt)
		}
		t.crcs = make([]uint32, n)
		for i := range t.crcs {
			t.crcs[i] = binary.LittleEndian.Uint32(raw[4*i:])
		}
		return nil
	}
	t.entries = make([]entry, n+1)
	for i := range n {
		t.entries[i].decode(raw[entrySize*i:])
	}
	t.entries[n] = entry{out: t.size, in: t.blobSize << 3}
	if t.entries[0].out != 0 {
		return fmt.Errorf("seek index: chunks do not begin at 0: %w", ErrCorrupt)
	}
	for i := range n {
		if !t.valid(i) {
			return fmt.Errorf("seek index: chunk %d out of range: %w", i, ErrCorrupt)
		}
	}
	if t.method != methodGzip {
		return nil
	}
	total := 0
	for i := range n {
		t.entries[i].sums = total
		total += sumsOf(t.entries[i+1].out - t.entries[i].out)
	}
	raw = raw[entrySize*n:]
	if len(raw) != 4*total {
		return fmt.Errorf("seek index: %d bytes of sums, want %d: %w", len(raw), 4*total, ErrCorrupt)
	}
	t.sums = make([]uint32, total)
	for i := range t.sums {
		t.sums[i] = binary.LittleEndian.Uint32(raw[4*i:])
	}
	return nil
}

// valid says whether chunk i keeps the limits.
func (t *table) valid(i int) bool {
	e, next := &t.entries[i], &t.entries[i+1]
	n := next.out - e.out
	if e.out < 0 || next.out > t.size || n <= 0 || n > maxChunk || e.in < 0 {
		return false
	}
	if t.method == methodGzip {
		return e.in <= next.in && next.in <= t.blobSize<<3 &&
			(e.auxLen == 0 && e.in&7 == 0 ||
				e.auxLen >= recordHead+4 && e.auxLen <= maxRecord && e.aux >= headSize && e.aux <= t.at-int64(e.auxLen))
	}
	end := t.blobSize
	if e.auxLen == 1 {
		end = t.at
	}
	return e.auxLen <= 1 && e.in&7 == 0 && e.aux > 0 && e.aux <= maxFrames && e.in>>3 <= end-e.aux
}

// readFull reads all of p; a file that ends before is ErrCorrupt.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case err == nil || err == io.EOF:
		return fmt.Errorf("ends at %d: %w", off+int64(n), ErrCorrupt)
	}
	return err
}

// offsetWriter counts what is written.
type offsetWriter struct {
	w   io.Writer
	off int64
}

func (w *offsetWriter) Write(p []byte) (int, error) {
	n, err := w.w.Write(p)
	w.off += int64(n)
	if err == nil && n != len(p) {
		err = io.ErrShortWrite
	}
	return n, err
}
