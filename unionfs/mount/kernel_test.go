// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/unionfs"
)

// getdents reads a directory with a buffer of size bytes: names and offsets.
func getdents(t *testing.T, fd, size int) (names []string, offs []int64) {
	t.Helper()
	buf := make([]byte, size)
	for {
		n, err := unix.Getdents(fd, buf)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			return names, offs
		}
		for b := buf[:n]; len(b) > 0; {
			reclen := int(b[16]) | int(b[17])<<8
			var off int64
			for i := range 8 {
				off |= int64(b[8+i]) << (8 * i)
			}
			name, _, _ := bytes.Cut(b[19:reclen], []byte{0})
			names, offs = append(names, string(name)), append(offs, off)
			b = b[reclen:]
		}
	}
}

func TestLargeDirectory(t *testing.T) {
	const files = 20000
	dir := mounted(t, newFS(t, wide(1, files)), Options{})
	for round := range 2 { // from the server, then from the kernel's cache
		fd, err := unix.Open(dir+"/dir0000", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		names, offs := getdents(t, fd, 1<<15)
		if len(names) != files+2 {
			t.Fatalf("round %d: %d names", round, len(names))
		}
		for i, name := range names[2:] {
			if name != fmt.Sprintf("file%05d", i) {
				t.Fatalf("round %d: name %d is %q", round, i, name)
			}
		}
		for range 50 { // seekdir(3)
			i := rand.IntN(len(offs) - 1)
			if _, err := unix.Seek(fd, offs[i], io.SeekStart); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 4096)
			n, err := unix.Getdents(fd, buf)
			if err != nil || n == 0 {
				t.Fatalf("round %d: behind %s: %d, %v", round, names[i], n, err)
			}
			if name, _, _ := bytes.Cut(buf[19:n], []byte{0}); string(name) != names[i+1] {
				t.Fatalf("round %d: behind %s comes %s", round, names[i], name)
			}
		}
	}
}

// Fields of getdents: the tree's inode numbers and types, also of "." and "..".
func TestDirentFields(t *testing.T) {
	items := everything()
	f := newFS(t, items)
	dir := mounted(t, f, Options{})
	for _, sub := range []string{"", "dir", "dir/sub"} {
		fd, err := unix.Open(filepath.Join(dir, sub), unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 1<<16)
		n, err := unix.Getdents(fd, buf)
		unix.Close(fd)
		if err != nil {
			t.Fatal(err)
		}
		for b := buf[:n]; len(b) > 0; {
			var ino uint64
			for i := range 8 {
				ino |= uint64(b[i]) << (8 * i)
			}
			reclen, typ := int(b[16])|int(b[17])<<8, b[18]
			name, _, _ := bytes.Cut(b[19:reclen], []byte{0})
			b = b[reclen:]
			var st unix.Stat_t
			path := filepath.Join(dir, sub) + "/" + string(name)
			if sub == "" && string(name) == ".." {
				path = dir // nothing is above a mount
			}
			if err := unix.Lstat(path, &st); err != nil {
				t.Fatal(err)
			}
			if st.Ino != ino || uint8(st.Mode>>12) != typ {
				t.Errorf("%q in %q: inode %d type %d, stat says %d and %d", name, sub, ino, typ, st.Ino, st.Mode>>12)
			}
		}
	}
}

func TestPart(t *testing.T) {
	f := newFS(t, everything())
	sub, err := f.Sub("dir")
	if err != nil {
		t.Fatal(err)
	}
	dir := mounted(t, sub, Options{})
	ino := func(path string) uint64 {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, path), &st); err != nil {
			t.Fatal(err)
		}
		return st.Ino
	}
	if a, b, c := ino(""), ino("sub"), ino("sub/deep"); a != 2 || b != 4 || c != 5 {
		t.Errorf("inodes %d, %d, %d; the tree's are 2, 4, 5", a, b, c)
	}
	if got := ino("sub/.."); got != 2 {
		t.Errorf("sub/.. is %d", got)
	}
	names, err := os.ReadDir(dir)
	if err != nil || len(names) != 3 {
		t.Errorf("%v, %v", names, err)
	}
	if b, err := os.ReadFile(dir + "/sub/deep"); string(b) != "deep" {
		t.Errorf("%q, %v", b, err)
	}
}

// Symlinks, special files and xattrs can be left out, in every view alike.
func TestHidden(t *testing.T) {
	f := newFS(t, everything())
	links := []string{"link"}
	specials := []string{"null", "zero00", "disk", "pipe", "sock"}
	for _, tt := range []struct {
		name string
		opt  Options
		gone []string
	}{
		{"none", Options{}, nil},
		{"symlinks", Options{NoSymlinks: true}, links},
		{"specials", Options{NoSpecials: true}, specials},
		{"both", Options{NoSymlinks: true, NoSpecials: true, NoXattrs: true}, append(links, specials...)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := mounted(t, f, tt.opt)
			entries, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, e := range entries {
				names = append(names, e.Name())
			}
			for _, name := range append(links, specials...) {
				_, err := os.Lstat(filepath.Join(dir, name))
				listed, gone := slices.Contains(names, name), slices.Contains(tt.gone, name)
				if listed == gone || os.IsNotExist(err) != gone {
					t.Errorf("%s: listed %v, lookup %v", name, listed, err)
				}
			}
			n, err := unix.Llistxattr(filepath.Join(dir, "capable"), make([]byte, 1000))
			if tt.opt.NoXattrs != (n == 0) || err != nil {
				t.Errorf("%d bytes of xattr names, %v", n, err)
			}
		})
	}
}

func TestShownOwners(t *testing.T) {
	uid, gid := uint32(os.Getuid()), uint32(os.Getgid())
	dir := mounted(t, newFS(t, everything()), Options{UID: &uid, GID: &gid})
	err := filepath.Walk(dir, func(path string, _ os.FileInfo, err error) error {
		var st unix.Stat_t
		if e := unix.Lstat(path, &st); e != nil || st.Uid != uid || st.Gid != gid {
			t.Errorf("%s: %d:%d, %v", path, st.Uid, st.Gid, e)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestProvenance(t *testing.T) {
	dir := mounted(t, newFS(t, everything()), Options{Provenance: true})
	buf := make([]byte, 256)
	for name, want := range map[string]string{
		XattrLayer: "1", XattrDiffID: fmt.Sprintf("sha256:%064d", 1), XattrCreatedBy: "RUN step 1",
	} {
		for _, path := range []string{"dir", "dir/file"} {
			n, err := unix.Getxattr(filepath.Join(dir, path), name, buf)
			if err != nil || string(buf[:n]) != want {
				t.Errorf("%s of %s: %q, %v; want %q", name, path, buf[:max(n, 0)], err, want)
			}
			if n, err := unix.Getxattr(filepath.Join(dir, path), name, nil); err != nil || n != len(want) {
				t.Errorf("length of %s: %d, %v", name, n, err)
			}
			if _, err := unix.Getxattr(filepath.Join(dir, path), name, buf[:1]); len(want) > 1 && err != unix.ERANGE {
				t.Errorf("%s in one byte: %v", name, err)
			}
		}
	}
	if n, err := unix.Listxattr(dir+"/dir/file", buf); n != 0 || err != nil {
		t.Errorf("listed: %q, %v", buf[:max(n, 0)], err)
	}
	if err := unix.Setxattr(dir+"/dir/file", XattrLayer, []byte("0"), 0); err != unix.EROFS {
		t.Errorf("set: %v", err)
	}
}

func TestXattrsThroughKernel(t *testing.T) {
	dir := mounted(t, newFS(t, everything()), Options{})
	buf := make([]byte, 256)
	n, err := unix.Getxattr(dir+"/capable", "user.word", buf)
	if err != nil || string(buf[:n]) != "value" {
		t.Errorf("%q, %v", buf[:max(n, 0)], err)
	}
	if n, err := unix.Getxattr(dir+"/capable", "user.empty", buf); n != 0 || err != nil {
		t.Errorf("empty: %d, %v", n, err)
	}
	if _, err := unix.Getxattr(dir+"/suid", "user.word", buf); err != unix.ENODATA {
		t.Errorf("absent: %v", err)
	}
	n, err = unix.Listxattr(dir+"/capable", buf)
	if err != nil || !strings.Contains(string(buf[:n]), "security.capability\x00user.empty\x00user.word\x00") {
		t.Errorf("%q, %v", buf[:max(n, 0)], err)
	}
}

func TestSparse(t *testing.T) {
	dir := mounted(t, newFS(t, everything()), Options{})
	f, err := os.Open(dir + "/sparse")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, tt := range []struct {
		off    int64
		whence int
		want   int64
		err    error
	}{
		{0, seekData, 1 << 20, nil},
		{1<<20 + 7, seekData, 1<<20 + 7, nil},
		{0, seekHole, 0, nil},
		{1 << 20, seekHole, 1<<20 + 4096, nil},
		{1<<20 + 4096, seekData, 5 << 20, nil},
		{6 << 20, seekData, 0, unix.ENXIO},
		{6 << 20, seekHole, 6 << 20, nil},
		{10 << 20, seekHole, 0, unix.ENXIO},
	} {
		got, err := unix.Seek(int(f.Fd()), tt.off, tt.whence)
		if err != tt.err || err == nil && got != tt.want {
			t.Errorf("seek %d, %d: %d, %v; want %d, %v", tt.off, tt.whence, got, err, tt.want, tt.err)
		}
	}
	b, err := os.ReadFile(dir + "/sparse")
	want := make([]byte, 10<<20)
	copy(want[1<<20:], strings.Repeat("x", 4096))
	copy(want[5<<20:], strings.Repeat("x", 4096))
	if err != nil || !bytes.Equal(b, want) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	var st unix.Stat_t
	for name, blocks := range map[string]int64{"sparse": 16, "hole": 0} {
		if err := unix.Lstat(dir+"/"+name, &st); err != nil || st.Blocks != blocks {
			t.Errorf("%s has %d blocks, %v", name, st.Blocks, err)
		}
	}
}

func TestStatfs(t *testing.T) {
	dir := mounted(t, newFS(t, everything()), Options{})
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	if st.Bfree != 0 || st.Ffree != 0 || st.Namelen != 255 || st.Files != 18 || st.Blocks*uint64(st.Bsize) < 11<<20 {
		t.Errorf("%+v", st)
	}
	if st.Flags&unix.ST_RDONLY == 0 || st.Flags&unix.ST_NOSUID == 0 || st.Flags&unix.ST_NODEV == 0 {
		t.Errorf("flags %#x", st.Flags)
	}
}

func TestReadOnly(t *testing.T) {
	dir := mounted(t, newFS(t, everything()), Options{})
	for what, err := range map[string]error{
		"open for writing": func() error { _, err := unix.Open(dir+"/empty", unix.O_WRONLY, 0); return err }(),
		"create":           func() error { _, err := unix.Open(dir+"/new", unix.O_CREAT|unix.O_WRONLY, 0o600); return err }(),
		"mkdir":            unix.Mkdir(dir+"/new", 0o700),
		"unlink":           unix.Unlink(dir + "/empty"),
		"rename":           unix.Rename(dir+"/empty", dir+"/new"),
		"chmod":            unix.Chmod(dir+"/empty", 0),
		"truncate":         unix.Truncate(dir+"/empty", 7),
		"link":             unix.Link(dir+"/empty", dir+"/new"),
	} {
		if err != unix.EROFS {
			t.Errorf("%s: %v", what, err)
		}
	}
	f, err := os.Open(dir + "/suid")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS); err != unix.ENOTTY {
		t.Errorf("ioctl: %v", err)
	}
	if err := unix.Fsync(int(f.Fd())); err != nil {
		t.Errorf("fsync: %v", err)
	}
	// MAP_POPULATE: a fault is no system call, so a goroutine that waits in one
	// for its own process can stop the world.
	b, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil || string(b[:16]) != "0123456789abcdef" {
		t.Errorf("mmap: %v", err)
	} else {
		unix.Munmap(b)
	}
}

func TestParallelReaders(t *testing.T) {
	items := []item{{path: "", mode: index.ModeDir | 0o755}}
	want := map[string][32]byte{}
	for i := range 8 {
		data := make([]byte, 3<<20+i)
		for j := range data {
			data[j] = byte(j * (i + 7) >> 3)
		}
		name := fmt.Sprint("file", i)
		want[name] = sha256.Sum256(data)
		items = append(items, item{path: name, mode: index.ModeRegular | 0o644, data: string(data), layer: i % 3})
	}
	dir := mounted(t, newFS(t, items), Options{})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 8 {
				name := fmt.Sprint("file", (i+j)%8)
				b, err := os.ReadFile(filepath.Join(dir, name))
				if err != nil || sha256.Sum256(b) != want[name] {
					t.Errorf("%s: %d bytes, %v", name, len(b), err)
				}
			}
		})
	}
	wg.Wait()
}

// What tar(1) packs is what the tree holds.
func TestTar(t *testing.T) {
	items := everything()
	dir := mounted(t, newFS(t, items), Options{})
	cmd := exec.Command("tar", "cf", "-", "--format=posix", "-C", dir, ".")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil || strings.Trim(errs.String(), "\n") != "tar: ./sock: socket ignored" {
		t.Fatalf("%v\n%s", err, errs.String())
	}
	byPath := map[string]item{}
	for _, it := range items {
		byPath[it.path] = it
	}
	n := 0
	for r := tar.NewReader(bytes.NewReader(out)); ; n++ {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		it, ok := byPath[strings.Trim(strings.TrimPrefix(h.Name, "."), "/")]
		if it.link != "" || h.Typeflag == tar.TypeLink {
			continue
		}
		if !ok || uint32(h.Mode) != it.mode&0o7777 || h.ModTime.Unix() != it.mtime || h.Linkname != it.target {
			t.Errorf("%q: %+v", h.Name, h)
		}
		if b, _ := io.ReadAll(r); it.extents == nil && string(b) != it.data {
			t.Errorf("%q: %d bytes", h.Name, len(b))
		}
	}
	if n != len(items)-1 { // all but the socket
		t.Errorf("%d entries of %d", n, len(items))
	}
}

// openFS opens a table that a test has damaged.
func openFS(t *testing.T, path string, open func(int) (io.ReaderAt, error)) *unionfs.FS {
	t.Helper()
	tree, err := index.Open[index.NodeID](path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tree.Close() })
	return unionfs.NewFS(tree, make([]unionfs.Source, 1), open)
}

func isEIO(err error) bool { return errors.Is(err, unix.EIO) }

// A bit flipped in the table is EIO for what lies there; the rest still reads.
func TestDamagedTable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tree")
	layers := writeTree(t, path, wide(1000, 50))
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := 0 // in the middle of the directories, away from page headers
	for range 500 {
		at += 1 + bytes.Index(b[at+1:], []byte("file00049"))
	}
	b[at] ^= 0x10
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	f := openFS(t, path, func(i int) (io.ReaderAt, error) { return bytes.NewReader(layers[i]), nil })
	var log logbook
	dir := mounted(t, f, Options{Log: log.logf})
	good, bad := 0, 0
	for d := range 1000 {
		names, err := os.ReadDir(fmt.Sprintf("%s/dir%04d", dir, d))
		switch {
		case err == nil && len(names) == 50:
			good++
		case isEIO(err):
			bad++
		default:
			t.Errorf("dir %d: %d names, %v", d, len(names), err)
		}
	}
	if good == 0 || bad == 0 {
		t.Errorf("%d directories read, %d did not", good, bad)
	}
	if log.text() == "" {
		t.Error("nothing was logged")
	}
	if b, err := os.ReadFile(dir + "/dir0000/file00000"); err != nil && !isEIO(err) || err == nil && string(b) != "some bytes\n" {
		t.Errorf("%q, %v", b, err)
	}
}

// A table that is cut short while it is mapped faults: EIO, and the server
// lives.
func TestTruncatedTable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tree")
	layers := writeTree(t, path, wide(200, 50))
	f := openFS(t, path, func(i int) (io.ReaderAt, error) { return bytes.NewReader(layers[i]), nil })
	var log logbook
	dir := mounted(t, f, Options{Log: log.logf})
	if _, err := os.Lstat(dir + "/dir0000"); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 4096); err != nil {
		t.Fatal(err)
	}
	bad := 0
	for d := range 200 {
		if _, err := os.ReadDir(fmt.Sprintf("%s/dir%04d", dir, d)); isEIO(err) {
			bad++
		}
	}
	if bad < 100 {
		t.Errorf("only %d directories are EIO", bad)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Errorf("the server is dead: %v", err)
	}
	if n := strings.Count(log.text(), "\n"); n > 10 {
		t.Errorf("a flood:\n%s", log.text())
	}
}

// brokenLayer fails behind off.
type brokenLayer struct {
	r   io.ReaderAt
	off int64
}

func (b brokenLayer) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > b.off {
		return 0, fmt.Errorf("layer 0: chunk 3: %w", os.ErrNotExist)
	}
	return b.r.ReadAt(p, off)
}

// A layer that fails is EIO, whatever its error was, and everything else
// reads.
func TestDamagedLayer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tree")
	layers := writeTree(t, path, wide(1, 100))
	f := openFS(t, path, func(i int) (io.ReaderAt, error) {
		return brokenLayer{bytes.NewReader(layers[i]), 50 * 11}, nil
	})
	var log logbook
	dir := mounted(t, f, Options{Log: log.logf})
	for i := range 100 {
		b, err := os.ReadFile(fmt.Sprintf("%s/dir0000/file%05d", dir, i))
		if i < 50 && (err != nil || string(b) != "some bytes\n") || i >= 50 && !isEIO(err) {
			t.Errorf("file %d: %q, %v", i, b, err)
		}
	}
	if got := log.text(); !strings.Contains(got, "layer 0: chunk 3: file does not exist") || strings.Contains(got, "\n") {
		t.Errorf("logged: %s", got)
	}
}

// Reading ahead into damage spoils only what is damaged.
func TestReadAheadIntoDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tree")
	layers := writeTree(t, path, []item{{path: "", mode: index.ModeDir | 0o755}, {path: "f", mode: index.ModeRegular | 0o644, data: strings.Repeat("abcdefg\n", 1<<17)}})
	const good = 300 << 10
	f := openFS(t, path, func(i int) (io.ReaderAt, error) {
		return brokenLayer{bytes.NewReader(layers[i]), good}, nil
	})
	dir := mounted(t, f, Options{Log: func(string, ...any) {}})
	b, err := os.ReadFile(dir + "/f")
	if !isEIO(err) || !bytes.Equal(b, layers[0][:good]) {
		t.Errorf("%d bytes, %v; want %d and EIO", len(b), err, good)
	}
}
