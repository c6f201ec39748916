// SPDX-License-Identifier: Apache-2.0

package inflate

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// gunzip decodes members whose headers have no fields, with output pieces of
// the given size.
func gunzip(d *Decoder, b []byte, size int) ([]byte, error) {
	d.Reset(bytes.NewReader(b), 0)
	take := func(n int) (b []byte, err error) {
		for range n {
			c, err := d.ReadByte()
			if err != nil {
				return nil, io.ErrUnexpectedEOF
			}
			b = append(b, c)
		}
		return b, nil
	}
	var all []byte
	for {
		if _, err := take(10); err != nil {
			return all, err
		}
		d.Begin()
		part, err := drain(d, size)
		all = append(all, part...)
		if err != nil {
			return all, err
		}
		d.Align()
		trailer, err := take(8)
		if err != nil {
			return all, err
		}
		if binary.LittleEndian.Uint32(trailer) != crc32.ChecksumIEEE(part) {
			return all, errors.New("wrong checksum")
		}
		if len(d.Peek(1)) == 0 {
			return all, nil
		}
	}
}

// TestCorpus decodes testdata: good-*.gz as compress/gzip does, bad-*.gz with
// an error as there, and good ones cut at every byte of the first 1000, and at some later ones,
// with an error, too.
func TestCorpus(t *testing.T) {
	names, err := filepath.Glob("testdata/*.gz")
	if err != nil || len(names) < 20 {
		t.Fatalf("%d files in testdata, %v", len(names), err)
	}
	var d Decoder
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var want []byte
		r, wantErr := gzip.NewReader(bytes.NewReader(b))
		if wantErr == nil {
			want, wantErr = io.ReadAll(r)
		}
		good := strings.HasPrefix(filepath.Base(name), "good-")
		if good != (wantErr == nil) {
			t.Errorf("%s: compress/gzip: %v", name, wantErr)
		}
		for _, size := range []int{1, 300, 256 << 10} {
			got, err := gunzip(&d, b, size)
			if good && err != nil || !good && err == nil {
				t.Errorf("%s: output %d: error %v", name, size, err)
			}
			if good && !bytes.Equal(got, want) {
				t.Errorf("%s: output %d: %d bytes differ from compress/gzip's %d", name, size, len(got), len(want))
			}
		}
		if !good || bytes.Count(b, []byte("\x1f\x8b\x08")) > 1 {
			continue // what is cut between two members is a stream, too
		}
		for n := 0; n < len(b); n += 1 + n/1000 {
			if _, err := gunzip(&d, b[:n], 300); err == nil {
				t.Errorf("%s: cut to %d of %d bytes: no error", name, n, len(b))
			}
		}
	}
}

// TestStaysInside gives Decode streams, broken ones too, and a buffer whose
// bytes before the history and from limit+Slack on must not change. Reads
// beyond the history would show in the output.
func TestStaysInside(t *testing.T) {
	const guard, canary = 512, 0xa5
	for _, s := range samples(t, 5_000) {
		for _, flip := range []int{-1, 3, 40} {
			stream := bytes.Clone(s.stream)
			if flip >= 0 && flip < len(stream) {
				stream[flip] ^= 0x10
			}
			for _, size := range []int{1, 258, 5_000} {
				var d Decoder
				d.Reset(bytes.NewReader(stream), 0)
				buf := bytes.Repeat([]byte{canary}, guard+Window+size+Slack+guard)
				lo, limit := guard+Window, guard+Window+size
				hist, op := lo, lo
				for range 100 {
					was := op
					var ev Event
					var err error
					op, ev, err = d.Decode(buf, hist, op, limit)
					if op < was || op > limit+Slack {
						t.Fatalf("%s: op %d, was %d, limit %d", s.name, op, was, limit)
					}
					if err != nil || ev == StreamEnd {
						break
					}
					if ev == Full {
						shift := op - lo
						copy(buf[guard:lo], buf[guard+shift:op])
						hist, op = max(guard, hist-shift), lo
					}
				}
				for i := range guard {
					if buf[i] != canary || buf[limit+Slack+i] != canary {
						t.Fatalf("%s: flip %d, size %d: a byte outside was written", s.name, flip, size)
					}
				}
			}
		}
	}
}
