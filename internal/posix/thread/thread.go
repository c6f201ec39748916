// SPDX-License-Identifier: Apache-2.0

// Package thread runs test code on threads that have a working directory, a
// root, a umask and credentials of their own, so that a test can be an
// ordinary user for one system call and the rest of the process notices
// nothing. It knows nothing of what is tested.
package thread

import (
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Run runs f on a thread of its own with umask 022. The thread ends with f,
// whatever f did to it; a panic of f goes on in the caller.
func Run(f func()) {
	type end struct {
		value    any
		panicked bool
	}
	done := make(chan end, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread dies with its goroutine
		e := end{panicked: true}
		defer func() {
			if e.panicked {
				e.value = recover()
			}
			done <- e
		}()
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			panic("unshare: " + err.Error())
		}
		unix.Umask(0o022)
		f()
		e.panicked = false
	}()
	if e := <-done; e.panicked {
		panic(e.value)
	}
}

// As runs f with the rights of an ordinary user, the way a process has them
// that root made so. It must be called on a thread of Run, by root.
func As(uid, gid int, groups []int, f func()) {
	list := make([]uint32, len(groups)+1)
	for i, g := range groups {
		list[i] = uint32(g)
	}
	set := func(number uintptr, a, b, c uintptr) {
		// Raw: the calls of package syscall are for all threads.
		if _, _, errno := unix.RawSyscall(number, a, b, c); errno != 0 {
			panic("credentials: " + errno.Error())
		}
	}
	set(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(&list[0])), 0)
	set(unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid))
	set(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), 0) // the saved 0 is the way back
	defer func() {
		set(unix.SYS_SETRESUID, 0, 0, 0)
		set(unix.SYS_SETRESGID, 0, 0, 0)
		set(unix.SYS_SETGROUPS, 0, 0, 0)
	}()
	f()
	runtime.KeepAlive(list)
}

// Errno returns the name of an error of a system call, "ok" for nil.
func Errno(err error) string {
	if err == nil {
		return "ok"
	}
	if errno, ok := err.(syscall.Errno); ok {
		if errno == unix.EOPNOTSUPP {
			return "EOPNOTSUPP"
		}
		return unix.ErrnoName(errno)
	}
	return err.Error()
}
