// SPDX-License-Identifier: Apache-2.0

package layerstore

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/tartest"
)

// A faraway layer counts what is fetched of it.
type faraway struct {
	raw     []byte
	want    Layer
	breaks  int          // the next fetch ends after so many bytes; 0: never
	fetched atomic.Int64 // bytes
	opened  atomic.Int64
}

var errCut = errors.New("connection cut")

func newFaraway(t testing.TB) *faraway {
	t.Helper()
	noise := make([]byte, 300_000)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range noise {
		noise[i] = 'a' + byte(rng.IntN(26))
	}
	tar := tartest.Tar(t, "a/ a/noise="+string(noise))
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write(tar)
	z.Close()
	return &faraway{raw: b.Bytes(), want: Layer{
		Digest: digest.FromBytes(b.Bytes()), DiffID: digest.FromBytes(tar), Size: int64(b.Len()),
		MediaType: "application/vnd.oci.image.layer.v1.tar+gzip",
	}}
}

func (f *faraway) fetch() Fetch {
	return Fetch{Open: func(ctx context.Context, off int64) (io.ReadCloser, error) {
		f.opened.Add(1)
		var r io.Reader = bytes.NewReader(f.raw[off:])
		if f.breaks > 0 {
			r = io.MultiReader(io.LimitReader(r, int64(f.breaks)), failing{errCut})
		}
		return io.NopCloser(counting{r, &f.fetched}), nil
	}}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

type counting struct {
	r io.Reader
	n *atomic.Int64
}

func (c counting) Read(p []byte) (int, error) {
	n, err := c.r.Read(p[:min(len(p), 10_000)])
	c.n.Add(int64(n))
	return n, err
}

func bring(t testing.TB, s *Store, f *faraway) (Fetched, error) {
	t.Helper()
	g := testStage(t, s)
	got, err := g.FetchLayer(context.Background(), f.want, f.fetch(), index.Limits{})
	if err != nil {
		return got, err
	}
	return got, publish(g, "x", got.Layer)
}

func mustHold(t testing.TB, s *Store, f *faraway) {
	t.Helper()
	got, err := s.ReadBlob(f.want.Digest, f.want.Size)
	if err != nil || !bytes.Equal(got, f.raw) {
		t.Errorf("blob: %d bytes, %v", len(got), err)
	}
	if l, ok, err := s.layer(f.want.Digest); !ok || err != nil || l.DiffID != f.want.DiffID {
		t.Errorf("layer: %+v, %v, %v", l, ok, err)
	}
	table, err := index.Open[index.EntryID](s.LayerPath(f.want.DiffID))
	if err != nil {
		t.Fatal(err)
	}
	table.Close()
	if left := files(t, s, "tmp"); len(left) > 0 {
		t.Errorf("left in tmp: %q", left)
	}
}

func TestFetchLayer(t *testing.T) {
	s, f := testStore(t), newFaraway(t)
	if got, err := bring(t, s, f); err != nil || got.Had {
		t.Fatal(got, err)
	}
	mustHold(t, s, f)
	if got, err := bring(t, s, f); err != nil || !got.Had {
		t.Fatalf("again: %+v, %v", got, err)
	}
	if n := f.fetched.Load(); n != f.want.Size {
		t.Errorf("%d bytes were fetched of %d", n, f.want.Size)
	}
}

// What came before a break is not fetched again, and nothing is in the store
// until all is there.
func TestFetchGoesOn(t *testing.T) {
	s, f := testStore(t), newFaraway(t)
	f.breaks = 70_000
	for range 2 {
		if _, err := bring(t, s, f); !errors.Is(err, errCut) {
			t.Fatal(err)
		}
		if made := append(files(t, s, "blobs"), files(t, s, "index")...); len(made) > 0 {
			t.Fatalf("a broken fetch made %q", made)
		}
	}
	f.breaks = 0
	if _, err := bring(t, s, f); err != nil {
		t.Fatal(err)
	}
	mustHold(t, s, f)
	if n := f.fetched.Load(); n != f.want.Size {
		t.Errorf("%d bytes were fetched of %d", n, f.want.Size)
	}
}

// A layer that came whole in a pull that failed for another reason is not
// fetched again.
func TestFetchedStaysUntilPublished(t *testing.T) {
	s, f := testStore(t), newFaraway(t)
	g := testStage(t, s)
	if _, err := g.FetchLayer(context.Background(), f.want, f.fetch(), index.Limits{}); err != nil {
		t.Fatal(err)
	}
	g.Discard()
	if _, err := bring(t, s, f); err != nil {
		t.Fatal(err)
	}
	mustHold(t, s, f)
	if n := f.opened.Load(); n != 1 {
		t.Errorf("it was fetched %d times", n)
	}
}

// What is wrong is thrown away; bytes that lay on the disk are to blame first.
func TestFetchedWrong(t *testing.T) {
	flip := func(raw []byte, at int) []byte {
		raw = bytes.Clone(raw)
		raw[at] ^= 1
		return raw
	}
	t.Run("on the disk", func(t *testing.T) {
		s, f := testStore(t), newFaraway(t)
		f.breaks = 70_000
		if _, err := bring(t, s, f); !errors.Is(err, errCut) {
			t.Fatal(err)
		}
		path := s.partialPath(f.want.Digest)
		old, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, flip(old, 40_000), 0o600); err != nil {
			t.Fatal(err)
		}
		f.breaks = 0
		if _, err := bring(t, s, f); err != nil {
			t.Fatal(err)
		}
		mustHold(t, s, f)
	})
	t.Run("longer than the blob", func(t *testing.T) {
		s, f := testStore(t), newFaraway(t)
		path := s.partialPath(f.want.Digest)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, append(bytes.Clone(f.raw), 0), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := bring(t, s, f); err != nil {
			t.Fatal(err)
		}
		mustHold(t, s, f)
	})
	for what, raw := range map[string]func([]byte) []byte{
		"in the content": func(b []byte) []byte { return flip(b, len(b)/2) },
		"at the end":     func(b []byte) []byte { return flip(b, len(b)-1) },
		"in the header":  func(b []byte) []byte { return flip(b, 4) }, // of gzip: its time
		"no gzip at all": func(b []byte) []byte { return []byte(strings.Repeat("x", len(b))) },
	} {
		t.Run(what, func(t *testing.T) {
			s, f := testStore(t), newFaraway(t)
			f.raw = raw(f.raw)
			if _, err := bring(t, s, f); !isContent(err) {
				t.Fatal(err)
			}
			if left := append(files(t, s, "tmp/partial"), files(t, s, "blobs")...); len(left) > 0 {
				t.Errorf("left: %q", left)
			}
		})
	}
	t.Run("by one of two servers", func(t *testing.T) {
		s, f := testStore(t), newFaraway(t)
		from, right := f.fetch(), f.raw
		f.raw = flip(right, len(right)/2)
		from.Wrong = func() bool {
			f.raw = right
			return true
		}
		g := testStage(t, s)
		got, err := g.FetchLayer(context.Background(), f.want, from, index.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if err := publish(g, "x", got.Layer); err != nil {
			t.Fatal(err)
		}
		mustHold(t, s, f)
	})
	t.Run("too short", func(t *testing.T) {
		s, f := testStore(t), newFaraway(t)
		f.raw = f.raw[:len(f.raw)-3]
		if _, err := bring(t, s, f); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatal(err)
		}
		if left := files(t, s, "tmp/partial"); len(left) != 1 {
			t.Errorf("partial files: %q", left)
		}
	})
	t.Run("the manifest lies about the size of a blob that is here", func(t *testing.T) {
		s, f := testStore(t), newFaraway(t)
		if _, err := bring(t, s, f); err != nil {
			t.Fatal(err)
		}
		f.want.Size--
		if _, err := bring(t, s, f); !errors.Is(err, ErrDigest) {
			t.Fatal(err)
		}
	})
}

// Of several who want a blob at once, one fetches it and all get it.
func TestFetchedOnce(t *testing.T) {
	s, f := testStore(t), newFaraway(t)
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			if _, err := bring(t, s, f); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	mustHold(t, s, f)
	if n := f.fetched.Load(); n != f.want.Size {
		t.Errorf("%d bytes were fetched of %d", n, f.want.Size)
	}
}

func TestFetchInterrupted(t *testing.T) {
	s, f := testStore(t), newFaraway(t)
	ctx, cancel := context.WithCancel(context.Background())
	from := Fetch{Open: func(ctx context.Context, off int64) (io.ReadCloser, error) {
		r, w := io.Pipe()
		go func() {
			w.Write(f.raw[:50_000])
			cancel()
			<-ctx.Done()
			w.CloseWithError(ctx.Err())
		}()
		return r, nil
	}}
	g := testStage(t, s)
	if _, err := g.FetchLayer(ctx, f.want, from, index.Limits{}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if _, err := bring(t, s, f); err != nil {
		t.Fatal(err)
	}
	if n := f.fetched.Load(); n != f.want.Size-50_000 {
		t.Errorf("%d bytes were fetched, want %d", n, f.want.Size-50_000)
	}
	t.Run("while it waits for another", func(t *testing.T) {
		s := testStore(t)
		if err := s.Create(); err != nil {
			t.Fatal(err)
		}
		p, err := s.lockPartial(context.Background(), f.want.Digest)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		g := testStage(t, s)
		if _, err := g.FetchLayer(ctx, f.want, f.fetch(), index.Limits{}); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	})
}

// What was broken off long ago goes, unless somebody is at it; a sweep of
// stages leaves all of it.
func TestSweepPartials(t *testing.T) {
	s, f := testStore(t), newFaraway(t)
	f.breaks = 1000
	if _, err := bring(t, s, f); !errors.Is(err, errCut) {
		t.Fatal(err)
	}
	s.sweepAge = -time.Hour
	testStage(t, s)
	if left := files(t, s, "tmp/partial"); len(left) != 1 {
		t.Fatalf("after a sweep of stages: %q", left)
	}
	path := s.partialPath(f.want.Digest)
	old := time.Now().Add(-partialAge - time.Hour)
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
	p, err := s.lockPartial(context.Background(), f.want.Digest)
	if err != nil {
		t.Fatal(err)
	}
	s.sweepPartials()
	if left := files(t, s, "tmp/partial"); len(left) != 1 {
		t.Errorf("a locked one was swept")
	}
	p.Close()
	s.sweepPartials()
	if left := files(t, s, "tmp/partial"); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
}
