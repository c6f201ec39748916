// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// workPrefix begins the name of a run's directory.
const workPrefix = "bench-"

// waitAlone waits until no other run measures; that lasts until the file is
// closed.
func waitAlone(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
		return f, nil
	}
	fmt.Fprintln(os.Stderr, "imgfs-bench: waiting for another run to end")
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// cleanUp takes away what an error or a signal left behind, the last first.
func (b *bench) cleanUp() {
	for _, dir := range slices.Backward(b.mounted) {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil && !errors.Is(err, syscall.EINVAL) {
			fmt.Fprintln(os.Stderr, "imgfs-bench: unmount", dir, err)
		}
	}
	for _, undo := range slices.Backward(b.undo) {
		if err := undo(); err != nil {
			fmt.Fprintln(os.Stderr, "imgfs-bench:", err)
		}
	}
}

// sweep removes what runs that were killed have left below dir: mounts, loop
// devices, files. The caller is the only run.
func sweep(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, workPrefix+"*", ""))
	if err != nil {
		return err
	}
	for _, work := range left {
		if info, err := os.Lstat(work); err != nil || !info.IsDir() {
			continue
		}
		fmt.Fprintln(os.Stderr, "imgfs-bench: removing what a killed run left:", work)
		info, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			return err
		}
		for _, at := range slices.Backward(mountsBelow(string(info), work)) {
			if err := syscall.Unmount(at, syscall.MNT_DETACH); err != nil {
				return fmt.Errorf("unmount %s: %w", at, err)
			}
		}
		file := filepath.Join(work, "ext4.img")
		if out, err := output(exec.Command("losetup", "--noheadings", "--output", "NAME", "--associated", file)); err == nil {
			for device := range strings.FieldsSeq(out) {
				if _, err := output(exec.Command("losetup", "--detach", device)); err != nil {
					return err
				}
			}
		}
		if err := os.RemoveAll(work); err != nil {
			return err
		}
	}
	return nil
}

// mountsBelow returns the mount points below dir in a mountinfo, in its order.
func mountsBelow(mountinfo, dir string) (points []string) {
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(mountinfo) {
		if f := strings.Fields(line); len(f) > 4 {
			if at := unescape.Replace(f[4]); strings.HasPrefix(at, dir+"/") {
				points = append(points, at)
			}
		}
	}
	return points
}
