// SPDX-License-Identifier: Apache-2.0

package forensics

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/imgfs/imgfs/index"
)

// A Change says what became of a path from one tree to the other.
type Change uint8

const (
	Added Change = iota + 1
	Changed
	Removed
)

// String returns the word for c in output: "added", "changed" or "deleted".
func (c Change) String() string { return [...]string{"", "added", "changed", "deleted"}[c] }

// Letter returns docker's letter for c: A, C or D.
func (c Change) Letter() string { return [...]string{"", "A", "C", "D"}[c] }

// What is a set of ways in which two files differ.
type What uint32

const (
	DiffType         What = 1 << iota
	DiffMode              // permissions, setuid, setgid, sticky
	DiffOwner             // user or group
	DiffSize              // of regular files
	DiffContent           // of regular files
	DiffTarget            // of symlinks
	DiffDevice            // number of a device
	DiffTimes             // of the last change of content
	DiffXattrs            // but for capabilities
	DiffCapabilities      // security.capability
	DiffLinks             // which names are hard links of one file
)

var whatNames = [...]string{"type", "mode", "owner", "size", "content", "target", "device", "times", "xattrs", "capabilities", "links"}

// Names returns the words for w in output.
func (w What) Names() []string {
	names := make([]string, 0, 4)
	for i, name := range whatNames {
		if w&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return names
}

// ParseWhat reads one of these words.
func ParseWhat(name string) (What, error) {
	if i := slices.Index(whatNames[:], name); i >= 0 {
		return 1 << i, nil
	}
	return 0, fmt.Errorf("%q: want %s", name, strings.Join(whatNames[:], ", "))
}

// A Difference is a path that two trees do not have in common. Its entries are
// valid until the function that got it returns.
type Difference struct {
	Path   string // as Entry.Path
	Change Change
	What   What   // of Changed
	A, B   *Entry // nil of Added, of Removed
}

// DiffOptions say what counts as a difference.
type DiffOptions struct {
	Ignore What // what does not count
	// Skip, if not nil, tells which paths are not compared.
	Skip func(path string) bool
}

// Diff calls f for each path that differs from a to b, in the order of a walk.
// Content is compared by size, then by hash; what both have of the same layer
// is not compared at all.
func Diff(ctx context.Context, a, b *Stack, opt DiffOptions, f func(*Difference) error) error {
	ctx, cancel := context.WithCancel(ctx)
	d := &differ{
		ctx: ctx, a: a, b: b, opt: opt, f: f,
		left: startWalk(ctx, a.Tree), same: sameLayers(a, b),
		linksA: make(map[uint64]string), linksB: make(map[uint64]string),
	}
	defer func() {
		cancel()
		d.left.drain()
	}()
	if err := b.Tree.Walk(ctx, d.entry); err != nil {
		return err
	}
	for d.more || d.left.next() {
		d.more = false
		if err := d.only(d.left.e, Removed); err != nil {
			return err
		}
	}
	return d.left.err
}

type differ struct {
	ctx  context.Context
	a, b *Stack
	opt  DiffOptions
	f    func(*Difference) error
	left *walker
	more bool // left.e is still to be compared
	same [][]bool

	linksA, linksB map[uint64]string // the first name of a file of several
}

// sameLayers tells which layers of a and b hold the same bytes.
func sameLayers(a, b *Stack) [][]bool {
	size := func(layers []*Layer) (n int) {
		for _, l := range layers {
			n = max(n, l.Index+1)
		}
		return n
	}
	n := size(b.Layers)
	same := make([][]bool, size(a.Layers))
	for i := range same {
		same[i] = make([]bool, n)
	}
	for _, x := range a.Layers {
		for _, y := range b.Layers {
			same[x.Index][y.Index] = x.Key != "" && x.Key == y.Key
		}
	}
	return same
}

// entry takes the next entry of b, and those of a up to it.
func (d *differ) entry(e *Entry) error {
	for d.more || d.left.next() {
		d.more = true
		c := ComparePaths(d.left.e.Path, e.Path)
		if c > 0 {
			break
		}
		d.more = false
		if c == 0 {
			return d.both(d.left.e, e)
		}
		if err := d.only(d.left.e, Removed); err != nil {
			return err
		}
	}
	if d.left.err != nil {
		return d.left.err
	}
	return d.only(e, Added)
}

func (d *differ) skips(path string) bool { return d.opt.Skip != nil && d.opt.Skip(path) }

// only tells of a path that one tree has.
func (d *differ) only(e *Entry, c Change) error {
	links := d.linksA
	if c == Added {
		links = d.linksB
	}
	firstName(links, e)
	if d.skips(e.Path) {
		return nil
	}
	diff := Difference{Path: e.Path, Change: c, A: e}
	if c == Added {
		diff.A, diff.B = nil, e
	}
	return d.f(&diff)
}

// firstName returns the first name of the file that e is a name of.
func firstName(links map[uint64]string, e *Entry) string {
	if e.Nlink < 2 || e.IsDir() {
		return e.Path
	}
	first, ok := links[e.Ino]
	if !ok {
		first = e.Path
		links[e.Ino] = first
	}
	return first
}

// both compares what the trees have at one path.
func (d *differ) both(a, b *Entry) error {
	var w What
	if firstName(d.linksA, a) != firstName(d.linksB, b) {
		w |= DiffLinks
	}
	if d.skips(b.Path) {
		return nil
	}
	w |= attributes(a, b)
	if !d.isSame(a, b) {
		more, err := d.deeper(a, b, w)
		if err != nil {
			return err
		}
		w |= more
	}
	if w &^= d.opt.Ignore; w == 0 {
		return nil
	}
	return d.f(&Difference{Path: b.Path, Change: Changed, What: w, A: a, B: b})
}

// isSame reports whether both come from the same header of the same layer.
func (d *differ) isSame(a, b *Entry) bool {
	return a.Layer >= 0 && b.Layer >= 0 && a.Header == b.Header && a.Type() == b.Type() && !a.IsDir() &&
		a.Layer < len(d.same) && b.Layer < len(d.same[a.Layer]) && d.same[a.Layer][b.Layer]
}

// attributes compares what entries tell by themselves.
func attributes(a, b *Entry) (w What) {
	if a.Mode&0o7777 != b.Mode&0o7777 {
		w |= DiffMode
	}
	if a.UID != b.UID || a.GID != b.GID {
		w |= DiffOwner
	}
	if a.Mtime != b.Mtime || a.MtimeNsec != b.MtimeNsec {
		w |= DiffTimes
	}
	if a.Type() != b.Type() {
		return w | DiffType
	}
	switch a.Type() {
	case index.ModeRegular:
		if a.Size != b.Size {
			w |= DiffSize | DiffContent
		}
	case index.ModeSymlink, 0:
		if a.Target != b.Target {
			w |= DiffTarget
		}
	case index.ModeChar, index.ModeBlock:
		if a.Rdev != b.Rdev {
			w |= DiffDevice
		}
	}
	return w
}

// deeper compares what has to be looked up, if it counts and is not yet known.
func (d *differ) deeper(a, b *Entry, known What) (w What, err error) {
	wanted := ^d.opt.Ignore &^ known
	if a.IsRegular() && b.IsRegular() && wanted&DiffContent != 0 && a.Size > 0 {
		x, okA, err := d.a.hash(d.ctx, a)
		if err != nil {
			return 0, err
		}
		y, okB, err := d.b.hash(d.ctx, b)
		if err != nil {
			return 0, err
		}
		if okA && okB && x != y {
			w |= DiffContent
		}
	}
	if wanted&(DiffXattrs|DiffCapabilities) == 0 {
		return w, nil
	}
	xa, okA, err := d.a.xattrs(a)
	if err != nil {
		return 0, err
	}
	xb, okB, err := d.b.xattrs(b)
	if err != nil || !okA || !okB {
		return w, err
	}
	return w | diffXattrs(xa, xb), nil
}

// diffXattrs compares two sorted lists.
func diffXattrs(a, b []index.Xattr) (w What) {
	kind := func(name string) What {
		if name == "security.capability" {
			return DiffCapabilities
		}
		return DiffXattrs
	}
	for len(a) > 0 && len(b) > 0 {
		switch c := strings.Compare(a[0].Name, b[0].Name); {
		case c < 0:
			w |= kind(a[0].Name)
			a = a[1:]
		case c > 0:
			w |= kind(b[0].Name)
			b = b[1:]
		default:
			if !bytes.Equal(a[0].Value, b[0].Value) {
				w |= kind(a[0].Name)
			}
			a, b = a[1:], b[1:]
		}
	}
	for _, x := range append(a, b...) {
		w |= kind(x.Name)
	}
	return w
}

// A walker walks a tree beside the caller, who takes its entries one by one.
type walker struct {
	batches chan []Entry
	free    chan []Entry
	batch   []Entry
	at      int
	failed  error // of the walk; read when batches is closed

	e   *Entry // the current one
	err error  // why there is none
}

// walkBatch is how many entries are handed over at once.
const walkBatch = 256

var errWalkEnded = errors.New("the walk was given up")

func startWalk(ctx context.Context, t Tree) *walker {
	w := &walker{batches: make(chan []Entry, 4), free: make(chan []Entry, 8)}
	go func() {
		defer close(w.batches)
		batch := make([]Entry, 0, walkBatch)
		send := func() error {
			select {
			case w.batches <- batch:
			case <-ctx.Done():
				return errWalkEnded
			}
			select {
			case batch = <-w.free:
			default:
				batch = make([]Entry, 0, walkBatch)
			}
			return nil
		}
		w.failed = t.Walk(ctx, func(e *Entry) error {
			if batch = append(batch, *e); len(batch) == walkBatch {
				return send()
			}
			return nil
		})
		if w.failed == nil && len(batch) > 0 {
			w.failed = send()
		}
	}()
	return w
}

// next makes the next entry the current one.
func (w *walker) next() bool {
	w.at++
	if w.at >= len(w.batch) {
		if w.batch != nil {
			select {
			case w.free <- w.batch[:0]:
			default:
			}
		}
		var ok bool
		if w.batch, ok = <-w.batches; !ok {
			w.e, w.err, w.batch = nil, w.failed, nil
			return false
		}
		w.at = 0
	}
	w.e = &w.batch[w.at]
	return true
}

// drain waits for the end of a walk that was cancelled.
func (w *walker) drain() {
	for range w.batches {
	}
}
