// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// The systems of the writable rows, besides imgfs and overlayfs.
const (
	imgfsCachedIs = "imgfs -o nopassthrough"
	imgfsReadIs   = "imgfs read-only"
	fuseOverlayIs = "fuse-overlayfs"
	memfsIs       = "memfs"
	memfsCachedIs = "memfs -writeback"
	memfsBareIs   = "memfs -noxattr"
	diskIs        = "ext4"
)

// A mounted is one system, mounted for one turn.
type mounted struct {
	dir   string    // where the work is done
	upper string    // what grows on disk; empty: nothing
	pid   int       // of the server; 0: the kernel serves
	cmd   *exec.Cmd // the server, if it is a child of ours
	stack bool      // dir is a mount
}

// mountSystem mounts an image by one of the systems, with nothing changed yet.
func (b *writeBench) mountSystem(system string, im image) (m *mounted, err error) {
	b.turns++
	turn := filepath.Join(b.work, fmt.Sprintf("turn-%03d", b.turns))
	if err := os.Mkdir(turn, 0o755); err != nil {
		return nil, err
	}
	b.turn = turn
	rw := []string{"--upper", filepath.Base(turn)} // kept; see private
	m = &mounted{dir: filepath.Join(turn, "mnt"), upper: filepath.Join(turn, "upper"), stack: true}
	work := filepath.Join(turn, "work")
	if err := errors.Join(os.Mkdir(m.dir, 0o755), os.Mkdir(m.upper, 0o755), os.Mkdir(work, 0o755)); err != nil {
		return nil, err
	}
	b.mounted = append(b.mounted, m.dir)
	layers := strings.Join(im.overlaid(), ":")
	options := "lowerdir=" + layers + ",upperdir=" + m.upper + ",workdir=" + work
	switch system {
	case imgfsIs:
		err = b.mountWritable(m, im, rw...)
	case imgfsCachedIs:
		err = b.mountWritable(m, im, append(rw, "-o", "nopassthrough")...)
	case imgfsReadIs:
		err = b.mountWritable(m, im)
	case overlayIs:
		_, err = output(exec.Command("mount", "-i", "-t", "overlay", "-o", options, "overlay", m.dir))
	case fuseOverlayIs:
		err = m.start(exec.Command("fuse-overlayfs", "-f", "-o", options, m.dir))
	case memfsIs:
		m.upper = ""
		err = m.start(exec.Command(b.memfs, "-from", layers, m.dir))
	case memfsCachedIs:
		m.upper = ""
		err = m.start(exec.Command(b.memfs, "-from", layers, "-writeback", m.dir))
	case memfsBareIs:
		m.upper = ""
		err = m.start(exec.Command(b.memfs, "-from", layers, "-noxattr", m.dir))
	case diskIs:
		b.mounted = b.mounted[:len(b.mounted)-1]
		m.dir, m.stack = m.upper, false
	default:
		err = fmt.Errorf("no such system: %s", system)
	}
	return m, err
}

// uppers is where imgfs keeps changes.
func (b *writeBench) uppers() string { return filepath.Join(b.store, "uppers") }

func (b *writeBench) mountWritable(m *mounted, im image, flags ...string) error {
	m.upper = b.uppers()
	if _, err := output(b.command(append(append([]string{"mount"}, flags...), im.name, m.dir)...)); err != nil {
		return err
	}
	out, err := output(b.command("mounts", "--format", "json"))
	if err != nil {
		return err
	}
	m.pid, err = pidOf(out, m.dir)
	return err
}

// overlaid returns the directories of the layers as overlayfs wants them, the
// topmost first.
func (im image) overlaid() []string {
	var lower []string
	for i := len(im.layers) - 1; i >= 0; i-- {
		lower = append(lower, im.layers[i])
	}
	return lower
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

// unmount ends a turn and removes what it left.
func (b *writeBench) unmount(m *mounted) error {
	if m.stack {
		if err := b.bench.unmount(m.dir); err != nil {
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
	if m.upper == b.uppers() {
		return removeBig(m.upper)
	}
	return removeBig(b.turn)
}
