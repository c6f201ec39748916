// SPDX-License-Identifier: Apache-2.0

package layerstore

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// A Layer is what the store knows of one layer of an image.
type Layer struct {
	Digest    digest.Digest `json:"digest"`  // as shipped
	DiffID    digest.Digest `json:"diff_id"` // uncompressed
	MediaType string        `json:"media_type"`
	Size      int64         `json:"size"`     // bytes as shipped
	TarSize   int64         `json:"tar_size"` // bytes, uncompressed
	Oddities  int           `json:"oddities,omitempty"`
	Oddity    string        `json:"oddity,omitempty"` // the first of them, for a person
	CreatedBy string        `json:"created_by,omitempty"`

	// Compression is what the bytes are: "none", "gzip", "zstd", "bzip2" or
	// "xz", whatever MediaType says.
	Compression string `json:"compression,omitempty"`

	// Unproven says why the bytes, read in place, cannot have the diffID that
	// the config says; DiffID is then theirs. It is "" of every other layer.
	Unproven string `json:"unproven,omitempty"`
}

// An Image is what listings print and a mount needs, so that neither reads
// documents.
type Image struct {
	ID       digest.Digest     `json:"id"`       // digest of the config
	Manifest digest.Digest     `json:"manifest"` // key of the record
	Platform string            `json:"platform"` // os/arch[/variant]
	Created  time.Time         `json:"created"`
	Size     int64             `json:"size"` // bytes of all layers, uncompressed
	Labels   map[string]string `json:"labels,omitempty"`
	ChainID  digest.Digest     `json:"chain_id"`         // "" for an image without layers
	Layers   []Layer           `json:"layers,omitempty"` // base first; see putImage
}

// A Ref is a name and what it points to.
type Ref struct {
	Name   string          `json:"name"`             // canonical, or raw; "" for an image without a name
	Target digest.Digest   `json:"target"`           // of the index or manifest
	Images []digest.Digest `json:"images"`           // manifests of the platforms that are here
	Others []string        `json:"others,omitempty"` // what else the index holds, a line each
	Since  time.Time       `json:"since"`            // when the name was set
}

var (
	bucketRefs   = []byte("refs")
	bucketImages = []byte("images")
	bucketLayers = []byte("layers") // by digest as shipped: which diffID it was verified to hold
)

// maxRecord bounds a record of the database that is read.
const maxRecord = 8 << 20

// update runs f in a writing transaction.
func (s *Store) update(f func(tx *bolt.Tx) error) error {
	if err := s.Create(); err != nil {
		return err
	}
	return s.withDB(false, func(db *bolt.DB) error { return db.Update(f) })
}

// view runs f in a reading transaction. A store that does not exist is empty:
// f is not called.
func (s *Store) view(f func(tx *bolt.Tx) error) error {
	err := s.withDB(true, func(db *bolt.DB) error { return db.View(f) })
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// ErrDamaged marks a store whose database is not what was written. It is
// primary: nothing can rebuild it.
var ErrDamaged = errors.New("the store's database is damaged")

func (s *Store) withDB(readOnly bool, f func(db *bolt.DB) error) error {
	return s.locked(readOnly, func() error { return s.openDB(readOnly, f) })
}

// locked runs f under the lock of the database: shared if readOnly. On a disk
// that cannot be written to a lock that was never made is none.
func (s *Store) locked(readOnly bool, f func() error) error {
	path := s.lockPath()
	flag, how := os.O_RDWR|os.O_CREATE, unix.LOCK_EX
	if readOnly {
		flag, how = os.O_RDONLY, unix.LOCK_SH
	}
	lock, err := os.OpenFile(path, flag, 0o600)
	if readOnly && errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(s.dbPath()); err != nil {
			return err // no store
		}
		if lock, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600); isReadOnly(err) {
			return f()
		}
	}
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	defer lock.Close()
	if err := waitFlock(lock, how); err != nil {
		return err
	}
	return f()
}

func (s *Store) lockPath() string { return filepath.Join(s.root, "imgfs.lock") }

// waitFlock locks f and waits for that.
func waitFlock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); err == nil {
			return nil
		} else if err != unix.EINTR {
			return fmt.Errorf("%s: flock: %w", f.Name(), err)
		}
	}
}

// isReadOnly reports whether err says that nothing can be written here, by us
// or now.
func isReadOnly(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS) ||
		errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

func (s *Store) dbPath() string { return filepath.Join(s.root, "imgfs.db") }

// openDB runs f with the database open. bbolt reads it through a map and
// trusts its pages: what a damaged one makes it do becomes ErrDamaged.
//
// Preconditions: the lock is held.
func (s *Store) openDB(readOnly bool, f func(db *bolt.DB) error) (err error) {
	path := s.dbPath()
	if fi, err := os.Stat(path); readOnly && (err != nil || fi.Size() == 0) {
		return fs.ErrNotExist // no writer came through its first transaction
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %s: %v", ErrDamaged, path, p)
		}
	}()
	if !readOnly {
		if err := s.createDB(path); err != nil {
			return fmt.Errorf("store database: %w", err)
		}
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: readOnly, Timeout: 10 * time.Second})
	switch {
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrChecksum), errors.Is(err, berrors.ErrVersionMismatch):
		return fmt.Errorf("%w: %s: %w", ErrDamaged, path, err)
	case err != nil:
		return fmt.Errorf("store database: %w", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return f(db)
}

// addRefs stores images and the names that point to them in one transaction,
// if ready, which runs within it, has no objection. A name that pointed
// elsewhere leaves its old image without a name, unless it has others.
func (s *Store) addRefs(refs []Ref, images []Image, ready func() error) error {
	return s.update(func(tx *bolt.Tx) error {
		if err := ready(); err != nil {
			return err
		}
		ib, err := tx.CreateBucketIfNotExists(bucketImages)
		if err != nil {
			return err
		}
		rb, err := tx.CreateBucketIfNotExists(bucketRefs)
		if err != nil {
			return err
		}
		lb, err := tx.CreateBucketIfNotExists(bucketLayers)
		if err != nil {
			return err
		}
		for _, i := range images {
			if err := putImage(ib, i); err != nil {
				return err
			}
			for _, l := range i.Layers {
				l.CreatedBy = "" // the image's word, not the layer's
				if err := putJSON(lb, string(l.Digest), l); err != nil {
					return err
				}
			}
		}
		for _, r := range refs {
			if err := putRef(rb, ib, r); err != nil {
				return err
			}
		}
		return putJSON(ib, keySum, sumKeys(tx))
	})
}

// keySum is the key, in the bucket of images, of the checksum over all keys of
// names and images: bbolt does not notice that it lost one.
const keySum = "\x00keys"

// sumKeys returns the checksum of the keys of names and images.
func sumKeys(tx *bolt.Tx) uint32 {
	sum := uint32(0)
	for _, name := range [][]byte{bucketRefs, bucketImages} {
		b := tx.Bucket(name)
		if b == nil {
			continue
		}
		c := b.Cursor()
		for k, _ := c.First(); k != nil; k, _ = c.Next() {
			if string(k) != keySum {
				sum = crc32.Update(crc32.Update(sum, castagnoli, k), castagnoli, []byte{0})
			}
		}
	}
	return sum
}

// Check reports with ErrDamaged whether the database has lost names or images.
// It is for who did not find one.
func (s *Store) Check() error {
	if err := s.checkMetas(); err != nil {
		return err
	}
	return s.view(func(tx *bolt.Tx) error {
		var want uint32
		ok, err := getJSON(tx.Bucket(bucketImages), keySum, &want)
		switch {
		case err != nil:
			return err
		case tx.Bucket(bucketImages) == nil && tx.Bucket(bucketRefs) == nil && tx.Bucket(bucketLayers) == nil:
			if k, _ := tx.Cursor().First(); k != nil {
				return fmt.Errorf("%w: it has lost its names", ErrDamaged)
			}
			return nil // nothing was ever stored
		case !ok, want != sumKeys(tx):
			return fmt.Errorf("%w: it has lost names or images", ErrDamaged)
		}
		return nil
	})
}

// checkMetas looks at both of bbolt's meta pages: where one is damaged, bbolt
// goes back to the state before the last transaction without a word. Layout
// and FNV-1a checksum as in bbolt's internal/common/meta.go, in the machine's
// byte order.
func (s *Store) checkMetas() error {
	const head, summed, size = 16, 56, 64 // bytes: page header, what the checksum covers, all of a meta
	f, err := os.Open(s.dbPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	for page := range int64(2) {
		var b [size]byte
		if _, err := f.ReadAt(b[:], page*int64(os.Getpagesize())+head); err != nil {
			if err == io.EOF {
				return nil // cut short: bbolt says so itself
			}
			return err
		}
		h := fnv.New64a()
		h.Write(b[:summed])
		if h.Sum64() != binary.NativeEndian.Uint64(b[summed:]) {
			return fmt.Errorf("%w: meta page %d", ErrDamaged, page)
		}
	}
	return nil
}

// createDB makes an empty database unless there is one. It gets its name when
// it is whole: a power loss must not leave one that bbolt cannot read.
//
// Preconditions: the lock is held for writing.
func (s *Store) createDB(path string) error {
	if fi, err := os.Stat(path); err == nil && fi.Size() > 0 {
		return nil
	}
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	db, err := bolt.Open(tmp, 0o600, &bolt.Options{Timeout: time.Second}) // written and synced by Open
	if err != nil {
		return err
	}
	if err := db.Close(); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// putRef stores one name. An image without a name has the key NUL + digest, as
// long as no name points to it.
func putRef(b, images *bolt.Bucket, r Ref) error {
	anonymous := "\x00" + string(r.Target)
	key := r.Name
	if strings.HasPrefix(key, "\x00") {
		return fmt.Errorf("%q: a name cannot begin with NUL", key)
	}
	if key == "" {
		named := false
		if err := eachJSON(b, func(o Ref) { named = named || o.Name != "" && o.Target == r.Target && covers(o, r) }); err != nil || named {
			return err
		}
		key = anonymous
	}
	var old Ref
	if _, err := getJSON(b, key, &old); err != nil {
		return err
	}
	if old.Target == r.Target {
		if err := joinPlatforms(&r, old, images); err != nil {
			return err
		}
	}
	if err := putJSON(b, key, r); err != nil || r.Name == "" {
		return err
	}
	if err := b.Delete([]byte(anonymous)); err != nil {
		return err
	}
	if old.Target == "" || old.Target == r.Target {
		return nil
	}
	old.Name = ""
	return putRef(b, images, old)
}

// covers reports whether a has all images of b.
func covers(a, b Ref) bool {
	for _, m := range b.Images {
		if !slices.Contains(a.Images, m) {
			return false
		}
	}
	return true
}

// joinPlatforms adds to r the platforms of the same target that came by an
// earlier load.
func joinPlatforms(r *Ref, old Ref, images *bolt.Bucket) error {
	for _, m := range old.Images {
		if slices.Contains(r.Images, m) {
			continue
		}
		i, ok, err := getImage(images, m)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		r.Images = append(r.Images, m)
		r.Others = slices.DeleteFunc(slices.Clone(r.Others), func(line string) bool {
			platform, _, _ := strings.Cut(line, " ")
			return platform == i.Platform
		})
	}
	return nil
}

// A record is JSON, and behind it its CRC-32C, little-endian: bbolt itself
// checks none of what it holds.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func putJSON(b *bolt.Bucket, key string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return putRecord(b, key, raw)
}

func putRecord(b *bolt.Bucket, key string, raw []byte) error {
	if len(raw) > maxRecord {
		return fmt.Errorf("record %q of %d bytes, the limit is %d", key, len(raw), maxRecord)
	}
	return b.Put([]byte(key), binary.LittleEndian.AppendUint32(raw, crc32.Checksum(raw, castagnoli)))
}

func getJSON(b *bolt.Bucket, key string, v any) (ok bool, err error) {
	if key == "" || b == nil {
		return false, nil
	}
	raw := b.Get([]byte(key))
	if raw == nil {
		return false, nil
	}
	return true, decodeJSON([]byte(key), raw, v)
}

func decodeJSON(key, raw []byte, v any) error {
	raw, err := checkRecord(key, raw)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("%w: record %q: %v", ErrDamaged, key, err)
	}
	return nil
}

// checkRecord returns a record without its checksum.
func checkRecord(key, raw []byte) ([]byte, error) {
	n := len(raw) - 4
	if n < 0 || crc32.Checksum(raw[:n], castagnoli) != binary.LittleEndian.Uint32(raw[n:]) {
		return nil, fmt.Errorf("%w: record %q", ErrDamaged, key)
	}
	return raw[:n], nil
}

// putImage stores the record of an image: two lines of JSON, the second of
// them the layers, which listings do not read.
func putImage(b *bolt.Bucket, i Image) error {
	layers, err := json.Marshal(i.Layers)
	if err != nil {
		return err
	}
	i.Layers = nil
	head, err := json.Marshal(i)
	if err != nil {
		return err
	}
	return putRecord(b, string(i.Manifest), append(append(head, '\n'), layers...))
}

func getImage(b *bolt.Bucket, manifest digest.Digest) (i Image, ok bool, err error) {
	if manifest == "" || b == nil {
		return i, false, nil
	}
	raw := b.Get([]byte(manifest))
	if raw == nil {
		return i, false, nil
	}
	return i, true, decodeImage([]byte(manifest), raw, true, &i)
}

func decodeImage(key, raw []byte, withLayers bool, i *Image) error {
	raw, err := checkRecord(key, raw)
	if err != nil {
		return err
	}
	head, layers, two := bytes.Cut(raw, []byte("\n"))
	err = json.Unmarshal(head, i)
	if err == nil && two && withLayers {
		err = json.Unmarshal(layers, &i.Layers)
	}
	if err != nil {
		return fmt.Errorf("%w: record %q: %v", ErrDamaged, key, err)
	}
	return nil
}

// eachImage calls f with the record of every image.
func eachImage(b *bolt.Bucket, withLayers bool, f func(Image)) error {
	if b == nil {
		return nil
	}
	return b.ForEach(func(k, raw []byte) error {
		if string(k) == keySum {
			return nil
		}
		var i Image
		if err := decodeImage(k, raw, withLayers, &i); err != nil {
			return err
		}
		f(i)
		return nil
	})
}

// eachJSON calls f with every record of b.
func eachJSON[T any](b *bolt.Bucket, f func(T)) error {
	if b == nil {
		return nil
	}
	return b.ForEach(func(k, raw []byte) error {
		if string(k) == keySum {
			return nil
		}
		var v T
		if err := decodeJSON(k, raw, &v); err != nil {
			return err
		}
		f(v)
		return nil
	})
}

// Refs returns all names in the order of their keys.
func (s *Store) Refs() ([]Ref, error) {
	var list []Ref
	err := s.view(func(tx *bolt.Tx) error {
		return eachJSON(tx.Bucket(bucketRefs), func(r Ref) { list = append(list, r) })
	})
	return list, err
}

// Ref returns what name points to; ok is false where there is no such name.
func (s *Store) Ref(name string) (r Ref, ok bool, err error) {
	ok, err = s.get(bucketRefs, name, &r)
	return r, ok, err
}

// Image returns the record of a manifest.
func (s *Store) Image(manifest digest.Digest) (i Image, ok bool, err error) {
	err = s.view(func(tx *bolt.Tx) error {
		i, ok, err = getImage(tx.Bucket(bucketImages), manifest)
		return err
	})
	return i, ok, err
}

func (s *Store) get(bucket []byte, key string, v any) (ok bool, err error) {
	err = s.view(func(tx *bolt.Tx) error {
		ok, err = getJSON(tx.Bucket(bucket), key, v)
		return err
	})
	return ok, err
}

// layer returns what is known of the layer blob d.
func (s *Store) layer(d digest.Digest) (l Layer, ok bool, err error) {
	ok, err = s.get(bucketLayers, string(d), &l)
	return l, ok, err
}

// Images returns all image records.
func (s *Store) Images() (map[digest.Digest]Image, error) {
	all := make(map[digest.Digest]Image)
	err := s.view(func(tx *bolt.Tx) error {
		return eachImage(tx.Bucket(bucketImages), true, func(i Image) { all[i.Manifest] = i })
	})
	return all, err
}

// List returns all names in the order of their keys, and the images they lead
// to, of one moment. Without layers, which take most of the time, if layers is
// false.
func (s *Store) List(layers bool) (refs []Ref, images map[digest.Digest]Image, err error) {
	images = make(map[digest.Digest]Image)
	err = s.view(func(tx *bolt.Tx) error {
		if err := eachJSON(tx.Bucket(bucketRefs), func(r Ref) { refs = append(refs, r) }); err != nil {
			return err
		}
		return eachImage(tx.Bucket(bucketImages), layers, func(i Image) { images[i.Manifest] = i })
	})
	return refs, images, err
}
