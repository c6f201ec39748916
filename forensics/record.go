// SPDX-License-Identifier: Apache-2.0

package forensics

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/term"
	"github.com/imgfs/imgfs/unionfs"
)

// Versions calls f for what the layers of the stack hold at and below path,
// relative to the stack's part: see EachVersion. Paths that f gets are those
// in the layers, and layers are places in s.Layers.
func (s *Stack) Versions(ctx context.Context, path string, f Versions) error {
	if len(s.Layers) == 0 {
		return fmt.Errorf("%s: %w", s.Name, ErrNoLayers)
	}
	tables, err := s.tables(ctx)
	if err != nil {
		return err
	}
	return index.Guard(func() error { return EachVersion(ctx, tables, s.inLayers(cleanPath(path)), f) })
}

// inLayers returns where the layers have a path of the tree.
func (s *Stack) inLayers(path string) string {
	if path == "" {
		return s.Path
	}
	return joinPath(s.Path, path)
}

// A Record is a version as output has it. Bytes that are not UTF-8 are
// replaced in a string and told whole by the field …_base64.
type Record struct {
	Path         string `json:"path"` // absolute
	PathBase64   string `json:"path_base64,omitempty"`
	Type         string `json:"type"` // as index.TypeName; "hardlink": to what lies in a lower layer, with its attributes
	Mode         string `json:"mode"` // octal, four digits
	UID          uint32 `json:"uid"`
	GID          uint32 `json:"gid"`
	Size         int64  `json:"size"`  // bytes
	Mtime        string `json:"mtime"` // RFC 3339, UTC
	Target       string `json:"target,omitempty"`
	TargetBase64 string `json:"target_base64,omitempty"`
	SHA256       string `json:"sha256,omitempty"` // of the content of a regular file

	Layer     int    `json:"layer"` // that brought it, 0 is the base
	DiffID    string `json:"diffid,omitempty"`
	Created   string `json:"created,omitempty"` // RFC 3339, of the layer
	CreatedBy string `json:"created_by,omitempty"`

	State       string `json:"state"`         // "live", "shadowed": something else shows there; "deleted": nothing does
	How         string `json:"how,omitempty"` // how it ended: see End
	By          *int   `json:"by,omitempty"`  // the layer that ended it
	ByPath      string `json:"by_path,omitempty"`
	ByDiffID    string `json:"by_diffid,omitempty"`
	ByCreated   string `json:"by_created,omitempty"`
	ByCreatedBy string `json:"by_created_by,omitempty"`
	// Linked tells that the content is still in the tree, under another name.
	Linked bool `json:"linked,omitempty"`
}

// A place is an inode of one layer.
type place struct {
	layer int // in the stack's Layers
	id    index.EntryID
	node  index.Node
}

// led returns what a version is: itself, or of a hard link into the layers
// below the file that it led to when its layer came. ok is false for a link
// that leads to none of the stack's layers.
func (s *Stack) led(ctx context.Context, v *Version) (at place, ok bool, err error) {
	if v.Node.Type() != 0 {
		return place{v.Layer, v.ID, v.Node}, true, nil
	}
	if s.Layers[0].Index > 0 { // a layer without those below it
		return at, false, nil
	}
	tables, err := s.tables(ctx)
	if err != nil {
		return at, false, err
	}
	if s.links == nil {
		if s.links, err = unionfs.FindLinks(ctx, tables); err != nil {
			return at, false, err
		}
	}
	if at.layer, at.id, ok = s.links.Target(v.Layer, v.ID); ok {
		err = tables[at.layer].Node(at.id, &at.node)
		at.node.Layer = at.layer
	}
	return at, ok, err
}

// record makes a Record of a version. The hash is left out if hashed is false.
func (s *Stack) record(ctx context.Context, v *Version, hashed bool) (*Record, error) {
	l := s.Layers[v.Layer]
	at, known, err := s.led(ctx, v)
	if err != nil {
		return nil, err
	}
	n := &v.Node
	if known {
		n = &at.node
	}
	r := &Record{
		Path: "/" + v.Path, PathBase64: term.Base64(v.Path), Type: index.TypeName(n.Mode),
		Mode: fmt.Sprintf("%04o", n.Mode&0o7777), UID: n.UID, GID: n.GID, Size: n.Size,
		Mtime: time.Unix(n.Mtime, int64(n.MtimeNsec)).UTC().Format(time.RFC3339Nano),
		Layer: l.Index, DiffID: l.DiffID, Created: rfc3339(l.Created), CreatedBy: l.CreatedBy,
		State: v.State.String(), How: v.End.String(),
	}
	if v.By >= 0 {
		by := s.Layers[v.By]
		r.By, r.ByPath = &by.Index, "/"+v.ByPath
		r.ByDiffID, r.ByCreated, r.ByCreatedBy = by.DiffID, rfc3339(by.Created), by.CreatedBy
	}
	if typ := v.Node.Type(); typ == 0 || typ == index.ModeSymlink {
		t, err := l.Table(ctx)
		if err != nil {
			return nil, err
		}
		r.setTarget(t, &v.Node, known)
	}
	if hashed && n.IsRegular() {
		r.SHA256, err = s.hashOf(ctx, v.Path, at)
	}
	return r, err
}

// setTarget tells where a link leads. One that cannot be read tells nothing; of
// a hard link that leads nowhere only its target is known.
func (r *Record) setTarget(t *index.Layer, n *index.Node, known bool) {
	tree := &tableTree[index.EntryID]{t: t}
	e := Entry{node: *n}
	if err := tree.target(&e); err != nil {
		return
	}
	r.Target, r.TargetBase64 = e.Target, term.Base64(e.Target)
	if n.Type() == 0 {
		r.Type, r.Target = "hardlink", "/"+e.Target
		if !known {
			r.Mode, r.Size = "0000", 0
		}
	}
}

func (s *Stack) hashOf(ctx context.Context, path string, at place) (string, error) {
	t, err := s.Layers[at.layer].Table(ctx)
	if err != nil {
		return "", err
	}
	tree := &tableTree[index.EntryID]{t: t, layers: s.Layers, layer: at.layer}
	n := &at.node
	sum, err := tree.Hash(ctx, &Entry{Path: path, Mode: n.Mode, Size: n.Size, Header: n.Header, Layer: at.layer, node: *n})
	if err != nil {
		return "", s.passes(fmt.Errorf("%s: /%s: %w", s.Name, path, err))
	}
	return hex.EncodeToString(sum[:]), nil
}

func rfc3339(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// An inode names a file of a stack by its layer's Index and the offset of its
// header.
type inode struct {
	layer  int
	header int64
}

// liveInodes returns the files that the tree shows under some name.
func (s *Stack) liveInodes(ctx context.Context) (map[inode]struct{}, error) {
	live := make(map[inode]struct{})
	err := s.Tree.Walk(ctx, func(e *Entry) error {
		if e.IsRegular() {
			live[inode{e.Layer, e.Header}] = struct{}{}
		}
		return nil
	})
	return live, err
}
