// SPDX-License-Identifier: Apache-2.0

package layerstore

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/layerstore/seek"
)

// The one pass over a layer. Its parts run beside each other:
//
//	src ─ tee ─ seek.Build ─ fan ─┬─ hash of the uncompressed bytes (diffID)
//	       │                      └─ index.Scan (table)
//	       └─ hash of the bytes as shipped (digest), and the copy of the blob

// passFiles says where a pass writes; "" is nowhere.
type passFiles struct {
	blob, table, seek, sidecar string
}

type passResult struct {
	digest, diffID digest.Digest
	size           int64 // bytes read
	seek           seek.Result
	meta           *index.Meta
}

// A blobWriter writes a blob and has the kernel begin to write back what is
// there, so that the sync at the end has little left to do.
type blobWriter struct {
	f             *os.File
	size, started int64
}

const writeback = 8 << 20 // bytes

func (w *blobWriter) Write(p []byte) (int, error) {
	n, err := w.f.Write(p)
	w.size += int64(n)
	if w.size-w.started >= writeback {
		// A hint: whether it was taken does not matter.
		unix.SyncFileRange(int(w.f.Fd()), w.started, w.size-w.started, unix.SYNC_FILE_RANGE_WRITE)
		w.started = w.size
	}
	return n, err
}

// runPass reads src once to its end. The blob it writes, if any, is still to
// be synced. wantDigest and wantDiffID may be "".
func runPass(ctx context.Context, src io.Reader, files passFiles, wantDigest, wantDiffID digest.Digest, limits index.Limits) (res passResult, err error) {
	in := bufio.NewReaderSize(&ctxReader{ctx, src}, 256<<10)
	head, err := in.Peek(512)
	if err != nil && err != io.EOF {
		return res, err
	}
	plain := seek.Detect(head) == seek.None && algorithm(wantDigest) == algorithm(wantDiffID)

	tee := newFan()
	if files.blob != "" {
		blob, err := os.OpenFile(files.blob, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return res, err
		}
		defer blob.Close() // an error shows in the sync
		tee.copyTo(&blobWriter{f: blob})
	}
	digester := algorithm(wantDigest).Hash()
	if !plain {
		tee.hash(digester)
	}

	fan := newFan()
	differ := algorithm(wantDiffID).Hash()
	fan.hash(differ)
	fan.read(func(r io.Reader) error {
		var err error
		res.meta, err = scanTable(r, files.table, limits)
		return err
	})

	points, err := os.OpenFile(files.seek, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		_, _ = tee.close(err), fan.close(err) // they have nothing to tell yet
		return res, err
	}
	defer points.Close()
	var sidecar *os.File
	opt := seek.Options{MaxSize: limits.Size, Sidecar: func() (io.Writer, error) {
		var err error
		sidecar, err = os.OpenFile(files.sidecar, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		return sidecar, err
	}}
	counted := &countingReader{r: io.TeeReader(in, tee)}
	out := bufio.NewWriterSize(points, 1<<18)
	res.seek, err = seek.Build(counted, fan, out, opt)
	if err == nil {
		err = out.Flush()
	}
	if sidecar != nil {
		if closeErr := sidecar.Close(); err == nil {
			err = closeErr
		}
	}
	scanErr := fan.close(err)
	teeErr := tee.close(err)
	if err = rootCause(err, teeErr, scanErr); err != nil {
		return res, err
	}
	res.size = counted.n
	res.diffID = digest.NewDigest(algorithm(wantDiffID), differ)
	res.digest = res.diffID
	if !plain {
		res.digest = digest.NewDigest(algorithm(wantDigest), digester)
	}
	if wantDigest != "" && res.digest != wantDigest {
		return res, fmt.Errorf("%w: the blob is %s, not %s", ErrDigest, res.digest, wantDigest)
	}
	if wantDiffID != "" && res.diffID != wantDiffID {
		return res, fmt.Errorf("%w: the uncompressed layer is %s, the config says %s", ErrDigest, res.diffID, wantDiffID)
	}
	return res, nil
}

// rootCause returns the first of errs that is more than an echo of another. Where
// one part of a pass fails the others are stopped, and tell that.
func rootCause(errs ...error) error {
	var echo error
	for _, err := range errs {
		if err != nil && !errors.Is(err, errFanStopped) {
			return err
		}
		if echo == nil {
			echo = err
		}
	}
	return echo
}

func scanTable(r io.Reader, path string, limits index.Limits) (*index.Meta, error) {
	m, err := index.Scan(r, path, limits)
	if err != nil {
		return nil, NoBlock(path, err)
	}
	return m, FillHoles(path)
}

func algorithm(d digest.Digest) digest.Algorithm {
	if d == "" {
		return digest.Canonical
	}
	return d.Algorithm()
}

type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

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

// read starts run with a reader of the stream.
func (f *fan) read(run func(io.Reader) error) {
	f.out(func(in <-chan *buffer) error {
		r := &fanReader{f: f, in: in}
		err := run(r)
		if r.cur != nil {
			r.cur.release()
		}
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
	f   *fan
	in  <-chan *buffer
	cur *buffer
	off int   // in cur
	pos int64 // in the stream
}

// fill makes sure that there is something to read.
func (r *fanReader) fill() error {
	for r.cur == nil || r.off == len(r.cur.b) {
		if r.cur != nil {
			r.cur.release()
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
