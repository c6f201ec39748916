// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// The figures of rows that measure how one gets to a directory.
const (
	untilMounted = "file to directory"
	tarRate      = "layers' tars read"
	onDisk       = "on disk"
	indexShare   = "indexes / blobs"
	firstMount   = "first mount"
	firstCold    = "first mount, cold"
	laterMount   = "mount again"
)

// loadTurn makes a directory of an image's file in the way of one system.
func loadTurn(b *bench, r row, system string, im *image) error {
	if err := b.sizeOf(im); err != nil {
		return err
	}
	if err := dropCaches(cold); err != nil {
		return err
	}
	switch system {
	case imgfsIs:
		return b.loadImgfs(r, im)
	case tarIs:
		return b.loadTar(r, im)
	case podmanIs:
		return b.loadPodman(r, im)
	case umociIs:
		return b.loadUmoci(r, im)
	}
	return fmt.Errorf("no such way to load: %s", system)
}

// sizeOf learns how much is in an image.
func (b *bench) sizeOf(im *image) error {
	if im.tars != 0 {
		return nil
	}
	image, f, err := openOCI(im.archive)
	if err != nil {
		return err
	}
	defer f.Close()
	im.blobs = image.blobs
	for _, l := range image.layers {
		n, err := gunzipTo(io.Discard, f, l)
		if err != nil {
			return err
		}
		im.tars += n
	}
	return nil
}

func (b *bench) loadImgfs(r row, im *image) error {
	m, err := b.begun()
	if err != nil {
		return err
	}
	b.mounted = append(b.mounted, m.dir)
	store := filepath.Join(b.turn, "store")
	run := func(args ...string) (string, float64, error) {
		cmd := inStore(exec.CommandContext(b.ctx, b.imgfs, args...), store)
		out, err := output(cmd)
		return out, cpuOf(cmd), err
	}
	start := time.Now()
	out, spent, err := run("load", "-q", "-i", im.archive)
	if err != nil {
		return err
	}
	loaded := time.Since(start).Seconds()
	name, err := loadedName(out)
	if err != nil {
		return err
	}
	if _, _, err := run("mount", name, m.dir); err != nil {
		return err
	}
	took := time.Since(start).Seconds()
	disk, err := diskUsage(store)
	if err != nil {
		return err
	}
	if err := b.unmount(m); err != nil {
		return err
	}
	b.report.add(r, tarRate, imgfsIs, megabytesPerSecond, float64(im.tars)/1e6/loaded)
	b.report.add(r, indexShare, imgfsIs, percent, 100*float64(disk-im.blobs)/float64(im.blobs))
	b.came(r, imgfsIs, took, spent, disk)
	return nil
}

// came records a way to a directory.
func (b *bench) came(r row, system string, took, spent float64, disk int64) {
	b.report.add(r, untilMounted, system, seconds, took)
	b.report.effort(r, untilMounted, system, effort{Worker: spent})
	b.report.add(r, onDisk, system, mebibytes, float64(disk)/(1<<20))
}

// cpuOf is the CPU time of a command that has ended, and of its children.
func cpuOf(cmd *exec.Cmd) float64 {
	if cmd.ProcessState == nil {
		return 0
	}
	return (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
}

// loadTar unpacks each layer into a directory: the least that an unpacking
// store does.
func (b *bench) loadTar(r row, im *image) error {
	image, f, err := openOCI(im.archive)
	if err != nil {
		return err
	}
	defer f.Close()
	start, before := time.Now(), cpuTime()
	for i, l := range image.layers {
		if err := untarLayer(b.ctx, f, l, filepath.Join(b.turn, fmt.Sprint(i))); err != nil {
			return err
		}
	}
	took, spent := time.Since(start).Seconds(), cpuTime()-before
	disk, err := diskUsage(b.turn)
	b.came(r, tarIs, took, spent, disk)
	return err
}

// podmanRun is where podman keeps what is running: it wants a short name.
const podmanRun = "/run/imgfs-bench-podman"

// podman returns a call of podman with a store in the directory of the turn.
func (b *bench) podman(args ...string) *exec.Cmd {
	return exec.CommandContext(b.ctx, "podman", append([]string{"--root", filepath.Join(b.turn, "root"),
		"--runroot", podmanRun, "--storage-driver", "overlay"}, args...)...)
}

// tryPodman looks whether podman works here at all.
func (b *bench) tryPodman() error {
	b.turn = filepath.Join(b.work, "try-podman")
	if _, err := output(b.podman("info")); err != nil {
		return &unableError{err.Error()}
	}
	return b.endPodman()
}

// endPodman unmounts what podman has left mounted.
func (b *bench) endPodman() error {
	_, err := output(b.podman("image", "unmount", "--all"))
	overlay := filepath.Join(b.turn, "root", "overlay")
	var e error
	for e == nil { // each command mounts it again
		e = syscall.Unmount(overlay, syscall.MNT_DETACH)
	}
	if e != syscall.EINVAL && e != syscall.ENOENT {
		err = errors.Join(err, e)
	}
	return errors.Join(err, os.RemoveAll(podmanRun))
}

func (b *bench) loadPodman(r row, im *image) error {
	pull := b.podman("pull", "--quiet", "oci-archive:"+im.archive)
	start := time.Now()
	id, err := output(pull)
	if err != nil {
		return err
	}
	mount := b.podman("image", "mount", strings.TrimSpace(id))
	if _, err = output(mount); err != nil {
		return err
	}
	took := time.Since(start).Seconds()
	if err := b.endPodman(); err != nil {
		return err
	}
	disk, err := diskUsage(b.turn)
	b.came(r, podmanIs, took, cpuOf(pull)+cpuOf(mount), disk)
	return err
}

func (b *bench) loadUmoci(r row, im *image) error {
	layout, bundle := filepath.Join(b.turn, "layout"), filepath.Join(b.turn, "bundle")
	copied := exec.CommandContext(b.ctx, "skopeo", "copy", "--quiet", "oci-archive:"+im.archive, "oci:"+layout+":x")
	unpacked := exec.CommandContext(b.ctx, "umoci", "unpack", "--image", layout+":x", bundle)
	return b.timeCommands(r, umociIs, copied, unpacked)
}

// mountTurn measures from the call until the directory answers. What unpacking
// the image left to write is written first.
func mountTurn(b *bench, r row, system string, im *image) error {
	syscall.Sync()
	return b.timeMount(r, theTime, system, im, func(string) error { return nil })
}

// firstByteTurn measures from the call until a byte of a file has been read,
// with nothing in the kernel's caches.
func firstByteTurn(b *bench, r row, system string, im *image) error {
	if err := dropCaches(cold); err != nil {
		return err
	}
	return b.timeMount(r, theTime, system, im, firstByte)
}

// timeMount mounts, does something there, and records how long both took.
func (b *bench) timeMount(r row, name, system string, im *image, then func(dir string) error) error {
	m, err := b.begun()
	if err != nil {
		return err
	}
	start := time.Now()
	if err := b.mountAt(m, r, system, im); err != nil {
		return err
	}
	if err := then(m.dir); err != nil {
		return err
	}
	b.report.add(r, name, system, seconds, time.Since(start).Seconds())
	return b.unmount(m)
}

// placeTurn mounts an uncompressed docker-archive where it lies.
func placeTurn(b *bench, r row, system string, im *image) error {
	if system == overTarIs {
		return b.placeErofs(r, im)
	}
	if err := b.makeDocker(im); err != nil {
		return err
	}
	m, err := b.begun()
	if err != nil {
		return err
	}
	mount := func(figure, store string) error {
		b.mounted = append(b.mounted, m.dir)
		b.store = filepath.Join(b.turn, store)
		start := time.Now()
		if _, err := output(b.command("mount", im.docker, m.dir)); err != nil {
			return err
		}
		b.report.add(r, figure, imgfsIs, seconds, time.Since(start).Seconds())
		m.pid, err = b.pidOf(m.dir)
		return err
	}
	defer b.enter(r.private)
	if err := dropCaches(cold); err != nil {
		return err
	}
	if err := mount(firstCold, "store-1"); err != nil {
		return err
	}
	if err := b.verified(m.dir); err != nil { // its pages are in memory then
		return err
	}
	if err := b.end(m); err != nil {
		return err
	}
	if err := mount(firstMount, "store-2"); err != nil {
		return err
	}
	if err := b.verified(m.dir); err != nil {
		return err
	}
	if err := b.end(m); err != nil {
		return err
	}
	if err := mount(laterMount, "store-2"); err != nil {
		return err
	}
	return b.unmount(m)
}

// verified waits for the pass behind a mount.
func (b *bench) verified(dir string) error {
	return wait(func() (bool, error) {
		if err := b.ctx.Err(); err != nil {
			return false, err
		}
		l, err := b.listed(dir)
		if l.Damaged {
			err = errors.Join(err, fmt.Errorf("%s: damaged", dir))
		}
		return l.Verified, err
	})
}

// placeErofs makes an EROFS that has the names of a tar alone.
func (b *bench) placeErofs(r row, im *image) error {
	m, err := b.begun()
	if err != nil {
		return err
	}
	for _, how := range []string{firstCold, firstMount} {
		if how == firstCold {
			if err := dropCaches(cold); err != nil {
				return err
			}
		}
		index := filepath.Join(b.turn, how)
		start := time.Now()
		if _, err := output(exec.CommandContext(b.ctx, "mkfs.erofs", "--quiet", "--tar=i", index, im.tar)); err != nil {
			return err
		}
		if err := mountErofs(index, m.dir, im.tar); err != nil {
			return err
		}
		b.mounted = append(b.mounted, m.dir)
		b.report.add(r, how, overTarIs, seconds, time.Since(start).Seconds())
		if err := b.umount(m.dir); err != nil {
			return err
		}
	}
	return nil
}
