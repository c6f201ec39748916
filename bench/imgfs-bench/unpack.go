// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
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
	"time"
)

const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
)

// unpackLayers unpacks each layer of an OCI archive into a directory of its
// own below dir, in overlayfs's form, base first. It returns the directories,
// the bytes of all blobs, and the seconds that gzip and tar took.
func unpackLayers(archive, dir string) (layers []string, blobs int64, seconds float64, err error) {
	f, err := os.Open(archive)
	if err != nil {
		return nil, 0, 0, err
	}
	defer f.Close()
	digests, at, blobs, err := manifestLayers(f)
	if err != nil {
		return nil, 0, 0, fmt.Errorf("%s: %w", archive, err)
	}
	for i, d := range digests {
		layer := filepath.Join(dir, fmt.Sprint(i))
		if err := os.MkdirAll(layer, 0o755); err != nil {
			return nil, 0, 0, err
		}
		cmd := exec.Command("tar", "-C", layer, "-xzpf", "-", "--numeric-owner", "--xattrs", "--xattrs-include=*")
		cmd.Stdin = io.NewSectionReader(f, at[d].off, at[d].size)
		start := time.Now()
		if _, err := output(cmd); err != nil {
			return nil, 0, 0, err
		}
		seconds += time.Since(start).Seconds()
		if err := toOverlay(layer); err != nil {
			return nil, 0, 0, err
		}
		layers = append(layers, layer)
	}
	return layers, blobs, seconds, nil
}

type section struct{ off, size int64 }

// manifestLayers returns the layers' digests of the one image in an OCI
// archive, where each blob lies in it, and the bytes of all blobs.
func manifestLayers(f *os.File) (layers []string, at map[string]section, blobs int64, err error) {
	at = map[string]section{}
	tr := tar.NewReader(f)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, nil, 0, err
		}
		off, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, nil, 0, err
		}
		name := strings.TrimPrefix(h.Name, "blobs/sha256/")
		if name != h.Name && h.Typeflag == tar.TypeReg {
			blobs += h.Size
			name = "sha256:" + name
		}
		at[name] = section{off, h.Size}
	}
	type descriptor struct {
		Digest string `json:"digest"`
	}
	var index struct{ Manifests []descriptor }
	var manifest struct{ Layers []descriptor }
	read := func(name string, v any) error {
		b := make([]byte, min(at[name].size, 4<<20))
		if _, err := f.ReadAt(b, at[name].off); err != nil {
			return err
		}
		return json.Unmarshal(b, v)
	}
	if err := read("index.json", &index); err != nil {
		return nil, nil, 0, err
	}
	if len(index.Manifests) != 1 {
		return nil, nil, 0, fmt.Errorf("%d images, want one", len(index.Manifests))
	}
	if err := read(index.Manifests[0].Digest, &manifest); err != nil {
		return nil, nil, 0, err
	}
	for _, l := range manifest.Layers {
		layers = append(layers, l.Digest)
	}
	return layers, at, blobs, nil
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
