// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs/image"
)

// A dir is a directory of the host. Nothing outside of it is reached through
// it, whatever lies in it: names are resolved by openat2 beneath it.
type dir struct {
	f    *os.File
	path string // absolute
}

// openRoot opens the directory path, symlinks followed: that is the user's word.
func openRoot(path string) (*dir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return &dir{f, path}, nil
}

func (d *dir) Close() error { return d.f.Close() }

// An owner is a user and a group of the host.
type owner struct{ uid, gid uint32 }

func (d *dir) owner() (owner, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(d.f.Fd()), &st); err != nil {
		return owner{}, &fs.PathError{Op: "stat", Path: d.path, Err: err}
	}
	return owner{st.Uid, st.Gid}, nil
}

// join returns the path on the host of name.
func (d *dir) join(name string) string { return filepath.Join(d.path, path.Clean("/"+name)) }

// How names are resolved: documents without a symlink on the way, the content
// of an unpacked layer as in its container, where links lead no higher than its
// root.
const (
	strictly = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS
	inside   = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS
)

// openAt opens name. The last component is never followed.
func (d *dir) openAt(name string, flags int, resolve uint64) (*os.File, error) {
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC | unix.O_NOFOLLOW), Resolve: resolve}
	if flags&unix.O_PATH == 0 { // reading leaves no trace; a pipe does not hang us
		how.Flags |= unix.O_NONBLOCK | unix.O_NOATIME
	}
	fd, err := retried(func() (int, error) { return unix.Openat2(int(d.f.Fd()), name, &how) })
	if err == unix.EPERM && how.Flags&unix.O_NOATIME != 0 { // only its owner may ask for that
		how.Flags &^= unix.O_NOATIME
		fd, err = retried(func() (int, error) { return unix.Openat2(int(d.f.Fd()), name, &how) })
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: d.join(name), Err: err}
	}
	return os.NewFile(uintptr(fd), d.join(name)), nil
}

// retried calls f until it was not interrupted. A name that is renamed
// meanwhile makes openat2 say EAGAIN.
func retried(f func() (int, error)) (fd int, err error) {
	for range 100 {
		if fd, err = f(); err != unix.EINTR && err != unix.EAGAIN {
			break
		}
	}
	return fd, err
}

// open opens the regular file name of the store.
func (d *dir) open(name string) (*os.File, error) {
	f, err := d.openAt(name, unix.O_RDONLY, strictly)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = malformed("%s: not a regular file", d.join(name))
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// sub opens a directory of the store.
func (d *dir) sub(name string) (*dir, error) {
	f, err := d.openAt(name, unix.O_RDONLY|unix.O_DIRECTORY, strictly)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		err = malformed("%s: a symlink or a file, want a directory", d.join(name))
	}
	if err != nil {
		return nil, err
	}
	return &dir{f, d.join(name)}, nil
}

// has reports whether the store has name, of whatever kind.
func (d *dir) has(name string) bool {
	f, err := d.openAt(name, unix.O_PATH, strictly)
	if err == nil {
		f.Close()
	}
	return err == nil
}

// read reads a document of the store, at most limit bytes.
func (d *dir) read(name string, limit int64) ([]byte, error) {
	f, err := d.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(raw)) > limit {
		err = malformed("%s: over %d bytes", d.join(name), limit)
	}
	return raw, err
}

// readJSON reads a document of the store into v.
func (d *dir) readJSON(name string, v any) error {
	raw, err := d.read(name, maxDocument)
	if err != nil {
		return err
	}
	if err := unmarshal(raw, v); err != nil {
		return fmt.Errorf("%s: %w", d.join(name), err)
	}
	return nil
}

// names lists a directory of the store, sorted.
func (d *dir) names(name string) ([]string, error) {
	s, err := d.sub(name)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	list, err := s.f.Readdirnames(maxNames + 1)
	switch {
	case err != nil && err != io.EOF:
		return nil, err
	case len(list) > maxNames:
		return nil, malformed("%s: over %d names", s.path, maxNames)
	}
	slices.Sort(list)
	return list, nil
}

// stamp tells what a file is: another one has another stamp, and so has the
// same one after it was changed.
type stamp struct {
	Dev, Ino, Size, Mtime, Ctime int64 // times in nanoseconds
}

func stampOf(st *unix.Stat_t) stamp {
	return stamp{int64(st.Dev), int64(st.Ino), st.Size, st.Mtim.Nano(), st.Ctim.Nano()}
}

// stamp returns that of name of the store, a symlink not followed.
func (d *dir) stamp(name string) (stamp, error) {
	f, err := d.openAt(name, unix.O_PATH, strictly)
	if err != nil {
		return stamp{}, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return stamp{}, &fs.PathError{Op: "stat", Path: d.join(name), Err: err}
	}
	return stampOf(&st), nil
}

// An UnreadableError names a file of an unpacked layer whose content cannot be
// had. All others can be read. It is fs.ErrPermission where a right is missing,
// else image.ErrMalformed; it is never fs.ErrNotExist: that an engine lost a
// file does not say that the image lacks it.
type UnreadableError struct {
	Path string // on the host
	Err  error
}

func (e *UnreadableError) Error() string { return e.Path + ": " + e.Err.Error() }

// Is tells a missing right from damage.
func (e *UnreadableError) Is(target error) bool {
	if errors.Is(e.Err, fs.ErrPermission) {
		return target == fs.ErrPermission
	}
	return target == image.ErrMalformed
}

// unreadable makes err, about a file of an unpacked layer, an UnreadableError.
func unreadable(host string, err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	switch err {
	case unix.ENOENT, unix.ENOTDIR:
		err = errors.New("the store has lost this file")
	case unix.ELOOP:
		err = errors.New("a symlink has taken the place of this file")
	}
	return &UnreadableError{host, err}
}
