// SPDX-License-Identifier: Apache-2.0

// Package index turns a layer tar into a table: a packed, immutable index of
// its names, kept in one bbolt file and read in place. The same file form
// holds the table of one layer and the tree merged from a whole stack.
//
// The package knows tar headers and the meaning of one layer alone
// (whiteouts, hard links, symlinks on the way to a name). It does not know
// compression, digests, where files are kept, nor how layers are stacked.
package index

import "errors"

// An EntryID numbers the inodes that one layer brings, in the order of its
// tar, from 1, which is the layer's root. 0 is no entry.
type EntryID uint32

// A NodeID numbers the inodes of a merged tree in the order (layer, offset),
// from 1, which is the tree's root. 0 is no node. It is FUSE's NodeID and
// st_ino, and the same for the same stack of layers for ever.
type NodeID uint32

// RootID is the number of the root in every table.
const RootID = 1

var (
	// ErrBadLayer marks a layer whose tar breaks the rules of the image spec
	// or of this project's docs/semantics.md. The image is to be treated as
	// hostile.
	ErrBadLayer = errors.New("malformed layer")

	// ErrLimit marks a layer that is larger than a limit allows. It is an
	// ErrBadLayer too.
	ErrLimit error = limitError{}

	// ErrCorrupt marks a table file whose bytes are not those that were
	// written. The table is derived: delete it and it is rebuilt.
	ErrCorrupt = errors.New("corrupt index")
)

type limitError struct{}

func (limitError) Error() string        { return "over the limit" }
func (limitError) Is(target error) bool { return target == ErrBadLayer }

// A LayerError says which name in a layer could not be used, and where.
type LayerError struct {
	Off  int64  // offset of the header in the uncompressed tar
	Name string // as written in the tar, unclean; may be empty
	Err  error
}

func (e *LayerError) Error() string {
	if e.Name == "" {
		return "offset " + itoa(e.Off) + ": " + e.Err.Error()
	}
	return quote(e.Name) + " at offset " + itoa(e.Off) + ": " + e.Err.Error()
}

// Unwrap returns the reason.
func (e *LayerError) Unwrap() error { return e.Err }

// Is makes every LayerError an ErrBadLayer.
func (e *LayerError) Is(target error) bool { return target == ErrBadLayer }

// An Oddity is something in a layer that engines read differently or that has
// no meaning, met while the layer was indexed and passed over.
type Oddity struct {
	Off  int64  `json:"offset"` // of the header in the uncompressed tar
	Name string `json:"name"`   // as written in the tar
	Rule string `json:"rule"`   // id of the row of docs/semantics.md
	What string `json:"what"`   // a few words for a person
}
