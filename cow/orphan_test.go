// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"io"
	"syscall"
	"testing"

	"github.com/imgfs/imgfs/index"
)

// readAll returns the content of a node.
func (m *mounted) readAll(n Node) string {
	m.tb.Helper()
	f, err := m.Open(n, false)
	if err != nil {
		m.tb.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1<<16)
	got, err := f.ReadAt(b, 0)
	if err != nil && err != io.EOF {
		m.tb.Fatal(err)
	}
	return string(b[:got])
}

func TestOrphans(t *testing.T) {
	t.Run("a file of the tree lives on while it is held", func(t *testing.T) {
		m := over(t, "f=text")
		n := m.node("f")
		f, err := m.Open(n, false)
		if err != nil {
			t.Fatal(err)
		}
		m.setXattr("f", "user.a", "b")
		m.must("rm f")
		m.Forget(n) // the kernel forgets before the last handle goes, if only here
		var a Attr
		if err := m.Attr(n, &a); err != nil || a.Nlink != 0 || a.Size != 4 {
			t.Errorf("%+v, %v", a, err)
		}
		if got := m.readAll(n); got != "text" {
			t.Errorf("content %q", got)
		}
		if value, err := m.Xattr(n, "user.a"); string(value) != "b" || err != nil {
			t.Errorf("xattr %q, %v", value, err)
		}
		if err := m.SetAttr(testCaller, n, &SetAttr{Valid: SetMode, Mode: 0o600}, &a); err != nil || a.Mode != 0o100600 {
			t.Errorf("chmod: %o, %v", a.Mode, err)
		}
		if err := m.SetXattr(n, "user.a", []byte("c"), 0, false); err != nil {
			t.Error(err)
		}
		if err := m.RemoveXattr(n, "user.a"); err != nil {
			t.Error(err)
		}
		if err := m.Link(n, RootNode, "g", &a); err != syscall.ENOENT {
			t.Errorf("link: %v", err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if err := m.Attr(n, &a); err != syscall.ESTALE {
			t.Errorf("after its end: %v", err)
		}
	})
	t.Run("one that is not open ends when it is forgotten", func(t *testing.T) {
		m := over(t, "d/")
		m.must("touch f;mkdir d/e")
		f, e := m.node("f"), m.node("d/e")
		m.must("rm f;rmdir d/e")
		for _, n := range []Node{f, e} {
			var a Attr
			if err := m.Attr(n, &a); err != nil || a.Nlink != 0 {
				t.Errorf("node %d: %+v, %v", n, a, err)
			}
			m.Forget(n)
			if err := m.Attr(n, &a); err != syscall.ESTALE {
				t.Errorf("node %d: %v", n, err)
			}
		}
		if len(m.orphans) != 0 || len(m.files) != 0 || m.loose.some.Load() || len(m.loose.xattrs) != 0 || len(m.loose.tmp) != 0 {
			t.Error("something is left of them")
		}
	})
	t.Run("a file that others name is no orphan", func(t *testing.T) {
		m := over(t, "f=text g=>f")
		n := m.node("f")
		m.must("rm f")
		m.Forget(n)
		if a := m.attr("g"); a.Node != n || a.Nlink != 1 {
			t.Errorf("%+v", a)
		}
	})
	t.Run("what gave way to a rename lives on", func(t *testing.T) {
		m := over(t, "f=old g=new")
		n := m.node("f")
		m.must("rename g f")
		if got := m.readAll(n); got != "old" {
			t.Errorf("content %q", got)
		}
		m.Forget(n)
	})
	t.Run("in a directory that is gone nothing is made", func(t *testing.T) {
		m := over(t, "d/")
		n := m.node("d")
		m.must("rmdir d")
		var a Attr
		if err := m.Create(testCaller, n, "f", Creation{Mode: index.ModeRegular}, &a); err != syscall.ENOENT {
			t.Error(err)
		}
		if _, err := m.CreateFile(testCaller, n, "", Creation{}, &a); err != syscall.ENOENT {
			t.Errorf("without a name: %v", err)
		}
		if found, err := m.Lookup(n, "f", &a); found || err != nil {
			t.Error(found, err)
		}
	})
}

func TestTmpFile(t *testing.T) {
	m := over(t, "d/:2755@5:6")
	m.setXattr("d", xattrDefault, string(makeACL(t, "u:rwx u5:rwx g:rx m:rwx o:rx")))
	var a Attr
	f, err := m.CreateFile(testCaller, m.node("d"), "", Creation{Mode: 0o664, Umask: 0o77}, &a)
	if err != nil {
		t.Fatal(err)
	}
	n := a.Node
	if a.Nlink != 0 || a.Mode != 0o100664 || a.GID != 6 {
		t.Errorf("%+v", a)
	}
	if _, err := f.WriteAt([]byte("text"), 0); err != nil {
		t.Fatal(err)
	}
	if err := m.SetXattr(n, "user.a", []byte("b"), 0, false); err != nil {
		t.Fatal(err)
	}
	if got := show(m); got != "d/" {
		t.Errorf("it has a name: %q", got)
	}
	if err := m.Link(n, m.node("d"), "f", &a); err != nil || a.Nlink != 1 || a.Size != 4 {
		t.Fatalf("%+v, %v", a, err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	m.Forget(n)
	for range 2 {
		if got := m.readAll(n); got != "text" {
			t.Errorf("content %q", got)
		}
		if got := m.xattrAt("d/f", "user.a") + " " + showACL(m.xattrAt("d/f", xattrAccess)); got != "b u:rw u5:rwx g:rx m:rw o:r" {
			t.Errorf("xattrs %q", got)
		}
		if got := show(m); got != "d/ d/f" {
			t.Error(got)
		}
		m.remount()
	}
	m.must("link d/f g;rm g;rm d/f")
	if err := m.Link(n, RootNode, "h", &a); err != syscall.ENOENT {
		t.Errorf("a second life: %v", err)
	}
}

func TestCreateFile(t *testing.T) {
	for _, passthrough := range []bool{false, true} {
		m := over(t, "d/")
		m.Upper.opt.Passthrough = passthrough
		var a Attr
		f, err := m.CreateFile(testCaller, m.node("d"), "f", Creation{Mode: 0o4664, Umask: 0o22}, &a)
		if err != nil {
			t.Fatal(err)
		}
		if got := m.attr("d/f"); got != a || a.Mode != 0o104644 || a.Size != 0 || a.Nlink != 1 {
			t.Errorf("answered %+v, then %+v", a, got)
		}
		if _, err := f.WriteAt([]byte("text"), 0); err != nil {
			t.Fatal(err)
		}
		if got := m.attr("d/f"); got.Size != 4 || got.Blocks == 0 || got.Mtime.Before(a.Mtime) {
			t.Errorf("%+v", got)
		}
		if _, err := m.CreateFile(testCaller, m.node("d"), "f", Creation{Mode: 0o644}, &a); err != syscall.EEXIST {
			t.Errorf("again: %v", err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A change that the journal does not take has not happened.
func TestRefusedChangesChangeNothing(t *testing.T) {
	m := over(t, "d/ d/f=text d/g=>d/f e/ h")
	m.must("touch d/new;symlink l x")
	d := m.node("d")
	var a Attr
	tmp, err := m.CreateFile(testCaller, d, "", Creation{Mode: 0o644}, &a)
	if err != nil {
		t.Fatal(err)
	}
	unnamed := a.Node
	before, attrs := show(m), map[string]Attr{}
	for _, p := range []string{"", "d", "d/f", "e", "h", "d/new"} {
		attrs[p] = m.attr(p)
	}
	m.poison(syscall.EROFS)
	for _, op := range []string{
		"touch x", "mkdir x", "symlink x y", "rm h", "rm d/f", "rmdir e", "link h x", "rename h x", "rename h d/f",
		"rename d e exchange", "rename h d/x whiteout", "chmod h 600", "chmod d/new 600", "setxattr h user.a b",
	} {
		if got := m.do(op); got != "EROFS" {
			t.Errorf("%s: %q", op, got)
		}
	}
	if err := m.Link(unnamed, d, "x", &a); err != syscall.EROFS {
		t.Errorf("a name for what has none: %v", err)
	}
	if _, err := m.CreateFile(testCaller, d, "x", Creation{}, &a); err != syscall.EROFS {
		t.Errorf("a file: %v", err)
	}
	if _, err := m.CreateFile(testCaller, d, "", Creation{}, &a); err != syscall.EROFS {
		t.Errorf("one without a name: %v", err)
	}
	if got := show(m); got != before {
		t.Errorf("\n got %q\nwant %q", got, before)
	}
	for p, want := range attrs {
		if got := m.attr(p); got != want {
			t.Errorf("%q: %+v, want %+v", p, got, want)
		}
	}
	if len(m.orphans) != 1 {
		t.Errorf("%d orphans", len(m.orphans))
	}
	if err := tmp.Close(); err != nil {
		t.Error(err)
	}
}
