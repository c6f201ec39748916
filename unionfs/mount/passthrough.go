// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/imgfs/imgfs/cow"
	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/unionfs/mount/devfuse"
)

// maxStackDepth is FILESYSTEM_MAX_STACK_DEPTH: how many file systems the
// kernel stacks on each other.
const maxStackDepth = 2

// passthroughDepth returns how deep a stack the data files of u and a mount on
// it are, 0 if the kernel cannot pass files of it through. It is tried out on a
// connection of its own: a mount must choose before it can try.
func passthroughDepth(u *cow.Upper) int {
	var a cow.Attr
	f, err := u.CreateFile(cow.Caller{}, cow.RootNode, "", cow.Creation{Mode: index.ModeRegular | 0o600}, &a)
	if err != nil {
		return 0
	}
	defer u.Forget(a.Node)
	defer f.Close()
	fd, ok, err := f.Backing()
	if err != nil || !ok {
		return 0
	}
	for depth := 1; depth <= maxStackDepth; depth++ {
		switch err := tryBacking(fd, depth); {
		case err == nil:
			return depth
		case err != unix.ELOOP:
			return 0
		}
	}
	return 0
}

// tryBacking registers fd with a FUSE mount that nobody sees.
func tryBacking(fd, depth int) error {
	conn, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	m, err := detachedMount(conn)
	if err != nil {
		unix.Close(conn)
		return err
	}
	s, err := devfuse.New(conn, fuse.NewDefaultRawFileSystem(), devfuse.Options{
		MaxWrite: minRead, MaxStackDepth: depth, Capabilities: fuse.CAP_PASSTHROUGH,
		Log: func(string, ...any) {},
	})
	if err != nil {
		unix.Close(m)
		return err
	}
	_, errno := s.RegisterBackingFd(&fuse.BackingMap{Fd: int32(fd)})
	unix.Close(m)
	s.Serve() // the mount is gone
	if errno != 0 {
		return errno
	}
	return nil
}

// detachedMount mounts conn nowhere.
func detachedMount(conn int) (int, error) {
	fsfd, err := unix.Fsopen("fuse", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fsfd)
	for _, o := range [...][2]string{{"fd", strconv.Itoa(conn)}, {"rootmode", "40000"}, {"user_id", "0"}, {"group_id", "0"}} {
		if err := unix.FsconfigSetString(fsfd, o[0], o[1]); err != nil {
			return 0, err
		}
	}
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return 0, err
	}
	return unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, 0)
}
