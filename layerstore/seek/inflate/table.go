// SPDX-License-Identifier: Apache-2.0

package inflate

// A table turns the next bits of the stream into a symbol. Its first level is
// indexed by litBits or distBits bits; longer codes go on in a second level
// behind it. An entry:
//
//	31     a literal
//	16–30  the literal; the base of a length or distance; the place of a second level
//	15     odd: none of the plain ones, bits 12–14 say what
//	14       a second level, indexed by as many bits as bits 8–11 say
//	13       end of block
//	8–11   bits of the code alone (within its level)
//	0–7    bits of the code and of the extra bits behind it
//
// An odd entry with neither 13 nor 14 is a code of no symbol.
const (
	flagLit = 1 << 31
	flagOdd = 1 << 15
	flagSub = 1 << 14
	flagEnd = 1 << 13

	maxCode      = 15
	litBits      = 11
	litSizeBits  = 12 // a complete code of 288 symbols needs at most 2342 entries
	distBits     = 8
	distSizeBits = 9 // of 32 symbols, 402

	maxLit  = 286
	maxDist = 30
)

type (
	litTable  [1 << litSizeBits]uint32
	distTable [1 << distSizeBits]uint32
)

// litSymbols and distSymbols give each symbol's entry but for the code's own
// length, which is added to both counts.
var (
	litSymbols  = makeLitSymbols()
	distSymbols = makeDistSymbols()
)

func makeLitSymbols() (t [288]uint32) {
	for i := range 256 {
		t[i] = flagLit | uint32(i)<<16
	}
	t[256] = flagOdd | flagEnd
	base := uint32(3)
	for i := 257; i < 285; i++ {
		extra := uint32(max(0, (i-257)/4-1))
		t[i] = base<<16 | extra
		base += 1 << extra
	}
	t[285] = 258 << 16
	t[286], t[287] = flagOdd, flagOdd
	return t
}

func makeDistSymbols() (t [32]uint32) {
	base := uint32(1)
	for i := range 30 {
		extra := uint32(max(0, i/2-1))
		t[i] = base<<16 | extra
		base += 1 << extra
	}
	t[30], t[31] = flagOdd, flagOdd
	return t
}

// preSymbols are the symbols of the code that describes the other codes.
var preSymbols = func() (t [19]uint32) {
	for i := range t {
		t[i] = uint32(i) << 16
	}
	return t
}()

// preOrder is the order in which the lengths of that code are written.
var preOrder = [19]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

const preBits = 7

// builder holds what building a table needs.
type builder struct {
	lens   [maxLit + maxDist]uint8
	sorted [288]uint16
	pre    [1 << preBits]uint32
}

// build fills tab, whose first level has root bits, from the lengths of the
// symbols' codes. It is false if the code is over- or under-subscribed; as in
// compress/flate a code of no symbol and one of a single symbol with one bit
// are let pass.
func (w *builder) build(tab []uint32, root uint, lens []uint8, symbols []uint32) bool {
	var count [maxCode + 1]int
	for _, n := range lens {
		count[n&15]++
	}
	longest := uint(maxCode)
	for longest > 0 && count[longest] == 0 {
		longest--
	}
	if longest == 0 {
		fill(tab[:1<<root], flagOdd)
		return true
	}
	left := 1
	var first [maxCode + 2]int // place in sorted of the first symbol of a length
	for n := uint(1); n <= maxCode; n++ {
		left = left<<1 - count[n]
		if left < 0 {
			return false
		}
		first[n+1] = first[n] + count[n]
	}
	lone := longest == 1 && count[1] == 1
	if left != 0 && !lone {
		return false
	}
	next := first
	for s, n := range lens {
		if n != 0 {
			w.sorted[next[n&15]] = uint16(s)
			next[n&15]++
		}
	}
	if lone {
		fill(tab[:1<<root], flagOdd)
		e := symbols[w.sorted[0]] + 1<<8 + 1
		for i := 0; i < 1<<root; i += 2 {
			tab[i] = e
		}
		return true
	}
	w.fillLevels(tab, root, longest, &count, symbols)
	return true
}

// fillLevels writes a complete code. The first level is written for codes of
// one bit, then doubled for two, and so on: each code is written once. code is
// kept bit-reversed, as the stream has it.
func (w *builder) fillLevels(tab []uint32, root, longest uint, count *[maxCode + 1]int, symbols []uint32) {
	code := uint(0)
	s := 0
	have := uint(1) // entries of tab that are in order
	for n := uint(1); n <= min(root, longest); n++ {
		copy(tab[have:2*have], tab[:have])
		have *= 2
		for range count[n] {
			tab[code] = symbols[w.sorted[s]] + uint32(n<<8|n)
			s++
			code = nextCode(code, n)
		}
	}
	for ; have < 1<<root; have *= 2 {
		copy(tab[have:2*have], tab[:have])
	}
	if longest <= root {
		return
	}
	// Second levels follow, one for each first root bits of the longer codes.
	place := uint(1) << root
	start, bits := uint(0), uint(0)
	prefix := ^uint(0)
	for n := root + 1; n <= longest; n++ {
		for left := count[n]; left > 0; left-- {
			if code&(1<<root-1) != prefix {
				prefix = code & (1<<root - 1)
				start = place
				// As wide as the codes that begin with this prefix need.
				bits = n - root
				for room := 1<<bits - left; room > 0 && root+bits < longest; {
					bits++
					room = room<<1 - count[root+bits]
				}
				place += 1 << bits
				tab[prefix] = flagOdd | flagSub | uint32(start<<16|bits<<8)
			}
			e := symbols[w.sorted[s]] + uint32((n-root)<<8|(n-root))
			s++
			for i := code >> root; i < 1<<bits; i += 1 << (n - root) {
				tab[start+i] = e
			}
			code = nextCode(code, n)
		}
	}
}

// nextCode adds one to a code of n bits that is held bit-reversed. The code
// after the last is 0.
func nextCode(code, n uint) uint {
	bit := uint(1) << (n - 1)
	for code&bit != 0 {
		bit >>= 1
	}
	if bit == 0 {
		return 0
	}
	return code&(bit-1) | bit
}

func fill(tab []uint32, v uint32) {
	for i := range tab {
		tab[i] = v
	}
}

// setFixed builds the tables of fixed blocks.
func (d *Decoder) setFixed() {
	var lens [288]uint8
	for i := range lens {
		switch {
		case i < 144:
			lens[i] = 8
		case i < 256:
			lens[i] = 9
		case i < 280:
			lens[i] = 7
		default:
			lens[i] = 8
		}
	}
	d.work.build(d.lit[:], litBits, lens[:], litSymbols[:])
	for i := range 32 {
		lens[i] = 5
	}
	d.work.build(d.dist[:], distBits, lens[:32], distSymbols[:])
}

// readTables reads the two codes of a dynamic block.
func (d *Decoder) readTables() error {
	if !d.need(14) {
		return d.inputErr()
	}
	nlit := int(d.take(5)) + 257
	ndist := int(d.take(5)) + 1
	npre := int(d.take(4)) + 4
	if nlit > maxLit || ndist > maxDist {
		return d.corrupt("too many symbols in a code")
	}
	w := &d.work
	var preLens [19]uint8
	for i := range npre {
		if !d.need(3) {
			return d.inputErr()
		}
		preLens[preOrder[i]] = uint8(d.take(3))
	}
	if !w.build(w.pre[:], preBits, preLens[:], preSymbols[:]) {
		return d.corrupt("bad code of code lengths")
	}
	if err := d.readLengths(w.lens[:nlit+ndist]); err != nil {
		return err
	}
	if !w.build(d.lit[:], litBits, w.lens[:nlit], litSymbols[:]) {
		return d.corrupt("bad code of literals and lengths")
	}
	if !w.build(d.dist[:], distBits, w.lens[nlit:nlit+ndist], distSymbols[:]) {
		return d.corrupt("bad code of distances")
	}
	return nil
}

func (d *Decoder) readLengths(lens []uint8) error {
	for i := 0; i < len(lens); {
		d.need(14)
		e := d.work.pre[d.bb&(1<<preBits-1)]
		n := uint(e & 63)
		if e&flagOdd != 0 {
			if d.bn < preBits && d.err != nil {
				return d.inputErr()
			}
			return d.corrupt("code of no symbol")
		}
		if n > d.bn {
			return d.inputErr()
		}
		d.take(n)
		sym := uint8(e >> 16)
		if sym < 16 {
			lens[i] = sym
			i++
			continue
		}
		var rep int
		var v uint8
		extra := [3]uint{2, 3, 7}[sym-16]
		if d.bn < extra {
			return d.inputErr()
		}
		rep = int(d.take(extra)) + [3]int{3, 3, 11}[sym-16]
		if sym == 16 {
			if i == 0 {
				return d.corrupt("no length to repeat")
			}
			v = lens[i-1]
		}
		if rep > len(lens)-i {
			return d.corrupt("repeated lengths go too far")
		}
		for ; rep > 0; rep-- {
			lens[i] = v
			i++
		}
	}
	return nil
}
