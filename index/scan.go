// SPDX-License-Identifier: Apache-2.0

package index

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
)

// Limits of what an image may hold. Zero means the default.
type Limits struct {
	Size    int64 // bytes of a layer, uncompressed; default 1 TiB
	Entries int64 // tar entries of a layer; default 50 million
}

const (
	defaultSize    = 1 << 40
	defaultEntries = 50_000_000

	maxName       = 255
	maxPath       = 4096
	maxComponents = 1024
	maxDepth      = 2048    // directories below each other, symlinks followed
	maxImplied    = 1 << 20 // implied directories, and four more an entry: each costs memory, its name may have one byte
	maxOddName    = 1024
	maxTarget     = 4095
	maxXattr      = 64 << 10
	maxHops       = 40
	maxSteps      = 4096    // names on one way, symlinks followed
	maxText       = 1 << 30 // bytes of names, targets, xattrs and sparse maps of a layer

	// epollHack is a name in the root that go-fuse's servers take for themselves.
	epollHack = ".go-fuse-epoll-hack"

	// MaxOddities is how many a table keeps; Meta.Odd counts all.
	MaxOddities = 1000
)

// Scan reads the uncompressed tar of one layer from r to its end and writes
// the layer's table to the new file path. Where r is an io.Seeker, content is
// leapt over. The layer is applied alone to an empty directory; its whiteouts
// become marks. The error is a *LayerError (an ErrBadLayer) where the tar
// breaks a rule, else that of r or of the file; then there is no file.
func Scan(r io.Reader, path string, limits Limits) (*Meta, error) {
	return ScanFiles(context.Background(), r, path, limits, nil)
}

// A File says where the content of a regular file lies in the tar of its layer.
type File struct {
	Header int64    // offset of the tar header
	Size   int64    // bytes, holes included
	Data   int64    // offset of the content as it is packed in the tar
	Packed int64    // bytes of it
	Runs   []Extent // of a sparse file: what is packed, one after another, in order; nil for another
}

// ScanFiles is Scan. It also calls each, if that is not nil, for every regular
// file in the order of the tar, before it reads on behind the file's header.
// If path is "" no table is written. When ctx ends, so does the writing of the
// table; reading ends when r fails.
func ScanFiles(ctx context.Context, r io.Reader, path string, limits Limits, each func(*File)) (*Meta, error) {
	s := newScanner(r, limits)
	s.each = each
	if err := s.scan(); err != nil {
		return nil, err
	}
	if path == "" {
		return s.meta(), nil
	}
	w, err := Create[EntryID](path)
	if err != nil {
		return nil, err
	}
	m, err := s.write(ctx, w)
	if err != nil {
		w.Abort()
		return nil, err
	}
	return m, nil
}

// A scanner holds a layer in memory while its tar is read.
type scanner struct {
	in      *blockReader
	limits  Limits
	nodes   list[scanNode] // number i is EntryID i+1
	links   list[link]
	byName  nameTable   // of links
	targets []string    // of symlinks and open hard links; Node.addr indexes
	extras  []scanExtra // Node.extra-1 indexes

	oddities []Oddity
	odd      int
	openLink int
	entries  int64 // of the tar, so far
	implied  int64 // directories without an entry when they were made
	bytes    int64
	text     int64 // bytes of names, targets, xattrs and sparse maps so far

	off  int64  // header of the entry at hand
	name string // its name as written

	each   func(*File) // may be nil
	oracle bool        // tests: archive/tar reads every header

	// Where the names before led, as long as that holds.
	lastDir string
	lastID  EntryID // 0: nowhere

	block [512]byte  // what next reads
	head  tar.Header // what next returns, if it was plain
	path  []byte     // scratch of parse
	parts []string   // scratch of clean
}

type scanNode struct {
	Node
	first, last uint32 // links of a directory + 1, in order of first mention; 0 = none
	depth       uint16
}

// A link is a name in a directory.
type link struct {
	name     string
	dir      EntryID
	node     EntryID // 0: only a whiteout
	next     uint32  // + 1
	hash     uint32
	whiteout bool
}

type scanExtra struct {
	xattrs  []Xattr
	extents []Extent
}

func newScanner(r io.Reader, limits Limits) *scanner {
	if limits.Size <= 0 {
		limits.Size = defaultSize
	}
	if limits.Entries <= 0 {
		limits.Entries = defaultEntries
	}
	s := &scanner{in: newBlockReader(r, limits.Size), limits: limits, byName: newNameTable()}
	s.addNode(Node{Mode: ModeDir | 0o755, Flags: FlagImplied, Parent: RootID}, 0)
	return s
}

func (s *scanner) node(id EntryID) *scanNode { return s.nodes.at(int(id) - 1) }

func (s *scanner) addNode(n Node, depth int) EntryID {
	s.nodes.push(scanNode{Node: n, depth: uint16(depth)})
	return EntryID(s.nodes.n)
}

func (s *scanner) report(rule, what string) {
	if s.odd++; s.odd <= MaxOddities {
		name := strings.Clone(s.name[:min(len(s.name), maxOddName)]) // not yet cleaned: may have a megabyte
		s.oddities = append(s.oddities, Oddity{s.off, name, rule, what})
	}
}

func (s *scanner) bad(format string, args ...any) error {
	return &LayerError{s.off, s.name, fmt.Errorf(format, args...)}
}

func (s *scanner) scan() error {
	for skip := int64(0); ; s.entries++ {
		start := s.off
		h, err := s.next(skip)
		if err == io.EOF {
			if b := s.in.block(s.off); b != nil && *b != [512]byte{} {
				return s.bad("extended headers without an entry")
			}
			return s.trailing()
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return s.readError(err)
		}
		if s.entries >= s.limits.Entries {
			return s.bad("more entries: %w of %d", ErrLimit, s.limits.Entries)
		}
		s.name = h.Name
		data := s.in.pos
		packed, extents, err := s.content(h, start, data)
		if err != nil {
			return err
		}
		before := s.nodes.n
		if err := s.entry(h, data, extents); err != nil {
			return err
		}
		if n := s.nodes.n; s.each != nil && n > before && s.node(EntryID(n)).IsRegular() {
			s.each(&File{s.off, h.Size, data, packed, extents})
		}
		if s.text > maxText {
			return s.bad("%d bytes of names, targets, xattrs and sparse maps: %w of %d", s.text, ErrLimit, maxText)
		}
		if int64(s.nodes.n) > s.limits.Entries+1 {
			return s.bad("more files and directories: %w of %d", ErrLimit, s.limits.Entries)
		}
		s.off = roundUp512(data + packed)
		skip = packed
	}
}

// readError says where the tar itself is broken; errors of the reader below
// pass as they are.
func (s *scanner) readError(err error) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &LayerError{s.in.pos, "", errors.New("the tar is cut short")}
	case errors.Is(err, tar.ErrHeader), errors.Is(err, tar.ErrFieldTooLong):
		return &LayerError{s.off, "", err}
	case errors.Is(err, ErrLimit):
		return &LayerError{s.in.pos, "", err}
	}
	if strings.HasPrefix(err.Error(), "archive/tar: ") {
		return &LayerError{s.off, "", err}
	}
	return err
}

// trailing reads what follows the end of the archive.
func (s *scanner) trailing() error {
	s.name, s.off = "", s.in.pos
	buf := make([]byte, 32<<10)
	found := false
	for {
		at := s.in.pos
		n, err := s.in.Read(buf)
		for i := 0; i < n && !found; i++ {
			if buf[i] != 0 {
				found = true
				s.off = at + int64(i)
				s.report("T6", "data after the end of the archive")
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return s.readError(err)
		}
	}
}

// content returns how many bytes of the tar the entry's content takes, and
// the data runs of a sparse file.
func (s *scanner) content(h *tar.Header, start, data int64) (int64, []Extent, error) {
	switch h.Typeflag {
	case tar.TypeLink, tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeDir, tar.TypeFifo:
		if h.Size != 0 && h.Typeflag == tar.TypeLink {
			return 0, nil, s.bad("a hard link with content")
		}
		if h.Size != 0 {
			s.report("T12", "a size where there is no content")
		}
		return 0, nil, nil
	case tar.TypeXGlobalHeader:
		return 0, nil, nil
	}
	if !isSparse(h) {
		return h.Size, nil, nil
	}
	extents, packed, err := s.in.sparseMap(h, start, data)
	if err != nil {
		return 0, nil, s.bad("%w", err)
	}
	return packed, extents, nil
}

// entry applies one tar entry to the layer.
func (s *scanner) entry(h *tar.Header, data int64, extents []Extent) error {
	var mode uint32
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		mode = ModeRegular
	case tar.TypeSymlink:
		mode = ModeSymlink
	case tar.TypeChar:
		mode = ModeChar
	case tar.TypeBlock:
		mode = ModeBlock
	case tar.TypeDir:
		mode = ModeDir
	case tar.TypeFifo:
		mode = ModeFIFO
	case tar.TypeLink:
	case tar.TypeXGlobalHeader:
		if h.PAXRecords["path"] != "" || h.PAXRecords["linkpath"] != "" {
			s.report("T4", "a global header with a path")
		}
		return nil
	default:
		s.report("T5", fmt.Sprintf("an entry of unknown type %q", h.Typeflag))
		return nil
	}
	parts, err := s.clean(h.Name)
	if err != nil {
		return err
	}
	if len(parts) == 0 {
		return s.rootEntry(h, mode)
	}
	base := parts[len(parts)-1]
	if len(parts) == 1 && base == epollHack {
		s.report("G1", "servers built on go-fuse answer this name by themselves")
	}
	parent, err := s.parent(h.Name, parts)
	if errors.Is(err, errLoop) {
		s.report("P10", "a symlink loop on the way")
		return nil
	} else if err != nil {
		return err
	}
	kind, hidden := classify(base)
	switch kind {
	case badMarker:
		return s.bad("bad whiteout")
	case hidesAll:
		s.node(parent).Flags |= FlagOpaque
		return nil
	case hidesName:
		s.links.at(s.link(parent, hidden)).whiteout = true
		return nil
	case hidesNothing:
		s.report("W9", "a whiteout of a whiteout")
	}
	if h.Typeflag == tar.TypeLink {
		return s.hardLink(parent, base, h.Linkname)
	}
	n, err := s.attributes(h, mode)
	if err != nil {
		return err
	}
	if mode == ModeRegular {
		n.Size, n.Data = h.Size, data
		if h.Size < 0 {
			return s.bad("size %d", h.Size)
		}
		s.bytes += min(h.Size, math.MaxInt64-s.bytes)
	}
	if err := s.extra(h, &n, extents); err != nil {
		return err
	}
	return s.place(parent, base, n)
}

// clean splits a name lexically; no parts are the root. They hold until the
// next call.
func (s *scanner) clean(name string) ([]string, error) {
	if name == "" {
		return nil, s.bad("empty name")
	}
	if strings.IndexByte(name, 0) >= 0 {
		return nil, s.bad("a NUL in a name") // GNU.sparse.name lets it through
	}
	if len(name) > maxPath {
		return nil, s.bad("path of %d bytes: %w of %d", len(name), ErrLimit, maxPath)
	}
	parts := s.parts[:0]
	up := false
	for part := range strings.SplitSeq(name, "/") {
		switch part {
		case "", ".":
		case "..":
			up = true
			if len(parts) > 0 {
				parts = parts[:len(parts)-1]
			}
		default:
			// A whiteout may hide the longest name.
			if n := len(strings.TrimPrefix(part, WhiteoutPrefix)); n > maxName {
				return nil, s.bad("name of %d bytes: %w of %d", n, ErrLimit, maxName)
			}
			parts = append(parts, part)
		}
	}
	s.parts = parts
	if len(parts) > maxComponents {
		return nil, s.bad("path of %d components: %w of %d", len(parts), ErrLimit, maxComponents)
	}
	if up {
		s.report("H10", "a name with ..")
	}
	for i, part := range parts {
		if i < len(parts)-1 && strings.HasPrefix(part, WhiteoutPrefix) {
			s.report("W20", "a name below a whiteout")
			break
		}
	}
	return parts, nil
}

// rootEntry gives the root the attributes of an entry that names it.
func (s *scanner) rootEntry(h *tar.Header, mode uint32) error {
	if mode != ModeDir {
		return s.bad("the root is not a directory here")
	}
	n, err := s.attributes(h, mode)
	if err != nil {
		return err
	}
	if err := s.extra(h, &n, nil); err != nil {
		return err
	}
	s.replaceDir(RootID, n)
	return nil
}

// replaceDir gives directory id the attributes of n and keeps its names.
func (s *scanner) replaceDir(id EntryID, n Node) {
	old := &s.node(id).Node
	n.Flags = old.Flags &^ FlagImplied
	n.Parent = old.Parent
	*old = n
}

var errLoop = errors.New("symlink loop")

// parent returns the directory that name, whose parts these are, lies in. Most
// entries lie where the one before did.
func (s *scanner) parent(name string, parts []string) (EntryID, error) {
	if len(parts) == 1 {
		return RootID, nil
	}
	last := len(parts) - 1
	dir, ok := strings.CutSuffix(strings.TrimRight(name, "/"), parts[last])
	if !ok || !strings.HasSuffix(dir, "/") { // the name ends in a dot or two
		return s.walk(parts[:last])
	}
	if s.lastID != 0 && dir == s.lastDir {
		return s.lastID, nil
	}
	id, err := s.walk(parts[:last])
	if err == nil {
		s.lastDir, s.lastID = dir, id
	}
	return id, err
}

// walk returns the directory that the parts lead to. What is missing is made
// as implied directories; symlinks of this layer are followed inside its root;
// a file on the way gives place to a directory.
func (s *scanner) walk(parts []string) (EntryID, error) {
	at, hops, steps := EntryID(RootID), 0, 0
	todo := parts
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		if steps++; steps > maxSteps {
			return 0, errLoop
		}
		switch name {
		case "", ".":
			continue
		case "..":
			at = EntryID(s.node(at).Parent)
			continue
		}
		if len(name) > maxName {
			return 0, s.bad("name of %d bytes on the way: %w of %d", len(name), ErrLimit, maxName)
		}
		l := s.links.at(s.link(at, name))
		id := l.node
		if id != 0 && s.node(id).IsDir() {
			at = id
			continue
		}
		if id != 0 && s.node(id).Type() == ModeSymlink {
			if hops++; hops > maxHops {
				return 0, errLoop
			}
			target := s.targets[s.node(id).addr]
			if strings.HasPrefix(target, "/") {
				at = RootID
			}
			todo = append(strings.Split(target, "/"), todo...)
			continue
		}
		if id != 0 {
			s.report("D5", "a file that names lie below gives place to a directory")
			s.lastID = 0
		}
		depth := int(s.node(at).depth) + 1
		if depth > maxDepth {
			return 0, s.bad("directories %d deep: %w of %d", depth, ErrLimit, maxDepth)
		}
		if s.implied++; s.implied > maxImplied+4*s.entries {
			return 0, s.bad("%d directories that are only implied: %w for %d entries", s.implied, ErrLimit, s.entries)
		}
		id = s.addNode(Node{Mode: ModeDir | 0o755, Flags: FlagImplied, Parent: uint32(at), Header: s.off}, depth)
		l.node = id
		at = id
	}
	return at, nil
}

// link returns the link of name in dir, made if it is not there.
func (s *scanner) link(dir EntryID, name string) int {
	l, hash, ok := s.byName.find(&s.links, dir, name)
	if ok {
		return l
	}
	s.text += int64(len(name))
	l = s.links.n
	s.links.push(link{name: s.byName.keep(name), dir: dir, hash: hash})
	s.byName.add(&s.links, l)
	d := s.node(dir)
	if d.first == 0 {
		d.first = uint32(l) + 1
	} else {
		s.links.at(int(d.last) - 1).next = uint32(l) + 1
	}
	d.last = uint32(l) + 1
	return l
}

// place puts n under a name; a directory over a directory keeps its names.
func (s *scanner) place(parent EntryID, name string, n Node) error {
	l := s.links.at(s.link(parent, name))
	if old := l.node; old != 0 {
		s.lastID = 0
		o := s.node(old)
		if o.Flags&FlagImplied == 0 {
			s.report("D1", "a name for the second time")
		} else if !n.IsDir() {
			s.report("D5", "a directory with names gives place to a file")
		}
		if o.IsDir() && n.IsDir() {
			s.replaceDir(old, n)
			return nil
		}
	}
	depth := int(s.node(parent).depth) + 1
	if depth > maxDepth {
		return s.bad("directories %d deep: %w of %d", depth, ErrLimit, maxDepth)
	}
	if n.IsDir() {
		n.Parent = uint32(parent)
	}
	l.node = s.addNode(n, depth)
	return nil
}

// attributes returns the node that a header describes, without content.
func (s *scanner) attributes(h *tar.Header, mode uint32) (Node, error) {
	n := Node{Mode: mode | uint32(h.Mode)&0o7777, Header: s.off}
	for _, id := range []int{h.Uid, h.Gid} {
		if id < 0 || int64(id) > math.MaxUint32 {
			return n, s.bad("owner %d", id)
		}
	}
	n.UID, n.GID = uint32(h.Uid), uint32(h.Gid)
	n.Mtime, n.MtimeNsec = h.ModTime.Unix(), uint32(h.ModTime.Nanosecond())
	switch mode {
	case ModeSymlink:
		if h.Linkname == "" {
			return n, s.bad("bad link: a symlink to nothing")
		}
		if len(h.Linkname) > maxTarget {
			return n, s.bad("link target of %d bytes: %w of %d", len(h.Linkname), ErrLimit, maxTarget)
		}
		n.Mode = ModeSymlink | 0o777
		n.addr, n.Size = uint64(len(s.targets)), int64(len(h.Linkname))
		s.targets = append(s.targets, strings.Clone(h.Linkname)) // not the PAX block around it
		s.text += int64(len(h.Linkname))
	case ModeChar, ModeBlock:
		if h.Devmajor < 0 || h.Devmajor >= 1<<12 || h.Devminor < 0 || h.Devminor >= 1<<20 {
			return n, s.bad("device %d:%d", h.Devmajor, h.Devminor)
		}
		// include/linux/kdev_t.h, new_encode_dev
		ma, mi := uint32(h.Devmajor), uint32(h.Devminor)
		n.Rdev = mi&0xff | ma<<8 | mi&^0xff<<12
	}
	return n, nil
}

const xattrPrefix = "SCHILY.xattr."

// extra keeps xattrs and the map of a sparse file.
func (s *scanner) extra(h *tar.Header, n *Node, extents []Extent) error {
	if len(h.PAXRecords) == 0 && extents == nil {
		return nil
	}
	var list []Xattr
	for _, k := range slices.Sorted(maps.Keys(h.PAXRecords)) {
		v := h.PAXRecords[k]
		name, ok := strings.CutPrefix(k, xattrPrefix)
		if !ok {
			if strings.HasPrefix(k, "LIBARCHIVE.xattr.") {
				s.report("X5", "an xattr in libarchive's form is ignored")
			}
			continue
		}
		if t := n.Type(); t != ModeRegular && t != ModeDir && strings.HasPrefix(name, "user.") {
			s.report("X7", "a user xattr on neither a file nor a directory is ignored")
			continue
		}
		if name == "" || len(name) > maxName || strings.IndexByte(name, 0) >= 0 {
			return s.bad("xattr name of %d bytes: %w of %d", len(name), ErrLimit, maxName)
		}
		if len(v) > maxXattr {
			return s.bad("xattr %s of %d bytes: %w of %d", quote(name), len(v), ErrLimit, maxXattr)
		}
		list = append(list, Xattr{strings.Clone(name), []byte(v)})
		s.text += int64(len(name) + len(v))
	}
	s.text += extentSize * int64(len(extents))
	if list == nil && extents == nil {
		return nil
	}
	s.extras = append(s.extras, scanExtra{list, extents})
	n.extra = uint64(len(s.extras))
	return nil
}
