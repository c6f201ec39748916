// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/forensics"
	"github.com/imgfs/imgfs/internal/control/mtab"
)

// withStack opens what arg says is to be examined, calls do with it and closes
// it. See imgfs.Store.OpenStack.
func (a *app) withStack(ctx context.Context, arg string, f *imageFlags, do func(*forensics.Stack) error) error {
	if err := checkPlatform(f.platform); err != nil {
		return err
	}
	st, err := a.store()
	if err != nil {
		return err
	}
	var s *forensics.Stack
	err = a.opening(ctx, f.options(a), func(ctx context.Context, opt imgfs.OpenOptions) (err error) {
		s, err = st.OpenStack(ctx, arg, opt)
		return err
	})
	if err != nil {
		return notStack(arg, err)
	}
	s.OnUnread(a.couldNotRead)
	return errors.Join(do(s), s.Close())
}

// notStack adds the cure to the error about a directory that is no image.
func notStack(arg string, err error) error {
	src, _ := imgfs.SplitArg(arg)
	fi, statErr := os.Stat(src)
	if !errors.Is(err, imgfs.ErrNotImage) || statErr != nil || !fi.IsDir() {
		return notImage(err)
	}
	place, placeErr := mtab.Locate(src)
	if placeErr == nil && place.Mount != nil && place.Mount.Type == mtab.Type {
		return &hintError{err: err, hint: "it lies in a mount: say " + place.Mount.Dir + ":" + strings.TrimPrefix(place.Path, place.Mount.Dir)}
	}
	return &hintError{err: err, hint: "dir:" + src + " is it as a directory, which diff, find, timeline and lint take"}
}

// couldNotRead tells of something below a directory of the host, once, and has
// the program end as one that could not do all.
func (a *app) couldNotRead(err error) {
	a.unread.mu.Lock()
	defer a.unread.mu.Unlock()
	text := plain(err)
	if a.unread.told[text] {
		return
	}
	if a.unread.told == nil {
		a.unread.told = make(map[string]bool)
	}
	a.unread.told[text] = true
	a.report(err)
}

// An unreadError ends a run that did all but for some files.
type unreadError int

func (n unreadError) Error() string {
	if n == 1 {
		return "1 file or directory could not be read, and is left out"
	}
	return fmt.Sprintf("%d files or directories could not be read, and are left out", int(n))
}
