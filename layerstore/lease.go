// SPDX-License-Identifier: Apache-2.0

package layerstore

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// defaultSweepAge is how old an unlocked entry of tmp or leases must be to be
// removed.
const defaultSweepAge = time.Minute

func olderThan(fi fs.FileInfo, d time.Duration) bool { return time.Since(fi.ModTime()) > d }

// A Lease keeps blobs and what is derived from them from being pruned while
// somebody uses them. It is a locked file: it ends with its process.
type Lease struct {
	f *os.File
}

// NewLease leases digests. A store that cannot be written to gives a lease
// that holds nothing.
func (s *Store) NewLease(digests []digest.Digest) (*Lease, error) {
	f, err := os.CreateTemp(filepath.Join(s.root, "leases"), "lease-")
	if err != nil {
		if isReadOnly(err) || errors.Is(err, fs.ErrNotExist) {
			return &Lease{}, nil
		}
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		err = json.NewEncoder(f).Encode(digests)
	}
	if err != nil {
		os.Remove(f.Name())
		f.Close()
		if isReadOnly(err) {
			return &Lease{}, nil // a full disk is no reason not to read
		}
		return nil, err
	}
	return &Lease{f}, nil
}

// Close ends the lease.
func (l *Lease) Close() error {
	if l == nil || l.f == nil {
		return nil
	}
	os.Remove(l.f.Name())
	return l.f.Close()
}
