// SPDX-License-Identifier: Apache-2.0

package index

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// fileHashes are n files, of which every tenth has the content of another.
func fileHashes(n int) []FileHash {
	files := make([]FileHash, n)
	for i := range files {
		files[i] = FileHash{sha256.Sum256([]byte(fmt.Sprint(i - i%10/9))), int64(i)*1024 + 512}
	}
	return files
}

func writeHashes(t testing.TB, files []FileHash) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "h")
	if err := WriteHashes(path, files); err != nil {
		t.Fatal(err)
	}
	return path
}

func openHashes(t testing.TB, path string) *Hashes {
	t.Helper()
	h, err := OpenHashes(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func TestHashes(t *testing.T) {
	for _, n := range []int{0, 1, 2, 10, 1000, segmentHashes + 1000} {
		files := fileHashes(n)
		h := openHashes(t, writeHashes(t, files))
		if h.Len() != n {
			t.Fatalf("%d files, want %d", h.Len(), n)
		}
		bySum := make(map[[sha256.Size]byte][]int64)
		for _, f := range files {
			bySum[f.Sum] = append(bySum[f.Sum], f.Header)
		}
		step := max(1, n/2000)
		for i := 0; i < n; i += step {
			f := files[i]
			if sum, ok, err := h.Of(f.Header); sum != f.Sum || !ok || err != nil {
				t.Fatalf("file at %d of %d: %x %v %v", f.Header, n, sum, ok, err)
			}
			if _, ok, err := h.Of(f.Header + 1); ok || err != nil {
				t.Fatalf("no file at %d: %v %v", f.Header+1, ok, err)
			}
			if got := found(t, h, f.Sum[:]); !slices.Equal(got, bySum[f.Sum]) {
				t.Fatalf("files of %x: %v, want %v", f.Sum, got, bySum[f.Sum])
			}
		}
		for _, prefix := range [][]byte{{}, {0}, {0xff}, {0x80}, {0x12, 0x34}, bytes.Repeat([]byte{0xff}, 32), make([]byte, 32), make([]byte, 33)} {
			want := 0
			for _, f := range files {
				if bytes.HasPrefix(f.Sum[:], prefix) {
					want++
				}
			}
			if got := len(found(t, h, prefix)); got != want {
				t.Fatalf("%d files of %d begin with %x, want %d", got, n, prefix, want)
			}
		}
	}
}

func found(t *testing.T, h *Hashes, prefix []byte) (headers []int64) {
	t.Helper()
	lo, hi, err := h.Find(prefix)
	if err != nil {
		t.Fatal(err)
	}
	for ; lo < hi; lo++ {
		f, err := h.At(lo)
		if err != nil {
			t.Fatal(err)
		}
		headers = append(headers, f.Header)
	}
	return headers
}

// Hashes that somebody chose are found, too: many of one prefix, or all equal.
func TestHashesOfAKind(t *testing.T) {
	files := fileHashes(5000)
	for i := range files {
		clear(files[i].Sum[:28])
		if i%2 == 0 {
			clear(files[i].Sum[:])
		}
	}
	h := openHashes(t, writeHashes(t, files))
	if got := found(t, h, make([]byte, 28)); len(got) != 5000 {
		t.Errorf("%d files, want 5000", len(got))
	}
	if got := found(t, h, make([]byte, 32)); len(got) != 2500 || got[1] != files[2].Header {
		t.Errorf("%d files, want 2500", len(got))
	}
	if got := found(t, h, []byte{0, 1}); len(got) != 0 {
		t.Errorf("%d files, want none", len(got))
	}
}

// hashAnswers is all that hashes say; what is corrupt is left out.
func hashAnswers(h *Hashes, files []FileHash) (map[string]string, error) {
	say := make(map[string]string)
	err := Guard(func() error {
		for i, f := range files {
			if sum, ok, err := h.Of(f.Header); err == nil {
				say[fmt.Sprint("of ", i)] = fmt.Sprint(sum, ok)
			} else if !errors.Is(err, ErrCorrupt) {
				return err
			}
			if lo, hi, err := h.Find(f.Sum[:]); err == nil {
				say[fmt.Sprint("find ", i)] = fmt.Sprint(lo, hi)
			} else if !errors.Is(err, ErrCorrupt) {
				return err
			}
		}
		return nil
	})
	return say, err
}

func checkDamagedHashes(t testing.TB, path string, b []byte, files []FileHash, good map[string]string) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	h, err := OpenHashes(path)
	if err != nil {
		if !errors.Is(err, ErrCorrupt) {
			t.Fatalf("open: %v", err)
		}
		return
	}
	defer h.Close()
	say, err := hashAnswers(h, files)
	if err != nil && !errors.Is(err, ErrCorrupt) {
		t.Fatal(err)
	}
	for k, v := range say {
		if good[k] != v {
			t.Fatalf("%s: %s, want %s", k, v, good[k])
		}
	}
}

func goodHashes(t testing.TB) (b []byte, files []FileHash, good map[string]string) {
	files = fileHashes(2500)
	path := writeHashes(t, files)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	few := files[:0:0]
	for i := 0; i < len(files); i += 50 {
		few = append(few, files[i])
	}
	good, err = hashAnswers(openHashes(t, path), few)
	if err != nil {
		t.Fatal(err)
	}
	return b, few, good
}

// Damage is told or does not matter; never is it a wrong hash.
func TestDamagedHashes(t *testing.T) {
	b, files, good := goodHashes(t)
	path := filepath.Join(memoryDir(t), "h")
	r := rand.New(rand.NewPCG(7, 8))
	flip := func(bit int) {
		b[bit/8] ^= 1 << (bit % 8)
		checkDamagedHashes(t, path, b, files, good)
		b[bit/8] ^= 1 << (bit % 8)
	}
	for i := range 60 {
		flip(i*170 + r.IntN(170))
		flip(8*len(b) - 1 - 9*i)
	}
	for range 150 {
		flip(r.IntN(8 * len(b)))
	}
	for _, n := range []int{0, 31, 1024, 4096, len(b) / 2, len(b) - 1} {
		checkDamagedHashes(t, path, b[:n], files, good)
	}
	// A table is not taken for hashes, nor hashes for a table.
	checkDamagedHashes(t, path, sample(t), files, nil)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open[EntryID](path); !errors.Is(err, ErrCorrupt) {
		t.Errorf("hashes opened as a table: %v", err)
	}
}

func FuzzHashes(f *testing.F) {
	b, files, good := goodHashes(f)
	f.Add(uint32(1024), []byte("xxxxxxxxxxxxxxxx"))
	f.Add(uint32(len(b)-32), []byte{0, 1, 2, 3, 4, 5})
	f.Fuzz(func(t *testing.T, off uint32, xor []byte) {
		if len(xor) > 4096 {
			return
		}
		c := bytes.Clone(b)
		for i, x := range xor {
			c[(int(off)+i)%len(c)] ^= x
		}
		checkDamagedHashes(t, filepath.Join(memoryDir(t), "h"), c, files, good)
	})
}

// A thousand layers are asked for one hash.
func BenchmarkFindHash(b *testing.B) {
	const layers = 1000
	path := writeHashes(b, fileHashes(10_000))
	all := make([]*Hashes, layers)
	for i := range all {
		all[i] = openHashes(b, path)
	}
	sum := sha256.Sum256([]byte("none"))
	b.ReportAllocs()
	for b.Loop() {
		for _, h := range all {
			if lo, hi, err := h.Find(sum[:]); lo != hi || err != nil {
				b.Fatal(lo, hi, err)
			}
		}
	}
}
