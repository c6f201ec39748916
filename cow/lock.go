// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const lockName = "lock"

// A lockHolder is what stands in the lock file, for others to read.
type lockHolder struct {
	PID int    `json:"pid"`
	Dir string `json:"dir,omitempty"` // where it is mounted
}

// lockUpper locks the upper in dir until the file that it returns is closed,
// whatever ends the process. The error is an *InUseError where another has it.
func lockUpper(dir, mountDir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		held := lockHolder{}
		b, rerr := io.ReadAll(io.LimitReader(f, 64<<10))
		if rerr != nil || json.Unmarshal(b, &held) != nil {
			held = lockHolder{} // it is just being written
		}
		f.Close()
		return nil, &InUseError{held.PID, held.Dir}
	}
	if err == nil {
		err = writeHolder(f, lockHolder{os.Getpid(), mountDir})
	}
	if err == nil {
		err = sameFile(f, filepath.Join(dir, lockName))
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// sameFile makes sure that f is what path names: an upper may have been removed
// or renamed while its lock was waited for.
func sameFile(f *os.File, path string) error {
	is, err := f.Stat()
	if err != nil {
		return err
	}
	named, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !os.SameFile(is, named) {
		return fmt.Errorf("%s: %w", path, os.ErrNotExist)
	}
	return nil
}

// writeHolder says who holds the lock. A full disk may refuse it: then others
// are not told who.
func writeHolder(f *os.File, h lockHolder) error {
	b, err := json.Marshal(h)
	if err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = f.WriteAt(append(b, '\n'), 0)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return nil
	}
	return err
}
