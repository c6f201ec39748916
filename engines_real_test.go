// SPDX-License-Identifier: Apache-2.0

package imgfs_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/forensics"
	"github.com/imgfs/imgfs/internal/fusetest"
)

// A storage is a store of podman and its like.
type storage struct {
	t                 testing.TB
	root, run, driver string
	options           []string // of the driver
}

func newStorage(t testing.TB, driver string) *storage {
	t.Helper()
	needEngine(t, "podman", "skopeo")
	dir := shortDir(t) // podman's runroot has 50 characters at most
	s := &storage{t: t, root: filepath.Join(dir, "root"), run: filepath.Join(dir, "run"), driver: driver}
	if driver == "fuse-overlayfs" { // overlay, mounted by a program
		needEngine(t, driver)
		program, err := exec.LookPath(driver)
		if err != nil {
			t.Fatal(err)
		}
		s.driver, s.options = "overlay", []string{"overlay.mount_program=" + program}
	}
	if driver == "metacopy" { // as it is set up on Fedora: chmod copies no content
		s.driver, s.options = "overlay", []string{"overlay.mountopt=metacopy=on"}
	}
	return s
}

// shortDir is a temporary directory with a short path.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "engine")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// The engines leave their own directories mounted on themselves.
		if mounts, err := os.ReadFile("/proc/self/mounts"); err == nil {
			for _, line := range slices.Backward(strings.Split(string(mounts), "\n")) {
				if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], dir+"/") {
					_ = unix.Unmount(f[1], unix.MNT_DETACH) // else removing fails, and says so
				}
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func (s *storage) podman(args ...string) string {
	s.t.Helper()
	global := []string{"--root", s.root, "--runroot", s.run, "--storage-driver", s.driver, "--events-backend", "none", "--cgroup-manager", "cgroupfs"}
	for _, o := range s.options {
		global = append(global, "--storage-opt", o)
	}
	return output(s.t, "podman", append(global, args...)...)
}

// add puts an image into the store under a name.
func (s *storage) add(file, name string) {
	s.t.Helper()
	run(s.t, "skopeo", "copy", "-q", "--insecure-policy", "oci-archive:"+file,
		fmt.Sprintf("containers-storage:[%s@%s+%s%s]%s", s.driver, s.root, s.run, strings.Join(append([]string{""}, s.options...), ":"), name))
}

func (s *storage) arg(name string) string {
	return strings.TrimSuffix("containers-storage:"+s.root+":"+name, ":")
}

// container makes a container of an image and changes it as a user would.
func (s *storage) container(name, image string, change func(dir string)) {
	s.t.Helper()
	s.podman("create", "--name", name, "--network", "none", image, "/bin/sh")
	dir := s.podman("mount", name)
	change(dir)
	s.podman("umount", name)
}

func TestContainersStorage(t *testing.T) {
	unraced(t)
	for _, driver := range []string{"overlay", "vfs", "fuse-overlayfs", "metacopy"} {
		t.Run(driver, func(t *testing.T) {
			st := newStorage(t, driver)
			s := openStore(t)
			odd, tiny := engineImage(t), fusetest.Image(t, "tiny")
			st.add(odd, "docker.io/library/odd:1")
			st.add(tiny, "localhost/tiny:1")
			st.container("web", "docker.io/library/odd:1", changeContainer(t))
			oddName, tinyName := mustLoad(t, s, odd)[0].Name, mustLoad(t, s, tiny)[0].Name
			untouched(t, st.root, func() {
				sameImage(t, s, st.arg("odd:1"), oddName)
				sameImage(t, s, st.arg("tiny:1"), tinyName) // as podman finds it
				if got := drift(t, s, st.arg("web")); !slices.Equal(got, wantDrift) {
					t.Errorf("drift\n got %s\nwant %s", strings.Join(got, "\n     "), strings.Join(wantDrift, "\n     "))
				}
				// One whose attributes alone were changed has its content below.
				if got := contentOf(t, s, st.arg("web"), "bin/ping"); got != "ping" {
					t.Errorf("bin/ping holds %q", got)
				}
				items, err := s.EngineItems(context.Background(), st.arg(""))
				if err != nil {
					t.Fatal(err)
				}
				var got []string
				for _, i := range items {
					got = append(got, fmt.Sprintf("%s:%s %v %d", i.Repository, i.Tag, i.Container, i.Containers))
				}
				slices.Sort(got)
				if want := []string{"localhost/tiny:1 false 0", "odd:1 false 1", "web: true 0"}; !slices.Equal(got, want) {
					t.Errorf("items %q, want %q", got, want)
				}
			})
		})
	}
}

// TestContainerAsImage: a container is what podman shows of it, in every verb
// that opens an image, and loads as the image that a commit would make.
func TestContainerAsImage(t *testing.T) {
	unraced(t)
	st := newStorage(t, "overlay")
	s := openStore(t)
	st.add(engineImage(t), "docker.io/library/odd:1")
	st.container("web", "docker.io/library/odd:1", changeContainer(t))
	dir := st.podman("mount", "web")
	shown, err := s.OpenStack(context.Background(), "dir:"+dir, imgfs.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer shown.Close()
	c := openStack(t, s, st.arg("web"))
	// overlayfs gives each name of a hard link that it copied an inode of its own,
	// and directories that only deeper names tell of have no time.
	implied := func(path string) bool { return strings.HasPrefix(path, "long") }
	if diff := differences(t, c, shown, forensics.DiffOptions{Ignore: forensics.DiffLinks, Skip: implied}); len(diff) > 0 {
		t.Errorf("imgfs and podman differ: %v", diff)
	}
	st.podman("umount", "web")
	loaded := mustLoad(t, s, st.arg("web"))
	if diff := differences(t, c, openStack(t, s, string(loaded[0].ID)), forensics.DiffOptions{}); len(diff) > 0 {
		t.Errorf("loaded it is another: %v", diff)
	}
	if _, _, err := s.OpenDrift(context.Background(), st.arg("odd:1"), imgfs.OpenOptions{}); !errors.As(err, new(*imgfs.NotContainerError)) {
		t.Errorf("drift of an image: %v", err)
	}
}

func TestBuildahContainer(t *testing.T) {
	needEngine(t, "buildah")
	st := newStorage(t, "overlay")
	s := openStore(t)
	st.add(engineImage(t), "docker.io/library/odd:1")
	buildah := func(args ...string) string {
		return output(t, "buildah", append([]string{"--root", st.root, "--runroot", st.run, "--storage-driver", st.driver}, args...)...)
	}
	name := buildah("from", "--pull-never", "docker.io/library/odd:1")
	changeContainer(t)(buildah("mount", name))
	buildah("umount", name)
	if got := drift(t, s, st.arg(name)); !slices.Equal(got, wantDrift) {
		t.Errorf("drift\n got %s\nwant %s", strings.Join(got, "\n     "), strings.Join(wantDrift, "\n     "))
	}
}

// A daemon is a containerd of its own.
type daemon struct {
	t            testing.TB
	root, socket string
	c            *exec.Cmd
}

func newDaemon(t testing.TB) *daemon {
	t.Helper()
	needEngine(t, "containerd", "ctr")
	dir := shortDir(t)
	d := &daemon{t: t, root: filepath.Join(dir, "root"), socket: filepath.Join(dir, "sock")}
	config := filepath.Join(dir, "config.toml")
	text := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = %q\n",
		d.root, filepath.Join(dir, "state"), d.socket)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	d.c = exec.Command("containerd", "-c", config)
	d.c.Stdout, d.c.Stderr = log, log
	if err := d.c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.stop)
	for range 200 {
		if exec.Command("ctr", "-a", d.socket, "version").Run() == nil {
			return d
		}
		time.Sleep(50 * time.Millisecond)
	}
	said, _ := os.ReadFile(log.Name())
	t.Fatalf("containerd does not answer:\n%s", said)
	return nil
}

func (d *daemon) stop() {
	if d.c != nil {
		_ = d.c.Process.Signal(unix.SIGTERM)
		_ = d.c.Wait() // a signal is no good end
		d.c = nil
	}
}

func (d *daemon) ctr(args ...string) string {
	d.t.Helper()
	return output(d.t, "ctr", append([]string{"-a", d.socket}, args...)...)
}

func TestContainerd(t *testing.T) {
	unraced(t)
	d := newDaemon(t)
	s := openStore(t)
	odd, tiny := engineImage(t), fusetest.Image(t, "tiny")
	d.ctr("image", "import", odd)
	d.ctr("-n", "other", "image", "import", tiny)
	d.ctr("container", "create", "docker.io/library/odd:1", "web", "/bin/sh")
	dir := t.TempDir()
	d.ctr("snapshot", "prepare", "unused")
	mounts := strings.Fields(d.ctr("snapshot", "mounts", dir, "web"))
	run(t, mounts...)
	changeContainer(t)(dir)
	run(t, "umount", dir)

	oddName, tinyName := mustLoad(t, s, odd)[0].Name, mustLoad(t, s, tiny)[0].Name
	arg := "containerd:" + d.root
	check := func(t *testing.T) {
		sameImage(t, s, arg+":odd:1", oddName)
		items, err := s.EngineItems(context.Background(), arg)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, i := range items {
			got = append(got, fmt.Sprintf("%s %s %v %d", i.Namespace, i.Repository, i.Container, i.Containers))
			if !i.Container && i.Size < 20000 { // as its snapshots say
				t.Errorf("%s has %d bytes", i.Repository, i.Size)
			}
			if i.Namespace == "other" {
				sameImage(t, s, arg+":"+string(i.ID), tinyName)
			}
		}
		slices.Sort(got)
		if want := []string{"default  true 0", "default odd false 1", "other imgfs.test/tiny false 0"}; !slices.Equal(got, want) {
			t.Errorf("items %q, want %q", got, want)
		}
		if got := drift(t, s, arg+":web"); !slices.Equal(got, wantDrift) {
			t.Errorf("drift\n got %s\nwant %s", strings.Join(got, "\n     "), strings.Join(wantDrift, "\n     "))
		}
	}
	t.Run("running", check) // it holds the lock of its database
	d.stop()
	untouched(t, d.root, func() { t.Run("stopped", check) })
}
