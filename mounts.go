// SPDX-License-Identifier: Apache-2.0

package imgfs

import (
	"cmp"
	"context"
	"os"
	"slices"
	"time"

	"github.com/imgfs/imgfs/internal/control"
	"github.com/imgfs/imgfs/internal/control/mtab"
)

// MountInfo is a living mount.
type MountInfo struct {
	Dir      string    `json:"dir"`
	Image    string    `json:"image"`
	ImageID  string    `json:"image_id"`
	Platform string    `json:"platform"`
	Mode     string    `json:"mode"`            // "ro" or "rw"
	Upper    string    `json:"upper,omitempty"` // of a writable mount: keeps its changes
	PID      int       `json:"pid"`
	Since    time.Time `json:"since"`
	Log      string    `json:"log,omitempty"`
	Store    string    `json:"store"`
	Options  []string  `json:"options"`
	Verified bool      `json:"verified"`
	Damaged  bool      `json:"damaged"` // a layer is not what its digests say, and cannot be read
	Silent   bool      `json:"silent"`  // its server does not answer
	// Elsewhere tells that the mount is not on a directory of this mount
	// namespace: it belongs to another, or was detached and is still in use.
	Elsewhere bool `json:"elsewhere"`
	Owner     int  `json:"owner"` // uid
}

// Mounts returns the living mounts of this user, for root those of all users,
// sorted by directory. Mounts that are elsewhere come only if all is true. It
// waits for no mount longer than a second.
func Mounts(ctx context.Context, all bool) ([]MountInfo, error) {
	found, err := registered(ctx)
	if err != nil {
		return nil, err
	}
	var mounts []MountInfo
	for _, r := range found {
		if r.State == control.Dead {
			if r.at == nil {
				r.Forget()
			}
			continue
		}
		if r.at == nil && !all {
			continue
		}
		i := MountInfo{
			Dir: r.Dir, Image: r.Image, ImageID: r.ImageID, Platform: r.Platform, Mode: r.Mode, Upper: r.Upper,
			PID: cmp.Or(r.Server, r.PID), Since: r.Since, Log: r.Log, Store: r.Store,
			Options: r.Options, Verified: r.Verified, Damaged: r.Damaged, Silent: r.State == control.Silent,
			Elsewhere: r.at == nil, Owner: r.Owner,
		}
		if r.at != nil {
			i.Dir = r.at.Dir
		}
		if i.Options == nil {
			i.Options = []string{}
		}
		mounts = append(mounts, i)
	}
	slices.SortFunc(mounts, func(a, b MountInfo) int {
		return cmp.Or(cmp.Compare(a.Dir, b.Dir), a.Since.Compare(b.Since), cmp.Compare(a.PID, b.PID))
	})
	return mounts, nil
}

// A registration is a mount of the register with what the kernel says of it.
type registration struct {
	*control.Entry
	at *mtab.Mount // nil: not in this mount namespace
}

// registered returns the mounts of the register, dead ones too.
func registered(ctx context.Context) ([]registration, error) {
	entries := control.List(ctx, append(control.Dirs(), control.OthersDirs()...))
	// Read after the servers have answered: who answered was mounted by then.
	kernel, err := mtab.All()
	if err != nil {
		return nil, err
	}
	found := make([]registration, len(entries))
	for i, e := range entries {
		found[i] = registration{Entry: e, at: findMount(kernel, e)}
	}
	return found, nil
}

// findMount returns the mount that e serves, preferring where e says it is.
func findMount(kernel []mtab.Mount, e *control.Entry) *mtab.Mount {
	var at *mtab.Mount
	for i := range kernel {
		m := &kernel[i]
		if m.Device != e.Device || e.Device == "" {
			continue
		}
		// A register that is not ours may say what it likes.
		if e.Owner != os.Geteuid() && m.Owner != e.Owner {
			continue
		}
		if m.Dir == e.Dir {
			return m
		}
		// The number of a dead server's mount may be another's by now.
		if at == nil && e.State != control.Dead {
			at = m
		}
	}
	return at
}
