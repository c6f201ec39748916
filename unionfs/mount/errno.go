// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/imgfs/imgfs/index"
)

// complaints turns what went wrong into an errno. What it does not know is
// EIO and logged once: a damaged layer is read again and again.
type complaints struct {
	log func(format string, args ...any)

	mu   sync.Mutex
	seen map[string]struct{} // guarded by mu
}

// maxComplaints bounds how many different errors are logged and remembered.
const maxComplaints = 256

// errno returns the status that the kernel is given for err. Only errors that
// are answers keep their number; one that came from below (a blob that is
// gone, a full disk) means nothing to who reads a file, and is EIO.
func (c *complaints) errno(op string, node uint64, err error) fuse.Status {
	switch {
	case err == nil:
		return fuse.OK
	case errors.Is(err, index.ErrNotDir):
		return fuse.ENOTDIR
	case errors.Is(err, syscall.ENXIO):
		return fuse.Status(syscall.ENXIO)
	}
	c.once(err.Error(), "%s of node %d: %v", op, node, err)
	return fuse.EIO
}

// once logs the first complaint of its key.
func (c *complaints) once(key, format string, args ...any) {
	c.mu.Lock()
	_, known := c.seen[key]
	room := maxComplaints - len(c.seen)
	if !known && room > 0 {
		if c.seen == nil {
			c.seen = make(map[string]struct{})
		}
		c.seen[key] = struct{}{}
	}
	c.mu.Unlock()
	switch {
	case known || room == 0:
	case room == 1:
		c.log("too many different errors: further ones are not logged")
	default:
		c.log(format, args...)
	}
}

// caught ends a handler: it restores the goroutine's setting for faults and
// turns a panic (also a fault under the table's map, when the file was cut
// short) into EIO.
//
//	defer c.caught(debug.SetPanicOnFault(true), "lookup", node, &status)
func (c *complaints) caught(onFault bool, op string, node uint64, status *fuse.Status) {
	debug.SetPanicOnFault(onFault)
	p := recover()
	if p == nil {
		return
	}
	*status = fuse.EIO
	if fault, ok := p.(interface {
		error
		Addr() uintptr
	}); ok {
		c.once("fault", "%s of node %d: %v", op, node, fmt.Errorf("%w: fault at %#x: %w", index.ErrCorrupt, fault.Addr(), fault))
		return
	}
	c.once(fmt.Sprint("panic ", op, p), "%s of node %d: panic: %v\n%s", op, node, p, debug.Stack())
}

// errno returns the status that the kernel is given for an error of the upper,
// whose answers are bare errnos. A disk without room is one too.
func (v *top) errno(op string, node uint64, err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	if n, ok := err.(syscall.Errno); ok && n != 0 {
		return fuse.Status(n)
	}
	for _, n := range [...]syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG} {
		if errors.Is(err, n) {
			return fuse.Status(n)
		}
	}
	return v.complaints.errno(op, node, err)
}
