// SPDX-License-Identifier: Apache-2.0

package index

import (
	"archive/tar"
	"bytes"
	"io"
	"time"
)

// Most entries of a layer have one header block, of ustar or GNU tar, in
// plain octal. These are read here, since archive/tar takes eight times as
// long. Every other (PAX, long names, sparse files, numbers in base 256, what
// is malformed) goes to archive/tar, which is also the oracle: where a block is
// read here, archive/tar would have read the same.

// next leaps over the content of the entry before, skip bytes and padding, and
// returns the next header, valid until the next call.
func (s *scanner) next(skip int64) (*tar.Header, error) {
	s.in.forget()
	if err := s.in.skip(skip); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(s.in, s.block[:]); err != nil {
		return nil, err
	}
	if !s.oracle && s.parse(&s.block) {
		return &s.head, nil
	}
	s.in.unread(s.block[:])
	return tar.NewReader(s.in.tarReader()).Next()
}

// The fields of a header block (POSIX pax, "ustar Interchange Format"; GNU tar
// src/tar.h).
const (
	fieldMode   = 100
	fieldUID    = 108
	fieldGID    = 116
	fieldSize   = 124
	fieldMtime  = 136
	fieldSum    = 148
	fieldType   = 156
	fieldLink   = 157
	fieldMagic  = 257
	fieldUser   = 265
	fieldMajor  = 329
	fieldMinor  = 337
	fieldPrefix = 345
	fieldATime  = 345 // GNU
	fieldCTime  = 357 // GNU
	fieldSTAR   = 508
)

// parse reads a plain header block into s.head, or reports false.
func (s *scanner) parse(b *[512]byte) bool {
	gnu := string(b[fieldMagic:fieldUser]) == "ustar  \x00"
	switch {
	case gnu:
		// archive/tar takes some of these for a prefix.
		if b[fieldATime] != 0 || b[fieldCTime] != 0 {
			return false
		}
	case string(b[fieldMagic:fieldMagic+6]) != "ustar\x00" || string(b[fieldSTAR:]) == "tar\x00":
		return false
	}
	switch t := b[fieldType]; t {
	case 0, tar.TypeReg, tar.TypeLink, tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeDir, tar.TypeFifo:
	default:
		return false
	}
	bad := false
	number := func(lo, hi int) int64 {
		n, ok := octal(b[lo:hi])
		bad = bad || !ok
		return n
	}
	if number(fieldSum, fieldType) != blockSum(b) {
		return false
	}
	h := &s.head
	*h = tar.Header{
		Typeflag: b[fieldType],
		Linkname: text(b[fieldLink:fieldMagic]),
		Size:     number(fieldSize, fieldMtime),
		Mode:     number(fieldMode, fieldUID),
		Uid:      int(number(fieldUID, fieldGID)),
		Gid:      int(number(fieldGID, fieldSize)),
		ModTime:  time.Unix(number(fieldMtime, fieldSum), 0),
		Devmajor: number(fieldMajor, fieldMinor),
		Devminor: number(fieldMinor, fieldPrefix),
	}
	if bad {
		return false
	}
	name := cText(b[:fieldMode])
	if !gnu && b[fieldPrefix] != 0 {
		s.path = append(append(append(s.path[:0], cText(b[fieldPrefix:500])...), '/'), name...)
		name = s.path
	}
	h.Name = string(name)
	if h.Typeflag == 0 {
		h.Typeflag = tar.TypeReg
		if bytes.HasSuffix(name, []byte("/")) {
			h.Typeflag = tar.TypeDir
		}
	}
	return true
}

// cText returns what stands before the first NUL.
func cText(b []byte) []byte {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		return b[:i]
	}
	return b
}

func text(b []byte) string { return string(cText(b)) }

// octal reads a number with blanks or NULs around it, or reports false.
func octal(b []byte) (n int64, ok bool) {
	i := 0
	for i < len(b) && (b[i] == ' ' || b[i] == 0) {
		i++
	}
	for ; i < len(b) && b[i]&^7 == '0'; i++ {
		n = n<<3 | int64(b[i]&7)
	}
	for ; i < len(b); i++ {
		if b[i] != ' ' && b[i] != 0 {
			return 0, false
		}
	}
	return n, true
}

// blockSum returns the sum of the bytes of a header, of which the sum's own
// field counts as blanks.
func blockSum(b *[512]byte) int64 {
	const low = 0x00ff00ff00ff00ff
	lanes := uint64(0) // four sums of 128 bytes each
	for i := 0; i < len(b); i += 8 {
		v := le.Uint64(b[i:])
		lanes += v&low + v>>8&low
	}
	sum := lanes&0xffff + lanes>>16&0xffff + lanes>>32&0xffff + lanes>>48
	for _, c := range b[fieldSum:fieldType] {
		sum -= uint64(c)
	}
	return int64(sum) + 8*' '
}
