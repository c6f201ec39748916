// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

var peersFlag = flag.Bool("peers", false, "also test what other union filesystems keep of the rules")

// TestOverlayfs: the kernel's overlayfs keeps every rule but one.
func TestOverlayfs(t *testing.T) {
	if !*peersFlag || os.Geteuid() != 0 {
		t.Skip("asked for by -peers, as root")
	}
	dir := layers(t)
	data := "lowerdir=" + dir + "/lower,upperdir=" + dir + "/upper,workdir=" + dir + "/work"
	if err := unix.Mount("overlay", dir+"/mnt", "overlay", 0, data); err != nil {
		t.Skip(err)
	}
	defer unix.Unmount(dir+"/mnt", unix.MNT_DETACH)
	Run(t, dir+"/mnt", Options{OwnIoctls: true, Differs: map[string]string{
		"rename/WHITEOUT_leaves_a_device_0:0": "a whiteout of a layer is a whiteout of overlayfs itself",
	}})
}

// fuseOverlayfs are the subjects in which fuse-overlayfs 1.10 breaks rules,
// 92 in all: names of 255 bytes, groups and setgid of directories, O_TMPFILE,
// link counts of what is open and has no name, default ACLs and the umask,
// times that move at failures, trusted xattrs that users see.
var fuseOverlayfs = []string{
	"acl/", "calls/", "create/", "errno/", "open/", "rename/", "rmdir/", "setuid/", "unlink/", "write/", "xattr/",
}

// TestFuseOverlayfs: what else fuse-overlayfs breaks would be news.
func TestFuseOverlayfs(t *testing.T) {
	if !*peersFlag || os.Geteuid() != 0 {
		t.Skip("asked for by -peers, as root")
	}
	dir := layers(t)
	out, err := exec.Command("fuse-overlayfs", "-o", "lowerdir="+dir+"/lower,upperdir="+dir+"/upper,workdir="+dir+"/work", dir+"/mnt").CombinedOutput()
	if err != nil {
		t.Skipf("%v: %s", err, out)
	}
	defer unix.Unmount(dir+"/mnt", unix.MNT_DETACH)
	differs := map[string]string{}
	for _, subject := range fuseOverlayfs {
		differs[subject] = "fuse-overlayfs breaks rules of " + strings.TrimSuffix(subject, "/")
	}
	Run(t, dir+"/mnt", Options{OwnIoctls: true, Differs: differs})
}

// layers makes the directories that an overlay wants.
func layers(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"lower", "upper", "work", "mnt"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
