// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"errors"
	"os"
	"sync"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/unionfs"
)

// Errors besides those of syscall.Errno, which are answers to who called.
var (
	// ErrDamaged marks an upper whose files are not what was written.
	ErrDamaged = errors.New("damaged upper")
	// ErrFormat marks an upper that this package does not know how to read.
	ErrFormat = errors.New("made by another version of imgfs")
	// ErrOtherTree marks an upper that lies over another tree.
	ErrOtherTree = errors.New("the upper lies over another image")
	// ErrInUse marks an upper that another process has open.
	ErrInUse = errors.New("the upper is in use")
)

// Limits, as Linux has them.
const (
	maxName   = 255
	maxTarget = 4095
	maxXattr  = 64 << 10 // XATTR_SIZE_MAX
	maxLinks  = 1<<32 - 1
)

const whiteout = index.DTWhiteout

// An Upper is an open upper. Its methods are safe for concurrent use.
type Upper struct {
	dir  string
	opt  Options
	info Info
	lock *os.File

	mu      sync.RWMutex
	view                      // guarded by mu
	tx      tx                // scratch, guarded by mu held for writing
	orphans map[Node]*inode   // inodes without a name that may still be in use; guarded by mu
	loose   loose             // what orphans have besides; guarded by mu
	files   map[Node]*content // open ones; guarded by mu

	data dataStore // the data files

	next Node   // guarded by mu
	seq  uint64 // of the last frame; guarded by mu

	keeping
}

// Options say how an upper is opened.
type Options struct {
	// Log is told of what goes wrong behind the answers.
	Log func(format string, args ...any)
	// Passthrough has new files made with a data file at once.
	Passthrough bool
	MountDir    string // where it will be mounted: told to others who want it

	// Of tests; zero values stand for what is usual.
	boot           string       // a boot id
	foldAt, foldBy int64        // bytes, see foldAt and foldBy
	flush          func() error // for syncfs(2)
}

// below reports whether the tree itself has name in dir.
func (u *Upper) below(dir Node, name string) (bool, error) {
	if dir >= FirstOwn {
		return false, nil
	}
	id, _, err := u.fs.Tree.Lookup(index.NodeID(dir), name)
	return id != 0, err
}

// FS returns what lies below.
func (u *Upper) FS() *unionfs.FS { return u.fs }
