// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"
)

// A found is a name of the directory, with what the host says of it.
type found struct {
	path   string // from the root of the layer; "" is that
	st     unix.Stat_t
	target string // of a symlink
	xattrs map[string]string
}

func (f *found) typ() uint32 { return f.st.Mode & unix.S_IFMT }

// has reports whether an xattr of overlayfs or fuse-overlayfs has a value; "*"
// is any.
func (f *found) has(name, value string) bool {
	got, ok := f.xattr(name)
	return ok && (value == "*" || got == value)
}

// xattr returns an xattr of overlayfs or fuse-overlayfs.
func (f *found) xattr(name string) (value string, ok bool) {
	for _, space := range []string{"trusted.overlay.", "user.overlay.", "user.fuseoverlayfs."} {
		if value, ok = f.xattrs[space+name]; ok {
			return value, true
		}
	}
	return "", false
}

// isWhiteout reports whether it stands for a name that is gone.
func (f *found) isWhiteout() bool {
	return f.typ() == unix.S_IFCHR && f.st.Rdev == 0 ||
		f.typ() == unix.S_IFREG && f.st.Size == 0 && f.has("whiteout", "*")
}

// look tells what the host says of a name in the directory d, whose path from
// the root of the layer is at.
func look(d *dir, name, at string) (*found, error) {
	f := &found{path: at}
	fd := int(d.f.Fd())
	if err := unix.Fstatat(fd, name, &f.st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: d.join(name), Err: err}
	}
	if f.typ() == unix.S_IFLNK {
		buf := make([]byte, 4097)
		n, err := unix.Readlinkat(fd, name, buf)
		if err != nil {
			return nil, &fs.PathError{Op: "readlink", Path: d.join(name), Err: err}
		}
		f.target = string(buf[:n])
	}
	var err error
	if f.xattrs, err = xattrsOf(fmt.Sprintf("/proc/self/fd/%d/%s", fd, name), true); err != nil {
		err = &fs.PathError{Op: "getxattr", Path: d.join(name), Err: err}
	}
	return f, err
}

// xattrsOf returns the xattrs of what is at a path, a symlink there followed or,
// with link, not.
func xattrsOf(path string, link bool) (map[string]string, error) {
	list, get := unix.Listxattr, unix.Getxattr
	if link {
		list, get = unix.Llistxattr, unix.Lgetxattr
	}
	buf := make([]byte, 64<<10)
	n, err := list(path, buf)
	if err == unix.ENOTSUP || n == 0 && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	all, total := make(map[string]string), 0
	for name := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		value := make([]byte, 64<<10)
		n, err := get(path, name, value)
		if err == unix.ENODATA || err == unix.EPERM || err == unix.EACCES {
			continue
		}
		if err != nil {
			return nil, err
		}
		if total += n; total > maxXattrs {
			return nil, unix.E2BIG
		}
		all[name] = string(value[:n])
	}
	return all, nil
}

// isSame reports whether the directory base has the same file.
func isSame(f *found, base *dir, name string) bool {
	b, err := look(base, name, f.path)
	if err != nil {
		return false
	}
	x, y := f.st, b.st
	same := x.Mode == y.Mode && x.Uid == y.Uid && x.Gid == y.Gid && x.Rdev == y.Rdev && f.target == b.target &&
		x.Mtim == y.Mtim && (f.typ() == unix.S_IFDIR || x.Size == y.Size && x.Nlink == y.Nlink) && len(f.xattrs) == len(b.xattrs)
	for name, value := range f.xattrs {
		same = same && b.xattrs[name] == value
	}
	return same
}
