// SPDX-License-Identifier: Apache-2.0

package forensics

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/noatime"
)

// A dirTree is a directory of the host. What changes in it during a walk is
// met as it is then.
type dirTree struct {
	root   string
	unread func(error) // is told of directories that cannot be read; nil: they end a walk
}

// An UnreadError says that something below a directory of the host could not be
// read.
type UnreadError struct{ Err error }

func (e *UnreadError) Error() string { return e.Err.Error() }
func (e *UnreadError) Unwrap() error { return e.Err }

// TreeOfDir returns the tree below a directory of the host. Mounts below it are
// part of it.
func TreeOfDir(dir string) (Tree, error) {
	fi, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	if !fi.IsDir() {
		return nil, &fs.PathError{Op: "open", Path: dir, Err: unix.ENOTDIR}
	}
	// A symlink is the caller's own word and followed once.
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, err
	}
	return &dirTree{root: dir}, nil
}

func (t *dirTree) fill(e *Entry, path string) error {
	e.host = filepath.Join(t.root, path)
	var st unix.Stat_t
	if err := unix.Lstat(e.host, &st); err != nil {
		return &fs.PathError{Op: "lstat", Path: e.host, Err: err}
	}
	e.Path, e.Target, e.Layer, e.Header = path, "", -1, -1
	e.Mode, e.Nlink, e.UID, e.GID, e.Rdev = st.Mode, uint32(st.Nlink), st.Uid, st.Gid, uint32(st.Rdev)
	e.Size, e.Mtime, e.MtimeNsec = st.Size, st.Mtim.Sec, uint32(st.Mtim.Nsec)
	e.Ino = st.Ino
	switch e.Type() {
	case index.ModeDir:
		e.Size = 0
	case index.ModeSymlink:
		target, err := os.Readlink(e.host)
		if err != nil {
			return err
		}
		e.Target = target
	}
	return nil
}

// Walk implements Tree.
func (t *dirTree) Walk(ctx context.Context, f func(*Entry) error) error {
	var e Entry
	if err := t.fill(&e, ""); err != nil {
		return err
	}
	down, err := visit(&e, f)
	if err == nil && down {
		err = t.walk(ctx, "", &e, f)
	}
	return noSkip(err)
}

// walk walks what is in the directory path. e is for its entries.
func (t *dirTree) walk(ctx context.Context, path string, e *Entry, f func(*Entry) error) error {
	names, err := readNames(filepath.Join(t.root, path))
	if err != nil {
		return t.left(err)
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		at := joinPath(path, name)
		switch err := t.fill(e, at); {
		case errors.Is(err, fs.ErrNotExist): // removed meanwhile
			continue
		case err != nil:
			if err := t.left(err); err != nil {
				return err
			}
			continue
		}
		down, err := visit(e, f)
		if err == nil && down {
			err = t.walk(ctx, at, e, f)
		}
		if err != nil {
			return noSkip(err)
		}
	}
	return nil
}

// left tells of what cannot be read and is left out of a walk; the error is
// that nobody is to be told.
func (t *dirTree) left(err error) error {
	err = &UnreadError{err}
	if t.unread == nil {
		return err
	}
	t.unread(err)
	return nil
}

// readNames returns the names in a directory, sorted.
func readNames(dir string) ([]string, error) {
	d, err := noatime.Open(dir, unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return nil, err
	}
	names, err := d.Readdirnames(-1)
	if err := errors.Join(err, d.Close()); err != nil {
		return nil, err
	}
	slices.Sort(names)
	return names, nil
}

// Lookup implements Tree.
func (t *dirTree) Lookup(_ context.Context, path string) (*Entry, error) {
	path = cleanPath(path)
	for i := range len(path) { // a symlink on the way is not followed
		if path[i] != '/' {
			continue
		}
		if fi, err := os.Lstat(filepath.Join(t.root, path[:i])); err == nil && !fi.IsDir() {
			return nil, notExist(path)
		}
	}
	e := new(Entry)
	if err := t.fill(e, path); err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
			return nil, notExist(path)
		}
		return nil, err
	}
	return e, nil
}

// Open implements Tree. Nothing is followed or waited for: what has become
// another kind of file meanwhile is an error.
func (t *dirTree) Open(e *Entry) (io.ReaderAt, error) {
	if !e.IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: e.host, Err: unix.EINVAL}
	}
	f, err := noatime.Open(e.host, unix.O_NOFOLLOW|unix.O_NONBLOCK)
	if err != nil {
		return nil, &UnreadError{err}
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: e.host, Err: unix.EINVAL}
	}
	if err != nil {
		return nil, &UnreadError{errors.Join(err, f.Close())}
	}
	return hostFile{f}, nil
}

// A hostFile is an open file of the host.
type hostFile struct{ *os.File }

func (f hostFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(p, off)
	if err != nil && err != io.EOF {
		err = &UnreadError{err}
	}
	return n, err
}

// Hash implements Tree.
func (t *dirTree) Hash(ctx context.Context, e *Entry) ([sha256.Size]byte, error) {
	return hashContent(ctx, t, e)
}

// Xattrs implements Tree. A file system that has none has an empty list.
func (t *dirTree) Xattrs(e *Entry) ([]index.Xattr, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(e.host, buf)
	if errors.Is(err, unix.ENOTSUP) || n == 0 && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, &UnreadError{&fs.PathError{Op: "listxattr", Path: e.host, Err: err}}
	}
	names := strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00")
	slices.Sort(names)
	var list []index.Xattr
	for _, name := range names {
		n, err := unix.Lgetxattr(e.host, name, buf)
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, &UnreadError{&fs.PathError{Op: "getxattr", Path: e.host, Err: err}}
		}
		list = append(list, index.Xattr{Name: name, Value: slices.Clone(buf[:n])})
	}
	return list, nil
}
