// SPDX-License-Identifier: Apache-2.0

package layerstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/imgfs/imgfs/index"
)

// Kept says where the store keeps what is derived from one layer, if it does.
type Kept struct {
	s      *Store
	tables []string // paths; the table that a pass made, then that of a scan
	hashes string
	seeks  string
	open   func() (*Content, error)
}

// KeptOf returns where that of the layer l of the store lies.
func (s *Store) KeptOf(l Layer) *Kept {
	return &Kept{
		s: s, tables: []string{s.LayerPath(l.DiffID)}, hashes: s.hashPath(l.DiffID), seeks: s.seekPath(l.Digest),
		open: func() (*Content, error) { return s.openContent(l.Digest, nil) },
	}
}

// KeptInPlace returns where that of a layer lies which is read in place: size
// bytes from at.Off of the file at.Path, which must be the file at.File.
func (s *Store) KeptInPlace(at Range) *Kept {
	base := filepath.Join(s.root, "index/place", fmt.Sprintf("%x", placeID(at.File, at.Off, at.Size)))
	return &Kept{
		s: s, tables: []string{base + ".table", base + ".scan"}, hashes: base + ".hash", seeks: base + ".seek",
		open: func() (*Content, error) {
			f, err := openRegular(at.Path, at.File)
			if err != nil {
				return nil, err
			}
			return newContent(base+".seek", base+".sidecar", f, at.Off, at.Size, nil)
		},
	}
}

// A Reread is what a layer was found to be.
type Reread struct {
	Layer   Layer       // what its bytes are, whatever was said of them
	Meta    *index.Meta // what its tar holds
	Derived []Derived   // what the store keeps of it
}

// A Derived is a file under index/ that was compared with what it must be.
type Derived struct {
	Path string // relative to the store
	Size int64  // bytes
	Err  error  // why it is not what it must be; nil if it is
}

// errNotTheSame says that a derived file is not what the layer's bytes make.
var errNotTheSame = fmt.Errorf("%w: it is not what the layer makes", index.ErrCorrupt)

// Reread reads the layer want whole from src, makes anew what is derived of it,
// and compares that with what is kept. Nothing of the store is changed. With an
// ErrDigest there is a result, too: what the layer is, which is not its diffID.
// Other errors are those of AddLayer.
func (s *Store) Reread(ctx context.Context, want Layer, src *io.SectionReader, kept *Kept) (*Reread, error) {
	g, err := s.NewStage()
	if err != nil {
		return nil, err
	}
	defer g.Discard()
	files := passFiles{table: g.Temp("table"), seek: g.Temp("seek"), sidecar: g.Temp("sidecar"), hashes: g.Temp("hashes")}
	res, err := runPass(ctx, io.NewSectionReader(src, 0, src.Size()), files, "", want.DiffID, index.Limits{})
	if err != nil && !errors.Is(err, ErrDigest) {
		return nil, err
	}
	r := &Reread{Layer: res.layer(want), Meta: res.meta}
	if err != nil || kept == nil {
		return r, err
	}
	for _, table := range kept.tables {
		r.Derived = append(r.Derived, s.sameFile(table, files.table)...)
	}
	r.Derived = append(r.Derived, s.sameFile(kept.hashes, files.hashes)...)
	return r, kept.checkSeeks(ctx, r)
}

// sameFile compares a derived file, if it is there, with the one that was made
// anew.
func (s *Store) sameFile(kept, made string) []Derived {
	fi, err := os.Lstat(kept)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	d := Derived{Path: s.rel(kept), Err: err}
	if err == nil {
		d.Size, d.Err = fi.Size(), compareFiles(kept, made)
	}
	return []Derived{d}
}

// compareFiles returns an error if two files do not have the same bytes.
func compareFiles(kept, made string) error {
	var sums [2][32]byte
	for i, path := range []string{kept, made} {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		sums[i], err = sumFile(f)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	if sums[0] != sums[1] {
		return errNotTheSame
	}
	return nil
}

// CompareTree compares the tree of a stack, if there is one, with the file made,
// which holds the tree that its layers make.
func (s *Store) CompareTree(path, made string) []Derived { return s.sameFile(path, made) }

// checkSeeks adds to r whether the layer, read by its seek index, is what it
// is. The error is that of the context.
func (k *Kept) checkSeeks(ctx context.Context, r *Reread) error {
	fi, err := os.Lstat(k.seeks)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	d := Derived{Path: k.s.rel(k.seeks), Err: err}
	if err == nil {
		d.Size = fi.Size()
		d.Err = index.Guard(func() error {
			c, err := k.open()
			if err != nil {
				return err
			}
			defer c.Close() // it was only read
			return sameDigest(ctx, io.NewSectionReader(c, 0, c.Size()), r.Layer.DiffID)
		})
	}
	r.Derived = append(r.Derived, d)
	return ctx.Err()
}

// A Span is a range of the uncompressed tar of a layer.
type Span struct{ Lo, Hi int64 } // Hi is outside

// damageStep is how finely Damage looks.
const damageStep = 64 << 10

// Damage returns the parts of the uncompressed tar that the bytes of a layer do
// not give any more, as its seek index knows them; none where it is not kept.
// Parts that touch are one.
func (k *Kept) Damage(ctx context.Context) (list []Span) {
	c, err := k.open()
	if err != nil {
		return nil
	}
	defer c.Close() // it was only read
	buf := make([]byte, damageStep)
	for off := int64(0); off < c.Size() && ctx.Err() == nil; off += damageStep {
		if _, err := c.ReadAt(buf, off); err == nil || err == io.EOF {
			continue
		}
		hi := min(off+damageStep, c.Size())
		if n := len(list); n > 0 && list[n-1].Hi == off {
			list[n-1].Hi = hi
		} else {
			list = append(list, Span{off, hi})
		}
	}
	return list
}

// OpenTable opens the table that is kept; the error is fs.ErrNotExist if there
// is none.
func (k *Kept) OpenTable() (*index.Layer, error) { return index.Open[index.EntryID](k.tables[0]) }
