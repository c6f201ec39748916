// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/imgfs/imgfs/image"
)

// writeBolt has bbolt itself write a file: buckets in buckets, small ones that
// lie in their parent's page, and one of many pages and large values.
func writeBolt(t testing.TB) []byte { return writeBoltOf(t, 3000, 20000) }

func writeBoltOf(t testing.TB, keys, long int) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "b.db")
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	for round := range 3 { // several transactions, so that both meta pages count
		err = db.Update(func(tx *bbolt.Tx) error {
			v1, err := tx.CreateBucketIfNotExists([]byte("v1"))
			if err != nil {
				return err
			}
			small, err := v1.CreateBucketIfNotExists([]byte("small"))
			if err != nil {
				return err
			}
			big, err := v1.CreateBucketIfNotExists([]byte("big"))
			if err != nil {
				return err
			}
			for i := range keys {
				if err := big.Put(fmt.Appendf(nil, "key%05d", i), bytes.Repeat([]byte{byte(i)}, i%97*round)); err != nil {
					return err
				}
			}
			return errors.Join(small.Put([]byte("a"), []byte("1")), small.Put([]byte("b"), nil),
				big.Put([]byte("long"), bytes.Repeat([]byte("x"), long)))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestBolt(t *testing.T) {
	raw := writeBolt(t)
	b, err := openBolt(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	big, err := b.top().sub("v1", "big")
	if err != nil {
		t.Fatal(err)
	}
	n, last := 0, ""
	err = big.each(func(e element) error {
		if n++; string(e.key) <= last {
			t.Errorf("%q comes after %q", e.key, last)
		}
		last = string(e.key)
		return nil
	})
	if err != nil || n != 3001 {
		t.Fatalf("%d elements, %v, want 3001", n, err)
	}
	for _, i := range []int{0, 1, 1500, 2999} {
		v, err := big.get(fmt.Sprintf("key%05d", i))
		if want := bytes.Repeat([]byte{byte(i)}, i%97*2); err != nil || !bytes.Equal(v, want) {
			t.Errorf("key %d: %d bytes, %v, want %d", i, len(v), err, len(want))
		}
	}
	if v, err := big.get("long"); err != nil || len(v) != 20000 {
		t.Errorf("long: %d bytes, %v", len(v), err)
	}
	if v, err := big.get("key99999"); err != nil || v != nil {
		t.Errorf("a key that is not there: %q, %v", v, err)
	}
	small, err := b.top().sub("v1", "small")
	if err != nil {
		t.Fatal(err)
	}
	if v, err := small.get("a"); err != nil || string(v) != "1" {
		t.Errorf("in a small bucket: %q, %v", v, err)
	}
	none, err := b.top().sub("v1", "none", "deeper")
	if err != nil || none != nil {
		t.Errorf("a bucket that is not there: %v, %v", none, err)
	}
}

// readAll reads all there is, however deep.
func readAll(k *bucket, depth int) error {
	return k.each(func(e element) error {
		if !e.isBucket || depth == 8 {
			return nil
		}
		below, err := k.b.bucket(e)
		if err != nil {
			return err
		}
		return readAll(below, depth+1)
	})
}

// TestBoltDamaged: whatever bytes are changed, reading ends, without a panic.
func TestBoltDamaged(t *testing.T) {
	raw := writeBolt(t)
	failed := 0
	for at := 8; at < len(raw); at += 7919 {
		bad := bytes.Clone(raw)
		for i := at; i < min(at+4, len(bad)); i++ {
			bad[i] ^= 0xff
		}
		b, err := openBolt(bytes.NewReader(bad), int64(len(bad)))
		if err == nil {
			b.left = 100000
			err = readAll(b.top(), 0)
		}
		if err != nil {
			if failed++; !errors.Is(err, image.ErrMalformed) {
				t.Fatalf("offset %d: %v", at, err)
			}
		}
	}
	if failed < 3 {
		t.Errorf("only %d damages were noticed", failed)
	}
}

// TestBoltCircle: a page that is its own child.
func TestBoltCircle(t *testing.T) {
	raw := writeBolt(t)
	b, err := openBolt(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	e, ok, err := b.top().find("v1")
	if err != nil || !ok {
		t.Fatal(err)
	}
	v1, err := b.bucket(e)
	if err != nil {
		t.Fatal(err)
	}
	if e, ok, err = v1.find("big"); err != nil || !ok {
		t.Fatal(err)
	}
	page := u64(e.value)
	first := int64(page)*b.page + pageHead
	copy(raw[first+8:first+16], []byte{byte(page), byte(page >> 8), byte(page >> 16), 0, 0, 0, 0, 0})
	big := &bucket{b: b, root: page}
	err = big.each(func(element) error { return nil })
	if !errors.Is(err, image.ErrMalformed) || !strings.Contains(err.Error(), "levels") {
		t.Errorf("each: %v", err)
	}
	if _, _, err = big.find("a"); !errors.Is(err, image.ErrMalformed) {
		t.Errorf("find: %v", err)
	}
}

func FuzzBolt(f *testing.F) {
	raw := writeBoltOf(f, 20, 10)
	f.Add(raw[:min(len(raw), 7*os.Getpagesize())]) // what bbolt uses
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := openBolt(bytes.NewReader(raw), int64(len(raw)))
		if err != nil {
			return
		}
		b.left = 20000
		_ = readAll(b.top(), 0)
		_, _, _ = b.top().find("v1")
	})
}
