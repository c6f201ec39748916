// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// An image is one shape, ready to be mounted both ways.
type image struct {
	shape   string
	archive string   // OCI archive
	name    string   // in the store of imgfs, after prepare
	layers  []string // unpacked for overlayfs, base first, after prepare
}

type bench struct {
	config
	work, store string
	report      *report
	mounted     []string
}

func makeImages(c config) ([]image, error) {
	var images []image
	for _, shape := range c.shapes {
		cmd := exec.Command(c.mkimage, shape)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", c.mkimage, shape, err)
		}
		images = append(images, image{shape: shape, archive: strings.TrimSpace(string(out))})
	}
	return images, nil
}

// command returns a call of imgfs with the store of this run.
func (b *bench) command(args ...string) *exec.Cmd {
	cmd := exec.Command(b.imgfs, args...)
	cmd.Env = append(os.Environ(), "IMGFS_ROOT="+b.store)
	return cmd
}

// output runs a command and returns what it prints; an error holds its stderr.
func output(cmd *exec.Cmd) (string, error) {
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(errs.Bytes()))
	}
	return out.String(), nil
}

// timed runs a command and returns the seconds it took.
func timed(cmd *exec.Cmd) (float64, error) {
	start := time.Now()
	_, err := output(cmd)
	return time.Since(start).Seconds(), err
}

// dropCaches empties the kernel's page, dentry and inode caches.
func dropCaches() error {
	syscall.Sync()
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0)
}

// prepare loads an image into the store, measures time and size of that, and
// unpacks its layers for overlayfs.
func (b *bench) prepare(im *image) error {
	before, err := diskUsage(b.store)
	if err != nil {
		return err
	}
	if err := dropCaches(); err != nil {
		return err
	}
	start := time.Now()
	out, err := output(b.command("load", "-q", "-i", im.archive))
	if err != nil {
		return err
	}
	seconds := time.Since(start).Seconds()
	_, im.name, _ = strings.Cut(strings.TrimSpace(out), ": ")
	if im.name == "" || strings.Contains(im.name, "\n") {
		return fmt.Errorf("load printed %q, want one image", out)
	}
	after, err := diskUsage(b.store)
	if err != nil {
		return err
	}

	layers, blobs, unpack, err := unpackLayers(im.archive, filepath.Join(b.work, "layers-"+im.shape))
	if err != nil {
		return err
	}
	im.layers = layers
	b.report.add("load, once", im.shape, "s", imgfsIs, seconds)
	b.report.add("load, once", im.shape, "s", "unpack by tar", unpack)
	b.report.add("store / blobs", im.shape, "MB", imgfsIs, float64(after-before)/1e6)
	b.report.add("store / blobs", im.shape, "MB", "blobs", float64(blobs)/1e6)
	return nil
}

// diskUsage returns the bytes that the files below dir take on disk; 0 if
// there is no dir.
func diskUsage(dir string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		sum += info.Sys().(*syscall.Stat_t).Blocks * 512
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	return sum, err
}

// mountTimes measures from the start of `imgfs mount` to its return, all
// shapes in turn.
func (b *bench) mountTimes(images []image) error {
	for range b.runs {
		for _, im := range images {
			dir := filepath.Join(b.work, "mnt")
			seconds, err := b.mountImgfs(im, dir)
			if err != nil {
				return err
			}
			b.report.add("mount", im.shape, "ms", imgfsIs, seconds*1000)
			if err := b.unmount(dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// compare walks and reads one image through imgfs and through overlayfs, in
// turn. Each turn is a mount of its own.
func (b *bench) compare(im image) error {
	for range b.runs {
		for _, system := range []string{imgfsIs, overlayIs} {
			if err := b.turn(im, system); err != nil {
				return fmt.Errorf("%s: %w", system, err)
			}
		}
	}
	return nil
}

func (b *bench) turn(im image, system string) error {
	dir := filepath.Join(b.work, "mnt")
	var err error
	if system == imgfsIs {
		_, err = b.mountImgfs(im, dir)
	} else {
		err = b.mountOverlay(im, dir)
	}
	if err != nil {
		return err
	}
	measure := func(row string, cold bool, cmd *exec.Cmd) error {
		if cold {
			if err := dropCaches(); err != nil {
				return err
			}
		}
		seconds, err := timed(cmd)
		if err == nil {
			b.report.add(row, im.shape, "s", system, seconds)
		}
		return err
	}
	find := func() *exec.Cmd {
		return exec.Command("sh", "-c", `exec find "$0" -printf '%s %m %T@\n' >/dev/null`, dir)
	}
	read := func() *exec.Cmd {
		return exec.Command("sh", "-c", `tar -C "$0" --sparse-version=1.0 -cf - . 2>/dev/null | cat >/dev/null`, dir)
	}
	err = errors.Join(measure("first walk", true, find()), measure("second walk", false, find()))
	if system == imgfsIs {
		err = errors.Join(err, b.memory("RssAnon after walk", im, dir))
	}
	if b.reads[im.shape] {
		err = errors.Join(err, measure("read all, cold", true, read()), measure("read all, warm", false, read()))
		if system == imgfsIs {
			err = errors.Join(err, b.memory("RssAnon after reading all", im, dir))
		}
	}
	return errors.Join(err, b.unmount(dir))
}

func (b *bench) mountImgfs(im image, dir string) (float64, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, err
	}
	seconds, err := timed(b.command("mount", im.name, dir))
	if err == nil {
		b.mounted = append(b.mounted, dir)
	}
	return seconds, err
}

func (b *bench) mountOverlay(im image, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var lower []string // topmost first; relative, as mount(2) takes one page
	for i := len(im.layers) - 1; i >= 0; i-- {
		lower = append(lower, filepath.Base(im.layers[i]))
	}
	cmd := exec.Command("mount", "-i", "-t", "overlay", "-o", "ro,lowerdir="+strings.Join(lower, ":"), "overlay", dir)
	cmd.Dir = filepath.Dir(im.layers[0])
	_, err := output(cmd)
	if err == nil {
		b.mounted = append(b.mounted, dir)
	}
	return err
}

func (b *bench) unmount(dir string) error {
	_, err := output(exec.Command("umount", dir))
	if err == nil {
		b.mounted = b.mounted[:len(b.mounted)-1]
	}
	return err
}

// unmountAll takes away what an error left behind.
func (b *bench) unmountAll() {
	for _, dir := range b.mounted {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			fmt.Fprintln(os.Stderr, "imgfs-bench: unmount", dir, err)
		}
	}
}

// memory records the anonymous memory of the server of the mount at dir.
func (b *bench) memory(row string, im image, dir string) error {
	out, err := output(b.command("mounts", "--format", "json"))
	if err != nil {
		return err
	}
	pid, err := pidOf(out, dir)
	if err != nil {
		return err
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return err
	}
	_, rest, ok := strings.Cut(string(status), "RssAnon:")
	if !ok {
		return fmt.Errorf("process %d: no RssAnon", pid)
	}
	kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	if err != nil {
		return err
	}
	b.report.add(row, im.shape, "MiB", imgfsIs, kib/1024)
	return nil
}

// pidOf reads the output of `imgfs mounts --format json`: an array, or an
// object a line.
func pidOf(out, dir string) (int, error) {
	type mount struct {
		Dir string `json:"dir"`
		Pid int    `json:"pid"`
	}
	var all []mount
	if json.Unmarshal([]byte(out), &all) != nil {
		for line := range strings.Lines(out) {
			var m mount
			if err := json.Unmarshal([]byte(line), &m); err != nil {
				return 0, fmt.Errorf("mounts --format json: %w", err)
			}
			all = append(all, m)
		}
	}
	for _, m := range all {
		if m.Dir == dir {
			return m.Pid, nil
		}
	}
	return 0, fmt.Errorf("mounts --format json: %s is not there: %s", dir, out)
}
