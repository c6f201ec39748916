// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"encoding/binary"
	"errors"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/imgfs/imgfs/cow"
	"github.com/imgfs/imgfs/index"
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
	defer unix.Close(conn)
	m, err := detachedMount(conn)
	if err != nil {
		return err
	}
	defer unix.Close(m)
	if err := answerInit(conn, depth); err != nil {
		return err
	}
	b := fuse.BackingMap{Fd: int32(fd)}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(conn), devIocBackingOpen, uintptr(unsafe.Pointer(&b)))
	if errno != 0 {
		return errno
	}
	return nil
}

const devIocBackingOpen = 0x4010e501 // FUSE_DEV_IOC_BACKING_OPEN

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

var errNoInit = errors.New("the kernel does not begin with INIT")

// answerInit answers the first request of conn as a server that passes files
// through.
func answerInit(conn, depth int) error {
	buf := make([]byte, 1<<17) // the kernel asks for room for what may come
	n, err := unix.Read(conn, buf)
	if err != nil {
		return err
	}
	if n < int(unsafe.Sizeof(fuse.InHeader{}))+16 {
		return errNoInit
	}
	ne := binary.NativeEndian
	const opInit, version, minor, initExt = 26, 7, 31, 1 << 30
	if ne.Uint32(buf[4:]) != opInit {
		return errNoInit
	}
	var out [16 + 64]byte // fuse_out_header, fuse_init_out
	ne.PutUint32(out[0:], uint32(len(out)))
	copy(out[8:16], buf[8:16]) // unique
	init := out[16:]
	ne.PutUint32(init[0:], version)
	ne.PutUint32(init[4:], minor)
	ne.PutUint32(init[12:], initExt)
	ne.PutUint32(init[20:], 4096) // max_write
	ne.PutUint32(init[32:], fuse.CAP_PASSTHROUGH>>32)
	ne.PutUint32(init[36:], uint32(depth))
	_, err = unix.Write(conn, out[:])
	return err
}
