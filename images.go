// SPDX-License-Identifier: Apache-2.0

package imgfs

import (
	"context"
	"errors"
	"io"
	"slices"

	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/image/archive"
	"github.com/imgfs/imgfs/image/engine"
	"github.com/imgfs/imgfs/layerstore"
	"github.com/imgfs/imgfs/layerstore/seek"
)

// Info returns the documents of an image. What OpenImage opens, it knows; an
// image in place is read where it lies and not verified.
func (s *Store) Info(ctx context.Context, arg string, opt OpenOptions) (*ImageInfo, error) {
	src, _ := SplitArg(arg)
	info, err := s.info(ctx, src, opt)
	if err != nil {
		return nil, about(src, err)
	}
	return info, nil
}

func (s *Store) info(ctx context.Context, src string, opt OpenOptions) (*ImageInfo, error) {
	if src == "-" {
		return nil, errors.New("load it first (imgfs load)")
	}
	if l, ok := s.inEngine(src); ok {
		return s.infoEngine(ctx, l, opt)
	}
	if !isPath(src) {
		rec, _, err := s.findOrPull(ctx, src, opt)
		if err == nil {
			return s.infoRecord(rec)
		}
		if !errors.Is(err, image.ErrNotFound) || !onDisk(src) {
			return nil, err
		}
	}
	if info, err := infoFile(ctx, src, opt); !mustSpool(err) {
		return info, err
	}
	i, err := s.loadAndOpen(ctx, src, nil, opt)
	if err != nil {
		return nil, err
	}
	defer i.Close()
	rec, ok, err := s.ls.Image(i.Digest)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, image.ErrNotFound
	}
	return s.infoRecord(&rec)
}

// infoFile reads the documents of an image file; its layers are not read, so
// the uncompressed sizes of those that are compressed are not known.
func infoFile(ctx context.Context, path string, opt OpenOptions) (*ImageInfo, error) {
	src, err := openOnDisk(path)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	return infoSource(ctx, src, opt)
}

// infoEngine reads the documents of an image or a container in the store of an
// engine.
func (s *Store) infoEngine(ctx context.Context, l engine.Location, opt OpenOptions) (*ImageInfo, error) {
	f, err := s.findIn(ctx, l, false)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := infoSource(ctx, f.Source, opt)
	if err == nil {
		for _, d := range f.item.Digests {
			if r, err := image.ParseReference(d); err == nil {
				d = r.Familiar()
			}
			info.RepoDigests = append(info.RepoDigests, d)
		}
	}
	return info, err
}

// infoSource reads the documents of the only image of a source.
func infoSource(ctx context.Context, src *archive.Source, opt OpenOptions) (*ImageInfo, error) {
	e, m, err := selectImage(src, opt.Platform)
	if err != nil {
		return nil, err
	}
	var layers []layerstore.Layer
	known := true
	for k, l := range m.Layers {
		blob, err := l.Section(ctx)
		if err != nil {
			return nil, layerError(k, err)
		}
		have := layerstore.Layer{Digest: l.Desc.Digest, DiffID: l.DiffID, MediaType: l.Desc.MediaType, Size: blob.Size(), TarSize: plainSize(blob)}
		known = known && have.TarSize >= 0
		layers = append(layers, have)
	}
	rec := record(m.Parsed, m.Config.Desc.Digest, m.Manifest.Desc.Digest, layers)
	if !known {
		rec.Size = -1
	}
	info := newInfo(&rec, m.Config.Raw, m.Manifest.Raw)
	for _, n := range e.Names {
		_, name := storedName(n)
		info.RepoTags = append(info.RepoTags, name)
	}
	for k := range e.Images {
		line := absence(&e.Images[k])
		if line == "" && &e.Images[k] != m {
			line = image.FormatPlatform(e.Images[k].Platform)
		}
		if line != "" {
			info.Others = append(info.Others, line)
		}
	}
	return info, nil
}

// plainSize returns the size of a layer's tar if it is not compressed, else -1.
func plainSize(blob *io.SectionReader) int64 {
	var head [18]byte
	n, err := blob.ReadAt(head[:], 0)
	if err != nil && err != io.EOF || seek.Detect(head[:n]) != seek.None {
		return -1
	}
	return blob.Size()
}

func (s *Store) infoRecord(rec *layerstore.Image) (*ImageInfo, error) {
	_, lease, ok, err := s.ls.LeaseImage(rec.Manifest)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, errRemoved
	}
	defer lease.Close()
	config, err := s.ls.ReadBlob(rec.ID, image.MaxDocument)
	if err != nil {
		return nil, err
	}
	manifest, err := s.ls.ReadBlob(rec.Manifest, image.MaxDocument)
	if err != nil {
		return nil, err
	}
	info := newInfo(rec, config, manifest)
	refs, err := s.ls.Refs()
	if err != nil {
		return nil, err
	}
	all, err := s.ls.Images()
	if err != nil {
		return nil, err
	}
	for _, r := range refs {
		if !slices.Contains(r.Images, rec.Manifest) {
			continue
		}
		if r.Name != "" && r.Since.After(info.Tagged) {
			info.Tagged = r.Since
		}
		for _, m := range r.Images {
			if i, ok := all[m]; ok && m != rec.Manifest && !slices.Contains(info.Others, i.Platform) {
				info.Others = append(info.Others, i.Platform)
			}
		}
		for _, line := range r.Others {
			if !slices.Contains(info.Others, line) {
				info.Others = append(info.Others, line)
			}
		}
		ref, err := image.ParseReference(r.Name)
		if err != nil {
			if r.Name != "" {
				info.RepoTags = append(info.RepoTags, r.Name)
			}
			continue
		}
		info.RepoTags = append(info.RepoTags, ref.Familiar())
		if d := ref.FamiliarName() + "@" + string(r.Target); !slices.Contains(info.RepoDigests, d) {
			info.RepoDigests = append(info.RepoDigests, d)
		}
	}
	return info, nil
}

func newInfo(rec *layerstore.Image, config, manifest []byte) *ImageInfo {
	info := &ImageInfo{
		ID: rec.ID, Digest: rec.Manifest, Platform: rec.Platform, Created: rec.Created,
		Size: rec.Size, Config: config, Manifest: manifest, DiffIDs: diffIDs(rec.Layers),
	}
	for _, l := range rec.Layers {
		info.Layers = append(info.Layers, LayerInfo{
			Digest: l.Digest, DiffID: l.DiffID, MediaType: l.MediaType,
			Size: l.Size, TarSize: l.TarSize, Oddities: l.Oddities + lies(l),
		})
	}
	return info
}

func lies(l layerstore.Layer) int {
	if mediaTypeLie(l) != "" {
		return 1
	}
	return 0
}
