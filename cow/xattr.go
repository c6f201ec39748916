// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs/index"
)

const xattrCapability = "security.capability"

// What the xattrs of one inode may take together. listxattr(2) gives no more
// than 64 KiB of names.
const (
	maxXattrNames = 64 << 10 // with a zero behind each
	maxXattrBytes = 1 << 20  // names and values
)

// xattrOf returns the value of an xattr of n, whose record, if it has one, is
// i. Preconditions: u.mu is held.
func (u *Upper) xattrOf(n Node, i *inode, name string) (value []byte, ok bool, err error) {
	if i != nil {
		if i.flags&flagXattrs != 0 {
			if values, ok := u.loose.xattrs[n]; ok {
				value, ok = values[name]
				return value, ok, nil
			}
			value, err = u.xattr(n, name)
			return value, value != nil, err
		}
		if n >= FirstOwn {
			return nil, false, nil
		}
	}
	var t index.Node
	if err := u.fs.Tree.Node(index.NodeID(n), &t); err != nil {
		return nil, false, err
	}
	return u.fs.Tree.Xattr(&t, name)
}

// eachXattrOf calls f for the xattrs of n, in no order, until it returns false.
// The value is not to be kept where it lies in the tree.
func (u *Upper) eachXattrOf(n Node, i *inode, f func(name string, value []byte) bool) error {
	if i != nil {
		if i.flags&flagXattrs != 0 {
			values, ok := u.loose.xattrs[n]
			if !ok {
				return u.eachXattr(n, f)
			}
			for name, value := range values {
				if !f(name, value) {
					break
				}
			}
			return nil
		}
		if n >= FirstOwn {
			return nil
		}
	}
	var t index.Node
	if err := u.fs.Tree.Node(index.NodeID(n), &t); err != nil {
		return err
	}
	return u.fs.Tree.EachXattr(&t, func(name, value []byte) bool { return f(string(name), value) })
}

// Xattr returns the value of an xattr, ENODATA where there is none. The slice
// is not to be written to.
func (u *Upper) Xattr(n Node, name string) ([]byte, error) {
	u.mu.RLock()
	defer u.mu.RUnlock()
	i, err := u.knownHead(n)
	if err != nil {
		return nil, err
	}
	value, ok, err := u.xattrOf(n, i, name)
	if err == nil && !ok {
		err = noXattr(name)
	}
	return value, err
}

// EachXattr calls f for the name of each xattr of n, sorted, until it returns
// false.
func (u *Upper) EachXattr(n Node, f func(name string) bool) error {
	names, err := u.xattrNames(n)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		if !f(name) {
			break
		}
	}
	return nil
}

func (u *Upper) xattrNames(n Node) (names []string, err error) {
	u.mu.RLock()
	defer u.mu.RUnlock()
	i, err := u.knownHead(n)
	if err != nil {
		return nil, err
	}
	err = u.eachXattrOf(n, i, func(name string, _ []byte) bool {
		names = append(names, name)
		return true
	})
	return names, err
}

// ownXattrs makes the upper hold all xattrs of n, so that one can be changed.
func (u *Upper) ownXattrs(t *tx, n Node, i *inode) error {
	if i.flags&flagXattrs != 0 {
		return nil
	}
	err := u.eachXattrOf(n, i, func(name string, value []byte) bool {
		t.setXattr(n, name, slices.Clone(value))
		return true
	})
	i.flags |= flagXattrs
	return err
}

// SetXattr sets an xattr; flags are setxattr(2)'s. A POSIX ACL also sets the
// mode. killSGID has an access ACL clear setgid, as the kernel asks for it.
func (u *Upper) SetXattr(n Node, name string, value []byte, flags uint32, killSGID bool) (err error) {
	if err := checkXattrName(name); err != nil {
		return err
	}
	if len(value) > maxXattr {
		return syscall.E2BIG
	}
	u.room()
	u.mu.Lock()
	defer u.mu.Unlock()
	defer u.guard(&err)
	t := u.begin()
	i, err := t.inode(n)
	if err != nil {
		return err
	}
	old, has, err := u.xattrOf(n, i, name)
	switch {
	case err != nil:
		return err
	case flags&^(unix.XATTR_CREATE|unix.XATTR_REPLACE) != 0:
		return syscall.EINVAL
	case has && flags&unix.XATTR_CREATE != 0:
		return syscall.EEXIST
	case !has && flags&unix.XATTR_REPLACE != 0:
		return syscall.ENODATA
	}
	store := true
	if name == xattrAccess || name == xattrDefault {
		if store, err = setACL(i, name, value, killSGID); err != nil {
			return err
		}
	}
	if store {
		if err := u.xattrRoom(n, i, name, len(value)-len(old), !has); err != nil {
			return err
		}
	}
	if store || has {
		if err := u.ownXattrs(t, n, i); err != nil {
			return err
		}
	}
	if store {
		t.setXattr(n, name, slices.Clone(value))
	} else if has {
		t.dropXattr(n, name)
	}
	i.ctime = Now()
	return u.store(t, n, i)
}

// xattrRoom makes sure that the xattrs of n may grow by bytes and, if it is
// added, by name.
func (u *Upper) xattrRoom(n Node, i *inode, name string, bytes int, added bool) error {
	if !added && bytes <= 0 {
		return nil
	}
	names := 0
	if added {
		names = len(name) + 1
	}
	bytes += names
	err := u.eachXattrOf(n, i, func(name string, value []byte) bool {
		names += len(name) + 1
		bytes += len(name) + 1 + len(value)
		return true
	})
	if err != nil {
		return err
	}
	if added && names > maxXattrNames || bytes > maxXattrBytes {
		return syscall.ENOSPC
	}
	return nil
}

// RemoveXattr removes an xattr, ENODATA where there is none; but an ACL that
// is not there is as good as removed.
func (u *Upper) RemoveXattr(n Node, name string) (err error) {
	u.room()
	u.mu.Lock()
	defer u.mu.Unlock()
	defer u.guard(&err)
	t := u.begin()
	i, err := t.inode(n)
	if err != nil {
		return err
	}
	_, has, err := u.xattrOf(n, i, name)
	if err != nil {
		return err
	}
	if !has && (name == xattrAccess || name == xattrDefault) {
		return nil
	}
	if !has {
		return noXattr(name)
	}
	if err := u.ownXattrs(t, n, i); err != nil {
		return err
	}
	t.dropXattr(n, name)
	i.ctime = Now()
	return u.store(t, n, i)
}

// noXattr returns what is said of an xattr that is not there.
func noXattr(name string) error {
	if err := checkXattrName(name); err != nil {
		return err
	}
	return syscall.ENODATA
}

// checkXattrName refuses names that Linux has no meaning for.
func checkXattrName(name string) error {
	if name == "" || len(name) > maxName {
		return syscall.ERANGE // as setxattr(2) of Linux says it
	}
	if name == xattrAccess || name == xattrDefault {
		return nil
	}
	for _, space := range [...]string{"user.", "trusted.", "security."} {
		if rest, ok := strings.CutPrefix(name, space); ok {
			if rest == "" || strings.IndexByte(rest, 0) >= 0 {
				return syscall.EINVAL
			}
			return nil
		}
	}
	return syscall.EOPNOTSUPP
}
