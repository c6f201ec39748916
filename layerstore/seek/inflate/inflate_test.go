// SPDX-License-Identifier: Apache-2.0

package inflate

import (
	"bytes"
	"compress/flate"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	kflate "github.com/klauspost/compress/flate"
)

// decodeAll decodes a whole stream with a buffer of the given size of output,
// sliding it as a streaming caller does. If the size is odd it asks each time
// what is copied from before.
func decodeAll(r io.Reader, size int) ([]byte, error) {
	var d Decoder
	d.Reset(r, 0)
	return drain(&d, size)
}

func drain(d *Decoder, size int) ([]byte, error) {
	var all []byte
	buf := make([]byte, Window+size+Slack)
	hist, op := Window, Window
	for {
		was := op
		var ev Event
		var err error
		op, ev, err = d.Decode(buf, hist, op, Window+size)
		all = append(all, buf[was:op]...)
		if err != nil || ev == StreamEnd {
			return all, err
		}
		if ev == Full {
			shift := op - Window
			copy(buf, buf[shift:op])
			hist, op = max(0, hist-shift), Window
			if size%2 == 1 {
				d.Track(new(References))
			}
		}
	}
}

// sampleText gives n bytes that compress as source text does.
func sampleText(n int) []byte {
	var b bytes.Buffer
	words := strings.Fields("the layer of an image is a tar and a tar is a row of files with names modes owners times func return if err nil package import 0x7f\n\t{ } ( ) == :=")
	rnd := rand.New(rand.NewPCG(1, 2))
	for b.Len() < n {
		b.WriteString(words[rnd.IntN(len(words))])
		if rnd.IntN(9) == 0 {
			b.WriteByte(byte(rnd.Uint32()))
		}
		b.WriteByte(' ')
	}
	return b.Bytes()[:n]
}

func noise(n int) []byte {
	rnd := rand.New(rand.NewPCG(3, 4))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	return b
}

func deflate(t testing.TB, data []byte, level int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, level)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func kdeflate(t testing.TB, data []byte, level int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := kflate.NewWriter(&b, level)
	if err != nil {
		t.Fatal(err)
	}
	// Flushes put empty stored blocks between the others.
	for i := 0; i < len(data); i += 100_000 {
		w.Write(data[i:min(i+100_000, len(data))])
		w.Flush()
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

type sample struct {
	name   string
	stream []byte
}

// far is 32768 bytes of noise twice: every match has the greatest distance.
func far() []byte {
	n := noise(Window)
	return append(n, n...)
}

func samples(t testing.TB, size int) []sample {
	fib := func() []byte { // counts that make the longest codes
		var b []byte
		x, y := 1, 1
		for i := 0; len(b) < size; i++ {
			b = append(b, bytes.Repeat([]byte{byte(i)}, min(x, size))...)
			x, y = y, x+y
		}
		rnd := rand.New(rand.NewPCG(5, 6))
		rnd.Shuffle(len(b), func(i, j int) { b[i], b[j] = b[j], b[i] })
		return b
	}()
	period := bytes.Repeat([]byte("abc"), size/3)
	var out []sample
	for _, in := range []struct {
		name string
		data []byte
	}{
		{"empty", nil}, {"one byte", []byte("x")}, {"text", sampleText(size)},
		{"noise", noise(size)}, {"zeros", make([]byte, size)}, {"period 3", period},
		{"far", far()}, {"skewed", fib},
	} {
		for name, level := range map[string]int{"stored": 0, "fast": 1, "default": 6, "best": 9, "huffman only": -2} {
			out = append(out, sample{in.name + "/" + name, deflate(t, in.data, level)})
			out = append(out, sample{in.name + "/klauspost " + name, kdeflate(t, in.data, level)})
		}
	}
	return out
}

func oracle(stream []byte) ([]byte, error) {
	r := bytes.NewReader(stream)
	b, err := io.ReadAll(flate.NewReader(r))
	return b, err
}

func check(t *testing.T, name string, stream []byte) {
	t.Helper()
	want, wantErr := oracle(stream)
	for _, size := range []int{1, 1000, 256 << 10} {
		if size == 1 && len(want) > 10_000 {
			continue
		}
		got, err := decodeAll(bytes.NewReader(stream), size)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%s: output %d: error %v, compress/flate has %v", name, size, err, wantErr)
		}
		if err == nil && !bytes.Equal(got, want) {
			t.Fatalf("%s: output %d: %d bytes differ from compress/flate's %d", name, size, len(got), len(want))
		}
	}
}

func TestEqualsFlate(t *testing.T) {
	for _, s := range samples(t, 300_000) {
		check(t, s.name, s.stream)
	}
}

func TestSmallReads(t *testing.T) {
	for _, s := range samples(t, 20_000) {
		want, _ := oracle(s.stream)
		got, err := decodeAll(iotest.OneByteReader(bytes.NewReader(s.stream)), 5000)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v; want %d", s.name, len(got), err, len(want))
		}
		got, err = decodeAll(iotest.DataErrReader(bytes.NewReader(s.stream)), 5000)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: data with EOF: %d bytes, %v; want %d", s.name, len(got), err, len(want))
		}
	}
}

func TestTruncated(t *testing.T) {
	for _, s := range samples(t, 3000) {
		step := 1 + len(s.stream)/200
		for n := 0; n < len(s.stream); n += step {
			_, err := decodeAll(bytes.NewReader(s.stream[:n]), 1000)
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("%s cut to %d of %d: %v", s.name, n, len(s.stream), err)
			}
		}
	}
}

func TestFlippedBits(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 8))
	for _, s := range samples(t, 5000) {
		for range 15 {
			b := bytes.Clone(s.stream)
			for range 1 + rnd.IntN(3) {
				b[rnd.IntN(min(len(b), 200))] ^= 1 << rnd.IntN(8)
			}
			check(t, s.name+" flipped", b)
		}
	}
}

func TestMalformed(t *testing.T) {
	for _, tt := range []struct {
		name   string
		stream string
		want   string
	}{
		{"reserved block type", "\x07", "reserved block type"},
		{"stored length and complement differ", "\x01\x01\x00\x00\x00", "complement"},
		{"too many length symbols", "\xfd\x00\x00\x00\x00", "too many symbols"},
		{"match before the first byte", "\x03\x02\x00\x00\x00\x00", "before the first byte"},
	} {
		_, err := decodeAll(strings.NewReader(tt.stream), 100)
		var c *CorruptError
		if !errors.As(err, &c) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want one with %q", tt.name, err, tt.want)
		}
		check(t, tt.name, []byte(tt.stream))
	}
}

// resume returns a decoder that stands at a bit of a block.
func resume(t *testing.T, s sample, bit, block int64) *Decoder {
	t.Helper()
	d := new(Decoder)
	d.Reset(bytes.NewReader(s.stream[block>>3:]), block>>3)
	if err := d.SkipBits(uint(block & 7)); err != nil {
		t.Fatal(err)
	}
	if block != bit {
		if err := d.ResumeBlock(bytes.NewReader(s.stream[bit>>3:]), bit); err != nil {
			t.Fatalf("%s: resume at bit %d of block %d: %v", s.name, bit, block, err)
		}
	}
	return d
}

// What Track says is copied is enough to start there, and nothing of it can be
// left out.
func TestReferences(t *testing.T) {
	const size = 70_000
	some := 0
	for _, s := range samples(t, size) {
		var d Decoder
		d.Reset(bytes.NewReader(s.stream), 0)
		all, err := drain(&d, size)
		if err != nil {
			t.Fatal(err)
		}
		room := len(all) + 1 // so that the end of the stream is met
		buf := make([]byte, room+Slack)
		for _, at := range []int{0, 5000, Window, 60_000} {
			d.Reset(bytes.NewReader(s.stream), 0)
			op, ev := 0, BlockEnd
			for at = min(at, len(all)); err == nil && op < at && ev != StreamEnd; {
				op, ev, err = d.Decode(buf, 0, op, at)
			}
			if err != nil {
				t.Fatal(err)
			}
			at, bit, block := op, d.Bit(), d.BlockBit()
			var refs References
			d.Track(&refs)
			for steps := 1; err == nil && ev != StreamEnd; steps++ { // in steps, as a caller who slides
				op, ev, err = d.Decode(buf, 0, op, min(op+steps*1000, room))
			}
			if err != nil {
				t.Fatal(err)
			}
			again := func(window []byte) []byte {
				out := make([]byte, Window+room+Slack)
				op, ev := Window, BlockEnd
				if at >= len(all) {
					return nil
				}
				e := resume(t, s, bit, block)
				hist := Window - copy(out[Window-len(window):], window)
				for err = nil; err == nil && ev != StreamEnd; {
					op, ev, err = e.Decode(out, hist, op, Window+room)
				}
				if err != nil {
					t.Fatalf("%s from %d: %v", s.name, at, err)
				}
				return out[Window:op]
			}
			whole := all[max(0, at-Window):at]
			kept := refs.Keep(bytes.Clone(whole))
			if got := again(kept); !bytes.Equal(got, all[at:]) {
				t.Fatalf("%s from %d: bytes differ", s.name, at)
			}
			wanted := 0
			for _, c := range refs.Keep(bytes.Repeat([]byte{1}, len(whole))) {
				wanted += int(c)
			}
			turned := bytes.Clone(kept)
			for k := range turned {
				turned[k] = ^turned[k]
			}
			changed := 0
			for k, c := range again(turned) {
				if c != all[at+k] {
					changed++
				}
			}
			if changed < wanted {
				t.Errorf("%s from %d: %d bytes are kept, %d are copied", s.name, at, wanted, changed)
			}
			some += wanted
		}
	}
	if some == 0 {
		t.Error("nothing was ever copied")
	}
}

// TestResume stops at every place where Decode can stop and starts again
// there, with the history alone.
func TestResume(t *testing.T) {
	for _, s := range samples(t, 60_000) {
		want, err := oracle(s.stream)
		if err != nil {
			t.Fatal(err)
		}
		var d Decoder
		d.Reset(bytes.NewReader(s.stream), 0)
		buf := make([]byte, Window+len(want)+Slack)
		op := 0
		for {
			limit := min(op+4099, len(buf)-Slack)
			var ev Event
			op, ev, err = d.Decode(buf, 0, op, limit)
			if err != nil {
				t.Fatal(err)
			}
			if ev == StreamEnd {
				break
			}
			bit := d.Bit()
			e := resume(t, s, bit, d.BlockBit())
			out := make([]byte, Window+len(want)-op+Slack)
			w := copy(out[max(0, Window-op):], buf[max(0, op-Window):op])
			h := max(0, Window-op)
			at := h + w
			for ev := BlockEnd; ev == BlockEnd && at < len(out)-Slack; {
				at, ev, err = e.Decode(out, h, at, len(out)-Slack)
				if err != nil {
					t.Fatalf("%s: after resume at bit %d: %v", s.name, bit, err)
				}
			}
			if !bytes.Equal(out[h+w:at], want[op:]) {
				t.Fatalf("%s: bytes after resume at bit %d differ", s.name, bit)
			}
		}
		if !bytes.Equal(buf[:op], want) {
			t.Fatalf("%s: bytes differ", s.name)
		}
	}
}

func FuzzInflate(f *testing.F) {
	for _, s := range samples(f, 2000) {
		f.Add(s.stream)
		f.Add(s.stream[:len(s.stream)/2])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		want, wantErr := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(b)), 8<<20))
		if len(want) == 8<<20 {
			t.Skip("too long")
		}
		for _, size := range []int{777, 64 << 10} {
			got, err := decodeAll(bytes.NewReader(b), size)
			if (err == nil) != (wantErr == nil) || err == nil && !bytes.Equal(got, want) {
				t.Fatalf("output %d: %d bytes, %v; compress/flate: %d bytes, %v", size, len(got), err, len(want), wantErr)
			}
		}
	})
}

// layer returns up to n bytes of a tar-like row of real files.
func layer(b *testing.B, n int) []byte {
	var data []byte
	for _, dir := range []string{"/usr/lib", "/usr/share"} {
		part := 0
		filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return nil
			}
			if part > n/2 {
				return filepath.SkipAll
			}
			c, err := os.ReadFile(path)
			if err != nil || len(c) > 8<<20 {
				return nil
			}
			data = append(data, make([]byte, 512)...)
			data = append(data, c...)
			data = append(data, make([]byte, -len(c)&511)...)
			part += len(c)
			return nil
		})
	}
	if len(data) < n/4 {
		b.Skip("no files in /usr to make a layer of")
	}
	return data
}

func BenchmarkInflate(b *testing.B) {
	data := layer(b, 64<<20)
	stream := deflate(b, data, 6)
	b.Logf("%d bytes, deflated to %d", len(data), len(stream))
	b.Run("imgfs", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		b.ReportAllocs()
		var d Decoder
		buf := make([]byte, Window+256<<10+Slack)
		for b.Loop() {
			d.Reset(bytes.NewReader(stream), 0)
			hist, op, total := Window, Window, 0
			for ev := Full; ev != StreamEnd; {
				was := op
				var err error
				op, ev, err = d.Decode(buf, hist, op, len(buf)-Slack)
				if err != nil {
					b.Fatal(err)
				}
				total += op - was
				if ev == Full {
					copy(buf, buf[op-Window:op])
					hist, op = 0, Window
				}
			}
			if total != len(data) {
				b.Fatal(total)
			}
		}
	})
	b.Run("compress", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			io.Copy(io.Discard, flate.NewReader(bytes.NewReader(stream)))
		}
	})
	b.Run("klauspost", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			io.Copy(io.Discard, kflate.NewReader(bytes.NewReader(stream)))
		}
	})
}
