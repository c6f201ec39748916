// SPDX-License-Identifier: Apache-2.0

package forensics

import (
	"bufio"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/term"
)

// FindOptions say what Find looks at. The zero value is what shows.
type FindOptions struct {
	Deleted bool // also what later layers replaced, removed or hid
	Hash    bool // tell the hashes of the files
}

// Find calls f for each file of the stack that matches, in the order of a
// walk.
func (s *Stack) Find(ctx context.Context, m *Match, opt FindOptions, f func(*Record) error) error {
	return index.Guard(func() error {
		if len(s.Layers) == 0 {
			return s.findInTree(ctx, m, opt, f)
		}
		return s.findInLayers(ctx, m, opt, f)
	})
}

// findInTree finds in what has no layers.
func (s *Stack) findInTree(ctx context.Context, m *Match, opt FindOptions, f func(*Record) error) error {
	var room room
	return s.Tree.Walk(ctx, func(e *Entry) error {
		if ok, err := s.matchesEntry(ctx, m, e, &room); err != nil || !ok {
			return s.passes(err)
		}
		r, err := s.entryRecord(ctx, e, opt.Hash)
		if err != nil {
			return err
		}
		return f(r)
	})
}

// matchesEntry judges an entry of a tree without layers.
func (s *Stack) matchesEntry(ctx context.Context, m *Match, e *Entry, room *room) (bool, error) {
	if !m.quick(e) {
		return false, nil
	}
	if ok, err := m.capable(s.Tree, e); err != nil || !ok {
		return false, err
	}
	if m.Sums != nil {
		sum, err := s.Tree.Hash(ctx, e)
		if err != nil || !m.Sums.has(sum[:]) {
			return false, err
		}
	}
	if m.Content == nil {
		return true, nil
	}
	return m.Content.search(ctx, s.Tree, e, room)
}

// entryRecord makes a Record of an entry of a tree without layers.
func (s *Stack) entryRecord(ctx context.Context, e *Entry, hashed bool) (*Record, error) {
	r := &Record{
		Path: "/" + e.Path, PathBase64: term.Base64(e.Path), Type: index.TypeName(e.Mode),
		Mode: fmt.Sprintf("%04o", e.Mode&0o7777), UID: e.UID, GID: e.GID, Size: e.Size,
		Mtime:  time.Unix(e.Mtime, int64(e.MtimeNsec)).UTC().Format(time.RFC3339Nano),
		Target: e.Target, TargetBase64: term.Base64(e.Target),
		Layer: e.Layer, State: Live.String(),
	}
	if !hashed || !e.IsRegular() {
		return r, nil
	}
	sum, ok, err := s.hash(ctx, e)
	if ok {
		r.SHA256 = hex.EncodeToString(sum[:])
	}
	return r, err
}

// findInLayers finds in the versions that the layers hold.
func (s *Stack) findInLayers(ctx context.Context, m *Match, opt FindOptions, f func(*Record) error) error {
	q := &layerSearch{s: s, ctx: ctx, m: m}
	if none, err := q.prepare(); err != nil || none {
		return err
	}
	tell := func(v *Version) error {
		r, err := s.record(ctx, v, opt.Hash)
		if err != nil {
			return err
		}
		return f(r)
	}
	each := func(f func(v *Version, at *place) error) error {
		return q.each(func(v *Version) error {
			if v.State != Live && !opt.Deleted {
				return nil
			}
			at, ok, err := q.matches(v)
			if err != nil || !ok {
				return err
			}
			return f(v, &at)
		})
	}
	if m.Content == nil {
		return each(func(v *Version, _ *place) error { return tell(v) })
	}
	// Content is read layer by layer and not in the order of paths. So the
	// layers are walked twice: there may be too many files to keep them all.
	var files []fileAt
	err := each(func(_ *Version, at *place) error {
		files = append(files, fileAt{at.layer, at.id, at.node.Header})
		return nil
	})
	if err != nil {
		return err
	}
	holds, err := q.searchAll(files)
	if err != nil || len(holds) == 0 {
		return err
	}
	return each(func(v *Version, at *place) error {
		if !holds[inode{at.layer, at.node.Header}] {
			return nil
		}
		return tell(v)
	})
}

// A hit is a version that matches, and the file that it is.
type hit struct {
	v  Version
	at place
}

// A layerSearch is a Find in the layers of a stack.
type layerSearch struct {
	s       *Stack
	ctx     context.Context
	m       *Match
	trees   []*tableTree[index.EntryID]
	headers []map[int64]struct{} // by layer, of the files with the hashes looked for
	entry   Entry
}

// prepare opens the layers. none reports that nothing can match.
func (q *layerSearch) prepare() (none bool, err error) {
	none = q.m.Sums != nil
	for k, l := range q.s.Layers {
		t, err := l.Table(q.ctx)
		if err != nil {
			return false, err
		}
		q.trees = append(q.trees, &tableTree[index.EntryID]{t: t, root: index.RootID, layers: q.s.Layers, layer: k})
		if q.m.Sums == nil {
			continue
		}
		h, err := l.Hashes(q.ctx)
		if err != nil {
			return false, err
		}
		headers, err := q.m.Sums.Find(h)
		if err != nil {
			return false, err
		}
		q.headers = append(q.headers, headers)
		none = none && len(headers) == 0
	}
	return none, nil
}

// maxHits is up to how many files with the hashes looked for the paths of a
// stack are walked one by one.
const maxHits = 1000

// each calls f for the versions that may match: all, or where few files have
// the hashes that are looked for those of their paths.
func (q *layerSearch) each(f func(*Version) error) error {
	hits := 0
	for k, headers := range q.headers {
		hits += len(headers)
		if q.trees[k].t.Meta().Links > 0 {
			hits = maxHits + 1 // a file may have names in other layers
		}
	}
	if q.headers == nil || hits > maxHits {
		return q.s.Versions(q.ctx, "", Versions{Version: f})
	}
	paths, err := q.hitPaths()
	if err != nil {
		return err
	}
	for _, path := range paths {
		err := q.s.Versions(q.ctx, relative(q.s.Path, path), Versions{Version: func(v *Version) error {
			if v.Path != path {
				return nil // below a directory of another layer
			}
			return f(v)
		}})
		if err != nil {
			return err
		}
	}
	return nil
}

// hitPaths returns the paths under which layers have files with the hashes
// looked for, in the order of a walk.
func (q *layerSearch) hitPaths() (paths []string, err error) {
	for k, headers := range q.headers {
		if len(headers) == 0 {
			continue
		}
		err := q.trees[k].Walk(q.ctx, func(e *Entry) error {
			_, ok := headers[e.Header]
			below := q.s.Path == "" || e.Path == q.s.Path || strings.HasPrefix(e.Path, q.s.Path+"/")
			if ok && below && e.IsRegular() {
				paths = append(paths, e.Path)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(paths, ComparePaths)
	return slices.Compact(paths), nil
}

// matches judges a version by all but its content, and returns the file that
// it is. A hard link into lower layers that shows becomes that file.
func (q *layerSearch) matches(v *Version) (at place, ok bool, err error) {
	e := &q.entry
	at, led, err := q.s.led(q.ctx, v)
	if err != nil {
		return at, false, err
	}
	if !led {
		at = place{v.Layer, v.ID, v.Node}
	}
	if v.State == Live {
		v.Layer, v.ID, v.Node = at.layer, at.id, at.node
	}
	if err := q.trees[at.layer].fill(e, v.Path, at.id); err != nil {
		return at, false, err
	}
	if !q.m.quick(e) {
		return at, false, nil
	}
	if q.headers != nil {
		if _, ok := q.headers[at.layer][at.node.Header]; !ok {
			return at, false, nil
		}
	}
	ok, err = q.m.capable(q.trees[at.layer], e)
	return at, ok, err
}

// relative returns path, which is dir or lies below it, as seen from there.
func relative(dir, path string) string {
	if dir == "" || len(path) <= len(dir) {
		return path[len(dir):]
	}
	return path[len(dir)+1:]
}

// maxOwners bounds a file of users or groups.
const maxOwners = 4 << 20

// OwnerID returns the number of a user or group by its name in a file of the
// tree, etc/passwd or etc/group; of a part that of the whole tree. The error is fs.ErrNotExist if there is none.
func (s *Stack) OwnerID(ctx context.Context, file, name string) (uint32, error) {
	tree := s.Tree
	if part, ok := tree.(interface{ whole() Tree }); ok {
		tree = part.whole()
	}
	e, err := follow(ctx, tree, "/"+file)
	if err == nil && !e.IsRegular() {
		err = notExist(e.Path)
	}
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	r, err := tree.Open(e)
	if err != nil {
		return 0, err
	}
	if c, ok := r.(io.Closer); ok {
		defer c.Close() // it was only read
	}
	lines := bufio.NewScanner(io.LimitReader(Content(r, e), maxOwners))
	for lines.Scan() {
		fields := strings.SplitN(lines.Text(), ":", 4)
		if len(fields) < 4 || fields[0] != name {
			continue
		}
		if id, err := strconv.ParseUint(fields[2], 10, 32); err == nil {
			return uint32(id), nil
		}
	}
	return 0, cmp.Or(lines.Err(), fmt.Errorf("%s: %w in /%s", name, fs.ErrNotExist, file))
}

// RawPath returns the path as its bytes are.
func (r *Record) RawPath() string {
	return "/" + strings.TrimPrefix(rawBytes(r.Path, r.PathBase64), "/")
}

// rawBytes returns the text that JSON has in two fields.
func rawBytes(text, base string) string {
	if b, err := base64.StdEncoding.DecodeString(base); err == nil && base != "" {
		return string(b)
	}
	return text
}
