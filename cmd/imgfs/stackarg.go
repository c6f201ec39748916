// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/forensics"
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
		return notImage(err)
	}
	return errors.Join(do(s), s.Close())
}
