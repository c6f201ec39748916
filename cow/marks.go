// SPDX-License-Identifier: Apache-2.0

package cow

import "sync/atomic"

// marks says which nodes of the tree have a record in a checkpoint, so that the
// many that have none need not be looked for. A node that has none any more may
// stay marked. It is safe for concurrent use.
type marks struct{ bits []uint32 }

const marksSegment = 4096 // bytes of a bitmap in the file

// fit makes room for a tree of that many nodes.
func (m *marks) fit(nodes uint32) {
	m.bits = make([]uint32, (int64(nodes)/(marksSegment*8)+1)*marksSegment/4)
}

// all has every node looked for: a tree had them whose size is not known.
func (m *marks) all() {
	m.fit(uint32(FirstOwn) - 1)
	for i := range m.bits {
		m.bits[i] = 1<<32 - 1
	}
}

func (m *marks) has(n Node) bool {
	i := uint64(n) / 32
	return i < uint64(len(m.bits)) && atomic.LoadUint32(&m.bits[i])>>(n%32)&1 != 0
}

// mayHold reports whether a checkpoint may have a record of n.
func (m *marks) mayHold(n Node) bool { return n >= FirstOwn || m.has(n) }

// set marks n and returns in which segment it lies; fresh is false if it was.
// A node that is not the tree's is never marked.
func (m *marks) set(n Node) (segment uint32, fresh bool) {
	i := uint64(n) / 32
	if i >= uint64(len(m.bits)) {
		return 0, false
	}
	old := atomic.OrUint32(&m.bits[i], 1<<(n%32))
	return uint32(n / (marksSegment * 8)), old>>(n%32)&1 == 0
}

func (m *marks) segment(k uint32) []byte {
	b := make([]byte, 0, marksSegment)
	for _, w := range m.bits[k*marksSegment/4 : (k+1)*marksSegment/4] {
		b = le.AppendUint32(b, w)
	}
	return b
}
