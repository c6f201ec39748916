// SPDX-License-Identifier: Apache-2.0

package index

// The cookie of a Dirent is index<<32 | offset and would not fit the 31 bits
// that a program with 32-bit offsets can take. That of a directory of up to
// 8 191 entries in 256 KiB is packed to index<<18 | offset; a larger one stays
// as it is.
const (
	packedOff   = 18
	packedLimit = 1 << 31
)

// PackCookie returns c in 31 bits if it fits, else c.
func PackCookie(c uint64) uint64 {
	i, off := c>>32, c&0xffffffff
	if i >= packedLimit>>packedOff || off >= 1<<packedOff {
		return c
	}
	return i<<packedOff | off
}

// UnpackCookie returns the cookie that PackCookie was given. Of any other
// number it makes one that ReadDir has to judge.
func UnpackCookie(c uint64) uint64 {
	if c >= packedLimit {
		return c
	}
	return c>>packedOff<<32 | c&(1<<packedOff-1)
}
