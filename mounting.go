// SPDX-License-Identifier: Apache-2.0

package imgfs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/image/engine"
	"github.com/imgfs/imgfs/internal/control"
	"github.com/imgfs/imgfs/internal/control/mtab"
	"github.com/imgfs/imgfs/unionfs"
	"github.com/imgfs/imgfs/unionfs/mount"
)

// MountOptions say how an image is mounted. The zero value is a read-only
// mount, nosuid and nodev, for the user who makes it.
type MountOptions struct {
	OpenOptions

	Writable      bool   // takes changes, which go to an upper; an image file is verified first
	Upper         string // of this name, opened or made; empty: a new one, removed at the end if nothing changed
	Discard       bool   // remove the upper, which must be new, at the end
	NoPassthrough bool   // no reads and writes past the server: other file systems can be stacked on the mount

	MakeDir    bool // make the directory, and remove it again at unmount
	Nonempty   bool // also over a directory that is not empty
	AllowOther bool // let other users in
	Suid, Dev  bool // obey setuid bits and device nodes; root only
	Provenance bool // tell by xattrs which layer a file came from

	// View is what is shown instead of the whole image: "layers" (each layer by
	// itself, in a directory with its number), "deleted" (the same, but only
	// what later layers removed or hid) or "upto=N" (the layers to that one).
	// Empty: the image. Read-only mounts alone have views.
	View string

	UID, GID                         *uint32  // shown as every file's owner
	NoSymlinks, NoSpecials, NoXattrs bool     // leave these out
	Extra                            []string // further mount options

	Name  string   // of the image, for the list of mounts; empty: Image.Name
	Shown []string // options as they were given, for the list of mounts
	ID    string   // name in the register of mounts; empty: a new one
	Log   string   // path of the log, for the list of mounts
	Exits bool     // this process ends with the mount

	// Logf is told of what goes wrong while the mount is served. It may be called
	// from several goroutines.
	Logf func(format string, args ...any)
}

// A RefusedError says why a directory could not be mounted on.
type RefusedError struct {
	Dir    string
	Reason string
	Hint   string // the cure; may be empty
	Err    error  // the cause; may be nil
}

func (e *RefusedError) Error() string { return e.Dir + ": " + e.Reason }
func (e *RefusedError) Unwrap() error { return e.Err }

// A Mount is an image on a directory, served by this process.
type Mount struct {
	info   control.Info
	store  *Store
	img    *Image
	upper  *upperUse // nil: read-only
	server *mount.Server
	reg    *control.Server
	logf   func(format string, args ...any)

	verified   atomic.Bool
	damaged    atomic.Bool        // a layer was found not to be what its digests say
	stopVerify context.CancelFunc // returns when the verifying pass has ended
}

// Mount opens the image arg (see OpenImage), mounts it on dir and returns when
// the directory answers. An empty arg stands for the image of the upper. A mount whose server has died is taken off dir first.
// The error is a *RefusedError or *mount.Error if the image was not to blame.
// The mount is served, and holds the image's leases, until Wait returns.
//
// The process that calls Mount serves the mount. It must not itself map or
// execute files of it, nor fork with its working directory inside: a fault in
// such a page stops the thread that would have to answer it.
func (s *Store) Mount(ctx context.Context, arg, dir string, stdin io.Reader, opt MountOptions) (_ *Mount, err error) {
	if opt.Logf == nil {
		opt.Logf = func(string, ...any) {}
	}
	if arg == "" && opt.Upper != "" {
		if arg, opt.Name, err = s.imageOf(opt.Upper); err != nil {
			return nil, err
		}
	}
	path, made, err := s.mountPoint(arg, dir, &opt)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			removeMade(made)
		}
	}()
	open := opt.OpenOptions
	open.Verify = open.Verify || opt.Writable
	img, err := s.OpenImage(ctx, arg, stdin, open)
	if err != nil {
		return nil, err
	}
	if opt.View != "" {
		if err := s.setView(ctx, img, opt); err != nil {
			return nil, errors.Join(err, img.Close())
		}
	}
	m := &Mount{store: s, img: img, logf: opt.Logf, stopVerify: func() {}}
	m.verified.Store(!img.Unverified())
	if opt.Writable {
		if m.upper, err = s.useUpper(ctx, img, path, &opt); err != nil {
			return nil, errors.Join(err, img.Close())
		}
	}
	if err := m.serveAlone(path, made, s.Root(), &opt); err != nil {
		return nil, errors.Join(err, m.upper.end(), img.Close())
	}
	if err := ctx.Err(); err != nil {
		return nil, errors.Join(err, m.Unmount(true), m.Wait())
	}
	m.verifyBehind()
	return m, nil
}

// CheckDir returns the error that Mount would end with for dir before it looks at
// the image: a *RefusedError, or nil. For who has much to do before Mount.
func (s *Store) CheckDir(arg, dir string, opt MountOptions) error {
	_, made, err := s.mountPoint(arg, dir, &opt)
	if err == nil {
		removeMade(made)
	}
	return err
}

// serveAlone is serve while nobody else mounts there: of two commands that
// found the same directory free, one finds the other's mount here.
func (m *Mount) serveAlone(path string, made []string, store string, opt *MountOptions) error {
	if opt.Nonempty {
		return m.serve(path, made, store, opt)
	}
	release := lockPoint(path)
	defer release()
	if place, err := mtab.Locate(path); err == nil && place.IsOurs() {
		return &RefusedError{Dir: path, Reason: "has an imgfs mount already, of " + place.Mount.Source, Hint: hintMounted}
	}
	return m.serve(path, made, store, opt)
}

// pointTime is how long another command may take to mount. A lock that is held
// longer is somebody's joke, and is not waited for.
const pointTime = 2 * time.Second

// lockPoint locks the directory path against other commands that mount there,
// and returns what unlocks it. Where it cannot be opened there is no lock.
func lockPoint(path string) (release func()) {
	d, err := os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return func() {}
	}
	for end := time.Now().Add(pointTime); ; time.Sleep(5 * time.Millisecond) {
		err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil || err != syscall.EWOULDBLOCK && err != syscall.EINTR || time.Now().After(end) {
			return func() { d.Close() }
		}
	}
}

const hintMounted = "imgfs umount it first, or mount over it with -o nonempty"

// serve mounts and registers m.
func (m *Mount) serve(path string, made []string, store string, opt *MountOptions) error {
	dir, err := control.Prepare(control.Dirs())
	if err != nil {
		return err
	}
	id := opt.ID
	if id == "" {
		id = control.NewID()
	}
	reg, err := control.Listen(dir, id)
	if err != nil {
		return err
	}
	part, name, err := m.shown(opt)
	if err != nil {
		reg.Close()
		return err
	}
	mopt := mount.Options{
		Name:          name,
		AllowOther:    opt.AllowOther,
		Suid:          opt.Suid,
		Dev:           opt.Dev,
		Provenance:    opt.Provenance,
		UID:           opt.UID,
		GID:           opt.GID,
		NoSymlinks:    opt.NoSymlinks,
		NoSpecials:    opt.NoSpecials,
		NoXattrs:      opt.NoXattrs,
		Unverified:    !m.verified.Load(),
		NoPassthrough: opt.NoPassthrough,
		Extra:         opt.Extra,
		Nonempty:      true, // looked at already, and a mount below hides the answer
		Log:           opt.Logf,
	}
	var server *mount.Server
	if m.upper != nil {
		server, err = mount.MountUpper(path, m.upper.u, mopt)
	} else {
		server, err = mount.Mount(path, part, mopt)
	}
	if err != nil {
		reg.Close()
		return err
	}
	m.server, m.reg = server, reg
	m.info = control.Info{
		ID: id, Dir: path, Image: name, ImageID: m.img.ID.String(), Platform: m.img.Platform,
		Mode: "ro", Options: opt.Shown, PID: os.Getpid(), Since: time.Now().Truncate(time.Second),
		Log: opt.Log, Store: store, Made: made, Exits: opt.Exits,
	}
	if m.upper != nil {
		m.info.Mode, m.info.Upper = "rw", m.upper.name
	}
	if place, err := mtab.Locate(path); err == nil && place.IsOurs() {
		m.info.Device = place.Mount.Device
	}
	if err := reg.Publish(m); err != nil {
		err = errors.Join(err, mtab.Detach(path, true))
		server.Wait()
		reg.Close()
		return err
	}
	return nil
}

// shown returns what is mounted, the image or a part of it, and its name.
func (m *Mount) shown(opt *MountOptions) (*unionfs.FS, string, error) {
	name := cmp.Or(opt.Name, m.img.Name)
	if len(m.img.places) > 0 && opt.Name == "" { // a file
		abs, err := m.img.opened()
		if err != nil {
			return nil, "", err
		}
		name = abs
	}
	if m.img.Path == "" {
		return m.img.FS, name, nil
	}
	part, err := m.img.FS.Sub(m.img.Path)
	if err != nil {
		return nil, "", fmt.Errorf("%s:%s: %w", name, m.img.Path, errors.Unwrap(err))
	}
	return part, name + ":" + m.img.Path, nil
}

// verifyBehind checks the layers of an image opened in place while it is
// being read. What does not hold answers reads with an error, and what the
// kernel was given before a layer was settled is taken back.
func (m *Mount) verifyBehind() {
	if m.verified.Load() {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	m.stopVerify = func() { cancel(); <-done }
	go func() {
		defer close(done)
		defer cancel()
		err := m.img.verify(ctx, func(layer int) {
			m.server.DropLayer(layer)
			m.damaged.Store(m.img.Damaged())
		})
		switch {
		case err == nil:
			m.verified.Store(true)
		case ctx.Err() == nil:
			m.logf("verify %s: %v", m.img.Name, err)
		}
	}()
}

// Info describes the mount for the register.
func (m *Mount) Info() control.Info {
	info := m.info
	info.Verified, info.Damaged = m.verified.Load(), m.damaged.Load()
	if m.upper != nil {
		info.Changed = m.upper.changed()
	}
	return info
}

// Damaged reports whether a layer was found not to be what its digests say, so
// that its files cannot be read. It stays so; the mount is never Verified.
func (m *Mount) Damaged() bool { return m.damaged.Load() }

// Unmount takes the mount off its directory; Wait then returns. A lazy one
// goes from the directory at once and ends when its last user has left.
// errors.Is(err, syscall.EBUSY) tells that it is in use.
func (m *Mount) Unmount(lazy bool) error {
	if lazy {
		return mtab.Detach(m.info.Dir, true)
	}
	return m.server.Unmount()
}

// Busy returns the error of an Unmount with who keeps the mount busy.
func (m *Mount) Busy() *BusyError { return newBusyError(m.info.Dir, m.info.Device) }

// Wait returns when the mount is gone, whoever unmounted it, and all that it
// held is released.
func (m *Mount) Wait() error {
	m.server.Wait()
	m.stopVerify()
	removeMade(m.info.Made)
	err := errors.Join(m.upper.end(), m.img.Close())
	m.reg.Close()
	return err
}

// Upper returns the name of the upper of a writable mount and, once Wait has
// returned, whether it is still there: it is removed if nothing changed and
// nobody had named it, or if that was asked for.
func (m *Mount) Upper() (name string, kept bool) {
	if m.upper == nil {
		return "", false
	}
	return m.upper.name, m.upper.kept
}

// mountPoint finds out whether dir can be mounted on. It makes dir if that is
// asked for, and returns its path without symlinks and what it made.
func (s *Store) mountPoint(arg, dir string, opt *MountOptions) (path string, made []string, err error) {
	refuse := func(reason, hint string, err error) error {
		return &RefusedError{Dir: dir, Reason: reason, Hint: hint, Err: err}
	}
	place, err := clearDead(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if !opt.MakeDir {
			return "", nil, refuse("no such directory", "make it, or let --mkdir make it for as long as the mount lives", nil)
		}
		made, err = makeDirs(dir)
		if err != nil {
			return "", nil, refuse("cannot be made: "+cause(err), "", err)
		}
		defer func() {
			if err != nil {
				removeMade(made)
			}
		}()
		place, err = mtab.Locate(dir)
	}
	if err != nil {
		return "", made, refuse(cause(err), "", err)
	}
	if err := s.apart(arg, place.Path, refuse); err != nil {
		return "", made, err
	}
	if opt.Nonempty {
		return place.Path, made, nil
	}
	if place.IsOurs() {
		return "", made, refuse("has an imgfs mount already, of "+place.Mount.Source, hintMounted, nil)
	}
	switch empty, err := isEmpty(place.Path); {
	case errors.Is(err, fs.ErrPermission): // who may not look may perhaps mount
	case err != nil:
		return "", made, refuse(cause(err), "", err)
	case !empty:
		return "", made, refuse("is not empty", "-o nonempty mounts over it", nil)
	}
	return place.Path, made, nil
}

// healthTime is how long the server of a mount may take to show that it lives.
const healthTime = time.Second

// clearDead finds what is at dir and takes off imgfs mounts without a server.
func clearDead(dir string) (*mtab.Place, error) {
	for {
		place, err := mtab.Locate(dir)
		if err != nil || !place.IsOurs() || mtab.Check(place.Path, healthTime) != mtab.Dead {
			return place, err
		}
		if err := mtab.Detach(place.Path, true); err != nil {
			return nil, &RefusedError{
				Dir: dir, Reason: "has a mount whose server has ended, and it cannot be taken off: " + cause(err),
				Hint: "as root: umount -l it", Err: err,
			}
		}
	}
}

// isEmpty reports whether the directory path is empty.
func isEmpty(path string) (bool, error) {
	d, err := os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return false, err
	}
	defer d.Close()
	_, err = d.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
}

// apart refuses a mount that would hide what it is made of: a store or an
// image file below the mount point, and a mount inside the store.
func (s *Store) apart(arg, path string, refuse func(reason, hint string, err error) error) error {
	inside, err := isBelow(path, s.Root())
	if err != nil {
		return refuse(cause(err), "", err)
	}
	if inside {
		return refuse("lies inside the store "+s.Root(), "choose a directory elsewhere", nil)
	}
	below := []string{s.Root()}
	if l, ok := engine.Parse(arg, isDir); ok && isDir(l.Root) {
		below = append(below, l.Root)
	} else if src, _ := image.SplitPath(arg, isThere); src != "-" && isThere(src) {
		below = append(below, src)
	}
	for _, p := range below {
		inside, err := isBelow(p, path)
		if err != nil {
			return refuse(cause(err), "", err)
		}
		if inside {
			return refuse(p+" lies inside it and would be hidden", "choose a directory elsewhere", nil)
		}
	}
	return nil
}

func isThere(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// isBelow reports whether path is the directory dir or lies below it, also by
// way of symlinks and bind mounts. What of either does not exist yet is below
// nothing that does not exist.
func isBelow(path, dir string) (bool, error) {
	want, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	path, err = filepath.Abs(path)
	if err != nil {
		return false, err
	}
	for {
		real, err := filepath.EvalSymlinks(path)
		if err == nil {
			path = real
			break
		}
		if !errors.Is(err, fs.ErrNotExist) || path == "/" {
			return false, err
		}
		path = filepath.Dir(path)
	}
	for {
		if info, err := os.Stat(path); err == nil && os.SameFile(info, want) {
			return true, nil
		}
		if path == "/" {
			return false, nil
		}
		path = filepath.Dir(path)
	}
}

// makeDirs makes dir and what is missing above it. It returns what it made,
// outermost first.
func makeDirs(dir string) (made []string, err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	var missing []string
	for p := dir; !isThere(p) && p != "/"; p = filepath.Dir(p) {
		missing = append(missing, p)
	}
	for i := len(missing) - 1; i >= 0; i-- {
		switch err := os.Mkdir(missing[i], 0o755); {
		case errors.Is(err, fs.ErrExist): // somebody else was quicker: it is theirs
		case err != nil:
			removeMade(made)
			return nil, err
		default:
			made = append(made, missing[i])
		}
	}
	return made, nil
}

// removeMade removes directories that makeDirs made, unless they are in use.
func removeMade(made []string) {
	for i := len(made) - 1; i >= 0; i-- {
		if os.Remove(made[i]) != nil {
			return // not empty, or gone: then it is not ours to remove
		}
	}
}

// cause returns the text of err without the path that it was met at.
func cause(err error) string {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err.Error()
	}
	return fmt.Sprint(err)
}
