// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// credentials are what this process may do.
type credentials struct {
	euid, egid int
	root       bool // user 0, perhaps of a user namespace
	ownsIDs    bool // … that maps the owners an image has: it mounts for others too
	canMount   bool // CAP_SYS_ADMIN in this user namespace
	noSuid     bool // no_new_privs: a setuid helper gains nothing
}

// manyIDs is how many users a namespace has that can hold an image's owners.
// One with fewer (unshare -Ur has one) shows most of them as nobody and its
// root is denied their files where the kernel enforces modes.
const manyIDs = 1 << 16

func currentCredentials() *credentials {
	c := &credentials{euid: os.Geteuid(), egid: os.Getegid()}
	c.root = c.euid == 0
	uids, _ := os.ReadFile("/proc/self/uid_map")
	c.ownsIDs = c.root && mappedIDs(string(uids)) >= manyIDs
	status, _ := os.ReadFile("/proc/self/status")
	c.canMount = effective(string(status))&(1<<unix.CAP_SYS_ADMIN) != 0
	c.noSuid = strings.Contains(string(status), "\nNoNewPrivs:\t1\n")
	return c
}

// mappedIDs returns how many numbers the text of /proc/self/uid_map maps.
func mappedIDs(text string) uint64 {
	var sum uint64
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) == 3 {
			n, _ := strconv.ParseUint(f[2], 10, 32)
			sum += n
		}
	}
	return sum
}

// effective returns the effective capabilities in the text of
// /proc/self/status.
func effective(text string) uint64 {
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, "CapEff:"); ok {
			n, _ := strconv.ParseUint(strings.TrimSpace(v), 16, 64)
			return n
		}
	}
	return 0
}

const device = "/dev/fuse"

// openDevice opens /dev/fuse.
func openDevice() (*os.File, error) {
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		var mode fs.FileMode
		if fi, serr := os.Stat(device); serr == nil {
			mode = fi.Mode()
		}
		return nil, thisMachine().device(&fs.PathError{Op: "open", Path: device, Err: err}, mode)
	}
	return os.NewFile(uintptr(fd), device), nil
}

// attach mounts on dir and returns the connection to the kernel. direct tells
// that it was mount(2) that did it.
func attach(dir string, s *settings, c *credentials) (conn *os.File, direct bool, err error) {
	if !c.canMount {
		conn, err = attachHelper(dir, s, c)
		return conn, false, err
	}
	conn, err = attachDirect(dir, s, c)
	var e *Error
	if !errors.As(err, &e) || e.Reason != MountDenied {
		return conn, true, err
	}
	// A capability that a security module, or the mount namespace of somebody
	// else, makes worthless: the helper may still have the right.
	if conn, herr := attachHelper(dir, s, c); herr == nil {
		return conn, false, nil
	}
	return nil, false, err
}

// attachDirect mounts by mount(2).
func attachDirect(dir string, s *settings, c *credentials) (*os.File, error) {
	conn, err := openDevice()
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		conn.Close()
		return nil, refused(NoMountPoint, "", err)
	}
	data := s.kernelData(int(conn.Fd()), st.Mode&unix.S_IFMT, c)
	err = unix.Mount(s.source, dir, "fuse."+subtype, s.flags, data)
	if err == nil {
		return conn, nil
	}
	conn.Close()
	switch {
	case err == unix.EPERM || err == unix.EACCES:
		return nil, thisMachine().denied(err)
	case err == unix.ENODEV:
		return nil, refused(NoDevice, "as root: modprobe fuse", err)
	case err == unix.EINVAL && len(s.data) > 0:
		return nil, refused(BadOption, "the kernel's log (dmesg) may say which it does not know", fmt.Errorf("%s: %w", strings.Join(s.data, ","), err))
	}
	return nil, refused(MountFailed, "", err)
}

// findHelper returns the absolute path of fusermount3.
func findHelper() (string, error) {
	if p, err := exec.LookPath("fusermount3"); err == nil {
		return p, nil
	}
	for _, p := range []string{"/usr/bin/fusermount3", "/bin/fusermount3"} {
		if unix.Access(p, unix.X_OK) == nil {
			return p, nil
		}
	}
	return "", refused(NoHelper, hintHelper, nil)
}

// checkHelper returns why fusermount3 cannot serve us, or its path. It opens
// the device with the rights of who calls it, so that is tried first.
func checkHelper(c *credentials) (string, error) {
	conn, err := openDevice()
	if err != nil {
		return "", err
	}
	conn.Close()
	helper, err := findHelper()
	if err != nil {
		return "", err
	}
	if c.noSuid && !c.root {
		return "", refused(HelperNoRoot, "lift no_new_privs (docker: --security-opt no-new-privileges, systemd: NoNewPrivileges=), "+hintShell, errNoNewPrivs)
	}
	fi, err := os.Stat(helper)
	if err != nil {
		return "", refused(NoHelper, hintHelper, err)
	}
	if !c.root && fi.Mode()&fs.ModeSetuid == 0 && !hasFileCapabilities(helper) {
		return "", refused(HelperNoRoot, "as root: chmod u+s "+helper+", "+hintShell, fmt.Errorf("%s is not setuid root", helper))
	}
	return helper, nil
}

var errNoNewPrivs = errors.New("this process has no_new_privs set, so a setuid program gains nothing")

func hasFileCapabilities(path string) bool {
	n, err := unix.Getxattr(path, "security.capability", nil)
	return err == nil && n > 0
}

const fuseConf = "/etc/fuse.conf"

// allowsOther reports whether the text of fuse.conf lets users say
// allow_other.
func allowsOther(conf string) bool {
	for line := range strings.Lines(conf) {
		word, _, _ := strings.Cut(line, "#")
		if strings.TrimSpace(word) == "user_allow_other" {
			return true
		}
	}
	return false
}

// checkUser returns why fusermount3 would refuse a user this mount, before it
// does so in fewer words.
func checkUser(dir string, s *settings) error {
	if s.allowOther {
		if conf, _ := os.ReadFile(fuseConf); !allowsOther(string(conf)) {
			return refused(NoAllowOther, "as root: add the line user_allow_other to "+fuseConf+", or leave out allow_other", nil)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return refused(NoMountPoint, "", err)
	}
	if st.Mode&unix.S_ISVTX != 0 && int(st.Uid) != os.Getuid() {
		return refused(NotOurs, "mount on a directory of your own", fmt.Errorf("it is sticky and of user %d", st.Uid))
	}
	if err := unix.Access(dir, unix.W_OK); err != nil {
		if int(st.Uid) == os.Getuid() {
			return refused(NotWritable, "chmod u+rwx it", fmt.Errorf("it has mode %04o: %w", st.Mode&0o7777, err))
		}
		return refused(NotOurs, "mount on a directory that you can write to", err)
	}
	return nil
}

// attachHelper mounts by fusermount3, which has the right and sends the
// connection through a socket.
func attachHelper(dir string, s *settings, c *credentials) (*os.File, error) {
	helper, err := checkHelper(c)
	if err != nil {
		return nil, err
	}
	if !c.root {
		if err := checkUser(dir, s); err != nil {
			return nil, err
		}
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, refused(HelperFailed, "", os.NewSyscallError("socketpair", err))
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "fusermount3"), os.NewFile(uintptr(pair[1]), "fusermount3")
	defer ours.Close()
	words, err := runHelper(helper, theirs, "-o", s.helperOptions(), "--", dir)
	theirs.Close()
	if err != nil {
		return nil, helperError(words, err)
	}
	conn, err := receiveFile(ours)
	if err != nil {
		return nil, refused(HelperFailed, "", err)
	}
	return conn, nil
}

// runHelper runs fusermount3 with nothing of ours but the socket, and returns
// what it said.
func runHelper(helper string, socket *os.File, arg ...string) (words string, err error) {
	var said bytes.Buffer
	cmd := exec.Command(helper, arg...)
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if socket != nil {
		cmd.ExtraFiles = []*os.File{socket}
		cmd.Env = append(cmd.Env, "_FUSE_COMMFD=3")
	}
	err = cmd.Run()
	return strings.TrimSpace(said.String()), err
}

// helperError translates what fusermount3 says.
func helperError(words string, err error) *Error {
	said := err
	if words != "" {
		_, rest, ok := strings.Cut(words, "fusermount3: ") // it says its path before it
		if !ok {
			rest = words
		}
		said = errors.New(rest)
	}
	has := func(s string) bool { return strings.Contains(words, s) }
	switch {
	case has("user_allow_other"):
		return refused(NoAllowOther, "as root: add the line user_allow_other to "+fuseConf+", or leave out allow_other", said)
	case has("no write access"), has("not owned by user"):
		return refused(NotOurs, "mount on a directory of your own", said)
	case has("unknown option"):
		return refused(BadOption, "", said)
	case has("not permitted"), has("ermission denied"):
		return refused(HelperNoRoot, thisMachine().denied(nil).Hint, said)
	case has("too many FUSE filesystems"):
		return refused(HelperFailed, "raise mount_max in "+fuseConf, said)
	}
	return refused(HelperFailed, "", said)
}

// receiveFile takes the descriptor that comes with a byte through the socket.
func receiveFile(socket *os.File) (*os.File, error) {
	var b [1]byte
	oob := make([]byte, unix.CmsgSpace(4))
	var n, oobn int
	var err error
	for {
		n, oobn, _, _, err = unix.Recvmsg(int(socket.Fd()), b[:], oob, unix.MSG_CMSG_CLOEXEC)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return nil, os.NewSyscallError("recvmsg", err)
	}
	if n == 0 {
		return nil, io.ErrUnexpectedEOF
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(msgs) != 1 {
		return nil, fmt.Errorf("no descriptor came: %v", err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("no descriptor came: %v", err)
	}
	return os.NewFile(uintptr(fds[0]), device), nil
}

// detach unmounts dir: umount2 with flags, or fusermount3.
func detach(dir string, direct, lazy bool) error {
	if direct {
		flags := unix.UMOUNT_NOFOLLOW
		if lazy {
			flags |= unix.MNT_DETACH
		}
		return unix.Unmount(dir, flags)
	}
	helper, err := findHelper()
	if err != nil {
		return err
	}
	arg := []string{"-u"}
	if lazy {
		arg = append(arg, "-z")
	}
	words, err := runHelper(helper, nil, append(arg, "--", dir)...)
	switch {
	case err == nil:
		return nil
	case strings.Contains(words, "busy"):
		return unix.EBUSY
	case words == "":
		return err
	}
	return errors.New(words)
}

// checkPoint returns the canonical path of dir if it can be mounted on.
func checkPoint(dir string, nonempty bool) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	path, err := filepath.EvalSymlinks(abs)
	switch {
	case errors.Is(err, unix.ENOTCONN):
		return "", refused(DeadMount, "umount -l "+dir, err)
	case errors.Is(err, fs.ErrNotExist): // its path stands in the Error
		return "", refused(NoMountPoint, "mkdir "+dir+", or --mkdir", fs.ErrNotExist)
	case errors.Is(err, unix.ENOTDIR):
		return "", refused(NotDirectory, "mount on a directory", unix.ENOTDIR)
	case err != nil:
		return "", refused(NotReached, "", err)
	}
	fi, err := os.Stat(path)
	switch {
	case errors.Is(err, unix.ENOTCONN):
		return "", refused(DeadMount, "umount -l "+dir, err)
	case err != nil:
		return "", refused(NotReached, "", err)
	case !fi.IsDir():
		return "", refused(NotDirectory, "mount on a directory", unix.ENOTDIR)
	}
	if nonempty {
		return path, nil
	}
	d, err := os.Open(path)
	if err != nil {
		return "", refused(NotReached, "-o nonempty mounts without a look whether it is empty", err)
	}
	defer d.Close()
	if names, _ := d.Readdirnames(1); len(names) > 0 {
		return "", refused(NotEmpty, "mount on an empty directory, or -o nonempty", nil)
	}
	return path, nil
}
