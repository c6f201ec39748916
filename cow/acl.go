// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"syscall"

	"github.com/imgfs/imgfs/index"
)

// The xattrs that are a POSIX ACL, see acl(5).
const (
	xattrAccess  = "system.posix_acl_access"
	xattrDefault = "system.posix_acl_default"
)

// An ACL as an xattr, little-endian:
//
//	0  4   version 2
//	4  8n  entries: tag (2), permissions (2), id (4)
const (
	aclVersion = 2
	aclHead    = 4
	aclEntry   = 8
)

// Tags of an ACL's entries, in the order that they stand in.
const (
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
)

// An acl is an ACL in the form of its xattr.
type acl []byte

func (a acl) len() int                { return (len(a) - aclHead) / aclEntry }
func (a acl) tag(k int) uint16        { return le.Uint16(a[aclHead+aclEntry*k:]) }
func (a acl) perm(k int) uint32       { return uint32(le.Uint16(a[aclHead+aclEntry*k+2:])) }
func (a acl) setPerm(k int, p uint32) { le.PutUint16(a[aclHead+aclEntry*k+2:], uint16(p&7)) }

// find returns the first entry with a tag, or -1.
func (a acl) find(tag uint16) int {
	for k := range a.len() {
		if a.tag(k) == tag {
			return k
		}
	}
	return -1
}

// parseACL checks the form of an ACL (posix_acl_from_xattr and posix_acl_valid
// of Linux). One without entries is nil: it stands for none.
func parseACL(b []byte) (acl, error) {
	if len(b) < aclHead {
		return nil, syscall.EINVAL
	}
	if le.Uint32(b) != aclVersion {
		return nil, syscall.EOPNOTSUPP
	}
	if (len(b)-aclHead)%aclEntry != 0 {
		return nil, syscall.EINVAL
	}
	a := acl(b)
	if a.len() == 0 {
		return nil, nil
	}
	last, named, mask := uint16(0), false, false
	for k := range a.len() {
		tag := a.tag(k)
		if a.perm(k) > 7 {
			return nil, syscall.EINVAL
		}
		switch tag {
		case aclUser, aclGroup:
			named = true
			if tag < last {
				return nil, syscall.EINVAL
			}
		case aclUserObj, aclGroupObj, aclMask, aclOther:
			if tag <= last {
				return nil, syscall.EINVAL
			}
			mask = mask || tag == aclMask
		default:
			return nil, syscall.EINVAL
		}
		last = tag
	}
	if a.find(aclUserObj) != 0 || a.find(aclGroupObj) < 0 || last != aclOther || named && !mask {
		return nil, syscall.EINVAL
	}
	return a, nil
}

// mode returns the permission bits that an ACL shows as, and whether they say
// all that it says (posix_acl_equiv_mode).
func (a acl) mode() (bits uint32, all bool) {
	all = true
	for k := range a.len() {
		switch p := a.perm(k); a.tag(k) {
		case aclUserObj:
			bits |= p << 6
		case aclGroupObj:
			bits |= p << 3
		case aclOther:
			bits |= p
		case aclMask:
			bits = bits&^0o070 | p<<3
			all = false
		default:
			all = false
		}
	}
	return bits, all
}

// classes calls f for the entries that stand for a class of the mode, with how
// far left its bits are: the group's is the mask where there is one.
func (a acl) classes(f func(k int, shift uint)) {
	group := a.find(aclMask)
	if group < 0 {
		group = a.find(aclGroupObj)
	}
	f(a.find(aclUserObj), 6)
	f(group, 3)
	f(a.find(aclOther), 0)
}

// chmodACL makes the access ACL of i say what its mode says (posix_acl_chmod).
// Its record was was.
func (u *Upper) chmodACL(t *tx, n Node, was, i *inode) error {
	if i.typ() == index.ModeSymlink {
		return nil
	}
	b, ok, err := u.xattrOf(n, was, xattrAccess)
	if err != nil || !ok {
		return err
	}
	a, _ := parseACL(b) // what is no ACL is data
	if a == nil {
		return nil
	}
	a = append(acl(nil), a...)
	a.classes(func(k int, shift uint) { a.setPerm(k, i.mode>>shift) })
	if err := u.ownXattrs(t, n, i); err != nil {
		return err
	}
	t.setXattr(n, xattrAccess, a)
	return nil
}

// inherit gives a new inode of dir its mode and ACLs from what was asked for
// (posix_acl_create). The umask counts only where dir has no default ACL.
func (u *Upper) inherit(t *tx, dir Node, p *inode, n Node, i *inode, umask uint32) error {
	if i.typ() == index.ModeSymlink {
		return nil
	}
	b, ok, err := u.xattrOf(dir, p, xattrDefault)
	if err != nil {
		return err
	}
	var deflt acl
	if ok {
		deflt, _ = parseACL(b) // what is no ACL is data
	}
	if deflt == nil {
		i.mode &^= umask & 0o777
		return nil
	}
	a := append(acl(nil), deflt...)
	a.classes(func(k int, shift uint) {
		p := a.perm(k) & (i.mode >> shift)
		a.setPerm(k, p)
		i.mode = i.mode&^(7<<shift) | p<<shift
	})
	if _, all := a.mode(); !all {
		i.flags |= flagXattrs
		t.setXattr(n, xattrAccess, a)
	}
	if i.isDir() {
		i.flags |= flagXattrs
		t.setXattr(n, xattrDefault, append(acl(nil), deflt...))
	}
	return nil
}

// setACL checks an ACL that is to be an xattr of i and sets the mode that goes
// with it (posix_acl_update_mode). store is false where the ACL is not kept:
// it is empty, or the mode says it all.
func setACL(i *inode, name string, value []byte, killSGID bool) (store bool, err error) {
	if i.typ() == index.ModeSymlink {
		return false, syscall.EOPNOTSUPP
	}
	a, err := parseACL(value)
	if err != nil {
		return false, err
	}
	if name == xattrDefault {
		if a != nil && !i.isDir() {
			return false, syscall.EACCES
		}
		return a != nil, nil
	}
	if a == nil {
		return false, nil
	}
	bits, all := a.mode()
	i.mode = i.mode&^0o777 | bits
	if killSGID {
		i.mode &^= setGID
	}
	return !all, nil
}
