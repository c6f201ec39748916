// SPDX-License-Identifier: Apache-2.0

package layerstore

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/tartest"
	"github.com/imgfs/imgfs/layerstore/seek"
)

func testStore(t testing.TB) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func testStage(t testing.TB, s *Store) *Stage {
	t.Helper()
	g, err := s.NewStage()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Discard)
	return g
}

// addLayer publishes an image of one layer.
func addLayer(t testing.TB, s *Store, name string, raw []byte) (Layer, error) {
	t.Helper()
	g := testStage(t, s)
	l, _, err := g.AddLayer(context.Background(), Layer{}, bytes.NewReader(raw), index.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return l, publish(g, name, l)
}

func publish(g *Stage, name string, l Layer) error {
	i := Image{ID: l.Digest, Manifest: l.Digest, Layers: []Layer{l}}
	return g.Publish([]Ref{{Name: name, Target: i.Manifest, Images: []digest.Digest{i.Manifest}}}, []Image{i})
}

func files(t testing.TB, s *Store, dir string) (names []string) {
	t.Helper()
	filepath.WalkDir(filepath.Join(s.root, dir), func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, filepath.Base(path))
		}
		return nil
	})
	return names
}

// A sweep removes what nobody holds and is old enough, and nothing else.
func TestSweep(t *testing.T) {
	s := testStore(t)
	living := testStage(t, s)
	l, err := addLayer(t, s, "x", tartest.Tar(t, "a=1"))
	if err != nil {
		t.Fatal(err)
	}
	_, lease, ok, err := s.LeaseImage(l.Digest)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	dead := filepath.Join(s.root, "tmp", "stage-dead")
	if err := os.MkdirAll(dead+"/layer-1", 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{dead + "/layer-1/blob", filepath.Join(s.root, "leases", "lease-dead")} {
		if err := os.WriteFile(name, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	exists := func(path string) bool { _, err := os.Lstat(path); return err == nil }

	testStage(t, s).Discard()
	if !exists(dead) {
		t.Error("what was just made was swept")
	}
	s.sweepAge = -time.Hour
	testStage(t, s).Discard()
	if exists(dead) || exists(filepath.Join(s.root, "leases", "lease-dead")) {
		t.Error("what the dead left was not swept")
	}
	if !exists(living.dir) || !exists(lease.f.Name()) {
		t.Error("what is in use was swept")
	}
	name := lease.f.Name()
	if err := lease.Close(); err != nil || exists(name) {
		t.Errorf("lease: %v, still there: %v", err, exists(name))
	}
}

// A load whose last step fails takes back what only it brought.
func TestPublishTakesBack(t *testing.T) {
	s := testStore(t)
	first, err := addLayer(t, s, "first", tartest.Tar(t, "a=1"))
	if err != nil {
		t.Fatal(err)
	}
	before := append(files(t, s, "blobs"), files(t, s, "index")...)

	fail := func(spoil func(g *Stage)) error {
		t.Helper()
		g := testStage(t, s)
		l, _, err := g.AddLayer(context.Background(), Layer{}, bytes.NewReader(tartest.Tar(t, "b=2")), index.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := g.AddLayer(context.Background(), first, bytes.NewReader(tartest.Tar(t, "a=1")), index.Limits{}); err != nil {
			t.Fatal(err)
		}
		spoil(g)
		return publish(g, "second", l)
	}
	check := func(what string, err error) {
		t.Helper()
		if err == nil {
			t.Errorf("%s: no error", what)
		}
		after := append(files(t, s, "blobs"), files(t, s, "index")...)
		if !slices.Equal(after, before) {
			t.Errorf("%s:\n got %q\nwant %q", what, after, before)
		}
		if _, ok, _ := s.Ref("second"); ok {
			t.Errorf("%s: the name was stored", what)
		}
	}
	check("a file that cannot be moved", fail(func(g *Stage) { os.Remove(g.move[len(g.move)-1].from) }))
	blob := s.blobPath(first.Digest)
	err = fail(func(g *Stage) { os.Rename(blob, blob+".away") })
	os.Rename(blob+".away", blob)
	check("a blob that vanished", err)
	if !errors.Is(err, ErrVanished) {
		t.Errorf("got %v, want ErrVanished", err)
	}

	// Somebody stored an image meanwhile, who may rely on our files.
	g := testStage(t, s)
	l, _, err := g.AddLayer(context.Background(), Layer{}, bytes.NewReader(tartest.Tar(t, "c=3")), index.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	made, err := g.commit()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := addLayer(t, s, "other", tartest.Tar(t, "c=3")); err != nil {
		t.Fatal(err)
	}
	g.takeBack(made)
	if !s.HasBlob(l.Digest) {
		t.Error("a blob that is in use was taken back")
	}
}

// A layer that is there is compared; what differs is read anew.
func TestAddLayerAgain(t *testing.T) {
	s := testStore(t)
	raw := tartest.Tar(t, "a=1 b/ b/c=2")
	l, err := addLayer(t, s, "x", raw)
	if err != nil {
		t.Fatal(err)
	}
	again := func(want Layer, raw []byte) (*Stage, error) {
		t.Helper()
		g := testStage(t, s)
		_, _, err := g.AddLayer(context.Background(), want, bytes.NewReader(raw), index.Limits{})
		return g, err
	}
	for what, want := range map[string]Layer{
		"by digest":            {Digest: l.Digest},
		"by digest and diffID": {Digest: l.Digest, DiffID: l.DiffID},
		"by diffID":            {DiffID: l.DiffID},
	} {
		g, err := again(want, raw)
		if err != nil || len(g.move) != 0 || len(g.needs) != 1 {
			t.Errorf("%s: %v, %d files moved", what, err, len(g.move))
		}
	}
	if _, err := again(Layer{Digest: l.Digest, DiffID: digest.FromString("x")}, raw); !errors.Is(err, ErrDigest) {
		t.Errorf("another diffID: %v", err)
	}
	bad := bytes.Clone(raw)
	bad[513] ^= 1
	for what, b := range map[string][]byte{"other bytes": bad, "fewer": raw[:len(raw)-512], "more": append(bytes.Clone(raw), 0)} {
		if _, err := again(Layer{Digest: l.Digest, DiffID: l.DiffID}, b); !errors.Is(err, ErrDigest) && !errors.Is(err, index.ErrBadLayer) {
			t.Errorf("%s: got %v, want ErrDigest", what, err)
		}
	}
	// The store's own bytes are bad.
	if err := os.WriteFile(s.blobPath(l.Digest), bad, 0o600); err != nil {
		t.Fatal(err)
	}
	g, err := again(Layer{Digest: l.Digest, DiffID: l.DiffID}, raw)
	if err != nil || len(g.move) == 0 {
		t.Fatalf("damaged blob: %v, %d files moved", err, len(g.move))
	}
	if err := publish(g, "x", l); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(s.blobPath(l.Digest)); err != nil || !bytes.Equal(got, raw) {
		t.Errorf("not healed: %v", err)
	}
	// A stream cannot be rewound: it is read as if it were new.
	g = testStage(t, s)
	if _, _, err := g.AddLayer(context.Background(), l, io.MultiReader(bytes.NewReader(raw)), index.Limits{}); err != nil || len(g.move) == 0 {
		t.Errorf("stream: %v, %d files moved", err, len(g.move))
	}
}

// A record whose bytes changed is never taken for good.
func TestRecordChecksum(t *testing.T) {
	s := testStore(t)
	if _, err := addLayer(t, s, "x", tartest.Tar(t, "a=1")); err != nil {
		t.Fatal(err)
	}
	if err := s.update(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketRefs)
		v := bytes.Replace(b.Get([]byte("x")), []byte(`"name":"x"`), []byte(`"name":"y"`), 1)
		return b.Put([]byte("x"), v)
	}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Ref("x"); !errors.Is(err, ErrDamaged) {
		t.Errorf("Ref: got %v, want ErrDamaged", err)
	}
	if _, err := s.Refs(); !errors.Is(err, ErrDamaged) {
		t.Errorf("Refs: got %v, want ErrDamaged", err)
	}
}

// slowReader gives a byte at a time, and ends with err.
type slowReader struct {
	b   []byte
	err error
}

func (r *slowReader) Read(p []byte) (int, error) {
	if len(r.b) == 0 {
		return 0, r.err
	}
	p[0] = r.b[0]
	r.b = r.b[1:]
	return 1, nil
}

// Errors of the source and of each part of the pass come out as they are, and
// nothing hangs.
func TestPassErrors(t *testing.T) {
	s := testStore(t)
	raw := tartest.Tar(t, "a=1 big="+strings.Repeat("x", 600_000))
	broken := errors.New("broken")
	for _, n := range []int{0, 1, 511, 700, len(raw) - 1, len(raw)} {
		g := testStage(t, s)
		if _, _, err := g.AddLayer(context.Background(), Layer{}, &slowReader{raw[:n], broken}, index.Limits{}); !errors.Is(err, broken) {
			t.Errorf("source broken at %d: %v", n, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, err := testStage(t, s).AddLayer(ctx, Layer{}, bytes.NewReader(raw), index.Limits{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	}
	for what, limits := range map[string]index.Limits{"size": {Size: 1000}, "entries": {Entries: 1}} {
		_, _, err := testStage(t, s).AddLayer(context.Background(), Layer{}, bytes.NewReader(raw), limits)
		if !errors.Is(err, index.ErrLimit) && !errors.Is(err, seek.ErrFormat) {
			t.Errorf("limit of %s: %v", what, err)
		}
	}
	if got := files(t, s, "blobs"); len(got) > 0 {
		t.Errorf("blobs %q", got)
	}
}

// sha512 names blobs as well, and a plain layer is hashed once for both.
func TestAlgorithms(t *testing.T) {
	raw := tartest.Tar(t, "a=1")
	for _, want := range []Layer{
		{Digest: digest.SHA512.FromBytes(raw)},
		{DiffID: digest.SHA512.FromBytes(raw)},
		{Digest: digest.SHA512.FromBytes(raw), DiffID: digest.SHA512.FromBytes(raw)},
		{Digest: digest.SHA256.FromBytes(raw), DiffID: digest.SHA512.FromBytes(raw)},
	} {
		s := testStore(t)
		g := testStage(t, s)
		l, _, err := g.AddLayer(context.Background(), want, bytes.NewReader(raw), index.Limits{})
		if err != nil {
			t.Errorf("%v: %v", want, err)
			continue
		}
		if want.Digest != "" && l.Digest != want.Digest || want.DiffID != "" && l.DiffID != want.DiffID {
			t.Errorf("got %v, want %v", l, want)
		}
		if err := publish(g, "x", l); err != nil {
			t.Fatal(err)
		}
		c, err := s.OpenContent(context.Background(), l, seek.NewCache(1<<20))
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(raw))
		if _, err := c.ReadAt(got, 0); err != nil && err != io.EOF || !bytes.Equal(got, raw) {
			t.Errorf("%v: %v", want, err)
		}
		c.Close()
	}
}
