// SPDX-License-Identifier: Apache-2.0

package seek

import (
	"io"
	"runtime"

	"github.com/klauspost/compress/zstd"
)

// packedChunk is the size of a chunk that is packed anew.
const packedChunk = 1 << 20

// packer writes chunks as zstd frames, into the sidecar or into the index. It
// compresses several at a time.
type packer struct {
	b       *builder
	sidecar func() (io.Writer, error)
	enc     *zstd.Encoder // made at first need
	all     bool          // every chunk of the stream is packed into to
	to      *offsetWriter // the sidecar or the index
	out     int64         // uncompressed offset of the chunk being filled
	buf     []byte
	free    [][]byte
	jobs    []chan packed // oldest first
}

type packed struct {
	out  int64
	crc  uint32
	raw  []byte // its buffer, to be used again
	data []byte
}

// newEncoder returns an encoder of frames of up to packedChunk bytes.
func newEncoder() *zstd.Encoder {
	// The options are constants: no error can come.
	enc, _ := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)), zstd.WithEncoderCRC(false),
		zstd.WithWindowSize(packedChunk), zstd.WithLowerEncoderMem(true))
	return enc
}

// useSidecar makes all chunks of the stream go to the sidecar, if the caller
// has one to give.
func (k *packer) useSidecar() error {
	if k.sidecar == nil || k.all {
		return nil
	}
	w, err := k.sidecar()
	if err != nil {
		return err
	}
	k.all, k.to = true, &offsetWriter{w: w}
	return nil
}

// start begins a chunk at the uncompressed offset out.
func (k *packer) start(out int64) {
	k.out = out
	if k.to == nil {
		k.to = k.b.index
	}
}

func (k *packer) write(p []byte) error {
	for len(p) > 0 {
		if k.buf == nil {
			if n := len(k.free); n > 0 {
				k.buf, k.free = k.free[n-1][:0], k.free[:n-1]
			} else {
				k.buf = make([]byte, 0, packedChunk)
			}
		}
		n := min(len(p), packedChunk-len(k.buf))
		k.buf = append(k.buf, p[:n]...)
		p = p[n:]
		if len(k.buf) == packedChunk {
			if err := k.submit(); err != nil {
				return err
			}
		}
	}
	return nil
}

// submit compresses the chunk in the background.
func (k *packer) submit() error {
	for len(k.jobs) > runtime.GOMAXPROCS(0) {
		if err := k.collect(); err != nil {
			return err
		}
	}
	if k.enc == nil {
		k.enc = newEncoder()
	}
	raw, out, enc := k.buf, k.out, k.enc
	k.buf = nil
	k.out += int64(len(raw))
	job := make(chan packed, 1)
	k.jobs = append(k.jobs, job)
	go func() {
		job <- packed{out, crc32c(0, raw), raw, enc.EncodeAll(raw, nil)}
	}()
	return nil
}

// collect writes the oldest chunk that was submitted.
func (k *packer) collect() error {
	p := <-k.jobs[0]
	k.jobs = k.jobs[1:]
	k.free = append(k.free, p.raw)
	e := entry{out: p.out, in: k.to.off << 3, aux: int64(len(p.data)), crc: p.crc}
	if !k.all {
		e.auxLen = 1
	}
	k.b.t.entries = append(k.b.t.entries, e)
	_, err := k.to.Write(p.data)
	return err
}

// finish ends the chunk being filled and writes all.
func (k *packer) finish() error {
	if len(k.buf) > 0 {
		if err := k.submit(); err != nil {
			return err
		}
	}
	for len(k.jobs) > 0 {
		if err := k.collect(); err != nil {
			return err
		}
	}
	return nil
}

// end finishes if all went well so far, or waits for what runs.
func (k *packer) end(err error) error {
	if err == nil {
		return k.finish()
	}
	for _, job := range k.jobs {
		<-job
	}
	return err
}
