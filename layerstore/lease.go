// SPDX-License-Identifier: Apache-2.0

package layerstore

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// defaultSweepAge is how old an unlocked entry of tmp must be to be removed by
// who makes another.
const defaultSweepAge = time.Minute

func olderThan(fi fs.FileInfo, d time.Duration) bool { return time.Since(fi.ModTime()) > d }

// Claims keep files of the store before, and after, a name leads to them. They
// are lines of a file that is locked by who made them, and end with its
// process:
//
//	pid N             who it is
//	image DIGEST      the manifest of an image that is in use
//	file PATH         a file, relative to the store
//
// A lease is such a file; a stage has one, too, for what it is about to bring
// and for what it found in the store and relies on.
//
// A claim is made with the lock of the database held shared, and files are
// removed with it held alone by who has read all claims (see Collect). So who
// has claimed a file and finds it then, has it until the claim ends, and
// neither waits for the other longer than a transaction takes.
type claims struct {
	pid   int
	image digest.Digest
	files []string
	all   bool // it cannot be read whole: it keeps everything
}

// maxClaims bounds a file of claims that is read.
const maxClaims = 64 << 20

// readClaims reads a file of claims that is locked by who made it.
func readClaims(path string) (c claims) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c // a stage that has none yet, or it has just ended
	}
	if err != nil {
		return claims{all: true}
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxClaims+1))
	if err != nil || len(raw) > maxClaims || len(raw) == 0 || raw[len(raw)-1] != '\n' {
		return claims{all: true}
	}
	lines := bufio.NewScanner(bytes.NewReader(raw))
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), " ")
		switch key {
		case "pid":
			c.pid, _ = strconv.Atoi(value)
		case "image":
			c.image = digest.Digest(value)
		case "file":
			c.files = append(c.files, value)
		default:
			c.all = true
		}
	}
	c.all = c.all || lines.Err() != nil
	return c
}

// rel returns a path of the store as claims have it.
func (s *Store) rel(path string) string {
	rel, err := filepath.Rel(s.root, path)
	if err != nil {
		return path
	}
	return rel
}

// claiming runs f with the lock of the database held shared, so that nothing
// is removed meanwhile. It is not called with that lock held alone.
func (s *Store) claiming(f func() error) error {
	lock, err := os.OpenFile(s.lockPath(), os.O_RDWR|os.O_CREATE, 0o600)
	if isReadOnly(err) || errors.Is(err, fs.ErrNotExist) {
		return f() // then nothing can be removed, or there is nothing
	}
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	defer lock.Close()
	if err := waitFlock(lock, unix.LOCK_SH); err != nil {
		return err
	}
	return f()
}

// A Lease keeps an image, and what is derived from it, while somebody uses it.
// It ends with its process.
type Lease struct {
	f *os.File
}

// LeaseImage leases the image of a manifest and returns its record; ok is false
// where there is no such image. A store that cannot be written to gives a lease
// that holds nothing.
func (s *Store) LeaseImage(manifest digest.Digest) (i Image, l *Lease, ok bool, err error) {
	err = s.claiming(func() error {
		err := s.openDB(true, func(db *bolt.DB) error {
			return db.View(func(tx *bolt.Tx) (err error) {
				i, ok, err = getImage(tx.Bucket(bucketImages), manifest)
				return err
			})
		})
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && ok {
			l, err = s.newLease(manifest, s.imageFiles(&i))
		}
		return err
	})
	return i, l, ok, err
}

// newLease makes the file of a lease.
//
// Preconditions: the lock of the database is held shared.
func (s *Store) newLease(manifest digest.Digest, files []string) (*Lease, error) {
	f, err := os.CreateTemp(filepath.Join(s.root, "leases"), "lease-")
	if err != nil {
		if isReadOnly(err) || errors.Is(err, fs.ErrNotExist) {
			return &Lease{}, nil
		}
		return nil, err
	}
	if err := waitFlock(f, unix.LOCK_EX); err != nil { // who tries whether it is locked does so for a moment
		os.Remove(f.Name())
		f.Close()
		return nil, err
	}
	head := fmt.Sprintf("pid %d\nimage %s\n", os.Getpid(), manifest)
	if err := writeClaims(f, head, files); isReadOnly(err) {
		f.Truncate(0) // empty it keeps everything: a full disk is no reason not to read
	} else if err != nil {
		os.Remove(f.Name())
		f.Close()
		return nil, err
	}
	return &Lease{f}, nil
}

func writeClaims(w io.Writer, head string, files []string) error {
	var b strings.Builder
	b.WriteString(head)
	for _, path := range files {
		fmt.Fprintf(&b, "file %s\n", path)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Close ends the lease.
func (l *Lease) Close() error {
	if l == nil || l.f == nil {
		return nil
	}
	os.Remove(l.f.Name())
	return l.f.Close()
}

// claimsName is the file of claims in a stage.
const claimsName = "claims"

// claim has the stage keep files of the store, whether they are there yet or
// not. What is there when it returns stays there until the stage ends.
func (g *Stage) claim(paths ...string) error {
	files := make([]string, len(paths))
	for i, path := range paths {
		files[i] = g.s.rel(path)
	}
	return g.s.claiming(func() error {
		f, err := os.OpenFile(filepath.Join(g.dir, claimsName), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return err
		}
		err = writeClaims(f, "", files) // one write: claims of one stage are not mixed
		return errors.Join(err, f.Close())
	})
}
