// SPDX-License-Identifier: Apache-2.0

package cow

import "math/bits"

// hashName orders the names that an upper added to a directory: they are
// listed by it and it is a part of their cookies, so it lies below 1<<61. Its
// key is random for each upper and never leaves it, so that nobody can choose
// names that share a hash; those that do all the same are told apart by
// their names. It is SipHash-1-3, less its top bits.
func (v *view) hashName(name string) uint64 {
	k0, k1 := le.Uint64(v.key[:8]), le.Uint64(v.key[8:])
	v0, v1 := k0^0x736f6d6570736575, k1^0x646f72616e646f6d
	v2, v3 := k0^0x6c7967656e657261, k1^0x7465646279746573
	round := func() {
		v0 += v1
		v1 = bits.RotateLeft64(v1, 13) ^ v0
		v0 = bits.RotateLeft64(v0, 32)
		v2 += v3
		v3 = bits.RotateLeft64(v3, 16) ^ v2
		v0 += v3
		v3 = bits.RotateLeft64(v3, 21) ^ v0
		v2 += v1
		v1 = bits.RotateLeft64(v1, 17) ^ v2
		v2 = bits.RotateLeft64(v2, 32)
	}
	last := uint64(len(name)) << 56
	for ; len(name) >= 8; name = name[8:] {
		m := uint64(name[0]) | uint64(name[1])<<8 | uint64(name[2])<<16 | uint64(name[3])<<24 |
			uint64(name[4])<<32 | uint64(name[5])<<40 | uint64(name[6])<<48 | uint64(name[7])<<56
		v3 ^= m
		round()
		v0 ^= m
	}
	for i := range len(name) {
		last |= uint64(name[i]) << (8 * i)
	}
	v3 ^= last
	round()
	v0 ^= last
	v2 ^= 0xff
	round()
	round()
	round()
	return (v0 ^ v1 ^ v2 ^ v3) >> 3
}
