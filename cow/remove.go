// SPDX-License-Identifier: Apache-2.0

package cow

import "syscall"

// Remove removes the upper in dir and all that is in it. The error is ErrInUse
// while somebody has it open.
func Remove(dir string) error { return syscall.ENOSYS }

// Rename moves the upper in dir to the path to, on the same file system. The
// error is ErrInUse while somebody has it open, fs.ErrExist if to is there.
func Rename(dir, to string) error { return syscall.ENOSYS }
