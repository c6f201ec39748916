// SPDX-License-Identifier: Apache-2.0

package layerstore

import (
	"context"
	"errors"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/imgfs/imgfs/index"
	"github.com/imgfs/imgfs/layerstore/seek"
)

// errLayerAborted ends a pass whose writer did not come back.
var errLayerAborted = errors.New("the layer was not written to its end")

// NewLayer makes a layer of the tar that write writes, compressed by c at a
// level (see seek.NewEncoder), and brings it into the stage as AddLayer does,
// in the same pass. write runs on the caller's goroutine, and its writer fails
// as soon as the pass does or ctx ends. The error is that of write, or of
// AddLayer, or of ctx. The digest depends on the tar, c and level alone.
func (g *Stage) NewLayer(ctx context.Context, c seek.Compression, level int, write func(io.Writer) error, limits index.Limits) (Layer, error) {
	if err := ctx.Err(); err != nil {
		return Layer{}, err
	}
	r, w := io.Pipe()
	out := &pipeEnd{w: w}
	enc, err := seek.NewEncoder(out, c, level)
	if err != nil {
		return Layer{}, err
	}
	stop := context.AfterFunc(ctx, func() { w.CloseWithError(ctx.Err()) })
	defer stop()

	var l Layer
	var passErr error
	passed := make(chan struct{})
	go func() {
		defer close(passed)
		l, _, passErr = g.AddLayer(ctx, Layer{}, r, limits)
		if passErr == nil {
			passErr = r.Close() // never fails
		} else {
			r.CloseWithError(passErr)
		}
	}()
	end := errLayerAborted // should write panic
	defer func() {
		w.CloseWithError(end)
		<-passed
	}()
	end = write(enc)
	if end == nil {
		end = enc.Close()
	}
	w.CloseWithError(end) // nil is the end of the file
	<-passed
	switch {
	case ctx.Err() != nil:
		return Layer{}, ctx.Err()
	case end != nil && out.err == nil:
		return Layer{}, end // write's own
	case passErr != nil:
		return Layer{}, passErr
	}
	return l, end
}

// A pipeEnd remembers that its pipe failed: then the reader has more to tell
// than the writer.
type pipeEnd struct {
	w   *io.PipeWriter
	err error
}

func (p *pipeEnd) Write(b []byte) (int, error) {
	n, err := p.w.Write(b)
	if err != nil {
		p.err = err
	}
	return n, err
}

// Need says that what the stage brings is not whole without blobs that the
// store has. Those that are there when it returns are kept for the stage;
// Publish fails with ErrVanished if one is gone.
func (g *Stage) Need(digests ...digest.Digest) error {
	var paths []string
	for _, d := range digests {
		if path := g.s.blobPath(d); g.staged(path) == "" {
			paths = append(paths, path)
			g.need(path)
		}
	}
	return g.claim(paths...)
}
