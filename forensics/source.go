// SPDX-License-Identifier: Apache-2.0

package forensics

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/unionfs"
)

// A Stack is what can be examined: a tree, and the layers that it is made of,
// base first. What has no layers, a directory of the host, has none here.
type Stack struct {
	Name     string // as it was asked for
	Tree     Tree
	Layers   []*Layer
	Path     string // where in the layers the tree's root is, relative; "" is their root
	Config   []byte // the config document; nil if there is none
	Manifest []byte // the manifest; nil if there is none

	// Closers are closed with the stack, the last first.
	Closers []io.Closer

	unread func(error)    // see OnUnread
	links  *unionfs.Links // found at the first need
}

// OnUnread has f be told of each file or directory of the host that cannot be
// read, and what is done go on without it. Without f the first one ends it.
func (s *Stack) OnUnread(f func(error)) {
	s.unread = f
	if t, ok := s.Tree.(*dirTree); ok {
		t.unread = f
	}
}

// passes tells f of OnUnread of an error that what could not be read is, and
// returns others.
func (s *Stack) passes(err error) error {
	if u := (*UnreadError)(nil); s.unread != nil && errors.As(err, &u) {
		s.unread(u)
		return nil
	}
	return err
}

// hash returns the sha256 of a file; ok is false for one that cannot be read.
func (s *Stack) hash(ctx context.Context, e *Entry) (sum [sha256.Size]byte, ok bool, err error) {
	if sum, err = s.Tree.Hash(ctx, e); err == nil {
		return sum, true, nil
	}
	return sum, false, s.passes(fmt.Errorf("%s: /%s: %w", s.Name, e.Path, err))
}

// xattrs returns the xattrs of an entry; ok is false if they cannot be read.
func (s *Stack) xattrs(e *Entry) (list []index.Xattr, ok bool, err error) {
	if list, err = s.Tree.Xattrs(e); err == nil {
		return list, true, nil
	}
	return nil, false, s.passes(fmt.Errorf("%s: /%s: %w", s.Name, e.Path, err))
}

// Close closes the layers and all that the stack holds open. Nothing may read
// it any more.
func (s *Stack) Close() error {
	var errs []error
	for _, l := range s.Layers {
		errs = append(errs, l.close())
	}
	for i := len(s.Closers) - 1; i >= 0; i-- {
		errs = append(errs, s.Closers[i].Close())
	}
	return errors.Join(errs...)
}

// Part returns what is at path of the stack, symlinks on the way followed inside
// it. It shares all that s holds open and is closed with it.
func (s *Stack) Part(ctx context.Context, path string) (*Stack, error) {
	real, err := Resolve(ctx, s.Tree, path)
	if err != nil || real == "" {
		return s, err
	}
	part := &Stack{Name: s.Name, Layers: s.Layers, Path: joinPath(s.Path, real), Config: s.Config, Manifest: s.Manifest}
	if t, ok := s.Tree.(interface{ sub(string) (Tree, error) }); ok {
		part.Tree, err = t.sub(real)
	} else {
		err = fmt.Errorf("%s: it has no parts", s.Name)
	}
	return part, err
}

// ErrNoLayer marks a layer that a stack does not have. It is fs.ErrNotExist,
// too.
var ErrNoLayer error = noLayerError{}

type noLayerError struct{}

func (noLayerError) Error() string        { return "no such layer" }
func (noLayerError) Is(target error) bool { return target == fs.ErrNotExist }

// FindLayer returns the place in s.Layers of the layer that which names: its
// number, its diffID or digest, or the first digits of one. The error is
// ErrNoLayer where there is none, or not just one.
func (s *Stack) FindLayer(which string) (int, error) {
	at := -1
	number, err := strconv.Atoi(which)
	isNumber := err == nil && len(which) < 6
	hex := strings.TrimPrefix(which, "sha256:")
	for k, l := range s.Layers {
		switch {
		case isNumber && l.Index == number:
			return k, nil
		case isNumber, len(hex) < 4, !strings.HasPrefix(l.DiffID, "sha256:"+hex) && !strings.HasPrefix(l.Digest, "sha256:"+hex):
		case at >= 0 && s.Layers[at].DiffID != l.DiffID:
			return 0, fmt.Errorf("layer %s: %w: it is the beginning of several", which, ErrNoLayer)
		case at < 0:
			at = k
		}
	}
	if at < 0 {
		return 0, fmt.Errorf("layer %s: %w: there are %d, the first is 0", which, ErrNoLayer, len(s.Layers))
	}
	return at, nil
}

// A Tree is one file system that does not change. It is safe for concurrent
// use.
type Tree interface {
	// Walk calls f for the root and all that is below it, in the order of a
	// walk. The entry is f's until it returns. An error of f ends the walk and
	// is returned; fs.SkipDir leaves a directory out, or of a directory that
	// holds a file what follows the file.
	Walk(ctx context.Context, f func(*Entry) error) error
	// Lookup returns the entry at a path. No symlink is followed. The error is
	// fs.ErrNotExist if there is none.
	Lookup(ctx context.Context, path string) (*Entry, error)
	// Open opens the content of a regular file. A Content that is an io.Closer
	// is closed by who opened it.
	Open(e *Entry) (io.ReaderAt, error)
	// Hash returns the sha256 of the content of a regular file.
	Hash(ctx context.Context, e *Entry) ([sha256.Size]byte, error)
	// Xattrs returns the extended attributes of an entry, sorted by name.
	Xattrs(e *Entry) ([]index.Xattr, error)
}

// An Entry is one name of a tree with its inode.
type Entry struct {
	Path      string // slash-separated, relative; "" is the root
	Mode      uint32 // st_mode; type 0 is a hard link whose target no tree of a single layer holds
	Nlink     uint32
	UID, GID  uint32
	Rdev      uint32 // devices, as stat(2) of Linux packs it
	Size      int64  // bytes; of a symlink the length of its target, of a directory 0
	Mtime     int64  // seconds
	MtimeNsec uint32
	Target    string // of a symlink, and of a hard link of type 0
	Ino       uint64 // the same for all hard links of a file

	Layer  int   // the layer that brought the inode; -1: none is known
	Header int64 // offset of its header in the uncompressed tar of that layer; -1: none

	node index.Node // of a table
	host string     // path on the host, of a directory
}

// Type returns the file type bits of the mode.
func (e *Entry) Type() uint32 { return e.Mode & index.ModeType }

// IsDir reports whether e is a directory.
func (e *Entry) IsDir() bool { return e.Type() == index.ModeDir }

// IsRegular reports whether e is a regular file.
func (e *Entry) IsRegular() bool { return e.Type() == index.ModeRegular }

// ModTime returns the time of the last change of content.
func (e *Entry) ModTime() time.Time { return time.Unix(e.Mtime, int64(e.MtimeNsec)) }

// Content returns the content of a regular file as it is read from a tree that
// was opened.
func Content(r io.ReaderAt, e *Entry) *io.SectionReader { return io.NewSectionReader(r, 0, e.Size) }

// ComparePaths compares two paths as a walk meets them.
func ComparePaths(a, b string) int {
	for i := 0; i < len(a) && i < len(b); i++ {
		if a[i] == b[i] {
			continue
		}
		switch {
		case a[i] == '/':
			return -1
		case b[i] == '/':
			return 1
		case a[i] < b[i]:
			return -1
		}
		return 1
	}
	return len(a) - len(b)
}

// A LayerSource opens what is kept of a layer. What it returns is the caller's
// to close.
type LayerSource interface {
	OpenTable(ctx context.Context) (*index.Layer, error)
	OpenHashes(ctx context.Context) (*index.Hashes, error)
	// OpenContent opens the uncompressed tar. What is an io.Closer is closed.
	OpenContent(ctx context.Context) (io.ReaderAt, error)
}

// A Layer is one layer of a stack, opened piece by piece at need. It is safe
// for concurrent use.
type Layer struct {
	Index     int            // 0 is the base
	DiffID    string         // sha256:… of the uncompressed tar; "" of an upper
	Digest    string         // sha256:… as shipped; "" if it was not
	MediaType string         // as the manifest says
	CreatedBy string         // the history's line, "" if it has none
	Created   time.Time      // of the step; zero if not known
	Size      int64          // bytes as shipped
	TarSize   int64          // bytes, uncompressed; 0 if not known
	Oddities  []index.Oddity // of the blob; the table has those of the tar
	Key       string         // layers of one key have the same bytes, verified; "" is like no other

	src LayerSource

	mu      sync.Mutex
	table   *index.Layer  // guarded by mu
	hashes  *index.Hashes // guarded by mu
	unread  error         // guarded by mu; why there will be no hashes
	content io.ReaderAt   // guarded by mu
}

// NewLayer returns a layer that is opened by src. The caller fills in what is
// known of it.
func NewLayer(i int, src LayerSource) *Layer { return &Layer{Index: i, src: src} }

// Table returns the table of the layer, which is open as long as the stack is.
func (l *Layer) Table(ctx context.Context) (*index.Layer, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.table == nil {
		t, err := l.src.OpenTable(ctx)
		if err != nil {
			return nil, l.error(err)
		}
		l.table = t
	}
	return l.table, nil
}

// Hashes returns the content hashes of the layer, made first where there are
// none, which reads the whole layer. They are open as long as the stack is.
func (l *Layer) Hashes(ctx context.Context) (*index.Hashes, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.unread != nil {
		return nil, l.unread
	}
	if l.hashes == nil {
		h, err := l.src.OpenHashes(ctx)
		if err != nil {
			err = l.error(err)
			if u := (*UnreadError)(nil); errors.As(err, &u) {
				l.unread = err
			}
			return nil, err
		}
		l.hashes = h
	}
	return l.hashes, nil
}

// Content returns the uncompressed tar of the layer, which is open as long as
// the stack is.
func (l *Layer) Content(ctx context.Context) (io.ReaderAt, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.content == nil {
		c, err := l.src.OpenContent(ctx)
		if err != nil {
			return nil, l.error(err)
		}
		l.content = c
	}
	return l.content, nil
}

// error names the layer, unless err does.
func (l *Layer) error(err error) error {
	if name := fmt.Sprintf("layer %d: ", l.Index+1); !strings.HasPrefix(err.Error(), name) {
		return fmt.Errorf("%s%w", name, err)
	}
	return err
}

func (l *Layer) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	if c, ok := l.content.(io.Closer); ok {
		errs = append(errs, c.Close())
	}
	if l.hashes != nil {
		errs = append(errs, l.hashes.Close())
	}
	if l.table != nil {
		errs = append(errs, l.table.Close())
	}
	l.table, l.hashes, l.content = nil, nil, nil
	return errors.Join(errs...)
}

// cleanPath returns a path of a tree in the form of Entry.Path.
func cleanPath(p string) string {
	var names []string
	for name := range strings.SplitSeq(p, "/") {
		switch name {
		case "", ".":
		case "..":
			names = names[:max(0, len(names)-1)]
		default:
			names = append(names, name)
		}
	}
	return strings.Join(names, "/")
}

// joinPath returns the path of name in dir.
func joinPath(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

func notExist(path string) error {
	return &fs.PathError{Op: "open", Path: "/" + path, Err: syscall.ENOENT}
}
