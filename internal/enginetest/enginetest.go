// SPDX-License-Identifier: Apache-2.0

// Package enginetest makes the stores of other engines for tests. It shares no
// code with what reads them. Docker's is written to the form of its documented
// layout; the others are made by the engines themselves.
package enginetest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// Marks say how a layer says that something is gone.
type Marks struct{ Whiteout, Opaque string }

// An Image is one that is put into a store: its config, and its layers
// uncompressed.
type Image struct {
	Names  []string // canonical, with a tag
	Config []byte
	Layers [][]byte
}

// A Container is one that is put into docker's store. Change is called with the
// directory of what it has changed.
type Container struct {
	ID, Name, Image string
	Change          func(dir string)
}

func sum(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }

// Docker writes images and containers as docker's overlay2 driver keeps them.
// It needs root.
func Docker(t testing.TB, root string, marks Marks, images []Image, containers []Container) {
	t.Helper()
	repos := map[string]map[string]string{}
	top := map[string]string{} // chain of the last layer by name
	ids := map[string]string{}
	for _, m := range images {
		id := "sha256:" + sum(m.Config)
		write(t, root, "image/overlay2/imagedb/content/sha256/"+id[7:], m.Config)
		chain := dockerLayers(t, root, marks, m.Layers)
		for _, name := range m.Names {
			repo := strings.TrimPrefix(strings.TrimPrefix(name[:strings.LastIndex(name, ":")], "docker.io/library/"), "docker.io/")
			if repos[repo] == nil {
				repos[repo] = map[string]string{}
			}
			repos[repo][repo+name[strings.LastIndex(name, ":"):]] = id
			top[name], ids[name] = chain, id
		}
	}
	write(t, root, "image/overlay2/repositories.json", asJSON(t, map[string]any{"Repositories": repos}))
	for _, c := range containers {
		dockerContainer(t, root, &c, ids[c.Image], top[c.Image])
	}
}

// FromArchive returns the image of a docker-archive whose layers are not
// compressed.
func FromArchive(t testing.TB, archive string) Image {
	t.Helper()
	files := map[string][]byte{}
	for tr := tar.NewReader(strings.NewReader(archive)); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err == nil {
			files[h.Name], err = io.ReadAll(tr)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var items []struct {
		Config           string
		RepoTags, Layers []string
	}
	if err := json.Unmarshal(files["manifest.json"], &items); err != nil || len(items) != 1 {
		t.Fatalf("manifest.json: %d images, %v", len(items), err)
	}
	m := Image{Config: files[items[0].Config]}
	for _, name := range items[0].RepoTags {
		m.Names = append(m.Names, "docker.io/"+name)
	}
	for _, name := range items[0].Layers {
		m.Layers = append(m.Layers, files[name])
	}
	return m
}

// dockerLayers writes layers and returns the chainID of the last.
func dockerLayers(t testing.TB, root string, marks Marks, layers [][]byte) (chain string) {
	for _, raw := range layers {
		diffID := "sha256:" + sum(raw)
		parent := chain
		if chain = diffID; parent != "" {
			chain = "sha256:" + sum([]byte(parent+" "+diffID))
		}
		db := "image/overlay2/layerdb/sha256/" + chain[7:]
		cache := sum([]byte("cache" + chain))
		if _, err := os.Stat(filepath.Join(root, db)); err == nil {
			continue
		}
		write(t, root, db+"/cache-id", []byte(cache))
		write(t, root, db+"/diff", []byte(diffID))
		write(t, root, db+"/size", fmt.Appendf(nil, "%d", len(raw)))
		if parent != "" {
			write(t, root, db+"/parent", []byte(parent))
		}
		write(t, root, db+"/tar-split.json.gz", Split(t, raw))
		Unpack(t, filepath.Join(root, "overlay2", cache, "diff"), raw, marks)
	}
	return chain
}

func dockerContainer(t testing.TB, root string, c *Container, image, chain string) {
	config := map[string]any{
		"ID": c.ID, "Name": "/" + c.Name, "Image": image, "Driver": "overlay2",
		"Created": time.Unix(1700000000, 0).UTC(), "Config": map[string]any{"Image": c.Image},
	}
	write(t, root, "containers/"+c.ID+"/config.v2.json", asJSON(t, config))
	mount := "image/overlay2/layerdb/mounts/" + c.ID
	id := sum([]byte("mount" + c.ID))
	write(t, root, mount+"/mount-id", []byte(id))
	write(t, root, mount+"/init-id", []byte(id+"-init"))
	write(t, root, mount+"/parent", []byte(chain))
	write(t, root, "overlay2/"+id+"-init/diff/.dockerenv", nil)
	write(t, root, "overlay2/"+id+"-init/diff/etc/hostname", nil)
	dir := filepath.Join(root, "overlay2", id, "diff")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if c.Change != nil {
		c.Change(dir)
	}
}

func asJSON(t testing.TB, v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func write(t testing.TB, root, name string, content []byte) {
	t.Helper()
	path := filepath.Join(root, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, 0o644)); err != nil {
		t.Fatal(err)
	}
}

// countingReader tells how far a tar was read: archive/tar reads no further
// than it must.
type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// Split takes a tar apart as tar-split does.
func Split(t testing.TB, raw []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	enc := json.NewEncoder(z)
	position := 0
	add := func(e map[string]any) {
		e["position"] = position
		position++
		if err := enc.Encode(e); err != nil {
			t.Fatal(err)
		}
	}
	in := &countingReader{r: bytes.NewReader(raw)}
	tr := tar.NewReader(in)
	told := int64(0)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, size, packed := in.n, int64(0), int64(0)
		if h.Typeflag == tar.TypeReg || h.Typeflag == tar.TypeGNUSparse {
			size, packed = h.Size, h.Size
		}
		if h.PAXRecords["GNU.sparse.major"] == "1" {
			// The map, which begins the content, is lost; the size is that with holes.
			for data = told + -told&511; raw[data+156] == tar.TypeXHeader; data += 512 + blocks(t, raw[data:]) {
			}
			packed = octal(t, raw[data:])
			data += 512
		}
		add(segment{2, raw[told:data]}.json())
		told = data
		file := map[string]any{"type": 1, "size": size, "payload": "AAAAAAAAAAA="}
		if utf8.ValidString(h.Name) {
			file["name"] = h.Name
		} else {
			file["name_raw"] = []byte(h.Name)
		}
		add(file)
		told += packed
	}
	add(segment{2, raw[told:]}.json())
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// octal returns the size that a header says, blocks what that takes.
func octal(t testing.TB, header []byte) (n int64) {
	if _, err := fmt.Sscanf(string(header[124:135]), "%o", &n); err != nil {
		t.Fatal(err)
	}
	return n
}

func blocks(t testing.TB, header []byte) int64 { return (octal(t, header) + 511) &^ 511 }

type segment struct {
	typ     int
	payload []byte
}

func (s segment) json() map[string]any { return map[string]any{"type": s.typ, "payload": s.payload} }

// Unpack writes the files of a layer as overlayfs has them. It needs root.
func Unpack(t testing.TB, dir string, raw []byte, marks Marks) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	var dirs []*tar.Header
	for tr := tar.NewReader(bytes.NewReader(raw)); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, filepath.Clean("/"+h.Name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), unpackOne(dir, path, h, tr, marks)); err != nil {
			t.Fatalf("%s: %v", h.Name, err)
		}
		if h.Typeflag == tar.TypeDir {
			dirs = append(dirs, h)
		}
	}
	for i := len(dirs) - 1; i >= 0; i-- {
		path := filepath.Join(dir, filepath.Clean("/"+dirs[i].Name))
		if err := os.Chtimes(path, dirs[i].ModTime, dirs[i].ModTime); err != nil {
			t.Fatal(err)
		}
	}
}

func unpackOne(dir, path string, h *tar.Header, content io.Reader, marks Marks) error {
	base := filepath.Base(path)
	switch {
	case base == marks.Opaque:
		return unix.Lsetxattr(filepath.Dir(path), "trusted.overlay.opaque", []byte("y"), 0)
	case strings.HasPrefix(base, marks.Whiteout):
		return unix.Mknod(filepath.Join(filepath.Dir(path), strings.TrimPrefix(base, marks.Whiteout)), unix.S_IFCHR, 0)
	}
	if fi, err := os.Lstat(path); err == nil && (!fi.IsDir() || h.Typeflag != tar.TypeDir) {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	mode := uint32(h.Mode & 0o7777)
	var err error
	switch h.Typeflag {
	case tar.TypeDir:
		err = os.MkdirAll(path, 0o755)
	case tar.TypeLink:
		return os.Link(filepath.Join(dir, filepath.Clean("/"+h.Linkname)), path)
	case tar.TypeSymlink:
		return errors.Join(os.Symlink(h.Linkname, path), os.Lchown(path, h.Uid, h.Gid))
	case tar.TypeChar:
		err = unix.Mknod(path, unix.S_IFCHR|mode, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
	case tar.TypeBlock:
		err = unix.Mknod(path, unix.S_IFBLK|mode, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
	case tar.TypeFifo:
		err = unix.Mkfifo(path, mode)
	default:
		var f *os.File
		if f, err = os.Create(path); err == nil {
			_, err = io.Copy(f, content)
			err = errors.Join(err, f.Close())
		}
	}
	if err == nil {
		err = errors.Join(os.Lchown(path, h.Uid, h.Gid), unix.Chmod(path, mode), os.Chtimes(path, h.ModTime, h.ModTime))
	}
	for name, value := range h.PAXRecords {
		if name, ok := strings.CutPrefix(name, "SCHILY.xattr."); ok && err == nil {
			err = unix.Lsetxattr(path, name, []byte(value), 0)
		}
	}
	return err
}

// Listing returns what is below a directory, a line each, with all that
// changes when something is written there.
func Listing(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s %o %d %d %d %v %v\n", path, st.Mode, st.Ino, st.Size, st.Nlink, st.Mtim, st.Ctim)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}
