// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// An image is one shape, and what has been made of it for the peers so far;
// what is empty has not been made.
type image struct {
	shape   string
	archive string // OCI archive
	dir     string // where all else lies

	layers   []string // unpacked, in the form of overlayfs, base first
	blobs    int64    // bytes of all blobs, as shipped
	tree     string   // a directory with the whole image: plain files
	erofs    string   // an EROFS of it, not compressed
	squashfs string   // a squashfs of it, by gzip
	tar      string   // a tar of it
	overTar  string   // an EROFS that has its names alone; the rest lies in tar
	docker   string   // a docker-archive, its layers not compressed
	tars     int64    // bytes of all layers' tars
	flat     string   // the name in the store of an image of it that has one layer
	again    string   // a second copy of tree
	sum      string   // the sha256 of some file in it
}

// overlaid returns the directories of the layers as overlayfs wants them, the
// topmost first.
func (im *image) overlaid() []string {
	lower := slices.Clone(im.layers)
	slices.Reverse(lower)
	return lower
}

// prepare makes what a system needs for a row. Its error is an *unableError if
// the system cannot be measured on this machine.
func (b *bench) prepare(r row, system string, im *image) error {
	if program := programOf(system); program != "" {
		if _, err := exec.LookPath(program); err != nil {
			return &unableError{program + " is not installed"}
		}
	}
	if im == nil {
		return nil
	}
	if im.dir == "" {
		im.dir = filepath.Join(b.bare, im.shape)
		if err := os.Mkdir(im.dir, 0o755); err != nil {
			return err
		}
	}
	if system == podmanIs {
		return b.tryPodman()
	}
	if r.group == "forensics" {
		return b.makeExamined(system, im)
	}
	if r.file && system != overTarIs { // the archive is all they need
		return nil
	}
	switch system {
	case imgfsIs, imgfsRWIs, imgfsCachedIs:
		_, err := b.load(im.archive)
		return err
	case overlayIs, fuseOverlayIs, memfsIs, memfsCachedIs, memfsBareIs:
		return b.unpack(im)
	case diskIs:
		if r.group == "write" { // it works in an empty directory
			return nil
		}
		return b.makeTree(im)
	case erofsIs:
		// mkfs.erofs 1.5 cannot take a name of 255 bytes, of which images have one.
		return b.makeFrom(im, &im.erofs, "mkfs.erofs", "--quiet", "--exclude-regex=[^/]{255}", "{out}", "{tree}")
	case overTarIs:
		if help, _ := exec.Command("mkfs.erofs", "--help").CombinedOutput(); !bytes.Contains(help, []byte("--tar")) {
			return &unableError{"this mkfs.erofs has no --tar: erofs-utils 1.7 or later has"}
		}
		if err := b.makeTar(im); err != nil {
			return err
		}
		return b.makeFrom(im, &im.overTar, "mkfs.erofs", "--quiet", "--tar=i", "{out}", im.tar)
	case squashfuseIs:
		return b.makeFrom(im, &im.squashfs, "mksquashfs", "{tree}", "{out}", "-quiet", "-no-progress", "-noappend")
	case archivemountIs:
		return b.makeTar(im)
	}
	return nil
}

// load returns the name of an archive's image in the store.
func (b *bench) load(archive string) (string, error) {
	key := b.store + " " + archive
	if name, ok := b.loaded[key]; ok {
		return name, nil
	}
	out, err := output(b.command("load", "-q", "-i", archive))
	if err != nil {
		return "", err
	}
	b.loaded[key], err = loadedName(out)
	return b.loaded[key], err
}

// loadedName reads the name in what `imgfs load` prints of one image.
func loadedName(out string) (string, error) {
	_, name, _ := strings.Cut(strings.TrimSpace(out), ": ")
	if name == "" || strings.Contains(name, "\n") {
		return "", fmt.Errorf("load printed %q, want one image", out)
	}
	return name, nil
}

// unpack unpacks the layers, if that has not been done.
func (b *bench) unpack(im *image) (err error) {
	if im.layers == nil {
		b.say("unpacking", im)
		im.layers, err = b.unpackLayers(im.archive, filepath.Join(im.dir, "layers"))
	}
	return err
}

func (b *bench) say(what string, im *image) {
	fmt.Fprintf(os.Stderr, "imgfs-bench: %s %s\n", what, im.shape)
}

// makeTree copies the image out of an overlayfs.
func (b *bench) makeTree(im *image) error {
	if im.tree != "" {
		return nil
	}
	if err := b.unpack(im); err != nil {
		return err
	}
	b.say("copying", im)
	from := filepath.Join(im.dir, "overlay")
	if err := os.Mkdir(from, 0o755); err != nil {
		return err
	}
	if err := b.mountOverlay(from, im, ""); err != nil {
		return err
	}
	tree := filepath.Join(im.dir, "tree")
	_, err := output(exec.CommandContext(b.ctx, "cp", "-a", from, tree))
	if err = errors.Join(err, b.umount(from)); err == nil {
		im.tree = tree
	}
	return err
}

// makeFrom has a program make a file of the tree and says where in *file.
func (b *bench) makeFrom(im *image, file *string, args ...string) error {
	if *file != "" {
		return nil
	}
	if err := b.makeTree(im); err != nil {
		return err
	}
	b.say(args[0]+" of", im)
	out := filepath.Join(im.dir, fmt.Sprintf("%s-%d", args[0], len(args)))
	args = slices.Clone(args)
	for i := range args {
		args[i] = strings.NewReplacer("{out}", out, "{tree}", im.tree).Replace(args[i])
	}
	_, err := output(exec.CommandContext(b.ctx, args[0], args[1:]...))
	if err == nil {
		*file = out
	}
	return err
}

func (b *bench) makeTar(im *image) error {
	if im.tar != "" {
		return nil
	}
	if err := b.makeTree(im); err != nil {
		return err
	}
	file := filepath.Join(im.dir, "tree.tar")
	_, err := output(exec.CommandContext(b.ctx, "tar", "-C", im.tree, "--numeric-owner", "-cf", file, "."))
	if err == nil {
		im.tar = file
	}
	return err
}

// forget removes what was made of an image, once no row to come wants it.
func (b *bench) forget(shape string, rest []row) {
	im := b.images[shape]
	if im == nil || im.dir == "" || slices.ContainsFunc(rest, func(r row) bool { return r.shape == shape }) {
		return
	}
	if err := os.RemoveAll(im.dir); err != nil {
		fmt.Fprintln(os.Stderr, "imgfs-bench:", err)
	}
	*im = image{shape: im.shape, archive: im.archive}
}

// makeDocker writes the image as a docker-archive whose layers are plain tars.
func (b *bench) makeDocker(im *image) error {
	if im.docker != "" {
		return nil
	}
	b.say("writing a docker-archive of", im)
	image, in, err := openOCI(im.archive)
	if err != nil {
		return err
	}
	defer in.Close()
	name := filepath.Join(im.dir, "docker.tar")
	out, err := os.Create(name)
	if err != nil {
		return err
	}
	im.tars, err = writeDocker(out, in, image)
	if err = errors.Join(err, out.Sync(), out.Close()); err == nil {
		im.docker = name
	}
	return err
}

// writeDocker writes a docker-archive and returns the bytes of its layers.
func writeDocker(out io.WriteSeeker, in io.ReaderAt, image ociImage) (layers int64, err error) {
	w := tar.NewWriter(out)
	type entry struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	e := entry{Config: "config.json", RepoTags: []string{"imgfs.test/docker:latest"}}
	config := io.NewSectionReader(in, image.config.off, image.config.size)
	if err := w.WriteHeader(&tar.Header{Name: e.Config, Mode: 0o644, Size: config.Size()}); err != nil {
		return 0, err
	}
	if _, err := io.Copy(w, config); err != nil {
		return 0, err
	}
	for i, l := range image.layers {
		name := fmt.Sprintf("%d/layer.tar", i)
		size, err := gunzipTo(io.Discard, in, l) // a header wants the size first
		if err != nil {
			return 0, err
		}
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size}); err != nil {
			return 0, err
		}
		if _, err := gunzipTo(w, in, l); err != nil {
			return 0, err
		}
		e.Layers, layers = append(e.Layers, name), layers+size
	}
	manifest, err := json.Marshal([]entry{e})
	if err != nil {
		return 0, err
	}
	if err := w.WriteHeader(&tar.Header{Name: "manifest.json", Mode: 0o644, Size: int64(len(manifest))}); err != nil {
		return 0, err
	}
	if _, err := w.Write(manifest); err != nil {
		return 0, err
	}
	return layers, w.Close()
}

// gunzipTo decodes a layer and returns its size.
func gunzipTo(w io.Writer, in io.ReaderAt, l section) (int64, error) {
	z, err := gzip.NewReader(io.NewSectionReader(in, l.off, l.size))
	if err != nil {
		return 0, err
	}
	return io.Copy(w, z)
}

// mountErofs mounts a file; a kernel that cannot do so by itself gets a loop
// device.
func mountErofs(file, dir, device string) error {
	options := ""
	if device != "" {
		options = "device=" + device
	}
	err := unix.Mount(file, dir, "erofs", unix.MS_RDONLY, options)
	if errors.Is(err, unix.ENOTBLK) && device == "" {
		_, err = output(exec.Command("mount", "-i", "-t", "erofs", "-o", "ro,loop", file, dir))
	}
	if err != nil {
		return fmt.Errorf("mount %s: %w", file, err)
	}
	return nil
}
