// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/imgfs/imgfs/index"
)

var update = flag.Bool("update", false, "rewrite testdata/format.hex")

// aChange has a mutation of each kind.
func aChange() []mutation {
	i := &inode{mode: index.ModeRegular | 0o4755, nlink: 2, uid: 3, gid: 4, flags: flagMixed | flagData | flagXattrs,
		size: 5, lower: 6, atime: Time{7, 8}, mtime: Time{9, 10}, ctime: Time{11, 12}, btime: Time{-13, 14},
		parent: 0, origin: origin{15, 16, 17}}
	link := &inode{mode: index.ModeSymlink | 0o777, nlink: 1, size: 2, tail: "to"}
	return []mutation{
		{kind: putInode, node: 2, inode: i},
		{kind: putInode, node: FirstOwn, inode: link},
		{kind: dropInode, node: 3},
		{kind: dropInode, node: FirstOwn + 1},
		{kind: putEntry, node: 1, name: "l", entry: entry{FirstOwn, 10}},
		{kind: putEntry, node: 1, name: "gone", entry: entry{0, whiteout}},
		{kind: putXattr, node: 2, name: "user.a", value: []byte("b")},
		{kind: dropXattr, node: 2, name: "user.c"},
		{kind: putBlocks, node: 2, first: 3, count: 6},
		{kind: barrier, node: 2},
		{kind: confirm, first: 18},
		{kind: reserve, first: uint64(FirstOwn) + 19},
		{kind: putPart, node: FirstOwn, inode: link, first: 1, value: []byte("o")},
	}
}

// The bytes of a journal and of a checkpoint are those of testdata/format.hex.
// A change here is a new version of the format.
func TestFormat(t *testing.T) {
	var out strings.Builder
	dir := t.TempDir()
	j := &journal{dir: dir, next: 2, seq: 40, space: openSpace(dir), dirty: make(chan struct{}, 1),
		barriers: map[Node]barrierSpan{}, lost: map[Node]bool{}}
	copy(j.id[:], "the upper's id..")
	copy(j.boot[:], "the boot's id...")
	copy(j.tree[:], "the identity of the tree........")
	s := &segment{n: 2, first: 41, salt: 0x01020304, off: segmentHead}
	var err error
	if s.f, err = os.Create(filepath.Join(dir, journalName(2))); err != nil {
		t.Fatal(err)
	}
	defer s.f.Close()
	if err := writeAt(s.f, j.head(s), 0); err != nil {
		t.Fatal(err)
	}
	j.segments = []*segment{s}
	if _, _, err := j.append(aChange(), false); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(s.f.Name())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&out, "%s\n%s", filepath.Base(s.f.Name()), hex.Dump(b[:s.off]))

	v := view{active: newDelta()}
	for _, m := range aChange() {
		if err := v.apply(41, &m); err != nil {
			t.Fatal(err)
		}
	}
	st, err := openStore(filepath.Join(dir, checkpointName), 5, j.tree, FirstOwn)
	if err != nil {
		t.Fatal(err)
	}
	defer st.close()
	err = st.fold(v.active, 41, FirstOwn+20, func(name string) uint64 { return uint64(len(name)) }, func() error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(&out, checkpointName)
	err = st.db.View(func(tx *bolt.Tx) error {
		return tx.ForEach(func(bucket []byte, b *bolt.Bucket) error {
			return b.ForEach(func(k, v []byte) error {
				if len(v) > 512+4 {
					fmt.Fprintf(&out, "%s %q, %d bytes that begin\n%s", bucket, k, len(v), hex.Dump(v[:16]))
					return nil
				}
				fmt.Fprintf(&out, "%s %q\n%s", bucket, k, hex.Dump(v))
				return nil
			})
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "format.hex")
	if *update {
		if err := os.WriteFile(golden, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if out.String() != string(want) {
		t.Errorf("the format changed:\n%s\nwant\n%s", out.String(), want)
	}
}

// docs/format.md holds the drawings of the code word for word.
func TestFormatIsDocumented(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "docs", "format.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []struct{ file, from, to string }{
		{"journal.go", "// The journal is a row of files", "\nconst ("},
		{"mutation.go", "// Mutation in a frame", "\n\n"},
		{"inode.go", "// Inode record", "\nconst "},
		{"checkpoint.go", "// The checkpoint is a bbolt file", "\nconst "},
	} {
		src, err := os.ReadFile(v.file)
		if err != nil {
			t.Fatal(err)
		}
		_, text, ok := strings.Cut(string(src), v.from)
		text, _, ok2 := strings.Cut(text, v.to)
		if !ok || !ok2 {
			t.Errorf("%s has no drawing", v.file)
			continue
		}
		for line := range strings.SplitSeq(v.from+text, "\n") {
			line = strings.TrimPrefix(strings.TrimPrefix(line, "//"), " ")
			line = strings.TrimPrefix(line, "\t")
			if !strings.Contains(string(doc), line) {
				t.Errorf("docs/format.md lacks %q", line)
			}
		}
	}
}

func TestMutationsAreDecoded(t *testing.T) {
	var b []byte
	want := aChange()
	for k := range want {
		b = want[k].append(b)
	}
	for rest, k := b, 0; len(rest) > 0; k++ {
		var m mutation
		var err error
		if rest, err = m.decode(rest); err != nil {
			t.Fatal(err)
		}
		if m.kind == putPart {
			m.join(&inode{tail: "ty"})
		}
		if !reflect.DeepEqual(m, want[k]) {
			t.Errorf("mutation %d:\n got %+v %+v\nwant %+v %+v", k, m, m.inode, want[k], want[k].inode)
		}
	}
	for n := range b {
		for rest := b[:n]; len(rest) > 0; {
			var m mutation
			var err error
			if rest, err = m.decode(rest); err != nil {
				break
			}
		}
	}
}

func FuzzMutation(f *testing.F) {
	var b []byte
	for _, m := range aChange() {
		one := m.append(nil)
		f.Add(one)
		b = append(b, one...)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		for len(b) > 0 {
			var m mutation
			rest, err := m.decode(b)
			if err != nil {
				return
			}
			if again := m.append(nil); string(again) != string(b[:len(b)-len(rest)]) {
				t.Fatalf("%x is encoded as %x", b[:len(b)-len(rest)], again)
			}
			b = rest
		}
	})
}

func TestNumbersDoNotWrap(t *testing.T) {
	far := mutation{kind: reserve, first: 1<<64 - 1}
	var m mutation
	if _, err := m.decode(far.append(nil)); !errors.Is(err, ErrDamaged) {
		t.Errorf("all numbers are reserved: %v", err)
	}
}
