// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"os"
	"sync"
	"syscall"
)

// content is what is shared by all that have one regular file open, or change
// its content.
type content struct {
	u    *Upper
	node Node

	// mu guards where bytes come from: a change of content holds it for
	// writing, a read for reading. See the package comment for the order.
	mu   sync.RWMutex
	data *os.File // the data file, opened at its first use; guarded by mu

	refs      int  // guarded by Upper.mu
	forgotten bool // Forget came while it was open; guarded by Upper.mu
}

// A File is an open regular file.
type File struct{ c *content }

// Open opens the regular file n. write tells that it may be written to.
func (u *Upper) Open(n Node, write bool) (*File, error) { return nil, syscall.ENOSYS }

// Node returns which file it is.
func (f *File) Node() Node { return f.c.node }

// Close lets go of the file.
func (f *File) Close() error { return syscall.ENOSYS }

// ReadAt reads into p at off. It returns io.EOF with fewer bytes at the end.
func (f *File) ReadAt(p []byte, off int64) (int, error) { return 0, syscall.ENOSYS }

// WriteAt writes p at off. Times are set; privileges are the caller's to kill.
func (f *File) WriteAt(p []byte, off int64) (int, error) { return 0, syscall.ENOSYS }

// Allocate is fallocate(2).
func (f *File) Allocate(mode uint32, off, n int64) error { return syscall.ENOSYS }

// SeekData is lseek(2) with SEEK_DATA (data true) or SEEK_HOLE.
func (f *File) SeekData(off int64, data bool) (int64, error) { return 0, syscall.ENOSYS }

// Sync makes content, and unless dataOnly attributes and the names it was
// given, durable.
func (f *File) Sync(dataOnly bool) error { return syscall.ENOSYS }

// Backing returns the data file of a file that takes no byte from a layer, made
// if there is none yet: reads and writes may go to it directly. ok is false for
// any other file. The descriptor is good until Close.
func (f *File) Backing() (fd int, ok bool, err error) { return 0, false, syscall.ENOSYS }

// statData fills size, blocks and times of a file with flagLocal and flagData
// from its data file.
func (u *Upper) statData(n Node, a *Attr) error { return syscall.ENOSYS }

// truncate sets the size of n. It is called without locks.
func (u *Upper) truncate(n Node, size int64) error { return syscall.ENOSYS }

// setDataTimes applies an explicit change of times to the data file of a file
// with flagLocal and flagData.
func (u *Upper) setDataTimes(n Node, s *SetAttr) error { return syscall.ENOSYS }

// createData makes the data file of n, which must not be there (O_EXCL).
func (u *Upper) createData(n Node) (*os.File, error) { return nil, syscall.ENOSYS }
