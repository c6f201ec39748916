// SPDX-License-Identifier: Apache-2.0

package seek

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/ulikunitz/xz"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestFormat pins the index file byte for byte.
func TestFormat(t *testing.T) {
	data := text(200_000)
	plain, err := build(t, data, Options{})
	if err != nil {
		t.Fatal(err)
	}
	// gzip as this test makes it: no library may change its bytes.
	zipped, err := build(t, oneBlock(data[:1000]), Options{})
	if err != nil {
		t.Fatal(err)
	}
	frames, err := build(t, cat(rawFrame("hello "), rawFrame("frames")), Options{})
	if err != nil {
		t.Fatal(err)
	}
	got := "plain\n" + hex.Dump(plain.index) + "gzip\n" + hex.Dump(zipped.index) + "zstd\n" + hex.Dump(frames.index)
	const name = "testdata/format.hex"
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the format changed: got\n%s\nwant\n%s", got, want)
	}
}

// rawFrame is a zstd frame of one raw block.
func rawFrame(s string) []byte {
	n := len(s)
	return append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x20, byte(n), byte(n<<3 | 1), 0, 0}, s...)
}

// TestBomb reads 2 GiB of zeros out of a small stream in bounded memory.
func TestBomb(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	size := int64(2 << 30)
	if raced {
		size = 256 << 20
	}
	var stream bytes.Buffer
	w, _ := gzip.NewWriterLevel(&stream, gzip.BestSpeed)
	zeros := make([]byte, 64<<20)
	w.Write(zeros)
	w.Close()
	// Many members of the same zeros: the stream is made in no time.
	blob := bytes.Repeat(stream.Bytes(), int(size)/len(zeros))
	var index bytes.Buffer
	zeros, stream = nil, bytes.Buffer{}
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	res, err := Build(bytes.NewReader(blob), io.Discard, &index, Options{})
	if err != nil || res.Size != size {
		t.Fatal(res, err)
	}
	r, err := Open(bytes.NewReader(index.Bytes()), int64(index.Len()), bytes.NewReader(blob), int64(len(blob)), NewCache(16<<20))
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 4096)
	for off := int64(0); off <= size-4096; off += size / 97 {
		if _, err := r.ReadAt(p, off); err != nil || p[0] != 0 {
			t.Fatal(err)
		}
	}
	if used := r.cache.used; used > 24<<20 {
		t.Errorf("cache holds %d bytes", used)
	}
	r.Close()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapSys) - int64(before.HeapSys); grown > 96<<20 {
		t.Errorf("heap grew by %d bytes", grown)
	}
	if index.Len() > 1<<20 {
		t.Errorf("index has %d bytes", index.Len())
	}
}

func TestXZDictionary(t *testing.T) {
	var b bytes.Buffer
	w, err := xz.WriterConfig{DictCap: 1 << 20}.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(text(100_000))
	w.Close()
	stream := b.Bytes()
	at := bytes.Index(stream[:40], []byte{0x21, 1})
	if at < 0 {
		t.Fatal("no LZMA2 filter")
	}
	second := bytes.Clone(stream)
	second[at+2] = 39
	for _, s := range [][]byte{second, cat(stream, second), cat(stream, make([]byte, 8), second)} {
		_, err := build(t, s, Options{})
		if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), "limit of 134217728") {
			t.Errorf("error %v", err)
		}
	}
	double, err := build(t, cat(stream, make([]byte, 8), stream), Options{})
	if err != nil || double.Size != 200_000 {
		t.Errorf("two streams with padding: %d bytes, %v", double.Size, err)
	}
}

func FuzzSeekPoints(f *testing.F) {
	data := text(140_000)
	f.Add(gz(f, data, 6), uint16(0), byte(0), int64(5))
	f.Add(members(f, data, 5000), uint16(100), byte(1), int64(6))
	f.Add(oneBlock(data), uint16(3), byte(4), int64(7))
	f.Add(zs(f, data, 70_000), uint16(90), byte(128), int64(8))
	f.Add(data, uint16(20), byte(2), int64(9))
	f.Add(bzip, uint16(20), byte(0), int64(9))
	f.Fuzz(func(t *testing.T, stream []byte, at uint16, flip byte, seed int64) {
		b, err := build(t, stream, Options{Spacing: 64 << 10, MaxSize: 9 << 20})
		if err != nil {
			return
		}
		b.index = bytes.Clone(b.index)
		b.index[int(at)%len(b.index)] ^= flip
		r, err := Open(bytes.NewReader(b.index), int64(len(b.index)), bytes.NewReader(b.blob), int64(len(b.blob)), nil)
		if err != nil {
			if flip == 0 || !errors.Is(err, ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		defer r.Close()
		rnd := rand.New(rand.NewPCG(uint64(seed), 1))
		for range 20 {
			p := make([]byte, rnd.IntN(200_000))
			off := rnd.Int64N(int64(len(b.data)) + 1)
			n, err := r.ReadAt(p, off)
			if err != nil && err != io.EOF && (flip == 0 || !errors.Is(err, ErrCorrupt)) {
				t.Fatal(err)
			}
			if !bytes.Equal(p[:n], b.data[off:off+int64(n)]) {
				t.Fatal("wrong bytes")
			}
		}
	})
}

func BenchmarkBuild(b *testing.B) {
	data := text(64 << 20)
	for name, stream := range map[string][]byte{"gzip": gz(b, data, 6), "plain": data, "zstd": zs(b, data, 1<<20)} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				var index bytes.Buffer
				if _, err := Build(bytes.NewReader(stream), io.Discard, &index, Options{}); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(100*float64(index.Len())/float64(len(stream)), "index-%")
			}
		})
	}
}

func BenchmarkReadAt(b *testing.B) {
	for name, pack := range map[string]func([]byte) []byte{
		"gzip":  func(data []byte) []byte { return gz(b, data, 6) },
		"plain": func(data []byte) []byte { return data },
		"zstd":  func(data []byte) []byte { return zs(b, data, 1<<20) },
	} {
		b.Run(name, func(b *testing.B) {
			x, err := build(b, pack(text(32<<20)), Options{})
			if err != nil {
				b.Fatal(err)
			}
			benchmarkReadAt(b, x)
		})
	}
}

func benchmarkReadAt(b *testing.B, x built) {
	for temp, size := range map[string]int64{"cold": 0, "warm": 256 << 20} {
		b.Run(temp, func(b *testing.B) {
			r := x.open(b, NewCache(size))
			io.Copy(io.Discard, io.NewSectionReader(r, 0, r.Size()))
			p := make([]byte, 4096)
			rnd := rand.New(rand.NewPCG(1, 1))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := r.ReadAt(p, rnd.Int64N(r.Size()-4096)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("forwards", func(b *testing.B) {
		r := x.open(b, NewCache(16<<20))
		b.SetBytes(r.Size())
		buf := make([]byte, 128<<10)
		for b.Loop() {
			for off := int64(0); off < r.Size(); off += int64(len(buf)) {
				if _, err := r.ReadAt(buf, off); err != nil && err != io.EOF {
					b.Fatal(err)
				}
			}
		}
	})
}

// An index keeps of each window what is copied, and a block that does not end
// is entered in its middle.
func TestPointsAreSmallAndNear(t *testing.T) {
	for name, data := range map[string][]byte{"text": text(4 << 20), "zeros": make([]byte, 20<<20)} {
		b, err := build(t, gz(t, data, 6), Options{})
		if err != nil {
			t.Fatal(err)
		}
		r := b.open(t, nil)
		n := r.t.chunks()
		for i := range n {
			if lo, hi := r.t.span(i); hi-lo > 4*defaultSpacing+2*pieceSize {
				t.Errorf("%s: chunk %d has %d bytes", name, i, hi-lo)
			}
		}
		if n < 2 || len(b.index) > n*(6<<10) {
			t.Errorf("%s: %d bytes of index for %d chunks", name, len(b.index), n)
		}
		for i := n - 1; i >= 0; i-- { // backwards: nothing is decoded ahead
			lo, hi := r.t.span(i)
			p := make([]byte, hi-lo)
			if _, err := r.ReadAt(p, lo); err != nil || !bytes.Equal(p, data[lo:hi]) {
				t.Errorf("%s: chunk %d: %v", name, i, err)
			}
		}
	}
}
