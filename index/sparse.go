// SPDX-License-Identifier: Apache-2.0

package index

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// archive/tar reads sparse files but does not say where their data lies. A
// blockReader stands below it and keeps the 512-byte blocks that it reads
// while it looks for the next header: among them are the header itself and the
// blocks of the sparse map, of which the map is then read a second time.
type blockReader struct {
	r     io.Reader
	seek  io.Seeker // nil: r cannot skip
	base  int64     // where the tar begins in seek
	pos   int64
	kept  []keptBlock // since forget, in order
	limit int64       // bytes of the whole tar
	again []byte      // was read and is read once more
	waste [4096]byte  // what is leapt over where r cannot
}

type keptBlock struct {
	pos int64
	b   [512]byte
}

// maxKept bounds the blocks of one header: archive/tar itself takes at most
// 1 MiB of PAX records and as much of a sparse map.
const maxKept = 8 << 20 / 512

func newBlockReader(r io.Reader, limit int64) *blockReader {
	b := &blockReader{r: r, limit: limit}
	if s, ok := r.(io.Seeker); ok {
		if base, err := s.Seek(0, io.SeekCurrent); err == nil { // a pipe has Seek too
			b.seek, b.base = s, base
		}
	}
	return b
}

// tarReader returns b as archive/tar should see it: as an io.Seeker only if
// it can skip.
func (b *blockReader) tarReader() io.Reader {
	if b.seek != nil {
		return skipReader{b}
	}
	return b
}

// unread gives back p, which was just read. It is used until it is read again.
func (b *blockReader) unread(p []byte) {
	b.again = p
	b.pos -= int64(len(p))
	b.forget()
}

func (b *blockReader) Read(p []byte) (n int, err error) {
	if len(b.again) > 0 {
		n = copy(p, b.again)
		b.again = b.again[n:]
	} else {
		n, err = b.r.Read(p)
	}
	for len(p) == 512 && n < 512 && err == nil { // a block comes whole
		var m int
		m, err = b.r.Read(p[n:])
		n += m
	}
	if len(p) == 512 && n == 512 && len(b.kept) < maxKept {
		b.kept = append(b.kept, keptBlock{b.pos, [512]byte(p)})
	}
	b.pos += int64(n)
	if b.pos > b.limit {
		return 0, b.tooLong(b.pos)
	}
	return n, err
}

func (b *blockReader) tooLong(n int64) error {
	return fmt.Errorf("%d bytes uncompressed: %w of %d", n, ErrLimit, b.limit)
}

// skipReader adds Seek to a blockReader whose reader has it, so that
// archive/tar leaps over content.
type skipReader struct{ *blockReader }

func (s skipReader) Seek(off int64, whence int) (int64, error) {
	if whence != io.SeekCurrent || off < 0 {
		return 0, errors.ErrUnsupported // archive/tar does neither
	}
	if off > s.limit-s.pos {
		return 0, s.tooLong(math.MaxInt64 - max(0, math.MaxInt64-off-s.pos))
	}
	n, err := s.seek.Seek(off, io.SeekCurrent) // what a reader that only leaps ahead knows too
	if err != nil {
		return 0, err
	}
	s.pos = n - s.base
	return s.pos, nil
}

// skip leaps over the next n bytes, content, and what pads them to a block. It
// is as archive/tar does it: content that is missing is io.ErrUnexpectedEOF,
// padding that is missing is the end, io.EOF.
func (b *blockReader) skip(n int64) error {
	pad := -(b.pos + n) & 511
	if b.seek != nil && n > 1 {
		at := b.pos
		if _, err := (skipReader{b}).Seek(n-1, io.SeekCurrent); err != nil {
			return err
		}
		n -= b.pos - at
	}
	for n > -pad {
		m, err := b.Read(b.waste[:min(uint64(n+pad), uint64(len(b.waste)))])
		n -= int64(m)
		if err == io.EOF && n > 0 {
			return io.ErrUnexpectedEOF
		}
		if err != nil && n > -pad {
			return err
		}
	}
	return nil
}

// forget drops the blocks of the header before.
func (b *blockReader) forget() { b.kept = b.kept[:0] }

// block returns the kept block at pos, or nil.
func (b *blockReader) block(pos int64) *[512]byte {
	i := sort.Search(len(b.kept), func(i int) bool { return b.kept[i].pos >= pos })
	if i < len(b.kept) && b.kept[i].pos == pos {
		return &b.kept[i].b
	}
	return nil
}

var errSparse = errors.New("sparse map does not fit its data")

// isSparse mirrors archive/tar's readGNUSparsePAXHeaders and its old GNU form.
func isSparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	major, minor := h.PAXRecords["GNU.sparse.major"], h.PAXRecords["GNU.sparse.minor"]
	switch {
	case major == "0" && (minor == "0" || minor == "1"), major == "1" && minor == "0":
		return true
	case major != "" || minor != "":
		return false
	}
	return h.PAXRecords["GNU.sparse.map"] != ""
}

// sparseMap returns the data runs of a sparse file whose packed data begins at
// data, and the size of the packed data. start is where its first header may
// lie at the earliest.
func (b *blockReader) sparseMap(h *tar.Header, start, data int64) ([]Extent, int64, error) {
	main, err := b.mainHeader(start, data)
	if err != nil {
		return nil, 0, err
	}
	packed, err := parseNumber(b.block(main)[124:136])
	if err != nil {
		return nil, 0, err
	}
	if s := h.PAXRecords["size"]; s != "" {
		if packed, err = strconv.ParseInt(s, 10, 64); err != nil || packed < 0 {
			return nil, 0, errSparse
		}
	}
	var list []Extent
	switch {
	case h.Typeflag == tar.TypeGNUSparse:
		list, err = b.oldSparse(main)
	case h.PAXRecords["GNU.sparse.major"] == "1":
		list, err = b.paxSparse1(main+512, data)
		packed -= data - (main + 512)
	default:
		list, err = numbers(strings.Split(h.PAXRecords["GNU.sparse.map"], ","))
	}
	if err != nil {
		return nil, 0, err
	}
	out, end, sum := []Extent{}, int64(0), int64(0)
	for _, e := range list {
		if e.Off < end || e.Len < 0 || e.Len > h.Size-e.Off || e.Len > packed-sum {
			return nil, 0, errSparse
		}
		e.Data = data + sum
		sum += e.Len
		end = e.Off + e.Len
		if e.Len > 0 {
			out = append(out, e)
		}
	}
	if sum != packed {
		return nil, 0, errSparse
	}
	return slices.Clip(out), packed, nil
}

// mainHeader follows the headers from start (x, g, L and K come first, each
// with its content) to the one that names the type of the entry.
func (b *blockReader) mainHeader(start, data int64) (int64, error) {
	for at := start; at < data; {
		blk := b.block(at)
		if blk == nil {
			return 0, errSparse
		}
		switch blk[156] {
		case tar.TypeXHeader, tar.TypeXGlobalHeader, tar.TypeGNULongName, tar.TypeGNULongLink:
			n, err := parseNumber(blk[124:136])
			if err != nil || n < 0 || n > data-at {
				return 0, errSparse
			}
			at += 512 + roundUp512(n)
		default:
			return at, nil
		}
	}
	return 0, errSparse
}

// oldSparse reads the map of the old GNU form: 4 runs in the header at 386,
// 21 in each block that follows while the byte behind them is set.
func (b *blockReader) oldSparse(at int64) ([]Extent, error) {
	var list []Extent
	field, more := b.block(at)[386:482], b.block(at)[482]
	for {
		for ; len(field) >= 24; field = field[24:] {
			if field[0] == 0 {
				break
			}
			off, err1 := parseNumber(field[:12])
			n, err2 := parseNumber(field[12:24])
			if err1 != nil || err2 != nil {
				return nil, errSparse
			}
			list = append(list, Extent{Off: off, Len: n})
		}
		if more == 0 {
			return list, nil
		}
		at += 512
		blk := b.block(at)
		if blk == nil {
			return nil, errSparse
		}
		field, more = blk[:504], blk[504]
	}
}

// paxSparse1 reads the map of PAX form 1.0, decimal lines in [lo, hi) before
// the data: the number of runs, then offset and length of each.
func (b *blockReader) paxSparse1(lo, hi int64) ([]Extent, error) {
	var text strings.Builder
	for at := lo; at < hi; at += 512 {
		blk := b.block(at)
		if blk == nil {
			return nil, errSparse
		}
		text.Write(blk[:])
	}
	lines := strings.Split(text.String(), "\n")
	n, err := strconv.Atoi(lines[0])
	if err != nil || n < 0 || n > (len(lines)-1)/2 {
		return nil, errSparse
	}
	return numbers(lines[1 : 1+2*n])
}

// numbers pairs decimal offsets and lengths.
func numbers(s []string) ([]Extent, error) {
	if len(s) == 1 && s[0] == "" {
		return nil, nil
	}
	if len(s)%2 != 0 {
		return nil, errSparse
	}
	list := make([]Extent, 0, len(s)/2)
	for i := 0; i < len(s); i += 2 {
		off, err1 := strconv.ParseInt(s[i], 10, 64)
		n, err2 := strconv.ParseInt(s[i+1], 10, 64)
		if err1 != nil || err2 != nil || off < 0 || n < 0 {
			return nil, errSparse
		}
		list = append(list, Extent{Off: off, Len: n})
	}
	return list, nil
}

// parseNumber reads a numeric field: octal, or base-256 when its first bit is
// set.
func parseNumber(b []byte) (int64, error) {
	if b[0]&0x80 != 0 {
		var n int64
		for i, c := range b {
			if i == 0 {
				c &= 0x7f
			}
			if n>>55 != 0 {
				return 0, errSparse
			}
			n = n<<8 | int64(c)
		}
		return n, nil
	}
	s := strings.Trim(string(b), " \x00")
	s, _, _ = strings.Cut(s, "\x00")
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(s, 8, 64)
	if err != nil || n < 0 {
		return 0, errSparse
	}
	return n, nil
}
