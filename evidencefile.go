// SPDX-License-Identifier: Apache-2.0

package imgfs

import (
	"archive/tar"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs/forensics"
	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/image/archive"
	"github.com/imgfs/imgfs/image/engine"
	"github.com/imgfs/imgfs/internal/noatime"
	"github.com/imgfs/imgfs/internal/term"
	"github.com/imgfs/imgfs/layerstore"
)

// mostItems bounds how many files of a source are listed.
const mostItems = 1 << 20

// onDisk reads a file, or an OCI layout, where it lies.
func (x *examiner) onDisk(ctx context.Context, name string) error {
	abs, err := filepath.Abs(name)
	if err != nil {
		return err
	}
	f, err := noatime.Open(name, syscall.O_NONBLOCK)
	if err != nil {
		return err
	}
	defer f.Close() // it was only read
	before, err := f.Stat()
	if err != nil {
		return err
	}
	x.src.Path, x.src.Times = abs, timesOf(before)
	switch {
	case before.IsDir():
		x.src.Kind = "directory"
		err = x.directory(ctx, abs)
	case before.Mode().IsRegular():
		x.src.Kind = "file"
		err = x.file(ctx, f, before)
	default:
		return optionError{fmt.Errorf("%s: neither a file nor a directory: it cannot be read twice", name)}
	}
	if err = x.wait(err); err != nil {
		return err
	}
	after, err := f.Stat()
	if err == nil {
		x.src.Times.Touched = touched(before, after)
	}
	return err
}

func timesOf(fi fs.FileInfo) *forensics.EvidenceTimes {
	st := fi.Sys().(*syscall.Stat_t)
	text := func(t syscall.Timespec) string { return time.Unix(t.Unix()).UTC().Format(time.RFC3339Nano) }
	return &forensics.EvidenceTimes{Modified: text(st.Mtim), Changed: text(st.Ctim), Accessed: text(st.Atim), Touched: []string{}}
}

// touched names what is another about a file after it was read.
func touched(before, after fs.FileInfo) []string {
	a, b := before.Sys().(*syscall.Stat_t), after.Sys().(*syscall.Stat_t)
	list := []string{}
	for _, is := range []struct {
		name string
		same bool
	}{
		{"modified", a.Mtim == b.Mtim}, {"changed", a.Ctim == b.Ctim}, {"accessed", a.Atim == b.Atim}, {"size", a.Size == b.Size},
	} {
		if !is.same {
			list = append(list, is.name)
		}
	}
	return list
}

// file reads an image archive: the file itself, the members of its tar, and
// the images in it.
func (x *examiner) file(ctx context.Context, f *os.File, fi fs.FileInfo) error {
	whole := io.NewSectionReader(f, 0, fi.Size())
	x.add(forensics.EvidenceItem{Kind: "file"}, func(t *task) error { return x.sum(ctx, &t.items[0], whole, true) })
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	in := fi
	src, err := archive.OpenFile(os.NewFile(uintptr(fd), f.Name()), fi.Size())
	if c := (*archive.CompressedError)(nil); errors.As(err, &c) {
		x.src.Compression, in = c.Format, nil
		src, err = x.unpacked(ctx, whole)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		if x.isOurs(err) {
			return err
		}
		x.src.What = err.Error()
		if x.src.Compression != "" {
			return nil
		}
		return x.members(ctx, whole)
	}
	err = x.images(ctx, src, in)
	if err == nil && in != nil {
		err = x.members(ctx, whole)
	}
	return errors.Join(x.wait(err), src.Close())
}

// unpacked opens an archive that is compressed as a whole.
func (x *examiner) unpacked(ctx context.Context, r *io.SectionReader) (*archive.Source, error) {
	stage, err := x.s.ls.NewStage()
	if err != nil {
		return nil, err
	}
	defer stage.Discard() // the copy has no name
	return spool(ctx, stage, x.src.Path, io.NewSectionReader(r, 0, r.Size()), LoadOptions{Progress: x.opt.Progress})
}

// members reads the files of a tar. Those that are called by a digest must
// have it. Reading ends where the tar is none any more, which is said.
func (x *examiner) members(ctx context.Context, whole *io.SectionReader) error {
	r := io.NewSectionReader(whole, 0, whole.Size())
	tr := tar.NewReader(r)
	for n := 0; ctx.Err() == nil; n++ {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil || n == mostItems {
			at, _ := r.Seek(0, io.SeekCurrent) // which does not fail
			what := fmt.Sprintf("over %d members", mostItems)
			if err != nil {
				what = fmt.Sprintf("the tar cannot be read on: %v", err)
			}
			x.add(forensics.EvidenceItem{Kind: "member", Offset: &at, Result: forensics.Bad, What: what}, nil)
			return nil
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		off, err := r.Seek(0, io.SeekCurrent)
		if err != nil || h.Size > whole.Size()-off {
			continue // the tar ends here, as the next round says
		}
		item := forensics.EvidenceItem{Kind: "member", Name: h.Name, NameBase64: term.Base64(h.Name), Offset: &off, Digest: digestOfName(h.Name)}
		content := io.NewSectionReader(whole, off, h.Size)
		x.add(item, func(t *task) error { return x.sum(ctx, &t.items[0], content, false) })
	}
	return ctx.Err()
}

// digestOfName returns the digest that a file of an OCI layout has by its
// name, "" if it is no blob.
func digestOfName(name string) string {
	rest, ok := strings.CutPrefix(path.Clean(name), "blobs/")
	algorithm, hex, found := strings.Cut(rest, "/")
	d := digest.NewDigestFromEncoded(digest.Algorithm(algorithm), hex)
	if !ok || !found || d.Validate() != nil {
		return ""
	}
	return string(d)
}

// directory reads an OCI layout: each file in it, and its images.
func (x *examiner) directory(ctx context.Context, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close() // it was only read
	if err := x.below(ctx, root, ".", 0); err != nil {
		return err
	}
	src, err := archive.Open(dir)
	if err != nil {
		x.src.What = err.Error()
		return x.wait(nil)
	}
	return errors.Join(x.wait(x.images(ctx, src, nil)), src.Close())
}

// deepest bounds how deep directories are read; a layout needs three.
const deepest = 64

// below reads the files below a directory, in the order of their names.
func (x *examiner) below(ctx context.Context, root *os.Root, dir string, depth int) error {
	bad := func(name string, err error) {
		x.add(forensics.EvidenceItem{Kind: "file", Name: name, NameBase64: term.Base64(name), Result: forensics.Bad, What: err.Error()}, nil)
	}
	names, err := namesIn(root, dir)
	if err != nil {
		bad(dir, err)
		return nil
	}
	for _, base := range names {
		if len(x.tasks) >= mostItems || depth > deepest {
			bad(dir, errors.New("too many files, or too deep"))
			return nil
		}
		name := path.Join(dir, base)
		fi, err := root.Lstat(name)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			bad(name, err)
		case fi.IsDir():
			if err := x.below(ctx, root, name, depth+1); err != nil {
				return err
			}
		default:
			x.fileBelow(ctx, root, name, fi)
		}
	}
	return nil
}

func namesIn(root *os.Root, dir string) ([]string, error) {
	d, err := noatime.OpenIn(root, dir, syscall.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	names, err := d.Readdirnames(-1)
	slices.Sort(names)
	return names, errors.Join(err, d.Close())
}

// fileBelow reads one file of a directory.
func (x *examiner) fileBelow(ctx context.Context, root *os.Root, name string, fi fs.FileInfo) {
	item := forensics.EvidenceItem{Kind: "file", Name: name, NameBase64: term.Base64(name), Digest: digestOfName(name)}
	if !fi.Mode().IsRegular() {
		item.Result, item.What = forensics.Noted, "not a regular file: "+fi.Mode().Type().String()
		x.add(item, nil)
		return
	}
	x.add(item, func(t *task) error {
		f, err := noatime.OpenIn(root, name, syscall.O_NONBLOCK|syscall.O_NOFOLLOW)
		if err == nil {
			defer f.Close() // it was only read
			fi, err = f.Stat()
		}
		if err != nil {
			t.items[0].Result, t.items[0].What = forensics.Bad, err.Error()
			return nil
		}
		return x.sum(ctx, &t.items[0], io.NewSectionReader(f, 0, fi.Size()), true)
	})
}

// unreadableItem says in item which files of a layer cannot be read, if there
// are any.
func unreadableItem(ctx context.Context, item *forensics.EvidenceItem, b archive.Bytes) error {
	var what []string
	err := b.EachUnreadable(ctx, func(err error) { what = append(what, err.Error()) })
	if len(what) > mostUnreadable {
		what = append(what[:mostUnreadable], fmt.Sprintf("and %d more files", len(what)-mostUnreadable))
	}
	if len(what) > 0 {
		item.Result, item.What = forensics.Bad, "it cannot be read: "+strings.Join(what, "; ")
	}
	return err
}

// inEngine reads an image or a container in the store of another engine, where
// its layers lie in many files.
func (x *examiner) inEngine(ctx context.Context, l engine.Location) error {
	f, err := x.s.findIn(ctx, l, false)
	if err != nil {
		return err
	}
	x.src.Kind, x.src.Path = "engine", f.where
	return errors.Join(x.wait(x.images(ctx, f.Source, nil)), f.Close())
}

// images reads the documents and layers of all images of a source. in is the
// file that they lie in; nil if they lie in files of their own, or in none that
// stays.
func (x *examiner) images(ctx context.Context, src *archive.Source, in fs.FileInfo) error {
	x.src.Format = src.Format()
	for _, e := range src.Entries() {
		names := []string{}
		for _, name := range e.Names {
			_, familiar := storedName(name)
			names = append(names, familiar)
		}
		shown := cmp.Or(first(names), short(e.Target.Digest))
		for _, d := range e.Documents {
			x.document("index", shown, "", &d)
		}
		for i := range e.Images {
			m := &e.Images[i]
			img := forensics.EvidenceImage{Names: names, ID: string(m.Config.Desc.Digest), Manifest: string(m.Manifest.Desc.Digest), Layers: []string{}}
			if shown == "" {
				shown = short(m.Config.Desc.Digest)
			}
			img.Platform = image.FormatPlatform(m.Platform)
			if m.Missing != nil {
				img.What = m.Missing.Error()
			}
			x.document("manifest", shown, img.Platform, &m.Manifest)
			if m.Manifest.Raw != nil || m.Config.Raw != nil {
				x.document("config", shown, img.Platform, &m.Config)
			}
			for k := range m.Layers {
				if d := m.Layers[k].DiffID; d != "" {
					img.Layers = append(img.Layers, string(d))
				}
				x.layerOf(ctx, shown, img.Platform, k, &m.Layers[k], in)
			}
			x.src.Images = append(x.src.Images, img)
		}
	}
	return ctx.Err()
}

// document notes a manifest, config or index, which was read whole.
func (x *examiner) document(kind, name, platform string, d *archive.Document) {
	if d.Desc.Digest == "" && d.Raw == nil || !x.once(kind, d.Desc.Digest) {
		return
	}
	item := forensics.EvidenceItem{Kind: kind, Image: name, Platform: platform, Digest: string(d.Desc.Digest), Size: d.Desc.Size}
	if d.Raw == nil {
		item.Result, item.What = forensics.Lost, "it is not there"
		if kind == "manifest" { // as of other platforms
			item.Result = forensics.Absent
		}
		x.add(item, nil)
		return
	}
	sum := digest.SHA256.FromBytes(d.Raw)
	item.Size, item.SHA256, item.Result = int64(len(d.Raw)), sum.Encoded(), forensics.Good
	if want := d.Desc.Digest; want.Validate() != nil || want.Algorithm().FromBytes(d.Raw) != want {
		item.Result, item.What = forensics.Bad, "its bytes are "+string(sum)
	}
	x.add(item, nil)
}

// layerOf reads layer k of an image.
func (x *examiner) layerOf(ctx context.Context, name, platform string, k int, l *archive.Layer, in fs.FileInfo) {
	item := forensics.EvidenceItem{
		Kind: "layer", Image: name, Platform: platform, Layer: &k, Size: l.Desc.Size,
		Digest: string(l.Desc.Digest), DiffID: string(l.DiffID),
	}
	blob, err := l.Section(ctx)
	if err != nil {
		item.Result, item.What = forensics.Bad, "it cannot be read: "+err.Error()
		x.add(item, nil)
		return
	}
	if blob == nil {
		item.Result, item.What = forensics.Lost, "it is not there"
		if image.IsForeignType(l.Desc.MediaType) || len(l.Desc.URLs) > 0 {
			item.Result = forensics.Absent // its maker has it
		}
		x.add(item, nil)
		return
	}
	if !x.once("layer", l.Path, l.Offset, blob.Size(), l.Desc.Digest, l.DiffID) {
		return
	}
	at := layerstore.Range{Path: l.Path, Off: l.Offset, Size: blob.Size(), File: in}
	switch {
	case in != nil:
		item.Offset = &at.Off
	case x.src.Kind == "directory":
		at.File, _ = os.Stat(l.Path) // then nothing is kept of it
	}
	want := layerstore.Layer{Digest: l.Desc.Digest, DiffID: l.DiffID, MediaType: l.Desc.MediaType, Size: l.Desc.Size}
	x.add(item, func(t *task) error {
		if l.Bytes != nil {
			if err := unreadableItem(ctx, &t.items[0], l.Bytes); err != nil || t.items[0].Result == forensics.Bad {
				return err
			}
		}
		if err := x.sum(ctx, &t.items[0], blob, false); err != nil || l.DiffID == "" {
			return err
		}
		var kept *layerstore.Kept
		if at.File != nil {
			kept = x.s.ls.KeptInPlace(at)
		}
		err := x.layer(ctx, t, want, blob, kept)
		if item := &t.items[0]; item.Result == forensics.Bad && l.Bytes != nil && whyUnproven(ctx, l) != "" {
			item.What += ": it " + whyUnproven(ctx, l)
		}
		return err
	})
}
