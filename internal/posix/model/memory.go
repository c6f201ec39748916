// SPDX-License-Identifier: Apache-2.0

package model

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Mappings are touched only inside system calls, by way of a pipe: a page
// fault in Go code keeps its processor, and the server of the page may be a
// goroutine of this process that waits for it. As a bonus a fault that fails
// is an EFAULT and no signal.

// poke copies src into mapped memory.
func poke(dst, src []byte) error {
	return through(len(dst), func(r, w, lo, hi int) (int, error) {
		n, err := unix.Write(w, src[lo:hi])
		if err != nil {
			return 0, err
		}
		return unix.Read(r, dst[lo:lo+n])
	})
}

// peek copies mapped memory to dst.
func peek(dst, src []byte) error {
	return through(len(dst), func(r, w, lo, hi int) (int, error) {
		n, err := unix.Write(w, src[lo:hi])
		if err != nil {
			return 0, err
		}
		return unix.Read(r, dst[lo:lo+n])
	})
}

// through moves n bytes by step, at most a page at a time.
func through(n int, step func(r, w, lo, hi int) (int, error)) error {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	for lo := 0; lo < n; {
		moved, err := step(p[0], p[1], lo, min(lo+4096, n))
		if err != nil {
			return err
		}
		lo += moved
	}
	return nil
}

func addr(b []byte) uintptr {
	if cap(b) == 0 {
		return 0
	}
	return uintptr(unsafe.Pointer(unsafe.SliceData(b)))
}

// futimens sets the times of an open file, as the C library's does.
func futimens(fd int, ts []unix.Timespec) error {
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&ts[0])), 0, 0, 0)
	runtime.KeepAlive(ts)
	if errno != 0 {
		return errno
	}
	return nil
}
