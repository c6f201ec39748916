// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"context"
	"fmt"
	"io"
	"syscall"
	"time"

	"github.com/imgfs/imgfs/unionfs"
)

// A Change is a path that differs from the tree.
type Change struct {
	Kind string `json:"kind"` // "A" added, "C" changed, "D" deleted
	Path string `json:"path"` // absolute
	Type string `json:"type"` // file, dir, symlink, char, block, fifo or socket
}

// TarOptions say how a snapshot is written as a tar.
type TarOptions struct {
	// AllowChanging takes a file that is being written as it is then.
	AllowChanging bool `json:"allow_changing,omitempty"`
	// Clamp, if not zero, is the latest time of modification that is written.
	Clamp time.Time `json:"clamp,omitzero"`
}

// A ChangingError names a file that was written while it was read.
type ChangingError struct{ Path string }

func (e *ChangingError) Error() string { return e.Path + ": was written while it was read" }

// Unwrap returns EAGAIN.
func (e *ChangingError) Unwrap() error { return syscall.EAGAIN }

// An InUseError says who has an upper open.
type InUseError struct {
	PID int    // 0: not known
	Dir string // where it is mounted, may be empty
}

func (e *InUseError) Error() string {
	switch {
	case e.PID == 0:
		return ErrInUse.Error()
	case e.Dir == "":
		return fmt.Sprintf("%v by process %d", ErrInUse, e.PID)
	}
	return fmt.Sprintf("%v: mounted on %s by process %d", ErrInUse, e.Dir, e.PID)
}

// Is makes it an ErrInUse.
func (e *InUseError) Is(target error) bool { return target == ErrInUse }

// Over returns a tree as it is, without changes.
func Over(fs *unionfs.FS) *Snapshot { return &Snapshot{view: view{fs: fs}} }

// Changes calls f for each path that differs from the tree, parents first.
func (s *Snapshot) Changes(ctx context.Context, f func(Change) error) error { return syscall.ENOSYS }

// WriteLayer writes what differs from the tree as the tar of a layer.
func (s *Snapshot) WriteLayer(ctx context.Context, w io.Writer, opt TarOptions) error {
	return syscall.ENOSYS
}

// WriteTree writes the whole merged tree as a tar.
func (s *Snapshot) WriteTree(ctx context.Context, w io.Writer, opt TarOptions) error {
	return syscall.ENOSYS
}

// Reset makes path, and all below it, as it is in the tree.
func (u *Upper) Reset(path string) error { return syscall.ENOSYS }

// ResetAll makes all as it is in the tree.
func (u *Upper) ResetAll() error { return syscall.ENOSYS }
