// SPDX-License-Identifier: Apache-2.0

package mtab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// helperTime bounds a run of fusermount3, which never has much to do.
const helperTime = 10 * time.Second

// Detach takes the topmost mount off dir: by umount2(2) where this process
// may, else through fusermount3. A lazy one goes at once from the directory
// and in truth when its last user has left it. errors.Is(err, unix.EBUSY)
// tells that it is in use, unix.EPERM that neither way is allowed.
//
// Preconditions: dir is a Place.Path.
func Detach(dir string, lazy bool) error {
	flags := unix.UMOUNT_NOFOLLOW
	if lazy {
		flags |= unix.MNT_DETACH
	}
	err := unix.Unmount(dir, flags)
	if errors.Is(err, unix.EPERM) {
		err = fusermount(dir, lazy)
	}
	if err != nil {
		return &fs.PathError{Op: "unmount", Path: dir, Err: err}
	}
	return nil
}

// fusermount unmounts as the user that mounted.
func fusermount(dir string, lazy bool) error {
	helper := findHelper()
	if helper == "" {
		return unix.EPERM
	}
	args := []string{"-u"}
	if lazy {
		args = append(args, "-z")
	}
	ctx, cancel := context.WithTimeout(context.Background(), helperTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, helper, append(args, "--", dir)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Run(); err != nil {
		text := strings.TrimSpace(said.String())
		if len(text) > 500 {
			text = text[:500]
		}
		switch {
		case strings.Contains(text, unix.EBUSY.Error()), strings.Contains(strings.ToLower(text), "resource busy"):
			return unix.EBUSY
		case strings.Contains(strings.ToLower(text), "not permitted"):
			return fmt.Errorf("%w (%s)", unix.EPERM, text)
		case text == "":
			return fmt.Errorf("%s: %w", helper, err)
		}
		return errors.New(text)
	}
	return nil
}

// findHelper returns the path of fusermount3 or fusermount, "" without one.
func findHelper() string {
	for _, name := range []string{"fusermount3", "fusermount"} {
		if p, err := exec.LookPath(name); err == nil {
			return p
		}
		for _, dir := range []string{"/usr/bin/", "/bin/"} {
			if p, err := exec.LookPath(dir + name); err == nil {
				return p
			}
		}
	}
	return ""
}

// Abort cuts the connection between the kernel and the server of the mount on
// device (major:minor): whoever waits for the server gets an error. Nothing
// else is touched.
func Abort(device string) error {
	major, minor, ok := strings.Cut(device, ":")
	if !ok || major != "0" {
		return fmt.Errorf("device %q is not of a FUSE mount", device)
	}
	return os.WriteFile("/sys/fs/fuse/connections/"+minor+"/abort", []byte("1"), 0)
}
