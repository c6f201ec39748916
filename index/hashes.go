// SPDX-License-Identifier: Apache-2.0

package index

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
)

// A file of content hashes is a bbolt database with one bucket "t" and a
// trailer, as a table is. It tells the sha256 of each regular file of one layer
// and is kept beside the layer's table, which knows nothing of it. The
// bucket's keys:
//
//	"m"            meta: JSON, see Meta; nodes is how many files there are
//	"h" + u32 BE   records k*65536 … , 40 bytes each, sorted by hash, then by offset
//	"o" + u32 BE   for the files k*1048576 … in the order of their offsets: u32 number of the record
//
// Record, 40 bytes:
//
//	 0 32  sha256 of the content; a sparse file's holes are zeros
//	32  8  offset of the tar header in the uncompressed layer
const (
	hashRecord     = sha256.Size + 8
	segmentHashes  = 1 << 16
	segmentOffsets = 1 << 20
)

// A FileHash is the hash of the content of one regular file of a layer, also
// of one that a later entry replaced. A hard link is its target.
type FileHash struct {
	Sum    [sha256.Size]byte
	Header int64 // offset of its tar header in the uncompressed layer, as Node.Header
}

// WriteHashes writes the content hashes of a layer to the new file path. The
// files come in the order of their headers.
func WriteHashes(path string, files []FileHash) error {
	w, err := Create[EntryID](path)
	if err != nil {
		return err
	}
	if err := w.hashes(files); err != nil {
		w.Abort()
		return err
	}
	return w.Close(Meta{Kind: "hashes"})
}

func (w *Writer[ID]) hashes(files []FileHash) error {
	if len(files) > defaultEntries {
		return fmt.Errorf("%d files: %w of %d", len(files), ErrLimit, defaultEntries)
	}
	w.count = uint32(len(files))
	order := make([]uint32, len(files))
	for i := range order {
		order[i] = uint32(i)
	}
	slices.SortFunc(order, func(a, b uint32) int {
		if c := bytes.Compare(files[a].Sum[:], files[b].Sum[:]); c != 0 {
			return c
		}
		return cmp.Compare(a, b)
	})
	records := make([]byte, len(files)*4) // by file
	s := segment{kind: 'h'}
	for rec, file := range order {
		le.PutUint32(records[4*file:], uint32(rec))
		s.b = append(append(s.b, files[file].Sum[:]...), make([]byte, 8)...)
		le.PutUint64(s.b[len(s.b)-8:], uint64(files[file].Header))
		if len(s.b) == segmentHashes*hashRecord {
			if err := w.put(s); err != nil {
				return err
			}
			s = segment{kind: 'h', k: s.k + 1}
		}
	}
	if len(s.b) > 0 {
		if err := w.put(s); err != nil {
			return err
		}
	}
	for k := uint32(0); len(records) > 0; k++ {
		n := min(len(records), 4*segmentOffsets)
		if err := w.put(segment{'o', k, records[:n]}); err != nil {
			return err
		}
		records = records[n:]
	}
	return nil
}

// Hashes are the content hashes of a layer, read in place like a Table: it is
// immutable, safe for concurrent use, and faults as one does.
type Hashes struct {
	t       Table[EntryID]
	records []span
	offsets []span
}

// OpenHashes opens a file of content hashes read-only. errors.Is(err,
// ErrCorrupt) tells that it is damaged or of another version.
func OpenHashes(path string) (*Hashes, error) {
	h := new(Hashes)
	h.t.other = h.value
	err := Guard(func() error { return h.t.open(path) })
	if err == nil && (h.t.meta.Kind != "hashes" || h.size(h.records) != int64(h.Len())*hashRecord || h.size(h.offsets) != int64(h.Len())*4) {
		err = fmt.Errorf("%w: not the hashes of %d files", ErrCorrupt, h.Len())
	}
	if err != nil {
		h.Close()
		if errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return h, nil
}

// value keeps the place of one value of the database. All but the last of a
// kind have one size.
func (h *Hashes) value(k []byte, s span) error {
	list, size := &h.records, segmentHashes*hashRecord
	switch k[0] {
	case 'o':
		list, size = &h.offsets, 4*segmentOffsets
	case 'h':
	default:
		return nil
	}
	n := len(*list)
	if len(k) != 5 || binary.BigEndian.Uint32(k[1:]) != uint32(n) || n > 0 && len((*list)[n-1].b) != size {
		return fmt.Errorf("%w: segment %q", ErrCorrupt, k)
	}
	*list = append(*list, s)
	return nil
}

func (h *Hashes) size(list []span) (n int64) {
	for _, s := range list {
		n += int64(len(s.b))
	}
	return n
}

// Close ends reading.
func (h *Hashes) Close() error { return h.t.Close() }

// Len returns how many files there are.
func (h *Hashes) Len() int { return int(h.t.meta.Nodes) }

// At returns the file i, 0 <= i < Len, in the order of the hashes.
func (h *Hashes) At(i int) (f FileHash, err error) {
	b, err := h.t.bytes(h.records, uint64(i/segmentHashes)<<32|uint64(i%segmentHashes*hashRecord), hashRecord)
	if err != nil {
		return f, err
	}
	copy(f.Sum[:], b)
	f.Header = int64(le.Uint64(b[sha256.Size:]))
	return f, nil
}

// file returns the file i in the order of the headers.
func (h *Hashes) file(i int) (f FileHash, err error) {
	b, err := h.t.bytes(h.offsets, uint64(i/segmentOffsets)<<32|uint64(i%segmentOffsets*4), 4)
	if err != nil {
		return f, err
	}
	return h.At(int(le.Uint32(b)))
}

// Of returns the hash of the regular file whose tar header lies at offset
// header. ok is false where there is none: also of a sparse file with more
// holes than anybody would hash.
func (h *Hashes) Of(header int64) (sum [sha256.Size]byte, ok bool, err error) {
	lo, hi := 0, h.Len()
	for lo < hi {
		m := int(uint(lo+hi) >> 1)
		f, err := h.file(m)
		switch {
		case err != nil:
			return sum, false, err
		case f.Header == header:
			return f.Sum, true, nil
		case f.Header < header:
			lo = m + 1
		default:
			hi = m
		}
	}
	return sum, false, nil
}

// Find returns the files whose hash begins with prefix: they are At(lo) to
// At(hi-1). It guesses where they lie, since hashes are spread evenly, and so
// touches a page or two of the file.
func (h *Hashes) Find(prefix []byte) (lo, hi int, err error) {
	if len(prefix) > sha256.Size {
		return 0, 0, nil
	}
	if lo, err = h.search(prefix, func(c int) bool { return c >= 0 }); err != nil {
		return 0, 0, err
	}
	for hi = lo; hi < min(h.Len(), lo+16); hi++ { // most often there is one, or none
		f, err := h.At(hi)
		if err != nil || !bytes.HasPrefix(f.Sum[:], prefix) {
			return lo, hi, err
		}
	}
	hi, err = h.search(prefix, func(c int) bool { return c > 0 })
	return lo, hi, err
}

// search returns the first record of which is says that it is behind; is gets
// how the hash, cut to the prefix's length, compares to the prefix.
func (h *Hashes) search(prefix []byte, is func(c int) bool) (int, error) {
	behind := func(i int) (bool, error) {
		f, err := h.At(i)
		return is(bytes.Compare(f.Sum[:len(prefix)], prefix)), err
	}
	n := h.Len()
	if n == 0 {
		return 0, nil
	}
	var key [8]byte
	copy(key[:], prefix)
	guess := int(binary.BigEndian.Uint64(key[:]) >> 32 * uint64(n) >> 32)
	lo, hi := 0, n // the answer lies in [lo, hi]
	if b, err := behind(guess); err != nil {
		return 0, err
	} else if b {
		hi = guess
		for step := 16; hi > 0; step *= 4 {
			at := max(0, guess-step)
			if b, err = behind(at); err != nil {
				return 0, err
			}
			if !b {
				lo = at + 1
				break
			}
			hi = at
		}
	} else {
		lo = guess + 1
		for step := 16; lo < n; step *= 4 {
			at := min(n-1, guess+step)
			if b, err = behind(at); err != nil {
				return 0, err
			}
			if b {
				hi = at
				break
			}
			lo = at + 1
		}
	}
	for lo < hi {
		m := int(uint(lo+hi) >> 1)
		b, err := behind(m)
		if err != nil {
			return 0, err
		}
		if b {
			hi = m
		} else {
			lo = m + 1
		}
	}
	return lo, nil
}
