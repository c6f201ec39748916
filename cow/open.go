// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

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
func Create(dir string, base Base) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	info := Info{Base: base, Created: now()}
	var salt [32]byte
	rand.Read(salt[:])
	info.ID, info.Key = hex.EncodeToString(salt[:16]), hex.EncodeToString(salt[16:])
	if err := os.Mkdir(filepath.Join(dir, "data"), 0o700); err != nil {
		return err
	}
	return writeInfo(dir, &info)
}

func now() Time {
	t := time.Now()
	return Time{t.Unix(), uint32(t.Nanosecond())}
}

const infoName = "upper.json"

// writeInfo replaces upper.json of dir.
func writeInfo(dir string, info *Info) error {
	b, err := json.MarshalIndent(info, "", "\t")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, infoName+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, infoName))
	}
	if err != nil {
		os.Remove(f.Name())
		return err
	}
	return syncDir(dir)
}

// syncDir makes the names in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Info is what is known of an upper without opening it.
type Info struct {
	Base
	Created Time   `json:"created"`
	ID      string `json:"id"`   // random
	Key     string `json:"key"`  // random, of the hashes of names
	Tree    string `json:"tree"` // index.Meta.Identity of the tree
	// Changed is how many inodes differed when it was closed; -1: it was not
	// closed in order.
	Changed int64 `json:"-"`
}

// ReadInfo reads upper.json of dir.
func ReadInfo(dir string) (*Info, error) {
	f, err := os.Open(filepath.Join(dir, infoName))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxInfo))
	if err != nil {
		return nil, err
	}
	info := new(Info)
	if err := json.Unmarshal(b, info); err != nil {
		return nil, fmt.Errorf("%w: %s: %v", ErrDamaged, f.Name(), err)
	}
	return info, nil
}

const maxInfo = 1 << 20 // bytes of upper.json

// Open opens the upper in dir over fs. One process at a time has an upper
// open: others get ErrInUse. The error is ErrOtherTree if chainID is not that
// of its base.
func Open(dir string, fs *unionfs.FS, chainID string, opt Options) (*Upper, error) {
	info, err := ReadInfo(dir)
	if err != nil {
		return nil, err
	}
	if info.ChainID != chainID {
		return nil, fmt.Errorf("%w: %s", ErrOtherTree, info.Image)
	}
	u := &Upper{dir: dir, opt: opt, info: *info, next: FirstOwn,
		orphans: make(map[Node]*inode), files: make(map[Node]*content)}
	if n, err := hex.Decode(u.key[:], []byte(info.Key)); err != nil || n != len(u.key) {
		return nil, fmt.Errorf("%w: key of names", ErrDamaged)
	}
	u.view = view{fs: fs, active: newDelta()}
	return u, nil
}

// Close folds what is in memory and lets go of the directory.
func (u *Upper) Close() error { return nil }

// Sync makes everything durable that was answered before.
func (u *Upper) Sync() error { return nil }

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
