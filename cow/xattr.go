// SPDX-License-Identifier: Apache-2.0

package cow

import "syscall"

// Xattr returns the value of an xattr, ENODATA where there is none. The slice
// is not to be written to.
func (u *Upper) Xattr(n Node, name string) ([]byte, error) { return nil, syscall.ENOSYS }

// EachXattr calls f for the name of each xattr of n, sorted, until it returns
// false.
func (u *Upper) EachXattr(n Node, f func(name string) bool) error { return syscall.ENOSYS }

// SetXattr sets an xattr; flags are setxattr(2)'s. A POSIX ACL also sets the
// mode. killSGID has an access ACL clear setgid, as the kernel asks for it.
func (u *Upper) SetXattr(n Node, name string, value []byte, flags uint32, killSGID bool) error {
	return syscall.ENOSYS
}

// RemoveXattr removes an xattr, ENODATA where there is none.
func (u *Upper) RemoveXattr(n Node, name string) error { return syscall.ENOSYS }
