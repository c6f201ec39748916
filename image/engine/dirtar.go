// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
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

	mu       sync.Mutex
	pieces   *pieces // guarded by mu; nil before the first need, then it never changes
	failed   error   // guarded by mu; why there will be none
	identity string  // guarded by mu
	problems []error // guarded by mu
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

// Size returns the size of the tar.
func (t *dirTar) Size(ctx context.Context) (int64, error) {
	p, err := t.get(ctx)
	if err != nil {
		return 0, err
	}
	return p.size, nil
}

// ReadAt reads the tar. A file that cannot be read is an UnreadableError.
func (t *dirTar) ReadAt(b []byte, off int64) (int, error) {
	p, err := t.get(context.Background())
	if err != nil {
		return 0, err
	}
	return p.ReadAt(b, off)
}

// Headers reads the tar with zeros where the content of files is.
func (t *dirTar) Headers() io.ReaderAt { return headerReader{t.get} }

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

// Close closes what is open.
func (t *dirTar) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.pieces
	t.pieces, t.failed = nil, os.ErrClosed
	if p == nil {
		return nil
	}
	return errors.Join(p.Close(), p.root.Close())
}

func (t *dirTar) get(ctx context.Context) (*pieces, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pieces != nil || t.failed != nil {
		return t.pieces, t.failed
	}
	err := t.makeLocked(ctx)
	if err != nil && ctx.Err() == nil {
		t.failed = err
	}
	return t.pieces, err
}

func (t *dirTar) makeLocked(ctx context.Context) (err error) {
	root, err := t.store.sub(t.name)
	if err != nil {
		return unreadable(t.Name(), err)
	}
	p, err := newPieces(root, t.opt.Temp)
	if err != nil {
		return errors.Join(err, root.Close())
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
		return errors.Join(err, p.Close(), root.Close())
	}
	t.pieces, t.problems = p, w.problems
	t.identity = fmt.Sprintf("directory %s %x", t.Name(), w.sum.Sum(nil))
	return nil
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

func (w *dirWalk) walk() error {
	f, err := look(w.root, ".", "")
	if err != nil {
		return err
	}
	if err := w.entry(f); err != nil {
		return err
	}
	if err := w.dir("", 0); err != nil {
		return err
	}
	return w.p.raw(make([]byte, 1024))
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

// entry adds what f is.
func (w *dirWalk) entry(f *found) error {
	h := &tar.Header{
		Name: f.path, Mode: int64(f.st.Mode & 0o7777), Uid: int(f.st.Uid), Gid: int(f.st.Gid),
		ModTime: time.Unix(f.st.Mtim.Unix()),
	}
	if w.t.owner.uid != 0 {
		if f.st.Uid == w.t.owner.uid {
			h.Uid = 0
		}
		if f.st.Gid == w.t.owner.gid {
			h.Gid = 0
		}
	}
	w.identify(f)
	mode := w.override(f, h)
	w.setXattrs(f, h)
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return w.directory(f, h)
	case unix.S_IFSOCK:
		return nil // a tar has none
	case unix.S_IFLNK:
		h.Typeflag, h.Linkname = tar.TypeSymlink, f.target
	case unix.S_IFCHR:
		h.Typeflag = tar.TypeChar
	case unix.S_IFBLK:
		h.Typeflag = tar.TypeBlock
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	default:
		h.Typeflag = tar.TypeReg
	}
	if h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock {
		if h.Devmajor == 0 && h.Devminor == 0 {
			h.Devmajor, h.Devminor = int64(unix.Major(f.st.Rdev)), int64(unix.Minor(f.st.Rdev))
		}
	}
	if f.st.Nlink > 1 {
		key := [2]uint64{f.st.Dev, f.st.Ino}
		if first, ok := w.first[key]; ok {
			return w.header(&tar.Header{Typeflag: tar.TypeLink, Name: f.path, Linkname: first, ModTime: h.ModTime})
		}
		w.first[key] = f.path
	}
	if h.Typeflag != tar.TypeReg {
		return w.header(h)
	}
	return w.file(f, h)
}

// directory adds a directory, and the mark of an opaque one.
func (w *dirWalk) directory(f *found, h *tar.Header) error {
	h.Typeflag, h.Name = tar.TypeDir, f.path+"/"
	if f.path == "" {
		h.Name = "./"
	}
	if f.has("redirect", "*") {
		w.problem(f.path, "was moved here by overlayfs: what lower layers have in it is not shown")
	}
	if err := w.header(h); err != nil || !f.has("opaque", "y") {
		return err
	}
	return w.mark(path.Join(f.path, w.t.opt.Opaque))
}

// file adds a regular file with its content.
func (w *dirWalk) file(f *found, h *tar.Header) error {
	flags, name, st := byte(0), f.path, stampOf(&f.st)
	if f.has("metacopy", "*") {
		flags = fromStore
		var ok bool
		if name, st, ok = w.below(f); !ok {
			w.problem(f.path, "only its attributes were changed, and its content is not found below it (overlayfs metacopy)")
			flags, name, st = 0, f.path, elsewhere
		}
	}
	h.Size = f.st.Size
	if err := w.header(h); err != nil {
		return err
	}
	if err := w.p.fileOf(flags, name, h.Size, st); err != nil {
		return err
	}
	return w.p.raw(make([]byte, -h.Size&511))
}

// below finds the file of a lower layer that has the content of f, of which
// overlayfs copied the attributes alone. Its name is one in the store.
func (w *dirWalk) below(f *found) (name string, st stamp, ok bool) {
	at := f.path
	if to, moved := f.xattr("redirect"); moved {
		if at = path.Clean("/" + to); !strings.HasPrefix(to, "/") {
			at = path.Join(path.Dir(f.path), path.Base(to))
		}
	}
	for _, lower := range w.t.lower {
		name = path.Join(lower, path.Clean("/"+at))
		file, err := w.t.store.openAt(name, unix.O_PATH, strictly)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", st, false
		}
		var l found
		err = unix.Fstat(int(file.Fd()), &l.st)
		if err == nil {
			l.xattrs, err = xattrsOf(fmt.Sprintf("/proc/self/fd/%d", file.Fd()), false)
		}
		file.Close()
		switch {
		case err != nil, l.typ() != unix.S_IFREG:
			return "", st, false
		case l.has("metacopy", "*"): // as it is there, too
			continue
		}
		return name, stampOf(&l.st), l.st.Size == f.st.Size
	}
	return "", st, false
}

// header adds a header, by which the tar is known, too.
func (w *dirWalk) header(h *tar.Header) error {
	h.Format = tar.FormatPAX
	var b bytes.Buffer
	if err := tar.NewWriter(&b).WriteHeader(h); err != nil {
		w.problem(h.Name, "a tar cannot tell it: %w", err)
		h.Size = 0
		return nil
	}
	w.sum.Write(b.Bytes())
	return w.p.raw(b.Bytes())
}

// identify adds what a header does not say to what the tar is known by.
func (w *dirWalk) identify(f *found) {
	fmt.Fprintf(w.sum, "%v\n", stampOf(&f.st))
}

// override reads what rootless engines note of a file that they cannot make as
// it is, "UID:GID:MODE[:TYPE]", and returns its mode with the type.
func (w *dirWalk) override(f *found, h *tar.Header) (mode uint32) {
	mode = f.st.Mode
	var text string
	for _, name := range []string{"user.containers.override_stat", "user.fuseoverlayfs.override_stat", "security.fuseoverlayfs.override_stat"} {
		if v, ok := f.xattrs[name]; ok {
			text = v
			break
		}
	}
	if text == "" {
		return mode
	}
	parts := strings.Split(strings.TrimRight(text, "\x00"), ":")
	if len(parts) < 3 {
		w.problem(f.path, "override_stat %.100q: want UID:GID:MODE", text)
		return mode
	}
	uid, err1 := strconv.ParseUint(parts[0], 10, 32)
	gid, err2 := strconv.ParseUint(parts[1], 10, 32)
	bits, err3 := strconv.ParseUint(parts[2], 8, 32)
	if err := errors.Join(err1, err2, err3); err != nil {
		w.problem(f.path, "override_stat %.100q: want UID:GID:MODE", text)
		return mode
	}
	h.Uid, h.Gid, h.Mode = int(uid), int(gid), int64(bits&0o7777)
	if len(parts) < 4 {
		return mode
	}
	types := map[string]uint32{
		"dir": unix.S_IFDIR, "file": unix.S_IFREG, "symlink": unix.S_IFLNK, "pipe": unix.S_IFIFO,
		"socket": unix.S_IFSOCK, "block": unix.S_IFBLK, "char": unix.S_IFCHR,
	}
	kind, numbers, _ := strings.Cut(parts[3], "-")
	typ, ok := types[kind]
	if !ok || typ == unix.S_IFDIR != (f.typ() == unix.S_IFDIR) || typ == unix.S_IFLNK && f.typ() != unix.S_IFLNK {
		return mode
	}
	if major, minor, ok := strings.Cut(numbers, "-"); ok {
		h.Devmajor, _ = strconv.ParseInt(major, 10, 32)
		h.Devminor, _ = strconv.ParseInt(minor, 10, 32)
	}
	return typ
}

// setXattrs takes the xattrs over that are the file's own.
func (w *dirWalk) setXattrs(f *found, h *tar.Header) {
	for name, value := range f.xattrs {
		switch {
		case strings.HasPrefix(name, "trusted.overlay."), strings.HasPrefix(name, "user.overlay."),
			strings.HasPrefix(name, "user.fuseoverlayfs."), strings.HasPrefix(name, "security.fuseoverlayfs."),
			name == "user.containers.override_stat", name == "security.selinux":
			continue // the engine's and the host's
		case strings.Contains(name, "="):
			w.problem(f.path, "a layer cannot hold an xattr with = in its name: %.100q", name)
			continue
		}
		if h.PAXRecords == nil {
			h.PAXRecords = make(map[string]string)
		}
		h.PAXRecords["SCHILY.xattr."+name] = value
	}
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
