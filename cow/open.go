// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"syscall"

	"github.com/imgfs/imgfs/unionfs"
)

// A Base says what an upper lies over, as its creator names it. It is kept in
// upper.json.
type Base struct {
	Image    string `json:"image"`    // name, for people
	ImageID  string `json:"image_id"` // digest of the config
	Manifest string `json:"manifest"` // digest of the manifest
	Platform string `json:"platform"`
	ChainID  string `json:"chain_id"`
	File     string `json:"file,omitempty"` // an image opened in place
}

// Create makes an empty upper in the new directory dir. It is not open.
func Create(dir string, base Base) error { return syscall.ENOSYS }

// Info is what is known of an upper without opening it.
type Info struct {
	Base
	Created Time   `json:"created"`
	Tree    string `json:"tree"` // index.Meta.Identity of the tree
}

// ReadInfo reads upper.json of dir.
func ReadInfo(dir string) (*Info, error) { return nil, syscall.ENOSYS }

// Open opens the upper in dir over fs. One process at a time has an upper
// open: others get ErrInUse. The error is ErrOtherTree if chainID is not that
// of its base.
func Open(dir string, fs *unionfs.FS, chainID string, opt Options) (*Upper, error) {
	return nil, syscall.ENOSYS
}

// Close folds what is in memory and lets go of the directory.
func (u *Upper) Close() error { return syscall.ENOSYS }

// Sync makes everything durable that was answered before.
func (u *Upper) Sync() error { return syscall.ENOSYS }

// Usage says how much an upper holds.
type Usage struct {
	Files int64 // inodes that differ from the tree
	Bytes int64 // on disk
}

// Usage counts. It holds no lock for long.
func (u *Upper) Usage() (Usage, error) { return Usage{}, syscall.ENOSYS }

// Empty reports whether nothing differs from the tree.
func (u *Upper) Empty() (bool, error) { return false, syscall.ENOSYS }

// A Snapshot is the upper at one moment. Content is read as it is when it is
// read.
type Snapshot struct {
	u *Upper
	view
}

// Snapshot folds what is in memory and returns the state of that moment.
// Changes go on meanwhile.
func (u *Upper) Snapshot() (*Snapshot, error) { return nil, syscall.ENOSYS }

// Close lets go of the snapshot.
func (s *Snapshot) Close() error { return syscall.ENOSYS }
