// SPDX-License-Identifier: Apache-2.0

package layerstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/tartest"
)

// drop removes names and collects what they alone kept.
func drop(t testing.TB, s *Store, names ...string) []Image {
	t.Helper()
	gone, err := s.Change(func(c *Catalog) error {
		for _, name := range names {
			if err := c.Remove(name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Collect(context.Background(), gone); err != nil {
		t.Fatal(err)
	}
	return gone
}

func collectAll(t testing.TB, s *Store) Freed {
	t.Helper()
	freed, err := s.CollectAll(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return freed
}

func TestCollect(t *testing.T) {
	s := testStore(t)
	a, err := addLayer(t, s, "a", tartest.Tar(t, "a=1"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := addLayer(t, s, "b", tartest.Tar(t, "b=1")); err != nil {
		t.Fatal(err)
	}
	if freed := collectAll(t, s); freed != (Freed{}) {
		t.Errorf("a store without rubbish: %+v", freed)
	}
	t.Run("the last name takes its files along", func(t *testing.T) {
		if gone := drop(t, s, "a"); len(gone) != 1 || gone[0].Manifest != a.Digest {
			t.Errorf("gone %v", gone)
		}
		if s.HasBlob(a.Digest) {
			t.Error("the blob is there")
		}
		if got := len(files(t, s, "blobs")) + len(files(t, s, "index")); got != 4 { // blob, table, hashes, seek
			t.Errorf("%d files are left: %q %q", got, files(t, s, "blobs"), files(t, s, "index"))
		}
		if _, ok, err := s.layer(a.Digest); ok || err != nil {
			t.Errorf("the layer is known: %v, %v", ok, err)
		}
		if err := s.Check(); err != nil {
			t.Error(err)
		}
	})
	t.Run("a lease keeps an image that has no name any more", func(t *testing.T) {
		l, err := addLayer(t, s, "c", tartest.Tar(t, "c=1"))
		if err != nil {
			t.Fatal(err)
		}
		_, lease, ok, err := s.LeaseImage(l.Digest)
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		drop(t, s, "c")
		collectAll(t, s)
		if !s.HasBlob(l.Digest) {
			t.Fatal("the blob is gone")
		}
		if err := lease.Close(); err != nil {
			t.Fatal(err)
		}
		drop(t, s)
		collectAll(t, s)
		if s.HasBlob(l.Digest) {
			t.Error("the blob is there when the lease is over")
		}
		if _, _, ok, err := s.LeaseImage(l.Digest); ok || err != nil {
			t.Errorf("leased what is gone: %v, %v", ok, err)
		}
	})
	t.Run("a stage keeps what it needs and what it brings", func(t *testing.T) {
		raw := tartest.Tar(t, "d=1")
		l, err := addLayer(t, s, "d", raw)
		if err != nil {
			t.Fatal(err)
		}
		g := testStage(t, s)
		if _, _, err := g.AddLayer(context.Background(), l, bytes.NewReader(raw), index.Limits{}); err != nil {
			t.Fatal(err)
		}
		m, _, err := g.AddLayer(context.Background(), Layer{}, bytes.NewReader(tartest.Tar(t, "e=1")), index.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := g.commit(); err != nil { // renamed, and no name leads there
			t.Fatal(err)
		}
		drop(t, s, "d")
		collectAll(t, s)
		if !s.HasBlob(l.Digest) || !s.HasBlob(m.Digest) {
			t.Fatal("a blob of a stage is gone")
		}
		g.Discard()
		collectAll(t, s)
		if s.HasBlob(l.Digest) || s.HasBlob(m.Digest) {
			t.Error("a blob is there when the stage is over")
		}
	})
	t.Run("a lease that cannot be read keeps everything", func(t *testing.T) {
		path := filepath.Join(s.root, "leases", "lease-x")
		if err := os.WriteFile(path, []byte("pid 1"), 0o600); err != nil { // cut short
			t.Fatal(err)
		}
		f, err := flock(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		drop(t, s, "b")
		collectAll(t, s)
		if len(files(t, s, "blobs")) != 1 {
			t.Error("a blob is gone")
		}
	})
	t.Run("what the dead left goes", func(t *testing.T) {
		for _, name := range []string{"tmp/stage-x/layer-1/blob", "tmp/partial/sha256-x", "leases/lease-y", "blobs/sha256/" + digest.FromString("x").Encoded()} {
			path := filepath.Join(s.root, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		drop(t, s)
		if freed := collectAll(t, s); freed.Files < 4 || freed.Bytes == 0 {
			t.Errorf("freed %+v", freed)
		}
		for _, dir := range []string{"tmp", "leases", "blobs", "index"} {
			if left := files(t, s, dir); len(left) > 0 {
				t.Errorf("%s: left %q", dir, left)
			}
		}
	})
	t.Run("nothing goes if it is not known what is used", func(t *testing.T) {
		if _, err := addLayer(t, s, "f", tartest.Tar(t, "f=1")); err != nil {
			t.Fatal(err)
		}
		broken := errors.New("broken")
		s.SetKeep(Keep{Uses: func() ([]Use, error) { return nil, broken }})
		defer s.SetKeep(Keep{})
		if _, err := s.Change(func(c *Catalog) error { return c.Remove("f") }); !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
		if _, err := s.CollectAll(context.Background()); !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
		if _, ok, err := s.Ref("f"); !ok || err != nil {
			t.Errorf("the name: %v, %v", ok, err)
		}
	})
}

// Files made for a place go when it is gone or has changed, with its trees.
func TestCollectPlaces(t *testing.T) {
	s := testStore(t)
	if err := s.Create(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "layer.tar")
	open := func(verify bool) {
		t.Helper()
		raw := tartest.Tar(t, "a=1 b=2")
		if _, err := os.Stat(path); err != nil {
			if err := os.WriteFile(path, raw, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		p, err := s.OpenPlace(context.Background(), Layer{}, Range{Path: path, Size: int64(len(raw))}, verify, nil, index.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, verify := range []bool{false, true} {
		open(verify)
		made := len(files(t, s, "index/place"))
		collectAll(t, s)
		if got := len(files(t, s, "index/place")); got != made || made == 0 {
			t.Errorf("verify %v: %d of %d files are left of a place that is there", verify, got, made)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		collectAll(t, s)
		if left := files(t, s, "index/place"); len(left) > 0 {
			t.Errorf("verify %v: left %q", verify, left)
		}
	}
}

// TestManyProcesses: processes that load, use, remove and prune at random, some
// of which are killed, leave every name complete.
func TestManyProcesses(t *testing.T) {
	if root := os.Getenv("LAYERSTORE_TEST_CHAOS"); root != "" {
		chaos(t, root)
		return
	}
	s := testStore(t)
	until := time.Now().Add(4 * time.Second)
	ended := 0
	worker := func(seed int, lives time.Duration) error {
		c := exec.Command(os.Args[0], "-test.run=^TestManyProcesses$")
		c.Env = append(os.Environ(), "LAYERSTORE_TEST_CHAOS="+s.root, "LAYERSTORE_TEST_SEED="+strconv.Itoa(seed),
			"LAYERSTORE_TEST_UNTIL="+strconv.FormatInt(until.UnixNano(), 10))
		var out bytes.Buffer
		c.Stdout, c.Stderr = &out, &out
		if err := c.Start(); err != nil {
			return err
		}
		if lives > 0 {
			time.AfterFunc(lives, func() { c.Process.Kill() })
		}
		err := c.Wait()
		if c.ProcessState.ExitCode() < 0 {
			return nil // killed
		}
		if err != nil {
			return fmt.Errorf("%w\n%s", err, out.Bytes())
		}
		return nil
	}
	errs := make(chan error)
	const workers = 5
	for k := range workers {
		go func() {
			if k < 3 {
				errs <- worker(k, 0)
				return
			}
			var err error // a row of short lives
			for seed := k; err == nil && time.Now().Before(until); seed += workers {
				err = worker(seed, time.Duration(50+rand.IntN(300))*time.Millisecond)
			}
			errs <- err
		}()
	}
	for range workers {
		if err := <-errs; err != nil {
			t.Error(err)
		}
		ended++
	}
	t.Logf("%d workers ended", ended)
	refs, images := checkWhole(t, s)
	t.Logf("%d names and %d images are left", refs, images)
	drop(t, s) // images that only the killed used
	collectAll(t, s)
	checkWhole(t, s)
	k := &keeper{s: s}
	if err := k.look(); err != nil {
		t.Fatal(err)
	}
	paths, err := s.collectable()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		if !k.keeps(path) {
			t.Errorf("%s is there and nothing keeps it", path)
		}
	}
	if left := append(files(t, s, "tmp"), files(t, s, "leases")...); len(left) > 0 {
		t.Errorf("left %q", left)
	}
}

// checkWhole makes sure that every image that a name leads to is complete.
func checkWhole(t testing.TB, s *Store) (refs, images int) {
	t.Helper()
	if err := s.Check(); err != nil {
		t.Fatal(err)
	}
	list, all, err := s.List(true)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range list {
		for _, m := range r.Images {
			i, ok := all[m]
			if !ok {
				t.Errorf("%q leads to %s, of which there is no record", r.Name, m)
			}
			for _, l := range i.Layers {
				checkBlob(t, s, l.Digest)
			}
		}
	}
	return len(list), len(all)
}

func checkBlob(t testing.TB, s *Store, d digest.Digest) {
	t.Helper()
	if _, err := s.ReadBlob(d, 1<<20); err != nil {
		t.Error(err)
	}
}

// chaos is one of the processes.
func chaos(t *testing.T, root string) {
	s, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	seed, _ := strconv.ParseUint(os.Getenv("LAYERSTORE_TEST_SEED"), 10, 64)
	until, _ := strconv.ParseInt(os.Getenv("LAYERSTORE_TEST_UNTIL"), 10, 64)
	rng := rand.New(rand.NewPCG(seed, 5))
	for time.Now().UnixNano() < until {
		switch rng.IntN(8) {
		case 0, 1, 2:
			chaosLoad(t, s, rng)
		case 3, 4:
			chaosUse(t, s, rng)
		case 5, 6:
			chaosRemove(t, s, rng)
		case 7:
			collectAll(t, s)
		}
		if t.Failed() {
			return
		}
	}
}

// chaosLoad publishes an image of a few of the same few layers.
func chaosLoad(t *testing.T, s *Store, rng *rand.Rand) {
	t.Helper()
	g, err := s.NewStage()
	if err != nil {
		t.Fatal(err)
	}
	defer g.Discard()
	var i Image
	for range 1 + rng.IntN(3) {
		raw := tartest.Tar(t, fmt.Sprintf("f%d=%d", rng.IntN(4), rng.IntN(2)))
		l, _, err := g.AddLayer(context.Background(), Layer{DiffID: digest.FromBytes(raw)}, bytes.NewReader(raw), index.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		i.Layers = append(i.Layers, l)
	}
	i.ID = i.Layers[0].Digest
	i.Manifest = i.Layers[len(i.Layers)-1].Digest
	err = g.Publish([]Ref{{Name: fmt.Sprintf("n%d", rng.IntN(12)), Target: i.Manifest, Images: []digest.Digest{i.Manifest}}}, []Image{i})
	if err != nil {
		t.Fatal(err) // also ErrVanished: a claim has to keep it
	}
}

// chaosUse leases an image and reads it all.
func chaosUse(t *testing.T, s *Store, rng *rand.Rand) {
	t.Helper()
	refs, err := s.Refs()
	if err != nil || len(refs) == 0 {
		return
	}
	m := refs[rng.IntN(len(refs))].Images[0]
	i, lease, ok, err := s.LeaseImage(m)
	if err != nil {
		t.Fatal(err)
	}
	if !ok {
		return
	}
	defer lease.Close()
	for range 3 {
		for _, l := range i.Layers {
			checkBlob(t, s, l.Digest)
			c, err := s.OpenContent(context.Background(), l, nil)
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
		}
		time.Sleep(time.Duration(rng.IntN(5)) * time.Millisecond)
	}
}

func chaosRemove(t *testing.T, s *Store, rng *rand.Rand) {
	t.Helper()
	gone, err := s.Change(func(c *Catalog) error {
		for key := range c.Refs {
			if rng.IntN(3) == 0 {
				if err := c.Remove(key); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Collect(context.Background(), gone); err != nil {
		t.Fatal(err)
	}
}

// Who looks whether a claim is living is in nobody's way.
func TestCatalogBesideClaims(t *testing.T) {
	s := testStore(t)
	l, err := addLayer(t, s, "a", tartest.Tar(t, "a=1"))
	if err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	var looking sync.WaitGroup
	for range 3 {
		looking.Go(func() {
			for !stop.Load() {
				if _, err := s.Usages(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 300 {
		_, lease, ok, err := s.LeaseImage(l.Digest)
		if err != nil || !ok {
			t.Error(ok, err)
			break
		}
		lease.Close()
		g, err := s.NewStage()
		if err != nil {
			t.Error(err)
			break
		}
		g.Discard()
	}
	stop.Store(true)
	looking.Wait()
}
