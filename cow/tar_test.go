// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/tartest"
)

// A shown is what a path of the merged tree shows to who stats and reads it.
type shown struct {
	node Node
	dir  bool
	text string // all of it but node and nlink
	kin  string // the first of its names
}

// dump returns what all paths show.
func dump(m *mounted) map[string]shown {
	m.tb.Helper()
	paths := fsck(m)
	first := map[Node]string{}
	got := map[string]shown{}
	for _, p := range slices.Sorted(maps.Keys(paths)) {
		n := paths[p]
		var a Attr
		if err := m.Attr(n, &a); err != nil {
			m.tb.Fatalf("%s: %v", p, err)
		}
		if a.Mode&index.ModeType == index.ModeSymlink {
			a.Mode = index.ModeSymlink | 0o777 // nobody asks for it
		}
		var b strings.Builder
		fmt.Fprintf(&b, "%o %d:%d rdev %d mtime %d.%d", a.Mode, a.UID, a.GID, a.Rdev, a.Mtime.Sec, a.Mtime.Nsec)
		switch a.Mode & index.ModeType {
		case index.ModeRegular:
			h := sha256.New()
			f, err := m.Open(n, false)
			if err != nil {
				m.tb.Fatalf("%s: %v", p, err)
			}
			buf := make([]byte, 1<<16)
			for off := int64(0); off < a.Size; {
				k, err := f.ReadAt(buf[:min(a.Size-off, int64(len(buf)))], off)
				if k == 0 || err != nil && err != io.EOF {
					m.tb.Fatalf("%s: at %d: %d, %v", p, off, k, err)
				}
				h.Write(buf[:k])
				off += int64(k)
			}
			f.Close()
			fmt.Fprintf(&b, " size %d %x", a.Size, h.Sum(nil)[:8])
		case index.ModeSymlink:
			target, err := m.Readlink(n)
			if err != nil {
				m.tb.Fatalf("%s: %v", p, err)
			}
			fmt.Fprintf(&b, " -> %q", target)
		}
		xattrs := map[string]string{}
		err := m.EachXattr(n, func(name string) bool {
			value, err := m.Xattr(n, name)
			if err != nil {
				m.tb.Fatalf("%s: %s: %v", p, name, err)
			}
			// Linux keeps no user.* on what is neither file nor directory.
			if t := a.Mode & index.ModeType; t == index.ModeRegular || t == index.ModeDir || !strings.HasPrefix(name, "user.") {
				xattrs[name] = string(value)
			}
			return true
		})
		if err != nil {
			m.tb.Fatalf("%s: %v", p, err)
		}
		fmt.Fprintf(&b, " %q", xattrs)
		s := shown{node: n, dir: a.Mode&index.ModeType == index.ModeDir}
		if !s.dir {
			if first[n] == "" {
				first[n] = p
			}
			s.kin = first[n]
			fmt.Fprintf(&b, " nlink %d", a.Nlink)
		}
		s.text = b.String()
		got[p] = s
	}
	return got
}

// same compares what a layer can tell of two trees.
func same(tb testing.TB, got, want map[string]shown) {
	tb.Helper()
	for p := range want {
		if g, w := got[p], want[p]; g.text != w.text || g.kin != w.kin {
			tb.Errorf("%s:\n got %s, first name %q\nwant %s, first name %q", p, g.text, g.kin, w.text, w.kin)
		}
	}
	for p := range got {
		if _, ok := want[p]; !ok {
			tb.Errorf("%s: %s should not be there", p, got[p].text)
		}
	}
}

// content does something to what a file holds, or to times.
func (o *model) content() error {
	n := o.pick(false)
	for try := 0; n.mode&index.ModeType != index.ModeRegular && try < 30; try++ {
		n = o.pick(false)
	}
	if n.mode&index.ModeType != index.ModeRegular || n.ended {
		return nil
	}
	sizes := []int64{1, 100, 4096, 8 << 10, 9000, 64 << 10, 70000, 300 << 10}
	off, length := o.r.Int64N(sizes[o.r.IntN(len(sizes))]), o.r.Int64N(sizes[o.r.IntN(len(sizes))])
	var a Attr
	switch o.r.IntN(4) {
	case 0:
		o.logf("truncate %d to %d", n.id, off)
		return o.m.SetAttr(testCaller, n.id, &SetAttr{Valid: SetSize, Size: off}, &a)
	case 1:
		at := Time{o.r.Int64N(1<<33) - 1<<31, uint32(o.r.IntN(1e9))}
		o.logf("touch %d to %v", n.id, at)
		return o.m.SetAttr(testCaller, n.id, &SetAttr{Valid: SetMtime, Mtime: at}, &a)
	}
	o.logf("write %d, %d bytes at %d", n.id, length, off)
	f, err := o.m.Open(n.id, true)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(bytes.Repeat([]byte{byte(o.r.IntN(256))}, int(length)), off); err != nil {
		return err
	}
	if o.r.IntN(4) == 0 {
		return f.Allocate(3, off, length+1) // a hole
	}
	return nil
}

// play does n random things, and leaves the model behind.
func (o *model) play(n int) {
	o.m.tb.Helper()
	for range n {
		if o.r.IntN(3) == 0 {
			if err := o.content(); err != nil {
				o.fatalf("%s: %v", o.log[len(o.log)-1], err)
			}
			continue
		}
		got, want := o.op()
		if got != want && !errors.Is(got, want) {
			o.fatalf("%s: got %v, want %v", o.log[len(o.log)-1], got, want)
		}
	}
}

// storyBase has what layers can do to each other, and files of all sizes.
func storyBase(tb testing.TB) [][]byte {
	tb.Helper()
	tars := make([][]byte, 3)
	for i, text := range []string{
		"d/ d/e/ d/e/f=low d/n1=one d/n2=>d/n1 g/:0750@3:4 g/n3 n4 l->d n5/ n5/n1 n5/n2/ n6|",
		"d/n7=x d/e/h/i=deep g/n3=x n5/.wh.n1 n8%1,3 d/n9->n1",
	} {
		tars[i] = layerWith(tb, text, nil)
	}
	big := func(size int) []byte {
		r := rand.New(rand.NewPCG(uint64(size), 9))
		b := make([]byte, size)
		for k := range b {
			b[k] = byte(r.Uint32())
		}
		return b
	}
	tars[2] = layerWith(tb, "d/n2=new", map[string][]byte{"n10": big(200 << 10), "d/n11": big(70 << 10), "g/n0": big(9000)})
	return tars
}

// layerWith makes a layer of text and of files with xattrs.
func layerWith(tb testing.TB, text string, files map[string][]byte) []byte {
	tb.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	put := func(h *tar.Header, body []byte) {
		h.Size = int64(len(body))
		if err := w.WriteHeader(h); err != nil {
			tb.Fatal(err)
		}
		if _, err := w.Write(body); err != nil {
			tb.Fatal(err)
		}
	}
	for s := range strings.FieldsSeq(text) {
		h, body := tartest.Header(tb, s)
		put(h, []byte(body))
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		put(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o4755, ModTime: time.Unix(3, 4), Format: tar.FormatPAX,
			PAXRecords: map[string]string{"SCHILY.xattr.user.x1": "tree", "SCHILY.xattr.trusted.t": "\x00\xff"}}, files[name])
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// layerOf returns the layer of what m has changed, and makes sure that the same
// changes give the same bytes.
func (m *mounted) layerOf() []byte {
	m.tb.Helper()
	var out [2]bytes.Buffer
	for k := range out {
		s, err := m.Snapshot()
		if err != nil {
			m.tb.Fatal(err)
		}
		if err := errors.Join(s.WriteLayer(context.Background(), &out[k], TarOptions{}), s.Close()); err != nil {
			m.tb.Fatal(err)
		}
		if k == 0 {
			m.remount()
		}
	}
	if !bytes.Equal(out[0].Bytes(), out[1].Bytes()) {
		m.tb.Error("the same changes gave another layer")
	}
	return out[0].Bytes()
}

// The layer of an upper applied over the same base is what the upper showed,
// and so is its tree over nothing.
func TestLayerIsTheTree(t *testing.T) {
	base := storyBase(t)
	stories := uint64(15)
	if testing.Short() {
		stories = 5
	}
	for seed := range stories {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			m := overFS(t, treeOf(t, base...))
			o := newModel(m, seed)
			o.play(5 + int(seed)*9)
			want := dump(m)
			layer := m.layerOf()
			o.m = m
			same(t, dump(m), want) // the remount lost nothing
			over := overFS(t, treeOf(t, append(slices.Clone(base), layer)...))
			same(t, dump(over), want)
			s, err := m.Snapshot()
			if err != nil {
				t.Fatal(err)
			}
			var whole bytes.Buffer
			if err := errors.Join(s.WriteTree(context.Background(), &whole, TarOptions{}), s.Close()); err != nil {
				t.Fatal(err)
			}
			same(t, dump(overFS(t, treeOf(t, whole.Bytes()))), want)
			checkChanges(t, m, want)
			checkReset(t, m, seed)
			if t.Failed() {
				for _, line := range o.log {
					t.Log(line)
				}
			}
		})
	}
}

func (m *mounted) changes() []Change {
	m.tb.Helper()
	s, err := m.Snapshot()
	if err != nil {
		m.tb.Fatal(err)
	}
	var list []Change
	if err := errors.Join(s.Changes(context.Background(), func(c Change) error {
		list = append(list, c)
		return nil
	}), s.Close()); err != nil {
		m.tb.Fatal(err)
	}
	return list
}

// checkChanges compares what Changes tells with what two dumps show.
func checkChanges(t *testing.T, m *mounted, now map[string]shown) {
	t.Helper()
	was := dump(overFS(t, m.fs))
	want := map[string]string{}
	differ := func(p, kind string) {
		want[p] = kind
		for up := path.Dir(p); up != "/"; up = path.Dir(up) {
			if _, ok := was[up]; ok && want[up] == "" {
				want[up] = kindChanged
			}
		}
	}
	// Of nlink alone nothing is told.
	text := func(s shown) string { return strings.Split(s.text, " nlink")[0] }
	for p, s := range now {
		old, ok := was[p]
		switch {
		case p == "/":
		case !ok:
			differ(p, kindAdded)
		case old.node != s.node, text(old) != text(s):
			differ(p, kindChanged)
		}
	}
	for p := range was {
		if up, ok := now[path.Dir(p)]; ok && up.dir && now[p].node == 0 {
			differ(p, kindDeleted)
		}
	}
	got := map[string]string{}
	for _, c := range m.changes() {
		if up := path.Dir(c.Path); up != "/" && got[up] == "" {
			t.Errorf("%s is told before what it lies in", c.Path)
		}
		if got[c.Path] != "" {
			t.Errorf("%s is told twice", c.Path)
		}
		got[c.Path] = c.Kind
		if _, ok := want[c.Path]; !ok && c.Kind != kindChanged {
			t.Errorf("%s is told as %s", c.Path, c.Kind)
		}
	}
	for p, kind := range want {
		if got[p] != kind {
			t.Errorf("%s: told as %q, want %q", p, got[p], kind)
		}
	}
}

// checkReset resets all that differs, in any order, which gives the tree back.
func checkReset(t *testing.T, m *mounted, seed uint64) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 5))
	want := dump(overFS(t, m.fs))
	for round := 0; ; round++ {
		list := m.changes()
		if len(list) == 0 {
			break
		}
		if round == 20 {
			t.Errorf("still changed: %v", list)
			return
		}
		r.Shuffle(len(list), func(i, k int) { list[i], list[k] = list[k], list[i] })
		for _, c := range list {
			if err := m.Reset(c.Path); err != nil && !errors.Is(err, ErrMoved) && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("reset %s: %v", c.Path, err)
			}
		}
		if r.IntN(2) == 0 {
			m.remount()
		}
	}
	m.remount()
	got := dump(m)
	delete(want, "/") // it is reset as a whole
	delete(got, "/")
	same(t, got, want)
	for p, s := range want {
		if got[p].node != s.node {
			t.Errorf("%s is node %d, was %d", p, got[p].node, s.node)
		}
	}
}

// layered is an upper over the base and the layer of m.
func (m *mounted) layered(base ...[]byte) *mounted {
	m.tb.Helper()
	return overFS(m.tb, treeOf(m.tb, append(base, m.layerOf())...))
}

func TestLayerEdges(t *testing.T) {
	long := strings.Repeat("n", 255)
	for _, tt := range []struct {
		name, base, ops string
		do              func(m *mounted)
	}{
		{"a name of 255 bytes goes", "d/ d/" + long + " d/x", "rm d/" + long, nil},
		{"and comes", "d/", "touch d/" + long, nil},
		{"an xattr without a value", "f", "", func(m *mounted) { m.setXattr("f", "user.empty", "") }},
		{"names that begin with dots", "d/ d/..x d/...", "rm d/..x;touch d/..y;rm d/...;touch ....", nil},
		{"a long way", "", "", func(m *mounted) {
			p := ""
			for range 12 {
				m.must("mkdir %s", p+long)
				p += long + "/"
			}
			m.must("touch %sx;link %sx y", p, p)
		}},
		{"a name that is a number", "1=x 2/", "rm 1;mkdir 1;rmdir 2;touch 2", nil},
		{"an empty replaced directory", "d/ d/x", "rename d e;mkdir d", nil},
		{"a directory becomes another's", "d/ d/x=1 e/ e/y=2", "rm e/y;rmdir e;rename d e", nil},
		{"a directory exchanged with a file", "d/ d/x=1 e=2", "rename d f;rename e d;rename f e", nil},
		{"the file of a tree gets a second name and loses the first", "f=x d/", "link f d/g;rm f", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			base := layerWith(t, tt.base, nil)
			m := overFS(t, treeOf(t, base))
			if tt.ops != "" {
				m.must("%s", tt.ops)
			}
			if tt.do != nil {
				tt.do(m)
			}
			want := dump(m)
			same(t, dump(m.layered(base)), want)
		})
	}
}

// A tar has no sockets. What one replaced is gone all the same.
func TestSocketsAreLeftOut(t *testing.T) {
	base := layerWith(t, "f=x d/ g", nil)
	m := overFS(t, treeOf(t, base))
	m.must("rm f;rmdir d;rm g;touch d")
	for _, p := range []string{"f", "s"} {
		var a Attr
		if err := m.Create(testCaller, RootNode, p, Creation{Mode: index.ModeSocket | 0o700}, &a); err != nil {
			t.Fatal(err)
		}
		if p == "s" {
			if err := m.Link(a.Node, RootNode, "g", &a); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := m.layered(base).list(RootNode, 9); names(got) != "d" {
		t.Errorf("got %s", names(got))
	}
	s, err := m.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var whole bytes.Buffer
	if err := s.WriteTree(context.Background(), &whole, TarOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := overFS(t, treeOf(t, whole.Bytes())).list(RootNode, 9); names(got) != "d" {
		t.Errorf("the tree: %s", names(got))
	}
}

// What no layer can hold is named.
func TestLayerRefused(t *testing.T) {
	m := over(t, "d/ f")
	m.must("touch d/.wh.f")
	check := func(want string) {
		t.Helper()
		s, err := m.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := s.WriteLayer(context.Background(), io.Discard, TarOptions{}); fmt.Sprint(err) != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	check("/d/.wh.f: a layer cannot hold a name that begins .wh.")
	m.must("rm d/.wh.f")
	m.setXattr("f", "user.a=b", "x")
	check(`/f: a layer cannot hold an xattr with = in its name: "user.a=b"`)
}

// Directories may lie deeper than any path is long. What no layer can hold is
// told before memory holds all the paths on the way.
func TestDeepTree(t *testing.T) {
	m := over(t, "f")
	n, name := RootNode, strings.Repeat("n", 200)
	for range maxWalkDepth + 2 {
		var a Attr
		if err := m.Create(testCaller, n, name, Creation{Mode: index.ModeDir | 0o755}, &a); err != nil {
			t.Fatal(err)
		}
		n = a.Node
	}
	s, err := m.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"a layer": s.WriteLayer(context.Background(), io.Discard, TarOptions{}),
		"a tree":  s.WriteTree(context.Background(), io.Discard, TarOptions{}),
		"changes": s.Changes(context.Background(), func(Change) error { return nil }),
	} {
		if !errors.Is(err, syscall.ENAMETOOLONG) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := m.Reset("/" + name); err != nil {
		t.Error(err)
	}
	if list := m.changes(); len(list) != 0 {
		t.Errorf("%v after a reset", list)
	}
}

// A snapshot that could not be made for lack of room leaves nothing behind that
// the end of the upper would wait for.
func TestSnapshotGivenUp(t *testing.T) {
	m := over(t, "f")
	m.must("touch g")
	m.mu.Lock()
	f := &folding{d: m.active, done: make(chan struct{}), failed: make(chan struct{}), wanted: true}
	m.snapshots++
	m.mu.Unlock()
	if !m.unwant(f) || f.wanted || m.snapshots != 0 {
		t.Errorf("wanted %v, %d snapshots", f.wanted, m.snapshots)
	}
	f.snapshot = new(checkpoint)
	if m.unwant(f) {
		t.Error("what is there was given up")
	}
}
