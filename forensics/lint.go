// SPDX-License-Identifier: Apache-2.0

package forensics

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/imgfs/imgfs/index"
)

// A Finding is something that lint tells of.
type Finding struct {
	Rule   *Rule
	Level  Level  // that of the rule, unless it is a worse or a lesser case
	Path   string // absolute; of what a scan met the name as it is in the tar
	Layer  int    // that it is in; -1: in what the layers make
	Offset int64  // of the header in the uncompressed tar; -1: there is none
	What   string
}

// LintOptions say how Lint judges. The zero value works.
type LintOptions struct {
	Now time.Time // what is later is in the future; zero: now
}

// Lint calls f for every oddity that a stack holds: what was met when its
// layers were indexed, base first, then what is odd where they meet, in the
// order of a walk. A stack without layers has no oddities of tars.
func Lint(ctx context.Context, s *Stack, opt LintOptions, f func(*Finding) error) error {
	if opt.Now.IsZero() {
		opt.Now = time.Now()
	}
	l := &linter{ctx: ctx, s: s, now: opt.Now.Unix(), f: f}
	return index.Guard(func() (err error) {
		if l.tables, err = s.tables(ctx); err != nil {
			return err
		}
		if err := l.scanned(); err != nil {
			return err
		}
		if len(s.Layers) == 0 {
			return l.walkTree()
		}
		if err := s.eachUnread(ctx, 0); err != nil {
			return err
		}
		return l.walkLayers()
	})
}

type linter struct {
	ctx    context.Context
	s      *Stack
	now    int64
	f      func(*Finding) error
	tables []*index.Layer

	twins map[string]string // paths whose names have upper case, by those in lower case
	path  string            // of the versions at hand
	below []Version         // the versions of path so far
}

// tell calls f with a finding of the rule id, as severe as the rule is.
func (l *linter) tell(id, path string, layer int, off int64, what string) error {
	r := RuleOf(id)
	return l.tellAs(r.Level, id, path, layer, off, what)
}

func (l *linter) tellAs(level Level, id, path string, layer int, off int64, what string) error {
	return l.f(&Finding{Rule: RuleOf(id), Level: level, Path: path, Layer: layer, Offset: off, What: what})
}

// scanned tells what the scans of the layers met, and layers that are there
// twice.
func (l *linter) scanned() error {
	seen := make(map[string]int)
	for i, layer := range l.s.Layers {
		for _, o := range layer.Oddities {
			if err := l.tell(o.Rule, "", layer.Index, -1, o.What); err != nil {
				return err
			}
		}
		m := l.tables[i].Meta()
		for _, o := range m.Oddities {
			if err := l.tell(o.Rule, o.Name, layer.Index, o.Off, o.What); err != nil {
				return err
			}
		}
		if more := m.Odd - len(m.Oddities); more > 0 {
			if err := l.tell("D1", "", layer.Index, -1, fmt.Sprintf("%d more oddities of this layer, of any rule", more)); err != nil {
				return err
			}
		}
		if k, ok := seen[layer.DiffID]; ok && layer.DiffID != "" {
			if err := l.tell("D7", "", layer.Index, -1, fmt.Sprintf("the same layer as layer %d", k)); err != nil {
				return err
			}
		}
		seen[layer.DiffID] = layer.Index
	}
	return nil
}

// number returns the number in the image of layer k of the stack.
func (l *linter) number(k int) int { return l.s.Layers[k].Index }

// walkLayers tells what is odd in what the layers bring.
func (l *linter) walkLayers() error {
	if err := l.findTwins(); err != nil {
		return err
	}
	return EachVersion(l.ctx, l.tables, l.s.Path, Versions{
		Version: func(v *Version) error {
			n := &v.Node
			e := lintEntry{path: v.Path, layer: l.number(v.Layer), off: n.Header, mode: n.Mode, uid: n.UID, rdev: n.Rdev,
				mtime: n.Mtime, implied: n.Flags&index.FlagImplied != 0, live: v.State == Live}
			if n.Type() == index.ModeSymlink {
				target, err := l.tables[v.Layer].Target(n)
				if err != nil {
					return err
				}
				e.target = string(target)
			}
			if n.HasExtra() {
				if err := l.tables[v.Layer].EachXattr(n, func(name, value []byte) bool {
					e.xattrs = append(e.xattrs, index.Xattr{Name: string(name), Value: value})
					return true
				}); err != nil {
					return err
				}
			}
			if err := l.stacked(v); err != nil {
				return err
			}
			return l.entry(&e)
		},
		Mark: l.mark,
	})
}

// mark judges a whiteout or an opaque directory.
func (l *linter) mark(m *Mark) error {
	k := l.number(m.Layer)
	switch {
	case l.number(0) > 0: // a layer without those below it
	case m.Layer == 0:
		return l.tell("W19", "/"+m.Path, k, -1, "a mark in the base hides nothing")
	case m.Vain && !m.Opaque:
		return l.tell("W14", "/"+m.Path, k, -1, "a whiteout of what is not there")
	case m.Opaque && m.Path == "":
		return l.tell("W5", "/", k, -1, "an opaque marker at the root")
	}
	return nil
}

// stacked judges a version by those of lower layers under the same path.
func (l *linter) stacked(v *Version) error {
	if v.Path != l.path {
		l.path, l.below = v.Path, l.below[:0]
	}
	k := l.number(v.Layer)
	var err error
	for i := range l.below {
		old := &l.below[i]
		if old.By != v.Layer || !v.Node.IsDir() {
			continue
		}
		link := old.Node.Type() == index.ModeSymlink && old.End == Replaced
		switch {
		case link && v.Node.Flags&index.FlagImplied != 0:
			err = l.tell("L2", "/"+v.Path, k, v.Node.Header, "a symlink of a lower layer becomes a directory")
		case link:
			err = l.tell("L1", "/"+v.Path, k, v.Node.Header, "a directory in place of a symlink of a lower layer")
		case old.Node.IsDir() && old.End == WhitedOut && v.Node.Flags&index.FlagReplaces != 0:
			err = l.tell("W11", "/"+v.Path, k, v.Node.Header, "a directory that its own layer whites out and brings again")
		}
		if err != nil {
			return err
		}
	}
	l.below = append(l.below, *v)
	return nil
}

// walkTree tells what is odd in a tree without layers.
func (l *linter) walkTree() error {
	err := l.s.Tree.Walk(l.ctx, func(e *Entry) error {
		l.addTwin(e.Path)
		return nil
	})
	if err != nil {
		return err
	}
	return l.s.Tree.Walk(l.ctx, func(e *Entry) error {
		x, _, err := l.s.xattrs(e)
		if err != nil {
			return err
		}
		return l.entry(&lintEntry{path: e.Path, layer: -1, off: -1, mode: e.Mode, uid: e.UID, rdev: e.Rdev,
			mtime: e.Mtime, target: e.Target, xattrs: x, live: true})
	})
}

// findTwins notes the paths that show and have upper case.
func (l *linter) findTwins() error {
	return EachVersion(l.ctx, l.tables, l.s.Path, Versions{Version: func(v *Version) error {
		if v.State == Live {
			l.addTwin(v.Path)
		}
		return nil
	}})
}

func (l *linter) addTwin(path string) {
	low := lowerName(path)
	if low == path {
		return
	}
	if l.twins == nil {
		l.twins = make(map[string]string)
	}
	if _, ok := l.twins[low]; !ok {
		l.twins[low] = path
	}
}

// lowerName returns path with its last name in lower case.
func lowerName(path string) string {
	at := strings.LastIndexByte(path, '/') + 1
	low := strings.ToLower(path[at:])
	if low == path[at:] {
		return path
	}
	return path[:at] + low
}

// twin returns a path that differs from path in case alone; "" if there is none. Of two it is told of the second.
func (l *linter) twin(path string) string {
	if len(l.twins) == 0 {
		return ""
	}
	if other := l.twins[lowerName(path)]; other != path {
		return other
	}
	return ""
}

// A lintEntry is what the rules for one entry look at.
type lintEntry struct {
	path, target    string
	layer           int
	off             int64
	mode, uid, rdev uint32
	mtime           int64
	xattrs          []index.Xattr
	implied, live   bool
}

func (e *lintEntry) name() string { return e.path[strings.LastIndexByte(e.path, '/')+1:] }

// entry judges one entry by itself.
func (l *linter) entry(e *lintEntry) error {
	for _, judge := range []func(*lintEntry, func(Level, string, string) error) error{l.names, l.modes, l.times, l.extended} {
		err := judge(e, func(level Level, id, what string) error {
			return l.tellAs(level, id, "/"+e.path, e.layer, e.off, what)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// names judges names and targets.
func (l *linter) names(e *lintEntry, tell func(Level, string, string) error) error {
	if what, level := oddName(e.name()); what != "" {
		if err := tell(level, "N2", "a name with "+what); err != nil {
			return err
		}
	}
	if e.target != "" {
		if what, level := oddName(e.target); what != "" {
			if err := tell(level, "N2", "a link target with "+what); err != nil {
				return err
			}
		}
		if climbs(e.path, e.target) {
			if err := tell(Info, "P8", "a symlink that leads above the root"); err != nil {
				return err
			}
		}
	}
	if !e.live {
		return nil
	}
	if other := l.twin(e.path); other != "" {
		return tell(Warning, "N1", "differs from /"+other+" in case alone")
	}
	return nil
}

// modes judges types and permissions.
func (l *linter) modes(e *lintEntry, tell func(Level, string, string) error) error {
	const setuid, setgid, sticky, othersWrite = 0o4000, 0o2000, 0o1000, 0o002
	typ := e.mode & index.ModeType
	switch typ {
	case index.ModeChar, index.ModeBlock:
		if typ == index.ModeChar && e.rdev == 0 {
			return tell(Error, "V1", "a character device 0:0")
		}
		return tell(Info, "V2", "a device")
	case index.ModeFIFO, index.ModeSocket:
		return tell(Info, "V2", "a FIFO or socket")
	}
	if !e.live {
		return nil
	}
	if e.implied {
		if e.path == "" {
			return nil // few layers have an entry for the root
		}
		return tell(Info, "M1", "a directory without an entry")
	}
	open := e.mode&othersWrite != 0
	special := ""
	switch {
	case typ != index.ModeRegular:
	case e.mode&setuid != 0 && e.mode&setgid != 0:
		special = fmt.Sprintf("setuid and setgid, of uid %d", e.uid)
	case e.mode&setuid != 0:
		special = fmt.Sprintf("setuid, of uid %d", e.uid)
	case e.mode&setgid != 0:
		special = "setgid"
	}
	switch {
	case special != "" && open:
		return tell(Warning, "M5", special+", and everybody may write to it")
	case special != "":
		return tell(Info, "M5", special)
	case open && typ == index.ModeRegular:
		return tell(Warning, "M5", "everybody may write to it")
	case open && typ == index.ModeDir && e.mode&sticky == 0:
		return tell(Warning, "M5", "a directory where everybody may remove files of others")
	}
	return nil
}

// times judges the time of what shows.
func (l *linter) times(e *lintEntry, tell func(Level, string, string) error) error {
	switch {
	case !e.live || e.implied:
		return nil
	case e.mtime > l.now:
		return tell(Warning, "T17", "a time in the future: "+timeText(e.mtime))
	case e.mtime < 0:
		return tell(Info, "T17", "a time before 1970: "+timeText(e.mtime))
	}
	return nil
}

func timeText(sec int64) string {
	if t := time.Unix(sec, 0).UTC(); t.Year() > 0 && t.Year() < 10000 {
		return t.Format(time.RFC3339)
	}
	return fmt.Sprintf("@%d", sec)
}

// extended judges xattrs.
func (l *linter) extended(e *lintEntry, tell func(Level, string, string) error) error {
	for _, x := range e.xattrs {
		var err error
		switch {
		case strings.HasPrefix(x.Name, "trusted.overlay."):
			err = tell(Error, "X2", "xattr "+x.Name)
		case strings.HasPrefix(x.Name, "user.overlay."):
			err = tell(Error, "X3", "xattr "+x.Name)
		case x.Name == capabilityXattr && e.live:
			what := "capabilities that cannot be read"
			if c, ok := ParseCapabilities(x.Value); ok {
				what = c.String()
			}
			err = tell(Info, "X4", what)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
