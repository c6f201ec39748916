// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
)

// unpackLayers unpacks each layer of an OCI archive into a directory of its
// own below dir, in overlayfs's form, base first.
func (b *bench) unpackLayers(archive, dir string) (layers []string, err error) {
	image, f, err := openOCI(archive)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for i, l := range image.layers {
		layer := filepath.Join(dir, fmt.Sprint(i))
		if err := untarLayer(b.ctx, f, l, layer); err != nil {
			return nil, err
		}
		if err := toOverlay(layer); err != nil {
			return nil, err
		}
		layers = append(layers, layer)
	}
	return layers, nil
}

// untarLayer unpacks a layer by tar as it is.
func untarLayer(ctx context.Context, f io.ReaderAt, l section, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "tar", "-C", dir, "-xzpf", "-", "--numeric-owner", "--xattrs", "--xattrs-include=*")
	cmd.Stdin = io.NewSectionReader(f, l.off, l.size)
	_, err := output(cmd)
	return err
}

type section struct{ off, size int64 }

// An ociImage says where the one image of an OCI archive lies in it.
type ociImage struct {
	config section
	layers []section
	blobs  int64 // bytes of all blobs
}

// openOCI opens an OCI archive and finds its blobs.
func openOCI(archive string) (image ociImage, f *os.File, err error) {
	if f, err = os.Open(archive); err != nil {
		return image, nil, err
	}
	if image, err = readOCI(f); err != nil {
		f.Close()
		return image, nil, fmt.Errorf("%s: %w", archive, err)
	}
	return image, f, nil
}

func readOCI(f *os.File) (image ociImage, err error) {
	at := map[string]section{}
	tr := tar.NewReader(f)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return image, err
		}
		off, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return image, err
		}
		name := strings.TrimPrefix(h.Name, "blobs/sha256/")
		if name != h.Name && h.Typeflag == tar.TypeReg {
			image.blobs += h.Size
			name = "sha256:" + name
		}
		at[name] = section{off, h.Size}
	}
	type descriptor struct {
		Digest string `json:"digest"`
	}
	var index struct{ Manifests []descriptor }
	var manifest struct {
		Config descriptor
		Layers []descriptor
	}
	read := func(name string, v any) error {
		b := make([]byte, min(at[name].size, 4<<20))
		if _, err := f.ReadAt(b, at[name].off); err != nil {
			return err
		}
		return json.Unmarshal(b, v)
	}
	if err := read("index.json", &index); err != nil {
		return image, err
	}
	if len(index.Manifests) != 1 {
		return image, fmt.Errorf("%d images, want one", len(index.Manifests))
	}
	if err := read(index.Manifests[0].Digest, &manifest); err != nil {
		return image, err
	}
	image.config = at[manifest.Config.Digest]
	for _, l := range manifest.Layers {
		image.layers = append(image.layers, at[l.Digest])
	}
	return image, nil
}

// toOverlay turns the whiteouts of a layer into overlayfs's: a character
// device 0:0, or an xattr on the directory. A device 0:0 of the layer's own is
// removed: overlayfs can show none.
func toOverlay(layer string) error {
	var markers []string
	err := filepath.WalkDir(layer, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if strings.HasPrefix(d.Name(), whiteoutPrefix) {
			markers = append(markers, name)
		}
		if d.Type()&fs.ModeCharDevice == 0 {
			return nil
		}
		info, err := d.Info()
		if err == nil && info.Sys().(*syscall.Stat_t).Rdev == 0 {
			err = os.Remove(name)
		}
		return err
	})
	for _, m := range markers {
		err = errors.Join(err, os.Remove(m), overlayMark(filepath.Dir(m), filepath.Base(m)))
	}
	return err
}

func overlayMark(dir, marker string) error {
	opaque := func(dir string) error {
		return syscall.Setxattr(dir, "trusted.overlay.opaque", []byte("y"), 0)
	}
	if marker == opaqueMarker {
		return opaque(dir)
	}
	name := filepath.Join(dir, strings.TrimPrefix(marker, whiteoutPrefix))
	info, err := os.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return syscall.Mknod(name, syscall.S_IFCHR, 0)
	case err == nil && info.IsDir(): // removed and made again
		return opaque(name)
	}
	return err
}
