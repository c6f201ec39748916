// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/tartest"
	"github.com/imgfs/imgfs/unionfs"
)

func (m *mounted) set(p string, s SetAttr) Attr {
	m.tb.Helper()
	var a, b Attr
	if err := m.SetAttr(testCaller, m.node(p), &s, &a); err != nil {
		m.tb.Fatalf("%s: %v", p, err)
	}
	if b = m.attr(p); a != b {
		m.tb.Errorf("%s: answered %+v, then %+v", p, a, b)
	}
	return a
}

func (m *mounted) setXattr(p, name, value string) {
	m.tb.Helper()
	if err := m.SetXattr(m.node(p), name, []byte(value), 0, false); err != nil {
		m.tb.Fatalf("%s: %s: %v", p, name, err)
	}
}

// hasXattr tells an xattr's value, or "-".
func (m *mounted) xattrAt(p, name string) string {
	m.tb.Helper()
	value, err := m.Xattr(m.node(p), name)
	if err == syscall.ENODATA {
		return "-"
	}
	if err != nil {
		m.tb.Fatalf("%s: %s: %v", p, name, err)
	}
	return string(value)
}

// setuid, setgid and capabilities go as Linux takes them.
func TestPrivileges(t *testing.T) {
	for _, tt := range []struct {
		name string
		mode uint32
		set  SetAttr
		want uint32
		caps string
	}{
		{"chown takes setuid", 0o104711, SetAttr{Valid: SetUID, UID: 7}, 0o100711, "-"},
		{"chown takes setgid of what a group may execute", 0o106771, SetAttr{Valid: SetGID, GID: 7}, 0o100771, "-"},
		{"chown spares setgid that means locks", 0o106704, SetAttr{Valid: SetUID | SetGID}, 0o102704, "-"},
		{"chmod sets what it says", 0o104711, SetAttr{Valid: SetMode, Mode: 0o6755}, 0o106755, "c"},
		{"chmod with chown sets what it says", 0o104711, SetAttr{Valid: SetMode | SetUID, Mode: 0o6755}, 0o106755, "c"},
		{"a write takes both", 0o106755, SetAttr{Valid: KillPriv}, 0o100755, "-"},
		{"a write spares the sticky bit", 0o101755, SetAttr{Valid: KillPriv}, 0o101755, "-"},
		{"times take nothing", 0o106755, SetAttr{Valid: SetMtime | SetAtime}, 0o106755, "c"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := over(t, fmt.Sprintf("f:%o", tt.mode&0o7777))
			m.setXattr("f", "security.capability", "c")
			if got := m.set("f", tt.set).Mode; got != tt.want {
				t.Errorf("mode %o, want %o", got, tt.want)
			}
			if got := m.xattrAt("f", "security.capability"); got != tt.caps {
				t.Errorf("capabilities %q, want %q", got, tt.caps)
			}
		})
	}
	t.Run("directories keep theirs", func(t *testing.T) {
		m := over(t, "d/:6775")
		if got := m.set("d", SetAttr{Valid: SetUID | SetGID | KillPriv}).Mode; got != 0o046775 {
			t.Errorf("mode %o", got)
		}
	})
	t.Run("nothing to take is no change", func(t *testing.T) {
		m := over(t, "f")
		before := m.attr("f")
		if got := m.set("f", SetAttr{Valid: KillPriv}); got != before {
			t.Errorf("got %+v, was %+v", got, before)
		}
	})
}

func TestTimes(t *testing.T) {
	m := over(t, "d/ d/f l->d p|")
	tree := Time{1, 2}
	for _, p := range []string{"", "d", "d/f", "l", "p"} {
		if a := m.attr(p); p != "" && (a.Atime != tree || a.Mtime != tree || a.Ctime != tree || a.Btime != tree) {
			t.Errorf("%s: %+v, want the tar's time", p, a)
		}
	}
	start := Now()
	early, late := Time{-5, 999_999_999}, Time{1 << 33, 1}
	a := m.set("p", SetAttr{Valid: SetAtime | SetMtime, Atime: early, Mtime: late})
	if a.Atime != early || a.Mtime != late || a.Ctime.Before(start) || a.Btime != tree {
		t.Errorf("after utimens: %+v", a)
	}
	if a := m.set("p", SetAttr{Valid: SetCtime, Ctime: late}); a.Ctime != late {
		t.Errorf("an explicit ctime: %+v", a)
	}
	if a := m.set("d/f", SetAttr{Valid: SetMode, Mode: 0o600}); a.Mtime != tree || a.Ctime.Before(start) {
		t.Errorf("after chmod: %+v", a)
	}
	if a := m.attr("d"); a.Mtime != tree || a.Ctime != tree {
		t.Errorf("the directory of what was changed: %+v", a)
	}
	m.must("touch d/g")
	if a := m.attr("d"); a.Mtime.Before(start) || a.Ctime.Before(start) || a.Atime != tree {
		t.Errorf("the directory of a new name: %+v", a)
	}
	if a := m.attr("d/g"); a.Btime.Before(start) || a.Btime != a.Mtime || a.Btime != a.Ctime || a.Btime != a.Atime {
		t.Errorf("a new file: %+v", a)
	}
}

func TestInheritance(t *testing.T) {
	m := over(t, "d/:2775@5:6 e/@5:6")
	m.must("touch d/f;mkdir d/s;symlink d/l x;touch e/f;mkdir e/s;touch d/s/f")
	for p, want := range map[string]string{
		"d/f": "100644 1:6", "d/s": "42755 1:6", "d/l": "120777 1:6", "d/s/f": "100644 1:6",
		"e/f": "100644 1:2", "e/s": "40755 1:2",
	} {
		a := m.attr(p)
		if got := fmt.Sprintf("%o %d:%d", a.Mode, a.UID, a.GID); got != want {
			t.Errorf("%s: %s, want %s", p, got, want)
		}
	}
}

func TestSizesAndBlocks(t *testing.T) {
	m := over(t, "d/ f="+strings.Repeat("x", 513)+" l->to d/c%1,3")
	want := map[string][2]int64{"d": {4096, 8}, "f": {513, 2}, "l": {2, 0}, "d/c": {0, 0}}
	check := func() {
		t.Helper()
		for p, w := range want {
			if a := m.attr(p); a.Size != w[0] || a.Blocks != w[1] {
				t.Errorf("%s: size %d, %d blocks; want %d", p, a.Size, a.Blocks, w)
			}
		}
	}
	check()
	for p := range want {
		m.set(p, SetAttr{Valid: SetUID, UID: 9})
	}
	check()
	if a := m.attr("d/c"); a.Rdev == 0 {
		t.Error("a device of the tree lost its number")
	}
}

func TestSizeErrors(t *testing.T) {
	m := over(t, "d/ p| f")
	var a Attr
	for p, want := range map[string]error{"d": syscall.EISDIR, "p": syscall.EINVAL} {
		if err := m.SetAttr(testCaller, m.node(p), &SetAttr{Valid: SetSize}, &a); err != want {
			t.Errorf("%s: %v, want %v", p, err, want)
		}
	}
	if err := m.SetAttr(testCaller, m.node("f"), &SetAttr{Valid: SetSize, Size: -1}, &a); err != syscall.EINVAL {
		t.Errorf("a negative size: %v", err)
	}
}

func TestTimeErrors(t *testing.T) {
	m := over(t, "f")
	before := m.attr("f")
	for _, s := range []SetAttr{
		{Valid: SetAtime, Atime: Time{0, 1e9}}, {Valid: SetMtime, Mtime: Time{0, 1e9}}, {Valid: SetCtime, Ctime: Time{0, 1<<32 - 1}},
	} {
		var a Attr
		if err := m.SetAttr(testCaller, m.node("f"), &s, &a); err != syscall.EINVAL {
			t.Errorf("%+v: %v", s, err)
		}
	}
	if got := m.attr("f"); got != before {
		t.Errorf("got %+v, want %+v", got, before)
	}
}

func TestNoSuchNode(t *testing.T) {
	m := over(t, "f")
	for _, n := range []Node{0, 3, FirstOwn - 1, FirstOwn, 1 << 40, 1<<64 - 1} {
		var a Attr
		_, readlink := m.Readlink(n)
		_, opened := m.OpenDir(n)
		_, looked := m.Lookup(n, "f", &a)
		for k, err := range []error{
			m.Attr(n, &a), m.SetAttr(testCaller, n, &SetAttr{Valid: SetMode}, &a), readlink, opened, looked,
			m.Create(testCaller, n, "x", Creation{}, &a), m.Link(n, RootNode, "x", &a), m.Unlink(n, "f"),
			m.Rename(testCaller, n, "f", RootNode, "g", 0), m.SetXattr(n, "user.a", nil, 0, false),
			m.RemoveXattr(n, "user.a"), m.EachXattr(n, func(string) bool { return true }),
		} {
			if !errors.Is(err, syscall.ESTALE) {
				t.Errorf("node %d, call %d: %v", n, k, err)
			}
		}
		m.Forget(n)
	}
}

// The record of a node of the tree says which one it is.
func TestOrigin(t *testing.T) {
	m := overFS(t, originTree(t))
	for _, p := range []string{"a", "a/b", "a/b/f", "x", "a/g"} {
		n := m.node(p)
		m.mu.RLock()
		i, err := m.copyOf(n)
		m.mu.RUnlock()
		if err != nil {
			t.Fatal(err)
		}
		var node index.Node
		if err := m.fs.Tree.Node(index.NodeID(n), &node); err != nil {
			t.Fatal(err)
		}
		want := origin{layer: uint32(node.Layer), header: node.Header}
		if node.Flags&index.FlagImplied != 0 {
			want.depth = uint32(strings.Count(p, "/")) + 1
		}
		if i.origin != want {
			t.Errorf("%s: %+v, want %+v", p, i.origin, want)
		}
	}
}

func originTree(t *testing.T) *unionfs.FS {
	return treeOf(t, tartest.Tar(t, "a/b/f x"), tartest.Tar(t, "a/g"))
}

// A symlink has no mode to change; its owner and times it has.
func TestModeOfSymlink(t *testing.T) {
	m := over(t, "low->to")
	m.must("symlink own to")
	for _, name := range []string{"low", "own"} {
		if got := m.do("chmod " + name + " 600"); got != "ENOTSUP" {
			t.Errorf("chmod of %s: %q", name, got)
		}
		if a := m.set(name, SetAttr{Valid: SetUID | SetMtime, UID: 5, Mtime: Time{7, 8}}); a.Mode&modeBits != 0o777 || a.UID != 5 || a.Mtime != (Time{7, 8}) {
			t.Errorf("%s: %+v", name, a)
		}
	}
}
