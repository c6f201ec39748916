// SPDX-License-Identifier: Apache-2.0

package model

import (
	"math/rand/v2"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A generator makes operations up. It looks at the trusted side for names that
// exist, so that most operations meet something; the operations themselves
// are complete and can be run without it.
type generator struct {
	rnd      *rand.Rand
	root     bool
	remounts bool
	did      []op

	known  []known // as of the last survey, and what was made since
	dirs   []string
	recent []string // paths used last
	isOpen [slots]bool
	isDir  [slots]bool
	age    int // operations since the last survey
}

type known struct {
	path string
	typ  byte // as in a dirent
}

func newGenerator(seed uint64, remounts bool) *generator {
	return &generator{rnd: rand.New(rand.NewPCG(seed, 2)), root: isRoot(), remounts: remounts, age: 1 << 30}
}

// next returns an operation.
func (g *generator) next(s *side) op {
	if g.age++; g.age > 80 {
		g.survey(s)
	}
	n := g.rnd.IntN(totalWeight)
	for _, w := range weights {
		if n -= w.weight; n < 0 {
			o := w.make(g)
			g.finish(&o)
			return o
		}
	}
	panic("model: internal error: weights")
}

// finish says who does o and from where, and keeps an ordinary user's run to
// what an ordinary user may do.
func (g *generator) finish(o *op) {
	for _, p := range []string{o.P, o.Q} {
		if p != "" && len(p) < 200 {
			g.recent = append(g.recent, p)
		}
	}
	if len(g.recent) > 12 {
		g.recent = g.recent[len(g.recent)-12:]
	}
	if o.Kind == "check" || o.Kind == "remount" || o.Kind == "umask" {
		return
	}
	if g.root {
		switch n := g.rnd.IntN(100); {
		case n < 22:
			o.As = 1
		case n < 30:
			o.As = 2
		}
		if (o.Kind == "chown" || o.Kind == "fchown") && o.UID == -1 && o.GID == -1 {
			o.As = 0 // FUSE cannot tell it from a write where the file is open; see the suite
		}
	} else {
		o.Mode |= ownerMay[o.Kind]
		if o.Kind == "access" {
			o.Mode &= unix.R_OK | unix.W_OK // nor is it told what modes say
		}
		for _, p := range []*string{&o.P, &o.Q, &o.S} { // nothing confines its paths
			*p = strings.ReplaceAll(*p, "..", "x")
		}
	}
	if g.chance(6) {
		for i := range slots {
			if g.isDir[i] && o.FD != i {
				o.At = i + 1
				o.P = path.Base(o.P)
			}
		}
	}
}

// ownerMay are the permissions that an ordinary user's run never takes from
// itself: a mount that does not enforce modes would differ.
var ownerMay = map[string]uint32{
	"mkdir": 0o700, "mknod": 0o600, "open": 0o600, "tmpfile": 0o600, "writefile": 0o600, "chmod": 0o700, "fchmod": 0o700,
}

// learn takes notes of what o brought.
func (g *generator) learn(o op, out string) {
	switch o.Kind {
	case "open", "tmpfile":
		g.isOpen[o.FD] = strings.Contains(out, "nlink=")
		g.isDir[o.FD] = g.isOpen[o.FD] && strings.HasPrefix(out, "04")
	case "close":
		g.isOpen[o.FD], g.isDir[o.FD] = false, false
	case "remount":
		g.isOpen, g.isDir = [slots]bool{}, [slots]bool{}
	case "mkdir":
		if out == "ok" && o.At == 0 {
			g.known = append(g.known, known{o.P, unix.DT_DIR})
			g.dirs = append(g.dirs, o.P)
		}
	case "rmtree", "removesome":
		g.age = 1 << 30
	}
}

// survey lists the trusted side.
func (g *generator) survey(s *side) {
	g.age, g.known, g.dirs = 0, g.known[:0], []string{"."}
	var walk func(at int, name string)
	walk = func(at int, name string) {
		fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_NOATIME|unix.O_CLOEXEC, 0)
		if err != nil {
			return
		}
		defer unix.Close(fd)
		all, err := list(fd, 32<<10, 0)
		if err != nil {
			return
		}
		slices.SortFunc(all, func(x, y dirent) int { return strings.Compare(x.name, y.name) })
		dir := g.dirs[len(g.dirs)-1]
		for _, d := range all {
			if d.name == "." || d.name == ".." {
				continue
			}
			p := path.Join(dir, d.name)
			g.known = append(g.known, known{p, d.typ})
			if d.typ == unix.DT_DIR && len(p) < 1500 {
				g.dirs = append(g.dirs, p)
				walk(fd, d.name)
			}
		}
	}
	walk(s.root, ".")
}

func (g *generator) chance(percent int) bool { return g.rnd.IntN(100) < percent }

func pick[T any](g *generator, from ...T) T { return from[g.rnd.IntN(len(from))] }

// existing returns the path of a file, directory, symlink or anything.
func (g *generator) existing(types ...byte) string {
	if g.chance(25) && len(g.recent) > 0 {
		return pick(g, g.recent...)
	}
	for range 20 {
		// A directory first, so that big ones do not get everything.
		dir := pick(g, g.dirs...)
		at := g.rnd.IntN(len(g.known) + 1)
		for range 50 {
			if at == len(g.known) {
				at = 0
			}
			if len(g.known) == 0 {
				break
			}
			k := g.known[at]
			if (len(types) == 0 || slices.Contains(types, k.typ)) && (path.Dir(k.path) == dir || g.chance(10)) {
				return g.odd(k.path)
			}
			at++
		}
	}
	return "."
}

var pool = []string{"a", "b", "c", "d", "e", "file", "x y", "\xff\xfe", "\u00fc", "new", ".hidden", strings.Repeat("w", 255)}

// fresh returns the path of what may not exist yet.
func (g *generator) fresh() string {
	dir := pick(g, g.dirs...)
	if g.chance(60) {
		dir = pick(g, "home/u", "tmp", "share", ".", "usr/lib", "home/u/a", "tmp/b")
	}
	name := pick(g, pool...)
	switch {
	case g.chance(1):
		name = strings.Repeat("z", 256)
	case g.chance(1):
		name = pick(g, ".", "..", "")
	case g.chance(1):
		return strings.Repeat("./", 2100) + name
	}
	return g.odd(dir + "/" + name)
}

// odd makes some paths less plain.
func (g *generator) odd(p string) string {
	switch n := g.rnd.IntN(60); n {
	case 0:
		return p + "/"
	case 1:
		return "./" + p
	case 2:
		return strings.Replace(p, "/", "//", 1)
	case 3:
		return p + "/x"
	case 4:
		return p + "/."
	case 5:
		return strings.Replace(p, "home/u", "etc/up", 1)
	case 6:
		return path.Dir(p) + "/../" + path.Base(path.Dir(p)) + "/" + path.Base(p)
	}
	return p
}

func (g *generator) anyPath() string {
	if g.chance(85) {
		return g.existing()
	}
	return g.fresh()
}

func (g *generator) file() string { return g.existing(unix.DT_REG, unix.DT_REG, unix.DT_LNK) }
func (g *generator) dir() string  { return g.existing(unix.DT_DIR) }

// slot returns a slot, nearly always one that is open.
func (g *generator) slot() int {
	for range 10 {
		if i := g.rnd.IntN(slots); g.isOpen[i] {
			return i
		}
	}
	return g.rnd.IntN(slots)
}

// off returns an offset near where something changes.
func (g *generator) off() int64 {
	switch n := g.rnd.IntN(20); {
	case n < 4:
		return 0
	case n < 12:
		return max(0, pick[int64](g, 1, 2, 3, 8, 16, 17, 32, 73)*4096+g.rnd.Int64N(5)-2)
	case n < 16:
		return g.rnd.Int64N(20_000)
	case n < 19:
		return g.rnd.Int64N(400_000)
	}
	return g.rnd.Int64N(5 << 20)
}

func (g *generator) length() int64 {
	switch n := g.rnd.IntN(20); {
	case n < 1:
		return 0
	case n < 6:
		return 1 + g.rnd.Int64N(100)
	case n < 11:
		return pick[int64](g, 4095, 4096, 4097, 8192, 12288)
	case n < 18:
		return g.rnd.Int64N(30_000)
	}
	return g.rnd.Int64N(300_000)
}

func (g *generator) size() int64 {
	if g.chance(2) {
		return 1<<32 + g.rnd.Int64N(1<<33)
	}
	return g.off()
}

// mode returns permissions. Setgid on a file that the group may not execute
// (mandatory locks, once) never comes to be: who clears it when is different
// from filesystem to filesystem, and FUSE has rules of its own.
func (g *generator) mode() uint32 {
	m := uint32(pick(g, 0o644, 0o600, 0o755, 0o777, 0o666, 0o640, 0o000, 0o444, 0o511, 0o070, 0o007))
	if g.chance(20) {
		m |= uint32(pick(g, 0o4000, 0o2000, 0o1000, 0o6000, 0o7000, 0o2010))
	}
	if m&0o2000 != 0 {
		m |= 0o010
	}
	return m
}

func (g *generator) id() int { return pick(g, 0, 1000, 1001, 2000, -1, 1000, 65_534, 3_000_000_000) }

// time returns seconds and nanoseconds far from the present, or what stands
// for now and for no change.
func (g *generator) time() (int64, int64) {
	switch g.rnd.IntN(6) {
	case 0:
		return 0, unix.UTIME_NOW
	case 1:
		return 0, unix.UTIME_OMIT
	case 2:
		return -g.rnd.Int64N(2_000_000_000), g.rnd.Int64N(1e9)
	case 3:
		return 4_000_000_001 + g.rnd.Int64N(2_000_000_000), g.rnd.Int64N(1e9)
	}
	return g.rnd.Int64N(1_700_000_000), pick(g, 0, 1, 999_999_999, g.rnd.Int64N(1e9))
}

// xattr returns a name and a value; few and short, since ext4 keeps all of an
// inode's in one block.
func (g *generator) xattr() (string, string) {
	value := strings.Repeat(pick(g, "v", "\x00", "w\xff"), g.rnd.IntN(60))
	name := pick(g, "user.one", "user.two", "user.three", "user.empty")
	if !g.root {
		return name, value
	}
	switch g.rnd.IntN(12) {
	case 0, 1:
		return pick(g, "trusted.t", "trusted.u"), value
	case 2:
		return "security.capability", capability
	case 3, 4, 5:
		return "system.posix_acl_access", g.acl()
	case 6, 7:
		return "system.posix_acl_default", g.acl()
	case 8:
		return pick(g, "user.", "bad", "nope.x", "user."+strings.Repeat("n", 251), "security.other"), value
	}
	return name, value
}

// acl returns an access control list, nearly always a valid one.
func (g *generator) acl() string {
	perm := func() byte { return byte(g.rnd.IntN(8)) }
	put := func(b []byte, tag, perm byte, id uint32) []byte {
		return append(b, tag, 0, perm, 0, byte(id), byte(id>>8), byte(id>>16), byte(id>>24))
	}
	const none = 1<<32 - 1
	b := put([]byte{2, 0, 0, 0}, 1, perm()|6, none)
	if g.chance(70) {
		b = put(b, 2, perm(), 1000)
		if g.chance(30) {
			b = put(b, 2, perm(), 1001)
		}
		b = put(b, 4, perm()|1, none)
		if g.chance(50) {
			b = put(b, 8, perm(), 2000)
		}
		b = put(b, 16, perm()|1, none)
	} else {
		b = put(b, 4, perm()|1, none)
	}
	b = put(b, 32, perm(), none)
	switch g.rnd.IntN(30) {
	case 0:
		b = b[:len(b)-8]
	case 1:
		b[0] = 1
	}
	return string(b)
}
