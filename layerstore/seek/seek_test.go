// SPDX-License-Identifier: Apache-2.0

package seek

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math/bits"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// built is a stream that went through Build.
type built struct {
	Result
	data    []byte
	index   []byte
	sidecar []byte
	blob    []byte // what Open takes
}

func build(t testing.TB, stream []byte, opt Options) (built, error) {
	t.Helper()
	var b built
	var dst, index, side bytes.Buffer
	if opt.Sidecar == nil {
		opt.Sidecar = func() (io.Writer, error) { return &side, nil }
	}
	src := bytes.NewReader(stream)
	res, err := Build(src, &dst, &index, opt)
	if src.Len() != 0 && !errors.Is(err, errLimit) {
		t.Errorf("Build left %d bytes unread", src.Len())
	}
	b = built{Result: res, data: dst.Bytes(), index: index.Bytes(), sidecar: side.Bytes(), blob: stream}
	if res.Sidecar {
		b.blob = b.sidecar
	}
	return b, err
}

func (b *built) open(t testing.TB, cache *Cache) *Reader {
	t.Helper()
	r, err := Open(bytes.NewReader(b.index), int64(len(b.index)), bytes.NewReader(b.blob), int64(len(b.blob)), cache)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func text(n int) []byte {
	words := strings.Fields("the layer of an image is a tar and a tar is a row of files func return if err nil package import 0x7f { } ( ) == :=")
	rnd := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 0, n+20)
	for len(b) < n {
		b = append(b, words[rnd.IntN(len(words))]...)
		if rnd.IntN(7) == 0 {
			b = append(b, byte(rnd.Uint32()))
		}
		b = append(b, ' ')
	}
	return b[:n]
}

func noise(n int) []byte {
	rnd := rand.NewChaCha8([32]byte{1})
	b := make([]byte, n)
	rnd.Read(b)
	return b
}

func gz(t testing.TB, data []byte, level int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, level)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(data)
	w.Close()
	return b.Bytes()
}

// members gzips data in members of n bytes each.
func members(t testing.TB, data []byte, n int) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b) // one for all: making one takes longer than using it
	for i := 0; i < len(data); i += n {
		w.Reset(&b)
		w.Write(data[i:min(i+n, len(data))])
		w.Close()
	}
	return b.Bytes()
}

// headed is gzip whose header has every field there is.
func headed(t testing.TB, data []byte) []byte {
	h := []byte{0x1f, 0x8b, 8, gzHeaderCRC | gzExtra | gzName | gzComment | 1, 1, 2, 3, 4, 0, 255}
	h = append(h, 5, 0, 'e', 'x', 't', 'r', 'a')
	h = append(h, "name\x00comment\x00"...)
	h = binary.LittleEndian.AppendUint16(h, uint16(crc32.ChecksumIEEE(h)))
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, 6)
	w.Write(data)
	w.Close()
	h = append(h, b.Bytes()...)
	h = binary.LittleEndian.AppendUint32(h, crc32.ChecksumIEEE(data))
	return binary.LittleEndian.AppendUint32(h, uint32(len(data)))
}

// oneBlock is gzip with all data in one block of fixed codes: it has no block
// end to enter it at.
func oneBlock(data []byte) []byte {
	out := []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}
	var acc uint64
	var n uint
	put := func(v uint64, k uint) {
		acc |= v << n
		for n += k; n >= 8; n -= 8 {
			out = append(out, byte(acc))
			acc >>= 8
		}
	}
	code := func(v uint64, k uint) { put(bits.Reverse64(v)>>(64-k), k) } // most significant bit first
	put(1, 1)
	put(1, 2)
	for _, c := range data {
		if c < 144 {
			code(0x30+uint64(c), 8)
		} else {
			code(0x190+uint64(c)-144, 9)
		}
	}
	code(0, 7)
	put(0, 7)
	out = binary.LittleEndian.AppendUint32(out, crc32.ChecksumIEEE(data))
	return binary.LittleEndian.AppendUint32(out, uint32(len(data)))
}

func zs(t testing.TB, data []byte, frame int, opts ...zstd.EOption) []byte {
	t.Helper()
	e, err := zstd.NewWriter(nil, opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	var out []byte
	for i := 0; i < len(data); i += frame {
		out = e.EncodeAll(data[i:min(i+frame, len(data))], out)
	}
	return out
}

// zstream is one frame that does not state its size.
func zstream(t testing.TB, data []byte) []byte {
	var b bytes.Buffer
	e, err := zstd.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	e.Write(data[:len(data)/2])
	e.Flush()
	e.Write(data[len(data)/2:])
	e.Close()
	return b.Bytes()
}

func skippable(n int) []byte {
	b := binary.LittleEndian.AppendUint32([]byte{0x5a, 0x2a, 0x4d, 0x18}, uint32(n))
	return append(b, noise(n)...)
}

func xzip(t testing.TB, data []byte) []byte {
	var b bytes.Buffer
	w, err := xz.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(data)
	w.Close()
	return b.Bytes()
}

// bzip is "hello, layer\n" by bzip2.
var bzip = []byte("\x42\x5a\x68\x39\x31\x41\x59\x26\x53\x59\x86\xdd\xac\x0a\x00\x00\x03\x51\x80\x00\x10\x40\x04\x22\x44\x90\x20\x20\x00\x31\x00\x30\x20\x03\xd2\x14\x02\xde\x58\xd0\xbc\x5d\xc9\x14\xe1\x42\x42\x1b\x76\xb0\x28")

func cat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func TestBuildAndRead(t *testing.T) {
	small, big := text(300_000), text(5<<20)
	opt := Options{}
	if raced {
		big, opt.Spacing = big[:5<<18], 256<<10
	}
	zeros := make([]byte, 18<<20)
	for _, tt := range []struct {
		name     string
		stream   []byte
		data     []byte
		want     Compression
		sidecar  bool
		trailing bool
		minimum  int // chunks
	}{
		{"plain", big, big, None, false, false, 40},
		{"plain, whole chunks", big[:4*plainChunk], big[:4*plainChunk], None, false, false, 4},
		{"nothing", nil, nil, None, false, false, 0},
		{"gzip", gz(t, big, 6), big, Gzip, false, false, 3},
		{"gzip stored", gz(t, big, 0), big, Gzip, false, false, 3},
		{"gzip huffman only", gz(t, big, -2), big, Gzip, false, false, 3},
		{"gzip of nothing", gz(t, nil, 6), nil, Gzip, false, false, 0},
		{"gzip of noise", gz(t, noise(5<<20), 6), noise(5 << 20), Gzip, false, false, 3},
		{"gzip of zeros", gz(t, zeros, 6), zeros, Gzip, false, false, 3},
		{"gzip of many members", members(t, big, 50_000), big, Gzip, false, false, 3},
		{"gzip of tiny members", members(t, small, 20), small, Gzip, false, false, 1},
		{"gzip of empty members", cat(bytes.Repeat(gz(t, nil, 6), 5000), gz(t, small, 1), bytes.Repeat(gz(t, nil, 6), 5000)), small, Gzip, false, false, 1},
		{"gzip with every header field", cat(headed(t, small), headed(t, big)), cat(small, big), Gzip, false, false, 3},
		{"gzip, one endless block", oneBlock(cat(big, big)), cat(big, big), Gzip, false, false, 2},
		{"gzip then zeros", cat(gz(t, small, 6), make([]byte, 10_000)), small, Gzip, false, true, 1},
		{"gzip then garbage", cat(gz(t, small, 6), []byte("garbage")), small, Gzip, false, true, 1},
		{"gzip then half a magic", cat(gz(t, small, 6), []byte{0x1f, 0x8b}), small, Gzip, false, true, 1},
		{"zstd of many frames", zs(t, big, 100_000), big, Zstd, false, false, 3},
		{"zstd, tiny frames", zs(t, small, 100), small, Zstd, false, false, 1},
		{"zstd, skippable frames between and first", cat(skippable(7), zs(t, big, 1<<20), skippable(100_000), zs(t, small, 1<<20), skippable(0)), cat(big, small), Zstd, false, false, 3},
		{"zstd, one short frame", zstream(t, small), small, Zstd, false, false, 1},
		{"zstd, one long frame", zstream(t, zeros), zeros, Zstd, true, false, 18},
		{"zstd, one long frame that states its size", zs(t, zeros, len(zeros)), zeros, Zstd, true, false, 18},
		{"zstd, two long frames", cat(zstream(t, zeros), zstream(t, big)), cat(zeros, big), Zstd, true, false, 23},
		{"zstd, a long frame late", cat(zstream(t, small), zstream(t, zeros), zstream(t, big)), cat(small, zeros, big), Zstd, false, false, 19},
		{"zstd of only a skippable frame", skippable(10), nil, Zstd, false, false, 0},
		{"xz", xzip(t, big[:1<<20+7]), big[:1<<20+7], XZ, true, false, 2},
		{"bzip2", bzip, []byte("hello, layer\n"), Bzip2, true, false, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, err := build(t, tt.stream, opt)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(b.data, tt.data) {
				t.Fatalf("Build gave %d other bytes, want %d", len(b.data), len(tt.data))
			}
			if b.Compression != tt.want || b.Size != int64(len(tt.data)) || b.Sidecar != tt.sidecar || b.Trailing != tt.trailing || !raced && b.Chunks < tt.minimum {
				t.Errorf("result %+v, want %v of %d bytes, sidecar %v, trailing %v, at least %d chunks", b.Result, tt.want, len(tt.data), tt.sidecar, tt.trailing, tt.minimum)
			}
			r := b.open(t, NewCache(20<<20))
			checkReads(t, r, tt.data)
			for i := range b.Chunks {
				if lo, hi := r.t.span(i); hi-lo > maxChunk {
					t.Errorf("chunk %d has %d bytes", i, hi-lo)
				}
			}

			dec, c, err := NewDecoder(iotest.HalfReader(bytes.NewReader(tt.stream)))
			if err != nil || c != tt.want {
				t.Fatal(c, err)
			}
			got, err := io.ReadAll(dec)
			if err != nil || !bytes.Equal(got, tt.data) {
				t.Errorf("NewDecoder gave %d bytes, %v; want %d", len(got), err, len(tt.data))
			}
			dec.Close()
		})
	}
}

// checkReads reads all forwards and then here and there by several goroutines.
func checkReads(t *testing.T, r *Reader, want []byte) {
	t.Helper()
	got, err := io.ReadAll(io.NewSectionReader(r, 0, r.Size()))
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("read %d bytes, %v; want %d", len(got), err, len(want))
	}
	if len(want) == 0 {
		return
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(9, uint64(g)))
			buf := make([]byte, 300_000)
			for range 25 {
				off := rnd.Int64N(int64(len(want)))
				p := buf[:rnd.IntN(len(buf))]
				if rnd.IntN(2) == 0 {
					p = p[:min(len(p), 4096)]
				}
				n, err := r.ReadAt(p, off)
				rest := want[off:min(len(want), int(off)+len(p))]
				if n != len(rest) || (err == io.EOF) != (len(rest) < len(p)) || err != nil && err != io.EOF {
					t.Errorf("ReadAt(%d bytes, %d) = %d, %v; want %d", len(p), off, n, err, len(rest))
				}
				if !bytes.Equal(p[:n], rest) {
					t.Errorf("ReadAt(%d bytes, %d): wrong bytes", len(p), off)
				}
			}
		})
	}
	wg.Wait()
}

func TestMalformed(t *testing.T) {
	data := text(400_000)
	good := gz(t, data, 6)
	zgood := zs(t, data, 100_000)
	xzipped := xzip(t, data[:50_000])
	flip := func(b []byte, at int) []byte {
		b = bytes.Clone(b)
		b[(at+len(b))%len(b)] ^= 0x10
		return b
	}
	huge := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 0xf0, 1, 0, 0} // window of 1 TiB
	for _, tt := range []struct {
		name   string
		stream []byte
		want   string
	}{
		{"gzip cut in its header", good[:5], "truncated"},
		{"gzip cut in the middle", good[:len(good)/2], "truncated"},
		{"gzip cut in the trailer", good[:len(good)-3], "truncated"},
		{"gzip with a wrong checksum", flip(good, -6), "checksum"},
		{"gzip with a wrong length", flip(good, -2), "length"},
		{"gzip with a wrong header checksum", flip(headed(t, data), 12), "checksum"},
		{"gzip with a bad second member", cat(good, good[:20]), "truncated"},
		{"gzip of nonsense", cat(good[:10], noise(1000)), "offset "},
		{"zstd cut", zgood[:len(zgood)-10], "truncated"},
		{"zstd cut in a header", zgood[:5], "truncated"},
		{"zstd with a wrong checksum", flip(zgood, -1), "offset"},
		{"zstd then garbage", cat(zgood, []byte("garbage and more of it")), "offset"},
		{"zstd then zeros", cat(zgood, make([]byte, 100)), "offset"},
		{"zstd with a huge window", huge, "limit of 134217728"},
		{"zstd cut in a skippable frame", skippable(100)[:50], "truncated"},
		{"long zstd cut", zstream(t, make([]byte, 30<<20))[:1000], "truncated"},
		{"xz cut", xzipped[:1000], "xz"},
		{"xz with garbage behind", cat(xzipped, []byte("garbage.")), "xz"},
		{"bzip2 cut", bzip[:30], "bzip2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := build(t, tt.stream, Options{})
			if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want ErrFormat with %q", err, tt.want)
			}
			dec, _, err := NewDecoder(bytes.NewReader(tt.stream))
			if err == nil {
				_, err = io.Copy(io.Discard, dec)
			}
			if !errors.Is(err, ErrFormat) {
				t.Errorf("NewDecoder: error %v, want ErrFormat", err)
			}
		})
	}
}

var errTest = errors.New("test")

func TestErrorsOfOthers(t *testing.T) {
	data := text(3 << 20)
	for name, stream := range map[string][]byte{
		"plain": data, "gzip": gz(t, data, 6), "zstd": zs(t, data, 1<<20), "long zstd": zstream(t, make([]byte, 20<<20)), "xz": xzip(t, data[:3<<19]),
	} {
		src := io.MultiReader(bytes.NewReader(stream[:len(stream)/2]), iotest.ErrReader(errTest))
		if _, err := Build(src, io.Discard, io.Discard, Options{}); !errors.Is(err, errTest) || errors.Is(err, ErrFormat) {
			t.Errorf("%s: source fails: %v", name, err)
		}
		if _, err := Build(bytes.NewReader(stream), failWriter{}, io.Discard, Options{}); !errors.Is(err, errTest) {
			t.Errorf("%s: dst fails: %v", name, err)
		}
		if _, err := Build(bytes.NewReader(stream), io.Discard, failWriter{}, Options{}); !errors.Is(err, errTest) {
			t.Errorf("%s: index fails: %v", name, err)
		}
		_, err := Build(bytes.NewReader(stream), io.Discard, io.Discard, Options{MaxSize: 1 << 20})
		if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), "1048576") {
			t.Errorf("%s: over the limit: %v", name, err)
		}
	}
}

type failWriter struct{}

func (failWriter) Write(p []byte) (int, error) { return 0, errTest }

func TestDetect(t *testing.T) {
	for _, tt := range []struct {
		head string
		want Compression
	}{
		{"", None}, {"\x1f", None}, {"\x1f\x8b\x08", Gzip}, {"\x1f\x8b\x07", None}, {"\x28\xb5\x2f\xfd", Zstd},
		{"\x50\x2a\x4d\x18", Zstd}, {"\x5f\x2a\x4d\x18", Zstd}, {"\xfd7zXZ\x00", XZ}, {"BZh91AY&SY", Bzip2},
		{"BZh9 is a file name", None}, {"etc/passwd", None},
	} {
		if got := Detect([]byte(tt.head)); got != tt.want {
			t.Errorf("Detect(%q) = %v, want %v", tt.head, got, tt.want)
		}
	}
}

// TestDamagedBlob flips bits in the blob: chunks that differ are ErrCorrupt,
// others are read, no byte is wrong.
func TestDamagedBlob(t *testing.T) {
	data := text(3 << 20)
	for name, stream := range map[string][]byte{
		"plain": data, "gzip": gz(t, data, 6), "members": members(t, data, 100_000),
		"zstd": zs(t, data, 1<<20), "sidecar": zstream(t, cat(data, data, data)), "one block": oneBlock(bytes.Repeat(data, 6)),
	} {
		b, err := build(t, stream, Options{Spacing: 256 << 10})
		if err != nil {
			t.Fatal(err)
		}
		good := b.blob
		rnd := rand.New(rand.NewPCG(11, 12))
		for round := range 3 {
			b.blob = bytes.Clone(good)
			if round == 2 {
				b.blob = b.blob[:len(b.blob)/2]
			} else {
				b.blob[len(b.blob)/2+rnd.IntN(len(b.blob)/4)] ^= 1 << rnd.IntN(8)
			}
			r := b.open(t, NewCache(8<<20))
			bad, fine := 0, 0
			for i := range r.t.chunks() {
				lo, hi := r.t.span(i)
				p := make([]byte, hi-lo)
				n, err := r.ReadAt(p, lo)
				if err != nil && !errors.Is(err, ErrCorrupt) {
					t.Errorf("%s: chunk %d: %v", name, i, err)
				}
				if err != nil {
					bad++
				} else {
					fine++
				}
				if !bytes.Equal(p[:n], b.data[lo:lo+int64(n)]) {
					t.Errorf("%s: wrong bytes", name)
				}
			}
			if bad == 0 && round == 2 || round < 2 && bad > 1 || fine == 0 {
				t.Errorf("%s, round %d: %d chunks are corrupt and %d fine", name, round, bad, fine)
			}
			r.Close()
		}
	}
}

func TestDamagedIndex(t *testing.T) {
	data := text(1 << 20)
	rnd := rand.New(rand.NewPCG(13, 14))
	for name, stream := range map[string][]byte{"plain": data, "gzip": gz(t, data, 6), "zstd": zs(t, data, 100_000), "late": cat(zs(t, data, 100_000), zstream(t, make([]byte, 9<<20)))} {
		b, err := build(t, stream, Options{Spacing: 64 << 10})
		if err != nil {
			t.Fatal(err)
		}
		good := b.index
		p := make([]byte, len(b.data))
		for round := range 150 {
			b.index = bytes.Clone(good)
			if round%3 == 0 {
				b.index = b.index[:rnd.IntN(len(b.index))]
			} else {
				b.index[rnd.IntN(len(b.index))] ^= 1 << rnd.IntN(8)
			}
			r, err := Open(bytes.NewReader(b.index), int64(len(b.index)), bytes.NewReader(b.blob), int64(len(b.blob)), nil)
			n := 0
			if err == nil {
				n, err = r.ReadAt(p, 0)
				r.Close()
			}
			if err == nil && n != len(p) || err != nil && !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%s: %d bytes, %v", name, n, err)
			}
			if !bytes.Equal(p[:n], b.data[:n]) {
				t.Fatalf("%s: wrong bytes", name)
			}
		}
	}
}

func TestCloseWhileReading(t *testing.T) {
	data := text(8 << 20)
	b, err := build(t, gz(t, data, 1), Options{Spacing: 256 << 10})
	if err != nil {
		t.Fatal(err)
	}
	cache := NewCache(2 << 20)
	for range 4 {
		r, err := Open(bytes.NewReader(b.index), int64(len(b.index)), bytes.NewReader(b.blob), int64(len(b.blob)), cache)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for g := range 4 {
			wg.Go(func() {
				p := make([]byte, 100_000)
				for off := int64(g) << 20; ; off = (off + 70_000) % (7 << 20) {
					n, err := r.ReadAt(p, off)
					if errors.Is(err, os.ErrClosed) {
						return
					}
					if err != nil || !bytes.Equal(p[:n], data[off:off+int64(n)]) {
						t.Error(err)
						return
					}
				}
			})
		}
		p := make([]byte, 4096)
		for range 20 {
			r.ReadAt(p, rand.Int64N(8<<20))
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
		if len(cache.chunks) != 0 || cache.background != 0 {
			t.Errorf("%d chunks left, %d goroutines", len(cache.chunks), cache.background)
		}
		if cache.used > cache.max+8<<20 {
			t.Errorf("cache holds %d bytes", cache.used)
		}
	}
}

func TestWarmReadAllocatesNothing(t *testing.T) {
	data := text(3 << 20)
	for _, stream := range [][]byte{data, gz(t, data, 1), zs(t, data, 1<<20)} {
		b, err := build(t, stream, Options{})
		if err != nil {
			t.Fatal(err)
		}
		r := b.open(t, NewCache(32<<20))
		p := make([]byte, 4096)
		if n := testing.AllocsPerRun(100, func() {
			if _, err := r.ReadAt(p, 1<<20+77); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%v: %v allocations", b.Compression, n)
		}
	}
}
