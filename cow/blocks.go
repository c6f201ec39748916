// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"errors"
	"math/bits"
)

// The map of a file that is neither local nor the layer's alone. Preconditions
// of all: c.mu is held.

// chunk returns chunk k of the map, never nil. It is not written to while c.mu
// is held for reading.
func (c *content) chunk(k uint64) (*chunk, error) {
	if m := c.knownChunk(k); m != nil {
		return m, nil
	}
	m, err := c.u.chunkCopy(chunkKey{c.node, k})
	if err != nil {
		return nil, err
	}
	c.mapMu.Lock()
	defer c.mapMu.Unlock()
	switch known := c.chunks[k]; {
	case known != nil:
		return known, nil
	case c.whole: // the upper dropped its map meanwhile
		return &noChunk, nil
	}
	c.keepChunk(k, m)
	return m, nil
}

func (c *content) knownChunk(k uint64) *chunk {
	c.mapMu.Lock()
	defer c.mapMu.Unlock()
	if m := c.chunks[k]; m != nil {
		return m
	}
	if c.whole || !c.hasData {
		return &noChunk
	}
	return nil
}

// noChunk has no block. It is never written to.
var noChunk chunk

func (c *content) keepChunk(k uint64, m *chunk) {
	if c.chunks == nil {
		c.chunks = make(map[uint64]*chunk)
	}
	c.chunks[k] = m
}

// chunkCopy returns a copy of a chunk, noChunk where no block is local.
func (u *Upper) chunkCopy(k chunkKey) (*chunk, error) {
	u.mu.RLock()
	defer u.mu.RUnlock()
	m, err := u.chunk(k)
	if err != nil {
		return nil, err
	}
	if m == nil {
		return &noChunk, nil
	}
	n := *m
	return &n, nil
}

// has reports whether block b is in the map.
func (c *content) has(b uint64) (bool, error) {
	if !c.hasData {
		return false, nil
	}
	m, err := c.chunk(b / chunkBlocks)
	if err != nil {
		return false, err
	}
	return m.has(b % chunkBlocks), nil
}

// run returns whether block b is in the map, and the first block behind it of
// which that is not so, at most end.
func (c *content) run(b, end uint64) (local bool, next uint64, err error) {
	if !c.hasData {
		return false, end, nil
	}
	first := b
	for b < end {
		m, err := c.chunk(b / chunkBlocks)
		if err != nil {
			return false, 0, err
		}
		i := b % chunkBlocks
		if b == first {
			local = m.has(i)
		}
		i = m.next(i, !local)
		b = b - b%chunkBlocks + i
		if i < chunkBlocks {
			break
		}
		if !local && b < end && end-b > farBlocks {
			if b, err = c.leap(b / chunkBlocks); err != nil {
				return false, 0, err
			}
		}
	}
	return local, min(b, end), nil
}

// farBlocks is how many blocks are not gone through chunk by chunk: a file may
// be nothing but a hole of exabytes.
const farBlocks = 64 * chunkBlocks

// leap returns the first block of the first chunk from k on that there is, or a
// block behind all.
func (c *content) leap(k uint64) (uint64, error) {
	c.mapMu.Lock()
	if c.whole {
		defer c.mapMu.Unlock()
		next := uint64(maxBlock)
		for at := range c.chunks {
			if at >= k {
				next = min(next, at*chunkBlocks)
			}
		}
		return next, nil
	}
	c.mapMu.Unlock()
	next := uint64(maxBlock)
	c.u.mu.RLock()
	defer c.u.mu.RUnlock()
	err := c.u.chunksOf(c.node, k, func(at uint64) bool {
		next = min(next, at*chunkBlocks)
		return false
	})
	return next, err
}

// next returns the first block from i on that is local or not, or chunkBlocks.
func (c *chunk) next(i uint64, local bool) uint64 {
	for i < chunkBlocks {
		w := c[i/64]
		if !local {
			w = ^w
		}
		if w >>= i % 64; w != 0 {
			return i + uint64(bits.TrailingZeros64(w))
		}
		i += 64 - i%64
	}
	return chunkBlocks
}

// addBlocks notes that blocks have come into the map, as the upper's map has
// them already.
//
// Preconditions: c.mu is held for writing.
func (c *content) addBlocks(first, count uint64) {
	c.mapMu.Lock()
	defer c.mapMu.Unlock()
	for b := first; b < first+count; {
		k := b / chunkBlocks
		end := min(first+count, (k+1)*chunkBlocks)
		m := c.chunks[k]
		switch {
		case m == nil && !c.whole:
			// Not asked for yet: it will come from the upper's map.
			b = end
			continue
		case m == nil || m == &noChunk:
			m = new(chunk)
			c.keepChunk(k, m)
		}
		for ; b < end; b++ {
			m.set(b % chunkBlocks)
		}
	}
}

// emptyMap makes an empty map that c alone has.
func (c *content) emptyMap() {
	c.mapMu.Lock()
	defer c.mapMu.Unlock()
	c.whole = true
}

func (c *content) dropMap() {
	c.mapMu.Lock()
	defer c.mapMu.Unlock()
	c.chunks, c.whole, c.gap = nil, false, 0
}

// filled reports whether the layer answers for no byte any more.
//
// Preconditions: c.mu is held for writing.
func (c *content) filled() (bool, error) {
	end := blocksOf(min(c.lower, c.size))
	if c.gap >= end {
		return true, nil
	}
	local, next, err := c.run(c.gap, end)
	if err != nil || !local {
		return false, err
	}
	c.gap = next
	return c.gap >= end, nil
}

// blocksOf returns how many blocks size bytes take.
func blocksOf(size int64) uint64 { return (uint64(size) + blockSize - 1) / blockSize }

// keepMap reads all of the map of n, of which the upper will know nothing more
// when n's record is dropped.
//
// Preconditions: u.mu is held for writing.
func (u *Upper) keepMap(n Node, i *inode) error {
	if i.flags&flagMixed == 0 {
		return nil
	}
	c, err := u.acquireLocked(n)
	if err != nil {
		return err
	}
	c.refs--
	c.mapMu.Lock()
	defer c.mapMu.Unlock()
	if c.whole {
		return nil
	}
	var bad error
	err = u.chunksOf(n, 0, func(k uint64) bool {
		if c.chunks[k] != nil {
			return true
		}
		var m *chunk
		if m, bad = u.chunk(chunkKey{n, k}); m != nil {
			copied := *m
			c.keepChunk(k, &copied)
		}
		return bad == nil
	})
	if err := errors.Join(err, bad); err != nil {
		return err
	}
	c.whole = true
	return nil
}
