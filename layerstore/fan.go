// SPDX-License-Identifier: Apache-2.0

package layerstore

import (
	"errors"
	"hash"
	"io"
	"sync"
	"sync/atomic"
)

// A fan is a writer that hands what is written to several goroutines, each at
// its own pace, in buffers that are used again.
type fan struct {
	outs []chan *buffer
	wg   sync.WaitGroup
	cur  *buffer

	mu   sync.Mutex
	err  error         // guarded by mu; the first error of a goroutine
	stop chan struct{} // closed with err
	fail error         // set before the channels close: what ended the stream
}

type buffer struct {
	b    []byte
	refs atomic.Int32
}

const bufferSize = 256 << 10

var buffers = sync.Pool{New: func() any { return &buffer{b: make([]byte, 0, bufferSize)} }}

func (b *buffer) release() {
	if b.refs.Add(-1) == 0 {
		b.b = b.b[:0]
		buffers.Put(b)
	}
}

// errFanStopped is what a writer gets whose fan has failed; close tells why.
var errFanStopped = errors.New("stopped")

func newFan() *fan { return &fan{stop: make(chan struct{})} }

// out starts a goroutine that gets every buffer.
func (f *fan) out(run func(in <-chan *buffer) error) {
	in := make(chan *buffer, 8)
	f.outs = append(f.outs, in)
	f.wg.Go(func() {
		err := run(in)
		if err != nil {
			f.mu.Lock()
			if f.err == nil {
				f.err = err
				close(f.stop)
			}
			f.mu.Unlock()
		}
		for b := range in {
			b.release()
		}
	})
}

func (f *fan) hash(h hash.Hash) { f.copyTo(h) }

func (f *fan) copyTo(w io.Writer) {
	f.out(func(in <-chan *buffer) error {
		for b := range in {
			_, err := w.Write(b.b)
			b.release()
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// readOn starts run with a reader of the stream. sums gets each buffer when run
// is through with it, beside run.
func (f *fan) readOn(run func(io.Reader) error, sums *summer) {
	f.out(func(in <-chan *buffer) error {
		var wg sync.WaitGroup
		wg.Go(sums.loop)
		r := &fanReader{f: f, in: in, done: sums.take}
		err := run(r)
		if r.cur != nil {
			r.done(r.cur)
		}
		sums.end()
		wg.Wait()
		return err
	})
}

func (f *fan) Write(p []byte) (int, error) {
	for n := 0; n < len(p); {
		if f.cur == nil {
			f.cur = buffers.Get().(*buffer)
		}
		k := copy(f.cur.b[len(f.cur.b):bufferSize], p[n:])
		f.cur.b = f.cur.b[:len(f.cur.b)+k]
		n += k
		if len(f.cur.b) == bufferSize {
			if err := f.flush(); err != nil {
				return n, err
			}
		}
	}
	return len(p), nil
}

func (f *fan) flush() error {
	b := f.cur
	f.cur = nil
	if b == nil {
		return nil
	}
	b.refs.Store(int32(len(f.outs)) + 1)
	defer b.release()
	for i, out := range f.outs {
		select {
		case out <- b:
		case <-f.stop:
			for range f.outs[i:] {
				b.release()
			}
			return errFanStopped
		}
	}
	return nil
}

// close ends the stream, with cause if it is not whole, waits for the
// goroutines and returns the first error of one of them.
func (f *fan) close(cause error) error {
	if err := f.flush(); cause == nil && err != nil {
		cause = err
	}
	f.fail = cause
	for _, out := range f.outs {
		close(out)
	}
	f.wg.Wait()
	return f.err
}

// A fanReader reads the stream, and leaps forward over what is not wanted.
type fanReader struct {
	f    *fan
	in   <-chan *buffer
	done func(*buffer) // takes what was read over
	cur  *buffer
	off  int   // in cur
	pos  int64 // in the stream
}

// fill makes sure that there is something to read.
func (r *fanReader) fill() error {
	for r.cur == nil || r.off == len(r.cur.b) {
		if r.cur != nil {
			r.done(r.cur)
			r.cur, r.off = nil, 0
		}
		b, ok := <-r.in
		if !ok {
			if r.f.fail != nil {
				return r.f.fail
			}
			return io.EOF
		}
		r.cur, r.off = b, 0
	}
	return nil
}

func (r *fanReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := r.fill(); err != nil {
		return 0, err
	}
	n := copy(p, r.cur.b[r.off:])
	r.off += n
	r.pos += int64(n)
	return n, nil
}

// Seek goes forward only: it exists so that archive/tar leaps over content
// instead of copying it.
func (r *fanReader) Seek(off int64, whence int) (int64, error) {
	if whence != io.SeekCurrent || off < 0 {
		return r.pos, errors.ErrUnsupported
	}
	for off > 0 {
		if err := r.fill(); err == io.EOF {
			return r.pos, nil // the read that follows finds the end
		} else if err != nil {
			return r.pos, err
		}
		n := min(off, int64(len(r.cur.b)-r.off))
		r.off += int(n)
		r.pos += n
		off -= n
	}
	return r.pos, nil
}
