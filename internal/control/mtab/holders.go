// SPDX-License-Identifier: Apache-2.0

package mtab

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A Holder is a process that keeps a mount busy.
type Holder struct {
	PID     int
	Program string   // as the kernel calls it, raw bytes
	How     []string // of "cwd", "root", "program", "file" and "map", each once
}

// maxHolders bounds what Holders returns.
const maxHolders = 64

// Holders returns processes that use the mounted tree on device (major:minor),
// those that this user may look at. It never waits for the tree's server.
func Holders(device string) []Holder {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var holders []Holder
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if how := holds(pid, device); len(how) > 0 {
			comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)) // it may be gone
			holders = append(holders, Holder{PID: pid, Program: strings.TrimSuffix(string(comm), "\n"), How: how})
		}
		if len(holders) == maxHolders {
			break
		}
	}
	return holders
}

func holds(pid int, device string) (how []string) {
	add := func(word string) {
		if !slices.Contains(how, word) {
			how = append(how, word)
		}
	}
	proc := fmt.Sprintf("/proc/%d/", pid)
	for _, l := range [...]struct{ link, word string }{{"cwd", "cwd"}, {"root", "root"}, {"exe", "program"}} {
		if deviceOf(proc+l.link) == device {
			add(l.word)
		}
	}
	if d, err := os.Open(proc + "fd"); err == nil {
		names, _ := d.Readdirnames(-1) // what could be read is still told
		d.Close()
		for _, name := range names {
			if deviceOf(proc+"fd/"+name) == device {
				add("file")
				break
			}
		}
	}
	if slices.Contains(how, "program") {
		return how // it is mapped, of course
	}
	if maps(proc+"maps", device) {
		add("map")
	}
	return how
}

// deviceOf returns the major:minor of what path leads to, "" if that cannot be
// told. Asking for no attribute at all makes the kernel tell the device of a
// FUSE file without asking its server, and of another user's mount too.
func deviceOf(path string) string {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC, 0, &st); err != nil {
		return ""
	}
	return fmt.Sprintf("%d:%d", st.Dev_major, st.Dev_minor)
}

// maps reports whether a maps file of /proc shows a mapping from device.
func maps(path, device string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text()) // range, rights, offset, device, inode, path
		if len(fields) < 4 {
			continue
		}
		major, minor, _ := strings.Cut(fields[3], ":")
		a, err1 := strconv.ParseUint(major, 16, 32)
		b, err2 := strconv.ParseUint(minor, 16, 32)
		if err1 == nil && err2 == nil && fmt.Sprintf("%d:%d", a, b) == device {
			return true
		}
	}
	return false
}
