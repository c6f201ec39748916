// SPDX-License-Identifier: Apache-2.0

package forensics

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"regexp"
	"regexp/syntax"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"

	"github.com/imgfs/imgfs/index"
)

// A Pattern is what is looked for in the content of files: a regular expression
// of Go's syntax in which ^ and $ are the ends of a line.
type Pattern struct {
	re     *regexp.Regexp
	need   literal
	inLine bool // a match lies in one line, and is the same there as among others
}

// A literal is text that is in every match; none is known if it is empty.
type literal struct {
	text string
	fold bool // in whatever case: text is in lower case, and all ASCII
}

// ParsePattern reads a Pattern.
func ParsePattern(text string) (*Pattern, error) {
	text = "(?m)" + text
	re, err := regexp.Compile(text)
	if err != nil {
		return nil, err
	}
	p := &Pattern{re: re}
	if tree, err := syntax.Parse(text, syntax.Perl); err == nil { // as Compile did
		p.need, p.inLine = longestLiteral(tree), inLine(tree)
	}
	return p, nil
}

// longestLiteral returns the longest text that all matches hold, as far as it is
// seen at once.
func longestLiteral(re *syntax.Regexp) (best literal) {
	switch re.Op {
	case syntax.OpLiteral:
		if re.Flags&syntax.FoldCase != 0 {
			return foldedLiteral(re.Rune)
		}
		if slices.Contains(re.Rune, utf8.RuneError) { // any byte that is not UTF-8
			return best
		}
		return literal{text: string(re.Rune)}
	case syntax.OpCapture, syntax.OpPlus:
		return longestLiteral(re.Sub[0])
	case syntax.OpRepeat:
		if re.Min > 0 {
			return longestLiteral(re.Sub[0])
		}
	case syntax.OpConcat:
		for _, sub := range re.Sub {
			if l := longestLiteral(sub); len(l.text) > len(best.text) {
				best = l
			}
		}
	}
	return best
}

// foldedLiteral returns the longest part of a text in any case that has only
// ASCII in all cases: k and s have a third one outside of it.
func foldedLiteral(text []rune) (best literal) {
	lower := strings.ToLower(string(text))
	notPlain := func(r rune) bool { return r == 'k' || r == 's' || r >= utf8.RuneSelf }
	for part := range strings.FieldsFuncSeq(lower, notPlain) {
		if len(part) > len(best.text) {
			best = literal{part, true}
		}
	}
	return best
}

// inLine reports whether no match has a line end in it, and none depends on
// where the text begins or ends.
func inLine(re *syntax.Regexp) bool {
	switch re.Op {
	case syntax.OpAnyChar, syntax.OpBeginText, syntax.OpEndText:
		return false
	case syntax.OpLiteral:
		return !slices.Contains(re.Rune, '\n')
	case syntax.OpCharClass:
		for i := 0; i+1 < len(re.Rune); i += 2 {
			if re.Rune[i] <= '\n' && '\n' <= re.Rune[i+1] {
				return false
			}
		}
	}
	return !slices.ContainsFunc(re.Sub, func(sub *syntax.Regexp) bool { return !inLine(sub) })
}

// A room is what is needed to search files one after another.
type room struct{ text, low []byte }

// match reports whether p matches in b, which are whole lines. Where a literal
// is known, it is looked for first, which is far faster, and only what holds it
// is looked at.
func (p *Pattern) match(b []byte, r *room) bool {
	if p.need.text == "" {
		return p.re.Match(b)
	}
	in := b
	if p.need.fold {
		r.low = appendLower(r.low[:0], b)
		in = r.low
	}
	need := []byte(p.need.text)
	for off := 0; off < len(in); {
		at := bytes.Index(in[off:], need)
		switch {
		case at < 0:
			return false
		case !p.inLine:
			return p.re.Match(b)
		}
		at += off
		lo := bytes.LastIndexByte(b[:at], '\n') + 1
		hi := len(b)
		if n := bytes.IndexByte(b[at:], '\n'); n >= 0 {
			hi = at + n
		}
		if p.re.Match(b[lo:hi]) {
			return true
		}
		off = hi + 1
	}
	return false
}

// appendLower appends s with the letters of ASCII in lower case.
func appendLower(b, s []byte) []byte {
	for _, c := range s {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		b = append(b, c)
	}
	return b
}

// window is how much of a file is searched at once, overlap how much of it
// again with what follows where no line ends.
const (
	window  = 1 << 20
	overlap = 64 << 10
)

// in reports whether p matches in r. It is given whole lines, of a line over a
// megabyte pieces that overlap by 64 KiB.
func (p *Pattern) in(ctx context.Context, r io.Reader, room *room) (bool, error) {
	if room.text == nil {
		room.text = make([]byte, window)
	}
	buf, have := room.text, 0
	for {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		n, err := io.ReadFull(r, buf[have:])
		have += n
		end := err == io.EOF || err == io.ErrUnexpectedEOF
		if err != nil && !end {
			return false, err
		}
		part, rest := have, overlap
		if nl := bytes.LastIndexByte(buf[:have], '\n'); nl >= 0 && !end {
			part, rest = nl+1, 0
		}
		if p.match(buf[:part], room) {
			return true, nil
		}
		if end {
			return false, nil
		}
		have = copy(buf, buf[part-min(rest, part):have])
	}
}

// search reports whether p matches in a file.
func (p *Pattern) search(ctx context.Context, t Tree, e *Entry, room *room) (bool, error) {
	if e.Size < int64(len(p.need.text)) {
		return false, nil
	}
	r, err := t.Open(e)
	if err != nil {
		return false, err
	}
	if c, ok := r.(io.Closer); ok {
		defer c.Close() // it was only read
	}
	return p.in(ctx, Content(r, e), room)
}

// A fileAt is a regular file of a layer, small enough to keep all of an image.
type fileAt struct {
	layer  int // in the stack's Layers
	id     index.EntryID
	header int64
}

func (f fileAt) inode() inode { return inode{f.layer, f.header} }

// searchAll searches the content of all files of a list, layer by layer and
// forwards, each once, and returns which hold what is looked for. As many are
// read at once as there are processors.
func (q *layerSearch) searchAll(files []fileAt) (map[inode]bool, error) {
	slices.SortFunc(files, func(a, b fileAt) int {
		return cmp.Or(cmp.Compare(a.layer, b.layer), cmp.Compare(a.header, b.header))
	})
	files = slices.CompactFunc(files, func(a, b fileAt) bool { return a.inode() == b.inode() })
	found := make([]bool, len(files))
	var next atomic.Int64
	group, ctx := errgroup.WithContext(q.ctx)
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() error {
			var room room
			return index.Guard(func() error {
				for i := next.Add(1) - 1; i < int64(len(files)); i = next.Add(1) - 1 {
					var err error
					if found[i], err = q.search(ctx, files[i], &room); err != nil {
						return err
					}
				}
				return nil
			})
		})
	}
	if err := group.Wait(); err != nil {
		return nil, cmp.Or(q.ctx.Err(), err)
	}
	holds := make(map[inode]bool)
	for i, f := range files {
		if found[i] {
			holds[f.inode()] = true
		}
	}
	return holds, nil
}

// search searches the content of one file. One that cannot be read holds
// nothing.
func (q *layerSearch) search(ctx context.Context, f fileAt, room *room) (bool, error) {
	var e Entry
	tree := q.trees[f.layer]
	if err := tree.fill(&e, "", f.id); err != nil {
		return false, err
	}
	found, err := q.m.Content.search(ctx, tree, &e, room)
	if err != nil {
		return false, q.s.passes(err)
	}
	return found, nil
}
