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
	return s.Tree.Walk(ctx, func(e *Entry) error {
		if !m.quick(e) {
			return nil
		}
		ok, err := m.capable(s.Tree, e)
		if err != nil || !ok {
			return err
		}
		if m.Sums != nil {
			sum, err := s.Tree.Hash(ctx, e)
			if err != nil || !m.Sums.has(sum[:]) {
				return err
			}
		}
		if m.Content != nil {
			if ok, err := s.searchEntry(ctx, m, s.Tree, e); err != nil || !ok {
				return err
			}
		}
		r, err := s.entryRecord(ctx, e, opt.Hash)
		if err != nil {
			return err
		}
		return f(r)
	})
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
	sum, err := s.Tree.Hash(ctx, e)
	r.SHA256 = hex.EncodeToString(sum[:])
	return r, err
}

// searchEntry searches the content of a file.
func (s *Stack) searchEntry(ctx context.Context, m *Match, t Tree, e *Entry) (bool, error) {
	r, err := t.Open(e)
	if err != nil {
		return false, err
	}
	if c, ok := r.(io.Closer); ok {
		defer c.Close() // it was only read
	}
	return searchContent(ctx, m.Content, Content(r, e))
}

// findInLayers finds in the versions that the layers hold.
func (s *Stack) findInLayers(ctx context.Context, m *Match, opt FindOptions, f func(*Record) error) error {
	q := &layerSearch{s: s, ctx: ctx, m: m}
	if none, err := q.prepare(); err != nil || none {
		return err
	}
	var found []Version // whose content is still to be searched
	tell := func(v *Version) error {
		r, err := s.record(ctx, v, opt.Hash)
		if err != nil {
			return err
		}
		return f(r)
	}
	err := q.each(func(v *Version) error {
		if v.State != Live && !opt.Deleted {
			return nil
		}
		ok, err := q.matches(v)
		switch {
		case err != nil || !ok:
			return err
		case m.Content != nil:
			found = append(found, *v)
			return nil
		}
		return tell(v)
	})
	if err != nil || m.Content == nil {
		return err
	}
	if err := q.searchAll(found); err != nil {
		return err
	}
	for i := range found {
		if q.content[q.inode(&found[i])] {
			if err := tell(&found[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// A layerSearch is a Find in the layers of a stack.
type layerSearch struct {
	s       *Stack
	ctx     context.Context
	m       *Match
	trees   []*tableTree[index.EntryID]
	headers []map[int64]struct{}      // by layer, of the files with the hashes looked for
	numbers []map[int64]index.EntryID // by layer, of its files by their headers
	content map[inode]bool            // whether a file holds what is looked for
	entry   Entry
}

// prepare opens the layers. none reports that nothing can match.
func (q *layerSearch) prepare() (none bool, err error) {
	none = q.m.Sums != nil
	q.numbers = make([]map[int64]index.EntryID, len(q.s.Layers))
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

// matches judges a version by all but its content.
func (q *layerSearch) matches(v *Version) (bool, error) {
	t, e := q.trees[v.Layer], &q.entry
	if err := t.fill(e, v.Path, v.ID); err != nil {
		return false, err
	}
	if v.Node.Type() == 0 && v.State == Live {
		if err := q.resolve(v); err != nil {
			return false, err
		}
	}
	if !q.m.quick(e) {
		return false, nil
	}
	if q.headers != nil {
		if _, ok := q.headers[v.Layer][v.Node.Header]; !ok {
			return false, nil
		}
	}
	return q.m.capable(q.trees[v.Layer], e)
}

// resolve makes of v, a hard link that shows, the file in the layers below
// that it leads to. That of a layer alone leads nowhere.
func (q *layerSearch) resolve(v *Version) error {
	e, err := q.s.Tree.Lookup(q.ctx, relative(q.s.Path, v.Path))
	if err != nil || e.Type() == 0 {
		return err
	}
	for k, l := range q.s.Layers {
		if l.Index != e.Layer {
			continue
		}
		if err := q.number(k); err != nil {
			return err
		}
		id, ok := q.numbers[k][e.Header]
		if !ok {
			return fmt.Errorf("%w: %q is not in its layer", index.ErrCorrupt, v.Path)
		}
		v.Layer, v.ID = k, id
		if err := q.trees[k].fill(&q.entry, v.Path, id); err != nil {
			return err
		}
		v.Node = q.entry.node
	}
	return nil
}

// number finds the numbers of the files of layer k by their headers.
func (q *layerSearch) number(k int) error {
	if q.numbers[k] != nil {
		return nil
	}
	t := q.trees[k].t
	q.numbers[k] = make(map[int64]index.EntryID, t.Count())
	var n index.Node
	for i := uint32(1); i <= t.Count(); i++ {
		if err := t.Node(index.EntryID(i), &n); err != nil {
			return err
		}
		if !n.IsDir() {
			q.numbers[k][n.Header] = index.EntryID(i)
		}
	}
	return nil
}

// inode names the file of a version.
func (q *layerSearch) inode(v *Version) inode { return inode{v.Layer, v.Node.Header} }

// searchAll searches the content of all files of a list, layer by layer and
// forwards, each once.
func (q *layerSearch) searchAll(list []Version) error {
	order := make([]*Version, len(list))
	for i := range list {
		order[i] = &list[i]
	}
	slices.SortStableFunc(order, func(a, b *Version) int {
		return cmp.Or(cmp.Compare(a.Layer, b.Layer), cmp.Compare(a.Node.Header, b.Node.Header))
	})
	q.content = make(map[inode]bool, len(list))
	for _, v := range order {
		key := q.inode(v)
		if _, ok := q.content[key]; ok {
			continue
		}
		e := &Entry{Path: v.Path, Mode: v.Node.Mode, Size: v.Node.Size, Header: v.Node.Header, Layer: v.Layer, node: v.Node}
		ok, err := q.s.searchEntry(q.ctx, q.m, q.trees[v.Layer], e)
		if err != nil {
			return err
		}
		q.content[key] = ok
	}
	return nil
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
// tree, etc/passwd or etc/group. The error is fs.ErrNotExist if there is none.
func (s *Stack) OwnerID(ctx context.Context, file, name string) (uint32, error) {
	path, err := Resolve(ctx, s.Tree, file)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	e, err := s.Tree.Lookup(ctx, path)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	r, err := s.Tree.Open(e)
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
