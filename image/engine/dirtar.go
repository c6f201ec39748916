// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs/image/archive"
)

// A dirTar is the tar of a layer that has no other form: what a container has
// changed. It is made from the directory: parents first, names sorted, what
// overlayfs says by devices and xattrs said by whiteouts.
//
// It is as the directory was when it was first asked for. Of a file that is
// changed after that the content cannot be read any more.
type dirTar struct {
	store *dir
	name  string   // of the directory in the store
	base  string   // a directory of the same form that this is a changed copy of; "" = of none
	lower []string // the directories below it, the topmost first
	owner owner    // of a user's own store: who is root there
	dotWh bool     // who wrote it marks by names, as a layer does, where it cannot make devices
	opt   *Options

	lazyPieces
	identity string  // guarded by mu
	problems []error // guarded by mu
}

// newDirTar makes t, which is filled in, ready.
func newDirTar(t *dirTar) *dirTar {
	t.make = t.makeLocked
	return t
}

// Name returns the path of the directory.
func (t *dirTar) Name() string { return t.store.join(t.name) }

// Identity is a hash of all that the directory says of its files, with the
// times of their last change and their inodes, but not of their content.
func (t *dirTar) Identity() (string, error) {
	if _, err := t.get(context.Background()); err != nil {
		return "", err
	}
	return t.identity, nil
}

// EachUnreadable calls f for each file that cannot be read, and for what the
// tar cannot tell.
func (t *dirTar) EachUnreadable(ctx context.Context, f func(error)) error {
	p, err := t.get(ctx)
	if err != nil {
		return err
	}
	for _, problem := range t.problems {
		f(problem)
	}
	return p.eachUnreadable(ctx, f)
}

func (t *dirTar) makeLocked(ctx context.Context) (_ *pieces, err error) {
	root, err := t.store.sub(t.name)
	if err != nil {
		return nil, unreadable(t.Name(), err)
	}
	p, err := newPieces(root, t.opt.Temp)
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	p.store = t.store
	w := &dirWalk{t: t, ctx: ctx, root: root, p: p, first: make(map[[2]uint64]string), sum: sha256.New()}
	if t.base != "" {
		if w.base, err = t.store.sub(t.base); err == nil {
			defer w.base.Close()
		}
	}
	if err == nil {
		err = w.walk()
	}
	if err == nil {
		err = p.end()
	}
	if err != nil {
		return nil, errors.Join(err, p.Close(), root.Close())
	}
	t.problems = w.problems
	t.identity = fmt.Sprintf("directory %s %x", t.Name(), w.sum.Sum(nil))
	return p, nil
}

// A dirWalk makes a dirTar.
type dirWalk struct {
	t        *dirTar
	ctx      context.Context
	root     *dir
	base     *dir // nil = none
	p        *pieces
	first    map[[2]uint64]string // the first name of a file of several, by device and inode
	sum      hash.Hash
	problems []error
}

// Limits of a directory.
const (
	maxDepth    = 2048
	maxProblems = 1000
	maxXattrs   = 1 << 20 // bytes of all of a file
)

func (w *dirWalk) problem(at string, format string, args ...any) {
	if len(w.problems) < maxProblems {
		w.problems = append(w.problems, &UnreadableError{w.root.join(at), fmt.Errorf(format, args...)})
	}
}

func (w *dirWalk) walk() error {
	f, err := look(w.root, ".", "")
	if err != nil {
		return err
	}
	if !w.t.opt.Root && w.t.owner.uid == 0 && w.base == nil {
		w.problem("", "only root can read which directories replaced others (trusted.overlay.opaque): they are shown with what they replaced")
	}
	if err := w.entry(f); err != nil {
		return err
	}
	if err := w.dir("", 0); err != nil {
		return err
	}
	return w.p.raw(make([]byte, 1024))
}

// dir adds what is in the directory at: its names, then what is below them.
func (w *dirWalk) dir(at string, depth int) error {
	if depth > maxDepth {
		return malformed("%s: over %d directories deep", w.root.join(at), maxDepth)
	}
	d, err := w.root.sub(path.Join(".", at))
	if err != nil {
		w.problem(at, "cannot be listed: %w", cause(err))
		return nil
	}
	below, err := w.names(d, at)
	if err := errors.Join(err, d.Close()); err != nil {
		return err
	}
	for _, name := range below {
		if err := w.dir(path.Join(at, name), depth+1); err != nil {
			return err
		}
	}
	return nil
}

// names adds what is in d, which is the directory at, and returns the
// directories there.
func (w *dirWalk) names(d *dir, at string) (below []string, err error) {
	names, err := d.names(".")
	if err != nil {
		return nil, err
	}
	var base *dir
	if w.base != nil {
		if base, err = w.base.sub(path.Join(".", at)); err == nil {
			defer base.Close()
		}
	}
	if err := w.removed(base, at, names); err != nil {
		return nil, err
	}
	for _, name := range names {
		if err := w.ctx.Err(); err != nil {
			return nil, err
		}
		f, err := look(d, name, path.Join(at, name))
		switch {
		case errors.Is(err, fs.ErrNotExist): // removed meanwhile
			continue
		case err != nil:
			w.problem(path.Join(at, name), "%w", cause(err))
			continue
		}
		isDir, err := w.name(f, base, at, name)
		if err != nil {
			return nil, err
		}
		if isDir {
			below = append(below, name)
		}
	}
	return below, nil
}

// name adds one name of the directory at; isDir tells that there is more below.
func (w *dirWalk) name(f *found, base *dir, at, name string) (isDir bool, err error) {
	switch {
	case strings.HasPrefix(name, w.t.opt.Whiteout) && w.t.dotWh && f.isWhiteout():
		return false, nil // fuse-overlayfs hid a mark of its own
	case strings.HasPrefix(name, w.t.opt.Whiteout):
		if w.t.dotWh && f.typ() == unix.S_IFREG && f.st.Size == 0 {
			return false, w.mark(f.path)
		}
		w.problem(f.path, "a layer cannot show a name that begins %s", w.t.opt.Whiteout)
		return false, nil
	case f.isWhiteout():
		return false, w.mark(path.Join(at, w.t.opt.Whiteout+name))
	case base == nil || !isSame(f, base, name):
		err = w.entry(f)
	}
	return f.typ() == unix.S_IFDIR, err
}

// removed marks what the directory base had and names, those of the directory
// at, lack.
func (w *dirWalk) removed(base *dir, at string, names []string) error {
	if base == nil {
		return nil
	}
	had, err := base.names(".")
	if err != nil {
		return err
	}
	for _, name := range had {
		if _, there := slices.BinarySearch(names, name); !there {
			if err := w.mark(path.Join(at, w.t.opt.Whiteout+name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// mark adds an empty file: a whiteout.
func (w *dirWalk) mark(at string) error {
	return w.header(&tar.Header{Typeflag: tar.TypeReg, Name: at, Mode: 0o600, ModTime: time.Unix(0, 0)})
}

// cause returns err without the path that it was met at.
func cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// Problems returns what the bytes of a container's changes cannot tell of it.
func Problems(b archive.Bytes) []error {
	t, ok := b.(*dirTar)
	if !ok {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.problems
}
