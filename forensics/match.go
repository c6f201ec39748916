// SPDX-License-Identifier: Apache-2.0

package forensics

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/imgfs/imgfs/index"
)

// A Match says which files are looked for: those for which all hold. The zero
// value is all.
type Match struct {
	Names   []string // globs of the last name: one of them
	Path    *regexp.Regexp
	Types   string // letters as find has them: f, d, l, c, b, p, s
	Size    Range  // bytes
	Perm    Perm
	UIDs    []uint32 // one of them
	GIDs    []uint32
	Cap     bool // has capabilities
	Caps    []int
	Since   time.Time // of mtime; zero: whenever
	Until   time.Time
	Sums    Sums     // sha256 of the content: one of them
	Content *Pattern // in the content of a regular file
}

// Check finds fault with a glob.
func (m *Match) Check() error {
	for _, glob := range m.Names {
		if _, err := path.Match(glob, ""); err != nil {
			return fmt.Errorf("%q: %w", glob, err)
		}
	}
	return nil
}

// A Range is what a number must lie in. The zero value is all.
type Range struct {
	Lo, Hi int64 // Hi is outside; 0 is none
}

// ParseSize reads a size as find has it: +N is more than N, -N is less, N is
// exactly that. N is bytes, or with k, M, G behind it that many of 1024.
func ParseSize(s string) (Range, error) {
	number := strings.TrimLeft(s, "+-")
	if len(s)-len(number) > 1 {
		return Range{}, fmt.Errorf("%q is no size", s)
	}
	unit := int64(1)
	if n := len(number); n > 0 {
		switch number[n-1] {
		case 'c':
			number = number[:n-1]
		case 'k', 'K':
			number, unit = number[:n-1], 1<<10
		case 'M':
			number, unit = number[:n-1], 1<<20
		case 'G':
			number, unit = number[:n-1], 1<<30
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n >= 1<<62/unit {
		return Range{}, fmt.Errorf("%q is no size: say 100, +1M or -4k", s)
	}
	n *= unit
	switch s[0] {
	case '+':
		return Range{Lo: n + 1}, nil
	case '-':
		if n == 0 {
			return Range{}, fmt.Errorf("%q: nothing is smaller than nothing", s)
		}
		return Range{Hi: n}, nil
	}
	return Range{n, n + 1}, nil
}

func (r Range) has(n int64) bool { return n >= r.Lo && (r.Hi == 0 || n < r.Hi) }

// A Perm says which permissions a file must have. The zero value is any.
type Perm struct {
	bits uint32
	how  byte // 0: any; '=': exactly these; '-': all of these; '/': one of these
}

// ParsePerm reads permissions as find has them: 755 is exactly these, -4000
// all of these, /6000 one of these. setuid, setgid, sticky and world-writable
// are words for -4000, -2000, -1000 and -0002.
func ParsePerm(s string) (Perm, error) {
	switch s {
	case "setuid":
		return Perm{0o4000, '-'}, nil
	case "setgid":
		return Perm{0o2000, '-'}, nil
	case "sticky":
		return Perm{0o1000, '-'}, nil
	case "world-writable":
		return Perm{0o0002, '-'}, nil
	}
	p := Perm{how: '='}
	digits := s
	if s != "" && (s[0] == '-' || s[0] == '/') {
		p.how, digits = s[0], s[1:]
	}
	bits, err := strconv.ParseUint(digits, 8, 32)
	if err != nil || bits > 0o7777 {
		return p, fmt.Errorf("%q are no permissions: say 755, -4000, /6000, setuid, setgid, sticky or world-writable", s)
	}
	p.bits = uint32(bits)
	return p, nil
}

func (p Perm) has(mode uint32) bool {
	switch p.how {
	case '=':
		return mode&0o7777 == p.bits
	case '-':
		return mode&p.bits == p.bits
	case '/':
		return p.bits == 0 || mode&p.bits != 0
	}
	return true
}

// ParseCaps reads the names of capabilities.
func ParseCaps(names []string) (list []int, err error) {
	for _, name := range names {
		n, err := parseCap(name)
		if err != nil {
			return nil, err
		}
		list = append(list, n)
	}
	return list, nil
}

// Sums are hashes, or beginnings of them, sorted.
type Sums [][]byte

// minSum is how many bytes the beginning of a hash must have.
const minSum = 4

// maxSums bounds a list of hashes from outside.
const maxSums = 16 << 20

// Add adds a hash in hex, or its first 8 digits and more, an even number.
func (s *Sums) Add(text string) error {
	digits := strings.ToLower(strings.TrimPrefix(text, "sha256:"))
	b, err := hex.DecodeString(digits)
	if err != nil || len(b) < minSum || len(b) > sha256.Size {
		return fmt.Errorf("%.80q is no sha256: want %d hex digits, or the first 8 and more, an even number", text, 2*sha256.Size)
	}
	if len(*s) >= maxSums {
		return fmt.Errorf("more hashes: %w of %d", index.ErrLimit, maxSums)
	}
	*s = append(*s, b)
	return nil
}

// Sort makes s ready for use.
func (s Sums) Sort() {
	slices.SortFunc(s, bytes.Compare)
}

// has reports whether one of s is sum, or begins it.
func (s Sums) has(sum []byte) bool {
	// A beginning sorts before all that it begins.
	i, found := slices.BinarySearchFunc(s, sum, func(a, b []byte) int { return bytes.Compare(a, b) })
	if found {
		return true
	}
	for i--; i >= 0 && bytes.Equal(s[i][:minSum], sum[:minSum]); i-- {
		if bytes.HasPrefix(sum, s[i]) {
			return true
		}
	}
	return false
}

// Find returns the headers of the files of a layer whose hash is one of s, in
// no order.
func (s Sums) Find(h *index.Hashes) (headers map[int64]struct{}, err error) {
	err = index.Guard(func() error {
		for _, prefix := range s {
			lo, hi, err := h.Find(prefix)
			if err != nil {
				return err
			}
			for i := lo; i < hi; i++ {
				f, err := h.At(i)
				if err != nil {
					return err
				}
				if headers == nil {
					headers = make(map[int64]struct{})
				}
				headers[f.Header] = struct{}{}
			}
		}
		return nil
	})
	return headers, err
}

// quick reports whether e may match by what costs nothing to look at.
func (m *Match) quick(e *Entry) bool {
	switch {
	case m.Types != "" && strings.IndexByte(m.Types, typeLetter(e.Mode)) < 0,
		!m.Size.has(e.Size), m.Size != (Range{}) && !e.IsRegular(),
		!m.Perm.has(e.Mode), m.Perm.how != 0 && e.Type() == index.ModeSymlink,
		m.UIDs != nil && !slices.Contains(m.UIDs, e.UID),
		m.GIDs != nil && !slices.Contains(m.GIDs, e.GID),
		!m.Since.IsZero() && e.ModTime().Before(m.Since),
		!m.Until.IsZero() && !e.ModTime().Before(m.Until),
		(m.Sums != nil || m.Content != nil) && !e.IsRegular(),
		!m.named(e.Path):
		return false
	}
	return m.Path == nil || m.Path.MatchString("/"+e.Path)
}

func (m *Match) named(p string) bool {
	if m.Names == nil {
		return true
	}
	name := p[strings.LastIndexByte(p, '/')+1:]
	for _, glob := range m.Names {
		if ok, _ := path.Match(glob, name); ok {
			return true
		}
	}
	return false
}

// typeLetter returns the letter of a type as find has it; 0 for a hard link
// whose target is not known.
func typeLetter(mode uint32) byte {
	switch mode & index.ModeType {
	case index.ModeRegular:
		return 'f'
	case index.ModeDir:
		return 'd'
	case index.ModeSymlink:
		return 'l'
	case index.ModeChar:
		return 'c'
	case index.ModeBlock:
		return 'b'
	case index.ModeFIFO:
		return 'p'
	case index.ModeSocket:
		return 's'
	}
	return 0
}

// capable reports whether e has the capabilities that are looked for.
func (m *Match) capable(t Tree, e *Entry) (bool, error) {
	if !m.Cap && m.Caps == nil {
		return true, nil
	}
	list, err := t.Xattrs(e)
	if err != nil {
		return false, err
	}
	for _, x := range list {
		if x.Name != capabilityXattr {
			continue
		}
		c, ok := ParseCapabilities(x.Value)
		for _, n := range m.Caps {
			ok = ok && c.Has(n)
		}
		return ok || m.Caps == nil, nil
	}
	return false, nil
}
