// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// writeNew makes a file with content.
func (m *mounted) writeNew(name, content string) Node {
	m.tb.Helper()
	var a Attr
	f, err := m.CreateFile(testCaller, RootNode, name, Creation{Mode: 0o600}, &a)
	if err != nil {
		m.tb.Fatal(err)
	}
	if _, err := f.WriteAt([]byte(content), 0); err != nil {
		m.tb.Fatal(err)
	}
	if err := f.Close(); err != nil {
		m.tb.Fatal(err)
	}
	return a.Node
}

// reopen opens the upper again after the death of its server.
func (m *mounted) reopen() {
	m.tb.Helper()
	kill(m.Upper)
	m.open()
}

// What a chmod, chown or utimes of a small file costs does not depend on its
// content, which stays.
func TestHeadKeepsTail(t *testing.T) {
	m := over(t, "")
	content := strings.Repeat("small ", 1000)
	n := m.writeNew("f", content)
	m.must("symlink l target")
	check := func(when string, mode uint32) {
		t.Helper()
		if got := m.readAll(n); got != content {
			t.Errorf("%s: %d bytes, want %d", when, len(got), len(content))
		}
		if a := m.attr("f"); a.Mode&modeBits != mode || a.Size != int64(len(content)) {
			t.Errorf("%s: mode %o, size %d", when, a.Mode, a.Size)
		}
		if to, err := m.Readlink(m.node("l")); err != nil || string(to) != "target" {
			t.Errorf("%s: link to %q, %v", when, to, err)
		}
	}
	change := func(mode uint32) {
		t.Helper()
		segments := m.journal.segments
		before := int64(0)
		if len(segments) > 0 {
			before = segments[len(segments)-1].off
		}
		var a Attr
		for _, s := range []SetAttr{
			{Valid: SetMtime, Mtime: Time{1e9, 5}},
			{Valid: SetUID | SetGID, UID: 7, GID: 8},
			{Valid: SetMode, Mode: mode},
		} {
			if err := m.SetAttr(testCaller, n, &s, &a); err != nil {
				t.Fatal(err)
			}
		}
		if err := m.SetAttr(testCaller, m.node("l"), &SetAttr{Valid: SetMtime, Mtime: Time{1e9, 5}}, &a); err != nil {
			t.Fatal(err)
		}
		segments = m.journal.segments
		if wrote := segments[len(segments)-1].off - before; wrote > 1000 {
			t.Errorf("four changes of attributes took %d bytes of the journal", wrote)
		}
	}
	change(0o640)
	check("in memory", 0o640)
	m.reopen()
	check("after the server's death", 0o640)
	m.fold()
	check("in the checkpoint", 0o640)
	change(0o604)
	check("over the checkpoint", 0o604)
	if m.active.bytes < int64(len(content)) {
		t.Errorf("memory holds %d bytes by its own account", m.active.bytes)
	}
	m.reopen()
	check("over the checkpoint, after the server's death", 0o604)
	m.remount()
	check("after a close", 0o604)
}

// What an append costs does not depend on what was there.
func TestPartOfTail(t *testing.T) {
	m := over(t, "")
	n := m.writeNew("f", strings.Repeat("small ", 1000))
	f := openFile(t, m.Upper, n)
	want := []byte(strings.Repeat("small ", 1000))
	write := func(off int, p string, most int64) {
		t.Helper()
		s := m.journal.segments[len(m.journal.segments)-1]
		before := s.off
		if _, err := f.WriteAt([]byte(p), int64(off)); err != nil {
			t.Fatal(err)
		}
		if end := off + len(p); end > len(want) {
			want = append(want, make([]byte, end-len(want))...)
		}
		copy(want[off:], p)
		if wrote := s.off - before; wrote > most {
			t.Errorf("%d bytes at %d took %d bytes of the journal", len(p), off, wrote)
		}
	}
	write(len(want), "appended", 300)
	write(0, "first", 300)
	write(3000, "middle", 300)
	write(len(want)-2, "over the end", 300)
	write(len(want)+100, "behind a hole", 400)
	write(0, strings.Repeat("other ", 1000), 7000)
	write(1, strings.Repeat("a", 20), 300)
	f.Close()
	for _, again := range []func(){m.reopen, m.fold, m.reopen, m.remount} {
		if got := m.readAll(n); got != string(want) {
			t.Errorf("%d bytes, want %d; they differ at %d", len(got), len(want), differ([]byte(got), want))
		}
		again()
	}
}

// A file made without a name was never in the journal: its first name brings
// the content.
func TestHeadOfTmpfile(t *testing.T) {
	m := over(t, "")
	var a Attr
	f, err := m.CreateFile(testCaller, RootNode, "", Creation{Mode: 0o600}, &a)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("text"), 0); err != nil {
		t.Fatal(err)
	}
	if err := m.Link(a.Node, RootNode, "f", &a); err != nil {
		t.Fatal(err)
	}
	m.must("chmod f 640")
	m.reopen()
	if got := m.readAll(m.node("f")); got != "text" {
		t.Errorf("%q", got)
	}
}

// The frames of a fold that was broken off anywhere are replayed over what it
// has put already.
func TestReplayOverBrokenFold(t *testing.T) {
	broken := errors.New("broken off")
	for stop := range 15 {
		t.Run(fmt.Sprint(stop), func(t *testing.T) {
			m := over(t, "low=abc")
			for _, name := range []string{"a", "b", "c"} {
				m.writeNew(name, "first of "+name)
			}
			m.fold()
			m.must("chmod a 640;chmod b 604;chmod b 644;chmod c 600;rm c")
			f := openFile(t, m.Upper, m.node("a"))
			if _, err := f.WriteAt([]byte("second"), 2); err != nil {
				t.Fatal(err)
			}
			f.Close()
			f = openFile(t, m.Upper, m.node("b"))
			for _, w := range []struct {
				off int64
				s   string
			}{{10, " and more"}, {40, "behind a hole"}, {3, "in the middle"}} {
				if _, err := f.WriteAt([]byte(w.s), w.off); err != nil {
					t.Fatal(err)
				}
			}
			f.Close()
			var a Attr
			if err := m.SetAttr(testCaller, m.node("b"), &SetAttr{Valid: SetSize, Size: 30}, &a); err != nil {
				t.Fatal(err)
			}
			f = openFile(t, m.Upper, m.node("b"))
			if _, err := f.WriteAt([]byte("grows again"), 30); err != nil {
				t.Fatal(err)
			}
			f.Close()
			m.writeNew("d", "first of d")
			m.must("chmod a 400;chmod d 400;symlink l to;rename a e;chmod low 600")
			m.writeNew("g", "born and gone")
			m.must("chmod g 400;rm g")
			want := state(t, &m.view)
			if err := m.sync(m.seq); err != nil {
				t.Fatal(err)
			}
			m.folded.batch = 1
			left := stop
			err := m.folded.fold(m.active, m.seq, m.next, m.hashName, func() error {
				if left--; left < 0 {
					return broken
				}
				return nil
			})
			if err != broken {
				t.Fatalf("the fold ended before it could be broken off: %v", err)
			}
			m.reopen()
			// Open folds what it replayed: that changes nothing.
			m.mu.RLock()
			got := state(t, &m.view)
			m.mu.RUnlock()
			if got != want {
				t.Error(difference(got, want))
			}
			if got := m.readAll(m.node("e")); got != "fisecond a" {
				t.Errorf("%q", got)
			}
			if err := m.Unlink(RootNode, "g"); err != unix.ENOENT {
				t.Errorf("g: %v", err)
			}
		})
	}
}

// A journal of the version before putPart is read; one of the next is not.
func TestJournalVersions(t *testing.T) {
	r := record(t, 20)
	for version, reads := range map[uint32]bool{0: false, 1: true, journalVersion: true, journalVersion + 1: false} {
		segment := bytes.Clone(r.segment)
		le.PutUint32(segment[8:], version)
		le.PutUint32(segment[96:], crc32.Checksum(segment[:96], castagnoli))
		got, err := r.replay(t, segment)
		if reads && (err != nil || got != r.states[len(r.states)-1]) {
			t.Errorf("version %d: %v", version, err)
		}
		if !reads && !errors.Is(err, ErrFormat) { // and never removed
			t.Errorf("version %d: %v", version, err)
		}
	}
}
