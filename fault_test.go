// SPDX-License-Identifier: Apache-2.0

package imgfs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/layerstore"
	"github.com/imgfs/imgfs/layerstore/seek"
)

// TestHelperLoad is no test: it is the process that others start to be killed.
func TestHelperLoad(t *testing.T) {
	root := os.Getenv("IMGFS_TEST_LOAD_ROOT")
	if root == "" {
		return // not that child
	}
	s, err := imgfs.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(context.Background(), os.Getenv("IMGFS_TEST_LOAD_FILE"), nil, imgfs.LoadOptions{}); err != nil {
		t.Fatal(err)
	}
}

func loadProcess(root, file string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], "-test.run=^TestHelperLoad$")
	cmd.Env = append(os.Environ(), "IMGFS_TEST_LOAD_ROOT="+root, "IMGFS_TEST_LOAD_FILE="+file)
	return cmd
}

// manyLayers writes an image of n layers, each with a file of size bytes that
// do not compress.
func manyLayers(t testing.TB, name, how string, n, size int) string {
	t.Helper()
	rnd := rand.New(rand.NewPCG(1, uint64(n)))
	b := newOCI(t)
	var layers []packedLayer
	for i := range n {
		raw := make([]byte, size)
		for k := range raw {
			raw[k] = byte(rnd.Uint32())
		}
		tw := newTar(t)
		tw.file(fmt.Sprintf("dir%d/file", i), raw)
		tw.file("same", fmt.Appendf(nil, "%d", i))
		layers = append(layers, packed(t, tw.bytes(), how))
	}
	return b.write(named(b.image("linux/amd64", layers, nil), "docker.io/library/"+name+":latest"))
}

func TestKillDuringLoad(t *testing.T) {
	path := manyLayers(t, "many", "gzip", 8, 5_000)
	s := openStore(t)
	want := func() map[string]treeFile {
		other := openStore(t)
		mustLoad(t, other, path)
		return treeOf(t, other, "many")
	}()

	begin := time.Now()
	if out, err := loadProcess(s.Root(), path).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	k := killer{whole: time.Since(begin), rounds: 50}
	if testing.Short() {
		k.rounds = 10
	}
	for k.next() {
		if err := os.RemoveAll(s.Root()); err != nil {
			t.Fatal(err)
		}
		cmd := loadProcess(s.Root(), path)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		k.wait(cmd)
		// What can be seen is all or nothing.
		list, err := s.Images(context.Background())
		if err != nil {
			t.Fatalf("round %d: %v", k.round, err)
		}
		if len(list) > 0 {
			diffTrees(t, fmt.Sprintf("round %d, as it was left", k.round), treeOf(t, s, "many"), want)
		} else if _, err := s.OpenImage(context.Background(), "many", nil, imgfs.OpenOptions{}); err == nil {
			t.Fatalf("round %d: an image that is not listed was opened", k.round)
		}
		checkFiles(t, s)
		mustLoad(t, s, path)
		diffTrees(t, fmt.Sprintf("round %d, loaded again", k.round), treeOf(t, s, "many"), want)
	}
	k.end(t)

	// What the dead left is swept when it is old.
	cmd := loadProcess(s.Root(), path)
	os.RemoveAll(filepath.Join(s.Root(), "blobs"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for len(tmpFiles(t, s)) == 0 && cmd.ProcessState == nil {
		if syscall.Kill(cmd.Process.Pid, 0) != nil {
			break
		}
	}
	cmd.Process.Kill()
	cmd.Wait()
	os.MkdirAll(filepath.Join(s.Root(), "tmp", "stage-dead", "layer-1"), 0o700)
	old := time.Now().Add(-time.Hour)
	for _, name := range tmpFiles(t, s) {
		if err := os.Chtimes(filepath.Join(s.Root(), "tmp", name), old, old); err != nil {
			t.Fatal(err)
		}
	}
	mustLoad(t, s, path)
	if left := tmpFiles(t, s); len(left) > 0 {
		t.Errorf("left in tmp: %q", left)
	}
}

// checkFiles makes sure that every blob of the store is what its name says,
// and that no table is half-made.
func checkFiles(t testing.TB, s *imgfs.Store) {
	t.Helper()
	for line := range strings.Lines(listing(t, s)) {
		var name, sum string
		var size int64
		if n, _ := fmt.Sscan(line, &name, &size, &sum); n != 3 {
			continue
		}
		switch {
		case strings.HasPrefix(name, "blobs/"):
			if filepath.Base(name) != sum {
				t.Errorf("%s has digest %s", name, sum)
			}
		case strings.HasPrefix(name, "index/layer/"):
			table, err := index.Open[index.EntryID](filepath.Join(s.Root(), name))
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if err := table.Warm(nil); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			table.Close()
		}
	}
}

// smallDisk mounts a tmpfs of size bytes and returns its directory.
func smallDisk(t testing.TB, size int) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can mount a small disk")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Skipf("no small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestDiskFull(t *testing.T) {
	small := textImage(t, "docker.io/library/small:latest", "gzip", "a/ a/b=text")
	big := manyLayers(t, "big", "gzip", 8, 64<<10)
	full, fitted := 0, 0
	// From hardly anything to enough for both: it is full at every step once.
	for size := 200 << 10; size < 2600<<10; size += 68 << 10 {
		s, err := imgfs.Open(filepath.Join(smallDisk(t, size), "store"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Load(context.Background(), small, nil, imgfs.LoadOptions{}); err != nil {
			if !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("%d KiB: small image: %v", size>>10, err)
			}
			if got := listing(t, s); got != "" {
				t.Errorf("%d KiB: a load that failed left\n%s", size>>10, got)
			}
			full++
			continue
		}
		before := listing(t, s)
		_, err = s.Load(context.Background(), big, nil, imgfs.LoadOptions{})
		if err == nil {
			treeOf(t, s, "big")
			fitted++
			continue
		}
		full++
		if !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%d KiB: %v, want ENOSPC", size>>10, err)
		}
		sameListing(t, listing(t, s), before)
		if left := tmpFiles(t, s); len(left) > 0 {
			t.Errorf("%d KiB: left in tmp: %q", size>>10, left)
		}
		treeOf(t, s, "small")
	}
	if full < 5 || fitted < 1 {
		t.Errorf("%d loads met a full disk, %d did not", full, fitted)
	}
}

// A disk that is full to the last byte can still be read.
func TestReadFromFullDisk(t *testing.T) {
	dir := smallDisk(t, 2<<20)
	s, err := imgfs.Open(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	mustLoad(t, s, textImage(t, "docker.io/library/small:latest", "gzip", "a/ a/b=text"))
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{64 << 10, 1} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, n))
		}
	}
	f.Close()
	treeOf(t, s, "small")
	if list, err := s.Images(context.Background()); err != nil || len(list) != 1 {
		t.Errorf("got %v, %v", list, err)
	}
}

func TestLoadTwiceAtOnce(t *testing.T) {
	path := manyLayers(t, "twice", "gzip", 6, 100_000)
	alone := openStore(t)
	mustLoad(t, alone, path)
	want := listing(t, alone)

	t.Run("goroutines", func(t *testing.T) {
		s := openStore(t)
		var group errgroup.Group
		stop := make(chan struct{})
		var readers sync.WaitGroup
		for range 2 {
			readers.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					list, err := s.Images(context.Background())
					if err != nil {
						t.Error(err)
						return
					}
					for range list {
						treeOf(t, s, "twice")
					}
				}
			})
		}
		for range 4 {
			group.Go(func() error {
				_, err := s.Load(context.Background(), path, nil, imgfs.LoadOptions{})
				return err
			})
		}
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
		close(stop)
		readers.Wait()
		sameListing(t, listing(t, s), want)
		if left := tmpFiles(t, s); len(left) > 0 {
			t.Errorf("left in tmp: %q", left)
		}
	})
	t.Run("processes", func(t *testing.T) {
		s := openStore(t)
		var cmds []*exec.Cmd
		var outs []*bytes.Buffer
		for range 3 {
			cmd, out := loadProcess(s.Root(), path), new(bytes.Buffer)
			cmd.Stdout, cmd.Stderr = out, out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			cmds, outs = append(cmds, cmd), append(outs, out)
		}
		for i, cmd := range cmds {
			if err := cmd.Wait(); err != nil {
				t.Errorf("%v\n%s", err, outs[i])
			}
		}
		sameListing(t, listing(t, s), want)
	})
}

// flip changes one bit of a file without changing its times.
func flip(t testing.TB, path string, off int64, bit uint) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], off); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1 << bit
	if _, err := f.WriteAt(b[:], off); err != nil {
		t.Fatal(err)
	}
}

// readable opens an image and reads what can be read: every file is right or
// an error. It returns how many files failed, -1 for all.
func readable(t testing.TB, s *imgfs.Store, arg string, want map[string]treeFile) (failed int) {
	t.Helper()
	i, err := s.OpenImage(context.Background(), arg, nil, imgfs.OpenOptions{})
	if err != nil {
		if !isDamage(err) {
			t.Errorf("open: %v, want an error that tells of damage", err)
		}
		return -1
	}
	defer i.Close()
	for path, w := range want {
		f, err := lookFile(i, path)
		switch {
		case err != nil:
			if !isDamage(err) {
				t.Errorf("%s: %v", path, err)
			}
			failed++
		case f != w && strings.HasPrefix(f.Content, "error"):
			failed++
		case f != w:
			t.Errorf("%s: wrong without an error\n got %+v\nwant %+v", path, f, w)
		}
	}
	return failed
}

func isDamage(err error) bool {
	for _, e := range []error{
		index.ErrCorrupt, seek.ErrCorrupt, seek.ErrFormat, layerstore.ErrDigest, layerstore.ErrDamaged,
		layerstore.ErrNoBlob, index.ErrBadLayer,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// lookFile reads one file as readTree does.
func lookFile(i *imgfs.Image, path string) (file treeFile, err error) {
	id, err := i.FS.Resolve(strings.TrimPrefix(path, "."), false)
	if err != nil {
		return file, err
	}
	var n index.Node
	if err := i.FS.Tree.Node(id, &n); err != nil {
		return file, err
	}
	file = treeFile{
		Mode: n.Mode, Nlink: n.Nlink, UID: n.UID, GID: n.GID, Size: n.Size,
		Mtime: n.Mtime, Nsec: n.MtimeNsec, Rdev: n.Rdev, Ino: uint32(id),
	}
	if err := i.FS.Tree.EachXattr(&n, func(name, value []byte) bool {
		file.Xattrs += fmt.Sprintf("%s=%q ", name, value)
		return true
	}); err != nil {
		return file, err
	}
	if n.Type() == index.ModeSymlink {
		target, err := i.FS.Tree.Target(&n)
		if err != nil {
			return file, err
		}
		file.Target = string(target)
	}
	if n.IsRegular() {
		file.Content = contentHash(i.FS, &n)
	}
	return file, nil
}

// copyStore copies a store that is not in use.
func copyStore(t testing.TB, from *imgfs.Store) *imgfs.Store {
	t.Helper()
	to := openStore(t)
	if err := os.CopyFS(to.Root(), os.DirFS(from.Root())); err != nil {
		t.Fatal(err)
	}
	return to
}

// storeFiles returns the files of a store whose path begins with prefix.
func storeFiles(t testing.TB, s *imgfs.Store, prefix string) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(s.Root(), func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(s.Root(), path)
		if err == nil && !d.IsDir() && strings.HasPrefix(rel, prefix) {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(paths)
	return paths
}

func TestBitFlips(t *testing.T) {
	unraced(t)
	rnd := rand.New(rand.NewPCG(7, 7))
	rounds := 40
	if testing.Short() {
		rounds = 8
	}
	for _, how := range []string{"plain", "gzip", "zstd"} {
		base := openStore(t)
		path := manyLayers(t, "flips", how, 3, 300_000)
		mustLoad(t, base, path)
		want := treeOf(t, base, "flips")
		for _, kind := range []string{"blobs/", "index/layer/", "index/tree/", "index/seek/", "index/sidecar/", "imgfs.db"} {
			t.Run(how+" "+kind, func(t *testing.T) {
				s := copyStore(t, base)
				files := storeFiles(t, s, kind)
				if len(files) == 0 {
					t.Skip("there are none")
				}
				none, some, all := 0, 0, 0
				for range rounds {
					file := files[rnd.IntN(len(files))]
					keep, err := os.ReadFile(file)
					if err != nil {
						t.Fatal(err)
					}
					off, bit := rnd.Int64N(int64(len(keep))), uint(rnd.IntN(8))
					flip(t, file, off, bit)
					switch n := readable(t, s, "flips", want); n {
					case 0:
						none++
					case -1:
						all++
					default:
						some++
						if kind == "blobs/" && n > 2 {
							t.Errorf("%d files failed, a chunk of one layer holds two", n)
						}
					}
					if t.Failed() {
						t.Fatalf("%s offset %d bit %d", file, off, bit)
					}
					if err := os.WriteFile(file, keep, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				t.Logf("no effect %d, some files failed %d, no opening %d", none, some, all)
				if kind == "blobs/" && some == 0 {
					t.Error("no flip was found")
				}
			})
		}
	}
}

// What is derived is made anew when it is gone or cut short.
func TestDerivedIsRebuilt(t *testing.T) {
	for _, how := range []string{"plain", "gzip", "zstd"} {
		t.Run(how, func(t *testing.T) {
			s := openStore(t)
			mustLoad(t, s, manyLayers(t, "derived", how, 3, 100_000))
			want := treeOf(t, s, "derived")
			kinds := []string{"index/layer/", "index/tree/", "index/seek/", "index/sidecar/"}
			damage := map[string]func(path string) error{
				"gone":      os.Remove,
				"empty":     func(path string) error { return os.Truncate(path, 0) },
				"cut short": func(path string) error { fi, _ := os.Stat(path); return os.Truncate(path, fi.Size()/2) },
				"garbage":   func(path string) error { return os.WriteFile(path, bytes.Repeat([]byte("x"), 20000), 0o600) },
				"bit":       func(path string) error { fi, _ := os.Stat(path); flip(t, path, fi.Size()/3, 3); return nil },
			}
			for what, f := range damage {
				for _, prefix := range append(kinds, "index/") {
					for _, path := range storeFiles(t, s, prefix) {
						if err := f(path); err != nil {
							t.Fatal(err)
						}
					}
					diffTrees(t, prefix+" "+what, treeOf(t, s, "derived"), want)
				}
			}
			if err := os.RemoveAll(filepath.Join(s.Root(), "index")); err != nil {
				t.Fatal(err)
			}
			diffTrees(t, "no index at all", treeOf(t, s, "derived"), want)
		})
	}
}

func TestDamagedBlob(t *testing.T) {
	path := manyLayers(t, "blob", "gzip", 3, 100_000)
	damage := map[string]func(path string) error{
		"gone":      os.Remove,
		"empty":     func(path string) error { return os.Truncate(path, 0) },
		"cut short": func(path string) error { fi, _ := os.Stat(path); return os.Truncate(path, fi.Size()/2) },
		"longer":    func(path string) error { fi, _ := os.Stat(path); return os.Truncate(path, fi.Size()+10) },
		"bit":       func(path string) error { fi, _ := os.Stat(path); flip(t, path, fi.Size()/2, 3); return nil },
	}
	for what, f := range damage {
		t.Run(what, func(t *testing.T) {
			s := openStore(t)
			mustLoad(t, s, path)
			want, files := treeOf(t, s, "blob"), listing(t, s)
			info, err := s.Info(context.Background(), "blob", imgfs.OpenOptions{})
			if err != nil {
				t.Fatal(err)
			}
			victim := filepath.Join(s.Root(), "blobs/sha256", info.Layers[1].Digest.Encoded())
			if err := f(victim); err != nil {
				t.Fatal(err)
			}
			n := readable(t, s, "blob", want)
			if n < 1 && what != "longer" || n > 2 {
				t.Errorf("%d files failed, want those of one layer: 1 or 2", n)
			}
			// Loaded again, it is whole.
			mustLoad(t, s, path)
			diffTrees(t, "loaded again", treeOf(t, s, "blob"), want)
			sameListing(t, listing(t, s), files)
		})
	}
	t.Run("documents", func(t *testing.T) {
		s := openStore(t)
		mustLoad(t, s, path)
		info, err := s.Info(context.Background(), "blob", imgfs.OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		flip(t, filepath.Join(s.Root(), "blobs/sha256", info.ID.Encoded()), 3, 1)
		if _, err := s.Info(context.Background(), "blob", imgfs.OpenOptions{}); !isDamage(err) {
			t.Errorf("damaged config: %v", err)
		}
		treeOf(t, s, "blob")
		mustLoad(t, s, path)
		if _, err := s.Info(context.Background(), "blob", imgfs.OpenOptions{}); err != nil {
			t.Errorf("loaded again: %v", err)
		}
	})
}

func TestNoStore(t *testing.T) {
	s := openStore(t)
	if list, err := s.Images(context.Background()); err != nil || len(list) != 0 {
		t.Errorf("Images: got %v, %v", list, err)
	}
	if _, err := s.OpenImage(context.Background(), "alpine", nil, imgfs.OpenOptions{}); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("OpenImage: got %v, want ErrNotFound", err)
	}
	if _, err := s.Info(context.Background(), "alpine", imgfs.OpenOptions{}); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("Info: got %v, want ErrNotFound", err)
	}
	if _, err := os.Stat(s.Root()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("looking made the store: %v", err)
	}
	if _, err := s.Load(context.Background(), filepath.Join(t.TempDir(), "none.tar"), nil, imgfs.LoadOptions{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Load: got %v, want ErrNotExist", err)
	}
}

func TestFileInTheWay(t *testing.T) {
	path := textImage(t, "docker.io/library/x:latest", "gzip", "a")
	for _, way := range []string{"", "blobs", "blobs/sha256", "tmp", "index", "index/layer", "imgfs.db/x", "imgfs.lock/x", "leases"} {
		t.Run(way, func(t *testing.T) {
			s := openStore(t)
			obstacle := filepath.Join(s.Root(), way)
			if err := os.MkdirAll(filepath.Dir(obstacle), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(obstacle, []byte("in the way"), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := s.Load(context.Background(), path, nil, imgfs.LoadOptions{})
			if err == nil {
				t.Error("loaded")
			}
			t.Log(err)
			if b, _ := os.ReadFile(obstacle); string(b) != "in the way" {
				t.Errorf("the file was changed: %q", b)
			}
		})
	}
}

// TestHelperRead is no test: it reads a store as another user.
func TestHelperRead(t *testing.T) {
	root := os.Getenv("IMGFS_TEST_READ_ROOT")
	if root == "" {
		return // not that child
	}
	s, err := imgfs.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	list, err := s.Images(context.Background())
	if err != nil || len(list) != 1 {
		t.Fatalf("got %v, %v", list, err)
	}
	if tree := treeOf(t, s, "ro"); tree["a/b"].Size != 4 {
		t.Errorf("got %v", tree)
	}
	if _, err := s.Info(context.Background(), "ro", imgfs.OpenOptions{}); err != nil {
		t.Error(err)
	}
	_, err = s.Load(context.Background(), os.Getenv("IMGFS_TEST_LOAD_FILE"), nil, imgfs.LoadOptions{})
	if err == nil || !errors.Is(err, fs.ErrPermission) && !errors.Is(err, syscall.EROFS) {
		t.Errorf("load: %v, want a refusal", err)
	}
}

// A store that may be read only is read, by another user or on a disk that is
// mounted so; also when the lock file was lost on the way.
func TestReadOnlyStore(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	dir := smallDisk(t, 128<<20)
	s, err := imgfs.Open(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	path := textImage(t, "docker.io/library/ro:latest", "gzip", "a/ a/b=text")
	mustLoad(t, s, path)
	bin := filepath.Join(dir, "test")
	raw, err := os.ReadFile(os.Args[0])
	if err == nil {
		err = os.WriteFile(bin, raw, 0o755)
	}
	if err != nil {
		t.Skip(err)
	}
	child := func(uid uint32) {
		t.Helper()
		cmd := exec.Command(bin, "-test.run=^TestHelperRead$")
		cmd.Dir = "/"
		cmd.Env = append(os.Environ(), "IMGFS_TEST_READ_ROOT="+s.Root(), "IMGFS_TEST_LOAD_FILE="+path)
		if uid != 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("uid %d: %v\n%s", uid, err, out)
		}
	}
	for d := dir; d != "/"; d = filepath.Dir(d) {
		if fi, err := os.Stat(d); err == nil && fi.Mode()&5 != 5 {
			os.Chmod(d, fi.Mode()|5)
		}
	}
	filepath.WalkDir(s.Root(), func(p string, d fs.DirEntry, err error) error {
		if d.IsDir() {
			return os.Chmod(p, 0o755)
		}
		return os.Chmod(p, 0o644)
	})
	child(65534)
	os.Remove(filepath.Join(s.Root(), "imgfs.lock"))
	child(65534)
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	child(0)
}
