// SPDX-License-Identifier: Apache-2.0

package inflate

import (
	"encoding/binary"
	"unsafe"
)

// This file alone uses package unsafe. What makes it safe:
//
// Output. A round begins below limit. It writes at most two literals before a
// match, whose copy ends at most 288 bytes after its begin: 258 rounded up to
// a whole pair of words. 289 bytes beyond limit is less than Slack, and
// Decode has seen that there is Slack. Lengths and distances come from entries
// of litSymbols and distSymbols alone, whatever the stream says, so no length
// is over 258 and no distance is 0. A copy begins at or after first, for each
// distance is compared with what has been put out since.
//
// Input. A round begins at least 24 bytes before the end of d.in. It refills
// b twice at most, which reads 8 bytes and moves on by 7 at most.
//
// Pointers never leave the two slices, not even between two statements. In
// tests with -race the runtime checks each access against its object, and
// TestStaysInside has bytes around that must not change.

type fastStatus uint8

const (
	fastEdge fastStatus = iota // near the end of the input, or at the limit
	fastEnd                    // the block ended
	fastBadSymbol
	fastFar // a match that reaches back before the first byte is read, not copied
)

// fastBounds are the bounds of fast. They are kept in memory so that its
// registers are left to what changes.
type fastBounds struct {
	first  uintptr // the first byte that may be copied
	outEnd uintptr // no round begins there or behind
	inEnd  uintptr // no round begins there or behind

	length, back int // the match of fastFar
}

func load64(p unsafe.Pointer) uint64 {
	return binary.LittleEndian.Uint64((*[8]byte)(p)[:])
}

func store64(p unsafe.Pointer, v uint64) {
	binary.LittleEndian.PutUint64((*[8]byte)(p)[:], v)
}

// copy32 copies 32 bytes, the first half first.
func copy32(to, from unsafe.Pointer) {
	*(*[16]byte)(to) = *(*[16]byte)(from)
	*(*[16]byte)(unsafe.Add(to, 16)) = *(*[16]byte)(unsafe.Add(from, 16))
}

// fast decodes symbols while there is room on both sides. The entry of the
// next symbol is always looked up before anything else is done, refilling
// too: the chain from one entry to the next is what decoding takes longest
// for, apart from wrongly guessed branches. For the same reason it asks the
// entries, not the lengths and distances, which copy is right.
//
// A refill, written out each time, makes at least
// 56 bits of b valid. How many are is kept in the low 6 bits of n alone: table
// entries are subtracted whole, and what that does to the higher bits never
// matters.
//
// Preconditions:
//   - 0 ≤ first ≤ op < limit, limit+Slack ≤ len(out).
//   - d.ip+inputEdge ≤ len(d.in).
func (d *Decoder) fast(out []byte, first, op, limit int) (int, fastStatus) {
	start := unsafe.Pointer(&out[0])
	p := unsafe.Add(start, op)
	d.first = uintptr(unsafe.Pointer(&out[first]))
	d.outEnd = uintptr(unsafe.Pointer(&out[limit]))
	ip := unsafe.Pointer(&d.in[d.ip])
	d.inEnd = uintptr(unsafe.Pointer(&d.in[len(d.in)-24]))
	st := fastEdge

	b, n := d.bb, uint64(d.bn)
	b |= load64(ip) << (n & 63)
	ip = unsafe.Add(ip, int((63-n)>>3&7))
	n |= 56
	e := d.lit[b&(1<<litBits-1)]
	for uintptr(p) < d.outEnd && uintptr(ip) < d.inEnd {
		if int32(e) < 0 {
			*(*byte)(p) = byte(e >> 16)
			p = unsafe.Add(p, 1)
			b >>= e & 63
			n -= uint64(e)
			e = d.lit[b&(1<<litBits-1)]
			if int32(e) < 0 {
				*(*byte)(p) = byte(e >> 16)
				p = unsafe.Add(p, 1)
				b >>= e & 63
				n -= uint64(e)
				e = d.lit[b&(1<<litBits-1)]
				if int32(e) < 0 {
					*(*byte)(p) = byte(e >> 16)
					p = unsafe.Add(p, 1)
					b >>= e & 63
					n -= uint64(e)
					e = d.lit[b&(1<<litBits-1)]
					b |= load64(ip) << (n & 63)
					ip = unsafe.Add(ip, int((63-n)>>3&7))
					n |= 56
					continue
				}
			}
		}
		// Not a literal of one level; at least 34 bits left.
		if e&flagOdd != 0 {
			if e&flagSub != 0 {
				b >>= litBits
				n -= litBits
				e = d.lit[(uint64(e>>16)+b&(1<<(e>>8&15)-1))&(1<<litSizeBits-1)]
				if int32(e) < 0 {
					*(*byte)(p) = byte(e >> 16)
					p = unsafe.Add(p, 1)
					b >>= e & 63
					n -= uint64(e)
					e = d.lit[b&(1<<litBits-1)]
					b |= load64(ip) << (n & 63)
					ip = unsafe.Add(ip, int((63-n)>>3&7))
					n |= 56
					continue
				}
			}
			if e&flagOdd != 0 {
				if e&flagEnd == 0 {
					st = fastBadSymbol
					break
				}
				b >>= e & 63
				n -= uint64(e)
				st = fastEnd
				break
			}
		}
		le, lb := e, b
		b >>= e & 63
		n -= uint64(e)
		e = d.dist[b&(1<<distBits-1)] // at least 14 bits left
		b |= load64(ip) << (n & 63)
		ip = unsafe.Add(ip, int((63-n)>>3&7))
		n |= 56
		if e&flagOdd != 0 {
			if e&flagSub == 0 {
				st = fastBadSymbol
				break
			}
			b >>= distBits
			n -= distBits
			e = d.dist[(uint64(e>>16)+b&(1<<(e>>8&15)-1))&(1<<distSizeBits-1)]
			if e&flagOdd != 0 {
				st = fastBadSymbol
				break
			}
		}
		de, db := e, b
		b >>= e & 63
		n -= uint64(e)
		e = d.lit[b&(1<<litBits-1)] // at least 28 bits left
		b |= load64(ip) << (n & 63)
		ip = unsafe.Add(ip, int((63-n)>>3&7))
		n |= 56

		if de >= 17<<16 { // so is the distance: words do not overlap
			back := int(de>>16) + int(db&(1<<(de&63)-1)>>(de>>8&63))
			if back > int(uintptr(p)-d.first) {
				d.length, d.back = int(le>>16)+int(lb&(1<<(le&63)-1)>>(le>>8&63)), back
				st = fastFar
				break
			}
			from := unsafe.Add(p, -back)
			copy32(p, from)
			length := int(le>>16) + int(lb&(1<<(le&63)-1)>>(le>>8&63))
			if le < 31<<16 { // at most 30
				p = unsafe.Add(p, length)
				continue
			}
			to := p
			p = unsafe.Add(p, length)
			for ; length > 32; length -= 32 {
				to, from = unsafe.Add(to, 32), unsafe.Add(from, 32)
				copy32(to, from)
			}
			continue
		}
		back := int(de>>16) + int(db&(1<<(de&63)-1)>>(de>>8&63))
		if back > int(uintptr(p)-d.first) {
			d.length, d.back = int(le>>16)+int(lb&(1<<(le&63)-1)>>(le>>8&63)), back
			st = fastFar
			break
		}
		to, from := p, unsafe.Add(p, -back)
		p = unsafe.Add(p, int(le>>16)+int(lb&(1<<(le&63)-1)>>(le>>8&63)))
		if back == 1 {
			v := uint64(*(*byte)(from)) * 0x0101010101010101
			for ; uintptr(to) < uintptr(p); to = unsafe.Add(to, 8) {
				store64(to, v)
			}
			continue
		}
		// Each store is right in its first back bytes, and the next
		// begins where those end.
		step := min(back, 8)
		for uintptr(to) < uintptr(p) {
			store64(to, load64(from))
			to, from = unsafe.Add(to, step), unsafe.Add(from, step)
		}
	}

	d.ip = int(uintptr(ip) - uintptr(unsafe.Pointer(&d.in[0])))
	d.bn = uint(n & 63)
	d.bb = b & (1<<d.bn - 1)
	d.unread()
	return int(uintptr(p) - uintptr(start)), st
}
