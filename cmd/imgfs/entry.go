// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs/forensics"
	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/term"
	"github.com/imgfs/imgfs/unionfs"
)

// dirSize is the size that a mount shows of a directory.
const dirSize = 4096

// An entry is a name of a directory, with its inode as a mount shows it.
type entry struct {
	name   string
	id     index.NodeID
	node   index.Node
	target string // of a symlink
}

// newEntry reads the inode id, which is called name.
func newEntry(f *unionfs.FS, name string, id index.NodeID) (entry, error) {
	e := entry{name: name, id: id}
	if err := f.Tree.Node(id, &e.node); err != nil {
		return e, err
	}
	if e.node.IsDir() {
		e.node.Size = dirSize
	}
	if e.node.Type() == index.ModeSymlink {
		target, err := f.Tree.Target(&e.node)
		if err != nil {
			return e, err
		}
		e.target = string(target)
	}
	return e, nil
}

// readDir returns the entries of directory id, sorted by name.
func readDir(f *unionfs.FS, id index.NodeID) ([]entry, error) {
	d, err := f.Tree.ReadDir(id, 0)
	if err != nil {
		return nil, err
	}
	var list []entry
	for {
		dirent, ok, err := d.Next()
		if err != nil {
			return nil, err
		}
		if !ok {
			break
		}
		e, err := newEntry(f, string(dirent.Name), dirent.ID)
		if err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b entry) int { return cmp.Compare(a.name, b.name) })
	return list, nil
}

// hidden reports whether name is shown with -a only.
func hidden(name string) bool { return strings.HasPrefix(name, ".") }

// childPath returns the path of name in dir.
func childPath(dir, name string) string {
	if strings.HasSuffix(dir, "/") {
		return dir + name
	}
	return dir + "/" + name
}

// modeString returns a mode as ls -l writes it: drwxr-xr-x.
func modeString(mode uint32) string {
	b := []byte("?rwxrwxrwx")
	switch mode & index.ModeType {
	case index.ModeDir:
		b[0] = 'd'
	case index.ModeSymlink:
		b[0] = 'l'
	case index.ModeChar:
		b[0] = 'c'
	case index.ModeBlock:
		b[0] = 'b'
	case index.ModeFIFO:
		b[0] = 'p'
	case index.ModeSocket:
		b[0] = 's'
	case index.ModeRegular:
		b[0] = '-'
	}
	for i := range 9 {
		if mode&(1<<(8-i)) == 0 {
			b[1+i] = '-'
		}
	}
	special := func(bit uint32, at int, with, without byte) {
		if mode&bit == 0 {
			return
		}
		if b[at] == 'x' {
			b[at] = with
		} else {
			b[at] = without
		}
	}
	special(unix.S_ISUID, 3, 's', 'S')
	special(unix.S_ISGID, 6, 's', 'S')
	special(unix.S_ISVTX, 9, 't', 'T')
	return string(b)
}

func mtime(n *index.Node) time.Time { return time.Unix(n.Mtime, int64(n.MtimeNsec)) }

func isDevice(n *index.Node) bool {
	return n.Type() == index.ModeChar || n.Type() == index.ModeBlock
}

func major(n *index.Node) uint32 { return unix.Major(uint64(n.Rdev)) }
func minor(n *index.Node) uint32 { return unix.Minor(uint64(n.Rdev)) }

// blocks returns how many blocks of 512 bytes a mount says that n takes.
func blocks(f *unionfs.FS, n *index.Node) (int64, error) {
	switch {
	case n.IsDir():
		return dirSize / 512, nil
	case !n.IsRegular():
		return 0, nil
	}
	extents, sparse, err := f.Tree.Extents(n)
	if err != nil {
		return 0, err
	}
	bytes := n.Size
	if sparse {
		bytes = 0
		for i := range extents.Len() {
			bytes += extents.At(i).Len
		}
	}
	if bytes > 1<<62 {
		return 1 << 53, nil
	}
	return (bytes + 511) / 512, nil
}

// A fileInfo is what ls and stat print of an inode as JSON. Bytes that are
// not UTF-8 are replaced in a string and told whole by the field …Base64.
type fileInfo struct {
	Path       string `json:"path"`
	PathBase64 string `json:"path_base64,omitempty"`
	forensics.FileInfo
	Major uint32 `json:"major,omitempty"`
	Minor uint32 `json:"minor,omitempty"`
	Inode uint32 `json:"inode"`
	Layer int    `json:"layer"` // 0 is the base
}

func newFileInfo(path string, e *entry) fileInfo {
	n := &e.node
	i := fileInfo{
		Path: path, PathBase64: term.Base64(path), Inode: uint32(e.id), Layer: n.Layer,
		FileInfo: *forensics.NewFileInfo(&forensics.Entry{
			Mode: n.Mode, Nlink: n.Nlink, UID: n.UID, GID: n.GID, Size: n.Size, Mtime: n.Mtime, MtimeNsec: n.MtimeNsec, Target: e.target, Layer: -1,
		}),
	}
	if isDevice(n) {
		i.Major, i.Minor = major(n), minor(n)
	}
	return i
}

// An xattr is an extended attribute as JSON.
type xattr struct {
	Name       string `json:"name"`
	NameBase64 string `json:"name_base64,omitempty"`
	Value      []byte `json:"value_base64"`
}

func readXattrs(f *unionfs.FS, n *index.Node) ([]xattr, error) {
	var list []xattr
	err := f.Tree.EachXattr(n, func(name, value []byte) bool {
		list = append(list, xattr{string(name), term.Base64(string(name)), bytes.Clone(value)})
		return true
	})
	return list, err
}
