// SPDX-License-Identifier: Apache-2.0

package layerstore

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/layerstore/seek"
)

// The one pass over a layer. Its parts run beside each other:
//
//	src ─ tee ─ seek.Build ─ fan ─ index.ScanFiles (table) ─ summer: hashes of the
//	       │                 uncompressed bytes (diffID) and of the files in them
//	       └─ hash of the bytes as shipped (digest), and the copy of the blob

// passFiles says where a pass writes; "" is nowhere.
type passFiles struct {
	blob, table, seek, sidecar, hashes string
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
	sums := newSummer(algorithm(wantDiffID))
	fan.readOn(func(r io.Reader) error {
		var err error
		res.meta, err = scanTable(ctx, r, files.table, limits, sums.expect)
		return err
	}, sums)

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
	res.diffID = sums.diffID()
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
	if err := index.WriteHashes(files.hashes, sums.files); err != nil {
		return res, NoBlock(files.hashes, err)
	}
	return res, FillHoles(files.hashes)
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

func scanTable(ctx context.Context, r io.Reader, path string, limits index.Limits, each func(*index.File)) (*index.Meta, error) {
	m, err := index.ScanFiles(ctx, r, path, limits, each)
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
