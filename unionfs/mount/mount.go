// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/unionfs"
	"github.com/imgfs/imgfs/unionfs/mount/devfuse"
)

// A Server is a living mount.
type Server struct {
	dir     string // canonical
	direct  bool   // by mount(2)
	mountID uint64 // as in mountinfo; 0 = the kernel does not tell
	dev     uint64 // st_dev

	what served
	fuse *devfuse.Server

	gone   chan struct{} // closed when the kernel asks no more; ends the warm-up
	warmed chan struct{} // closed at the end of the warm-up
	served chan struct{} // closed when both are over
}

// Available returns nil if this process can mount, else the *Error that Mount
// would return for want of /dev/fuse, fusermount3 or a right.
func Available() error {
	c := currentCredentials()
	if c.canMount {
		conn, err := openDevice()
		if err != nil {
			return err
		}
		return conn.Close()
	}
	_, err := checkHelper(c)
	return err
}

// Mount serves f at dir and returns when the directory answers. The error is
// an *Error where something that can be cured is in the way. f must stay as it
// is until Wait returns; its table is warmed meanwhile.
func Mount(dir string, f *unionfs.FS, opt Options) (*Server, error) {
	opt.writable = false
	return attachServer(dir, &opt, func(set *settings) (served, error) {
		v := newTree(f, &opt)
		return served{raw: v, fs: f, read: v.read, begin: v.begin, options: devfuse.Options{
			MaxWrite:     set.maxRead, // limits reads too
			Capabilities: capabilities(set.allowOther && v.xattrs),
		}}, nil
	})
}

// capabilities returns what every mount asks of the kernel (fuse.CAP_*). Where
// modes are enforced, ACLs are. READDIRPLUS is always asked for, never by the
// kernel's guess. ALLOW_IDMAP is not: with it most requests do not tell who asks.
func capabilities(acl bool) uint64 {
	const all = fuse.CAP_ASYNC_READ | fuse.CAP_BIG_WRITES | fuse.CAP_FILE_OPS | fuse.CAP_READDIRPLUS |
		fuse.CAP_NO_OPEN_SUPPORT | fuse.CAP_NO_OPENDIR_SUPPORT | fuse.CAP_PARALLEL_DIROPS | fuse.CAP_MAX_PAGES |
		fuse.CAP_RENAME_SWAP | fuse.CAP_CACHE_SYMLINKS | fuse.CAP_EXPLICIT_INVAL_DATA |
		fuse.CAP_EXPORT_SUPPORT
	if acl {
		return all | fuse.CAP_POSIX_ACL
	}
	return all
}

// served is what a mount shows.
type served struct {
	raw     fuse.RawFileSystem
	fs      *unionfs.FS     // the tree, or what lies below the upper
	read    readNodes       // nil unless layers are still to be verified
	options devfuse.Options // what the kernel is told
	begin   func(kernel)    // called before the first request
	end     func()          // called after the last one; may be nil
}

// attachServer mounts what prepare returns for the options in the form that the
// kernel takes.
func attachServer(dir string, opt *Options, prepare func(*settings) (served, error)) (*Server, error) {
	if opt.Log == nil {
		opt.Log = defaultLog
	}
	s, err := mount(dir, opt, prepare)
	if e := (*Error)(nil); errors.As(err, &e) {
		e.Path = dir
	}
	return s, err
}

func mount(dir string, opt *Options, prepare func(*settings) (served, error)) (*Server, error) {
	c := currentCredentials()
	set, err := opt.settings(c)
	if err != nil {
		return nil, err
	}
	path, err := checkPoint(dir, opt.Nonempty || slices.Contains(opt.Extra, "nonempty"))
	if err != nil {
		return nil, err
	}
	what, err := prepare(set)
	if err != nil {
		return nil, err
	}
	conn, direct, err := attach(path, set, c)
	if err != nil {
		return nil, err
	}
	s := newServer(path, direct, what)
	fd, err := release(conn)
	if err == nil {
		err = s.serve(opt, fd)
	}
	if err != nil {
		return nil, errors.Join(refused(NoAnswer, "", err), detach(path, direct, true))
	}
	if err := s.answers(); err != nil {
		close(s.warmed)
		err = errors.Join(refused(NoAnswer, "", err), detach(path, direct, true))
		s.Wait()
		return nil, err
	}
	if c.root {
		s.readAhead(set.maxRead)
	}
	go s.warm(opt.Log)
	return s, nil
}

func newServer(path string, direct bool, what served) *Server {
	return &Server{
		dir: path, direct: direct, what: what,
		gone: make(chan struct{}), warmed: make(chan struct{}), served: make(chan struct{}),
	}
}

// warm reads the tree's table ahead.
func (s *Server) warm(logf func(format string, args ...any)) {
	defer close(s.warmed)
	f := s.what.fs
	if err := f.Tree.Warm(s.gone); err != nil {
		logf("%s: reading the index ahead: %v", s.dir, err)
		if errors.Is(err, index.ErrCorrupt) && f.Damaged != nil {
			f.Damaged()
			logf("%s: the next mount makes the index anew", s.dir)
		}
	}
}

// release takes the descriptor out of conn: devfuse waits for it by itself.
func release(conn *os.File) (int, error) {
	fd, err := unix.FcntlInt(conn.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	return fd, errors.Join(err, conn.Close())
}

// maxBackground bounds the reads ahead that are under way at once: each has a
// buffer of up to maxRead bytes.
const maxBackground = 16

// serve answers INIT on fd, which it takes, and starts to serve.
func (s *Server) serve(opt *Options, fd int) error {
	o := s.what.options
	o.MaxBackground = maxBackground
	o.Log = opt.Log
	server, err := devfuse.New(fd, opt.wrapped(s.what.raw), o)
	if err != nil {
		return err
	}
	s.what.begin(server)
	s.fuse = server
	go func() {
		server.Serve()
		close(s.gone)
		if s.what.end != nil {
			s.what.end()
		}
		<-s.warmed
		close(s.served)
	}()
	return nil
}

// answers waits for the first answer and learns which mount this is. It also
// has the kernel ask for POLL once (see devfuse.PollName).
func (s *Server) answers() error {
	if err := s.identify(); err != nil {
		return err
	}
	fd, err := unix.Open(filepath.Join(s.dir, devfuse.PollName), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil // modes are enforced and deny us the root: no matter
	}
	defer unix.Close(fd)
	unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return nil
}

// identify learns which mount this is.
func (s *Server) identify() error {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, s.dir, unix.AT_NO_AUTOMOUNT, unix.STATX_BASIC_STATS|unix.STATX_MNT_ID, &st); err != nil {
		return err
	}
	s.dev = unix.Mkdev(st.Dev_major, st.Dev_minor)
	if st.Mask&unix.STATX_MNT_ID != 0 {
		s.mountID = st.Mnt_id
	}
	return nil
}

// readAhead lets the kernel read a whole request ahead, where it may.
func (s *Server) readAhead(bytes int) {
	name := fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", unix.Major(s.dev), unix.Minor(s.dev))
	if f, err := os.OpenFile(name, os.O_WRONLY, 0); err == nil {
		fmt.Fprint(f, bytes>>10)
		f.Close()
	}
}

// Dir returns where the mount is, as an absolute path without symlinks.
func (s *Server) Dir() string { return s.dir }

// Wait returns when the mount is gone, whoever unmounted it, and nothing of
// this package uses the tree any more.
func (s *Server) Wait() { <-s.served }

// unmountTries is how often Unmount tries a busy mount: files that were just
// closed are let go a moment later.
const unmountTries = 4

// lingers is how long Unmount waits for the end of serving, which does not come
// while another mount namespace holds a copy of the mount.
const lingers = time.Second

// Unmount unmounts and gives serving a moment to end; Wait tells that it has.
// errors.Is(err, EBUSY) tells that the mount is in use, and stays.
func (s *Server) Unmount() error {
	err := s.detach()
	for try := 1; try < unmountTries && errors.Is(err, unix.EBUSY); try++ {
		time.Sleep(time.Duration(try) * 5 * time.Millisecond)
		err = s.detach()
	}
	switch e := (*Error)(nil); {
	case err == nil:
		select {
		case <-s.served:
		case <-time.After(lingers):
		}
		return nil
	case errors.Is(err, errGone):
		return nil
	case errors.As(err, &e):
		e.Op, e.Path = "unmount", s.dir
		return err
	case errors.Is(err, unix.EBUSY):
		return &Error{Op: "unmount", Path: s.dir, Reason: Busy, Hint: "close what is open below it, or umount -l", Err: unix.EBUSY}
	}
	return fmt.Errorf("unmount %s: %w", s.dir, err)
}

// detach unmounts once, if it is there and on top.
func (s *Server) detach() error {
	select {
	case <-s.served:
		return errGone
	default:
	}
	if err := s.covered(); err != nil {
		return err
	}
	err := detach(s.dir, s.direct, false)
	if err != nil && errors.Is(s.covered(), errGone) {
		return errGone // somebody was faster
	}
	return err
}

// errGone tells that somebody has unmounted it already, perhaps lazily.
var errGone = errors.New("not mounted")

// covered returns an error if the mount at dir is not this one: another would
// be unmounted in its place.
func (s *Server) covered() error {
	var st unix.Statx_t
	flags := unix.AT_NO_AUTOMOUNT | unix.AT_STATX_DONT_SYNC
	err := unix.Statx(unix.AT_FDCWD, s.dir, flags, unix.STATX_MNT_ID, &st)
	if err != nil || s.mountID == 0 || st.Mask&unix.STATX_MNT_ID == 0 || st.Mnt_id == s.mountID {
		return nil // the unmount will tell
	}
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	if !hasMount(string(table), s.mountID) {
		return errGone
	}
	return &Error{Reason: OtherMount, Hint: "unmount that one first"}
}

// hasMount reports whether the text of mountinfo has the mount with this id.
func hasMount(table string, id uint64) bool {
	prefix := strconv.FormatUint(id, 10) + " "
	for line := range strings.Lines(table) {
		if strings.HasPrefix(line, prefix) {
			return true
		}
	}
	return false
}
