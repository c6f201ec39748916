// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/imgfs/imgfs/index"
)

// makeACL makes an xattr of an ACL in short text form, "u::rw-" without the
// letters that are not set: "u:rw u5:r g:r m:rw o:".
func makeACL(tb testing.TB, text string) []byte {
	tb.Helper()
	b := le.AppendUint32(nil, aclVersion)
	tags := map[string][2]uint16{"u": {aclUserObj, aclUser}, "g": {aclGroupObj, aclGroup}, "m": {aclMask}, "o": {aclOther}, "?": {3}}
	for _, word := range strings.Fields(text) {
		who, perms, _ := strings.Cut(word, ":")
		tag, id := tags[who[:1]][0], uint64(1<<32-1)
		if len(who) > 1 {
			var err error
			tag = tags[who[:1]][1]
			if id, err = strconv.ParseUint(who[1:], 10, 32); err != nil {
				tb.Fatal(err)
			}
		}
		perm := uint16(0)
		for _, c := range perms {
			perm |= map[rune]uint16{'r': 4, 'w': 2, 'x': 1, '?': 8}[c]
		}
		b = le.AppendUint16(b, tag)
		b = le.AppendUint16(b, perm)
		b = le.AppendUint32(b, uint32(id))
	}
	return b
}

// showACL is the other way round.
func showACL(value string) string {
	if value == "-" {
		return value
	}
	var s []string
	a := acl(value)
	for k := range a.len() {
		who := map[uint16]string{aclUserObj: "u", aclUser: "u", aclGroupObj: "g", aclGroup: "g", aclMask: "m", aclOther: "o"}[a.tag(k)]
		if a.tag(k) == aclUser || a.tag(k) == aclGroup {
			who += fmt.Sprint(le.Uint32(a[aclHead+aclEntry*k+4:]))
		}
		perms := ""
		for bit, c := range map[uint32]string{4: "r"} {
			if a.perm(k)&bit != 0 {
				perms += c
			}
		}
		if a.perm(k)&2 != 0 {
			perms += "w"
		}
		if a.perm(k)&1 != 0 {
			perms += "x"
		}
		s = append(s, who+":"+perms)
	}
	return strings.Join(s, " ")
}

func TestParseACL(t *testing.T) {
	for _, tt := range []struct {
		name, acl string
		want      error
	}{
		{"the three classes", "u:rwx g:rx o:", nil},
		{"named ones with a mask", "u:rwx u1:r u2:w g:rx g4: g3:x m:rwx o:r", nil},
		{"a mask alone", "u:rwx g:rx m:r o:", nil},
		{"named ones need a mask", "u:rwx u1:r g:rx o:", syscall.EINVAL},
		{"no owner", "g:rx o:", syscall.EINVAL},
		{"no group", "u:rx o:", syscall.EINVAL},
		{"no others", "u:rx g:", syscall.EINVAL},
		{"the owner twice", "u:rx u:r g: o:", syscall.EINVAL},
		{"the group twice", "u:rx g: g:r o:", syscall.EINVAL},
		{"the mask twice", "u:rx g: m: m: o:", syscall.EINVAL},
		{"others twice", "u:rx g: o: o:", syscall.EINVAL},
		{"a named one in the wrong place", "u:rx g: u5: m: o:", syscall.EINVAL},
		{"the mask before the group", "u:rx m: g: o:", syscall.EINVAL},
		{"something behind others", "u:rx g: o: m:", syscall.EINVAL},
		{"a permission that is none", "u:? g: o:", syscall.EINVAL},
		{"a tag that is none", "u: ?: g: o:", syscall.EINVAL},
		{"nothing stands for none", "", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := parseACL(makeACL(t, tt.acl)); err != tt.want {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
	good := makeACL(t, "u:rwx g:rx o:")
	for n := range len(good) {
		if _, err := parseACL(good[:n]); n != aclHead && err != syscall.EINVAL {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	good[0] = 3
	if _, err := parseACL(good); err != syscall.EOPNOTSUPP {
		t.Errorf("another version: %v", err)
	}
}

func FuzzParseACL(f *testing.F) {
	f.Add(makeACL(f, "u:rwx u1:r g:rx m:rw o:"))
	f.Add(makeACL(f, "u:rwx g:rx o:"))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := parseACL(b)
		if err != nil || a == nil {
			return
		}
		bits, _ := a.mode()
		if bits > 0o777 {
			t.Errorf("mode %o", bits)
		}
		c := append(acl(nil), a...)
		c.classes(func(k int, shift uint) { c.setPerm(k, bits>>shift) })
		if string(c) != string(a) {
			t.Errorf("an ACL that is given its own mode changes: %x, %x", a, c)
		}
	})
}

// An access ACL and the mode are two views of one thing.
func TestAccessACL(t *testing.T) {
	for _, tt := range []struct {
		name, acl string
		kill      bool
		mode      uint32
		want      string
	}{
		{"the mode shows the mask", "u:rw u5:rwx g:r m:rwx o:", false, 0o2670, "u:rw u5:rwx g:r m:rwx o:"},
		{"what a mode can say is not kept", "u:rwx g:x o:r", false, 0o2714, "-"},
		{"a mask is more than a mode says", "u:rw g:rwx m:r o:", false, 0o2640, "u:rw g:rwx m:r o:"},
		{"setgid goes when the kernel says so", "u:rw g:r m:r o:", true, 0o640, "u:rw g:r m:r o:"},
		{"an empty one is none, and the mode stays", "", false, 0o2755, "-"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := over(t, "f:2755")
			for range 2 {
				if err := m.SetXattr(m.node("f"), xattrAccess, makeACL(t, tt.acl), 0, tt.kill); err != nil {
					t.Fatal(err)
				}
				if got := m.attr("f").Mode & modeBits; got != tt.mode {
					t.Errorf("mode %o, want %o", got, tt.mode)
				}
				if got := showACL(m.xattrAt("f", xattrAccess)); got != tt.want {
					t.Errorf("ACL %q, want %q", got, tt.want)
				}
			}
			m.must("setxattr f user.other x")
			if got := showACL(m.xattrAt("f", xattrAccess)); got != tt.want {
				t.Errorf("beside another xattr: ACL %q, want %q", got, tt.want)
			}
		})
	}
	t.Run("one that says no more than the mode takes the old one away", func(t *testing.T) {
		m := over(t, "f")
		m.setXattr("f", xattrAccess, string(makeACL(t, "u:rw u5:r g:r m:r o:")))
		m.setXattr("f", xattrAccess, string(makeACL(t, "u:rw g:rw o:r")))
		if got := m.xattrAt("f", xattrAccess); got != "-" || m.attr("f").Mode != 0o100664 {
			t.Errorf("ACL %q, mode %o", got, m.attr("f").Mode)
		}
	})
	t.Run("chmod changes the mask", func(t *testing.T) {
		m := over(t, "f")
		m.setXattr("f", xattrAccess, string(makeACL(t, "u:rw u5:rwx g:r m:rwx o:")))
		m.must("chmod f 741")
		if got, want := showACL(m.xattrAt("f", xattrAccess)), "u:rwx u5:rwx g:r m:r o:x"; got != want || m.attr("f").Mode != 0o100741 {
			t.Errorf("ACL %q, mode %o; want %q", got, m.attr("f").Mode, want)
		}
	})
	t.Run("removing one leaves the mode", func(t *testing.T) {
		m := over(t, "f")
		m.setXattr("f", xattrAccess, string(makeACL(t, "u:rw u5:rwx g:r m:rwx o:")))
		if err := m.RemoveXattr(m.node("f"), xattrAccess); err != nil {
			t.Fatal(err)
		}
		if got := m.attr("f").Mode; got != 0o100670 {
			t.Errorf("mode %o", got)
		}
	})
}

func TestDefaultACL(t *testing.T) {
	for _, tt := range []struct {
		name, acl         string
		mode              uint32 // asked for; the umask is 077
		file, fileACL     string
		dir, dirACL, deft string
	}{
		{"without one the umask holds", "", 0o666, "600", "-", "600", "-", "-"},
		{"with one it does not", "u:rwx g:rwx o:rwx", 0o666, "666", "-", "666", "-", "u:rwx g:rwx o:rwx"},
		{"the mode asked for bounds it", "u:rwx u5:rwx g:rx m:rwx o:rx", 0o640, "640", "u:rw u5:rwx g:rx m:r o:", "640", "u:rw u5:rwx g:rx m:r o:", "u:rwx u5:rwx g:rx m:rwx o:rx"},
		{"it bounds the mode asked for", "u:r u5:rwx g:rx m:r o:", 0o777, "440", "u:r u5:rwx g:rx m:r o:", "440", "u:r u5:rwx g:rx m:r o:", "u:r u5:rwx g:rx m:r o:"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := over(t, "d/")
			d := m.node("d")
			if tt.acl != "" {
				m.setXattr("d", xattrDefault, string(makeACL(t, tt.acl)))
			}
			var a Attr
			for name, typ := range map[string]uint32{"f": index.ModeRegular, "s": index.ModeDir} {
				if err := m.Create(testCaller, d, name, Creation{Mode: typ | tt.mode, Umask: 0o77}, &a); err != nil {
					t.Fatal(err)
				}
				if got := m.attr("d/" + name); got != a {
					t.Errorf("%s: answered %+v, then %+v", name, a, got)
				}
			}
			got := []string{
				fmt.Sprintf("%o", m.attr("d/f").Mode&0o7777), showACL(m.xattrAt("d/f", xattrAccess)),
				fmt.Sprintf("%o", m.attr("d/s").Mode&0o7777), showACL(m.xattrAt("d/s", xattrAccess)), showACL(m.xattrAt("d/s", xattrDefault)),
				showACL(m.xattrAt("d/f", xattrDefault)),
			}
			want := []string{tt.file, tt.fileACL, tt.dir, tt.dirACL, tt.deft, "-"}
			for k := range want {
				if got[k] != want[k] {
					t.Errorf("got %q, want %q", got, want)
					break
				}
			}
			m.must("symlink d/l to")
			if got := m.attr("d/l").Mode; got != 0o120777 {
				t.Errorf("a symlink has mode %o", got)
			}
		})
	}
}

func TestACLErrors(t *testing.T) {
	m := over(t, "d/ f l->f")
	good, bad := makeACL(t, "u:rw u5:rwx g:r m:rwx o:"), makeACL(t, "u:rw u5:rwx g:r o:")
	for _, tt := range []struct {
		path, name string
		acl        []byte
		want       error
	}{
		{"f", xattrAccess, bad, syscall.EINVAL},
		{"d", xattrDefault, bad, syscall.EINVAL},
		{"f", xattrDefault, good, syscall.EACCES},
		{"f", xattrDefault, makeACL(t, ""), nil},
		{"l", xattrAccess, good, syscall.EOPNOTSUPP},
		{"l", xattrDefault, good, syscall.EOPNOTSUPP},
		{"d", xattrAccess, good, nil},
		{"d", xattrDefault, good, nil},
	} {
		before := m.attr(tt.path).Mode
		err := m.SetXattr(m.node(tt.path), tt.name, tt.acl, 0, false)
		if err != tt.want {
			t.Errorf("%s of %s: %v, want %v", tt.name, tt.path, err, tt.want)
		}
		if err != nil && m.attr(tt.path).Mode != before {
			t.Errorf("%s of %s changed the mode", tt.name, tt.path)
		}
	}
}
