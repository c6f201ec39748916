// SPDX-License-Identifier: Apache-2.0

package imgfs_test

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/forensics"
	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/enginetest"
	"github.com/imgfs/imgfs/internal/fusetest"
)

var engineMarks = enginetest.Marks{Whiteout: index.WhiteoutPrefix, Opaque: index.OpaqueMarker}

// engineImage is an image that has what engines unpack with trouble: whiteouts,
// opaque directories, hard links, xattrs, odd names, bits, times and devices.
func engineImage(t testing.TB) string {
	t.Helper()
	b := newOCI(t)
	base := newTar(t)
	at := time.Unix(1500000000, 123456789)
	add := func(h *tar.Header, body string) {
		h.ModTime, h.Format = at, tar.FormatPAX
		base.add(h, []byte(body))
	}
	add(&tar.Header{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755}, "")
	add(&tar.Header{Name: "etc/passwd", Mode: 0o644, Uid: 5, Gid: 6}, "root:x:0:0\n")
	add(&tar.Header{Name: "etc/same", Typeflag: tar.TypeLink, Linkname: "etc/passwd"}, "")
	add(&tar.Header{Name: "etc/\xff\xfe", Mode: 0o600}, "not UTF-8")
	add(&tar.Header{Name: "etc/new\nline <&>", Mode: 0o600}, "odd")
	add(&tar.Header{Name: "etc/empty", Mode: 0o600}, "")
	add(&tar.Header{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o755}, "")
	add(&tar.Header{Name: "bin/su", Mode: 0o4755}, strings.Repeat("#!/bin/sh\n", 2000))
	add(&tar.Header{Name: "bin/ping", Mode: 0o755, PAXRecords: map[string]string{
		"SCHILY.xattr.user.note":           "of ping",
		"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
	}}, "ping")
	add(&tar.Header{Name: "bin/sh", Typeflag: tar.TypeSymlink, Linkname: "/bin/su", Mode: 0o777}, "")
	add(&tar.Header{Name: "null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3}, "")
	add(&tar.Header{Name: "pipe", Typeflag: tar.TypeFifo, Mode: 0o600}, "")
	add(&tar.Header{Name: "var/", Typeflag: tar.TypeDir, Mode: 0o1777}, "")
	add(&tar.Header{Name: "var/a/", Typeflag: tar.TypeDir, Mode: 0o755}, "")
	add(&tar.Header{Name: "var/a/one", Mode: 0o644}, "1")
	add(&tar.Header{Name: "var/b/", Typeflag: tar.TypeDir, Mode: 0o755}, "")
	add(&tar.Header{Name: "var/b/two", Mode: 0o644}, "2")
	add(&tar.Header{Name: strings.Repeat("long/", 40), Typeflag: tar.TypeDir, Mode: 0o755}, "")
	layers := []packedLayer{packed(t, base.bytes(), "gzip")}
	layers = append(layers, textLayers(t, "gzip", "etc/ etc/"+index.WhiteoutPrefix+"empty var/ var/b/ var/b/"+index.OpaqueMarker+" var/b/new=n || etc/ etc/passwd=changed var/ var/a=file")...)
	return b.write(named(b.image("linux/amd64", layers, nil), "docker.io/library/odd:1"))
}

// needEngine skips where an engine's tool is missing, and fails where that is
// not allowed.
func needEngine(t testing.TB, tools ...string) {
	t.Helper()
	needTools(t, tools...)
}

// output runs a command and returns what it printed.
func output(t testing.TB, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, name, args...)
	var errs strings.Builder
	c.Stderr = &errs
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, errs.String())
	}
	return strings.TrimSpace(string(out))
}

// sameImage compares an image of an engine's store with the same one loaded.
func sameImage(t *testing.T, s *imgfs.Store, arg, loaded string) {
	t.Helper()
	i, err := s.OpenImage(context.Background(), arg, nil, imgfs.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	if err := i.Verify(context.Background()); err != nil || i.Unverified() || i.Damaged() {
		t.Fatalf("%s: verified: %v, %v", arg, !i.Unverified(), err)
	}
	diffTrees(t, arg, readTree(t, i.FS), treeOf(t, s, loaded))
	got, want := mustInfo(t, s, arg), mustInfo(t, s, loaded)
	if got.ID != want.ID || !slices.Equal(got.DiffIDs, want.DiffIDs) {
		t.Errorf("%s: %s %v, want %s %v", arg, got.ID, got.DiffIDs, want.ID, want.DiffIDs)
	}
	a, b := openStack(t, s, arg), openStack(t, s, loaded)
	if diff := differences(t, a, b, forensics.DiffOptions{}); len(diff) > 0 {
		t.Errorf("%s: %v", arg, diff)
	}
}

// untouched fails if f writes anything below dir.
func untouched(t *testing.T, dir string, f func()) {
	t.Helper()
	before := enginetest.Listing(t, dir)
	f()
	if after := enginetest.Listing(t, dir); after != before {
		t.Errorf("something was written below %s", dir)
	}
}

// contentOf returns the content of a file.
func contentOf(t *testing.T, s *imgfs.Store, arg, path string) string {
	t.Helper()
	st := openStack(t, s, arg)
	e, err := st.Tree.Lookup(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	r, err := st.Tree.Open(e)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(forensics.Content(r, e))
	if err != nil {
		t.Error(err)
	}
	return string(raw)
}

// changeContainer does what intruders, and packages, do.
func changeContainer(t testing.TB) func(dir string) {
	return func(dir string) {
		p := func(name string) string { return filepath.Join(dir, name) }
		err := errors.Join(
			os.WriteFile(p("bin/miner"), []byte("\x7fELF…"), 0o755),
			os.WriteFile(p("var/script"), []byte("#!/bin/sh\n"), 0o644),
			os.WriteFile(p("etc/passwd"), []byte("intruder"), 0o644),
			os.Remove(p("etc/same")),
			os.Remove(p("var/b/new")), os.Remove(p("var/b")), os.Mkdir(p("var/b"), 0o755), os.WriteFile(p("var/b/again"), nil, 0o600),
			os.WriteFile(p("var/suid"), []byte("x"), 0o600), unix.Chmod(p("var/suid"), 0o4600),
			os.WriteFile(p("var/plain"), []byte("text"), 0o600),
			os.Chmod(p("bin/ping"), 0o777),
		)
		if err != nil {
			t.Fatal(err)
		}
	}
}

// wantDrift is what that is against engineImage.
var wantDrift = []string{
	"added executable /bin/miner mode,elf",
	"changed executable /bin/ping mode,capabilities",
	"added executable /var/script script",
	"added privileged /var/suid setuid",
	"changed other /etc/passwd ",
	"deleted other /etc/same ",
	"added other /var/b/again ",
	"deleted other /var/b/new ",
	"added other /var/plain ",
}

func drift(t *testing.T, s *imgfs.Store, arg string) (got []string) {
	t.Helper()
	base, container, err := s.OpenDrift(context.Background(), arg, imgfs.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	defer container.Close()
	list, err := forensics.Drift(context.Background(), base, container)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range list {
		if d.B != nil && d.B.IsDir() { // whose attributes were changed, too, by removing and making it
			continue
		}
		got = append(got, fmt.Sprintf("%s %s /%s %s", d.Change, d.Class, d.Path, strings.Join(d.Why, ",")))
	}
	return got
}

// dockerStore writes docker's store of the images in files.
func dockerStore(t testing.TB, change func(dir string), files ...string) string {
	t.Helper()
	needTools(t)
	s := openStore(t)
	var images []enginetest.Image
	for _, file := range files {
		name := mustLoad(t, s, file)[0].Name
		st := openStack(t, s, name)
		r, err := image.ParseReference(name)
		if err != nil {
			t.Fatal(err)
		}
		m := enginetest.Image{Names: []string{r.String()}, Config: st.Config}
		for _, l := range st.Layers {
			content, err := l.Content(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			raw, err := io.ReadAll(io.NewSectionReader(content, 0, l.TarSize))
			if err != nil {
				t.Fatal(err)
			}
			m.Layers = append(m.Layers, raw)
		}
		images = append(images, m)
	}
	root := t.TempDir()
	web := enginetest.Container{ID: strings.Repeat("ab", 32), Name: "web", Image: images[0].Names[0], Change: change}
	enginetest.Docker(t, root, engineMarks, images, []enginetest.Container{web})
	return root
}

// overlayChange is what changeContainer does, as overlayfs keeps it.
func overlayChange(t testing.TB) func(dir string) {
	return func(dir string) {
		p := func(name string) string { return filepath.Join(dir, name) }
		capability := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
		err := errors.Join(
			os.Mkdir(p("bin"), 0o755), os.Mkdir(p("etc"), 0o755), os.Mkdir(p("var"), 0o755), unix.Chmod(p("var"), 0o1777),
			os.WriteFile(p("bin/miner"), []byte("\x7fELF…"), 0o755),
			os.WriteFile(p("bin/ping"), []byte("ping"), 0o777), unix.Chmod(p("bin/ping"), 0o777),
			unix.Lsetxattr(p("bin/ping"), "security.capability", []byte(capability), 0),
			unix.Lsetxattr(p("bin/ping"), "user.note", []byte("of ping"), 0),
			unix.Lsetxattr(p("bin/ping"), "trusted.overlay.origin", []byte("x"), 0),
			os.Chtimes(p("bin/ping"), time.Unix(1500000000, 123456789), time.Unix(1500000000, 123456789)),
			os.WriteFile(p("var/script"), []byte("#!/bin/sh\n"), 0o644),
			os.WriteFile(p("etc/passwd"), []byte("intruder"), 0o644),
			unix.Mknod(p("etc/same"), unix.S_IFCHR, 0),
			os.Mkdir(p("var/b"), 0o755), unix.Lsetxattr(p("var/b"), "trusted.overlay.opaque", []byte("y"), 0),
			os.WriteFile(p("var/b/again"), nil, 0o600),
			os.WriteFile(p("var/suid"), []byte("x"), 0o600), unix.Chmod(p("var/suid"), 0o4600),
			os.WriteFile(p("var/plain"), []byte("text"), 0o600),
		)
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestDockerStore(t *testing.T) {
	needTools(t) // before images are made
	odd, tiny := engineImage(t), fusetest.Image(t, "tiny")
	root := dockerStore(t, overlayChange(t), odd, tiny)
	s := openStore(t)
	oddName, tinyName := mustLoad(t, s, odd)[0].Name, mustLoad(t, s, tiny)[0].Name
	arg := "docker:" + root
	untouched(t, root, func() {
		sameImage(t, s, arg+":odd:1", oddName)
		sameImage(t, s, arg+":"+tinyName, tinyName)
		sameImage(t, s, arg+":"+mustInfo(t, s, oddName).ID.Encoded()[:8], oddName)
		if got := drift(t, s, arg+":web"); !slices.Equal(got, wantDrift) {
			t.Errorf("drift\n got %s\nwant %s", strings.Join(got, "\n     "), strings.Join(wantDrift, "\n     "))
		}
		if got := paths(t, openStack(t, s, arg+":web:/var/b")); got != "/ /again" {
			t.Errorf("a part of a container: %s", got)
		}
		if _, err := openStack(t, s, arg+":web").Tree.Lookup(context.Background(), ".dockerenv"); err != nil {
			t.Errorf("what docker itself adds to a container: %v", err)
		}
		if got := paths(t, openStack(t, s, arg+":odd:1#2")); got != "/ /etc /etc/passwd /var /var/a" {
			t.Errorf("one layer: %s", got)
		}
		_, err := s.OpenImage(context.Background(), arg+":none", nil, imgfs.OpenOptions{})
		var missing *imgfs.EngineNotFoundError
		if !errors.As(err, &missing) || !errors.Is(err, image.ErrNotFound) || !strings.Contains(err.Error(), "container web") {
			t.Errorf("a name that is not there: %v", err)
		}
	})
}

// TestImageCalledLikeAnEngine: docker:24 is that image where imgfs's store has
// it, and nothing else is asked for it.
func TestImageCalledLikeAnEngine(t *testing.T) {
	s := openStore(t)
	mustLoad(t, s, textImage(t, "docker.io/library/docker:24", "gzip", "a=1"))
	for _, arg := range []string{"docker:24", "docker:24:/a", "docker:24#0"} {
		if got := paths(t, openStack(t, s, arg)); !strings.HasPrefix(got, "/") {
			t.Errorf("%s: %s", arg, got)
		}
	}
	if _, err := s.Copy(context.Background(), "docker:24", "oci:"+t.TempDir()+"/x", imgfs.CopyOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := s.OpenImage(context.Background(), "docker:none", nil, imgfs.OpenOptions{}); !errors.Is(err, image.ErrNotFound) && !errors.Is(err, fs.ErrPermission) {
		t.Errorf("a name that neither has: %v", err)
	}
}

// TestDockerStoreMoved: all is found from the directory that is named, as on a
// disk that was copied, and by a relative path.
func TestDockerStoreMoved(t *testing.T) {
	odd := engineImage(t)
	root := dockerStore(t, nil, odd)
	s := openStore(t)
	name := mustLoad(t, s, odd)[0].Name
	moved := filepath.Join(t.TempDir(), "evidence:1", "docker")
	if err := errors.Join(os.Mkdir(filepath.Dir(moved), 0o755), exec.Command("cp", "-a", root, moved).Run()); err != nil {
		t.Fatal(err)
	}
	sameImage(t, s, "docker:"+moved, name)
	t.Chdir(moved)
	sameImage(t, s, "docker:.", name)
}

// TestDockerStoreDamaged: each fault is an error that names the file on the
// host, and all that is not touched by it can be read.
func TestDockerStoreDamaged(t *testing.T) {
	odd := engineImage(t)
	find := func(root, pattern string) string {
		list, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil || len(list) == 0 {
			t.Fatalf("%s: %v", pattern, err)
		}
		return list[0]
	}
	for _, tt := range []struct {
		name  string
		spoil func(root string) (named string, err error)
	}{
		{"a file of a layer is gone", func(root string) (string, error) {
			path := find(root, "overlay2/*/diff/bin/su")
			return path, os.Remove(path)
		}},
		{"a symlink in place of a file", func(root string) (string, error) {
			path := find(root, "overlay2/*/diff/bin/su")
			return path, errors.Join(os.Remove(path), os.Symlink("/etc/hostname", path))
		}},
		{"a symlink in place of a layer", func(root string) (string, error) {
			path := filepath.Dir(filepath.Dir(find(root, "overlay2/*/diff/bin/su")))
			return path, errors.Join(os.Rename(path, path+".real"), os.Symlink(path+".real", path))
		}},
		{"other bytes in a file", func(root string) (string, error) {
			path := find(root, "overlay2/*/diff/bin/su")
			raw, err := os.ReadFile(path)
			if err == nil {
				raw[7] ^= 1
				err = os.WriteFile(path, raw, 0o755)
			}
			return "", err
		}},
		{"a cache-id that leads out", func(root string) (string, error) {
			path := find(root, "image/overlay2/layerdb/sha256/*/cache-id")
			return path, os.WriteFile(path, []byte("../../../etc"), 0o600)
		}},
		{"tar-split cut short", func(root string) (string, error) {
			path := find(root, "image/overlay2/layerdb/sha256/*/tar-split.json.gz")
			return path, os.Truncate(path, 40)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := dockerStore(t, nil, odd)
			named, err := tt.spoil(root)
			if err != nil {
				t.Fatal(err)
			}
			s := openStore(t)
			_, err = s.OpenImage(context.Background(), "docker:"+root+":odd:1", nil, imgfs.OpenOptions{Verify: true})
			if err == nil || !strings.Contains(err.Error(), named) || !errors.Is(err, image.ErrMalformed) {
				t.Errorf("verified: %v, want %s", err, named)
			}
		})
	}
}

// TestDriftOfUpper: an upper, mounted or not, is a container, too.
func TestDriftOfUpper(t *testing.T) {
	fusetest.Need(t)
	s := openStore(t)
	name := mustLoad(t, s, textImage(t, "docker.io/test/drift:1", "gzip", "bin/ bin/a:755=x etc/ etc/b=2 etc/c=3 gone/ gone/a/ gone/a/b gone/c"))[0].Name
	dir := t.TempDir()
	m, err := s.Mount(context.Background(), name, dir, nil, imgfs.MountOptions{Writable: true, Upper: "u"})
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(os.WriteFile(dir+"/bin/new", []byte("#!/bin/sh\n"), 0o755), os.WriteFile(dir+"/etc/b", []byte("two"), 0o644), os.Remove(dir+"/etc/c"), os.RemoveAll(dir+"/gone"))
	want := []string{"added executable /bin/new mode,script", "changed other /etc/b ", "deleted other /etc/c ", "deleted other /gone "}
	for _, arg := range []string{dir, "upper:u", "u"} {
		if got := drift(t, s, arg); !slices.Equal(got, want) {
			t.Errorf("%s, mounted: %q, want %q", arg, got, want)
		}
	}
	if err := errors.Join(err, m.Unmount(false), m.Wait()); err != nil {
		t.Fatal(err)
	}
	if got := drift(t, s, "upper:u:/etc"); !slices.Equal(got, []string{"changed other /b ", "deleted other /c "}) {
		t.Errorf("a part of it: %q", got)
	}
	if got := drift(t, s, "upper:u"); !slices.Equal(got, want) {
		t.Errorf("not mounted: %q, want %q", got, want)
	}
}

// TestMountedContainer: a container mounts, with changes of our own on top that
// find it again.
func TestMountedContainer(t *testing.T) {
	fusetest.Need(t)
	root := dockerStore(t, overlayChange(t), engineImage(t))
	s := openStore(t)
	dir, arg := t.TempDir(), "docker:"+root+":web"
	untouched(t, root, func() {
		m, err := s.Mount(context.Background(), arg, dir, nil, imgfs.MountOptions{Writable: true, Upper: "ours"})
		if err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(dir + "/etc/passwd")
		if err != nil || string(raw) != "intruder" {
			t.Errorf("a file of the container: %q, %v", raw, err)
		}
		if err := errors.Join(os.Remove(dir+"/bin/miner"), m.Unmount(false), m.Wait()); err != nil {
			t.Fatal(err)
		}
		if got := drift(t, s, "upper:ours"); !slices.Equal(got, []string{"deleted other /bin/miner "}) {
			t.Errorf("drift of ours: %q", got)
		}
		if _, err := s.Prune(context.Background(), imgfs.PruneOptions{All: true}); err != nil {
			t.Fatal(err)
		}
		id, err := s.Commit(context.Background(), "ours", "test/cleaned:1", imgfs.CommitOptions{}, false)
		if err != nil {
			t.Fatal(err)
		}
		a, b := openStack(t, s, string(id)), openStack(t, s, arg)
		if got := differences(t, b, a, forensics.DiffOptions{Ignore: forensics.DiffTimes}); !slices.Equal(got, []string{"D /bin/miner"}) {
			t.Errorf("committed: %q", got)
		}
	})
}

// TestHelperVerify opens $IMGFS_TEST_ARG, for TestUnreadableAsUser.
func TestHelperVerify(t *testing.T) {
	arg := os.Getenv("IMGFS_TEST_ARG")
	if arg == "" {
		t.Skip("it is part of another test")
	}
	s, err := imgfs.Open(os.Getenv("IMGFS_TEST_ROOT"))
	if err != nil {
		t.Fatal(err)
	}
	i, err := s.OpenImage(context.Background(), arg, nil, imgfs.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for path, f := range readTree(t, i.FS) {
		if strings.HasPrefix(f.Content, "error") {
			fmt.Printf("cannot read %s: %s\n", path, f.Content)
		}
	}
	if err := i.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = s.OpenImage(context.Background(), arg, nil, imgfs.OpenOptions{Verify: true})
	fmt.Printf("denied %v: %v\n", errors.Is(err, os.ErrPermission), err)
	warn := func(line string) { fmt.Println("warned:", line) }
	web := strings.TrimSuffix(arg, "odd:1") + "web"
	if i, err = s.OpenImage(context.Background(), web, nil, imgfs.OpenOptions{LoadOptions: imgfs.LoadOptions{Warn: warn}}); err != nil {
		t.Fatal(err)
	}
	if err := i.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestUnreadableAsUser: who lacks the right to read some files is told which,
// all of them, and reads the others.
func TestUnreadableAsUser(t *testing.T) {
	root := dockerStore(t, nil, engineImage(t))
	dir := shortDir(t)
	program := filepath.Join(dir, "test")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		exec.Command("cp", "-a", root, dir+"/docker").Run(), exec.Command("cp", self, program).Run(),
		exec.Command("chmod", "-R", "a+rX", dir).Run(), os.Mkdir(dir+"/store", 0o700), os.Chown(dir+"/store", 65534, 65534),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var closed []string
	for _, name := range []string{"bin/su", "bin/ping"} {
		list, err := filepath.Glob(dir + "/docker/overlay2/*/diff/" + name)
		if err != nil || len(list) != 1 || os.Chmod(list[0], 0o600) != nil {
			t.Fatal(list, err)
		}
		closed = append(closed, list[0])
	}
	c := exec.Command(program, "-test.run=^TestHelperVerify$")
	c.Dir = "/"
	c.Env = []string{"IMGFS_TEST_ARG=docker:" + dir + "/docker:odd:1", "IMGFS_TEST_ROOT=" + dir + "/store", "TMPDIR=" + dir + "/store"}
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	said := string(out)
	if strings.Count(said, "cannot read ") != 2 || !strings.Contains(said, "denied true: ") || !strings.Contains(said, "only root can read which directories") {
		t.Errorf("said\n%s", said)
	}
	for _, path := range closed {
		if strings.Count(said, path+": permission denied") != 2 { // when read, and when verified
			t.Errorf("%s is named not twice in\n%s", path, said)
		}
	}
}

// TestEvidenceInEngine: a report of what an engine's store has is checked against
// it, and finds what was changed there.
func TestEvidenceInEngine(t *testing.T) {
	root := dockerStore(t, overlayChange(t), engineImage(t))
	s := openStore(t)
	e := evidence(t, s, "docker:"+root+":web")
	results := map[string]int{}
	for _, i := range e.Sources[0].Items {
		results[i.Kind+" "+i.Result]++
	}
	// What the container and docker itself added have nothing to prove them.
	if want := map[string]int{"config good": 1, "layer good": 3, "layer noted": 2}; !maps.Equal(results, want) {
		t.Errorf("items %v, want %v", results, want)
	}
	if list := changes(t, s, e); len(list) > 0 {
		t.Errorf("unchanged, and told: %q", list)
	}
	list, err := filepath.Glob(filepath.Join(root, "overlay2/*/diff/bin/miner"))
	if err != nil || len(list) != 1 || os.WriteFile(list[0], []byte("\x7fELF…!"), 0o755) != nil {
		t.Fatal(list, err)
	}
	if list := changes(t, s, e); len(list) != 1 || !strings.Contains(list[0], "layer") {
		t.Errorf("a file was changed, and told: %q", list)
	}
}

// TestUnreadableFiles: to a user who may not read some files of a store they are
// named, and the others are read.
func TestUnreadableFiles(t *testing.T) {
	root := dockerStore(t, nil, engineImage(t))
	list, err := filepath.Glob(filepath.Join(root, "overlay2/*/diff/bin/su"))
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	if err := os.Remove(list[0]); err != nil { // as root reads everything
		t.Fatal(err)
	}
	s := openStore(t)
	i := openPlain(t, s, "docker:"+root+":odd:1", false)
	var bad []string
	for path, f := range readTree(t, i.FS) {
		if strings.HasPrefix(f.Content, "error") {
			bad = append(bad, path)
		}
	}
	if !slices.Equal(bad, []string{"bin/su"}) {
		t.Errorf("not to be read: %q", bad)
	}
	if err := i.Verify(context.Background()); !errors.As(err, new(*imgfs.UnreadableError)) || i.Damaged() {
		t.Errorf("verified: %v, damaged: %v", err, i.Damaged())
	}
}
