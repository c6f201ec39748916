// SPDX-License-Identifier: Apache-2.0

// Package twosum computes the sha256 of two streams at once. A processor that
// has instructions for sha256 waits for each of them most of the time; with two
// streams by turns it computes both in little more than the time of one. A
// layer and the files in it are such a pair.
package twosum

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
)

// Size is that of a sum, in bytes.
const Size = sha256.Size

const blockSize = sha256.BlockSize

// A Digest is the state of one sha256. The zero value is of no use: Reset
// comes first.
type Digest struct {
	h   [8]uint32
	n   uint64          // bytes so far
	buf [blockSize]byte // n%blockSize bytes that make no block yet

	std hash.Hash // in place of the others, on a processor without such instructions
}

var start = [8]uint32{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19}

// Reset begins a new sum.
func (d *Digest) Reset() {
	d.h, d.n = start, 0
	if !fast {
		d.std = sha256.New()
	}
}

// Write adds p to the sum. It never fails.
func (d *Digest) Write(p []byte) (int, error) {
	if !fast {
		return d.std.Write(p)
	}
	n := len(p)
	p = d.fill(p)
	if k := len(p) / blockSize; k > 0 {
		one(&d.h, p[:k*blockSize])
	}
	d.keep(p)
	return n, nil
}

// Both adds p to d and q to e, as two Writes would. The nearer their lengths,
// the more it saves.
func Both(d *Digest, p []byte, e *Digest, q []byte) {
	if fast {
		p, q = d.fill(p), e.fill(q)
		if k := min(len(p), len(q)) / blockSize; k > 0 {
			blocks(&d.h, &p[0], &e.h, &q[0], k)
			d.n, e.n = d.n+uint64(k*blockSize), e.n+uint64(k*blockSize)
			p, q = p[k*blockSize:], q[k*blockSize:]
		}
	}
	d.Write(p)
	e.Write(q)
}

// one adds whole blocks to h.
func one(h *[8]uint32, p []byte) {
	var idle [8]uint32
	blocks(h, &p[0], &idle, &p[0], len(p)/blockSize)
}

// fill completes the block that is begun, if there is one, and returns what is
// left of p.
func (d *Digest) fill(p []byte) []byte {
	have := int(d.n % blockSize)
	if have == 0 {
		return p
	}
	k := copy(d.buf[have:], p)
	d.n += uint64(k)
	if have+k == blockSize {
		one(&d.h, d.buf[:])
	}
	return p[k:]
}

// keep takes the bytes of p behind its last whole block.
func (d *Digest) keep(p []byte) {
	copy(d.buf[:], p[len(p)/blockSize*blockSize:])
	d.n += uint64(len(p))
}

// Sum returns the sum of all that was written. Only Reset may follow.
func (d *Digest) Sum() (sum [Size]byte) {
	if !fast {
		d.std.Sum(sum[:0])
		return sum
	}
	have, bits := int(d.n%blockSize), d.n*8
	d.buf[have] = 0x80
	clear(d.buf[have+1:])
	if have >= blockSize-8 {
		one(&d.h, d.buf[:])
		clear(d.buf[:])
	}
	binary.BigEndian.PutUint64(d.buf[blockSize-8:], bits)
	one(&d.h, d.buf[:])
	for i, v := range d.h {
		binary.BigEndian.PutUint32(sum[4*i:], v)
	}
	return sum
}
