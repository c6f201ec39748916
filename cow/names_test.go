// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs/index"
)

// do runs one command of a test's script and returns what it answers, as an
// errno's name or "".
func (m *mounted) do(line string) string {
	m.tb.Helper()
	w := strings.Fields(line)
	err := m.run(w[0], w[1:])
	var errno syscall.Errno
	switch {
	case err == nil:
		return ""
	case errors.Is(err, os.ErrNotExist) && !errors.As(err, &errno):
		return "ENOENT"
	case errors.As(err, &errno):
		return unix.ErrnoName(errno)
	}
	return err.Error()
}

// at returns the directory that a path's name is to be in.
func (m *mounted) at(p string) (Node, string, error) {
	dir, name := path.Split(p)
	n, err := m.walk(dir)
	return n, strings.ReplaceAll(name, "LONG", strings.Repeat("x", 256)), err
}

var testCaller = Caller{UID: 1, GID: 2}

func (m *mounted) run(verb string, args []string) error {
	dir, name, err := m.at(args[0])
	if err != nil {
		return err
	}
	var a Attr
	create := func(mode uint32, target string) error {
		return m.Create(testCaller, dir, name, Creation{Mode: mode, Target: target, Umask: 0o22}, &a)
	}
	var newDir Node
	var newName string
	if verb == "rename" || verb == "link" {
		if newDir, newName, err = m.at(args[1]); err != nil {
			return err
		}
	}
	node := func() Node {
		if name == "" {
			return dir
		}
		if _, err = m.Lookup(dir, name, &a); err == nil && a.Node == 0 {
			err = syscall.ENOENT
		}
		return a.Node
	}
	switch verb {
	case "mkdir":
		return create(index.ModeDir|0o777, "")
	case "touch":
		return create(index.ModeRegular|0o666, "")
	case "fifo":
		return create(index.ModeFIFO|0o666, "")
	case "symlink":
		return create(index.ModeSymlink, args[1])
	case "rm":
		return m.Unlink(dir, name)
	case "rmdir":
		return m.Rmdir(dir, name)
	case "link":
		n := node()
		if err != nil {
			return err
		}
		return m.Link(n, newDir, newName, &a)
	case "rename":
		flags := uint32(0)
		for _, f := range args[2:] {
			flags |= map[string]uint32{"noreplace": 1, "exchange": 2, "whiteout": 4}[f]
		}
		return m.Rename(testCaller, dir, name, newDir, newName, flags)
	case "chmod":
		mode, err := strconv.ParseUint(args[1], 8, 32)
		if err != nil {
			return err
		}
		return m.SetAttr(testCaller, node(), &SetAttr{Valid: SetMode, Mode: uint32(mode)}, &a)
	case "setxattr":
		return m.SetXattr(node(), args[1], []byte(args[2]), 0, false)
	case "remount":
		m.remount()
		return nil
	}
	return fmt.Errorf("no command %q", verb)
}

// "cmd: ERRNO" is a command that must fail.
func TestNames(t *testing.T) {
	for _, tt := range []struct{ name, layer, ops, want string }{
		{"what is not changed is as in the tree", "d/ d/f l->d p|", "", "d/ d/f l->d p|"},
		{"new names stand beside the tree's", "d/ d/f", "touch d/g; mkdir d/e; touch d/e/h; symlink s x/y; fifo d/p", "d/ d/e/ d/e/h d/f d/g d/p| s->x/y"},
		{"a name is made once", "d/ f", "touch f: EEXIST; mkdir d: EEXIST; touch g; symlink g x: EEXIST; link f d: EEXIST", "d/ f g"},
		{"what is no directory has no names", "f", "touch f/g: ENOTDIR; rm f/g: ENOTDIR; touch e; touch e/g: ENOTDIR", "e f"},
		{"a name has 255 bytes", "d/", "touch d/LONG: ENAMETOOLONG; mkdir LONG: ENAMETOOLONG; rename d LONG: ENAMETOOLONG; link d LONG: ENAMETOOLONG; rm LONG: ENAMETOOLONG", "d/"},
		{"a symlink leads somewhere", "", "symlink s " + strings.Repeat("t", 4096) + ": ENAMETOOLONG; symlink s " + strings.Repeat("t", 4095), "s->" + strings.Repeat("t", 4095)},
		{"unlink of a name of the tree", "d/ d/f d/g", "rm d/f; rm d/f: ENOENT", "d/ d/g"},
		{"unlink of a new name", "d/", "touch d/f; rm d/f; rm d/f: ENOENT", "d/"},
		{"a name comes back", "d/ d/f", "rm d/f; mkdir d/f; touch d/f/g", "d/ d/f/ d/f/g"},
		{"unlink spares directories, rmdir all else", "d/ f", "rm d: EISDIR; rmdir f: ENOTDIR; rm x: ENOENT; rmdir x: ENOENT", "d/ f"},
		{"a directory goes when it is empty", "d/ d/e/ d/e/f", "rmdir d: ENOTEMPTY; rmdir d/e: ENOTEMPTY; rm d/e/f; rmdir d: ENOTEMPTY; rmdir d/e; rmdir d", ""},
		{"a directory of the tree that was refilled is not empty", "d/ d/f", "rm d/f; touch d/g; rmdir d: ENOTEMPTY", "d/ d/g"},
		{"a new directory in the place of the tree's shows nothing of it", "d/ d/f", "rm d/f; rmdir d; mkdir d; touch d/h", "d/ d/h"},
		{"links to a file of the tree", "d/ f", "link f d/g; link d/g h", "d/ d/g(3) f(3) h(3)"},
		{"one of several names of the tree goes", "f g=>f h=>f", "rm f; rm h", "g"},
		{"directories are not linked", "d/", "link d e: EPERM; mkdir x; link x y: EPERM", "d/ x/"},
		{"link to nothing", "", "link f g: ENOENT", ""},

		{"rename of a file", "d/ f", "rename f d/g", "d/ d/g"},
		{"rename to nothing's place", "", "rename f g: ENOENT", ""},
		{"rename over a file", "d/ f g", "rename f g; touch h; rename h g", "d/ g"},
		{"rename over one of two names keeps the other", "f g h=>g", "rename f g", "g h"},
		{"rename to the same name does nothing", "f", "rename f f", "f"},
		{"rename to another name of the same file does nothing", "f g=>f", "rename f g; rename f g exchange", "f(2) g(2)"},
		{"rename of a directory takes along what is in it", "d/ d/e/ d/e/f g/", "rename d/e g/e; rename g h", "d/ h/ h/e/ h/e/f"},
		{"rename over an empty directory", "d/ d/f e/", "rename d e", "e/ e/f"},
		{"rename over an emptied directory", "d/ d/f e/ e/g", "rename d e: ENOTEMPTY; rm e/g; rename d e", "e/ e/f"},
		{"rename keeps files and directories apart", "d/ f e/ e/g", "rename f d: EISDIR; rename d f: ENOTDIR", "d/ e/ e/g f"},
		{"a directory does not go into itself", "d/ d/e/", "rename d d/x: EINVAL; rename d d/e/x: EINVAL; rename d d/e: EINVAL; rename d/e d: ENOTEMPTY", "d/ d/e/"},
		{"a file does not replace a directory above it", "d/ d/e/ d/e/f", "rename d/e/f d: ENOTEMPTY", "d/ d/e/ d/e/f"},
		{"a directory that moved is not a directory of where it was", "d/ d/e/ g/", "rename d/e g/e; rename g d/g; rename d d/g/e/x: EINVAL", "d/ d/g/ d/g/e/"},
		{"noreplace", "f g", "rename f g noreplace: EEXIST; rename f h noreplace; rename h h noreplace: EEXIST", "g h"},
		{"exchange of files", "d/ d/f g", "rename d/f g exchange; rm g", "d/ d/f"},
		{"exchange of a file and a directory", "d/ d/e/ d/e/x f", "rename d/e f exchange", "d/ d/e f/ f/x"},
		{"exchange of directories", "a/ a/b/ a/b/x c/ c/d/ c/d/y", "rename a/b c/d exchange", "a/ a/b/ a/b/y c/ c/d/ c/d/x"},
		{"exchange needs both", "f", "rename f g exchange: ENOENT; rename g f exchange: ENOENT", "f"},
		{"exchange of a directory with what is in it", "d/ d/e/", "rename d d/e exchange: EINVAL; rename d/e d exchange: EINVAL", "d/ d/e/"},
		{"flags that contradict", "f g", "rename f g exchange noreplace: EINVAL; rename f g exchange whiteout: EINVAL", "f g"},
		{"whiteout", "d/ d/f", "rename d/f g whiteout", "d/ d/f%0 g"},
		{"whiteout of a directory", "d/ d/e/ d/e/x", "rename d/e g whiteout; rename d/e d/h whiteout noreplace", "d/ d/e%0 d/h%0 g/ g/x"},
		{"a name of the tree that moves away and back", "d/ d/f", "rename d/f g; rename g d/f", "d/ d/f"},
		{"a new name over a name of the tree that moves on", "f", "touch g; rename g f; rename f h; touch f", "f h"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := over(t, tt.layer)
			for _, op := range strings.Split(tt.ops, ";") {
				if op == "" {
					continue
				}
				op, want, _ := strings.Cut(strings.TrimSpace(op), ": ")
				if got := m.do(op); got != want {
					t.Errorf("%s: got %q, want %q", op, got, want)
				}
			}
			if got := show(m); got != tt.want {
				t.Errorf("\n got %q\nwant %q", got, tt.want)
			}
			m.remount()
			if got := show(m); got != tt.want {
				t.Errorf("after a remount\n got %q\nwant %q", got, tt.want)
			}
		})
	}
}
