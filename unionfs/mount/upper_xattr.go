// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"runtime/debug"
	"strings"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/imgfs/imgfs/cow"
)

const (
	capabilityXattr = "security.capability"
	trustedPrefix   = "trusted."
)

// GetXAttr returns the length of the value, and ERANGE when buf is shorter;
// devfuse makes that OK for who only asked for the length.
func (v *top) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, name string, buf []byte) (size uint32, status fuse.Status) {
	defer v.caught(debug.SetPanicOnFault(true), "getxattr", h.NodeId, &status)
	if value := v.provenance(cow.Node(h.NodeId), name); value != "" {
		return reply(buf, value)
	}
	value, err := v.u.Xattr(cow.Node(h.NodeId), name)
	if err != nil {
		return 0, v.errno("getxattr", h.NodeId, err)
	}
	return reply(buf, value)
}

// ListXAttr lists names, each ended by a zero. As elsewhere, trusted ones are
// root's to see.
func (v *top) ListXAttr(_ <-chan struct{}, h *fuse.InHeader, buf []byte) (size uint32, status fuse.Status) {
	defer v.caught(debug.SetPanicOnFault(true), "listxattr", h.NodeId, &status)
	l := nameLists.Get().(*nameList)
	*l = nameList{v: v, node: cow.Node(h.NodeId), all: h.Uid == 0, buf: buf, add: l.add}
	err := v.u.EachXattr(l.node, l.add)
	total := l.total
	l.v, l.buf = nil, nil
	nameLists.Put(l)
	switch {
	case err != nil:
		return 0, v.errno("listxattr", h.NodeId, err)
	case total > len(buf):
		return uint32(total), fuse.ERANGE
	}
	return uint32(total), fuse.OK
}

// A nameList is what a LISTXATTR adds to.
type nameList struct {
	v     *top
	node  cow.Node
	all   bool
	buf   []byte
	total int
	add   func(name string) bool // addName, bound once
}

var nameLists = sync.Pool{New: func() any {
	l := new(nameList)
	l.add = l.addName
	return l
}}

func (l *nameList) addName(name string) bool {
	if !l.all && strings.HasPrefix(name, trustedPrefix) || l.v.provenance(l.node, name) != "" {
		return true
	}
	if end := l.total + len(name) + 1; end <= len(l.buf) {
		copy(l.buf[l.total:], name)
		l.buf[end-1] = 0
	}
	l.total += len(name) + 1
	return true
}

// SetXAttr sets an extended attribute; the value is the request's.
func (v *top) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, name string, value []byte) (status fuse.Status) {
	defer v.caught(debug.SetPanicOnFault(true), "setxattr", in.NodeId, &status)
	n := cow.Node(in.NodeId)
	value = append(make([]byte, 0, len(value)), value...)
	err := v.u.SetXattr(n, name, value, in.Flags, in.SetXAttrFlags&fuse.SETXATTR_ACL_KILL_SGID != 0)
	if err == nil && name == capabilityXattr {
		v.files.privileged(n)
	}
	return v.errno("setxattr", in.NodeId, err)
}

// RemoveXAttr removes an extended attribute.
func (v *top) RemoveXAttr(_ <-chan struct{}, h *fuse.InHeader, name string) (status fuse.Status) {
	defer v.caught(debug.SetPanicOnFault(true), "removexattr", h.NodeId, &status)
	err := v.u.RemoveXattr(cow.Node(h.NodeId), name)
	if err == nil && h.Uid == 0 && name == capabilityXattr {
		v.uncapped.Store(h.NodeId)
	}
	return v.errno("removexattr", h.NodeId, err)
}
