// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// manyImages is how many images the store of the row "store" has.
const manyImages = 1000

// The figures of the row "store".
const (
	aVerb     = "version"
	listed    = "images"
	onlyIDs   = "images -q"
	filtered  = "images --filter label"
	looked    = "inspect"
	named     = "tag"
	removed   = "rmi of 1000"
	collected = "prune of 1000"
)

func manyName(i int) string { return fmt.Sprintf("example.com/many/app%d:%d", i%50, i) }

// storeTurn measures the verbs of a store of many images.
func storeTurn(b *bench, r row, _ string, _ *image) error {
	archive, store := filepath.Join(b.turn, "many.tar"), filepath.Join(b.turn, "store")
	if err := writeMany(archive); err != nil {
		return err
	}
	var names []string
	for i := range manyImages {
		names = append(names, manyName(i))
	}
	load := []string{"load", "-q", "-i", archive}
	for _, step := range []struct {
		figure string // empty: none
		args   []string
	}{
		{"", load},
		{aVerb, []string{"version"}},
		{listed, []string{"images"}},
		{onlyIDs, []string{"images", "-q"}},
		{filtered, []string{"images", "--filter", "label=number=7"}},
		{looked, []string{"inspect", manyName(7)}},
		{named, []string{"tag", manyName(7), "other:1"}},
		{"", []string{"rmi", "other:1"}},
		{removed, append([]string{"rmi"}, names...)},
		{"", load},
		{collected, []string{"prune", "-a", "-f"}},
	} {
		start := time.Now()
		if _, err := output(inStore(exec.CommandContext(b.ctx, b.imgfs, step.args...), store)); err != nil {
			return err
		}
		if step.figure != "" {
			b.report.add(r, step.figure, imgfsIs, seconds, time.Since(start).Seconds())
		}
	}
	return nil
}

// writeMany writes an OCI archive of many images: each has a layer of its own
// and one that ten share.
func writeMany(name string) error {
	out, err := os.Create(name)
	if err != nil {
		return err
	}
	w := &ociWriter{w: tar.NewWriter(out), have: map[string]bool{}}
	var list []map[string]any
	for i := range manyImages {
		list = append(list, w.image(i))
	}
	w.json("index.json", map[string]any{"schemaVersion": 2, "manifests": list})
	return errors.Join(w.err, w.w.Close(), out.Close())
}

// An ociWriter writes the blobs of an OCI archive, each once.
type ociWriter struct {
	w    *tar.Writer
	have map[string]bool
	err  error // the first
}

func (w *ociWriter) file(name string, raw []byte) {
	if w.err == nil {
		w.err = w.w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(raw))})
	}
	if w.err == nil {
		_, w.err = w.w.Write(raw)
	}
}

func (w *ociWriter) json(name string, v any) []byte {
	raw, err := json.Marshal(v)
	w.err = errors.Join(w.err, err)
	if name != "" {
		w.file(name, raw)
	}
	return raw
}

// blob writes raw and returns its descriptor.
func (w *ociWriter) blob(mediaType string, raw []byte) map[string]any {
	hex := fmt.Sprintf("%x", sha256.Sum256(raw))
	if !w.have[hex] {
		w.have[hex] = true
		w.file("blobs/sha256/"+hex, raw)
	}
	return map[string]any{"mediaType": mediaType, "digest": "sha256:" + hex, "size": len(raw)}
}

// layer returns a layer of one file, as shipped, and its diffID.
func (w *ociWriter) layer(text string) (d map[string]any, diffID string) {
	var plain, packed bytes.Buffer
	t := tar.NewWriter(&plain)
	err := t.WriteHeader(&tar.Header{Name: "file", Mode: 0o644, Size: int64(len(text))})
	if err == nil {
		_, err = t.Write([]byte(text))
	}
	z := gzip.NewWriter(&packed)
	w.err = errors.Join(w.err, err, t.Close())
	if w.err == nil {
		_, w.err = z.Write(plain.Bytes())
	}
	w.err = errors.Join(w.err, z.Close())
	return w.blob("application/vnd.oci.image.layer.v1.tar+gzip", packed.Bytes()), fmt.Sprintf("sha256:%x", sha256.Sum256(plain.Bytes()))
}

func (w *ociWriter) image(i int) map[string]any {
	shared, sharedID := w.layer(fmt.Sprint("shared ", i/10))
	own, ownID := w.layer(fmt.Sprint("own ", i))
	config := w.blob("application/vnd.oci.image.config.v1+json", w.json("", map[string]any{
		"architecture": "amd64", "os": "linux", "created": time.Unix(int64(1_600_000_000+i), 0).UTC(),
		"config": map[string]any{"Labels": map[string]string{"number": fmt.Sprint(i)}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{sharedID, ownID}},
	}))
	d := w.blob("application/vnd.oci.image.manifest.v1+json", w.json("", map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": config, "layers": []any{shared, own},
	}))
	d["annotations"] = map[string]string{"io.containerd.image.name": manyName(i)}
	return d
}
