// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"archive/tar"
	"bytes"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/imgfs/imgfs/unionfs"
)

// xattrTree has a file f with xattrs a and b.
func xattrTree(tb testing.TB) *unionfs.FS {
	tb.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	h := &tar.Header{Name: "f", Mode: 0o644, Format: tar.FormatPAX, PAXRecords: map[string]string{
		"SCHILY.xattr.user.a": "A", "SCHILY.xattr.user.b": "B", "SCHILY.xattr.security.capability": "c",
	}}
	if err := w.WriteHeader(h); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return treeOf(tb, b.Bytes())
}

func (m *mounted) xattrNames(p string) string {
	m.tb.Helper()
	var names []string
	if err := m.EachXattr(m.node(p), func(name string) bool { names = append(names, name); return true }); err != nil {
		m.tb.Fatal(err)
	}
	if !slices.IsSorted(names) {
		m.tb.Errorf("%s: %q are not sorted", p, names)
	}
	return strings.Join(names, " ")
}

func TestXattrs(t *testing.T) {
	m := overFS(t, xattrTree(t))
	check := func(names, a, b string) {
		t.Helper()
		for range 2 {
			if got := m.xattrNames("f"); got != names {
				t.Errorf("names %q, want %q", got, names)
			}
			if got := m.xattrAt("f", "user.a") + " " + m.xattrAt("f", "user.b"); got != a+" "+b {
				t.Errorf("values %q, want %q", got, a+" "+b)
			}
			m.remount()
		}
	}
	check("security.capability user.a user.b", "A", "B")
	m.setXattr("f", "user.a", "A2")
	check("security.capability user.a user.b", "A2", "B")
	if err := m.RemoveXattr(m.node("f"), "user.b"); err != nil {
		t.Fatal(err)
	}
	check("security.capability user.a", "A2", "-")
	m.set("f", SetAttr{Valid: KillPriv})
	check("user.a", "A2", "-")
	m.setXattr("f", "user.b", "")
	check("user.a user.b", "A2", "")
	m.must("chmod f 600")
	check("user.a user.b", "A2", "")
}

func TestXattrErrors(t *testing.T) {
	m := over(t, "f")
	n := m.node("f")
	m.setXattr("f", "user.is", "1")
	for _, tt := range []struct {
		name  string
		size  int
		flags uint32
		want  error
	}{
		{"user.is", 0, 1, syscall.EEXIST},
		{"user.no", 0, 2, syscall.ENODATA},
		{"user.is", 0, 4, syscall.EINVAL},
		{"user.", 0, 0, syscall.EINVAL},
		{"", 0, 0, syscall.ERANGE},
		{"user." + strings.Repeat("n", 251), 0, 0, syscall.ERANGE},
		{"user." + strings.Repeat("n", 250), 0, 0, nil},
		{"user.is", 64 << 10, 0, nil},
		{"user.is", 64<<10 + 1, 0, syscall.E2BIG},
		{"system.other", 0, 0, syscall.EOPNOTSUPP},
		{"nospace", 0, 0, syscall.EOPNOTSUPP},
		{"trusted.overlay.opaque", 1, 0, nil},
		{"security.selinux", 1, 0, nil},
	} {
		if err := m.SetXattr(n, tt.name, make([]byte, tt.size), tt.flags, false); err != tt.want {
			t.Errorf("%.20s, %d bytes, flags %d: %v, want %v", tt.name, tt.size, tt.flags, err, tt.want)
		}
	}
	if err := m.RemoveXattr(n, "user.no"); err != syscall.ENODATA {
		t.Error(err)
	}
}

func TestXattrLimits(t *testing.T) {
	t.Run("hundreds fit", func(t *testing.T) {
		m := over(t, "f")
		for k := range 900 {
			m.setXattr("f", fmt.Sprintf("user.%03d", k), strings.Repeat("v", 1000))
		}
		if got := strings.Count(m.xattrNames("f"), " ") + 1; got != 900 {
			t.Errorf("%d xattrs", got)
		}
	})
	t.Run("a mebibyte is the limit, and a smaller value always fits", func(t *testing.T) {
		m := over(t, "f")
		n := m.node("f")
		err := error(nil)
		for k := 0; err == nil; k++ {
			if k > 16 {
				t.Fatal("no limit")
			}
			err = m.SetXattr(n, fmt.Sprintf("user.%03d", k), make([]byte, 64<<10), 0, false)
		}
		if err != syscall.ENOSPC {
			t.Error(err)
		}
		m.setXattr("f", "user.000", "small")
		m.setXattr("f", "user.more", "fits")
	})
	t.Run("names are bounded by what a list may have", func(t *testing.T) {
		m := over(t, "f")
		n := m.node("f")
		var err error
		for k := 0; err == nil; k++ {
			err = m.SetXattr(n, fmt.Sprintf("user.%0250d", k), nil, 0, false)
		}
		if err != syscall.ENOSPC {
			t.Error(err)
		}
		if got := len(m.xattrNames("f")) + 1; got > 64<<10 || got < 63<<10 {
			t.Errorf("%d bytes of names", got)
		}
	})
}
