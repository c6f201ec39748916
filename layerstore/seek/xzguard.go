// SPDX-License-Identifier: Apache-2.0

package seek

import (
	"bufio"
	"fmt"
	"io"
)

// maxXZDict is the greatest dictionary of an xz block that is decoded; xz -9
// asks for 64 MiB.
const maxXZDict = 128 << 20

// xzGuard passes an xz stream on and fails before a block that asks for too
// large a dictionary: the decoder would make it without a question. It walks
// stream headers, block headers, LZMA2 chunks, padding and the index, and
// leaves all other faults to the decoder: from the first it does not
// understand on, it lets bytes pass only as far as no block can begin there.
type xzGuard struct {
	br    *bufio.Reader
	next  []byte // to give before the rest
	left  int64  // then bytes of br to give
	state xzState
	check int64 // bytes of the check of a block, by the stream header
	body  int64 // bytes of the block's LZMA2 chunks so far, for its padding
	err   error
}

type xzState uint8

const (
	xzStream xzState = iota
	xzBlock
	xzChunk
)

func newXZGuard(r io.Reader) io.Reader { return &xzGuard{br: bufio.NewReaderSize(r, zstdInput)} }

func (g *xzGuard) Read(p []byte) (int, error) {
	for len(g.next) == 0 && g.left == 0 && g.err == nil {
		g.advance()
	}
	if len(g.next) > 0 {
		n := copy(p, g.next)
		g.next = g.next[n:]
		return n, nil
	}
	if g.left > 0 {
		n, err := g.br.Read(p[:min(int64(len(p)), g.left)])
		g.left -= int64(n)
		if err != nil {
			g.left, g.err = 0, err
		}
		return n, err
	}
	return 0, g.err
}

// take reads n bytes and gives them on.
func (g *xzGuard) take(n int) []byte {
	b := make([]byte, n)
	k, err := io.ReadFull(g.br, b)
	g.next = append(g.next, b[:k]...)
	if err == io.ErrUnexpectedEOF {
		err = io.EOF // the decoder says what is missing
	}
	if g.err == nil {
		g.err = err
	}
	return b
}

// varint reads a number of the format.
func (g *xzGuard) varint() uint64 {
	v := uint64(0)
	for shift := 0; shift < 63 && g.err == nil; shift += 7 {
		c := g.take(1)[0]
		v |= uint64(c&0x7f) << shift
		if c < 0x80 {
			break
		}
	}
	return v
}

// advance walks over the next part.
func (g *xzGuard) advance() {
	switch g.state {
	case xzStream:
		g.stream()
	case xzBlock:
		g.block()
	case xzChunk:
		g.chunk()
	}
}

func (g *xzGuard) stream() {
	h := g.take(4)
	if g.err != nil || h[0] == 0 && h[1] == 0 && h[2] == 0 && h[3] == 0 {
		return // the end, or padding
	}
	h = g.take(8)
	id := int64(h[3] & 15)
	g.check = [6]int64{0, 4, 8, 16, 32, 64}[(id+2)/3]
	g.state = xzBlock
}

func (g *xzGuard) block() {
	size := g.take(1)[0]
	if g.err != nil {
		return
	}
	if size == 0 {
		g.index()
		return
	}
	h := g.take(int(size)*4 + 3)
	if g.err != nil {
		return
	}
	// Every LZMA2 filter is id 0x21, one byte of properties, the dictionary.
	at := 1
	for _, has := range []bool{h[0]&0x40 != 0, h[0]&0x80 != 0} {
		for has && at < len(h)-3 {
			at++
			has = h[at-1]&0x80 != 0
		}
	}
	if h[0]&3 != 0 || at+3 > len(h) || h[at] != 0x21 || h[at+1] != 1 {
		g.refuse("filters other than LZMA2 alone")
		return
	}
	bits := uint64(h[at+2] & 63)
	if dict := (2 | bits&1) << (bits/2 + 11); bits >= 40 || dict > maxXZDict {
		g.refuse(fmt.Sprintf("dictionary over the limit of %d bytes", maxXZDict))
		return
	}
	g.state, g.body = xzChunk, 0
}

func (g *xzGuard) refuse(what string) {
	g.next, g.err = nil, fmt.Errorf("xz: %s", what)
}

func (g *xzGuard) chunk() {
	c := g.take(1)[0]
	g.body++
	switch {
	case g.err != nil:
	case c == 0:
		g.left = -g.body&3 + g.check
		g.state = xzBlock
	case c < 3:
		h := g.take(2)
		g.left = int64(h[0])<<8 + int64(h[1]) + 1
		g.body += 2 + g.left
	case c >= 0x80:
		h := g.take(4)
		g.left = int64(h[2])<<8 + int64(h[3]) + 1
		if c >= 0xc0 {
			g.left++ // the properties
		}
		g.body += 4 + g.left
	default:
		g.refuse("unknown LZMA2 chunk")
	}
}

// index walks over the index and the footer.
func (g *xzGuard) index() {
	start := len(g.next) - 1
	given := 0
	n := g.varint()
	for i := uint64(0); i < n && g.err == nil; i++ {
		g.varint()
		g.varint()
		if given = len(g.next) - start; given > 16<<20 {
			g.refuse("index over the limit of 16 MiB")
		}
	}
	if g.err != nil {
		return
	}
	g.left = int64(-(len(g.next)-start)&3) + 4 + 12
	g.state = xzStream
}
