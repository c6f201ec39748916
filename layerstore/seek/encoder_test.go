// SPDX-License-Identifier: Apache-2.0

package seek

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// encodable returns n bytes that compress by about a half, the same each time.
func encodable(n int) []byte {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	b := make([]byte, 0, n+64)
	for len(b) < n {
		if k := r.IntN(64); k < 40 && len(b) > 100_000 {
			at := len(b) - 1 - r.IntN(100_000)
			b = append(b, b[at:min(len(b), at+k)]...)
		} else {
			for range k {
				b = append(b, byte(r.Uint32()))
			}
		}
	}
	return b[:n]
}

func encode(t testing.TB, raw []byte, c Compression, level, write int) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := NewEncoder(&out, c, level)
	if err != nil {
		t.Fatal(err)
	}
	for p := raw; len(p) > 0; {
		n, err := w.Write(p[:min(write, len(p))])
		if err != nil {
			t.Fatal(err)
		}
		p = p[n:]
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// decodeOther decodes by decoders that are not ours, several members and
// frames as one stream.
func decodeOther(t testing.TB, b []byte, c Compression) []byte {
	t.Helper()
	var r io.Reader = bytes.NewReader(b)
	switch c {
	case Gzip:
		z, err := gzip.NewReader(r)
		if err != nil {
			t.Fatal(err)
		}
		z.Multistream(false) // one member, as the simplest readers want it
		r = z
	case Zstd:
		z, err := zstd.NewReader(r)
		if err != nil {
			t.Fatal(err)
		}
		defer z.Close()
		r = z
	}
	raw, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestEncoder(t *testing.T) {
	for _, c := range []Compression{None, Gzip, Zstd} {
		for _, n := range []int{0, 1, 1024, gzipBlock - 1, gzipBlock, gzipBlock + 1, 2 * gzipBlock, zstdBlock + 1} {
			raw := encodable(n)
			b := encode(t, raw, c, 0, 32<<10)
			if got := decodeOther(t, b, c); !bytes.Equal(got, raw) {
				t.Errorf("%s of %d bytes: %d bytes, or others, come back", c, n, len(got))
			}
			if got := Detect(b); n > 0 && got != c {
				t.Errorf("%s of %d bytes is detected as %s", c, n, got)
			}
			for i, cut := range []int{n + 1, 4097} {
				if again := encode(t, raw, c, 0, cut); !bytes.Equal(again, b) {
					t.Errorf("%s of %d bytes: cut another way (%d) the bytes are others", c, n, i)
				}
			}
		}
	}
}

// The number of processors does not show, nor what was compressed before.
func TestEncoderReproducible(t *testing.T) {
	raw := encodable(5<<20 + 1)
	for _, c := range []Compression{Gzip, Zstd} {
		for _, level := range []int{1, 0} {
			var want []byte
			for _, procs := range []int{1, 3} {
				old := runtime.GOMAXPROCS(procs)
				got := encode(t, raw, c, level, 100_000)
				runtime.GOMAXPROCS(old)
				if want == nil {
					want = got
				}
				if !bytes.Equal(got, want) {
					t.Errorf("%s level %d: on %d processors the bytes are others", c, level, procs)
				}
			}
		}
	}
}

// A layer made again, years later, is the same. Where a new version of the
// compressor breaks this, the change log has to say that new layers are others.
func TestEncoderGolden(t *testing.T) {
	raw := encodable(3 << 20)
	for _, tt := range []struct {
		c    Compression
		want string
	}{
		{Gzip, "b7af9f95b1fa9020a77a16b62cef8eac953ccf5f5426ee09572e07efd6a55d05"},
		{Zstd, "192e6234f97b0b5eb5946dd7d08841c8a08d9c1e0a408e13a480d3b664696e9d"},
	} {
		if got := fmt.Sprintf("%x", sha256.Sum256(encode(t, raw, tt.c, 0, 1<<20))); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.c, got, tt.want)
		}
	}
}

// What is encoded can be entered without a second copy.
func TestEncoderSeekPoints(t *testing.T) {
	raw := encodable(8 << 20)
	for _, c := range []Compression{Gzip, Zstd} {
		b := encode(t, raw, c, 0, 1<<20)
		var index, got bytes.Buffer
		res, err := Build(bytes.NewReader(b), &got, &index, Options{Sidecar: func() (io.Writer, error) { return nil, errors.New("a sidecar") }})
		if err != nil {
			t.Fatalf("%s: %v", c, err)
		}
		if !bytes.Equal(got.Bytes(), raw) || res.Sidecar || res.Trailing || res.Chunks < 4 {
			t.Errorf("%s: %+v", c, res)
		}
	}
}

func TestEncoderErrors(t *testing.T) {
	for _, tt := range []struct {
		c     Compression
		level int
		want  string
	}{{Gzip, 10, "1 to 9"}, {Gzip, -1, "1 to 9"}, {Zstd, 23, "1 to 22"}, {None, 1, "no level"}, {XZ, 0, "nothing is compressed so"}} {
		if _, err := NewEncoder(io.Discard, tt.c, tt.level); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s %d: %v", tt.c, tt.level, err)
		}
	}
	if _, err := ParseCompression("xz"); err == nil {
		t.Error("xz is taken")
	}
	full, mib := errors.New("full"), encodable(1<<20)
	for _, c := range []Compression{None, Gzip, Zstd} {
		if got, err := ParseCompression(c.String()); got != c || err != nil {
			t.Errorf("%s: %v, %v", c, got, err)
		}
		for _, limit := range []int{0, 100, 1 << 20} {
			w, err := NewEncoder(&limitWriter{limit, full}, c, 0)
			if err != nil {
				t.Fatal(err)
			}
			var n int64
			for err == nil && n < 1<<26 {
				var k int
				k, err = w.Write(mib)
				n += int64(k)
			}
			if !errors.Is(err, full) {
				t.Errorf("%s: after %d bytes of a disk of %d: %v", c, n, limit, err)
			}
			if err := w.Close(); c != None && !errors.Is(err, full) {
				t.Errorf("%s: Close: %v", c, err)
			}
		}
	}
}

// A limitWriter fails after n bytes.
type limitWriter struct {
	n   int
	err error
}

func (w *limitWriter) Write(p []byte) (int, error) {
	if len(p) > w.n {
		k := w.n
		w.n = 0
		return k, w.err
	}
	w.n -= len(p)
	return len(p), nil
}

func BenchmarkEncoder(b *testing.B) {
	raw := encodable(32 << 20)
	for _, c := range []Compression{Gzip, Zstd} {
		for _, level := range []int{1, 3, 5, 6, 9} {
			b.Run(fmt.Sprintf("%s/level=%d", c, level), func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(int64(len(raw)))
				var n int
				for b.Loop() {
					n = len(encode(b, raw, c, level, 64<<10))
				}
				b.ReportMetric(float64(n)/float64(len(raw)), "ratio")
			})
		}
	}
}
