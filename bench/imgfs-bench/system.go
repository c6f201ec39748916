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
	"slices"
	"strings"
	"syscall"
	"time"
)

// The systems that are measured. diskIs is the disk's own filesystem: with the
// whole image in plain files in it, and for rows that write an empty directory.
const (
	imgfsIs        = "imgfs"
	imgfsRWIs      = "imgfs --rw"
	imgfsCachedIs  = "imgfs --rw -o nopassthrough"
	overlayIs      = "overlayfs"
	diskIs         = "ext4"
	erofsIs        = "EROFS"
	overTarIs      = "EROFS over the tar"
	fuseOverlayIs  = "fuse-overlayfs"
	squashfuseIs   = "squashfuse"
	archivemountIs = "archivemount"
	podmanIs       = "podman pull"
	umociIs        = "skopeo + umoci unpack"
	tarIs          = "tar -x"
	memfsIs        = "memfs"
	memfsCachedIs  = "memfs -writeback"
	memfsBareIs    = "memfs -noxattr"
)

// programOf names the program that a system needs; imgfs is always there.
func programOf(system string) string {
	return map[string]string{
		erofsIs: "mkfs.erofs", overTarIs: "mkfs.erofs", fuseOverlayIs: "fuse-overlayfs",
		squashfuseIs: "squashfuse", archivemountIs: "archivemount", podmanIs: "podman", umociIs: "umoci",
		skopeoIs: "skopeo", fetchIs: "docker-registry", decodeIs: "gzip",
	}[system]
}

// A mounted is one system, mounted for one turn.
type mounted struct {
	dir   string    // where the work is done
	upper string    // what grows on disk; empty: nothing
	pid   int       // of the server; 0: the kernel serves
	cmd   *exec.Cmd // the server, if it is a child of ours
	stack bool      // dir is a mount
}

// mount mounts an image by one of the systems, with nothing changed yet.
func (b *bench) mount(r row, system string, im *image) (m *mounted, err error) {
	m, err = b.begun()
	if err != nil {
		return nil, err
	}
	if err := b.mountAt(m, r, system, im); err != nil {
		return nil, err
	}
	if m.stack && m.cmd == nil && strings.HasPrefix(system, imgfsIs) {
		m.pid, err = b.pidOf(m.dir)
	}
	return m, err
}

// begun returns a turn's directories before anything is mounted.
func (b *bench) begun() (*mounted, error) {
	m := &mounted{dir: filepath.Join(b.turn, "mnt"), upper: filepath.Join(b.turn, "upper"), stack: true}
	return m, errors.Join(os.Mkdir(m.dir, 0o755), os.Mkdir(m.upper, 0o755), os.Mkdir(b.workdir(), 0o755))
}

func (b *bench) workdir() string { return filepath.Join(b.turn, "work") }

// mountAt mounts and returns as soon as the mount answers.
func (b *bench) mountAt(m *mounted, r row, system string, im *image) (err error) {
	b.mounted = append(b.mounted, m.dir)
	writable := r.group == "write"
	layers := ""
	if im != nil {
		layers = strings.Join(im.overlaid(), ":")
	}
	rw := []string{"--upper", filepath.Base(b.turn)} // kept; see private
	switch system {
	case imgfsIs:
		return b.mountImgfs(m, im)
	case imgfsRWIs:
		m.upper = b.uppers()
		return b.mountImgfs(m, im, rw...)
	case imgfsCachedIs:
		m.upper = b.uppers()
		return b.mountImgfs(m, im, append(rw, "-o", "nopassthrough")...)
	case overlayIs:
		if !writable {
			return b.mountOverlay(m.dir, im, "")
		}
		return b.mountOverlay(m.dir, im, m.upper)
	case fuseOverlayIs:
		options := "lowerdir=" + layers
		if writable {
			options += ",upperdir=" + m.upper + ",workdir=" + b.workdir()
		}
		return m.start(exec.Command("fuse-overlayfs", "-f", "-o", options, m.dir))
	case erofsIs:
		return mountErofs(im.erofs, m.dir, "")
	case overTarIs:
		return mountErofs(im.overTar, m.dir, im.tar)
	case squashfuseIs:
		return m.start(exec.Command("squashfuse", "-f", "-o", "allow_other", im.squashfs, m.dir))
	case archivemountIs:
		return m.start(exec.Command("archivemount", "-f", "-o", "readonly,allow_other", im.tar, m.dir))
	case memfsIs, memfsCachedIs, memfsBareIs:
		m.upper = ""
		args := append([]string{"-from", layers}, strings.Fields(strings.TrimPrefix(system, memfsIs))...)
		return m.start(exec.Command(b.memfs, append(args, m.dir)...))
	case diskIs:
		b.mounted = b.mounted[:len(b.mounted)-1]
		m.dir, m.stack = m.upper, false
		if !writable {
			m.dir = im.tree
		}
		return nil
	}
	return fmt.Errorf("no such system: %s", system)
}

// uppers is where imgfs keeps changes.
func (b *bench) uppers() string { return filepath.Join(b.store, "uppers") }

func (b *bench) mountImgfs(m *mounted, im *image, flags ...string) error {
	name, err := b.load(im.archive)
	if err != nil {
		return err
	}
	_, err = output(b.command(slices.Concat([]string{"mount"}, flags, []string{name, m.dir})...))
	return err
}

// mountOverlay mounts an overlayfs; read-only if there is no upper.
func (b *bench) mountOverlay(dir string, im *image, upper string) error {
	var lower []string // relative, as mount(2) takes one page
	for _, l := range im.overlaid() {
		lower = append(lower, filepath.Base(l))
	}
	options := "lowerdir=" + strings.Join(lower, ":")
	if upper == "" {
		options += ",ro"
	} else {
		options += ",upperdir=" + upper + ",workdir=" + b.workdir()
	}
	cmd := exec.Command("mount", "-i", "-t", "overlay", "-o", options, "overlay", dir)
	cmd.Dir = filepath.Dir(im.layers[0])
	_, err := output(cmd)
	if err == nil && !slices.Contains(b.mounted, dir) {
		b.mounted = append(b.mounted, dir)
	}
	return err
}

// pidOf returns the process that serves a mount of imgfs.
func (b *bench) pidOf(dir string) (int, error) {
	m, err := b.listed(dir)
	return m.Pid, err
}

// A listing is a line of `imgfs mounts --format json`.
type listing struct {
	Dir      string `json:"dir"`
	Pid      int    `json:"pid"`
	Verified bool   `json:"verified"`
	Damaged  bool   `json:"damaged"`
}

// listed returns what `imgfs mounts` says of a mount.
func (b *bench) listed(dir string) (listing, error) {
	out, err := output(b.command("mounts", "--format", "json"))
	if err != nil {
		return listing{}, err
	}
	return findListing(out, dir)
}

func findListing(out, dir string) (listing, error) {
	for line := range strings.Lines(out) {
		var l listing
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			return l, fmt.Errorf("mounts --format json: %w", err)
		}
		if l.Dir == dir {
			return l, nil
		}
	}
	return listing{}, fmt.Errorf("mounts --format json: %s is not there: %s", dir, out)
}

// patience is how long a server may take to come and to go.
const patience = time.Minute

// start starts a server and waits for its mount.
func (m *mounted) start(cmd *exec.Cmd) error {
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	before, err := deviceOf(m.dir)
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	m.cmd, m.pid = cmd, cmd.Process.Pid
	return wait(func() (bool, error) {
		if now, err := deviceOf(m.dir); err != nil || now != before {
			return err == nil, err
		}
		if exited(m.pid) {
			return false, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), cmd.Wait(), log.Bytes())
		}
		return false, nil
	})
}

func deviceOf(dir string) (uint64, error) {
	var st syscall.Stat_t
	err := syscall.Lstat(dir, &st)
	return st.Dev, err
}

// exited reports whether a process is no more, or a zombie.
func exited(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH)
	}
	_, rest, _ := bytes.Cut(stat, []byte(") "))
	return bytes.HasPrefix(rest, []byte("Z"))
}

// wait asks until it is so.
func wait(isSo func() (bool, error)) error {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if ok, err := isSo(); ok || err != nil {
			return err
		}
	}
	return errors.New("waited in vain")
}

// umount unmounts a directory. What was just worked on may be held a moment
// longer, by a program that ends: a mount that is busy is asked again.
func (b *bench) umount(dir string) error {
	err := wait(func() (bool, error) {
		err := syscall.Unmount(dir, 0)
		if err == syscall.EBUSY {
			return false, nil
		}
		return true, err
	})
	if err != nil {
		return fmt.Errorf("umount %s: %w", dir, err)
	}
	b.mounted = slices.DeleteFunc(b.mounted, func(d string) bool { return d == dir })
	return nil
}

// unmount ends a turn and removes what it left.
func (b *bench) unmount(m *mounted) error {
	if err := b.end(m); err != nil {
		return err
	}
	if m.upper == b.uppers() {
		return removeBig(m.upper)
	}
	return removeBig(b.turn)
}

// end unmounts and waits for the server to go.
func (b *bench) end(m *mounted) error {
	if m.stack {
		if err := b.umount(m.dir); err != nil {
			return err
		}
	}
	if m.cmd != nil {
		if err := m.cmd.Wait(); err != nil {
			return err
		}
	} else if m.pid != 0 {
		if err := wait(func() (bool, error) { return exited(m.pid), nil }); err != nil {
			return fmt.Errorf("the server %d of %s still runs: %w", m.pid, m.dir, err)
		}
	}
	return nil
}
