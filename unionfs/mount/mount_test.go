// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs/index"
)

// everything has each type and attribute.
func everything() []item {
	return []item{
		{path: "", mode: index.ModeDir | 0o755, mtime: 1e9},
		{path: "dir", mode: index.ModeDir | 0o2750, uid: 5, gid: 6, mtime: -1, nsec: 999999999, layer: 1},
		{path: "dir/file", mode: index.ModeRegular | 0o640, uid: 1000, gid: 1001, mtime: 1234567890, nsec: 123456789, data: "hello, world\n", layer: 1},
		{path: "dir/hard", link: "dir/file"},
		{path: "dir/sub", mode: index.ModeDir | 0o755},
		{path: "dir/sub/deep", mode: index.ModeRegular | 0o644, data: "deep"},
		{path: "suid", mode: index.ModeRegular | 0o4755, data: strings.Repeat("0123456789abcdef", 40000)},
		{path: "empty", mode: index.ModeRegular | 0o600},
		{path: "link", mode: index.ModeSymlink | 0o777, target: "dir/file"},
		{path: "null", mode: index.ModeChar | 0o666, rdev: uint32(unix.Mkdev(1, 3))},
		{path: "zero00", mode: index.ModeChar},
		{path: "disk", mode: index.ModeBlock | 0o660, gid: 6, rdev: uint32(unix.Mkdev(259, 70000))},
		{path: "pipe", mode: index.ModeFIFO | 0o622},
		{path: "sock", mode: index.ModeSocket | 0o755},
		{path: "tmp", mode: index.ModeDir | 0o1777, mtime: 1 << 34},
		{path: "odd\nname\xff \\", mode: index.ModeRegular | 0o644, mtime: -5e9, nsec: 7},
		{path: "capable", mode: index.ModeRegular | 0o755, xattrs: []index.Xattr{
			{Name: "security.capability", Value: []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")},
			{Name: "user.empty", Value: nil},
			{Name: "user.word", Value: []byte("value")},
		}},
		{path: "sparse", mode: index.ModeRegular | 0o644, size: 10 << 20, data: strings.Repeat("x", 8192),
			extents: []index.Extent{{Off: 1 << 20, Len: 4096, Data: 0}, {Off: 5 << 20, Len: 4096, Data: 4096}}},
		{path: "hole", mode: index.ModeRegular | 0o644, size: 1 << 20, extents: []index.Extent{}},
	}
}

func TestLstat(t *testing.T) {
	items := everything()
	dir := mounted(t, newFS(t, items), Options{})
	nlink := map[string]uint64{"": 4, "dir": 3, "dir/sub": 2, "tmp": 2, "dir/file": 2}
	ino := uint64(0)
	for _, it := range items {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, it.path), &st); err != nil {
			t.Errorf("%q: %v", it.path, err)
			continue
		}
		if it.link != "" {
			var other unix.Stat_t
			if err := unix.Lstat(filepath.Join(dir, it.link), &other); err != nil || other.Ino != st.Ino || other.Nlink != st.Nlink {
				t.Errorf("%q is not one inode with %q: %d, %d (%v)", it.path, it.link, st.Ino, other.Ino, err)
			}
			continue
		}
		ino++
		size, blocks := int64(len(it.data)), int64(len(it.data)+511)/512
		switch {
		case it.mode&index.ModeType == index.ModeDir:
			size, blocks = 4096, 8
		case it.mode&index.ModeType == index.ModeSymlink:
			size = int64(len(it.target))
		case it.extents != nil:
			size = it.size
		}
		links := max(nlink[it.path], 1)
		got := []any{st.Mode, st.Uid, st.Gid, st.Mtim, st.Ctim, st.Atim, st.Rdev, st.Size, st.Blocks, uint64(st.Nlink), st.Ino, int64(st.Blksize)}
		ts := unix.Timespec{Sec: it.mtime, Nsec: int64(it.nsec)}
		want := []any{it.mode, shownID(it.uid), shownID(it.gid), ts, ts, ts, uint64(it.rdev), size, blocks, links, ino, int64(4096)}
		for i := range got {
			if got[i] != want[i] {
				t.Errorf("%q: value %d is %v, want %v", it.path, i, got[i], want[i])
			}
		}
	}
}

func TestContent(t *testing.T) {
	items := everything()
	dir := mounted(t, newFS(t, items), Options{})
	for _, it := range items {
		switch {
		case it.link != "" || it.extents != nil:
		case it.mode&index.ModeType == index.ModeRegular:
			b, err := os.ReadFile(filepath.Join(dir, it.path))
			if err != nil || string(b) != it.data {
				t.Errorf("%q: %d bytes, want %d (%v)", it.path, len(b), len(it.data), err)
			}
		case it.mode&index.ModeType == index.ModeSymlink:
			to, err := os.Readlink(filepath.Join(dir, it.path))
			if err != nil || to != it.target {
				t.Errorf("%q leads to %q, want %q (%v)", it.path, to, it.target, err)
			}
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, "absent")); !os.IsNotExist(err) {
		t.Errorf("absent: %v", err)
	}
	if err := unix.Access(filepath.Join(dir, strings.Repeat("n", 255)), 0); err != unix.ENOENT {
		t.Errorf("a name of 255 bytes: %v", err)
	}
	if err := unix.Access(filepath.Join(dir, strings.Repeat("n", 256)), 0); err != unix.ENAMETOOLONG {
		t.Errorf("a name of 256 bytes: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "empty/x")); err == nil || err.(*os.PathError).Err != unix.ENOTDIR {
		t.Errorf("empty/x: %v", err)
	}
}

// shownID returns what a number becomes in a namespace that maps root alone.
func shownID(id uint32) uint32 {
	if c := currentCredentials(); id != 0 && c.root && !c.ownsIDs {
		return 65534
	}
	return id
}
