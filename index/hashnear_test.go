// SPDX-License-Identifier: Apache-2.0

package index

import (
	"math/rand/v2"
	"path/filepath"
	"testing"
)

// OfNear finds what Of finds, wherever it begins.
func TestOfNear(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{0, 1, 2, 3, 100, 1000} {
		files := make([]FileHash, n)
		header := int64(0)
		for i := range files {
			header += 512 * int64(1+rnd.IntN(4))
			files[i].Header = header
			files[i].Sum[rnd.IntN(32)] = byte(1 + rnd.IntN(255))
		}
		path := filepath.Join(t.TempDir(), "hashes")
		if err := WriteHashes(path, files); err != nil {
			t.Fatal(err)
		}
		h, err := OpenHashes(path)
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		at := 0
		for range 5000 {
			want := 512 * rnd.Int64N(header/512+3)
			near := at
			switch rnd.IntN(4) {
			case 0:
				near = rnd.IntN(n+20) - 10
			case 1:
				near = at + 1
			}
			sum, ok, err := h.Of(want)
			gotSum, got, gotOK, gotErr := h.OfNear(want, near)
			if gotSum != sum || gotOK != ok || err != nil || gotErr != nil {
				t.Fatalf("%d of %d near %d: %x %v %v, want %x %v %v", want, n, near, gotSum, gotOK, gotErr, sum, ok, err)
			}
			if ok && files[got].Header != want {
				t.Fatalf("%d of %d is not at %d", want, n, got)
			}
			at = got
		}
	}
}
