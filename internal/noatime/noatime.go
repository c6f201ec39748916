// SPDX-License-Identifier: Apache-2.0

// Package noatime opens files for reading and leaves their access times as
// they are, where the system lets this user do so: it does of a user's own
// files, and lets root do so of all.
package noatime

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Open opens a file or directory for reading. flag is added to O_RDONLY.
func Open(path string, flag int) (*os.File, error) {
	return open(flag, func(flag int) (*os.File, error) { return os.OpenFile(path, flag, 0) })
}

// OpenIn opens a file or directory below root, as Open does.
func OpenIn(root *os.Root, name string, flag int) (*os.File, error) {
	return open(flag, func(flag int) (*os.File, error) { return root.OpenFile(name, flag, 0) })
}

func open(flag int, do func(flag int) (*os.File, error)) (*os.File, error) {
	f, err := do(os.O_RDONLY | flag | unix.O_NOATIME)
	if errors.Is(err, unix.EPERM) { // somebody else's
		return do(os.O_RDONLY | flag)
	}
	return f, err
}
