// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// entry adds what f is.
func (w *dirWalk) entry(f *found) error {
	h := &tar.Header{
		Name: f.path, Mode: int64(f.st.Mode & 0o7777), Uid: int(f.st.Uid), Gid: int(f.st.Gid),
		ModTime: time.Unix(f.st.Mtim.Unix()),
	}
	if w.t.owner.uid != 0 {
		if f.st.Uid == w.t.owner.uid {
			h.Uid = 0
		}
		if f.st.Gid == w.t.owner.gid {
			h.Gid = 0
		}
	}
	w.identify(f)
	mode := w.override(f, h)
	w.setXattrs(f, h)
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return w.directory(f, h)
	case unix.S_IFSOCK:
		return nil // a tar has none
	case unix.S_IFLNK:
		h.Typeflag, h.Linkname = tar.TypeSymlink, f.target
	case unix.S_IFCHR:
		h.Typeflag = tar.TypeChar
	case unix.S_IFBLK:
		h.Typeflag = tar.TypeBlock
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	default:
		h.Typeflag = tar.TypeReg
	}
	if h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock {
		if h.Devmajor == 0 && h.Devminor == 0 {
			h.Devmajor, h.Devminor = int64(unix.Major(f.st.Rdev)), int64(unix.Minor(f.st.Rdev))
		}
	}
	if f.st.Nlink > 1 {
		key := [2]uint64{f.st.Dev, f.st.Ino}
		if first, ok := w.first[key]; ok {
			return w.header(&tar.Header{Typeflag: tar.TypeLink, Name: f.path, Linkname: first, ModTime: h.ModTime})
		}
		w.first[key] = f.path
	}
	if h.Typeflag != tar.TypeReg {
		return w.header(h)
	}
	return w.file(f, h)
}

// directory adds a directory, and the mark of an opaque one.
func (w *dirWalk) directory(f *found, h *tar.Header) error {
	h.Typeflag, h.Name = tar.TypeDir, f.path+"/"
	if f.path == "" {
		h.Name = "./"
	}
	if f.has("redirect", "*") {
		w.problem(f.path, "was moved here by overlayfs: what lower layers have in it is not shown")
	}
	if err := w.header(h); err != nil || !f.has("opaque", "y") {
		return err
	}
	return w.mark(path.Join(f.path, w.t.opt.Opaque))
}

// file adds a regular file with its content.
func (w *dirWalk) file(f *found, h *tar.Header) error {
	flags, name, st := byte(0), f.path, stampOf(&f.st)
	if f.has("metacopy", "*") {
		flags = fromStore
		var ok bool
		if name, st, ok = w.below(f); !ok {
			w.problem(f.path, "only its attributes were changed, and its content is not found below it (overlayfs metacopy)")
			flags, name, st = 0, f.path, elsewhere
		}
	}
	h.Size = f.st.Size
	if err := w.header(h); err != nil {
		return err
	}
	if err := w.p.fileOf(flags, name, h.Size, st); err != nil {
		return err
	}
	return w.p.raw(make([]byte, -h.Size&511))
}

// below finds the file of a lower layer that has the content of f, of which
// overlayfs copied the attributes alone. Its name is one in the store.
func (w *dirWalk) below(f *found) (name string, st stamp, ok bool) {
	at := f.path
	if to, moved := f.xattr("redirect"); moved {
		if at = path.Clean("/" + to); !strings.HasPrefix(to, "/") {
			at = path.Join(path.Dir(f.path), path.Base(to))
		}
	}
	for _, lower := range w.t.lower {
		name = path.Join(lower, path.Clean("/"+at))
		file, err := w.t.store.openAt(name, unix.O_PATH, strictly)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", st, false
		}
		var l found
		err = unix.Fstat(int(file.Fd()), &l.st)
		if err == nil {
			l.xattrs, err = xattrsOf(fmt.Sprintf("/proc/self/fd/%d", file.Fd()), false)
		}
		file.Close()
		switch {
		case err != nil, l.typ() != unix.S_IFREG:
			return "", st, false
		case l.has("metacopy", "*"): // as it is there, too
			continue
		}
		return name, stampOf(&l.st), l.st.Size == f.st.Size
	}
	return "", st, false
}

// header adds a header, by which the tar is known, too.
func (w *dirWalk) header(h *tar.Header) error {
	h.Format = tar.FormatPAX
	var b bytes.Buffer
	if err := tar.NewWriter(&b).WriteHeader(h); err != nil {
		w.problem(h.Name, "a tar cannot tell it: %w", err)
		h.Size = 0
		return nil
	}
	w.sum.Write(b.Bytes())
	return w.p.raw(b.Bytes())
}

// identify adds what a header does not say to what the tar is known by.
func (w *dirWalk) identify(f *found) {
	fmt.Fprintf(w.sum, "%v\n", stampOf(&f.st))
}

// override reads what rootless engines note of a file that they cannot make as
// it is, "UID:GID:MODE[:TYPE]", and returns its mode with the type.
func (w *dirWalk) override(f *found, h *tar.Header) (mode uint32) {
	mode = f.st.Mode
	var text string
	for _, name := range []string{"user.containers.override_stat", "user.fuseoverlayfs.override_stat", "security.fuseoverlayfs.override_stat"} {
		if v, ok := f.xattrs[name]; ok {
			text = v
			break
		}
	}
	if text == "" {
		return mode
	}
	parts := strings.Split(strings.TrimRight(text, "\x00"), ":")
	if len(parts) < 3 {
		w.problem(f.path, "override_stat %.100q: want UID:GID:MODE", text)
		return mode
	}
	uid, err1 := strconv.ParseUint(parts[0], 10, 32)
	gid, err2 := strconv.ParseUint(parts[1], 10, 32)
	bits, err3 := strconv.ParseUint(parts[2], 8, 32)
	if err := errors.Join(err1, err2, err3); err != nil {
		w.problem(f.path, "override_stat %.100q: want UID:GID:MODE", text)
		return mode
	}
	h.Uid, h.Gid, h.Mode = int(uid), int(gid), int64(bits&0o7777)
	if len(parts) < 4 {
		return mode
	}
	types := map[string]uint32{
		"dir": unix.S_IFDIR, "file": unix.S_IFREG, "symlink": unix.S_IFLNK, "pipe": unix.S_IFIFO,
		"socket": unix.S_IFSOCK, "block": unix.S_IFBLK, "char": unix.S_IFCHR,
	}
	kind, numbers, _ := strings.Cut(parts[3], "-")
	typ, ok := types[kind]
	if !ok || typ == unix.S_IFDIR != (f.typ() == unix.S_IFDIR) || typ == unix.S_IFLNK && f.typ() != unix.S_IFLNK {
		return mode
	}
	if major, minor, ok := strings.Cut(numbers, "-"); ok {
		h.Devmajor, _ = strconv.ParseInt(major, 10, 32)
		h.Devminor, _ = strconv.ParseInt(minor, 10, 32)
	}
	return typ
}

// setXattrs takes the xattrs over that are the file's own.
func (w *dirWalk) setXattrs(f *found, h *tar.Header) {
	for name, value := range f.xattrs {
		switch {
		case strings.HasPrefix(name, "trusted.overlay."), strings.HasPrefix(name, "user.overlay."),
			strings.HasPrefix(name, "user.fuseoverlayfs."), strings.HasPrefix(name, "security.fuseoverlayfs."),
			name == "user.containers.override_stat", name == "security.selinux":
			continue // the engine's and the host's
		case strings.Contains(name, "="):
			w.problem(f.path, "a layer cannot hold an xattr with = in its name: %.100q", name)
			continue
		}
		if h.PAXRecords == nil {
			h.PAXRecords = make(map[string]string)
		}
		h.PAXRecords["SCHILY.xattr."+name] = value
	}
}
