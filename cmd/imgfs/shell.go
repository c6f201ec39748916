// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/internal/control"
	"github.com/imgfs/imgfs/internal/term"
)

// shellName is what the binary is called inside the namespaces of a shell.
const shellName = "imgfs-shell"

// shellFD is where it finds what it is asked to do, maxShellRequest how many
// bytes that may take: more than a command line.
const (
	shellFD         = 3
	maxShellRequest = 16 << 20
)

// A shellRequest is what the process inside the namespaces is asked to do.
type shellRequest struct {
	mountRequest
	Cmd    []string
	Chroot bool
	InUser bool // a user namespace was made, too
}

func newShell(a *app) *cobra.Command {
	var (
		req      shellRequest
		words    []string
		rw       bool
		platform string
		pull     pullFlag
	)
	c := &cobra.Command{
		Use:   "shell [flags] IMAGE [CMD [ARG]...]",
		Short: "Run a shell beside a mounted image, without any right to mount",
		Long: `Shell mounts IMAGE in a user and mount namespace of its own, where nobody else
sees it, and runs CMD or your shell there: a program of this machine, with all
its files, standing in the mounted directory. $IMGFS_DIR says where that is.
When it ends the mount is gone, and its exit status is that of imgfs. It needs
neither root nor fusermount3.

Nothing of the image is executed unless you do. --chroot runs CMD (/bin/sh)
of the image, with its files alone; that is no protection against it. It has
the /proc, /sys and /dev of this machine and an empty /tmp.

With --rw, --upper NAME or --rm it may change things, as in a mount: the image
stays as it is, and the name of the upper that keeps the changes is told at the
end.`,
		Example: `  imgfs shell debian:12
  imgfs shell --upper fix-ssl --chroot debian:12
  imgfs shell ./image.tar find . -perm -4000
  imgfs shell --chroot alpine cat /etc/os-release`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.firstImage,
		RunE: func(c *cobra.Command, args []string) error {
			if err := req.Opt.parse(words, false); err != nil {
				return err
			}
			if err := checkPlatform(platform); err != nil {
				return err
			}
			if c.Flags().Changed("upper") && req.Opt.Upper == "" {
				return usagef("--upper: the name is empty")
			}
			if err := req.Opt.finish(false, rw); err != nil {
				return err
			}
			req.Opt.Platform = platform
			if req.Opt.Pull == "" || c.Flags().Changed("pull") {
				req.Opt.Pull = pull.policy()
			}
			req.Image, req.Cmd = args[0], args[1:]
			return a.shell(c.Context(), &req)
		},
	}
	f := c.Flags()
	f.SetInterspersed(false) // what follows IMAGE is CMD's
	f.BoolVar(&req.Chroot, "chroot", false, "run CMD inside the image")
	f.BoolVar(&rw, "rw", false, "read-write: changes are kept in an upper")
	f.StringVar(&req.Opt.Upper, "upper", "", "read-write over the upper `NAME`, which is made if there is none")
	complete(c, "upper", a.upperNames)
	f.BoolVar(&req.Opt.Discard, "rm", false, "read-write, and drop the changes at the end")
	f.StringVar(&platform, "platform", "", "take `OS/ARCH[/VARIANT]` from an index of several (default: this machine's)")
	f.BoolVar(&req.Opt.Verify, "verify", false, "wait until an image file that is read in place is verified")
	f.StringArrayVarP(&words, "options", "o", nil, "mount `OPTIONS`, separated by commas, as of mount")
	f.BoolVarP(&req.Opt.Quiet, "quiet", "q", false, "no progress, no remarks")
	pull.add(c)
	a.remoteFlags(c)
	return c
}

// shell runs this program again in new namespaces, where it mounts.
func (a *app) shell(ctx context.Context, req *shellRequest) (err error) {
	if req.Root, err = a.storeRoot(); err != nil {
		return err
	}
	if req.Root, err = filepath.Abs(req.Root); err != nil {
		return err
	}
	if req.Image == "-" && len(req.Cmd) == 0 {
		return &hintError{err: usagef("a shell needs the standard input that the image comes from"), hint: "load the image first, or say what to run"}
	}
	img, err := a.openFirst(ctx, &req.mountRequest)
	if err != nil {
		return err
	}
	if img != nil {
		defer img.Close() // the shell is over, then
	}
	if req.Dir, err = os.MkdirTemp("", "imgfs-shell-"); err != nil {
		return err
	}
	defer os.Remove(req.Dir) // empty: the mount on it was another's to see
	// A root that may mount needs no user namespace, and others find their
	// files' owners as they are.
	kinds := []bool{true}
	if os.Geteuid() == 0 {
		kinds = []bool{false, true}
	}
	var cmd *exec.Cmd
	for _, req.InUser = range kinds {
		if cmd, err = a.startShell(req); err == nil {
			break
		}
	}
	if err != nil {
		return noNamespace(err)
	}
	return waitShell(cmd)
}

// startShell starts the process inside the namespaces.
func (a *app) startShell(req *shellRequest) (*exec.Cmd, error) {
	request, err := memoryFile(req)
	if err != nil {
		return nil, err
	}
	defer request.Close()
	// A user is 0 in the namespace, and would look for the register of root.
	run, err := control.Prepare(control.Dirs())
	if err != nil {
		return nil, err
	}
	cmd := &exec.Cmd{
		Path:       "/proc/self/exe",
		Env:        append(os.Environ(), "IMGFS_RUNTIME_DIR="+run),
		Args:       append([]string{shellName, req.Image}, req.Cmd...),
		Stdin:      a.stdin,
		Stdout:     a.stdout,
		Stderr:     a.stderr,
		ExtraFiles: []*os.File{request},
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags: unix.CLONE_NEWNS,
			Pdeathsig:  syscall.SIGTERM,
		},
	}
	if req.InUser {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	return cmd, cmd.Start()
}

// waitShell waits for the end of the process inside, hands it the signals
// that are meant to end it, and ends as it did.
func waitShell(cmd *exec.Cmd) error {
	signals := make(chan os.Signal, 1)
	// The terminal sends SIGINT and SIGQUIT to the shell as well.
	signal.Notify(signals, os.Interrupt, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	go func() {
		for s := range signals {
			if s == syscall.SIGTERM || s == syscall.SIGHUP {
				cmd.Process.Signal(s) // it may have ended
			}
		}
	}()
	err := cmd.Wait()
	close(signals)
	return asExit(err)
}

// asExit turns the end of a process into the same end of this one.
func asExit(err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return exitStatus(128 + int(status.Signal()))
	}
	return exitStatus(exit.ExitCode())
}

// noNamespace says why there is no private namespace to be had.
func noNamespace(err error) error {
	why := &imgfs.RefusedError{Dir: "shell", Reason: "no user namespace: " + err.Error(), Err: err}
	setting := func(name string) string {
		b, _ := os.ReadFile("/proc/sys/" + name) // not there on every kernel
		return strings.TrimSpace(string(b))
	}
	switch {
	case setting("kernel/unprivileged_userns_clone") == "0":
		why.Hint = "as root: sysctl kernel.unprivileged_userns_clone=1"
	case setting("user/max_user_namespaces") == "0":
		why.Hint = "as root: sysctl user.max_user_namespaces=15000"
	case setting("kernel/apparmor_restrict_unprivileged_userns") == "1":
		why.Hint = "AppArmor forbids user namespaces; as root: sysctl kernel.apparmor_restrict_unprivileged_userns=0"
	case errors.Is(err, fs.ErrPermission):
		why.Hint = "in a container: its seccomp profile forbids them (--security-opt seccomp=unconfined)"
	}
	return why
}

// serveShell is the process inside the namespaces: it mounts, runs the command
// and serves the mount as long.
func serveShell(a *app, _ []string) int {
	var req shellRequest
	if err := readMemoryFile(shellFD, &req); err != nil {
		a.report(fmt.Errorf("this is no command to type: %w", err))
		return exitUsage
	}
	a.root = req.Root
	err := a.insideShell(&req)
	a.report(err)
	return exitCode(err)
}

func (a *app) insideShell(req *shellRequest) error {
	// What is mounted here stays here; what the machine mounts is seen.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return noNamespace(err)
	}
	// The server is another process: one that starts a program inside a mount
	// of its own waits for itself.
	req.Opt.Shown = append(req.Opt.Shown, "shell")
	if err := a.mountBackground(context.Background(), &req.mountRequest); err != nil {
		return err
	}
	if !req.Opt.Quiet && len(req.Cmd) == 0 && term.IsTerminal(a.stdin) {
		a.warn(fmt.Sprintf("%s is at %s ($IMGFS_DIR); exit leaves", req.Image, req.Dir))
	}
	err := a.runInside(req)
	return errors.Join(err, a.endInside(req))
}

// endInside takes the mount off. What the shell left in the background loses
// it: its server is not to outlive the shell.
func (a *app) endInside(req *shellRequest) error {
	if req.Chroot {
		unbindSystem(req.Dir)
	}
	opt := imgfs.UnmountOptions{Warn: a.warn, Kept: func(upper string) { a.warn(keptLine(upper)) }}
	err := imgfs.Unmount(context.Background(), req.Dir, opt)
	if !errors.Is(err, syscall.EBUSY) {
		return err
	}
	err = nil
	if req.Opt.Writable {
		err = syncDir(req.Dir) // pages that the kernel has would be lost
	}
	opt.Force = true
	return errors.Join(err, imgfs.Unmount(context.Background(), req.Dir, opt))
}

// syncDir has the kernel write what it holds of the file system at dir.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
}

// runInside runs the command and returns its exit status, if it is not 0.
func (a *app) runInside(req *shellRequest) error {
	args := req.Cmd
	cmd := &exec.Cmd{
		Dir: req.Dir, Stdin: a.stdin, Stdout: a.stdout, Stderr: a.stderr,
		Env:         append(os.Environ(), "IMGFS_DIR="+req.Dir, "IMGFS_IMAGE="+req.Image),
		SysProcAttr: &syscall.SysProcAttr{Pdeathsig: syscall.SIGHUP},
	}
	if req.Chroot {
		if len(args) == 0 {
			args = []string{"/bin/sh"}
		}
		bindSystem(req.Dir)
		cmd.Dir, cmd.SysProcAttr.Chroot = "/", req.Dir
		cmd.Env = append(cmd.Env, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
		path, err := findInside(req.Dir, args[0])
		if err != nil {
			return err
		}
		cmd.Path = path
	} else {
		if len(args) == 0 {
			shell := os.Getenv("SHELL")
			if shell == "" {
				shell = "/bin/sh"
			}
			args = []string{shell}
		}
		path, err := exec.LookPath(args[0])
		if err != nil {
			return &hintError{err: err, hint: "CMD is a program of this machine; --chroot runs one of the image"}
		}
		if path, err = filepath.Abs(path); err != nil {
			return err
		}
		cmd.Path = path
	}
	cmd.Args = args
	if err := cmd.Start(); err != nil {
		return err
	}
	return waitShell(cmd)
}

// bindSystem shows the kernel's file systems inside a chroot, where the image
// has a directory for them. Without them most programs still run.
func bindSystem(dir string) {
	for _, name := range []string{"/proc", "/sys", "/dev"} {
		if info, err := os.Lstat(dir + name); err == nil && info.IsDir() {
			unix.Mount(name, dir+name, "", unix.MS_BIND|unix.MS_REC, "")
		}
	}
	if info, err := os.Lstat(dir + "/tmp"); err == nil && info.IsDir() {
		unix.Mount("tmpfs", dir+"/tmp", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777")
	}
}

// unbindSystem takes away what bindSystem showed, which is busy if the chroot
// left a process behind.
func unbindSystem(dir string) {
	for _, name := range []string{"/tmp", "/dev", "/sys", "/proc"} {
		if info, err := os.Lstat(dir + name); err == nil && info.IsDir() {
			unix.Unmount(dir+name, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		}
	}
}

// findInside finds the program name as a shell inside the image would. Its
// symlinks are for the kernel to follow, inside the chroot.
func findInside(dir, name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	for _, d := range []string{"usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin"} {
		// A link out of the root is one inside the chroot, so it counts.
		if _, err := root.Lstat(d + "/" + name); err == nil {
			return "/" + d + "/" + name, nil
		}
	}
	return "", fmt.Errorf("%s: no such program in the image: %w", name, fs.ErrNotExist)
}

// memoryFile returns v as JSON in a file that is nowhere but in memory: no
// pipe that could be full, nothing that could be left.
func memoryFile(v any) (*os.File, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("imgfs-request", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "imgfs-request")
	if _, err := f.WriteAt(b, 0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// readMemoryFile reads v from the descriptor fd and closes it.
func readMemoryFile(fd uintptr, v any) error {
	f := os.NewFile(fd, "imgfs-request")
	if f == nil {
		return os.ErrInvalid
	}
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, 0, maxShellRequest))
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}
