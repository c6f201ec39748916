// SPDX-License-Identifier: Apache-2.0

package cow

import "fmt"

// What a mutation does. Each says how something is from now on, not how it
// changes, so that doing it twice is doing it once.
const (
	putInode  = 1 + iota // node, inode
	dropInode            // node: no name leads to it any more; xattrs and map go with it
	putEntry             // node (a directory), name, entry
	putXattr             // node, name, value
	dropXattr            // node, name
	putBlocks            // node, first, count: these blocks are local
	barrier              // node: the frame holds only once this node's data is on disk
	confirm              // first: every barrier up to this sequence holds
	reserve              // first: numbers below it may be in use
	putPart              // node, inode, first, value: its tail is that of the record before with value at first
)

// A mutation is one thing that a change puts. A frame of the journal is a list
// of them.
type mutation struct {
	kind         uint8
	node         Node
	name         string
	inode        *inode
	entry        entry
	value        []byte
	first, count uint64
}

// Mutation in a frame, little-endian: kind (1), then
//
//	1 putInode   node (8), length of the record (4), record
//	2 dropInode  node (8)
//	3 putEntry   directory (8), length of the name (1), name, node (8), type (1)
//	4 putXattr   node (8), length of the name (1), name, length of the value (4), value
//	5 dropXattr  node (8), length of the name (1), name
//	6 putBlocks  node (8), first block (8), how many (8)
//	7 barrier    node (8)
//	8 confirm    sequence (8)
//	9 reserve    number (8)
//	10 putPart   node (8), inode record without its tail, offset in that (4), length (4), bytes: the rest of it stays

// append encodes m behind b. Names are no longer than maxName.
func (m *mutation) append(b []byte) []byte {
	b = append(b, m.kind)
	if m.kind == confirm || m.kind == reserve {
		return le.AppendUint64(b, m.first)
	}
	b = le.AppendUint64(b, uint64(m.node))
	switch m.kind {
	case putInode:
		b = le.AppendUint32(b, uint32(inodeHead+len(m.inode.tail)))
		b = m.inode.append(b)
	case putPart:
		b = m.inode.appendHead(b)
		b = le.AppendUint32(b, uint32(m.first))
		b = le.AppendUint32(b, uint32(len(m.value)))
		b = append(b, m.value...)
	case putEntry:
		b = append(append(b, byte(len(m.name))), m.name...)
		b = le.AppendUint64(b, uint64(m.entry.node))
		b = append(b, m.entry.typ)
	case putXattr:
		b = append(append(b, byte(len(m.name))), m.name...)
		b = le.AppendUint32(b, uint32(len(m.value)))
		b = append(b, m.value...)
	case dropXattr:
		b = append(append(b, byte(len(m.name))), m.name...)
	case putBlocks:
		b = le.AppendUint64(b, m.first)
		b = le.AppendUint64(b, m.count)
	}
	return b
}

// part makes a putPart of a putInode if the tail has much in common with that
// of the record before: a chmod of a small file does not write its content
// again, and to append to it costs what was appended.
func (m *mutation) part(before *inode) {
	old, tail := before.tail, m.inode.tail
	if len(tail) < len(old) {
		return
	}
	first, end := 0, len(tail)
	if tail[:len(old)] == old {
		first = len(old)
	} else {
		for old[first] == tail[first] {
			first++
		}
		for end > first && end <= len(old) && old[end-1] == tail[end-1] {
			end--
		}
	}
	if 2*(end-first) <= len(tail) {
		m.kind, m.first, m.value = putPart, uint64(first), []byte(tail[first:end])
	}
}

// join makes the tail of a putPart that was decoded whole. before is the record
// at hand, nil if there is none. Where a fold was broken off it may be that of a
// later frame, or gone already by one: then the frames between, which are all
// there, make it good, for what they write at each place is what the last of
// them has written, and a tail becomes shorter only by a putInode.
func (m *mutation) join(before *inode) {
	old := ""
	if before != nil {
		old = before.tail
	}
	if len(m.value) == 0 && int(m.first) <= len(old) {
		m.inode.tail = old
		return
	}
	m.inode.tail = spliced(old, m.value, int64(m.first))
}

// maxNode bounds the numbers of nodes, so that none wraps.
const maxNode = 1 << 62

// maxBlock bounds the number of a file's blocks: their bytes fit into an
// offset.
const maxBlock = 1 << 51

// decode reads a mutation from the front of b and returns the rest. Nothing of
// b is kept.
func (m *mutation) decode(b []byte) (rest []byte, err error) {
	r := reader{b: b}
	*m = mutation{kind: r.u8()}
	switch m.kind {
	case confirm, reserve:
		m.first = r.u64()
		if m.kind == reserve && m.first > maxNode {
			return nil, fmt.Errorf("%w: number %d reserved", ErrDamaged, m.first)
		}
		return r.b, r.err()
	case dropInode, barrier:
		m.node = Node(r.u64())
	case putInode:
		m.node = Node(r.u64())
		n := r.u32()
		if n > inodeHead+maxTail {
			return nil, fmt.Errorf("%w: inode record of %d bytes", ErrDamaged, n)
		}
		record := r.take(int(n))
		if r.short {
			return nil, r.err()
		}
		if m.inode, err = decodeInode(record); err != nil {
			return nil, err
		}
	case putPart:
		m.node = Node(r.u64())
		record := r.take(inodeHead)
		off, n := r.u32(), r.u32()
		if int64(off)+int64(n) > maxTail {
			return nil, fmt.Errorf("%w: %d bytes at %d of a tail", ErrDamaged, n, off)
		}
		m.first, m.value = uint64(off), append([]byte{}, r.take(int(n))...)
		if r.short {
			return nil, r.err()
		}
		if m.inode, err = decodeInode(record); err != nil {
			return nil, err
		}
	case putEntry:
		m.node = Node(r.u64())
		m.name = r.name()
		m.entry.node, m.entry.typ = Node(r.u64()), r.u8()
	case putXattr:
		m.node = Node(r.u64())
		m.name = r.name()
		n := r.u32()
		if n > maxXattr {
			return nil, fmt.Errorf("%w: xattr of %d bytes", ErrDamaged, n)
		}
		m.value = append([]byte{}, r.take(int(n))...)
	case dropXattr:
		m.node = Node(r.u64())
		m.name = r.name()
	case putBlocks:
		m.node = Node(r.u64())
		m.first, m.count = r.u64(), r.u64()
		if m.first > maxBlock || m.count > maxZeroed {
			return nil, fmt.Errorf("%w: blocks from %d, %d of them", ErrDamaged, m.first, m.count)
		}
	default:
		return nil, fmt.Errorf("%w: mutation of kind %d", ErrDamaged, m.kind)
	}
	if m.node == 0 && !r.short {
		return nil, fmt.Errorf("%w: mutation of kind %d without a node", ErrDamaged, m.kind)
	}
	return r.b, r.err()
}

// A reader takes numbers off the front of b. Where there is not enough it gives
// zeros from then on.
type reader struct {
	b     []byte
	short bool
}

func (r *reader) err() error {
	if r.short {
		return fmt.Errorf("%w: mutation cut short", ErrDamaged)
	}
	return nil
}

func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.short, r.b = true, nil
		return nil
	}
	p := r.b[:n]
	r.b = r.b[n:]
	return p
}

func (r *reader) u8() uint8 {
	if p := r.take(1); p != nil {
		return p[0]
	}
	return 0
}

func (r *reader) u32() uint32 {
	if p := r.take(4); p != nil {
		return le.Uint32(p)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if p := r.take(8); p != nil {
		return le.Uint64(p)
	}
	return 0
}

func (r *reader) name() string { return string(r.take(int(r.u8()))) }
