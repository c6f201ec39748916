// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs/index"
)

const user = 65534

// forUsers makes a mount in a directory that others reach.
func forUsers(t *testing.T, items []item, opt Options) string {
	t.Helper()
	if !isRoot() {
		t.Skip("root's: it needs a second user")
	}
	dir, _ := mountedUpper(t, newUpper(t, items), opt)
	for d := filepath.Dir(dir); d != "/" && d != os.TempDir(); d = filepath.Dir(d) {
		must(t, os.Chmod(d, 0o755))
	}
	must(t, os.Chmod(dir, 0o777))
	return dir
}

func mode(t *testing.T, path string) uint32 {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Lstat(path, &st))
	return st.Mode
}

var capability = []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")

// A write, a truncation, an allocation by who may not keep them clears setuid,
// setgid and capabilities, whatever way the content goes.
func TestUpperKillsPrivileges(t *testing.T) {
	ways(t, func(t *testing.T, opt Options) {
		items := []item{{path: "", mode: index.ModeDir | 0o777}}
		for _, name := range []string{"write", "truncate", "punch", "otrunc"} {
			items = append(items, item{path: "image-" + name, mode: index.ModeRegular | 0o6777, data: "some bytes",
				xattrs: []index.Xattr{{Name: capabilityXattr, Value: capability}}})
		}
		dir := forUsers(t, items, opt)
		h := newHelper(t, user)
		for _, kind := range []string{"image", "new"} {
			for op, do := range map[string]func(path string){
				"write":    func(path string) { h.do("write f 0 x") },
				"truncate": func(path string) { h.do("truncate f 3") },
				"punch":    func(path string) { h.do("punch f 0 4") },
				"otrunc":   func(path string) { h.do("open g trunc %s", path); h.do("close g") },
			} {
				path := fmt.Sprintf("%s/%s-%s", dir, kind, op)
				if kind == "new" {
					must(t, os.WriteFile(path, []byte("some bytes"), 0o777))
					must(t, unix.Chmod(path, 0o6777))
					must(t, unix.Setxattr(path, capabilityXattr, capability, 0))
				}
				h.do("open f rw %s", path)
				do(path)
				if m := mode(t, path) & 0o7777; m != 0o777 {
					t.Errorf("%s of %s: mode %o", op, kind, m)
				}
				if _, err := unix.Getxattr(path, capabilityXattr, nil); err != unix.ENODATA {
					t.Errorf("%s of %s: capabilities: %v", op, kind, err)
				}
				// Set while it is open for writing.
				must(t, unix.Chmod(path, 0o4777))
				must(t, unix.Setxattr(path, capabilityXattr, capability, 0))
				do(path)
				if m := mode(t, path) & 0o7777; m != 0o777 {
					t.Errorf("second %s of %s: mode %o", op, kind, m)
				}
				if _, err := unix.Getxattr(path, capabilityXattr, nil); err != unix.ENODATA {
					t.Errorf("second %s of %s: capabilities: %v", op, kind, err)
				}
				h.do("close f")
			}
		}
		// Root keeps them; a change of owner does not.
		path := dir + "/root"
		must(t, os.WriteFile(path, []byte("x"), 0o777))
		must(t, unix.Chmod(path, 0o4755))
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		must(t, err)
		_, err = f.Write([]byte("y"))
		must(t, err)
		must(t, f.Close())
		if m := mode(t, path) & 0o7777; m != 0o4755 {
			t.Errorf("root's write: mode %o", m)
		}
		must(t, unix.Setxattr(path, capabilityXattr, capability, 0))
		must(t, os.WriteFile(path, []byte("z"), 0))
		if m := mode(t, path) & 0o7777; m != 0o4755 {
			t.Errorf("root's write to a file with capabilities: mode %o", m)
		}
		if _, err := unix.Getxattr(path, capabilityXattr, nil); err != unix.ENODATA {
			t.Errorf("root's write: capabilities: %v", err)
		}
		must(t, os.Chown(path, 5, 5))
		if m := mode(t, path) & 0o7777; m != 0o755 {
			t.Errorf("chown: mode %o", m)
		}
		must(t, unix.Chmod(path, 0o6755))
		must(t, os.Chown(path, -1, -1))
		if m := mode(t, path) & 0o7777; m != 0o755 {
			t.Errorf("chown to nobody: mode %o", m)
		}
		must(t, os.WriteFile(dir+"/locks", []byte("some bytes"), 0o666))
		must(t, unix.Chmod(dir+"/locks", 0o2666)) // setgid that lets no group execute
		h.do("open f rw %s/locks", dir)
		h.do("write f 0 x")
		if m := mode(t, dir+"/locks") & 0o7777; m != 0o666 {
			t.Errorf("setgid of another's group: mode %o", m)
		}
		must(t, os.Chown(dir+"/locks", -1, user))
		must(t, unix.Chmod(dir+"/locks", 0o2666))
		h.do("write f 0 x")
		if m := mode(t, dir+"/locks") & 0o7777; m != 0o2666 {
			t.Errorf("setgid of one's own group: mode %o", m)
		}
		must(t, os.Mkdir(dir+"/d", 0o755))
		must(t, unix.Chmod(dir+"/d", 0o2755))
		must(t, os.Chown(dir+"/d", 7, -1))
		must(t, os.Chown(dir+"/d", -1, -1))
		if m := mode(t, dir+"/d") & 0o7777; m != 0o2755 {
			t.Errorf("chown of a directory: mode %o", m)
		}
	})
}

// What one way of reading left with the kernel is never shown by another after
// a change. A file goes from the image's to a data file's, from cached to
// passed through and back, in every order of opens.
func TestUpperStalePages(t *testing.T) {
	ways(t, func(t *testing.T, opt Options) {
		const size = 8192
		old := strings.Repeat("o", size)
		items := []item{{path: "", mode: index.ModeDir | 0o755}}
		for _, n := range []string{"a", "b", "c", "d", "e"} {
			items = append(items, item{path: n, mode: index.ModeRegular | 0o644, data: old})
		}
		dir, _ := mountedUpper(t, newUpper(t, items), opt)
		h := newHelper(t, 0)
		whole := func(name string) { // into the kernel's cache
			h.do("open x r %s/%s", dir, name)
			h.is(strconv.Quote(old), "read x 0 %d", size)
			h.do("close x")
		}
		t.Run("read, write, read", func(t *testing.T) {
			whole("a")
			h.do("open w rw %s/a", dir)
			h.do("write w 10 NEW")
			h.is(`"oNEWo"`, "read w 9 5")
			h.do("close w")
			h.do("open r r %s/a", dir)
			h.is(`"oNEWo"`, "read r 9 5")
			h.do("close r")
		})
		t.Run("a reader stays open", func(t *testing.T) {
			h.do("open r r %s/b", dir)
			h.is(`"oooo"`, "read r 0 4")
			h.do("mapr r 4096")
			h.do("open w rw %s/b", dir)
			h.do("write w 0 NEW")
			h.is(`"NEWo"`, "read r 0 4")
			h.is(`"NEWo"`, "load r 0 4")
			h.do("close w")
			h.do("open w rw %s/b", dir)
			h.do("write w 1 AAA")
			h.is(`"NAAA"`, "read r 0 4")
			h.is(`"NAAA"`, "load r 0 4")
			h.do("close r")
			h.do("write w 0 MAP")
			h.is(`"MAPA"`, "load r 0 4")
			h.do("close w")
			h.do("unmap r")
			h.do("open r r %s/b", dir)
			h.is(`"MAPA"`, "read r 0 4")
			h.do("close r")
		})
		t.Run("passed through, then cached", func(t *testing.T) {
			whole("c")
			h.do("open w trunc %s/c", dir) // its own now
			h.do("write w 0 first___")
			h.do("close w")
			h.do("open w rw %s/c", dir) // passed through
			h.do("write w 0 second")
			h.is(`"second__"`, "read w 0 8")
			h.do("close w")
			must(t, unix.Chmod(dir+"/c", 0o4755))
			h.do("open w rw %s/c", dir) // cached: a write must clear the bit
			h.is(`"second__"`, "read w 0 8")
			h.do("write w 0 THIRD")
			h.do("close w")
			must(t, unix.Chmod(dir+"/c", 0o755))
			h.do("open w rw %s/c", dir) // passed through again
			h.is(`"THIRDd__"`, "read w 0 8")
			h.do("write w 5 four")
			h.do("close w")
			must(t, unix.Chmod(dir+"/c", 0o4755))
			h.do("open w rw %s/c", dir)
			h.is(`"THIRDfour"`, "read w 0 20")
			h.do("open r r %s/c", dir)
			h.is(`"THIRDfour"`, "read r 0 20")
			h.do("close w")
			h.do("close r")
		})
		t.Run("truncated and punched", func(t *testing.T) {
			whole("d")
			h.do("open r r %s/d", dir)
			h.do("open w rw %s/d", dir)
			h.do("truncate w 5")
			h.do("truncate w 10")
			h.is(`"ooooo\x00\x00\x00\x00\x00"`, "read r 0 20")
			h.do("punch w 1 2")
			h.is(`"o\x00\x00oo\x00\x00\x00\x00\x00"`, "read r 0 20")
			h.do("close w")
			h.do("close r")
			h.do("open r r %s/d", dir)
			h.is(`"o\x00\x00oo\x00\x00\x00\x00\x00"`, "read r 0 20")
			h.do("close r")
		})
		t.Run("direct", func(t *testing.T) {
			whole("e")
			h.do("open r r %s/e", dir)
			h.do("open w direct %s/e", dir)
			h.do("fill w 4096 4096 D")
			h.is(`"oooDDDD"`, "read r 4093 7")
			h.do("close w")
			h.do("close r")
			h.do("open w direct %s/e", dir)
			h.do("fill w 0 4096 E")
			h.do("open r r %s/e", dir)
			h.is(`"EEEDDDD"`, "read r 4093 7")
			h.do("close w")
			h.do("close r")
		})
	})
}

// A store to a mapped file is content, and changes the times of the file.
func TestUpperMmap(t *testing.T) {
	ways(t, func(t *testing.T, opt Options) {
		dir, _ := mountedUpper(t, newUpper(t, everything()), opt)
		must(t, os.WriteFile(dir+"/new", []byte(strings.Repeat("n", 10000)), 0o644))
		past := []unix.Timespec{{Sec: 1000}, {Sec: 1000}}
		h := newHelper(t, 0)
		for _, name := range []string{"new", "suid"} {
			path := dir + "/" + name
			for _, closed := range []bool{false, true} {
				must(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, past, 0))
				h.is("1000000000000", "times - %s", path)
				h.do("open f rw %s", path)
				h.do("map f 8192")
				if closed {
					h.do("close f")
				}
				h.do("store f 4095 STORED%v", closed)
				h.do("msync f")
				before := h.ask("times - %s", path)
				if before == "1000000000000" {
					t.Errorf("%s, closed %v: mtime stays", name, closed)
				}
				time.Sleep(20 * time.Millisecond) // more than a tick of the clock
				h.do("store f 4095 STORED%v", closed)
				h.do("msync f")
				if after := h.ask("times - %s", path); before == after {
					t.Errorf("%s, closed %v: mtime stays at a second store", name, closed)
				}
				h.do("unmap f")
				if !closed {
					h.do("close f")
				}
				if got := h.ask("times - %s", path); got == "1000000000000" {
					t.Errorf("%s, closed %v, afterwards: mtime stays", name, closed)
				}
				h.do("open r r %s", path)
				h.is(strconv.Quote(fmt.Sprintf("STORED%v", closed)), "read r 4095 %d", len(fmt.Sprintf("STORED%v", closed)))
				h.do("close r")
			}
		}
	})
}

func TestUpperIoctl(t *testing.T) {
	dir, _ := mountedUpper(t, newUpper(t, everything()), Options{})
	must(t, os.WriteFile(dir+"/new", []byte("x"), 0o644))
	h := newHelper(t, 0)
	const shutdown, fitrim = 0x8004587d, 0xc0185879
	for _, name := range []string{"new", "suid"} {
		h.do("open f rw %s/%s", dir, name)
		for _, cmd := range []uint32{shutdown, fitrim} {
			h.is("ENOTTY", "ioctl f %d", cmd)
		}
		h.do("close f")
	}
}
