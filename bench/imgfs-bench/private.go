// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// For minutes after thousands of files were removed from its block groups, ext4
// takes up to 0.7 ms to make one there (recently_deleted, in fs/ext4/ialloc.c),
// whoever removed them. So a run removes nothing before its end but long files,
// keeps its directories apart from all others, and rows with many small files
// work in a private filesystem, on a loop device over a file of the disk. Rows
// that sync do not: through two filesystems a sync takes several times as long.

// apart asks ext4 for block groups of their own for the directories in dir.
func apart(dir string) error {
	_, err := output(exec.Command("chattr", "+T", dir))
	return err
}

// A private is an ext4 of this run's own.
type private struct {
	dir, device string
}

const (
	privateSize   = "24G"
	privateInodes = "4000000"
)

// newPrivate makes the filesystem and mounts it below dir.
func newPrivate(dir string) (*private, error) {
	file := filepath.Join(dir, "ext4.img")
	p := &private{dir: filepath.Join(dir, "ext4")}
	if err := os.Mkdir(p.dir, 0o755); err != nil {
		return nil, err
	}
	for _, args := range [][]string{
		{"fallocate", "-l", privateSize, file},
		{"mkfs.ext4", "-q", "-F", "-N", privateInodes, "-E", "lazy_itable_init=1,nodiscard", file},
	} {
		if _, err := output(exec.Command(args[0], args[1:]...)); err != nil {
			return nil, err
		}
	}
	device, err := output(exec.Command("losetup", "--find", "--show", "--direct-io=on", file))
	if err != nil {
		return nil, err
	}
	p.device = strings.TrimSpace(device)
	if _, err := output(exec.Command("mount", "-i", "-t", "ext4", "-o", "noinit_itable", p.device, p.dir)); err != nil {
		return nil, errors.Join(err, p.free())
	}
	return p, nil
}

func (p *private) free() error {
	_, err := output(exec.Command("losetup", "--detach", p.device))
	return err
}

// remove unmounts it, when the last server that was just unmounted is gone.
func (p *private) remove() error {
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if _, err = output(exec.Command("umount", p.dir)); err == nil {
			break
		}
	}
	return errors.Join(err, p.free())
}

// bigEnough is the size in bytes from which a file is worth removing.
const bigEnough = 32 << 20

// removeBig frees the space of long files below dir, if there is one.
func removeBig(dir string) error {
	return filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil || info.Size() < bigEnough {
			return err
		}
		return os.Remove(name)
	})
}
