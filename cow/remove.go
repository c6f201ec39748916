// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Remove removes the upper in dir and all that is in it. The error is ErrInUse
// while somebody has it open.
func Remove(dir string) error {
	l, err := lockUpper(dir, "")
	if err != nil {
		return err
	}
	defer l.Close()
	// Out of sight first: what is left of it after a crash is no upper.
	doomed, err := os.MkdirTemp(filepath.Dir(dir), removing)
	if err != nil {
		return err
	}
	if err := os.Rename(dir, filepath.Join(doomed, "upper")); err != nil {
		return errors.Join(err, os.Remove(doomed))
	}
	sweepRemoved(filepath.Dir(dir))
	return os.RemoveAll(doomed)
}

// removing begins the names of what is being removed beside the uppers.
const removing = ".removing-"

// sweepRemoved removes what commands that were killed began to remove.
func sweepRemoved(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), removing) {
			os.RemoveAll(filepath.Join(dir, e.Name())) // else the next removal does
		}
	}
}

// Rename moves the upper in dir to the path to, on the same file system. The
// error is ErrInUse while somebody has it open, fs.ErrExist if to is there.
func Rename(dir, to string) error {
	l, err := lockUpper(dir, "")
	if err != nil {
		return err
	}
	defer l.Close()
	err = unix.Renameat2(unix.AT_FDCWD, dir, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if err == unix.EINVAL { // a file system that cannot promise it
		if _, serr := os.Lstat(to); serr == nil {
			return &fs.PathError{Op: "rename", Path: to, Err: fs.ErrExist}
		}
		err = unix.Rename(dir, to)
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: dir, New: to, Err: err}
	}
	return syncDir(filepath.Dir(to))
}

// Clear throws all changes of the upper in dir away. The error is ErrInUse
// while somebody has it open.
func Clear(dir string) error {
	l, err := lockUpper(dir, "")
	if err != nil {
		return err
	}
	defer l.Close()
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	// What names the other files goes first.
	var errs []error
	for _, e := range entries {
		if name := e.Name(); name != infoName && name != lockName && name != dataDirName {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, name)))
		}
	}
	errs = append(errs, syncDir(dir))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Join(dir, dataDirName))
}

const dataDirName = "data"
