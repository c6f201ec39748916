// SPDX-License-Identifier: Apache-2.0

package imgfs_test

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
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
)

// needTools skips without the judges, or fails where nothing may be skipped.
func needTools(t testing.TB, tools ...string) {
	t.Helper()
	why := ""
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			why = err.Error()
		}
	}
	if os.Geteuid() != 0 {
		why = "only root can unpack owners and devices"
	}
	if why == "" {
		return
	}
	if os.Getenv("IMGFS_TEST_NOSKIP") == "1" && os.Geteuid() == 0 {
		t.Fatal(why)
	}
	t.Skip(why)
}

func run(t testing.TB, args ...string) {
	t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%q: %v\n%s", args, err, out)
	}
}

// judgeLayers are layers with one of everything, on which umoci is right.
func judgeLayers(t testing.TB) [][]byte {
	at := func(h tar.Header) *tar.Header {
		if h.ModTime.IsZero() {
			h.ModTime = time.Unix(1_500_000_000, 0)
		}
		h.Format = tar.FormatPAX
		return &h
	}
	xattr := func(name, value string) map[string]string { return map[string]string{"SCHILY.xattr." + name: value} }
	caps := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

	a := newTar(t)
	a.add(at(tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755}), nil)
	for _, d := range []string{"bin/", "etc/", "etc/conf.d/", "var/", "var/cache/", "var/keep/", "dev/", "opq/", "opq/old/"} {
		a.add(at(tar.Header{Name: d, Typeflag: tar.TypeDir, Mode: 0o755}), nil)
	}
	a.add(at(tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}), nil)
	a.add(at(tar.Header{Name: "mail/", Typeflag: tar.TypeDir, Mode: 0o2775, Gid: 8}), nil)
	a.add(at(tar.Header{Name: "bin/su", Typeflag: tar.TypeReg, Mode: 0o4755}), []byte("su"))
	a.add(at(tar.Header{Name: "bin/wall", Typeflag: tar.TypeReg, Mode: 0o2755, Gid: 5}), []byte("wall"))
	a.add(at(tar.Header{Name: "bin/ping", Typeflag: tar.TypeReg, Mode: 0o755, PAXRecords: xattr("security.capability", caps)}), []byte("ping"))
	a.add(at(tar.Header{Name: "etc/user", Typeflag: tar.TypeReg, Mode: 0o600, Uid: 1000, Gid: 100_000, PAXRecords: xattr("user.note", "a\x00b")}), []byte("user"))
	a.add(at(tar.Header{Name: "etc/hard", Typeflag: tar.TypeLink, Linkname: "etc/user"}), nil)
	a.add(at(tar.Header{Name: "hard2", Typeflag: tar.TypeLink, Linkname: "etc/user"}), nil)
	a.add(at(tar.Header{Name: "etc/link", Typeflag: tar.TypeSymlink, Linkname: "../bin/su", Mode: 0o777}), nil)
	a.add(at(tar.Header{Name: "etc/dangling", Typeflag: tar.TypeSymlink, Linkname: "/no/where", Mode: 0o777}), nil)
	a.add(at(tar.Header{Name: "dev/null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3}), nil)
	a.add(at(tar.Header{Name: "dev/sda", Typeflag: tar.TypeBlock, Mode: 0o660, Gid: 6, Devmajor: 8, Devminor: 300}), nil)
	a.add(at(tar.Header{Name: "dev/fifo", Typeflag: tar.TypeFifo, Mode: 0o640}), nil)
	a.add(at(tar.Header{Name: "old", Typeflag: tar.TypeReg, Mode: 0o644, ModTime: time.Unix(-1000, 0)}), []byte("before 1970"))
	a.add(at(tar.Header{Name: "nano", Typeflag: tar.TypeReg, Mode: 0o644, ModTime: time.Unix(1_600_000_000, 123_456_789)}), []byte("nano"))
	a.add(at(tar.Header{Name: "var/" + strings.Repeat("n", 255), Typeflag: tar.TypeReg, Mode: 0o644}), []byte("long"))
	a.add(at(tar.Header{Name: "odd \n\x1b[31m\"name\\", Typeflag: tar.TypeReg, Mode: 0o644}), []byte("odd"))
	a.add(at(tar.Header{Name: "empty", Typeflag: tar.TypeReg, Mode: 0o444}), nil)
	for _, f := range []string{"var/cache/a", "var/cache/b", "var/keep/a", "opq/a", "opq/old/b", "gone", "typechange"} {
		a.add(at(tar.Header{Name: f, Typeflag: tar.TypeReg, Mode: 0o644}), []byte("of "+f))
	}
	big := make([]byte, 3<<20)
	for i := range big {
		big[i] = byte(i * i >> 8)
	}
	a.add(at(tar.Header{Name: "big", Typeflag: tar.TypeReg, Mode: 0o644}), big)

	b := newTar(t)
	b.add(at(tar.Header{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o750, Gid: 4}), nil)
	b.add(at(tar.Header{Name: "etc/user", Typeflag: tar.TypeReg, Mode: 0o640}), []byte("replaced, its links keep the old"))
	b.add(at(tar.Header{Name: ".wh.gone", Typeflag: tar.TypeReg}), nil)
	b.add(at(tar.Header{Name: "var/cache/", Typeflag: tar.TypeDir, Mode: 0o755}), nil)
	b.add(at(tar.Header{Name: "var/cache/.wh.a", Typeflag: tar.TypeReg}), nil)
	b.add(at(tar.Header{Name: "opq/", Typeflag: tar.TypeDir, Mode: 0o700}), nil)
	b.add(at(tar.Header{Name: "opq/.wh..wh..opq", Typeflag: tar.TypeReg}), nil)
	b.add(at(tar.Header{Name: "opq/new", Typeflag: tar.TypeReg, Mode: 0o644}), []byte("new"))
	b.add(at(tar.Header{Name: "typechange/", Typeflag: tar.TypeDir, Mode: 0o755}), nil)
	b.add(at(tar.Header{Name: "typechange/now", Typeflag: tar.TypeReg, Mode: 0o644}), []byte("a directory"))

	c := newTar(t)
	c.add(at(tar.Header{Name: "opq/", Typeflag: tar.TypeDir, Mode: 0o711}), nil)
	c.add(at(tar.Header{Name: "opq/a", Typeflag: tar.TypeReg, Mode: 0o644}), []byte("a again"))
	c.add(at(tar.Header{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o755}), nil)
	c.add(at(tar.Header{Name: "bin/su", Typeflag: tar.TypeReg, Mode: 0o755}), []byte("no longer setuid"))
	return [][]byte{a.bytes(), b.bytes(), c.bytes()}
}

// diskTree reads a directory as readTree reads a tree. What the host adds by
// itself (SELinux labels) is left out; directories are compared without link
// counts, which an unpacked one has of the disk.
func diskTree(t testing.TB, root string) map[string]treeFile {
	t.Helper()
	files := make(map[string]treeFile)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		var st syscall.Stat_t
		if err := syscall.Lstat(path, &st); err != nil {
			return err
		}
		f := treeFile{
			Mode: st.Mode, Nlink: uint32(st.Nlink), UID: st.Uid, GID: st.Gid, Size: st.Size,
			Mtime: st.Mtim.Sec, Nsec: uint32(st.Mtim.Nsec), Rdev: uint32(st.Rdev), Ino: uint32(st.Ino),
			Xattrs: diskXattrs(t, path),
		}
		switch st.Mode & syscall.S_IFMT {
		case syscall.S_IFLNK:
			if f.Target, err = os.Readlink(path); err != nil {
				return err
			}
		case syscall.S_IFREG:
			r, err := os.Open(path)
			if err != nil {
				return err
			}
			h := sha256.New()
			_, err = io.Copy(h, r)
			r.Close()
			if err != nil {
				return err
			}
			f.Content = fmt.Sprintf("%x", h.Sum(nil))
		}
		files[rel] = f
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func diskXattrs(t testing.TB, path string) string {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if err != nil || n == 0 {
		return ""
	}
	names := strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00")
	slices.Sort(names)
	s := ""
	for _, name := range names {
		if name == "security.selinux" {
			continue
		}
		v := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, name, v)
		if err != nil {
			t.Errorf("%s: %s: %v", path, name, err)
			continue
		}
		s += fmt.Sprintf("%s=%q ", name, v[:n])
	}
	return s
}

// comparable takes out what a disk and a tree number in their own ways, and
// puts in which names are one inode.
func comparable(files map[string]treeFile) map[string]treeFile {
	first := make(map[uint32]uint32) // inode to rank of its first name
	var names []string
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	out := make(map[string]treeFile)
	for i, name := range names {
		f := files[name]
		if _, ok := first[f.Ino]; !ok {
			first[f.Ino] = uint32(i)
		}
		f.Ino = first[f.Ino]
		if f.Mode&syscall.S_IFMT == syscall.S_IFDIR {
			f.Size, f.Nlink = 0, 0
		}
		out[name] = f
	}
	return out
}

// judged compares an image of the store with what umoci unpacks of it.
func judged(t *testing.T, layout, tag string, got map[string]treeFile) {
	t.Helper()
	bundle := filepath.Join(t.TempDir(), "bundle")
	run(t, "umoci", "unpack", "--image", layout+":"+tag, bundle)
	diffTrees(t, "against umoci", comparable(got), comparable(diskTree(t, filepath.Join(bundle, "rootfs"))))
}

func TestAgainstUmoci(t *testing.T) {
	unraced(t)
	needTools(t, "umoci", "skopeo")
	images := map[string]string{}
	b := newOCI(t)
	var layers []packedLayer
	for i, raw := range judgeLayers(t) {
		layers = append(layers, packed(t, raw, []string{"gzip", "", "gzip"}[i]))
	}
	images["made"] = b.write(named(b.image("linux/amd64", layers, nil), "docker.io/library/made:latest"))
	if dir, err := filepath.Abs("../shared/images"); err == nil {
		path := filepath.Join(dir, "alpine-310.tar.gz")
		if _, err := os.Stat(path); err == nil {
			images["alpine"] = filepath.Join(t.TempDir(), "alpine.tar")
			run(t, "sh", "-c", `gzip -dc "$1" > "$2"`, "sh", path, images["alpine"])
		}
	}
	for name, path := range images {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			layout := filepath.Join(dir, "oci")
			from := "oci-archive:" + path
			if name == "alpine" {
				from = "docker-archive:" + path
			}
			run(t, "skopeo", "--insecure-policy", "copy", "-q", from, "oci:"+layout+":judged")
			s := openStore(t)
			mustLoad(t, s, path)
			list, err := s.Images(context.Background())
			if err != nil || len(list) != 1 {
				t.Fatalf("got %v, %v", list, err)
			}
			want := treeOf(t, s, list[0].ID.Encoded())
			judged(t, layout, "judged", want)

			// The same tree in every form that skopeo writes.
			shapes := []struct{ name, to, opt string }{
				{"oci", "oci:" + dir + "/again:x", ""},
				{"oci gzip", "oci:" + dir + "/gzip:x", "--dest-compress-format=gzip"},
				{"oci zstd", "oci:" + dir + "/zstd:x", "--dest-compress-format=zstd"},
				{"oci-archive", "oci-archive:" + dir + "/oci.tar:some/name:tag", ""},
				{"docker-archive", "docker-archive:" + dir + "/docker.tar:some/name:tag", ""},
				{"dir converted", "oci:" + dir + "/decompressed:x", "--dest-decompress"},
			}
			for _, shape := range shapes {
				args := []string{"skopeo", "--insecure-policy", "copy", "-q"}
				if shape.opt != "" {
					args = append(args, shape.opt)
					if strings.Contains(shape.opt, "format") {
						args = append(args, "--dest-compress")
					}
				}
				out, err := exec.Command(args[0], append(args[1:], "oci:"+layout+":judged", shape.to)...).CombinedOutput()
				if err != nil {
					t.Logf("%s: skopeo does not: %s", shape.name, out)
					continue
				}
				file := strings.Split(shape.to, ":")[1]
				s := openStore(t)
				loaded := mustLoad(t, s, file)
				diffTrees(t, shape.name, treeOf(t, s, string(loaded[0].ID)), want)
				diffTrees(t, shape.name+" in place", treeOf(t, s, file), want)
			}
		})
	}
}

// What Load keeps can be copied on: blobs are bit for bit as they came.
func TestBlobsAsShipped(t *testing.T) {
	b := newOCI(t)
	d := b.image("linux/amd64", textLayers(t, "gzip", "a/ a/b=text || c=d"), nil)
	path := b.write(named(d, "docker.io/library/bits:latest"))
	s := openStore(t)
	mustLoad(t, s, path)
	for name, raw := range b.blobs {
		if !strings.HasPrefix(name, "blobs/") {
			continue
		}
		got, err := os.ReadFile(filepath.Join(s.Root(), name))
		if err != nil || string(got) != string(raw) {
			t.Errorf("%s: %v, not the bytes of the archive", name, err)
		}
	}
	info, err := s.Info(context.Background(), "bits", imgfs.OpenOptions{})
	if err != nil || info.Digest != d.Digest {
		t.Errorf("got %v, %v, want digest %s", info, err, d.Digest)
	}
}
