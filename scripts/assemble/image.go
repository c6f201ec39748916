// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	_ "crypto/sha256" // go-digest asks for it by number
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// epoch is the time of everything that has no time of its own.
var epoch = time.Date(2024, 2, 29, 12, 34, 56, 0, time.UTC)

// A step is one layer and the history line that made it.
type step struct {
	createdBy string
	write     func(*layer) error
}

// A blob is a finished layer in a temporary file.
type blob struct {
	path   string
	desc   ocispec.Descriptor
	diffID digest.Digest
}

// writeImage makes the layers, as many at once as there are cores, and writes
// an OCI archive of them under the given reference name.
func writeImage(out, name string, steps []step) (err error) {
	dir, err := os.MkdirTemp(filepath.Dir(out), "assemble-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	blobs := make([]blob, len(steps))
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, s := range steps {
		group.Go(func() error {
			var err error
			if blobs[i], err = writeLayer(filepath.Join(dir, fmt.Sprint(i)), s); err != nil {
				return fmt.Errorf("layer %d, %s: %w", i, s.createdBy, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return writeArchive(out, name, steps, blobs)
}

// writeLayer runs one step into a gzip file at path. The compressor and its
// level are those of docker push.
func writeLayer(path string, s step) (b blob, err error) {
	f, err := os.Create(path)
	if err != nil {
		return blob{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()

	stored, plain := digest.SHA256.Digester(), digest.SHA256.Digester()
	zw := gzip.NewWriter(io.MultiWriter(f, stored.Hash()))
	buf := bufio.NewWriterSize(io.MultiWriter(zw, plain.Hash()), 1<<20)
	l := newLayer(buf)
	if err := s.write(l); err != nil {
		return blob{}, err
	}
	if err := errors.Join(l.close(), buf.Flush(), zw.Close()); err != nil {
		return blob{}, err
	}
	size, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return blob{}, err
	}
	return blob{
		path:   path,
		desc:   ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: stored.Digest(), Size: size},
		diffID: plain.Digest(),
	}, nil
}

// writeArchive writes the documents and blobs as one tar.
func writeArchive(out, name string, steps []step, blobs []blob) (err error) {
	config, manifest := documents(steps, blobs)
	configDesc, configBytes := document(ocispec.MediaTypeImageConfig, config)
	manifest.Config = configDesc
	manifestDesc, manifestBytes := document(ocispec.MediaTypeImageManifest, manifest)
	manifestDesc.Annotations = map[string]string{ocispec.AnnotationRefName: name, "io.containerd.image.name": name}
	manifestDesc.Platform = &config.Platform
	_, indexBytes := document(ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{manifestDesc},
	})
	_, layoutBytes := document("", ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})

	f, err := os.Create(out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	tw := tar.NewWriter(f)
	put := func(name string, size int64, r io.Reader) error {
		h := &tar.Header{Name: name, Mode: 0o644, Size: size, ModTime: epoch, Format: tar.FormatUSTAR}
		if size < 0 {
			h.Typeflag, h.Mode, h.Size = tar.TypeDir, 0o755, 0
			return tw.WriteHeader(h)
		}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		_, err := io.Copy(tw, r)
		return err
	}
	bytesOf := func(name string, b []byte) error { return put(name, int64(len(b)), bytes.NewReader(b)) }
	const blobDir = "blobs/sha256/"
	if err := errors.Join(
		bytesOf("oci-layout", layoutBytes),
		bytesOf("index.json", indexBytes),
		put("blobs/", -1, nil),
		put(blobDir, -1, nil),
		bytesOf(blobDir+manifestDesc.Digest.Encoded(), manifestBytes),
		bytesOf(blobDir+configDesc.Digest.Encoded(), configBytes),
	); err != nil {
		return err
	}
	written := map[digest.Digest]bool{}
	for _, b := range blobs {
		if written[b.desc.Digest] {
			continue
		}
		written[b.desc.Digest] = true
		if err := putFile(put, blobDir+b.desc.Digest.Encoded(), b); err != nil {
			return err
		}
	}
	return tw.Close()
}

func putFile(put func(string, int64, io.Reader) error, name string, b blob) error {
	f, err := os.Open(b.path)
	if err != nil {
		return err
	}
	defer f.Close()
	return put(name, b.desc.Size, f)
}

// documents returns the config and the manifest, without its config.
func documents(steps []step, blobs []blob) (ocispec.Image, ocispec.Manifest) {
	config := ocispec.Image{
		Created:  &epoch,
		Author:   "imgfs scripts/mkimage",
		Platform: ocispec.Platform{Architecture: runtime.GOARCH, OS: "linux"},
		Config: ocispec.ImageConfig{
			Cmd:    []string{"/bin/sh"},
			Env:    []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			Labels: map[string]string{"org.opencontainers.image.title": "imgfs test image"},
		},
		RootFS: ocispec.RootFS{Type: "layers"},
	}
	manifest := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
	}
	for i, b := range blobs {
		created := epoch.Add(time.Duration(i) * time.Minute)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, b.diffID)
		config.History = append(config.History, ocispec.History{Created: &created, CreatedBy: steps[i].createdBy})
		if i == 0 { // an instruction without a layer, as every real image has
			config.History = append(config.History, ocispec.History{
				Created: &created, CreatedBy: `CMD ["/bin/sh"]`, EmptyLayer: true,
			})
		}
		manifest.Layers = append(manifest.Layers, b.desc)
	}
	return config, manifest
}

func document(mediaType string, v any) (ocispec.Descriptor, []byte) {
	b, err := json.Marshal(v)
	if err != nil {
		panic("assemble: internal error: " + err.Error())
	}
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}, b
}
