// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/internal/noatime"
)

// files are the named files of a source.
type files interface {
	// find returns the regular file called name, a path from the source's top
	// with slashes. The error wraps fs.ErrNotExist if there is none, and
	// image.ErrMalformed if the name or a link leads out of the source.
	find(name string) (*member, error)

	// names calls yield with each file's name, in no order. A directory has
	// none to tell.
	names(yield func(name string))

	io.Closer
}

// A member is one regular file of a source, in one piece.
type member struct {
	at   io.ReaderAt
	path string // the file on disk
	off  int64  // of the first byte, in at and in path
	size int64  // bytes

	// shadowed are the earlier members of the same name.
	shadowed *member
}

func (m *member) section() *io.SectionReader { return io.NewSectionReader(m.at, m.off, m.size) }

// bytes reads the whole member, which must be no larger than a document.
func (m *member) bytes() ([]byte, error) {
	if m.size > image.MaxDocument {
		return nil, fmt.Errorf("document of %d bytes: limit is %d: %w", m.size, image.MaxDocument, image.ErrMalformed)
	}
	b := make([]byte, m.size)
	if _, err := m.at.ReadAt(b, m.off); err != nil && !(err == io.EOF && m.size == 0) {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return b, nil
}

// checkName returns the components of a name that a document gave. Absolute
// names and names that climb are refused.
func checkName(name string) ([]string, error) {
	switch {
	case len(name) > maxName:
		return nil, fmt.Errorf("name %.50q… of %d bytes: limit is %d: %w", name, len(name), maxName, image.ErrMalformed)
	case name == "":
		return nil, fmt.Errorf("empty file name: %w", image.ErrMalformed)
	case path.IsAbs(name), strings.Contains(name, "\x00"):
		return nil, fmt.Errorf("name %q leads out of the archive: %w", name, image.ErrMalformed)
	}
	if clean := path.Clean(name); clean == ".." || strings.HasPrefix(clean, "../") {
		return nil, fmt.Errorf("name %q leads out of the archive: %w", name, image.ErrMalformed)
	}
	return strings.Split(name, "/"), nil
}

// dirFiles are the files under a directory. No symlink leads out of it: that
// is os.Root's promise.
type dirFiles struct {
	root *os.Root
	path string // absolute

	mu     sync.Mutex
	open   []*os.File // guarded by mu
	closed bool       // guarded by mu; goes false to true once
}

func (d *dirFiles) find(name string) (*member, error) {
	if _, err := checkName(name); err != nil {
		return nil, err
	}
	info, err := d.root.Stat(name)
	if err != nil {
		return nil, rootError(name, err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%q is not a regular file: %w", name, image.ErrMalformed)
	}
	return &member{
		at:   &lazyFile{dir: d, name: name, info: info},
		path: filepath.Join(d.path, filepath.FromSlash(name)),
		size: info.Size(),
	}, nil
}

// rootError tells an escape, which os.Root reports as an error of its own,
// from what the system reports.
func rootError(name string, err error) error {
	var errno syscall.Errno
	if errors.Is(err, fs.ErrNotExist) || errors.As(err, &errno) && errno != syscall.ELOOP && errno != syscall.ENOTDIR {
		return err
	}
	return fmt.Errorf("%q leads out of the directory: %w: %w", name, err, image.ErrMalformed)
}

func (d *dirFiles) names(func(string)) {}

func (d *dirFiles) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return os.ErrClosed
	}
	d.closed = true
	err := d.root.Close()
	for _, f := range d.open {
		err = errors.Join(err, f.Close())
	}
	return err
}

// lazyFile is a file of a directory that is opened by its first read: an
// index may name more blobs than a process may have descriptors.
type lazyFile struct {
	dir  *dirFiles
	name string
	info fs.FileInfo

	once sync.Once
	f    *os.File // set by once
	err  error    // set by once
}

func (l *lazyFile) ReadAt(p []byte, off int64) (int, error) {
	l.once.Do(func() { l.f, l.err = l.dir.openFile(l.name, l.info) })
	if l.err != nil {
		return 0, l.err
	}
	return l.f.ReadAt(p, off)
}

// openFile opens the file that find saw, and no other.
func (d *dirFiles) openFile(name string, info fs.FileInfo) (*os.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, os.ErrClosed
	}
	f, err := noatime.OpenIn(d.root, name, syscall.O_NONBLOCK)
	if err != nil {
		return nil, rootError(name, err)
	}
	now, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	if !os.SameFile(info, now) || now.Size() != info.Size() {
		f.Close()
		return nil, fmt.Errorf("%s: file changed since it was opened", filepath.Join(d.path, name))
	}
	d.open = append(d.open, f)
	return f, nil
}
