// SPDX-License-Identifier: Apache-2.0

package cow

import "syscall"

// A Caller is who asks for a change.
type Caller struct{ UID, GID uint32 }

// A Creation says what is made. The mode has the file type; the umask holds
// unless the directory has a default ACL.
type Creation struct {
	Mode, Umask uint32
	Rdev        uint32
	Target      string // of a symlink
}

// Lookup finds name in dir and fills a. A name that is not there is found =
// false and no error.
func (u *Upper) Lookup(dir Node, name string, a *Attr) (found bool, err error) {
	return false, syscall.ENOSYS
}

// Readlink returns a symlink's target, EINVAL for what is none.
func (u *Upper) Readlink(n Node) ([]byte, error) { return nil, syscall.ENOSYS }

// Create makes a file of any type but an open regular one (see CreateFile).
func (u *Upper) Create(c Caller, dir Node, name string, k Creation, a *Attr) error {
	return syscall.ENOSYS
}

// CreateFile makes a regular file and opens it for writing. An empty name
// makes one without a name (O_TMPFILE).
func (u *Upper) CreateFile(c Caller, dir Node, name string, k Creation, a *Attr) (*File, error) {
	return nil, syscall.ENOSYS
}

// Link makes one more name for n, which is no directory.
func (u *Upper) Link(n, dir Node, name string, a *Attr) error { return syscall.ENOSYS }

// Unlink takes the name of what is no directory away.
func (u *Upper) Unlink(dir Node, name string) error { return syscall.ENOSYS }

// Rmdir removes an empty directory.
func (u *Upper) Rmdir(dir Node, name string) error { return syscall.ENOSYS }

// Rename moves name to newName in newDir; flags are renameat2(2)'s.
func (u *Upper) Rename(c Caller, dir Node, name string, newDir Node, newName string, flags uint32) error {
	return syscall.ENOSYS
}

// Forget tells that the kernel holds n no longer. A node that has no name and
// is not open ends with it.
func (u *Upper) Forget(n Node) {}

// SyncDir makes the names in n durable.
func (u *Upper) SyncDir(n Node) error { return syscall.ENOSYS }

// A Dirent is an entry of a directory as it is listed.
type Dirent struct {
	Node   Node
	Type   uint8  // DT_*
	Name   string // valid until the next call
	Cookie uint64 // where the next entry lies; below 1<<63
}

// A Dir is a directory that is being listed. It is safe for concurrent use.
type Dir struct{}

// OpenDir opens a directory for listing.
func (u *Upper) OpenDir(n Node) (*Dir, error) { return nil, syscall.ENOSYS }

// Parent returns the directory above, of the root itself.
func (d *Dir) Parent() (Node, error) { return 0, syscall.ENOSYS }

// Read calls f for the entries from cookie on (0: the first), "." and ".." not
// among them, until it returns false. If attrs is true a is filled, else nil.
// Entries that are not removed or added meanwhile are met just once, whatever
// else happens in the directory.
func (d *Dir) Read(cookie uint64, attrs bool, f func(e *Dirent, a *Attr) bool) error {
	return syscall.ENOSYS
}
