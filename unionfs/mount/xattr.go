// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/unionfs"
)

// Names under which -o provenance tells where a regular file or a directory
// came from. They are not listed, and hide the image's own of that name.
const (
	provenancePrefix = "user.imgfs."
	XattrLayer       = provenancePrefix + "layer"      // index of the layer, 0 is the base
	XattrDiffID      = provenancePrefix + "diffid"     // its diffID
	XattrCreatedBy   = provenancePrefix + "created_by" // its history line
)

// maxXattr is the longest value that the kernel takes.
const maxXattr = 64 << 10

// provenance is what is told of one layer.
type provenance struct{ layer, diffID, createdBy string }

func provenances(sources []unionfs.Source) []provenance {
	p := make([]provenance, len(sources))
	for i, s := range sources {
		p[i] = provenance{strconv.Itoa(i), s.DiffID, s.CreatedBy[:min(len(s.CreatedBy), maxXattr)]}
	}
	return p
}

// provenance returns the provenance xattr name of n, empty if there is none.
func (v *tree) provenance(n *index.Node, name string) string {
	return provenanceOf(v.sources, n, name)
}

func provenanceOf(sources []provenance, n *index.Node, name string) string {
	if n.Layer < 0 || n.Layer >= len(sources) || !n.IsDir() && !n.IsRegular() {
		return ""
	}
	switch p := &sources[n.Layer]; name {
	case XattrLayer:
		return p.layer
	case XattrDiffID:
		return p.diffID
	case XattrCreatedBy:
		return p.createdBy
	}
	return ""
}

// GetXAttr returns the length of the value, and ERANGE when buf is shorter;
// devfuse makes that OK for who only asked for the length.
func (v *tree) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, name string, buf []byte) (size uint32, status fuse.Status) {
	if !v.xattrs && v.sources == nil {
		return 0, fuse.ENOSYS // the kernel never asks again
	}
	defer v.caught(debug.SetPanicOnFault(true), "getxattr", h.NodeId, &status)
	var n index.Node
	id, err := v.id(h.NodeId)
	if err == nil {
		err = v.t.Node(id, &n)
	}
	if err != nil {
		return 0, v.errno("getxattr", h.NodeId, err)
	}
	if v.sources != nil && strings.HasPrefix(name, provenancePrefix) {
		if value := v.provenance(&n, name); value != "" {
			return reply(buf, value)
		}
	}
	if !v.xattrs || !n.HasExtra() {
		return 0, fuse.ENODATA
	}
	value, ok, err := v.t.Xattr(&n, name)
	switch {
	case err != nil:
		return 0, v.errno("getxattr", h.NodeId, err)
	case !ok:
		return 0, fuse.ENODATA
	}
	return reply(buf, value)
}

// reply copies value to buf if it fits.
func reply[T string | []byte](buf []byte, value T) (uint32, fuse.Status) {
	if len(value) > len(buf) {
		return uint32(len(value)), fuse.ERANGE
	}
	return uint32(copy(buf, value)), fuse.OK
}

// ListXAttr lists names, each ended by a zero. Where there are none the list is
// empty, as on a file system that knows no xattrs: ENOSYS would save the requests
// and make listxattr(2) an error, which tar(1) and getfattr(1) tell of each file.
func (v *tree) ListXAttr(_ <-chan struct{}, h *fuse.InHeader, buf []byte) (size uint32, status fuse.Status) {
	if !v.xattrs {
		return 0, fuse.OK
	}
	defer v.caught(debug.SetPanicOnFault(true), "listxattr", h.NodeId, &status)
	var n index.Node
	id, err := v.id(h.NodeId)
	if err == nil {
		err = v.t.Node(id, &n)
	}
	if err != nil {
		return 0, v.errno("listxattr", h.NodeId, err)
	}
	if !n.HasExtra() {
		return 0, fuse.OK
	}
	total := 0
	err = v.t.EachXattr(&n, func(name, _ []byte) bool {
		if v.sources != nil && v.provenance(&n, string(name)) != "" {
			return true
		}
		if end := total + len(name) + 1; end <= len(buf) {
			copy(buf[total:], name)
			buf[end-1] = 0
		}
		total += len(name) + 1
		return true
	})
	switch {
	case err != nil:
		return 0, v.errno("listxattr", h.NodeId, err)
	case total > len(buf):
		return uint32(total), fuse.ERANGE
	}
	return uint32(total), fuse.OK
}
