// SPDX-License-Identifier: Apache-2.0

package layerstore

import (
	"hash"

	"github.com/opencontainers/go-digest"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/internal/twosum"
)

// A summer hashes an uncompressed layer and, from the same bytes at the same
// time, the content of each file in it. The scan of the layer goes before and
// says where the files lie.
type summer struct {
	in  chan summed
	now []index.File // met since the last buffer; of the scanning goroutine

	// Of the summing goroutine, until in is closed and run is back.
	whole  twosum.Digest
	other  hash.Hash // in place of whole, for a diffID that is no sha256
	method digest.Algorithm
	pos    int64        // bytes so far
	todo   []index.File // not yet begun, in order
	cur    index.File   // the one at hand, if open
	open   bool
	at     int64          // bytes of cur so far, holes included; only of a sparse file
	runs   []index.Extent // of cur, still to come
	sum    twosum.Digest  // of cur
	holes  int64          // bytes of zeros that may still be hashed
	files  []index.FileHash
}

// summed is a buffer that was scanned, nil for none, and the files whose
// headers were met in it.
type summed struct {
	b     *buffer
	files []index.File
}

// maxHoles bounds the zeros that are hashed of a layer's sparse files, in
// bytes: half a minute. A file that would go over it has no hash.
const maxHoles = 64 << 30

func newSummer(method digest.Algorithm) *summer {
	s := &summer{in: make(chan summed, 4), method: method, holes: maxHoles}
	s.whole.Reset()
	if method != digest.SHA256 {
		s.other = method.Hash()
	}
	return s
}

// expect takes the file whose header was just scanned.
func (s *summer) expect(f *index.File) { s.now = append(s.now, *f) }

// take takes a buffer that was scanned.
func (s *summer) take(b *buffer) {
	s.in <- summed{b, s.now}
	s.now = nil
}

// end tells that no more follows.
func (s *summer) end() {
	s.in <- summed{nil, s.now}
	close(s.in)
}

func (s *summer) loop() {
	for m := range s.in {
		s.todo = append(s.todo, m.files...)
		if m.b != nil {
			s.add(m.b.b)
			m.b.release()
		}
		s.begin()
	}
}

// diffID returns the hash of the layer, once.
func (s *summer) diffID() digest.Digest {
	if s.other != nil {
		return digest.NewDigest(s.method, s.other)
	}
	sum := s.whole.Sum()
	return digest.NewDigestFromBytes(s.method, sum[:])
}

// add hashes the next bytes of the layer.
func (s *summer) add(p []byte) {
	for len(p) > 0 {
		s.begin()
		n := int64(len(p))
		switch {
		case s.open:
			n = min(n, s.cur.Data+s.cur.Packed-s.pos)
			s.content(p[:n])
		case len(s.todo) > 0:
			n = min(n, s.todo[0].Data-s.pos)
			s.total(p[:n])
		default:
			s.total(p)
		}
		s.pos += n
		p = p[n:]
		s.finish()
	}
}

func (s *summer) total(p []byte) {
	if s.other != nil {
		s.other.Write(p)
		return
	}
	s.whole.Write(p)
}

// begin opens the file whose content comes next, if it does here.
func (s *summer) begin() {
	for !s.open && len(s.todo) > 0 && s.todo[0].Data <= s.pos {
		s.cur, s.todo = s.todo[0], s.todo[1:]
		if s.cur.Data < s.pos {
			panic("layerstore: internal error: a file that was not scanned before its content")
		}
		holes := s.cur.Size - s.cur.Packed
		if s.cur.Runs == nil {
			holes = 0
		}
		if holes > s.holes {
			continue
		}
		s.holes -= holes
		s.open, s.at, s.runs = true, 0, s.cur.Runs
		s.sum.Reset()
		s.finish()
	}
}

// content hashes the next bytes of the file at hand, and the layer.
func (s *summer) content(p []byte) {
	if s.cur.Runs == nil && s.other == nil {
		twosum.Both(&s.whole, p, &s.sum, p)
		return
	}
	s.total(p)
	if s.cur.Runs == nil {
		s.sum.Write(p)
		return
	}
	for len(p) > 0 {
		r := &s.runs[0]
		s.zeros(r.Off - s.at)
		if s.at < r.Off {
			s.at = r.Off
		}
		n := min(int64(len(p)), r.Off+r.Len-s.at)
		s.sum.Write(p[:n])
		p = p[n:]
		if s.at += n; s.at == r.Off+r.Len {
			s.runs = s.runs[1:]
		}
	}
}

var zeros [64 << 10]byte

func (s *summer) zeros(n int64) {
	for n > 0 {
		k := min(n, int64(len(zeros)))
		s.sum.Write(zeros[:k])
		n -= k
	}
}

// finish closes the file at hand if its content is whole.
func (s *summer) finish() {
	if !s.open || s.pos < s.cur.Data+s.cur.Packed {
		return
	}
	if s.cur.Runs != nil {
		s.zeros(s.cur.Size - s.at)
	}
	s.files = append(s.files, index.FileHash{Sum: s.sum.Sum(), Header: s.cur.Header})
	s.open = false
}
