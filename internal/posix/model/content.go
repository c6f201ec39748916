// SPDX-License-Identifier: Apache-2.0

package model

import (
	"archive/tar"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// An entry is one name of the content that a sequence begins with. Parents
// come before children, hard links after what they name.
type entry struct {
	name     string // "." is the root
	typ      byte   // as in a tar
	mode     uint32 // permission bits, setuid, setgid, sticky
	uid, gid int
	data     []extent
	size     int64
	link     string // target of a symlink or hard link
	dev      [2]uint32
	xattrs   map[string]string
	mtime    time.Time
}

// An extent is n bytes at off that follow from seed; what no extent covers is
// a hole.
type extent struct {
	off, n int64
	seed   uint64
}

// bytes returns the content of a regular file.
func (e *entry) bytes() []byte {
	buf := make([]byte, e.size)
	for _, x := range e.data {
		fill(buf[x.off:x.off+x.n], x.seed)
	}
	return buf
}

// fill fills buf with bytes that follow from seed; few of them are zero.
func fill(buf []byte, seed uint64) {
	x := seed*0x9e3779b97f4a7c15 + 1
	for len(buf) > 0 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		var w [8]byte
		binary.LittleEndian.PutUint64(w[:], x)
		buf = buf[copy(buf, w[:]):]
	}
}

// capability is security.capability for cap_net_raw=ep, version 2.
const capability = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// contents returns what a sequence of this seed begins with. A user other
// than root gets what such a user may make.
func contents(seed uint64) []entry {
	c := content{rnd: rand.New(rand.NewPCG(seed, 1)), root: isRoot()}
	c.system()
	c.files()
	c.links()
	c.special()
	c.many()
	return c.all
}

type content struct {
	rnd  *rand.Rand
	root bool
	all  []entry
}

// add appends e with a time of its own and, for root, the owner it names.
func (c *content) add(e entry) {
	if !c.root {
		e.uid, e.gid = os.Getuid(), os.Getgid()
		e.mode |= 0o600
		if e.typ == tar.TypeDir {
			e.mode |= 0o700
		}
		maps.DeleteFunc(e.xattrs, func(name, _ string) bool { return !strings.HasPrefix(name, "user.") })
	}
	if e.mtime.IsZero() {
		e.mtime = time.Unix(1_000_000_000+c.rnd.Int64N(500_000_000), c.rnd.Int64N(1e9))
	}
	c.all = append(c.all, e)
}

func (c *content) dir(name string, mode uint32, uid, gid int) {
	c.add(entry{name: name, typ: tar.TypeDir, mode: mode, uid: uid, gid: gid})
}

func (c *content) file(name string, mode uint32, uid, gid int, size int64) {
	e := entry{name: name, typ: tar.TypeReg, mode: mode, uid: uid, gid: gid, size: size}
	if size > 0 {
		e.data = []extent{{0, size, c.rnd.Uint64()}}
	}
	c.add(e)
}

func (c *content) system() {
	c.dir(".", 0o755, 0, 0)
	for _, d := range []string{"etc", "usr", "usr/bin", "usr/lib", "var", "opt", "home"} {
		c.dir(d, 0o755, 0, 0)
	}
	c.dir("tmp", 0o1777, 0, 0)
	c.dir("home/u", 0o755, 1000, 1000)
	c.dir("home/v", 0o700, 1001, 1001)
	c.dir("share", 0o2775, 0, 2000)
	c.dir("closed", 0o700, 0, 0)
	c.dir("empty", 0o755, 1000, 1000)
}

// files are regular files of the sizes where things change: nothing, one
// byte, a block and around it, several MiB; and such with holes.
func (c *content) files() {
	for i, size := range []int64{0, 1, 100, 4095, 4096, 4097, 16 << 10, 70_000, 131_072, 300_001} {
		c.file(fmt.Sprintf("usr/lib/f%d", i), 0o644, 0, 0, size)
		c.file(fmt.Sprintf("home/u/f%d", i), 0o644, 1000, 1000, size)
	}
	c.file("opt/big", 0o644, 0, 0, 3<<20+c.rnd.Int64N(1<<20))
	c.file("home/u/big", 0o664, 1000, 2000, 2<<20+c.rnd.Int64N(1<<20))
	c.file("usr/bin/tool", 0o755, 0, 0, 20_000)
	c.file("usr/bin/suid", 0o4755, 0, 0, 9_000)
	c.file("home/u/suid", 0o6777, 1000, 1000, 9_000)
	c.file("share/sgid", 0o2775, 1000, 2000, 5_000)
	c.file("etc/secret", 0o000, 0, 0, 10)
	c.file("etc/"+strings.Repeat("n", 255), 0o600, 0, 0, 11)
	c.file("etc/od d\n\xff", 0o640, 0, 1000, 12)
	c.add(entry{name: "opt/sparse", typ: tar.TypeGNUSparse, mode: 0o644, size: 1<<20 + 5, mtime: time.Unix(1_234_567_890, 0),
		data: []extent{{64 << 10, 5_120, c.rnd.Uint64()}, {512 << 10, 8192, c.rnd.Uint64()}}})
	c.add(entry{name: "home/u/sparse", typ: tar.TypeGNUSparse, mode: 0o666, uid: 1000, gid: 1000, size: 200_000, mtime: time.Unix(1_234_567_891, 0),
		data: []extent{{0, 512, c.rnd.Uint64()}, {102_400, 1024, c.rnd.Uint64()}}})
	c.add(entry{name: "etc/attrs", typ: tar.TypeReg, mode: 0o644, uid: 1000, gid: 1000, xattrs: map[string]string{
		"user.one": "1", "user.empty": "", "user.long": strings.Repeat("x", 300), "trusted.t": "t"}})
	c.add(entry{name: "usr/bin/cap", typ: tar.TypeReg, mode: 0o755, size: 3, data: []extent{{0, 3, 5}},
		xattrs: map[string]string{"security.capability": capability}})
	c.add(entry{name: "var/attrs", typ: tar.TypeDir, mode: 0o777, xattrs: map[string]string{"user.d": "dir", "trusted.d": "\x00\xff"}})
}

func (c *content) links() {
	hard := func(name, to string) {
		at := slices.IndexFunc(c.all, func(e entry) bool { return e.name == to })
		e := c.all[at]
		e.name, e.typ, e.link, e.data = name, tar.TypeLink, to, nil
		c.all = append(c.all, e)
	}
	soft := func(name, to string) {
		c.add(entry{name: name, typ: tar.TypeSymlink, mode: 0o777, link: to})
	}
	soft("lib", "usr/lib")
	soft("etc/up", "../home/u")
	soft("etc/dangling", "no/such/name")
	soft("etc/loop", "loop")
	soft("home/u/self", ".")
	soft("etc/long", strings.Repeat("l", 200)+"/"+strings.Repeat("m", 200))
	hard("usr/lib/h3", "usr/lib/f3")
	hard("etc/h3", "usr/lib/f3")
	hard("home/u/h7", "home/u/f7")
	hard("opt/hbig", "opt/big")
	hard("etc/hdangling", "etc/dangling")
}

func (c *content) special() {
	c.add(entry{name: "var/fifo", typ: tar.TypeFifo, mode: 0o666})
	if !c.root {
		return
	}
	c.add(entry{name: "var/null", typ: tar.TypeChar, mode: 0o666, dev: [2]uint32{1, 3}})
	c.add(entry{name: "var/zero0", typ: tar.TypeChar, mode: 0o600, dev: [2]uint32{0, 0}})
	c.add(entry{name: "var/disk", typ: tar.TypeBlock, mode: 0o660, gid: 6, dev: [2]uint32{8, 300}})
}

// many are a directory with many names and one that lies deep.
func (c *content) many() {
	c.dir("var/many", 0o777, 0, 0)
	for i := range 150 {
		c.file(fmt.Sprintf("var/many/%03d-%x", i, c.rnd.Uint32()), 0o644, 1000, 1000, int64(i%7))
	}
	deep := "var/deep"
	for i := range 20 {
		c.dir(deep, 0o777, i%2*1000, 0)
		deep = path.Join(deep, "d")
	}
	c.file(deep, 0o666, 0, 0, 100)
}

// Populate lays the content for seed out in dir, which is empty and becomes
// the root of a Tree.
func Populate(dir string, seed uint64) error {
	all := contents(seed)
	for i := range all {
		if err := lay(dir, &all[i]); err != nil {
			return fmt.Errorf("%q: %w", all[i].name, err)
		}
	}
	for i := range slices.Backward(all) { // children change their parents' times
		ts := unix.NsecToTimespec(all[i].mtime.UnixNano())
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, path.Join(dir, all[i].name), []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("%q: %w", all[i].name, err)
		}
	}
	return nil
}

func lay(dir string, e *entry) error {
	name := path.Join(dir, e.name)
	var err error
	switch e.typ {
	case tar.TypeDir:
		if e.name != "." {
			err = unix.Mkdir(name, 0o700)
		}
	case tar.TypeSymlink:
		err = unix.Symlink(e.link, name)
	case tar.TypeLink:
		return unix.Linkat(unix.AT_FDCWD, path.Join(dir, e.link), unix.AT_FDCWD, name, 0)
	case tar.TypeFifo:
		err = unix.Mkfifo(name, 0o600)
	case tar.TypeChar:
		err = unix.Mknod(name, unix.S_IFCHR|0o600, int(unix.Mkdev(e.dev[0], e.dev[1])))
	case tar.TypeBlock:
		err = unix.Mknod(name, unix.S_IFBLK|0o600, int(unix.Mkdev(e.dev[0], e.dev[1])))
	default:
		err = layFile(name, e)
	}
	if err == nil {
		err = unix.Lchown(name, e.uid, e.gid)
	}
	if err == nil && e.typ != tar.TypeSymlink {
		err = unix.Chmod(name, e.mode)
	}
	for _, k := range slices.Sorted(maps.Keys(e.xattrs)) {
		if err == nil {
			err = unix.Lsetxattr(name, k, []byte(e.xattrs[k]), 0)
		}
	}
	return err
}

func layFile(name string, e *entry) (err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	for _, x := range e.data {
		buf := make([]byte, x.n)
		fill(buf, x.seed)
		if _, err := f.WriteAt(buf, x.off); err != nil {
			return err
		}
	}
	return f.Truncate(e.size)
}

// WriteTar writes the content for seed as a layer: what Populate lays out.
func WriteTar(w io.Writer, seed uint64) error {
	tw := tar.NewWriter(w)
	all := contents(seed)
	for i := range all {
		e := &all[i]
		var err error
		if e.typ == tar.TypeGNUSparse {
			if err = tw.Flush(); err == nil {
				err = writeSparse(w, e)
			}
		} else {
			err = writeEntry(tw, e)
		}
		if err != nil {
			return fmt.Errorf("%q: %w", e.name, err)
		}
	}
	return tw.Close()
}

func writeEntry(tw *tar.Writer, e *entry) error {
	h := &tar.Header{
		Typeflag: e.typ, Name: e.name, Linkname: e.link, Mode: int64(e.mode), Uid: e.uid, Gid: e.gid,
		ModTime: e.mtime, Format: tar.FormatPAX, Devmajor: int64(e.dev[0]), Devminor: int64(e.dev[1]),
	}
	if e.typ == tar.TypeDir {
		h.Name += "/"
	}
	for k, v := range e.xattrs {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords["SCHILY.xattr."+k] = v
	}
	if e.typ == tar.TypeReg {
		h.Size = e.size
	}
	if err := tw.WriteHeader(h); err != nil || e.typ != tar.TypeReg {
		return err
	}
	_, err := tw.Write(e.bytes())
	return err
}

// writeSparse writes e with the sparse header of old GNU tar, which has room
// for four extents; archive/tar does not write such.
func writeSparse(w io.Writer, e *entry) error {
	var h [512]byte
	octal := func(at, n int, v int64) { copy(h[at:at+n-1], fmt.Sprintf("%0*o", n-1, v)) }
	copy(h[0:100], e.name)
	octal(100, 8, int64(e.mode))
	octal(108, 8, int64(e.uid))
	octal(116, 8, int64(e.gid))
	octal(136, 12, e.mtime.Unix())
	h[156] = tar.TypeGNUSparse
	copy(h[257:], "ustar  \x00")
	var stored int64
	for i, x := range append(slices.Clone(e.data), extent{off: e.size}) {
		octal(386+24*i, 12, x.off)
		octal(386+24*i+12, 12, x.n)
		stored += x.n
	}
	octal(124, 12, stored)
	octal(483, 12, e.size)
	copy(h[148:156], "        ")
	sum := int64(0)
	for _, b := range h {
		sum += int64(b)
	}
	copy(h[148:156], fmt.Sprintf("%06o\x00 ", sum))
	if _, err := w.Write(h[:]); err != nil {
		return err
	}
	buf := make([]byte, 0, stored+512)
	for _, x := range e.data {
		buf = buf[:int64(len(buf))+x.n]
		fill(buf[int64(len(buf))-x.n:], x.seed)
	}
	_, err := w.Write(append(buf, make([]byte, -stored&511)...))
	return err
}
