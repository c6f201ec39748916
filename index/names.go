// SPDX-License-Identifier: Apache-2.0

package index

import (
	"hash/maphash"
	"strings"
)

// A list grows without moving what is in it.
type list[T any] struct {
	n      int
	chunks [][]T
}

const listChunk = 4096

func (l *list[T]) at(i int) *T { return &l.chunks[i/listChunk][i%listChunk] }

func (l *list[T]) push(v T) {
	if l.n == len(l.chunks)*listChunk {
		l.chunks = append(l.chunks, nil)
	}
	// A layer of ten names takes little; only the first chunk moves.
	c := &l.chunks[l.n/listChunk]
	if *c == nil && l.n > 0 {
		*c = make([]T, 0, listChunk)
	}
	*c = append(*c, v)
	l.n++
}

// A nameTable finds links by directory and name: open addressing, at most
// half full, under a hash that no image can foresee.
type nameTable struct {
	seed  maphash.Seed
	slots []uint32 // number of a link + 1; 0 = free
	used  int
	text  strings.Builder // names, one after another
}

func newNameTable() nameTable {
	return nameTable{seed: maphash.MakeSeed(), slots: make([]uint32, 64)}
}

// find returns the link of name in dir, and the hash to add it under.
func (t *nameTable) find(links *list[link], dir EntryID, name string) (l int, hash uint32, ok bool) {
	h := maphash.String(t.seed, name) + uint64(dir)*0x9E3779B97F4A7C15
	h *= 0xD6E8FEB86659FD93
	hash = uint32(h >> 32)
	for i := int(hash) & (len(t.slots) - 1); t.slots[i] != 0; i = (i + 1) & (len(t.slots) - 1) {
		k := links.at(int(t.slots[i]) - 1)
		if k.hash == hash && k.dir == dir && k.name == name {
			return int(t.slots[i]) - 1, hash, true
		}
	}
	return 0, hash, false
}

// add enters the last of links, which find did not find.
func (t *nameTable) add(links *list[link], l int) {
	if t.used++; 2*t.used > len(t.slots) {
		t.slots = make([]uint32, 2*len(t.slots))
		for i := range links.n {
			t.enter(links.at(i).hash, i)
		}
		return
	}
	t.enter(links.at(l).hash, l)
}

func (t *nameTable) enter(hash uint32, l int) {
	i := int(hash) & (len(t.slots) - 1)
	for t.slots[i] != 0 {
		i = (i + 1) & (len(t.slots) - 1)
	}
	t.slots[i] = uint32(l) + 1
}

// keep returns a copy of name, not the whole path around it.
func (t *nameTable) keep(name string) string {
	const block = 16 << 10
	if t.text.Cap()-t.text.Len() < len(name) {
		t.text = strings.Builder{}
		t.text.Grow(max(block, len(name)))
	}
	at := t.text.Len()
	t.text.WriteString(name)
	return t.text.String()[at:]
}
