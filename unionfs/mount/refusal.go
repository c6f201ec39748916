// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// A Reason tells which of the things that a mount needs is missing.
type Reason string

// The reasons.
const (
	NoDevice     Reason = "no /dev/fuse"
	DeviceDenied Reason = "no right to /dev/fuse"
	NoHelper     Reason = "no fusermount3"
	HelperNoRoot Reason = "fusermount3 has no right to mount"
	HelperFailed Reason = "fusermount3 refused"
	WSL1         Reason = "WSL 1 has no FUSE"
	NoAllowOther Reason = "allow_other is not allowed to users"
	RootOnly     Reason = "only root may ask for this"
	BadOption    Reason = "mount option"
	NoMountPoint Reason = "mount point missing"
	NotDirectory Reason = "mount point is not a directory"
	NotEmpty     Reason = "mount point is not empty"
	NotOurs      Reason = "mount point belongs to somebody else"
	NotReached   Reason = "mount point cannot be looked at"
	NotWritable  Reason = "mount point may not be written to"
	DeadMount    Reason = "mount point is a mount whose server is gone"
	MountDenied  Reason = "the kernel denies mount(2)"
	MountFailed  Reason = "mount(2)"
	NoAnswer     Reason = "the mount does not answer"
	Busy         Reason = "the mount is in use"
	OtherMount   Reason = "another mount lies on top"
)

// An Error says why a mount or an unmount was refused: which thing is
// missing, and the cure that fits this machine.
type Error struct {
	Op     string // "mount" or "unmount"
	Path   string // the mount point, may be empty
	Reason Reason
	Hint   string // what to do about it, a line without a full stop; may be empty
	Err    error  // what the system said; may be nil
}

func (e *Error) Error() string {
	s := e.Op
	if e.Path != "" {
		s += " " + e.Path
	}
	s += ": " + string(e.Reason)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns what the system said.
func (e *Error) Unwrap() error { return e.Err }

func refused(r Reason, hint string, err error) *Error {
	return &Error{Op: "mount", Reason: r, Hint: hint, Err: err}
}

const (
	hintShell     = "or: imgfs shell IMAGE, which needs no fusermount3"
	hintContainer = "start the container with --device /dev/fuse --cap-add SYS_ADMIN (docker on Ubuntu also: --security-opt apparmor=unconfined)"
	hintHelper    = "apt-get install fuse3 (dnf install fuse3, apk add fuse3), " + hintShell
)

// A machine is what a hint depends on. Tests make their own.
type machine struct {
	version   string // /proc/version
	container bool
	confined  bool // AppArmor lets user namespaces mount nothing
}

func thisMachine() machine {
	v, _ := os.ReadFile("/proc/version")
	c, _ := os.ReadFile("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
	return machine{string(v), inContainer(), strings.TrimSpace(string(c)) == "1"}
}

func inContainer() bool {
	for _, name := range []string{"/.dockerenv", "/run/.containerenv", "/run/systemd/container"} {
		if _, err := os.Stat(name); err == nil {
			return true
		}
	}
	return os.Getenv("container") != "" || os.Getenv("KUBERNETES_SERVICE_HOST") != ""
}

// wsl1 reports a Linux that is not one: WSL 2 has a kernel of its own and
// spells microsoft small.
func (m machine) wsl1() bool {
	return strings.Contains(m.version, "Microsoft") && !strings.Contains(m.version, "WSL2")
}

// device explains why /dev/fuse could not be opened.
func (m machine) device(err error, mode fs.FileMode) *Error {
	switch {
	case m.wsl1():
		return refused(WSL1, "move this distribution to WSL 2: wsl --set-version NAME 2; verbs that do not mount work as they are", err)
	case errors.Is(err, unix.EPERM) && m.container: // its list of devices; a mode gives EACCES
		return refused(DeviceDenied, hintContainer, err)
	case errors.Is(err, fs.ErrPermission):
		err = fmt.Errorf("it has mode %04o: %w", mode.Perm(), err)
		if m.container {
			return refused(DeviceDenied, "as root of this container: chmod 666 /dev/fuse, "+hintRoot, err)
		}
		return refused(DeviceDenied, "as root: chmod 666 /dev/fuse (udev does so where fuse3 is installed), "+hintRoot, err)
	case m.container:
		return refused(NoDevice, hintContainer, err)
	}
	return refused(NoDevice, "as root: modprobe fuse", err)
}

const hintRoot = "or mount as root"

// denied explains why mount(2) was not allowed.
func (m machine) denied(err error) *Error {
	hint := "as root of this machine, or as an ordinary user with fusermount3; in a container: " + hintContainer
	switch {
	case m.container:
		hint = hintContainer
	case m.confined:
		hint = "AppArmor forbids it to user namespaces here; as root: sysctl kernel.apparmor_restrict_unprivileged_userns=0"
	}
	return refused(MountDenied, hint, err)
}
