// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// stop is a writer that has enough after some bytes.
type stop struct{ left int }

func (s *stop) Write(p []byte) (int, error) {
	if s.left -= len(p); s.left < 0 {
		return 0, os.ErrClosed
	}
	return len(p), nil
}

// A journal whose frames are valid but say anything: it is refused, or read and
// asked without a panic, a hang or memory without end.
func FuzzReplay(f *testing.F) {
	var all []byte
	for _, m := range aChange() {
		one := m.append(nil)
		f.Add(one)
		all = append(all, one...)
	}
	f.Add(all)
	huge := mutation{kind: putBlocks, node: FirstOwn, count: maxBlock}
	f.Add(huge.append(nil))
	far := mutation{kind: reserve, first: 1<<64 - 1}
	f.Add(far.append(nil))
	loop := mutation{kind: putEntry, node: FirstOwn, name: "d", entry: entry{FirstOwn, 4}}
	f.Add(loop.append(nil))
	f.Fuzz(func(t *testing.T, payload []byte) {
		if len(payload) == 0 || len(payload) > 1<<12 {
			return
		}
		m := over(t, "d/ d/e f=low g")
		m.must("mkdir n;touch n/x;touch d/y;rm g;setxattr f user.a b")
		kill(m.Upper)
		m.closed.Store(true)
		addFrame(t, m, payload)
		u, err := Open(m.dir, m.fs, "", Options{})
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Logf("open: %v", err)
			}
			return
		}
		m.Upper = u
		s, err := u.Snapshot()
		if err == nil {
			s.Changes(context.Background(), func(Change) error { return nil })
			s.WriteLayer(context.Background(), &stop{1 << 20}, TarOptions{})
			s.WriteTree(context.Background(), &stop{1 << 20}, TarOptions{})
			s.Close()
		}
		for _, n := range []Node{RootNode, 2, 3, 4, FirstOwn, FirstOwn + 1} {
			var a Attr
			u.Attr(n, &a)
			u.Lookup(n, "x", &a)
			u.EachXattr(n, func(string) bool { return true })
			if d, err := u.OpenDir(n); err == nil {
				left := 1000
				d.Read(0, true, func(*Dirent, *Attr) bool { left--; return left > 0 })
			}
			if file, err := u.Open(n, true); err == nil {
				file.ReadAt(make([]byte, 100), 0)
				file.SeekData(0, true)
				file.WriteAt([]byte("x"), 5000)
				file.Close()
			}
		}
		u.Reset("/d")
		u.Unlink(RootNode, "f")
		u.Create(testCaller, RootNode, "new", Creation{Mode: 0o100644}, new(Attr))
	})
}

// addFrame adds a valid frame to the journal of an upper that was killed.
func addFrame(t *testing.T, m *mounted, payload []byte) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(m.dir, "journal.*"))
	if err != nil || len(names) == 0 {
		t.Fatalf("%v, %v", names, err)
	}
	file, err := os.OpenFile(names[len(names)-1], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var head [segmentHead]byte
	if _, err := file.ReadAt(head[:], 0); err != nil {
		t.Fatal(err)
	}
	s := &segment{f: file, salt: le.Uint32(head[12:]), first: le.Uint64(head[88:])}
	off, seq := int64(segmentHead), s.first
	if err := s.each(func(fr frame) error { off, seq = fr.end, fr.seq+1; return nil }); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, frameHead, frameHead+len(payload))
	le.PutUint32(b, uint32(len(payload)))
	le.PutUint64(b[4:], seq)
	b = append(b, payload...)
	le.PutUint32(b[12:], frameSum(s.salt, b))
	if _, err := file.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}
