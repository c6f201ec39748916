// SPDX-License-Identifier: Apache-2.0

// Package mtab is what the kernel knows of imgfs mounts: which there are, what
// lies on a directory, who keeps one busy, and how one is taken away. Nothing
// in it waits for the server of a mount, so that a dead or hung one is seen
// and removed like any other.
//
// The package does not know what an image is, nor which process serves what.
package mtab

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Type is the filesystem type of the mounts.
const Type = "fuse.imgfs"

// A Mount is a mount of this process's mount namespace.
type Mount struct {
	ID      int
	Parent  int    // ID of the mount it lies on
	Device  string // major:minor, as mountinfo writes it; one per mounted tree
	Dir     string // where, as this process sees it
	Source  string // the image, as the mount's maker said
	Type    string
	Owner   int // uid whose mount it is; -1 if the kernel does not say
	Options string
}

// ReadOnly reports whether the mount takes no changes.
func (m *Mount) ReadOnly() bool { return slices.Contains(strings.Split(m.Options, ","), "ro") }

// All returns the imgfs mounts of this mount namespace in the order they were
// made.
func All() ([]Mount, error) { return read(mountinfo.FSTypeFilter(Type)) }

// On returns what is mounted on directories below m, in the order it was made.
func On(m *Mount) ([]Mount, error) {
	return read(func(i *mountinfo.Info) (skip, stop bool) { return i.Parent != m.ID, false })
}

func read(filter mountinfo.FilterFunc) ([]Mount, error) {
	infos, err := mountinfo.GetMounts(filter)
	if err != nil {
		return nil, fmt.Errorf("list of mounts: %w", err)
	}
	mounts := make([]Mount, 0, len(infos))
	for _, i := range infos {
		m := Mount{
			ID: i.ID, Parent: i.Parent, Device: fmt.Sprintf("%d:%d", i.Major, i.Minor),
			Dir: i.Mountpoint, Source: i.Source, Type: i.FSType, Owner: -1,
			Options: i.Options + "," + i.VFSOptions,
		}
		for o := range strings.SplitSeq(i.VFSOptions, ",") {
			if v, ok := strings.CutPrefix(o, "user_id="); ok {
				if uid, err := strconv.Atoi(v); err == nil {
					m.Owner = uid
				}
			}
		}
		mounts = append(mounts, m)
	}
	return mounts, nil
}

// A Place is a directory as the kernel sees it: without symlinks, and with the
// mount that is on top of it.
type Place struct {
	Path  string // absolute, clean, no symlinks
	Mount *Mount // the mount that Path lies in; nil if it is not listed
}

// IsMountPoint reports whether a mount begins at the place.
func (p *Place) IsMountPoint() bool { return p.Mount != nil && p.Mount.Dir == p.Path }

// IsOurs reports whether an imgfs mount begins at the place.
func (p *Place) IsOurs() bool { return p.IsMountPoint() && p.Mount.Type == Type }

// Locate finds what is at dir. It follows symlinks, asks no file system that
// lies on dir itself, and so works on a dead mount.
func Locate(dir string) (*Place, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return nil, err
	}
	if !filepath.IsAbs(path) {
		return nil, &fs.PathError{Op: "open", Path: dir, Err: errors.New("cannot be reached from here")}
	}
	id, err := mountID(fd)
	if err != nil {
		return nil, err
	}
	mounts, err := read(func(i *mountinfo.Info) (skip, stop bool) { return i.ID != id, i.ID == id })
	if err != nil {
		return nil, err
	}
	p := &Place{Path: path}
	if len(mounts) > 0 {
		p.Mount = &mounts[0]
	}
	return p, nil
}

// mountID returns the ID of the mount that fd was opened in.
func mountID(fd int) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
	if err != nil {
		return 0, err
	}
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		if v, ok := strings.CutPrefix(s.Text(), "mnt_id:"); ok {
			return strconv.Atoi(strings.TrimSpace(v))
		}
	}
	return 0, errors.New("the kernel does not tell the mount of a file")
}

// Health is whether a mount's server answers.
type Health int

// What Check finds.
const (
	Alive  Health = iota
	Dead          // the server has ended
	Silent        // it did not answer in time
)

// Check asks the server of the mount at dir for an answer and waits at most
// timeout.
func Check(dir string, timeout time.Duration) Health {
	answer := make(chan error, 1)
	go func() {
		var st unix.Statfs_t // cached attributes outlive a server, this does not
		answer <- unix.Statfs(dir, &st)
	}()
	select {
	case err := <-answer:
		if errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED) {
			return Dead
		}
		return Alive
	case <-time.After(timeout):
		return Silent
	}
}
