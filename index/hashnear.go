// SPDX-License-Identifier: Apache-2.0

package index

import "crypto/sha256"

// OfNear is Of for who asks for many files in about the order of their headers:
// it looks around place near first, and returns the place of what it found as
// the one to look around next. Any near will do.
func (h *Hashes) OfNear(header int64, near int) (sum [sha256.Size]byte, at int, ok bool, err error) {
	lo, hi := 0, h.Len() // the answer lies in [lo, hi)
	if hi == 0 {
		return sum, 0, false, nil
	}
	at = min(max(near, 0), hi-1)
	for step := 1; lo < hi; step *= 2 {
		f, err := h.header(at)
		if err != nil {
			return sum, 0, false, err
		}
		if f == header {
			return h.sumOf(at)
		}
		if f < header {
			lo = at + 1
			if at = lo + step - 1; at >= hi-1 || hi < h.Len() {
				break
			}
		} else {
			hi = at
			if at = hi - step; at <= lo || lo > 0 {
				break
			}
		}
	}
	for lo < hi {
		at = int(uint(lo+hi) >> 1)
		f, err := h.header(at)
		switch {
		case err != nil:
			return sum, 0, false, err
		case f == header:
			return h.sumOf(at)
		case f < header:
			lo = at + 1
		default:
			hi = at
		}
	}
	return sum, min(lo, h.Len()-1), false, nil
}

// sumOf returns the hash of the file i in the order of the headers.
func (h *Hashes) sumOf(i int) (sum [sha256.Size]byte, at int, ok bool, err error) {
	f, err := h.file(i)
	return f.Sum, i, err == nil, err
}

// header returns the header of the file i in the order of the headers.
func (h *Hashes) header(i int) (int64, error) {
	b, err := h.t.bytes(h.offsets, uint64(i/segmentOffsets)<<32|uint64(i%segmentOffsets*4), 4)
	if err != nil {
		return 0, err
	}
	r := int(le.Uint32(b))
	b, err = h.t.bytes(h.records, uint64(r/segmentHashes)<<32|uint64(r%segmentHashes*hashRecord+sha256.Size), 8)
	if err != nil {
		return 0, err
	}
	return int64(le.Uint64(b)), nil
}
