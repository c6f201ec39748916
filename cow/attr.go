// SPDX-License-Identifier: Apache-2.0

package cow

import "syscall"

// What a SetAttr sets.
const (
	SetMode = 1 << iota
	SetUID
	SetGID
	SetSize
	SetAtime
	SetMtime
	SetCtime
	KillPriv // clear setuid, setgid and file capabilities, as a write by a user does
)

// A SetAttr is a change of attributes. "Now" is the caller's to fill in.
type SetAttr struct {
	Valid               uint32
	Mode, UID, GID      uint32
	Size                int64
	Atime, Mtime, Ctime Time
}

// Attr fills a with the attributes of n. It allocates nothing for a node that
// is as in the tree.
func (u *Upper) Attr(n Node, a *Attr) error { return syscall.ENOSYS }

// SetAttr changes attributes and fills a with what they are then.
func (u *Upper) SetAttr(c Caller, n Node, s *SetAttr, a *Attr) error { return syscall.ENOSYS }

// copyOf returns a copy of n's record, made from the tree if there is none. The
// error is ESTALE for a node that is gone. Preconditions: u.mu is held.
func (u *Upper) copyOf(n Node) (*inode, error) { return nil, syscall.ENOSYS }

// Statfs describes the file system: the disk's free space, the tree's and the
// upper's inodes.
type Statfs struct {
	Bsize, Blocks, Bfree, Bavail, Files, Ffree uint64
}

// Statfs fills s.
func (u *Upper) Statfs(s *Statfs) error { return syscall.ENOSYS }
