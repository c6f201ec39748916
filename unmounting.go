// SPDX-License-Identifier: Apache-2.0

package imgfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/imgfs/imgfs/internal/control"
	"github.com/imgfs/imgfs/internal/control/mtab"
)

// UnmountOptions say how a mount is taken off.
type UnmountOptions struct {
	Lazy  bool // off the directory at once, ended when its last user has left
	Force bool // cut off its server, whoever uses it, then as Lazy
	// Warn is told what the caller should know though all went well.
	Warn func(line string)
	// Kept is told the name of an upper that keeps the changes of the mount.
	Kept func(upper string)
}

// ErrNotMounted marks a directory that is no imgfs mount.
var ErrNotMounted = errors.New("not an imgfs mount")

// A BusyError says who keeps a mount busy. errors.Is knows it as EBUSY.
type BusyError struct {
	Dir     string
	Holders []mtab.Holder // those that this user may see
	Mounts  []string      // what is mounted below it
}

func newBusyError(dir, device string) *BusyError {
	e := &BusyError{Dir: dir, Holders: mtab.Holders(device)}
	if place, err := mtab.Locate(dir); err == nil && place.IsOurs() {
		mounts, _ := mtab.On(place.Mount) // it is told that something is there anyhow
		for _, m := range mounts {
			e.Mounts = append(e.Mounts, m.Dir)
		}
	}
	return e
}

func (e *BusyError) Error() string {
	var who []string
	for _, h := range e.Holders {
		who = append(who, fmt.Sprintf("%d (%s: %s)", h.PID, h.Program, strings.Join(h.How, ", ")))
	}
	for _, dir := range e.Mounts {
		who = append(who, "the mount at "+dir)
	}
	if len(who) == 0 {
		who = []string{"a process that this user may not look at"}
	}
	return e.Dir + ": busy, held by " + strings.Join(who, ", ")
}

func (e *BusyError) Unwrap() error { return syscall.EBUSY }

// How long the end of a server is waited for.
const (
	endTime   = 5 * time.Second // after a clean unmount
	abortTime = time.Second     // after its connection was cut
)

// Unmount takes the imgfs mount off dir and returns when its server has ended.
// The error is a *BusyError if it is in use, ErrNotMounted if there is none.
func Unmount(ctx context.Context, dir string, opt UnmountOptions) error {
	place, err := mtab.Locate(dir)
	if err != nil {
		return err
	}
	if !place.IsOurs() {
		err := fmt.Errorf("%s: %w", dir, ErrNotMounted)
		if place.Mount != nil && place.Mount.Type == mtab.Type {
			err = fmt.Errorf("%s: %w, but a part of the one at %s", dir, ErrNotMounted, place.Mount.Dir)
		}
		return err
	}
	found, err := registered(ctx)
	if err != nil {
		return err
	}
	var on []*control.Entry
	for _, r := range found {
		if r.at != nil && r.at.Device == place.Mount.Device && (r.State != control.Dead || r.Dir == place.Path) {
			on = append(on, r.Entry)
		}
	}
	return unmountAll(ctx, place, on, opt)
}

// unmountAll takes off the mount at place, which the register says that each
// of on serves. One of them may: the number of a mount whose server was killed
// is given to the next one, perhaps on the same directory.
func unmountAll(ctx context.Context, place *mtab.Place, on []*control.Entry, opt UnmountOptions) error {
	var living *control.Entry
	for _, e := range on {
		if living == nil || living.State == control.Dead {
			living = e
		}
	}
	if err := unmount(ctx, place, living, opt); err != nil {
		return err
	}
	for _, e := range on {
		if e.State == control.Dead {
			forget(e)
		}
	}
	return nil
}

// forget does what the server of e would have done at its end.
func forget(e *control.Entry) {
	e.Forget()
	if e.Owner == os.Geteuid() {
		removeMade(e.Made)
	}
}

// UnmountAll takes off all mounts of this user in this mount namespace, also
// those whose servers have died, and reports each failure.
func UnmountAll(ctx context.Context, opt UnmountOptions) error {
	found, err := registered(ctx)
	if err != nil {
		return err
	}
	kernel, err := mtab.All()
	if err != nil {
		return err
	}
	var errs []error
	for i := len(kernel) - 1; i >= 0; i-- { // the inner before the outer
		var on []*control.Entry
		for _, r := range found {
			if r.at != nil && r.at.ID == kernel[i].ID && r.Owner == os.Geteuid() {
				on = append(on, r.Entry)
			}
		}
		if len(on) == 0 {
			continue
		}
		place := &mtab.Place{Path: kernel[i].Dir, Mount: &kernel[i]}
		if err := unmountAll(ctx, place, on, opt); err != nil && !errors.Is(err, syscall.EINVAL) {
			errs = append(errs, err) // EINVAL: somebody else has unmounted it
		}
	}
	return errors.Join(errs...)
}

// unmount takes off the mount at place, which e serves or served; e is nil if
// nobody is known to. It marks e dead if that is found out.
func unmount(ctx context.Context, place *mtab.Place, e *control.Entry, opt UnmountOptions) error {
	var end *control.Vigil
	if e != nil && e.State != control.Dead {
		v, err := e.Watch(ctx)
		switch {
		case err == nil:
			end = v
			defer end.Close()
		case errors.Is(err, syscall.ECONNREFUSED):
			e.State = control.Dead // killed since
		} // else it has ended since
	}
	if opt.Force {
		killed, err := force(ctx, place, e, end, opt)
		if killed {
			e.State = control.Dead
		}
		return err
	}
	err := mtab.Detach(place.Path, opt.Lazy)
	if errors.Is(err, syscall.EPERM) && e != nil && e.State == control.Answers {
		err = e.Unmount(ctx, opt.Lazy) // its server may do what we may not
	}
	switch {
	case errors.Is(err, syscall.EBUSY):
		return newBusyError(place.Path, place.Mount.Device)
	case err != nil:
		return err
	}
	if e != nil && e.State == control.Dead {
		tellKept(e, &opt)
	}
	if end == nil || opt.Lazy {
		return nil
	}
	waiting, cancel := context.WithTimeout(ctx, endTime)
	defer cancel()
	switch ended := end.Wait(waiting) == nil; {
	case ended:
		tellKept(e, &opt)
	case ctx.Err() == nil && opt.Warn != nil:
		opt.Warn(fmt.Sprintf("%s: unmounted here; process %d still serves it: another mount namespace has it too, or what was written is being brought to the disk", place.Path, e.Server))
	}
	return ctx.Err()
}

// tellKept tells which upper the mount e left, if one is left.
func tellKept(e *control.Entry, opt *UnmountOptions) {
	if e.Upper != "" && opt.Kept != nil && isThere(filepath.Join(e.Store, "uppers", e.Upper)) {
		opt.Kept(e.Upper)
	}
}

// force cuts the mount at place off its server, so that whoever waits for it
// goes on with an error, and takes it away. It tells whether it has killed the
// server.
func force(ctx context.Context, place *mtab.Place, e *control.Entry, end *control.Vigil, opt UnmountOptions) (killed bool, err error) {
	// What a writable one has answered is in its journal.
	cut := mtab.Abort(place.Mount.Device)
	if cut != nil && end != nil {
		cut = end.Kill()
		killed = cut == nil
	}
	if err := mtab.Detach(place.Path, true); err != nil {
		if cut != nil && !errors.Is(cut, fs.ErrPermission) {
			err = fmt.Errorf("%w (and its server could not be cut off: %w)", err, cut)
		}
		return killed, err
	}
	if end == nil {
		if e != nil && e.State == control.Dead {
			tellKept(e, &opt)
		}
		return false, nil
	}
	ended := func() bool {
		waiting, cancel := context.WithTimeout(ctx, abortTime)
		defer cancel()
		return end.Wait(waiting) == nil
	}
	if ended() {
		tellKept(e, &opt)
		return killed, nil
	}
	// Cut off, a server ends by itself, unless it is stopped or hangs.
	if err := end.Kill(); err != nil && opt.Warn != nil {
		opt.Warn(fmt.Sprintf("%s: detached; its server does not end: %v", place.Path, err))
		return killed, ctx.Err()
	}
	if ended() {
		tellKept(e, &opt)
	}
	return true, ctx.Err()
}
