// SPDX-License-Identifier: Apache-2.0

package index

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// makeTable writes a table whose root has the given names, files with the
// numbers 2, 3, … in that order.
func makeTable(t testing.TB, names []string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "t")
	w, err := Create[EntryID](path)
	if err != nil {
		t.Fatal(err)
	}
	entries := make([]DirEntry[EntryID], len(names))
	for i, s := range names {
		entries[i] = DirEntry[EntryID]{EntryID(i + 2), 8, s}
	}
	block, err := w.Dir(entries)
	if err != nil {
		t.Fatal(err)
	}
	root := Node{Mode: ModeDir | 0o755, Nlink: 2}
	root.SetDir(block, RootID)
	nodes := []*Node{&root}
	for i := range names {
		nodes = append(nodes, &Node{Mode: ModeRegular | 0o644, Nlink: 1, Size: int64(i), Data: int64(i) * 512})
	}
	for _, n := range nodes {
		if err := w.Node(n); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(Meta{Kind: "layer"}); err != nil {
		t.Fatal(err)
	}
	return path
}

func openTable(t testing.TB, path string) *Layer {
	t.Helper()
	l, err := Open[EntryID](path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// equalNames are names of one state of the hash, and so of one hash.
func equalNames(n int) []string {
	const mul = 0x9E3779B97F4A7C15
	list := make([]string, n)
	for i := range list {
		h := (uint64(14695981039346656037) ^ uint64(i)) * mul
		h ^= h >> 29
		b := binary.LittleEndian.AppendUint64(nil, uint64(i))
		list[i] = string(binary.LittleEndian.AppendUint64(b, h^12345))
	}
	return list
}

func numbered(format string, n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf(format, i)
	}
	return list
}

func TestLookupAndReadDir(t *testing.T) {
	long := numbered(strings.Repeat("n", 230)+"-%d", 20_000) // a block over 4 MiB
	tests := []struct {
		id    string
		names []string
	}{
		{"none", nil},
		{"one", []string{"a"}},
		{"an empty name is none", []string{"a", "b"}},
		{"2", numbered("%d", 2)},
		{"10", numbered("f%d", 10)},
		{"20 000", numbered("file-%d.txt", 20_000)},
		{"200 000", numbered("%d", 200_000)},
		{"a block larger than a segment", long},
		{"two of one hash", equalNames(2)},
		{"3 000 of one hash", equalNames(3000)},
		{"one hash among others", append(equalNames(500), numbered("other%d", 5000)...)},
		{"any byte", []string{"\xff", "\n", "a b", "\x01", strings.Repeat("x", 255)}},
	}
	for _, tt := range tests {
		t.Run(tt.id, func(t *testing.T) {
			l := openTable(t, makeTable(t, tt.names))
			has := make(map[string]bool)
			for i, s := range tt.names {
				has[s] = true
				id, dt, err := l.Lookup(RootID, s)
				if err != nil || id != EntryID(i+2) || dt != 8 {
					t.Fatalf("%q: %d type %d %v, want %d", s, id, dt, err, i+2)
				}
			}
			misses := append(numbered("no-%d", 2000), equalNames(3100)...)
			for _, s := range append(misses, "", "a\x00") {
				id, dt, err := l.Lookup(RootID, s)
				if err != nil || !has[s] && (id != 0 || dt != 0) {
					t.Fatalf("%q: %d type %d %v, want none", s, id, dt, err)
				}
			}
			if n := walkDir(t, l, tt.names); n != len(tt.names) {
				t.Errorf("%d entries, want %d", n, len(tt.names))
			}
		})
	}
}

// walkDir reads the root once in one go and, up to a bound, again from each
// cookie; it returns how many entries there are.
func walkDir(t *testing.T, l *Layer, names []string) int {
	d, err := l.ReadDir(RootID, 0)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for ; ; n++ {
		e, ok, err := d.Next()
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return n
		}
		if e.ID != EntryID(n+2) || string(e.Name) != names[n] {
			t.Fatalf("entry %d is %d %q, want %q", n, e.ID, e.Name, names[n])
		}
		if n > 2000 && n%997 != 0 && n < len(names)-2 {
			continue
		}
		from, err := l.ReadDir(RootID, e.Cookie)
		if err != nil {
			t.Fatal(err)
		}
		next, ok, err := from.Next()
		if err != nil || ok != (n+1 < len(names)) || ok && string(next.Name) != names[n+1] {
			t.Fatalf("behind %q: %q %v %v", e.Name, next.Name, ok, err)
		}
	}
}

// A cookie that was never given ends in an error or the end, or by chance
// right at an entry: never between two.
func TestCookiesNeverGiven(t *testing.T) {
	names := numbered("name-%d", 300)
	l := openTable(t, makeTable(t, names))
	for off := uint64(1); off < 12_000; off++ {
		for _, cookie := range []uint64{off, 5<<32 | off, 1<<40 | off} {
			d, err := l.ReadDir(RootID, cookie)
			if err != nil {
				continue
			}
			e, ok, err := d.Next()
			if ok && (err != nil || !slices.Contains(names, string(e.Name)) || string(e.Name) != names[e.ID-2]) {
				t.Fatalf("cookie %#x: %q %v", cookie, e.Name, err)
			}
		}
	}
}

func TestSearch(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		n := 1 + r.IntN(300)
		hashes := make([]uint32, n)
		mask := uint32(1)<<(1+r.IntN(31))*2 - 1
		for i := range hashes {
			hashes[i] = r.Uint32() & mask
			if r.IntN(2) == 0 {
				hashes[i] = ^hashes[i] // heaps at both ends
			}
		}
		slices.Sort(hashes)
		var probes []byte
		for _, h := range hashes {
			probes = le.AppendUint32(le.AppendUint32(probes, h), 0)
		}
		for range 20 {
			h := r.Uint32()
			if r.IntN(2) == 0 {
				h = hashes[r.IntN(n)] + uint32(r.IntN(3)) - 1
			}
			want, _ := slices.BinarySearch(hashes, h)
			if got := search(probes, n, h); got != want {
				t.Fatalf("%#x among %x: %d, want %d", h, hashes, got, want)
			}
		}
	}
}

func TestNodeRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "t")
	w, err := Create[EntryID](path)
	if err != nil {
		t.Fatal(err)
	}
	block, err := w.Dir(nil)
	if err != nil {
		t.Fatal(err)
	}
	big := bytes.Repeat([]byte{7}, 64<<10)
	type want struct {
		node    Node
		target  string
		xattrs  []Xattr
		extents []Extent
	}
	dir := Node{Mode: ModeDir | 0o1777, Nlink: 2, Mtime: -5, MtimeNsec: 999_999_999}
	dir.SetDir(block, RootID)
	nodes := []want{
		{node: dir, xattrs: []Xattr{{"user.a", nil}, {"user.b", big}}},
		{node: Node{Mode: ModeRegular | 0o4755, Nlink: 3, UID: 1<<32 - 1, GID: 7, Size: 1<<62 + 1, Data: 1 << 40, Header: 1<<40 - 512, Layer: 127}},
		{node: Node{Mode: ModeRegular, Size: 100}, extents: []Extent{}},
		{node: Node{Mode: ModeRegular, Size: 100}, extents: []Extent{{0, 5, 512}, {50, 1, 517}}, xattrs: []Xattr{{"security.capability", []byte{1, 0}}}},
		{node: Node{Mode: ModeChar | 0o600, Rdev: 0x103}},
		{node: Node{Mode: ModeBlock | 0o600, Rdev: 1<<32 - 1}},
		{node: Node{Mode: ModeFIFO}},
		{node: Node{Mode: ModeSymlink | 0o777}, target: strings.Repeat("t", 4095)},
		{node: Node{Mode: 0}, target: "a\x00b"},
	}
	for i := range nodes {
		n := &nodes[i].node
		if nodes[i].target != "" {
			if err := w.SetTarget(n, nodes[i].target); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.SetExtra(n, nodes[i].xattrs, nodes[i].extents); err != nil {
			t.Fatal(err)
		}
		if err := w.Node(n); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(Meta{Kind: "layer", Layers: []string{"a"}}); err != nil {
		t.Fatal(err)
	}
	l := openTable(t, path)
	if m := l.Meta(); !m.Xattrs || m.Nodes != uint32(len(nodes)) || len(m.Layers) != 1 {
		t.Errorf("meta %+v", m)
	}
	for i, tt := range nodes {
		var n Node
		if err := l.Node(EntryID(i+1), &n); err != nil {
			t.Fatal(err)
		}
		if n != tt.node {
			t.Errorf("node %d\n got %+v\nwant %+v", i+1, n, tt.node)
		}
		if tt.target != "" {
			if b, err := l.Target(&n); err != nil || string(b) != tt.target || n.Size != int64(len(tt.target)) {
				t.Errorf("node %d: target %q %v", i+1, b, err)
			}
		} else if _, err := l.Target(&n); err == nil {
			t.Errorf("node %d has a target", i+1)
		}
		var xattrs []Xattr
		if err := l.EachXattr(&n, func(k, v []byte) bool {
			xattrs = append(xattrs, Xattr{string(k), v})
			return true
		}); err != nil || fmt.Sprint(xattrs) != fmt.Sprint(tt.xattrs) {
			t.Errorf("node %d: %d xattrs %v", i+1, len(xattrs), err)
		}
		e, sparse, err := l.Extents(&n)
		if err != nil || sparse != (tt.extents != nil) || e.Len() != len(tt.extents) {
			t.Errorf("node %d: %d extents %v %v", i+1, e.Len(), sparse, err)
		}
		for j := range e.Len() {
			if e.At(j) != tt.extents[j] {
				t.Errorf("node %d: extent %v, want %v", i+1, e.At(j), tt.extents[j])
			}
		}
	}
	for _, id := range []EntryID{0, EntryID(len(nodes) + 1), 1<<32 - 1} {
		if err := l.Node(id, new(Node)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("node %d: %v", id, err)
		}
	}
	if _, _, err := l.Lookup(2, "x"); err != ErrNotDir {
		t.Errorf("a lookup in a file: %v", err)
	}
}

func TestNothingAllocates(t *testing.T) {
	names := numbered("file%d", 20_000)
	l := openTable(t, makeTable(t, names))
	i := 0
	var n Node
	if got := testing.AllocsPerRun(1000, func() {
		i++
		id, _, err := l.Lookup(RootID, names[i%len(names)])
		if err != nil || id == 0 {
			t.Fatal(err)
		}
		if err := l.Node(id, &n); err != nil {
			t.Fatal(err)
		}
		if id, _, _ := l.Lookup(RootID, "missing"); id != 0 {
			t.Fatal("found")
		}
		d, err := l.ReadDir(RootID, 0)
		if err != nil {
			t.Fatal(err)
		}
		for range 10 {
			if _, ok, err := d.Next(); !ok || err != nil {
				t.Fatal(err)
			}
		}
		if _, err := l.ReadDir(RootID, d.next); err != nil {
			t.Fatal(err)
		}
	}); got != 0 {
		t.Errorf("%v allocations", got)
	}
}

func TestCreateAndAbort(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "t")
	w, err := Create[EntryID](path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Create[EntryID](path); !errors.Is(err, os.ErrExist) {
		t.Errorf("a second writer: %v", err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the second writer took the first one's file: %v", err)
	}
	w.Abort()
	w.Abort()
	if list, _ := os.ReadDir(dir); len(list) != 0 {
		t.Errorf("left: %v", list)
	}
	if _, err := Open[EntryID](path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("open of nothing: %v", err)
	}
}

func TestLimitIsBadLayer(t *testing.T) {
	if !errors.Is(fmt.Errorf("x: %w", ErrLimit), ErrBadLayer) {
		t.Error("ErrLimit is no ErrBadLayer")
	}
}
