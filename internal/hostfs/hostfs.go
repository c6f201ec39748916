// SPDX-License-Identifier: Apache-2.0

// Package hostfs is the one writer of strangers' names to the host. What it
// is given (names, targets, modes, numbers) may be hostile: it writes below
// one directory that is held open as an os.Root, a name is one component, and
// no symlink below that directory is ever followed, whoever made it, also
// when another process swaps things meanwhile (os.Root then still confines).
//
// Without Options.Archive it makes no device nodes, sets no setuid, setgid or
// extended attributes and keeps the caller's owner; what it leaves out it
// says. It does not know images.
package hostfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrName marks a name that is not one component of a path.
var ErrName = errors.New("not a file name")

// A Meta is what a file has besides its content.
type Meta struct {
	Mode      uint32 // st_mode, its type bits count for Node only
	UID, GID  uint32
	Mtime     int64 // seconds
	MtimeNsec int64
	Xattrs    []Xattr
}

// An Xattr is an extended attribute.
type Xattr struct {
	Name  string
	Value []byte
}

// Options say how much of a Meta is written.
type Options struct {
	// Archive keeps owners, device nodes, setuid, setgid and extended
	// attributes as far as the caller may set them: all as root.
	Archive bool
	// LeftOut is told what was not written; path is relative to the Dir that
	// Open returned.
	LeftOut func(path, what string)
}

// state is what all directories of a writer share.
type state struct {
	Options
	noOwner bool // said that owners cannot be set
}

// A Dir is a directory that is written to. It is used by one goroutine.
type Dir struct {
	opt  *state
	top  *os.Root // of the directory that was opened first
	root *os.Root // this directory
	fd   *os.File // this directory
	path string   // relative to top
	meta *Meta    // what Finish sets; nil: the directory was there before
}

// Open returns the directory dir of the host to write in. Symlinks in dir are
// followed: it is the caller's own word.
func Open(dir string, opt Options) (*Dir, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	fd, err := root.Open(".")
	if err != nil {
		root.Close()
		return nil, err
	}
	if opt.LeftOut == nil {
		opt.LeftOut = func(string, string) {}
	}
	return &Dir{opt: &state{Options: opt}, top: root, root: root, fd: fd}, nil
}

// Path returns the path of name in d, relative to the Dir that Open returned.
func (d *Dir) Path(name string) string { return path.Join(d.path, name) }

// Close releases d. The attributes of a directory that was made stay 0700 if
// Finish was not called.
func (d *Dir) Close() error { return errors.Join(d.fd.Close(), d.root.Close()) }

// Finish gives a directory that Dir made its attributes. Nothing is written
// in it afterwards.
func (d *Dir) Finish() error {
	if d.meta == nil {
		return nil
	}
	return d.setAttributes(d.fd, d.path, d.meta, true)
}

// check returns ErrName for what is no name of an entry.
func check(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return &fs.PathError{Op: "create", Path: name, Err: ErrName}
	}
	return nil
}

// Dir makes the directory name, or enters the one that is there, whose
// attributes then stay. What is there and is no directory, also a symlink to
// one, is an error.
func (d *Dir) Dir(name string, meta *Meta) (*Dir, error) {
	if err := check(name); err != nil {
		return nil, err
	}
	sub := &Dir{opt: d.opt, top: d.top, path: d.Path(name)}
	switch err := d.root.Mkdir(name, 0o700); {
	case err == nil:
		sub.meta = meta
	case !errors.Is(err, fs.ErrExist):
		return nil, err
	}
	before, err := d.root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !before.IsDir() {
		return nil, &fs.PathError{Op: "mkdir", Path: sub.path, Err: fmt.Errorf("%s is in the way", kind(before))}
	}
	if sub.root, err = d.root.OpenRoot(name); err != nil {
		return nil, err
	}
	if sub.fd, err = sub.root.Open("."); err != nil {
		sub.root.Close()
		return nil, err
	}
	// OpenRoot follows a symlink inside the root: one that took the place of
	// the directory just now leads elsewhere.
	after, err := sub.fd.Stat()
	if err == nil && !os.SameFile(before, after) {
		err = &fs.PathError{Op: "open", Path: sub.path, Err: errors.New("changed while it was opened")}
	}
	if err != nil {
		sub.Close()
		return nil, err
	}
	return sub, nil
}

func kind(fi fs.FileInfo) string {
	switch fi.Mode().Type() {
	case 0:
		return "a file"
	case fs.ModeDir:
		return "a directory"
	case fs.ModeSymlink:
		return "a symlink"
	}
	return "a special file"
}

// File makes the regular file name of size bytes; fill writes its content,
// and what fill leaves out is a hole. A file, symlink or special file that is
// there is replaced when the new one is whole; a directory is an error.
func (d *Dir) File(name string, meta *Meta, size int64, fill func(io.WriterAt) error) (err error) {
	if err := check(name); err != nil {
		return err
	}
	exists, err := d.inWay(name)
	if err != nil {
		return err
	}
	f, at, err := d.create(name, exists)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			d.root.Remove(at)
		}
	}()
	if err := fill(f); err != nil {
		return err
	}
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if fi.Size() != size {
		if err := f.Truncate(size); err != nil {
			return err
		}
	}
	if err := d.setAttributes(f, d.Path(name), meta, false); err != nil {
		return err
	}
	if err := d.setTime(at, d.Path(name), meta); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if at == name {
		return nil
	}
	return d.root.Rename(at, name)
}

// create makes a new file: name, or one beside it if name is taken.
func (d *Dir) create(name string, taken bool) (f *os.File, at string, err error) {
	for range 16 {
		at = name
		if taken {
			at = fmt.Sprintf(".imgfs-%016x", rand.Uint64())
		}
		f, err = d.root.OpenFile(at, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if !taken || !errors.Is(err, fs.ErrExist) {
			break
		}
	}
	return f, at, err
}

// inWay reports whether something is called name; a directory is an error.
func (d *Dir) inWay(name string) (bool, error) {
	fi, err := d.root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case fi.IsDir():
		return true, &fs.PathError{Op: "create", Path: d.Path(name), Err: errors.New("a directory is in the way")}
	}
	return true, nil
}

// clear removes what is called name, if it is no directory.
func (d *Dir) clear(name string) error {
	if err := check(name); err != nil {
		return err
	}
	exists, err := d.inWay(name)
	if err != nil || !exists {
		return err
	}
	return d.root.Remove(name)
}

// Symlink makes a symlink. Its target is text: nothing asks where it leads.
func (d *Dir) Symlink(name, target string, meta *Meta) error {
	if err := d.clear(name); err != nil {
		return err
	}
	if err := d.root.Symlink(target, name); err != nil {
		return err
	}
	if d.opt.Archive {
		d.chown(d.Path(name), func() error { return d.root.Lchown(name, int(meta.UID), int(meta.GID)) })
	}
	if len(meta.Xattrs) > 0 {
		d.opt.LeftOut(d.Path(name), "extended attributes of a symlink")
	}
	return d.setTime(name, d.Path(name), meta)
}

// Link makes name another name of the file that this writer made at old, a
// result of Path. errors.Is(err, ErrNoLink) tells that the host cannot, and
// that a copy would do.
func (d *Dir) Link(name, old string) error {
	if err := d.clear(name); err != nil {
		return err
	}
	err := d.top.Link(old, d.Path(name))
	for _, no := range []error{unix.EMLINK, unix.EPERM, unix.EXDEV, unix.EOPNOTSUPP} {
		if errors.Is(err, no) {
			return fmt.Errorf("%w: %w", ErrNoLink, err)
		}
	}
	return err
}

// ErrNoLink marks a hard link that the host does not make.
var ErrNoLink = errors.New("no hard link")

// Node makes a FIFO or, with Options.Archive, a device node, and reports
// whether it did or left it out.
func (d *Dir) Node(name string, rdev uint32, meta *Meta) (made bool, err error) {
	if err := check(name); err != nil {
		return false, err
	}
	typ := meta.Mode & unix.S_IFMT
	switch {
	case typ == unix.S_IFIFO:
		rdev = 0
	case typ != unix.S_IFCHR && typ != unix.S_IFBLK, !d.opt.Archive:
		d.opt.LeftOut(d.Path(name), nodeName(typ, rdev))
		return false, nil
	}
	if err := d.clear(name); err != nil {
		return false, err
	}
	err = unix.Mknodat(int(d.fd.Fd()), name, typ|0o600, int(rdev))
	if errors.Is(err, unix.EPERM) {
		d.opt.LeftOut(d.Path(name), nodeName(typ, rdev))
		return false, nil
	}
	if err != nil {
		return false, &fs.PathError{Op: "mknod", Path: d.Path(name), Err: err}
	}
	owned := d.opt.Archive && d.chown(d.Path(name), func() error {
		return d.root.Lchown(name, int(meta.UID), int(meta.GID))
	})
	if err := d.root.Chmod(name, fileMode(d.mode(d.Path(name), meta, owned, false))); err != nil {
		return false, err
	}
	if len(meta.Xattrs) > 0 {
		d.opt.LeftOut(d.Path(name), "extended attributes of a special file")
	}
	return true, d.setTime(name, d.Path(name), meta)
}

func nodeName(typ, rdev uint32) string {
	what := "device"
	switch typ {
	case unix.S_IFCHR:
		what = "character device"
	case unix.S_IFBLK:
		what = "block device"
	case unix.S_IFSOCK:
		return "socket"
	}
	return fmt.Sprintf("%s %d,%d", what, unix.Major(uint64(rdev)), unix.Minor(uint64(rdev)))
}
