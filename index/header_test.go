// SPDX-License-Identifier: Apache-2.0

package index

import (
	"archive/tar"
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// plainHeaders are tars in the forms that next reads by itself.
func plainHeaders(t testing.TB) [][]byte {
	var out [][]byte
	for _, format := range []tar.Format{tar.FormatUSTAR, tar.FormatGNU, tar.FormatPAX} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range []*tar.Header{
			{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755, Uid: 12, Gid: 34},
			{Name: "d/f", Typeflag: tar.TypeReg, Mode: 0o4644, Size: 5},
			{Name: "d/g", Typeflag: tar.TypeReg, Mode: 0o644, Size: 512},
			{Name: "h", Typeflag: tar.TypeLink, Linkname: "d/f"},
			{Name: "l", Typeflag: tar.TypeSymlink, Linkname: strings.Repeat("t", 100)},
			{Name: "null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3},
			{Name: "sda", Typeflag: tar.TypeBlock, Mode: 0o600, Devmajor: 8},
			{Name: "fifo", Typeflag: tar.TypeFifo, Mode: 0o600},
			{Name: strings.Repeat("p", 140) + "/" + strings.Repeat("n", 90), Typeflag: tar.TypeReg, Size: 1},
			{Name: "d/../x/./y//z", Typeflag: tar.TypeReg},
			{Name: "d/h/..", Typeflag: tar.TypeDir},
			{Name: "d/.", Typeflag: tar.TypeDir},
			{Name: "d/f", Typeflag: tar.TypeReg, Size: 3},
			{Name: "d/k", Typeflag: tar.TypeReg, Size: 3},
		} {
			h.ModTime, h.Format = time.Unix(1_700_000_000, 0), format
			if err := w.WriteHeader(h); err != nil {
				t.Fatal(err)
			}
			fmt.Fprint(w, strings.Repeat("x", int(h.Size)))
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		out = append(out, b.Bytes())
	}
	return out
}

// What is read without archive/tar is what archive/tar reads, also where bytes
// of a header are not what they were.
func TestPlainHeaders(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	values := []byte{0, ' ', '0', '7', '8', '-', '/', 'x', 'S', 'g', '5', 0x80, 0xff}
	for _, b := range plainHeaders(t) {
		sameAsOracle(t, b, Limits{})
		for range 800 {
			c := bytes.Clone(b)
			at := 512 * r.IntN(len(c)/512)
			for range 1 + r.IntN(2) {
				c[at+r.IntN(512)] = values[r.IntN(len(values))]
			}
			if r.IntN(8) != 0 { // the sum is right, or that of signed bytes
				sum := blockSum((*[512]byte)(c[at:]))
				if r.IntN(4) == 0 {
					for _, v := range c[at : at+512] {
						if v >= 0x80 {
							sum -= 256
						}
					}
				}
				copy(c[at+fieldSum:], fmt.Sprintf("%06o\x00 ", max(sum, 0)))
			}
			if r.IntN(10) == 0 {
				c = c[:r.IntN(len(c))]
			}
			sameAsOracle(t, c, Limits{})
		}
	}
}

// The names of most images are read without archive/tar: a hundred entries
// take few allocations.
func TestPlainHeadersAllocate(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := range 1000 {
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("usr/lib/d%d/f%d", i/20, i), Mode: 0o644, ModTime: time.Unix(1, 0)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	got := testing.AllocsPerRun(5, func() {
		if err := newScanner(bytes.NewReader(b.Bytes()), Limits{}).scan(); err != nil {
			t.Fatal(err)
		}
	})
	if got > 2000 {
		t.Errorf("%.0f allocations for 1000 entries", got)
	}
}
