// SPDX-License-Identifier: Apache-2.0

package layerstore

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// Bytes are those of a layer that is read where it lies.
type Bytes interface {
	io.ReaderAt
	io.Closer
	// Name says where they lie, for people: a path.
	Name() string
	// Identity returns a text that no other bytes have. It is asked again after
	// each read that nothing has verified: another one means another layer.
	Identity() (string, error)
	// Size returns how many there are. It is not asked where that is known.
	Size(ctx context.Context) (int64, error)
	// Headers reads the same bytes, but may leave zeros where the content of
	// files is: whoever wants names alone need not open each.
	Headers() io.ReaderAt
}

// Bytes that have a method Unproven may say why they cannot have the diffID
// that the config says, though all that is in the layer is there. Then nothing
// proves it, and the layer says so.
type unproven interface {
	Unproven(ctx context.Context) (why string, err error)
}

// unproven returns why nothing proves the layer; "" where its diffID does.
func (p *Place) unproven(ctx context.Context) (string, error) {
	if u, ok := p.src.(unproven); ok {
		return u.Unproven(ctx)
	}
	return "", nil
}

// A fileRange is a part of a file.
type fileRange struct {
	*io.SectionReader
	f *os.File
}

func (r *fileRange) Name() string                        { return r.f.Name() }
func (r *fileRange) Size(context.Context) (int64, error) { return r.SectionReader.Size(), nil }
func (r *fileRange) Headers() io.ReaderAt                { return r }
func (r *fileRange) Close() error                        { return r.f.Close() }

func (r *fileRange) Identity() (string, error) {
	fi, err := r.f.Stat()
	if err != nil {
		return "", err
	}
	_, off, size := r.Outer()
	return fileIdentity(fi, off, size), nil
}

// fileIdentity returns that of size bytes from off of a file.
func fileIdentity(fi fs.FileInfo, off, size int64) string {
	return fmt.Sprintf("%s %d %d", fileStamp(fi), off, size)
}

// placeID returns the hash of that identity.
func placeID(fi fs.FileInfo, off, size int64) [sha256.Size]byte {
	return sha256.Sum256([]byte(fileIdentity(fi, off, size)))
}

// fileStamp tells a file from others, and from itself before a change.
func fileStamp(fi fs.FileInfo) string {
	st := fi.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("%d %d %d %d %d %d %d",
		st.Dev, st.Ino, st.Size, st.Mtim.Sec, st.Mtim.Nsec, st.Ctim.Sec, st.Ctim.Nsec)
}
