// SPDX-License-Identifier: Apache-2.0

package devfuse

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
)

const (
	major    = 7
	minMinor = 23 // Linux 3.15: every structure but INIT's and SETXATTR's is as today
	ourMinor = 45
)

// initExt says that Flags2 is there, in both directions.
const initExt = fuse.CAP_INIT_EXT

var errNoInit = errors.New("the kernel does not begin with INIT")

// answerInit reads INIT and answers it.
func (w *worker) answerInit() error {
	if _, ok := w.await(); !ok {
		return errors.New("the mount is gone already")
	}
	h := w.header()
	var in fuse.InitIn // an older kernel's is shorter
	const least = int(unsafe.Sizeof(fuse.InHeader{})) + 16
	if h.Opcode != opInit || len(w.in) < least {
		return errNoInit
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&in)), unsafe.Sizeof(in)), w.in)
	if in.Major != major || in.Minor < minMinor {
		w.answer(fuse.Status(eproto), 0)
		return fmt.Errorf("the kernel speaks version %d.%d of the FUSE protocol", in.Major, in.Minor)
	}
	s := w.s
	if in.Flags&initExt == 0 {
		in.Flags2 = 0
	}
	s.offered = in.Flags64()
	s.agreed = s.offered & s.opt.Capabilities
	out := result[fuse.InitOut](w)
	*out = fuse.InitOut{
		Major: major, Minor: min(in.Minor, ourMinor),
		MaxReadAhead:        in.MaxReadAhead,
		MaxBackground:       uint16(s.opt.MaxBackground),
		CongestionThreshold: uint16(s.opt.MaxBackground * 3 / 4),
		MaxWrite:            uint32(s.opt.MaxWrite),
		MaxPages:            uint16((s.opt.MaxWrite + page - 1) / page),
		MaxStackDepth:       uint32(s.opt.MaxStackDepth),
		Flags:               uint32(s.agreed) | initExt,
		Flags2:              uint32(s.agreed >> 32),
	}
	if errno := w.answer(fuse.OK, int(unsafe.Sizeof(*out))); errno != 0 {
		return fmt.Errorf("answering INIT: %w", errno)
	}
	return nil
}
