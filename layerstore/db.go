// SPDX-License-Identifier: Apache-2.0

package layerstore

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
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
	CreatedBy string        `json:"created_by,omitempty"`
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
	ChainID  digest.Digest     `json:"chain_id"` // "" for an image without layers
	Layers   []Layer           `json:"layers"`   // base first
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

func (s *Store) withDB(readOnly bool, f func(db *bolt.DB) error) (err error) {
	flag, how := os.O_RDWR|os.O_CREATE, unix.LOCK_EX
	if readOnly {
		flag, how = os.O_RDONLY, unix.LOCK_SH
	}
	lock, err := os.OpenFile(filepath.Join(s.root, "imgfs.lock"), flag, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	for {
		if err = unix.Flock(int(lock.Fd()), how); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("%s: flock: %w", lock.Name(), err)
	}
	path := filepath.Join(s.root, "imgfs.db")
	if fi, err := os.Stat(path); readOnly && (err != nil || fi.Size() == 0) {
		return fs.ErrNotExist // no writer came through its first transaction
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: readOnly, Timeout: 10 * time.Second})
	if err != nil {
		return fmt.Errorf("store database: %w", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("store database %s is damaged: %v", path, p)
		}
	}()
	return f(db)
}

// AddRefs stores images and the names that point to them in one transaction.
// A name that pointed elsewhere leaves its old image without a name, unless
// it has others.
func (s *Store) AddRefs(refs []Ref, images []Image) error {
	return s.update(func(tx *bolt.Tx) error {
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
			if err := putJSON(ib, string(i.Manifest), i); err != nil {
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
			if err := putRef(rb, r); err != nil {
				return err
			}
		}
		return nil
	})
}

// putRef stores one name. An image without a name has the key "@digest", as
// long as no name points to it.
func putRef(b *bolt.Bucket, r Ref) error {
	anonymous := "@" + string(r.Target)
	if r.Name == "" {
		named := false
		if err := b.ForEach(func(k, v []byte) error {
			var o Ref
			if err := json.Unmarshal(v, &o); err == nil && o.Target == r.Target {
				named = true
			}
			return nil
		}); err != nil || named {
			return err
		}
		return putJSON(b, anonymous, r)
	}
	var old Ref
	if v := b.Get([]byte(r.Name)); v != nil {
		if err := json.Unmarshal(v, &old); err != nil {
			return err
		}
	}
	if err := putJSON(b, r.Name, r); err != nil {
		return err
	}
	if err := b.Delete([]byte(anonymous)); err != nil {
		return err
	}
	if old.Target == "" || old.Target == r.Target {
		return nil
	}
	old.Name = ""
	return putRef(b, old)
}

func putJSON(b *bolt.Bucket, key string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(raw) > maxRecord {
		return fmt.Errorf("record %q of %d bytes, the limit is %d", key, len(raw), maxRecord)
	}
	return b.Put([]byte(key), raw)
}

// Refs returns all names in the order of their keys.
func (s *Store) Refs() ([]Ref, error) {
	var list []Ref
	err := s.view(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketRefs)
		if b == nil {
			return nil
		}
		return b.ForEach(func(_, v []byte) error {
			var r Ref
			if err := json.Unmarshal(v, &r); err != nil {
				return err
			}
			list = append(list, r)
			return nil
		})
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
	ok, err = s.get(bucketImages, string(manifest), &i)
	return i, ok, err
}

func (s *Store) get(bucket []byte, key string, v any) (ok bool, err error) {
	err = s.view(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucket)
		if b == nil || key == "" {
			return nil
		}
		raw := b.Get([]byte(key))
		if raw == nil {
			return nil
		}
		ok = true
		return json.Unmarshal(raw, v)
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
		b := tx.Bucket(bucketImages)
		if b == nil {
			return nil
		}
		return b.ForEach(func(_, v []byte) error {
			var i Image
			if err := json.Unmarshal(v, &i); err != nil {
				return err
			}
			all[i.Manifest] = i
			return nil
		})
	})
	return all, err
}
