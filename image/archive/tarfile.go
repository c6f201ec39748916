// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/imgfs/imgfs/image"
)

// tarFiles are the files of a tar: its table of contents.
type tarFiles struct {
	at      io.ReaderAt
	path    string
	entries map[string]*tarEntry // by cleaned name; immutable
	text    int64                // bytes of all names and links in entries
}

// A tarEntry is a file or link of the tar. Directories need no entry: a name
// leads through whatever is not a link or a file.
type tarEntry struct {
	kind  tarKind
	link  string // the target, as written
	off   int64  // of the content, in the tar
	size  int64  // bytes
	older *tarEntry
}

type tarKind uint8

const (
	tarFile    tarKind = iota
	tarSparse          // a file that does not lie in one piece
	tarSymlink         // target relative to the link's directory
	tarLink            // target relative to the top
	tarOther           // a device or FIFO
)

// scanTar reads the headers of the tar in the first size bytes of r. A name
// that climbs is left out: nothing can look it up.
func scanTar(r io.ReaderAt, name string, size int64) (*tarFiles, error) {
	t := &tarFiles{at: r, path: name, entries: make(map[string]*tarEntry)}
	hr := &headerReader{at: r, size: size}
	tr := tar.NewReader(hr)
	members := 0
	for {
		at := hr.off
		h, err := tr.Next()
		switch {
		case err == io.EOF:
			return t, nil
		case errors.Is(err, tar.ErrHeader) && members == 0:
			return nil, fmt.Errorf("not a tar: %w", ErrNotImage)
		case errors.Is(err, tar.ErrHeader), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, tar.ErrFieldTooLong):
			return nil, fmt.Errorf("tar entry after offset %d: %w: %w", at, err, image.ErrMalformed)
		case err != nil:
			return nil, err
		}
		if members++; members > maxMembers {
			return nil, t.tooLarge(fmt.Sprintf("tar of over %d entries", maxMembers))
		}
		if err := t.add(h, hr.off, size); err != nil {
			return nil, err
		}
	}
}

// tooLarge is the error for a tar that passes a limit: the tar of a large root
// filesystem, or an attack.
func (t *tarFiles) tooLarge(what string) error {
	for _, name := range []string{"manifest.json", "index.json", "repositories"} {
		if t.entries[name] != nil {
			return fmt.Errorf("%s: %w", what, image.ErrMalformed)
		}
	}
	return ErrNotImage
}

// add remembers the entry of h, whose content begins at off.
func (t *tarFiles) add(h *tar.Header, off, size int64) error {
	if len(h.Name) > maxName || len(h.Linkname) > maxName {
		return fmt.Errorf("tar entry %.50q… before offset %d: name over %d bytes: %w", h.Name, off, maxName, image.ErrMalformed)
	}
	e := &tarEntry{off: off, size: h.Size}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont:
		if isSparse(h) {
			e.kind = tarSparse // h.Size is that of the unpacked file
		} else if h.Size > size-off {
			return fmt.Errorf("tar entry %q at offset %d: want %d bytes, file has %d: %w", h.Name, off, h.Size, max(size-off, 0), image.ErrMalformed)
		}
	case tar.TypeGNUSparse:
		e.kind = tarSparse
	case tar.TypeSymlink:
		e.kind = tarSymlink
	case tar.TypeLink:
		e.kind = tarLink
	case tar.TypeDir, tar.TypeXGlobalHeader:
		return nil
	default:
		e.kind = tarOther
	}
	name, ok := cleanTarName(h.Name)
	if !ok {
		return nil
	}
	if t.text += int64(len(name) + len(h.Linkname)); t.text > maxText {
		return t.tooLarge(fmt.Sprintf("names and links of over %d bytes together", maxText))
	}
	// A string of archive/tar may keep its whole PAX block, up to 1 MiB.
	e.link = strings.Clone(h.Linkname)
	e.older = t.entries[name]
	t.entries[strings.Clone(name)] = e
	return nil
}

// isSparse reports whether the content is a PAX sparse file: its map and its
// pieces, not its bytes.
func isSparse(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// cleanTarName returns name from the top of the tar: "./a//b" and "/a/b" are
// "a/b". It is not ok if it has a ".." or names the top itself.
func cleanTarName(name string) (string, bool) {
	for c := range strings.SplitSeq(name, "/") {
		if c == ".." {
			return "", false
		}
	}
	clean := path.Clean("/" + name)[1:]
	return clean, clean != ""
}

func (t *tarFiles) find(name string) (*member, error) {
	todo, err := checkName(name)
	if err != nil {
		return nil, err
	}
	escape := func() error {
		return fmt.Errorf("%q leads out of the archive through a link: %w", name, image.ErrMalformed)
	}
	at := "" // where the walk stands
	for hops := 0; len(todo) > 0; {
		next := todo[0]
		todo = todo[1:]
		switch next {
		case "", ".":
			continue
		case "..":
			if at == "" {
				return nil, escape()
			}
			at = strings.TrimPrefix(path.Dir("/"+at), "/")
			continue
		}
		next = path.Join(at, next)
		e := t.entries[next]
		if e == nil || e.kind != tarSymlink && e.kind != tarLink {
			at = next
			continue
		}
		if hops++; hops > maxHops {
			return nil, fmt.Errorf("%q: over %d links: %w", name, maxHops, image.ErrMalformed)
		}
		if e.kind == tarLink {
			target, ok := cleanTarName(e.link)
			if !ok {
				return nil, escape()
			}
			at, todo = "", append(strings.Split(target, "/"), todo...)
			continue
		}
		if path.IsAbs(e.link) {
			return nil, escape()
		}
		todo = append(strings.Split(e.link, "/"), todo...)
	}
	e := t.entries[at]
	if e == nil {
		return nil, fmt.Errorf("%q: %w", name, fs.ErrNotExist)
	}
	return t.member(name, e)
}

// member returns the content of e, and of those it came after.
func (t *tarFiles) member(name string, e *tarEntry) (*member, error) {
	switch e.kind {
	case tarSparse:
		return nil, fmt.Errorf("%q is stored as a sparse file: %w", name, image.ErrMalformed)
	case tarOther:
		return nil, fmt.Errorf("%q is not a regular file: %w", name, image.ErrMalformed)
	}
	var first, last *member
	for ; e != nil; e = e.older {
		if e.kind != tarFile {
			continue
		}
		m := &member{at: t.at, path: t.path, off: e.off, size: e.size}
		if first == nil {
			first = m
		} else {
			last.shadowed = m
		}
		last = m
	}
	return first, nil
}

func (t *tarFiles) names(yield func(string)) {
	for name := range t.entries {
		yield(name)
	}
}

func (t *tarFiles) Close() error {
	if c, ok := t.at.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// headerReader gives archive/tar the headers with few reads: it keeps a
// window of the file, and seeks over content without reading it.
type headerReader struct {
	at     io.ReaderAt
	size   int64
	off    int64 // the next byte to be read
	window []byte
	start  int64 // of window
	buf    [4096]byte
}

func (r *headerReader) Read(p []byte) (int, error) {
	if r.off >= r.size {
		return 0, io.EOF
	}
	if r.off < r.start || r.off >= r.start+int64(len(r.window)) {
		want := min(int64(len(r.buf)), r.size-r.off)
		n, err := r.at.ReadAt(r.buf[:want], r.off)
		if n == 0 {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF // the file shrank
			}
			return 0, err
		}
		r.start, r.window = r.off, r.buf[:n]
	}
	n := copy(p, r.window[r.off-r.start:])
	r.off += int64(n)
	return n, nil
}

func (r *headerReader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.off
	case io.SeekEnd:
		offset += r.size
	}
	if offset < 0 {
		return 0, errors.New("seek before the start")
	}
	r.off = offset
	return offset, nil
}
