// SPDX-License-Identifier: Apache-2.0

package seek

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
)

// decodedOf returns how much of chunk i of r is decoded.
func decodedOf(r *Reader, i int) int64 {
	r.cache.mu.Lock()
	defer r.cache.mu.Unlock()
	if ch := r.cache.chunks[chunkKey{r, i}]; ch != nil {
		return ch.valid.Load()
	}
	return 0
}

// A gzip chunk is decoded as far as it is read, and goes on from there: also
// across the members in it.
func TestPartOfAChunk(t *testing.T) {
	data := text(2 << 20)
	for name, stream := range map[string][]byte{"one member": gz(t, data, 6), "members": members(t, data, 100_000), "one block": oneBlock(data)} {
		b, err := build(t, stream, Options{Spacing: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		r := b.open(t, NewCache(32<<20))
		_, hi := r.t.span(0)
		if hi < 3*partSize {
			t.Fatalf("%s: the first chunk has %d bytes", name, hi)
		}
		p := make([]byte, 1000)
		for _, tt := range []struct{ off, want int64 }{
			{5, partSize},
			{partSize - 1000, partSize},
			{partSize - 999, 2 * partSize},
			{10, 2 * partSize},
			{hi - 1000, hi},
		} {
			n, err := r.ReadAt(p, tt.off)
			if err != nil || !bytes.Equal(p[:n], data[tt.off:tt.off+int64(n)]) {
				t.Fatalf("%s: %d bytes at %d: %v", name, n, tt.off, err)
			}
			if got := decodedOf(r, 0); got != tt.want {
				t.Errorf("%s: a read at %d: %d bytes are decoded, want %d", name, tt.off, got, tt.want)
			}
		}
	}
}

// What comes before a fault of a chunk can be read, what comes behind cannot,
// and the next read tries again.
func TestFaultInsideAChunk(t *testing.T) {
	data := text(3 << 20)
	b, err := build(t, oneBlock(data), Options{Spacing: 3 << 20})
	if err != nil {
		t.Fatal(err)
	}
	good := b.blob
	b.blob = bytes.Clone(good)
	b.blob[len(good)/2] ^= 4
	r := b.open(t, NewCache(32<<20))
	p := make([]byte, 1000)
	for range 2 {
		if n, err := r.ReadAt(p, 100); err != nil || !bytes.Equal(p[:n], data[100:1100]) {
			t.Errorf("before the fault: %d bytes, %v", n, err)
		}
		if _, err := r.ReadAt(p, int64(len(data))-5000); !errors.Is(err, ErrCorrupt) {
			t.Errorf("behind the fault: %v", err)
		}
		if len(r.cache.chunks) != 0 {
			t.Errorf("%d chunks are kept of a blob that failed", len(r.cache.chunks))
		}
	}
	copy(b.blob, good)
	if n, err := r.ReadAt(p, int64(len(data))-5000); err != nil || !bytes.Equal(p[:n], data[len(data)-5000:len(data)-4000]) {
		t.Errorf("after it was mended: %d bytes, %v", n, err)
	}
}

// Many read parts of the same chunks at once, from a cache that is too small.
func TestPartsAtOnce(t *testing.T) {
	data := text(3 << 20)
	b, err := build(t, gz(t, data, 1), Options{Spacing: 512 << 10})
	if err != nil {
		t.Fatal(err)
	}
	r := b.open(t, NewCache(2<<20))
	var wg sync.WaitGroup
	for g := range 6 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(g), 1))
			p := make([]byte, 9000)
			for range 30 {
				off := rnd.Int64N(int64(len(data) - len(p)))
				if g%2 == 0 { // forwards
					off = rnd.Int64N(5) << 19
				}
				for range 1 + g%2*8 {
					if n, err := r.ReadAt(p, off); err != nil || !bytes.Equal(p[:n], data[off:off+int64(n)]) {
						t.Errorf("%d bytes at %d: %v", n, off, err)
						return
					}
					off = min(off+int64(len(p)), int64(len(data)-len(p)))
				}
			}
		})
	}
	wg.Wait()
}

// Cached tells what was decoded and no more.
func TestCached(t *testing.T) {
	data := text(3 << 20)
	b, err := build(t, gz(t, data, 1), Options{Spacing: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	r := b.open(t, NewCache(32<<20))
	if r.Cached(0, 1) {
		t.Error("nothing was read")
	}
	p := make([]byte, 1000)
	if _, err := r.ReadAt(p, partSize/2); err != nil {
		t.Fatal(err)
	}
	_, end := r.t.span(0)
	for _, tt := range []struct {
		off, n int64
		want   bool
	}{
		{0, partSize, true}, {partSize - 1, 1, true}, {0, partSize + 1, false}, {partSize, 1, false},
		{end - 1, 2, false}, {end, 1, false}, {-1, 1, false}, {0, 0, false}, {0, -5, false},
		{int64(len(data)), 1, false}, {1, math.MaxInt64, false}, {math.MaxInt64, 1, false},
	} {
		if got := r.Cached(tt.off, tt.n); got != tt.want {
			t.Errorf("%d bytes at %d: %v", tt.n, tt.off, got)
		}
	}
	if Plain(bytes.NewReader(data), int64(len(data))).Cached(0, 1) {
		t.Error("a plain reader caches nothing")
	}
}
