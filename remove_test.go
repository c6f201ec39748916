// SPDX-License-Identifier: Apache-2.0

package imgfs_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/image"
	"github.com/imgfs/imgfs/internal/regtest"
)

func remove(t testing.TB, s *imgfs.Store, opt imgfs.RemoveOptions, args ...string) []imgfs.Removed {
	t.Helper()
	done, err := s.Remove(context.Background(), args, opt)
	if err != nil {
		t.Fatalf("remove %q: %v", args, err)
	}
	return done
}

func prune(t testing.TB, s *imgfs.Store, opt imgfs.PruneOptions) *imgfs.Pruned {
	t.Helper()
	p, err := s.Prune(context.Background(), opt)
	if err != nil {
		t.Fatalf("prune: %v", err)
	}
	return p
}

func TestRemove(t *testing.T) {
	s := openStore(t)
	ctx := context.Background()
	one := mustLoad(t, s, textImage(t, "example.com/one:1", "gzip", "a=1 || b=2"))[0]
	mustLoad(t, s, textImage(t, "example.com/two:1", "gzip", "a=1 || c=3"))

	t.Run("what is not there is an error, and the others go", func(t *testing.T) {
		if err := s.Tag(ctx, "example.com/one:1", "x:1"); err != nil {
			t.Fatal(err)
		}
		done, err := s.Remove(ctx, []string{"nothing:1", "x:1", "../x", strings.Repeat("0", 64), "abc"}, imgfs.RemoveOptions{})
		if !errors.Is(err, image.ErrNotFound) || len(done) != 5 || !slices.Equal(done[1].Untagged[:1], []string{"x:1"}) {
			t.Errorf("got %+v, %v", done, err)
		}
	})
	t.Run("an image that is open is in use, by its id too", func(t *testing.T) {
		img, err := s.OpenImage(ctx, "example.com/one:1", nil, imgfs.OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer img.Close()
		for _, arg := range []string{"example.com/one:1", string(one.ID), one.ID.Encoded()[:12]} {
			_, err := s.Remove(ctx, []string{arg}, imgfs.RemoveOptions{})
			var used *imgfs.InUseError
			if !errors.As(err, &used) || len(used.By) != 1 || !used.Named || used.Image != arg {
				t.Errorf("%s: got %v", arg, err)
			}
		}
		done := remove(t, s, imgfs.RemoveOptions{Force: true}, "example.com/one:1")
		if len(done[0].Untagged) != 2 || len(done[0].Deleted) != 0 {
			t.Errorf("by force: %+v", done)
		}
		if p := prune(t, s, imgfs.PruneOptions{All: true}); len(p.Images) != 1 {
			t.Errorf("pruned %+v", p)
		}
		readTree(t, img.FS)
		if _, err := s.Remove(ctx, []string{string(one.ID)}, imgfs.RemoveOptions{Force: true}); err == nil {
			t.Error("what has no name went while it was in use")
		}
	})
	done := remove(t, s, imgfs.RemoveOptions{}, string(one.ID))
	if len(done[0].Deleted) != 3 || done[0].Deleted[0] != one.ID {
		t.Errorf("got %+v", done)
	}
	if left := leftIn(t, s); len(left) > 0 {
		t.Errorf("left %q", left)
	}
}

func TestRemoveByDigest(t *testing.T) {
	s := openStore(t)
	loaded := mustLoad(t, s, textImage(t, "example.com/a:1", "none", "a=1"))
	for _, name := range []string{"example.com/a:2", "example.com/b:1"} {
		if err := s.Tag(context.Background(), string(loaded[0].ID), name); err != nil {
			t.Fatal(err)
		}
	}
	m := mustInfo(t, s, "example.com/a:1").Digest
	if _, err := s.Remove(context.Background(), []string{string(m)}, imgfs.RemoveOptions{}); !errors.Is(err, imgfs.ErrSeveralNames) {
		t.Errorf("an id with several names: %v", err)
	}
	done := remove(t, s, imgfs.RemoveOptions{}, "example.com/a@"+string(m))
	if got := strings.Join(done[0].Untagged, " "); got != "example.com/a:1 example.com/a:2 example.com/a@"+string(m) || len(done[0].Deleted) > 0 {
		t.Errorf("got %q", got)
	}
	done = remove(t, s, imgfs.RemoveOptions{NoPrune: true}, "example.com/b:1")
	if len(done[0].Deleted) != 2 || len(leftIn(t, s)) == 0 {
		t.Errorf("got %+v, left %q", done, leftIn(t, s))
	}
	if p := prune(t, s, imgfs.PruneOptions{}); p.Bytes == 0 || len(leftIn(t, s)) > 0 {
		t.Errorf("pruned %+v, left %q", p, leftIn(t, s))
	}
}

func TestPruneFilters(t *testing.T) {
	s := openStore(t)
	b := newOCI(t)
	at := func(year int, label string) func(*ocispec.Image, *ocispec.Manifest) {
		created := time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC)
		return func(c *ocispec.Image, _ *ocispec.Manifest) {
			c.Created = &created
			c.Config.Labels = map[string]string{"stage": label}
		}
	}
	platform := "linux/" + host()
	mustLoad(t, s, b.write(
		named(b.image(platform, textLayers(t, "none", "a=1"), at(2001, "old")), "old:1"),
		named(b.image(platform, textLayers(t, "none", "b=1"), at(2020, "new")), "new:1"),
	))
	names := func() string {
		list, err := s.Images(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, i := range list {
			all = append(all, i.Repository)
		}
		return strings.Join(all, " ")
	}
	for _, tt := range []struct {
		name string
		opt  imgfs.PruneOptions
		want string
	}{
		{"names stay without All", imgfs.PruneOptions{}, "new old"},
		{"another label", imgfs.PruneOptions{All: true, Labels: []imgfs.LabelFilter{{Key: "stage", Value: "x"}}}, "new old"},
		{"all filters must hold", imgfs.PruneOptions{All: true, Until: time.Unix(0, 0), Labels: []imgfs.LabelFilter{{Key: "stage", AnyValue: true}}}, "new old"},
		{"until", imgfs.PruneOptions{All: true, Until: time.Date(2010, 1, 1, 0, 0, 0, 0, time.UTC)}, "new"},
		{"label!", imgfs.PruneOptions{All: true, Labels: []imgfs.LabelFilter{{Key: "stage", Value: "new", Not: true}}}, "new"},
		{"label", imgfs.PruneOptions{All: true, Labels: []imgfs.LabelFilter{{Key: "stage", Value: "new"}}}, ""},
	} {
		prune(t, s, tt.opt)
		if got := names(); got != tt.want {
			t.Errorf("%s: got %q want %q", tt.name, got, tt.want)
		}
	}
}

// An upper keeps its image, and one that does not say what it needs keeps all.
func TestPruneSparesUppers(t *testing.T) {
	s := openStore(t)
	mustLoad(t, s, textImage(t, "example.com/a:1", "none", "a=1"))
	info := mustInfo(t, s, "example.com/a:1")
	dir := filepath.Join(s.Root(), "uppers", "fix")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "upper.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(`{"format":1,"image":"a","image_id":"` + string(info.ID) + `","manifest":"` + string(info.Digest) + `"}`)
	if p := prune(t, s, imgfs.PruneOptions{All: true}); len(p.Images) > 0 {
		t.Errorf("pruned %+v", p)
	}
	_, err := s.Remove(context.Background(), []string{"example.com/a:1"}, imgfs.RemoveOptions{})
	var used *imgfs.InUseError
	if !errors.As(err, &used) || !slices.Equal(used.By, []string{"upper fix"}) {
		t.Errorf("got %v", err)
	}
	write("{")
	if _, err := s.Prune(context.Background(), imgfs.PruneOptions{All: true}); err == nil || !strings.Contains(err.Error(), "upper fix: ") {
		t.Errorf("got %v", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if p := prune(t, s, imgfs.PruneOptions{All: true}); len(p.Images) != 1 || len(leftIn(t, s)) > 0 {
		t.Errorf("pruned %+v, left %q", p, leftIn(t, s))
	}
}

// What a registry still has is fetched again; without one it is told.
func TestVerifyRefetches(t *testing.T) {
	aside(t)
	f, s := regtest.NewFake(t), openStore(t)
	p := publish(t, f, "a/b", "arch", host(), nil, noisy(t, 1, 50000), noisy(t, 2, 5000))
	publishIndex(t, f, "a/b", "1", p.manifest)
	name := f.Host + "/a/b:1"
	pull(t, s, name, imgfs.PullOptions{})
	prune(t, s, imgfs.PruneOptions{}) // the documents of an index stay
	verify := func(repair bool) *imgfs.Verified {
		t.Helper()
		v, err := s.Verify(context.Background(), nil, imgfs.VerifyOptions{Repair: repair})
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	if v := verify(false); len(v.Problems) > 0 || v.Blobs != 5 || v.Images != 1 {
		t.Fatalf("got %+v", v)
	}
	blobs, err := filepath.Glob(filepath.Join(s.Root(), "blobs/sha256/*"))
	if err != nil || len(blobs) != 5 { // index, manifest, config, two layers
		t.Fatalf("%q, %v", blobs, err)
	}
	for _, path := range blobs {
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, spoil := range []func() error{
			func() error { return os.Remove(path) },
			func() error { return os.WriteFile(path, append([]byte("x"), good[1:]...), 0o600) },
			func() error { return os.Truncate(path, int64(len(good)/2)) },
		} {
			if err := spoil(); err != nil {
				t.Fatal(err)
			}
			v := verify(false)
			if len(v.Problems) == 0 || filepath.Base(v.Problems[0].File) != filepath.Base(path) {
				t.Fatalf("%s: not told: %+v", path, v)
			}
			for _, p := range verify(true).Problems {
				if !p.Repaired {
					t.Errorf("not repaired: %+v", p)
				}
			}
			if now, err := os.ReadFile(path); err != nil || digest.FromBytes(now) != digest.FromBytes(good) {
				t.Fatalf("%s: %v", path, err)
			}
		}
	}
	if v := verify(false); len(v.Problems) > 0 {
		t.Errorf("got %+v", v)
	}

	// Nobody else has it.
	mustLoad(t, s, textImage(t, f.Host+"/local:1", "gzip", "z=1"))
	info := mustInfo(t, s, f.Host+"/local:1")
	path := filepath.Join(s.Root(), "blobs/sha256", info.Layers[0].Digest.Encoded())
	if err := os.Truncate(path, 10); err != nil {
		t.Fatal(err)
	}
	v := verify(true)
	if len(v.Problems) != 1 || v.Problems[0].Repaired || v.Problems[0].Cure == "" {
		t.Errorf("got %+v", v)
	}
	if fi, err := os.Stat(path); err != nil || fi.Size() != 10 {
		t.Errorf("what could not be repaired was touched: %v", err)
	}
}
