// SPDX-License-Identifier: Apache-2.0

package twosum

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"testing"
)

func noise(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// Every length gives crypto/sha256's sum.
func TestLengths(t *testing.T) {
	b := noise(1000)
	for n := range b {
		var d, e Digest
		d.Reset()
		d.Write(b[:n])
		if got, want := d.Sum(), sha256.Sum256(b[:n]); got != want {
			t.Fatalf("Write of %d bytes: %x, want %x", n, got, want)
		}
		d.Reset()
		e.Reset()
		Both(&d, b[:n], &e, b[n/3:])
		if got, want := d.Sum(), sha256.Sum256(b[:n]); got != want {
			t.Fatalf("Both, first, %d bytes: %x, want %x", n, got, want)
		}
		if got, want := e.Sum(), sha256.Sum256(b[n/3:]); got != want {
			t.Fatalf("Both, second, %d bytes: %x, want %x", len(b)-n/3, got, want)
		}
	}
}

// However the streams are cut, the sums are those of the whole.
func TestPieces(t *testing.T) {
	b := noise(1 << 16)
	r := rand.New(rand.NewPCG(3, 4))
	for range 500 {
		var d, e Digest
		d.Reset()
		e.Reset()
		dn, en := 0, 0
		for range 1 + r.IntN(20) {
			k, l := r.IntN(3000), r.IntN(3000)
			switch r.IntN(3) {
			case 0:
				d.Write(b[dn : dn+k])
				l = 0
			case 1:
				k, l = 0, 0
			default:
				Both(&d, b[dn:dn+k], &e, b[en:en+l])
				en += l
			}
			dn += k
		}
		if got, want := d.Sum(), sha256.Sum256(b[:dn]); got != want {
			t.Fatalf("first: %x, want %x", got, want)
		}
		if got, want := e.Sum(), sha256.Sum256(b[:en]); got != want {
			t.Fatalf("second: %x, want %x", got, want)
		}
	}
}

func FuzzBoth(f *testing.F) {
	f.Add([]byte("abc"), uint16(1), uint16(2))
	f.Add(noise(300), uint16(64), uint16(100))
	f.Fuzz(func(t *testing.T, b []byte, i, j uint16) {
		p, q := int(i)%(len(b)+1), int(j)%(len(b)+1)
		var d, e Digest
		d.Reset()
		e.Reset()
		Both(&d, b[:p], &e, b[:q])
		Both(&d, b[p:], &e, b[q:])
		if want := sha256.Sum256(b); d.Sum() != want || e.Sum() != want {
			t.Fatalf("not the sums of %x cut at %d and %d", b, p, q)
		}
	})
}

func BenchmarkSum(b *testing.B) {
	p := noise(256 << 10)
	b.Run("std", func(b *testing.B) {
		h := sha256.New()
		b.SetBytes(int64(len(p)))
		for b.Loop() {
			h.Write(p)
		}
	})
	for _, how := range []string{"one", "two"} {
		b.Run(fmt.Sprint(how, "/fast=", fast), func(b *testing.B) {
			var d, e Digest
			d.Reset()
			e.Reset()
			b.SetBytes(int64(len(p)))
			for b.Loop() {
				if how == "one" {
					d.Write(p)
				} else {
					Both(&d, p, &e, p)
				}
			}
		})
	}
}
